/// Task prompt: a policy writes short prompts for a frozen language model, which then classifies sentences from a few labelled ones
/// (2306.00398, its first task).
///
/// The language model is trained here on text without labels. It reads "sentence prompt" and says one of two words, one for each class. Only
/// the score of a whole prompt is known: how clearly the right word wins on the labelled sentences (metrics/label_gap.hpp). Guidance turns an
/// order of prompts by that score into a reward of every token.
#pragma once
#include <string>
#include <vector>
#include "task.hpp"

namespace train_token_guidance {

struct prompt_options {
  std::vector<std::string> methods, class_files, label_words{"great", "terrible"};
  std::string manual = "this film is", score = "test";
  int test = 2000, validation = 1000, pool = 400, shots = 16;
  int sentence = 48;                          // tokens of a sentence that are read
  int length = 5, top_k = 256;                // of a prompt; tokens that are drawn from
  int updates = 120, samples = 16;            // of the policy; prompts of each
  int drawn = 16, lists = 64, places = 5;     // of a step of guidance: prompts drawn, lists made of them, prompts in each
  int rounds_every = 12, round_steps = 18, validate_every = 18;
  double share = 0.8;                         // of the labelled sentences that a step of guidance scores prompts by
  double alpha = 0.05, rate = 2e-3, clip = 5, scale = 32;
  int rank = 8;
  int candidates = 16, best = 3;
  bool calibrate = false;

  void add(trainer::flags& f, shared_options& s);
  /// Errors: input_error naming the flag.
  void check(const shared_options& s) const;
};
void run_prompt(const prompt_options& o, const task& t);

}  // namespace train_token_guidance
