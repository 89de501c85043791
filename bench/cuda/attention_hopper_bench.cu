/// Attention on Hopper: time and TFLOP/s of each tile configuration, 16384 tokens in all and total width 2048 (and GPT-2 small's heads).
///
/// Operations are counted as 4 N length width a head forward and 10 backward, half when causal: what the definition needs, not what a kernel does.
/// Arguments: `forward` or `pullback`, then optionally a width.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#include <planlm/backend/cuda/attention_hopper.cuh>
#include <planlm/backend/cuda/attention_hopper_pullback.cuh>

using namespace planlm;

namespace {

__global__ void fill(bfloat16* x, std::size_t n, unsigned seed) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < n; i += std::size_t{gridDim.x} * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u ^ seed;
    h ^= h >> 15, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
    const int a = h & 255, b = h >> 8 & 255, c = h >> 16 & 255, d = h >> 24;
    x[i] = bfloat16(float(a + b + c + d - 510) / 148.f);  // about normal, variance 1
  }
}

/// Median milliseconds of one call, of 15 after 3.
template <class F>
double milliseconds(cuda_queue& q, F&& f) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < 18; ++i) {
    cudaEventRecord(begin, q.stream());
    f();
    cudaEventRecord(end, q.stream());
    cuda_detail::check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 3) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  cudaEventDestroy(begin), cudaEventDestroy(end);
  return times[times.size() / 2];
}

using forward_function = void (*)(cuda_queue&, attention_shape, const bfloat16*, const int*, const int*, index_t, bfloat16*, float*);
struct variant {
  const char* name;
  int width, causal;
  forward_function f;
};
const variant variants[] = {
    {"two groups, keys 128", 128, 0, cuda_detail::attention_hopper_as<128, 2, 128, false>},
    {"two groups, keys 176", 128, 0, cuda_detail::attention_hopper_as<128, 2, 176, false>},
    {"two groups, keys 128", 128, 1, cuda_detail::attention_hopper_as<128, 2, 128, true>},
    {"two groups, keys 128", 64, 0, cuda_detail::attention_hopper_as<64, 2, 128, false>},
    {"three groups, keys 128", 64, 0, cuda_detail::attention_hopper_as<64, 3, 128, false>},
    {"two groups, keys 192", 64, 0, cuda_detail::attention_hopper_as<64, 2, 192, false>},
    {"two groups, keys 128", 64, 1, cuda_detail::attention_hopper_as<64, 2, 128, true>},
    {"three groups, keys 128", 64, 1, cuda_detail::attention_hopper_as<64, 3, 128, true>},
};

using pullback_function = void (*)(cuda_queue&, attention_shape, const bfloat16*, const int*, const int*, index_t, const bfloat16*,
                                   const float*, const bfloat16*, bfloat16*);
struct pullback_variant {
  const char* name;
  int width, causal;
  pullback_function f;
};
const pullback_variant pullback_variants[] = {
    {"two passes", 128, 0, cuda_detail::attention_hopper_pullback_as<128, 128, false>},
    {"two passes", 128, 1, cuda_detail::attention_hopper_pullback_as<128, 128, true>},
    {"two passes", 64, 0, cuda_detail::attention_hopper_pullback_as<64, 128, false>},
    {"two passes", 64, 1, cuda_detail::attention_hopper_pullback_as<64, 128, true>},
};

void run(const std::string& what, int width, int heads, bool causal, int length, int tokens) {
  cuda_queue q;
  const attention_shape shape{heads, heads, width, causal};
  const std::size_t packed = shape.packed_width(), out = shape.query_width();
  std::vector<int> offsets;
  for (int r = 0; r <= tokens; r += length) offsets.push_back(r);
  const index_t sequences = index_t(offsets.size()) - 1;
  bfloat16 *qkv, *y, *dy, *dqkv;
  float* lse;
  int* at;
  cuda_detail::check(cudaMalloc(&qkv, tokens * packed * 2), "cudaMalloc");
  cuda_detail::check(cudaMalloc(&dqkv, tokens * packed * 2), "cudaMalloc");
  cuda_detail::check(cudaMalloc(&y, tokens * out * 2), "cudaMalloc");
  cuda_detail::check(cudaMalloc(&dy, tokens * out * 2), "cudaMalloc");
  cuda_detail::check(cudaMalloc(&lse, std::size_t(tokens) * heads * 4), "cudaMalloc");
  cuda_detail::check(cudaMalloc(&at, offsets.size() * 4), "cudaMalloc");
  cudaMemcpy(at, offsets.data(), offsets.size() * 4, cudaMemcpyHostToDevice);
  fill<<<1024, 256>>>(qkv, tokens * packed, 1u);
  fill<<<1024, 256>>>(dy, tokens * out, 2u);
  cuda_detail::check(cudaDeviceSynchronize(), "fill");
  const double operations = 4.0 * tokens * length * width * heads * (causal ? 0.5 : 1);
  const auto tell = [&](const char* name, double ms, double ops) {
    printf("%-8s width %3d heads %2d %-6s length %5d  %-28s %8.3f ms %7.1f TFLOP/s\n", what.c_str(), width, heads, causal ? "causal" : "full",
           length, name, ms, ops / ms * 1e-9);
  };
  if (what == "forward") {
    for (const auto& v : variants) {
      if (v.width != width || v.causal != int(causal)) continue;
      tell(v.name, milliseconds(q, [&] { v.f(q, shape, qkv, at, offsets.data(), sequences, y, lse); }), operations);
    }
  }
  if (what == "pullback") {
    cuda_detail::attention_hopper(q, shape, qkv, at, offsets.data(), sequences, y, lse);
    for (const auto& v : pullback_variants) {
      if (v.width != width || v.causal != int(causal)) continue;
      tell(v.name, milliseconds(q, [&] { v.f(q, shape, qkv, at, offsets.data(), sequences, y, lse, dy, dqkv); }), operations * 2.5);
    }
  }
  cudaFree(qkv), cudaFree(dqkv), cudaFree(y), cudaFree(dy), cudaFree(lse), cudaFree(at);
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string what = argc > 1 ? argv[1] : "forward";
  const int only = argc > 2 ? std::atoi(argv[2]) : 0;
  try {
    for (const int width : {128, 64}) {
      if (only && only != width) continue;
      for (const bool causal : {false, true})
        for (const int length : {2048, 4096, 8192, 16384}) run(what, width, 2048 / width, causal, length, 16384);
    }
    if (!only || only == 64) run(what, 64, 12, true, 1024, 16384);
  } catch (const std::exception& e) {
    printf("FAILED: %s\n", e.what());
    return 1;
  }
  return 0;
}
