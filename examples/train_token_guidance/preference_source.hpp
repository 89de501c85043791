/// What the tasks reward and tune begin from: a finished run of train_planner_lm, and a file of generations
/// that somebody has ordered, as tokens of that run's vocabulary.
///
/// Lists are split by what they say, not by where they stand: the same prompt falls into the same part in
/// every file, so that what a reward model has not seen is not what a policy is tuned on.
#pragma once
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>
#include <planlm/text/preferences.hpp>
#include "guidance_machine.hpp"
#include "train_planner_lm/checkpoint.hpp"

namespace train_token_guidance {

struct preference_options {
  std::filesystem::path run, preferences;
  int run_seed = 0;  // 0: the run's first
  bool cut = false;
  void add(trainer::flags& f);  // --run, --run-seed, --preferences, --cut
  void check() const;           // errors: input_error naming the flag
};

/// A run's language model and what its tokens mean.
struct planner_base {
  std::filesystem::path folder;
  train_planner_lm::finished_run run;
  int seed;
  train_planner_lm::kept_language language;

  lm_sizes sizes() const;
  const text::vocabulary& vocabulary() const { return language.vocabulary; }
  /// Whether a sentence ends with this token more often than not.
  bool ends(int token) const { return language.ends[static_cast<std::size_t>(token)] != 0; }
  std::string decode(std::span<const int> ids) const { return vocabulary().decode(ids); }
  std::unique_ptr<part> language_model(guidance_machine& m) const;
};
/// Errors: input_error for a folder that is no finished run, or has no such seed.
planner_base read_planner_base(const preference_options& o);

using preference_list = text::tokenised_preference;

struct preference_shares {
  double validation = 0.1, test = 0.1;
};
struct preference_parts {
  std::vector<preference_list> training, validation, test;
  std::vector<std::string> notes;  // on lists that say nothing and what was left out, one line each
  std::string description;
  std::uint64_t fingerprint = 0;  // of all tokens and scores
};
/// The file in three parts. `reserve`: tokens that have to fit behind every prompt, however short its
/// generations are. Notes are written to stderr as well. Errors: input_error, one line: for a file that is
/// none (text/preferences.hpp), lists that do not fit the window, a file in which no list says anything, a
/// part that is left without a list that does.
preference_parts read_parts(const preference_options& o, const planner_base& base,
                            const preference_shares& shares, int reserve = 0);

/// Those that say which generation is better.
std::vector<const preference_list*> informative(const std::vector<preference_list>& lists);
/// The best generation, the first of several.
const std::vector<int>& best_of(const preference_list& list);
/// The list behind those that are there.
void add_list(ranked_generations& to, const preference_list& list);

/// Lists under a reward model, over many calls of a device.
struct lists_scored {
  double loss = 0, accuracy = 0;
  double accuracy_error = NAN;  // standard error over lists: pairs of one list are not independent; of one list there is none
  index_t lists = 0, pairs = 0;
  std::vector<std::vector<double>> scores;  // e, of each list
};
lists_scored score_lists(guidance_machine& m, const part& reward,
                         std::span<const preference_list* const> lists, const guidance_rule& rule);
/// Pairs that any score orders as people did; the loss is left at 0.
lists_scored order_of(std::span<const preference_list* const> lists, std::vector<std::vector<double>> scores);

/// A number of few digits for a text as long as it likes.
std::uint64_t fingerprint_of(std::string_view text);

/// What a file of a reward model says of itself, and back.
std::map<std::string, std::string> about_rule(const guidance_options& g, const preference_shares& shares);
struct kept_reward {
  guidance_options guidance;
  preference_shares shares;
  std::uint64_t fingerprint;  // of what it says of itself and of the run that trained it
  std::unique_ptr<part> model;
};
/// Errors: input_error for a file that is no reward model, or one for another run of train_planner_lm.
kept_reward read_reward(guidance_machine& m, const std::filesystem::path& folder_or_file,
                        const planner_base& base);

}  // namespace train_token_guidance
