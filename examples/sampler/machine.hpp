/// What trainers of samplers ask of a device, in plain numbers: a language model that is trained on text, read as a reward, and tuned as a policy.
///
/// machine_on.hpp is the one implementation, a template over the backend; machine_cpu.cpp compiles it.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>
#include <planlm/core/philox.hpp>
#include <planlm/models/likelihood_reward.hpp>
#include <planlm/models/prefix_reward.hpp>
#include <planlm/models/rollout.hpp>
#include <planlm/models/transformer_lm.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/objectives/policy_gradient.hpp>
#include <planlm/objectives/policy_trajectory_balance.hpp>
#include <planlm/training/low_rank.hpp>
#include "trainer/part.hpp"

namespace sampler {

using namespace planlm;
using trainer::part;
using trainer::step_result;

using written = rollout<float>;
/// log R of every prefix of a rollout, untempered: entry k is the object that stops after k actions.
using prefix_rewards = std::vector<std::vector<double>>;
using tokens = std::vector<int>;

/// How a policy learns from what it wrote.
using objective = std::variant<modified_sub_trajectory_balance, policy_trajectory_balance<>, policy_log_partition_variance, policy_gradient>;
/// Whether it learns log Z, or log F of the empty text, beside its probabilities.
bool learns_flow(const objective& how);

/// Sequences, packed one after another. targets[r] is what row r predicts, below 0 for nothing.
struct packed_text {
  std::vector<int> tokens, targets, offsets{0};
  void add(std::span<const int> sequence, std::size_t first_target = 1);  // its tokens from `first_target` on are predicted
};

/// What a step of a policy learns from.
struct policy_batch {
  std::span<const written> rollouts;
  const prefix_rewards& rewards;   // log R / temperature
  std::span<const int> group;      // (rollouts) the prompt of each, 0 .. groups - 1
  index_t groups = 1;
  std::span<const int> flow_rows;  // (groups) which of the learned flows is each group's; empty where none is learned
};
struct rates {
  double main, flow = 0, clip = 1;
};

class machine {
 public:
  virtual ~machine() = default;
  /// Randomness of draws and dropout.
  philox random{};
  virtual const lm_sizes& sizes() const = 0;

  virtual std::unique_ptr<part> make(philox start, bool trained, double weight_decay = 0) = 0;
  /// A low-rank update of `base`, which stays as it is and must outlive the part. Used like a model of its own.
  virtual std::unique_ptr<part> make_low_rank(const part& base, philox start, low_rank_tuning how) = 0;
  /// One learned log F0 or log Z for each of `count` prompts, all `start`.
  virtual std::unique_ptr<part> make_flows(index_t count, float start) = 0;

  /// Mean cross-entropy of the targets.
  virtual step_result language_step(part& lm, const packed_text& text, const rates& r) = 0;
  /// The same where nothing but `choices` may follow: a softmax over these tokens alone, targets are places among them.
  virtual step_result choice_step(part& lm, const packed_text& text, std::span<const int> choices, const rates& r) = 0;
  /// Nats of every row with a target; 0 elsewhere.
  virtual std::vector<float> token_nll(const part& lm, const packed_text& text) = 0;

  /// Texts drawn by the policy, one for each prompt; rules: one for all or one each. tool(text): what is written into its state after its newest action.
  using tool = std::function<tokens(const written&)>;
  virtual std::vector<written> sample(const part& policy, std::span<const tokens> prompts, const rollout_rule& rule,
                                      std::span<const sampling_rule> rules, philox random, const tool& uses = {}) = 0;
  /// The most probable texts by beam search, at most `beams` for one prompt, the most probable first: log-probabilities in taken and stop.
  virtual std::vector<written> beam(const part& policy, const tokens& prompt, const rollout_rule& rule, int beams) = 0;
  /// Log-probabilities of given texts under a policy: taken and stop are filled in.
  virtual void score(const part& policy, std::vector<written>& texts, const rollout_rule& rule) = 0;
  /// The same by decoding: neighbours that share a prompt read it once, which pays for many short texts of one prompt.
  virtual void replay(const part& policy, std::vector<written>& texts, const rollout_rule& rule) = 0;
  /// log p of every prefix of the texts, with what ends it: models/likelihood_reward.hpp.
  virtual prefix_rewards likelihood(const part& lm, std::span<const written> texts, const likelihood_options<float>& how) = 0;

  struct policy_result {
    step_result step;
    double mean_u = 0, spread_u = 0;  // of log q - log R at the stop: - log Z and 0 at the optimum, mean over groups
  };
  /// flows: null where the objective learns none.
  virtual policy_result policy_step(part& policy, part* flows, const rollout_rule& rule, const policy_batch& batch, const objective& how,
                                    const rates& r) = 0;
};

std::unique_ptr<machine> make_cpu_machine(const lm_sizes& sizes, int threads);
std::unique_ptr<machine> make_cuda_machine(const lm_sizes& sizes);
/// Why there can be no CUDA machine; empty if there can.
std::string cuda_complaint();
/// device: cpu or cuda. Errors: input_error where there is no GPU to use, saying why.
std::unique_ptr<machine> make_machine(const std::string& device, const lm_sizes& sizes, int threads);

}  // namespace sampler
