/// What a run writes for others to read: run.json, results.json and the table of the paper.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>
#include "options.hpp"
#include "prepare.hpp"
#include "variants.hpp"
#include <planlm/io/table.hpp>
#include <planlm/training/statistics.hpp>

namespace planlm {
class run_folder;
}

namespace train_planner_lm {

using namespace planlm;

/// How generated text does, whole sentences only. Shares and scores 0 to 1; NaN where there was nothing to score.
struct generation_scores {
  index_t asked = 0, tokens = 0;        // --generate and --generate-tokens
  index_t documents = 0;                // continued, and as many begun from nothing
  double rouge2 = 0;                    // F of the continuation against the true one
  double edits = 0, edits_normalised = 0;  // between their labels
  double followed = 0;                  // sentences whose own label is the planned one
  double latent_perplexity = 0, latent_perplexity_of_truth = 0;  // of label sequences of texts begun from nothing, and of true texts
  double mauve = 0;                     // of their sentences against true ones
};
/// A text written by a variant.
struct sample_sentence {
  std::string text;
  int planned = -1, own = -1;
  bool complete = false;
};
struct sample_text {
  std::string prompt;
  std::vector<sample_sentence> sentences;
};

/// One row of results.json.
struct variant_result {
  std::string name;
  int seed = 0;
  std::vector<document_loss> documents;          // of the test part, in its order
  double accuracy = 0, cross_entropy = 0, entropy = 0;  // of the planner after the variant's training
  double tokens_per_second = 0, seconds = 0;
  std::map<std::string, std::vector<document_loss>> checks;  // other ways to test the same training: mixture -> argmax, more paths
  double temperature = 1;                                    // where it was tuned, and what each candidate gave on validation documents
  std::map<std::string, double> tried;
  std::optional<generation_scores> generation;
  std::vector<sample_text> samples;
  std::string device = "cpu", precision = "float32";         // where it was trained: a run may go on elsewhere

  double nll() const { return nats_per_token(documents); }
};

/// How much work: fixed at the start of a run and kept in run.json, so that going on means the same run.
struct work {
  index_t base_steps = 0, planner_steps = 0, variant_steps = 0;
};

/// Which run it is, and how it was asked for.
struct run_description {
  const options& flags;
  std::uint64_t text;                 // fingerprint
  std::string corpus;                 // in words
  std::vector<std::string> command;
};

/// What programs that generate need beside the parameters: vocabulary.model, encoder.safetensors, text.json.
void keep(const run_folder& folder, const material& m);

/// Steps of the run that `folder` holds, else of `plan`, which are then kept in run.json. Errors: input_error for a folder that holds
/// another run: going on means the same run.
work settle(const run_folder& folder, const run_description& run, const std::function<work()>& plan);

/// Settings, text and steps in one line: two runs that share it compute the same.
std::string identity(const run_description& run, const work& w);

/// A run from outside: the settings that its files were made with, and what they say of themselves.
struct finished_run {
  options flags;
  std::string identity;
};
/// Errors: input_error for a folder that holds no run of this program.
finished_run read_run(const std::filesystem::path& folder);

/// The rows of results.json; none if there is no such file. Errors: input_error for a file that is no results.json.
/// It must be of this run: settings, text and steps.
std::vector<variant_result> read_results(const run_folder& folder, const run_description& run, const work& w);
/// `reports`: one line on the labels of each seed.
void write_results(const run_folder& folder, const run_description& run, const work& w, const std::vector<std::string>& reports,
                   const std::vector<variant_result>& results);

/// A table's columns and cells.
struct table_rows {
  std::vector<text_table::column> columns;
  std::vector<std::vector<std::string>> rows;
};
/// Means over seeds; differences to each variant's control and to `mixture-frozen` where those were run. Variants in the order given.
table_rows results_rows(const std::vector<variant_result>& results, const std::vector<variant_plan>& order);
/// Means over seeds of variants that draw paths, tested with more and fewer of them; no rows if there are none.
table_rows path_rows(const std::vector<variant_result>& results, const std::vector<variant_plan>& order);
/// Means over seeds of the generation scores; no rows if there are none.
table_rows generation_rows(const std::vector<variant_result>& results, const std::vector<variant_plan>& order);
std::string printed(const table_rows& table);

/// Perplexity of a variant over its seeds; its interval is `fixed` with the interval of the difference, NaN where there is none.
struct compared {
  double perplexity, lower, upper;
};
std::optional<compared> compare(const std::vector<variant_result>& results, const std::string& name);

}  // namespace train_planner_lm
