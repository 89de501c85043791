/// The experiment's steps on an NVIDIA GPU in bfloat16, weights kept in float32.
#include <planlm/cuda.cuh>
#include "learner_cuda.hpp"
#include "learner_on.hpp"

namespace train_planner_lm {

std::unique_ptr<learner> make_bfloat16_learner(const learner_sizes& sizes) {
  return std::make_unique<learner_on<cuda<bfloat16>>>(cuda_queue{}, sizes);
}

}  // namespace train_planner_lm
