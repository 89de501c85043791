/// Attention in bf16 on the tensor cores of sm_80 and later: mma.sync m16n8k16, operands by ldmatrix, tiles by cp.async.
///
/// A warp owns 16 * Fragments rows (queries; keys in the kernel of dK and dV) and keeps their sums in registers. Scores, weights and their
/// gradients never leave registers: the kernel of dK and dV computes S^T and dP^T, so that both results are A operands as they stand.
/// A row of shared memory is a head's width and 16 bytes more: an odd number of 16-byte units, so eight rows at the same column, which is what
/// ldmatrix reads, lie in different banks. Heads are padded with zeros to a width of 32, 64, 96 or 128.
///
///   operations (n queries, n keys, width d): forward 4 n^2 d; dK and dV 8 n^2 d (S, dP, dV, dK), dQ 6 n^2 d (S, dP, dQ); half where causal.
///     The pullback computes S and dP twice: 14 where one kernel with atomic sums of dQ needs 10. That buys one order of sums.
///   bytes at least: qkv and y once (pullback: qkv, y, dy, dqkv); from L2, every block of queries reads its head's K and V
///
/// The pullback's pre-pass writes for each row and head log2 sum exp2 and delta = rowsum(dY o Y), so that P = 2^(c S - log_sum).
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstddef>
#include <type_traits>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/attention_simt.cuh>
#include <planlm/backend/cuda/attention_tiles.hpp>
#include <planlm/backend/cuda/online_softmax.hpp>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/backend/cuda/tensor_core.cuh>
#include <planlm/core/bfloat16.hpp>

namespace planlm::cuda_detail {

/// How a kernel is cut. A block owns `own` rows and walks over tiles of `Other` rows of the other side, of which shared memory holds
/// `Stages`; `Blocks` is how many blocks a multiprocessor shall hold (it bounds the registers).
template <int Width, int Fragments, int Warps, int Other, int Stages, int Blocks>
struct mma_tile {
  static_assert(Width % 16 == 0 && Other % 16 == 0);
  static constexpr int width = Width, fragments = Fragments, warps = Warps, other = Other, stages = Stages, blocks = Blocks;
  static constexpr int threads = 32 * Warps, warp_rows = 16 * Fragments, own = warp_rows * Warps;
  static constexpr int row_bytes = 2 * Width + 16, units = Width / 8, depth = Width / 16;
  static constexpr int own_bytes = own * row_bytes, other_bytes = Other * row_bytes;
};

/// Where a lane points ldmatrix in a 16 x 16 tile: for an A fragment, or for B stored by rows of k (transposed), ...
template <class M>
__device__ unsigned mma_row_lane(int lane) {
  return static_cast<unsigned>((lane % 16) * M::row_bytes + (lane / 16) * 16);
}
/// ... and for two B fragments stored by rows of n.
template <class M>
__device__ unsigned mma_column_lane(int lane) {
  return static_cast<unsigned>((lane % 8 + lane / 16 * 8) * M::row_bytes + (lane / 8 % 2) * 16);
}

/// Starts copying Rows rows of `width` columns to shared memory, zeros beyond `rows` and `width`. A thread keeps to one column of units, so
/// that one pointer walks down the rows.
template <class M, int Rows>
__device__ void mma_load(unsigned to, const bfloat16* from, index_t stride, int rows, int width) {
  constexpr int step = M::threads / M::units;
  const int row = static_cast<int>(threadIdx.x) / M::units, unit = static_cast<int>(threadIdx.x) % M::units;
  if (M::threads % M::units != 0 && row >= step) return;
  const int valid = unit * 8 < width ? rows - row : 0;
  from += row * stride + unit * 8;
  to += static_cast<unsigned>(row * M::row_bytes + unit * 16);
#pragma unroll
  for (int i = 0; i < (Rows + step - 1) / step; ++i) {
    if (Rows % step != 0 && row + i * step >= Rows) break;
    copy_16(to + static_cast<unsigned>(i * step * M::row_bytes), from, i * step < valid);
    from += step * stride;
  }
}

/// A warp's rows as A fragments, out of shared memory.
template <class M>
struct mma_rows {
  unsigned r[M::fragments][M::depth][4];
  __device__ void read(unsigned warp_tile, unsigned row_lane) {
#pragma unroll
    for (int m = 0; m < M::fragments; ++m)
#pragma unroll
      for (int k = 0; k < M::depth; ++k)
        ldmatrix(r[m][k], warp_tile + row_lane + static_cast<unsigned>(m * 16 * M::row_bytes + k * 32));
  }
};
/// The same read anew at every use: fewer registers, more reads.
template <class M>
struct mma_rows_in_memory {
  unsigned at;
  __device__ void read(unsigned warp_tile, unsigned row_lane) { at = warp_tile + row_lane; }
};

template <class M>
__device__ void mma_fragments(unsigned (&a)[M::fragments][4], const mma_rows<M>& rows, int k) {
#pragma unroll
  for (int m = 0; m < M::fragments; ++m)
#pragma unroll
    for (int i = 0; i < 4; ++i) a[m][i] = rows.r[m][k][i];
}
template <class M>
__device__ void mma_fragments(unsigned (&a)[M::fragments][4], const mma_rows_in_memory<M>& rows, int k) {
#pragma unroll
  for (int m = 0; m < M::fragments; ++m) ldmatrix(a[m], rows.at + static_cast<unsigned>(m * 16 * M::row_bytes + k * 32));
}

/// s = (the warp's rows) (the other tile)^T over the head's width.
template <class M, class Rows>
__device__ void mma_scores(float (&s)[M::fragments][M::other / 8][4], const Rows& rows, unsigned other) {
#pragma unroll
  for (int m = 0; m < M::fragments; ++m)
#pragma unroll
    for (int j = 0; j < M::other / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][j][i] = 0;
#pragma unroll
  for (int k = 0; k < M::depth; ++k) {
    unsigned a[M::fragments][4];
    mma_fragments<M>(a, rows, k);
#pragma unroll
    for (int j = 0; j < M::other / 16; ++j) {
      unsigned b[4];
      ldmatrix(b, other + static_cast<unsigned>(j * 16 * M::row_bytes + k * 32));
#pragma unroll
      for (int m = 0; m < M::fragments; ++m) {
        mma(s[m][2 * j], a[m], b[0], b[1]);
        mma(s[m][2 * j + 1], a[m], b[2], b[3]);
      }
    }
  }
}
/// acc += s (the other tile), s rounded to bf16.
template <class M>
__device__ void mma_accumulate(float (&acc)[M::fragments][M::width / 8][4], const float (&s)[M::fragments][M::other / 8][4], unsigned other) {
#pragma unroll
  for (int k = 0; k < M::other / 16; ++k) {
    unsigned a[M::fragments][4];
#pragma unroll
    for (int m = 0; m < M::fragments; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) a[m][i] = pack_bf16(s[m][2 * k + i / 2][i % 2 * 2], s[m][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int d = 0; d < M::depth; ++d) {
      unsigned b[4];
      ldmatrix_transposed(b, other + static_cast<unsigned>(k * 16 * M::row_bytes + d * 32));
#pragma unroll
      for (int m = 0; m < M::fragments; ++m) {
        mma(acc[m][2 * d], a[m], b[0], b[1]);
        mma(acc[m][2 * d + 1], a[m], b[2], b[3]);
      }
    }
  }
}
/// A warp's sums times factor[fragment][half] to memory: through its own rows of shared memory, so that 16 bytes go at a time.
template <class M>
__device__ void mma_store(bfloat16* to, index_t stride, const float (&acc)[M::fragments][M::width / 8][4],
                          const float (&factor)[M::fragments][2], unsigned char* warp_tile, int rows, int width) {
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
  __syncwarp(0xFFFFFFFFu);
#pragma unroll
  for (int m = 0; m < M::fragments; ++m)
#pragma unroll
    for (int j = 0; j < M::width / 8; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<unsigned*>(warp_tile + (m * 16 + h * 8 + g) * M::row_bytes + j * 16 + t * 4) =
            pack_bf16(acc[m][j][2 * h] * factor[m][h], acc[m][j][2 * h + 1] * factor[m][h]);
  __syncwarp(0xFFFFFFFFu);
  for (int i = lane; i < M::warp_rows * M::units; i += 32) {
    const int r = i / M::units, u = i % M::units;
    if (r < rows && u * 8 < width)
      *reinterpret_cast<uint4*>(to + r * stride + u * 8) = *reinterpret_cast<const uint4*>(warp_tile + r * M::row_bytes + u * 16);
  }
}

/// Whether a warp keeps its A operands in registers, in the forward kernel (Q), that of dK and dV, that of dQ.
template <class M>
inline constexpr bool mma_keeps_queries = M::fragments * (M::depth * 4 + M::width / 2 + M::other / 2) <= 176;
template <class M>
using mma_forward_rows = std::conditional_t<mma_keeps_queries<M>, mma_rows<M>, mma_rows_in_memory<M>>;

template <class M>
inline constexpr std::size_t mma_forward_bytes = M::own_bytes + 2 * M::stages * M::other_bytes;
template <class M>
inline constexpr std::size_t mma_keys_bytes = 2 * M::own_bytes + 2 * (2 * M::other_bytes + M::other * sizeof(row_statistics<float>));
template <class M>
inline constexpr std::size_t mma_queries_bytes = 2 * M::own_bytes + 4 * M::other_bytes;

}  // namespace planlm::cuda_detail

namespace planlm::kernel {

/// y and lse of one tile of queries of one head.
///
/// Copies come in the order K0 V0 K1 V1 ..., each its own group. K is free again once all warps have their scores, V once the next scores
/// begin: at each of the two meetings of a step the tile just freed is asked for again, `stages` tiles further on.
template <class M>
__global__ void __launch_bounds__(M::threads, M::blocks) attention_mma(cuda_detail::attention_arguments<bfloat16> a) {
  namespace cd = cuda_detail;
  const int head = static_cast<int>(blockIdx.x / static_cast<unsigned>(a.tiles)), kv = head / (a.heads / a.kv_heads);
  // The last tiles of a causal sequence take longest: they start first.
  const cd::sequence_tile tile = cd::tile_at(a.offsets, a.sequences, M::own, a.tiles - 1 - blockIdx.x % static_cast<unsigned>(a.tiles));
  if (tile.empty()) return;
  unsigned char* const memory = cd::dynamic_shared();
  const unsigned q_tile = cd::shared_address(memory), k_tile = q_tile + M::own_bytes, v_tile = k_tile + M::stages * M::other_bytes;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const unsigned row_lane = cd::mma_row_lane<M>(lane), column_lane = cd::mma_column_lane<M>(lane);
  const unsigned warp_at = static_cast<unsigned>(warp * M::warp_rows * M::row_bytes);

  const index_t stride = a.packed();
  const bfloat16* const keys = a.qkv + a.key_at(tile.begin, kv);
  const bfloat16* const values = a.qkv + a.value_at(tile.begin, kv);
  const int tiles = cd::key_tiles(tile.first, M::own, tile.length, M::other, a.causal);
  const int whole = cd::whole_key_tiles(tile.first + warp * M::warp_rows, tile.length, M::other, a.causal);
  const auto load = [&](unsigned to, const bfloat16* from, int j) {
    if (j < tiles)
      cd::mma_load<M, M::other>(to + static_cast<unsigned>(j % M::stages * M::other_bytes), from + index_t{j} * M::other * stride, stride,
                                tile.length - j * M::other, a.width);
    cd::copies_commit();
  };
  cd::mma_load<M, M::own>(q_tile, a.qkv + a.query_at(index_t{tile.begin} + tile.first, head), stride, tile.rows(), a.width);
  load(k_tile, keys, 0);
  for (int j = 1; j < M::stages; ++j) {
    load(v_tile, values, j - 1);
    load(k_tile, keys, j);
  }

  cd::mma_forward_rows<M> q;
  float out[M::fragments][M::width / 8][4] = {};
  cd::online_softmax<float, cd::exp2_approximate> row[M::fragments][2];
  const float c = a.scale * static_cast<float>(cd::log2_e);
  const int last_row = tile.first + warp * M::warp_rows + M::warp_rows - 1;
  for (int j = 0; j < tiles; ++j) {
    const int key = j * M::other;
    const bool live = !a.causal || key <= last_row;  // else all of the tile is masked for this warp
    const unsigned stage = static_cast<unsigned>(j % M::stages * M::other_bytes);
    cd::copies_wait<2 * (M::stages - 1)>();
    __syncthreads();
    load(v_tile, values, j + M::stages - 1);
    if (j == 0) q.read(q_tile + warp_at, row_lane);
    float s[M::fragments][M::other / 8][4];
    if (live) cd::mma_scores<M>(s, q, k_tile + stage + column_lane);
    cd::copies_wait<2 * (M::stages - 1)>();
    __syncthreads();
    load(k_tile, keys, j + M::stages);
    if (!live) continue;
    if (j >= whole)
#pragma unroll
      for (int m = 0; m < M::fragments; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int last = cd::last_key(tile.first + warp * M::warp_rows + m * 16 + h * 8 + g, tile.length, a.causal) - key - 2 * t;
#pragma unroll
          for (int i = 0; i < M::other / 8; ++i) {
            if (i * 8 > last) s[m][i][2 * h] = cd::masked_score<float>;
            if (i * 8 + 1 > last) s[m][i][2 * h + 1] = cd::masked_score<float>;
          }
        }
#pragma unroll
    for (int m = 0; m < M::fragments; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float top = s[m][0][2 * h];
#pragma unroll
        for (int i = 0; i < M::other / 8; ++i) top = fmaxf(top, fmaxf(s[m][i][2 * h], s[m][i][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
        const float raise = row[m][h].raise(top, c);
#pragma unroll
        for (int i = 0; i < M::width / 8; ++i) out[m][i][2 * h] *= raise, out[m][i][2 * h + 1] *= raise;
#pragma unroll
        for (int i = 0; i < M::other / 8; ++i) {
          s[m][i][2 * h] = row[m][h].weight(s[m][i][2 * h], c);
          s[m][i][2 * h + 1] = row[m][h].weight(s[m][i][2 * h + 1], c);
          row[m][h].total += s[m][i][2 * h] + s[m][i][2 * h + 1];
        }
      }
    cd::mma_accumulate<M>(out, s, v_tile + stage + row_lane);
  }

  float factor[M::fragments][2];
  const index_t first = index_t{tile.begin} + tile.first + warp * M::warp_rows;
  const int rows = tile.rows() - warp * M::warp_rows;
#pragma unroll
  for (int m = 0; m < M::fragments; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float& total = row[m][h].total;
      total += __shfl_xor_sync(0xFFFFFFFFu, total, 1);
      total += __shfl_xor_sync(0xFFFFFFFFu, total, 2);
      factor[m][h] = 1.0f / total;
      const int r = m * 16 + h * 8 + g;
      if (t == 0 && r < rows) a.lse[(first + r) * a.heads + head] = row[m][h].log_sum(a.scale);
    }
  cd::mma_store<M>(a.y + a.out_at(first, head), index_t{a.heads} * a.width, out, factor, memory + warp_at, rows, a.width);
}

}  // namespace planlm::kernel
