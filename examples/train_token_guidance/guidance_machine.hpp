/// What token-level guidance asks of a device beside what samplers ask: a reward model that learns from lists of generations, its rewards of
/// tokens, and a policy that learns from weighted tokens. guidance_machine_on.hpp is the one implementation.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>
#include <planlm/models/reward_model.hpp>
#include <planlm/objectives/guided_likelihood.hpp>
#include <planlm/objectives/listwise_preference.hpp>
#include "sampler/machine.hpp"
#include "trainer/flags.hpp"

namespace train_token_guidance {

using namespace planlm;
using sampler::packed_text;
using sampler::part;
using sampler::rates;
using sampler::step_result;
using sampler::tokens;
using sampler::written;

/// How logits of a reward model become scores of generations.
struct guidance_rule {
  std::variant<soft_clipped_reward, sigmoid_reward> squash{};
  std::variant<aggregation::average, aggregation::sum, aggregation::soft_max, aggregation::soft_min> aggregate{};
  plackett_luce ranking{};
};
/// The same as flags, and the reward model's size and training.
struct guidance_options {
  std::string aggregation = "average", squash = "soft-clipped";
  double beta = 2, rate = 5e-4, clip = 5;
  bool plain_length = false, subtract_log_length = false;
  int inner = 512;  // of the reward head
  void add(trainer::flags& f);  // --aggregation --squash --beta --no-common-length --subtract-log-length --reward-inner --reward-rate --reward-clip
  guidance_rule rule() const;
  std::string about() const;    // in words, for tables
};

/// S generations and the lists in which they are compared.
struct ranked_generations {
  packed_generations generations;
  std::vector<int> offsets{};    // (L + 1) places of each list; empty: the lists that `generations` was built with, place i is generation i
  std::vector<int> item{};       // (I) the generation in each place; empty: place i has generation i
  std::vector<double> score{};   // (I) of each place, more is better
  explicit ranked_generations(const lm_sizes& sizes) : generations(sizes) {}
  const std::vector<int>& lists() const { return offsets.empty() ? generations.lists() : offsets; }
};

/// What a reward model makes of lists.
struct ranking_result {
  double loss = 0;               // mean over lists
  index_t silent = 0;            // lists that carry no information
  index_t pairs = 0, right = 0;  // pairs of different true scores; those of them that the model orders alike
  std::vector<double> score;     // (I): e
  double accuracy() const { return pairs > 0 ? double(right) / double(pairs) : 0; }
};

/// What a step of guided tokens reports.
struct guided_result {
  step_result step;
  double nll = 0, entropy = 0;   // mean over tokens, nats
};

class guidance_machine : public sampler::machine {
 public:
  /// A reward model: a head of `inner` units on a language model that begins as `lm` (null: random) and is trained with it.
  virtual std::unique_ptr<part> make_reward_model(const part* lm, index_t inner, philox start, bool trained) = 0;
  /// One of the same shape that is not trained: room for weights worth keeping.
  virtual std::unique_ptr<part> make_like(const part& reward) = 0;
  virtual step_result guidance_step(part& reward, const ranked_generations& lists, const guidance_rule& rule, const rates& r) = 0;
  virtual ranking_result rank(const part& reward, const ranked_generations& lists, const guidance_rule& rule) = 0;
  /// Rewards r of all generated tokens, generation after generation.
  virtual std::vector<float> token_rewards(const part& reward, const packed_generations& texts, const guidance_rule& rule) = 0;
  /// One step of `how` on generated tokens: rewards as token_rewards gives them (plain likelihood: all 1 and a normaliser of tokens).
  /// Every prompt has one token at least. penalty: (V) added to the logits of all rows, or empty.
  virtual guided_result guided_step(part& policy, const packed_generations& texts, std::span<const float> rewards, const guided_likelihood& how,
                                    std::span<const float> penalty, const rates& r) = 0;
  /// Mean over tokens of nll and entropy without a step.
  virtual guided_result guided_loss(const part& policy, const packed_generations& texts, std::span<const float> penalty) = 0;
  /// Probabilities (S, choices) of what follows each sequence, a softmax over `choices` alone; targets are not read.
  virtual std::vector<float> choice_probabilities(const part& lm, const packed_text& sequences, std::span<const int> choices) = 0;
};

std::unique_ptr<guidance_machine> make_cpu_guidance_machine(const lm_sizes& sizes, int threads);
std::unique_ptr<guidance_machine> make_cuda_guidance_machine(const lm_sizes& sizes);
/// device: cpu or cuda. Errors: input_error where there is no GPU to use, saying why.
std::unique_ptr<guidance_machine> make_guidance_machine(const std::string& device, const lm_sizes& sizes, int threads);

}  // namespace train_token_guidance
