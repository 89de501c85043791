/// One seed of task prompt: its labelled sentences, and what each method makes of them.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "guided_tuning.hpp"
#include "prompt_scorer.hpp"
#include "trainer/run_book.hpp"
#include "trainer/stage.hpp"

namespace train_token_guidance {

const std::vector<std::string>& prompt_methods();
std::string about_prompt_method(const std::string& name, const prompt_options& o, const guidance_options& g);

/// Odds behind prompts, of one set of sentences.
using known_odds = std::map<tokens, std::vector<double>>;

class prompt_search {
 public:
  /// What is given must outlive the search. scored: the sentences of the table.
  prompt_search(const prompt_options& o, const guidance_options& g, guidance_machine& m, trainer::run& run, const part& base, const prompt_text& text,
                const prompt_scorer& scorer, std::span<const prompt_example> scored, known_odds& tested, int seed);
  trainer::outcome learn(const std::string& method);

 private:
  struct candidate {
    tokens prompt;
    prompt_score shots, dev;  // of all labelled sentences, and of those that nothing was trained on
  };
  std::unique_ptr<part> tune(const std::string& method);
  ranked_generations lists(const part& policy, const guidance_moment& at);
  std::vector<float> rewards(const std::string& method, const part* reward, const packed_generations& texts, std::span<const tokens> prompts);
  std::vector<tokens> draw(const part& policy, int count, philox random) const;
  packed_generations pack(std::span<const tokens> prompts) const;
  void judge(trainer::outcome& out, std::vector<candidate> found);
  const std::vector<double>& train_odds(const tokens& prompt);
  /// Odds that say neither class behind this prompt.
  double middle(const tokens& prompt);
  /// The true score of a prompt.
  double train_score(const tokens& prompt) { return score_odds(train_odds(prompt), train_, middle(prompt)).reward; }
  candidate consider(const tokens& prompt);
  guidance_rule rule_of(const std::string& method) const;
  /// Sentences that guidance reads for the true scores of a round.
  double read_in_round(double steps) const;

  const prompt_options& o_;
  const guidance_options& guidance_;
  guidance_machine& machine_;
  trainer::run& run_;
  const part& base_;
  const prompt_text& text_;
  const prompt_scorer& scorer_;
  std::span<const prompt_example> scored_;
  known_odds& tested_;
  int seed_;
  std::vector<prompt_example> train_, dev_;
  known_odds train_odds_;  // of the method that is learnt
  rollout_rule rule_;
  const tokens before_;  // a prompt begins where a text does
};

}  // namespace train_token_guidance
