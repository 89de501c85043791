#include <planlm/ops/positions.hpp>

#include <cmath>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;

TEST_CASE("sinusoids by hand: sine at even columns, cosine at odd ones, slower from pair to pair") {
  context<B> cx;
  const std::vector<int> positions{0, 2};
  const auto y =
      cx.read(ops::add_sinusoids(cx, const_tensor<B>(cx.make_zero(2, 4)), indices<B>(cx.upload(positions))));
  CHECK(largest_error(y, std::vector<double>{0, 1, 0, 1, std::sin(2.0), std::cos(2.0), std::sin(0.02),
                                             std::cos(0.02)}) < 1e-15);
  const auto odd =
      cx.read(ops::add_sinusoids(cx, const_tensor<B>(cx.make_zero(2, 1)), indices<B>(cx.upload(positions))));
  CHECK(largest_error(odd, std::vector<double>{0, std::sin(2.0)}) < 1e-15);
}

TEST_CASE(
    "a rotation turns pairs by their angle, leaves other columns alone, and is undone by the one back") {
  context<B> cx;
  const std::vector<int> positions{0, 3};
  const std::vector<double> start{9, 1, 0, 0, 1, 9, 9, 1, 0, 0, 1, 9};  // columns 1 to 4: one head of width 4
  const tensor<B> x = cx.upload(std::span<const double>(start), 2, 6);
  ops::rotate(cx, x, 1, 1, 4, indices<B>(cx.upload(positions)), 100, true);
  const double fast = 3, slow = 0.3;  // 3 * 100^(-2/4)
  CHECK(largest_error(cx.read(x), std::vector<double>{9, 1, 0, 0, 1, 9, 9, std::cos(fast), std::sin(fast),
                                                      -std::sin(slow), std::cos(slow), 9}) < 1e-15);
  ops::rotate(cx, x, 1, 1, 4, indices<B>(cx.upload(positions)), 100, false);
  CHECK(largest_error(cx.read(x), start) < 1e-15);
}
