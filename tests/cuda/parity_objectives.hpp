/// Every objective on any backend, results in host memory: one more part of parity.hpp, and like it with inputs rounded to `Input`.
///
/// Names begin with "objective"; gradients are "... d NAME". What no loss may read is NaN.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>
#include <planlm/objectives/balance_weighting.hpp>
#include <planlm/objectives/detailed_balance.hpp>
#include <planlm/objectives/flow_matching.hpp>
#include <planlm/objectives/log_partition_variance.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/objectives/policy_gradient.hpp>
#include <planlm/objectives/policy_trajectory_balance.hpp>
#include <planlm/objectives/relative_trajectory_balance.hpp>
#include <planlm/testing/compare.hpp>

namespace planlm::testing {

template <Backend B, class Input>
class objective_results {
 public:
  using A = typename B::accum;
  objective_results(context<B>& cx, std::map<std::string, std::vector<double>>& out) : cx_(cx), out_(out) {}

  void run() {
    for (const bool forward_looking : {false, true}) general(forward_looking);
    flows();
    for (const index_t shortest : {0, 2}) policies(shortest);
  }

 private:
  static constexpr index_t rows_ = 11, steps_ = 67, groups_ = 3;
  static std::vector<int> lengths() { return {67, 1, 0, 33, 66, 17, 40, 5, 67, 16, 2}; }
  static std::vector<int> groups() { return {0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1}; }

  std::vector<A> normals(index_t count, std::uint64_t seed) {
    const std::vector<Input> v = normal_values<Input>(count, seed);
    return {v.begin(), v.end()};
  }
  const_accum_tensor<B> vector(index_t count, std::uint64_t seed) { return cx_.upload(normals(count, seed)); }
  /// (rows, cols), NaN behind `length + more` of each row and before `from`.
  const_accum_tensor<B, 2> table(index_t cols, std::uint64_t seed, index_t more, index_t from = 0) {
    std::vector<A> v = normals(rows_ * cols, seed);
    const std::vector<int> n = lengths();
    for (index_t i = 0; i < rows_ * cols; ++i)
      if (i % cols >= n[static_cast<std::size_t>(i / cols)] + more || i % cols < from) v[static_cast<std::size_t>(i)] = A(NAN);
    return cx_.upload(std::span<const A>(v), rows_, cols);
  }
  template <class V>
  void keep(const std::string& name, const V& v) {
    if (!v) return;
    const auto host = cx_.read(v);
    out_["objective " + name] = {host.begin(), host.end()};
  }
  template <class F>
  void on_poison(const F& f) {
    poison(cx_, 1 << 16);
    auto scope = cx_.scope();
    f();
  }
  void keep_loss(const std::string& name, const trajectory_loss<B>& l) {
    keep(name, l.total), keep(name + " each", l.each), keep(name + " d pf", l.dlog_pf), keep(name + " d pb", l.dlog_pb);
    keep(name + " d flow", l.dlog_flow), keep(name + " d log z", l.dlog_z);
  }
  void keep_loss(const std::string& name, const policy_loss<B>& l) {
    keep(name, l.total), keep(name + " each", l.each), keep(name + " d taken", l.dtaken), keep(name + " d stop", l.dstop);
    keep(name + " d flow", l.dflow);
  }

  template <RegressionFunction G>
  void regressions(const std::string& name, const trajectories<B>& z, const_accum_tensor<B> log_z) {
    keep_loss("trajectory balance, " + name, trajectory_balance<G>{}(cx_, z, log_z));
    keep_loss("detailed balance, " + name, detailed_balance<G>{}(cx_, z));
    for (int w = 0; w < 7; ++w)
      keep_loss("sub-trajectory balance " + std::to_string(w) + ", " + name,
                sub_trajectory_balance<G>{static_cast<balance_weighting>(w), 0.9}(cx_, z));
  }
  void general(bool forward_looking) {
    on_poison([&] {
      const std::string form = forward_looking ? ", forward-looking" : "";
      trajectories<B> z{table(steps_, 1, 0), vector(rows_, 2), cx_.upload(lengths())};
      z.log_pb = table(steps_, 3, 0), z.log_flow = table(steps_, 4, 0), z.log_prior = table(steps_, 5, 0);
      if (forward_looking) z.state_log_reward = table(steps_, 6, 0);
      z.group = cx_.upload(groups()), z.groups = groups_;
      const auto log_z = vector(groups_, 7);
      regressions<squared>("squared" + form, z, log_z);
      if (forward_looking) return;
      regressions<half_squared>("half", z, log_z);
      regressions<linex>("linex", z, log_z);
      keep_loss("variance", log_partition_variance{}(cx_, z));
      keep_loss("relative", relative_trajectory_balance<>{.beta = 1.5}(cx_, z, log_z, vector(rows_, 8)));
      keep_loss("relative by length", relative_trajectory_balance<shifted_cosh>{1.5, true}(cx_, z, log_z));
      keep_loss("relative variance", relative_log_partition_variance{.beta = 1.5}(cx_, z));
      keep_loss("trust pcl", trust_pcl<>{.alpha = 2}(cx_, z, log_z));
      const auto l = modified_detailed_balance<>{}(
          cx_, stopping_trajectories<B>{z.log_pf, table(steps_ + 1, 9, 1), table(steps_ + 1, 10, 1), z.length, z.log_pb});
      keep("modified detailed balance", l.total), keep("modified detailed balance d pf", l.dlog_pf);
      keep("modified detailed balance d pb", l.dlog_pb), keep("modified detailed balance d stop", l.dlog_stop);
    });
  }
  void flows() {
    on_poison([&] {
      std::vector<A> in = normals(37 * 5, 20), out = normals(37 * 7, 21);
      for (std::size_t i = 0; i < in.size(); i += 3) in[i] = A(-INFINITY);
      for (std::size_t c = 0; c < 5; ++c) in[4 * 5 + c] = A(-INFINITY);
      for (std::size_t i = 0; i < out.size(); i += 4) out[i] = A(-INFINITY);
      const auto l = flow_matching<>{0.7}(cx_, edge_flows<B>{cx_.upload(std::span<const A>(in), 37, 5),
                                                             cx_.upload(std::span<const A>(out), 37, 7), vector(19, 22), vector(19, 23)});
      keep("flow matching", l.total), keep("flow matching each", l.each), keep("flow matching d in", l.dincoming);
      keep("flow matching d out", l.doutgoing), keep("flow matching d exit", l.dexit);
    });
  }
  void policies(index_t shortest) {
    on_poison([&] {
      const std::string from = ", from " + std::to_string(shortest);
      policy_terms<B> z{table(steps_, 30, 0), table(steps_ + 1, 31, 1, shortest), table(steps_ + 1, 32, 1, shortest),
                        cx_.upload(lengths())};
      z.group = cx_.upload(groups()), z.groups = groups_, z.shortest = shortest, z.longest = steps_;
      const auto flow = vector(groups_, 33);
      for (const double lambda : {0.0, 0.9, 1.0})
        for (const auto mean : {balance_mean::pairs, balance_mean::trajectories})
          for (int root = 0; root < (shortest > 0 ? 2 : 3); ++root) {
            const modified_sub_trajectory_balance loss{lambda, static_cast<root_anchor>(root), mean};
            const std::string name = "policy balance " + std::to_string(lambda) + " " + std::to_string(int(mean)) + " root " +
                                     std::to_string(root) + from;
            keep_loss(name, loss(cx_, z, flow));
            if (lambda == 0.9) keep_loss(name + " by pairs", loss.by_pairs(cx_, z, flow, shifted_cosh{}));
          }
      keep_loss("policy trajectory balance" + from, policy_trajectory_balance<>{}(cx_, z, flow));
      keep_loss("policy variance" + from, policy_log_partition_variance{}(cx_, z));
      for (int b = 0; b < 3; ++b)
        keep_loss("policy gradient " + std::to_string(b) + from, policy_gradient{static_cast<policy_baseline>(b), 0.3}(cx_, z));
      keep("policy residuals" + from, policy_residuals(cx_, z));
      keep("object log-probability" + from, object_log_probability(cx_, z));
    });
  }

  context<B>& cx_;
  std::map<std::string, std::vector<double>>& out_;
};

template <Backend B, class Input>
void objective_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  objective_results<B, Input>(cx, out).run();
}

}  // namespace planlm::testing
