/// One training step of a language model on the CPU, with a planner or without: forward, pullback, AdamW.
///
///     bench_train_step [--threads=N] [--benchmark_filter='joint/2x128']
///     bench_train_step --preset 2x128 --threads 2 [--mode joint|full] [--keep activations|inputs] [--steps 20]
///
/// Cases are MODE/PRESET, joint (the language model frozen), full (everything trained) or plain (the language model alone, all of it
/// trained), of the sizes in bench/peers/README.md; those that end in _inputs keep only the inputs of blocks and run them again. Checks:
/// `loss`, `loss2`, `loss3` before the first three steps at learning rate 1e-3, `norm`, the Euclidean norm of all gradients at the first;
/// bench/peers/train_step.py does the same. The weights go on from step to step.
/// FLOP are those that the model needs (step_flops), bytes those of weights, gradients and moments.
///
/// The second form prints one line of JSON, as bench/peers/train_step.py does for PyTorch.
#include "case.hpp"
#include "train_step.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <planlm/cpu.hpp>

namespace {

using B = planlm::cpu<float>;

constexpr double learning_rate = 1e-3;

/// The model of a case with the numbers of its first steps.
struct measured {
  std::string name;
  bench::resident_memory memory;
  double norm = 0, flops = 0, bytes = 0;
  std::array<float, 3> losses{};
  virtual void step() = 0;
  virtual ~measured() = default;
};
template <class Training>
struct measured_of final : measured {
  Training trained;
  float loss = 0;
  template <class... How>
  measured_of(const std::string& case_name, int threads, const train_step::preset& z, How... how) : trained(B::queue{threads}, z, how...) {
    name = case_name;
    memory.inputs_are_made();
    trained.step(&loss, learning_rate, false);
    norm = trained.take_gradient_norm();
    for (float& l : losses) trained.step(&l, learning_rate);
    flops = trained.flops();
    // Forward and backward read every weight; gradients are written, AdamW reads weight, gradient and moments and writes them back.
    bytes = 4 * (2 * double(trained.all_weights()) + 9 * double(trained.trained_weights()));
  }
  void step() override { trained.step(&loss, learning_rate); }
};

enum class trains { adapters, everything, plain };

/// Google Benchmark calls a case several times; its model is made once, and goes when the next case comes.
measured& of_case(const std::string& name, int threads, const train_step::preset& z, trains what, bool keep_inputs) {
  static std::unique_ptr<measured> last;
  if (last && last->name == name) return *last;
  last.reset();
  const bool full = what == trains::everything;
  using train_step::training, train_step::plain_training;
  if (what == trains::plain) last = std::make_unique<measured_of<plain_training<B>>>(name, threads, z);
  else if (keep_inputs) last = std::make_unique<measured_of<training<B, planlm::keep_inputs>>>(name, threads, z, full);
  else last = std::make_unique<measured_of<training<B, planlm::keep_activations>>>(name, threads, z, full);
  return *last;
}

void add(int threads, const std::string& preset, trains what, bool keep_inputs) {
  const char* mode = what == trains::adapters ? "joint/" : what == trains::everything ? "full/" : "plain/";
  const std::string name = mode + preset + (keep_inputs ? "_inputs" : "");
  bench::add(name, [=](benchmark::State& state) {
    measured& m = of_case(name, threads, train_step::presets.at(preset), what, keep_inputs);
    for (auto _ : state) m.step();
    bench::report(state, {.flops = m.flops,
                          .bytes = m.bytes,
                          .checks = {{"loss", m.losses[0]}, {"loss2", m.losses[1]}, {"loss3", m.losses[2]}, {"norm", m.norm}},
                          .memory = &m.memory});
  });
}

int once(const train_step::options& o) {
  return o.kept == "inputs" ? train_step::run<B, planlm::keep_inputs>(B::queue{o.threads}, o)
                            : train_step::run<B, planlm::keep_activations>(B::queue{o.threads}, o);
}

}  // namespace

int main(int argc, char** argv) {
  const auto of_the_second_form = [](const std::string& word) { return word == "--preset" || word == "--mode" || word == "--steps" || word == "--threads"; };
  if (std::any_of(argv + 1, argv + argc, of_the_second_form)) {
    const train_step::options o = train_step::parse(argc, argv);
    return o.valid ? once(o) : 2;
  }
  return bench::run(argc, argv, [](int threads) {
    for (const char* preset : {"check", "2x128", "4x256", "gpt2"}) {
      for (const trains what : {trains::adapters, trains::everything})
        for (const bool keep_inputs : {false, true}) add(threads, preset, what, keep_inputs);
      add(threads, preset, trains::plain, false);
    }
  });
}
