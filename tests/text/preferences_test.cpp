#include "catch.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <planlm/text/preferences.hpp>
#include <string>
#include <vector>

namespace {
using namespace planlm::text;
namespace fs = std::filesystem;
using strings = std::vector<std::string>;
using ids = std::vector<int>;
using numbers = std::vector<double>;

/// A file that is gone with the object.
struct temporary_file {
  fs::path folder;
  std::string path;
  explicit temporary_file(const std::string& bytes) {
    std::string pattern = (fs::temp_directory_path() / "planlm_preferences_XXXXXX").string();
    folder = ::mkdtemp(pattern.data());
    path = (folder / "p.jsonl").string();
    std::ofstream(path, std::ios::binary) << bytes;
  }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  ~temporary_file() { fs::remove_all(folder); }
};

preferences read(const std::string& bytes) { return read_preferences(temporary_file(bytes).path); }

/// What input_error says, from the file's name to the remedy that all messages about a line share.
std::string refusal_of(const std::string& bytes) {
  const temporary_file file(bytes);
  try {
    read_preferences(file.path);
  } catch (const planlm::input_error& e) {
    std::string message = e.what();
    CHECK(message.find('\n') == std::string::npos);
    REQUIRE(message.starts_with(file.path + ": "));
    message.erase(0, file.path.size() + 2);
    const std::size_t remedy = message.find("; expected {\"prompt\": ");
    if (remedy != std::string::npos) CHECK(message.ends_with("; correct or remove the line"));
    return message.substr(0, remedy);
  }
  return "accepted";
}

const std::string good = "{\"prompt\": \"a b\", \"generations\": [\"c\", \"d e f\"], \"scores\": [1, 2]}\n";

/// The refusal of a line behind two good ones and a blank one.
std::string refusal_of_line(const std::string& line) { return refusal_of(good + good + "\n" + line + "\n" + good); }

/// Words are ids by their length; a sentence mark gives none.
struct word_lengths {
  int bos() const { return 0; }
  ids encode(const std::string& text) const {
    ids all;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find(' ', at), text.size());
      if (end > at && text[at] != '.') all.push_back(static_cast<int>(end - at));
      at = end + 1;
    }
    return all;
  }
};

}  // namespace

TEST_CASE("scored, ranked and paired generations are lists in which more is better") {
  const preferences p = read(
      "{\"prompt\": \"Why?\", \"generations\": [\"So.\", \"Because of it.\", \"\"], \"scores\": [0.25, 1e3, -2]}\n"
      "\r\n"
      "{\"generations\": [\"x\", \"y\", \"z\"], \"ranks\": [2, 1, 2], \"prompt\": \"\"}\r\n"
      "{\"prompt\": \"p\", \"rejected\": \"bad\", \"chosen\": \"good\"}");
  REQUIRE(p.lists.size() == 3);
  CHECK(p.lists[0].prompt == "Why?");
  CHECK(p.lists[0].generations == strings{"So.", "Because of it.", ""});
  CHECK(p.lists[0].scores == numbers{0.25, 1000, -2});
  CHECK(p.lists[1].prompt.empty());
  CHECK(p.lists[1].scores == numbers{-2, -1, -2});
  CHECK(p.lists[2].generations == strings{"good", "bad"});
  CHECK(p.lists[2].scores == numbers{1, 0});
  CHECK(p.lists[0].line == 1);
  CHECK(p.lists[1].line == 3);
  CHECK(p.lists[2].line == 4);
  CHECK(p.description.ends_with("p.jsonl: 3 lists of 2 to 3 generations"));
  CHECK(p.uninformative == 0);
  CHECK(warning_of(p).empty());
}

TEST_CASE("lists whose scores are all equal are kept, counted and reported") {
  const preferences p = read(good + "{\"prompt\": \"\", \"generations\": [\"c\", \"d\", \"e\"], \"scores\": [3, 3, 3.0]}\n" + good +
                             "{\"prompt\": \"\", \"generations\": [\"c\", \"d\"], \"ranks\": [1, 1]}\n");
  CHECK(p.lists.size() == 4);
  CHECK(p.uninformative == 2);
  CHECK(warning_of(p) == "2 of 4 lists carry no information, because all their scores are equal; the first is on line 2");
  CHECK_FALSE(informative({-0.0, 0.0}));
  CHECK(informative({1, 1, 2}));
}

TEST_CASE("fewer than two generations, or none with a word, are refused with the line") {
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": [\"a\"], \"scores\": [1]}") ==
        "line 4: 1 generation, a preference is among 2 or more");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": [], \"scores\": []}") == "line 4: 0 generations, a preference is among 2 or more");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": [\"\", \" \\t\", \"\\u00a0\"], \"scores\": [1, 2, 3]}") ==
        "line 4: all generations are empty");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"chosen\": \"\", \"rejected\": \" \"}") == "line 4: all generations are empty");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"chosen\": \"\", \"rejected\": \"x\"}") == "accepted");
}

TEST_CASE("scores that are no finite numbers, and not one for each generation, are refused with the line") {
  const auto scores = [](const std::string& text) {
    return refusal_of_line("{\"prompt\": \"\", \"generations\": [\"a\", \"b\"], \"scores\": " + text + "}");
  };
  CHECK(scores("[1, NaN]") == "line 4: NaN is no finite number");
  CHECK(scores("[-Infinity, 1]") == "line 4: Infinity is no finite number");
  CHECK(scores("[1, 1e999]") == "line 4: malformed JSON (number overflow parsing '1e999')");
  CHECK(scores("[1, null]") == "line 4: score 2 is no finite number but null");
  CHECK(scores("[\"1\", 2]") == "line 4: score 1 is no finite number but string");
  CHECK(scores("[1, 2, 3]") == "line 4: 2 generations but 3 scores");
  CHECK(scores("[1]") == "line 4: 2 generations but 1 scores");
  CHECK(scores("1") == "line 4: \"scores\" is not an array but number");
  CHECK(scores("[1, 1e-999]") == "accepted");
}

TEST_CASE("ranks that are no whole numbers from 1 to K are refused with the line") {
  const auto ranks = [](const std::string& text) {
    return refusal_of_line("{\"prompt\": \"\", \"generations\": [\"a\", \"b\"], \"ranks\": " + text + "}");
  };
  CHECK(ranks("[1, 0]") == "line 4: rank 2 is no whole number from 1 to 2");
  CHECK(ranks("[3, 1]") == "line 4: rank 1 is no whole number from 1 to 2");
  CHECK(ranks("[1.5, 1]") == "line 4: rank 1 is no whole number from 1 to 2");
  CHECK(ranks("[1, true]") == "line 4: rank 2 is no whole number from 1 to 2");
  CHECK(ranks("[1]") == "line 4: 2 generations but 1 ranks");
  CHECK(ranks("[2, 2]") == "accepted");
}

TEST_CASE("fields that are missing, unknown or of two forms are refused with the line") {
  CHECK(refusal_of_line("{\"generations\": [\"a\", \"b\"], \"scores\": [1, 2]}") == "line 4: no field \"prompt\"");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"scores\": [1, 2]}") == "line 4: no field \"generations\"");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": [\"a\", \"b\"]}") == "line 4: no field \"scores\" or \"ranks\"");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"chosen\": \"a\"}") == "line 4: no field \"rejected\"");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": [\"a\", \"b\"], \"score\": [1, 2]}") == "line 4: unknown field \"score\"");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": [\"a\", \"b\"], \"scores\": [1, 2], \"ranks\": [1, 2]}") ==
        "line 4: both \"scores\" and \"ranks\"");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"chosen\": \"a\", \"rejected\": \"b\", \"scores\": [1, 2]}") ==
        "line 4: \"scores\" beside \"chosen\" and \"rejected\"");
  CHECK(refusal_of_line("{\"prompt\": 3, \"generations\": [\"a\", \"b\"], \"scores\": [1, 2]}") == "line 4: \"prompt\" is not a string but number");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": \"a\", \"scores\": [1, 2]}") == "line 4: \"generations\" is not an array but string");
  CHECK(refusal_of_line("{\"prompt\": \"\", \"generations\": [\"a\", {}], \"scores\": [1, 2]}") == "line 4: generation 2 is not a string but object");
}

TEST_CASE("what is no JSON, no object, no text or no file is refused with its place") {
  CHECK(refusal_of_line("{\"prompt\": ").starts_with("line 4: malformed JSON ("));
  CHECK(refusal_of_line("[1, 2]") == "line 4: expected a JSON object, found array");
  CHECK(refusal_of("\n \n").starts_with("the file has only blank lines; expected one JSON object a line"));
  CHECK(refusal_of("").starts_with("the file is empty"));
  CHECK(refusal_of(good + "\xFF\n").starts_with("byte offset " + std::to_string(good.size()) + " (line 2): 0xFF is not valid UTF-8"));
  CHECK_THROWS_AS(read_preferences("/no/such/file.jsonl"), planlm::input_error);
  CHECK_THROWS_AS(read_preferences(fs::temp_directory_path()), planlm::input_error);
}

TEST_CASE("as ids a prompt follows BOS and every generation ends as asked") {
  const preferences p = read(
      "{\"prompt\": \"a bb\", \"generations\": [\"ccc\", \".\", \"d ee\"], \"scores\": [1, 2, 3]}\n"
      "{\"prompt\": \"\", \"generations\": [\"ffff\", \"g\"], \"scores\": [5, 5]}\n");
  const tokenised_preferences bare = tokenise(p, word_lengths{});
  REQUIRE(bare.lists.size() == 2);
  CHECK(bare.lists[0].prompt == ids{0, 1, 2});
  CHECK(bare.lists[0].generations == std::vector<ids>{{3}, {1, 2}});
  CHECK(bare.lists[0].scores == numbers{1, 3});
  CHECK(bare.lists[1].prompt == ids{0});
  CHECK(bare.lists[1].line == 2);
  CHECK(bare.dropped_generations == 1);
  CHECK(bare.dropped_lists == 0);
  CHECK(bare.uninformative == 1);
  CHECK(bare.cut_generations + bare.cut_prompts == 0);

  const tokenised_preferences closed = tokenise(p, word_lengths{}, {.end = 9});
  CHECK(closed.lists[0].generations == std::vector<ids>{{3, 9}, {9}, {1, 2, 9}});
  CHECK(closed.dropped_generations == 0);
}

TEST_CASE("what does not fit into the window is cut: generations at their end, prompts between BOS and theirs") {
  const preferences p = read("{\"prompt\": \"a bb ccc dddd\", \"generations\": [\"a bb\", \"a bb ccc\"], \"scores\": [1, 2]}\n");
  for (const int length : {8, 9, 100}) {
    const tokenised_preferences whole = tokenise(p, word_lengths{}, {.length = length});
    CHECK(whole.lists[0].prompt == ids{0, 1, 2, 3, 4});
    CHECK(whole.cut_prompts == 0);
  }
  const tokenised_preferences six = tokenise(p, word_lengths{}, {.length = 6});
  CHECK(six.lists[0].prompt == ids{0, 3, 4});
  CHECK(six.lists[0].generations == std::vector<ids>{{1, 2}, {1, 2, 3}});
  CHECK(six.cut_prompts == 1);
  CHECK(six.cut_generations == 0);
  const tokenised_preferences three = tokenise(p, word_lengths{}, {.length = 3});
  CHECK(three.lists[0].prompt == ids{0});
  CHECK(three.lists[0].generations == std::vector<ids>{{1, 2}, {1, 2}});
  CHECK(three.cut_prompts == 1);
  CHECK(three.cut_generations == 1);
}

TEST_CASE("lists with fewer than two generations that give a token are left out and counted; where none is left that is an error") {
  const std::string poor = "{\"prompt\": \"\", \"generations\": [\"a\", \".\", \"\"], \"scores\": [1, 2, 3]}\n";
  const tokenised_preferences some = tokenise(read(poor + good), word_lengths{});
  CHECK(some.lists.size() == 1);
  CHECK(some.lists[0].line == 2);
  CHECK(some.dropped_lists == 1);
  CHECK(some.dropped_generations == 2);
  CHECK_THROWS_AS(tokenise(read(poor), word_lengths{}), planlm::input_error);
  CHECK_THROWS_AS(tokenise(read(good), word_lengths{}, {.length = 1}), planlm::error);
}
