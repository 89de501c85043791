/// Sums of columns in two stages: parts of the rows, then the parts in order. No atomics, the same bits in every run.
///
/// Read: rows x cols values once. Written and read again: parts x cols sums. The parts depend on the shape alone.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

namespace kernel {

inline constexpr int column_lanes = 32, row_lanes = 8;

/// part[k, c] = sum over r in part k of f(r, c): row_lanes threads take every row_lanes-th row, then fold pairwise.
template <class A, class F>
__global__ void column_parts(index_t rows, index_t cols, index_t part_rows, F f, A* part) {
  __shared__ A lane[row_lanes][column_lanes];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const index_t c = index_t{blockIdx.x} * column_lanes + x, k = blockIdx.y;
  const index_t end = rows < (k + 1) * part_rows ? rows : (k + 1) * part_rows;
  A own{};
  if (c < cols)
#pragma unroll 4
    for (index_t r = k * part_rows + y; r < end; r += row_lanes) own += A(f(r, c));
  lane[y][x] = own;
  for (int width = row_lanes / 2; width > 0; width /= 2) {
    __syncthreads();
    if (y < width) lane[y][x] += lane[y + width][x];
  }
  if (y == 0 && c < cols) part[k * cols + c] = lane[0][x];
}
/// The same for a matrix that lies by chunks: a thread owns the columns of one chunk.
template <class T>
__global__ void matrix_column_parts(index_t rows, index_t cols, index_t part_rows, const T* x, accum_of<T>* part) {
  using A = accum_of<T>;
  constexpr int N = cuda_detail::chunk_values<T>, deep = 4;
  using piece = cuda_detail::chunk<T, N>;
  __shared__ A lane[row_lanes][N][column_lanes];
  const int lx = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const index_t c = (index_t{blockIdx.x} * column_lanes + lx) * N, k = blockIdx.y;
  const index_t end = rows < (k + 1) * part_rows ? rows : (k + 1) * part_rows;
  A own[N] = {};
  if (c < cols) {
    index_t r = k * part_rows + y;
    for (; r + (deep - 1) * row_lanes < end; r += deep * row_lanes) {
      piece p[deep];
#pragma unroll
      for (int d = 0; d < deep; ++d) p[d] = piece::load(x + (r + d * row_lanes) * cols + c);
#pragma unroll
      for (int d = 0; d < deep; ++d) {
        A v[N];
        p[d].unpack(v);
#pragma unroll
        for (int i = 0; i < N; ++i) own[i] += v[i];
      }
    }
    for (; r < end; r += row_lanes) {
      A v[N];
      piece::load(x + r * cols + c).unpack(v);
#pragma unroll
      for (int i = 0; i < N; ++i) own[i] += v[i];
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) lane[y][i][lx] = own[i];
  for (int width = row_lanes / 2; width > 0; width /= 2) {
    __syncthreads();
    if (y < width)
#pragma unroll
      for (int i = 0; i < N; ++i) lane[y][i][lx] += lane[y + width][i][lx];
  }
  if (y == 0 && c < cols)
#pragma unroll
    for (int i = 0; i < N; ++i) part[k * cols + c + i] = lane[0][i][lx];
}

inline constexpr int part_lanes = 32;

/// y[c] += sum over k of part[k, c], part (parts, cols): lanes y take every part_lanes-th part, then fold pairwise. Columns from `split` on
/// go to z[c - split]; either may be empty.
template <class T, class A>
__global__ void __launch_bounds__(column_lanes * part_lanes)
    add_column_parts(index_t parts, index_t cols, index_t split, const A* part, T* y_sum, T* z_sum) {
  __shared__ A lane[part_lanes][column_lanes];
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const index_t c = index_t{blockIdx.x} * column_lanes + x;
  T* to = c < split ? y_sum : z_sum;
  const bool wanted = c < cols && to;
  A own{};
  if (wanted)
#pragma unroll 8
    for (index_t k = y; k < parts; k += part_lanes) own += part[k * cols + c];
  lane[y][x] = own;
  for (int width = part_lanes / 2; width > 0; width /= 2) {
    __syncthreads();
    if (y < width) lane[y][x] += lane[y + width][x];
  }
  if (y != 0 || !wanted) return;
  to += c < split ? c : c - split;
  *to = T(A(*to) + lane[0][x]);
}

}  // namespace kernel

namespace cuda_detail {

inline index_t pieces(index_t n, index_t size) { return (n + size - 1) / size; }

/// Rows of one part: about 1024 blocks in all, never below 64 rows, at most 4096 parts.
inline index_t column_part_rows(index_t rows, index_t column_blocks) {
  const index_t parts = std::clamp<index_t>(1024 / std::max<index_t>(column_blocks, 1), 1, 4096);
  return std::max<index_t>(pieces(pieces(rows, parts), kernel::row_lanes) * kernel::row_lanes, 64);
}
/// y (split) and z (cols - split) += the sums of the columns of part (parts, cols).
template <class T, class A>
void add_column_parts(cuda_queue& q, index_t parts, index_t cols, index_t split, const A* part, T* y, T* z) {
  const dim3 grid(static_cast<unsigned>(pieces(cols, kernel::column_lanes))), block(kernel::column_lanes, kernel::part_lanes);
  q.launch("add_column_sums", grid, block, 0, kernel::add_column_parts<T, A>, parts, cols, split, part, y, z);
}

/// y[c] += sum over r of f(r, c).
template <class T, class F>
void add_column_sums(cuda_queue& q, index_t rows, index_t cols, const F& f, T* y) {
  using A = accum_of<T>;
  if (rows <= 0 || cols <= 0) return;
  const index_t blocks = pieces(cols, kernel::column_lanes), part_rows = column_part_rows(rows, blocks), parts = pieces(rows, part_rows);
  auto* part = static_cast<A*>(q.scratch(static_cast<std::size_t>(parts * cols) * sizeof(A)));
  q.launch("add_column_sums", dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(parts)),
           dim3(kernel::column_lanes, kernel::row_lanes), 0, kernel::column_parts<A, F>, rows, cols, part_rows, f, part);
  add_column_parts<T, A>(q, parts, cols, cols, part, y, nullptr);
}
/// y (cols) += column sums of the matrix x (rows, cols) where it lies by chunks; false if it does not.
template <class T>
bool add_matrix_column_sums(cuda_queue& q, index_t rows, index_t cols, const T* x, T* y) {
  using A = accum_of<T>;
  if (rows <= 0 || cols <= 0) return true;
  if (!by_chunks(cols, x)) return false;
  const index_t blocks = pieces(cols, kernel::column_lanes * chunk_values<T>), part_rows = column_part_rows(rows, blocks);
  const index_t parts = pieces(rows, part_rows);
  auto* part = static_cast<A*>(q.scratch(static_cast<std::size_t>(parts * cols) * sizeof(A)));
  q.launch("add_column_sums", dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(parts)),
           dim3(kernel::column_lanes, kernel::row_lanes), 0, kernel::matrix_column_parts<T>, rows, cols, part_rows, x, part);
  add_column_parts<T, A>(q, parts, cols, cols, part, y, nullptr);
  return true;
}

}  // namespace cuda_detail
}  // namespace planlm
