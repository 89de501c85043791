/// Stands for machine_cuda.cu in a build without CUDA.
#include "machine.hpp"
#include <planlm/core/error.hpp>

namespace sampler {

std::string cuda_complaint() {
  return "this program was built without CUDA; install the CUDA toolkit with nvcc on the PATH, configure and build again (CMake says why "
         "where it cannot), or use --device cpu";
}
std::unique_ptr<machine> make_cuda_machine(const lm_sizes&) { throw input_error("--device cuda: " + cuda_complaint()); }

}  // namespace sampler
