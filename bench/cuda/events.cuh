/// What the benchmarks of single kernels share: inputs on the device, and seconds by its events.
#pragma once
#include <algorithm>
#include <vector>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/error.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/core/bfloat16.hpp>

namespace events {

using namespace planlm;
namespace cd = planlm::cuda_detail;

static __global__ void fill_normals(index_t n, bfloat16* x, unsigned seed, float scale) {
  for (index_t i = blockIdx.x * index_t{blockDim.x} + threadIdx.x; i < n; i += index_t{gridDim.x} * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u ^ seed;
    h ^= h >> 15, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
    const int a = h & 255, b = h >> 8 & 255, c = h >> 16 & 255, d = h >> 24;
    x[i] = bfloat16(scale * float(a + b + c + d - 510) / 148.f);
  }
}
template <class T>
struct device {
  explicit device(index_t n) : memory(cd::allocate(static_cast<std::size_t>(n) * sizeof(T), "a benchmark")) {
    cd::check(cudaMemset(memory.get(), 0, static_cast<std::size_t>(n) * sizeof(T)), "cudaMemset");
  }
  T* data() const { return static_cast<T*>(memory.get()); }
  cd::memory memory;
};
inline device<bfloat16> normals(index_t n, unsigned seed, float scale = 1) {
  device<bfloat16> x(n);
  fill_normals<<<2048, 256>>>(n, x.data(), seed, scale);
  cd::check(cudaDeviceSynchronize(), "fill_normals");
  return x;
}
inline device<int> upload(const std::vector<int>& host) {
  device<int> x(static_cast<index_t>(host.size()));
  cd::check(cudaMemcpy(x.data(), host.data(), host.size() * sizeof(int), cudaMemcpyHostToDevice), "cudaMemcpy");
  return x;
}

/// Seconds of one call: the median of five batches of `calls`, one after the other without a pause, after three calls unmeasured.
template <class F>
double seconds(cuda_queue& q, int calls, const F& f) {
  cudaEvent_t begin, end;
  cd::check(cudaEventCreate(&begin), "cudaEventCreate"), cd::check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<float> times;
  for (int i = 0; i < 3; ++i) f();
  for (int batch = 0; batch < 5; ++batch) {
    cudaEventRecord(begin, q.stream());
    for (int i = 0; i < calls; ++i) f();
    cudaEventRecord(end, q.stream());
    cd::check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms / static_cast<float>(calls));
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(begin), cudaEventDestroy(end);
  return times[2] * 1e-3;
}

}  // namespace events
