/// What a run writes for others to read: run.json, results.json and the table of the paper.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>
#include "options.hpp"
#include <planlm/training/statistics.hpp>

namespace planlm {
class run_folder;
}

namespace train_planner_lm {

using namespace planlm;

/// One row of results.json.
struct variant_result {
  std::string name;
  int seed = 0;
  std::vector<document_loss> documents;          // of the test part, in its order
  double accuracy = 0, cross_entropy = 0, entropy = 0;  // of the planner after the variant's training
  double tokens_per_second = 0, seconds = 0;
  std::map<std::string, std::vector<document_loss>> checks;  // other ways to test the same training: mixture -> argmax
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

/// Steps of the run that `folder` holds, else of `plan`, which are then kept in run.json. Errors: input_error for a folder that holds
/// another run: going on means the same run.
work settle(const run_folder& folder, const run_description& run, const std::function<work()>& plan);

/// Settings, text and steps in one line: two runs that share it compute the same.
std::string identity(const run_description& run, const work& w);

/// The rows of results.json; none if there is no such file. Errors: input_error for a file that is no results.json.
std::vector<variant_result> read_results(const run_folder& folder);
/// `reports`: one line on the labels of each seed.
void write_results(const run_folder& folder, const run_description& run, const work& w, const std::vector<std::string>& reports,
                   const std::vector<variant_result>& results);

/// Means over seeds; differences to `fixed` and to `mixture-frozen` where those were run. Variants in the order given.
std::string results_table(const std::vector<variant_result>& results, const std::vector<std::string>& order);

}  // namespace train_planner_lm
