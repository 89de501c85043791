/// --task summary: the key sentence of a passage, by reward-weighted likelihood and by plain likelihood
/// (2306.00398, its summarization task in small).
#pragma once
#include <string>
#include <vector>
#include "task.hpp"

namespace train_token_guidance {

struct summary_options {
  std::vector<std::string> methods;
  std::string key = "left-in", judged = "test";
  int sentences = 3, shortest = 4, longest = 36;      // of passages; tokens of each sentence
  int passages = 100000, tested = 300, watched = 64;  // at most: to train on, of the table, of the curves
  double cued = 0.75;                                 // share of the base model's lines with a cue
  int updates = 300, batch = 16, rank = 0;
  double rate = 3e-4, clip = 5;
  int candidates = 3, lists = 8, reward_steps = 40, retrain_every = 30;
  double retrain_share = 0.4;

  void add(trainer::flags& f, shared_options& s);
  void check(const shared_options& s) const;  // errors: input_error naming the flag
};
void run_summary(const summary_options& o, const task& t);

}  // namespace train_token_guidance
