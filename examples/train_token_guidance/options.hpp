/// The command line of train_token_guidance: --task decides which other flags there are.
#pragma once
#include <string>
#include <utility>
#include <variant>
#include <vector>
#include "prompt.hpp"
#include "recovery.hpp"
#include "reward.hpp"
#include "summary.hpp"
#include "task.hpp"
#include "tune.hpp"

namespace train_token_guidance {

struct options {
  shared_options shared;
  std::variant<recovery_options, prompt_options, summary_options, reward_options, tune_options> task;
  std::vector<std::pair<std::string, std::string>> settings;
};

/// Errors: input_error naming the flag. Returns false when the program is done (help).
bool parse(int argc, char** argv, options& o, int& status);
void run_task(const options& o, const task& t);

}  // namespace train_token_guidance
