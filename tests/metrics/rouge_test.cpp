#include <algorithm>
#include <cstdint>
#include <planlm/core/philox.hpp>
#include <planlm/metrics/rouge.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "words.hpp"

using namespace planlm;

namespace {

using ids = std::vector<std::int32_t>;
using text = std::vector<std::string>;
const std::vector<std::string> reference = words("the cat sat on the mat today");

void check(const rouge_score& score, double recall, double precision, double f) {
  CHECK(score.recall == Approx(recall));
  CHECK(score.precision == Approx(precision));
  CHECK(score.f == Approx(f));
}

ids random_text(std::uint64_t row, std::uint32_t length) {
  const philox draws{5};
  ids tokens;
  for (std::uint32_t i = 0; i < length; ++i)
    tokens.push_back(static_cast<std::int32_t>(draws.below(4, row, i)));
  return tokens;
}

}  // namespace

TEST_CASE("ROUGE-1, 2 and L of a sentence with one word changed and one missing") {
  const auto candidate = words("the cat lay on the mat");
  // the (twice), cat, on, mat: 5 of 7 and of 6;  F 2 * 5 / 13
  check(rouge_n(candidate, reference, 1), 5.0 / 7, 5.0 / 6, 10.0 / 13);
  // the cat, on the, the mat: 3 of 6 and of 5;  F 6 / 11
  check(rouge_n(candidate, reference, 2), 3.0 / 6, 3.0 / 5, 6.0 / 11);
  // on the mat: 1 of 5 and of 4;  F 2 / 9
  check(rouge_n(candidate, reference, 3), 1.0 / 5, 1.0 / 4, 2.0 / 9);
  // the cat . on the mat: 5
  check(rouge_l(candidate, reference), 5.0 / 7, 5.0 / 6, 10.0 / 13);
}

TEST_CASE("ROUGE of a short candidate with a word out of order") {
  const auto candidate = words("today the cat sat");
  check(rouge_n(candidate, reference, 1), 4.0 / 7, 1, 8.0 / 11);
  // the cat, cat sat: 2 of 6 and of 3
  check(rouge_n(candidate, reference, 2), 2.0 / 6, 2.0 / 3, 4.0 / 9);
  // the cat sat: 3
  check(rouge_l(candidate, reference), 3.0 / 7, 3.0 / 4, 6.0 / 11);
}

TEST_CASE("a word repeated more often than the reference has it counts as often as there") {
  // the: min(7, 2) = 2 of 7 words; of the reference's 7
  check(rouge_n(words("the the the the the the the"), reference, 1), 2.0 / 7, 2.0 / 7, 2.0 / 7);
  // a a: min(3, 1);  3 pairs and 1 pair
  check(rouge_n(words("a a a a"), words("a a"), 2), 1, 1.0 / 3, 0.5);
}

TEST_CASE("ROUGE-L sees an order that ROUGE-2 does not") {
  const auto right = words("dogs chased the cat"), told = words("dogs chase the cat"),
             turned = words("the cat chase dogs");
  CHECK(rouge_n(told, right, 2).f == Approx(rouge_n(turned, right, 2).f));
  CHECK(rouge_l(told, right).f == Approx(3.0 / 4));
  CHECK(rouge_l(turned, right).f == Approx(2.0 / 4));
}

TEST_CASE("equal texts score 1, texts without a common token 0") {
  for (std::uint32_t length = 1; length < 9; ++length) {
    const ids tokens = random_text(length, length);
    ids other = tokens;
    for (auto& t : other) t += 10;
    check(rouge_l(tokens, tokens), 1, 1, 1);
    check(rouge_l(tokens, other), 0, 0, 0);
    for (index_t n = 1; n <= static_cast<index_t>(length); ++n) {
      check(rouge_n(tokens, tokens, n), 1, 1, 1);
      check(rouge_n(tokens, other, n), 0, 0, 0);
    }
  }
}

TEST_CASE("a pair of which a text is too short for an n-gram scores 0") {
  const ids none, one{7}, two{7, 8};
  check(rouge_n(none, none, 1), 0, 0, 0);
  check(rouge_n(one, none, 1), 0, 0, 0);
  check(rouge_n(none, one, 1), 0, 0, 0);
  check(rouge_n(one, one, 2), 0, 0, 0);
  check(rouge_n(one, two, 2), 0, 0, 0);
  check(rouge_l(none, none), 0, 0, 0);
  check(rouge_l(one, none), 0, 0, 0);
  CHECK_THROWS_AS(rouge_n(one, one, 0), shape_error);
}

TEST_CASE("swapping candidate and reference swaps recall and precision, and F agrees with both") {
  for (std::uint64_t i = 0; i < 40; ++i) {
    const ids a = random_text(2 * i, 3 + static_cast<std::uint32_t>(i % 7)), b = random_text(2 * i + 1, 8);
    for (const bool longest : {false, true}) {
      const rouge_score there = longest ? rouge_l(a, b) : rouge_n(a, b, 2),
                        back = longest ? rouge_l(b, a) : rouge_n(b, a, 2);
      CHECK(there.recall == back.precision);
      CHECK(there.precision == back.recall);
      CHECK(there.f == back.f);
      if (there.f > 0)
        CHECK(there.f ==
              Approx(2 * there.recall * there.precision / (there.recall + there.precision)).epsilon(1e-12));
    }
    // A common subsequence uses every token at most as often as both texts have it.
    CHECK(rouge_l(a, b).f <= rouge_n(a, b, 1).f);
  }
}

TEST_CASE("words and their numbers give the same score") {
  const auto a = words("x y x z y"), b = words("y x z x");
  const ids a_ids{1, 2, 1, 3, 2}, b_ids{2, 1, 3, 1};
  CHECK(rouge_n(a, b, 2).f == rouge_n(a_ids, b_ids, 2).f);
  CHECK(rouge_l(a, b).f == rouge_l(std::span(a_ids), b_ids).f);
}

TEST_CASE("the score of a corpus is the mean over its pairs") {
  const std::vector<text> candidates{words("the cat lay on the mat"), words("today the cat sat"),
                                     words("dogs bark"), reference};
  const std::vector<text> references(4, reference);
  // ROUGE-2: F 6/11, 4/9, 0, 1;  recall 3/6, 2/6, 0, 1;  precision 3/5, 2/3, 0, 1
  check(mean_rouge_n(candidates, references, 2), (0.5 + 1.0 / 3 + 0 + 1) / 4, (0.6 + 2.0 / 3 + 0 + 1) / 4,
        (6.0 / 11 + 4.0 / 9 + 0 + 1) / 4);
  CHECK(mean_rouge_l(candidates, references).f == Approx((10.0 / 13 + 6.0 / 11 + 0 + 1) / 4));
  const std::vector<ids> nothing;
  check(mean_rouge_n(nothing, nothing, 2), 0, 0, 0);
  CHECK_THROWS_AS(mean_rouge_n(candidates, std::vector<text>{reference}, 2), shape_error);
}
