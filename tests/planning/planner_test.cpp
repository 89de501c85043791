#include <planlm/planning/planner.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "../models/joint.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using values = std::vector<double>;

namespace {

const_tensor<B> matrix(const values& v, index_t rows) { return {v.data(), rows, static_cast<index_t>(v.size()) / rows}; }

/// Finite differences of <ds, s> over all parameters. The planner has no input gradient.
double planner_error(const planner<B>& layer, const testing::packed& contexts, index_t sentences,
                     testing::check_options options = {}) {
  context<B> cx;
  testing::poison(cx);
  auto theta = testing::perturbed(cx, layer);
  const values z = normal_values(contexts.rows() * layer.width, 7), ds = normal_values(sentences * layer.labels, 8);
  auto loss = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    const values s = cx.read(layer(cx, theta.weights, matrix(z, contexts.rows()), contexts.view<B>()).value);
    double total = 0;
    for (std::size_t i = 0; i < s.size(); ++i) total += s[i] * ds[i];
    return s.size() == ds.size() ? total : NAN;
  };
  auto gradient = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    theta.zero_grads(cx);
    layer(cx, theta.weights, matrix(z, contexts.rows()), contexts.view<B>()).pullback(matrix(ds, sentences), theta.grads);
    return testing::read_all(cx, theta, true);
  };
  return testing::directional_error(testing::read_all(cx, theta), loss, gradient, options);
}

}  // namespace

TEST_CASE("the planner passes the gradient check over contexts of different lengths, of one sentence too") {
  const testing::packed one{1}, ragged{1, 3, 2, 4}, long_ones{17, 1, 1, 40};
  for (const index_t depth : {0, 1, 2}) {
    CAPTURE(depth);
    CHECK(planner_error({6, 5, 2, 10, depth}, ragged, 4) < 1e-7);
    CHECK(planner_error({6, 5, 3, 7, depth}, one, 1) < 1e-7);
  }
  CHECK(planner_error({1, 1, 1, 1, 1}, ragged, 4) < 1e-7);
  CHECK(planner_error({7, 1, 1, 3, 1}, ragged, 4) < 1e-7);
  // Of a thousand rectified values some lie within a longer step of their kink.
  testing::check_options short_steps;
  short_steps.step = 1e-7;
  CHECK(planner_error({15, 33, 5, 9, 2}, long_ones, 4, short_steps) < 1e-6);
}

TEST_CASE("the planner's head is a dot product with the mean of the coded contexts: by hand, without blocks") {
  context<B> cx;
  const planner<B> layer{2, 3, 1, 4, 0};
  parameters<planner<B>> theta(cx, layer, philox{1});
  theta.write(cx, theta.find("input.w"), values{1, 0, 0, 1});
  theta.write(cx, theta.find("input.b"), values{10, 20});
  theta.write(cx, theta.find("head.w"), values{1, 0, 0, 1, 2, -1});
  theta.write(cx, theta.find("head.b"), values{0, 0.5, 0});
  const testing::packed contexts{1, 2};
  const values z{1, 2, 3, 4, 5, 6};
  const values s = cx.read(layer(cx, theta.weights, matrix(z, 3), contexts.view<B>()).value);
  // Codes are (sin p, cos p): (0, 1) for the oldest sentence, (sin 1, cos 1) for the next.
  const double a = 11, b = 23, c = 10 + 0.5 * (3 + 5 + std::sin(1)), d = 20 + 0.5 * (4 + 1 + 6 + std::cos(1));
  CHECK(largest_error(s, values{a, b + 0.5, 2 * a - b, c, d + 0.5, 2 * c - d}) < 1e-14);
}

TEST_CASE("fact 20: the logits of a sentence see its own context only") {
  context<B> cx;
  const planner<B> layer{6, 5, 2, 10, 2};
  auto theta = testing::perturbed(cx, layer);
  const testing::packed contexts{1, 3, 2, 4};
  const std::vector<std::size_t> begin{0, 1, 4, 6, 10};
  const values z = normal_values(60, 9);
  const auto logits = [&](const values& at) { return cx.read(layer(cx, theta.weights, matrix(at, 10), contexts.view<B>()).value); };
  const values s = logits(z);
  for (std::size_t changed = 0; changed < 4; ++changed) {
    values other = z;
    for (std::size_t i = 6 * begin[changed]; i < 6 * begin[changed + 1]; ++i) other[i] += 0.5;
    const values t = logits(other);
    for (std::size_t i = 0; i < 4; ++i) {
      CAPTURE(changed, i);
      const bool same = std::equal(s.begin() + 5 * std::ptrdiff_t(i), s.begin() + 5 * std::ptrdiff_t(i + 1),
                                   t.begin() + 5 * std::ptrdiff_t(i));
      CHECK(same == (i != changed));
    }
  }
  // Alone in a batch a sentence gets what it got in company.
  const testing::packed alone{3};
  const values third(z.begin() + 6, z.begin() + 24), row(s.begin() + 5, s.begin() + 10);
  CHECK(largest_error(cx.read(layer(cx, theta.weights, matrix(third, 3), alone.view<B>()).value), row) < 1e-14);
}

TEST_CASE("the planner tells the order of its context") {
  context<B> cx;
  const planner<B> layer{6, 5, 2, 10, 1};
  auto theta = testing::perturbed(cx, layer);
  const testing::packed contexts{2};
  values z = normal_values(12, 9);
  const values s = cx.read(layer(cx, theta.weights, matrix(z, 2), contexts.view<B>()).value);
  std::rotate(z.begin(), z.begin() + 6, z.end());
  CHECK(largest_error(cx.read(layer(cx, theta.weights, matrix(z, 2), contexts.view<B>()).value), s) > 1e-3);
}
