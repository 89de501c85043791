/// Expected gradients over all trajectories, exactly: on-policy trajectory balance is twice the gradient of a divergence, whatever log Z.
#include <planlm/environments/trajectory.hpp>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/environments/backward_policy.hpp>
#include <planlm/environments/exact.hpp>
#include <planlm/environments/hyper_grid.hpp>
#include <planlm/objectives/log_partition_variance.hpp>
#include <planlm/objectives/trajectory_balance.hpp>

#include "../catch.hpp"
#include "fixtures.hpp"

namespace {

using namespace planlm;
using B = cpu<double>;

/// Every trajectory of an environment.
template <class E>
void enumerate(const E& env, trajectory so_far, std::vector<trajectory>& all) {
  const index_t s = so_far.states.back();
  if (env.stops(s)) {
    all.push_back(so_far);
    all.back().actions.push_back(env.actions());
  }
  for (int a = 0; a < env.actions(); ++a) {
    if (env.child(s, a) == -1) continue;
    trajectory next = so_far;
    next.actions.push_back(a);
    next.states.push_back(env.child(s, a));
    enumerate(env, next, all);
  }
}

/// A policy of free logits, its trajectories and what they are worth.
template <class E>
struct enumerated {
  const E& env;
  std::vector<double> backward, logits, table;
  std::vector<trajectory> all;
  std::size_t width;

  enumerated(const E& e, std::vector<double> back, std::vector<double> start)
      : env(e), backward(std::move(back)), logits(std::move(start)), table(forward_table(e, logits)), width(static_cast<std::size_t>(e.actions()) + 1) {
    enumerate(env, {{0}, {}}, all);
  }
  double forward_of(const trajectory& t, std::size_t k) const { return table[static_cast<std::size_t>(t.states[k]) * width + static_cast<std::size_t>(t.actions[k])]; }
  double backward_of(const trajectory& t, std::size_t k) const {
    return k + 1 == t.states.size() ? 0 : backward[static_cast<std::size_t>(t.states[k + 1]) * (width - 1) + static_cast<std::size_t>(t.actions[k])];
  }
  double log_q(const trajectory& t) const {
    double sum = 0;
    for (std::size_t k = 0; k < t.actions.size(); ++k) sum += forward_of(t, k);
    return sum;
  }
  /// KL between the policy's trajectories and those of the target, drawn backward: over objects on a tree.
  double divergence() {
    table = forward_table(env, logits);
    const double log_z = exact::log_partition(env);
    double sum = 0;
    for (const trajectory& t : all) {
      double target = env.log_reward(t.object()) - log_z;
      for (std::size_t k = 0; k < t.actions.size(); ++k) target += backward_of(t, k);
      sum += std::exp(log_q(t)) * (log_q(t) - target);
    }
    return sum;
  }
  std::vector<double> divergence_gradient() {
    std::vector<double> g;
    for (double& l : logits) {
      const double h = 1e-5, old = l;
      l = old + h;
      const double up = divergence();
      l = old - h;
      const double down = divergence();
      l = old;
      g.push_back((up - down) / (2 * h));
    }
    table = forward_table(env, logits);
    return g;
  }

  /// The gradient of sum over trajectories of weight * their own loss, rows being trajectories by number.
  template <class Loss>
  std::vector<double> gradient(const std::vector<std::size_t>& rows, const std::vector<double>& weight, const std::vector<int>& group, const Loss& loss) {
    std::size_t steps = 0;
    for (const trajectory& t : all) steps = std::max(steps, t.actions.size());
    std::vector<double> pf(rows.size() * steps, NAN), pb(rows.size() * steps, NAN), reward;
    std::vector<int> length;
    for (std::size_t n = 0; n < rows.size(); ++n) {
      const trajectory& t = all[rows[n]];
      for (std::size_t k = 0; k < t.actions.size(); ++k) pf[n * steps + k] = forward_of(t, k), pb[n * steps + k] = backward_of(t, k);
      reward.push_back(env.log_reward(t.object()));
      length.push_back(static_cast<int>(t.length()));
    }
    const auto n = static_cast<index_t>(rows.size()), wide = static_cast<index_t>(steps);
    trajectories<B> z{.log_pf = {pf.data(), n, wide}, .log_reward = {reward.data(), n}, .length = {length.data(), n}, .log_pb = {pb.data(), n, wide}};
    if (!group.empty()) {
      z.group = {group.data(), n};
      z.groups = 1 + *std::max_element(group.begin(), group.end());
    }
    context<B> cx;
    const auto out = loss(cx, z);
    std::vector<double> d(table.size(), 0.0);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const trajectory& t = all[rows[r]];
      for (std::size_t k = 0; k < t.actions.size(); ++k)
        d[static_cast<std::size_t>(t.states[k]) * width + static_cast<std::size_t>(t.actions[k])] += weight[r] * out.dlog_pf.data[r * steps + k];
    }
    return table_pullback(table, d, static_cast<int>(width));
  }
  /// E_q of the gradient of trajectory balance.
  std::vector<double> expected_balance(double log_z) {
    std::vector<std::size_t> rows;
    std::vector<double> weight;
    for (std::size_t i = 0; i < all.size(); ++i) {
      rows.push_back(i);
      weight.push_back(std::exp(log_q(all[i])) * static_cast<double>(all.size()));  // the loss is a mean
    }
    return gradient(rows, weight, {}, [&](context<B>& cx, const trajectories<B>& z) {
      return trajectory_balance<>{}(cx, z, const_accum_tensor<B>{&log_z, 1});
    });
  }
  /// E of the gradient of VarGrad over all batches of two draws.
  std::vector<double> expected_variance() {
    std::vector<std::size_t> rows;
    std::vector<double> weight;
    std::vector<int> group;
    const double batches = static_cast<double>(all.size() * all.size());
    for (std::size_t i = 0; i < all.size(); ++i)
      for (std::size_t j = 0; j < all.size(); ++j)
        for (const std::size_t which : {i, j}) {
          rows.push_back(which);
          weight.push_back(std::exp(log_q(all[i]) + log_q(all[j])) * batches);
          group.push_back(static_cast<int>(i * all.size() + j));
        }
    return gradient(rows, weight, group, [](context<B>& cx, const trajectories<B>& z) { return log_partition_variance{}(cx, z); });
  }
};

void check_multiple(const std::vector<double>& g, double factor, const std::vector<double>& of, double margin) {
  for (std::size_t i = 0; i < of.size(); ++i) CHECK(g[i] == Approx(factor * of[i]).margin(margin));
}

}  // namespace

TEST_CASE("fact 25: on a tree the expected gradient of trajectory balance is twice that of KL, for any log Z", "[environments]") {
  const auto tree = fixtures::seven_strings();
  std::vector<double> logits{.3, -.2, .1, .5, 0, -.4, -.1, .2, .6};
  logits.resize(21, 0.0);
  enumerated e(tree, one_parent{}(tree), logits);
  REQUIRE(e.all.size() == 7);
  const auto q = exact::terminating(tree, e.table), p = exact::posterior(tree);
  CHECK(exact::kl(q, p) == Approx(.729186460573).epsilon(1e-11));
  CHECK(exact::total_variation(q, p) == Approx(.459072932223).epsilon(1e-11));
  CHECK(e.divergence() == Approx(exact::kl(q, p)).epsilon(1e-12));
  const std::vector<double> known{-.038080529687, -.324905887375, .362986417062, .278777204306, -.201729994517, -.077047209788, -.028513125498, .038344711671, -.009831586172};
  check_multiple(e.divergence_gradient(), 1, known, 1e-9);
  for (const double log_z : {0., 1.25, 2.197, -40.}) check_multiple(e.expected_balance(log_z), 2, known, 1e-10);
}

// A batch of n has (n - 1) / n of the gradient about the true mean.
TEST_CASE("fact 26: the expected gradient of VarGrad is that of trajectory balance, half of it over batches of two", "[environments]") {
  const auto tree = fixtures::seven_strings();
  std::vector<double> logits{.3, -.2, .1, .5, 0, -.4, -.1, .2, .6};
  logits.resize(21, 0.0);
  enumerated e(tree, one_parent{}(tree), logits);
  check_multiple(e.expected_variance(), .5, e.expected_balance(0), 1e-11);
}

TEST_CASE("on a grid the divergence is that of trajectories", "[environments]") {
  const hyper_grid grid(2, 3);
  std::vector<double> logits(27), back(18);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(2.3 * double(i));
  for (std::size_t i = 0; i < back.size(); ++i) back[i] = std::cos(1.9 * double(i));
  for (const auto& backward : {uniform_parents{}(grid), learned_parents{}(grid, back)}) {
    enumerated e(grid, backward, logits);
    CHECK(e.all.size() == 19);  // sum of binomials over the nine points
    const auto g = e.divergence_gradient();
    check_multiple(e.expected_balance(0), 2, g, 1e-8);
    check_multiple(e.expected_balance(3), 2, g, 1e-8);
    check_multiple(e.expected_variance(), 1, g, 1e-8);
  }
}
