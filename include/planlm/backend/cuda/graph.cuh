/// A step recorded as one CUDA graph: the device runs it without a launch per kernel.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <memory>
#include <type_traits>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

/// `record(q, step)` captures everything that step() gives to the queue; `replay(q)` runs it.
///
///     cuda_graph graph;
///     graph.record(cx.queue(), [&] { step(); });
///     graph.replay(cx.queue());
///
/// What is not memory is part of the recording: a learning rate, Adam's step number, the seed and step of random numbers, the lengths of
/// sequences. When one of them changes, record again, and replay on the queue that recorded: the graph that is there is updated in place, and nothing is instantiated anew while the kernels are the same.
/// The step may not wait for the device, allocate or read results: run it once before it is recorded, so that arenas and product plans
/// exist, and record it inside the same scopes. Memory it reads and writes must stay where it was.
/// Errors: planlm::error names the call that cannot be recorded.
class cuda_graph {
 public:
  template <class Step>
  void record(cuda_queue& q, const Step& step) {
    using cuda_detail::check;
    check(cudaStreamBeginCapture(q.stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t captured{};
    try {
      step();
    } catch (...) {
      cudaStreamEndCapture(q.stream(), &captured);
      if (captured) cudaGraphDestroy(captured);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(q.stream(), &captured), "cudaStreamEndCapture");
    const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, destroy_graph> graph(captured);
    if (executable_) {
      cudaGraphExecUpdateResultInfo info{};
      if (cudaGraphExecUpdate(executable_.get(), captured, &info) == cudaSuccess) return;
      cudaGetLastError();  // other kernels than before: instantiated anew
      executable_.reset();
    }
    cudaGraphExec_t made{};
    check(cudaGraphInstantiate(&made, captured, 0), "cudaGraphInstantiate");
    executable_.reset(made);
    ++instantiations_;
  }
  void replay(cuda_queue& q) const {
    if (!executable_) throw error("cuda_graph: replay before anything was recorded");
    cuda_detail::check(cudaGraphLaunch(executable_.get(), q.stream()), "cudaGraphLaunch");
  }
  /// How often an executable graph was made: stays 1 while only numbers change.
  int instantiations() const { return instantiations_; }

 private:
  struct destroy_graph {
    void operator()(cudaGraph_t g) const { cudaGraphDestroy(g); }
  };
  struct destroy_executable {
    void operator()(cudaGraphExec_t g) const { cudaGraphExecDestroy(g); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, destroy_executable> executable_;
  int instantiations_ = 0;
};

}  // namespace planlm
