/// What the user asks for, checked before any work is done.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

namespace train_planner_lm {

/// The variants of methods section 9, in the order of the table.
inline const std::vector<std::string> all_variants{"none",          "fixed",       "uniform",       "sampled",
                                                   "oracle-predicted", "predicted", "mixture-frozen", "top5-frozen",
                                                   "straight-through", "gumbel",    "mixture-joint-delayed", "mixture-joint",
                                                   "oracle-oracle"};

/// A flag that changes the numbers is also listed in results.cpp, where a run is told from another; but --device and --precision, which a
/// variant's result names instead, because a run may go on elsewhere.
struct options {
  std::filesystem::path text, test_text, out;
  std::string format = "automatic", splitter = "icu", score = "test", device = "cpu", precision = "float32";
  std::vector<std::string> variants = all_variants;
  int seeds = 1, first_seed = 1, threads = 0;
  double minutes = 0;
  // the language model
  int layers = 2, width = 128, heads = 4, length = 32, vocabulary = 4096, first_adapted = 0;
  // labels and planner
  int labels = 64, label_width = 64, context = 16, planner_layers = 1, planner_heads = 2, planner_inner = 256;
  // training
  int batch = 32, variant_batch = 32, planner_batch = 64;
  double base_epochs = 2, variant_epochs = 1, planner_epochs = 12;
  int base_steps = 0, variant_steps = 0, planner_steps = 0;
  double base_rate = 2e-3, adapter_rate = 5e-3, planner_rate = 5e-4, joint_planner_rate = 5e-4, clip = 1.0;
};

/// Values of --format and --splitter, separated by commas. Defined where text is read.
std::string format_list();
std::string splitter_list();

/// Fills `o` from the command line. Returns false when the program is done (help); `status` is its exit status then.
/// Errors: input_error naming the flag.
bool parse(int argc, char** argv, options& o, int& status);

}  // namespace train_planner_lm
