/// One joint training step of the planner-conditioned language model on a GPU.
///
///     train_step_bench --preset gpt2-1024 --precision bf16 [--mode joint|full] [--keep activations|inputs] [--steps 20] [--runner graph]
///
/// Prints one line of JSON, as bench/peers/train_step.py --device cuda does for PyTorch. `teraflops` counts what the model needs, see
/// step_flops; with a graph every step is recorded again, so that the optimiser's numbers are those of the step.
#include <cstring>
#include <exception>
#include <planlm/cuda.cuh>

#include "../train_step.hpp"

namespace {

using namespace planlm;

struct graph_runner {
  cuda_graph* graph;
  int* calls;
  template <class Step>
  void operator()(cuda_queue& q, const Step& step) const {
    if ((*calls)++ < 2) return step();  // arenas and product plans come to be
    graph->record(q, step);
    graph->replay(q);
  }
};

template <class B, class Kept>
int run(const train_step::options& o, bool graph) {
  if (!graph) return train_step::run<B, Kept>(cuda_queue{}, o);
  cuda_graph recorded;
  int calls = 0;
  return train_step::run<B, Kept>(cuda_queue{}, o, graph_runner{&recorded, &calls});
}
template <class Kept>
int run(const train_step::options& o, bool graph) {
  if (o.precision == "bf16") return run<cuda<bfloat16>, Kept>(o, graph);
  if (o.precision == "tf32") return run<cuda<float, tf32_products>, Kept>(o, graph);
  return run<cuda<float>, Kept>(o, graph);
}

}  // namespace

int main(int argc, char** argv) {
  bool graph = false;
  if (argc > 2 && std::strcmp(argv[argc - 2], "--runner") == 0) graph = std::strcmp(argv[argc - 1], "graph") == 0, argc -= 2;
  train_step::options o = train_step::parse(argc, argv);
  if (!o.valid) return 2;
  o.wait_each = false;
  if (o.warm_up < 3) o.warm_up = 3;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU\n");
    return 77;
  }
  try {
    return o.kept == "inputs" ? run<keep_inputs>(o, graph) : run<keep_activations>(o, graph);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
