/// The experiment's steps on an NVIDIA GPU in float32.
#include <planlm/cuda.cuh>
#include "learner_cuda.hpp"
#include "learner_on.hpp"

namespace train_planner_lm {

std::unique_ptr<learner> make_float32_learner(const learner_sizes& sizes) {
  return std::make_unique<learner_on<cuda<float>>>(cuda_queue{}, sizes);
}

}  // namespace train_planner_lm
