/// Which parent an object came from: the backward policies, log P_B(parent | state).
///
/// One flow has as many ways in as a state has parents; P_B shares it out, and any choice has its own forward policy that samples exactly.
/// Tables are (states, actions): the entry (s, a) belongs to the parent of s by action a. State 0 has none.
#pragma once
#include <cstddef>
#include <string>
#include <vector>
#include <planlm/environments/policy_table.hpp>

namespace planlm {

/// Trees: log P_B = 0. Errors: planlm::error naming a state with several parents.
struct one_parent {
  template <Environment E>
  std::vector<double> operator()(const E& env) const {
    const int actions = env.actions();
    std::vector<double> table(static_cast<std::size_t>(env.states() * actions), minus_infinity);
    for (index_t s = 0; s < env.states(); ++s) {
      int found = 0;
      for (int a = 0; a < actions; ++a)
        if (env.parent(s, a) != -1) table[static_cast<std::size_t>(s * actions + a)] = 0, ++found;
      if (found > 1)
        throw error("one_parent: state " + std::to_string(s) + " has " + std::to_string(found) +
                    " parents; take uniform_parents or learned_parents");
    }
    return table;
  }
};

/// All parents alike.
struct uniform_parents {
  template <Environment E>
  std::vector<double> operator()(const E& env) const {
    const int actions = env.actions();
    const std::vector<double> zeros(static_cast<std::size_t>(actions), 0.0);
    std::vector<double> table(static_cast<std::size_t>(env.states() * actions));
    for (index_t s = 0; s < env.states(); ++s)
      backward_row(env, s, zeros.data(), &table[static_cast<std::size_t>(s * actions)]);
    return table;
  }
};

/// A softmax of logits (states, actions) over the parents that are there; logits of 0 are uniform_parents.
struct learned_parents {
  template <Environment E>
  std::vector<double> operator()(const E& env, const std::vector<double>& logits) const {
    const auto actions = static_cast<std::size_t>(env.actions()), states = static_cast<std::size_t>(env.states());
    if (logits.size() != states * actions)
      throw shape_error("learned_parents: " + std::to_string(logits.size()) + " logits, expected " +
                        std::to_string(states * actions) + " (states, actions)");
    std::vector<double> table(logits.size());
    for (std::size_t s = 0; s < states; ++s)
      backward_row(env, static_cast<index_t>(s), &logits[s * actions], &table[s * actions]);
    return table;
  }
  /// From the gradient of the table to that of the logits.
  template <Environment E>
  std::vector<double> pullback(const E& env, const std::vector<double>& table, const std::vector<double>& d) const {
    return table_pullback(table, d, env.actions());
  }
};

}  // namespace planlm
