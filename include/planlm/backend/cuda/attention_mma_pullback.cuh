/// The pullback of attention in bf16 on the tensor cores of sm_80 and later; tiles, fragments and costs are in attention_mma.cuh.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstddef>
#include <type_traits>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/attention_mma.cuh>

namespace planlm::kernel {

/// Row statistics of the pullback: eight lanes per row and head, 16 bytes at a time.
/// Bytes: 4 n width heads read, 12 n heads read and written.
template <class T>
__global__ void attention_statistics_packed(cuda_detail::attention_arguments<T> a, const T* y, const float* lse,
                                            cuda_detail::row_statistics<float>* statistics) {
  const int part = static_cast<int>(threadIdx.x) % 8;
  const index_t all = a.n * a.heads, step = index_t{gridDim.x} * (blockDim.x / 8);
  // All lanes of a warp go round together: the last round may have nothing for some of them.
  for (index_t from = index_t{blockIdx.x} * (blockDim.x / 8); from < all; from += step) {
    const index_t r = from + threadIdx.x / 8;
    float sum = 0;
    if (r < all)
      for (int u = part * 8; u < a.width; u += 64) {
        struct alignas(16) unit {
          T v[8];
        };
        const unit left = *reinterpret_cast<const unit*>(y + r * a.width + u);
        const unit right = *reinterpret_cast<const unit*>(a.dy + r * a.width + u);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += static_cast<float>(left.v[i]) * static_cast<float>(right.v[i]);
      }
    for (int other = 4; other > 0; other /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, other);
    if (r < all && part == 0) statistics[(r % a.heads) * a.n + r / a.heads] = {lse[r] * static_cast<float>(cuda_detail::log2_e), sum};
  }
}

/// dK and dV of one tile of keys: over the query heads that share it, over the tiles of queries that see it. Two tiles of Q and dY are in
/// shared memory, one being used while the next arrives. Rows of queries beyond the sequence are zero, so they add nothing; keys beyond it
/// are rows of their own, which are not stored.
template <class M, class Rows>
__global__ void __launch_bounds__(M::threads, M::blocks) attention_mma_keys(cuda_detail::attention_arguments<bfloat16> a) {
  namespace cd = cuda_detail;
  const int kv = static_cast<int>(blockIdx.x / static_cast<unsigned>(a.tiles)), group = a.heads / a.kv_heads;
  const cd::sequence_tile tile = cd::tile_at(a.offsets, a.sequences, M::own, blockIdx.x % static_cast<unsigned>(a.tiles));
  if (tile.empty()) return;
  constexpr unsigned statistics_bytes = M::other * sizeof(cd::row_statistics<float>);
  unsigned char* const memory = cd::dynamic_shared();
  const unsigned k_tile = cd::shared_address(memory), v_tile = k_tile + M::own_bytes, q_tile = v_tile + M::own_bytes;
  const unsigned dy_tile = q_tile + 2 * M::other_bytes, statistics = dy_tile + 2 * M::other_bytes;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const unsigned row_lane = cd::mma_row_lane<M>(lane), column_lane = cd::mma_column_lane<M>(lane);
  const unsigned warp_at = static_cast<unsigned>(warp * M::warp_rows * M::row_bytes);

  const index_t stride = a.packed(), out_stride = index_t{a.heads} * a.width;
  const int first_tile = cd::first_query_tile(tile.first, M::other, a.causal);
  const int tiles = (tile.length + M::other - 1) / M::other - first_tile, steps = group * tiles;
  const auto load = [&](int step) {
    if (step < steps) {
      const int head = kv * group + step / tiles, query = (first_tile + step % tiles) * M::other, rows = tile.length - query;
      const index_t row = index_t{tile.begin} + query;
      const unsigned at = static_cast<unsigned>(step % 2);
      cd::mma_load<M, M::other>(q_tile + at * M::other_bytes, a.qkv + a.query_at(row, head), stride, rows, a.width);
      cd::mma_load<M, M::other>(dy_tile + at * M::other_bytes, a.dy + a.out_at(row, head), out_stride, rows, a.width);
      const cd::row_statistics<float>* from = a.statistics + head * a.n + row;
      for (int r = static_cast<int>(threadIdx.x); r < M::other; r += M::threads)
        cd::copy_8(statistics + at * statistics_bytes + static_cast<unsigned>(r * 8), r < rows ? from + r : from, r < rows);
    }
    cd::copies_commit();
  };
  cd::mma_load<M, M::own>(k_tile, a.qkv + a.key_at(index_t{tile.begin} + tile.first, kv), stride, tile.rows(), a.width);
  cd::mma_load<M, M::own>(v_tile, a.qkv + a.value_at(index_t{tile.begin} + tile.first, kv), stride, tile.rows(), a.width);
  load(0);

  Rows k, v;
  float dk[M::fragments][M::width / 8][4] = {}, dv[M::fragments][M::width / 8][4] = {};
  const float c = a.scale * static_cast<float>(cd::log2_e);
  const int first_key = tile.first + warp * M::warp_rows;
  for (int step = 0; step < steps; ++step) {
    cd::copies_wait<0>();
    __syncthreads();
    load(step + 1);
    if (step == 0) {
      k.read(k_tile + warp_at, row_lane);
      v.read(v_tile + warp_at, row_lane);
    }
    const int query = (first_tile + step % tiles) * M::other;
    if (a.causal && query + M::other - 1 < first_key) continue;  // no query of this tile sees a key of this warp
    const unsigned at = static_cast<unsigned>(step % 2), q_at = q_tile + at * M::other_bytes, dy_at = dy_tile + at * M::other_bytes;
    const unsigned char* const row = memory + (statistics - k_tile) + at * statistics_bytes + t * 16;
    float s[M::fragments][M::other / 8][4], ds[M::fragments][M::other / 8][4];
    cd::mma_scores<M>(s, k, q_at + column_lane);
    const bool masked = a.causal && query < first_key + M::warp_rows - 1;
#pragma unroll
    for (int j = 0; j < M::other / 8; ++j) {
      const float4 own = *reinterpret_cast<const float4*>(row + j * 64);  // log_sum, delta of two neighbouring queries
#pragma unroll
      for (int m = 0; m < M::fragments; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[m][j][i] = cd::exp2_approximate{}(s[m][j][i] * c - (i % 2 == 0 ? own.x : own.z));
          if (masked && query + j * 8 + 2 * t + i % 2 < first_key + m * 16 + i / 2 * 8 + g) s[m][j][i] = 0;
        }
    }
    cd::mma_accumulate<M>(dv, s, dy_at + row_lane);
    cd::mma_scores<M>(ds, v, dy_at + column_lane);
#pragma unroll
    for (int j = 0; j < M::other / 8; ++j) {
      const float4 own = *reinterpret_cast<const float4*>(row + j * 64);
#pragma unroll
      for (int m = 0; m < M::fragments; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) ds[m][j][i] = s[m][j][i] * (ds[m][j][i] - (i % 2 == 0 ? own.y : own.w));
    }
    cd::mma_accumulate<M>(dk, ds, q_at + row_lane);
  }

  float one[M::fragments][2], scale[M::fragments][2];
#pragma unroll
  for (int m = 0; m < M::fragments; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) one[m][h] = 1.0f, scale[m][h] = a.scale;
  const index_t first = index_t{tile.begin} + first_key;
  const int rows = tile.rows() - warp * M::warp_rows;
  cd::mma_store<M>(a.dqkv + a.key_at(first, kv), stride, dk, scale, memory + warp_at, rows, a.width);
  cd::mma_store<M>(a.dqkv + a.value_at(first, kv), stride, dv, one, memory + M::own_bytes + warp_at, rows, a.width);
}

/// dQ of one tile of queries of one head. Two tiles of K and V are in shared memory, one being used while the next arrives.
template <class M, class Rows>
__global__ void __launch_bounds__(M::threads, M::blocks) attention_mma_queries(cuda_detail::attention_arguments<bfloat16> a) {
  namespace cd = cuda_detail;
  const int head = static_cast<int>(blockIdx.x / static_cast<unsigned>(a.tiles)), kv = head / (a.heads / a.kv_heads);
  const cd::sequence_tile tile = cd::tile_at(a.offsets, a.sequences, M::own, a.tiles - 1 - blockIdx.x % static_cast<unsigned>(a.tiles));
  if (tile.empty()) return;
  unsigned char* const memory = cd::dynamic_shared();
  const unsigned q_tile = cd::shared_address(memory), dy_tile = q_tile + M::own_bytes, k_tile = dy_tile + M::own_bytes;
  const unsigned v_tile = k_tile + 2 * M::other_bytes;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const unsigned row_lane = cd::mma_row_lane<M>(lane), column_lane = cd::mma_column_lane<M>(lane);
  const unsigned warp_at = static_cast<unsigned>(warp * M::warp_rows * M::row_bytes);

  const index_t stride = a.packed(), out_stride = index_t{a.heads} * a.width;
  const int first_row = tile.first + warp * M::warp_rows;
  const index_t first = index_t{tile.begin} + first_row;
  const int tiles = cd::key_tiles(tile.first, M::own, tile.length, M::other, a.causal);
  const int whole = cd::whole_key_tiles(first_row, tile.length, M::other, a.causal);
  const auto load = [&](int j) {
    if (j < tiles) {
      const index_t row = index_t{tile.begin} + j * M::other;
      const unsigned at = static_cast<unsigned>(j % 2 * M::other_bytes);
      const int rows = tile.length - j * M::other;
      cd::mma_load<M, M::other>(k_tile + at, a.qkv + a.key_at(row, kv), stride, rows, a.width);
      cd::mma_load<M, M::other>(v_tile + at, a.qkv + a.value_at(row, kv), stride, rows, a.width);
    }
    cd::copies_commit();
  };
  cd::mma_load<M, M::own>(q_tile, a.qkv + a.query_at(index_t{tile.begin} + tile.first, head), stride, tile.rows(), a.width);
  cd::mma_load<M, M::own>(dy_tile, a.dy + a.out_at(index_t{tile.begin} + tile.first, head), out_stride, tile.rows(), a.width);
  load(0);
  cd::row_statistics<float> own[M::fragments][2];
#pragma unroll
  for (int m = 0; m < M::fragments; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = m * 16 + h * 8 + g;
      own[m][h] = first_row + r < tile.length ? a.statistics[head * a.n + first + r] : cd::row_statistics<float>{0.0f, 0.0f};
    }

  Rows q, dy;
  float dq[M::fragments][M::width / 8][4] = {};
  const float c = a.scale * static_cast<float>(cd::log2_e);
  for (int j = 0; j < tiles; ++j) {
    cd::copies_wait<0>();
    __syncthreads();
    load(j + 1);
    if (j == 0) {
      q.read(q_tile + warp_at, row_lane);
      dy.read(dy_tile + warp_at, row_lane);
    }
    const int key = j * M::other;
    if (a.causal && key > first_row + M::warp_rows - 1) continue;  // all of the tile is masked for this warp
    const unsigned at = static_cast<unsigned>(j % 2 * M::other_bytes);
    float s[M::fragments][M::other / 8][4], ds[M::fragments][M::other / 8][4];
    cd::mma_scores<M>(s, q, k_tile + at + column_lane);
    cd::mma_scores<M>(ds, dy, v_tile + at + column_lane);
#pragma unroll
    for (int m = 0; m < M::fragments; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int last = j >= whole ? cd::last_key(first_row + m * 16 + h * 8 + g, tile.length, a.causal) - key - 2 * t : M::other;
#pragma unroll
        for (int i = 0; i < M::other / 8; ++i)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& d = ds[m][i][2 * h + e];
            d = cd::exp2_approximate{}(s[m][i][2 * h + e] * c - own[m][h].log_sum) * (d - own[m][h].delta);
            if (i * 8 + e > last) d = 0;
          }
      }
    cd::mma_accumulate<M>(dq, ds, k_tile + at + row_lane);
  }

  float scale[M::fragments][2];
#pragma unroll
  for (int m = 0; m < M::fragments; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) scale[m][h] = a.scale;
  cd::mma_store<M>(a.dqkv + a.query_at(first, head), stride, dq, scale, memory + warp_at, tile.rows() - warp * M::warp_rows, a.width);
}

}  // namespace planlm::kernel

namespace planlm::cuda_detail {

/// The kernels' tiles for heads padded to Width, the best of those measured on an H200 (docs/kernels.md). The roomy ones want 2 x 104 KB on a
/// multiprocessor; where there is less (sm_80: 164 KB, sm_86 and sm_89: 100 KB), heads wider than 96 take the tight ones.
template <int Width>
struct mma_tiles {
  using forward = mma_tile<Width, 2, 4, Width <= 96 ? 64 : 48, 1, 2>;
  using keys = std::conditional_t<Width <= 64, mma_tile<Width, 2, 4, 32, 2, 2>, mma_tile<Width, 1, 4, 64, 2, 2>>;
  using queries = mma_tile<Width, 2, 4, Width <= 64 ? 64 : 32, 2, 2>;
  using tight = mma_tile<Width, 1, 4, 32, 2, 2>;
};

template <class M>
void launch_attention_mma(cuda_queue& queue, attention_arguments<bfloat16> a) {
  a.tiles = tile_numbers(a.n, a.sequences, M::own);
  queue.launch("attention_mma", attention_grid(a, a.heads), dim3(M::threads), mma_forward_bytes<M>, kernel::attention_mma<M>, a);
}
template <class M, class Rows>
void launch_attention_mma_keys(cuda_queue& queue, attention_arguments<bfloat16> a) {
  a.tiles = tile_numbers(a.n, a.sequences, M::own);
  queue.launch("attention_mma_keys", attention_grid(a, a.kv_heads), dim3(M::threads), mma_keys_bytes<M>, kernel::attention_mma_keys<M, Rows>, a);
}
template <class M, class Rows>
void launch_attention_mma_queries(cuda_queue& queue, attention_arguments<bfloat16> a) {
  a.tiles = tile_numbers(a.n, a.sequences, M::own);
  queue.launch("attention_mma_queries", attention_grid(a, a.heads), dim3(M::threads), mma_queries_bytes<M>,
               kernel::attention_mma_queries<M, Rows>, a);
}

/// f(std::integral_constant<int, W>) for the smallest padded head width W that holds `width` <= 128.
template <class F>
void with_mma_width(int width, F f) {
  if (width <= 32) return f(std::integral_constant<int, 32>{});
  if (width <= 64) return f(std::integral_constant<int, 64>{});
  if (width <= 96) return f(std::integral_constant<int, 96>{});
  return f(std::integral_constant<int, 128>{});
}
inline void attention_mma(cuda_queue& queue, const attention_arguments<bfloat16>& a) {
  with_mma_width(a.width, [&](auto width) { launch_attention_mma<typename mma_tiles<width()>::forward>(queue, a); });
}
/// `a.statistics` is there.
inline void attention_mma_pullback(cuda_queue& queue, const attention_arguments<bfloat16>& a, bool roomy) {
  with_mma_width(a.width, [&](auto width) {
    using tiles = mma_tiles<width()>;
    if constexpr (width() > 96)
      if (!roomy) {
        launch_attention_mma_keys<typename tiles::tight, mma_rows_in_memory<typename tiles::tight>>(queue, a);
        launch_attention_mma_queries<typename tiles::tight, mma_rows<typename tiles::tight>>(queue, a);
        return;
      }
    launch_attention_mma_keys<typename tiles::keys, mma_rows_in_memory<typename tiles::keys>>(queue, a);
    launch_attention_mma_queries<typename tiles::queries, mma_rows_in_memory<typename tiles::queries>>(queue, a);
  });
}
/// With the tiles that two blocks of fit a multiprocessor of this device.
inline void attention_mma_pullback(cuda_queue& queue, const attention_arguments<bfloat16>& a) {
  int device = 0, shared = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "cudaDeviceGetAttribute");
  constexpr std::size_t reserved = 1024;  // of each block, by the system
  attention_mma_pullback(queue, a, 2 * (mma_keys_bytes<mma_tiles<128>::keys> + reserved) <= static_cast<std::size_t>(shared));
}

}  // namespace planlm::cuda_detail
