#include <array>
#include <cstdint>
#include <planlm/metrics/ngrams.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "words.hpp"

using namespace planlm;

static_assert(TokenSequence<std::vector<std::int32_t>> && TokenSequence<std::span<const std::string>> &&
              TokenSequence<std::array<char, 3>>);
static_assert(!TokenSequence<int> && !TokenSequence<std::vector<bool>>);

TEST_CASE("n-grams are counted where they occur, also where they overlap") {
  // a a a b a a: aa at 0, 1, 4; ab at 2; ba at 3
  const std::vector<std::string> text = words("a a a b a a");
  const ngram_counts<std::string> pairs(text, 2);
  CHECK(pairs.total() == 5);
  REQUIRE(pairs.entries().size() == 3);
  CHECK(pairs.entries()[0].second == 3);
  CHECK(pairs.entries()[1].second == 1);
  CHECK(pairs.count(words("a a")) == 3);
  CHECK(pairs.count(words("b a")) == 1);
  CHECK(pairs.count(words("b b")) == 0);
  CHECK(pairs.count(words("c a")) == 0);
}

TEST_CASE("a text has T - n + 1 n-grams, and none when it is shorter than n") {
  const std::vector<std::int32_t> text{4, 4, 4, 4};
  for (index_t n = 1; n <= 6; ++n) {
    const ngram_counts<std::int32_t> counts(text, n);
    CHECK(counts.total() == std::max<index_t>(0, 5 - n));
    CHECK(counts.entries().size() == (n <= 4 ? 1u : 0u));
  }
  CHECK(ngram_counts<std::int32_t>(std::span<const std::int32_t>(), 1).total() == 0);
  CHECK_THROWS_AS(ngram_counts<std::int32_t>(text, 0), shape_error);
}
