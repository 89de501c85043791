/// Attention in ordinary arithmetic: float32 without TF32, double, and bf16 whose rows are not 16-byte aligned. Any head width up to 256.
///
/// A block of 16 x 16 threads works on a tile of `Tile` rows (queries, or keys in the kernel of dK and dV) of one head and walks over the
/// tiles of the other side; thread (x, y) keeps rows y + 16 i, columns x + 16 j. Nothing of size T x T exists. Tiles fit 99 KB of shared
/// memory (all of sm_86 and sm_89), but for double wider than 128 in the pullback: 132 KB.
///
///   operations (n queries, n keys, width d): forward 4 n^2 d; pullback 14 n^2 d, as two kernels each recompute S and dP (a third kernel's
///   atomics on dQ would save 4 n^2 d and lose the fixed order of sums); half of each where causal
///   bytes at least: qkv and y once; in tiles: K and V once per tile of queries
///
/// Pullback: P = exp(scale S - lse), dP = dY V^T, dS = P o (dP - delta), delta = rowsum(dY o Y); dV = P^T dY, dK = scale dS^T Q,
/// dQ = scale dS K. Every sum has one order: no atomics.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/attention_arguments.cuh>
#include <planlm/backend/cuda/attention_tiles.hpp>
#include <planlm/backend/cuda/online_softmax.hpp>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/backend/cuda/tensor_core.cuh>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/error.hpp>

namespace planlm::cuda_detail {

struct exp2_exact {
  __device__ float operator()(float x) const { return exp2f(x); }
  __device__ double operator()(double x) const { return exp2(x); }
};

/// Blocks of a multiprocessor that the registers shall suffice for.
template <class A>
inline constexpr int simt_blocks = sizeof(A) == 4 ? 2 : 1;

/// Sizes of a SIMT kernel on numbers A with heads padded to Width.
template <class A, int Width, int Tile>
struct simt_tile {
  static constexpr int threads = 256, rows = Tile / 16;
  static constexpr int lanes = 16 / static_cast<int>(sizeof(A));                       // of a 16-byte pack
  static constexpr int out_lanes = Width / 16 < lanes ? Width / 16 : lanes;            // of a pack of output columns
  static constexpr int packs = Width / 16 / out_lanes;                                 // output packs of a thread and row
  static constexpr int stride = Width + lanes, weight_stride = Tile + lanes;           // the extra pack spreads rows over banks
  static constexpr std::size_t operand = std::size_t{Tile} * stride, weights = std::size_t{Tile} * weight_stride;
  static constexpr std::size_t forward_bytes = (2 * operand + weights) * sizeof(A);
  static constexpr std::size_t pullback_bytes = (4 * operand + weights) * sizeof(A);
};

template <class A, int N>
struct alignas(sizeof(A) * N) simt_pack {
  A v[N];
};
template <int N, class A>
__device__ inline simt_pack<A, N> pack_at(const A* p) {
  return *reinterpret_cast<const simt_pack<A, N>*>(p);
}

/// Rows [0, Tile) of `width` columns into shared memory, zeros beyond `rows` and `width`: there for all after simt_arrived. `aligned`: every
/// row begins at a multiple of 16 bytes and holds a whole number of packs, which then travel without passing through registers.
template <class S, int Width, int Tile, class T, class A>
__device__ void simt_load(A* to, const T* from, index_t stride, int rows, int width, bool aligned) {
  if constexpr (std::is_same_v<T, A>)
    if (aligned) {
      constexpr int packs = Width / S::lanes, step = S::threads / packs;
      const int row = static_cast<int>(threadIdx.x) / packs, column = static_cast<int>(threadIdx.x) % packs * S::lanes;
      from += row * stride + column;
#pragma unroll
      for (int r = row; r < Tile; r += step, from += step * stride)
        copy_16(shared_address(to + r * S::stride + column), from, r < rows && column < width);
      return;
    }
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < Tile * Width; i += S::threads) {
    const int r = i / Width, c = i % Width;
    to[r * S::stride + c] = r < rows && c < width ? static_cast<A>(from[r * stride + c]) : A(0);
  }
}
/// Everything that the block's threads loaded so far can be read.
__device__ inline void simt_arrived() {
  copies_commit();
  copies_wait<0>();
  __syncthreads();
}
/// s[i][j] = <row y + 16 i of a, row x + 16 j of b>.
template <class S, class A>
__device__ void simt_scores(A (&s)[S::rows][S::rows], const A* a, const A* b, int x, int y, int width) {
  for (int i = 0; i < S::rows; ++i)
    for (int j = 0; j < S::rows; ++j) s[i][j] = 0;
#pragma unroll 1
  for (int k = 0; k < width; k += S::lanes) {
    simt_pack<A, S::lanes> left[S::rows], right[S::rows];
#pragma unroll
    for (int i = 0; i < S::rows; ++i) {
      left[i] = pack_at<S::lanes>(a + (y + 16 * i) * S::stride + k);
      right[i] = pack_at<S::lanes>(b + (x + 16 * i) * S::stride + k);
    }
#pragma unroll
    for (int e = 0; e < S::lanes; ++e)
#pragma unroll
      for (int i = 0; i < S::rows; ++i)
#pragma unroll
        for (int j = 0; j < S::rows; ++j) s[i][j] += left[i].v[e] * right[j].v[e];
  }
}
/// acc[i] += sum over the tile's columns k of w[y + 16 i, k] times row k of b.
template <class S, int Tile, class A>
__device__ void simt_accumulate(A (&acc)[S::rows][S::packs][S::out_lanes], const A* w, const A* b, int x, int y) {
#pragma unroll 1
  for (int k = 0; k < Tile; k += S::lanes) {
    simt_pack<A, S::lanes> weight[S::rows];
#pragma unroll
    for (int i = 0; i < S::rows; ++i) weight[i] = pack_at<S::lanes>(w + (y + 16 * i) * S::weight_stride + k);
#pragma unroll
    for (int e = 0; e < S::lanes; ++e)
#pragma unroll
      for (int p = 0; p < S::packs; ++p) {
        const auto value = pack_at<S::out_lanes>(b + (k + e) * S::stride + (x + 16 * p) * S::out_lanes);
#pragma unroll
        for (int i = 0; i < S::rows; ++i)
#pragma unroll
          for (int c = 0; c < S::out_lanes; ++c) acc[i][p][c] += weight[i].v[e] * value.v[c];
      }
  }
}
/// A tile of weights into shared memory. Only the 16 threads of the same y read a row, so the warp meets, not the block.
template <class S, class A>
__device__ void simt_put(A* w, const A (&s)[S::rows][S::rows], int x, int y) {
  __syncwarp(0xFFFFFFFFu);
  for (int i = 0; i < S::rows; ++i)
    for (int j = 0; j < S::rows; ++j) w[(y + 16 * i) * S::weight_stride + x + 16 * j] = s[i][j];
  __syncwarp(0xFFFFFFFFu);
}
/// Row y + 16 i times factor[i] to memory.
template <class S, class T, class A>
__device__ void simt_store(T* to, index_t stride, const A (&acc)[S::rows][S::packs][S::out_lanes], const A (&factor)[S::rows], int rows,
                           int width, int x, int y) {
  for (int i = 0; i < S::rows; ++i)
    for (int p = 0; p < S::packs; ++p)
      for (int c = 0; c < S::out_lanes; ++c) {
        const int row = y + 16 * i, column = (x + 16 * p) * S::out_lanes + c;
        if (row < rows && column < width) to[row * stride + column] = static_cast<T>(acc[i][p][c] * factor[i]);
      }
}
template <class A>
__device__ A simt_row_max(A v) {
  for (int step = 8; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(0xFFFFFFFFu, v, step);
    v = other > v ? other : v;
  }
  return v;
}
template <class A>
__device__ A simt_row_sum(A v) {
  for (int step = 8; step > 0; step /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, step);
  return v;
}

}  // namespace planlm::cuda_detail

namespace planlm::kernel {

/// y and lse of one tile of queries of one head.
template <class T, int Width, int Tile>
__global__ void __launch_bounds__(256, cuda_detail::simt_blocks<accum_of<T>>)
    attention_simt(cuda_detail::attention_arguments<T> a) {
  namespace cd = cuda_detail;
  using A = accum_of<T>;
  using S = cd::simt_tile<A, Width, Tile>;
  const int head = static_cast<int>(blockIdx.x / a.tiles), kv = head / (a.heads / a.kv_heads);
  // The last tiles of a causal sequence take longest: they start first.
  const cd::sequence_tile tile = cd::tile_at(a.offsets, a.sequences, Tile, a.tiles - 1 - blockIdx.x % a.tiles);
  if (tile.empty()) return;
  A* const q = reinterpret_cast<A*>(cd::dynamic_shared());
  A* const kv_tile = q + S::operand;
  A* const weights = kv_tile + S::operand;
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  const index_t first = index_t{tile.begin} + tile.first;
  cd::simt_load<S, Width, Tile>(q, a.qkv + a.query_at(first, head), a.packed(), tile.rows(), a.width, a.aligned);

  A out[S::rows][S::packs][S::out_lanes] = {}, factor[S::rows];
  cd::online_softmax<A, cd::exp2_exact> row[S::rows];
  const A c = a.scale * static_cast<A>(cd::log2_e);
  const int tiles = cd::key_tiles(tile.first, Tile, tile.length, Tile, a.causal);
  for (int t = 0; t < tiles; ++t) {
    const int key = t * Tile;
    __syncthreads();
    cd::simt_load<S, Width, Tile>(kv_tile, a.qkv + a.key_at(index_t{tile.begin} + key, kv), a.packed(), tile.length - key, a.width, a.aligned);
    cd::simt_arrived();
    A s[S::rows][S::rows];
    cd::simt_scores<S>(s, q, kv_tile, x, y, a.width);
    __syncthreads();
    cd::simt_load<S, Width, Tile>(kv_tile, a.qkv + a.value_at(index_t{tile.begin} + key, kv), a.packed(), tile.length - key, a.width, a.aligned);
    for (int i = 0; i < S::rows; ++i) {
      const int last = cd::last_key(tile.first + y + 16 * i, tile.length, a.causal);
      for (int j = 0; j < S::rows; ++j)
        if (key + x + 16 * j > last) s[i][j] = cd::masked_score<A>;
      A top = s[i][0];
      for (int j = 1; j < S::rows; ++j) top = s[i][j] > top ? s[i][j] : top;
      const A raise = row[i].raise(cd::simt_row_max(top), c);
      for (int p = 0; p < S::packs; ++p)
        for (int e = 0; e < S::out_lanes; ++e) out[i][p][e] *= raise;
      for (int j = 0; j < S::rows; ++j) row[i].total += s[i][j] = row[i].weight(s[i][j], c);
    }
    cd::simt_put<S>(weights, s, x, y);
    cd::simt_arrived();
    cd::simt_accumulate<S, Tile>(out, weights, kv_tile, x, y);
  }
  for (int i = 0; i < S::rows; ++i) {
    row[i].total = cd::simt_row_sum(row[i].total);
    factor[i] = A(1) / row[i].total;
    if (x == 0 && y + 16 * i < tile.rows())
      a.lse[(first + y + 16 * i) * a.heads + head] = row[i].log_sum(a.scale);
  }
  cd::simt_store<S>(a.y + a.out_at(first, head), index_t{a.heads} * a.width, out, factor, tile.rows(), a.width, x, y);
}

/// Row statistics of the pullback, one warp per row and head.
template <class T>
__global__ void attention_statistics(cuda_detail::attention_arguments<T> a, const T* y, const accum_of<T>* lse,
                                     cuda_detail::row_statistics<accum_of<T>>* statistics) {
  using A = accum_of<T>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (index_t r = index_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32; r < a.n * a.heads; r += index_t{gridDim.x} * (blockDim.x / 32)) {
    A sum = 0;
    for (int i = lane; i < a.width; i += 32) sum += static_cast<A>(y[r * a.width + i]) * static_cast<A>(a.dy[r * a.width + i]);
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
    if (lane == 0) statistics[(r % a.heads) * a.n + r / a.heads] = {lse[r] * static_cast<A>(cuda_detail::log2_e), sum};
  }
}

/// dK and dV of one tile of keys: over the query heads that share it, over the tiles of queries that see it.
template <class T, int Width, int Tile>
__global__ void __launch_bounds__(256, cuda_detail::simt_blocks<accum_of<T>>)
    attention_simt_keys(cuda_detail::attention_arguments<T> a) {
  namespace cd = cuda_detail;
  using A = accum_of<T>;
  using S = cd::simt_tile<A, Width, Tile>;
  const int kv = static_cast<int>(blockIdx.x / a.tiles), group = a.heads / a.kv_heads;
  const cd::sequence_tile tile = cd::tile_at(a.offsets, a.sequences, Tile, blockIdx.x % a.tiles);
  if (tile.empty()) return;
  A* const k = reinterpret_cast<A*>(cd::dynamic_shared());
  A *const v = k + S::operand, *const q = v + S::operand, *const dy = q + S::operand, *const weights = dy + S::operand;
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  const index_t first = index_t{tile.begin} + tile.first;
  cd::simt_load<S, Width, Tile>(k, a.qkv + a.key_at(first, kv), a.packed(), tile.rows(), a.width, a.aligned);
  cd::simt_load<S, Width, Tile>(v, a.qkv + a.value_at(first, kv), a.packed(), tile.rows(), a.width, a.aligned);

  A dk[S::rows][S::packs][S::out_lanes] = {}, dv[S::rows][S::packs][S::out_lanes] = {};
  const A c = a.scale * static_cast<A>(cd::log2_e);
  for (int head = kv * group; head < (kv + 1) * group; ++head)
    for (int query = cd::first_query_tile(tile.first, Tile, a.causal) * Tile; query < tile.length; query += Tile) {
      const index_t row = index_t{tile.begin} + query;
      __syncthreads();
      cd::simt_load<S, Width, Tile>(q, a.qkv + a.query_at(row, head), a.packed(), tile.length - query, a.width, a.aligned);
      cd::simt_load<S, Width, Tile>(dy, a.dy + a.out_at(row, head), index_t{a.heads} * a.width, tile.length - query, a.width, a.aligned);
      cd::simt_arrived();
      A s[S::rows][S::rows], ds[S::rows][S::rows];
      cd::simt_scores<S>(s, k, q, x, y, a.width);
      cd::simt_scores<S>(ds, v, dy, x, y, a.width);
      for (int j = 0; j < S::rows; ++j) {
        const int at = query + x + 16 * j;
        const cd::row_statistics<A> own =
            at < tile.length ? a.statistics[head * a.n + tile.begin + at] : cd::row_statistics<A>{A(0), A(0)};
        for (int i = 0; i < S::rows; ++i) {
          const bool seen = at < tile.length && tile.first + y + 16 * i <= cd::last_key(at, tile.length, a.causal);
          s[i][j] = seen ? cd::exp2_exact{}(s[i][j] * c - own.log_sum) : A(0);
          ds[i][j] = s[i][j] * (ds[i][j] - own.delta);
        }
      }
      cd::simt_put<S>(weights, s, x, y);
      cd::simt_accumulate<S, Tile>(dv, weights, dy, x, y);
      cd::simt_put<S>(weights, ds, x, y);
      cd::simt_accumulate<S, Tile>(dk, weights, q, x, y);
    }
  A one[S::rows], scale[S::rows];
  for (int i = 0; i < S::rows; ++i) one[i] = A(1), scale[i] = a.scale;
  cd::simt_store<S>(a.dqkv + a.key_at(first, kv), a.packed(), dk, scale, tile.rows(), a.width, x, y);
  cd::simt_store<S>(a.dqkv + a.value_at(first, kv), a.packed(), dv, one, tile.rows(), a.width, x, y);
}

/// dQ of one tile of queries of one head.
template <class T, int Width, int Tile>
__global__ void __launch_bounds__(256, cuda_detail::simt_blocks<accum_of<T>>)
    attention_simt_queries(cuda_detail::attention_arguments<T> a) {
  namespace cd = cuda_detail;
  using A = accum_of<T>;
  using S = cd::simt_tile<A, Width, Tile>;
  const int head = static_cast<int>(blockIdx.x / a.tiles), kv = head / (a.heads / a.kv_heads);
  const cd::sequence_tile tile = cd::tile_at(a.offsets, a.sequences, Tile, a.tiles - 1 - blockIdx.x % a.tiles);
  if (tile.empty()) return;
  A* const q = reinterpret_cast<A*>(cd::dynamic_shared());
  A *const dy = q + S::operand, *const k = dy + S::operand, *const v = k + S::operand, *const weights = v + S::operand;
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  const index_t first = index_t{tile.begin} + tile.first;
  cd::simt_load<S, Width, Tile>(q, a.qkv + a.query_at(first, head), a.packed(), tile.rows(), a.width, a.aligned);
  cd::simt_load<S, Width, Tile>(dy, a.dy + a.out_at(first, head), index_t{a.heads} * a.width, tile.rows(), a.width, a.aligned);
  cd::row_statistics<A> own[S::rows];
  for (int i = 0; i < S::rows; ++i)
    own[i] = y + 16 * i < tile.rows() ? a.statistics[head * a.n + first + y + 16 * i] : cd::row_statistics<A>{A(0), A(0)};

  A dq[S::rows][S::packs][S::out_lanes] = {}, scale[S::rows];
  const A c = a.scale * static_cast<A>(cd::log2_e);
  const int tiles = cd::key_tiles(tile.first, Tile, tile.length, Tile, a.causal);
  for (int t = 0; t < tiles; ++t) {
    const int key = t * Tile;
    const index_t row = index_t{tile.begin} + key;
    __syncthreads();
    cd::simt_load<S, Width, Tile>(k, a.qkv + a.key_at(row, kv), a.packed(), tile.length - key, a.width, a.aligned);
    cd::simt_load<S, Width, Tile>(v, a.qkv + a.value_at(row, kv), a.packed(), tile.length - key, a.width, a.aligned);
    cd::simt_arrived();
    A s[S::rows][S::rows], ds[S::rows][S::rows];
    cd::simt_scores<S>(s, q, k, x, y, a.width);
    cd::simt_scores<S>(ds, dy, v, x, y, a.width);
    for (int i = 0; i < S::rows; ++i) {
      const int last = cd::last_key(tile.first + y + 16 * i, tile.length, a.causal);
      for (int j = 0; j < S::rows; ++j) {
        const bool seen = y + 16 * i < tile.rows() && key + x + 16 * j <= last;
        ds[i][j] = seen ? cd::exp2_exact{}(s[i][j] * c - own[i].log_sum) * (ds[i][j] - own[i].delta) : A(0);
      }
    }
    cd::simt_put<S>(weights, ds, x, y);
    cd::simt_accumulate<S, Tile>(dq, weights, k, x, y);
  }
  for (int i = 0; i < S::rows; ++i) scale[i] = a.scale;
  cd::simt_store<S>(a.dqkv + a.query_at(first, head), a.packed(), dq, scale, tile.rows(), a.width, x, y);
}

}  // namespace planlm::kernel

namespace planlm::cuda_detail {

/// The largest tile of 64, 32, 16 rows whose shared memory fits every architecture from sm_80 on; 16 where none does.
template <class A, int Width, bool Pullback>
constexpr int simt_rows() {
  constexpr std::size_t most = 99 * 1024;
  constexpr auto bytes = [](auto tile) { return Pullback ? decltype(tile)::pullback_bytes : decltype(tile)::forward_bytes; };
  return bytes(simt_tile<A, Width, 64>{}) <= most ? 64 : bytes(simt_tile<A, Width, 32>{}) <= most ? 32 : 16;
}

/// f(std::integral_constant<int, W>) for the smallest padded head width W that holds `width`.
template <class F>
void with_simt_width(int width, F f) {
  if (width <= 32) return f(std::integral_constant<int, 32>{});
  if (width <= 64) return f(std::integral_constant<int, 64>{});
  if (width <= 128) return f(std::integral_constant<int, 128>{});
  if (width <= 256) return f(std::integral_constant<int, 256>{});
  throw shape_error("attention: a head is " + std::to_string(width) + " wide; at most 256 on the GPU");
}

template <class T>
bool simt_aligned(const attention_arguments<T>& a, const void* p) {
  return a.width % (16 / static_cast<int>(sizeof(T))) == 0 && reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}
template <class T>
void attention_simt(cuda_queue& queue, attention_arguments<T> a) {
  a.aligned = simt_aligned(a, a.qkv);
  with_simt_width(a.width, [&](auto width) {
    using A = accum_of<T>;
    constexpr int rows = simt_rows<A, width(), false>();
    a.tiles = tile_numbers(a.n, a.sequences, rows);
    queue.launch("attention_simt", attention_grid(a, a.heads), dim3(256), simt_tile<A, width(), rows>::forward_bytes,
                 kernel::attention_simt<T, width(), rows>, a);
  });
}
/// `a.statistics` is there.
template <class T>
void attention_simt_pullback(cuda_queue& queue, attention_arguments<T> a) {
  a.aligned = simt_aligned(a, a.qkv) && simt_aligned(a, a.dy);
  with_simt_width(a.width, [&](auto width) {
    using A = accum_of<T>;
    constexpr int rows = simt_rows<A, width(), true>();
    constexpr std::size_t bytes = simt_tile<A, width(), rows>::pullback_bytes;
    a.tiles = tile_numbers(a.n, a.sequences, rows);
    queue.launch("attention_simt_keys", attention_grid(a, a.kv_heads), dim3(256), bytes, kernel::attention_simt_keys<T, width(), rows>, a);
    queue.launch("attention_simt_queries", attention_grid(a, a.heads), dim3(256), bytes, kernel::attention_simt_queries<T, width(), rows>, a);
  });
}

}  // namespace planlm::cuda_detail
