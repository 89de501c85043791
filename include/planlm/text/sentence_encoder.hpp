/// What turns sentences into vectors: the one thing label extraction asks of an encoder (2410.12492 section
/// 3, its E).
///
/// `tfidf_svd` is the encoder that needs no download; a pretrained one takes its place by modelling
/// `SentenceEncoder`. An encoder is frozen: no gradient reaches it, so nothing here knows about contexts,
/// views or backends.
#pragma once
#include <concepts>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/config.hpp>
#include <span>
#include <string>
#include <vector>

namespace planlm {

/// One vector a sentence, in the order of the sentences: `values` is row-major [rows, width].
struct embeddings {
  index_t rows = 0;
  index_t width = 0;
  std::vector<float> values;  // [rows, width]

  std::span<const float> row(index_t i) const {
    return std::span<const float>(values).subspan(static_cast<std::size_t>(i * width),
                                                  static_cast<std::size_t>(width));
  }
  friend bool operator==(const embeddings&, const embeddings&) = default;
};

template <class E>
concept HasEmbeddingWidth = requires(const E& e) {
  { e.width() } -> std::convertible_to<index_t>;
}
|| because<"SentenceEncoder: needs width() const, the length of one sentence's vector", E>();

template <class E>
concept EncodesSentences = requires(const E& e, std::span<const std::string> sentences) {
  { e.encode(sentences) } -> std::same_as<embeddings>;
}
|| because<"SentenceEncoder: needs encode(span of sentences) const, giving embeddings [sentences, width]",
           E>();

/// `encode` gives every sentence a row that depends on that sentence alone, never on its neighbours in the
/// call: the planner encodes a context sentence by sentence and must find the vectors that the labels were
/// made from.
template <class E>
concept SentenceEncoder = HasEmbeddingWidth<E> && EncodesSentences<E>;

}  // namespace planlm
