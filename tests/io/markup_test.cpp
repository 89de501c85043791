#include <cmath>
#include <limits>
#include <planlm/io/markup.hpp>

#include "../catch.hpp"

using namespace planlm;
using namespace planlm::detail;

TEST_CASE("markup in a text is made harmless") {
  CHECK(escaped("<b a=\"1\">&amp;</b>") == "&lt;b a=&quot;1&quot;&gt;&amp;amp;&lt;/b&gt;");
  CHECK(escaped("plain, Δ, 漢字, 🙂, 'quoted'\n\ttab") == "plain, Δ, 漢字, 🙂, 'quoted'\n\ttab");
  CHECK(escaped("") == "");
}

TEST_CASE("bytes that are no character become U+FFFD, and what follows is kept") {
  const std::string no = "\xEF\xBF\xBD";
  CHECK(escaped(std::string("a\0b", 3)) == "a" + no + "b");
  CHECK(escaped("\x1B[1m") == no + "[1m");                  // a control character, which XML cannot hold
  CHECK(escaped("\xC3(") == no + "(");                      // the second byte is missing
  CHECK(escaped("\xE2\x82") == no + no);                    // cut off at the end
  CHECK(escaped("\xC0\xAF") == no + no);                    // longer than need be
  CHECK(escaped("\xED\xA0\x80") == no + no + no);           // half of a surrogate pair
  CHECK(escaped("\xF4\x90\x80\x80") == no + no + no + no);  // beyond U+10FFFF
  CHECK(escaped("\xEF\xBF\xBF") == no + no + no);           // U+FFFF
  CHECK(escaped("\xFF<") == no + "&lt;");
}

TEST_CASE("numbers are written with the digits that matter") {
  CHECK(readable(0) == "0");
  CHECK(readable(48000) == "48,000");
  CHECK(readable(5.6312) == "5.631");
  CHECK(readable(0.012341) == "0.01234");
  CHECK(readable(-1234567) == "−1,234,567");
  CHECK(readable(1e-7) == "1e-07");
  CHECK(readable(2.5e12) == "2.5e+12");
  CHECK(readable(std::nan("")) == "no number");
  CHECK(readable(std::numeric_limits<double>::infinity()) == "infinite");
  CHECK(grouped("123") == "123");
  CHECK(grouped("1234.5678") == "1,234.5678");
  CHECK(grouped("-123456") == "−123,456");
}

TEST_CASE("a text too long is cut between characters") {
  CHECK(shortened("short", 100) == "short");
  CHECK(text_width(shortened(std::string(100, 'm'), 60)) <= 60);
  for (double width = 12; width < 80; ++width) {
    const std::string cut = shortened("ΔΔΔΔΔΔΔΔΔΔΔΔ", width);
    CHECK(escaped(cut) == cut);  // no half character
    CHECK(text_width(cut) <= width);
  }
  CHECK(shortened("ab", 0) == "…");
}

TEST_CASE("a name takes two lines, broken at a space") {
  CHECK(in_two_lines("one", 100) == std::vector<std::string>{"one"});
  CHECK(in_two_lines("sampled plans", 80) == std::vector<std::string>{"sampled", "plans"});
  const auto lines = in_two_lines("sampled plans with many paths and steps", 80);
  REQUIRE(lines.size() == 2);
  CHECK(lines[1].ends_with("…"));
  CHECK(in_two_lines("one-word-without-any-space", 80).size() == 1);
}
