/// Splitting a paragraph into sentences: by the Unicode rules (ICU), or at line ends.
///
/// ICU's rules (UAX 29) know no words, so a few repairs follow, none of which needs ICU's word lists: titles
/// and Latin abbreviations ("Mr.", "e.g."), initials ("J. R. R. Tolkien"), marks inside a token ("1 @.@ 5" of
/// WikiText), "<unk>" behind a lone full stop, closing marks that tokenised text sets apart (`he said . "`)
/// and a small letter that goes on (`"Why?" he asked.`). Sentences are neither cut nor merged for their
/// length: of WikiText-2's, 1.5 % have more than 60 words, and merging would hide what the author wrote.
#pragma once
#include <unicode/brkiter.h>
#include <unicode/uchar.h>
#include <unicode/utext.h>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <limits>
#include <memory>
#include <planlm/core/error.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace planlm::text {

/// Called with a paragraph of UTF-8 (line ends kept), gives its sentences, tidied (see `tidy`) and none
/// empty.
template <class S>
concept SentenceSplitter = requires(S& splitter, std::string_view paragraph) {
  { splitter(paragraph) } -> std::same_as<std::vector<std::string>>;
};

/// The code point at byte `i`, which moves behind it, or -1 (and `i` stays) where no well-formed UTF-8
/// character starts: no overlong form, no surrogate, nothing above U+10FFFF (RFC 3629).
inline std::int32_t next_code_point(std::string_view bytes, std::size_t& i) {
  const auto lead = static_cast<unsigned char>(bytes[i]);
  if (lead < 0x80) return bytes[i++];
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  if (lead < 0xC2 || lead > 0xF4 || bytes.size() - i <= static_cast<std::size_t>(more)) return -1;
  std::int32_t c = lead & (0x3F >> more);
  for (int k = 1; k <= more; ++k) {
    const auto byte = static_cast<unsigned char>(bytes[i + static_cast<std::size_t>(k)]);
    if ((byte & 0xC0) != 0x80) return -1;
    c = c * 64 + (byte & 0x3F);
  }
  const bool overlong = (more == 2 && c < 0x800) || (more == 3 && c < 0x10000);
  if (overlong || (c >= 0xD800 && c <= 0xDFFF) || c > 0x10FFFF) return -1;
  i += static_cast<std::size_t>(more) + 1;
  return c;
}

/// Every run of white space or control characters (Unicode's, byte order marks included) becomes one space;
/// none is left at the ends. `raw` is UTF-8; a malformed byte is kept as it is.
inline std::string tidy(std::string_view raw) {
  std::string out;
  out.reserve(raw.size());
  bool gap = false;
  for (std::size_t i = 0; i < raw.size();) {
    const std::size_t begin = i;
    const std::int32_t c = next_code_point(raw, i);
    if (c < 0) ++i;
    if (c >= 0 &&
        (c <= 0x20 || c == 0x7F || (c > 0x7F && (u_isUWhiteSpace(c) || c == 0xFEFF || u_iscntrl(c))))) {
      gap = true;
      continue;
    }
    if (gap && !out.empty()) out += ' ';
    gap = false;
    out.append(raw, begin, i - begin);
  }
  return out;
}

/// One sentence a line.
struct line_splitter {
  std::vector<std::string> operator()(std::string_view paragraph) const {
    std::vector<std::string> sentences;
    while (!paragraph.empty()) {
      const std::size_t end = std::min(paragraph.find_first_of("\r\n"), paragraph.size());
      if (std::string line = tidy(paragraph.substr(0, end)); !line.empty())
        sentences.push_back(std::move(line));
      paragraph.remove_prefix(std::min(end + 1, paragraph.size()));
    }
    return sentences;
  }
};

/// Sentences by ICU's rules for a locale, then the repairs above. Holds ICU's iterator: one object per
/// thread.
class icu_splitter {
 public:
  explicit icu_splitter(const std::string& locale = "en") {
    UErrorCode status = U_ZERO_ERROR;
    breaks_.reset(icu::BreakIterator::createSentenceInstance(icu::Locale(locale.c_str()), status));
    if (U_FAILURE(status))
      throw error(std::string("ICU has no sentence rules for ") + locale + " (" + u_errorName(status) + ")");
  }

  std::vector<std::string> operator()(std::string_view paragraph) {
    const std::string line = tidy(paragraph);
    std::vector<std::string> sentences;
    std::size_t begin = 0, counted = 0;
    bool quoting = false;  // an odd number of straight quotes so far: the next one closes
    for (std::size_t end : boundaries(show_starts(line))) {
      for (; counted < end; ++counted) quoting ^= line[counted] == '"';
      end = behind_closers(line, end, quoting);
      if (end <= begin || (end < line.size() && goes_on(line, begin, end))) continue;
      if (std::string s = tidy(std::string_view(line).substr(begin, end - begin)); !s.empty())
        sentences.push_back(std::move(s));
      begin = end;
    }
    return sentences;
  }

 private:
  /// The line as ICU shall see it, of the same length: behind a lone full stop, "<unk>" opens a sentence as a
  /// capital would, where ICU would see a small letter and go on.
  static std::string show_starts(std::string line) {
    constexpr std::string_view unknown = "<unk>";
    for (std::size_t at = line.find(unknown); at != std::string::npos; at = line.find(unknown, at + 1)) {
      const std::size_t stop = at == 0 ? std::string::npos : line.find_last_not_of(" \")]", at - 1);
      if (stop != std::string::npos && stop > 0 && line[stop] == '.' && line[stop - 1] == ' ')
        line.replace(at, unknown.size(), "<UNK>");
    }
    return line;
  }

  /// Byte offsets behind each of ICU's sentences.
  std::vector<std::size_t> boundaries(const std::string& line) {
    if (line.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
      throw input_error("a paragraph of " + std::to_string(line.size()) +
                        " bytes is too long for ICU (2 GB): separate paragraphs by blank lines");
    std::vector<std::size_t> ends;
    UErrorCode status = U_ZERO_ERROR;
    UText text = UTEXT_INITIALIZER;
    utext_openUTF8(&text, line.data(), static_cast<std::int64_t>(line.size()), &status);
    breaks_->setText(&text, status);
    if (U_FAILURE(status))
      throw error(std::string("ICU cannot read a paragraph (") + u_errorName(status) + ")");
    breaks_->first();
    for (auto end = breaks_->next(); end != icu::BreakIterator::DONE; end = breaks_->next())
      ends.push_back(static_cast<std::size_t>(end));
    utext_close(&text);
    return ends;
  }

  /// Tokenised text writes `. "` and `. )`: a lone closing mark right behind the boundary still belongs to
  /// the sentence. `quoting`: a straight quote here would close.
  static std::size_t behind_closers(const std::string& line, std::size_t end, bool quoting) {
    while (end < line.size() && line[end - 1] == ' ' && (end + 1 == line.size() || line[end + 1] == ' ')) {
      if (line[end] != ')' && line[end] != ']' && !(line[end] == '"' && std::exchange(quoting, false))) break;
      end = std::min(end + 2, line.size());
    }
    return end;
  }

  /// Whether the sentence [begin, end) goes on behind `end`.
  static bool goes_on(const std::string& line, std::size_t begin, std::size_t end) {
    const char next = line[end];
    const auto ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
    if (ascii(next) && ascii(line[end - 1]) && line[end - 1] != ' ') return true;  // inside a token
    if ((next >= 'a' && next <= 'z') || std::string_view(".,;:!?)]").find(next) != std::string_view::npos)
      return true;
    const std::size_t stop = line.find_last_not_of(' ', end - 1);
    if (stop == std::string::npos || stop <= begin || line[stop] != '.') return false;
    std::size_t first = stop;
    while (first > begin && line[first - 1] != ' ' && line[first - 1] != '(' && line[first - 1] != '"')
      --first;
    return abbreviates(std::string_view(line).substr(first, stop - first), next >= '0' && next <= '9');
  }

  /// Whether a full stop behind `word` is part of it. "I." ends a sentence more often than it abbreviates.
  static bool abbreviates(std::string_view word, bool digit_follows) {
    static constexpr std::array<std::string_view, 32> always{
        "Mr",   "Mrs", "Ms",  "Messrs", "Dr",   "Prof", "Rev", "St",  "Mt",  "Gen", "Col",
        "Capt", "Lt",  "Sgt", "Maj",    "Cmdr", "Gov",  "Sen", "Rep", "Hon", "Adm", "vs",
        "e.g",  "i.e", "cf",  "viz",    "E.g",  "I.e",  "Cf",  "Ft",  "Fr",  "ca"};
    static constexpr std::array<std::string_view, 14> before_number{
        "No", "Nos", "no", "p", "pp", "Fig", "Figs", "Eq", "Sec", "Ch", "ch", "Vol", "vol", "Art"};
    const auto in = [&](const auto& list) { return std::find(list.begin(), list.end(), word) != list.end(); };
    const bool initial = word.size() == 1 && word[0] >= 'A' && word[0] <= 'Z' && word[0] != 'I';
    return initial || in(always) || (digit_follows && in(before_number));
  }

  std::unique_ptr<icu::BreakIterator> breaks_;
};

}  // namespace planlm::text
