/// Task `tune`: the language model of a finished run of train_planner_lm under a reward model of task
/// `reward`, which stays as it is.
///
/// reinforce: texts that the policy writes for the file's prompts, each token weighted by its reward, with an
/// entropy bonus (guided_likelihood::maximum_entropy) and a pull to the untuned model: of every reward,
/// `pull` times log(policy / untuned) is taken away, so that without entropy bonus the optimum is untuned *
/// exp(reward / pull). Without either the optimum is whatever the reward model likes most. weighted:
/// reward-weighted likelihood of each list's best generation. Leaves seed-N.language-model.safetensors, a
/// whole language model.
#pragma once
#include <filesystem>
#include <string>
#include "preference_source.hpp"
#include "task.hpp"

namespace train_token_guidance {

struct tune_options {
  preference_options source;
  std::filesystem::path reward;
  std::string objective = "reinforce";
  int steps = 200, batch = 32, longest = 24, tested = 64, texts = 4;
  double rate = 2e-4, clip = 1, entropy = 0.01, pull = 0.1, chosen = 0;
  bool whole_length = false, no_baseline = false;
  void add(trainer::flags& f, shared_options& shared);
  void check(const shared_options& shared) const;
};
void run_tune(const tune_options& o, const task& t);

}  // namespace train_token_guidance
