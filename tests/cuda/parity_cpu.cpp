// The reference of parity.cu: the CPU backend in double, compiled by the ordinary compiler.
#include <planlm/cpu.hpp>

#include "parity.hpp"

namespace planlm::testing {

results operations_on_cpu() { return operations<cpu<double>>(cpu<double>::queue(1)).run(); }
results joint_on_cpu(int model, int steps, int threads) { return joint_of<cpu<double>>(cpu<double>::queue(threads), model, steps); }

}  // namespace planlm::testing
