/// From files to numbers: documents, split, vocabulary, tokens; per seed the sentence vectors and their labels.
#pragma once
#include <cstdint>
#include <string>
#include <vector>
#include "options.hpp"
#include <planlm/planning/label_statistics.hpp>
#include <planlm/text/chunks.hpp>
#include <planlm/text/documents.hpp>
#include <planlm/text/tfidf_svd.hpp>
#include <planlm/text/vocabulary.hpp>

namespace train_planner_lm {

using namespace planlm;

/// The same for all seeds, so that differences can be paired by test document.
struct data {
  text::tokenised_corpus corpus;
  text::document_split split;
  text::vocabulary vocabulary;
  std::vector<int> first_row;        // row of sentence 0 of each document in matrices of all sentences
  int sentences = 0;                 // rows of such a matrix, without the one for the empty context
  std::string description;
  std::uint64_t fingerprint = 0;     // of all token ids

  int row_of(text::sentence_ref s) const { return first_row[static_cast<std::size_t>(s.document)] + s.sentence; }
};

/// Reads, splits and tokenises. Vocabulary is learnt from training documents alone.
/// Errors: input_error for text that cannot be read or is too little.
data load(const options& o);

/// Tf-idf and truncated SVD fitted on training documents.
tfidf_svd fit_encoder(const data& d, const options& o);
/// What a planner sees of a text that has not begun: the published code's stand-in for a context without sentences.
inline constexpr const char* empty_context = "empty";
/// Vectors of all sentences and of an empty context: (sentences + 1, label width).
embeddings embed(const data& d, const tfidf_svd& encoder);
/// Tokens after which a sentence of the training documents ends more often than not. (V)
std::vector<char> sentence_ends(const data& d);

/// What all seeds share.
struct material {
  data text;
  tfidf_svd encoder;
  embeddings vectors;      // (sentences + 1, label width)
  std::vector<char> ends;  // (V)
};
material gather(const options& o);

/// One seed's labels: vectors of all sentences, the codebook fitted on training sentences, the nearest label of each.
struct labelling {
  embeddings vectors;           // (sentences + 1, label width); the last row stands for an empty context
  std::vector<float> centroids;       // (labels, label width)
  std::vector<std::int32_t> labels;   // (sentences)
  int empty_row() const { return static_cast<int>(vectors.rows) - 1; }
};

labelling label(const data& d, const embeddings& vectors, const options& o, std::uint64_t seed);

/// Label sequences of the documents of one part, for the bigram critic.
struct label_sequences {
  std::vector<std::int32_t> labels;
  std::vector<index_t> starts{0};
  label_documents view() const { return {labels, starts}; }
};
label_sequences sequences_of(const data& d, const labelling& l, const std::vector<int>& part);

}  // namespace train_planner_lm
