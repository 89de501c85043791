/// One seed of the comparison: every method at every number of labelled sentences, by the same frozen base model.
#pragma once
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>
#include "base_text.hpp"
#include "label_model.hpp"
#include "trainer/run_book.hpp"

namespace train_latent_classifier {

/// The name of a score in results.json.
std::string score_name(const std::string& what, int count);

class experiment {
 public:
  experiment(machine& m, trainer::run& run, const part& base, const pattern& words, const base_text& lines, const classes& names,
             const division& text, const options& o);

  /// Runs what the book lacks of this seed, and writes it into the book.
  void run_seed(int seed, trainer::run_book& book);
  /// Nats a token of the lines of some sentences under the base model.
  std::string about_base() const;

 private:
  /// What the labels of one seed and size made, each made when it is first asked for.
  struct cell;
  /// Rationales that a sentence's label is read from: `votes` each, or one that is empty.
  using rationales = std::vector<std::vector<tokens>>;
  struct judgement {
    double accuracy, nll, share;  // in percent; nats of the true label by the mean probability; of sentences said to be of the second class
  };
  judgement judge(const label_model& model, const rationales& z, std::span<const tokens> demonstrations = {}) const;
  judgement judge(std::span<const double> odds, int votes) const;
  /// The base model as a label model behind demonstrations, or behind rationales that a policy writes.
  label_model prompted(std::span<const tokens> demonstrations) const;
  label_model prompted(const part& policy) const;
  rationales drawn(const part& policy, std::span<const example> sentences, int count, planlm::philox random) const;
  std::unique_ptr<part> sampler_of(cell& c, const std::string& name, const label_model& model);
  std::unique_ptr<part> labels_of(cell& c, const std::string& name, const part* from, const part& policy);
  const part& supervised(cell& c);
  judgement run_method(const std::string& method, cell& c, trainer::outcome& out);
  judgement with_rationales(const part& policy, const label_model& model, cell& c, trainer::outcome& out);
  judgement few_shot(cell& c, trainer::outcome& out) const;
  judgement vectors(const cell& c) const;

  machine& machine_;
  trainer::run& run_;
  const part& base_;
  const pattern& words_;
  const base_text& lines_;
  const division& text_;
  const options& options_;
  std::array<std::string, 2> names_;
  label_reader reader_;
  planlm::rollout_rule rule_;
  std::vector<example> calibration_;  // unlabelled sentences; their `label` says nothing
  std::span<const example> scored_;
  rationales none_;
  std::shared_ptr<const judgement> zero_shot_;  // the same for all seeds
  std::shared_ptr<const label_model> base_labels_;
};

}  // namespace train_latent_classifier
