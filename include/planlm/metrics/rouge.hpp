/// ROUGE: how much of a reference text a candidate text repeats (Lin, "ROUGE: a package for automatic
/// evaluation of summaries", 2004).
///
///   ROUGE-N  m = sum over n-grams g of min(count in candidate, count in reference)
///            recall m / (n-grams of the reference), precision m / (n-grams of the candidate)
///   ROUGE-L  m = length of the longest common subsequence; recall m / reference, precision m / candidate
///   F        2 recall precision / (recall + precision): equal weights (beta = 1)
///
/// A text is a vector or span of token ids or of words; stemming, casing and tokens are the caller's. A ratio
/// with nothing below it is 0: a pair of which either text has no n-gram scores 0, two empty texts too. The
/// score of a corpus is the mean over pairs of each of the three, so its F is not the F of its recall and
/// precision.
///
/// errors  shape_error for n < 1 and for lists of different length
#pragma once
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/metrics/ngrams.hpp>
#include <ranges>
#include <span>
#include <string>
#include <vector>

namespace planlm {

/// Shares, 0 to 1.
struct rouge_score {
  double recall = 0, precision = 0, f = 0;
};

namespace detail {

inline rouge_score rouge_of(index_t matched, index_t candidate, index_t reference) {
  if (matched == 0) return {};
  const double m = static_cast<double>(matched);
  return {m / static_cast<double>(reference), m / static_cast<double>(candidate),
          2 * m / static_cast<double>(candidate + reference)};
}

template <class Score, class Candidates, class References>
rouge_score mean_rouge(const Candidates& candidates, const References& references, location at,
                       const Score& score) {
  if (std::ranges::size(candidates) != std::ranges::size(references))
    throw_shape_error("ROUGE: " + std::to_string(std::ranges::size(candidates)) + " candidates and " +
                          std::to_string(std::ranges::size(references)) +
                          " references, expected one for each",
                      at);
  rouge_score mean;
  auto reference = std::ranges::begin(references);
  for (const auto& candidate : candidates) {
    const rouge_score one = score(candidate, *reference++);
    mean.recall += one.recall;
    mean.precision += one.precision;
    mean.f += one.f;
  }
  const double pairs = std::max(1.0, static_cast<double>(std::ranges::size(candidates)));
  return {mean.recall / pairs, mean.precision / pairs, mean.f / pairs};
}

}  // namespace detail

/// ROUGE-N of one pair.
template <TokenSequence C, SequenceOf<token_of<C>> R>
rouge_score rouge_n(const C& candidate, const R& reference, index_t n, location at = location::here()) {
  const ngram_counts<token_of<C>> have(candidate, n, at), wanted(reference, n, at);
  index_t matched = 0;
  for (const auto& [gram, count] : have.entries()) matched += std::min(count, wanted.count(gram));
  return detail::rouge_of(matched, have.total(), wanted.total());
}

/// ROUGE-L of one pair; time candidate x reference, memory one row.
template <TokenSequence C, SequenceOf<token_of<C>> R>
rouge_score rouge_l(const C& candidate, const R& reference) {
  const std::span<const token_of<C>> a(candidate), b(reference);
  std::vector<index_t> row(b.size() + 1);  // longest common subsequences of a's prefix and all prefixes of b
  for (const auto& token : a) {
    index_t diagonal = 0;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const index_t longest = token == b[j - 1] ? diagonal + 1 : std::max(row[j], row[j - 1]);
      diagonal = row[j];
      row[j] = longest;
    }
  }
  return detail::rouge_of(row[b.size()], static_cast<index_t>(a.size()), static_cast<index_t>(b.size()));
}

/// Mean ROUGE-N over pairs: candidate i against reference i. 0 for no pairs.
template <std::ranges::sized_range Candidates, std::ranges::sized_range References>
rouge_score mean_rouge_n(const Candidates& candidates, const References& references, index_t n,
                         location at = location::here()) {
  return detail::mean_rouge(candidates, references, at,
                            [&](const auto& c, const auto& r) { return rouge_n(c, r, n, at); });
}

/// Mean ROUGE-L over pairs.
template <std::ranges::sized_range Candidates, std::ranges::sized_range References>
rouge_score mean_rouge_l(const Candidates& candidates, const References& references,
                         location at = location::here()) {
  return detail::mean_rouge(candidates, references, at,
                            [](const auto& c, const auto& r) { return rouge_l(c, r); });
}

}  // namespace planlm
