/// Linear + cross-entropy, forward and backward, at (8192 tokens, 768, 50257 words): time, and memory beyond inputs and gradients. One JSON line.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <planlm/cuda.cuh>
#include <planlm/ops/cross_entropy.hpp>

using namespace planlm;
namespace cd = planlm::cuda_detail;

namespace {

using B = cuda<bfloat16>;

__global__ void fill_normals(index_t n, bfloat16* x, unsigned seed, float scale) {
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
device<bfloat16> normals(index_t n, unsigned seed, float scale = 1) {
  device<bfloat16> x(n);
  fill_normals<<<2048, 256>>>(n, x.data(), seed, scale);
  cd::check(cudaDeviceSynchronize(), "fill_normals");
  return x;
}
device<int> upload(const std::vector<int>& host) {
  device<int> x(static_cast<index_t>(host.size()));
  cd::check(cudaMemcpy(x.data(), host.data(), host.size() * sizeof(int), cudaMemcpyHostToDevice), "cudaMemcpy");
  return x;
}

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

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU for the benchmark of the loss\n");
    return 77;
  }
  context<B> cx;
  const index_t n = 8192, c = 768, v = 50257;
  const auto h = normals(n * c, 9), table = normals(v * c, 10, 0.02f);
  device<bfloat16> dtable(v * c);
  std::vector<int> ids(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) ids[static_cast<std::size_t>(i)] = static_cast<int>(i * 7919 % v);
  const auto target = upload(ids);
  const auto loss = [&] {
    auto scope = cx.scope();
    ops::linear_cross_entropy(cx, const_tensor<B>(h.data(), n, c), const_tensor<B>(table.data(), v, c), indices<B>(target.data(), n),
                              const_accum_tensor<B>{}, 1.f / float(n), tensor<B>(dtable.data(), v, c));
  };
  std::size_t before = 0, after = 0, whole = 0;
  cd::check(cudaMemGetInfo(&before, &whole), "cudaMemGetInfo");
  loss();
  cd::check(cudaDeviceSynchronize(), "loss");
  cd::check(cudaMemGetInfo(&after, &whole), "cudaMemGetInfo");
  const double s = seconds(cx.queue(), 5, loss);
  std::printf("{\"program\": \"planlm\", \"kernel\": \"linear_cross_entropy\", \"shape\": \"(8192, 768, 50257)\", \"fused_rows\": %s, \"microseconds\": %.1f, \"teraflops\": %.0f, "
              "\"extra_megabytes\": %.0f}\n",
              ops::HasFusedCrossEntropy<B> ? "true" : "false", s * 1e6, 6.0 * 8192 * 768 * 50257 / s * 1e-12, double(before - after) * 1e-6);
  return 0;
}
