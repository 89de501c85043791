/// Charts as SVG figures for the report page: curves, values with intervals, bars.
///
/// Every figure has a caption that people read, and a <title> and <desc> that tell the same to those who
/// cannot see it; marks carry tooltips. Colours come from the style sheet of the page (io/report_style.hpp),
/// for light and dark. Texts are escaped here. Values that are no numbers, and those not above 0 on a
/// logarithmic axis, leave gaps; a chart without anything to draw says so. The same input gives the same
/// bytes.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <planlm/io/axis.hpp>
#include <planlm/io/markup.hpp>
#include <planlm/io/table.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace planlm {

/// `caption` is a sentence on what is shown and how to read it. Axis titles name their units.
struct chart_options {
  std::string title = {}, caption = {}, x_title = {}, y_title = {};
  bool log_x = false, log_y = false;
  std::optional<double> reference = {};  // a dashed line across the chart, and what it is
  std::string reference_name = {};
};

/// A curve: points joined in the order given.
struct series {
  std::string name;
  std::vector<double> x, y;
};

/// A value with its interval. A highlighted one stands out.
struct interval_bar {
  std::string name;
  double value, lower, upper;
  bool highlighted = false;
};

struct bar {
  std::string name;
  double value;
};

namespace detail {

inline constexpr double chart_width = 360;

inline std::string figure(const chart_options& options, double height, const std::string& description,
                          const std::string& drawing, const std::string& legend = "") {
  std::string caption = element("strong", "", escaped(options.title));
  if (!options.caption.empty()) caption += joined(" ", element("span", "", escaped(options.caption)));
  const std::string words = joined(tooltip(options.title), element("desc", "", escaped(description)), "\n");
  const std::string box = joined("viewBox=\"0 0 ", at(chart_width), " ", at(height), "\" role=\"img\"");
  const char* look = height > 1.2 * chart_width ? "chart tall" : "chart";
  return joined("<figure class=\"", look, "\">", element("figcaption", "", caption + legend), "\n",
                element("svg", box, words + drawing), "</figure>\n");
}

inline std::string empty_figure(const chart_options& options) {
  return figure(options, 64, "There is nothing to show.",
                svg_text(chart_width / 2, 36, "middle", "There is nothing to show yet."));
}

inline std::string axis_title(const std::string& title, bool logarithmic) {
  return !logarithmic ? title : title.empty() ? "log scale" : title + " (log scale)";
}

/// What the dashed line is, with its value.
inline std::string reference_text(const chart_options& options, double width) {
  const std::string name = options.reference_name.empty() ? "" : options.reference_name + " ";
  return shortened(name + readable(*options.reference), width);
}

/// Texts in a row below a chart, without those that would touch the one before.
class label_row {
 public:
  explicit label_row(double y) : y_(y) {}
  std::string operator()(double x, const std::string& text) {
    const double half = text_width(text) / 2,
                 middle = std::clamp(x, half, std::max(half, chart_width - half));
    if (middle - half < free_from_) return "";
    free_from_ = middle + half + 8;
    return svg_text(middle, y_, "middle", text);
  }

 private:
  double y_, free_from_ = 0;
};

/// Vertical gridlines with their numbers below, and the title of the axis.
inline std::string draw_x_axis(const axis& x, double top, double bottom, const std::string& title) {
  std::string out;
  label_row numbers(bottom + 16);
  for (std::size_t i = 0; i < x.ticks().size(); ++i) {
    const double place = x(x.ticks()[i]);
    out += svg_line(place, top, place, bottom, "grid") + numbers(place, x.texts()[i]);
  }
  return out + svg_text(chart_width, bottom + 34, "end",
                        shortened(axis_title(title, x.logarithmic()), chart_width));
}

/// Horizontal gridlines with their numbers to the left. Above the chart, where they meet no curve, stand the
/// title of the axis and what the dashed line is.
inline std::string draw_y_axis(const chart_options& options, const axis& y, double left, double right) {
  std::string out;
  for (std::size_t i = 0; i < y.ticks().size(); ++i) {
    const double place = y(y.ticks()[i]);
    out += svg_line(left, place, right, place, "grid") + svg_text(left - 6, place + 4, "end", y.texts()[i]);
  }
  const std::string title = axis_title(options.y_title, y.logarithmic());
  if (!options.reference || !y.shows(*options.reference))
    return out + svg_text(0, 12, "", shortened(title, chart_width));
  const std::string name = reference_text(options, chart_width / 2);
  const double from = chart_width - text_width(name);
  return out + svg_text(0, 12, "", shortened(title, from - 40)) +
         svg_line(from - 26, 8, from - 6, 8, "reference") + svg_text(from, 12, "", name);
}

inline std::string draw_level(const chart_options& options, const axis& y, double left, double right) {
  if (!options.reference || !y.shows(*options.reference)) return "";
  return svg_line(left, y(*options.reference), right, y(*options.reference), "reference");
}

struct pen_point {
  double x, y;
  bool pen_up;  // no line leads here
};

inline std::vector<pen_point> pen_points(const series& curve, const axis& x, const axis& y) {
  std::vector<pen_point> points;
  bool gap = true;
  for (std::size_t i = 0; i < std::min(curve.x.size(), curve.y.size()); ++i) {
    if (x.shows(curve.x[i]) && y.shows(curve.y[i])) {
      points.push_back({x(curve.x[i]), y(curve.y[i]), gap});
      gap = false;
    } else {
      gap = true;
    }
  }
  return points;
}

/// Of the points in each column one unit wide the first, lowest, highest and last: spikes stay.
inline std::vector<pen_point> thinned(const std::vector<pen_point>& points) {
  std::vector<pen_point> kept;
  for (std::size_t begin = 0, end; begin < points.size(); begin = end) {
    for (end = begin + 1; end < points.size() && std::floor(points[end].x) == std::floor(points[begin].x);)
      ++end;
    const auto lower = [](const pen_point& a, const pen_point& b) { return a.y < b.y; };
    const auto [low, high] = std::minmax_element(points.begin() + static_cast<std::ptrdiff_t>(begin),
                                                 points.begin() + static_cast<std::ptrdiff_t>(end), lower);
    std::size_t chosen[] = {begin, static_cast<std::size_t>(low - points.begin()),
                            static_cast<std::size_t>(high - points.begin()), end - 1};
    std::sort(std::begin(chosen), std::end(chosen));
    for (auto it = std::begin(chosen); it != std::unique(std::begin(chosen), std::end(chosen)); ++it) {
      kept.push_back(points[*it]);
      kept.back().pen_up = *it == begin && points[*it].pen_up;
    }
  }
  return kept;
}

inline std::string path_data(const std::vector<pen_point>& points) {
  std::string data;
  for (std::size_t i = 0; i < points.size(); ++i) {
    data += joined(points[i].pen_up ? "M" : "L", at(points[i].x), " ", at(points[i].y));
    const bool alone = points[i].pen_up && (i + 1 == points.size() || points[i + 1].pen_up);
    if (alone) data += "h0";  // a dot, by the round ends of lines
  }
  return data;
}

/// The class of the i-th curve: eight colours, dashes from the fifth on.
inline std::string curve_look(std::size_t i) {
  return joined("c", std::to_string(i % 8), i % 8 >= 4 ? " dashed" : "");
}

inline std::string draw_curve(const series& curve, std::size_t i, const axis& x, const axis& y) {
  constexpr std::size_t most_points = 400, most_dots = 40;
  const auto points = pen_points(curve, x, y);
  if (points.empty()) return "";
  const bool dense = points.size() > most_points;
  const std::string data = path_data(dense ? thinned(points) : points);
  std::string out = element(
      "path", attribute("class", (dense ? "line dense " : "line ") + curve_look(i)) + " d=\"" + data + "\"",
      tooltip(curve.name));
  for (std::size_t j = 0; points.size() <= most_dots && j < std::min(curve.x.size(), curve.y.size()); ++j)
    if (x.shows(curve.x[j]) && y.shows(curve.y[j]))
      out += svg_circle(x(curve.x[j]), y(curve.y[j]), 3, joined("dot c", std::to_string(i % 8)),
                        curve.name + ": " + readable(curve.y[j]) + " at " + readable(curve.x[j]));
  return out + "\n";
}

inline std::string curve_in_words(const series& curve, const axis& x, const axis& y) {
  range seen;
  std::size_t first = 0, last = 0, count = 0;
  for (std::size_t i = 0; i < std::min(curve.x.size(), curve.y.size()); ++i)
    if (x.shows(curve.x[i]) && y.shows(curve.y[i])) {
      if (count++ == 0) first = i;
      last = i;
      seen.include(curve.y[i]);
    }
  if (count == 0) return curve.name + ": no points. ";
  const auto point = [&](std::size_t i) { return readable(curve.y[i]) + " at " + readable(curve.x[i]); };
  return curve.name + ": " + std::to_string(count) + " points from " + point(first) + " to " + point(last) +
         ", lowest " + readable(seen.low) + ", highest " + readable(seen.high) + ". ";
}

/// Names with a piece of their line, in the order in which the curves end, from top to bottom.
inline std::string legend(std::span<const series> curves, const axis& x, const axis& y) {
  std::vector<std::pair<double, std::size_t>> ends;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const auto points = pen_points(curves[i], x, y);
    if (!points.empty()) ends.push_back({points.back().y, i});
  }
  if (ends.size() < 2) return "";
  std::stable_sort(ends.begin(), ends.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string items;
  for (const auto& [unused, i] : ends)
    items += joined("<li><svg class=\"key\" viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path class=\"line ",
                    curve_look(i), "\" d=\"M2 4H20\"/></svg>", escaped(curves[i].name), "</li>");
  return "<ul class=\"legend\">" + items + "</ul>";
}

}  // namespace detail

/// Curves over x: losses, entropy over training, perplexity against the number of paths. Few points are
/// marked; of more than 400 the extremes of every column are drawn.
inline std::string line_chart(const chart_options& options, std::span<const series> curves) {
  using namespace detail;
  range xs, ys;
  few_values places;
  std::size_t gaps = 0;
  for (const auto& curve : curves)
    for (std::size_t i = 0; i < std::min(curve.x.size(), curve.y.size()); ++i) {
      range px, py;
      px.include(curve.x[i], options.log_x), py.include(curve.y[i], options.log_y);
      if (px.empty() || py.empty()) {
        ++gaps;
        continue;
      }
      xs.include(curve.x[i]), ys.include(curve.y[i]), places.include(curve.x[i]);
    }
  if (xs.empty()) return empty_figure(options);
  if (options.reference) ys.include(*options.reference, options.log_y);
  ys.powers_of_two = false;

  constexpr double top = 28, bottom = 204, right = chart_width - 6;
  const axis y(ys, options.log_y, bottom, top, 5, true);
  const double left = y.widest_text() + 8;
  const axis x(xs, options.log_x, left + 4, right - 4, 5, false, places.ticks());
  std::string drawing = draw_x_axis(x, top, bottom, options.x_title) + draw_y_axis(options, y, left, right);
  drawing += svg_line(left, bottom, right, bottom, "base") + "\n" + draw_level(options, y, left, right);
  std::string words;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    drawing += draw_curve(curves[i], i, x, y);
    words += curve_in_words(curves[i], x, y);
  }
  if (gaps > 0) words += joined("Points that cannot be drawn and leave gaps: ", std::to_string(gaps), ".");
  return figure(options, bottom + 40, words, drawing, legend(curves, x, y));
}

namespace detail {

/// Digits after the point that show the shortest interval with two figures; without any, the values with
/// four.
inline int interval_digits(std::span<const interval_bar> bars) {
  range widths, values;
  for (const auto& b : bars) {
    if (!drawable(b.value)) continue;
    widths.include(std::abs(b.upper - b.lower), true);
    values.include(std::abs(b.value), true);
  }
  if (values.empty()) return 0;
  const double last = widths.empty() ? values.high / 1000 : widths.low / 10;
  return std::clamp(-static_cast<int>(std::floor(std::log10(last))), 0, 6);
}

inline std::string in_brackets(const interval_bar& b, int digits) {
  if (!drawable(b.value)) return "no value";
  const std::string value = grouped(with_digits(b.value, digits));
  if (!drawable(b.lower) || !drawable(b.upper)) return value;
  return value + " [" + grouped(with_digits(b.lower, digits)) + ", " + grouped(with_digits(b.upper, digits)) +
         "]";
}

/// The whiskers and the dot of one row.
inline std::string draw_interval(const interval_bar& b, const axis& x, double place, const std::string& tip) {
  const std::string look = b.highlighted ? " chosen" : "";
  std::string out;
  if (!x.shows(b.value)) return "";
  if (x.shows(b.lower) && x.shows(b.upper)) {
    const double from = x(b.lower), to = x(b.upper);
    out += svg_line(from, place, to, place, "whisker" + look);
    for (const double end : {from, to}) out += svg_line(end, place - 4, end, place + 4, "whisker" + look);
  }
  return out + svg_circle(x(b.value), place, 4.5, "value" + look, tip);
}

}  // namespace detail

/// A row for each variant: its name, the value with its interval in figures, and below both as a dot with
/// whiskers.
inline std::string interval_chart(const chart_options& options, std::span<const interval_bar> bars) {
  using namespace detail;
  range xs;
  for (const auto& b : bars)
    for (const double v : {b.value, b.lower, b.upper})
      if (drawable(b.value)) xs.include(v, options.log_x);
  if (xs.empty()) return empty_figure(options);
  if (options.reference) xs.include(*options.reference, options.log_x);
  xs.powers_of_two = false;

  const axis x(xs, options.log_x, 8, chart_width - 8, 6, false);
  const bool referred = options.reference && x.shows(*options.reference);
  const int digits = interval_digits(bars);
  const double top = referred ? 20 : 0;
  double y = top;
  std::string rows, words;
  for (const auto& b : bars) {
    const std::string figures = in_brackets(b, digits), look = b.highlighted ? " chosen" : "";
    const double room = chart_width / (b.highlighted ? 1.12 : 1) - text_width(figures) - 16;  // bold is wider
    rows += svg_text(chart_width, y + 15, "end figures" + look, figures);
    for (const auto& line : in_two_lines(b.name, room)) rows += svg_text(0, y += 15, "name" + look, line);
    y += 14;
    for (const double tick : x.ticks()) rows += svg_line(x(tick), y - 8, x(tick), y + 8, "grid");
    if (referred)
      rows += svg_line(x(*options.reference), y - 9, x(*options.reference), y + 9, "reference row");
    rows += draw_interval(b, x, y, b.name + ": " + figures) + "\n";
    words += b.name + ": " + figures + ". ";
    y += 10;
  }
  y += 2;
  std::string drawing = draw_x_axis(x, y, y + 4, options.x_title) + svg_line(0, y, chart_width, y, "base");
  if (referred) drawing += label_row(12)(x(*options.reference), reference_text(options, chart_width));
  return figure(options, y + 44, words, drawing + rows);
}

/// Bars side by side, up to a few hundred; names below as many as fit.
inline std::string bar_chart(const chart_options& options, std::span<const bar> bars) {
  using namespace detail;
  range ys;
  double widest = 0;
  for (const auto& b : bars) {
    ys.include(b.value);
    widest = std::max(widest, text_width(b.name));
  }
  if (ys.empty()) return empty_figure(options);
  ys.include(0);
  if (options.reference) ys.include(*options.reference);

  constexpr double top = 28, bottom = 184, right = chart_width - 6;
  const axis y(ys, false, bottom, top, 4, true);
  const double left = y.widest_text() + 8, slot = (right - left) / static_cast<double>(bars.size());
  const double gap = slot > 3 ? 0.25 * slot : 0, thick = std::min(slot - gap, 40.0);
  const auto every = static_cast<std::size_t>(round_step(std::max(1.0, (widest + 6) / slot)));
  std::string drawing = draw_y_axis(options, y, left, right), words;
  label_row names(bottom + 16);
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double middle = left + (static_cast<double>(i) + 0.5) * slot;
    const std::string tip = bars[i].name + ": " + readable(bars[i].value);
    if (i % every == 0) drawing += names(middle, shortened(bars[i].name, chart_width));
    words += tip + ". ";
    if (!drawable(bars[i].value)) continue;
    const auto [from, to] = std::minmax({y(0), y(bars[i].value)});
    drawing += svg_rectangle(middle - thick / 2, from, thick, to - from, "bar", tip) + "\n";
  }
  drawing += svg_line(left, y(0), right, y(0), "base") + draw_level(options, y, left, right);
  return figure(options, bottom + 40, words,
                drawing + svg_text(chart_width, bottom + 34, "end", shortened(options.x_title, chart_width)));
}

}  // namespace planlm
