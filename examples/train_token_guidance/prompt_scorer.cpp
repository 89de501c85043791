/// Odds behind prompts.
#include "prompt_scorer.hpp"
#include <algorithm>
#include <cmath>
#include <planlm/core/error.hpp>
#include <planlm/metrics/label_gap.hpp>

namespace train_token_guidance {
namespace {

constexpr std::size_t together = 250;  // sequences of a call

std::array<int, 2> first_pieces(const prompt_text& text, const std::vector<std::string>& words) {
  const tokens a = text.language.encode(words[0]), b = text.language.encode(words[1]);
  if (a.empty() || b.empty() || a[0] == b[0])
    throw input_error("--label-words: '" + words[0] + "' and '" + words[1] + "' begin with the same piece '" +
                      (a.empty() ? std::string() : text.language.decode(std::span(a).first(1))) +
                      "' of the vocabulary and cannot be told apart; choose others or raise --vocabulary");
  return {a[0], b[0]};
}

}  // namespace

prompt_scorer::prompt_scorer(guidance_machine& m, const part& lm, const prompt_text& text, const prompt_options& o)
    : machine_(m), lm_(lm), text_(text), most_(static_cast<std::size_t>(o.sentence)), labels_(first_pieces(text, o.label_words)) {}

std::vector<prompt_example> prompt_scorer::read(std::span<const train_latent_classifier::example> sentences) const {
  std::vector<prompt_example> out;
  for (const auto& e : sentences) {
    tokens ids = text_.language.encode(e.sentence);
    if (ids.size() > most_) ids.resize(most_);
    out.push_back({std::move(ids), e.label});
  }
  return out;
}

std::vector<double> prompt_scorer::odds(const tokens& prompt, std::span<const prompt_example> examples) const {
  std::vector<double> out;
  for (std::size_t from = 0; from < examples.size(); from += together) {
    packed_text texts;
    for (const prompt_example& e : examples.subspan(from, std::min(together, examples.size() - from))) {
      tokens all{text_.language.vocabulary.bos()};
      all.insert(all.end(), e.sentence.begin(), e.sentence.end());
      all.push_back(text_.language.stop());
      all.insert(all.end(), prompt.begin(), prompt.end());
      texts.add(all, all.size());
    }
    const std::vector<float> p = machine_.choice_probabilities(lm_, texts, labels_);
    const auto log_of = [&](std::size_t i) { return std::log(std::max(double(p[i]), 1e-30)); };
    for (std::size_t i = 0; i < p.size(); i += 2) out.push_back(log_of(i) - log_of(i + 1));
  }
  return out;
}

prompt_score score_odds(std::span<const double> odds, std::span<const prompt_example> examples, double middle) {
  prompt_score mean;
  std::vector<double> p;
  std::vector<int> labels;
  for (std::size_t i = 0; i < odds.size(); ++i) {
    const double first = 1 / (1 + std::exp(middle - odds[i]));
    p.insert(p.end(), {first, 1 - first});
    labels.push_back(examples[i].label);
    mean.first += first > 0.5 ? 1 / double(odds.size()) : 0;
  }
  const label_gap_score s = label_gap_reward{}.score(std::span<const double>(p), 2, labels);
  mean.reward = s.reward, mean.accuracy = s.accuracy;
  return mean;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

}  // namespace train_token_guidance
