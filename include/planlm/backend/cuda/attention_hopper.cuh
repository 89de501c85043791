/// Attention on Hopper, forward: wgmma, bulk tensor copies, one producer and two or three consumer warpgroups (2407.08608 section 3).
///
/// A block takes tiles of 64 `Groups` queries of one head, one after another, and streams key tiles through two stages of shared memory, the
/// last (masked) first. A consumer holds 64 queries: scores S (64, KeyTile), their exponentials as the register operand of P V, and the output
/// (64, Width), all in registers; the product of the next scores and P V run while the exponentials of the current scores are taken, and the
/// consumers take turns at issuing products. Memory at least: qkv read once, y written once, lse 4 bytes a query; operations 4 N_q N_k Width a
/// head (half when causal), exponentials N_q N_k at 16 a cycle and multiprocessor: as many cycles as the products at width 64.
///
/// A key tile that reaches past its sequence brings in rows of the next sequence: their weights are exactly 0, so they do not count as long as
/// they are finite; one batch with a NaN in it is a NaN in its neighbour too. Past the last row zeros are read. Nothing is written there.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cuda_runtime.h>
#include <planlm/backend/attention_shape.hpp>
#include <planlm/backend/cuda/attention_order.cuh>
#include <planlm/backend/cuda/hopper.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/config.hpp>

namespace planlm {

namespace kernel {

struct hopper_attention_shape {
  int heads, kv_heads;
  float scale;
};

/// One stage's place in a ring of `Stages` and the parity of its turn.
template <int Stages>
struct ring {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Stages) stage = 0, parity ^= 1;
  }
};

/// s (64, N) = A (64, Width) B (N, Width)^T, both k-major in panels of `RowsA` and N rows.
template <int N, int Width, int RowsA>
__device__ __forceinline__ void hopper_scores(float (&s)[N / 2], std::uint64_t a, std::uint64_t b) {
  hopper::wgmma_m64<N>::template begin<false, false>(s, a, b);
#pragma unroll
  for (int step = 1; step < Width / 16; ++step)
    hopper::wgmma_m64<N>::template multiply<false, false>(
        s, hopper::further(a, (step / 4) * (RowsA * 8) + (step % 4) * hopper::k_step),
        hopper::further(b, (step / 4) * (N * 8) + (step % 4) * hopper::k_step));
}
/// o (64, Width) += P (64, K) from registers times B (K, Width), its rows k.
template <int K, int Width>
__device__ __forceinline__ void hopper_weighted(float (&o)[Width / 2], const std::uint32_t (&p)[K / 4], std::uint64_t b) {
#pragma unroll
  for (int step = 0; step < K / 16; ++step)
    hopper::wgmma_m64<Width>::template multiply<true>(o, p[4 * step], p[4 * step + 1], p[4 * step + 2], p[4 * step + 3],
                                                      hopper::further(b, step * hopper::mn_step), 1);
}
/// Sums as the register operand of the next product.
template <int Count>
__device__ __forceinline__ void hopper_pack(std::uint32_t (&p)[Count / 2], const float (&s)[Count]) {
#pragma unroll
  for (int i = 0; i < Count / 2; ++i) p[i] = hopper::pack(s[2 * i], s[2 * i + 1]);
}

/// 16 rows of a warp's output (64, Width), bfloat16, through swizzled shared memory to rows of `stride` elements; `rows` of them exist.
/// `tile` is the warp's first row in a buffer of `BufferRows` rows, to itself.
template <int Width, int BufferRows>
__device__ __forceinline__ void hopper_store(unsigned char* tile, const float (&o)[Width / 2], float factor0, float factor1, bfloat16* to,
                                             index_t stride, int rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < Width / 8; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float f = h ? factor1 : factor0;
      *reinterpret_cast<std::uint32_t*>(tile + (j / 8) * BufferRows * 128 + hopper::swizzled(lane / 4 + 8 * h, j % 8) + 4 * (lane % 4)) =
          hopper::pack(o[4 * j + 2 * h] * f, o[4 * j + 2 * h + 1] * f);
    }
  __syncwarp();
  constexpr int units = Width / 8, rows_at_once = 32 / units;
  const int unit = lane % units;
#pragma unroll
  for (int r = lane / units; r < 16; r += rows_at_once)
    if (r < rows)
      *reinterpret_cast<uint4*>(to + r * stride + 8 * unit) =
          *reinterpret_cast<const uint4*>(tile + (unit / 8) * BufferRows * 128 + hopper::swizzled(r, unit % 8));
}

template <int Width, int Groups, int KeyTile>
struct hopper_forward_plan {
  static constexpr int queries = 64 * Groups, threads = 128 * (Groups + 1), stages = 2;
  static constexpr int query_bytes = queries * Width * 2, key_bytes = KeyTile * Width * 2;
  static constexpr int query_stages = 2 * query_bytes + 2 * stages * key_bytes <= 224 * 1024 ? 2 : 1;
  static constexpr int shared_bytes = query_stages * query_bytes + 2 * stages * key_bytes + 1024;
  static constexpr int producer_registers = Groups == 2 ? 40 : 32, consumer_registers = Groups == 2 ? 232 : 160;
};

template <int Width, int Groups, int KeyTile, bool Causal, bool Watched = false>
__global__ void __launch_bounds__(128 * (Groups + 1), 1)
    attention_hopper_forward(const __grid_constant__ CUtensorMap query_map, const __grid_constant__ CUtensorMap key_map,
                             const __grid_constant__ attention_order order, hopper_attention_shape shape, const int* offsets, int* counter,
                             bfloat16* y, float* lse) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using plan = hopper_forward_plan<Width, Groups, KeyTile>;
  extern __shared__ unsigned char memory[];
  unsigned char* const q_tiles = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  unsigned char* const k_tiles = q_tiles + plan::query_stages * plan::query_bytes;
  unsigned char* const v_tiles = k_tiles + plan::stages * plan::key_bytes;
  __shared__ barrier q_full[2], q_empty[2], k_full[2], k_empty[2], v_full[2], v_empty[2];
  __shared__ attention_work works[2];  // of the query tiles
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(&q_full[i], 1), barrier_init(&k_full[i], 1), barrier_init(&v_full[i], 1);
      barrier_init(&q_empty[i], 4 * Groups), barrier_init(&k_empty[i], 4 * Groups), barrier_init(&v_empty[i], 4 * Groups);
    }
    barrier_init_done();
  }
  __syncthreads();
  const auto key_tiles = [](int tile, int length) {
    const int seen = Causal && plan::queries * (tile + 1) < length ? plan::queries * (tile + 1) : length;
    return (seen + KeyTile - 1) / KeyTile;
  };

  if (threadIdx.x < 128) {
    registers_down_to<plan::producer_registers>();
    if (threadIdx.x != 0) return;
    ring<plan::query_stages> q_at;
    ring<plan::stages> at;
    const int head_panels = Width / panel_columns;
    attention_feed feed{order, offsets, counter, static_cast<int>(blockIdx.x)};
    for (;;) {
      const attention_work work = feed.next();
      const auto [sequence, head, tile, begin, length] = work;
      barrier_wait<Watched>(&q_empty[q_at.stage], q_at.parity ^ 1, "an empty query tile");
      works[q_at.stage] = work;
      if (head < 0) {
        barrier_arrive(&q_full[q_at.stage]);
        break;
      }
      const int kv_head = head / (shape.heads / shape.kv_heads);
      barrier_expect(&q_full[q_at.stage], plan::query_bytes);
      copy_panels(q_tiles + q_at.stage * plan::query_bytes, query_map, &q_full[q_at.stage], begin + tile * plan::queries, head * head_panels);
      q_at.next();
      for (int j = key_tiles(tile, length) - 1; j >= 0; --j) {
        barrier_wait<Watched>(&k_empty[at.stage], at.parity ^ 1, "an empty key tile");
        barrier_expect(&k_full[at.stage], plan::key_bytes);
        copy_panels(k_tiles + at.stage * plan::key_bytes, key_map, &k_full[at.stage], begin + j * KeyTile,
                    (shape.heads + kv_head) * head_panels);
        barrier_wait<Watched>(&v_empty[at.stage], at.parity ^ 1, "an empty value tile");
        barrier_expect(&v_full[at.stage], plan::key_bytes);
        copy_panels(v_tiles + at.stage * plan::key_bytes, key_map, &v_full[at.stage], begin + j * KeyTile,
                    (shape.heads + shape.kv_heads + kv_head) * head_panels);
        at.next();
      }
    }
  } else {
    registers_up_to<plan::consumer_registers>();
    const int group = uniform(threadIdx.x / 128) - 1, warp = uniform(threadIdx.x / 32) % 4, lane = threadIdx.x % 32;
    const int own_turn = 1 + group, next_turn = 1 + (group + 1) % Groups;
    if (group == Groups - 1) group_arrive(next_turn, 256);  // the first consumer begins
    const float scale2 = shape.scale * 1.4426950408889634f;
    ring<plan::query_stages> q_at;
    ring<plan::stages> k_at, v_at;
    const auto release = [lane](barrier* b) {
      if (lane == 0) barrier_arrive(b);
    };
    for (;;) {
      barrier_wait<Watched>(&q_full[q_at.stage], q_at.parity, "a query tile");
      const auto [sequence, head, tile, begin, length] = works[q_at.stage];
      if (head < 0) break;
      const int row = tile * plan::queries + 64 * group + 16 * warp + lane / 4;  // and row + 8
      unsigned char* const q_tile = q_tiles + q_at.stage * plan::query_bytes;
      const std::uint64_t q = k_major(shared_address(q_tile) + group * 64 * row_bytes);
      const std::uint64_t k = k_major(shared_address(k_tiles)), v = mn_major(shared_address(v_tiles), KeyTile * row_bytes);

      float s[KeyTile / 2], o[Width / 2];
      std::uint32_t p[KeyTile / 4];
      // Exponents are taken from `base`, a maximum of the scaled scores that is at most `slack` behind: o is scaled anew only when it moves,
      // for the whole warp. Weights are then at most 2^slack, whatever their size without changing their relative error.
      constexpr float slack = 8;
      float base[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, shrink[2] = {1, 1};
      // s becomes 2^(scaled s - base). Whether base moved: o must be multiplied by shrink.
      const auto softmax = [&]<bool Masked>(int j) {
        if constexpr (Masked) {
#pragma unroll
          for (int i = 0; i < KeyTile / 2; ++i) {
            const int column = j * KeyTile + 8 * (i / 4) + 2 * (lane % 4) + i % 2;
            if (column >= length || (Causal && column > row + 8 * (i / 2 % 2))) s[i] = -INFINITY;
          }
        }
        float high[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          high[h] = fmaxf(s[2 * h], s[2 * h + 1]);
#pragma unroll
          for (int i = 1; i < KeyTile / 8; ++i) high[h] = fmaxf(high[h], fmaxf(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
          high[h] = fmaxf(high[h], __shfl_xor_sync(~0u, high[h], 1));
          high[h] = scale2 * fmaxf(high[h], __shfl_xor_sync(~0u, high[h], 2));
        }
        const bool moved = __any_sync(~0u, high[0] > base[0] + slack || high[1] > base[1] + slack);
        if (moved) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float next = fmaxf(base[h], high[h]);
            shrink[h] = next == -INFINITY ? 1.f : exp2_fast(base[h] - next);
            base[h] = next;
            total[h] *= shrink[h];
          }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float from = Masked && base[h] == -INFINITY ? 0.f : base[h];  // no key of this row yet
          float sum = 0;
#pragma unroll
          for (int i = 0; i < KeyTile / 8; ++i)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float& x = s[4 * i + 2 * h + e];
              x = exp2_fast(fmaf(x, scale2, -from));
              sum += x;
            }
          total[h] += sum;
        }
        return moved;
      };
#pragma unroll
      for (int i = 0; i < Width / 2; ++i) o[i] = 0;

      const int count = key_tiles(tile, length);
      barrier_wait<Watched>(&k_full[k_at.stage], k_at.parity, "the first key tile");
      wgmma_fence();
      hopper_scores<KeyTile, Width, plan::queries>(s, q, further(k, k_at.stage * (plan::key_bytes >> 4)));
      wgmma_commit();
      wgmma_wait<0>();
      pin(s);
      release(&k_empty[k_at.stage]);
      k_at.next();
      softmax.template operator()<true>(count - 1);
      hopper_pack(p, s);

      const auto step = [&]<bool Masked>(int j) {
        barrier_wait<Watched>(&k_full[k_at.stage], k_at.parity, "a key tile");
        group_sync(own_turn, 256);
        pin(o);
        pin(p);
        wgmma_fence();
        hopper_scores<KeyTile, Width, plan::queries>(s, q, further(k, k_at.stage * (plan::key_bytes >> 4)));
        wgmma_commit();
        barrier_wait<Watched>(&v_full[v_at.stage], v_at.parity, "a value tile");
        hopper_weighted<KeyTile, Width>(o, p, further(v, v_at.stage * (plan::key_bytes >> 4)));
        wgmma_commit();
        group_arrive(next_turn, 256);
        wgmma_wait<1>();
        pin(s);
        release(&k_empty[k_at.stage]);
        k_at.next();
        const bool moved = softmax.template operator()<Masked>(j);
        wgmma_wait<0>();
        pin(o);
        release(&v_empty[v_at.stage]);
        v_at.next();
        if (moved) {
#pragma unroll
          for (int i = 0; i < Width / 2; ++i) o[i] *= shrink[i / 2 % 2];
        }
        hopper_pack(p, s);
      };
      int j = count - 2;
      if constexpr (Causal && KeyTile != plan::queries)
        for (; j >= 0 && (j + 1) * KeyTile > tile * plan::queries + 64 * group; --j) step.template operator()<true>(j);
      for (; j >= 0; --j) step.template operator()<false>(j);

      barrier_wait<Watched>(&v_full[v_at.stage], v_at.parity, "the last value tile");
      pin(o);
      pin(p);
      wgmma_fence();
      hopper_weighted<KeyTile, Width>(o, p, further(v, v_at.stage * (plan::key_bytes >> 4)));
      wgmma_commit();
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        total[h] += __shfl_xor_sync(~0u, total[h], 1);
        total[h] += __shfl_xor_sync(~0u, total[h], 2);
        if (lane % 4 == 0 && row + 8 * h < length)
          lse[index_t{begin + row + 8 * h} * shape.heads + head] = base[h] * 0.6931471805599453f + logf(total[h]);
      }
      wgmma_wait<0>();
      pin(o);
      release(&v_empty[v_at.stage]);
      v_at.next();

      group_sync(4 + group, 128);  // every warp of the group has read its queries
      const int first = row - lane / 4;
      hopper_store<Width, plan::queries>(q_tile + (64 * group + 16 * warp) * row_bytes, o, 1.f / total[0], 1.f / total[1],
                                         y + (index_t{begin + first} * shape.heads + head) * Width, index_t{shape.heads} * Width,
                                         length - first);
      shared_written();
      __syncwarp();
      release(&q_empty[q_at.stage]);
      q_at.next();
    }
  }
#endif
}

}  // namespace kernel

namespace cuda_detail {

constexpr bool attention_hopper_takes(attention_shape shape) { return shape.width == 64 || shape.width == 128; }

/// `count` counters at 0 in the queue's scratch, `before` bytes into it.
inline int* counters(cuda_queue& q, std::size_t before, int count) {
  unsigned char* const p = static_cast<unsigned char*>(q.scratch(before + count * sizeof(int))) + before;
  check(cudaMemsetAsync(p, 0, count * sizeof(int), q.stream()), "cudaMemsetAsync");
  return reinterpret_cast<int*>(p);
}

template <int Width, int Groups, int KeyTile, bool Causal, bool Watched = false>
void attention_hopper_as(cuda_queue& q, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                         index_t sequences, bfloat16* y, float* lse) {
  using plan = kernel::hopper_forward_plan<Width, Groups, KeyTile>;
  const index_t rows = host_offsets[sequences];
  const attention_order order = attention_order::of(shape.heads, host_offsets, sequences, plan::queries, Width * 4, Causal);
  if (order.items() == 0) return;
  const auto map = [&](int box_rows) {
    return hopper::panels_map(qkv, rows, shape.packed_width(), shape.packed_width(), box_rows, Width / hopper::panel_columns);
  };
  const int blocks = std::min(order.items(), q.multiprocessors());
  q.launch("attention_hopper_forward", dim3(blocks), dim3(plan::threads), plan::shared_bytes,
           kernel::attention_hopper_forward<Width, Groups, KeyTile, Causal, Watched>, map(plan::queries), map(KeyTile), order,
           kernel::hopper_attention_shape{static_cast<int>(shape.heads), static_cast<int>(shape.kv_heads),
                                          static_cast<float>(1 / std::sqrt(double(Width)))},
           offsets, counters(q, 0, 1), y, lse);
}

/// y (N, heads width) and lse (N, heads) of qkv (N, packed width): bfloat16, width 64 or 128, on a queue where hopper().
/// Width 64 leaves registers for a third consumer, which pays where its tiles of 192 queries are few of a sequence's.
inline void attention_hopper(cuda_queue& q, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                             index_t sequences, bfloat16* y, float* lse) {
  const bool long_ones = host_offsets[sequences] >= 1536 * sequences;
  const auto f = shape.width == 128 ? (shape.causal ? attention_hopper_as<128, 2, 128, true> : attention_hopper_as<128, 2, 128, false>)
                 : long_ones        ? (shape.causal ? attention_hopper_as<64, 3, 128, true> : attention_hopper_as<64, 3, 128, false>)
                                    : (shape.causal ? attention_hopper_as<64, 2, 128, true> : attention_hopper_as<64, 2, 128, false>);
  f(q, shape, qkv, offsets, host_offsets, sequences, y, lse);
}

}  // namespace cuda_detail
}  // namespace planlm
