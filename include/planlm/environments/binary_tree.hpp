/// The perfect binary tree: `depth` turns left or right, then a leaf, which is the object. No other state may stop.
///
/// States in breadth-first order: the children of s are 2 s + 1 (action 0) and 2 s + 2 (action 1).
#pragma once
#include <cstddef>
#include <string>
#include <utility>
#include <vector>
#include <planlm/environments/environment.hpp>

namespace planlm {

class binary_tree {
 public:
  /// Log rewards of the leaves from left to right: 2^depth of them. Errors: shape_error for another number.
  explicit binary_tree(std::vector<double> log_rewards) : rewards_(std::move(log_rewards)) {
    const std::size_t leaves = rewards_.size();
    if (leaves < 2 || (leaves & (leaves - 1)) != 0)
      throw shape_error("binary_tree: " + std::to_string(leaves) + " leaves, expected a power of two, at least 2");
  }

  index_t leaves() const { return static_cast<index_t>(rewards_.size()); }
  index_t states() const { return 2 * leaves() - 1; }
  int actions() const { return 2; }
  index_t child(index_t state, int side) const { return stops(state) ? -1 : 2 * state + 1 + side; }
  index_t parent(index_t state, int side) const { return state > 0 && (state - 1) % 2 == side ? (state - 1) / 2 : -1; }
  bool stops(index_t state) const { return state >= leaves() - 1; }
  double log_reward(index_t state) const { return rewards_[static_cast<std::size_t>(state - leaves() + 1)]; }

 private:
  std::vector<double> rewards_;
};

}  // namespace planlm
