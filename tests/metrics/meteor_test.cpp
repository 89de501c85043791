#include <fstream>
#include <string>
#include <vector>
#include <nlohmann/json.hpp>
#include <planlm/core/philox.hpp>
#include <planlm/metrics/meteor.hpp>
#include <planlm/metrics/rouge.hpp>

#include "../catch.hpp"
#include "words.hpp"

using namespace planlm;

TEST_CASE("METEOR and ROUGE of four summaries of a sentence: golden A18") {
  const auto all = nlohmann::json::parse(std::ifstream(PLANLM_GOLDEN "/guided_likelihood.json")).at("A18_rouge_meteor");
  const auto& expected = all.at("outputs");
  const auto reference = words(all.at("inputs").at("reference"));
  for (std::size_t i = 0; i < 4; ++i) {
    CAPTURE(i);
    const auto candidate = words(all.at("inputs").at("hypotheses").at(i));
    CHECK(std::abs(meteor{}(candidate, reference) - expected.at("meteor").at(i).get<double>()) < 1e-14);
    const token_alignment found = align_tokens(candidate, reference);
    CHECK(found.matches == expected.at("meteor_matches_chunks").at(i).at(0).get<index_t>());
    CHECK(found.chunks == expected.at("meteor_matches_chunks").at(i).at(1).get<index_t>());
    CHECK(std::abs(rouge_n(candidate, reference, 1).f - expected.at("rouge1").at(i).get<double>()) < 1e-14);
    CHECK(std::abs(rouge_n(candidate, reference, 2).f - expected.at("rouge2").at(i).get<double>()) < 1e-14);
    CHECK(std::abs(rouge_l(candidate, reference).f - expected.at("rougeL").at(i).get<double>()) < 1e-14);
  }
}

TEST_CASE("F27: a perfect match of seven words is one chunk and scores .998542, of m words 1 - .5 / m^3") {
  const auto reference = words("the cat sat on the mat today");
  CHECK(std::abs(meteor{}(reference, reference) - 0.998542) < 5e-7);
  CHECK(meteor{}(words("yes"), words("yes")) == 0.5);
  CHECK(meteor{.gamma = 0}(reference, reference) == 1);
}

TEST_CASE("METEOR by hand: recall weighs nine times precision, and order costs") {
  // 2 of 2 and of 4 match in one chunk: F = .5 / (.9 + .05), penalty .5 / 8.
  CHECK(std::abs(meteor{}(words("a b"), words("a b c d")) - 0.5 / 0.95 * (1 - 0.0625)) < 1e-15);
  CHECK(std::abs(meteor{}(words("a b c d"), words("a b")) - 0.5 / 0.55 * (1 - 0.0625)) < 1e-15);
  // The same words backwards are as many chunks as words.
  const token_alignment backwards = align_tokens(words("d c b a"), words("a b c d"));
  CHECK(backwards.matches == 4);
  CHECK(backwards.chunks == 4);
  CHECK(meteor{}(words("d c b a"), words("a b c d")) == 0.5);
  // A word counts as often as the other text has it; from the right each takes the last that is free.
  const token_alignment repeated = align_tokens(words("a a a"), words("a b a"));
  CHECK(repeated.matches == 2);
  CHECK(repeated.chunks == 2);
}

TEST_CASE("METEOR is within 0 and 1, and 0 for empty texts and texts that share nothing") {
  const std::vector<int> none, one{7};
  CHECK(meteor{}(none, none) == 0);
  CHECK(meteor{}(none, one) == 0);
  CHECK(meteor{}(one, none) == 0);
  CHECK(meteor{}(std::vector<int>{1, 2}, one) == 0);
  const philox draws{5};
  for (std::uint64_t i = 0; i < 50; ++i) {
    std::vector<int> a, b;
    for (std::uint32_t j = 0; j < 3 + i % 9; ++j) a.push_back(static_cast<int>(draws.below(4, 2 * i, j)));
    for (std::uint32_t j = 0; j < 8; ++j) b.push_back(static_cast<int>(draws.below(4, 2 * i + 1, j)));
    const double score = meteor{}(a, b);
    CHECK(score >= 0);
    CHECK(score < 1);
    const token_alignment found = align_tokens(a, b);
    CHECK(found.chunks <= found.matches);
    // As many match as ROUGE-1 counts.
    CHECK(std::abs(rouge_n(a, b, 1).recall - double(found.matches) / 8) < 1e-15);
  }
}
