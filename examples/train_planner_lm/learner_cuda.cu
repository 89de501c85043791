/// The experiment's steps on an NVIDIA GPU.
#include <planlm/cuda.cuh>
#include "learner_on.hpp"

namespace train_planner_lm {

std::unique_ptr<learner> make_cuda_learner(const learner_sizes& sizes, const std::string& precision) {
  if (precision == "bf16") return std::make_unique<learner_on<cuda<bfloat16>>>(cuda_queue{}, sizes);
  if (precision == "tf32") return std::make_unique<learner_on<cuda<float, tf32_products>>>(cuda_queue{}, sizes);
  return std::make_unique<learner_on<cuda<float>>>(cuda_queue{}, sizes);
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
