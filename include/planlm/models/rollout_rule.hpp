/// Trajectories of a policy over tokens, and what it may do.
///
/// An action is a token that the policy chose; the stop, a token of the vocabulary, ends the trajectory
/// (2310.04363, section 3). What a tool writes after an action is part of the state and no action: it has no
/// log-probability and does not count for lengths.
#pragma once
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/ops/sampling.hpp>

namespace planlm {

/// One trajectory of n actions, in host memory. Log-probabilities are in nats; empty where nobody computed
/// them.
template <class Real>
struct rollout {
  std::vector<int> prompt;   // the state before the first action
  std::vector<int> actions;  // (n): the tokens chosen, the stop not among them
  std::vector<int> state;    // prompt, actions and what a tool wrote after them, in order
  std::vector<int> decided;  // (n + 1): choice k saw state[0 .. decided[k]]; choice n is the stop
  std::vector<Real> taken;   // (n): log q(action k)
  std::vector<Real> stop;    // (n + 1): log q(stop) at choice k, -infinity where forbidden, 0 where certain
  std::vector<Real> drawn;   // (n + 1): of choice k under the behaviour it was drawn by, 0 for a certain stop
  index_t length() const { return static_cast<index_t>(actions.size()); }
};

/// What a policy may do. Lengths count actions, not what tools write.
struct rollout_rule {
  int stop = -1;                 // the token that ends, one of the vocabulary
  index_t shortest = 0;          // the stop is masked before so many actions ...
  index_t longest = 1;           // ... and certain after so many
  sampling_rule draw{};          // of the behaviour
  std::vector<float> penalty{};  // (V): added to the logits, finite or -infinity; or empty
};

/// tool(z) -> std::vector<int>: the tokens it writes after the newest action, which is z.actions.back() and
/// the end of z.state. It is asked after every action, the last one too, and never after the stop. A state
/// has to fit the model: a tool that could fill it looks at z.state.size() and writes less.
struct no_tool {};

namespace detail {
/// An action and what the tool makes of it enter the state.
template <class Real, class Tool>
void act(rollout<Real>& z, int action, const Tool& tool) {
  z.actions.push_back(action);
  z.state.push_back(action);
  if constexpr (!std::same_as<Tool, no_tool>) {
    const auto& written = tool(std::as_const(z));
    z.state.insert(z.state.end(), written.begin(), written.end());
  }
  z.decided.push_back(static_cast<int>(z.state.size()) - 1);
}

/// Errors: planlm::error for a rule that is none for this vocabulary.
inline void check_rollout_rule(const rollout_rule& rule, index_t vocabulary) {
  if (rule.stop < 0 || rule.stop >= vocabulary)
    throw error("rollout: the stop is token " + std::to_string(rule.stop) +
                ", expected one of the vocabulary of " + std::to_string(vocabulary));
  if (rule.shortest < 0 || rule.longest < 1 || rule.shortest > rule.longest)
    throw error("rollout: " + std::to_string(rule.shortest) + " to " + std::to_string(rule.longest) +
                " actions; expected 0 <= shortest <= longest and 1 <= longest");
  if (!rule.penalty.empty() && static_cast<index_t>(rule.penalty.size()) != vocabulary)
    throw error("rollout: " + std::to_string(rule.penalty.size()) + " penalties for a vocabulary of " +
                std::to_string(vocabulary));
  check_rule(rule.draw);
}
/// Errors: input_error for tokens that the vocabulary lacks.
inline void check_rollout_tokens(std::span<const int> tokens, std::size_t row, index_t vocabulary) {
  for (const int t : tokens)
    if (t < 0 || t >= vocabulary)
      throw input_error("rollout: row " + std::to_string(row) + " holds token " + std::to_string(t) +
                        ", the vocabulary has " + std::to_string(vocabulary) +
                        "; give tokens of the model's own vocabulary");
}
/// Errors: input_error for a prompt that is empty or a state that is longer than the window.
inline void check_rollout_state(std::size_t row, std::size_t prompt, std::size_t state, index_t window) {
  if (prompt == 0)
    throw input_error("rollout: row " + std::to_string(row) +
                      " has an empty prompt; begin it with one token at least");
  if (static_cast<index_t>(state) > window)
    throw input_error("rollout: the state of row " + std::to_string(row) + " has " + std::to_string(state) +
                      " tokens, the window " + std::to_string(window) +
                      "; shorten the prompt or what tools write, or take a model of more positions");
}
/// A rollout that somebody made, against the rule it is scored by. Errors: input_error naming the row.
template <class Real>
void check_rollout(const rollout<Real>& z, std::size_t row, const rollout_rule& rule, index_t vocabulary,
                   index_t window) {
  const std::string name = "rollout: row " + std::to_string(row);
  const std::size_t n = z.actions.size();
  check_rollout_state(row, z.prompt.size(), z.state.size(), window);
  check_rollout_tokens(z.state, row, vocabulary);
  if (z.length() < rule.shortest || z.length() > rule.longest)
    throw input_error(name + " has " + std::to_string(n) + " actions, the rule asks for " +
                      std::to_string(rule.shortest) + " to " + std::to_string(rule.longest) +
                      "; leave it out or change the rule");
  bool right = z.decided.size() == n + 1 && z.decided[0] + std::size_t{1} == z.prompt.size() &&
               z.decided[n] + std::size_t{1} == z.state.size();
  right = right && z.prompt.size() <= z.state.size() &&
          std::equal(z.prompt.begin(), z.prompt.end(), z.state.begin());
  for (std::size_t k = 0; right && k < n; ++k)
    right = z.decided[k] < z.decided[k + 1] && z.decided[k] + std::size_t{1} < z.state.size() &&
            z.state[static_cast<std::size_t>(z.decided[k]) + 1] == z.actions[k];
  if (!right)
    throw input_error(name +
                      " has a state that is not its prompt, its actions and what was written between them; "
                      "make it with given_rollout");
  if (const auto at = std::find(z.actions.begin(), z.actions.end(), rule.stop); at != z.actions.end())
    throw input_error(name + " has the stop, token " + std::to_string(rule.stop) + ", as action " +
                      std::to_string(at - z.actions.begin()) + "; end its actions before the first stop");
}
}  // namespace detail

/// A rollout of given actions, supervised data for example; nothing is scored yet.
template <class Real, class Tool = no_tool>
rollout<Real> given_rollout(std::vector<int> prompt, std::vector<int> actions, const Tool& tool = {}) {
  rollout<Real> z;
  z.state = prompt;
  z.prompt = std::move(prompt);
  z.decided.push_back(static_cast<int>(z.prompt.size()) - 1);
  for (const int a : actions) detail::act(z, a, tool);
  return z;
}

}  // namespace planlm
