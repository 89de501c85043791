/// The page a run leaves for people: one HTML file that needs nothing else, on a phone as on a screen.
///
///   report page("The planner on a book", "seed 1, 2026-03-01");
///   page.section("Perplexity", "Lower is better.").chart(interval_chart(options, bars));
///   folder.write_text("report.html", page.html());
///
/// Charts that follow each other stand side by side where there is room. Texts are escaped here; a chart is
/// markup already. The page runs no script and loads nothing. The same input gives the same bytes. Errors:
/// shape_error for a row whose cells do not match the columns.
#pragma once
#include <sys/utsname.h>

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <istream>
#include <optional>
#include <planlm/core/error.hpp>
#include <planlm/io/markup.hpp>
#include <planlm/io/report_style.hpp>
#include <planlm/io/table.hpp>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace planlm {

/// A line of a list of facts: "corpus", "vocabulary"; `code` for commands and paths.
struct fact {
  std::string key, value;
  bool code = false;
};

/// A sentence of generated text and the label it was planned to have; no label, no plan. `typical` is a
/// sentence that stands for the label. `followed`: whether the sentence came out with that label, where that
/// is known.
struct planned_sentence {
  std::string text;
  std::optional<int> label = {};
  std::string typical = {};
  std::optional<bool> followed = {};
};

struct text_sample {
  std::string title, context;  // the text that was given, shown before the sentences
  std::vector<planned_sentence> sentences;
};

/// What a label stands for. `share`: the part of all sentences that have it, 0 to 1.
struct label_card {
  int label;
  double share;
  std::vector<std::string> typical;  // the most typical first
};

namespace detail {

/// The name of the processor in the text of /proc/cpuinfo; empty where it gives none, as on ARM.
inline std::string processor_name(std::istream& cpuinfo) {
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("model name")) continue;
    const auto begin = line.find_first_not_of(" \t", std::min(line.find(':'), line.size() - 1) + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

}  // namespace detail

/// What the numbers of a run may depend on besides its flags: compiler, the instructions it was allowed to
/// use, system, processor.
inline std::vector<fact> environment_facts() {
#if defined(__AVX512F__)
  const char* instructions = "AVX-512";
#elif defined(__AVX2__)
  const char* instructions = "AVX2";
#else
  const char* instructions = "baseline";
#endif
#if defined(__clang__)
  const std::string compiler = std::string("Clang ") + __clang_version__;
#else
  const std::string compiler = std::string("GCC ") + __VERSION__;
#endif
  std::vector<fact> facts = {{"compiler", compiler}, {"instruction set", instructions}};
  utsname system = {};
  if (::uname(&system) == 0)
    facts.push_back({"system", std::string(system.sysname) + " " + system.release + ", " + system.machine});
  std::ifstream cpuinfo("/proc/cpuinfo");
  const std::string processor = detail::processor_name(cpuinfo);
  if (!processor.empty()) facts.push_back({"processor", processor});
  facts.push_back({"hardware threads", std::to_string(std::thread::hardware_concurrency())});
  return facts;
}

class report {
 public:
  explicit report(std::string title, std::string subtitle = "")
      : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

  /// What is added from here on stands under this heading.
  report& section(std::string heading, std::string lead = "") {
    sections_.push_back({std::move(heading), std::move(lead), {}});
    return *this;
  }

  /// A figure made by line_chart, interval_chart, bar_chart or map_chart.
  report& chart(std::string figure) { return add(std::move(figure), true); }

  report& paragraph(std::string_view text) { return add(detail::element("p", "", detail::escaped(text))); }

  /// The first cell of a row names it.
  report& table(const std::vector<text_table::column>& columns,
                const std::vector<std::vector<std::string>>& rows, const std::string& caption = "") {
    using namespace detail;
    std::string head, body;
    for (const auto& column : columns)
      head += element("th", joined("scope=\"col\"", side(column)), escaped(column.title));
    for (std::size_t r = 0; r < rows.size(); ++r) body += table_row(columns, rows[r], r);
    const std::string words = caption.empty() ? "" : element("caption", "", escaped(caption));
    const std::string box = joined("class=\"scroll\" tabindex=\"0\" role=\"region\" ",
                                   attribute("aria-label", caption.empty() ? "table" : caption));
    return add(element(
        "div", box,
        element("table", "",
                words + element("thead", "", element("tr", "", head)) + "\n" + element("tbody", "", body))));
  }

  report& facts(std::span<const fact> list) {
    using namespace detail;
    std::string items;
    for (const auto& f : list)
      items += element("dt", "", escaped(f.key)) +
               element("dd", "", f.code ? element("code", "", words(f.value)) : escaped(f.value)) + "\n";
    return add(element("dl", "", items));
  }

  /// Generated text, each sentence with its plan beside it.
  report& sample(const text_sample& s) {
    using namespace detail;
    std::size_t known = 0, followed = 0;
    std::string items;
    for (const auto& sentence : s.sentences) {
      known += sentence.followed.has_value();
      followed += sentence.followed.value_or(false);
      items += planned(sentence);
    }
    std::string header = element("h3", "", escaped(s.title));
    if (known > 0)
      header +=
          element("span", "", std::to_string(followed) + " of " + std::to_string(known) + " plans followed");
    const std::string context =
        s.context.empty() ? "" : element("p", "class=\"context\"", escaped(s.context));
    return add(element("article", "class=\"sample\"",
                       element("header", "", header) + context + element("ol", "", items)));
  }

  /// Labels with their share and typical sentences, in the order given; those after the twelfth fold away.
  report& label_cards(std::span<const label_card> cards) {
    constexpr std::size_t shown = 12;
    double largest = 0;
    for (const auto& c : cards) largest = std::max(largest, c.share);
    std::string first, rest;
    for (std::size_t i = 0; i < cards.size(); ++i) (i < shown ? first : rest) += card(cards[i], largest);
    add(detail::element("div", "class=\"labels\"", first));
    if (rest.empty()) return *this;
    const std::string more = detail::element(
        "summary", "", detail::joined("The other ", std::to_string(cards.size() - shown), " labels"));
    return add(detail::element("details", "class=\"more\"",
                               more + detail::element("div", "class=\"labels\"", rest)));
  }

  std::string html() const {
    using namespace detail;
    constexpr const char* start =
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
        "<meta name=\"color-scheme\" content=\"light dark\"/>\n<link rel=\"icon\" href=\"data:,\"/>\n";
    std::string top = element("h1", "", escaped(title_));
    if (!subtitle_.empty()) top += joined("\n", element("p", "class=\"subtitle\"", escaped(subtitle_)));
    std::string body;
    for (std::size_t i = 0; i < sections_.size(); ++i) body += section_html(i);
    return joined(start, element("title", "", escaped(title_)), "\n", element("style", "", report_style),
                  "\n</head>\n<body>\n", element("header", "", top + contents()), "\n",
                  element("main", "", joined("\n", body)), "\n</body>\n</html>\n");
  }

 private:
  struct block {
    std::string html;
    bool chart;
  };
  struct part {
    std::string heading, lead;
    std::vector<block> blocks;
  };

  report& add(std::string html, bool chart = false) {
    if (sections_.empty()) section("");
    sections_.back().blocks.push_back({std::move(html), chart});
    return *this;
  }

  static std::string side(const text_table::column& column) {
    return column.aligned == text_table::left ? " class=\"left\"" : "";
  }
  static std::string table_row(const std::vector<text_table::column>& columns,
                               const std::vector<std::string>& cells, std::size_t number) {
    using namespace detail;
    if (cells.size() != columns.size())
      throw shape_error(joined("report: row ", std::to_string(number), " has ", std::to_string(cells.size()),
                               " cells, the table has ", std::to_string(columns.size()), " columns"));
    std::string row;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const std::string scope = c == 0 ? "scope=\"row\"" : "";
      row += element(c == 0 ? "th" : "td", scope + side(columns[c]), escaped(cells[c]));
    }
    return element("tr", "", row) + "\n";
  }

  /// A line of a command breaks between words, not after the hyphens of a flag.
  static std::string words(std::string_view text) {
    std::string out;
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find(' ', begin), text.size());
      const std::string word = detail::escaped(text.substr(begin, end - begin));
      out += detail::joined(begin > 0 ? " " : "", detail::element("span", "class=\"word\"", word));
      begin = end + 1;
    }
    return out;
  }
  static std::string chip(int label) {
    return detail::element("span", "class=\"chip\"", std::to_string(label));
  }
  static std::string planned(const planned_sentence& s) {
    using namespace detail;
    const bool off = s.label && !s.followed.value_or(true);
    const std::string missed = off ? joined(" ", element("span", "class=\"missed\"", "not followed")) : "";
    std::string plan;
    if (s.label)
      plan = element("div", "class=\"plan\"",
                     chip(*s.label) + element("span", "class=\"typical\"", escaped(s.typical) + missed));
    const char* look = !s.label ? "class=\"free\"" : off ? "class=\"off\"" : "";
    return element("li", look, element("p", "", escaped(s.text)) + plan) + "\n";
  }

  static std::string card(const label_card& c, double largest) {
    using namespace detail;
    const double part = largest > 0 && drawable(c.share) ? std::clamp(c.share / largest, 0.0, 1.0) : 0;
    const std::string meter =
        joined("<span class=\"meter\"><span style=\"width:", at(100 * part), "%\"></span></span>");
    std::string items;
    for (const auto& sentence : c.typical) items += element("li", "", escaped(sentence));
    const std::string first = c.typical.empty() ? "no sentence" : escaped(c.typical[0]);
    const std::string summary = chip(c.label) +
                                element("span", "class=\"share\"", with_digits(100 * c.share, 1) + " %") +
                                meter + element("span", "class=\"typical\"", first);
    return element("details", "class=\"label\"",
                   element("summary", "", summary) + (items.empty() ? "" : element("ul", "", items))) +
           "\n";
  }

  /// Links to the sections, where there are several.
  std::string contents() const {
    using namespace detail;
    std::string links;
    std::size_t count = 0;
    for (std::size_t i = 0; i < sections_.size(); ++i) {
      if (sections_[i].heading.empty()) continue;
      links += element("a", joined("href=\"#section-", std::to_string(i + 1), "\""),
                       escaped(sections_[i].heading)) +
               "\n";
      ++count;
    }
    return count < 3 ? "" : joined("\n", element("nav", "aria-label=\"Sections\"", links));
  }

  std::string section_html(std::size_t i) const {
    using namespace detail;
    const part& s = sections_[i];
    std::string out;
    if (!s.heading.empty()) out += element("h2", "", escaped(s.heading)) + "\n";
    if (!s.lead.empty()) out += element("p", "class=\"lead\"", escaped(s.lead)) + "\n";
    for (std::size_t b = 0; b < s.blocks.size(); ++b) {
      const bool chart = s.blocks[b].chart;
      if (chart && (b == 0 || !s.blocks[b - 1].chart)) out += "<div class=\"charts\">\n";
      out += s.blocks[b].html + "\n";
      if (chart && (b + 1 == s.blocks.size() || !s.blocks[b + 1].chart)) out += "</div>\n";
    }
    return element("section", joined("id=\"section-", std::to_string(i + 1), "\""), joined("\n", out)) + "\n";
  }

  std::string title_, subtitle_;
  std::vector<part> sections_;
};

}  // namespace planlm
