/// One sampler in training: the policy's weights, the step, and the exact comparison with the target.
#pragma once
#include <memory>
#include <string>
#include <vector>
#include <planlm/core/philox.hpp>
#include <planlm/environments/hyper_grid.hpp>
#include "losses.hpp"
#include "options.hpp"
#include "trainer/stage.hpp"

namespace train_gflownet_grid {

/// The grid of a run with what is known of it.
struct target {
  hyper_grid grid;
  state_graph graph;
  std::vector<double> posterior;
  double log_z;
  explicit target(const options& o);
};

/// How far a sampler is from its target, by dynamic programming over all points.
struct comparison {
  double l1, tv, kl;
  double log_z_error;           // NaN where the loss says nothing of log Z
  std::vector<double> learned;  // the probability of each point
};

class learner {
 public:
  virtual ~learner() = default;
  virtual trainer::step_result step(index_t s) = 0;
  virtual comparison compare() = 0;
  virtual std::vector<trainer::named_part> parts() = 0;
  virtual std::vector<trainer::named_memory> memories() = 0;
};
/// `random` is set to each step by the stage; the sampler draws from it alone.
std::unique_ptr<learner> make_learner(const target& to, const options& o, const std::string& loss, int seed, const philox& random);

}  // namespace train_gflownet_grid
