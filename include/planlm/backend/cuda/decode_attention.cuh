/// Attention of single query rows over long caches of keys and values: what decoding one token does in every layer.
///
/// A block takes 256 keys of one key-value head for the query heads that share it (up to eight at a time), so each key and value is read
/// once: 2 * keys * width * sizeof(T) bytes per key-value head, 4 operations per value and query head. Lanes = width / (values in 16 bytes)
/// neighbouring threads hold one key; each such group runs an online softmax over every groups-th key of the split, four in flight. Groups
/// are combined in shared memory, splits of rows beyond 256 keys by a second kernel, both in order. Where splits lie depends on the position
/// alone: a row has the same bits in any batch.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/chunk.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/core/error.hpp>

namespace planlm {

namespace cuda_detail {

inline constexpr int decode_threads = 128, decode_keys = 256;

/// What all blocks of a launch share.
template <class T>
struct decode_problem {
  using A = accum_of<T>;
  const T *packed, *keys, *values;  // rows of queries, keys, values; (sequences, capacity, kv_heads * width) twice
  const int *slot, *position;
  T* y;        // (rows, heads * width)
  A* partial;  // (rows, heads, splits, width + 2): sums, then the largest score and the total weight
  int packed_width, heads, kv_heads, width, splits;
  index_t capacity;
  A scale;     // times log2(e)
};

__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline double power_of_two(double x) { return ::exp2(x); }
/// 2^(score - top), 0 for a score of -infinity whatever `top` is.
template <class A>
__device__ A weight_below(A score, A top) {
  return score == A(-INFINITY) ? A(0) : power_of_two(score - top);
}

}  // namespace cuda_detail

namespace kernel {

/// Block (row, split, query heads): Heads of the heads that share a key-value head.
template <class T, int Lanes, int Heads>
__global__ void __launch_bounds__(cuda_detail::decode_threads) decode_attention(cuda_detail::decode_problem<T> p) {
  using namespace cuda_detail;
  using A = accum_of<T>;
  constexpr int N = chunk_values<T>, groups = decode_threads / Lanes, flight = 4;
  __shared__ A room[groups][Heads][Lanes * N + 2];
  const int row = static_cast<int>(blockIdx.x), split = static_cast<int>(blockIdx.y);
  const int n = p.position[row] + 1, begin = split * decode_keys, end = min(n, begin + decode_keys);
  if (begin >= n) return;
  const int shared_by = p.heads / p.kv_heads, parts = (shared_by + Heads - 1) / Heads;
  const int kv = static_cast<int>(blockIdx.z) / parts, last_head = (kv + 1) * shared_by - 1;
  const int first_head = kv * shared_by + static_cast<int>(blockIdx.z) % parts * Heads;
  const int lane = static_cast<int>(threadIdx.x) % Lanes, group = static_cast<int>(threadIdx.x) / Lanes;
  const bool inside = lane * N < p.width;  // a width of 96 leaves lanes without a column

  A q[Heads][N], sum[Heads][N], top[Heads], total[Heads];
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
    const T* from = p.packed + index_t{row} * p.packed_width + min(first_head + h, last_head) * p.width + lane * N;
    top[h] = A(-INFINITY), total[h] = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) q[h][i] = inside ? A(from[i]) * p.scale : A(0), sum[h][i] = 0;
  }
  const index_t stride = index_t{p.kv_heads} * p.width;
  const index_t at = index_t{p.slot[row]} * p.capacity * stride + index_t{kv} * p.width + lane * N;
  for (int tile = begin; tile < end; tile += groups * flight) {  // as often for every thread: shuffles meet whole warps
    chunk<T, N> key[flight], value[flight];
    bool there[flight];
#pragma unroll
    for (int u = 0; u < flight; ++u) {
      const int t = tile + u * groups + group;
      there[u] = t < end;
      if (there[u] && inside) {
        key[u] = chunk<T, N>::load(p.keys + at + t * stride);
        value[u] = chunk<T, N>::load(p.values + at + t * stride);
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) key[u].value[i] = value[u].value[i] = T(0.0f);
      }
    }
#pragma unroll
    for (int h = 0; h < Heads; ++h) {
      A score[flight], higher = top[h];
#pragma unroll
      for (int u = 0; u < flight; ++u) {
        A dot = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) dot += q[h][i] * A(key[u].value[i]);
        dot = lanes_sum<Lanes>(dot);
        score[u] = there[u] ? dot : A(-INFINITY);
        higher = score[u] > higher ? score[u] : higher;
      }
      const A factor = weight_below(top[h], higher);
      top[h] = higher;
      total[h] *= factor;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[h][i] *= factor;
#pragma unroll
      for (int u = 0; u < flight; ++u) {
        const A w = weight_below(score[u], higher);
        total[h] += w;
#pragma unroll
        for (int i = 0; i < N; ++i) sum[h][i] += w * A(value[u].value[i]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < Heads; ++h) {
#pragma unroll
    for (int i = 0; i < N; ++i) room[group][h][lane * N + i] = sum[h][i];
    if (lane == 0) room[group][h][Lanes * N] = top[h], room[group][h][Lanes * N + 1] = total[h];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < Heads * p.width; i += decode_threads) {
    const int h = i / p.width, c = i % p.width;
    if (first_head + h > last_head) break;
    A highest = A(-INFINITY);
#pragma unroll
    for (int g = 0; g < groups; ++g) highest = room[g][h][Lanes * N] > highest ? room[g][h][Lanes * N] : highest;
    A all = 0, weight = 0;
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      const A factor = weight_below(room[g][h][Lanes * N], highest);
      all += factor * room[g][h][c];
      weight += factor * room[g][h][Lanes * N + 1];
    }
    const index_t head = index_t{row} * p.heads + first_head + h;
    if (n <= decode_keys) {
      p.y[head * p.width + c] = T(all / weight);
    } else {
      A* to = p.partial + (head * p.splits + split) * (p.width + 2);
      to[c] = all;
      if (c == 0) to[p.width] = highest, to[p.width + 1] = weight;
    }
  }
}

/// Block (row, head): the splits of a row that has several, in order.
template <class T>
__global__ void __launch_bounds__(cuda_detail::decode_threads) decode_combine(cuda_detail::decode_problem<T> p) {
  using A = accum_of<T>;
  const int row = static_cast<int>(blockIdx.x), n = p.position[row] + 1;
  if (n <= cuda_detail::decode_keys) return;
  const int splits = (n + cuda_detail::decode_keys - 1) / cuda_detail::decode_keys;
  const index_t head = index_t{row} * p.heads + blockIdx.y;
  const A* from = p.partial + head * p.splits * (p.width + 2);
  A highest = A(-INFINITY);
  for (int s = 0; s < splits; ++s) highest = max(highest, from[s * (p.width + 2) + p.width]);
  for (int c = static_cast<int>(threadIdx.x); c < p.width; c += cuda_detail::decode_threads) {
    A all = 0, weight = 0;
    for (int s = 0; s < splits; ++s) {
      const A* part = from + s * (p.width + 2);
      const A factor = cuda_detail::weight_below(part[p.width], highest);
      all += factor * part[c];
      weight += factor * part[p.width + 1];
    }
    p.y[head * p.width + c] = T(all / weight);
  }
}

}  // namespace kernel

namespace cuda_detail {

/// Whether the kernel takes heads of this width: whole chunks of sixteen bytes, at most one per lane of a warp.
template <class T>
bool decodes(index_t width) {
  return width % chunk_values<T> == 0 && width <= 32 * chunk_values<T>;
}

template <class T, int Lanes, int Heads>
void launch_decode(cuda_queue& q, const decode_problem<T>& p, index_t rows) {
  const int parts = (p.heads / p.kv_heads + Heads - 1) / Heads;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(p.splits), static_cast<unsigned>(p.kv_heads * parts));
  q.launch("decode_attention", grid, dim3(decode_threads), 0, kernel::decode_attention<T, Lanes, Heads>, p);
  if (p.splits > 1)
    q.launch("decode_combine", dim3(static_cast<unsigned>(rows), static_cast<unsigned>(p.heads)), dim3(decode_threads), 0,
             kernel::decode_combine<T>, p);
}
template <class T, int Lanes>
void launch_decode(cuda_queue& q, const decode_problem<T>& p, index_t rows) {
  const int shared_by = p.heads / p.kv_heads;
  if (shared_by == 1) launch_decode<T, Lanes, 1>(q, p, rows);
  else if (shared_by <= 4) launch_decode<T, Lanes, 4>(q, p, rows);
  else launch_decode<T, Lanes, 8>(q, p, rows);
}

/// packed (rows, packed width) over caches (sequences, capacity, kv_heads * width) -> y (rows, heads * width); `longest` bounds the positions.
template <class T, class Shape>
void decode_attention(cuda_queue& q, const Shape& shape, const T* packed, const int* slot, const int* position, index_t rows,
                      index_t longest, const T* keys, const T* values, index_t capacity, T* y) {
  using A = accum_of<T>;
  if (rows <= 0) return;
  const index_t splits = (longest + decode_keys - 1) / decode_keys;
  if (!decodes<T>(shape.width) || !by_chunks(shape.kv_width(), keys, values) || splits > 65535 || shape.heads > 65535)
    throw shape_error("cuda: decode_attention of " + std::to_string(shape.heads) + " heads of width " + std::to_string(shape.width) +
                      " over " + std::to_string(longest) + " keys: caches must begin at multiples of 16 bytes and heads fill them");
  const std::size_t partial = splits > 1 ? static_cast<std::size_t>(rows * shape.heads * splits * (shape.width + 2)) * sizeof(A) : 0;
  const decode_problem<T> p{packed, keys, values, slot, position, y, static_cast<A*>(q.scratch(partial)),
                            static_cast<int>(shape.packed_width()), static_cast<int>(shape.heads), static_cast<int>(shape.kv_heads),
                            static_cast<int>(shape.width), static_cast<int>(splits), capacity,
                            A(1.44269504088896340736 / std::sqrt(static_cast<double>(shape.width)))};
  const index_t lanes = shape.width / chunk_values<T>;
  if (lanes <= 4) launch_decode<T, 4>(q, p, rows);
  else if (lanes <= 8) launch_decode<T, 8>(q, p, rows);
  else if (lanes <= 16) launch_decode<T, 16>(q, p, rows);
  else launch_decode<T, 32>(q, p, rows);
}

}  // namespace cuda_detail
}  // namespace planlm
