/// Text from a trained planner and language model: sentence by sentence a plan, then its tokens.
#pragma once
#include <span>
#include <string>
#include <vector>
#include "learner.hpp"
#include <planlm/text/tfidf_svd.hpp>
#include <planlm/text/vocabulary.hpp>

namespace train_planner_lm {

/// What stands between sentences and numbers, fitted in training.
struct language {
  const text::vocabulary& vocabulary;
  const tfidf_svd& encoder;
  std::span<const float> centroids;  // (labels, label width)
  const std::vector<char>& ends;     // (V) tokens that end a sentence
  int context;                       // sentences that the planner sees
  int length;                        // tokens that the language model sees
};

struct written_sentence {
  std::string text;
  int planned = -1;        // the label its plan names first; -1 where there was no plan
  int own = -1;            // the label nearest to what was written
  bool complete = false;   // not cut off by the end of the text
};
struct written_text {
  std::vector<std::string> prompt;
  std::vector<written_sentence> sentences;
};

struct writing_rule {
  index_t new_tokens = 96, longest_sentence = 64;
  sampling_rule sampling;
  philox random;
  std::vector<int> forced;  // labels of the first sentences written, instead of the planner's
};

/// Continues texts of whole sentences, each by its own plans. A text without sentences begins at BOS. `planned` says whether labels are
/// chosen at all. Errors: input_error for a forced label that there is not.
std::vector<written_text> write_on(learner& device, const conditioned_parts& parts, const method& how, bool planned, const language& l,
                                   const std::vector<std::vector<std::string>>& prompts, const writing_rule& rule);

/// The label nearest to each sentence.
std::vector<int> labels_of(const language& l, std::span<const std::string> sentences);

}  // namespace train_planner_lm
