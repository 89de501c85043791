/// What the experiment asks of a device, in plain numbers: the border between text, files and tables on one side and a backend on the other.
///
/// learner_on.hpp is the one implementation, a template over the backend; learner_cpu.cpp and learner_cuda.cu compile it for one device each.
/// Nothing here knows a backend, so that nvcc sees no library for text and the other sources see no CUDA.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>
#include <planlm/core/philox.hpp>
#include <planlm/ops/sampling.hpp>
#include <planlm/planning/mixing_policy.hpp>
#include "trainer/part.hpp"

namespace train_planner_lm {

using namespace planlm;
using namespace trainer;

/// Stands for oracle{labels of the batch}, which exist only once the batch does.
struct oracle_labels {};
using policy = std::variant<fixed, uniform, hard, sampled, mixture, top_k, straight_through, gumbel_softmax, oracle_labels>;

/// Where a plan enters the language model and through what. Equal ones share a model.
struct conditioning {
  enum class place { attention_output, feed_forward_input, embedding, inserted, prefix };
  enum class gating { none, zero, one, learned, context };
  enum class source { table_per_layer, shared_table, paths };  // what turns labels into a vector
  place where = place::attention_output;
  gating gate = gating::none;
  source from = source::table_per_layer;
  bool operator==(const conditioning&) const = default;
  /// Whether plans stand in rows of their own, which take places in the window.
  bool own_rows() const { return where == place::inserted || where == place::prefix; }
};

/// Which label sequences condition a sentence where they do: methods section 6.
struct path_rule {
  enum class choice { fixed, most_probable, beam, sampled };
  choice by = choice::sampled;
  int paths = 1, steps = 1;
};

/// From a planner's logits, or its paths, to what the language model sees.
struct method {
  policy weights = mixture{};
  conditioning reach{};
  path_rule paths{};
  double planner_loss = 0;  // weight of the planner's cross-entropy, a mean over sentences, beside the language model's, a mean over tokens
};

/// Views of the batcher's memory, good until its next batch. What a step does not need is empty.
struct host_batch {
  std::span<const int> tokens, targets;             // (N) of the packed chunks; both -1 in a row that holds a plan
  std::span<const int> sentence;                    // (N) the batch's sentence that conditions a row; of rows of their own: which plan row, or -1
  std::span<const int> chunk_offsets, positions;    // (chunks + 1), (N)
  index_t targets_given = 0;                        // targets that are tokens
  std::span<const int> labels;                      // (S) oracle labels
  std::span<const float> logits;                    // (S, K) of the frozen planner
  std::span<const float> context;                   // (R, label width) embeddings the planner sees
  std::span<const int> context_offsets, context_positions;  // (S + 1), (R)
  std::span<const int> coming;                      // (horizon, S) labels of this sentence and those after it, -1 beyond the document
  std::span<const int> first_rows;                  // (S) rows from which a sentence's first token is predicted
};

struct learning_rates {
  double main, planner = 0, lm = 0;  // of adapters and encoders (or of the one part there is), of the planner, of the language model
  double clip = 1;                   // largest global gradient norm
};

struct learner_sizes {
  index_t vocabulary, length, width, heads, layers, first_adapted;
  index_t labels, label_width, planner_heads, planner_inner, planner_layers;
  index_t horizon, plan_layers, prefix_rows, rank;
  double alpha;
  /// Adapters that a placement has: one where the plan enters at the bottom.
  index_t adapters(const conditioning& c) const {
    const bool at_the_bottom = c.own_rows() || c.where == conditioning::place::embedding;
    return at_the_bottom ? 1 : layers - first_adapted;
  }
};

/// The parts of one variant; null where it has none. Those made as trained are trained by a step.
struct conditioned_parts {
  part* lm;
  part* adapters = nullptr;
  part* encoder = nullptr;  // a shared table, or what reads paths
  part* planner = nullptr;  // null: the batch has logits
};

/// Plans of S sentences: what adapters take, and the label each plan names first.
struct sentence_plans {
  std::vector<float> inputs;  // (S, columns)
  std::vector<int> labels;    // (S)
};

/// Texts to continue, each a sequence of a batch.
struct generation_request {
  std::vector<std::vector<int>> tokens;        // from BOS on
  std::vector<std::vector<int>> sentence;      // of every row: which of the text's sentences contains the token after it
  std::vector<std::vector<float>> plans;       // (sentences so far, columns)
  std::vector<char> ends;                      // (V) tokens that end a sentence
  index_t new_tokens = 0, longest_sentence = 0;
  sampling_rule rule;
  philox random;
  /// Inputs (texts, columns) of the next sentences of these texts, of which all tokens so far are given. Null without a plan.
  std::function<std::vector<float>(std::span<const int> texts, std::span<const std::vector<int>> tokens)> plan;
};
struct continuation {
  std::vector<int> tokens, sentence;  // new tokens, and the sentence of the text each belongs to
};

/// A device with the parts on it, and the steps that train and test them.
class learner {
 public:
  enum class kind { language_model, extended_language_model, adapters, encoder, planner, look_ahead, label_head };
  virtual ~learner() = default;

  /// Randomness of dropout, noise and sampling in the steps that follow, and whether they train.
  philox random{};
  bool training = true;

  /// Drawn from `start`. Decay is of matrices alone. `reach`: of adapters and encoders.
  virtual std::unique_ptr<part> make(kind what, philox start, bool trained, double weight_decay = 0, const conditioning& reach = {}) = 0;
  /// A low-rank update of `base`, which stays as it is and must outlive the part.   [2106.09685]
  virtual std::unique_ptr<part> make_low_rank(const part& base, philox start) = 0;

  virtual step_result language_model_step(part& lm, const host_batch& b, const learning_rates& rates) = 0;
  /// The planner alone, or the look-ahead planner with the batch's coming labels as its teacher.
  virtual step_result planner_step(part& planner, const host_batch& b, const learning_rates& rates) = 0;
  /// The label head alone, on the frozen language model's hidden rows.
  virtual step_result label_head_step(part& head, const part& lm, const host_batch& b, const learning_rates& rates) = 0;
  virtual step_result variant_step(const conditioned_parts& parts, const method& how, const host_batch& b, const learning_rates& rates) = 0;

  /// (S, K)
  virtual std::vector<float> logits(const part& planner, const host_batch& b) = 0;
  virtual std::vector<float> label_head_logits(const part& head, const part& lm, const host_batch& b) = 0;
  /// Of an extended language model: the most probable label after each of these rows. (rows)
  virtual std::vector<int> likely_labels(const part& lm, const host_batch& b, std::span<const int> rows) = 0;
  /// Nats of every target; 0 where there is none. Without adapters the language model alone, an extended one without its labels.
  virtual std::vector<float> token_nll(const conditioned_parts& parts, const method& how, const host_batch& b) = 0;
  /// In which layer's output the first value that is no finite number stands, in the order of the forward pass.
  virtual std::string first_not_finite(const conditioned_parts& parts, const method& how, const host_batch& b) = 0;

  /// Plans of the batch's sentences.
  virtual sentence_plans plan(const conditioned_parts& parts, const method& how, const host_batch& b) = 0;
  /// Without adapters the language model alone.
  virtual std::vector<continuation> generate(const conditioned_parts& parts, const method& how, const generation_request& request) = 0;
};

std::unique_ptr<learner> make_cpu_learner(const learner_sizes& sizes, int threads);
/// `precision`: float32, tf32 (products of floats rounded to 10 bits) or bf16 (stored; the weights are kept in float32 as well).
std::unique_ptr<learner> make_cuda_learner(const learner_sizes& sizes, const std::string& precision);
/// Why there can be no CUDA learner; empty if there can.
std::string cuda_complaint();

}  // namespace train_planner_lm
