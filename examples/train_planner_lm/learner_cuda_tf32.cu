/// The experiment's steps on an NVIDIA GPU in float32, products of floats rounded to 10 bits.
#include <planlm/cuda.cuh>
#include "learner_cuda.hpp"
#include "learner_on.hpp"

namespace train_planner_lm {

std::unique_ptr<learner> make_tf32_learner(const learner_sizes& sizes) {
  return std::make_unique<learner_on<cuda<float, tf32_products>>>(cuda_queue{}, sizes);
}

}  // namespace train_planner_lm
