/// The forms a text file may have, told apart by its lines: headings, verses, ends of sentences.
///
/// `detect` looks at all lines, so that one odd line decides nothing. Nothing here fails: what is nothing
/// else is running text.
#pragma once
#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <planlm/text/sentences.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace planlm::text {

enum class corpus_format { automatic, lines, running, json_lines, verses };

/// The names of the enumerators, for flags and messages.
inline constexpr std::array<std::pair<const char*, corpus_format>, 5> corpus_format_names{
    {{"automatic", corpus_format::automatic},
     {"lines", corpus_format::lines},
     {"running", corpus_format::running},
     {"json-lines", corpus_format::json_lines},
     {"verses", corpus_format::verses}}};

namespace detail {

struct text_line {
  std::string_view raw;
  int number;  // from 1
};

/// A heading's rank: 0 none, 1 opens a document, 2 and more inside one.
struct heading {
  int level = 0;
  std::string title;
};

/// Lines ended by LF, CRLF or CR, without their ends.
inline std::vector<text_line> split_lines(std::string_view text) {
  std::vector<text_line> lines;
  for (int number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find_first_of("\r\n"), text.size());
    lines.push_back({text.substr(0, end), number});
    text.remove_prefix(std::min(text.size(), end + (text.substr(end).starts_with("\r\n") ? 2 : 1)));
  }
  return lines;
}

inline bool blank(std::string_view line) {
  const std::size_t first = line.find_first_not_of(" \t\v\f");
  if (first == std::string_view::npos) return true;
  const auto c = static_cast<unsigned char>(line[first]);
  return (c < 0x20 || c >= 0x7F) && tidy(line).empty();
}

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/// `= X =`, `= = X = =`, `== X ==`, `# X`, `## X`, `CHAPTER 1 ...`, `Chapter IV`. `alone`: blank lines on
/// both sides, which WikiText's headings have and formulas that begin and end in `=` have not.
inline heading heading_of(std::string_view raw, bool alone) {
  const std::string line = tidy(raw);
  if (line.empty()) return {};
  const auto count = [](auto begin, auto end) {  // '=' up to the first other character, spaces aside
    int n = 0;
    for (; begin != end && (*begin == '=' || *begin == ' '); ++begin) n += *begin == '=';
    return n;
  };
  if (const int level = count(line.begin(), line.end());
      alone && level > 0 && level == count(line.rbegin(), line.rend())) {
    const std::size_t first = line.find_first_not_of("= "), last = line.find_last_not_of("= ");
    if (first != std::string::npos) return {level, line.substr(first, last - first + 1)};
  }
  const std::size_t hashes = std::min(line.find_first_not_of('#'), line.size());
  if (hashes >= 1 && hashes <= 6 && hashes + 1 < line.size() && line[hashes] == ' ')
    return {static_cast<int>(hashes), line.substr(hashes + 1)};
  if ((line.starts_with("CHAPTER ") || line.starts_with("Chapter ")) && line.size() <= 80) {
    const std::size_t end = std::min(line.find_first_of(" .:", 8), line.size());
    const std::string number = line.substr(8, end - 8);
    const bool roman = number.find_first_not_of("IVXLC") == std::string::npos;
    const bool arabic = number.find_first_not_of("0123456789") == std::string::npos;
    const bool word =
        line[1] == 'H' && number.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ-") == std::string::npos;
    // "Chapter 3 explains ..." opens a sentence: small letters ask for a mark or the line's end behind them.
    const bool closed = line[1] == 'H' || end == line.size() || line[end] != ' ';
    if (!number.empty() && closed && (roman || arabic || word)) return {1, line};
  }
  return {};
}

/// Length of `Book 1` in a line `Book 1:2 text`, 0 if the line is none. The book: at most 40 characters,
/// perhaps with a number before ("1Sm", "2 Kings").
inline std::size_t chapter_length(std::string_view line) {
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon > 40 || colon == 0 || !is_digit(line[colon - 1])) return 0;
  std::size_t verse = colon + 1;
  while (verse < line.size() && is_digit(line[verse])) ++verse;
  if (verse == colon + 1 || verse == line.size() || line[verse] != ' ') return 0;
  std::size_t book = colon;
  while (book > 0 && is_digit(line[book - 1])) --book;
  const auto plain = [](char c) { return is_letter(c) || is_digit(c) || c == ' ' || c == '.'; };
  const bool name = std::any_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(book), is_letter) &&
                    std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(book), plain);
  return name ? colon : 0;
}

/// Whether the line ends as a sentence does: . ! ? or their like, perhaps with closing marks behind.
inline bool ends_sentence(std::string_view line) {
  const std::size_t last = line.find_last_not_of(" \t\v\f\"')]`*");
  if (last == std::string_view::npos) return false;
  line = line.substr(0, last + 1);
  for (const char* closing : {"\u201D", "\u2019", "\u00BB", "\u300D"})
    if (line.ends_with(closing)) line.remove_suffix(std::strlen(closing));
  const auto ends = [&](const char* mark) { return line.ends_with(mark); };
  return ends(".") || ends("!") || ends("?") || ends("\u2026") || ends("\u3002") || ends("\uFF01") ||
         ends("\uFF1F");
}

/// `running` unless nearly every line looks like something else. One sentence a line: four of five lines end
/// as sentences do, blocks have two lines on average, and a line holds under 1.5 sentences (200 are tried).
inline corpus_format detect(const std::string& file, const std::vector<text_line>& lines) {
  if (file.ends_with(".jsonl") || file.ends_with(".ndjson")) return corpus_format::json_lines;
  std::vector<std::string_view> filled;
  std::size_t blocks = 0, ended = 0, verses = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (blank(lines[i].raw)) continue;
    blocks += i == 0 || blank(lines[i - 1].raw);
    ended += ends_sentence(lines[i].raw);
    verses += chapter_length(lines[i].raw) > 0;
    filled.push_back(lines[i].raw);
  }
  if (filled.empty()) return corpus_format::running;
  if (filled[0].starts_with('{') && nlohmann::json::accept(filled[0])) return corpus_format::json_lines;
  if (verses >= 2 && verses * 20 >= filled.size() * 19) return corpus_format::verses;
  if (filled.size() < 2 * blocks || ended * 5 < filled.size() * 4) return corpus_format::running;
  icu_splitter splitter;
  const std::size_t step = filled.size() / 200 + 1;
  std::size_t tried = 0, sentences = 0;
  for (std::size_t i = 0; i < filled.size(); i += step, ++tried) sentences += splitter(filled[i]).size();
  return 2 * sentences < 3 * tried ? corpus_format::lines : corpus_format::running;
}

}  // namespace detail

}  // namespace planlm::text
