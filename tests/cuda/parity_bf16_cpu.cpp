// The reference of parity_bf16.cu: the CPU backend in double, compiled by the ordinary compiler.
#include <planlm/cpu.hpp>

#include "parity.hpp"

namespace planlm::testing {

using B = cpu<double>;

results operations_on_cpu() { return operations<B, bfloat16>(B::queue(1)).run(); }
results joint_on_cpu(int model, int steps, int threads) { return joint_of<B, bfloat16>(B::queue(threads), model, steps); }

}  // namespace planlm::testing
