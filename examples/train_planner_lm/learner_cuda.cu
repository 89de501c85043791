/// Which learner on an NVIDIA GPU, and whether there is a GPU at all.
#include <planlm/cuda.cuh>
#include "learner_cuda.hpp"

namespace train_planner_lm {

std::unique_ptr<learner> make_cuda_learner(const learner_sizes& sizes, const std::string& precision) {
  if (precision == "bf16") return make_bfloat16_learner(sizes);
  if (precision == "tf32") return make_tf32_learner(sizes);
  return make_float32_learner(sizes);
}

std::string cuda_complaint() {
  try {
    const cuda_queue works;
    return "";
  } catch (const error& e) {
    return std::string("there is no GPU to use (") + e.what() + "); --device cpu needs none";
  }
}

}  // namespace train_planner_lm
