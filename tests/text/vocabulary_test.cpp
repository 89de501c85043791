#include "catch.hpp"

#include <unistd.h>

#include <cstdio>
#include <planlm/text/corpus.hpp>
#include <planlm/text/vocabulary.hpp>
#include <string>
#include <vector>

namespace {
using namespace planlm::text;
using ints = std::vector<int>;
using strings = std::vector<std::string>;

static_assert(Tokeniser<vocabulary>);

/// 600 sentences of 40 made-up words.
strings made_up_sentences() {
  const strings parts{"ka", "lo", "mi", "nu", "per", "sta", "ven", "dor"};
  strings sentences;
  for (std::uint32_t s = 0; s < 600; ++s) {
    std::string sentence;
    const planlm::philox draws{11, s};
    for (std::uint32_t w = 0; w < 4 + draws.below(8, 0, 0); ++w) {
      const std::uint32_t word = draws.below(40, 1, w);
      sentence += (w > 0 ? " " : "") + parts[word % 8] + parts[word / 5];
    }
    sentences.push_back(sentence + " .");
  }
  return sentences;
}

const std::string shared_data = PLANLM_SHARED_DATA;

bool has_shared_data() {
  if (shared_data.empty()) WARN("SKIPPED: the texts for experiments are not here (../shared/data)");
  return !shared_data.empty();
}

strings all_sentences(const corpus& text) {
  ints all;
  for (std::size_t d = 0; d < text.documents.size(); ++d) all.push_back(static_cast<int>(d));
  return sentences_of(text, all);
}

/// How many sentences do not come back as they went in, or hold the unknown id or BOS.
int damaged(const vocabulary& v, const strings& sentences) {
  int bad = 0;
  for (const auto& s : sentences) {
    const ints ids = v.encode(s);
    bool wrong = v.decode(ids) != s || ids.empty();
    for (const int id : ids) wrong = wrong || id <= v.bos() || id >= v.size();
    bad += wrong;
  }
  return bad;
}
}  // namespace

TEST_CASE("a vocabulary joins what is frequent and spells the rest in bytes") {
  const vocabulary v = vocabulary::train(made_up_sentences(), 400);
  CHECK(v.size() == 400);
  CHECK(v.requested_size() == 400);
  CHECK(v.bos() == 1);
  CHECK(v.encode("kaka lolo").size() <= 4);
  CHECK(v.encode("\u4ECA").size() == 4);  // the space before, and three bytes
  CHECK(v.piece(v.encode("kaka")[0]).starts_with("\u2581"));
  CHECK(v.encode("").empty());
}

TEST_CASE("every sentence comes back from its ids") {
  const vocabulary v = vocabulary::train(made_up_sentences(), 400);
  CHECK(damaged(v, made_up_sentences()) == 0);
  CHECK(damaged(v, {"Caf\u00E9 \u4ECA\u65E5 \U0001F600", "<s> <unk> </s> <0x41> .",
                    "\u00BD \uFF21 e\u0301 \uFB01", "x", ". . .", "\u2585 \u2047 a", "12,345.67 @-@ --",
                    std::string(5000, 'q')}) == 0);
  CHECK(v.decode(v.encode("a\u2581"
                          "b")) == "a b");  // the one exception: the mark for a space is a space
}

TEST_CASE("ids of several sentences decode with a space between, BOS without text") {
  const vocabulary v = vocabulary::train(made_up_sentences(), 400);
  ints ids{v.bos()};
  for (const char* s : {"kaka lolo .", "mimi ."})
    for (const int id : v.encode(s)) ids.push_back(id);
  CHECK(v.decode(ids) == "kaka lolo . mimi .");
}

TEST_CASE("two trainings give the same bytes, whatever was trained between") {
  const strings sentences = made_up_sentences();
  const vocabulary first = vocabulary::train(sentences, 400, 5, 200);
  const vocabulary other = vocabulary::train(sentences, 400, 6, 200);
  const vocabulary second = vocabulary::train(sentences, 400, 5, 200);
  CHECK(first.model() == second.model());
  CHECK(first.model() != other.model());  // another sample of the sentences
  CHECK(vocabulary::train(sentences, 400, 5).model() == vocabulary::train(sentences, 400, 6).model());
}

TEST_CASE("a vocabulary survives its bytes") {
  const vocabulary v = vocabulary::train(made_up_sentences(), 400);
  const vocabulary loaded = vocabulary::from_model(v.model());
  CHECK(loaded.model() == v.model());
  CHECK(loaded.size() == v.size());
  for (const auto& s : made_up_sentences()) CHECK(loaded.encode(s) == v.encode(s));
}

TEST_CASE("a text too small for the size gives fewer pieces and says so") {
  const vocabulary v = vocabulary::train(strings{"hello world hello world"}, 4000);
  CHECK(v.requested_size() == 4000);
  CHECK(v.size() > 260);
  CHECK(v.size() < 320);
  CHECK(damaged(v, {"hello world", "other words"}) == 0);
}

TEST_CASE("rare characters are spelt in bytes where the whole alphabet leaves no room") {
  strings sentences(600, "a b");
  for (int i = 0; i < 600; ++i) {
    const int c = 0x4E00 + i;  // Chinese characters, three bytes each
    std::string& s = sentences[static_cast<std::size_t>(i)];
    if (i < 100)
      s += {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
            static_cast<char>(0x80 | (c & 63))};
  }
  const vocabulary v = vocabulary::train(sentences, 350);
  CHECK(v.size() <= 350);
  CHECK(damaged(v, sentences) == 0);
}

TEST_CASE("a vocabulary too small for the alphabet is refused with the size it takes") {
  strings sentences;
  for (int i = 0; i < 600; ++i) {
    const int c = 0x4E00 + i;
    sentences.push_back({static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
                         static_cast<char>(0x80 | (c & 63))});
  }
  CHECK_THROWS_WITH(
      vocabulary::train(sentences, 400),
      "vocabulary of 400 pieces: the characters and bytes of this text alone take 835; give a larger size");
  CHECK(vocabulary::train(sentences, 835).size() == 835);
}

TEST_CASE("training writes nothing to the terminal") {
  std::FILE* caught = std::tmpfile();
  REQUIRE(caught != nullptr);
  std::fflush(stderr);
  const int terminal = ::dup(2);
  ::dup2(::fileno(caught), 2);
  vocabulary::train(made_up_sentences(), 400);
  CHECK_THROWS_AS(vocabulary::from_model("nonsense"), planlm::input_error);
  std::fflush(stderr);
  ::dup2(terminal, 2);
  ::close(terminal);
  std::fseek(caught, 0, SEEK_END);
  CHECK(std::ftell(caught) == 0);
  std::fclose(caught);
}

TEST_CASE("wrong sizes and empty texts are refused") {
  CHECK_THROWS_AS(vocabulary::train(made_up_sentences(), -1), planlm::input_error);
  CHECK_THROWS_WITH(vocabulary::train(made_up_sentences(), 100),
                    "vocabulary of 100 pieces: give at least 320 (256 are bytes)");
  CHECK_THROWS_WITH(vocabulary::train(made_up_sentences(), 400, 0, 0),
                    "vocabulary trained on at most 0 sentences: give at least 1");
  CHECK_THROWS_WITH(vocabulary::train(strings{}, 400),
                    "no sentences to train a vocabulary on: give text with at least one non-blank sentence");
  CHECK_THROWS_AS(vocabulary::train(strings{"", ""}, 400), planlm::input_error);
}

TEST_CASE("foreign and truncated models are refused") {
  const std::string model = vocabulary::train(made_up_sentences(), 400).model();
  const std::string half = model.substr(0, model.size() / 2 + 1);
  for (const std::string& bytes : {std::string("nonsense"), std::string(), std::string(1000, '\0'), half})
    CHECK_THROWS_WITH(
        vocabulary::from_model(bytes),
        "vocabulary: " + std::to_string(bytes.size()) +
            " bytes that are no SentencePiece model, or a truncated one: give the bytes that were saved");
}

TEST_CASE("an id outside the vocabulary is refused with its number") {
  const vocabulary v = vocabulary::train(made_up_sentences(), 400);
  for (const int id : {-1, 400}) {
    try {
      v.decode(ints{id});
      FAIL("accepted");
    } catch (const planlm::shape_error& e) {
      CHECK(std::string(e.what()).find("vocabulary: decode of id " + std::to_string(id) +
                                       ", expected 0 to 399") == 0);
    }
  }
}

TEST_CASE("every sentence of the film reviews and of WikiText-2 comes back from its ids") {
  if (!has_shared_data()) return;
  for (const char* file : {"/movie_reviews.txt", "/wikitext-2.valid.txt"}) {
    const strings sentences = all_sentences(read_corpus(shared_data + file));
    const vocabulary v = vocabulary::train(sentences, 4000, 1, 5000);
    CHECK(v.size() == 4000);
    CHECK(damaged(v, sentences) == 0);
  }
}
