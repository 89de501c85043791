/// This machine's ceilings: how many bytes a second can be copied, how many operations a second a float product reaches.
///
///     bench_machine [--threads=N] [--benchmark_filter=...]
///
/// copy: from one array to another, both far larger than the last cache; bytes read and written. gemm/library/MxNxK: C = A B by the products
/// of this library, gemm/eigen/MxNxK: by Eigen's, gemm/blas/MxNxK: by a BLAS, one thread a call, where CMake found one (run it with
/// OPENBLAS_NUM_THREADS=1). scripts/bench takes the largest of each, for one thread and for all, and says of every case
/// what fraction of them it reaches.
#include "case.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>
#include <unistd.h>

#include <planlm/backend/context.hpp>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/ops/matmul.hpp>
// g++ 12 warns about its own AVX-512 intrinsics once they are inlined (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <planlm/backend/cpu/eigen_products.hpp>
#pragma GCC diagnostic pop
#ifdef PLANLM_HAS_BLAS
#include <planlm/backend/cpu/blas_products.hpp>
#endif

namespace {

using namespace planlm;

/// Eight times the last cache, at least 128 MiB, at most 512 MiB: bytes of one array.
std::size_t array_bytes() {
  std::size_t cache = std::size_t{32} << 20;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  if (const long found = sysconf(_SC_LEVEL3_CACHE_SIZE); found > 0) cache = static_cast<std::size_t>(found);
#endif
  return std::clamp(8 * cache, std::size_t{128} << 20, std::size_t{512} << 20);
}

void copy(benchmark::State& state, int threads) {
  const std::size_t bytes = array_bytes(), parts = static_cast<std::size_t>(threads);
  cpu_detail::thread_pool pool(threads);
  std::vector<char> from(bytes, 1), to(bytes, 2);  // written, so that every page is there
  for (auto _ : state) {
    pool.run(threads, [&](index_t part, int) {
      const std::size_t begin = bytes * static_cast<std::size_t>(part) / parts, end = bytes * static_cast<std::size_t>(part + 1) / parts;
      std::memcpy(to.data() + begin, from.data() + begin, end - begin);
    });
    benchmark::ClobberMemory();
  }
  bench::report(state, {.bytes = 2 * double(bytes)});
}

template <class Products>
void gemm(benchmark::State& state, int threads, std::array<index_t, 3> shape) {
  using B = cpu<float, Products>;
  const auto [m, n, k] = shape;
  context<B> cx{typename B::queue{threads}};
  std::vector<float> a(static_cast<std::size_t>(m * k)), b(static_cast<std::size_t>(k * n));
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(static_cast<int>(i * 7 % 17) - 8) / 8;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(static_cast<int>(i * 5 % 13) - 6) / 8;
  for (auto _ : state) {
    auto scope = cx.scope();
    benchmark::DoNotOptimize(ops::matmul<B>(cx, {a.data(), m, k}, {b.data(), k, n}).data);
  }
  bench::report(state, {.flops = 2 * double(m) * double(n) * double(k)});
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::AddCustomContext("products", "tiled_products");  // those of cpu<float>, which every case uses that has no label of its own
  return bench::run(argc, argv, [](int threads) {
    bench::add("copy", [=](benchmark::State& state) { copy(state, threads); });
    for (const std::array<index_t, 3> shape : {std::array<index_t, 3>{512, 512, 512}, {1024, 1024, 1024}, {2048, 2048, 2048}, {2048, 3072, 768}}) {
      const std::string size = std::to_string(shape[0]) + "x" + std::to_string(shape[1]) + "x" + std::to_string(shape[2]);
      bench::add("gemm/library/" + size, [=](benchmark::State& state) { gemm<tiled_products>(state, threads, shape); });
      bench::add("gemm/eigen/" + size, [=](benchmark::State& state) { gemm<eigen_products>(state, threads, shape); });
#ifdef PLANLM_HAS_BLAS
      bench::add("gemm/blas/" + size, [=](benchmark::State& state) { gemm<blas_products>(state, threads, shape); });
#endif
    }
  });
}
