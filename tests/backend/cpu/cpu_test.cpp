#include <planlm/backend/cpu/cpu.hpp>

#include <stdexcept>

#include <planlm/testing/compare.hpp>

#include "../../catch.hpp"

using namespace planlm;
using B = cpu<float>;
using testing::normal_values;
using testing::same_bits;

TEST_CASE("for_each visits every index once, beyond one block too, with any number of threads") {
  for (const int threads : {1, 2, 3})
    for (const index_t n : {0, 1, 16384, 16385, 100003}) {
      CAPTURE(threads, n);
      B::queue queue(threads);
      std::vector<int> visits(static_cast<std::size_t>(n));
      B::for_each(queue, n, [at = visits.data()](index_t i) { at[i] += 1; });
      CHECK(visits == std::vector<int>(static_cast<std::size_t>(n), 1));
    }
}

TEST_CASE("for_rows visits every row once, and a row's sum has the same bits with any number of threads") {
  const index_t cols = 301;
  for (const index_t rows : {0, 1, 2, 5, 97}) {
    CAPTURE(rows);
    const std::vector<float> x = normal_values<float>(rows * cols, 1);
    const auto sums = [&](int threads) {
      B::queue queue(threads);
      std::vector<float> y(static_cast<std::size_t>(rows));
      B::for_rows(queue, rows, [from = x.data(), to = y.data()](const auto& team, index_t r) {
        to[r] += team.template sum<float>(301, [=](index_t i) { return from[r * 301 + i]; });
      });
      return y;
    };
    const auto one = sums(1);
    CHECK(same_bits(sums(2), one));
    CHECK(same_bits(sums(3), one));
    for (index_t r = 0; r < rows; ++r) {
      double exact = 0;
      for (index_t i = 0; i < cols; ++i)
        exact += static_cast<double>(x[static_cast<std::size_t>(r * cols + i)]);
      CHECK(one[static_cast<std::size_t>(r)] == Approx(exact).margin(1e-4));
    }
  }
}

TEST_CASE("add_column_sums adds, is exact to rounding, and has the same bits with any number of threads") {
  struct shape {
    index_t rows, cols;
  };
  for (const shape s : {shape{0, 5}, {1, 1}, {63, 64}, {64, 65}, {1000, 129}, {5000, 3}}) {
    CAPTURE(s.rows, s.cols);
    const std::vector<float> x = normal_values<float>(s.rows * s.cols, 1);
    const auto sums = [&](int threads) {
      B::queue queue(threads);
      std::vector<float> y(static_cast<std::size_t>(s.cols), 2.0f);
      B::add_column_sums(
          queue, s.rows, s.cols,
          [from = x.data(), cols = s.cols](index_t r, index_t c) { return from[r * cols + c]; },
          view<float, 1>(y.data(), s.cols));
      return y;
    };
    const auto one = sums(1);
    CHECK(same_bits(sums(2), one));
    CHECK(same_bits(sums(3), one));
    std::vector<double> exact(static_cast<std::size_t>(s.cols), 2.0);
    for (index_t r = 0; r < s.rows; ++r)
      for (index_t c = 0; c < s.cols; ++c)
        exact[static_cast<std::size_t>(c)] +=
            static_cast<double>(x[static_cast<std::size_t>(r * s.cols + c)]);
    CHECK(testing::largest_error(one, exact) < 1e-5);
  }
}

TEST_CASE("an exception in a loop reaches the caller with any number of threads") {
  for (const int threads : {1, 2, 3}) {
    B::queue queue(threads);
    const auto fail_late = [](index_t i) {
      if (i == 40000) throw std::runtime_error("index 40000");
    };
    CHECK_THROWS_WITH(B::for_each(queue, 50000, fail_late), "index 40000");
    CHECK_THROWS_AS(B::for_rows(queue, 50,
                                [](const auto&, index_t r) {
                                  if (r == 49) throw std::runtime_error("row");
                                }),
                    std::runtime_error);
    CHECK_NOTHROW(B::for_each(queue, 50000, [](index_t) {}));
  }
}

TEST_CASE("scratch memory belongs to one thread, is aligned, and grows only when it must") {
  B::queue queue(2);
  void* small = queue.scratch(0, 100);
  CHECK(reinterpret_cast<std::uintptr_t>(small) % 64 == 0);
  CHECK(queue.scratch(0, 50) == small);
  CHECK(queue.scratch(1, 100) != small);
  void* large = queue.scratch(0, 100000);
  CHECK(queue.scratch(0, 100) == large);
  CHECK(B::queue(0).threads() == 1);
  CHECK(B::queue(-3).threads() == 1);
}

TEST_CASE("a team of one sums and takes maxima at every length") {
  const serial_team team;
  for (index_t n = 1; n < 70; ++n) {
    const std::vector<double> x = normal_values(n, static_cast<std::uint64_t>(n));
    double sum = 0, top = x[0];
    for (const double v : x) {
      sum += v;
      top = std::max(top, v);
    }
    CHECK(team.sum<double>(n, [&](index_t i) { return x[static_cast<std::size_t>(i)]; }) ==
          Approx(sum).margin(1e-13));
    CHECK(team.max<double>(n, [&](index_t i) { return x[static_cast<std::size_t>(i)]; }) == top);
  }
  CHECK(team.sum<double>(0, [](index_t) { return 1.0; }) == 0.0);
}
