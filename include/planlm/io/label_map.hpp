/// A map of labels: a dot for each at its place in the plane, its area in proportion to a weight.
///
/// The name stands in the dot, else beside it, where it touches neither other dots nor other names; a name
/// without such a place is told by the tooltip alone. Both axes have one scale, so that distances can be
/// compared.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <planlm/io/chart.hpp>
#include <planlm/io/markup.hpp>
#include <span>
#include <string>
#include <vector>

namespace planlm {

/// `tooltip` follows the name when the pointer rests on the dot.
struct map_point {
  double x, y, weight;
  std::string name, tooltip;
};

namespace detail {

struct map_dot {
  double x, y, radius;
  const map_point* point;
};

struct text_box {
  double left, top, right, bottom;

  bool touches(const text_box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
  bool touches(const map_dot& dot) const {
    const double dx = dot.x - std::clamp(dot.x, left, right), dy = dot.y - std::clamp(dot.y, top, bottom);
    return dx * dx + dy * dy < dot.radius * dot.radius;
  }
};

/// Dots from the largest to the smallest, in units; `height` becomes that of the map.
inline std::vector<map_dot> map_dots(std::span<const map_point> points, double& height) {
  constexpr double margin = 22, smallest = 3;
  const double largest = std::clamp(100 / std::sqrt(static_cast<double>(points.size())), 6.0, 15.0);
  range xs, ys, weights;
  const auto shown = [](const map_point& p) { return drawable(p.x) && drawable(p.y); };
  for (const auto& p : points) {
    if (!shown(p)) continue;
    xs.include(p.x), ys.include(p.y), weights.include(std::max(p.weight, 0.0));
  }
  if (xs.empty()) return {};
  const double wide = std::max(xs.high - xs.low, 1e-9), tall = std::max(ys.high - ys.low, 1e-9);
  const double inner = chart_width - 2 * margin, scale = std::min(inner / wide, inner / tall);
  height = std::clamp(tall * scale, 140.0, inner) + 2 * margin;
  std::vector<map_dot> dots;
  for (const auto& p : points) {
    if (!shown(p)) continue;
    const double share = drawable(p.weight) && weights.high > 0 ? std::max(p.weight, 0.0) / weights.high : 0;
    dots.push_back({chart_width / 2 + (p.x - (xs.low + xs.high) / 2) * scale,
                    height / 2 - (p.y - (ys.low + ys.high) / 2) * scale,
                    std::max(smallest, largest * std::sqrt(share)), &p});
  }
  std::stable_sort(dots.begin(), dots.end(),
                   [](const auto& a, const auto& b) { return a.radius > b.radius; });
  return dots;
}

/// Where the name of a dot may stand, best first: inside, right, left, above, below, at the corners.
inline std::array<text_box, 9> places(const map_dot& dot) {
  const double w = text_width(dot.point->name), h = 12, r = dot.radius + 2, d = 0.7 * r;
  const auto box = [&](double left, double top) { return text_box{left, top, left + w, top + h}; };
  const double x = dot.x, y = dot.y;
  return {box(x - w / 2, y - h / 2), box(x + r, y - h / 2),     box(x - r - w, y - h / 2),
          box(x - w / 2, y - r - h), box(x - w / 2, y + r),     box(x + d, y - d - h),
          box(x + d, y + d),         box(x - d - w, y - d - h), box(x - d - w, y + d)};
}

}  // namespace detail

inline std::string map_chart(const chart_options& options, std::span<const map_point> points) {
  using namespace detail;
  double height = 0;
  const auto dots = map_dots(points, height);
  if (dots.empty()) return empty_figure(options);
  std::vector<text_box> taken;
  std::string circles, names, words;
  std::size_t unnamed = 0;
  for (std::size_t i = 0; i < dots.size(); ++i) {
    const auto& dot = dots[i];
    const std::string& name = dot.point->name;
    circles += svg_circle(dot.x, dot.y, dot.radius, "place",
                          dot.point->tooltip.empty() ? name : name + ": " + dot.point->tooltip) +
               "\n";
    words += name + (dot.point->tooltip.empty() ? ". " : ": " + dot.point->tooltip + ". ");
    const auto options_here = places(dot);
    bool placed = false;
    for (std::size_t k = 0; k < options_here.size() && !placed; ++k) {
      const auto& box = options_here[k];
      const bool inside = k == 0;
      bool free = !inside || std::hypot(0.55 * text_width(name), 4.5) + 1 < dot.radius;
      free = free && box.left >= 0 && box.right <= chart_width && box.top >= 0 && box.bottom <= height;
      for (std::size_t j = 0; j < dots.size() && free; ++j)
        free = (inside && j == i) || !box.touches(dots[j]);
      for (std::size_t j = 0; j < taken.size() && free; ++j) free = !box.touches(taken[j]);
      if (!free) continue;
      taken.push_back({box.left - 3, box.top, box.right + 3, box.bottom});  // two numbers are not read as one
      names += svg_text((box.left + box.right) / 2, box.top + 10, inside ? "middle on" : "middle", name);
      placed = true;
    }
    unnamed += !placed;
  }
  chart_options told = options;
  if (unnamed > 0)
    told.caption += (told.caption.empty() ? "" : " ") + std::to_string(unnamed) +
                    " names have no room here; rest the pointer on a dot to read its name.";
  const std::string frame = "<rect x=\"0.5\" y=\"0.5\" width=\"" + at(chart_width - 1) + "\" height=\"" +
                            at(height - 1) + "\" rx=\"6\" class=\"map\"/>\n";
  return figure(told, height, words, frame + circles + names);
}

}  // namespace planlm
