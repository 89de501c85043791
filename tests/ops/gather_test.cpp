#include <planlm/ops/gather.hpp>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<float>;

TEST_CASE("gathering picks rows, gives zeros for negative numbers, and adds where asked") {
  context<B> cx;
  const std::vector<float> table{1, 2, 3, 4}, x{10, 20, 30, 40, 50, 60};
  const std::vector<int> ids{1, -1, 0};
  const const_tensor<B> t = cx.upload(std::span<const float>(table), 2, 2),
                        base = cx.upload(std::span<const float>(x), 3, 2);
  CHECK(cx.read(ops::gather_rows(cx, t, indices<B>(cx.upload(ids)))) == std::vector<float>{3, 4, 0, 0, 1, 2});
  CHECK(cx.read(ops::add_gathered_rows(cx, base, t, indices<B>(cx.upload(ids)))) ==
        std::vector<float>{13, 24, 30, 40, 51, 62});
  CHECK(ops::gather_rows(cx, t, indices<B>(cx.upload(std::vector<int>{}))).size() == 0);
}

TEST_CASE("segment sums skip negative segments and leave empty ones at zero") {
  context<B> cx;
  testing::poison(cx);
  const std::vector<float> x{1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<int> segment{2, 0, -1, 2};
  CHECK(cx.read(ops::segment_sum(cx, const_tensor<B>(cx.upload(std::span<const float>(x), 4, 2)),
                                 indices<B>(cx.upload(segment)), 4)) ==
        std::vector<float>{3, 4, 0, 0, 8, 10, 0, 0});
}

TEST_CASE("the segment sum is the adjoint of gathering") {
  using D = cpu<double>;
  context<D> cx;
  const index_t rows = 50, cols = 67, count = 7;
  std::vector<int> ids;
  for (index_t r = 0; r < rows; ++r) ids.push_back(static_cast<int>(r * 5 % (count + 1)) - 1);
  const std::vector<double> table = testing::normal_values(count * cols, 1),
                            dy = testing::normal_values(rows * cols, 2);
  const auto y =
      cx.read(ops::gather_rows(cx, const_tensor<D>(cx.upload(std::span<const double>(table), count, cols)),
                               indices<D>(cx.upload(ids))));
  const auto dt =
      cx.read(ops::segment_sum(cx, const_tensor<D>(cx.upload(std::span<const double>(dy), rows, cols)),
                               indices<D>(cx.upload(ids)), count));
  double left = 0, right = 0;
  for (std::size_t i = 0; i < y.size(); ++i) left += y[i] * dy[i];
  for (std::size_t i = 0; i < dt.size(); ++i) right += table[i] * dt[i];
  CHECK(left == Approx(right).epsilon(1e-12));
}

TEST_CASE("segment sums have the same bits with 1, 2 and 3 threads") {
  const index_t rows = 500, cols = 200;
  const std::vector<float> x = testing::normal_values<float>(rows * cols, 2);
  std::vector<int> ids;
  for (index_t r = 0; r < rows; ++r) ids.push_back(static_cast<int>(r % 3));
  const auto sums = [&](int threads) {
    context<B> cx{B::queue(threads)};
    return cx.read(ops::segment_sum(cx, const_tensor<B>(cx.upload(std::span<const float>(x), rows, cols)),
                                    indices<B>(cx.upload(ids)), 3));
  };
  CHECK(testing::same_bits(sums(2), sums(1)));
  CHECK(testing::same_bits(sums(3), sums(1)));
}

TEST_CASE("rows are added to the rows of a table in their order, whatever the threads, numbers and width") {
  struct shape {
    index_t rows, cols, count;
  };
  for (const shape s : {shape{1, 1, 1}, {300, 5, 1}, {300, 200, 1}, {300, 130, 3}, {257, 64, 40}, {64, 300, 1000}, {0, 4, 3}}) {
    CAPTURE(s.rows, s.cols, s.count);
    const std::vector<float> x = testing::normal_values<float>(s.rows * s.cols, 2);
    std::vector<float> wanted = testing::normal_values<float>(s.count * s.cols, 3);
    const std::vector<float> before = wanted;
    std::vector<int> ids;
    for (index_t r = 0; r < s.rows; ++r) ids.push_back(static_cast<int>(r * 7919 % (s.count + 1)) - 1);
    for (index_t r = 0; r < s.rows; ++r)
      for (index_t c = 0; c < s.cols && ids[static_cast<std::size_t>(r)] >= 0; ++c)
        wanted[static_cast<std::size_t>(ids[static_cast<std::size_t>(r)] * s.cols + c)] += x[static_cast<std::size_t>(r * s.cols + c)];
    for (const int threads : {1, 2, 3, 5}) {
      context<B> cx{B::queue(threads)};
      const tensor<B> table = cx.upload(std::span<const float>(before), s.count, s.cols);
      ops::scatter_add_rows(cx, const_tensor<B>(cx.upload(std::span<const float>(x), s.rows, s.cols)), indices<B>(cx.upload(ids)), table);
      CHECK(testing::same_bits(cx.read(table), wanted));
    }
  }
}
