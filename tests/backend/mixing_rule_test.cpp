#include <planlm/backend/mixing_rule.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/planning/label_mixture.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

#include "../catch.hpp"

using namespace planlm;
using testing::largest_error;
using testing::normal_values;
using values = std::vector<double>;

namespace {

/// Mixes by the words of mixing_rule, sentence by sentence, and counts how often it was asked.
struct ruled : cpu<double> {
  using matrix = view<const double, 2, host_memory>;
  using target = view<double, 2, host_memory>;
  static inline int asked = 0;

  static std::size_t mixing_bytes(const mixing_rule&, index_t rows, index_t labels) { return static_cast<std::size_t>(2 * rows * labels) * sizeof(double); }
  static void mix_rows(queue&, const mixing_rule& rule, matrix z, matrix table, target e, void* kept) {
    ++asked;
    const index_t n = z.cols();
    auto* w = static_cast<double*>(kept);            // of the forward pass
    double* soft = w + z.size();                     // of the gradient
    std::fill(w, w + 2 * z.size(), 0.0);
    std::fill(e.data, e.data + e.size(), 0.0);
    for (index_t r = 0; r < z.rows(); ++r, w += n, soft += n) {
      values y(z.row(r), z.row(r) + n);
      for (index_t k = 0; k < n; ++k)
        y[static_cast<std::size_t>(k)] -=
            rule.noise == 0 ? 0 : rule.noise * std::log(-std::log(rule.random.uniform(static_cast<std::uint64_t>(r), static_cast<std::uint32_t>(k))));
      std::vector<std::size_t> order(y.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return y[a] > y[b]; });
      const index_t taken = rule.taken > 0 ? std::min(rule.taken, n) : n;
      double total = 0;
      for (index_t t = 0; t < taken; ++t) {
        const std::size_t k = order[static_cast<std::size_t>(t)];
        total += soft[k] = std::exp(rule.inverse_temperature * (y[k] - y[order[0]]));
      }
      for (index_t k = 0; k < n; ++k) soft[k] /= total;
      if (rule.discrete) w[order[0]] = 1;
      else std::copy(soft, soft + n, w);
      for (index_t k = 0; k < n; ++k)
        for (index_t c = 0; c < e.cols(); ++c) e(r, c) += w[k] * table(k, c);
    }
  }
  static void mix_rows_pullback(queue&, const mixing_rule& rule, matrix z, matrix table, matrix, const void* kept, matrix de, target dz, target dtable) {
    const index_t n = z.cols();
    const auto* w = static_cast<const double*>(kept);
    const double* soft = w + z.size();
    for (index_t r = 0; r < z.rows(); ++r, w += n, soft += n) {
      values g(static_cast<std::size_t>(n), 0.0);
      double mean = 0;
      for (index_t k = 0; k < n; ++k) {
        for (index_t c = 0; c < de.cols(); ++c) {
          g[static_cast<std::size_t>(k)] += de(r, c) * table(k, c);
          if (dtable) dtable(k, c) += w[k] * de(r, c);
        }
        mean += soft[k] * g[static_cast<std::size_t>(k)];
      }
      if (!rule.differentiable) continue;
      for (index_t k = 0; k < n; ++k) dz(r, k) = rule.inverse_temperature * soft[k] * (g[static_cast<std::size_t>(k)] - mean);
    }
  }
};
static_assert(HasRuledMixing<ruled> && !HasRuledMixing<cpu<double>>);
static_assert(HasMixingRule<mixture, ruled> && HasMixingRule<gumbel_softmax, ruled> && !HasMixingRule<sampled, ruled> && !HasMixingRule<oracle<ruled>, ruled>);

struct outcome {
  values e, dz, dtable;
};
template <class Result>
outcome pulled(context<ruled>& cx, parameters<label_mixture<ruled>>& theta, const Result& result, const_tensor<ruled> de) {
  theta.zero_grads(cx);
  const const_tensor<ruled> dz = result.pullback(de, theta.grads);
  return {cx.read(result.value), dz ? cx.read(dz) : values{}, theta.read_gradient(cx, 0)};
}

/// The layer, which mixes by rule here, against the policy step by step.
template <class Mix>
void both_agree(const Mix& mix, bool training = true) {
  constexpr index_t sentences = 7, labels = 11, width = 5;
  context<ruled> cx;
  cx.training = training;
  cx.random = philox{19, 3, 0};
  const label_mixture<ruled> layer{labels, width};
  parameters<label_mixture<ruled>> theta(cx, layer, philox{3});
  const values z = normal_values(sentences * labels, 5), de = normal_values(sentences * width, 6);
  const const_tensor<ruled> logits(z.data(), sentences, labels), upstream(de.data(), sentences, width);
  const int before = ruled::asked;
  const outcome by_rule = pulled(cx, theta, layer(cx, theta.weights, logits, mix), upstream);
  CHECK(ruled::asked == before + 1);
  const outcome step_by_step = pulled(cx, theta, layer.composed(cx, theta.weights, logits, mix), upstream);
  CHECK(largest_error(by_rule.e, step_by_step.e) < 1e-12);
  CHECK(largest_error(by_rule.dtable, step_by_step.dtable) < 1e-12);
  REQUIRE(by_rule.dz.size() == step_by_step.dz.size());
  if (!by_rule.dz.empty()) CHECK(largest_error(by_rule.dz, step_by_step.dz) < 1e-12);
}

}  // namespace

TEST_CASE("A policy as a rule gives what its weights give", "[mixing_rule]") {
  both_agree(mixture{});
  both_agree(mixture{.temperature = 0.4});
  both_agree(top_k{.k = 3, .temperature = 1.7});
  both_agree(top_k{.k = 100});
  both_agree(hard{});
  both_agree(straight_through{.temperature = 2});
}
TEST_CASE("A rule draws the noise that the policy draws, and none outside training", "[mixing_rule]") {
  both_agree(gumbel_softmax{.temperature = 0.8, .scale = 0.5});
  both_agree(gumbel_softmax{.temperature = 0.8, .discrete = true});
  both_agree(gumbel_softmax{.temperature = 0.8}, false);
}
TEST_CASE("A policy that is no rule is mixed step by step", "[mixing_rule]") {
  context<ruled> cx;
  const label_mixture<ruled> layer{4, 3};
  parameters<label_mixture<ruled>> theta(cx, layer, philox{3});
  const values z = normal_values(8, 5);
  const int before = ruled::asked;
  layer(cx, theta.weights, const_tensor<ruled>(z.data(), 2, 4), fixed{.label = 2});
  CHECK(ruled::asked == before);
}
TEST_CASE("A rule is checked as its policy is", "[mixing_rule]") {
  context<ruled> cx;
  const label_mixture<ruled> layer{4, 3};
  parameters<label_mixture<ruled>> theta(cx, layer, philox{3});
  const values z = normal_values(8, 5);
  const const_tensor<ruled> logits(z.data(), 2, 4);
  CHECK_THROWS_AS(layer(cx, theta.weights, logits, mixture{.temperature = 0}), error);
  CHECK_THROWS_AS(layer(cx, theta.weights, logits, top_k{.k = 0}), error);
  CHECK_THROWS_AS(layer(cx, theta.weights, logits, gumbel_softmax{.temperature = -1}), error);
}
