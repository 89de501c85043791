#include <planlm/models/transformer_lm.hpp>

#include <algorithm>
#include <span>
#include <vector>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "joint.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::small_batch;
using values = std::vector<double>;

namespace {

/// Finite differences of the mean cross-entropy over all parameters; the token table acts as input and as output.
template <class Model>
double lm_error(const Model& model) {
  const small_batch batch;
  context<B> cx;
  testing::poison(cx);
  auto theta = testing::perturbed(cx, model);
  const auto tokens = small_batch::as_indices<B>(batch.tokens), targets = small_batch::as_indices<B>(batch.targets);
  auto loss = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    const auto h = model(cx, theta.weights, tokens, batch.chunks.view<B>()).value;
    return cx.read_one(ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.token.table), targets,
                                                 const_tensor<B, 1>{}, 1.0 / 11, tensor<B>{})
                           .total);
  };
  auto gradient = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    theta.zero_grads(cx);
    auto [h, pullback] = model(cx, theta.weights, tokens, batch.chunks.view<B>());
    const auto l = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.token.table), targets,
                                             const_tensor<B, 1>{}, 1.0 / 11, theta.grads.token.table);
    pullback(l.dhidden, theta.grads);
    return testing::read_all(cx, theta, true);
  };
  return testing::directional_error(testing::read_all(cx, theta), loss, gradient);
}
template <class Model>
void check_depths() {
  for (const index_t layers : {1, 2, 3}) {
    CAPTURE(layers);
    CHECK(lm_error(Model{{23, 8, 6, 3, layers}}) < 1e-7);
    CHECK(lm_error(Model{{23, 7, 2, 1, layers}}) < 1e-7);
    CHECK(lm_error(Model{{29, 9, 18, 3, layers}}) < 1e-7);
  }
}

}  // namespace

TEST_CASE("a language model with learned positions passes the gradient check") {
  check_depths<transformer_lm<B>>();
  CHECK(lm_error(transformer_lm<B>{{23, 8, 5, 5, 2}}) < 1e-7);
  CHECK(lm_error(transformer_lm<B>{{23, 8, 1, 1, 1}}) < 1e-7);
}
TEST_CASE("a language model with sinusoidal positions passes the gradient check") {
  check_depths<transformer_lm<B, sinusoidal_positions<B>>>();
}
TEST_CASE("a language model with rotary positions passes the gradient check") {
  check_depths<transformer_lm<B, no_positions<B>, rotary>>();
}

TEST_CASE("fact 20: a language model's output at t does not see x at t + 1 or later, nor another chunk") {
  const small_batch batch;
  const transformer_lm<B> model{{23, 8, 6, 3, 3}};
  context<B> cx;
  auto theta = testing::perturbed(cx, model);
  const auto hidden = [&](const std::vector<int>& tokens) {
    return cx.read(const_tensor<B>(model(cx, theta.weights, small_batch::as_indices<B>(tokens), batch.chunks.view<B>()).value));
  };
  const values before = hidden(batch.tokens);
  for (std::size_t changed = 0; changed < 11; ++changed) {
    std::vector<int> tokens = batch.tokens;
    tokens[changed] = (tokens[changed] + 1) % 23;
    const values after = hidden(tokens);
    for (std::size_t t = 0; t < 11; ++t) {
      CAPTURE(changed, t);
      const bool same = std::equal(before.begin() + 6 * std::ptrdiff_t(t), before.begin() + 6 * std::ptrdiff_t(t + 1),
                                   after.begin() + 6 * std::ptrdiff_t(t));
      CHECK(same == (t < changed || (t < 7) != (changed < 7)));
    }
  }
}

TEST_CASE("the parameters of GPT-2 small are 124 439 808") {
  CHECK(count_parameters(transformer_lm<B>{{50257, 1024, 768, 12, 12}}) == 124439808);
}
