/// The experiment's steps on the CPU, in float32.
#include <planlm/cpu.hpp>
#include "learner_on.hpp"

namespace train_planner_lm {

std::unique_ptr<learner> make_cpu_learner(const learner_sizes& sizes, int threads) {
  using B = cpu<float>;
  return std::make_unique<learner_on<B>>(B::queue{threads}, sizes);
}

}  // namespace train_planner_lm
