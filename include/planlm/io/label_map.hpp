/// A map of labels: a dot for each at its place in the plane, its area in proportion to a weight.
///
/// The name stands in the dot, else beside it, where it touches neither other dots nor other names; a name
/// without such a place is told by the tooltip, and the caption sends those who have no pointer to the list
/// of labels: put report::label_cards on the page too. Both axes have one scale, so that distances can be
/// compared.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
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

/// A name and where it stands; `away` from its dot by more than a little, with a line that leads there.
struct placed_name {
  text_box box;
  bool inside = false, away = false;
};

/// The box of the name beside a dot, `distance` from its rim in direction (dx, dy).
inline text_box beside(const map_dot& dot, double dx, double dy, double distance) {
  const double w = text_width(dot.point->name), h = 12, far = dot.radius + distance;
  const double x = dot.x + dx * far + (dx > 0 ? 0 : dx < 0 ? -w : -w / 2);
  const double y = dot.y + dy * far + (dy > 0 ? 0 : dy < 0 ? -h : -h / 2);
  return {x, y, x + w, y + h};
}

/// The first free place of a name: in its dot, close by, and then farther and farther away.
class name_places {
 public:
  name_places(const std::vector<map_dot>& dots, double height) : dots_(dots), height_(height) {}

  std::optional<placed_name> find(const map_dot& dot) {
    const text_box middle = {dot.x - text_width(dot.point->name) / 2, dot.y - 6,
                             dot.x + text_width(dot.point->name) / 2, dot.y + 6};
    const bool fits = std::hypot(0.55 * (middle.right - middle.left), 4.5) + 1 < dot.radius;
    if (fits && free(middle, &dot)) return take({middle, true, false});
    constexpr double directions[8][2] = {{1, 0},    {-1, 0},  {0, -1},    {0, 1},
                                         {.7, -.7}, {.7, .7}, {-.7, -.7}, {-.7, .7}};
    for (const double distance : {2.0, 10.0, 18.0, 26.0, 36.0})
      for (const auto& [dx, dy] : directions) {
        const text_box box = beside(dot, dx, dy, distance);
        if (free(box, nullptr) && (distance == 2 || free_line(dot, dx, dy, distance)))
          return take({box, false, distance > 2});
      }
    return std::nullopt;
  }

 private:
  bool free(const text_box& box, const map_dot* own) const {
    return box.left >= 2 && box.right <= chart_width - 2 && box.top >= 2 && box.bottom <= height_ - 2 &&
           std::none_of(dots_.begin(), dots_.end(),
                        [&](const auto& d) { return &d != own && box.touches(d); }) &&
           std::none_of(taken_.begin(), taken_.end(), [&](const auto& t) { return box.touches(t); });
  }
  /// Neither a name nor a dot apart from this one lies on the way; the way is then taken.
  bool free_line(const map_dot& dot, double dx, double dy, double distance) {
    std::vector<text_box> way;
    for (double far = 0; far < distance; far += 2) {
      const double x = dot.x + dx * (dot.radius + far), y = dot.y + dy * (dot.radius + far);
      way.push_back({x - 1, y - 1, x + 1, y + 1});
    }
    const auto apart = [&](const map_dot& d) {
      return std::hypot(d.x - dot.x, d.y - dot.y) > d.radius + dot.radius;
    };
    for (const auto& step : way) {
      for (const auto& d : dots_)
        if (apart(d) && step.touches(d)) return false;
      for (const auto& t : taken_)
        if (step.touches(t)) return false;
    }
    taken_.insert(taken_.end(), way.begin(), way.end());
    return true;
  }
  placed_name take(const placed_name& name) {
    const text_box& box = name.box;
    taken_.push_back({box.left - 3, box.top, box.right + 3, box.bottom});  // two numbers are not read as one
    return name;
  }

  const std::vector<map_dot>& dots_;
  double height_;
  std::vector<text_box> taken_;
};

/// From the rim of a dot to the nearest point of its name.
inline std::string draw_leader(const map_dot& dot, const text_box& box) {
  const double x = std::clamp(dot.x, box.left, box.right), y = std::clamp(dot.y, box.top, box.bottom);
  const double part = dot.radius / std::hypot(x - dot.x, y - dot.y);
  return svg_line(dot.x + part * (x - dot.x), dot.y + part * (y - dot.y), x, y, "leader");
}

}  // namespace detail

inline std::string map_chart(const chart_options& options, std::span<const map_point> points) {
  using namespace detail;
  double height = 0;
  const auto dots = map_dots(points, height);
  if (dots.empty()) return empty_figure(options);
  name_places places(dots, height);
  std::string circles, names, words;
  std::size_t unnamed = 0;
  for (const auto& dot : dots) {
    const std::string& name = dot.point->name;
    const std::string tip = dot.point->tooltip.empty() ? name : name + ": " + dot.point->tooltip;
    circles += svg_circle(dot.x, dot.y, dot.radius, "place", tip) + "\n";
    words += tip + ". ";
    const auto found = places.find(dot);
    unnamed += !found;
    if (!found) continue;
    if (found->away) names += draw_leader(dot, found->box);
    names += svg_text((found->box.left + found->box.right) / 2, found->box.top + 10,
                      found->inside ? "middle on" : "middle", name);
  }
  chart_options told = options;
  if (unnamed > 0)
    told.caption += joined(told.caption.empty() ? "" : " ", std::to_string(unnamed),
                           unnamed == 1 ? " name that" : " names that", " found no room here ",
                           unnamed == 1 ? "is" : "are", " in the list of labels.");
  const std::string frame =
      joined("<rect ", placed("x", 0.5, "y", 0.5, "width", chart_width - 1, "height", height - 1),
             " rx=\"6\" class=\"map\"/>\n");
  return figure(told, height, words, frame + circles + names);
}

}  // namespace planlm
