#include <planlm/io/progress.hpp>

#include <sstream>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

namespace {

/// A bar on a string, with a clock that the test moves.
struct stage {
  std::ostringstream out;
  double now = 100;
  int columns = 80;

  progress_output output(bool redraws, bool utf8 = false) {
    progress_output o;
    o.stream = &out;
    o.redraws = redraws;
    o.utf8 = utf8;
    o.columns = [this] { return columns; };
    o.clock = [this] { return now; };
    return o;
  }
  std::string taken() {
    std::string text = out.str();
    out.str("");
    return text;
  }
};

/// The lines that stood on the terminal, one after the other.
std::vector<std::string> drawings(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line, '\r');)
    if (!line.empty()) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_CASE("on a terminal the bar shows share, steps, loss, speed and time left") {
  stage s;
  progress_bar bar("joint", 200, 0, s.output(true));
  s.now += 10;
  bar.update(50, 4.46271, 123000);
  CHECK(s.taken() == "\rjoint  25% |#####               | 50/200  loss 4.4627  12.3k tok/s  0:30 left");
  s.now += 30;
  bar.update(200, 4.4, 123000);
  bar.finish();
  CHECK(s.taken() == "\rjoint 100% |####################| 200/200  loss 4.4000  3.1k tok/s  0:40 in all\n");
}

TEST_CASE("the bar is redrawn at most ten times a second, and its last state always") {
  stage s;
  std::size_t draws = 0;
  {
    progress_bar bar("base", 1000, 0, s.output(true));
    for (index_t step = 1; step <= 1000; ++step) {
      s.now += 0.001953125;  // 1000 steps in 1.95 s
      bar.update(step, 1.0, step);
    }
    bar.finish();
    const auto lines = drawings(s.out.str());
    draws = lines.size();
    CHECK(lines.back().find("1000/1000") != std::string::npos);
  }
  CHECK(draws <= 21);
  CHECK(draws >= 15);
}

TEST_CASE("a shorter line wipes out what the longer one left") {
  stage s;
  progress_bar bar("x", 1000000, 0, s.output(true));
  bar.update(1, 123456.0, 0);
  const std::size_t longer = s.taken().size() - 1;
  s.now += 1;
  s.columns = 20;
  bar.update(2, 1.0, 0);
  const std::string drawn = s.taken();
  CHECK(drawn.size() - 1 == longer);
  CHECK(drawn.substr(20).find_first_not_of(' ') == std::string::npos);
}

TEST_CASE("no line is as wide as the terminal, whatever its width") {
  for (int columns = 1; columns < 120; ++columns) {
    for (const bool utf8 : {false, true}) {
      stage s;
      s.columns = columns;
      progress_bar bar("mixture-jöint", 300, 0, s.output(true, utf8));
      s.now += 7;
      bar.update(126, 4.4627, 9000);
      for (const std::string& line : drawings(s.taken()))
        CHECK(detail::display_width(line) <= static_cast<std::size_t>(std::max(1, columns - 1)));
    }
  }
}

TEST_CASE("with UTF-8 the bar is drawn to an eighth of a column, without it in ASCII") {
  CHECK(detail::drawn_bar(0.0, 4, true) == "|    |");
  CHECK(detail::drawn_bar(1.0, 4, true) == "|████|");
  CHECK(detail::drawn_bar(0.625, 4, true) == "|██▌ |");
  CHECK(detail::drawn_bar(0.03125, 4, true) == "|▏   |");
  CHECK(detail::drawn_bar(0.625, 4, false) == "|##  |");
  CHECK(detail::drawn_bar(1.0, 4, false) == "|####|");
}

TEST_CASE("into a file go plain lines every few seconds and one at the end") {
  stage s;
  {
    progress_bar bar("planner", 100, 0, s.output(false, true));
    for (index_t step = 1; step <= 100; ++step) {
      s.now += 0.125;
      bar.update(step, 3.0, step * 10);
    }
    bar.finish();
  }
  CHECK(s.taken() ==
        "planner  40% 40/100  loss 3.0000  80 tok/s  0:08 left\n"
        "planner  80% 80/100  loss 3.0000  80 tok/s  0:03 left\n"
        "planner 100% 100/100  loss 3.0000  80 tok/s  0:13 in all\n");
}

TEST_CASE("the time left of a resumed run counts the steps of this run only") {
  stage s;
  progress_bar bar("joint", 100, 80, s.output(false));
  s.now += 20;
  bar.update(90, 2.0, 0);
  CHECK(s.taken() == "joint  90% 90/100  loss 2.0000  0:20 left\n");
}

TEST_CASE("before the first step nothing is claimed") {
  stage s;
  progress_bar bar("base", 50, 0, s.output(false));
  s.now += 9;
  bar.update(0, std::nan(""), 0);
  CHECK(s.taken() == "base   0% 0/50  -:-- left\n");
}

TEST_CASE("an exception leaves the cursor on a fresh line, with no second newline after finish") {
  stage s;
  try {
    progress_bar bar("base", 50, 0, s.output(true));
    bar.update(1, 1.0, 1);
    throw std::runtime_error("stop");
  } catch (const std::runtime_error&) {}
  CHECK(s.taken().ends_with("left\n"));
  {
    progress_bar bar("base", 50, 0, s.output(true));
    bar.update(1, 1.0, 1);
    bar.finish();
    s.taken();
    bar.finish();
    bar.update(2, 1.0, 1);
  }
  CHECK(s.taken() == "");
  { progress_bar untouched("base", 50, 0, s.output(true)); }
  CHECK(s.taken() == "");
}

TEST_CASE("a note stands above the bar, which is drawn again below it") {
  stage s;
  progress_bar bar("b", 4, 0, s.output(true));
  bar.update(1, 1.0, 0);
  const std::string drawn = s.taken();
  bar.note("saved checkpoint");
  const std::string blank = std::string("\r") + std::string(drawn.size() - 1, ' ') + "\r";
  CHECK(s.taken() == blank + "saved checkpoint\n" + drawn);

  stage file;
  progress_bar plain("b", 4, 0, file.output(false));
  plain.note("saved checkpoint");
  CHECK(file.taken() == "saved checkpoint\n");
}

TEST_CASE("no escape sequence is ever written") {
  stage s;
  {
    progress_bar bar("joint", 10, 0, s.output(true, true));
    for (index_t step = 0; step <= 10; ++step, s.now += 1) bar.update(step, 1.0, step);
    bar.note("half");
  }
  CHECK(s.taken().find('\x1b') == std::string::npos);
}

TEST_CASE("counts and times are written short") {
  CHECK(detail::short_count(0) == "0");
  CHECK(detail::short_count(999) == "999");
  CHECK(detail::short_count(1000) == "1.0k");
  CHECK(detail::short_count(999949) == "999.9k");
  CHECK(detail::short_count(1000000) == "1.0M");
  CHECK(detail::clock_time(0) == "0:00");
  CHECK(detail::clock_time(59.6) == "1:00");
  CHECK(detail::clock_time(83) == "1:23");
  CHECK(detail::clock_time(7384) == "2:03:04");
  CHECK(detail::clock_time(-1) == "0:00");
  CHECK(detail::clock_time(std::nan("")) == "-:--");
}

TEST_CASE("a run without steps is complete, negative counts are refused") {
  stage s;
  {
    progress_bar bar("none", 0, 0, s.output(false));
    bar.update(0, std::nan(""), 0);
  }
  CHECK(s.taken() == "none 100% 0/0  0:00 in all\n");
  CHECK_THROWS_AS(progress_bar("x", -1, 0, s.output(false)), error);
  progress_bar bar("x", 1, 0, s.output(false));
  CHECK_THROWS_AS(bar.update(-1, 0.0, 0), error);
}
