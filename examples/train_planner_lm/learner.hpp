/// What the experiment asks of a device, in plain numbers: the border between text, files and tables on one side and a backend on the other.
///
/// learner_on.hpp is the one implementation, a template over the backend; learner_cpu.cpp and learner_cuda.cu compile it for one device each.
/// Nothing here knows a backend, so that nvcc sees no library for text and the other sources see no CUDA.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>
#include <planlm/core/philox.hpp>
#include <planlm/planning/mixing_policy.hpp>
#include <planlm/training/parameters.hpp>

namespace train_planner_lm {

using namespace planlm;

/// Stands for oracle{labels of the batch}, which exist only once the batch does.
struct oracle_labels {};
using policy = std::variant<fixed, uniform, hard, sampled, mixture, top_k, straight_through, gumbel_softmax, oracle_labels>;

/// Views of the batcher's memory, good until its next batch. What a step does not need is empty.
struct host_batch {
  std::span<const int> tokens, targets, sentence;   // (N) of the packed chunks; `sentence` counts the batch's sentences
  std::span<const int> chunk_offsets, positions;    // (chunks + 1), (N)
  std::span<const int> labels;                      // (S) oracle labels
  std::span<const float> logits;                    // (S, K) of the frozen planner
  std::span<const float> context;                   // (R, label width) embeddings the planner sees
  std::span<const int> context_offsets, context_positions;  // (S + 1), (R)
};

/// What one step reports.
struct step_result {
  double loss;
  index_t tokens;
  double gradient;  // its norm; an optimiser skips a step where that is no finite number
};
struct learning_rates {
  double main, planner = 0;  // of the weights trained, and of the planner trained along
  double clip = 1;           // largest global gradient norm
};

/// Weights on the device; where they are trained, their gradients and AdamW. Values are float32 whatever the device computes in.
class part {
 public:
  virtual ~part() = default;
  virtual const std::vector<parameter_slot>& slots() const = 0;
  /// Values of all tensors, flat, padding included.
  virtual index_t size() const = 0;
  virtual std::vector<float> read() = 0;
  virtual void write(std::span<const float> values) = 0;
  /// Replaces the tensor `name`.
  virtual void write(const std::string& name, std::span<const float> values) = 0;
  /// Of another part of the same kind.
  virtual void copy(const part& from) = 0;
  /// Names of the optimiser's arrays, each of size(); none where nothing is trained.
  virtual std::vector<std::string> moments() const = 0;
  virtual std::vector<float> read_moment(std::size_t n) = 0;
  virtual void write_moment(std::size_t n, std::span<const float> values) = 0;
  /// Steps the optimiser has taken.
  virtual index_t& count() = 0;
  /// The first tensor with a value that is no finite number; empty if there is none.
  virtual std::string first_not_finite() = 0;
};

struct learner_sizes {
  index_t vocabulary, length, width, heads, layers, first_adapted;
  index_t labels, label_width, planner_heads, planner_inner, planner_layers;
  index_t adapters() const { return layers - first_adapted; }
};

/// A device with the three kinds of parts on it, and the steps that train and test them.
class learner {
 public:
  enum class kind { language_model, adapters, planner };
  virtual ~learner() = default;

  /// Randomness of dropout, noise and sampling in the steps that follow, and whether they train.
  philox random{};
  bool training = true;

  /// Drawn from `start`. Decay is of matrices alone.
  virtual std::unique_ptr<part> make(kind what, philox start, bool trained, double weight_decay = 0) = 0;

  virtual step_result language_model_step(part& lm, const host_batch& b, const learning_rates& rates) = 0;
  virtual step_result planner_step(part& planner, const host_batch& b, const learning_rates& rates) = 0;
  /// The language model frozen, the adapters trained, the planner too where one is given; else the batch has logits.
  virtual step_result variant_step(const part& lm, part& adapters, part* planner, const policy& how, const host_batch& b,
                                   const learning_rates& rates) = 0;

  /// (S, K)
  virtual std::vector<float> logits(const part& planner, const host_batch& b) = 0;
  /// Nats of every target. Without adapters the language model alone.
  virtual std::vector<float> token_nll(const part& lm, const part* adapters, const policy& how, const host_batch& b) = 0;
  /// In which layer's output the first value that is no finite number stands, in the order of the forward pass.
  virtual std::string first_not_finite(const part& lm, const part* adapters, const part* planner, const policy& how, const host_batch& b) = 0;
};

std::unique_ptr<learner> make_cpu_learner(const learner_sizes& sizes, int threads);
/// `precision`: float32, tf32 (products of floats rounded to 10 bits) or bf16 (stored; the weights are kept in float32 as well).
std::unique_ptr<learner> make_cuda_learner(const learner_sizes& sizes, const std::string& precision);
/// Why there can be no CUDA learner; empty if there can.
std::string cuda_complaint();

}  // namespace train_planner_lm
