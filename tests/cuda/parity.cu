// The CUDA backend in float32 against the CPU backend in double: every operation, and joint training steps.
//
//     parity [--steps N]        exit status: 0 all agree, 1 some do not, 77 there is no GPU to run on
#include <string>
#include <vector>
#include <planlm/cuda.cuh>

#include "parity_compare.hpp"

int main(int argc, char** argv) {
  const auto limit = [](const std::string& name, const std::vector<double>&) {
    // After many steps of Adam, weights whose gradient is rounding error alone differ by the rate.
    return planlm::testing::contains(name, "after training") ? 1e-2 : 1e-5;
  };
  return planlm::testing::parity_main<planlm::cuda<float>, float>(argc, argv, 10, limit);
}
