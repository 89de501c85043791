/// A calculator as the tool of a policy: after each "=" that the policy writes, the value of the expression before it enters the text.
/// What it writes is state and no action: it has no log-probability of the policy and no length.   [2310.04363, arithmetic with tools]
///
/// The expression is what follows the last delimiter, which is a comma, a full stop, a mark of the line or an earlier "=". Numbers may have a
/// minus of their own, at the beginning or after a sign: "-2+4=" has the operands -2 and 4. With a limit, the last operands alone count, with
/// the signs between them: of "9-6-4=" limited to two that is 6 - 4 = 2, so a text that asks too much at once is answered as it stands and
/// goes wrong, and the policy has to take the question in steps. No operand between the delimiter and the last sign is lost: "6-4=" is 2.
/// What is no expression ("+=", "7+=") has no value, and nothing is written.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <planlm/models/rollout.hpp>
#include "symbols.hpp"

namespace train_arithmetic_tool {

/// The value of a sum such as "-2+4-1"; of its last `most_operands` operands, 0: of all. Nothing where it is no sum or an operand has more
/// than six digits.
inline std::optional<long> sum_of_last(std::string_view expression, int most_operands) {
  std::vector<long> operands;
  std::vector<int> signs;  // the sign before each
  std::size_t i = 0;
  while (true) {
    int sign = 1;
    if (!operands.empty()) {
      if (i == expression.size()) break;
      if (expression[i] != '+' && expression[i] != '-') return std::nullopt;
      sign = expression[i++] == '-' ? -1 : 1;
    }
    const bool negative = i < expression.size() && expression[i] == '-';
    i += negative;
    const std::size_t from = i;
    while (i < expression.size() && is_digit(expression[i])) ++i;
    if (i == from || i - from > 6) return std::nullopt;
    const long number = std::strtol(std::string(expression.substr(from, i - from)).c_str(), nullptr, 10);
    operands.push_back(negative ? -number : number);
    signs.push_back(sign);
  }
  const std::size_t count = operands.size(), kept = most_operands > 0 ? static_cast<std::size_t>(most_operands) : count;
  const std::size_t first = count > kept ? count - kept : 0;
  long value = operands[first];
  for (std::size_t k = first + 1; k < count; ++k) value += signs[k] * operands[k];
  return value;
}

struct calculator {
  int most_operands = 2;  // 0: no limit
  /// Tokens a text may have in all. Nothing is written where the actions still allowed would not fit behind it.
  std::size_t room = std::numeric_limits<std::size_t>::max();
  std::size_t longest = 0;  // actions

  /// What is written behind a text that ends with "="; empty for nothing.
  std::string result(std::string_view text) const {
    if (text.empty() || text.back() != '=') return "";
    text.remove_suffix(1);
    const std::size_t delimiter = text.find_last_of(",.?:>;^=");
    if (delimiter != std::string_view::npos) text.remove_prefix(delimiter + 1);
    const std::optional<long> value = sum_of_last(text, most_operands);
    return value ? std::to_string(*value) : "";
  }

  /// The tool of a rollout_sampler.
  template <class Real>
  std::vector<int> operator()(const planlm::rollout<Real>& z) const {
    if (z.actions.empty() || z.actions.back() != equals) return {};
    std::vector<int> written = encode(result(decode(z.state)));
    const std::size_t size = z.state.size() - z.prompt.size(), left = longest > z.actions.size() ? longest - z.actions.size() : 0;
    if (size + written.size() + left > room) return {};
    return written;
  }
};

}  // namespace train_arithmetic_tool
