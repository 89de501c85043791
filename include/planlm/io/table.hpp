/// Plain-text tables for terminals and logs: columns aligned, numbers with the digits asked for.
///
/// Numbers are written with a point whatever the locale. Widths count UTF-8 code points, so that "Δ" takes
/// one column. Errors: shape_error for a row whose cells do not match the columns.
#pragma once
#include <algorithm>
#include <charconv>
#include <cmath>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace planlm {

/// `value` rounded to `digits` places after the point, never "-0.00". NaN and infinities are "nan", "inf",
/// "-inf".
inline std::string with_digits(double value, int digits) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[512];  // the largest double has 309 digits before the point
  const int places = digits < 0 ? 0 : digits > 100 ? 100 : digits;
  const auto [end, failure] =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, places);
  std::string text(buffer, failure == std::errc() ? end : buffer);
  if (text.starts_with('-') && text.find_first_not_of("-0.") == std::string::npos) text.erase(0, 1);
  return text;
}

/// As with_digits, with a plus sign where the value is not below 0: for differences.
inline std::string with_sign(double value, int digits) {
  const std::string text = with_digits(value, digits);
  return text.starts_with('-') || std::isnan(value) ? text : "+" + text;
}

/// `value [lower, upper]`, for differences, with signs.
inline std::string with_interval(double value, double lower, double upper, int digits) {
  return with_sign(value, digits) + " [" + with_sign(lower, digits) + ", " + with_sign(upper, digits) + "]";
}

namespace detail {

/// Columns that UTF-8 text takes on a terminal: one for each code point (wide characters are not expected
/// here).
inline std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  for (const char c : text) width += (static_cast<unsigned char>(c) & 0xC0u) != 0x80u;
  return width;
}

}  // namespace detail

class text_table {
 public:
  enum side { left, right };
  struct column {
    std::string title;
    side aligned = right;
  };

  explicit text_table(std::vector<column> columns) : columns_(std::move(columns)) {}

  text_table& row(std::vector<std::string> cells) {
    if (cells.size() != columns_.size())
      throw shape_error("text_table: row " + std::to_string(rows_.size()) + " has " +
                        std::to_string(cells.size()) + " cells, the table has " +
                        std::to_string(columns_.size()) + " columns");
    rows_.push_back(std::move(cells));
    return *this;
  }

  /// Titles, a rule, the rows; two spaces between columns, none at the end of a line, a newline after each
  /// line.
  std::string text() const {
    std::vector<std::string> titles, rules;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      titles.push_back(columns_[c].title);
      rules.push_back(std::string(width(c), '-'));
    }
    std::string text = line(titles) + line(rules);
    for (const auto& cells : rows_) text += line(cells);
    return text;
  }

 private:
  std::size_t width(std::size_t c) const {
    std::size_t widest = detail::display_width(columns_[c].title);
    for (const auto& cells : rows_) widest = std::max(widest, detail::display_width(cells[c]));
    return widest;
  }
  std::string line(const std::vector<std::string>& cells) const {
    std::string text;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const std::string padding(width(c) - detail::display_width(cells[c]), ' ');
      if (c > 0) text += "  ";
      text += columns_[c].aligned == left ? cells[c] + padding : padding + cells[c];
    }
    text.erase(text.find_last_not_of(' ') + 1);
    return text + '\n';
  }

  std::vector<column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace planlm
