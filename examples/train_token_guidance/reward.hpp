/// Task `reward`: a reward model for single tokens from a user's own preferences over whole texts, for the
/// language model of a finished run of train_planner_lm.
///
/// It begins as that language model and is trained with lists of generations until lists that it does not
/// learn from say that it stops improving; lists of a third part score it. Leaves reward.safetensors, which
/// task `tune` reads.
#pragma once
#include <string>
#include <vector>
#include "preference_source.hpp"
#include "task.hpp"

namespace train_token_guidance {

struct reward_options {
  preference_options source;
  preference_shares shares;
  std::vector<std::string> methods;  // aggregations to compare; empty: that of --aggregation
  int steps = 2000, batch = 16, validate_every = 25, patience = 7;
  void add(trainer::flags& f, shared_options& shared);
  void check(const shared_options& shared) const;
};
void run_reward(const reward_options& o, const task& t);

}  // namespace train_token_guidance
