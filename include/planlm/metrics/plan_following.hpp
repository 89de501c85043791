/// What the labels of generated text tell: does it follow its plan, is it near the true continuation, is it
/// plausible as a sequence of labels, which labels does it use (2404.00614; Deng et al. for the critic).
///
///   following        share of generated sentences whose own nearest centroid is the label they were
///                    conditioned on, 0 to 1
///   edit distance    Levenshtein distance of the generated labels from the true ones, a mean over documents:
///                    in edits, and each document's divided by its true length (at least 1)
///   latent perplexity  exp of the mean -ln P(label | label before), <bos> and <eos> included, under a bigram
///                    of the training labels; the value of true text is the one to come near to
///   usage            counts n_k, shares n_k / n, entropy H = -sum share ln share in nats, perplexity exp H:
///                    the number of labels in real use
///
/// Own labels are those of `assign_labels`, for training text and generated text alike: a sentence without a
/// known word has the vector 0 and the label of the shortest centroid.
///
/// errors  shape_error for labels outside 0 .. K-1 and for lists of different length; numeric_error for a
///         vector that is not finite
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/planning/kmeans.hpp>
#include <planlm/planning/label_statistics.hpp>
#include <span>
#include <string>
#include <vector>

namespace planlm {

struct plan_following {
  index_t followed = 0, sentences = 0;
  /// 0 for no sentence.
  double rate() const {
    return sentences == 0 ? 0 : static_cast<double>(followed) / static_cast<double>(sentences);
  }
};

/// planned (S): the labels that sentences were conditioned on; own (S): those that they turned out to have.
inline plan_following followed_plan(std::span<const std::int32_t> planned, std::span<const std::int32_t> own,
                                    location at = location::here()) {
  if (planned.size() != own.size())
    throw_shape_error("plan following: " + std::to_string(planned.size()) + " planned labels and " +
                          std::to_string(own.size()) + " sentences, expected one for each",
                      at);
  plan_following result;
  result.sentences = static_cast<index_t>(own.size());
  for (std::size_t i = 0; i < own.size(); ++i) result.followed += planned[i] == own[i];
  return result;
}

/// The same from the sentences' vectors [S, width] and the centroids [K, width].
inline plan_following followed_plan(std::span<const std::int32_t> planned, std::span<const float> vectors,
                                    std::span<const float> centroids, index_t width, int threads = 1,
                                    location at = location::here()) {
  return followed_plan(planned, assign_labels(vectors, centroids, width, threads, at), at);
}

/// Means over documents.
struct label_distance {
  double edits = 0, normalised = 0;
  index_t documents = 0;
};

/// Document d of `generated` against document d of `truth`.
inline label_distance label_edit_distance(const label_documents& generated, const label_documents& truth,
                                          location at = location::here()) {
  if (generated.size() != truth.size())
    throw_shape_error("label edit distance: " + std::to_string(generated.size()) + " generated and " +
                          std::to_string(truth.size()) + " true documents, expected as many",
                      at);
  for (const label_documents* side : {&generated, &truth})
    if (!std::is_sorted(side->starts.begin(), side->starts.end()) ||
        (!side->starts.empty() &&
         (side->starts.front() < 0 || side->starts.back() > static_cast<index_t>(side->labels.size()))))
      throw_shape_error("label edit distance: offsets must ascend from 0 to the number of labels", at);
  label_distance mean;
  mean.documents = truth.size();
  for (index_t d = 0; d < mean.documents; ++d) {
    const double edits = static_cast<double>(levenshtein(generated[d], truth[d]));
    mean.edits += edits;
    mean.normalised += edits / std::max(1.0, static_cast<double>(truth[d].size()));
  }
  const double documents = std::max(1.0, static_cast<double>(mean.documents));
  return {mean.edits / documents, mean.normalised / documents, mean.documents};
}

inline constexpr std::array latent_deltas{0.0, 1.0};

/// The critic of latent perplexity: a bigram with <eos>, whose smoothing suits the validation labels best.
/// `latent_critic(train, validation, K).score(generated).perplexity()`; infinite if it chose delta 0 and the
/// text has a pair of labels that training text never had.
inline label_critic latent_critic(const label_documents& train, const label_documents& validation,
                                  index_t labels, std::span<const double> deltas = latent_deltas,
                                  location at = location::here()) {
  const double delta = choose_delta(train, validation, labels, deltas, document_end::predicted, at);
  return label_critic::bigram(train, labels, delta, document_end::predicted, at);
}

/// Of no label at all everything is 0.
struct label_usage {
  std::vector<index_t> counts;  // (K)
  std::vector<double> shares;   // (K), sum 1
  double entropy = 0;           // nats, 0 to ln K
  double perplexity = 0;        // 1 to K
  index_t used = 0;             // labels that occur
};

inline label_usage usage_of_labels(std::span<const std::int32_t> labels, index_t count,
                                   location at = location::here()) {
  label_usage usage;
  usage.counts = label_counts(labels, count, at);
  for (const index_t n : usage.counts) {
    usage.shares.push_back(labels.empty() ? 0 : static_cast<double>(n) / static_cast<double>(labels.size()));
    usage.used += n > 0;
  }
  usage.entropy = label_entropy(usage.counts);
  usage.perplexity = labels.empty() ? 0 : std::exp(usage.entropy);
  return usage;
}

}  // namespace planlm
