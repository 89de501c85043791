#include <planlm/ops/reduce.hpp>

#include <cmath>
#include <limits>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/lane_team.hpp>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

namespace {

template <class T>
const_tensor<cpu<T>, 1> over(const std::vector<T>& values) {
  return {values.data(), static_cast<index_t>(values.size())};
}

template <class T>
double squares_of(const std::vector<T>& values, int threads = 1) {
  using B = cpu<T>;
  context<B> cx{typename B::queue(threads)};
  testing::poison(cx);
  return cx.read_one(ops::sum_of_squares(cx, over(values)));
}

template <class T>
index_t first_in(const std::vector<T>& values) {
  using B = cpu<T>;
  context<B> cx{typename B::queue(2)};
  testing::poison(cx);
  return cx.read_one(ops::first_not_finite(cx, over(values)));
}

}  // namespace

TEST_CASE("the sum of squares of a Pythagorean triple is exact") {
  CHECK(squares_of<float>({3, 4}) == 25);
  CHECK(squares_of<double>({-2, 0, 3, 6}) == 49);
  CHECK(squares_of<double>({}) == 0);
}

TEST_CASE("the sum of squares agrees with long double at every kind of last block") {
  const index_t b = ops::reduce_block;
  for (const index_t n : {index_t{1}, index_t{15}, index_t{17}, b - 1, b, b + 1, 3 * b, 5 * b + 7}) {
    CAPTURE(n);
    const auto x = testing::normal_values<float>(n, 5);
    long double expected = 0;
    for (const float v : x) expected += static_cast<long double>(v) * v;
    // A lane adds at most 512 + 4 times in a block, and the blocks add once more: far below n additions.
    CHECK(std::abs(squares_of(x) / static_cast<double>(expected) - 1) < 600 * 6e-8);
    const std::vector<double> wide(x.begin(), x.end());
    CHECK(squares_of(wide) == Approx(static_cast<double>(expected)).epsilon(1e-13));
  }
}

TEST_CASE("the sum of squares has the same bits for one, two and three threads") {
  const auto x = testing::normal_values<float>(100003, 6);
  const double one = squares_of(x, 1);
  CHECK(squares_of(x, 2) == one);
  CHECK(squares_of(x, 3) == one);
}

TEST_CASE("several views count as one long one, empty ones as nothing") {
  using B = cpu<double>;
  context<B> cx;
  const std::vector<double> a{1, 2}, b(9000, 0.5), c{2};
  const const_tensor<B, 1> views[] = {over(a), {}, over(b), over(c)};
  const auto sum = ops::sum_of_squares<B>(cx, views);
  CHECK(cx.read_one(sum) == 1 + 4 + 9000 * 0.25 + 4);
}

TEST_CASE("the first value that is not finite is found wherever it is, and no sooner") {
  const float infinity = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  const float largest = std::numeric_limits<float>::max();
  const index_t b = ops::reduce_block, n = 3 * b + 100;
  std::vector<float> x(static_cast<std::size_t>(n),
                       largest);  // squares of these overflow, the values are finite
  CHECK(first_in(x) == -1);
  CHECK(first_in(std::vector<float>{}) == -1);
  for (const index_t at : {n - 1, 3 * b, 2 * b + 5, b, b - 1, index_t{1}, index_t{0}}) {
    for (const float bad : {nan, -infinity, infinity}) {
      x[static_cast<std::size_t>(at)] = bad;  // later ones stay bad: the first counts
      CHECK(first_in(x) == at);
    }
  }
}

TEST_CASE("the kernels of reductions run on a team of lanes") {
  const auto x = testing::normal_values<double>(2 * ops::reduce_block + 9, 7);
  const auto n = static_cast<index_t>(x.size());
  std::vector<double> part(3), total(1);
  testing::run_lanes<4>(3, ops::kernel::block_squares<double, double>{x.data(), part.data(), n});
  testing::run_lanes<4>(1, ops::kernel::total<double>{part.data(), total.data(), 3});
  CHECK(total[0] == Approx(squares_of(x)).epsilon(1e-14));

  auto bad = x;
  bad[9000] = bad[9001] = std::nan("");
  std::vector<index_t> found(3), first(1);
  testing::run_lanes<4>(3, ops::kernel::block_not_finite<double>{bad.data(), found.data(), n});
  testing::run_lanes<4>(1, ops::kernel::first_of_parts{found.data(), first.data(), 3, n});
  CHECK(first[0] == 9000);
}
