/// The machine on the CPU, in float32.
#include <planlm/cpu.hpp>
#include "guidance_machine_on.hpp"

namespace train_token_guidance {

std::unique_ptr<guidance_machine> make_cpu_guidance_machine(const lm_sizes& sizes, int threads) {
  using B = cpu<float>;
  return std::make_unique<guidance_machine_on<B>>(B::queue{threads}, sizes);
}

}  // namespace train_token_guidance
