#include <planlm/planning/plan_adapter.hpp>

#include <algorithm>
#include <cmath>
#include <vector>
#include <planlm/ops/softmax.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/label_adapter.hpp>
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

/// A plan adapter as a layer from embeddings to plans, so that the public gradient check can see all of it.
template <class Gate>
struct as_layer {
  using backend = B;
  using params = typename plan_adapter<B, Gate>::params;
  plan_adapter<B, Gate> adapter;
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    adapter.each_param(f, p...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> c) const {
    auto [u, pullback] = adapter(cx, p, c);
    return vjp{const_tensor<B>(u), [&cx, pullback = pullback, rows = c.rows(), cols = c.cols()](const_tensor<B> du, const params& g) {
                 const auto dc = cx.make_zero(rows, cols);
                 pullback(du, g, dc);
                 return const_tensor<B>(dc);
               }};
  }
};

const_tensor<B> matrix(const values& v, index_t rows) { return {v.data(), rows, static_cast<index_t>(v.size()) / rows}; }
bool all_zero(const values& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return x == 0; });
}

struct sizes {
  index_t sentences, label_width, width;
};
constexpr sizes shapes[]{{1, 1, 1}, {1, 3, 5}, {5, 2, 3}, {13, 9, 6}, {3, 5, 33}};

}  // namespace

TEST_CASE("a plan adapter passes the gradient check under every gate") {
  const auto check = [](const auto& layer, index_t sentences) {
    context<B> cx;
    testing::poison(cx);
    CHECK(testing::gradient_error(cx, layer, sentences, layer.adapter.label_width) < 1e-7);
  };
  for (const sizes s : shapes) {
    CAPTURE(s.sentences, s.label_width, s.width);
    check(as_layer<no_gate<B>>{{s.label_width, s.width}}, s.sentences);
    for (const initial start : {initial::zeros, initial::ones, initial::normal})
      check(as_layer<learned_gate<B>>{{s.label_width, s.width, {s.width, start}}}, s.sentences);
    check(as_layer<context_gate<B>>{{s.label_width, s.width}}, s.sentences);
    CHECK(testing::frozen_parameters_stay_untouched(as_layer<random_gate<B>>{{s.label_width, s.width}}, s.sentences, s.label_width));
  }
}

TEST_CASE("an adapter says how many columns it takes and gives") {
  CHECK(plan_adapter<B>{3, 5}.inputs() == 3);
  CHECK(plan_adapter<B>{3, 5}.columns() == 5);
  CHECK(plan_adapter<B, context_gate<B>>{3, 5}.columns() == 6);
  CHECK(plan_adapter<B, context_gate<B>>{3, 5, {5, true}}.columns() == 10);
  CHECK(label_adapter<B, context_gate<B>>{7, 3, 5}.inputs() == 7);
  CHECK(label_adapter<B, context_gate<B>>{7, 3, 5}.columns() == 6);
}

TEST_CASE("fact 3: dL/dW = sum of delta c^T, dL/db = sum of delta, and the embedding's own gradient is W^T delta, added to what was there") {
  context<B> cx;
  const plan_adapter<B> layer{3, 5};
  auto theta = testing::perturbed(cx, layer);
  const values c = normal_values(12, 9), delta = normal_values(20, 11), before = normal_values(12, 12);
  const values w = theta.read(cx, 0);
  const auto dc = cx.upload(std::span<const double>(before), 4, 3);
  const auto pullback = layer(cx, theta.weights, matrix(c, 4)).pullback;
  pullback(matrix(delta, 4), theta.grads, dc);
  values expected_w(15), expected_b(5), expected_dc = before;
  for (std::size_t s = 0; s < 4; ++s)
    for (std::size_t d = 0; d < 5; ++d) {
      expected_b[d] += delta[5 * s + d];
      for (std::size_t i = 0; i < 3; ++i) {
        expected_w[3 * d + i] += delta[5 * s + d] * c[3 * s + i];
        expected_dc[3 * s + i] += delta[5 * s + d] * w[3 * d + i];
      }
    }
  CHECK(largest_error(theta.read_gradient(cx, 0), expected_w) < 1e-14);
  CHECK(largest_error(theta.read_gradient(cx, 1), expected_b) < 1e-14);
  CHECK(largest_error(cx.read(dc), expected_dc) < 1e-14);
  theta.zero_grads(cx);
  pullback(matrix(delta, 4), theta.grads, {});  // an embedding that is not wanted
  CHECK(largest_error(theta.read_gradient(cx, 0), expected_w) < 1e-14);
}

TEST_CASE("fact 7: the plan of a mixture is the mixture of the labels' plans") {
  context<B> cx;
  const plan_adapter<B> layer{3, 5};
  auto theta = testing::perturbed(cx, layer);
  const values table = normal_values(21, 13), z = normal_values(28, 14);
  const const_tensor<B> p = ops::softmax(cx, matrix(z, 4)), rows = matrix(table, 7);
  const const_tensor<B> after = layer(cx, theta.weights, const_tensor<B>(ops::matmul(cx, p, rows))).value;
  const const_tensor<B> projected = layer(cx, theta.weights, rows).value;  // (K, D): may be kept
  CHECK(largest_error(cx.read(after), cx.read(ops::matmul(cx, p, projected))) < 1e-14);
}

TEST_CASE("a plan adapter behind a table has the bits of a label adapter") {
  context<B> cx;
  const label_adapter<B, random_gate<B>> own{7, 3, 5};
  const plan_adapter<B, random_gate<B>> behind{3, 5};
  auto theta = testing::perturbed(cx, own);
  auto phi = testing::perturbed(cx, behind);
  for (const char* name : {"w", "b", "gate"}) phi.write(cx, phi.find(name), theta.read(cx, theta.find(name)));
  const values table = theta.read(cx, theta.find("table")), z = normal_values(28, 14), du = normal_values(20, 15);
  const const_tensor<B> p = ops::softmax(cx, matrix(z, 4));
  auto [u, pullback] = own(cx, theta.weights, p);
  auto [v, back] = behind(cx, phi.weights, const_tensor<B>(ops::matmul(cx, p, matrix(table, 7))));
  CHECK(same_bits(cx.read(u), cx.read(v)));
  const auto dp = cx.make_zero(4, 7), dc = cx.make_zero(4, 3), dtable = cx.make_zero(7, 3);
  pullback(matrix(du, 4), theta.grads, dp);
  back(matrix(du, 4), phi.grads, dc);
  ops::matmul_tn_add(cx, p, const_tensor<B>(dc), dtable);
  CHECK(same_bits(cx.read(dtable), theta.read_gradient(cx, theta.find("table"))));
  CHECK(same_bits(cx.read(ops::matmul_nt(cx, const_tensor<B>(dc), matrix(table, 7))), cx.read(dp)));
  for (const char* name : {"w", "b", "gate"})
    CHECK(same_bits(phi.read_gradient(cx, phi.find(name)), theta.read_gradient(cx, theta.find(name))));
}

TEST_CASE("one instantiation is an adapter without a gate: a gate of ones with an empty gradient has its bits") {
  context<B> cx;
  const label_adapter<B> plain{7, 3, 5};
  const label_adapter<B, learned_gate<B>> gated{7, 3, 5, {5, initial::ones}};
  parameters<label_adapter<B>> theta(cx, plain, philox{1});
  parameters<label_adapter<B, learned_gate<B>>> phi(cx, gated, philox{1});
  const values z = normal_values(21, 16), du = normal_values(15, 17);
  const const_tensor<B> w = ops::softmax(cx, matrix(z, 3));
  auto [u, pullback] = plain(cx, theta.weights, w);
  auto [v, back] = gated(cx, phi.weights, w);
  CHECK(same_bits(cx.read(u), cx.read(v)));
  auto g = phi.grads;
  g.gate.gate = {};
  const auto dw = cx.make_zero(3, 7), dv = cx.make_zero(3, 7);
  pullback(matrix(du, 3), theta.grads, dw);
  back(matrix(du, 3), g, dv);
  CHECK(same_bits(cx.read(dw), cx.read(dv)));
  for (const char* name : {"table", "w", "b"})
    CHECK(same_bits(theta.read_gradient(cx, theta.find(name)), phi.read_gradient(cx, phi.find(name))));
  CHECK(all_zero(phi.read_gradient(cx, phi.find("gate"))));
}

TEST_CASE("fact 10: a gate that starts at zero, chosen at run time, hides the plan and its embedding's gradient but can open") {
  context<B> cx;
  const plan_adapter<B, learned_gate<B>> layer{3, 5, {5, initial::zeros}};
  parameters<plan_adapter<B, learned_gate<B>>> theta(cx, layer, philox{1});
  const values c = normal_values(6, 18), du = normal_values(10, 19);
  auto [u, pullback] = layer(cx, theta.weights, matrix(c, 2));
  const auto dc = cx.make_zero(2, 3);
  pullback(matrix(du, 2), theta.grads, dc);
  CHECK(all_zero(cx.read(u)));
  CHECK(all_zero(cx.read(dc)));
  CHECK(all_zero(theta.read_gradient(cx, theta.find("w"))));
  CHECK_FALSE(all_zero(theta.read_gradient(cx, theta.find("gate"))));
}

TEST_CASE("an adapter refuses embeddings of another width, and a gate that is not its own width") {
  context<B> cx;
  const plan_adapter<B, learned_gate<B>> narrow{3, 5, {4}}, right{3, 5};
  parameters<plan_adapter<B, learned_gate<B>>> theta(cx, right, philox{1});
  CHECK_THROWS_WITH(right(cx, theta.weights, const_tensor<B>(cx.make(2, 4))),
                    "plan_adapter: embeddings are (2, 4), expected (S, 3); the gate is 5 wide, the adapter 5");
  CHECK_THROWS_WITH(narrow(cx, theta.weights, const_tensor<B>(cx.make(2, 3))),
                    "plan_adapter: embeddings are (2, 3), expected (S, 3); the gate is 4 wide, the adapter 5");
}

TEST_CASE("a plan adapter acts from the first step on: its W does not start at zero, its bias does") {
  context<B> cx;
  const index_t c = 64, d = 48;
  parameters<plan_adapter<B>> theta(cx, plan_adapter<B>{c, d}, philox{1});
  double squares = 0;
  for (const double v : theta.read(cx, theta.find("w"))) squares += v * v;
  CHECK(std::sqrt(squares / double(d * c)) == Approx(std::sqrt(2.0 / double(d + c))).epsilon(0.05));  // Xavier-normal
  CHECK(all_zero(theta.read(cx, theta.find("b"))));
}
