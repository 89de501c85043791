#include <planlm/layers/attention.hpp>

#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("attention passes the gradient check: causal or not, grouped-query or not, over ragged sequences") {
  const testing::packed one{1}, ragged{3, 1, 5, 2}, tiles{66, 1};
  struct shape {
    index_t width, heads, kv_heads;
  };
  for (const shape s : {shape{1, 1, 1}, {7, 1, 1}, {12, 4, 4}, {12, 4, 2}, {15, 3, 1}})
    for (const bool causal : {true, false}) {
      CAPTURE(s.width, s.heads, s.kv_heads, causal);
      context<B> cx;
      testing::poison(cx);
      const attention<B> layer(s.width, s.heads, causal, s.kv_heads);
      CHECK(testing::gradient_error(cx, layer, one.rows(), s.width, {}, one.view<B>()) < 1e-7);
      CHECK(testing::gradient_error(cx, layer, ragged.rows(), s.width, {}, ragged.view<B>()) < 1e-7);
    }
  context<B> cx;
  CHECK(testing::gradient_error(cx, attention<B>(6, 2, true, 1), tiles.rows(), 6, {}, tiles.view<B>()) <
        1e-7);
  CHECK(testing::gradient_error(cx, attention<B>(6, 2, false, 1), tiles.rows(), 6, {}, tiles.view<B>()) <
        1e-7);
}

TEST_CASE("attention with rotary positions passes the gradient check") {
  const testing::packed ragged{3, 1, 5, 2};
  struct shape {
    index_t width, heads, kv_heads;
  };
  for (const shape s : {shape{2, 1, 1}, {12, 2, 2}, {12, 6, 2}, {18, 3, 1}})
    for (const bool causal : {true, false}) {
      CAPTURE(s.width, s.heads, s.kv_heads, causal);
      context<B> cx;
      const attention<B, rotary> layer(s.width, s.heads, causal, s.kv_heads);
      CHECK(testing::gradient_error(cx, layer, ragged.rows(), s.width, {}, ragged.view<B>()) < 1e-7);
    }
}

TEST_CASE("rows of one sequence do not see another sequence") {
  const testing::packed together{4, 3}, first{4};
  context<B> cx;
  const attention<B> layer(6, 2, false);
  parameters theta = testing::perturbed(cx, layer);
  const std::vector<double> x = testing::normal_values(7 * 6, 2);
  const auto all = cx.read(
      layer(cx, theta.weights, cx.upload(std::span<const double>(x), 7, 6), together.view<B>()).value);
  const auto alone = cx.read(
      layer(cx, theta.weights, cx.upload(std::span<const double>(x).first(24), 4, 6), first.view<B>()).value);
  CHECK(testing::same_bits(std::vector<double>(all.begin(), all.begin() + 24), alone));
}

TEST_CASE("rotary scores depend on distances alone") {
  // Moving every position by the same amount turns queries and keys alike: the output stays.
  context<B> cx;
  const attention<B, rotary> layer(8, 2, true);
  parameters theta = testing::perturbed(cx, layer);
  const std::vector<double> x = testing::normal_values(5 * 8, 2);
  const const_tensor<B> input = cx.upload(std::span<const double>(x), 5, 8);
  const int offsets[] = {0, 5}, near[] = {0, 1, 2, 3, 4}, far[] = {40, 41, 42, 43, 44},
            spread[] = {0, 2, 4, 6, 8};
  const auto at = [&](const int* positions) {
    const sequences<B> seq{{offsets, 2}, offsets, {positions, 5}};
    return cx.read(layer(cx, theta.weights, input, seq).value);
  };
  CHECK(testing::largest_error(at(far), at(near)) < 1e-12);
  CHECK(testing::largest_error(at(spread), at(near)) > 1e-3);
}

TEST_CASE("frozen parameters of attention are left untouched and change nothing else") {
  const testing::packed ragged{3, 1, 5, 2};
  CHECK(testing::frozen_parameters_stay_untouched(attention<B>(12, 4, true, 2), ragged.rows(), 12,
                                                  ragged.view<B>()));
  CHECK(testing::frozen_parameters_stay_untouched(attention<B, rotary>(12, 2, false), ragged.rows(), 12,
                                                  ragged.view<B>()));
}

TEST_CASE("attention refuses heads that do not divide its width and odd rotary heads") {
  CHECK_THROWS_AS((attention<B>(7, 2, true)), shape_error);
  CHECK_THROWS_AS((attention<B>(8, 0, true)), shape_error);
  CHECK_THROWS_AS((attention<B>(12, 4, true, 3)), shape_error);
  CHECK_THROWS_AS((attention<B, rotary>(6, 2, true)), shape_error);
  try {
    const attention<B> layer(7, 2, true);
  } catch (const shape_error& e) {
    CHECK(std::string(e.what()).find("width 7 must be a multiple of heads 2") != std::string::npos);
  }
}
