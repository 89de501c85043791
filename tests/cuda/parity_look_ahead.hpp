/// The look-ahead planner, paths and their encoder on any backend, results in host memory: one more part of parity.hpp, and like it with
/// inputs and weights rounded to `Input`.
///
/// Names begin with "look-ahead" and "plan encoder"; gradients are "... d NAME". Labels of paths are exact, and there only where arithmetic
/// is float or double: a bfloat16 logit is rounded by more than lies between many a draw and the next.
#pragma once
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <vector>
#include <planlm/planning/plan_encoder.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm::testing {

template <Backend B, class Input>
class look_ahead_results {
 public:
  using T = typename B::real;
  look_ahead_results(context<B>& cx, std::map<std::string, std::vector<double>>& out) : cx_(cx), out_(out) {}

  void run() {
    const look_ahead<B> model{planner<B>{24, 33, 2, 50, 1}, 1};
    parameters<look_ahead<B>> theta(cx_, model, philox{5});
    move(theta, 600);
    teacher_forcing(model, theta);
    if constexpr (std::is_same_v<Input, float>) paths(model, theta);
    encoder();
  }

 private:
  static constexpr index_t sentences_ = 20;
  /// Contexts of one to eight sentences.
  struct batch {
    std::vector<int> offsets{0}, positions;
    batch() {
      for (int s = 0; s < sentences_; ++s) {
        for (int j = 0; j <= s % 8; ++j) positions.push_back(j);
        offsets.push_back(static_cast<int>(positions.size()));
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
  template <class Store>
  void keep_gradients(const std::string& name, const Store& theta) {
    for (std::size_t n = 0; n < theta.slots().size(); ++n) {
      const auto g = theta.read_gradient(cx_, n);
      out_[name + " d " + theta.slots()[n].spec.name] = {g.begin(), g.end()};
    }
  }
  template <class Store>
  void move(Store& theta, std::uint64_t seed) {
    for (std::size_t n = 0; n < theta.slots().size(); ++n) {
      auto w = theta.read(cx_, n);
      const std::vector<float> noise = normal_values<float>(static_cast<index_t>(w.size()), seed + n, 0.1);
      for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(Input(static_cast<float>(w[i]) + noise[i]));
      theta.write(cx_, n, w);
    }
  }
  void teacher_forcing(const look_ahead<B>& model, parameters<look_ahead<B>>& theta) {
    for (const index_t unrolls : {0, 3}) {
      poison(cx_, 1 << 16);
      auto scope = cx_.scope();
      const batch from;
      const sequences<B> contexts{cx_.upload(from.offsets), from.offsets.data(), cx_.upload(from.positions)};
      std::vector<int> label(static_cast<std::size_t>(unrolls * sentences_));
      for (int i = 0; i < static_cast<int>(label.size()); ++i) label[static_cast<std::size_t>(i)] = i % 9 == 8 ? -1 : i * 7 % 33;
      theta.zero_grads(cx_);
      auto [s, pullback] = model(cx_, theta.weights, normals(from.offsets.back(), 24, 61), contexts,
                                 unrolls > 0 ? indices<B>(cx_.upload(label)) : indices<B>{});
      pullback(normals(s.rows(), s.cols(), 62), theta.grads);
      const std::string name = "look-ahead of " + std::to_string(unrolls);
      keep(name, s), keep_gradients(name, theta);
    }
  }
  void paths(const look_ahead<B>& model, const parameters<look_ahead<B>>& theta) {
    poison(cx_, 1 << 16);
    auto scope = cx_.scope();
    const batch from;
    const sequences<B> contexts{cx_.upload(from.offsets), from.offsets.data(), cx_.upload(from.positions)};
    const const_tensor<B> z = normals(from.offsets.back(), 24, 61);
    std::vector<int> place(sentences_);
    for (int s = 0; s < sentences_; ++s) place[static_cast<std::size_t>(s)] = 31 * s + 7;
    const auto drawn = sample_paths(cx_, model, theta.weights, z, contexts, 3, 18, 1.3, philox{31, 2, 6}, indices<B>(cx_.upload(place)));
    keep("look-ahead sampled paths", drawn.labels);
    keep("look-ahead argmax paths", argmax_paths(cx_, model, theta.weights, z, contexts, 3).labels);
    const auto beam = beam_paths(cx_, model, theta.weights, z, contexts, 3, 4);
    keep("look-ahead beam paths", beam.paths.labels);
    out_["look-ahead beam scores"] = beam.scores;
  }
  void encoder() {
    const plan_encoder<B> layer{33, 24, {24, 2, 50}, {24, 3, 41}};
    parameters<plan_encoder<B>> theta(cx_, layer, philox{6});
    move(theta, 700);
    for (const index_t steps : {1, 4}) {
      poison(cx_, 1 << 16);
      auto scope = cx_.scope();
      std::vector<int> label(static_cast<std::size_t>(sentences_ * 6 * steps));
      for (int i = 0; i < static_cast<int>(label.size()); ++i) label[static_cast<std::size_t>(i)] = i % 17 == 5 ? -1 : i * 5 % 33;
      theta.zero_grads(cx_);
      auto [c, pullback] = layer(cx_, theta.weights, {cx_.upload(label), sentences_, 6, steps});
      pullback(normals(sentences_, 24, 63), theta.grads);
      const std::string name = "plan encoder of " + std::to_string(steps);
      keep(name, c), keep_gradients(name, theta);
    }
  }

  context<B>& cx_;
  std::map<std::string, std::vector<double>>& out_;
};

/// Adds its arrays to `out`.
template <Backend B, class Input>
void look_ahead_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  look_ahead_results<B, Input>(cx, out).run();
}

}  // namespace planlm::testing
