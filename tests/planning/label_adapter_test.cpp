#include <planlm/planning/label_adapter.hpp>

#include <algorithm>
#include <cmath>
#include <vector>
#include <planlm/layers/attention.hpp>
#include <planlm/ops/softmax.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using values = std::vector<double>;

namespace {

/// A label adapter as a layer from weights to vectors, so that the public gradient check can see all of it.
template <class Gate>
struct as_layer {
  using backend = B;
  using params = typename label_adapter<B, Gate>::params;
  label_adapter<B, Gate> adapter;
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    adapter.each_param(f, p...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> w) const {
    auto [u, pullback] = adapter(cx, p, w);
    return vjp{const_tensor<B>(u), [&cx, pullback = pullback, rows = w.rows(), cols = w.cols()](const_tensor<B> du, const params& g) {
                 const auto dw = cx.make_zero(rows, cols);
                 pullback(du, g, dw);
                 return const_tensor<B>(dw);
               }};
  }
};

values distributions(context<B>& cx, index_t rows, index_t cols, std::uint64_t seed = 5) {
  auto scope = cx.scope();
  const values z = normal_values(rows * cols, seed);
  return cx.read(ops::softmax(cx, const_tensor<B>(z.data(), rows, cols)));
}
const_tensor<B> matrix(const values& v, index_t rows) { return {v.data(), rows, static_cast<index_t>(v.size()) / rows}; }

struct sizes {
  index_t sentences, labels, label_width, width;
};
constexpr sizes shapes[]{{1, 1, 1, 1}, {1, 7, 3, 5}, {5, 1, 2, 3}, {13, 17, 9, 6}, {3, 130, 5, 33}};

template <class Gate>
void check_gradients() {
  for (const sizes s : shapes) {
    CAPTURE(s.sentences, s.labels, s.label_width, s.width);
    context<B> cx;
    testing::poison(cx);
    const as_layer<Gate> layer{{s.labels, s.label_width, s.width}};
    CHECK(testing::gradient_error(cx, layer, s.sentences, s.labels) < 1e-7);
    CHECK(testing::frozen_parameters_stay_untouched(layer, s.sentences, s.labels));
  }
}

}  // namespace

TEST_CASE("a label adapter without, with a zero and with a one gate passes the gradient check") {
  check_gradients<no_gate<B>>();
  check_gradients<zero_gate<B>>();
  check_gradients<one_gate<B>>();
}

TEST_CASE("a label adapter adds to dw, so that layers sum up; an empty dw is not computed") {
  context<B> cx;
  const label_adapter<B> layer{4, 3, 5};
  auto theta = testing::perturbed(cx, layer);
  const values w = distributions(cx, 2, 4), du = normal_values(10, 7);
  const auto pullback = layer(cx, theta.weights, matrix(w, 2)).pullback;
  auto once = cx.make_zero(2, 4), twice = cx.make_zero(2, 4);
  pullback(matrix(du, 2), theta.grads, once);
  const values alone = theta.read_gradient(cx, 0);
  pullback(matrix(du, 2), label_adapter<B>::params{}, twice);
  pullback(matrix(du, 2), label_adapter<B>::params{}, twice);
  values doubled = cx.read(once);
  for (double& v : doubled) v *= 2;
  CHECK(largest_error(cx.read(twice), doubled) < 1e-15);
  theta.zero_grads(cx);
  pullback(matrix(du, 2), theta.grads, {});
  CHECK(same_bits(theta.read_gradient(cx, 0), alone));
}

TEST_CASE("fact 3: dL/dW = sum of delta c^T, dL/db = sum of delta, and the vector's own gradient is W^T delta") {
  context<B> cx;
  const label_adapter<B> layer{7, 3, 5};
  auto theta = testing::perturbed(cx, layer);
  const values w = distributions(cx, 4, 7), delta = normal_values(20, 11);
  const values table = theta.read(cx, 0), weight = theta.read(cx, 1);
  const auto dw = cx.make_zero(4, 7);
  layer(cx, theta.weights, matrix(w, 4)).pullback(matrix(delta, 4), theta.grads, dw);
  values c(12), expected_w(15), expected_b(5), expected_dw(28);
  for (std::size_t s = 0; s < 4; ++s) {
    for (std::size_t k = 0; k < 7; ++k)
      for (std::size_t i = 0; i < 3; ++i) c[3 * s + i] += w[7 * s + k] * table[3 * k + i];
    for (std::size_t d = 0; d < 5; ++d) {
      expected_b[d] += delta[5 * s + d];
      for (std::size_t i = 0; i < 3; ++i) {
        expected_w[3 * d + i] += delta[5 * s + d] * c[3 * s + i];
        const double g = delta[5 * s + d] * weight[3 * d + i];  // a term of g_i
        for (std::size_t k = 0; k < 7; ++k) expected_dw[7 * s + k] += g * table[3 * k + i];
      }
    }
  }
  CHECK(largest_error(theta.read_gradient(cx, 1), expected_w) < 1e-14);
  CHECK(largest_error(theta.read_gradient(cx, 2), expected_b) < 1e-14);
  CHECK(largest_error(cx.read(dw), expected_dw) < 1e-14);
}

TEST_CASE("fact 7: projecting the mixture equals mixing the projected table") {
  for (const sizes s : shapes) {
    CAPTURE(s.sentences, s.labels, s.label_width, s.width);
    context<B> cx;
    const label_adapter<B> layer{s.labels, s.label_width, s.width};
    auto theta = testing::perturbed(cx, layer);
    const values w = distributions(cx, s.sentences, s.labels);
    const auto projected = ops::matmul_nt_bias(cx, const_tensor<B>(theta.weights.table), const_tensor<B>(theta.weights.w),
                                               const_tensor<B, 1>(theta.weights.b));  // (K, D)
    const auto mixed = ops::matmul(cx, matrix(w, s.sentences), const_tensor<B>(projected));
    CHECK(largest_error(cx.read(layer(cx, theta.weights, matrix(w, s.sentences)).value), cx.read(mixed)) < 1e-13);
  }
}

TEST_CASE("fact 10: W = 0 or a gate at zero hides the plan and stops the gradient of planner and table") {
  context<B> cx;
  const values w = distributions(cx, 3, 7), other = distributions(cx, 3, 7, 6), du = normal_values(15, 13);
  const auto zero = [](const values& v) { return std::all_of(v.begin(), v.end(), [](double x) { return x == 0; }); };

  const label_adapter<B, zero_gate<B>> gated{7, 3, 5};
  parameters<label_adapter<B, zero_gate<B>>> theta(cx, gated, philox{1});
  auto dw = cx.make_zero(3, 7);
  auto [u, pullback] = gated(cx, theta.weights, matrix(w, 3));
  pullback(matrix(du, 3), theta.grads, dw);
  CHECK(zero(cx.read(u)));
  CHECK(zero(cx.read(dw)));
  CHECK(zero(theta.read_gradient(cx, theta.find("table"))));
  CHECK_FALSE(zero(theta.read_gradient(cx, theta.find("gate"))));  // the gate itself can open

  const label_adapter<B> flat{7, 3, 5};
  auto phi = testing::perturbed(cx, flat);
  phi.write(cx, phi.find("w"), values(15));
  dw = cx.make_zero(3, 7);
  auto [v, back] = flat(cx, phi.weights, matrix(w, 3));
  back(matrix(du, 3), phi.grads, dw);
  CHECK(same_bits(cx.read(v), cx.read(flat(cx, phi.weights, matrix(other, 3)).value)));
  CHECK(zero(cx.read(dw)));
  CHECK(zero(phi.read_gradient(cx, phi.find("table"))));
  CHECK_FALSE(zero(phi.read_gradient(cx, phi.find("w"))));
}

TEST_CASE("an adapter acts from the first step on: its W does not start at zero, its bias does") {
  context<B> cx;
  const index_t d = 48, c = 64;
  parameters<label_adapter<B>> theta(cx, label_adapter<B>{9, c, d}, philox{1});
  double squares = 0;
  for (const double v : theta.read(cx, theta.find("w"))) squares += v * v;
  CHECK(std::sqrt(squares / double(d * c)) == Approx(std::sqrt(2.0 / double(d + c))).epsilon(0.05));  // Xavier-normal
  CHECK(theta.read(cx, theta.find("b")) == values(static_cast<std::size_t>(d)));
}

TEST_CASE("fact 12: at the attention output a plan changes the branch by the output weight times W c + b, without its bias") {
  context<B> cx;
  const testing::packed chunks{5, 1, 3};
  const index_t width = 6;
  const attention<B> branch(width, 3, true);
  const label_adapter<B> adapter{4, 3, width};
  auto theta = testing::perturbed(cx, branch);
  auto phi = testing::perturbed(cx, adapter, 31);
  const std::vector<int> sentence{0, 0, 1, 1, 1, 1, 2, 2, 0};
  const values x = normal_values(9 * width, 23), w = distributions(cx, 3, 4);
  const const_tensor<B> u = adapter(cx, phi.weights, matrix(w, 3)).value;
  const plan_injection<B> inject{u, {sentence.data(), sentence.size()}};
  const values with = cx.read(branch(cx, theta.weights, matrix(x, 9), chunks.view<B>(), inject).value);
  const values without = cx.read(branch(cx, theta.weights, matrix(x, 9), chunks.view<B>()).value);
  const values change = cx.read(ops::matmul_nt(cx, u, const_tensor<B>(theta.weights.out.w)));  // (S, C)
  values difference(with.size()), expected(with.size());
  for (std::size_t t = 0; t < 9; ++t)
    for (std::size_t i = 0; i < 6; ++i) {
      difference[6 * t + i] = with[6 * t + i] - without[6 * t + i];
      expected[6 * t + i] = change[6 * static_cast<std::size_t>(sentence[t]) + i];
    }
  CHECK(largest_error(difference, expected) < 1e-14);
}
