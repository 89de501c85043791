/// The same rows drawn and the same models run on any backend, their results in host memory: what decoding on the GPU is held against.
///
/// Logits, weights and inputs are numbers that float, double and bfloat16 all represent.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>
#include <planlm/models/planner_lm.hpp>
#include <planlm/ops/sampling.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm::testing {

using numbers = std::vector<double>;

template <class T>
numbers widened(const std::vector<T>& v) {
  numbers out(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) out[i] = static_cast<double>(static_cast<accum_of<T>>(v[i]));
  return out;
}
/// Draws that every number type represents.
template <class T>
std::vector<T> coarse_normals(index_t count, std::uint64_t seed, double scale = 1, double offset = 0) {
  const std::vector<float> v = testing::normal_values<float>(count, seed, scale);
  std::vector<T> out(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) out[i] = T(float(bfloat16(v[i] + static_cast<float>(offset))));
  return out;
}

struct drawn_rows {
  std::vector<int> token;
  numbers drawn, plain;
};
template <Backend B>
drawn_rows draw_rows(index_t rows, index_t vocabulary, std::span<const sampling_rule> rules, const std::vector<int>& forced) {
  using T = typename B::real;
  context<B> cx;
  testing::poison(cx);
  const std::vector<T> z = coarse_normals<T>(rows * vocabulary, 5 + static_cast<std::uint64_t>(vocabulary), 3);
  std::vector<int> places(static_cast<std::size_t>(rows));
  for (std::size_t r = 0; r < places.size(); ++r) places[r] = static_cast<int>(1000 * r + 7);
  const const_tensor<B> logits = cx.upload(std::span<const T>(z), rows, vocabulary);
  const indices<B> at = cx.upload(places), given = forced.empty() ? indices<B>{} : indices<B>(cx.upload(forced));
  const auto s = ops::sample(cx, logits, rules, philox{99, 3}, at, given);
  return {cx.read(s.token), widened(cx.read(s.drawn)), widened(cx.read(s.plain))};
}
/// On the CPU, in double or in float.
drawn_rows draw_rows_on_cpu(bool in_double, index_t rows, index_t vocabulary, std::span<const sampling_rule> rules,
                            const std::vector<int>& forced);

inline const std::vector<int> lengths{5, 74, 1, 23};
inline constexpr index_t vocabulary = 61, labels = 9, width = 64;
struct text {
  std::vector<int> tokens, offsets{0}, positions, sentence;
  index_t sentences = 0;
  text() {
    for (const int n : lengths) {
      for (int t = 0; t < n; ++t) {
        if (t % 9 == 0) ++sentences;
        tokens.push_back(static_cast<int>(philox{3}.below(vocabulary, tokens.size(), 0)));
        positions.push_back(t);
        sentence.push_back(static_cast<int>(sentences) - 1);
      }
      offsets.push_back(static_cast<int>(tokens.size()));
    }
  }
};
template <class Model>
void set_weights(context<typename Model::backend>& cx, parameters<Model>& theta) {
  using T = typename Model::backend::accum;
  for (std::size_t n = 0; n < theta.slots().size(); ++n) {
    const auto& spec = theta.slots()[n].spec;
    theta.write(cx, n, coarse_normals<T>(spec.size(), 100 + n, 0.1, spec.start == initial::ones ? 1 : 0));
  }
}
template <class Model>
numbers forward_pass(const Model& model) {
  using B = typename Model::backend;
  const text all;
  context<B> cx;
  testing::poison(cx);
  parameters<Model> theta(cx, model, philox{1});
  set_weights(cx, theta);
  const sequences<B> seq{cx.upload(all.offsets), all.offsets.data(), cx.upload(all.positions)};
  const planned_rows<B> batch{cx.upload(all.tokens), cx.upload(all.tokens), cx.upload(all.sentence), seq, all.sentences};
  const auto w = coarse_normals<typename B::real>(all.sentences * labels, 8, 0.5);
  return widened(cx.read(
      const_tensor<B>(model(cx, theta.weights, batch, const_tensor<B>(cx.upload(std::span(w), all.sentences, labels))).value)));
}
template <class B>
using usual = planner_lm<B>;
template <class B>
using turned = planner_lm<B, at_feed_forward_input, label_adapter<B, one_gate<B>>, no_positions<B>, rotary>;

/// The model in double on the CPU.
numbers forward_pass_on_cpu(bool turned_model);
inline constexpr lm_sizes model_sizes{vocabulary, 80, width, 4, 3};

}  // namespace planlm::testing
