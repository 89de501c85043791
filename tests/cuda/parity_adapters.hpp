/// Adapters, gates and placements on any backend, results in host memory: one more part of parity.hpp, and like it with inputs and weights
/// rounded to `Input`.
///
/// Names begin with "running mean" (one operation), "gated rows" (three in a row) and "adapters" (a whole model); gradients are "... d NAME".
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/models/decoding.hpp>
#include <planlm/models/planner_lm.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/plan_rows.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm::testing {

template <Backend B, class Input>
class adapter_results {
 public:
  using T = typename B::real;
  adapter_results(context<B>& cx, std::map<std::string, std::vector<double>>& out) : cx_(cx), out_(out) {}

  void run() {
    for (const index_t cols : {1, 70}) means(cols);
    for (const bool by_column : {false, true}) gated(by_column);
    using random = plan_adapter<B, random_gate<B>>;
    using looking = plan_adapter<B, context_gate<B>>;
    using plain = plan_adapter<B>;
    train("random gate", planner_lm<B, at_attention_output, random>(sizes_, random{24, width_}, 1), host_.sentence);
    train("context gate", planner_lm<B, at_feed_forward_input, looking>(sizes_, looking{24, width_, {width_, true}}, 1), host_.sentence);
    train("embedding", planner_lm<B, at_embedding, looking>(sizes_, looking{24, width_}), host_.sentence);
    const std::vector<int> tokens = std::exchange(host_.tokens, {}), offsets = std::exchange(host_.offsets, {});
    const rows_with_plans with = insert_plan_rows({tokens, tokens, host_.sentence, offsets}, 2);
    host_.tokens = with.tokens, host_.offsets = with.offsets, host_.positions = with.positions;
    train("inserted rows", planner_lm<B, at_embedding, plain>(sizes_, plain{24, 2 * width_}), with.plan);
  }

 private:
  static constexpr index_t width_ = 44, sentences_ = 20;
  static constexpr lm_sizes sizes_{301, 60, width_, 2, 3};
  /// Chunks of odd lengths, sentences that cross from one into the next.
  struct rows {
    std::vector<int> tokens, sentence, positions, offsets{0};
    rows() {
      for (const int length : {37, 37, 40, 1, 29, 29}) {
        for (int t = 0; t < length; ++t) positions.push_back(t);
        offsets.push_back(static_cast<int>(positions.size()));
      }
      for (std::uint32_t t = 0; t < positions.size(); ++t) {
        tokens.push_back(static_cast<int>(philox{8}.below(301, t, 0)));
        sentence.push_back(static_cast<int>(t * sentences_ / positions.size()));
      }
    }
  };

  const_tensor<B> normals(index_t rows, index_t cols, std::uint64_t seed) {
    const std::vector<Input> from = normal_values<Input>(rows * cols, seed);
    const std::vector<T> v(from.begin(), from.end());
    return cx_.upload(std::span<const T>(v), rows, cols);
  }
  template <class V>
  void keep(const std::string& name, const V& v) {
    const auto host = cx_.read(v);
    out_[name] = {host.begin(), host.end()};
  }
  sequences<B> packed() { return {cx_.upload(host_.offsets), host_.offsets.data(), cx_.upload(host_.positions)}; }

  void means(index_t cols) {
    poison(cx_, 1 << 16);
    auto scope = cx_.scope();
    const index_t n = host_.offsets.back();
    const sequences<B> seq = packed();
    const std::string name = "running mean of " + std::to_string(cols);
    keep(name, ops::running_mean(cx_, normals(n, cols, 1), seq));
    keep(name + " pullback", ops::running_mean_pullback(cx_, normals(n, cols, 2), seq));
    // Two sequences of a cache of six: five rows of one and one of the other, then more of both.
    const std::vector<int> first{0, 5, 6}, rest{0, 30, 33}, slots{4, 4, 4, 4, 4, 1}, slots_of_rest = [] {
      std::vector<int> s(33, 4);
      s[30] = s[31] = s[32] = 1;
      return s;
    }();
    std::vector<int> at{0, 1, 2, 3, 4, 0}, at_of_rest;
    for (int t = 0; t < 33; ++t) at_of_rest.push_back(t < 30 ? 5 + t : t - 29);
    const auto sums = cx_.template make_of<typename B::accum>(6, 40, cols);
    const auto piece = [&](const std::vector<int>& offsets, const std::vector<int>& positions, const std::vector<int>& slot, int seed) {
      return ops::running_mean(cx_, normals(offsets.back(), cols, static_cast<std::uint64_t>(seed)),
                               sequences<B>{cx_.upload(offsets), offsets.data(), cx_.upload(positions)},
                               running_sums<B>{sums, indices<B>(cx_.upload(slot))});
    };
    keep(name + ", first rows", piece(first, at, slots, 3));
    keep(name + ", further rows", piece(rest, at_of_rest, slots_of_rest, 4));
  }
  void gated(bool by_column) {
    poison(cx_, 1 << 16);
    auto scope = cx_.scope();
    const index_t n = host_.offsets.back(), gates = by_column ? width_ : 1;
    std::vector<int> sentence = host_.sentence;
    for (std::size_t t = 0; t < sentence.size(); t += 7) sentence[t] = -1;
    typename context_gate<B>::params g;
    g.gate = cx_.make_zero(gates, width_);
    const struct {
      typename context_gate<B>::params gate;
    } gradients{g};
    const auto dplan = cx_.make_zero(sentences_, width_ + gates);
    const gated_injection<B> inject{normals(sentences_, width_ + gates, 5), normals(gates, width_, 6), indices<B>(cx_.upload(sentence)),
                                    packed(), {}};
    auto [y, pullback] = inject(cx_, normals(n, width_, 7));
    const std::string name = by_column ? "gated rows by column" : "gated rows";
    keep(name, y), keep(name + " dx", pullback(normals(n, width_, 8), dplan, gradients));
    keep(name + " d plan", dplan), keep(name + " d gate", g.gate);
  }
  template <class Store>
  void move(Store& theta) {
    for (std::size_t n = 0; n < theta.slots().size(); ++n) {
      auto w = theta.read(cx_, n);
      const std::vector<float> noise = normal_values<float>(static_cast<index_t>(w.size()), 800 + n, 0.1);
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(Input(static_cast<float>(w[i]) + noise[i]));
      theta.write(cx_, n, w);
    }
  }
  /// Forward and pullback of a model, the gradients of what belongs to its adapters; then the same rows decoded: a prompt, two at a time.
  template <class Model>
  void train(const std::string& what, const Model& model, const std::vector<int>& sentence) {
    const std::string name = "adapters, " + what;
    parameters<Model> theta(cx_, model, philox{5});
    move(theta);
    poison(cx_, 1 << 16);
    auto scope = cx_.scope();
    const indices<B> tokens = cx_.upload(host_.tokens), of = cx_.upload(sentence);
    const const_tensor<B> c = normals(sentences_, 24, 9);
    auto [h, pullback] = model(cx_, theta.weights, {tokens, tokens, of, packed(), sentences_}, c);
    keep(name, h);
    keep(name + " dc", pullback(normals(h.rows(), width_, 10), theta.grads));
    for (std::size_t n = 0; n < theta.slots().size(); ++n)
      if (const std::string& slot = theta.slots()[n].spec.name; slot.rfind("adapters", 0) == 0 || slot.rfind("lm.position", 0) == 0) {
        const auto g = theta.read_gradient(cx_, n);
        out_[name + " d " + slot] = {g.begin(), g.end()};
      }
    decoded(name + ", decoded", model, theta, c, sentence);
  }
  template <class Model>
  void decoded(const std::string& name, const Model& model, const parameters<Model>& theta, const_tensor<B> c,
               const std::vector<int>& sentence) {
    const tensor<B, 3> plans = cx_.make(model.adapters.depth, sentences_, model.adapters.adapter.columns());
    write_plans(cx_, model, theta.weights, c, plans);
    auto cache = cache_of(cx_, model, 6, sizes_.length);
    std::vector<double>& hidden = out_[name];
    std::vector<int> done(6);
    for (int take = 9;; take = 2) {
      auto scope = cx_.scope();
      std::vector<int> slots, counts, tokens, of;
      for (std::size_t s = 0; s < 6; ++s) {
        const int n = std::min(take, host_.offsets[s + 1] - host_.offsets[s] - done[s]);
        if (n <= 0) continue;
        slots.push_back(static_cast<int>(s)), counts.push_back(n);
        for (int t = 0; t < n; ++t, ++done[s]) {
          const auto at = static_cast<std::size_t>(host_.offsets[s] + done[s]);
          tokens.push_back(host_.tokens[at]), of.push_back(sentence[at]);
        }
      }
      if (slots.empty()) return;
      const auto next = cache.extend(cx_, slots, counts);
      const const_tensor<B> h =
          decode(cx_, model, theta.weights, indices<B>(cx_.upload(tokens)), indices<B>(cx_.upload(of)), plans, next, cache);
      for (const auto v : cx_.read(h)) hidden.push_back(static_cast<double>(v));
    }
  }

  context<B>& cx_;
  std::map<std::string, std::vector<double>>& out_;
  rows host_;
};

/// Adds its arrays to `out`.
template <Backend B, class Input>
void adapter_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  adapter_results<B, Input>(cx, out).run();
}

}  // namespace planlm::testing
