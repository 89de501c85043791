/// The losses of the table: what each asks of a batch and what it sends back.
#pragma once
#include <string>
#include <vector>
#include <planlm/environments/environment.hpp>
#include <planlm/environments/trajectory.hpp>
#include "trainer/run_book.hpp"

namespace train_gflownet_grid {

using namespace planlm;

/// How log Z can be read off a sampler trained with a loss.
enum class partition_from { parameter, root_flow, root_edges, bound, nothing };

struct loss_kind {
  std::string name, about;
  partition_from partition;
};
const std::vector<loss_kind>& all_losses();
std::vector<std::string> loss_names();
const loss_kind& loss_of(const std::string& name);

struct loss_settings {
  double lambda = 0.9, flow_weight = 1;
};

/// What the policy says of some states, and the gradients of that. Rows in the order they were asked for.
class policy_rows {
 public:
  /// `outputs`: for each state actions + 1 forward logits, `actions` backward logits and one log flow.
  policy_rows(const state_graph& graph, const std::vector<index_t>& states, const std::vector<float>& outputs, bool backward_learned);
  static int width(int actions) { return 2 * actions + 2; }

  bool has(index_t state) const { return row_[static_cast<std::size_t>(state)] >= 0; }
  std::size_t row(index_t state) const { return static_cast<std::size_t>(row_[static_cast<std::size_t>(state)]); }
  const double* forward(index_t state) const { return &forward_[row(state) * choices_]; }          // log P_F, the exit last
  const double* backward(index_t state) const { return &backward_[row(state) * (choices_ - 1)]; }  // log P_B
  double logit(index_t state, int choice) const { return outputs_[row(state) * width_ + static_cast<std::size_t>(choice)]; }
  double flow(index_t state) const { return outputs_[row(state) * width_ + width_ - 1]; }
  const state_graph& graph() const { return graph_; }

  void add_forward(index_t state, int choice, double d) { dforward_[row(state) * choices_ + static_cast<std::size_t>(choice)] += d; }
  void add_backward(index_t state, int action, double d) { dbackward_[row(state) * (choices_ - 1) + static_cast<std::size_t>(action)] += d; }
  void add_logit(index_t state, int choice, double d) { doutputs_[row(state) * width_ + static_cast<std::size_t>(choice)] += d; }
  void add_flow(index_t state, double d) { doutputs_[row(state) * width_ + width_ - 1] += d; }
  /// Gradients of `outputs`, of all that was added.
  std::vector<float> gradient();

 private:
  const state_graph& graph_;
  const std::vector<float>& outputs_;
  std::size_t width_, choices_;
  bool backward_learned_;
  std::vector<int> row_;  // of each state, -1: not asked for
  std::vector<double> forward_, backward_, dforward_, dbackward_, doutputs_;
};

/// The loss of a batch; gradients go into `rows`, that of log Z into `dlog_z`. All states the ways pass have to be among the rows; for flow
/// matching their parents too.
double loss_of_batch(const std::string& loss, const loss_settings& settings, const std::vector<trajectory>& ways, policy_rows& rows, double log_z,
                     double& dlog_z);

}  // namespace train_gflownet_grid
