/// Attention on Hopper, backward: wgmma and bulk tensor copies, no float atomics, the same bits in every run.
///
/// Three kernels. (1) delta = rowsum(y o dy) and lse in base 2, both (heads, rows), every sequence's rows padded to a multiple of 128 with
/// lse = +inf, so that weights of queries past a sequence's end are exactly 0. (2) dK and dV: a consumer holds 64 keys and both sums (64, Width)
/// and goes over the queries that see them, 64 at a time, heads of a group one after another; the scores are taken transposed, S' = K Q',
/// dP' = V dy', so that P' and dS' are in registers as the operand of dV += P' dy, dK += dS' Q. (3) dQ: a consumer holds 64 queries and goes
/// over the keys: S = Q K', dP = dy V', dQ += dS K. No weight passes through shared memory and no partial sum through memory; the price is
/// that S and dP are computed twice: 7 products where 5 are needed, 14 N_q N_k Width operations a head. Summing dQ in kernel (2)
/// instead, in float memory and in a fixed order of blocks, was tried: 5 products, but 5 to 50 % slower for waiting, except at 16384 causal.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cuda_runtime.h>
#include <planlm/backend/attention_shape.hpp>
#include <planlm/backend/cuda/attention_hopper.cuh>
#include <planlm/backend/cuda/attention_hopper_delta.cuh>
#include <planlm/backend/cuda/hopper.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/config.hpp>

namespace planlm {

namespace kernel {

template <int Width>
struct hopper_keys_plan {
  static constexpr int keys = 128, queries = 64, threads = 384, stages = Width == 64 ? 4 : 2, key_stages = 2;
  static constexpr int key_bytes = keys * Width * 2, query_bytes = queries * Width * 2, row_bytes = queries * 4;
  static constexpr int shared_bytes = 2 * key_stages * key_bytes + 2 * stages * (query_bytes + row_bytes) + 1024;
};

/// dK and dV. Items are (sequence, key head) pairs times tiles of 128 keys.
template <int Width, bool Causal, bool Watched = false>
__global__ void __launch_bounds__(384, 1)
    attention_hopper_keys(const __grid_constant__ CUtensorMap key_map, const __grid_constant__ CUtensorMap query_map,
                          const __grid_constant__ CUtensorMap dy_map, const __grid_constant__ attention_order order, hopper_attention_shape shape, int padded,
                          const int* offsets, int* counter, const float* lse2, const float* delta, bfloat16* dqkv) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using plan = hopper_keys_plan<Width>;
  constexpr int Q = plan::queries;
  extern __shared__ unsigned char memory[];
  unsigned char* const k_tiles = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  unsigned char* const v_tiles = k_tiles + plan::key_stages * plan::key_bytes;
  unsigned char* const q_tiles = v_tiles + plan::key_stages * plan::key_bytes;
  unsigned char* const d_tiles = q_tiles + plan::stages * plan::query_bytes;
  float* const lse_rows = reinterpret_cast<float*>(d_tiles + plan::stages * plan::query_bytes);
  float* const delta_rows = lse_rows + plan::stages * Q;
  __shared__ barrier kv_full[plan::key_stages], kv_empty[plan::key_stages], full[plan::stages], empty[plan::stages];
  __shared__ attention_work works[plan::key_stages];
  if (threadIdx.x == 0) {
    for (int i = 0; i < plan::key_stages; ++i) barrier_init(&kv_full[i], 1), barrier_init(&kv_empty[i], 8);
    for (int i = 0; i < plan::stages; ++i) barrier_init(&full[i], 1), barrier_init(&empty[i], 8);
    barrier_init_done();
  }
  __syncthreads();
  const int group_heads = shape.heads / shape.kv_heads, head_panels = Width / panel_columns;
  const auto first_query_tile = [](int tile) { return Causal ? tile * (plan::keys / Q) : 0; };

  if (threadIdx.x < 128) {
    registers_down_to<40>();
    if (threadIdx.x != 0) return;
    ring<plan::key_stages> kv_at;
    ring<plan::stages> at;
    attention_feed feed{order, offsets, counter, static_cast<int>(blockIdx.x)};
    for (;;) {
      const attention_work work = feed.next();
      const auto [sequence, kv_head, tile, begin, length] = work;
      barrier_wait<Watched>(&kv_empty[kv_at.stage], kv_at.parity ^ 1, "empty keys");
      works[kv_at.stage] = work;
      if (kv_head < 0) {
        barrier_arrive(&kv_full[kv_at.stage]);
        break;
      }
      const int padded_rows = padded_begin(begin, sequence), count = (length + Q - 1) / Q;
      barrier_expect(&kv_full[kv_at.stage], 2 * plan::key_bytes);
      copy_panels(k_tiles + kv_at.stage * plan::key_bytes, key_map, &kv_full[kv_at.stage], begin + tile * plan::keys,
                  (shape.heads + kv_head) * head_panels);
      copy_panels(v_tiles + kv_at.stage * plan::key_bytes, key_map, &kv_full[kv_at.stage], begin + tile * plan::keys,
                  (shape.heads + shape.kv_heads + kv_head) * head_panels);
      kv_at.next();
      for (int head = kv_head * group_heads; head < (kv_head + 1) * group_heads; ++head)
        for (int i = first_query_tile(tile); i < count; ++i) {
          barrier* const b = &full[at.stage];
          barrier_wait<Watched>(&empty[at.stage], at.parity ^ 1, "empty queries");
          barrier_expect(b, 2 * (plan::query_bytes + plan::row_bytes));
          copy_panels(q_tiles + at.stage * plan::query_bytes, query_map, b, begin + i * Q, head * head_panels);
          copy_panels(d_tiles + at.stage * plan::query_bytes, dy_map, b, begin + i * Q, head * head_panels);
          const index_t rows = index_t{head} * padded + padded_rows + i * Q;
          copy_bytes(lse_rows + at.stage * Q, lse2 + rows, plan::row_bytes, b);
          copy_bytes(delta_rows + at.stage * Q, delta + rows, plan::row_bytes, b);
          at.next();
        }
    }
  } else {
    registers_up_to<232>();
    const int group = uniform(threadIdx.x / 128) - 1, warp = uniform(threadIdx.x / 32) % 4, lane = threadIdx.x % 32;
    const float scale2 = shape.scale * 1.4426950408889634f;
    ring<plan::key_stages> kv_at;
    ring<plan::stages> at;
    const auto release = [lane](barrier* b) {
      if (lane == 0) barrier_arrive(b);
    };
    const std::uint64_t q_rows = k_major(shared_address(q_tiles)), d_rows = k_major(shared_address(d_tiles));
    const std::uint64_t q_columns = mn_major(shared_address(q_tiles), Q * row_bytes);
    const std::uint64_t d_columns = mn_major(shared_address(d_tiles), Q * row_bytes);
    for (;;) {
      barrier_wait<Watched>(&kv_full[kv_at.stage], kv_at.parity, "keys");
      const auto [sequence, kv_head, tile, begin, length] = works[kv_at.stage];
      if (kv_head < 0) break;
      const int first = first_query_tile(tile), count = (length + Q - 1) / Q;
      const int steps = group_heads * (count - first);
      const int row = tile * plan::keys + 64 * group + 16 * warp + lane / 4;  // the key, and row + 8
      unsigned char* const k_tile = k_tiles + kv_at.stage * plan::key_bytes;
      unsigned char* const v_tile = v_tiles + kv_at.stage * plan::key_bytes;
      const std::uint64_t k = k_major(shared_address(k_tile) + 64 * group * row_bytes);
      const std::uint64_t v = k_major(shared_address(v_tile) + 64 * group * row_bytes);

      float dk[Width / 2], dv[Width / 2], s[Q / 2], dp[Q / 2];
      std::uint32_t p[Q / 4], ds[Q / 4];
#pragma unroll
      for (int i = 0; i < Width / 2; ++i) dk[i] = dv[i] = 0;
      int query = first * Q;
      int used = 0;
      for (int i = 0; i < steps; ++i) {
        barrier_wait<Watched>(&full[at.stage], at.parity, "queries");
        const std::uint32_t to = at.stage * (plan::query_bytes >> 4);
        wgmma_fence();
        hopper_scores<Q, Width, plan::keys>(s, k, further(q_rows, to));
        wgmma_commit();
        wgmma_wait<1>();  // the last step's products; this one's scores go on
        pin(dk), pin(dv);
        if (i > 0) release(&empty[used]);
        wgmma_fence();
        hopper_scores<Q, Width, plan::keys>(dp, v, further(d_rows, to));
        wgmma_commit();
        wgmma_wait<1>();
        pin(s);
        const float* const own_lse = lse_rows + at.stage * Q + 2 * (lane % 4);
        const float* const own_delta = delta_rows + at.stage * Q + 2 * (lane % 4);
#pragma unroll
        for (int j = 0; j < Q / 8; ++j) {
          const float2 l = *reinterpret_cast<const float2*>(own_lse + 8 * j);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            s[4 * j + 2 * h] = exp2_fast(fmaf(s[4 * j + 2 * h], scale2, -l.x));
            s[4 * j + 2 * h + 1] = exp2_fast(fmaf(s[4 * j + 2 * h + 1], scale2, -l.y));
          }
        }
        if (Causal && query < (tile + 1) * plan::keys) {
#pragma unroll
          for (int i = 0; i < Q / 2; ++i)
            if (query + 8 * (i / 4) + 2 * (lane % 4) + i % 2 < row + 8 * (i / 2 % 2)) s[i] = 0;
        }
        hopper_pack(p, s);
        wgmma_wait<0>();
        pin(dp);
#pragma unroll
        for (int j = 0; j < Q / 8; ++j) {
          const float2 d = *reinterpret_cast<const float2*>(own_delta + 8 * j);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int i = 4 * j + 2 * h;
            ds[i / 2] = pack(s[i] * (dp[i] - d.x), s[i + 1] * (dp[i + 1] - d.y));
          }
        }
        pin(p), pin(ds), pin(dk), pin(dv);
        wgmma_fence();
        hopper_weighted<Q, Width>(dv, p, further(d_columns, to));
        hopper_weighted<Q, Width>(dk, ds, further(q_columns, to));
        wgmma_commit();
        used = at.stage;
        at.next();
        query = query + Q < count * Q ? query + Q : first * Q;
      }
      wgmma_wait<0>();
      pin(dk), pin(dv);
      release(&empty[used]);

      group_sync(1 + group, 128);
      const int top = row - lane / 4, here = (64 * group + 16 * warp) * row_bytes;
      const index_t stride = index_t{shape.heads + 2 * shape.kv_heads} * Width;
      bfloat16* const to = dqkv + index_t{begin + top} * stride + index_t{shape.heads + kv_head} * Width;
      hopper_store<Width, plan::keys>(k_tile + here, dk, shape.scale, shape.scale, to, stride, length - top);
      hopper_store<Width, plan::keys>(v_tile + here, dv, 1.f, 1.f, to + index_t{shape.kv_heads} * Width, stride, length - top);
      shared_written();
      __syncwarp();
      release(&kv_empty[kv_at.stage]);
      kv_at.next();
    }
  }
#endif
}

template <int Width, int KeyTile>
struct hopper_queries_plan {
  static constexpr int queries = 128, threads = 384, stages = 2;
  static constexpr int query_bytes = queries * Width * 2, key_bytes = KeyTile * Width * 2;
  static constexpr int query_stages = 4 * query_bytes + 2 * stages * key_bytes <= 224 * 1024 ? 2 : 1;
  static constexpr int shared_bytes = 2 * query_stages * query_bytes + 2 * stages * key_bytes + 1024;
};

/// dQ. Items are (sequence, head) pairs times tiles of 128 queries; the masked key tile comes first.
template <int Width, int KeyTile, bool Causal, bool Watched = false>
__global__ void __launch_bounds__(384, 1)
    attention_hopper_queries(const __grid_constant__ CUtensorMap query_map, const __grid_constant__ CUtensorMap dy_map,
                             const __grid_constant__ CUtensorMap key_map, const __grid_constant__ attention_order order, hopper_attention_shape shape, int padded,
                             const int* offsets, int* counter, const float* lse2, const float* delta, bfloat16* dqkv) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using plan = hopper_queries_plan<Width, KeyTile>;
  extern __shared__ unsigned char memory[];
  unsigned char* const q_tiles = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  unsigned char* const d_tiles = q_tiles + plan::query_stages * plan::query_bytes;
  unsigned char* const k_tiles = d_tiles + plan::query_stages * plan::query_bytes;
  unsigned char* const v_tiles = k_tiles + plan::stages * plan::key_bytes;
  __shared__ barrier q_full[2], q_empty[2], full[2], empty[2];
  __shared__ attention_work works[2];
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(&q_full[i], 1), barrier_init(&q_empty[i], 8), barrier_init(&full[i], 1), barrier_init(&empty[i], 8);
    }
    barrier_init_done();
  }
  __syncthreads();
  const int head_panels = Width / panel_columns;
  const auto key_tiles = [](int tile, int length) {
    const int seen = Causal && plan::queries * (tile + 1) < length ? plan::queries * (tile + 1) : length;
    return (seen + KeyTile - 1) / KeyTile;
  };

  if (threadIdx.x < 128) {
    registers_down_to<40>();
    if (threadIdx.x != 0) return;
    ring<plan::query_stages> q_at;
    ring<plan::stages> at;
    attention_feed feed{order, offsets, counter, static_cast<int>(blockIdx.x)};
    for (;;) {
      const attention_work work = feed.next();
      const auto [sequence, head, tile, begin, length] = work;
      barrier* const b = &q_full[q_at.stage];
      barrier_wait<Watched>(&q_empty[q_at.stage], q_at.parity ^ 1, "empty queries");
      works[q_at.stage] = work;
      if (head < 0) {
        barrier_arrive(b);
        break;
      }
      const int kv_head = head / (shape.heads / shape.kv_heads);
      barrier_expect(b, 2 * plan::query_bytes);
      copy_panels(q_tiles + q_at.stage * plan::query_bytes, query_map, b, begin + tile * plan::queries, head * head_panels);
      copy_panels(d_tiles + q_at.stage * plan::query_bytes, dy_map, b, begin + tile * plan::queries, head * head_panels);
      q_at.next();
      for (int j = key_tiles(tile, length) - 1; j >= 0; --j) {
        barrier_wait<Watched>(&empty[at.stage], at.parity ^ 1, "empty keys");
        barrier_expect(&full[at.stage], 2 * plan::key_bytes);
        copy_panels(k_tiles + at.stage * plan::key_bytes, key_map, &full[at.stage], begin + j * KeyTile,
                    (shape.heads + kv_head) * head_panels);
        copy_panels(v_tiles + at.stage * plan::key_bytes, key_map, &full[at.stage], begin + j * KeyTile,
                    (shape.heads + shape.kv_heads + kv_head) * head_panels);
        at.next();
      }
    }
  } else {
    registers_up_to<232>();
    const int group = uniform(threadIdx.x / 128) - 1, warp = uniform(threadIdx.x / 32) % 4, lane = threadIdx.x % 32;
    const float scale2 = shape.scale * 1.4426950408889634f;
    ring<plan::query_stages> q_at;
    ring<plan::stages> at;
    const auto release = [lane](barrier* b) {
      if (lane == 0) barrier_arrive(b);
    };
    const std::uint64_t k_rows = k_major(shared_address(k_tiles)), v_rows = k_major(shared_address(v_tiles));
    const std::uint64_t k_columns = mn_major(shared_address(k_tiles), KeyTile * row_bytes);
    for (;;) {
      barrier_wait<Watched>(&q_full[q_at.stage], q_at.parity, "queries");
      const auto [sequence, head, tile, begin, length] = works[q_at.stage];
      if (head < 0) break;
      const int row = tile * plan::queries + 64 * group + 16 * warp + lane / 4;  // and row + 8
      unsigned char* const q_tile = q_tiles + q_at.stage * plan::query_bytes;
      const std::uint64_t q = k_major(shared_address(q_tile) + 64 * group * row_bytes);
      const std::uint64_t d = k_major(shared_address(d_tiles + q_at.stage * plan::query_bytes) + 64 * group * row_bytes);
      const index_t at_row = index_t{head} * padded + padded_begin(begin, sequence) + row;
      const float own_lse[2] = {lse2[at_row], lse2[at_row + 8]}, own_delta[2] = {delta[at_row], delta[at_row + 8]};

      float dq[Width / 2], s[KeyTile / 2], dp[KeyTile / 2];
      std::uint32_t ds[KeyTile / 4];
#pragma unroll
      for (int i = 0; i < Width / 2; ++i) dq[i] = 0;
      const int count = key_tiles(tile, length);
      int used = 0;
      for (int j = count - 1; j >= 0; --j) {
        barrier_wait<Watched>(&full[at.stage], at.parity, "keys");
        const std::uint32_t to = at.stage * (plan::key_bytes >> 4);
        wgmma_fence();
        hopper_scores<KeyTile, Width, plan::queries>(s, q, further(k_rows, to));
        wgmma_commit();
        wgmma_wait<1>();  // the last step's product; this one's scores go on
        pin(dq);
        if (j < count - 1) release(&empty[used]);
        wgmma_fence();
        hopper_scores<KeyTile, Width, plan::queries>(dp, d, further(v_rows, to));
        wgmma_commit();
        wgmma_wait<1>();
        pin(s);
#pragma unroll
        for (int i = 0; i < KeyTile / 2; ++i) s[i] = exp2_fast(fmaf(s[i], scale2, -own_lse[i / 2 % 2]));
        if ((j + 1) * KeyTile > length || (Causal && (j + 1) * KeyTile > tile * plan::queries)) {
#pragma unroll
          for (int i = 0; i < KeyTile / 2; ++i) {
            const int column = j * KeyTile + 8 * (i / 4) + 2 * (lane % 4) + i % 2;
            if (column >= length || (Causal && column > row + 8 * (i / 2 % 2))) s[i] = 0;
          }
        }
        wgmma_wait<0>();
        pin(dp);
#pragma unroll
        for (int i = 0; i < KeyTile / 2; i += 2)
          ds[i / 2] = pack(s[i] * (dp[i] - own_delta[i / 2 % 2]), s[i + 1] * (dp[i + 1] - own_delta[i / 2 % 2]));
        pin(ds), pin(dq);
        wgmma_fence();
        hopper_weighted<KeyTile, Width>(dq, ds, further(k_columns, to));
        wgmma_commit();
        used = at.stage;
        at.next();
      }
      wgmma_wait<0>();
      pin(dq);
      release(&empty[used]);

      group_sync(1 + group, 128);
      const int top = row - lane / 4;
      const index_t stride = index_t{shape.heads + 2 * shape.kv_heads} * Width;
      hopper_store<Width, plan::queries>(q_tile + (64 * group + 16 * warp) * row_bytes, dq, shape.scale, shape.scale,
                                         dqkv + index_t{begin + top} * stride + index_t{head} * Width, stride, length - top);
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

template <int Width>
void attention_hopper_deltas(cuda_queue& q, attention_shape shape, const int* offsets, index_t sequences, int padded, const bfloat16* y,
                             const bfloat16* dy, const float* lse, float* lse2, float* delta) {
  q.launch("attention_hopper_delta", dim3(std::min(padded / 8, 16 * q.multiprocessors())), dim3(256), 0,
           kernel::attention_hopper_delta<Width>, padded, static_cast<int>(sequences), offsets, static_cast<int>(shape.heads), y, dy, lse, lse2,
           delta);
}

template <int Width, int KeyTile, bool Causal, bool Watched = false>
void attention_hopper_pullback_as(cuda_queue& q, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                                  index_t sequences, const bfloat16* y, const float* lse, const bfloat16* dy, bfloat16* dqkv) {
  using keys = kernel::hopper_keys_plan<Width>;
  using queries = kernel::hopper_queries_plan<Width, KeyTile>;
  const index_t rows = host_offsets[sequences];
  if (rows == 0) return;
  const int padded = padded_begin(static_cast<int>(rows), static_cast<int>(sequences));
  const std::size_t row_count = static_cast<std::size_t>(padded) * static_cast<std::size_t>(shape.heads);
  int* const counter = counters(q, 2 * row_count * sizeof(float), 2);
  float* const lse2 = reinterpret_cast<float*>(counter) - 2 * row_count;
  float* const delta = lse2 + row_count;
  const kernel::hopper_attention_shape given{static_cast<int>(shape.heads), static_cast<int>(shape.kv_heads),
                                             static_cast<float>(1 / std::sqrt(double(Width)))};
  constexpr int panels = Width / hopper::panel_columns;
  const auto map = [&](int box_rows) { return hopper::panels_map(qkv, rows, shape.packed_width(), shape.packed_width(), box_rows, panels); };
  const auto dy_map = [&](int box_rows) { return hopper::panels_map(dy, rows, shape.query_width(), shape.query_width(), box_rows, panels); };

  attention_hopper_deltas<Width>(q, shape, offsets, sequences, padded, y, dy, lse, lse2, delta);
  const attention_order by_keys = attention_order::of(shape.kv_heads, host_offsets, sequences, keys::keys, Width * 4, false);
  q.launch("attention_hopper_keys", dim3(std::min(by_keys.items(), q.multiprocessors())), dim3(keys::threads), keys::shared_bytes,
           kernel::attention_hopper_keys<Width, Causal, Watched>, map(keys::keys), map(keys::queries), dy_map(keys::queries), by_keys, given,
           padded, offsets, counter, lse2, delta, dqkv);
  const attention_order by_queries = attention_order::of(shape.heads, host_offsets, sequences, queries::queries, Width * 4, Causal);
  q.launch("attention_hopper_queries", dim3(std::min(by_queries.items(), q.multiprocessors())), dim3(queries::threads), queries::shared_bytes,
           kernel::attention_hopper_queries<Width, KeyTile, Causal, Watched>, map(queries::queries), dy_map(queries::queries), map(KeyTile),
           by_queries, given, padded, offsets, counter + 1, lse2, delta, dqkv);
}

/// dqkv (N, packed width), all of it, from what attention_hopper was given and gave and from dy.
inline void attention_hopper_pullback(cuda_queue& q, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                                      index_t sequences, const bfloat16* y, const float* lse, const bfloat16* dy, bfloat16* dqkv) {
  const auto f = shape.width == 128 ? (shape.causal ? attention_hopper_pullback_as<128, 128, true> : attention_hopper_pullback_as<128, 128, false>)
                                    : (shape.causal ? attention_hopper_pullback_as<64, 128, true> : attention_hopper_pullback_as<64, 128, false>);
  f(q, shape, qkv, offsets, host_offsets, sequences, y, lse, dy, dqkv);
}

}  // namespace cuda_detail
}  // namespace planlm
