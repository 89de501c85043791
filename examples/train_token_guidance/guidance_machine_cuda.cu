/// The machine on an NVIDIA GPU in float32.
#include <planlm/cuda.cuh>
#include "guidance_machine_on.hpp"

namespace train_token_guidance {

std::unique_ptr<guidance_machine> make_cuda_guidance_machine(const lm_sizes& sizes) {
  return std::make_unique<guidance_machine_on<cuda<float>>>(cuda_queue{}, sizes);
}

}  // namespace train_token_guidance
