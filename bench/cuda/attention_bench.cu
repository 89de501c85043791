/// Attention in bf16 and float32, forward and pullback: one line of JSON per case. The peer is bench/peers/attention_gpu.py.
///
///   attention_bench [--type bf16|float32|mma] [--width 64|128] [--length 2048] [--repeats 20]
/// Without --width and --length: widths 64 and 128, lengths 2048 to 16384, 16384 tokens in all, heads 2048 / width, causal and not.
/// --type mma: bf16 by the kernels of sm_80 where the library would take those of sm_90a.
/// TFLOP/s count 4 n^2 width per head and sequence forward, 10 n^2 width backward, half of that where causal: what the mathematics needs,
/// not what is recomputed. Times are medians of single launches between CUDA events, after warm-up.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/attention.cuh>

namespace {

using planlm::accum_of;
using planlm::attention_shape;
using planlm::bfloat16;
using planlm::index_t;
using planlm::cuda_detail::check;

template <class T>
struct fill {
  T* to;
  unsigned seed;
};
/// Numbers in (-1.7, 1.7) of variance one.
template <class T>
__global__ void fill_numbers(index_t n, fill<T> f) {
  for (index_t i = index_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += index_t{gridDim.x} * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u + f.seed * 2246822519u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    f.to[i] = static_cast<T>((static_cast<float>(h) * 2.3283064e-10f - 0.5f) * 3.4641016f);
  }
}
template <class T>
T* numbers(planlm::cuda_queue& q, index_t n, unsigned seed) {
  auto* p = static_cast<T*>(planlm::cuda_detail::allocate(static_cast<std::size_t>(n) * sizeof(T)));
  q.launch("fill_numbers", dim3(1024), dim3(256), 0, fill_numbers<T>, n, fill<T>{p, seed});
  return p;
}

template <class F>
double median_ms(planlm::cuda_queue& q, int repeats, F f) {
  cudaEvent_t from, to;
  check(cudaEventCreate(&from), "cudaEventCreate");
  check(cudaEventCreate(&to), "cudaEventCreate");
  std::vector<float> times;
  for (int i = -3; i < repeats; ++i) {
    check(cudaEventRecord(from, q.stream()), "cudaEventRecord");
    f();
    check(cudaEventRecord(to, q.stream()), "cudaEventRecord");
    check(cudaEventSynchronize(to), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, from, to), "cudaEventElapsedTime");
    if (i >= 0) times.push_back(ms);
  }
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <class T>
struct chosen {
  static constexpr auto forward = planlm::cuda_detail::attention<T>;
  static constexpr auto pullback = planlm::cuda_detail::attention_pullback<T>;
};
struct by_mma {
  static void forward(planlm::cuda_queue& q, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                      index_t sequences, bfloat16* y, float* lse) {
    auto a = planlm::cuda_detail::arguments_of(shape, qkv, offsets, host_offsets, sequences);
    a.y = y;
    a.lse = lse;
    planlm::cuda_detail::attention_mma(q, a);
  }
  static void pullback(planlm::cuda_queue& q, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                       index_t sequences, const bfloat16* y, const float* lse, const bfloat16* dy, bfloat16* dqkv) {
    auto a = planlm::cuda_detail::arguments_of(shape, qkv, offsets, host_offsets, sequences);
    a.dy = dy;
    a.dqkv = dqkv;
    a.statistics = planlm::cuda_detail::attention_statistics(q, a, y, lse, true);
    planlm::cuda_detail::attention_mma_pullback(q, a);
  }
};

template <class T, class Kernels = chosen<T>>
void measure(planlm::cuda_queue& q, const char* type, attention_shape shape, index_t length, index_t sequences, int repeats) {
  using A = accum_of<T>;
  namespace cd = planlm::cuda_detail;
  const index_t n = length * sequences;
  std::vector<int> offsets;
  for (index_t s = 0; s <= sequences; ++s) offsets.push_back(static_cast<int>(s * length));
  T *qkv = numbers<T>(q, n * shape.packed_width(), 1), *dy = numbers<T>(q, n * shape.query_width(), 2);
  T *y = numbers<T>(q, n * shape.query_width(), 3), *dqkv = numbers<T>(q, n * shape.packed_width(), 4);
  A* lse = numbers<A>(q, n * shape.heads, 5);
  auto* d_offsets = static_cast<int*>(cd::allocate(offsets.size() * sizeof(int)));
  check(cudaMemcpy(d_offsets, offsets.data(), offsets.size() * sizeof(int), cudaMemcpyHostToDevice), "cudaMemcpy");
  const double pairs = double(length) * double(length) * double(sequences * shape.heads) * (shape.causal ? 0.5 : 1);
  const double forward =
      median_ms(q, repeats, [&] { Kernels::forward(q, shape, qkv, d_offsets, offsets.data(), sequences, y, lse); });
  const double backward = median_ms(q, repeats, [&] {
    Kernels::pullback(q, shape, qkv, d_offsets, offsets.data(), sequences, y, lse, dy, dqkv);
  });
  const double d = double(shape.width);
  std::printf("{\"who\": \"planlm\", \"type\": \"%s\", \"causal\": %s, \"width\": %lld, \"heads\": %lld, \"length\": %lld, \"sequences\": %lld, "
              "\"forward_ms\": %.4f, \"forward_tflops\": %.1f, \"backward_ms\": %.4f, \"backward_tflops\": %.1f}\n",
              type, shape.causal ? "true" : "false", static_cast<long long>(shape.width), static_cast<long long>(shape.heads),
              static_cast<long long>(length), static_cast<long long>(sequences), forward, 4 * pairs * d / forward / 1e9, backward,
              10 * pairs * d / backward / 1e9);
  std::fflush(stdout);
  for (void* p : {static_cast<void*>(qkv), static_cast<void*>(dy), static_cast<void*>(y), static_cast<void*>(dqkv),
                  static_cast<void*>(lse), static_cast<void*>(d_offsets)})
    cudaFree(p);
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU here\n");
    return 77;
  }
  std::string type = "bf16";
  index_t only_width = 0, only_length = 0;
  int repeats = 20;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--type") type = argv[i + 1];
    if (name == "--width") only_width = std::atoi(argv[i + 1]);
    if (name == "--length") only_length = std::atoi(argv[i + 1]);
    if (name == "--repeats") repeats = std::atoi(argv[i + 1]);
  }
  constexpr index_t tokens = 16384, model_width = 2048;
  planlm::cuda_queue q;
  for (const index_t width : {index_t{64}, index_t{128}})
    for (const bool causal : {true, false})
      for (const index_t length : {index_t{2048}, index_t{4096}, index_t{8192}, index_t{16384}}) {
        if ((only_width && width != only_width) || (only_length && length != only_length)) continue;
        const attention_shape shape{model_width / width, model_width / width, width, causal};
        try {
          if (type == "float32")
            measure<float>(q, "float32", shape, length, tokens / length, repeats);
          else if (type == "mma")
            measure<bfloat16, by_mma>(q, "bf16, mma.sync", shape, length, tokens / length, repeats);
          else
            measure<bfloat16>(q, "bf16", shape, length, tokens / length, repeats);
        } catch (const std::exception& e) {
          std::printf("{\"who\": \"planlm\", \"causal\": %s, \"width\": %lld, \"length\": %lld, \"error\": \"%s\"}\n",
                      causal ? "true" : "false", static_cast<long long>(width), static_cast<long long>(length), e.what());
        }
      }
  return 0;
}
