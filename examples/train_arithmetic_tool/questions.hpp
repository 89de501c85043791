/// Questions such as "7+3-5=", their worked solutions, and what makes a rationale right.
#pragma once
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <planlm/core/philox.hpp>
#include "calculator.hpp"
#include "symbols.hpp"

namespace train_arithmetic_tool {

/// Numbers drawn one after another: row `row` of a philox.
class dice {
 public:
  dice(planlm::philox random, std::uint64_t row) : random_(random), row_(row) {}
  int below(int n) { return static_cast<int>(random_.below(static_cast<std::uint32_t>(n), row_, next_++)); }
  bool chance(double p) { return random_.uniform(row_, next_++) < p; }

 private:
  planlm::philox random_;
  std::uint64_t row_;
  std::uint32_t next_ = 0;
};

/// A sum of single digits. signs[0] is 1.
struct question {
  std::vector<int> operands, signs;

  int count() const { return static_cast<int>(operands.size()); }
  /// Of the first `n` operands.
  int value(int n) const {
    int sum = 0;
    for (int i = 0; i < n; ++i) sum += signs[static_cast<std::size_t>(i)] * operands[static_cast<std::size_t>(i)];
    return sum;
  }
  int value() const { return value(count()); }
  /// "7+3-5="
  std::string text() const {
    std::string out;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      if (i > 0) out += signs[i] < 0 ? '-' : '+';
      out += std::to_string(operands[i]);
    }
    return out + "=";
  }
  /// Worked from left to right, a step at a time: "7+3=10,10-5=5."
  std::string rationale() const {
    std::string out;
    for (int i = 1; i < count(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      out += (i > 1 ? "," : "") + std::to_string(value(i)) + (signs[at] < 0 ? "-" : "+") + std::to_string(operands[at]) + "=" +
             std::to_string(value(i + 1));
    }
    return out + ".";
  }
};
inline question draw_question(int operands, dice& d) {
  question q;
  for (int i = 0; i < operands; ++i) {
    q.signs.push_back(i == 0 || d.chance(0.5) ? 1 : -1);
    q.operands.push_back(d.below(10));
  }
  return q;
}

/// A rationale without what a calculator will write: the results behind "=".
inline std::string without_results(std::string_view rationale) {
  std::string out;
  bool result = false;
  for (const char c : rationale) {
    if (c == ',' || c == '.') result = false;
    if (!result) out += c;
    if (c == '=') result = true;
  }
  return out;
}

/// The number behind the last "=" of a rationale; nothing where no number stands there.
inline std::optional<int> answer_of(std::string_view rationale) {
  const std::size_t at = rationale.rfind('=');
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = rationale.substr(at + 1);
  rest = rest.substr(0, std::min(rest.find_first_of(",.+"), rest.size()));
  const std::string_view digits = !rest.empty() && rest[0] == '-' ? rest.substr(1) : rest;
  if (digits.empty() || digits.size() > 6 || !std::all_of(digits.begin(), digits.end(), is_digit)) return std::nullopt;
  return std::atoi(std::string(rest).c_str());
}

/// Whether a rationale is a list of equations, all of them true, with or without a full stop at its end: "7+3=10,10-5=5."
inline bool is_valid(std::string_view rationale) {
  if (!rationale.empty() && rationale.back() == '.') rationale.remove_suffix(1);
  while (true) {
    const std::size_t end = std::min(rationale.find(','), rationale.size());
    const std::string_view step = rationale.substr(0, end);
    const std::size_t at = step.find('=');
    if (at == std::string_view::npos || at != step.rfind('=')) return false;
    const auto left = sum_of_last(step.substr(0, at), 0), right = sum_of_last(step.substr(at + 1), 0);
    const bool number = step.find_first_of("+-", at + 2 < step.size() ? at + 2 : step.size()) == std::string_view::npos;
    if (!left || !right || !number || *left != *right) return false;
    if (end == rationale.size()) return true;
    rationale.remove_prefix(end + 1);
  }
}
/// Whether it is the worked solution of the question.
inline bool is_solution(const question& q, std::string_view rationale) {
  const std::string right = q.rationale();
  return rationale == right || rationale == std::string_view(right).substr(0, right.size() - 1);
}

}  // namespace train_arithmetic_tool
