#include "catch.hpp"

#include <planlm/text/corpus_format.hpp>
#include <string>
#include <vector>

namespace {
using namespace planlm::text;
using planlm::text::detail::chapter_length;
using planlm::text::detail::ends_sentence;
using planlm::text::detail::heading_of;
using planlm::text::detail::split_lines;

corpus_format detected(const std::string& text) { return detail::detect("a.txt", split_lines(text)); }
int level(const std::string& line, bool alone = true) { return heading_of(line, alone).level; }
}  // namespace

TEST_CASE("every format has a name at its own place") {
  for (std::size_t i = 0; i < corpus_format_names.size(); ++i)
    CHECK(static_cast<std::size_t>(corpus_format_names[i].second) == i);
}

TEST_CASE("lines keep their numbers whatever ends them") {
  const auto lines = split_lines("a\nb\r\n\rc\n\nd");
  std::vector<std::string> found;
  for (const auto& line : lines) found.push_back(std::to_string(line.number) + std::string(line.raw));
  CHECK(found == std::vector<std::string>{"1a", "2b", "3", "4c", "5", "6d"});
  CHECK(split_lines("").empty());
  CHECK(split_lines("\n").size() == 1);
}

TEST_CASE("headings of WikiText and MediaWiki need blank lines around, and equal signs on both sides") {
  CHECK(heading_of(" = Du Fu = ", true).title == "Du Fu");
  CHECK(level(" = Du Fu = ") == 1);
  CHECK(level(" = = Life = = ") == 2);
  CHECK(level("=== Late ===") == 3);
  CHECK(heading_of("== a = b ==", true).title == "a = b");
  CHECK(level(" = Du Fu = ", false) == 0);
  CHECK(level(" = National record") == 0);
  CHECK(level("= = a =") == 0);
  CHECK(level("=====") == 0);
  CHECK(level("") == 0);
}

TEST_CASE("headings of Markdown are one to six marks and a space") {
  CHECK(heading_of("# One two", false).title == "One two");
  CHECK(level("###### x", false) == 6);
  CHECK(level("####### x") == 0);
  CHECK(level("#hash") == 0);
  CHECK(level("# ") == 0);
}

TEST_CASE("chapters are headings, sentences about chapters are not") {
  for (const char* line : {"CHAPTER 1", "CHAPTER I. Down the Hole", "CHAPTER TWENTY-ONE", "Chapter 12",
                           "Chapter XIV.", "Chapter 3: The Sea", "CHAPTER IV THE STORM"})
    CHECK(level(line) == 1);
  for (const char* line : {"Chapter 3 says more", "Chapter one", "CHAPTER one", "Chapter ", "CHAPTERS 1",
                           "Chapter", "Chapter I said so"})
    CHECK(level(line) == 0);
  CHECK(level("CHAPTER 1 " + std::string(80, 'x')) == 0);
}

TEST_CASE("a verse is a book, a chapter, a colon, a number and text") {
  CHECK(chapter_length("Ge1:1 In") == 3);
  CHECK(chapter_length("1Sm31:13 And") == 5);
  CHECK(chapter_length("Song of Solomon 2:1 I") == 17);
  for (const char* line : {"10:30 he", "Ge1:1", "Ge:1 x", "Ge1: x", "Ge1:1x y", ":1 x", "x, y 1:2 z", ""})
    CHECK(chapter_length(line) == 0);
}

TEST_CASE("a line ends a sentence with a mark, closing quotes and brackets aside") {
  for (const char* line : {"A.", "a ?", "He said \" no ! \" ", "(Yes.)", "\u201CYes.\u201D",
                           "\u306F\u3044\u3002", "And so on\u2026"})
    CHECK(ends_sentence(line));
  for (const char* line : {"A", "a,", "", " \" ", "and :"}) CHECK_FALSE(ends_sentence(line));
}

TEST_CASE("one line in five without an end mark is still one sentence a line, two are not") {
  CHECK(detected("a .\nb .\nc\nd .\ne .\n") == corpus_format::lines);
  CHECK(detected("a .\nb .\nc\nd\ne .\n") == corpus_format::running);
}

TEST_CASE("blocks of one line are paragraphs") {
  CHECK(detected("A b.\n\nC d.\n\nE f.\n") == corpus_format::running);
  CHECK(detected("A b.\nC d.\n\nE f.\nG h.\n") == corpus_format::lines);
}

TEST_CASE("a few lines that are no verses do not hide the verses, many do") {
  std::string text;
  for (int i = 1; i <= 40; ++i) text += "Ge1:" + std::to_string(i) + " Words.\n";
  CHECK(detected(text + "more\nand more\n") == corpus_format::verses);
  CHECK(detected(text + "a\nb\nc\nd\ne\n") == corpus_format::lines);
}
