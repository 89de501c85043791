/// One seed: labels, base language model, planner, then every variant from the same start.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "batches.hpp"
#include "results.hpp"
#include "stage.hpp"

namespace train_planner_lm {

/// How a variant trains and how it is tested (methods section 9).
struct variant_plan {
  policy train, test;
  bool joint = false;        // the planner is trained through the language model
  double unfreeze_at = 0;    // fraction of the stage before which it is not
  std::string trained_as;    // a variant that has the same training
};
variant_plan plan_of(const std::string& name);

class experiment {
 public:
  experiment(learner& device, const data& d, const embeddings& vectors, const options& o, int seed, run& r);

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
    std::unique_ptr<part> adapters, planner;
  };
  trainee make_trainee(bool joint);

  philox random(std::uint32_t purpose) const { return {static_cast<std::uint64_t>(seed_), 0, purpose << 16}; }
  std::filesystem::path file(const std::string& name) const { return run_.file("seed-" + std::to_string(seed_) + "." + name); }
  std::map<std::string, std::string> with_stage(const std::string& name) const;
  chunk_order chunks(int batch) const;
  void add_sentences(int document, std::vector<text::sentence_ref>& to) const;

  step_result base_step(part& lm, chunk_order& order, index_t s, double rate);
  step_result planner_step(part& p, index_t s, double rate);

  // One step of a variant: the planner is trained too where it is thawed.
  step_result variant_step(trainee& t, const policy& how, bool thawed, chunk_order& order, index_t s, double rate, double planner_rate);
  // The planner alone: cross-entropy on oracle labels, the epoch that is best on validation is kept.
  void train_planner(index_t steps, const std::filesystem::path& path);

  // Logits (sentences, K); rows of other sentences stay zero.
  std::vector<float> logits_of(const part& p, const std::vector<text::sentence_ref>& sentences);
  std::vector<float> logits_of_all(const part& p);
  planner_metrics quality(const std::vector<float>& logits, const std::vector<text::sentence_ref>& sentences) const;
  planner_metrics planner_quality(const std::vector<float>& logits, const std::string& stage, const char* rate) const;

  // Nats of the test documents, chunk by chunk as in training.
  template <class Nll>
  std::vector<document_loss> evaluate_with(const Nll& nll_of);
  std::vector<document_loss> evaluate(const part& adapters, const std::vector<float>& logits, const policy& how);
  std::vector<document_loss> evaluate_unadapted();

  // Where the first value of step s that is no finite number stands: a parameter, else a layer's output, in the order of the forward pass.
  std::string first_not_finite(const std::vector<named_part>& parts, const part& lm, chunk_order& order, index_t s, const part* adapters,
                               const part* thawed, const policy& how = mixture{});
  // Before they get into a file.
  void refuse_not_finite(const std::string& name, const std::vector<document_loss>& losses, bool joint) const;

  learner& device_;
  const data& data_;
  const options& options_;
  int seed_;
  run& run_;
  labelling labels_;
  batcher batches_;
  std::unique_ptr<part> lm_;       // frozen
  std::unique_ptr<part> planner_;  // as trained alone, frozen
  std::map<std::string, std::string> about_;
  std::vector<text::sentence_ref> train_sentences_, valid_sentences_, test_sentences_, chosen_;
  std::vector<int> sentence_order_;
  std::vector<float> logits_;  // of planner_, all sentences
  planner_metrics before_;
};

}  // namespace train_planner_lm
