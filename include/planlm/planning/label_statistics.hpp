/// What is known about label sequences before any network: counts, entropy, n-gram critics, edit distance.
///
///   P(b | a) = (count(a, b) + delta) / (count(a, .) + delta outcomes)
///   a in {<bos>, labels}, b in {labels, <eos>}
///
/// The cross-entropy of the bigram critic (nats a prediction) is the bar that a planner must clear; exp of
/// it on generated text is the latent perplexity (2404.00614, after the model criticism of Deng et al.).
/// <bos> starts every document and is never predicted. Whether <eos> is an outcome is a `document_end`:
///   ignored    (default) K outcomes, as a planner has; a uniform critic has perplexity K
///   predicted  K + 1 outcomes, one more prediction a document; a uniform critic has perplexity K + 1
///
/// errors  shape_error for a label outside 0 .. K-1, offsets that do not ascend, delta < 0
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <span>
#include <string>
#include <vector>

namespace planlm {

/// Label sequences of documents, end to end: document d owns labels[starts[d]] .. labels[starts[d + 1] - 1].
struct label_documents {
  std::span<const std::int32_t> labels;
  std::span<const index_t> starts;  // documents + 1 offsets, the first 0, the last labels.size()

  index_t size() const { return starts.empty() ? 0 : static_cast<index_t>(starts.size()) - 1; }
  std::span<const std::int32_t> operator[](index_t d) const {
    const auto begin = static_cast<std::size_t>(starts[static_cast<std::size_t>(d)]);
    return labels.subspan(begin, static_cast<std::size_t>(starts[static_cast<std::size_t>(d) + 1]) - begin);
  }
};

enum class document_end { ignored, predicted };

/// How often each of K labels occurs. (K)
inline std::vector<index_t> label_counts(std::span<const std::int32_t> labels, index_t count,
                                         location at = location::here()) {
  std::vector<index_t> counts(static_cast<std::size_t>(std::max<index_t>(count, 0)));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= count)
      throw_shape_error("label " + std::to_string(i) + " is " + std::to_string(labels[i]) +
                            ", expected 0 to " + std::to_string(count - 1),
                        at);
    ++counts[static_cast<std::size_t>(labels[i])];
  }
  return counts;
}

/// Entropy in nats of the distribution that the counts describe; 0 for no counts. exp of it is the number of
/// labels in real use.
inline double label_entropy(std::span<const index_t> counts) {
  double total = 0, entropy = 0;
  for (auto n : counts) total += static_cast<double>(n);
  for (auto n : counts)
    if (n > 0) entropy -= static_cast<double>(n) / total * std::log(static_cast<double>(n) / total);
  return entropy;
}

/// Cross-entropy and the number of predictions it is a mean of.
struct label_score {
  double nats = 0;  // mean; infinite when an outcome of probability 0 occurred
  index_t predictions = 0;
  double perplexity() const { return std::exp(nats); }
};

/// Label n-gram critic with add-delta smoothing. The unigram is the bigram with one row for every previous
/// label.
class label_critic {
 public:
  static constexpr std::int32_t bos = -1;

  static label_critic bigram(const label_documents& train, index_t labels, double delta,
                             document_end end = document_end::ignored, location at = location::here()) {
    return label_critic(train, labels, labels + 1, delta, end, at);
  }
  static label_critic unigram(const label_documents& train, index_t labels, double delta,
                              document_end end = document_end::ignored, location at = location::here()) {
    return label_critic(train, labels, 1, delta, end, at);
  }

  index_t labels() const { return labels_; }
  index_t outcomes() const { return outcomes_; }  // K, or K + 1 with <eos>
  double delta() const { return delta_; }
  /// The number that stands for <eos> as an outcome.
  std::int32_t eos() const { return static_cast<std::int32_t>(labels_); }

  /// P(. | previous) over outcomes: labels 0 .. K-1, then <eos> where it is predicted. `previous` is a label
  /// or `bos`.
  std::span<const double> row(std::int32_t previous) const {
    const std::size_t r = rows_ == 1 ? 0 : static_cast<std::size_t>(previous + 1);
    return std::span<const double>(probabilities_)
        .subspan(r * static_cast<std::size_t>(outcomes_), static_cast<std::size_t>(outcomes_));
  }
  double probability(std::int32_t previous, std::int32_t next) const {
    return row(previous)[static_cast<std::size_t>(next)];
  }

  /// Mean -ln P over all predictions of the documents; 0 nats for none.
  label_score score(const label_documents& documents, location at = location::here()) const {
    label_score result;
    double sum = 0;
    for_each_pair(documents, labels_, outcomes_ > labels_, at, [&](std::int32_t previous, std::int32_t next) {
      sum -= std::log(probability(previous, next));
      ++result.predictions;
    });
    if (result.predictions > 0) result.nats = sum / static_cast<double>(result.predictions);
    return result;
  }

 private:
  label_critic(const label_documents& train, index_t labels, index_t rows, double delta, document_end end,
               location at)
      : labels_(labels), outcomes_(labels + (end == document_end::predicted)), rows_(rows), delta_(delta) {
    if (labels < 1 || !(delta >= 0) || !std::isfinite(delta))
      throw_shape_error("label critic: " + std::to_string(labels) + " labels and delta " +
                            std::to_string(delta) +
                            ", expected at least one label and a finite delta of at least 0",
                        at);
    probabilities_.assign(static_cast<std::size_t>(rows_ * outcomes_), delta);
    for_each_pair(train, labels_, outcomes_ > labels_, at, [&](std::int32_t previous, std::int32_t next) {
      const index_t r = rows_ == 1 ? 0 : previous + 1;
      probabilities_[static_cast<std::size_t>(r * outcomes_ + next)] += 1;
    });
    for (index_t r = 0; r < rows_; ++r) {
      const auto row =
          std::span<double>(probabilities_)
              .subspan(static_cast<std::size_t>(r * outcomes_), static_cast<std::size_t>(outcomes_));
      double total = 0;
      for (double v : row) total += v;
      // delta = 0 and a label never seen before anything: nothing is known, so nothing is preferred.
      for (double& v : row) v = total > 0 ? v / total : 1 / static_cast<double>(outcomes_);
    }
  }

  template <class F>
  static void for_each_pair(const label_documents& documents, index_t labels, bool with_end, location at,
                            const F& f) {
    const auto& starts = documents.starts;
    if (!std::is_sorted(starts.begin(), starts.end()) ||
        (!starts.empty() &&
         (starts.front() != 0 || starts.back() != static_cast<index_t>(documents.labels.size()))) ||
        (starts.empty() && !documents.labels.empty()))
      throw_shape_error("label documents: offsets must ascend from 0 to the number of labels", at);
    label_counts(documents.labels, labels, at);
    for (index_t d = 0; d < documents.size(); ++d) {
      std::int32_t previous = bos;
      for (auto label : documents[d]) {
        f(previous, label);
        previous = label;
      }
      if (with_end) f(previous, static_cast<std::int32_t>(labels));
    }
  }

  index_t labels_, outcomes_, rows_;
  double delta_;
  std::vector<double> probabilities_;  // [rows, outcomes]
};

/// The candidate delta under which the bigram of `train` gives `validation` the lowest cross-entropy; the
/// first among equals. Never choose it on test documents.
inline double choose_delta(const label_documents& train, const label_documents& validation, index_t labels,
                           std::span<const double> candidates, document_end end = document_end::ignored,
                           location at = location::here()) {
  if (candidates.empty()) throw_shape_error("choose_delta: no candidates", at);
  double best = candidates.front(), lowest = std::numeric_limits<double>::infinity();
  for (double delta : candidates)
    if (const double nats = label_critic::bigram(train, labels, delta, end, at).score(validation, at).nats;
        nats < lowest) {
      lowest = nats;
      best = delta;
    }
  return best;
}

/// Fewest insertions, deletions and substitutions that turn a into b.
inline index_t levenshtein(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  std::vector<index_t> row(b.size() + 1);  // distances of a's prefix to all prefixes of b
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<index_t>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    index_t diagonal = row[0];
    row[0] = static_cast<index_t>(i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const index_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace planlm
