/// p(label | sentence, rationale): a softmax over the two label tokens behind SO. What is trained by maximisation, read by the reward and
/// votes at the end.
#pragma once
#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include "options.hpp"
#include "pattern.hpp"
#include "sampler/machine.hpp"
#include "trainer/stage.hpp"

namespace train_latent_classifier {

using sampler::machine;
using sampler::packed_text;
using sampler::part;
using sampler::tokens;
using sampler::written;

/// What reads labels: a language model, and what its odds are too high by.
struct label_model {
  const part* lm;
  double offset = 0;
};

/// A sentence's prompt with a rationale for it.
struct reading {
  tokens prompt, rationale;
};

class label_reader {
 public:
  label_reader(machine& m, const pattern& p, std::array<int, 2> labels) : machine_(m), pattern_(p), labels_(labels) {}

  const pattern& words() const { return pattern_; }
  const std::array<int, 2>& labels() const { return labels_; }

  /// log p(second label) - log p(first) for each; those of one prompt are best given one after the other.
  std::vector<double> odds(const label_model& model, std::span<const reading> readings) const;
  /// A model that was never told about labels favours one of their words. So that it says both equally often, its odds are taken less their
  /// median over readings of unlabelled sentences.
  label_model calibrated(const part& lm, std::span<const reading> unlabelled) const;

  /// One step towards the labels of some readings.
  sampler::step_result step(part& lm, std::span<const reading> readings, std::span<const int> labels, const sampler::rates& r) const;

 private:
  machine& machine_;
  const pattern& pattern_;
  std::array<int, 2> labels_;
};

/// Maximisation: low-rank factors of `base`, beginning as those of `from` unless that is null, trained on readings with labels, or read from
/// the run's file.
std::unique_ptr<part> train_labels(machine& m, trainer::run& run, const label_reader& reader, const part& base, const part* from,
                                   const std::string& name, int seed, const std::function<std::vector<std::pair<reading, int>>()>& data,
                                   const options& o);

/// The reward of rationales: log p(rationale, SO | sentence) under the base model + log p(label | sentence, rationale) under the label model;
/// where that reads the other label, a shift that is not tempered. What was read once is remembered.
class rationale_reward {
 public:
  rationale_reward(machine& m, const label_reader& reader, const part& base, label_model model, std::vector<int> labels, double wrong)
      : machine_(m), reader_(reader), base_(base), model_(model), labels_(std::move(labels)), wrong_(wrong),
        penalty_(reader.words().penalty(reader.labels())) {}
  /// prompt[b]: the labelled sentence that texts[b] is for.
  std::vector<planlm::log_reward_row> operator()(std::span<const written> texts, std::span<const int> prompt);

 private:
  machine& machine_;
  const label_reader& reader_;
  const part& base_;
  label_model model_;
  std::vector<int> labels_;
  double wrong_;
  std::vector<float> penalty_;
  std::map<std::pair<int, tokens>, double> known_;  // (sentence, rationale) -> log odds
};

}  // namespace train_latent_classifier
