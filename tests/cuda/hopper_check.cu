/// The Hopper vocabulary against the host: one wgmma product per operand form and width, tiles brought by bulk tensor copies.
///
/// Cases are told by number (`--list` names them); without one all run. A product that differs is tried again with other leading and stride
/// offsets, and the offsets that match are printed.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
#include <planlm/backend/cuda/hopper.cuh>

using namespace planlm;
using namespace planlm::hopper;

namespace {

constexpr int k_size = 128;  // two panels, eight steps

struct offsets {
  int leading_a, stride_a, leading_b, stride_b, step_a, panel_a, step_b, panel_b;  // bytes
};

// Tiles: A (64, 128) k-major or (128, 64) transposed; B (N, 128) k-major or (128, N) transposed.
template <int N, bool RegisterA, bool TransposedA, bool TransposedB>
__global__ void __launch_bounds__(128) product(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                                               const bfloat16* a_rows, float* out, offsets at) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ barrier full;
  unsigned char* tile = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  unsigned char* a = tile;
  unsigned char* b = tile + 64 * k_size * 2;
  const int t = threadIdx.x;
  if (t == 0) {
    barrier_init(&full, 1);
    barrier_init_done();
  }
  __syncthreads();
  if (t == 0) {
    barrier_expect(&full, (64 + N) * k_size * 2);
    copy_panels(a, map_a, &full, 0, 0);
    if constexpr (N * k_size * 2 <= 65536 && N <= 256) copy_panels(b, map_b, &full, 0, 0);
  }
  barrier_wait<true>(&full, 0, "the tiles");
  float d[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) d[i] = 7.f;
  const std::uint64_t da = descriptor(shared_address(a), at.leading_a, at.stride_a);
  const std::uint64_t db = descriptor(shared_address(b), at.leading_b, at.stride_b);
  const int lane = t % 32, row = 16 * (t / 32) + lane / 4;
  wgmma_fence();
  pin(d);
#pragma unroll
  for (int step = 0; step < k_size / 16; ++step) {
    const std::uint64_t to_a = ((step / 4) * at.panel_a + (step % 4) * at.step_a) >> 4;
    const std::uint64_t to_b = ((step / 4) * at.panel_b + (step % 4) * at.step_b) >> 4;
    if constexpr (RegisterA) {
      const auto pair = [&](int r, int c) { return *reinterpret_cast<const std::uint32_t*>(a_rows + r * k_size + c); };
      const int c = 16 * step + 2 * (lane % 4);
      wgmma_m64<N>::template multiply<TransposedB>(d, pair(row, c), pair(row + 8, c), pair(row, c + 8), pair(row + 8, c + 8), db + to_b,
                                                   step != 0);
    } else {
      wgmma_m64<N>::template multiply<TransposedA, TransposedB>(d, da + to_a, db + to_b, step != 0);
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
  pin(d);
#pragma unroll
  for (int j = 0; j < N / 8; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int e = 0; e < 2; ++e) out[(row + 8 * h) * N + 8 * j + 2 * (lane % 4) + e] = d[4 * j + 2 * h + e];
#endif
}

std::uint32_t seed = 12345;
float draw() {
  seed = seed * 1664525u + 1013904223u;
  return static_cast<float>(static_cast<int>(seed >> 8) % 2048) / 1024.f - 1.f;
}

template <int N, bool RegisterA, bool TransposedA, bool TransposedB>
bool run(const char* name) {
  std::vector<bfloat16> a(64 * k_size), b(N * k_size);
  for (auto& x : a) x = draw();
  for (auto& x : b) x = draw();
  // a is stored (64, k) or (k, 64), b (N, k) or (k, N)
  const auto at_a = [&](int m, int k) { return float(TransposedA ? a[k * 64 + m] : a[m * k_size + k]); };
  const auto at_b = [&](int n, int k) { return float(TransposedB ? b[k * N + n] : b[n * k_size + k]); };
  std::vector<double> want(64 * N);
  for (int m = 0; m < 64; ++m)
    for (int n = 0; n < N; ++n) {
      double s = 0;
      for (int k = 0; k < k_size; ++k) s += double(at_a(m, k)) * double(at_b(n, k));
      want[m * N + n] = s;
    }
  bfloat16 *da, *db;
  float* dout;
  cuda_detail::check(cudaMalloc(&da, a.size() * 2), "cudaMalloc");
  cuda_detail::check(cudaMalloc(&db, b.size() * 2), "cudaMalloc");
  cuda_detail::check(cudaMalloc(&dout, want.size() * 4), "cudaMalloc");
  cudaMemcpy(da, a.data(), a.size() * 2, cudaMemcpyHostToDevice);
  cudaMemcpy(db, b.data(), b.size() * 2, cudaMemcpyHostToDevice);
  const CUtensorMap map_a = TransposedA ? panels_map(da, k_size, 64, 64, k_size, 1) : panels_map(da, 64, k_size, k_size, 64, 2);
  const CUtensorMap map_b = TransposedB ? panels_map(db, k_size, N, N, k_size, N / 64) : panels_map(db, N, k_size, k_size, N, 2);
  const auto f = product<N, RegisterA, TransposedA, TransposedB>;
  const int bytes = (64 + N) * k_size * 2 + 1024;
  cuda_detail::check(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
  const int panel_a = TransposedA ? k_size * 128 : 64 * 128, panel_b = TransposedB ? k_size * 128 : N * 128;
  const auto error_of = [&](offsets at, bool tell) {
    cudaMemset(dout, 0xff, want.size() * 4);
    f<<<1, 128, bytes>>>(map_a, map_b, da, dout, at);
    cuda_detail::check(cudaGetLastError(), "launch");
    cuda_detail::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::vector<float> got(want.size());
    cudaMemcpy(got.data(), dout, got.size() * 4, cudaMemcpyDeviceToHost);
    double off = 0, all = 0;
    int first = -1, wrong = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double e = std::isfinite(got[i]) ? got[i] - want[i] : 1e3;
      off += e * e, all += want[i] * want[i];
      if (std::abs(e) > 1e-2) {
        ++wrong;
        if (first < 0) first = static_cast<int>(i);
      }
    }
    if (tell && wrong) printf("  %d of %zu wrong, first at row %d column %d: %g, not %g\n", wrong, want.size(), first / N, first % N, got[first], want[first]);
    return std::sqrt(off / all);
  };
  const offsets as_documented{TransposedA ? panel_a : 16, 1024, TransposedB ? panel_b : 16, 1024, TransposedA ? 2048 : 32,
                              TransposedA ? 4 * 2048 : panel_a, TransposedB ? 2048 : 32, TransposedB ? 4 * 2048 : panel_b};
  const double e = error_of(as_documented, true);
  const bool good = e < 1e-5;
  printf("%-44s error %.2e %s\n", name, e, good ? "right" : "WRONG");
  if (!good) {
    const int choices[] = {0, 16, 1024, 2048, panel_a, panel_b};
    for (const int la : choices)
      for (const int sa : choices)
        for (const int lb : choices)
          for (const int sb : choices) {
            offsets at = as_documented;
            at.leading_a = la, at.stride_a = sa, at.leading_b = lb, at.stride_b = sb;
            if (error_of(at, false) < 1e-5) printf("  right with leading %d stride %d of A, leading %d stride %d of B\n", la, sa, lb, sb);
          }
  }
  fflush(stdout);
  cudaFree(da), cudaFree(db), cudaFree(dout);
  return good;
}

using case_function = bool (*)(const char*);
struct check_case {
  const char* name;
  case_function f;
};
const check_case cases[] = {
    {"n64 A shared, B k-major", run<64, false, false, false>},
    {"n128 A shared, B k-major", run<128, false, false, false>},
    {"n256 A shared, B k-major", run<256, false, false, false>},
    {"n64 A shared, B transposed", run<64, false, false, true>},
    {"n128 A shared, B transposed", run<128, false, false, true>},
    {"n256 A shared, B transposed", run<256, false, false, true>},
    {"n64 A registers, B k-major", run<64, true, false, false>},
    {"n128 A registers, B transposed", run<128, true, false, true>},
    {"n256 A registers, B transposed", run<256, true, false, true>},
    {"n64 A shared transposed, B k-major", run<64, false, true, false>},
    {"n128 A shared transposed, B transposed", run<128, false, true, true>},
    {"n192 A shared, B transposed", run<192, false, false, true>},
};

}  // namespace

int main(int argc, char** argv) {
  int devices = 0, major = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("SKIPPED: there is no GPU\n");
    return 77;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (major != 9) {
    printf("SKIPPED: the GPU is not of compute capability 9.0\n");
    return 77;
  }
  setvbuf(stdout, nullptr, _IOLBF, 0);
  bool good = true;
  int number = 0;
  for (const auto& c : cases) {
    if (argc > 1 && !std::strcmp(argv[1], "--list")) printf("%d %s\n", number, c.name);
    else if (argc == 1 || std::atoi(argv[1]) == number) {
      try {
        good = c.f(c.name) && good;
      } catch (const std::exception& e) {
        printf("%-44s FAILED: %s\n", c.name, e.what());
        good = false;
      }
    }
    ++number;
  }
  return good ? 0 : 1;
}
