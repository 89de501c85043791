/// What the user asks for, checked before any work is done.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>
#include "sampler/language.hpp"
#include "sampler/tuning.hpp"
#include "sentences.hpp"

namespace train_latent_classifier {

struct label_options {
  int steps = 40, batch = 16, rationales = 20, rounds = 2;
  double rate = 1e-3;
};
struct options {
  trainer::common_options common;
  std::vector<std::string> class_files, methods;
  std::string sizes = "10,20,50", label_words;
  std::filesystem::path text;
  division_sizes division;
  sampler::base_options base{.length = 160, .steps = 2000, .batch = 8, .rate = 4e-3};
  sampler::tuning_options tuning{.steps = 80, .prompts = 2, .rows = 8, .horizon = 60, .start_temperature = 1.2, .tolerance = 0.1};
  label_options labels;
  std::string objective = "subtb", score = "test";
  int vocabulary = 2000, tokens = 48, longest = 5, votes = 10, width_svd = 64;
  double wrong = 50;
  // What these two say, taken apart.
  std::vector<int> counts;
  std::vector<std::string> labels_said;
};

/// Fills `o` from the command line. Returns false when the program is done (help); `status` is its exit status then. `settings`: all that
/// decides the numbers, but for the texts. Errors: input_error naming the flag.
bool parse(int argc, char** argv, options& o, std::vector<std::pair<std::string, std::string>>& settings, int& status);

}  // namespace train_latent_classifier
