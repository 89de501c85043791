/// One seed: labels, base language model, planner, then every variant from the same start.
#pragma once
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>
#include "results.hpp"
#include "stage.hpp"

namespace train_planner_lm {

/// Stands for oracle{labels of the batch}, which exist only once the batch does.
struct oracle_labels {};
using policy = std::variant<fixed, uniform, hard, sampled, mixture, top_k, straight_through, gumbel_softmax, oracle_labels>;

/// How a variant trains and how it is tested (methods section 9).
struct variant_plan {
  policy train, test;
  bool joint = false;        // the planner is trained through the language model
  double unfreeze_at = 0;    // fraction of the stage before which it is not
  std::string trained_as;    // a variant that has the same training
};
variant_plan plan_of(const std::string& name);

/// A policy of the plan, with what it needs of the batch.
template <class P>
auto as_policy(const P& p, const device_batch& b) {
  if constexpr (std::same_as<P, oracle_labels>) return oracle<B>{b.labels};
  else return p;
}

class experiment {
 public:
  experiment(context<B>& cx, const data& d, const embeddings& vectors, const options& o, int seed, run& r);

  /// Seconds per step of the base model, the planner, a frozen and a joint variant, by doing some.
  struct speeds {
    double base, planner, frozen, joint;
  };
  speeds measure();

  /// Base language model and planner: trained, or read from an earlier run of the same settings.
  void prepare(const work& w);

  variant_result train_and_test(const std::string& name, const work& w);

  /// What section 15.1 asks before any comparison: is the next label predictable at all?
  std::string label_report() const;
  int steps_per_epoch(int batch) const { return chunks(batch).steps_per_epoch(); }
  index_t train_sentences() const { return static_cast<index_t>(train_sentences_.size()); }

 private:
  // Adapters from the same start for every variant, and the planner if it is trained along.
  struct trainee {
    adapter_store adapters;
    adamw<B> adapter_optimiser;
    std::optional<planner_store> planner;
    std::optional<adamw<B>> planner_optimiser;
    trainee(experiment& e, bool joint);
  };

  philox random(std::uint32_t purpose) const { return {static_cast<std::uint64_t>(seed_), 0, purpose << 16}; }
  std::filesystem::path file(const std::string& name) const { return run_.file("seed-" + std::to_string(seed_) + "." + name); }
  std::map<std::string, std::string> with_stage(const std::string& name) const;
  chunk_order chunks(int batch) const;
  void add_sentences(int document, std::vector<text::sentence_ref>& to) const;
  template <class Store>
  void load_centroids(Store& store, const std::string& name);

  step_result base_step(lm_store& lm, adamw<B>& optimiser, chunk_order& order, index_t s, double rate);
  step_result planner_step(planner_store& p, adamw<B>& optimiser, index_t s, double rate);

  // One step of a variant: the language model frozen, the adapters trained, the planner too where it is thawed.
  step_result variant_step(trainee& t, const policy& how, bool thawed, chunk_order& order, index_t s, double rate, double planner_rate);
  // Forward, loss and pullback of the language model given label weights; -> dw.
  const_tensor<B> lm_step(trainee& t, const device_batch& b, const_tensor<B> w, bool want_dw, double& total);
  // The planner alone: cross-entropy on oracle labels, the epoch that is best on validation is kept.
  void train_planner(index_t steps, const std::filesystem::path& path);

  // Logits (sentences, K); rows of other sentences stay zero.
  std::vector<float> logits_of(const planner_store& p, const std::vector<text::sentence_ref>& sentences);
  std::vector<float> logits_of_all(const planner_store& p);
  planner_metrics quality(const std::vector<float>& logits, const std::vector<text::sentence_ref>& sentences) const;
  planner_metrics planner_quality(const std::vector<float>& logits, const std::string& stage, const char* rate) const;

  // Nats of the test documents, chunk by chunk as in training.
  template <class Hidden>
  std::vector<document_loss> evaluate_with(const Hidden& hidden);
  std::vector<document_loss> evaluate(const adapter_store& adapters, const std::vector<float>& logits, const policy& how);
  std::vector<document_loss> evaluate_unadapted();

  // Where the first value of step s that is no finite number stands: a parameter, else a layer's output, in the order of the forward pass.
  std::string first_not_finite(const std::vector<trained_part>& parts, const lm_store& lm, chunk_order& order, index_t s, const trainee* t,
                               const planner_store* thawed, const policy& how = mixture{});
  // Before they get into a file.
  void refuse_not_finite(const std::string& name, const std::vector<document_loss>& losses, bool joint) const;

  context<B>& cx_;
  const data& data_;
  const options& options_;
  int seed_;
  run& run_;
  labelling labels_;
  model_type model_;
  planner<B> plan_;
  batcher batches_;
  lm_store lm_;            // frozen
  planner_store planner_;  // as trained alone, frozen
  std::map<std::string, std::string> about_;
  std::vector<text::sentence_ref> train_sentences_, valid_sentences_, test_sentences_, chosen_;
  std::vector<int> sentence_order_;
  std::vector<float> logits_;  // of planner_, all sentences
  planner_metrics before_;
};

}  // namespace train_planner_lm
