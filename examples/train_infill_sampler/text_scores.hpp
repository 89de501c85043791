/// How different the texts are that were written for one gap, and how near they are to the sentence that stands there.
#pragma once
#include <span>
#include <string>
#include <vector>
#include <planlm/text/sentence_encoder.hpp>

namespace train_infill_sampler {

/// Words between spaces.
std::vector<std::string> words_of(const std::string& text);
/// Mean over pairs of texts of Levenshtein's distance in tokens over the longer one's length; 0: all equal.
double edit_diversity(std::span<const std::vector<int>> texts);
/// Different pairs of neighbouring tokens among all of these texts; 1: none occurs twice.
double distinct_pairs(std::span<const std::vector<int>> texts);
/// 1 - mean cosine over pairs of rows [begin, end) of sentence vectors.
double cosine_diversity(const planlm::embeddings& vectors, planlm::index_t begin, planlm::index_t end);

}  // namespace train_infill_sampler
