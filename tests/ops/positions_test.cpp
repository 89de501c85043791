#include <planlm/ops/positions.hpp>

#include <cmath>
#include <span>
#include <vector>

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

TEST_CASE("all heads of a row turn by the same angles") {
  context<B> cx;
  const std::vector<int> positions{5};
  const std::vector<double> start{1, 2, 3, 4, 7, 1, 2, 3, 4, 8};  // two heads of width 4, and a column behind each of them that none turns
  const tensor<B> x = cx.upload(std::span<const double>(start), 1, 10), one = cx.upload(std::span<const double>(start), 2, 5);
  const std::vector<int> twice{5, 5};
  ops::rotate(cx, x, 0, 2, 5, indices<B>(cx.upload(positions)), 10, true);
  ops::rotate(cx, one, 0, 1, 5, indices<B>(cx.upload(twice)), 10, true);
  const auto heads = cx.read(x);
  CHECK(heads == cx.read(one));
  CHECK(std::abs(heads[0] - (std::cos(5.0) - 2 * std::sin(5.0))) < 1e-14);
  CHECK(std::abs(heads[5] - heads[0]) == 0);
  CHECK(heads[4] == 7);
  CHECK(heads[9] == 8);
}

TEST_CASE("an odd number of columns ends with a sine") {
  context<B> cx;
  const std::vector<int> positions{4};
  const auto y = cx.read(ops::add_sinusoids(cx, const_tensor<B>(cx.make_zero(1, 3)), indices<B>(cx.upload(positions))));
  const double slow = 4 * std::pow(10000.0, -2.0 / 3);
  CHECK(largest_error(y, std::vector<double>{std::sin(4.0), std::cos(4.0), std::sin(slow)}) < 1e-15);
}
