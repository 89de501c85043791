/// How different the texts are that were written for one gap: in meaning, as far as sentence vectors tell.
#pragma once
#include <string>
#include <vector>
#include <planlm/text/sentence_encoder.hpp>

namespace train_infill_sampler {

/// Words between spaces.
std::vector<std::string> words_of(const std::string& text);
/// 1 - mean cosine over pairs of sentence vectors; two texts without a word that says anything are alike.
double cosine_diversity(const planlm::embeddings& vectors);

}  // namespace train_infill_sampler
