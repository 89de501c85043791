/// Table and page of a run.
#pragma once
#include <string>
#include <vector>
#include "methods.hpp"
#include "options.hpp"

namespace train_latent_classifier {

std::vector<trainer::score_column> columns(const options& o);
/// How much expectation and maximisation are better than fine-tuning, seed by seed; empty without both.
std::string differences(const trainer::run_book& book, const options& o);
void write_report(const planlm::run_folder& folder, const trainer::run_book& book, const options& o, const std::string& text);

}  // namespace train_latent_classifier
