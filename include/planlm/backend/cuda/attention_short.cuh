/// Attention over short sequences with heads of any width: a planner's contexts of at most 32 sentences, heads hundreds wide.
///
/// One block of 128 threads per (sequence, head) holds its queries, keys and values in shared memory; a warp takes a query, a lane a key.
/// Memory traffic is the least there is: qkv (and dy) read once, y (or dqkv) written once, 2 to 4 bytes a value; the arithmetic of one
/// sequence of n rows is 4 n^2 width operations forward, 10 n^2 width back, n at most 32: far under the traffic's time. Sums have one order.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstddef>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/attention_simt.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/core/math.hpp>
#include <planlm/ops/attention.hpp>

namespace planlm {
namespace cuda_detail {
inline constexpr int short_rows = 32, short_threads = 128;
inline constexpr std::size_t short_shared_limit = 200 * 1024;

/// Where the matrices of weights begin in shared memory, behind `tensors` of (longest, width).
template <class T>
PLANLM_HD index_t short_squares_at(index_t longest, index_t width, int tensors) {
  return (longest * width * index_t{sizeof(T)} * tensors + 15) / 16 * 16;
}
/// Bytes of shared memory for sequences of at most `longest` rows: `tensors` of them, and `squares` matrices of weights.
template <class T>
std::size_t short_bytes(index_t longest, index_t width, int tensors, int squares) {
  return static_cast<std::size_t>(short_squares_at<T>(longest, width, tensors) + longest * longest * index_t{sizeof(accum_of<T>)} * squares);
}
/// Whether these kernels take sequences of at most `longest` rows, forward and back.
template <class T>
bool attention_short_takes(attention_shape shape, index_t longest) {
  return longest <= short_rows && shape.heads == shape.kv_heads &&
         short_bytes<T>(longest, shape.width, 4, 2) <= short_shared_limit;
}
}  // namespace cuda_detail

namespace kernel {

template <class A>
__device__ A sum_of_lanes(A x) {
  for (int width = 16; width > 0; width /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, width);
  return x;
}
template <class A>
__device__ A max_of_lanes(A x) {
  for (int width = 16; width > 0; width /= 2) {
    const A other = __shfl_xor_sync(0xFFFFFFFFu, x, width);
    x = other > x ? other : x;
  }
  return x;
}
/// <a, b>, known to all lanes of the warp.
template <class T>
__device__ accum_of<T> dot_of_rows(const T* a, const T* b, int width, int lane) {
  accum_of<T> own{};
  for (int c = lane; c < width; c += 32) own += accum_of<T>(a[c]) * accum_of<T>(b[c]);
  return sum_of_lanes(own);
}

/// The sequence and head of this block: block = sequence * heads + head.
template <class T>
struct short_block {
  int head, rows;
  index_t first;  // row of the batch
  __device__ explicit short_block(const cuda_detail::attention_arguments<T>& a) {
    const index_t s = blockIdx.x / a.heads;
    head = static_cast<int>(blockIdx.x % a.heads);
    first = a.offsets[s];
    rows = static_cast<int>(a.offsets[s + 1] - first);
  }
};

template <class T>
__global__ void __launch_bounds__(cuda_detail::short_threads) attention_short(cuda_detail::attention_arguments<T> a, int longest) {
  using A = accum_of<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  T* const q = reinterpret_cast<T*>(shared);
  T* const k = q + longest * a.width;
  T* const v = k + longest * a.width;
  A* const p = reinterpret_cast<A*>(shared + cuda_detail::short_squares_at<T>(longest, a.width, 3));  // (rows, longest)
  const short_block<T> b(a);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  for (int i = thread; i < b.rows * a.width; i += cuda_detail::short_threads) {
    const int r = i / a.width, c = i % a.width;
    q[i] = a.qkv[a.query_at(b.first + r, b.head) + c];
    k[i] = a.qkv[a.key_at(b.first + r, b.head) + c];
    v[i] = a.qkv[a.value_at(b.first + r, b.head) + c];
  }
  __syncthreads();
  for (int i = warp; i < b.rows; i += cuda_detail::short_threads / 32) {
    const int keys = a.causal ? i + 1 : b.rows;
    A own = A(-INFINITY);
    for (int j = 0; j < keys; ++j) {
      const A s = a.scale * dot_of_rows(q + i * a.width, k + j * a.width, a.width, lane);
      if (lane == j) own = s;
    }
    const A top = max_of_lanes(own);
    const A e = lane < keys ? math::exp(own - top) : A(0);
    const A total = sum_of_lanes(e);
    if (lane < b.rows) p[i * longest + lane] = e / total;
    if (lane == 0) a.lse[(b.first + i) * a.heads + b.head] = top + math::log(total);
  }
  __syncthreads();
  for (int i = thread; i < b.rows * a.width; i += cuda_detail::short_threads) {
    const int r = i / a.width, c = i % a.width;
    A sum{};
    for (int j = 0; j < b.rows; ++j) sum += p[r * longest + j] * A(v[j * a.width + c]);
    a.y[a.out_at(b.first + r, b.head) + c] = T(sum);
  }
}

/// dv = P^T dy, dS = scale P o (dy v^T - rowsum(P o dy v^T)), dq = dS k, dk = dS^T q.
template <class T>
__global__ void __launch_bounds__(cuda_detail::short_threads)
    attention_short_pullback(cuda_detail::attention_arguments<T> a, const accum_of<T>* lse, int longest) {
  using A = accum_of<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  T* const q = reinterpret_cast<T*>(shared);
  T* const k = q + longest * a.width;
  T* const v = k + longest * a.width;
  T* const dy = v + longest * a.width;
  A* const p = reinterpret_cast<A*>(shared + cuda_detail::short_squares_at<T>(longest, a.width, 4));
  A* const ds = p + longest * longest;
  const short_block<T> b(a);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  for (int i = thread; i < b.rows * a.width; i += cuda_detail::short_threads) {
    const int r = i / a.width, c = i % a.width;
    q[i] = a.qkv[a.query_at(b.first + r, b.head) + c];
    k[i] = a.qkv[a.key_at(b.first + r, b.head) + c];
    v[i] = a.qkv[a.value_at(b.first + r, b.head) + c];
    dy[i] = a.dy[a.out_at(b.first + r, b.head) + c];
  }
  __syncthreads();
  for (int i = warp; i < b.rows; i += cuda_detail::short_threads / 32) {
    const int keys = a.causal ? i + 1 : b.rows;
    const A log_total = lse[(b.first + i) * a.heads + b.head];
    A weight{}, upstream{};
    for (int j = 0; j < keys; ++j) {
      const A s = a.scale * dot_of_rows(q + i * a.width, k + j * a.width, a.width, lane);
      const A g = dot_of_rows(dy + i * a.width, v + j * a.width, a.width, lane);
      if (lane == j) weight = math::exp(s - log_total), upstream = g;
    }
    const A mean = sum_of_lanes(weight * upstream);
    if (lane < b.rows) {
      p[i * longest + lane] = weight;
      ds[i * longest + lane] = a.scale * weight * (upstream - mean);
    }
  }
  __syncthreads();
  for (int i = thread; i < b.rows * a.width; i += cuda_detail::short_threads) {
    const int r = i / a.width, c = i % a.width;
    A dq{}, dk{}, dv{};
    for (int j = 0; j < b.rows; ++j) {
      dq += ds[r * longest + j] * A(k[j * a.width + c]);
      dk += ds[j * longest + r] * A(q[j * a.width + c]);
      dv += p[j * longest + r] * A(dy[j * a.width + c]);
    }
    a.dqkv[a.query_at(b.first + r, b.head) + c] = T(dq);
    a.dqkv[a.key_at(b.first + r, b.head) + c] = T(dk);
    a.dqkv[a.value_at(b.first + r, b.head) + c] = T(dv);
  }
}

}  // namespace kernel

namespace cuda_detail {

inline index_t longest_of(const int* host_offsets, index_t sequences) {
  int longest = 0;
  for (index_t s = 0; s < sequences; ++s) longest = std::max(longest, host_offsets[s + 1] - host_offsets[s]);
  return longest;
}
template <class T>
void attention_short(cuda_queue& q, const attention_arguments<T>& a, index_t longest) {
  q.launch("attention_short", dim3(static_cast<unsigned>(a.sequences * a.heads)), dim3(short_threads), short_bytes<T>(longest, a.width, 3, 1),
           kernel::attention_short<T>, a, static_cast<int>(longest));
}
template <class T>
void attention_short_pullback(cuda_queue& q, const attention_arguments<T>& a, const accum_of<T>* lse, index_t longest) {
  q.launch("attention_short_pullback", dim3(static_cast<unsigned>(a.sequences * a.heads)), dim3(short_threads),
           short_bytes<T>(longest, a.width, 4, 2), kernel::attention_short_pullback<T>, a, lse, static_cast<int>(longest));
}

}  // namespace cuda_detail
}  // namespace planlm
