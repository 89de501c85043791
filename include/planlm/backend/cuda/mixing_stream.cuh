/// Label mixing on Hopper without the weights in memory: e = w E and dE += w^T de with w = softmax(z / T) made on the way into the products.
///
/// Both products take w as the register operand of wgmma: a warpgroup reads 64 x 64 logits from shared memory in the operand's own layout,
/// takes their exponentials while its last product runs, and multiplies by a (64, 256) tile that two blocks of a cluster bring for each other.
///   forward   a block has 128 sentences x 256 columns of e and goes through all labels. The largest logit is not known beforehand: exponents
///             count from a running maximum, and sums and e are scaled only when it grows by more than 2^8. Keeps log2 sum exp2 per sentence.
///   backward  a block has 128 labels x 256 columns of dE and goes through a share of the sentences, z transposed on its way to the registers
///             (ldmatrix.trans); the shares' sums go to scratch memory and are added in their order.
/// Memory: z once (from the cache for the other column tiles), e, de, E once, 4 bytes a sentence; S K b twice less each than with w kept.
/// Operations 2 S K C each; exponentials S K C / 256, a third of the products' time at 16 a cycle and multiprocessor, beside them.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <planlm/backend/cuda/hopper.cuh>
#include <planlm/backend/cuda/mixing_hopper.cuh>
#include <planlm/backend/cuda/mixing_rows.cuh>

namespace planlm {

namespace kernel::mixing {

struct stream_tile {
  static constexpr int rows = 128, columns = 256, depth = 64, stages = 4, groups = 2, group_rows = rows / groups;
  static constexpr int panels = columns / hopper::panel_columns, panel_bytes = depth * hopper::row_bytes;
  static constexpr int logit_bytes = rows * depth * 2, other_bytes = panels * panel_bytes, loaded_bytes = logit_bytes + other_bytes;
  static constexpr int sums_bytes = depth * 4;                                                         // log sums of a stage's sentences
  static constexpr int stage_bytes = loaded_bytes + 1024;
  static constexpr int shared_bytes = 1024 + stages * stage_bytes;
  static constexpr int threads = 128 * (1 + groups);
  static constexpr float headroom = 8;  // exponents above the running maximum that are let pass
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
/// Half of the (64, 256) tile at (row, column) for both blocks, the other half comes from the other block.
template <int Blocks>
__device__ __forceinline__ void copy_shared_tile(unsigned char* to, const CUtensorMap& map, hopper::barrier* full, int column, int row, int rank) {
  using tile = stream_tile;
  constexpr int part = tile::depth / Blocks;
#pragma unroll
  for (int p = 0; p < tile::panels; ++p) {
    unsigned char* const at = to + p * tile::panel_bytes + rank * part * hopper::row_bytes;
    if constexpr (Blocks == 1) hopper::copy_tile(at, map, full, column + p * hopper::panel_columns, row);
    else cluster::copy_tile_to_both(at, map, full, column + p * hopper::panel_columns, row + rank * part);
  }
}
/// Four 8 x 8 matrices of 16-bit values, each transposed.
__device__ __forceinline__ void load_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ float low_of(std::uint32_t two) { return __uint_as_float(two << 16); }
__device__ __forceinline__ float high_of(std::uint32_t two) { return __uint_as_float(two & 0xFFFF0000u); }
/// d += A (64, 64) in registers times the stage's (64, 256) tile.
__device__ __forceinline__ void multiply_weights(float (&d)[stream_tile::columns / 2], std::uint32_t (&a)[16], std::uint32_t other, bool first) {
  using namespace hopper;
  const std::uint64_t b = mn_major(other, stream_tile::panel_bytes);
  pin(a);
  wgmma_fence();
#pragma unroll
  for (int i = 0; i < 4; ++i)
    wgmma_m64<stream_tile::columns>::multiply<true>(d, a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3], b + i * mn_step, !first || i != 0);
  wgmma_commit();
}
#endif

/// e (S, C) = softmax(z / T) table and log_sums (S up to a multiple of 64) = log2 of the sum of exp2(factor z), +infinity beyond S.
/// A map's box: z 128 rows, table 64 / Blocks.
template <int Blocks, bool Watched>
__global__ void __launch_bounds__(stream_tile::threads, 1)
    stream_mix(const __grid_constant__ CUtensorMap of_z, const __grid_constant__ CUtensorMap of_table, bfloat16* e, float* log_sums, int rows, int labels,
               int width, float factor) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using tile = stream_tile;
  extern __shared__ unsigned char memory[];
  __shared__ barrier full[tile::stages], empty[tile::stages];
  unsigned char* const base = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, group = warp / 4 - 1;
  const int rank = Blocks == 1 ? 0 : cluster::rank();
  if (threadIdx.x == 0) {
    for (int s = 0; s < tile::stages; ++s) barrier_init(full + s, 1), barrier_init(empty + s, Blocks * tile::groups * 4);
    barrier_init_done();
  }
  if constexpr (Blocks == 1) __syncthreads();
  else cluster::meet();

  const int steps = (labels + tile::depth - 1) / tile::depth, column_tiles = (width + tile::columns - 1) / tile::columns;
  const int row_tiles = (rows + Blocks * tile::rows - 1) / (Blocks * tile::rows), tiles = row_tiles * column_tiles;
  const int first = static_cast<int>(blockIdx.x) / Blocks, stride = static_cast<int>(gridDim.x) / Blocks;
  const auto row_of = [&](int t) { return (t / column_tiles * Blocks + rank) * tile::rows; };
  const auto column_of = [&](int t) { return t % column_tiles * tile::columns; };

  if (group < 0) {
    registers_down_to<40>();
    if (warp == 0 && lane == 0) {
      int stage = 0, parity = 0;
      for (int t = first; t < tiles; t += stride)
        for (int k = 0; k < steps; ++k) {
          barrier_wait<Watched>(empty + stage, parity ^ 1, "an empty stage");
          unsigned char* const to = base + stage * tile::stage_bytes;
          barrier_expect(full + stage, tile::loaded_bytes);
          copy_tile(to, of_z, full + stage, k * tile::depth, row_of(t));
          copy_shared_tile<Blocks>(to + tile::logit_bytes, of_table, full + stage, column_of(t), k * tile::depth, rank);
          if (++stage == tile::stages) stage = 0, parity ^= 1;
        }
    }
    __syncwarp();
  } else {
    registers_up_to<232>();
    const int row = 16 * (warp % 4) + lane / 4;
    int stage = 0, parity = 0, to_release = 0;
    float d[tile::columns / 2] = {};
    const auto release = [&] {
      if (lane < Blocks) {
        if constexpr (Blocks == 1) barrier_arrive(empty + to_release);
        else cluster::arrive(empty + to_release, lane);
      }
      to_release = to_release + 1 == tile::stages ? 0 : to_release + 1;
    };
    for (int t = first; t < tiles; t += stride) {
      float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
      pin(d);
      const auto step = [&](int k, std::uint32_t (&a)[16]) {
        barrier_wait<Watched>(full + stage, parity, "a full stage");
        const unsigned char* const logits = base + stage * tile::stage_bytes + group * tile::group_rows * row_bytes;
        float y[2][16];  // of the thread's two rows
#pragma unroll
        for (int g = 0; g < 8; ++g)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const auto two = *reinterpret_cast<const std::uint32_t*>(logits + swizzled(row + 8 * h, g) + 4 * (lane % 4));
            const bool inside = k * tile::depth + 8 * g < labels;
            y[h][2 * g] = inside ? low_of(two) * factor : -INFINITY;
            y[h][2 * g + 1] = inside ? high_of(two) * factor : -INFINITY;
          }
        float most[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          most[h] = y[h][0];
#pragma unroll
          for (int i = 1; i < 16; ++i) most[h] = fmaxf(most[h], y[h][i]);
          most[h] = fmaxf(most[h], __shfl_xor_sync(0xFFFFFFFFu, most[h], 1));
          most[h] = fmaxf(most[h], __shfl_xor_sync(0xFFFFFFFFu, most[h], 2));
        }
        if (__any_sync(0xFFFFFFFFu, most[0] > top[0] + tile::headroom || most[1] > top[1] + tile::headroom)) {
          float scale[2];
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float grown = fmaxf(top[h], most[h]);
            scale[h] = grown == -INFINITY ? 1.0f : exp2_fast(top[h] - grown);
            top[h] = grown;
            sum[h] *= scale[h];
          }
          if (k > 0) {
            wgmma_wait<0>();
            pin(d);
#pragma unroll
            for (int i = 0; i < tile::columns / 2; ++i) d[i] *= scale[i / 2 % 2];
          }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float from = top[h] == -INFINITY ? 0.0f : top[h];
#pragma unroll
          for (int i = 0; i < 16; ++i) {
            y[h][i] = exp2_fast(y[h][i] - from);
            sum[h] += y[h][i];
          }
        }
        if (k > 1) {
          wgmma_wait<1>();  // the product before the last
          release();
        }
#pragma unroll
        for (int g = 0; g < 8; ++g)
#pragma unroll
          for (int h = 0; h < 2; ++h) a[2 * g + h] = pack(y[h][2 * g], y[h][2 * g + 1]);
        multiply_weights(d, a, shared_address(base + stage * tile::stage_bytes + tile::logit_bytes), k == 0);
        if (++stage == tile::stages) stage = 0, parity ^= 1;
      };
      // Two sets of registers: a product reads its weights until the one after the next begins.
      std::uint32_t even[16], odd[16];
      for (int k = 0; k < steps; k += 2) {
        step(k, even);
        if (k + 1 < steps) step(k + 1, odd);
      }
      wgmma_wait<0>();
      pin(d);
      if (steps > 1) release();
      release();
      const int column = column_of(t) + 2 * (lane % 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 1);
        sum[h] += __shfl_xor_sync(0xFFFFFFFFu, sum[h], 2);
        const int at = row_of(t) + group * tile::group_rows + row + 8 * h;
        if (column_of(t) == 0 && lane % 4 == 0 && at < (rows + tile::depth - 1) / tile::depth * tile::depth)
          log_sums[at] = at < rows ? top[h] + log2f(sum[h]) : INFINITY;
        const float inverse = 1.0f / sum[h];
        if (at >= rows) continue;
        bfloat16* const to = e + index_t{at} * width + column;
#pragma unroll
        for (int j = 0; j < tile::columns / 8; ++j)
          if (column + 8 * j < width)
            *reinterpret_cast<std::uint32_t*>(to + 8 * j) = pack(d[4 * j + 2 * h] * inverse, d[4 * j + 2 * h + 1] * inverse);
      }
    }
  }
  if constexpr (Blocks > 1) cluster::meet();
#endif
}

/// part (shares, K, C) = w^T de over each share of the sentences, w = exp2(factor z - log_sums). A map's box: z 64 rows, de 64 / Blocks.
template <int Blocks, bool Watched>
__global__ void __launch_bounds__(stream_tile::threads, 1)
    stream_table_gradient(const __grid_constant__ CUtensorMap of_z, const __grid_constant__ CUtensorMap of_de, const float* log_sums, float* part, int rows,
                          int labels, int width, int shares, float factor) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using tile = stream_tile;
  extern __shared__ unsigned char memory[];
  __shared__ barrier full[tile::stages], empty[tile::stages];
  unsigned char* const base = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, group = warp / 4 - 1;
  const int rank = Blocks == 1 ? 0 : cluster::rank();
  if (threadIdx.x == 0) {
    for (int s = 0; s < tile::stages; ++s) barrier_init(full + s, 1), barrier_init(empty + s, Blocks * tile::groups * 4);
    barrier_init_done();
  }
  if constexpr (Blocks == 1) __syncthreads();
  else cluster::meet();

  const int all_steps = (rows + tile::depth - 1) / tile::depth, column_tiles = (width + tile::columns - 1) / tile::columns;
  const int label_tiles = (labels + Blocks * tile::rows - 1) / (Blocks * tile::rows), tiles = label_tiles * column_tiles * shares;
  const int first = static_cast<int>(blockIdx.x) / Blocks, stride = static_cast<int>(gridDim.x) / Blocks;
  const auto share_of = [&](int t) { return t / (label_tiles * column_tiles); };
  const auto label_of = [&](int t) { return (t / column_tiles % label_tiles * Blocks + rank) * tile::rows; };
  const auto column_of = [&](int t) { return t % column_tiles * tile::columns; };
  const auto begin_of = [&](int share) { return static_cast<int>(index_t{all_steps} * share / shares); };

  if (group < 0) {
    registers_down_to<40>();
    if (warp == 0 && lane == 0) {
      int stage = 0, parity = 0;
      for (int t = first; t < tiles; t += stride)
        for (int k = begin_of(share_of(t)); k < begin_of(share_of(t) + 1); ++k) {
          barrier_wait<Watched>(empty + stage, parity ^ 1, "an empty stage");
          unsigned char* const to = base + stage * tile::stage_bytes;
          barrier_expect(full + stage, tile::loaded_bytes + tile::sums_bytes);
          for (int g = 0; g < tile::groups; ++g) copy_tile(to + g * tile::panel_bytes, of_z, full + stage, label_of(t) + g * panel_columns, k * tile::depth);
          copy_shared_tile<Blocks>(to + tile::logit_bytes, of_de, full + stage, column_of(t), k * tile::depth, rank);
          copy_bytes(to + tile::loaded_bytes, log_sums + k * tile::depth, tile::sums_bytes, full + stage);
          if (++stage == tile::stages) stage = 0, parity ^= 1;
        }
    }
    __syncwarp();
  } else {
    registers_up_to<232>();
    const int row = 16 * (warp % 4) + lane / 4, matrix = lane / 8;
    int stage = 0, parity = 0, to_release = 0;
    float d[tile::columns / 2] = {};
    const auto release = [&] {
      if (lane < Blocks) {
        if constexpr (Blocks == 1) barrier_arrive(empty + to_release);
        else cluster::arrive(empty + to_release, lane);
      }
      to_release = to_release + 1 == tile::stages ? 0 : to_release + 1;
    };
    for (int t = first; t < tiles; t += stride) {
      const int steps = begin_of(share_of(t) + 1) - begin_of(share_of(t));
      pin(d);
      const auto step = [&](int k, std::uint32_t (&a)[16]) {
        barrier_wait<Watched>(full + stage, parity, "a full stage");
        unsigned char* const from = base + stage * tile::stage_bytes;
        const auto* const sums = reinterpret_cast<const float*>(from + tile::loaded_bytes);
        float y[32];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          std::uint32_t z[4];
          load_transposed(z, shared_address(from + group * tile::panel_bytes) +
                                 swizzled(16 * i + matrix / 2 * 8 + lane % 8, 2 * (warp % 4) + matrix % 2));
#pragma unroll
          for (int g = 0; g < 2; ++g) {
            const float2 of = *reinterpret_cast<const float2*>(sums + 16 * i + 8 * g + 2 * (lane % 4));
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              y[8 * i + 4 * g + 2 * h] = exp2_fast(low_of(z[2 * g + h]) * factor - of.x);
              y[8 * i + 4 * g + 2 * h + 1] = exp2_fast(high_of(z[2 * g + h]) * factor - of.y);
            }
          }
        }
        if (k > 1) {
          wgmma_wait<1>();
          release();
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) a[i] = pack(y[2 * i], y[2 * i + 1]);
        multiply_weights(d, a, shared_address(from + tile::logit_bytes), k == 0);
        if (++stage == tile::stages) stage = 0, parity ^= 1;
      };
      std::uint32_t even[16], odd[16];
      for (int k = 0; k < steps; k += 2) {
        step(k, even);
        if (k + 1 < steps) step(k + 1, odd);
      }
      wgmma_wait<0>();
      pin(d);
      if (steps > 1) release();
      if (steps > 0) release();
      const int column = column_of(t) + 2 * (lane % 4);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = label_of(t) + group * tile::group_rows + row + 8 * h;
        if (at >= labels) continue;
        float* const to = part + (index_t{share_of(t)} * labels + at) * width + column;
#pragma unroll
        for (int j = 0; j < tile::columns / 8; ++j)
          if (column + 8 * j < width) *reinterpret_cast<float2*>(to + 8 * j) = make_float2(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
      }
    }
  }
  if constexpr (Blocks > 1) cluster::meet();
#endif
}

/// y[i .. i + 3] += the shares' parts in their order; n is a multiple of 4.
template <class Int>
__global__ void add_shares(const float* part, bfloat16* y, Int n, Int shares) {
  const Int i = (Int{blockIdx.x} * blockDim.x + threadIdx.x) * 4;
  if (i >= n) return;
  float4 sum = *reinterpret_cast<const float4*>(part + i);
  for (Int s = 1; s < shares; ++s) {
    const float4 more = *reinterpret_cast<const float4*>(part + s * n + i);
    sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
  }
  const float own[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) y[i + j] = static_cast<float>(y[i + j]) + own[j];
}

}  // namespace kernel::mixing

namespace cuda_detail::mixing {

/// Whether the streaming kernels can run: rows of 16 bytes, numbers that fit.
inline bool can_stream(const cuda_queue& q, index_t rows, index_t labels, index_t width) { return has_logit_gradient(q, rows, labels, width); }
inline index_t log_sums_count(index_t rows) { return (rows + 63) / 64 * 64; }

/// e = softmax(z / T) table; log_sums has log_sums_count(rows) values.
template <int Blocks, bool Watched = false>
void stream_mix(cuda_queue& q, const bfloat16* z, const bfloat16* table, bfloat16* e, float* log_sums, index_t rows, index_t labels, index_t width,
                float inverse_temperature) {
  using tile = kernel::mixing::stream_tile;
  const CUtensorMap of_z = hopper::tile_map(z, rows, labels, labels, tile::rows), of_table = hopper::tile_map(table, labels, width, width, tile::depth / Blocks);
  const index_t tiles = ((rows + Blocks * tile::rows - 1) / (Blocks * tile::rows)) * ((width + tile::columns - 1) / tile::columns);
  launch_clusters<Blocks>(q, "stream_mix", kernel::mixing::stream_mix<Blocks, Watched>, tiles, tile::threads, tile::shared_bytes, of_z, of_table, e, log_sums,
                          static_cast<int>(rows), static_cast<int>(labels), static_cast<int>(width), inverse_temperature * log2_e);
}
/// How many shares of the sentences fill the device's `clusters`, at least eight steps each.
inline index_t shares_of(index_t steps, index_t tiles, index_t clusters) {
  index_t best = 1;
  double least = 1e30;
  for (index_t n = 1; n <= 16 && n * 8 <= std::max<index_t>(steps, 8); ++n) {
    const double rounds = double((tiles * n + clusters - 1) / clusters), time = rounds * (double(steps) / double(n) + 6) + double(n);
    if (time < least) least = time, best = n;
  }
  return best;
}
/// dtable += w^T de.
template <int Blocks, bool Watched = false>
void stream_table_gradient(cuda_queue& q, const bfloat16* z, const bfloat16* de, const float* log_sums, bfloat16* dtable, index_t rows, index_t labels,
                           index_t width, float inverse_temperature) {
  using tile = kernel::mixing::stream_tile;
  const CUtensorMap of_z = hopper::tile_map(z, rows, labels, labels, tile::depth), of_de = hopper::tile_map(de, rows, width, width, tile::depth / Blocks);
  const index_t tiles = ((labels + Blocks * tile::rows - 1) / (Blocks * tile::rows)) * ((width + tile::columns - 1) / tile::columns);
  const index_t shares = shares_of((rows + tile::depth - 1) / tile::depth, tiles, std::max(1, q.multiprocessors() / Blocks));
  auto* const part = static_cast<float*>(q.scratch(static_cast<std::size_t>(shares * labels * width) * sizeof(float)));
  launch_clusters<Blocks>(q, "stream_table_gradient", kernel::mixing::stream_table_gradient<Blocks, Watched>, tiles * shares, tile::threads, tile::shared_bytes,
                          of_z, of_de, log_sums, part, static_cast<int>(rows), static_cast<int>(labels), static_cast<int>(width), static_cast<int>(shares),
                          inverse_temperature * log2_e);
  const index_t n = labels * width;
  q.launch("add_shares", dim3(blocks_of(n, 1024)), dim3(256), 0, kernel::mixing::add_shares<index_t>, static_cast<const float*>(part), dtable, n, shares);
}

}  // namespace cuda_detail::mixing
}  // namespace planlm
