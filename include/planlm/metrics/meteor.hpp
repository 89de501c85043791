/// METEOR without stems and synonyms: how much of a reference a candidate holds, and in how few pieces (Banerjee and Lavie, "METEOR: an
/// automatic metric for MT evaluation", 2005).
///
///   m words match, in c chunks: runs that follow one another in both texts
///   F = P R / (alpha P + (1 - alpha) R),   P = m / candidate, R = m / reference;   score = F (1 - gamma (c / m)^beta)
///
/// Only equal tokens match: it is another preference than METEOR with WordNet, and should be called so. From the last word of the candidate
/// to the first, each takes the last word of the reference that is equal and free. A perfect match of m words is one chunk and scores
/// 1 - gamma / m^beta, not 1. No match, or an empty text: 0. Casing and tokens are the caller's.
#pragma once
#include <cmath>
#include <cstddef>
#include <ranges>
#include <span>
#include <vector>
#include <planlm/metrics/ngrams.hpp>

namespace planlm {

/// Tokens of the candidate that have a partner in the reference, and the runs they form.
struct token_alignment {
  index_t matches = 0, chunks = 0;
};

/// Time candidate x reference.
template <TokenSequence C, SequenceOf<token_of<C>> R>
token_alignment align_tokens(const C& candidate, const R& reference) {
  const std::span<const token_of<C>> a(candidate), b(reference);
  std::vector<bool> taken(b.size());
  token_alignment found;
  std::size_t next_a = 0, next_b = 0;  // the match before this one, that is, to its right
  for (std::size_t i = a.size(); i-- > 0;)
    for (std::size_t j = b.size(); j-- > 0;) {
      if (taken[j] || !(a[i] == b[j])) continue;
      taken[j] = true;
      if (found.matches == 0 || next_a != i + 1 || next_b != j + 1) ++found.chunks;
      ++found.matches;
      next_a = i, next_b = j;
      break;
    }
  return found;
}

struct meteor {
  double alpha = 0.9, beta = 3, gamma = 0.5;

  /// 0 to 1.
  template <TokenSequence C, SequenceOf<token_of<C>> R>
  double operator()(const C& candidate, const R& reference) const {
    const token_alignment found = align_tokens(candidate, reference);
    if (found.matches == 0) return 0;
    const double m = static_cast<double>(found.matches), precision = m / static_cast<double>(std::ranges::size(candidate)),
                 recall = m / static_cast<double>(std::ranges::size(reference));
    const double f = precision * recall / (alpha * precision + (1 - alpha) * recall);
    return f * (1 - gamma * std::pow(static_cast<double>(found.chunks) / m, beta));
  }
};

}  // namespace planlm
