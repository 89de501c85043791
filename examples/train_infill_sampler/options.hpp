/// Flags of train_infill_sampler: what is filled in, by whom, and at what size.
#pragma once
#include <string>
#include <utility>
#include <vector>
#include "sampler/language.hpp"
#include "sampler/tuning.hpp"
#include "trainer/flags.hpp"

namespace train_infill_sampler {

/// Letters of a text whose posterior is known exactly.
struct letter_options {
  int contexts = 16, hidden = 256, prior_steps = 1500;
  double least_entropy = 1.2, most_entropy = 3.5;  // of a context's posterior, nats
};
/// Middle sentences of documents.
struct document_options {
  int shortest = 3, longest = 14, neighbour = 16;  // tokens of the middle; of either neighbour, from 4
  int triples = 400, tested = 64, texts = 10, supervised_batch = 16;
};
struct options {
  std::string task = "letters";
  trainer::common_options common;
  sampler::text_options text;
  sampler::base_options base{
      .layers = 2, .width = 128, .heads = 4, .length = 64, .steps = 1200, .batch = 24, .rate = 2e-3};
  sampler::tuning_options tuning{.steps = 300, .prompts = 4, .rows = 8, .rank = 16};
  letter_options letters;
  document_options documents;
  std::vector<std::string> methods;
  std::vector<std::pair<std::string, std::string>> settings;  // all that decides the numbers, but the text

  bool is_letters() const { return task == "letters"; }
};

/// Errors: input_error naming the flag. Returns false when the program is done (help).
bool parse(int argc, char** argv, options& o, int& status);

/// What is known of a method by its name.
std::string about_method(const std::string& name);
/// Whether the method is right only for texts that its own policy drew.
bool needs_own_texts(const std::string& name);

}  // namespace train_infill_sampler
