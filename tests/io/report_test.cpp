#include <planlm/io/chart.hpp>
#include <planlm/io/label_map.hpp>
#include <planlm/io/report.hpp>
#include <sstream>

#include "../catch.hpp"
#include "balanced.hpp"

using namespace planlm;

namespace {

std::string figure() { return line_chart({.title = "curve"}, std::vector<series>{{"a", {0, 1}, {1, 2}}}); }

report with_everything() {
  report page("A <title>", "with & without");
  page.section("First", "lead <1>").chart(figure()).chart(figure()).paragraph("a < b");
  page.table({{"name", text_table::left}, {"<value>"}}, {{"one", "1"}, {"<two>", "2"}}, "caption & more")
      .chart(figure());
  page.section("Second").facts(
      std::vector<fact>{{"command", "train --text <file>", true}, {"<key>", "value"}});
  page.sample(
      {"Sample", "context <c>", {{"said <s>", 17, "typical <t>", true}, {"other", 3, "t", false}, {"free"}}});
  std::vector<label_card> cards;
  for (int i = 0; i < 20; ++i) cards.push_back({i, 0.05, {"first <f>", "second"}});
  page.section("Third").label_cards(cards).chart(
      map_chart({.title = "map"}, std::vector<map_point>{{0, 0, 1, "a", ""}}));
  return page;
}

}  // namespace

TEST_CASE("a page with one of everything is well formed and the same each time") {
  const std::string page = with_everything().html();
  CHECK(unbalanced(page) == "");
  CHECK(page == with_everything().html());
  CHECK(occurrences(page, "<figure") == 4);
  CHECK(holds(page, "<title>A &lt;title&gt;</title>"));
  CHECK(holds(page, "with &amp; without"));
  for (const char* text : {"lead &lt;1&gt;", "&lt;value&gt;", "&lt;two&gt;", "&lt;file&gt;", "&lt;key&gt;",
                           "context &lt;c&gt;", "said &lt;s&gt;", "typical &lt;t&gt;", "first &lt;f&gt;"})
    CHECK(holds(page, text));
}

TEST_CASE("the check for well-formed markup finds what is not") {
  CHECK(unbalanced("<a b=\"c\"><d/>&amp;</a>") == "");
  for (const char* bad :
       {"<a>", "</a>", "<a></b>", "a & b", "<a b=c></a>", "<a b=\"c></a>", "1 < 2", "<a><b></a></b>"})
    CHECK_FALSE(unbalanced(bad).empty());
}

TEST_CASE("a page loads nothing and runs nothing") {
  const std::string page = with_everything().html();
  for (const char* part : {"<script", "http:", "https:", "url(", "@import", " src=", "onload"})
    CHECK_FALSE(holds(page, part));
  CHECK(holds(page, "name=\"viewport\" content=\"width=device-width, initial-scale=1\""));
  CHECK(holds(page, "prefers-color-scheme: dark"));
}

TEST_CASE("charts that follow each other share a grid") {
  const std::string page = with_everything().html();
  CHECK(occurrences(page, "<div class=\"charts\">") == 3);  // two charts, one after the table, the map
}

TEST_CASE("a table names its rows and columns and refuses rows that do not fit") {
  report page("t");
  page.table({{"name", text_table::left}, {"value"}}, {{"one", "1"}});
  const std::string html = page.html();
  CHECK(holds(html, "<th scope=\"col\" class=\"left\">name</th><th scope=\"col\">value</th>"));
  CHECK(holds(html, "<th scope=\"row\" class=\"left\">one</th><td>1</td>"));
  try {
    page.table({{"name"}, {"value"}}, {{"one", "1"}, {"two"}});
    FAIL("the row was accepted");
  } catch (const shape_error& e) {
    CHECK(std::string(e.what()) == "report: row 1 has 1 cells, the table has 2 columns");
  }
  CHECK(page.html() == html);
}

TEST_CASE("a sample shows the context, then every sentence with its plan, and counts the plans followed") {
  const std::string page = with_everything().html();
  CHECK(holds(page, "<h3>Sample</h3><span>1 of 2 plans followed</span>"));
  CHECK(page.find("context &lt;c&gt;") < page.find("said &lt;s&gt;"));
  CHECK(holds(page, "<li><p>said &lt;s&gt;</p><div class=\"plan\"><span class=\"chip\">17</span>"));
  CHECK(occurrences(page, ">not followed<") == 1);
  CHECK(holds(page, "<li class=\"off\"><p>other</p>"));
  CHECK(holds(page, "<li class=\"free\"><p>free</p></li>"));
}

TEST_CASE("a plan of which nobody knows whether it was followed is not judged") {
  report page("t");
  page.sample({"s", "", {{"text", 1, "typical"}}});
  CHECK_FALSE(holds(page.html(), "plans followed"));
  CHECK_FALSE(holds(page.html(), ">not followed<"));
}

TEST_CASE("twelve labels are shown and the others fold away") {
  const std::string page = with_everything().html();
  CHECK(occurrences(page, "<details class=\"label\">") == 20);
  CHECK(holds(page, "<summary>The other 8 labels</summary>"));
  CHECK(holds(page, "<span class=\"share\">5.0 %</span>"));
}

TEST_CASE("sections are linked from the top where there are several") {
  const std::string page = with_everything().html();
  CHECK(holds(page, "<a href=\"#section-2\">Second</a>"));
  CHECK(holds(page, "<section id=\"section-2\">"));
  CHECK_FALSE(holds(report("t").section("only").html(), "<nav"));
}

TEST_CASE("a page without sections is a page") {
  CHECK(unbalanced(report("t").html()) == "");
  CHECK(unbalanced(report("t").paragraph("text before any section").html()) == "");
  CHECK(unbalanced(report("").section("").label_cards({}).facts({}).html()) == "");
}

TEST_CASE("the environment is named") {
  const auto facts = environment_facts();
  REQUIRE(facts.size() >= 4);
  CHECK(facts[0].key == "compiler");
  CHECK(facts[1].key == "instruction set");
  CHECK(facts.back().key == "hardware threads");
  for (const auto& f : facts) CHECK_FALSE(f.value.empty());
#if !defined(__AVX2__)
  CHECK(facts[1].value == "baseline");
#else
  CHECK(facts[1].value.starts_with("AVX"));
#endif
}

TEST_CASE("the processor's name is read where the system gives one") {
  const auto name = [](const std::string& text) {
    std::istringstream cpuinfo(text);
    return detail::processor_name(cpuinfo);
  };
  CHECK(name("processor\t: 0\nmodel\t\t: 8\nmodel name\t: A CPU: @ 2 GHz\nmodel name\t: another\n") ==
        "A CPU: @ 2 GHz");
  CHECK(name("processor\t: 0\nCPU implementer\t: 0x41\n") == "");
  for (const char* text : {"", "model name", "model name\t:", "model name\t: "}) CHECK(name(text) == "");
}

TEST_CASE("captions stand above their charts, on every width") {
  const std::string page = report("t").section("").chart(figure()).html();
  CHECK(page.find("<figcaption>") < page.find("role=\"img\""));
  CHECK_FALSE(holds(page, "order:"));
}
