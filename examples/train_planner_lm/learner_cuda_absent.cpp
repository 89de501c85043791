/// Stands for learner_cuda.cu in a build without CUDA.
#include "learner.hpp"
#include <planlm/core/error.hpp>

namespace train_planner_lm {

std::string cuda_complaint() {
  return "this program was built without CUDA; install the CUDA toolkit with nvcc on the PATH, configure and build again (CMake says why "
         "where it cannot), or use --device cpu";
}
std::unique_ptr<learner> make_cuda_learner(const learner_sizes&, const std::string&) { throw input_error("--device cuda: " + cuda_complaint()); }

}  // namespace train_planner_lm
