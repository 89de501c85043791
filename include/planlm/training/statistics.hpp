/// What the table of an experiment is made of: losses of documents, paired bootstrap over documents, planner
/// metrics, summaries over seeds. Losses are in nats; all sums are in double and in the order given, so that
/// results repeat.
///
/// Perplexity is exp of the mean over TOKENS, never a mean of perplexities of documents (methods: Σ nll / Σ
/// tokens). Planner metrics: accuracy, mean rank and cross-entropy against
/// oracle labels.
///
/// Errors: shape_error where two lists had to match, numeric_error for a value that is not finite, error
/// otherwise.
#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <span>
#include <string>
#include <vector>

namespace planlm {

/// Summed negative log-likelihood (nats) of the tokens of one document, or of many.
struct document_loss {
  double nll = 0;
  index_t tokens = 0;
};

inline document_loss total_loss(std::span<const document_loss> documents) {
  document_loss total;
  for (const document_loss& d : documents) {
    total.nll += d.nll;
    total.tokens += d.tokens;
  }
  return total;
}

inline double nats_per_token(document_loss total) {
  if (total.tokens < 1)
    throw error("nats_per_token: " + std::to_string(total.tokens) + " tokens, expected at least 1");
  return total.nll / static_cast<double>(total.tokens);
}
inline double nats_per_token(std::span<const document_loss> documents) {
  return nats_per_token(total_loss(documents));
}

inline double perplexity(document_loss total) { return std::exp(nats_per_token(total)); }
inline double perplexity(std::span<const document_loss> documents) {
  return perplexity(total_loss(documents));
}

/// A value with its interval. `significant()`: the interval leaves out 0.
struct interval_estimate {
  double value = 0;
  double lower = 0;
  double upper = 0;
  double standard_error = 0;
  bool significant() const { return lower > 0 || upper < 0; }
};

namespace detail {

/// The q-quantile of sorted values, linear between order statistics.
inline double sorted_quantile(std::span<const double> sorted, double q) {
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  if (below + 1 >= sorted.size()) return sorted.back();
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[below + 1] - sorted[below]);
}

inline void check_level(const char* who, double level) {
  if (!(level > 0 && level < 1))
    throw error(std::string(who) + ": level = " + std::to_string(level) +
                ", expected between 0 and 1, as in 0.95");
}

inline void check_finite(const char* who, const char* what, double value, std::size_t index) {
  if (!std::isfinite(value))
    throw numeric_error(std::string(who) + ": " + what + " " + std::to_string(index) + " is " +
                        std::to_string(value) + ", not a finite number");
}

/// Difference of losses and number of tokens of one document, paired.
struct paired_document {
  double difference;
  double tokens;
};

inline std::vector<paired_document> pair_documents(std::span<const document_loss> a,
                                                   std::span<const document_loss> b) {
  if (a.size() != b.size())
    throw shape_error("paired_bootstrap: " + std::to_string(a.size()) + " documents against " +
                      std::to_string(b.size()) + ", expected the same test set in both lists");
  if (a.empty() || a.size() > std::numeric_limits<std::int32_t>::max())
    throw error("paired_bootstrap: " + std::to_string(a.size()) + " documents, expected 1 to 2^31 - 1");
  std::vector<paired_document> pairs;
  pairs.reserve(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].tokens != b[i].tokens)
      throw shape_error("paired_bootstrap: document " + std::to_string(i) + " has " +
                        std::to_string(a[i].tokens) + " tokens in the first list and " +
                        std::to_string(b[i].tokens) + " in the second, expected the same test set in both");
    if (a[i].tokens < 1)
      throw error("paired_bootstrap: document " + std::to_string(i) + " has " + std::to_string(a[i].tokens) +
                  " tokens, expected at least 1");
    check_finite("paired_bootstrap", "loss of document", a[i].nll, i);
    check_finite("paired_bootstrap", "loss of document", b[i].nll, i);
    pairs.push_back({a[i].nll - b[i].nll, static_cast<double>(a[i].tokens)});
  }
  return pairs;
}

}  // namespace detail

/// a - b in nats per token, averaged over seeds, with a percentile interval and the standard error of
/// `resamples` bootstrap rounds. `a[s]` and `b[s]` are the documents of the test set under seed s, in the
/// same order everywhere.
///
/// One round draws documents once, with replacement, and uses the draw for both variants and every seed. The
/// interval is about the choice of documents; how much seeds differ is `summarize` over the differences of
/// single seeds.
inline interval_estimate paired_bootstrap_over_seeds(std::span<const std::vector<document_loss>> a,
                                                     std::span<const std::vector<document_loss>> b,
                                                     index_t resamples, std::uint64_t seed,
                                                     double level = 0.95) {
  if (a.size() != b.size() || a.empty())
    throw shape_error("paired_bootstrap: " + std::to_string(a.size()) + " seeds against " +
                      std::to_string(b.size()) + ", expected the same number, at least 1");
  if (resamples < 2 || resamples > std::numeric_limits<std::uint32_t>::max())
    throw error("paired_bootstrap: resamples = " + std::to_string(resamples) + ", expected 2 to 2^32 - 1");
  detail::check_level("paired_bootstrap", level);

  std::vector<std::vector<detail::paired_document>> seeds;  // [seed][document]
  for (std::size_t s = 0; s < a.size(); ++s) {
    seeds.push_back(detail::pair_documents(a[s], b[s]));
    if (seeds[s].size() != seeds[0].size())
      throw shape_error("paired_bootstrap: seed " + std::to_string(s) + " has " +
                        std::to_string(seeds[s].size()) + " documents, seed 0 has " +
                        std::to_string(seeds[0].size()) + ", expected the same test set under every seed");
  }
  const auto documents = static_cast<std::uint32_t>(seeds[0].size());

  // The statistic of a multiset of documents: the mean over seeds of Σ difference / Σ tokens.
  const auto mean_difference = [&](const std::vector<std::uint32_t>& drawn) {
    double sum = 0;
    for (const auto& pairs : seeds) {
      double difference = 0, tokens = 0;
      for (const std::uint32_t d : drawn) {
        difference += pairs[d].difference;
        tokens += pairs[d].tokens;
      }
      sum += difference / tokens;
    }
    return sum / static_cast<double>(seeds.size());
  };

  std::vector<std::uint32_t> drawn(documents);
  for (std::uint32_t d = 0; d < documents; ++d) drawn[d] = d;
  interval_estimate estimate;
  estimate.value = mean_difference(drawn);

  const philox random{seed};
  std::vector<double> rounds(static_cast<std::size_t>(resamples));
  for (std::size_t r = 0; r < rounds.size(); ++r) {
    // Four draws to a block: the same numbers as random.below(documents, r, d), without enciphering each
    // block four times.
    for (std::uint32_t d = 0; d < documents; d += 4) {
      const random_block block = random.bits(r, d / 4);
      for (std::uint32_t j = 0; j < std::min(4u, documents - d); ++j)
        drawn[d + j] = static_cast<std::uint32_t>((std::uint64_t{block.word[j]} * documents) >> 32);
    }
    rounds[r] = mean_difference(drawn);
  }

  double mean = 0, squares = 0;
  for (const double round : rounds) mean += round - estimate.value;
  mean = estimate.value + mean / static_cast<double>(resamples);
  for (const double round : rounds) squares += (round - mean) * (round - mean);
  estimate.standard_error = std::sqrt(squares / static_cast<double>(resamples - 1));
  std::sort(rounds.begin(), rounds.end());
  estimate.lower = detail::sorted_quantile(rounds, (1 - level) / 2);
  estimate.upper = detail::sorted_quantile(rounds, 1 - (1 - level) / 2);
  return estimate;
}

/// The same for one run of each variant.
inline interval_estimate paired_bootstrap(std::span<const document_loss> a, std::span<const document_loss> b,
                                          index_t resamples, std::uint64_t seed, double level = 0.95) {
  const std::vector<document_loss> first(a.begin(), a.end()), second(b.begin(), b.end());
  return paired_bootstrap_over_seeds({&first, 1}, {&second, 1}, resamples, seed, level);
}

/// How well logits over labels name the oracle labels; sums over sentences, read as means (nats, ranks from
/// 1).
class planner_metrics {
 public:
  /// `logits` [labels]: one sentence. Ties go to the lower label, as in argmax.
  template <std::floating_point Real>
  void accumulate(std::span<const Real> logits, index_t label) {
    const auto labels = static_cast<index_t>(logits.size());
    if (label < 0 || label >= labels)
      throw error("planner_metrics: label " + std::to_string(label) + " of sentence " +
                  std::to_string(sentences_) + ", expected 0 to " + std::to_string(labels - 1));
    for (std::size_t k = 0; k < logits.size(); ++k)
      if (!std::isfinite(logits[k]))
        throw numeric_error("planner_metrics: logit " + std::to_string(k) + " of sentence " +
                            std::to_string(sentences_) + " is " + std::to_string(logits[k]) +
                            ", not a finite number");
    const auto chosen = static_cast<std::size_t>(label);
    const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
    double sum = 0, weighted = 0;
    index_t rank = 1;
    for (std::size_t k = 0; k < logits.size(); ++k) {
      const double shifted = static_cast<double>(logits[k]) - largest;  // <= 0, so that exp cannot overflow
      sum += std::exp(shifted);
      weighted += std::exp(shifted) * shifted;
      if (logits[k] > logits[chosen] || (logits[k] == logits[chosen] && k < chosen)) ++rank;
    }
    const double log_sum = std::log(sum);
    ++sentences_;
    correct_ += rank == 1;
    ranks_ += rank;
    cross_entropy_ += log_sum - (static_cast<double>(logits[chosen]) - largest);
    entropy_ += log_sum - weighted / sum;
  }
  void accumulate(const std::vector<float>& logits, index_t label) { accumulate(std::span(logits), label); }
  void accumulate(const std::vector<double>& logits, index_t label) { accumulate(std::span(logits), label); }

  index_t sentences() const { return sentences_; }
  double accuracy() const { return static_cast<double>(correct_) / count(); }
  double mean_rank() const { return static_cast<double>(ranks_) / count(); }
  /// -ln p(oracle label), the planner's loss.
  double cross_entropy() const { return cross_entropy_ / count(); }
  /// Of the planner's own distribution: ln K when it knows nothing, 0 when it is certain.
  double entropy() const { return entropy_ / count(); }

 private:
  double count() const {
    if (sentences_ == 0) throw error("planner_metrics: no sentence was accumulated, so there is no mean");
    return static_cast<double>(sentences_);
  }

  index_t sentences_ = 0, correct_ = 0, ranks_ = 0;
  double cross_entropy_ = 0, entropy_ = 0;
};

/// The t with P(|T| <= t) = level for Student's distribution with `degrees` degrees of freedom.
/// The probability is a finite sum in the angle atan(t / sqrt(degrees)) (Abramowitz and Stegun 26.7.3,
/// 26.7.4).
inline double student_t_quantile(double level, index_t degrees) {
  detail::check_level("student_t_quantile", level);
  if (degrees < 1)
    throw error("student_t_quantile: degrees = " + std::to_string(degrees) + ", expected at least 1");
  const bool odd = degrees % 2 == 1;
  const auto central_probability = [&](double angle) {
    const double c = std::cos(angle), two_over_pi = 0.63661977236758134308;
    double term = odd ? c : 1, sum = 0;
    for (index_t k = odd ? 1 : 0; k <= degrees - 2; k += 2) {
      sum += term;
      term *= c * c * static_cast<double>(k + 1) / static_cast<double>(k + 2);
    }
    return odd ? two_over_pi * (angle + std::sin(angle) * sum) : std::sin(angle) * sum;
  };
  double low = 0, high = 1.57079632679489661923;
  for (int halving = 0; halving < 64; ++halving) {
    const double middle = (low + high) / 2;
    (central_probability(middle) < level ? low : high) = middle;
  }
  return std::sqrt(static_cast<double>(degrees)) * std::tan((low + high) / 2);
}

/// Mean over runs that differ in their seed, with Student's interval. From one run nothing can be said about
/// the spread: the deviation is NaN and the interval unbounded.
struct sample_summary {
  index_t count = 0;
  double mean = 0;
  double standard_deviation = 0;
  double standard_error = 0;
  double lower = 0;
  double upper = 0;
};

inline sample_summary summarize(std::span<const double> values, double level = 0.95) {
  detail::check_level("summarize", level);
  if (values.empty()) throw error("summarize: no values, expected at least 1");
  sample_summary summary;
  summary.count = static_cast<index_t>(values.size());
  const double n = static_cast<double>(values.size());
  // Around the first value, so that equal values have exactly that mean and deviation 0.
  for (std::size_t i = 0; i < values.size(); ++i) {
    detail::check_finite("summarize", "value", values[i], i);
    summary.mean += values[i] - values[0];
  }
  summary.mean = values[0] + summary.mean / n;
  if (values.size() == 1) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    summary.standard_deviation = summary.standard_error = std::numeric_limits<double>::quiet_NaN();
    summary.lower = -infinity;
    summary.upper = infinity;
    return summary;
  }
  double squares = 0;
  for (const double value : values) squares += (value - summary.mean) * (value - summary.mean);
  summary.standard_deviation = std::sqrt(squares / (n - 1));
  summary.standard_error = summary.standard_deviation / std::sqrt(n);
  const double half = student_t_quantile(level, summary.count - 1) * summary.standard_error;
  summary.lower = summary.mean - half;
  summary.upper = summary.mean + half;
  return summary;
}

}  // namespace planlm
