/// Twenty symbols that arithmetic is written with: a token is a character, numbers are several of them.
///
///     ^?7+3-5=:7+3=10,10-5=5.>5;
///
/// begins, question, rationale, answer, end of the line. The mark of the answer ends a rationale: it is the stop of a policy that writes one.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>
#include <planlm/core/error.hpp>

namespace train_arithmetic_tool {

inline constexpr std::string_view symbols = "0123456789+-=,.?:>;^";
enum symbol : int { plus = 10, minus, equals, comma, full_stop, question_mark, rationale_mark, answer_mark, line_end, begin_mark, symbol_count };
static_assert(symbols.size() == symbol_count);

/// Blanks are left out. Errors: planlm::error for any other character.
inline std::vector<int> encode(std::string_view text) {
  std::vector<int> ids;
  for (const char c : text) {
    if (c == ' ') continue;
    const auto at = symbols.find(c);
    if (at == std::string_view::npos) throw planlm::error(std::string("arithmetic: '") + c + "' is none of " + std::string(symbols));
    ids.push_back(static_cast<int>(at));
  }
  return ids;
}
inline std::string decode(std::span<const int> ids) {
  std::string text;
  for (const int id : ids) text += symbols.at(static_cast<std::size_t>(id));
  return text;
}
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// For people: blanks around signs, none between digits or after the minus of a negative number.
inline std::string spaced(std::string_view text) {
  std::string out;
  char before = ' ';
  bool sign = false;  // the last character is the minus of a number
  for (const char c : text) {
    if (!out.empty() && !(is_digit(c) && (is_digit(before) || sign))) out += ' ';
    sign = c == '-' && !is_digit(before);
    out += before = c;
  }
  return out;
}

}  // namespace train_arithmetic_tool
