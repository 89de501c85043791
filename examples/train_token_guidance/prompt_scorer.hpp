/// What prompts make a frozen language model say of sentences: begin of text, sentence, its end, prompt, and then one of two words.
///
/// Every prompt is read by calls of its own in a fixed order of sentences, so that its odds are the same bits whatever was read before.
#pragma once
#include <array>
#include <span>
#include <string>
#include <vector>
#include "guidance_machine.hpp"
#include "prompt_text.hpp"

namespace train_token_guidance {

/// A sentence as the language model reads it, and its class.
struct prompt_example {
  tokens sentence;
  int label;
};
/// Means over examples.
struct prompt_score {
  double reward = 0;    // the true score of a prompt: gap, scaled apart where it is right and where it is wrong
  double accuracy = 0;
  double first = 0;     // share that is taken for the first class
};
/// `odds` of the examples, of which `middle` is where neither class is said.
prompt_score score_odds(std::span<const double> odds, std::span<const prompt_example> examples, double middle);
double median(std::vector<double> values);

class prompt_scorer {
 public:
  /// The language model must outlive the scorer. Errors: input_error for words that begin with the same piece.
  prompt_scorer(guidance_machine& m, const part& lm, const prompt_text& text, const prompt_options& o);

  /// The first pieces of the words for the two classes.
  const std::array<int, 2>& labels() const { return labels_; }
  std::vector<prompt_example> read(std::span<const train_latent_classifier::example> sentences) const;
  /// log p(first) - log p(second) of each example behind the prompt.
  std::vector<double> odds(const tokens& prompt, std::span<const prompt_example> examples) const;

 private:
  guidance_machine& machine_;
  const part& lm_;
  const prompt_text& text_;
  std::size_t most_;
  std::array<int, 2> labels_;
};

}  // namespace train_token_guidance
