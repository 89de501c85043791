/// The tables of the recovery task, each value beside what the earlier pilot saw, and report.html.
#pragma once
#include <string>
#include <vector>
#include "recovery_methods.hpp"

namespace train_token_guidance::recovery {

struct toy_table {
  std::string title, caption;
  trainer::table_rows rows;
};
/// One for each toy of which a row was run, then what has to hold: those gates whose rows were all run.
std::vector<toy_table> tables(const trainer::run_book& book, const recovery_options& o, const trainer::common_options& c);
/// How to read a pilot's number beside ours.
std::string about_pilot(const recovery_options& o, const trainer::common_options& c);
void write_page(const run_folder& folder, const trainer::run_book& book, const recovery_options& o, const trainer::common_options& c);

}  // namespace train_token_guidance::recovery
