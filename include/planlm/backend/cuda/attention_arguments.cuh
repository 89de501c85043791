/// What every attention kernel is told: where operands lie in packed rows, and how many blocks work on them.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <string>
#include <cuda_runtime.h>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>

namespace planlm::cuda_detail {

/// What the pullback needs of a row and head: log2 sum exp2 of c S, and rowsum(dY o Y).
template <class A>
struct alignas(2 * sizeof(A)) row_statistics {
  A log_sum, delta;
};

/// Arguments of every attention kernel. Rows of qkv and dqkv are `packed` apart, rows of y and dy heads * width.
template <class T>
struct attention_arguments {
  using A = accum_of<T>;
  const T* qkv;
  const int* offsets;
  index_t sequences, n;  // n rows in all
  index_t tiles;         // tile numbers per head
  int heads, kv_heads, width;
  bool causal;
  bool aligned;  // SIMT kernels: rows are read 16 bytes at a time
  A scale;
  T* y;               // forward: written; pullback: null
  A* lse;             // forward: written, (n, heads)
  const T* dy;        // pullback
  const row_statistics<A>* statistics;  // pullback: (heads, n)
  T* dqkv;
  PLANLM_HD index_t packed() const { return index_t{heads + 2 * kv_heads} * width; }
  PLANLM_HD index_t query_at(index_t row, int head) const { return row * packed() + index_t{head} * width; }
  PLANLM_HD index_t key_at(index_t row, int kv) const { return row * packed() + (index_t{heads} + kv) * width; }
  PLANLM_HD index_t value_at(index_t row, int kv) const { return key_at(row, kv) + index_t{kv_heads} * width; }
  PLANLM_HD index_t out_at(index_t row, int head) const { return (row * heads + head) * width; }
};

/// Grid of `heads` times the tile numbers.
template <class T>
dim3 attention_grid(const attention_arguments<T>& a, int heads) {
  const index_t blocks = a.tiles * heads;
  if (blocks > 0x7FFFFFFF)
    throw shape_error("attention: " + std::to_string(a.n) + " rows in " + std::to_string(a.sequences) + " sequences of " +
                      std::to_string(heads) + " heads are more blocks than one launch can have");
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace planlm::cuda_detail
