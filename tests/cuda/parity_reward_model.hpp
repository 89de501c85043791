/// A reward model on any backend, results in host memory: one more part of parity.hpp, and like it with weights rounded to
/// `Input`.
///
/// Names begin with "reward model"; gradients are "... d NAME".
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include <planlm/models/reward_model.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm::testing {

/// Nine prompts, of 0 to 20 tokens, with two to five generations of 1 to 24 tokens each; a narrow head and a wide one.
template <Backend B, class Input>
void reward_model_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  using model_type = reward_model<transformer_lm<B>>;
  for (const index_t inner : {37, 2048}) {
    auto scope = cx.scope();
    const std::string name = "reward model " + std::to_string(inner);
    const auto keep = [&](const std::string& what, const auto& values) { out[name + what].assign(values.begin(), values.end()); };
    const model_type model{{{301, 60, 44, 2, 2}}, inner};
    parameters<model_type> theta(cx, model, philox{9});
    for (std::size_t n = 0; n < theta.slots().size(); ++n) {
      auto w = theta.read(cx, n);
      const std::vector<float> noise = normal_values<float>(static_cast<index_t>(w.size()), 900 + n, 0.1);
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(Input(static_cast<float>(w[i]) + noise[i]));
      theta.write(cx, n, w);
    }
    packed_generations batch(model.lm.sizes);
    const auto text = [](std::uint32_t stream, std::uint32_t row, std::uint32_t length) {
      std::vector<int> tokens;
      for (std::uint32_t t = 0; t < length; ++t) tokens.push_back(static_cast<int>(philox{stream}.below(301, row, t)));
      return tokens;
    };
    for (std::uint32_t b = 0; b < 9; ++b) {
      const std::vector<int> prompt = text(4, b, b * 7 % 21);
      for (std::uint32_t k = 0; k < 2 + b % 4; ++k) batch.add(prompt, text(5, 8 * b + k, 1 + (b * 11 + k * 5) % 24));
    }
    const auto rows = upload(cx, batch);
    auto [z, pullback] = model(cx, theta.weights, rows);
    keep(" logits", cx.read(z));
    // Above 0: the gradients of a list of preferences nearly cancel, and what is left is rounding.
    std::vector<typename B::accum> dz(static_cast<std::size_t>(z.size()));
    for (std::size_t i = 0; i < dz.size(); ++i) dz[i] = static_cast<typename B::accum>(0.1f + static_cast<float>(philox{6}.uniform(i, 0)));
    const auto predicted = predicted_tokens(cx, rows, const_accum_tensor<B>(cx.upload(dz)));
    keep(" predicted tokens", cx.read(predicted.tokens)), keep(" predicted rewards", cx.read(predicted.rewards));
    theta.zero_grads(cx);
    pullback(const_accum_tensor<B>(cx.upload(dz)), theta.grads);
    for (std::size_t n = 0; n < theta.slots().size(); ++n) keep(" d " + theta.slots()[n].spec.name, theta.read_gradient(cx, n));
  }
}

}  // namespace planlm::testing
