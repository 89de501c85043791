/// One seed: labels, base language model, planner, then every variant from the same start.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "batches.hpp"
#include "results.hpp"
#include "trainer/stage.hpp"
#include "variants.hpp"
#include "writer.hpp"

namespace train_planner_lm {

class experiment {
 public:
  experiment(learner& device, const material& m, const options& o, int seed, run& r);

  /// Seconds per step of the base model, of the planners that the variants need, and of one step of every variant, by doing some.
  struct speeds {
    double base, planners, variants;
  };
  speeds measure(const std::vector<variant_plan>& variants);

  /// Base language model and planners: trained, or read from an earlier run of the same settings.
  void prepare(const work& w, const std::vector<variant_plan>& variants);

  variant_result train_and_test(const variant_plan& plan, const work& w);
  /// Whether the result lacks the scores of generated text that the flags ask for; and adds them, from the variant as it was trained.
  bool lacks_writing(const variant_plan& plan, const variant_result& result) const;
  void write_and_score(const variant_plan& plan, const work& w, variant_result& result);

  /// What must hold before any comparison means something: is the next label predictable at all?
  std::string label_report() const;
  int steps_per_epoch(int batch) const { return order({}, batch).steps_per_epoch(); }
  index_t train_sentences() const { return static_cast<index_t>(train_sentences_.size()); }

 private:
  // What a variant trains, from the same start for every variant; null where it has none.
  struct trainee {
    std::unique_ptr<part> adapters, encoder, planner, lm;
    double seconds = 0, tokens_per_second = 0;
    std::vector<named_part> named() const;
  };
  trainee make_trainee(const variant_plan& plan);
  conditioned_parts parts_of(const variant_plan& plan, const trainee& t, bool planner) const;
  wanted needs(const variant_plan& plan, bool planner) const;

  // What draws are for; each has its own numbers.
  enum purpose : std::uint32_t { of_lm = 1, of_planner, of_adapters, of_factors, of_encoder, of_random_tables, of_look_ahead, of_tests, of_steps,
                                 of_continuations, of_beginnings, of_label_head };
  philox random(purpose purpose) const { return {static_cast<std::uint64_t>(seed_), 0, purpose << 16}; }
  std::filesystem::path file(const std::string& name) const { return run_.file("seed-" + std::to_string(seed_) + "." + name); }
  std::map<std::string, std::string> with_stage(const std::string& name) const;
  std::vector<text::chunk> chunks(const variant_plan& plan, const std::vector<int>& documents) const;
  chunk_order order(const variant_plan& plan, int batch) const;
  void add_sentences(int document, std::vector<text::sentence_ref>& to) const;

  step_result base_step(part& lm, chunk_order& order, index_t s, double rate);
  step_result planner_step(part& p, index_t s, double rate);
  step_result head_step(part& head, chunk_order& order, index_t s, double rate);
  // One step of a variant: the planner is trained too where it is thawed.
  step_result variant_step(const variant_plan& plan, trainee& t, bool thawed, chunk_order& order, index_t s, double schedule);
  index_t thaw_step(const variant_plan& plan, const work& w) const;
  // Trained, or read from the file of an earlier run.
  trainee train(const variant_plan& plan, const work& w);
  // A planner alone: cross-entropy on oracle labels, the epoch that is best on validation is kept in `best`.
  void train_planner(const std::string& name, learner::kind what, part& best, index_t steps);
  void train_label_head(index_t steps);
  void write_labels() const;

  // Logits (sentences, K); rows of other sentences stay zero.
  std::vector<float> logits_of(const part& p, const std::vector<text::sentence_ref>& sentences);
  std::vector<float> logits_of_all(const part& p);
  std::vector<float> head_logits_of(const part& head, const std::vector<int>& documents);
  planner_metrics quality(const std::vector<float>& logits, const std::vector<text::sentence_ref>& sentences) const;
  planner_metrics planner_quality(const std::vector<float>& logits, const std::string& stage, const char* rate) const;
  // How good the planner is and how many labels it uses, on some validation sentences, for the report.
  void observe(const std::string& stage, index_t step, const part& p);

  // Nats of documents, chunk by chunk as in training. `logits` null: the parts have a planner.
  std::vector<document_loss> evaluate(const variant_plan& plan, const method& how, const conditioned_parts& parts, const std::vector<float>* logits,
                                      const std::vector<int>& documents);
  // Of a chunk batch with labels as tokens, each replaced by what the language model itself predicts.
  host_batch with_own_labels(const part& lm, std::span<const text::chunk> piece);
  // The variant at one temperature, trained under a name of its own; at 1 it is mixture-frozen.
  static variant_plan at_temperature(const variant_plan& plan, double temperature);
  void choose_temperature(variant_plan& plan, const work& w, variant_result& result);
  void score_writing(const variant_plan& plan, const method& how, const conditioned_parts& parts, variant_result& result);

  // Where the first value of step s that is no finite number stands: a parameter, else a layer's output, in the order of the forward pass.
  std::string first_not_finite(const std::vector<named_part>& parts, const conditioned_parts& model, const method& how, const host_batch& b);
  // Before they get into a file.
  void refuse_not_finite(const std::string& name, const std::vector<document_loss>& losses, bool joint) const;

  learner& device_;
  const material& material_;
  const data& data_;
  const options& options_;
  int seed_;
  run& run_;
  labelling labels_;
  batcher batches_;
  std::unique_ptr<part> lm_;          // frozen
  std::unique_ptr<part> planner_;     // as trained alone, frozen
  std::unique_ptr<part> look_ahead_;  // where a variant looks ahead
  std::map<std::string, std::string> about_;
  std::vector<text::sentence_ref> train_sentences_, valid_sentences_, test_sentences_, observed_, chosen_;
  std::vector<int> sentence_order_;
  std::vector<float> logits_;       // of planner_, all sentences
  std::vector<float> head_logits_;  // of the language model's own label head, all sentences
  planner_metrics before_;
};

}  // namespace train_planner_lm
