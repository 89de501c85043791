/// What a sampler of an enumerable environment should do and what it does, exactly: sums over all states, no samples.
///
///   F(s) = R(s) [s may stop] + sum over children c of F(c) P_B(s | c),  log Z = log F(0),  P_F(c | s) = F(c) P_B(s | c) / F(s)
///   visits(0) = 1,  visits(c) = sum over parents of visits(s) P_F(c | s),  the policy ends at x with probability visits(x) P_F(exit | x)
///
/// Distributions are over states: 0 where a state is no object. For every backward policy Z and the target are the same; on a tree there is
/// one only. Tables as in environment.hpp.   [2106.04399; 2111.09266]
#pragma once
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>
#include <planlm/environments/environment.hpp>

namespace planlm::exact {

/// log Z. Errors: planlm::error if no object has a reward.
template <Environment E>
double log_partition(const E& env) {
  log_sum all;
  for (index_t s = 0; s < env.states(); ++s)
    if (env.stops(s)) all.add(env.log_reward(s));
  if (all.value() == minus_infinity) throw error("exact: no object has a reward above 0");
  return all.value();
}

/// R(x) / Z.
template <Environment E>
std::vector<double> posterior(const E& env) {
  const double z = log_partition(env);
  std::vector<double> p(static_cast<std::size_t>(env.states()), 0.0);
  for (index_t s = 0; s < env.states(); ++s)
    if (env.stops(s)) p[static_cast<std::size_t>(s)] = std::exp(env.log_reward(s) - z);
  return p;
}

namespace detail {
inline void check_table(const char* what, std::size_t size, index_t states, int width) {
  if (size != static_cast<std::size_t>(states * width))
    throw shape_error(std::string("exact: the ") + what + " table has " + std::to_string(size) + " entries, expected " +
                      std::to_string(states) + " rows of " + std::to_string(width));
}
}  // namespace detail

/// log F of every state; -infinity where nothing beyond has a reward.
template <Environment E>
std::vector<double> log_flows(const E& env, const std::vector<double>& backward) {
  detail::check_table("backward", backward.size(), env.states(), env.actions());
  std::vector<double> flow(static_cast<std::size_t>(env.states()));
  for (index_t s = env.states(); s-- > 0;) {
    log_sum out;
    if (env.stops(s)) out.add(env.log_reward(s));
    for (int a = 0; a < env.actions(); ++a)
      if (const index_t c = env.child(s, a); c != -1)
        out.add(flow[static_cast<std::size_t>(c)] + backward[static_cast<std::size_t>(c * env.actions() + a)]);
    flow[static_cast<std::size_t>(s)] = out.value();
  }
  return flow;
}

/// The forward table that samples exactly under this backward policy. A state without flow, which is never reached, gets equal choices.
template <Environment E>
std::vector<double> optimal_policy(const E& env, const std::vector<double>& backward) {
  const std::vector<double> flow = log_flows(env, backward);
  const int exit = env.actions();
  std::vector<double> table(static_cast<std::size_t>(env.states() * (exit + 1)), minus_infinity);
  for (index_t s = 0; s < env.states(); ++s) {
    double* row = &table[static_cast<std::size_t>(s * (exit + 1))];
    const double own = flow[static_cast<std::size_t>(s)];
    int choices = env.stops(s);
    for (int a = 0; a < exit; ++a) choices += env.child(s, a) != -1;
    const bool dead = own == minus_infinity;
    for (int a = 0; a < exit; ++a)
      if (const index_t c = env.child(s, a); c != -1)
        row[a] = dead ? -std::log(choices)
                      : flow[static_cast<std::size_t>(c)] + backward[static_cast<std::size_t>(c * exit + a)] - own;
    if (env.stops(s)) row[exit] = dead ? -std::log(choices) : env.log_reward(s) - own;
  }
  return table;
}

/// How probable it is that a policy passes each state.
template <Environment E>
std::vector<double> visits(const E& env, const std::vector<double>& forward) {
  const int exit = env.actions();
  detail::check_table("forward", forward.size(), env.states(), exit + 1);
  std::vector<double> visit(static_cast<std::size_t>(env.states()), 0.0);
  visit[0] = 1;
  for (index_t s = 0; s < env.states(); ++s)
    for (int a = 0; a < exit; ++a)
      if (const index_t c = env.child(s, a); c != -1)
        visit[static_cast<std::size_t>(c)] +=
            visit[static_cast<std::size_t>(s)] * std::exp(forward[static_cast<std::size_t>(s * (exit + 1) + a)]);
  return visit;
}
/// How probable it is that a policy ends at each state.
template <Environment E>
std::vector<double> terminating(const E& env, const std::vector<double>& forward) {
  std::vector<double> p = visits(env, forward);
  const int exit = env.actions();
  for (index_t s = 0; s < env.states(); ++s)
    p[static_cast<std::size_t>(s)] *= env.stops(s) ? std::exp(forward[static_cast<std::size_t>(s * (exit + 1) + exit)]) : 0.0;
  return p;
}

namespace detail {
inline void check_sizes(std::size_t p, std::size_t q) {
  if (p != q) throw shape_error("exact: distributions over " + std::to_string(p) + " and " + std::to_string(q) + " states");
}
}  // namespace detail

/// sum |p - q|, in [0, 2].
inline double l1(const std::vector<double>& p, const std::vector<double>& q) {
  detail::check_sizes(p.size(), q.size());
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::abs(p[i] - q[i]);
  return sum;
}
/// Half of that, in [0, 1].
inline double total_variation(const std::vector<double>& p, const std::vector<double>& q) { return l1(p, q) / 2; }
/// KL(p || q) in nats; infinity where q has nothing and p something.
inline double kl(const std::vector<double>& p, const std::vector<double>& q) {
  detail::check_sizes(p.size(), q.size());
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] <= 0) continue;
    if (q[i] <= 0) return std::numeric_limits<double>::infinity();
    sum += p[i] * std::log(p[i] / q[i]);
  }
  return sum;
}
/// -sum p log p in nats.
inline double entropy(const std::vector<double>& p) {
  double sum = 0;
  for (const double x : p)
    if (x > 0) sum -= x * std::log(x);
  return sum;
}

}  // namespace planlm::exact
