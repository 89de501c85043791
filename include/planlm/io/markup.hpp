/// Text and numbers as they go into an HTML page or an SVG drawing.
///
/// The drawings are 360 units wide, about as many as a phone has CSS pixels, so that their text keeps its
/// size there.
#pragma once
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <planlm/io/table.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace planlm::detail {

template <class... Parts>
std::string joined(const Parts&... parts) {
  std::string text;
  (text.append(std::string_view(parts)), ...);
  return text;
}

/// Bytes of the UTF-8 character at the front of `text` that XML can hold; 0 if there is none.
inline std::size_t character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return lead >= 0x20 ? lead != 0x7F : lead == '\t' || lead == '\n' || lead == '\r';
  const std::size_t count = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  unsigned code = lead & (0x7Fu >> count);
  for (std::size_t i = 1; i < count; ++i) {
    if ((byte(i) & 0xC0u) != 0x80u) return 0;
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  const unsigned least = count == 4 ? 0x10000 : count == 3 ? 0x800 : 0x80;  // below: longer than need be
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  const bool control = code < 0xA0 || code == 0xFFFE || code == 0xFFFF;
  return lead < 0xC2 || code < least || code > 0x10FFFF || surrogate || control ? 0 : count;
}

/// `text` with markup made harmless; what is no character becomes U+FFFD.
inline std::string escaped(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t bytes = character_bytes(text.substr(i));
    switch (bytes == 0 ? '\0' : text[i]) {
      case '\0':
        out += "\xEF\xBF\xBD";
        break;
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += text.substr(i, bytes);
    }
    i += std::max<std::size_t>(bytes, 1);
  }
  return out;
}

/// Width in units at the 12 units of the drawings, on the wide side: the reader's font is not known.
inline double text_width(std::string_view text) {
  constexpr std::string_view narrow = " fijlrt.,:;'!|()[]/-I", wide = "wGQO+=<>#~", widest = "mMW@%";
  double em = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0u) == 0x80u) continue;
    em += byte >= 0xE0                    ? 1.0
          : narrow.find(c) != narrow.npos ? 0.4
          : widest.find(c) != widest.npos ? 1.0
          : wide.find(c) != wide.npos     ? 0.87
          : c >= 'A' && c <= 'Z'          ? 0.72
                                          : 0.63;
  }
  return 12 * em;
}

/// `text` cut to `width` units with an ellipsis where something is missing.
inline std::string shortened(std::string text, double width) {
  if (text_width(text) <= width) return text;
  while (!text.empty() && text_width(text) + 12 > width) {
    while (text.size() > 1 && (static_cast<unsigned char>(text.back()) & 0xC0u) == 0x80u) text.pop_back();
    text.pop_back();
  }
  return text.substr(0, text.find_last_not_of(' ') + 1) + "…";
}

/// `text` in at most two lines of `width` units, broken at a space where there is one.
inline std::vector<std::string> in_two_lines(const std::string& text, double width) {
  if (text_width(text) <= width) return {text};
  std::size_t cut = 0;
  for (std::size_t i = 1; i < text.size() && text_width(text.substr(0, i)) <= width; ++i)
    if (text[i] == ' ') cut = i;
  if (cut == 0) return {shortened(text, width)};
  return {text.substr(0, cut), shortened(text.substr(cut + 1), width)};
}

/// What can be drawn: beyond these bounds differences overflow or vanish.
inline bool drawable(double value) {
  return value == 0 || (std::isfinite(value) && std::abs(value) < 1e300 && std::abs(value) > 1e-290);
}

/// 12345.6 -> "12,345.6"
inline std::string grouped(std::string digits) {
  const std::size_t point = std::min(digits.find('.'), digits.size()), first = digits.starts_with('-');
  for (std::size_t i = point; i > first + 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits.starts_with('-') ? joined("−", digits.substr(1)) : digits;
}

inline std::string without_zeros(std::string digits) {
  if (digits.find('.') != std::string::npos) digits.erase(digits.find_last_not_of('0') + 1);
  if (digits.ends_with('.')) digits.pop_back();
  return digits;
}

/// Four digits that matter: 0.01234, 5.63, 48,000, 1.2e-07.
inline std::string readable(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "no number" : value > 0 ? "infinite" : "−infinite";
  const double size = std::abs(value);
  if (size == 0) return "0";
  if (size >= 1e-4 && size < 1e9) {
    const int digits = std::max(0, 3 - static_cast<int>(std::floor(std::log10(size))));
    return grouped(without_zeros(with_digits(value, digits)));
  }
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::general, 4).ptr;
  return {buffer, end};
}

/// A coordinate, to a tenth of a unit.
inline std::string at(double value) { return without_zeros(with_digits(value, 1)); }

inline std::string element(std::string_view name, std::string_view attributes, std::string_view inside) {
  return joined("<", name, attributes.empty() ? "" : " ", attributes, ">", inside, "</", name, ">");
}
inline std::string attribute(std::string_view name, std::string_view value) {
  return joined(name, "=\"", escaped(value), "\"");
}
inline std::string tooltip(std::string_view text) { return element("title", "", escaped(text)); }

/// Coordinates as attributes: pairs of a name and a number.
template <class... More>
std::string placed(std::string_view name, double value, More... more) {
  std::string text = attribute(name, at(value));
  if constexpr (sizeof...(more) > 0) text += joined(" ", placed(more...));
  return text;
}

/// Text at (x, y), its baseline; `look` names classes of the style sheet: "end", "middle", "name", "on".
inline std::string svg_text(double x, double y, std::string_view look, std::string_view text) {
  if (text.empty()) return "";
  const std::string where = placed("x", x, "y", y);
  return element("text", look.empty() ? where : joined(where, " ", attribute("class", look)), escaped(text));
}
inline std::string svg_line(double x1, double y1, double x2, double y2, std::string_view look) {
  return joined("<line ", placed("x1", x1, "y1", y1, "x2", x2, "y2", y2), " ", attribute("class", look),
                "/>");
}
inline std::string svg_circle(double x, double y, double radius, std::string_view look,
                              std::string_view tip) {
  return element("circle", joined(placed("cx", x, "cy", y, "r", radius), " ", attribute("class", look)),
                 tooltip(tip));
}
/// Hundredths across: hundreds of bars may share the width.
inline std::string svg_rectangle(double x, double y, double width, double height, std::string_view look,
                                 std::string_view tip) {
  const std::string across = joined("x=\"", with_digits(x, 2), "\" width=\"", with_digits(width, 2), "\" ");
  return element("rect", joined(across, placed("y", y, "height", height), " ", attribute("class", look)),
                 tooltip(tip));
}

}  // namespace planlm::detail
