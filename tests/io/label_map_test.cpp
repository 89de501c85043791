#include <cmath>
#include <planlm/core/philox.hpp>
#include <planlm/io/label_map.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "balanced.hpp"

using namespace planlm;

namespace {

std::vector<map_point> scattered(int count) {
  const philox draw{3};
  std::vector<map_point> points;
  for (int i = 0; i < count; ++i) {
    const auto row = static_cast<std::uint64_t>(i);
    points.push_back(
        {draw.uniform(row, 0), draw.uniform(row, 1), draw.uniform(row, 2), std::to_string(i), ""});
  }
  return points;
}

}  // namespace

TEST_CASE("the area of a dot follows its weight, and both axes have one scale") {
  // one unit is 316 of the drawing, the largest dot has radius 15
  const std::vector<map_point> points = {
      {0, 0, 1, "a", "first"}, {1, 0, 0.25, "b", ""}, {0.5, 0.5, 0, "c", ""}};
  const std::string figure = map_chart({.title = "t"}, points);
  CHECK(unbalanced(figure) == "");
  CHECK(holds(figure, "cx=\"22\" cy=\"180\" r=\"15\" class=\"place\"><title>a: first</title>"));
  CHECK(holds(figure, "cx=\"338\" cy=\"180\" r=\"7.5\" class=\"place\"><title>b</title>"));
  CHECK(holds(figure, "cx=\"180\" cy=\"22\" r=\"3\" class=\"place\"><title>c</title>"));
  CHECK(holds(figure, "class=\"middle on\">a</text>"));
  CHECK(holds(figure, "class=\"middle\">c</text>"));
}

TEST_CASE("names touch neither each other nor dots") {
  const auto points = scattered(64);
  double height = 0;
  const auto dots = detail::map_dots(points, height);
  const std::string figure = map_chart({.title = "t"}, points);
  std::vector<detail::text_box> boxes;
  const auto number_after = [&](const std::string& before, std::size_t from) {
    return std::stod(figure.substr(figure.find(before, from) + before.size()));
  };
  for (auto at = figure.find("<text "); at != std::string::npos; at = figure.find("<text ", at + 1)) {
    const std::string name = std::to_string(static_cast<int>(number_after(">", at)));
    const double x = number_after(" x=\"", at), y = number_after(" y=\"", at),
                 half = detail::text_width(name) / 2 - 0.1;
    const detail::text_box box = {x - half, y - 9.9, x + half, y + 1.9};
    for (const auto& other : boxes) CHECK_FALSE(box.touches(other));
    for (const auto& dot : dots)
      if (dot.point->name != name) CHECK_FALSE(box.touches(dot));
    boxes.push_back(box);
  }
  CHECK(boxes.size() > 48);
}

TEST_CASE("a map says where the names are that found no room, and not only to those with a pointer") {
  const std::vector<map_point> heap(200, {1, 1, 1, "one of many", ""});
  const std::string figure = map_chart({.title = "t"}, heap);
  const std::size_t unnamed = 200 - occurrences(figure, "<text ");
  REQUIRE(unnamed > 1);
  CHECK(
      holds(figure, std::to_string(unnamed) + " names that found no room here are in the list of labels."));
  CHECK_FALSE(holds(figure, "pointer"));
  CHECK(occurrences(figure, "one of many. ") == 200);  // the description names them all
}

TEST_CASE("a map draws what can be drawn, and says so when that is nothing") {
  const std::vector<map_point> points = {
      {std::nan(""), 0, 1, "a", ""}, {1, 1, std::nan(""), "b", ""}, {1, 1, -1, "<c>", "&"}};
  const std::string figure = map_chart({.title = "t"}, points);
  CHECK(unbalanced(figure) == "");
  CHECK(occurrences(figure, "<circle") == 2);
  CHECK_FALSE(holds(figure, "nan"));
  CHECK(holds(figure, "&lt;c&gt;: &amp;"));
  CHECK(holds(map_chart({.title = "t"}, {}), "There is nothing to show yet."));
  CHECK(holds(map_chart({.title = "t"}, std::vector<map_point>{{NAN, 1, 1, "a", ""}}),
              "There is nothing to show yet."));
}

TEST_CASE("the same points give the same map") {
  CHECK(map_chart({.title = "t"}, scattered(32)) == map_chart({.title = "t"}, scattered(32)));
}
