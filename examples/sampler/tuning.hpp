/// A copy of a language model, changed by low-rank factors, learns to write what a reward asks for: one stage of a run, the same for every
/// objective, so that rows of a table differ by their objective alone.
///
/// A step takes a few prompts and writes several texts for each: under the policy as it is, tempered, drawn by the frozen model, or replayed
/// from the prompt's buffer (2310.04363: behaviour may be anything with support, losses use untempered log-probabilities). Policy gradients,
/// which are right for a policy's own draws alone, get nothing else. Rewards are tempered by a schedule, buffers keep them untempered and are
/// part of checkpoints.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>
#include "machine.hpp"
#include "trainer/flags.hpp"
#include "trainer/stage.hpp"

namespace sampler {

struct tuning_options {
  int steps = 400, prompts = 4, rows = 16, rank = 16, warmup = 20, horizon = 200, buffer = 50;
  double alpha = 32, rate = 1e-3, flow_rate = 0.05, clip = 1;
  double start_temperature = 1, end_temperature = 1;  // of the reward, linear over `horizon` steps
  double tempered = 0.25, prior = 0.25, replayed = 0.25;  // shares of the prompts of a step; the rest is on-policy
  double lowest = 0.5, highest = 2;                   // temperature of tempered behaviour, uniform between
  double tolerance = 0.25;                            // of the buffers' edit distance
  /// `one_target`: whether --temperature is a flag; a program with a target for each method sets end_temperature itself.
  void add(trainer::flags& f, bool one_target = true);
  void check() const;                                 // errors: input_error naming the flag
};

struct tuning_task {
  std::string name;                          // of the stage and its file
  int seed = 1;
  int prompts = 0;                           // how many there are: numbered from 0
  std::function<tokens(int)> prompt;
  /// log R of every prefix of texts, each written for prompt[b].
  std::function<std::vector<log_reward_row>(std::span<const written>, std::span<const int> prompt)> reward;
  rollout_rule rule;
  objective how;
  machine::tool tool{};
  /// Actions that a prompt's buffer begins with; null or empty for none.
  std::function<std::vector<tokens>(int)> demonstrations{};
  /// Asked every `observe_every` steps and at the end: scores for the curves of the report.
  std::function<std::vector<std::pair<std::string, double>>(const part& policy)> observe{};
  index_t observe_every = 50;
};

/// The tuned policy, read from the run's seed-N.NAME.safetensors if it is there; `base` must outlive it.
std::unique_ptr<part> tune(machine& m, trainer::run& run, const part& base, const tuning_task& task, const tuning_options& o);

/// Supervised fine-tuning of the same factors: mean cross-entropy of batch(step), same steps, same schedule.
std::unique_ptr<part> tune_supervised(machine& m, trainer::run& run, const part& base, const std::string& name, int seed,
                                      const std::function<packed_text(index_t)>& batch, const tuning_options& o,
                                      const std::function<std::vector<std::pair<std::string, double>>(const part& policy)>& observe = {},
                                      index_t observe_every = 50);

/// What a policy writes for each of `prompts` prompts, `count` texts each, in order, 128 at a time.
std::vector<written> write_texts(machine& m, const part& policy, std::span<const tokens> prompts, int count, const rollout_rule& rule, philox random,
                                 const machine::tool& tool = {});

/// Objectives by the names that trainers list: subtb, subtb-.9, modified-db, tb, vargrad, subtb-learned-root, subtb-published, reward-only, reverse-kl.
std::vector<std::string> objective_names();
objective objective_of(const std::string& name);
std::string about_objective(const std::string& name);

}  // namespace sampler
