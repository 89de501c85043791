/// BLEU-4: how many of a candidate's n-grams, n = 1 .. 4, its references have (Papineni, Roukos, Ward, Zhu,
/// "BLEU: a method for automatic evaluation of machine translation", 2002).
///
///   p_n   = sum of clipped counts / sum of counts, over the n-grams of all candidates; a count is clipped by
///           the largest one in any single reference
///   BP    = 1 if c > r, else exp(1 - r / c);  c tokens of candidates, r of the references closest in length
///           (the shorter of two as close)
///   BLEU  = BP exp((ln p_1 + ln p_2 + ln p_3 + ln p_4) / 4), 0 to 1
///
/// Counts are added over the corpus before any division: corpus BLEU is no mean of sentence BLEUs. Without a
/// matched token or without candidates the score is 0. What a p_n without a match becomes is a
/// `bleu_smoothing`:
///   none     0, so BLEU is 0: right for a corpus, and always 0 for a candidate of three tokens
///   epsilon  0.1 / max(1, count): method 1 of Chen and Cherry 2014. Equal texts of less than four tokens
///            score below 1
///   add_one  (match + 1) / (count + 1) for every n > 1: Lin and Och 2004. Equal texts score 1 at any length
///
/// errors  shape_error for lists of different length
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/metrics/ngrams.hpp>
#include <ranges>
#include <span>
#include <string>
#include <vector>

namespace planlm {

enum class bleu_smoothing { none, epsilon, add_one };

/// The counts of a corpus, one candidate after the other. `bleu_counts b; b.add(candidate, reference);
/// b.score()`.
class bleu_counts {
 public:
  static constexpr std::size_t orders = 4;

  /// A candidate with one reference.
  template <TokenSequence C, SequenceOf<token_of<C>> R>
  void add(const C& candidate, const R& reference) {
    const std::span<const token_of<R>> one(reference);
    add_any(candidate, std::span(&one, 1));
  }

  /// A candidate with references of which any may match; without references nothing matches.
  template <TokenSequence C, std::ranges::forward_range References>
  void add_any(const C& candidate, const References& references) {
    using token = token_of<C>;
    const std::span<const token> text(candidate);
    for (std::size_t n = 1; n <= orders; ++n) {
      const ngram_counts<token> have(text, static_cast<index_t>(n));
      std::vector<ngram_counts<token>> wanted;
      for (const auto& reference : references)
        wanted.emplace_back(std::span<const token>(reference), static_cast<index_t>(n));
      for (const auto& [gram, count] : have.entries()) {
        index_t most = 0;
        for (const auto& one : wanted) most = std::max(most, one.count(gram));
        matched_[n - 1] += std::min(count, most);
      }
      total_[n - 1] += have.total();
    }
    const auto length = static_cast<index_t>(text.size());
    index_t closest = -1;
    for (const auto& reference : references) {
      const auto other = static_cast<index_t>(std::ranges::size(reference));
      const index_t gap = std::abs(other - length), best = std::abs(closest - length);
      if (closest < 0 || gap < best || (gap == best && other < closest)) closest = other;
    }
    candidate_tokens_ += length;
    reference_tokens_ += std::max<index_t>(closest, 0);
  }

  /// Clipped matches and counts of n-grams, n = 1 .. 4.
  index_t matched(std::size_t n) const { return matched_[n - 1]; }
  index_t total(std::size_t n) const { return total_[n - 1]; }
  index_t candidate_tokens() const { return candidate_tokens_; }
  index_t reference_tokens() const { return reference_tokens_; }

  double precision(std::size_t n, bleu_smoothing smoothing = bleu_smoothing::none) const {
    const double match = static_cast<double>(matched(n)), count = static_cast<double>(total(n));
    if (smoothing == bleu_smoothing::add_one && n > 1) return (match + 1) / (count + 1);
    if (smoothing == bleu_smoothing::epsilon && match == 0) return 0.1 / std::max(1.0, count);
    return count > 0 ? match / count : 0;
  }
  /// BP; 0 without a token.
  double brevity_penalty() const {
    if (candidate_tokens_ == 0) return 0;
    const double c = static_cast<double>(candidate_tokens_), r = static_cast<double>(reference_tokens_);
    return c > r ? 1 : std::exp(1 - r / c);
  }
  double score(bleu_smoothing smoothing = bleu_smoothing::none) const {
    if (matched(1) == 0) return 0;
    double logs = 0;
    for (std::size_t n = 1; n <= orders; ++n) logs += std::log(precision(n, smoothing));
    return brevity_penalty() * std::exp(logs / static_cast<double>(orders));
  }

 private:
  std::array<index_t, orders> matched_{}, total_{};
  index_t candidate_tokens_ = 0, reference_tokens_ = 0;
};

/// BLEU-4 of one pair. Single sentences often lack a common run of four tokens, hence the smoothing.
template <TokenSequence C, SequenceOf<token_of<C>> R>
double sentence_bleu(const C& candidate, const R& reference,
                     bleu_smoothing smoothing = bleu_smoothing::epsilon) {
  bleu_counts counts;
  counts.add(candidate, reference);
  return counts.score(smoothing);
}

/// BLEU-4 of a corpus: candidate i against reference i.
template <std::ranges::sized_range Candidates, std::ranges::sized_range References>
double corpus_bleu(const Candidates& candidates, const References& references,
                   bleu_smoothing smoothing = bleu_smoothing::none, location at = location::here()) {
  if (std::ranges::size(candidates) != std::ranges::size(references))
    throw_shape_error("BLEU: " + std::to_string(std::ranges::size(candidates)) + " candidates and " +
                          std::to_string(std::ranges::size(references)) +
                          " references, expected one for each",
                      at);
  bleu_counts counts;
  auto reference = std::ranges::begin(references);
  for (const auto& candidate : candidates) counts.add(candidate, *reference++);
  return counts.score(smoothing);
}

}  // namespace planlm
