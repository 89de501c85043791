#include <cmath>
#include <limits>
#include <planlm/io/chart.hpp>

#include "../catch.hpp"
#include "balanced.hpp"

using namespace planlm;

namespace {

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

/// The data of the first path in the drawing, after those of the legend.
std::string path_of(const std::string& figure) {
  const auto path = figure.find("<path class=\"line", figure.find("role=\"img\""));
  const auto data = figure.find(" d=\"", path) + 4;
  return path == std::string::npos ? "" : figure.substr(data, figure.find('"', data) - data);
}

}  // namespace

TEST_CASE("every chart has a caption, a title and a description, and escapes what it is given") {
  const chart_options options = {.title = "a < b",
                                 .caption = "c & d",
                                 .x_title = "<x>",
                                 .y_title = "\"y\"",
                                 .reference = 1.5,
                                 .reference_name = "<ref>"};
  const std::vector<series> curves = {{"<one>", {1, 2}, {1, 2}}, {"two & three", {1, 2}, {2, 3}}};
  const std::vector<interval_bar> intervals = {{"<one>", 1, 0.5, 1.5, false}};
  const std::vector<bar> bars = {{"<one>", 1}, {"&", 2}};
  for (const auto& figure :
       {line_chart(options, curves), interval_chart(options, intervals), bar_chart(options, bars)}) {
    INFO(figure);
    CHECK(unbalanced(figure) == "");
    CHECK(occurrences(figure, "<figure") == 1);
    CHECK(holds(figure, "<strong>a &lt; b</strong> <span>c &amp; d</span>"));
    CHECK(holds(figure, "role=\"img\"><title>a &lt; b</title><desc>"));
    CHECK(holds(figure, "&lt;one&gt;"));
    CHECK(holds(figure, "&lt;ref&gt;"));
    CHECK_FALSE(holds(figure, "<desc></desc>"));
  }
}

TEST_CASE("a chart of nothing says so") {
  const std::vector<series> curves = {{"a", {}, {}}, {"b", {1, 2}, {nan_value, nan_value}}};
  const std::vector<interval_bar> intervals = {{"a", nan_value, 0, 1, false}};
  const std::vector<bar> bars = {{"a", nan_value}};
  const chart_options options = {.title = "empty", .reference = 3.0};
  for (const auto& figure :
       {line_chart(options, {}), line_chart(options, curves), interval_chart(options, {}),
        interval_chart(options, intervals), bar_chart(options, {}), bar_chart(options, bars)}) {
    CHECK(unbalanced(figure) == "");
    CHECK(holds(figure, "There is nothing to show yet."));
    CHECK(holds(figure, "<desc>There is nothing to show.</desc>"));
  }
}

TEST_CASE("the same input gives the same bytes") {
  const std::vector<series> curves = {{"a", {1, 2, 3}, {0.1, 0.2, 0.4}}};
  CHECK(line_chart({.title = "t"}, curves) == line_chart({.title = "t"}, curves));
}

TEST_CASE("a point that is no number leaves a gap, and a point between two gaps is a dot") {
  const std::vector<series> curves = {{"a", {0, 1, 2, 3, 4, 5, 6}, {0, 1, nan_value, 1, INFINITY, 1, 0}}};
  const std::string figure = line_chart({.title = "t"}, curves);
  const std::string path = path_of(figure);
  CHECK(occurrences(path, "M") == 3);
  CHECK(occurrences(path, "h0") == 1);
  CHECK(occurrences(figure, "<circle") == 5);
  CHECK(holds(figure, "leave gaps: 2."));
  CHECK_FALSE(holds(figure, "nan"));
  CHECK_FALSE(holds(figure, "inf"));
}

TEST_CASE("a logarithmic axis leaves out what is not above 0") {
  const std::vector<series> curves = {{"a", {0, 1, 10, 100}, {1, 2, 3, 4}}};
  const std::string figure = line_chart({.title = "t", .x_title = "steps", .log_x = true}, curves);
  CHECK(occurrences(figure, "<circle") == 3);
  CHECK(holds(figure, ">steps (log scale)</text>"));
  CHECK(holds(figure, "leave gaps: 1."));
}

TEST_CASE("few whole numbers across are written as they are, and a point alone has its number below") {
  const auto numbers = [](const std::vector<double>& x, bool logarithmic) {
    const std::vector<series> curves = {{"a", x, std::vector<double>(x.size(), 100)}};
    const std::string figure = line_chart({.title = "t", .log_x = logarithmic}, curves);
    std::string row;
    const std::string where = "y=\"220\" class=\"middle\">";
    for (auto at = figure.find(where); at != std::string::npos; at = figure.find(where, at + 1))
      row += figure.substr(at + where.size(), figure.find('<', at) - at - where.size()) + " ";
    return row;
  };
  for (const bool logarithmic : {false, true}) {
    CHECK(numbers({1, 2}, logarithmic) == "1 2 ");
    CHECK(numbers({1, 2, 3, 4}, logarithmic) == "1 2 3 4 ");
    CHECK(numbers({3}, logarithmic) == "3 ");
  }
  CHECK(numbers({1, 3}, false) == "1 3 ");
  CHECK(numbers({0, 0.5, 1}, false) == "0.0 0.2 0.4 0.6 0.8 1.0 ");
}

TEST_CASE("only a chart that is much taller than wide is called tall") {
  const std::vector<interval_bar> few(3, {"a", 1, 0, 2}), many(40, {"a", 1, 0, 2});
  CHECK(holds(interval_chart({.title = "t"}, few), "<figure class=\"chart\">"));
  CHECK(holds(interval_chart({.title = "t"}, many), "<figure class=\"chart tall\">"));
}

TEST_CASE("a long curve is thinned, and its spikes stay") {
  std::vector<series> curves = {{"a", {}, {}}};
  for (int i = 0; i < 100000; ++i) {
    curves[0].x.push_back(i);
    curves[0].y.push_back(i == 54321 ? 10 : i == 23456 ? -10 : std::sin(0.9 * i));
  }
  const std::string path = path_of(line_chart({.title = "t"}, curves));
  CHECK(occurrences(path, "L") < 4 * 360);
  CHECK(occurrences(path, "L") > 360);
  CHECK(holds(path, " 28L"));   // 10 is the top of the axis, at 28 units
  CHECK(holds(path, " 204L"));  // -10 is its bottom
  CHECK(occurrences(path, "M") == 1);
}

TEST_CASE("a gap in a long curve stays") {
  std::vector<series> curves = {{"a", {}, {}}};
  for (int i = 0; i < 10000; ++i) {
    curves[0].x.push_back(i);
    curves[0].y.push_back(i >= 4000 && i < 5000 ? nan_value : i % 7);
  }
  CHECK(occurrences(path_of(line_chart({.title = "t"}, curves)), "M") == 2);
}

TEST_CASE("names stand in the order in which the curves end, and one curve needs none") {
  const std::vector<series> curves = {{"low", {0, 1}, {5, 1}}, {"none", {}, {}}, {"high", {0, 1}, {2, 4}}};
  const std::string figure = line_chart({.title = "t"}, curves);
  const std::string names = figure.substr(figure.find("<ul"), figure.find("</ul>") - figure.find("<ul"));
  CHECK(names.find("high") < names.find("low"));
  CHECK_FALSE(holds(names, "none"));
  CHECK_FALSE(holds(line_chart({.title = "t"}, std::vector<series>{{"low", {0, 1}, {5, 1}}}), "<ul"));
}

TEST_CASE("curves beyond the fourth are dashed") {
  const std::vector<series> curves(9, series{"a", {0, 1}, {0, 1}});
  const std::string figure = line_chart({.title = "t"}, curves);
  CHECK(occurrences(figure, "line c0\"") == 4);  // the first and the ninth, in the legend and in the drawing
  CHECK(occurrences(figure, "line c4 dashed\"") == 2);
}

TEST_CASE("intervals lie where they should") {
  // 0 to 10 takes 8 to 352 units: 5 is at 180, 2 at 76.8, 8 at 283.2
  const std::vector<interval_bar> bars = {{"all", 5, 0, 10, false}, {"some", 5, 2, 8, true}};
  const std::string figure =
      interval_chart({.title = "t", .reference = 2.0, .reference_name = "fixed"}, bars);
  CHECK(holds(figure,
              "<circle cx=\"180\" cy=\"49\" r=\"4.5\" class=\"value\"><title>all: 5.0 [0.0, 10.0]</title>"));
  CHECK(holds(figure, "<line x1=\"8\" y1=\"49\" x2=\"352\" y2=\"49\" class=\"whisker\"/>"));
  CHECK(holds(figure, "<line x1=\"76.8\" y1=\"88\" x2=\"283.2\" y2=\"88\" class=\"whisker chosen\"/>"));
  CHECK(holds(figure, "<line x1=\"76.8\" y1=\"40\" x2=\"76.8\" y2=\"58\" class=\"reference row\"/>"));
  CHECK(holds(figure, ">fixed 2</text>"));
  CHECK(holds(figure, "<desc>all: 5.0 [0.0, 10.0]. some: 5.0 [2.0, 8.0]. </desc>"));
}

TEST_CASE("a variant without a value keeps its row and moves no axis") {
  const std::vector<interval_bar> bars = {{"all", 5, 4, 6, false}, {"never run", nan_value, 0, 0, false}};
  const std::string figure = interval_chart({.title = "t"}, bars);
  CHECK(holds(figure, ">never run</text>"));
  CHECK(holds(figure, ">no value</text>"));
  CHECK(occurrences(figure, "<circle") == 1);
  CHECK(holds(figure, "cx=\"180\""));
}

TEST_CASE("a value without an interval is a dot, and a long name takes two lines") {
  const std::vector<interval_bar> bars = {
      {"a name that is much too long for a line and goes on and on and on", 5, nan_value, nan_value, false},
      {"other", 6, 5, 7, false}};
  const std::string figure = interval_chart({.title = "t"}, bars);
  CHECK(occurrences(figure, "whisker") == 3);
  CHECK(occurrences(figure, "class=\"name\"") == 3);
  CHECK(
      holds(figure, "<title>a name that is much too long for a line and goes on and on and on: 5.0</title>"));
}

TEST_CASE("bars stand on zero, one for each value") {
  const std::vector<bar> bars = {{"a", 4}, {"b", nan_value}, {"c", -2}};
  const std::string figure = bar_chart({.title = "t"}, bars);
  // -2 to 4 takes 184 to 28 units: zero is at 132, 4 at 28
  CHECK(holds(figure, "width=\"40.00\" y=\"28\" height=\"104\" class=\"bar\"><title>a: 4<"));
  CHECK(holds(figure, "width=\"40.00\" y=\"132\" height=\"52\" class=\"bar\"><title>c: −2<"));
  CHECK(occurrences(figure, "class=\"bar\"") == 2);
  CHECK(holds(figure, "b: no number"));
}

TEST_CASE("of many bars only the names that fit are written") {
  std::vector<bar> bars;
  for (int i = 0; i < 256; ++i) bars.push_back({std::to_string(i), 1.0 + i});
  const std::string figure = bar_chart({.title = "t"}, bars);
  CHECK(occurrences(figure, "class=\"bar\"") == 256);
  CHECK(holds(figure, ">50</text>"));
  CHECK_FALSE(holds(figure, ">51</text>"));
}

TEST_CASE("a dashed line is named above the chart with its value") {
  const std::vector<bar> bars = {{"a", 4}, {"b", 0}};
  const std::string figure =
      bar_chart({.title = "t", .y_title = "%", .reference = 2, .reference_name = "alike"}, bars);
  CHECK(holds(figure, "y1=\"106\" x2=\"354\" y2=\"106\" class=\"reference\"/>"));  // half way from 184 to 28
  CHECK(holds(figure, "y=\"12\">alike 2</text>"));
}

TEST_CASE("names of bars never touch") {
  const std::vector<bar> bars = {
      {"a long name for a bar", 1}, {"another long name for it", 2}, {"a third", 3}};
  const std::string figure = bar_chart({.title = "t"}, bars);
  CHECK(holds(figure, ">a long name for a bar</text>"));
  CHECK_FALSE(holds(figure, ">another long name for it</text>"));
}
