/// Two string trees with known answers: the seven strings over {0, 1} of up to two letters, and a second-order language model given by a
/// formula, whose 341 strings of up to four letters are few enough to enumerate.
#pragma once
#include <array>
#include <cmath>
#include <vector>

#include <planlm/environments/string_tree.hpp>

namespace fixtures {

/// R: empty .5, 0: 1, 1: 2, 00: .25, 01: 3, 10: 1.5, 11: .75; in the order of states.
inline planlm::string_tree seven_strings() {
  static constexpr std::array<double, 7> rewards{0.5, 1, 2, 0.25, 3, 1.5, 0.75};
  std::size_t next = 0;
  return {2, 2, [&](const std::vector<int>&) { return std::log(rewards[next++]); }};
}

/// Letters 0 .. 3, stop 4. logit(c | last a, last but one b) = 2.5 sin(12.9898 (a + 1) + 78.233 (b + 1) + 37.719 (c + 1)), 4 for an absent
/// letter, less .5 for the stop; at the empty string the stop has logit -4.
struct second_order_model {
  static constexpr int letters = 4, longest = 4;

  /// log p of the four letters and the stop after a string.
  static std::array<double, 5> after(const std::vector<int>& string) {
    const std::size_t n = string.size();
    const int a = n > 0 ? string[n - 1] : 4, b = n > 1 ? string[n - 2] : 4;
    std::array<double, 5> logits{};
    planlm::log_sum all;
    for (int c = 0; c < 5; ++c) {
      double& logit = logits[static_cast<std::size_t>(c)];
      logit = 2.5 * std::sin(12.9898 * (a + 1) + 78.233 * (b + 1) + 37.719 * (c + 1)) - (c == 4 ? 0.5 : 0);
      if (c == 4 && n == 0) logit = -4;
      all.add(logit);
    }
    for (double& logit : logits) logit -= all.value();
    return logits;
  }
  /// log p of a whole string, the stop among it.
  static double log_probability(const std::vector<int>& string) {
    double sum = 0;
    std::vector<int> before;
    for (const int c : string) {
      sum += after(before)[static_cast<std::size_t>(c)];
      before.push_back(c);
    }
    return sum + after(before)[4];
  }
  /// Strings with reward p(string stop)^(1 / temperature).
  static planlm::string_tree tree(double temperature, int shortest = 0) {
    return {letters, longest, [=](const std::vector<int>& s) { return log_probability(s) / temperature; }, shortest};
  }
  /// The model's logits as those of a policy, (states, letters + 1), divided by a temperature.
  static std::vector<double> policy_logits(const planlm::string_tree& tree, double temperature = 1) {
    std::vector<double> logits;
    for (planlm::index_t s = 0; s < tree.states(); ++s)
      for (const double l : after(tree.letters_of(s))) logits.push_back(l / temperature);
    return logits;
  }
};

}  // namespace fixtures
