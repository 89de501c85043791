#include <planlm/planning/context_gate.hpp>

#include <algorithm>
#include <cmath>
#include <vector>
#include <planlm/layers/attention.hpp>
#include <planlm/planning/plan_adapter.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../backend/bfloat16_backend.hpp"
#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;
using testing::packed;
using testing::same_bits;
using values = std::vector<double>;
using adapter_type = plan_adapter<B, context_gate<B>>;

namespace {

constexpr index_t label_width = 3, width = 5, sentences = 4;
const std::vector<int> sentence{0, 0, 1, -1, 1, 1, 2, 2, 0};  // one row without a plan; sentence 3 has no row

const_tensor<B> matrix(const values& v, index_t rows) { return {v.data(), rows, static_cast<index_t>(v.size()) / rows}; }

/// Adapter and injection as one layer over rows: [embeddings c ; x], one after another in one column, to the conditioned rows.
struct gated_rows {
  using backend = B;
  using params = adapter_type::params;
  adapter_type adapter;
  const std::vector<int>* sentence_of;
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    adapter.each_param(f, p...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> in, const sequences<B>& seq) const {
    const index_t n = static_cast<index_t>(sentence_of->size()), c_size = sentences * adapter.label_width;
    const const_tensor<B> c(in.data, sentences, adapter.label_width), x(in.data + c_size, n, adapter.width);
    auto [plan, plan_pullback] = adapter(cx, p, c);
    auto [y, pullback] = adapter.injection(p, const_tensor<B>(plan), {sentence_of->data(), sentence_of->size()}, seq)(cx, x);
    return vjp{y, [&cx, plan_pullback = plan_pullback, pullback = pullback, columns = adapter.columns(), c_size](const_tensor<B> dy,
                                                                                                                const params& g) {
                 const auto dplan = cx.make_zero(sentences, columns);
                 const const_tensor<B> dx = pullback(dy, dplan, g);
                 const auto all = cx.make_zero(c_size + dx.size(), 1);
                 plan_pullback(dplan, g, tensor<B>(all.data, sentences, c_size / sentences));
                 std::copy_n(dx.data, dx.size(), all.data + c_size);
                 return const_tensor<B>(all);
               }};
  }
};
adapter_type adapter_of(bool by_column) { return {label_width, width, {width, by_column}}; }

}  // namespace

TEST_CASE("plan, gate and rows pass the gradient check together, with one gate per row and one per column") {
  const packed seq{5, 1, 3};
  for (const bool by_column : {false, true}) {
    CAPTURE(by_column);
    context<B> cx;
    testing::poison(cx);
    const gated_rows layer{adapter_of(by_column), &sentence};
    CHECK(testing::gradient_error(cx, layer, sentences * label_width + 9 * width, 1, {}, seq.view<B>()) < 1e-8);
    CHECK(testing::frozen_parameters_stay_untouched(layer, sentences * label_width + 9 * width, 1, seq.view<B>()));
  }
}

TEST_CASE("the gate of a row is the sigmoid of v . [c ; mean of the rows so far] + b0") {
  const packed seq{5, 1, 3};
  for (const bool by_column : {false, true}) {
    CAPTURE(by_column);
    context<B> cx;
    testing::poison(cx);
    const adapter_type adapter = adapter_of(by_column);
    const std::size_t gates = by_column ? width : 1;
    auto theta = testing::perturbed(cx, adapter);
    const values w = theta.read(cx, theta.find("w")), b = theta.read(cx, theta.find("b")), v = theta.read(cx, theta.find("gate"));
    const values c = normal_values(sentences * label_width, 2), x = normal_values(9 * width, 3);
    const const_tensor<B> plan = adapter(cx, theta.weights, matrix(c, sentences)).value;
    const values y =
        cx.read(adapter.injection(theta.weights, plan, {sentence.data(), sentence.size()}, seq.view<B>())(cx, matrix(x, 9)).value);
    values expected = x;
    const std::vector<std::size_t> begin{0, 0, 0, 0, 0, 5, 6, 6, 6};
    for (std::size_t t = 0; t < 9; ++t) {
      if (sentence[t] < 0) continue;
      const double* own = &c[static_cast<std::size_t>(sentence[t]) * label_width];
      const auto affine = [&](std::size_t row) {
        double total = b[row];
        for (std::size_t i = 0; i < label_width; ++i) total += w[row * label_width + i] * own[i];
        return total;
      };
      for (std::size_t d = 0; d < width; ++d) {
        const std::size_t gate = by_column ? d : 0;
        double logit = affine(width + gate);
        for (std::size_t i = 0; i < width; ++i) {
          double mean = 0;
          for (std::size_t r = begin[t]; r <= t; ++r) mean += x[r * width + i] / double(t - begin[t] + 1);
          logit += v[gate * width + i] * mean;
        }
        expected[t * width + d] += affine(d) / (1 + std::exp(-logit));
      }
    }
    CHECK(gates * width == v.size());
    CHECK(largest_error(y, expected) < 1e-14);
  }
}

TEST_CASE("a gate's logit far from zero opens or closes it, and without a context it is the same for every row") {
  const packed seq{9};
  context<B> cx;
  const adapter_type adapter = adapter_of(false);
  auto theta = testing::perturbed(cx, adapter);
  theta.write(cx, theta.find("gate"), values(width));
  const values c = normal_values(sentences * label_width, 2), x = normal_values(9 * width, 3);
  values w = theta.read(cx, theta.find("w")), b = theta.read(cx, theta.find("b"));
  std::fill(w.end() - label_width, w.end(), 0.0);
  theta.write(cx, theta.find("w"), w);
  const auto change = [&](double b0) {
    b.back() = b0;
    theta.write(cx, theta.find("b"), b);
    const const_tensor<B> plan = adapter(cx, theta.weights, matrix(c, sentences)).value;
    values y = cx.read(adapter.injection(theta.weights, plan, {sentence.data(), sentence.size()}, seq.view<B>())(cx, matrix(x, 9)).value);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] -= x[i];
    return y;
  };
  const values open = change(800), half = change(0), shut = change(-800);
  for (std::size_t i = 0; i < open.size(); ++i) {
    CHECK(shut[i] == 0);
    CHECK(half[i] == Approx(open[i] / 2).margin(1e-14));
  }
  CHECK(std::any_of(open.begin(), open.end(), [](double v) { return v != 0; }));
}

TEST_CASE("fact 20: a gate sees the rows up to its own, in its own sequence") {
  const packed seq{5, 4};
  context<B> cx;
  const adapter_type adapter = adapter_of(false);
  auto theta = testing::perturbed(cx, adapter);
  const std::vector<int> of(9, 1);
  const values c = normal_values(sentences * label_width, 2), x = normal_values(9 * width, 3);
  const const_tensor<B> plan = adapter(cx, theta.weights, matrix(c, sentences)).value;
  const auto change = [&](const values& at) {
    values y = cx.read(adapter.injection(theta.weights, plan, {of.data(), of.size()}, seq.view<B>())(cx, matrix(at, 9)).value);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] -= at[i];
    return y;
  };
  const values before = change(x);
  for (std::size_t changed = 0; changed < 9; ++changed) {
    values other = x;
    other[changed * width] += 1;
    const values after = change(other);
    for (std::size_t t = 0; t < 9; ++t) {
      CAPTURE(changed, t);
      const bool same = before[t * width + 1] == after[t * width + 1];
      CHECK(same == (t < changed || (t < 5) != (changed < 5)));
    }
  }
}

TEST_CASE("fact 12 under a gate: the branch changes by the output weight times g_t u, without its bias") {
  const packed chunks{5, 1, 3};
  context<B> cx;
  const index_t wide = 6;
  const attention<B> branch(wide, 3, true);
  const adapter_type adapter{label_width, wide, {wide, true}};
  auto theta = testing::perturbed(cx, branch);
  auto phi = testing::perturbed(cx, adapter, 31);
  const values x = normal_values(9 * wide, 23), c = normal_values(sentences * label_width, 2);
  const const_tensor<B> plan = adapter(cx, phi.weights, matrix(c, sentences)).value;
  const auto inject = adapter.injection(phi.weights, plan, {sentence.data(), sentence.size()}, chunks.view<B>());
  // What the gate lets through, seen where the output projection is the identity without a bias.
  auto bare = testing::perturbed(cx, branch);
  values identity(wide * wide);
  for (std::size_t i = 0; i < wide; ++i) identity[i * wide + i] = 1;
  bare.write(cx, bare.find("out.w"), identity);
  bare.write(cx, bare.find("out.b"), values(wide));
  const auto run = [&](const auto& weights, bool planned) {
    return cx.read(planned ? const_tensor<B>(branch(cx, weights, matrix(x, 9), chunks.view<B>(), inject).value)
                           : const_tensor<B>(branch(cx, weights, matrix(x, 9), chunks.view<B>()).value));
  };
  const auto difference = [](values a, const values& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
    return a;
  };
  const values through = difference(run(bare.weights, true), run(bare.weights, false));
  const values expected = cx.read(ops::matmul_nt(cx, matrix(through, 9), const_tensor<B>(theta.weights.out.w)));
  CHECK(largest_error(difference(run(theta.weights, true), run(theta.weights, false)), expected) < 1e-14);
}

TEST_CASE("gated rows in bfloat16 are those of float, rounded once at each store") {
  using N = testing::bfloat16_backend;
  using F = cpu<float>;
  const packed seq{5, 1, 3};
  const auto run = [&](auto backend) {
    using Any = decltype(backend);
    using T = typename Any::real;
    context<Any> cx;
    testing::poison(cx);
    const std::vector<bfloat16> x = normal_values<bfloat16>(9 * width, 3), plan = normal_values<bfloat16>(sentences * 2 * width, 4),
                                v = normal_values<bfloat16>(width * width, 5);
    const std::vector<T> a(x.begin(), x.end()), b(plan.begin(), plan.end()), c(v.begin(), v.end());
    const gated_injection<Any> inject{{b.data(), sentences, 2 * width}, {c.data(), width, width}, {sentence.data(), sentence.size()},
                                      seq.view<Any>(), {}};
    const auto y = cx.read(inject(cx, const_tensor<Any>(a.data(), 9, width)).value);
    return std::vector<float>(y.begin(), y.end());
  };
  CHECK(largest_error(run(N{}), run(F{})) < 0.02);
}
