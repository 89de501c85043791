/// How alike texts are: what a sampler loses when it gains likelihood.
#pragma once
#include <span>
#include <string>
#include <vector>
#include <planlm/text/tfidf_svd.hpp>

namespace sampler {

using namespace planlm;

/// Of several texts written for one prompt. NaN where there are fewer than two.
struct diversity {
  double cosine = 0;     // 1 - mean cosine of sentence vectors over pairs; two texts without a vector are alike
  double edits = 0;      // mean edit distance of token lists over pairs, divided by the longer of the two (1 for nothing in common)
  double distinct = 0;   // different pairs of neighbouring tokens per pair written, of all texts together
};
diversity diversity_of(std::span<const std::vector<int>> texts, const embeddings& vectors);

}  // namespace sampler
