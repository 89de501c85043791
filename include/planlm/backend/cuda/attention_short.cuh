/// Attention over short sequences with heads of any width: a planner's contexts of at most 32 sentences, heads hundreds wide.
///
/// One block of 128 threads per (sequence, head) holds its queries, keys and values in shared memory; a thread takes a (query, key) pair for the
/// scores, a column for the products.
/// Memory traffic is the least there is: qkv (and dy) read once, y (or dqkv) written once, 2 to 4 bytes a value; the arithmetic of one
/// sequence of n rows is 4 n^2 width operations forward, 10 n^2 width back, n at most 32: far under the traffic's time. Sums have one order.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstddef>
#include <cuda_runtime.h>
#include <planlm/backend/attention_shape.hpp>
#include <planlm/backend/cuda/attention_simt.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/core/math.hpp>

namespace planlm {
namespace cuda_detail {
inline constexpr int short_rows = 32, short_threads = 128;

/// Values between rows in shared memory: an odd number of 4-byte words, so that rows side by side lie in other banks.
template <class T>
PLANLM_HD constexpr int short_stride(int width) {
  const int lanes = sizeof(T) < 4 ? static_cast<int>(4 / sizeof(T)) : 1;
  const int words = (width + lanes - 1) / lanes;
  return (words | 1) * lanes;
}
/// Where the matrices of weights begin in shared memory, behind `tensors` of (rows, width).
template <class T>
PLANLM_HD constexpr std::size_t short_squares_at(int rows, int width, int tensors) {
  return (static_cast<std::size_t>(rows * short_stride<T>(width) * tensors) * sizeof(T) + 15) / 16 * 16;
}
/// Bytes of shared memory for sequences of at most `rows` rows: `tensors` of them, and `squares` matrices of weights.
template <class T>
std::size_t short_bytes(int rows, int width, int tensors, int squares) {
  return short_squares_at<T>(rows, width, tensors) + static_cast<std::size_t>(rows * rows * squares) * sizeof(accum_of<T>);
}
/// The kernels' sizes: sequences of up to 16 rows, or of up to 32.
constexpr int short_rows_for(index_t longest) { return longest <= 16 ? 16 : 32; }
/// Whether these kernels take sequences of at most `longest` rows, forward and back.
template <class T>
bool attention_short_takes(const cuda_queue& q, attention_shape shape, index_t longest) {
  return longest <= short_rows && shape.heads == shape.kv_heads && shape.width <= 4096 &&
         short_bytes<T>(short_rows_for(longest), static_cast<int>(shape.width), 4, 2) <= q.shared_limit();
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
/// The sequence and head of this block: block = sequence * heads + head.
template <class T>
struct short_block {
  int head, rows;
  index_t first;  // row of the batch
  __device__ short_block(const cuda_detail::attention_arguments<T>& a, int most) {
    const index_t s = blockIdx.x / a.heads;
    head = static_cast<int>(blockIdx.x % a.heads);
    first = a.offsets[s];
    rows = static_cast<int>(a.offsets[s + 1] - first);
    if (rows > most) __trap();  // a recording replayed with longer sequences
  }
};

/// <a, b> of two rows in shared memory, four sums of every fourth product.
template <class T>
__device__ accum_of<T> dot_of_rows(const T* a, const T* b, int width) {
  accum_of<T> sum[4] = {};
  int c = 0;
  for (; c + 4 <= width; c += 4)
    for (int i = 0; i < 4; ++i) sum[i] += accum_of<T>(a[c + i]) * accum_of<T>(b[c + i]);
  for (; c < width; ++c) sum[0] += accum_of<T>(a[c]) * accum_of<T>(b[c]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
/// Rows first, first + 1, ... of a head's columns, `apart` values apart in memory, to rows `stride` apart in shared memory: a warp per row.
template <class T>
__device__ void load_rows(const T* from, index_t apart, T* to, int stride, int rows, int width) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int r = warp; r < rows; r += cuda_detail::short_threads / 32)
    for (int c = lane; c < width; c += 32) to[r * stride + c] = from[r * apart + c];
}
/// Column c of `rows` rows in registers; 0 behind them.
template <int Rows, class T>
__device__ void take_column(const T* from, int stride, int rows, int c, accum_of<T> (&column)[Rows]) {
  for (int j = 0; j < Rows; ++j) column[j] = j < rows ? accum_of<T>(from[j * stride + c]) : accum_of<T>(0);
}
/// sum over j of weight[j * step] column[j].
template <int Rows, class A>
__device__ A weigh(const A* weight, int step, const A (&column)[Rows]) {
  A sum{};
  for (int j = 0; j < Rows; ++j) sum += weight[j * step] * column[j];
  return sum;
}

/// Rows: the longest sequence, rounded up; weights behind a sequence's end are 0.
template <class T, int Rows>
__global__ void __launch_bounds__(cuda_detail::short_threads) attention_short(cuda_detail::attention_arguments<T> a) {
  using A = accum_of<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int stride = cuda_detail::short_stride<T>(a.width);
  T* const q = reinterpret_cast<T*>(shared);
  T* const k = q + Rows * stride;
  T* const v = k + Rows * stride;
  A* const p = reinterpret_cast<A*>(shared + cuda_detail::short_squares_at<T>(Rows, a.width, 3));  // (Rows, Rows)
  const short_block<T> b(a, Rows);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  load_rows(a.qkv + a.query_at(b.first, b.head), a.packed(), q, stride, b.rows, a.width);
  load_rows(a.qkv + a.key_at(b.first, b.head), a.packed(), k, stride, b.rows, a.width);
  load_rows(a.qkv + a.value_at(b.first, b.head), a.packed(), v, stride, b.rows, a.width);
  __syncthreads();
  for (int n = thread; n < Rows * Rows; n += cuda_detail::short_threads) {
    const int i = n / Rows, j = n % Rows;
    const bool seen = i < b.rows && j < (a.causal ? i + 1 : b.rows);
    p[n] = seen ? a.scale * dot_of_rows(q + i * stride, k + j * stride, a.width) : A(-INFINITY);
  }
  __syncthreads();
  for (int i = warp; i < Rows; i += cuda_detail::short_threads / 32) {
    const A s = lane < Rows ? p[i * Rows + lane] : A(-INFINITY);
    const A top = max_of_lanes(s);
    const A e = i < b.rows && s > A(-INFINITY) ? math::exp(s - top) : A(0);
    const A total = sum_of_lanes(e);
    if (lane < Rows) p[i * Rows + lane] = i < b.rows ? e / total : A(0);
    if (lane == 0 && i < b.rows) a.lse[(b.first + i) * a.heads + b.head] = top + math::log(total);
  }
  __syncthreads();
  for (int c = thread; c < a.width; c += cuda_detail::short_threads) {
    A column[Rows];
    take_column<Rows>(v, stride, b.rows, c, column);
    for (int i = 0; i < b.rows; ++i) a.y[a.out_at(b.first + i, b.head) + c] = T(weigh<Rows>(p + i * Rows, 1, column));
  }
}

/// dv = P^T dy, dS = scale P o (dy v^T - rowsum(P o dy v^T)), dq = dS k, dk = dS^T q.
template <class T, int Rows>
__global__ void __launch_bounds__(cuda_detail::short_threads)
    attention_short_pullback(cuda_detail::attention_arguments<T> a, const accum_of<T>* lse) {
  using A = accum_of<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int stride = cuda_detail::short_stride<T>(a.width);
  T* const q = reinterpret_cast<T*>(shared);
  T* const k = q + Rows * stride;
  T* const v = k + Rows * stride;
  T* const dy = v + Rows * stride;
  A* const p = reinterpret_cast<A*>(shared + cuda_detail::short_squares_at<T>(Rows, a.width, 4));
  A* const ds = p + Rows * Rows;
  const short_block<T> b(a, Rows);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  load_rows(a.qkv + a.query_at(b.first, b.head), a.packed(), q, stride, b.rows, a.width);
  load_rows(a.qkv + a.key_at(b.first, b.head), a.packed(), k, stride, b.rows, a.width);
  load_rows(a.qkv + a.value_at(b.first, b.head), a.packed(), v, stride, b.rows, a.width);
  load_rows(a.dy + a.out_at(b.first, b.head), index_t{a.heads} * a.width, dy, stride, b.rows, a.width);
  __syncthreads();
  for (int n = thread; n < Rows * Rows; n += cuda_detail::short_threads) {
    const int i = n / Rows, j = n % Rows;
    const bool seen = i < b.rows && j < (a.causal ? i + 1 : b.rows);
    p[n] = seen ? math::exp(a.scale * dot_of_rows(q + i * stride, k + j * stride, a.width) - lse[(b.first + i) * a.heads + b.head]) : A(0);
    ds[n] = seen ? dot_of_rows(dy + i * stride, v + j * stride, a.width) : A(0);
  }
  __syncthreads();
  for (int i = warp; i < Rows; i += cuda_detail::short_threads / 32) {
    const A weight = lane < Rows ? p[i * Rows + lane] : A(0), upstream = lane < Rows ? ds[i * Rows + lane] : A(0);
    const A mean = sum_of_lanes(weight * upstream);
    if (lane < Rows) ds[i * Rows + lane] = a.scale * weight * (upstream - mean);
  }
  __syncthreads();
  for (int c = thread; c < a.width; c += cuda_detail::short_threads) {
    A column[Rows];
    take_column<Rows>(k, stride, b.rows, c, column);
    for (int i = 0; i < b.rows; ++i) a.dqkv[a.query_at(b.first + i, b.head) + c] = T(weigh<Rows>(ds + i * Rows, 1, column));
    take_column<Rows>(q, stride, b.rows, c, column);
    for (int j = 0; j < b.rows; ++j) a.dqkv[a.key_at(b.first + j, b.head) + c] = T(weigh<Rows>(ds + j, Rows, column));
    take_column<Rows>(dy, stride, b.rows, c, column);
    for (int j = 0; j < b.rows; ++j) a.dqkv[a.value_at(b.first + j, b.head) + c] = T(weigh<Rows>(p + j, Rows, column));
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
  const int rows = short_rows_for(longest);
  q.launch("attention_short", dim3(static_cast<unsigned>(a.sequences * a.heads)), dim3(short_threads), short_bytes<T>(rows, a.width, 3, 1),
           rows == 16 ? kernel::attention_short<T, 16> : kernel::attention_short<T, 32>, a);
}
template <class T>
void attention_short_pullback(cuda_queue& q, const attention_arguments<T>& a, const accum_of<T>* lse, index_t longest) {
  const int rows = short_rows_for(longest);
  q.launch("attention_short_pullback", dim3(static_cast<unsigned>(a.sequences * a.heads)), dim3(short_threads),
           short_bytes<T>(rows, a.width, 4, 2), rows == 16 ? kernel::attention_short_pullback<T, 16> : kernel::attention_short_pullback<T, 32>,
           a, lse);
}

}  // namespace cuda_detail
}  // namespace planlm
