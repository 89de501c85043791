#include "catch.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <planlm/text/corpus.hpp>
#include <string>
#include <vector>

namespace {
using namespace planlm::text;
namespace fs = std::filesystem;
using strings = std::vector<std::string>;

/// A new folder, removed with everything in it.
struct folder {
  fs::path path;
  folder() {
    std::string pattern = (fs::temp_directory_path() / "planlm_corpus_XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  folder(const folder&) = delete;
  folder& operator=(const folder&) = delete;
  ~folder() { fs::remove_all(path); }

  std::string write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
    return (path / name).string();
  }
};

corpus read_text(const std::string& bytes, read_options options = {}, const std::string& name = "a.txt") {
  const folder f;
  return read_corpus(f.write(name, bytes), options);
}

/// What `input_error` says about a path, with the file's own path written as FILE.
std::string refusal(const std::string& file, read_options options = {}) {
  try {
    read_corpus(file, options);
  } catch (const planlm::input_error& e) {
    std::string message = e.what();
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.starts_with(file));
    return "FILE" + message.substr(file.size());
  }
  return "accepted";
}

std::string refusal_of(const std::string& bytes, const std::string& name = "a.txt",
                       read_options options = {}) {
  const folder f;
  return refusal(f.write(name, bytes), options);
}

strings names(const corpus& text) {
  strings all;
  for (const auto& d : text.documents) all.push_back(d.name);
  return all;
}

/// The format the reader chose, from the description "PATH (FORMAT...): ...".
std::string format_of(const corpus& text) {
  const std::string& s = text.description;
  const std::size_t close = s.rfind("): "), open = s.rfind('(', close);
  return s.substr(open + 1, close - open - 1);
}

const std::string shared_data = PLANLM_SHARED_DATA;

bool has_shared_data() {
  if (shared_data.empty()) WARN("SKIPPED: the texts for experiments are not here (../shared/data)");
  return !shared_data.empty();
}
}  // namespace

TEST_CASE("one sentence a line with blank lines between documents is recognised") {
  const corpus text =
      read_text("the film  is good .\nit ends well ! \n \t\nanother one .\n\" why ? \"\nyes .\n");
  CHECK(format_of(text) == "lines");
  REQUIRE(names(text) == strings{"a.txt:1", "a.txt:4"});
  CHECK(text.documents[0].sentences == strings{"the film is good .", "it ends well !"});
  CHECK(text.documents[1].sentences == strings{"another one .", "\" why ? \"", "yes ."});
}

TEST_CASE("a byte order mark, CRLF and CR line ends and a missing last line end change nothing") {
  const corpus plain = read_text("A b.\nC d.\n\nE f.\nG h.\n");
  for (const char* other : {"\xEF\xBB\xBF"
                            "A b.\r\nC d.\r\n\r\nE f.\r\nG h.\r\n",
                            "A b.\rC d.\r\rE f.\rG h.", "\n\nA b.\nC d.\n\n\n\nE f.\nG h."}) {
    const corpus text = read_text(other);
    REQUIRE(text.documents.size() == plain.documents.size());
    for (std::size_t d = 0; d < 2; ++d) CHECK(text.documents[d].sentences == plain.documents[d].sentences);
  }
}

TEST_CASE("running text is one document, its wrapped lines joined to paragraphs") {
  const corpus text = read_text(
      "It was the best of times, it was the worst\nof times. It was the age of wisdom.\n\nA second paragraph "
      "without\nits end\n\n"
      "Then a third.\n");
  CHECK(format_of(text) == "running");
  REQUIRE(names(text) == strings{"a.txt"});
  CHECK(text.documents[0].sentences == strings{"It was the best of times, it was the worst of times.",
                                               "It was the age of wisdom.",
                                               "A second paragraph without its end", "Then a third."});
}

TEST_CASE("one paragraph a line is running text, with and without blank lines between") {
  const std::string a =
      "The first sentence of a paragraph. A second one follows, and it is a longer one than that. Third.";
  const std::string b =
      "Another paragraph begins here. It has a second sentence too! Does it have a third one? It does.";
  for (const char* gap : {"\n\n", "\n"}) {
    const corpus text = read_text(a + gap + b + gap + a + gap + b + "\n");
    CHECK(format_of(text) == "running");
    REQUIRE(text.documents.size() == 1);
    CHECK(text.documents[0].sentences.size() == 14);
  }
}

TEST_CASE("a long line is a paragraph of its own even without an end mark") {
  const std::string line(120, 'x');
  CHECK(read_text("A " + line + "\nB " + line + "\n").documents.at(0).sentences ==
        strings{"A " + line, "B " + line});
}

TEST_CASE("WikiText headings open documents, deeper ones vanish, formulas are no headings") {
  const corpus text = read_text(
      " \n = First <unk> = \n \n One thing . Another . \n \n = = Part = = \n \n More here . \n = 1 and a "
      "nominal k = \n 2 . " +
      std::string(100, 'x') +
      " . \n \n"
      " = Second = \n \n The end of it . \n");
  REQUIRE(names(text) == strings{"First <unk>", "Second"});
  CHECK(text.documents[0].sentences ==
        strings{"One thing .", "Another .", "More here .",
                "= 1 and a nominal k =", "2 . " + std::string(100, 'x') + " ."});
  CHECK(text.documents[1].sentences == strings{"The end of it ."});
}

TEST_CASE("Markdown headings open documents, and code is left out") {
  const corpus text = read_text(
      "Words before.\n\n# One\n## Part\nText of one. More\nof it.\n\n```\n# no heading\ncode();\n```\n\n# "
      "Empty\n\n# Two\n\nText of two.\n",
      {}, "a.md");
  REQUIRE(names(text) == strings{"a.md", "One", "Two"});
  CHECK(text.documents[0].sentences == strings{"Words before."});
  CHECK(text.documents[1].sentences == strings{"Text of one.", "More of it."});
  CHECK(text.documents[2].sentences == strings{"Text of two."});
}

TEST_CASE("chapters open documents, a sentence about a chapter does not") {
  const corpus text = read_text(
      "CHAPTER I. Down\nCHAPTER II. Up\n\nCHAPTER I. Down the Hole\n\nAlice was tired. "
      "She\nslept.\n\nCHAPTER TWO\n\nShe woke.\n\n"
      "Chapter 3 says more about it than this.\n\nChapter IV\n\nThe end.\n");
  REQUIRE(names(text) == strings{"CHAPTER I. Down the Hole", "CHAPTER TWO", "Chapter IV"});
  CHECK(text.documents[1].sentences == strings{"She woke.", "Chapter 3 says more about it than this."});
}

TEST_CASE("verses become sentences and chapters documents") {
  const corpus text = read_text(
      "Ge1:1 In the beginning. And more.\nGe1:2 And the earth.\nGe2:1 Thus.\n2 Kings 1:1 Then\n2 Kings 1:2 "
      "Now\n");
  CHECK(format_of(text) == "verses");
  REQUIRE(names(text) == strings{"Ge1", "Ge2", "2 Kings 1"});
  CHECK(text.documents[0].sentences == strings{"In the beginning. And more.", "And the earth."});
  CHECK(text.documents[2].sentences == strings{"Then", "Now"});
  CHECK(read_text("Ge1:1 In the\nbeginning.\n", {corpus_format::verses}).documents.at(0).sentences ==
        strings{"In the beginning."});
  CHECK(format_of(read_text("At 10:30 he came.\nAt 11:30 he went.\nThen it was 12:45.\n")) == "lines");
}

TEST_CASE("JSON lines give a document each, split into sentences") {
  const corpus text = read_text(
      "{\"text\": \"One. Two.\\n\\nThree\"}\n\n{\"title\": \"T\", \"text\": \"Four \\u00e9.\"}\r\n{\"name\": "
      "3, \"text\": \" \"}\n"
      "{\"name\": \"N\", \"text\": \"Five.\", \"x\": [1]}\n",
      {}, "a.jsonl");
  CHECK(format_of(text) == "json-lines");
  REQUIRE(names(text) == strings{"a.jsonl:1", "T", "N"});
  CHECK(text.documents[0].sentences == strings{"One.", "Two.", "Three"});
  CHECK(text.documents[1].sentences == strings{"Four \u00E9."});
  CHECK(format_of(read_text("{\"text\": \"A.\"}\n{\"text\": \"B.\"}\n")) == "json-lines");
  CHECK(format_of(read_text("{A brace} opens the text. It\ngoes on.\n")) == "running");
}

TEST_CASE("a given format and splitter are obeyed") {
  const std::string poem = "Two roads diverged. In a wood\nand I took\nthe one\n";
  CHECK(read_text(poem, {corpus_format::lines}).documents.at(0).sentences ==
        strings{"Two roads diverged. In a wood", "and I took", "the one"});
  CHECK(read_text(poem, {corpus_format::running, splitter_kind::lines}).documents.at(0).sentences ==
        strings{"Two roads diverged. In a wood", "and I took", "the one"});
  CHECK(read_text(poem, {corpus_format::running}).documents.at(0).sentences ==
        strings{"Two roads diverged.", "In a wood and I took the one"});
  const folder f;
  const auto halves = [](std::string_view paragraph) {
    const std::string s = tidy(paragraph);
    return strings{s.substr(0, s.size() / 2), s.substr(s.size() / 2)};
  };
  CHECK(read_corpus(f.write("a.txt", "abcd\n"), halves).documents.at(0).sentences == strings{"ab", "cd"});
}

TEST_CASE("a folder is read recursively in the order of paths, without hidden and foreign files") {
  const folder f;
  f.write("b.txt", "Of b. More\nof b.\n");
  f.write("a/z.md", "# Z\n\nOf z.\n");
  f.write("a/y.text", "Of y.\n");
  f.write("c.jsonl", "{\"text\": \"Of c.\"}\n");
  f.write(".hidden.txt", "Hidden.\n");
  f.write(".git/x.txt", "Hidden.\n");
  f.write("picture.png", "\x89PNG");
  f.write("empty.txt", "");
  const corpus text = read_corpus(f.path);
  CHECK(names(text) == strings{"a/y.text", "Z", "b.txt", "c.jsonl:1"});
  CHECK(text.description == f.path.string() + " (running, json-lines, 4 files): 4 documents, 5 sentences");
  CHECK(names(read_corpus(f.path.string() + "/")) == names(text));
}

TEST_CASE("a missing path is refused") {
  const folder f;
  const std::string expected =
      "FILE: no such file or folder; give the path of UTF-8 text, of JSON lines or of a folder of them";
  CHECK(refusal((f.path / "none.txt").string()) == expected);
  CHECK(refusal(f.write("a.txt", "A.\n") + "/b.txt") == expected);
}

TEST_CASE("a file that cannot be read is refused with the system's reason") {
  if (!fs::exists("/proc/self/mem")) {
    WARN("SKIPPED: this system has no /proc/self/mem, a file that opens but cannot be read");
    return;
  }
  CHECK(refusal("/proc/self/mem") ==
        "FILE: cannot be read (Input/output error); check the path and its permissions");
}

TEST_CASE("a file or folder without permission is refused") {
  const folder f;
  const std::string file = f.write("inner/a.txt", "A.\n"), inner = (f.path / "inner").string();
  const bool superuser = ::geteuid() == 0;  // may read everything, so another user tries
  ::chmod(f.path.c_str(), 0755);
  ::chmod(file.c_str(), 0);
  if (superuser && ::seteuid(65534) != 0) {
    WARN("SKIPPED: the superuser may read every file and cannot become another user here");
    return;
  }
  const std::string of_file = refusal(file);
  if (superuser) CHECK(::seteuid(0) == 0);
  ::chmod(inner.c_str(), 0);
  if (superuser) CHECK(::seteuid(65534) == 0);
  const std::string of_folder = refusal(inner), of_inner_file = refusal(file);
  if (superuser) CHECK(::seteuid(0) == 0);
  ::chmod(inner.c_str(), 0700);
  CHECK(of_file == "FILE: cannot be read (Permission denied); check the path and its permissions");
  CHECK(of_folder == "FILE: cannot be read (Permission denied); check the folder's permissions");
  CHECK(of_inner_file == of_file);
}

TEST_CASE("a folder without text is refused") {
  const folder f;
  const std::string expected =
      "FILE: no text in this folder; expected files named .txt, .text, .md or .jsonl, not hidden or empty";
  CHECK(refusal(f.path.string()) == expected);
  f.write("x.png", "abc");
  f.write(".a.txt", "A.\n");
  f.write("b.txt", "");
  CHECK(refusal(f.path.string()) == expected);
}

TEST_CASE("an empty file and one of blank lines are refused") {
  CHECK(refusal_of("") == "FILE: the file is empty; expected UTF-8 text");
  for (const char* text : {"\n", " \n\t\r\n \u00A0\n", "\xEF\xBB\xBF"})
    CHECK(refusal_of(text) == "FILE: the file has only blank lines; expected UTF-8 text");
  CHECK(refusal_of("\n", "a.jsonl") == "FILE: the file has only blank lines; expected UTF-8 text");
}

TEST_CASE("text without a sentence is refused") {
  const std::string expected =
      "FILE: no sentence in it, only headings or empty texts; give text with sentences";
  CHECK(refusal_of("# Title\n\n## Part\n") == expected);
  CHECK(refusal_of("{\"text\": \"\"}\n{\"text\": \" \\n \"}\n") == expected);
}

TEST_CASE("invalid UTF-8 is refused with its byte offset") {
  CHECK(refusal_of("A caf\xE9 here.\n") ==
        "FILE: byte offset 5 (line 1): 0xE9 is not valid UTF-8; convert the file, for example with iconv -f "
        "LATIN1 -t UTF-8");
  CHECK(refusal_of("\xEF\xBB\xBF"
                   "One.\nTwo \xC3\xA9.\nThree \xC0\x80.\n") ==
        "FILE: byte offset 22 (line 3): 0xC0 is not valid UTF-8; convert the file, for example with iconv -f "
        "LATIN1 -t UTF-8");
  CHECK(refusal_of("cut \xE2\x82") ==
        "FILE: byte offset 4 (line 1): 0xE2 is not valid UTF-8; convert the file, for example with iconv -f "
        "LATIN1 -t UTF-8");
  CHECK(refusal_of(std::string("\xFF\xFE"
                               "A\0",
                               4)) ==
        "FILE: byte offset 0 (line 1): 0xFF is not valid UTF-8; convert the file, for example with iconv -f "
        "UTF-16 -t UTF-8");
  CHECK(refusal_of("{\"text\": \"\xE9\"}\n", "a.jsonl") ==
        "FILE: byte offset 10 (line 1): 0xE9 is not valid UTF-8; convert the file, for example with iconv -f "
        "LATIN1 -t UTF-8");
}

TEST_CASE("binary noise is refused with its byte offset") {
  CHECK(refusal_of(std::string("A.\nB\0C\n", 7)) ==
        "FILE: byte offset 4 (line 2): a NUL byte, so this is binary data and not UTF-8 text; give a text "
        "file");
}

TEST_CASE("one bad file of a folder is refused by its own name") {
  const folder f;
  f.write("a.txt", "A.\n");
  const std::string bad = f.write("b.txt", "B\xFF\n");
  CHECK_THROWS_WITH(read_corpus(f.path),
                    bad +
                        ": byte offset 1 (line 1): 0xFF is not valid UTF-8; convert the file, for "
                        "example with iconv -f LATIN1 -t UTF-8");
}

TEST_CASE("a malformed JSON line is refused with its number and the reason") {
  const std::string remedy = "; each line must be one object such as {\"text\": \"...\"}";
  const std::string cut =
      refusal_of("{\"text\": \"A.\"}\n\n{\"text\": \"B.\"\n{\"text\": \"C.\"}\n", "a.jsonl");
  CHECK(cut.starts_with("FILE: line 3: malformed JSON (column 14: "));
  CHECK(cut.find("unexpected end of input") != std::string::npos);
  CHECK(cut.ends_with(")" + remedy));
  CHECK(refusal_of("{\"text\": \"\\ud800\"}\n", "a.jsonl")
            .starts_with("FILE: line 1: malformed JSON (column "));
  CHECK(refusal_of("{\"text\": \"a\", \"x\": 1e999}\n", "a.jsonl") ==
        "FILE: line 1: malformed JSON (number overflow parsing '1e999')" + remedy);
  CHECK(refusal_of("[1]\n", "a.jsonl") == "FILE: line 1: expected a JSON object, found array" + remedy);
  CHECK(refusal_of("{\"text\": \"A.\"}\n{\"body\": \"B.\"}\n") ==
        "FILE: line 2: the object has no field \"text\"" + remedy);
  CHECK(refusal_of("{\"text\": 3}\n") == "FILE: line 1: \"text\" must be a string, found number" + remedy);
  CHECK(refusal_of("{\"text\": null}\n") == "FILE: line 1: \"text\" must be a string, found null" + remedy);
  CHECK(refusal_of("Words.\n", "a.txt", {corpus_format::json_lines})
            .starts_with("FILE: line 1: malformed JSON (column 1: "));
}

TEST_CASE("text that is no verse is refused where verses were asked for") {
  CHECK(refusal_of("\nIn the beginning.\n", "a.txt", {corpus_format::verses}) ==
        "FILE: line 2: no verse; expected \"Book chapter:verse text\" as bible -f prints, or another format");
}

TEST_CASE("the film reviews are 2000 documents of 64720 sentences") {
  if (!has_shared_data()) return;
  const corpus text = read_corpus(shared_data + "/movie_reviews.txt");
  CHECK(format_of(text) == "lines");
  CHECK(text.documents.size() == 2000);
  CHECK(count_sentences(text) == 64720);
}

TEST_CASE("each WikiText-2 file is 60 articles without headings among their sentences") {
  if (!has_shared_data()) return;
  for (const char* part : {"valid", "test"}) {
    const corpus text = read_corpus(shared_data + "/wikitext-2." + part + ".txt");
    CHECK(format_of(text) == "running");
    CHECK(text.documents.size() == 60);
    CHECK(count_sentences(text) > 8000);
    for (const auto& d : text.documents)
      for (const auto& s : d.sentences) CHECK_FALSE(s.starts_with("= ="));
  }
  CHECK(read_corpus(shared_data + "/wikitext-2.valid.txt").documents[0].name == "Homarus gammarus");
}

TEST_CASE("lists of sentences without blank lines are one document") {
  if (!has_shared_data()) return;
  const corpus text = read_corpus(shared_data + "/subjectivity.subjective.txt");
  CHECK(format_of(text) == "lines");
  CHECK(text.documents.size() == 1);
  CHECK(count_sentences(text) == 5000);
}

TEST_CASE("the book that bible prints is 1189 chapters of 31102 verses") {
  if (!fs::exists("/usr/bin/bible")) {
    WARN("SKIPPED: the program bible is not installed (Debian: bible-kjv)");
    return;
  }
  const folder f;
  const std::string file = (f.path / "book.txt").string();
  REQUIRE(std::system(("/usr/bin/bible -f 'gen1:1-rev22:21' > '" + file + "'").c_str()) == 0);
  const corpus text = read_corpus(file);
  CHECK(format_of(text) == "verses");
  CHECK(text.documents.size() == 1189);
  CHECK(count_sentences(text) == 31102);
  CHECK(text.documents[0].name == "Ge1");
  CHECK(text.documents[0].sentences[0] == "In the beginning God created the heaven and the earth.");
  CHECK(text.documents.back().name == "Rev22");
}
