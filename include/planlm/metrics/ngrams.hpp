/// Runs of n tokens and how often they occur: what ROUGE-N and BLEU count.
///
///   a text is a contiguous sequence of tokens (T): token ids, or words
///   a text of T tokens has max(0, T - n + 1) n-grams
///
/// Counting sorts; nothing depends on a hash. Cost n T log T comparisons.
///
/// errors  shape_error for n < 1
#pragma once
#include <algorithm>
#include <concepts>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <ranges>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace planlm {

template <class S>
concept TokenSequence =
    (std::ranges::contiguous_range<S> && std::ranges::sized_range<S> &&
     std::totally_ordered<std::ranges::range_value_t<S>>) ||
    because<"TokenSequence: a vector, array or span of token ids, words or whatever else < can order", S>();

/// The token type of a text.
template <TokenSequence S>
using token_of = std::ranges::range_value_t<S>;

template <class S, class Token>
concept SequenceOf =
    (TokenSequence<S> && std::same_as<token_of<S>, Token>) ||
    because<"SequenceOf: candidate and reference are texts of the same kind of token", S, Token>();

/// The n-grams of one text. The text must outlive it.
template <class Token>
class ngram_counts {
 public:
  using gram = std::span<const Token>;

  ngram_counts(std::span<const Token> text, index_t n, location at = location::here()) {
    if (n < 1) throw_shape_error("n-grams of " + std::to_string(n) + " tokens, expected at least 1", at);
    const auto length = static_cast<std::size_t>(n);
    if (text.size() < length) return;
    std::vector<gram> grams;
    for (std::size_t i = 0; i + length <= text.size(); ++i) grams.push_back(text.subspan(i, length));
    std::sort(grams.begin(), grams.end(), before);
    for (const gram& g : grams) {
      if (entries_.empty() || before(entries_.back().first, g)) entries_.emplace_back(g, 0);
      ++entries_.back().second;
    }
    total_ = static_cast<index_t>(grams.size());
  }

  /// Distinct n-grams, ascending, each with its count.
  const std::vector<std::pair<gram, index_t>>& entries() const { return entries_; }
  /// The sum of all counts.
  index_t total() const { return total_; }
  index_t count(gram g) const {
    const auto found =
        std::lower_bound(entries_.begin(), entries_.end(), g,
                         [](const auto& entry, const gram& wanted) { return before(entry.first, wanted); });
    return found == entries_.end() || before(g, found->first) ? 0 : found->second;
  }

 private:
  static bool before(const gram& a, const gram& b) {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
  }
  std::vector<std::pair<gram, index_t>> entries_;
  index_t total_ = 0;
};

}  // namespace planlm
