/// Ways through an environment: drawn forward by a policy, or backward from an object.
///
/// Draws depend on (philox, row, place in the trajectory) alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>
#include <planlm/core/philox.hpp>
#include <planlm/environments/policy_table.hpp>

namespace planlm {

/// states[0] = 0; actions[t] is taken in states[t]; the last action is the exit, number env.actions(), and the last state the object.
struct trajectory {
  std::vector<index_t> states;
  std::vector<int> actions;
  index_t object() const { return states.back(); }
  /// Transitions, the exit among them.
  index_t length() const { return static_cast<index_t>(actions.size()); }
};

/// The choice at `u` in (0, 1) of a row of log-probabilities; never one of -infinity.
inline int choose(const double* row, int n, double u) {
  double total = 0;
  for (int j = 0; j < n; ++j) total += std::exp(row[j]);
  if (!(total > 0))
    throw numeric_error("choose: a row of " + std::to_string(n) + " choices has total probability " + std::to_string(total));
  double left = u * total;
  int last = -1;
  for (int j = 0; j < n; ++j) {
    if (row[j] == minus_infinity) continue;
    last = j;
    left -= std::exp(row[j]);
    if (left < 0) break;
  }
  return last;
}

/// One trajectory from state 0. row_of(state) -> const double*, the forward row of log-probabilities (actions + 1).
template <Environment E, class RowOf>
trajectory sample_forward(const E& env, const RowOf& row_of, const exploration& rule, philox random, std::uint64_t row) {
  const int exit = env.actions();
  std::vector<double> behaviour(static_cast<std::size_t>(exit) + 1);
  trajectory t{{0}, {}};
  for (;;) {
    explore_row(row_of(t.states.back()), exit + 1, rule, behaviour.data());
    const double u = random.uniform(row, static_cast<std::uint32_t>(t.actions.size()));
    const int action = choose(behaviour.data(), exit + 1, u);
    t.actions.push_back(action);
    if (action == exit) return t;
    t.states.push_back(env.child(t.states.back(), action));
  }
}

/// A trajectory that ends at `object`, drawn by the backward rows: row_of(state) -> const double* (actions).
template <Environment E, class RowOf>
trajectory sample_backward(const E& env, index_t object, const RowOf& row_of, philox random, std::uint64_t row) {
  if (object < 0 || object >= env.states() || !env.stops(object))
    throw error("sample_backward: state " + std::to_string(object) + " is no object");
  trajectory t{{object}, {env.actions()}};
  while (t.states.back() != 0) {
    const index_t s = t.states.back();
    const double u = random.uniform(row, static_cast<std::uint32_t>(t.states.size()));
    const int action = choose(row_of(s), env.actions(), u);
    t.actions.push_back(action);
    t.states.push_back(env.parent(s, action));
  }
  std::reverse(t.states.begin(), t.states.end());
  std::reverse(t.actions.begin(), t.actions.end());
  return t;
}

}  // namespace planlm
