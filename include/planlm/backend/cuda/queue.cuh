/// One stream of work on a GPU: launches, workspace, the cuBLASLt handle and the plans of its products.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/error.cuh>
#include <planlm/backend/cuda/product_plans.cuh>
#include <planlm/core/config.hpp>

namespace planlm {

namespace kernel {
/// Whether the program holds code for exactly this kind of Hopper GPU (sm_90a): known to the device's compiler alone.
template <class T>
__global__ void tell_hopper(T* answer) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  *answer = T(1);
#else
  *answer = T(0);
#endif
}
}  // namespace kernel

namespace cuda_detail {
struct free_memory {
  void operator()(void* p) const { release(p); }
};
struct destroy_stream {
  void operator()(cudaStream_t s) const { cudaStreamDestroy(s); }
};
using memory = std::unique_ptr<void, free_memory>;
}  // namespace cuda_detail

/// A stream of the current device with its handles. Everything a queue does is in the order of its stream. Movable, not copyable.
class cuda_queue {
 public:
  cuda_queue() {
    using cuda_detail::check;
    int device = 0, major = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&shared_limit_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    cudaStream_t stream{};
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    stream_.reset(stream);
    // Launched on every device: a program without code for this one fails here, not in its first layer.
    const bool hopper_code = has_hopper_code();
    hopper_ = major == 9 && hopper_code;
  }
  cudaStream_t stream() const { return stream_.get(); }
  int multiprocessors() const { return multiprocessors_; }
  /// Bytes of shared memory that one block can have.
  std::size_t shared_limit() const { return static_cast<std::size_t>(shared_limit_); }
  /// The device is of compute capability 9.0 and the program was compiled for sm_90a: wgmma and bulk tensor copies can be used.
  bool hopper() const { return hopper_; }
  cuda_detail::product_plans& products() { return products_; }

  /// At least `bytes` bytes, aligned to 256, that the next call may hand out again. Grows by whole replacement, never shrinks; what was
  /// handed out before stays allocated until the queue ends, so that a captured graph may go on using it.
  void* scratch(std::size_t bytes) {
    if (bytes > scratch_bytes_) {
      const std::size_t size = std::max(bytes, 2 * scratch_bytes_);
      scratch_.emplace_back(cuda_detail::allocate(size));
      scratch_bytes_ = size;
    }
    return scratch_.empty() ? nullptr : scratch_.back().get();
  }

  /// Launches f<<<grid, block, shared_bytes>>>(arguments...). `name` appears in the error.
  template <class... P, class... A>
  void launch(const char* name, dim3 grid, dim3 block, std::size_t shared_bytes, void (*f)(P...), const A&... arguments) {
    if (shared_bytes > 48 * 1024)
      cuda_detail::check(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), name);
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream();
    cuda_detail::check(cudaLaunchKernelEx(&config, f, static_cast<P>(arguments)...), name);
  }

 private:
  bool has_hopper_code() {
    const cuda_detail::memory answer(cuda_detail::allocate(sizeof(int)));
    launch("tell_hopper", dim3(1), dim3(1), 0, kernel::tell_hopper<int>, static_cast<int*>(answer.get()));
    int host = 0;
    cuda_detail::check(cudaMemcpyAsync(&host, answer.get(), sizeof host, cudaMemcpyDeviceToHost, stream()), "cudaMemcpyAsync");
    cuda_detail::check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");
    return host == 1;
  }

  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, cuda_detail::destroy_stream> stream_;
  int multiprocessors_ = 0, shared_limit_ = 0;
  bool hopper_ = false;
  std::vector<cuda_detail::memory> scratch_;
  std::size_t scratch_bytes_ = 0;
  cuda_detail::product_plans products_;
};

}  // namespace planlm
