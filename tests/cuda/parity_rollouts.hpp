/// Rollouts scored for training and replayed by the sampler on any backend, results in host memory: one more
/// part of parity.hpp, and like it with inputs and weights rounded to `Input`.
///
/// Names begin with "rollouts"; gradients are "... d NAME". A stop that is forbidden counts as 1, so that all
/// values are finite.
#pragma once
#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>
#include <planlm/models/rollout_scores.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm::testing {

template <Backend B, class Input>
class rollout_results {
 public:
  using T = typename B::real;
  using A = typename B::accum;
  using model_type = transformer_lm<B>;
  rollout_results(context<B>& cx, std::map<std::string, std::vector<double>>& out) : cx_(cx), out_(out) {}

  void run() {
    const model_type model{{301, 60, 44, 2, 2}};
    parameters<model_type> theta(cx_, model, philox{9});
    for (std::size_t n = 0; n < theta.slots().size(); ++n) {
      auto w = theta.read(cx_, n);
      const std::vector<float> noise = normal_values<float>(static_cast<index_t>(w.size()), 800 + n, 0.1);
      for (std::size_t i = 0; i < w.size(); ++i)
        w[i] = static_cast<float>(Input(static_cast<float>(w[i]) + noise[i]));
      theta.write(cx_, n, w);
    }
    rollout_rule rule{.stop = 17, .longest = 23};
    score("rollouts", model, theta, rule);
    rule.shortest = 3;
    for (int i = 0; i < 301; ++i) rule.penalty.push_back(i % 9 == 4 ? -50.f : 0.f);
    score("rollouts under constraints", model, theta, rule);
  }

 private:
  /// Prompts of 1 to 20 tokens, 3 to 23 actions, after every multiple of eleven two tokens more.
  static std::vector<rollout<A>> trajectories() {
    const auto tool = [](const rollout<A>& z) {
      return z.actions.back() % 11 == 0 ? std::vector<int>{17, 5} : std::vector<int>{};
    };
    std::vector<rollout<A>> z;
    for (std::uint32_t b = 0; b < 21; ++b) {
      std::vector<int> prompt, actions;
      for (std::uint32_t t = 0; t < 1 + b * 7 % 20; ++t)
        prompt.push_back(static_cast<int>(philox{4}.below(301, b % 17, t)));
      for (std::uint32_t t = 0; t < 3 + b; ++t) {
        const int a = static_cast<int>(philox{5}.below(301, b, t));
        actions.push_back(a == 17 || a % 9 == 4 ? 2 : a);
      }
      z.push_back(given_rollout<A>(prompt, actions, tool));
    }
    return z;
  }
  template <class V>
  void keep(const std::string& name, const V& values) {
    std::vector<double> finite(values.begin(), values.end());
    for (double& v : finite)
      if (v == -INFINITY) v = 1;
    out_[name] = finite;
  }
  void score(const std::string& name, const model_type& model, parameters<model_type>& theta,
             const rollout_rule& rule) {
    poison(cx_, 1 << 16);
    auto scope = cx_.scope();
    const std::vector<rollout<A>> z = trajectories();
    auto [s, pullback] = score_rollouts(cx_, model, theta.weights, z, rule);
    keep(name + " taken", cx_.read(s.taken));
    keep(name + " stop", cx_.read(s.stop));
    keep(name + " entropy", cx_.read(s.entropy));
    const auto upstream = [&](index_t cols, std::uint64_t seed) {
      const std::vector<Input> v = normal_values<Input>(s.stop.rows() * cols, seed);
      const std::vector<A> u(v.begin(), v.end());
      return const_accum_tensor<B, 2>(cx_.upload(std::span<const A>(u), s.stop.rows(), cols));
    };
    theta.zero_grads(cx_);
    pullback(upstream(s.taken.cols(), 91), upstream(s.stop.cols(), 92), upstream(s.stop.cols(), 93),
             theta.grads);
    for (std::size_t n = 0; n < theta.slots().size(); ++n)
      keep(name + " d " + theta.slots()[n].spec.name, theta.read_gradient(cx_, n));
    rollout_sampler<model_type> sampler(cx_, model, theta.weights, 8);
    std::vector<A> taken, stops;
    for (const rollout<A>& one : sampler.replay(z, rule)) {
      taken.insert(taken.end(), one.taken.begin(), one.taken.end());
      stops.insert(stops.end(), one.stop.begin(), one.stop.end());
    }
    keep(name + " replayed taken", taken);
    keep(name + " replayed stop", stops);
  }

  context<B>& cx_;
  std::map<std::string, std::vector<double>>& out_;
};

/// Adds its arrays to `out`.
template <Backend B, class Input>
void rollout_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  rollout_results<B, Input>(cx, out).run();
}

}  // namespace planlm::testing
