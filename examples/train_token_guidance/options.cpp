#include "options.hpp"
#include <algorithm>
#include <string_view>
#include <planlm/core/error.hpp>

namespace train_token_guidance {
namespace {

const std::vector<std::string> tasks{"recovery", "prompt", "summary", "reward", "tune"};

/// What --task says, the last of several.
std::string task_named(int argc, char** argv) {
  std::string name = tasks.front();
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--task" && i + 1 < argc) name = argv[i + 1];
    else if (word.starts_with("--task=")) name = word.substr(7);
  }
  return name;
}

}  // namespace

bool parse(int argc, char** argv, options& o, int& status) {
  o.shared.name = task_named(argc, argv);
  const std::string& name = o.shared.name;
  // Before the flags of a task that there is not are complaints about flags.
  if (std::find(tasks.begin(), tasks.end(), name) == tasks.end())
    throw input_error("--task: '" + name + "' is none of " + trainer::listed(tasks));
  if (name == "prompt") o.task = prompt_options{};
  else if (name == "summary") o.task = summary_options{};
  else if (name == "reward") o.task = reward_options{};
  else if (name == "tune") o.task = tune_options{};
  trainer::flags f(
      "Learns rewards of single tokens from an order of whole texts, and trains a language model with them. Tasks: recovery, how well each way "
      "finds what single tokens are worth, on tables; prompt, short prompts that make a frozen language model classify sentences from a few "
      "examples; summary, the key sentence of a passage; reward, a reward model from your own preferences for a language model of "
      "train_planner_lm; tune, that language model under this reward model. Each has its own flags: --task NAME --help. Running the same command "
      "again goes on where an interrupted run stopped.");
  std::string said = name;
  f.choice("--task", said, "what is done", tasks);
  std::visit([&](auto& task) { task.add(f, o.shared); }, o.task);
  f.common(o.shared.common);  // a task may have set another default
  f.advise_on_stray_words("; this task is '" + name + "', --task " + name + " --help lists its flags");
  if (!f.parse(argc, argv, status)) return false;
  std::visit([&](const auto& task) { task.check(o.shared); }, o.task);
  o.settings = f.settings({"--methods"});
  return true;
}

void run_task(const options& o, const task& t) {
  if (const auto* recovery = std::get_if<recovery_options>(&o.task)) run_recovery(*recovery, t);
  else if (const auto* prompt = std::get_if<prompt_options>(&o.task)) run_prompt(*prompt, t);
  else if (const auto* summary = std::get_if<summary_options>(&o.task)) run_summary(*summary, t);
  else if (const auto* reward = std::get_if<reward_options>(&o.task)) run_reward(*reward, t);
  else run_tune(std::get<tune_options>(o.task), t);
}

}  // namespace train_token_guidance
