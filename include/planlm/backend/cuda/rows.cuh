/// for_rows: a warp per row, or a block per row where rows are long or few.
///
/// A row kernel may have `index_t width() const`, the length of its loops: above wide_row a block runs a row. A kernel that does not say runs
/// by blocks when there are at most few_rows rows. The choice depends on rows and width alone, so the same call gives the same bits.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <concepts>
#include <planlm/backend/cuda/block_team.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/backend/cuda/warp_team.cuh>

namespace planlm {

namespace kernel {

inline constexpr int row_threads = 512;

/// f(team, r) for r in [0, rows), one warp per row.
template <class F>
__global__ void for_rows(index_t rows, F f) {
  const index_t warps = blockDim.x / warp_team::lanes;
  const warp_team team(static_cast<int>(threadIdx.x) % warp_team::lanes);
  for (index_t r = blockIdx.x * warps + threadIdx.x / warp_team::lanes; r < rows; r += gridDim.x * warps) f(team, r);
}
/// f(team, r) for r in [0, rows), one block per row.
template <class F>
__global__ void __launch_bounds__(row_threads) for_long_rows(index_t rows, F f) {
  __shared__ typename block_team<row_threads>::meeting room;
  const block_team<row_threads> team(room);
  for (index_t r = blockIdx.x; r < rows; r += gridDim.x) {
    f(team, r);
    __syncthreads();
  }
}

}  // namespace kernel

namespace cuda_detail {

inline constexpr index_t wide_row = 4096, few_rows = 16;

template <class F>
concept KnowsWidth = requires(const F& f) {
  { f.width() } -> std::convertible_to<index_t>;
};

template <class F>
void for_rows(cuda_queue& q, index_t rows, const F& f) {
  if (rows <= 0) return;
  const auto blocks = [](index_t n) { return dim3(static_cast<unsigned>(std::min<index_t>(n, index_t{1} << 30))); };
  bool by_blocks = rows <= few_rows;
  if constexpr (KnowsWidth<F>) by_blocks = f.width() > wide_row;
  constexpr int warps = 4;
  if (by_blocks) q.launch("for_rows", blocks(rows), dim3(kernel::row_threads), 0, kernel::for_long_rows<F>, rows, f);
  else q.launch("for_rows", blocks((rows + warps - 1) / warps), dim3(warps * warp_team::lanes), 0, kernel::for_rows<F>, rows, f);
}

}  // namespace cuda_detail
}  // namespace planlm
