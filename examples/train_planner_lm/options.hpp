/// What the user asks for, checked before any work is done.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace train_planner_lm {

/// A flag that changes the numbers is also listed in results.cpp, where a run is told from another; but --device and --precision, which a
/// variant's result names instead, because a run may go on elsewhere.
struct options {
  std::filesystem::path text, test_text, out;
  std::string format = "automatic", splitter = "icu", score = "test", device = "cpu", precision = "float32";
  std::vector<std::string> variants;
  int seeds = 1, first_seed = 1, threads = 0;
  double minutes = 0;
  // the language model
  int layers = 2, width = 128, heads = 4, length = 32, vocabulary = 4096, first_adapted = 0;
  // labels and planner
  int labels = 64, label_width = 64, context = 16, planner_layers = 1, planner_heads = 2, planner_inner = 256;
  // how plans reach the language model, where a variant does not say otherwise
  std::string placement = "attention", gate = "none", tables = "per-layer", table_start = "centroids", tuning = "frozen";
  int prefix_rows = 2, paths = 8, path_steps = 3, horizon = 4, plan_layers = 1, rank = 8;
  double alpha = 32, planner_loss = 0, unfreeze_at = 0.5;
  int unfreeze_step = 0;
  // training
  int batch = 32, variant_batch = 32, planner_batch = 64;
  double base_epochs = 2, variant_epochs = 1, planner_epochs = 12;
  int base_steps = 0, variant_steps = 0, planner_steps = 0;
  double base_rate = 2e-3, adapter_rate = 5e-3, planner_rate = 5e-4, joint_planner_rate = 5e-4, clip = 1.0;
  double low_rank_rate = 2e-3, full_rate = 5e-4;
  // generation
  int generate = 48, generate_tokens = 96;
};

/// Values of --format and --splitter, separated by commas. Defined where text is read.
std::string format_list();
std::string splitter_list();

/// Fills `o` from the command line. Returns false when the program is done (help); `status` is its exit status then.
/// Errors: input_error naming the flag.
bool parse(int argc, char** argv, options& o, int& status);

/// Flags that do not fit together. Errors: input_error naming the flag.
void check(options& o);

}  // namespace train_planner_lm
