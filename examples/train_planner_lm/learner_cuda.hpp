/// The learners on an NVIDIA GPU, each in a source of its own: a compiler takes minutes for one.
#pragma once
#include <memory>
#include "learner.hpp"

namespace train_planner_lm {

std::unique_ptr<learner> make_float32_learner(const learner_sizes& sizes);
std::unique_ptr<learner> make_tf32_learner(const learner_sizes& sizes);
std::unique_ptr<learner> make_bfloat16_learner(const learner_sizes& sizes);

}  // namespace train_planner_lm
