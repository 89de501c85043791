/// One joint training step of the planner-conditioned language model on the CPU.
///
///     bench_train_step --preset 2x128 --threads 2 [--mode joint|full] [--keep activations|inputs] [--steps 20]
///
/// Prints one line of JSON, as bench/peers/train_step.py does for PyTorch.
#include "train_step.hpp"

#include <planlm/cpu.hpp>

int main(int argc, char** argv) {
  using B = planlm::cpu<float>;
  const train_step::options o = train_step::parse(argc, argv);
  if (!o.valid) return 2;
  return o.kept == "inputs" ? train_step::run<B, planlm::keep_inputs>(B::queue{o.threads}, o)
                            : train_step::run<B, planlm::keep_activations>(B::queue{o.threads}, o);
}
