/// Objects built step by step, few enough to enumerate: where a sampler's distribution can be compared with the exact one.
///
/// A state is a partial object. States are numbered 0 .. states() - 1 in topological order, 0 is empty, every step goes to a larger number.
/// In a state one takes an action 0 .. actions() - 1, or stops where that is permitted: the state is then the object. Two steps into one
/// state never share their action, so (child, action) names an edge as (parent, action) does. A sampler is to stop at x with probability
/// R(x) / Z. All on the host, in double; a reward of 0, log reward -infinity, is welcome.
///
/// Tables: forward, (states, actions + 1), the exit last: log P_F of each choice. Backward, (states, actions): log P_B of undoing the action
/// that led here. -infinity where the choice is not there.
#pragma once
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>

namespace planlm {

inline constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

template <class E>
concept Environment = requires(const E& e, index_t state, int action) {
  { e.states() } -> std::convertible_to<index_t>;
  { e.actions() } -> std::convertible_to<int>;
  { e.child(state, action) } -> std::convertible_to<index_t>;   // -1: not permitted
  { e.parent(state, action) } -> std::convertible_to<index_t>;  // -1: no step of this action leads here
  { e.stops(state) } -> std::convertible_to<bool>;
  { e.log_reward(state) } -> std::convertible_to<double>;  // read where stops(state)
} || because<"Environment: needs states(), actions(), child(state, action), parent(state, action), stops(state), log_reward(state)", E>();

/// An environment written out: quick to ask, and checked.
class state_graph {
 public:
  state_graph() = default;
  /// Errors: planlm::error if steps do not go up, if child and parent disagree, if a state neither stops nor goes on, or if a reward is no
  /// number or +infinity; the message names the state.
  template <Environment E>
  explicit state_graph(const E& e) : states_(e.states()), actions_(e.actions()) {
    if (states_ < 1 || actions_ < 1)
      throw error("state_graph: " + std::to_string(states_) + " states and " + std::to_string(actions_) +
                  " actions; each must be positive");
    const auto size = static_cast<std::size_t>(states_);
    child_.reserve(size * static_cast<std::size_t>(actions_));
    parent_.reserve(size * static_cast<std::size_t>(actions_));
    reward_.assign(size, minus_infinity);
    stops_.assign(size, 0);
    for (index_t s = 0; s < states_; ++s) {
      bool leaves = e.stops(s), arrives = s == 0;
      for (int a = 0; a < actions_; ++a) {
        const index_t to = e.child(s, a), from = e.parent(s, a);
        if (to != -1 && (to <= s || to >= states_ || e.parent(to, a) != s))
          fail(s, "action " + std::to_string(a) + " leads to " + std::to_string(to) + ", which must be larger and lead back");
        if (from != -1 && (from < 0 || from >= s || e.child(from, a) != s))
          fail(s, "is no child of its parent " + std::to_string(from) + " by action " + std::to_string(a));
        child_.push_back(to);
        parent_.push_back(from);
        leaves = leaves || to != -1;
        arrives = arrives || from != -1;
      }
      if (!leaves) fail(s, "neither stops nor goes on");
      if (!arrives) fail(s, "cannot be reached");
      if (!e.stops(s)) continue;
      stops_[static_cast<std::size_t>(s)] = 1;
      const double reward = e.log_reward(s);
      if (!(reward < std::numeric_limits<double>::infinity())) fail(s, "has log reward " + std::to_string(reward));
      reward_[static_cast<std::size_t>(s)] = reward;
    }
  }

  index_t states() const { return states_; }
  int actions() const { return actions_; }
  index_t child(index_t s, int a) const { return child_[at(s, a)]; }
  index_t parent(index_t s, int a) const { return parent_[at(s, a)]; }
  bool stops(index_t s) const { return stops_[static_cast<std::size_t>(s)] != 0; }
  double log_reward(index_t s) const { return reward_[static_cast<std::size_t>(s)]; }

 private:
  std::size_t at(index_t s, int a) const { return static_cast<std::size_t>(s * actions_ + a); }
  [[noreturn]] static void fail(index_t s, const std::string& what) {
    throw error("state_graph: state " + std::to_string(s) + ": " + what);
  }

  index_t states_ = 0;
  int actions_ = 0;
  std::vector<index_t> child_, parent_;
  std::vector<double> reward_;
  std::vector<char> stops_;
};

/// log of the sum of exponentials, given one by one; -infinity of none.
class log_sum {
 public:
  void add(double x) {
    if (x == minus_infinity) return;
    if (x > largest_) sum_ = sum_ * std::exp(largest_ - x) + 1, largest_ = x;
    else sum_ += std::exp(x - largest_);
  }
  double value() const { return sum_ > 0 ? largest_ + std::log(sum_) : minus_infinity; }

 private:
  double largest_ = minus_infinity, sum_ = 0;
};

}  // namespace planlm
