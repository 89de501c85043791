/// results.json and the table of the paper.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>
#include <nlohmann/json_fwd.hpp>
#include <planlm/training/statistics.hpp>

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

  double nll() const { return nats_per_token(documents); }
};

nlohmann::ordered_json to_json(const variant_result& r);

/// The rows of a results.json; none if there is no such file. Errors: input_error for a file that is no results.json.
std::vector<variant_result> read_results(const std::filesystem::path& file);

/// Means over seeds; differences to `fixed` and to `mixture-frozen` where those were run. Variants in the order given.
std::string results_table(const std::vector<variant_result>& results, const std::vector<std::string>& order);

}  // namespace train_planner_lm
