/// Strings over a small alphabet, written from left to right: what a language model's objects are, few enough to enumerate.
///
/// States: all strings of up to `longest` letters, the empty one first, shorter before longer, then in the order of the alphabet; action a
/// appends letter a. One may stop at a string of at least `shortest` letters and must at `longest`. A tree: every string has one parent.
#pragma once
#include <concepts>
#include <cstddef>
#include <string>
#include <vector>
#include <planlm/environments/environment.hpp>

namespace planlm {

class string_tree {
 public:
  /// log_reward(const std::vector<int>& string) -> double, asked once for every string of a permitted length.
  template <std::invocable<const std::vector<int>&> Reward>
  string_tree(int letters, int longest, const Reward& log_reward, int shortest = 0)
      : letters_(letters), longest_(longest), shortest_(shortest) {
    if (letters < 1 || longest < 1 || shortest < 0 || shortest > longest)
      throw error("string_tree: " + std::to_string(letters) + " letters, lengths " + std::to_string(shortest) + " to " +
                  std::to_string(longest) + "; expected at least one letter and 0 <= shortest <= longest, longest >= 1");
    index_t count = 1;
    for (int n = 0; n <= longest; ++n, count *= letters) {
      first_.push_back(states_);
      states_ += count;
      if (states_ > index_t{1} << 31)
        throw error("string_tree: more than 2^31 strings; fewer letters or a smaller length can be enumerated");
    }
    first_.push_back(states_);
    reward_.assign(static_cast<std::size_t>(states_), minus_infinity);
    for (index_t s = first_[static_cast<std::size_t>(shortest)]; s < states_; ++s)
      reward_[static_cast<std::size_t>(s)] = log_reward(letters_of(s));
  }

  index_t states() const { return states_; }
  int actions() const { return letters_; }
  int longest() const { return longest_; }
  int shortest() const { return shortest_; }
  int length(index_t state) const {
    int n = 0;
    while (state >= first_[static_cast<std::size_t>(n) + 1]) ++n;
    return n;
  }
  std::vector<int> letters_of(index_t state) const {
    const int n = length(state);
    std::vector<int> string(static_cast<std::size_t>(n));
    index_t place = state - first_[static_cast<std::size_t>(n)];
    for (int i = n; i-- > 0; place /= letters_) string[static_cast<std::size_t>(i)] = static_cast<int>(place % letters_);
    return string;
  }
  /// The state of a string. Errors: planlm::error for a letter or a length that is not there.
  index_t state_of(const std::vector<int>& string) const {
    if (static_cast<int>(string.size()) > longest_)
      throw error("string_tree: a string of " + std::to_string(string.size()) + " letters; the longest has " +
                  std::to_string(longest_));
    index_t place = 0;
    for (const int letter : string) {
      if (letter < 0 || letter >= letters_)
        throw error("string_tree: letter " + std::to_string(letter) + ", expected 0 .. " + std::to_string(letters_ - 1));
      place = place * letters_ + letter;
    }
    return first_[string.size()] + place;
  }
  index_t child(index_t state, int letter) const {
    const auto n = static_cast<std::size_t>(length(state));
    return static_cast<int>(n) < longest_ ? first_[n + 1] + (state - first_[n]) * letters_ + letter : -1;
  }
  index_t parent(index_t state, int letter) const {
    const auto n = static_cast<std::size_t>(length(state));
    if (n == 0 || (state - first_[n]) % letters_ != letter) return -1;
    return first_[n - 1] + (state - first_[n]) / letters_;
  }
  bool stops(index_t state) const { return state >= first_[static_cast<std::size_t>(shortest_)]; }
  double log_reward(index_t state) const { return reward_[static_cast<std::size_t>(state)]; }

 private:
  int letters_, longest_, shortest_;
  index_t states_ = 0;
  std::vector<index_t> first_;  // of each length; then the number of states
  std::vector<double> reward_;
};

}  // namespace planlm
