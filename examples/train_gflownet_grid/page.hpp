/// The table, and report.html with pictures of what was learned.
#pragma once
#include <string>
#include <vector>
#include "learner.hpp"
#include "options.hpp"
#include "trainer/run_book.hpp"

namespace train_gflownet_grid {

/// The total variation below which a sampler counts as near its target.
inline constexpr double near_enough = 0.05;

std::vector<trainer::method_about> methods();
std::vector<trainer::score_column> columns();
/// Keeps what a sampler learned, for the pictures.
void keep_learned(const run_folder& folder, const std::string& loss, int seed, const std::vector<double>& learned);
void write_page(const run_folder& folder, const trainer::run_book& book, const options& o, const target& to);

}  // namespace train_gflownet_grid
