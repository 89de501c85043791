/// What every task of train_token_guidance is given.
#pragma once
#include <string>
#include <utility>
#include <vector>
#include "guidance_machine.hpp"
#include "sampler/language.hpp"
#include "trainer/flags.hpp"

namespace planlm {
class run_folder;
class interrupt_guard;
}  // namespace planlm

namespace train_token_guidance {

/// Flags that tasks have in common; which of them a task has is up to it.
struct shared_options {
  std::string name;             // of the task
  trainer::common_options common;
  sampler::text_options text;
  sampler::base_options base;
  guidance_options guidance;
};
struct task : shared_options {
  std::vector<std::pair<std::string, std::string>> settings;  // of the flags that decide this task's numbers, but for paths
  std::vector<std::string> command;
  const planlm::run_folder& folder;
  const planlm::interrupt_guard& interrupt;
};

}  // namespace train_token_guidance
