/// A variant as a finished run left it, ready to write text.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "learner.hpp"
#include "results.hpp"
#include "variants.hpp"
#include "writer.hpp"

namespace train_planner_lm {

/// What of a run belongs to no device: vocabulary, encoder, ends of sentences, and one seed's labels.
struct kept_language {
  text::vocabulary vocabulary;
  tfidf_svd encoder;
  std::vector<char> ends;
  std::vector<float> centroids;
  std::vector<std::vector<std::string>> typical;  // sentences of each label, the most typical first
  language view(const options& o) const { return {vocabulary, encoder, centroids, ends, o.context, o.length}; }
};
/// Errors: input_error for files that are missing or damaged.
kept_language read_language(const std::filesystem::path& folder, const finished_run& run, int seed);

/// The parts of a variant of one seed.
struct kept_variant {
  std::unique_ptr<part> base, lm, adapters, encoder, planner;
  method how;  // as it is tested
  conditioned_parts parts() const { return {lm ? lm.get() : base.get(), adapters.get(), encoder.get(), planner.get()}; }
};
/// Errors: input_error for a variant that this run has not, naming those it has, or for damaged files.
kept_variant read_variant(learner& device, const std::filesystem::path& folder, const finished_run& run, const variant_plan& plan, int seed);

/// The lowest seed that has a base language model; 1 if none has.
int first_seed(const std::filesystem::path& folder);
/// Which seed's language model a file of train_token_guidance --task tune was tuned from. Errors: input_error for another file, or one of
/// another run than `run`.
int tuned_from(const std::filesystem::path& file, const finished_run& run);
/// A language model of such a file takes the place of the run's own; adapters and planner stay. Errors: input_error, also where the variant has
/// tuned the language model itself.
void replace_language_model(kept_variant& v, learner& device, const std::filesystem::path& file, const finished_run& run, const variant_plan& plan);

/// Whether a generator can follow the variant's plans: not where it is told the truth, nor where labels are tokens of the text or come from
/// the language model's own label head.
bool can_write(const variant_plan& plan);
/// Whether its labels say something of a sentence.
bool has_plans(const variant_plan& plan);

}  // namespace train_planner_lm
