/// Guidance and policy in turn, as one stage of a run: the reward model is trained on generations of the policy as it is, then the policy takes
/// its steps, and at fixed points the reward model is trained again: warm-started, with a new optimiser (2306.00398, its code;
/// training/guidance_schedule.hpp, guidance_round.hpp). A step of the stage is one step of either; a checkpoint may lie between any two.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include "guidance_machine.hpp"
#include "trainer/stage.hpp"
#include <planlm/training/guidance_round.hpp>
#include <planlm/training/guidance_schedule.hpp>

namespace train_token_guidance {

/// Where in a stage something happens, and the numbers that belong to it.
struct guidance_moment {
  index_t round, step;  // of rounds and within this one; step -1: its validation
  index_t update;       // updates of the policy that are done
  philox random;        // its own numbers, the same after a resume
};

struct guided_task {
  std::string name;     // of the stage
  int seed = 1;
  index_t updates = 0;  // of the policy
  guidance_schedule schedule = guidance_schedule::once();
  guidance_round_options round{};
  /// Lists that the policy as it is makes, to learn from and to validate with; null where there is no reward model to train.
  std::function<ranked_generations(const guidance_moment&)> lists{}, validation{};
  guidance_rule rule{};
  /// An update of the policy: updates done so far, and numbers of its own.
  std::function<guided_result(index_t update, philox random)> update;
  /// Scores for the curves, asked before the first update, every `observe_every` and at the end.
  std::function<std::vector<std::pair<std::string, double>>()> observe{};
  index_t observe_every = 50;
};

/// Trains policy and reward model (null: none), or reads the policy from the run's seed-N.NAME.safetensors if it is there (then the reward
/// model is read from seed-N.NAME.reward.safetensors).
void tune_guided(guidance_machine& m, trainer::run& run, part& policy, part* reward, const guided_task& task);

}  // namespace train_token_guidance
