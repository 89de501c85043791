/// What the user asks for, checked before any work is done.
#pragma once
#include <string>
#include <utility>
#include <vector>
#include "trainer/flags.hpp"

namespace train_gflownet_grid {

struct options {
  trainer::common_options common;
  std::vector<std::string> losses;
  // the grid
  int dimensions = 2, side = 8;
  std::string reward = "original";
  double r0 = -1, r1 = -1, r2 = -1;  // below 0: as the reward is known
  // the policy
  std::string policy = "network", backward = "uniform";
  int hidden = 128;
  // training
  int batch = 16, trajectories = 32000, evaluations = 100;
  double rate = 0, flow_rate = 0.1, last_share = 1, clip = 0;
  double lambda = 0.9, flow_weight = 1;
  double epsilon = 0, temperature = 1;
  std::string replay = "none";
  int replay_size = 1000;
  double replay_share = 0.5;

  int steps() const { return (trajectories + batch - 1) / batch; }
  double policy_rate() const { return rate > 0 ? rate : policy == "table" ? 0.02 : 1e-3; }
};

/// Fills `o`, and `settings` with all that decides the numbers. Returns false when the program is done (help); `status` is its exit status
/// then. Errors: input_error naming the flag.
bool parse(int argc, char** argv, options& o, std::vector<std::pair<std::string, std::string>>& settings, int& status);

}  // namespace train_gflownet_grid
