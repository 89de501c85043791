/// The rows of the table.
#pragma once
#include <vector>
#include "trainer/run_book.hpp"

namespace train_latent_classifier {

inline const std::vector<trainer::method_about>& methods() {
  static const std::vector<trainer::method_about> all{
      {"vectors", "no language model: logistic regression on tf-idf sentence vectors, whose words and directions are learnt from the unlabelled text"},
      {"zero-shot", "the base model reads the sentence and says which label is likelier, its odds taken less their median over unlabelled sentences; no label is used"},
      {"few-shot", "the same behind as many labelled sentences with their labels as fit its context, classes in turn"},
      {"sft", "supervised fine-tuning: low-rank factors learn the label behind the sentence, without a rationale"},
      {"prior", "a label model learns from rationales that the base model writes: maximisation without expectation"},
      {"gflownet", "a sampler of rationales is tuned to p(rationale, label | sentence) of the base model, which then reads the label from "
                   "them: expectation without maximisation"},
      {"gflownet-em", "expectation and maximisation in turn: the sampler is tuned again to the label model that learned from its rationales"},
      {"gflownet-sft", "the same, but the label model begins as the one of sft"}};
  return all;
}

}  // namespace train_latent_classifier
