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

/// Prompts and what they came to on the sentences of the table.
using tested_prompts = std::map<tokens, prompt_score>;

class prompt_search {
 public:
  /// What is given must outlive the search. scored: the sentences of the table.
  prompt_search(const prompt_options& o, const guidance_options& g, guidance_machine& m, trainer::run& run, const part& base, const prompt_text& text,
                prompt_scorer& scorer, std::span<const prompt_example> scored, tested_prompts& tested, int seed);
  trainer::outcome learn(const std::string& method);

 private:
  struct candidate {
    tokens prompt;
    prompt_score shots;
  };
  std::unique_ptr<part> tune(const std::string& method);
  ranked_generations lists(const part& policy, const guidance_moment& at);
  std::vector<float> rewards(const std::string& method, const part* reward, const packed_generations& texts, std::span<const tokens> prompts,
                             std::map<tokens, double>& known);
  std::vector<tokens> draw(const part& policy, int count, philox random) const;
  packed_generations pack(std::span<const tokens> prompts) const;
  void judge(trainer::outcome& out, std::vector<candidate> found);
  candidate shots_score(const tokens& prompt) { return {prompt, scorer_.score(prompt, shots_)}; }
  guidance_rule rule_of(const std::string& method) const;
  index_t subset() const;
  /// Sentences that guidance reads for its true scores, whole rounds taken.
  double read_by_guidance() const;

  const prompt_options& o_;
  const guidance_options& guidance_;
  guidance_machine& machine_;
  trainer::run& run_;
  const part& base_;
  const prompt_text& text_;
  prompt_scorer& scorer_;
  std::span<const prompt_example> scored_;
  tested_prompts& tested_;
  int seed_;
  std::vector<prompt_example> train_, dev_, shots_;  // both
  rollout_rule rule_;
  const tokens before_;  // a prompt begins where a text does
};

}  // namespace train_token_guidance
