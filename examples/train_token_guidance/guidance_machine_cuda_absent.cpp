/// Stands for guidance_machine_cuda.cu in a build without CUDA.
#include <planlm/core/error.hpp>
#include "guidance_machine.hpp"

namespace train_token_guidance {

std::unique_ptr<guidance_machine> make_cuda_guidance_machine(const lm_sizes&) {
  throw input_error("--device cuda: " + sampler::cuda_complaint());
}

}  // namespace train_token_guidance
