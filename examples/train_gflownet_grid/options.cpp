/// The command line.
#include "options.hpp"
#include <cmath>
#include <planlm/core/error.hpp>
#include "losses.hpp"

namespace train_gflownet_grid {

bool parse(int argc, char** argv, options& o, std::vector<std::pair<std::string, std::string>>& settings, int& status) {
  trainer::flags f{"Trains samplers of a hyper-grid, one with each loss, and compares what they sample with the exact distribution.\n"
                   "Running the same command again goes on where an interrupted run stopped."};
  f.common(o.common);
  f.list("--losses", o.losses, "default all", loss_names());
  f.whole("--dimensions", o.dimensions, "axes of the grid");
  f.whole("--side", o.side, "points along each", 2);
  f.choice("--reward", o.reward, "of a point", {"original", "cosine", "sparse", "deceptive"});
  f.number("--r0", o.r0, "the reward's floor; below 0, as for --r1 and --r2: as the reward is known");
  f.number("--r1", o.r1, "its first height");
  f.number("--r2", o.r2, "its second height");
  f.choice("--policy", o.policy, "a network, or a table with a row for each state", {"network", "table"});
  f.whole("--hidden", o.hidden, "width of the network's two hidden layers");
  f.choice("--backward", o.backward, "which parent a point came from", {"uniform", "learned"});
  f.whole("--batch", o.batch, "trajectories per step", 2);
  f.whole("--trajectories", o.trajectories, "of a whole run, replayed ones among them");
  f.whole("--evaluations", o.evaluations, "exact comparisons over training");
  f.above_zero("--rate", o.rate, "learning rate of the policy; default 0.001 for a network, 0.02 for a table");
  f.above_zero("--flow-rate", o.flow_rate, "of log Z in trajectory balance");
  f.share("--last-share", o.last_share, "what is left of both rates at the end, going down linearly");
  f.above_zero("--clip", o.clip, "largest gradient norm; default none");
  f.share("--lambda", o.lambda, "of sub-trajectories: weight of each further step");
  f.share("--flow-weight", o.flow_weight, "of matching rewards in flow matching", 1000);
  f.share("--epsilon", o.epsilon, "share of uniform choices while training");
  f.above_zero("--temperature", o.temperature, "of choices while training");
  f.choice("--replay", o.replay, "objects that were sampled before, walked to backward", {"none", "fifo", "prioritised"});
  f.whole("--replay-size", o.replay_size, "objects it holds");
  f.share("--replay-share", o.replay_share, "of each batch");
  if (!f.parse(argc, argv, status)) return false;
  using planlm::input_error;
  if (o.losses.empty()) o.losses = loss_names();
  const double points = std::pow(double(o.side), o.dimensions);
  if (points > 1 << 21)
    throw input_error("--side " + std::to_string(o.side) + " in " + std::to_string(o.dimensions) +
                      " --dimensions: more than 2^21 points cannot be compared exactly; take fewer");
  if (o.temperature > 1000) throw input_error("--temperature: give a number from above 0 to 1000");
  settings = f.settings({"--losses"});
  return true;
}

}  // namespace train_gflownet_grid
