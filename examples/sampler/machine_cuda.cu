/// The machine on an NVIDIA GPU in float32, and whether there is a GPU at all.
#include <planlm/cuda.cuh>
#include "machine_on.hpp"

namespace sampler {

std::unique_ptr<machine> make_cuda_machine(const lm_sizes& sizes) { return std::make_unique<machine_on<cuda<float>>>(cuda_queue{}, sizes); }

std::string cuda_complaint() {
  try {
    const cuda_queue works;
    return "";
  } catch (const error& e) {
    return std::string("there is no GPU to use (") + e.what() + "); --device cpu needs none";
  }
}

}  // namespace sampler
