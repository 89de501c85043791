/// The machine on the CPU, in float32.
#include <planlm/cpu.hpp>
#include "machine_on.hpp"

namespace sampler {

std::unique_ptr<machine> make_cpu_machine(const lm_sizes& sizes, int threads) {
  using B = cpu<float>;
  return std::make_unique<machine_on<B>>(B::queue{threads}, sizes);
}

}  // namespace sampler
