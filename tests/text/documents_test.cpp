#include "catch.hpp"

#include <algorithm>
#include <planlm/text/documents.hpp>
#include <set>
#include <string>
#include <vector>

namespace {
using namespace planlm::text;
using ints = std::vector<int>;

/// Letters as tokens 'a' -> 1; everything else has no token.
struct letters {
  int bos() const { return 0; }
  ints encode(const std::string& sentence) const {
    ints ids;
    for (const char c : sentence)
      if (c >= 'a' && c <= 'z') ids.push_back(c - 'a' + 1);
    return ids;
  }
};
static_assert(Tokeniser<letters>);
struct no_bos {
  ints encode(const std::string&) const { return {}; }
};
static_assert(!Tokeniser<no_bos>);

corpus numbered_corpus(const ints& sentences) {
  corpus text;
  for (std::size_t d = 0; d < sentences.size(); ++d) {
    text.documents.push_back({"d" + std::to_string(d), {}});
    for (int i = 0; i < sentences[d]; ++i)
      text.documents.back().sentences.push_back(std::to_string(d) + "." + std::to_string(i));
  }
  return text;
}
}  // namespace

TEST_CASE("a tokenised document is BOS and its sentences, with where each begins") {
  const tokenised_corpus t = tokenise({{{"x", {"ab", "c", "abc"}}, {"y", {"z"}}}, "test"}, letters{});
  REQUIRE(t.documents.size() == 2);
  CHECK(t.documents[0].tokens == ints{0, 1, 2, 3, 1, 2, 3});
  CHECK(t.documents[0].sentence_begin == ints{1, 3, 4, 7});
  CHECK(t.documents[0].sentences() == 3);
  CHECK(t.documents[1].tokens == ints{0, 26});
  CHECK(t.text.description == "test");
  CHECK(t.dropped_sentences == 0);
  CHECK(count_tokens(t.documents) == 9);
  CHECK(count_sentences(t.text) == 4);
}

TEST_CASE("a sentence without tokens leaves text and ids alike") {
  const tokenised_corpus t = tokenise(
      {{{"x", {"...", "ab", "!", "c"}}, {"nothing", {"?", "!"}}, {"y", {"z", "-"}}}, "test"}, letters{});
  REQUIRE(t.documents.size() == 2);
  REQUIRE(t.text.documents.size() == 2);
  CHECK(t.text.documents[0].sentences == std::vector<std::string>{"ab", "c"});
  CHECK(t.documents[0].sentence_begin == ints{1, 3, 4});
  CHECK(t.text.documents[1].name == "y");
  CHECK(t.documents[1].sentences() == 1);
  CHECK(t.dropped_sentences == 5);
}

TEST_CASE("a corpus without a single token is refused") {
  CHECK_THROWS_AS(tokenise({{{"x", {"...", "!"}}}, "dots.txt"}, letters{}), planlm::input_error);
  CHECK_THROWS_WITH(tokenise({{{"x", {"...", "!"}}}, "dots.txt"}, letters{}),
                    "dots.txt: no sentence gives a token; give text with words in it");
}

TEST_CASE("the sentences of chosen documents come in the chosen order") {
  const corpus text = numbered_corpus({2, 1, 2});
  CHECK(sentences_of(text, ints{2, 0}) == std::vector<std::string>{"2.0", "2.1", "0.0", "0.1"});
}

TEST_CASE("long documents are cut into parts of about the wanted length and lose nothing") {
  for (const int n : {1, 19, 20, 29, 30, 31, 100, 107, 1000}) {
    const corpus whole = numbered_corpus({n});
    const corpus parts = cut_long_documents(whole, 20);
    std::vector<std::string> joined;
    for (const auto& d : parts.documents) {
      joined.insert(joined.end(), d.sentences.begin(), d.sentences.end());
      if (n >= 20) CHECK((d.sentences.size() >= 14 && d.sentences.size() <= 29));
    }
    CHECK(joined == whole.documents[0].sentences);
  }
  const corpus parts = cut_long_documents(numbered_corpus({5, 41}), 20);
  REQUIRE(parts.documents.size() == 3);
  CHECK(parts.documents[0].name == "d0");
  CHECK(parts.documents[2].name == "d1 (part 2 of 2)");
  CHECK_THROWS_WITH(cut_long_documents(numbered_corpus({5}), 0),
                    "documents of 0 sentences: give a length of at least 1");
}

TEST_CASE("a split gives every document to exactly one part, the sizes as asked") {
  for (const int n : {3, 4, 7, 10, 60, 1189, 2000}) {
    const document_split s = split_documents(n, 42);
    std::multiset<int> all(s.train.begin(), s.train.end());
    all.insert(s.valid.begin(), s.valid.end());
    all.insert(s.test.begin(), s.test.end());
    CHECK(all.size() == static_cast<std::size_t>(n));
    CHECK(std::set<int>(all.begin(), all.end()).size() == all.size());
    CHECK((*all.begin() == 0 && *all.rbegin() == n - 1));
    CHECK((!s.train.empty() && !s.valid.empty() && !s.test.empty()));
    CHECK(std::is_sorted(s.train.begin(), s.train.end()));
  }
  const document_split s = split_documents(2000, 1);
  CHECK((s.train.size() == 1600 && s.valid.size() == 200 && s.test.size() == 200));
  const document_split halves = split_documents(8, 1, {0.5, 0.25, 0.25});
  CHECK((halves.train.size() == 4 && halves.valid.size() == 2 && halves.test.size() == 2));
  const document_split skewed = split_documents(3, 1, {0.01, 0.01, 0.98});
  CHECK((skewed.train.size() == 1 && skewed.valid.size() == 1 && skewed.test.size() == 1));
}

TEST_CASE("a split depends on the seed and on nothing else") {
  CHECK(split_documents(100, 7).test == split_documents(100, 7).test);
  CHECK(split_documents(100, 7).test != split_documents(100, 8).test);
}

TEST_CASE("a corpus too small for the split is refused with the numbers") {
  CHECK_THROWS_AS(split_documents(2, 0), planlm::input_error);
  CHECK_THROWS_WITH(
      split_documents(2, 0),
      "the corpus has 2 documents, the split into train, valid and test needs at least 3: add text, or cut "
      "long documents");
  CHECK_THROWS_WITH(
      split_documents(1, 0),
      "the corpus has 1 document, the split into train, valid and test needs at least 3: add text, or cut "
      "long documents");
  CHECK_THROWS_WITH(split_documents(9, 0, {0.9, 0.2, 0.1}),
                    "split 0.900000/0.200000/0.100000: give three positive fractions that add up to 1");
  CHECK_THROWS_AS(split_documents(9, 0, {1.0, 0.0, 0.0}), planlm::input_error);
}

TEST_CASE("a shuffled order is a permutation, given by the counter, and every place takes every value") {
  const planlm::philox draws{3, 0, 1};
  const ints order = shuffled_order(50, draws);
  CHECK(std::set<int>(order.begin(), order.end()).size() == 50);
  CHECK(order == shuffled_order(50, draws));
  CHECK(order != shuffled_order(50, draws.at_step(1)));
  CHECK(shuffled_order(0, draws).empty());
  CHECK(shuffled_order(1, draws) == ints{0});
  // 6000 permutations of 3: each of the six expected 1000 times, standard deviation 29.
  std::vector<int> count(27);
  for (std::uint32_t step = 0; step < 6000; ++step) {
    const ints p = shuffled_order(3, draws.at_step(step));
    ++count[static_cast<std::size_t>(9 * p[0] + 3 * p[1] + p[2])];
  }
  for (const std::size_t code : {5u, 7u, 11u, 15u, 19u, 21u})
    CHECK((count[code] > 850 && count[code] < 1150));
}
