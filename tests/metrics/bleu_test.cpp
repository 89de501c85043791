#include <cmath>
#include <cstdint>
#include <planlm/core/philox.hpp>
#include <planlm/metrics/bleu.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "words.hpp"

using namespace planlm;

namespace {

using ids = std::vector<std::int32_t>;
using text = std::vector<std::string>;
const auto candidate = words("the cat sat on the mat"), reference = words("the cat sat on a mat");

double fourth_root(double x) { return std::pow(x, 0.25); }

ids random_text(std::uint64_t row, std::uint32_t length) {
  const philox draws{6};
  ids tokens;
  for (std::uint32_t i = 0; i < length; ++i)
    tokens.push_back(static_cast<std::int32_t>(draws.below(3, row, i)));
  return tokens;
}

}  // namespace

TEST_CASE("BLEU-4 of a sentence worked by hand") {
  bleu_counts counts;
  counts.add(candidate, reference);
  // the (clipped from 2 to 1), cat, sat, on, mat: 5 of 6
  // the cat, cat sat, sat on: 3 of 5;  the cat sat, cat sat on: 2 of 4;  the cat sat on: 1 of 3
  for (std::size_t n = 1; n <= 4; ++n) {
    CHECK(counts.total(n) == 7 - static_cast<index_t>(n));
    CHECK(counts.matched(n) == std::vector<index_t>{5, 3, 2, 1}[n - 1]);
  }
  CHECK(counts.brevity_penalty() == 1);
  // 5/6 * 3/5 * 2/4 * 1/3 = 1/12
  CHECK(counts.score() == Approx(fourth_root(1.0 / 12)).epsilon(1e-12));
  // 5/6 * 4/6 * 3/5 * 2/4 = 1/6
  CHECK(counts.score(bleu_smoothing::add_one) == Approx(fourth_root(1.0 / 6)).epsilon(1e-12));
  // nothing is without a match, nothing is smoothed
  CHECK(counts.score(bleu_smoothing::epsilon) == counts.score());
}

TEST_CASE("orders without a match make BLEU 0 unless they are smoothed") {
  const auto c = words("a b x c d"), r = words("a b y c d");
  CHECK(sentence_bleu(c, r, bleu_smoothing::none) == 0);
  // a, b, c, d: 4/5;  a b, c d: 2/4;  none of 3;  none of 2
  // epsilon: 4/5 * 2/4 * .1/3 * .1/2 = 1/1500
  CHECK(sentence_bleu(c, r) == Approx(fourth_root(1.0 / 1500)).epsilon(1e-12));
  // add one: 4/5 * 3/5 * 1/4 * 1/3 = 1/25
  CHECK(sentence_bleu(c, r, bleu_smoothing::add_one) == Approx(fourth_root(1.0 / 25)).epsilon(1e-12));
}

TEST_CASE("a candidate shorter than its reference pays, a longer one does not") {
  const auto four = words("the cat sat on");
  // every n-gram matches; c = 4, r = 6: exp(1 - 6/4)
  CHECK(sentence_bleu(four, candidate, bleu_smoothing::none) == Approx(std::exp(-0.5)).epsilon(1e-12));
  // 4/6 * 3/5 * 2/4 * 1/3 = 1/15, no penalty
  CHECK(sentence_bleu(candidate, four, bleu_smoothing::none) == Approx(fourth_root(1.0 / 15)).epsilon(1e-12));
}

TEST_CASE("corpus BLEU adds counts, it is no mean of sentence scores") {
  const std::vector<text> candidates{candidate, words("dogs bark")},
      references{reference, words("dogs bark loudly")};
  // 1: (5 + 2)/(6 + 2)  2: (3 + 1)/(5 + 1)  3: 2/4  4: 1/3;  product 7/72;  c = 8, r = 9: exp(-1/8)
  CHECK(corpus_bleu(candidates, references) ==
        Approx(std::exp(-0.125) * fourth_root(7.0 / 72)).epsilon(1e-12));
  CHECK(corpus_bleu(candidates, references) !=
        Approx((sentence_bleu(candidate, reference) + sentence_bleu(candidates[1], references[1])) / 2));
  CHECK(corpus_bleu(std::vector<text>{candidate}, std::vector<text>{reference}) ==
        sentence_bleu(candidate, reference, bleu_smoothing::none));
  CHECK_THROWS_AS(corpus_bleu(candidates, std::vector<text>{reference}), shape_error);
}

TEST_CASE("a count is clipped by the largest count in one reference, not by the sum") {
  bleu_counts counts;
  counts.add_any(words("the the the the the the the"),
                 std::vector{words("the cat lies on the mat today"), words("a cat is on the mat today")});
  CHECK(counts.matched(1) == 2);  // 2 in the first, 1 in the second
  CHECK(counts.total(1) == 7);
  CHECK(counts.matched(2) == 0);
}

TEST_CASE("n-grams may match different references") {
  bleu_counts counts;
  counts.add_any(words("a b c d"), std::vector{words("a b x"), words("y c d")});
  CHECK(counts.matched(1) == 4);
  CHECK(counts.matched(2) == 2);  // a b, c d
  CHECK(counts.matched(3) == 0);
}

TEST_CASE("the reference closest in length counts, the shorter of two as close") {
  const auto length_of = [](std::vector<text> references) {
    bleu_counts counts;
    counts.add_any(words("a b c d e"), references);
    return counts.reference_tokens();
  };
  CHECK(length_of({words("a b c"), words("a b c d e f")}) == 6);
  CHECK(length_of({words("a b c d e f"), words("a b c d")}) == 4);
  CHECK(length_of({words("a b c d"), words("a b c d e f")}) == 4);
  CHECK(length_of({words(""), words("a b c d e f g h i j k l")}) == 0);
  CHECK(length_of({}) == 0);
}

TEST_CASE("equal texts score 1, texts without a common token 0, with every smoothing") {
  for (std::uint32_t length = 4; length < 12; ++length) {
    const ids tokens = random_text(length, length);
    ids other = tokens;
    for (auto& t : other) t += 10;
    for (const auto smoothing : {bleu_smoothing::none, bleu_smoothing::epsilon, bleu_smoothing::add_one}) {
      CHECK(sentence_bleu(tokens, tokens, smoothing) == Approx(1).epsilon(1e-12));
      CHECK(sentence_bleu(tokens, other, smoothing) == 0);
    }
  }
}

TEST_CASE("what BLEU is for texts of less than four tokens") {
  const ids none, one{3}, two{3, 4};
  for (const auto smoothing : {bleu_smoothing::none, bleu_smoothing::epsilon, bleu_smoothing::add_one}) {
    CHECK(sentence_bleu(none, none, smoothing) == 0);
    CHECK(sentence_bleu(none, one, smoothing) == 0);
    CHECK(sentence_bleu(one, none, smoothing) == 0);
  }
  CHECK(sentence_bleu(two, two, bleu_smoothing::none) == 0);
  CHECK(sentence_bleu(two, two, bleu_smoothing::add_one) == Approx(1).epsilon(1e-12));
  // 1 * 1 * .1 * .1
  CHECK(sentence_bleu(two, two, bleu_smoothing::epsilon) == Approx(std::sqrt(0.1)).epsilon(1e-12));
  CHECK(bleu_counts().score(bleu_smoothing::add_one) == 0);
}

TEST_CASE("BLEU lies between 0 and 1, and the order of pairs does not matter") {
  std::vector<ids> a, b;
  for (std::uint64_t i = 0; i < 60; ++i) {
    a.push_back(random_text(2 * i, static_cast<std::uint32_t>(i % 9)));
    b.push_back(random_text(2 * i + 1, static_cast<std::uint32_t>(i * 5 % 11)));
    for (const auto smoothing : {bleu_smoothing::none, bleu_smoothing::epsilon, bleu_smoothing::add_one}) {
      CHECK(sentence_bleu(a.back(), b.back(), smoothing) >= 0);
      CHECK(sentence_bleu(a.back(), b.back(), smoothing) <= 1);
    }
  }
  const double forwards = corpus_bleu(a, b);
  CHECK(forwards > 0);
  CHECK(corpus_bleu(std::vector<ids>(a.rbegin(), a.rend()), std::vector<ids>(b.rbegin(), b.rend())) ==
        forwards);
}
