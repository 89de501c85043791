/// The loops of a backend as kernels: over indices, over rows, and sums of columns.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/backend/cuda/warp_team.cuh>
#include <planlm/core/bfloat16.hpp>

namespace planlm {

namespace kernel {

/// f(i) for i in [0, n).
template <class F>
__global__ void for_each(index_t n, F f) {
  const index_t step = index_t{gridDim.x} * blockDim.x;
  for (index_t i = index_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) f(i);
}
/// f(team, r) for r in [0, rows), one warp per row.
template <class F>
__global__ void for_rows(index_t rows, F f) {
  const index_t warps = blockDim.x / warp_team::lanes;
  const warp_team team(static_cast<int>(threadIdx.x) % warp_team::lanes);
  for (index_t r = blockIdx.x * warps + threadIdx.x / warp_team::lanes; r < rows; r += gridDim.x * warps) f(team, r);
}

inline constexpr int column_lanes = 32, row_lanes = 8;
inline constexpr index_t column_rows = 512;  // rows of one part

/// part[k, c] = sum of f(r, c) over the rows of part k: row_lanes threads take every row_lanes-th row, then fold pairwise.
template <class A, class F>
__global__ void column_parts(index_t rows, index_t cols, index_t parts, F f, A* part) {
  __shared__ A lane[row_lanes][column_lanes];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const index_t c = index_t{blockIdx.x} * column_lanes + x;
  for (index_t k = blockIdx.y; k < parts; k += gridDim.y) {
    const index_t end = rows < (k + 1) * column_rows ? rows : (k + 1) * column_rows;
    A own{};
    if (c < cols)
      for (index_t r = k * column_rows + y; r < end; r += row_lanes) own += A(f(r, c));
    lane[y][x] = own;
    for (int width = row_lanes / 2; width > 0; width /= 2) {
      __syncthreads();
      if (y < width) lane[y][x] += lane[y + width][x];
    }
    if (y == 0 && c < cols) part[k * cols + c] = lane[0][x];
    __syncthreads();
  }
}
/// y[c] += sum over k of part[k, c].
template <class T, class A>
struct add_parts {
  const A* part;
  T* y;
  index_t parts, cols;
  PLANLM_HD void operator()(index_t c) const {
    A total{};
    for (index_t k = 0; k < parts; ++k) total += part[k * cols + c];
    y[c] = T(A(y[c]) + total);
  }
};

}  // namespace kernel

namespace cuda_detail {

inline dim3 grid_of(index_t blocks) { return dim3(static_cast<unsigned>(std::min<index_t>(blocks, index_t{1} << 30))); }

template <class F>
void for_each(cuda_queue& q, index_t n, const F& f) {
  constexpr int threads = 256;
  if (n > 0) q.launch("for_each", grid_of((n + threads - 1) / threads), dim3(threads), 0, kernel::for_each<F>, n, f);
}
template <class F>
void for_rows(cuda_queue& q, index_t rows, const F& f) {
  constexpr int warps = 4;
  if (rows > 0) q.launch("for_rows", grid_of((rows + warps - 1) / warps), dim3(warps * warp_team::lanes), 0, kernel::for_rows<F>, rows, f);
}
/// y[c] += sum over r of f(r, c): parts of 512 rows, then the parts in order.
template <class T, class F>
void add_column_sums(cuda_queue& q, index_t rows, index_t cols, const F& f, T* y) {
  using A = accum_of<T>;
  if (rows <= 0 || cols <= 0) return;
  const index_t parts = (rows + kernel::column_rows - 1) / kernel::column_rows;
  auto* part = static_cast<A*>(q.scratch(static_cast<std::size_t>(parts * cols) * sizeof(A)));
  dim3 grid = grid_of((cols + kernel::column_lanes - 1) / kernel::column_lanes);
  grid.y = static_cast<unsigned>(std::min<index_t>(parts, 65535));
  q.launch("column_parts", grid, dim3(kernel::column_lanes, kernel::row_lanes), 0, kernel::column_parts<A, F>, rows, cols, parts, f, part);
  for_each(q, cols, kernel::add_parts<T, A>{part, y, parts, cols});
}

}  // namespace cuda_detail
}  // namespace planlm
