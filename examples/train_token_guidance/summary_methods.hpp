/// The rows of --task summary: what each is, how its policy is trained and how it is judged.
#pragma once
#include <filesystem>
#include <string>
#include <vector>
#include "guidance_machine.hpp"
#include "summary.hpp"
#include "summary_passages.hpp"
#include "trainer/run_book.hpp"
#include "trainer/stage.hpp"

namespace train_token_guidance {

struct summary_method {
  const char *name, *about;
  bool tuned = true, guided = false;
  const char* aggregation = "";  // empty: what --aggregation says
  guided_likelihood how{};
};
const std::vector<summary_method>& summary_methods();
const summary_method& summary_method_named(const std::string& name);

/// What all seeds share.
struct summary_material {
  const sampler::language& text;
  passage_set trained, judged, watched;
};

/// Of all judged texts of a method with a seed.
std::filesystem::path summary_scores_file(const trainer::run& run, const std::string& method, int seed);

/// Trains a policy, or reads it where the run has it, and judges it; writes its file of scores. Values: those
/// of summary_scores, the same drawn instead of greedy (drawn_rouge_1, ...), exact (%), nats per token,
/// length (words), accuracy of the reward model's pairs, reward_key and reward_drawn (means over tokens),
/// calls of the true score, seconds.
trainer::outcome learn_summary(const summary_method& how, int seed, const summary_options& o, const task& t,
                               const summary_material& m, guidance_machine& device, trainer::run& run,
                               const part& base);

}  // namespace train_token_guidance
