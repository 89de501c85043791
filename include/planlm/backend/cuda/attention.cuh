/// Attention on the GPU: which kernel takes which call.
///
///   sequences of at most 32 rows, as many key heads as heads                                        attention_short.cuh
///   float, double, and bf16 whose rows are not 16-byte aligned or whose heads are wider than 128    attention_simt.cuh
///   bf16, heads 64 or 128 wide, on sm_90a                                                           attention_hopper.cuh
///   other bf16                                                                                      attention_mma.cuh
///
/// Sequences are packed by offsets; a call uploads nothing; its launches depend on the sequences' lengths, which a recorded step
/// therefore holds.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <cuda_runtime.h>
#include <planlm/backend/attention_shape.hpp>
#include <planlm/backend/cuda/attention_hopper.cuh>
#include <planlm/backend/cuda/attention_hopper_pullback.cuh>
#include <planlm/backend/cuda/attention_mma.cuh>
#include <planlm/backend/cuda/attention_mma_pullback.cuh>
#include <planlm/backend/cuda/attention_short.cuh>
#include <planlm/backend/cuda/attention_simt.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/error.hpp>

namespace planlm::cuda_detail {

template <class T>
attention_arguments<T> arguments_of(attention_shape shape, const T* qkv, const int* offsets, const int* host_offsets, index_t sequences) {
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.width < 1 || shape.heads % shape.kv_heads != 0)
    throw shape_error("attention: " + std::to_string(shape.heads) + " heads, " + std::to_string(shape.kv_heads) + " key heads, width " +
                      std::to_string(shape.width) + "; the heads must be a multiple of the key heads");
  attention_arguments<T> a{};
  a.qkv = qkv;
  a.offsets = offsets;
  a.sequences = sequences;
  a.n = sequences > 0 ? host_offsets[sequences] : 0;
  a.heads = static_cast<int>(shape.heads);
  a.kv_heads = static_cast<int>(shape.kv_heads);
  a.width = static_cast<int>(shape.width);
  a.causal = shape.causal;
  a.scale = static_cast<accum_of<T>>(1 / std::sqrt(double(shape.width)));
  return a;
}

/// Copies of 16 bytes: every head of every row must begin at a multiple of 16 bytes.
inline bool rows_of_16_bytes(attention_shape shape, const void* p) {
  return shape.width % 8 == 0 && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}
/// Whether the tensor-core kernels take a call.
inline bool attention_mma_takes(attention_shape shape, const void* qkv, const void* y) {
  return shape.width <= 128 && rows_of_16_bytes(shape, qkv) && rows_of_16_bytes(shape, y);
}

/// y (N, heads * width) and lse (N, heads) from qkv (N, packed_width). Sequence s is rows [offsets[s], offsets[s + 1]); offsets[0] = 0.
template <class T>
void attention(cuda_queue& q, attention_shape shape, const T* qkv, const int* offsets, const int* host_offsets, index_t sequences, T* y,
               accum_of<T>* lse) {
  attention_arguments<T> a = arguments_of(shape, qkv, offsets, host_offsets, sequences);
  if (a.n == 0) return;
  a.y = y;
  a.lse = lse;
  if (const index_t longest = longest_of(host_offsets, sequences); attention_short_takes<T>(q, shape, longest))
    return attention_short(q, a, longest);
  if constexpr (std::same_as<T, bfloat16>)
    if (attention_mma_takes(shape, qkv, y)) {
      if (q.hopper() && attention_hopper_takes(shape)) return attention_hopper(q, shape, qkv, offsets, host_offsets, sequences, y, lse);
      return attention_mma(q, a);
    }
  attention_simt(q, a);
}

/// Row statistics of the pullback (heads, N) into the queue's scratch memory; they last until it is asked for again.
template <class T>
row_statistics<accum_of<T>>* attention_statistics(cuda_queue& q, const attention_arguments<T>& a, const T* y, const accum_of<T>* lse,
                                                  bool aligned) {
  using statistics = row_statistics<accum_of<T>>;
  auto* to = static_cast<statistics*>(q.scratch(static_cast<std::size_t>(a.n * a.heads) * sizeof(statistics)));
  const auto grid = [&](int rows) {
    return dim3(static_cast<unsigned>(std::min<index_t>((a.n * a.heads + rows - 1) / rows, 32 * q.multiprocessors())));
  };
  if constexpr (std::same_as<T, bfloat16>)
    if (aligned) {
      q.launch("attention_statistics", grid(32), dim3(256), 0, kernel::attention_statistics_packed<T>, a, y, lse, to);
      return to;
    }
  q.launch("attention_statistics", grid(8), dim3(256), 0, kernel::attention_statistics<T>, a, y, lse, to);
  return to;
}

/// dqkv (N, packed_width), all of it written, from dy and what the forward pass left. Uses the queue's scratch memory.
template <class T>
void attention_pullback(cuda_queue& q, attention_shape shape, const T* qkv, const int* offsets, const int* host_offsets, index_t sequences,
                        const T* y, const accum_of<T>* lse, const T* dy, T* dqkv) {
  attention_arguments<T> a = arguments_of(shape, qkv, offsets, host_offsets, sequences);
  if (a.n == 0) return;
  a.dy = dy;
  a.dqkv = dqkv;
  if (const index_t longest = longest_of(host_offsets, sequences); attention_short_takes<T>(q, shape, longest))
    return attention_short_pullback(q, a, lse, longest);
  const bool aligned = std::same_as<T, bfloat16> && attention_mma_takes(shape, qkv, y) && rows_of_16_bytes(shape, dy) &&
                       rows_of_16_bytes(shape, dqkv);
  if constexpr (std::same_as<T, bfloat16>)
    if (aligned && q.hopper() && attention_hopper_takes(shape))
      return attention_hopper_pullback(q, shape, qkv, offsets, host_offsets, sequences, y, lse, dy, dqkv);
  a.statistics = attention_statistics(q, a, y, lse, aligned);
  if constexpr (std::same_as<T, bfloat16>)
    if (aligned) return attention_mma_pullback(q, a);
  attention_simt_pullback(q, a);
}

}  // namespace planlm::cuda_detail
