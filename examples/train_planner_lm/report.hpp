/// report.html of a run.
#pragma once
#include <string>
#include <vector>
#include "results.hpp"

namespace train_planner_lm {

/// Writes report.html from the results, the log and the label files of the run. `reports`: one line on the labels of each seed.
void write_report(const run_folder& folder, const run_description& run, const work& w, const std::vector<std::string>& reports,
                  const std::vector<variant_result>& results);

}  // namespace train_planner_lm
