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

inline constexpr int gather_threads = 256, gather_deep = 4;

/// A thread makes gather_deep chunks of y, gather_threads apart, with all its loads under way at once.
template <class T, int N, bool Add>
__global__ void __launch_bounds__(gather_threads) gather_chunks(index_t rows, std::uint32_t row_chunks, const T* table, const int* id, const T* x,
                                                                T* y) {
  using A = accum_of<T>;
  using piece = cuda_detail::chunk<T, N>;
  const index_t all = rows * row_chunks, first = index_t{blockIdx.x} * (gather_threads * gather_deep) + threadIdx.x;
  // 64-bit division only for the block's first chunk; the rest is 32-bit.
  const index_t block_first = index_t{blockIdx.x} * (gather_threads * gather_deep), block_row = block_first / row_chunks;
  const auto block_column = static_cast<std::uint32_t>(block_first - block_row * row_chunks);
  int from[gather_deep];
  std::uint32_t column[gather_deep];
  piece base[gather_deep], picked[gather_deep];
#pragma unroll
  for (int d = 0; d < gather_deep; ++d) {
    from[d] = -1;
    column[d] = 0;
    const index_t k = first + d * gather_threads;
    if (k < all) {
      const std::uint32_t at = block_column + threadIdx.x + static_cast<std::uint32_t>(d * gather_threads), row = at / row_chunks;
      column[d] = at - row * row_chunks;
      from[d] = id[block_row + row];
      if constexpr (Add) base[d] = piece::load(x + k * N);
    }
  }
#pragma unroll
  for (int d = 0; d < gather_deep; ++d) {
    if (from[d] >= 0) picked[d] = piece::load(table + (index_t{from[d]} * row_chunks + column[d]) * N);
    else
#pragma unroll
      for (int i = 0; i < N; ++i) picked[d].value[i] = T(A(0));
  }
#pragma unroll
  for (int d = 0; d < gather_deep; ++d) {
    const index_t k = first + d * gather_threads;
    if (k < all) {
      if constexpr (Add) {
        A a[N], b[N];
        base[d].unpack(a);
        picked[d].unpack(b);
#pragma unroll
        for (int i = 0; i < N; ++i) a[i] += b[i];
        picked[d] = piece::pack(a);
      }
      picked[d].store(y + k * N);
    }
  }
}

}  // namespace kernel

namespace cuda_detail {

/// table (K, cols), id (rows) -> y (rows, cols), with x (rows, cols) added unless it is empty.
template <class T>
void gather_rows(cuda_queue& q, index_t rows, index_t cols, const T* table, const int* id, const T* x, T* y) {
  if (rows <= 0 || cols <= 0) return;
  const auto run = [&]<int N, bool Add>() {
    const index_t chunks = cols / N;
    q.launch("gather_rows", dim3(static_cast<unsigned>(pieces(rows * chunks, kernel::gather_threads * kernel::gather_deep))),
             dim3(kernel::gather_threads), 0, kernel::gather_chunks<T, N, Add>, rows, static_cast<std::uint32_t>(chunks), table, id, x, y);
  };
  constexpr int N = chunk_values<T>;
  if (by_chunks(cols, table, x, y)) return x ? run.template operator()<N, true>() : run.template operator()<N, false>();
  return x ? run.template operator()<1, true>() : run.template operator()<1, false>();
}

}  // namespace cuda_detail
}  // namespace planlm
