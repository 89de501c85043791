/// Rows of a table picked by number, with the sum they go into: embeddings, and the plan of a sentence spread over its tokens.
///
/// y_r = [x_r +] table[id_r]. Bytes: y written once, x read once, each picked row read from memory once if the table stays in the cache.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstdint>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/queue.cuh>

namespace planlm {

namespace kernel {

inline constexpr int gather_threads = 256;

/// A thread makes one chunk of y: few registers, so that many threads have their loads under way.
template <class T, int N, bool Add>
__global__ void __launch_bounds__(gather_threads)
    gather_chunks(index_t rows, std::uint32_t row_chunks, const T* table, const int* id, const T* x, T* y) {
  using A = accum_of<T>;
  using piece = cuda_detail::chunk<T, N>;
  // 64-bit division for the block's first chunk alone, the same in all threads; the rest is 32-bit.
  const index_t block_first = index_t{blockIdx.x} * gather_threads, block_row = block_first / row_chunks;
  const auto at = static_cast<std::uint32_t>(block_first - block_row * row_chunks) + threadIdx.x;
  const std::uint32_t down = at / row_chunks, column = at - down * row_chunks;
  const index_t r = block_row + down, k = block_first + threadIdx.x;
  if (r >= rows) return;
  const int from = id[r];
  piece base, picked;
  if constexpr (Add) base = piece::load(x + k * N);
  if (from >= 0) picked = piece::load(table + (index_t{from} * row_chunks + column) * N);
  if constexpr (Add) {
    A a[N], b[N];
    base.unpack(a);
    if (from >= 0) {
      picked.unpack(b);
#pragma unroll
      for (int i = 0; i < N; ++i) a[i] += b[i];
    }
    picked = piece::pack(a);
  } else if (from < 0) {
    const A zero[N] = {};
    picked = piece::pack(zero);
  }
  picked.store(y + k * N);
}

}  // namespace kernel

namespace cuda_detail {

/// table (K, cols), id (rows) -> y (rows, cols), with x (rows, cols) added unless it is empty.
template <class T>
void gather_rows(cuda_queue& q, index_t rows, index_t cols, const T* table, const int* id, const T* x, T* y) {
  if (rows <= 0 || cols <= 0) return;
  const auto run = [&]<int N, bool Add>() {
    const index_t chunks = cols / N;
    q.launch("gather_rows", dim3(static_cast<unsigned>(pieces(rows * chunks, kernel::gather_threads))),
             dim3(kernel::gather_threads), 0, kernel::gather_chunks<T, N, Add>, rows, static_cast<std::uint32_t>(chunks), table, id, x, y);
  };
  constexpr int N = chunk_values<T>;
  if (by_chunks(cols, table, x, y)) return x ? run.template operator()<N, true>() : run.template operator()<N, false>();
  return x ? run.template operator()<1, true>() : run.template operator()<1, false>();
}

}  // namespace cuda_detail
}  // namespace planlm
