/// The gradient of the logits on Hopper: dz = w o (de E^T - <de, e>) / T, the product's epilogue, so that dw never exists in memory.
///
/// <w, dw> of a row is <de, e>, which needs no dw. A block makes tiles of 128 sentences x 256 labels, one after another: one warp starts the
/// bulk copies of de (128, 64) and E (256, 64) into a ring of four and prefetches the tile's w, two warpgroups multiply (wgmma m64n256k16),
/// load w while the last products run and send dz out by panels of 64 labels. Two blocks of a cluster work on neighbouring rows and the same labels; each
/// brings half of the rows of E for both.
/// Traffic: de, w, dz and E once each from and to device memory, b (S C + 2 S K + K C); the composition reads and writes dw besides and w, dw
/// once more: 3 S K b saved, less the S C b of e for the row dots. Operations: 2 S K C.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstdint>
#include <planlm/backend/cuda/hopper.cuh>
#include <planlm/backend/cuda/mixing_rows.cuh>

namespace planlm {

namespace kernel::mixing {

struct logit_tile {
  static constexpr int rows = 128, labels = 256, depth = 64, stages = 4, groups = 2, group_rows = rows / groups;
  static constexpr int de_bytes = rows * depth * 2, table_bytes = labels * depth * 2, stage_bytes = de_bytes + table_bytes;
  static constexpr int panels = labels / hopper::panel_columns, panel_bytes = group_rows * hopper::row_bytes;
  static constexpr int staged = 2;  // panels of dz on their way out, of a warpgroup
  static constexpr int shared_bytes = 1024 + stages * stage_bytes + groups * staged * panel_bytes;
  static constexpr int threads = 128 * (1 + groups);
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
namespace cluster {
__device__ __forceinline__ int rank() {
  std::uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return static_cast<int>(r);
}
/// All threads of all blocks of the cluster.
__device__ __forceinline__ void meet() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
/// Arrives at the same barrier of block `block` of the cluster.
__device__ __forceinline__ void arrive(hopper::barrier* b, int block) {
  asm volatile(
      "{\n.reg .b32 a;\nmapa.shared::cluster.u32 a, %0, %1;\nmbarrier.arrive.release.cluster.shared::cluster.b64 _, [a];\n}\n" ::"r"(
          hopper::shared_address(b)),
      "r"(block)
      : "memory");
}
/// hopper::copy_tile into the same place of both blocks, counted by the barrier of each.
__device__ __forceinline__ void copy_tile_to_both(void* tile, const CUtensorMap& map, hopper::barrier* b, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(
          hopper::shared_address(tile)),
      "l"(&map), "r"(hopper::shared_address(b)), "r"(column), "r"(row), "h"(static_cast<std::uint16_t>(3))
      : "memory");
}
/// Brings a box into the L2 cache.
__device__ __forceinline__ void prefetch_tile(const CUtensorMap& map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(column), "r"(row) : "memory");
}
/// Until all stores but the latest have read shared memory.
__device__ __forceinline__ void store_wait_but_one() { asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory"); }
}  // namespace cluster
#endif

/// dz (S, K) from de (S, C), table (K, C), w (S, K) and dots (S) = <de, e>. Grid: Blocks x clusters; a map's box: de 128 rows, table
/// 256 / Blocks, w and dz 64.
template <int Blocks, bool Watched>
__global__ void __launch_bounds__(logit_tile::threads, 1)
    logit_gradient(const __grid_constant__ CUtensorMap of_de, const __grid_constant__ CUtensorMap of_table, const __grid_constant__ CUtensorMap of_w,
                   const __grid_constant__ CUtensorMap of_dz, const bfloat16* w, const float* dots, int rows, int labels, int width,
                   float inverse_temperature) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using tile = logit_tile;
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

  const int steps = (width + tile::depth - 1) / tile::depth, label_tiles = (labels + tile::labels - 1) / tile::labels;
  const int row_tiles = (rows + Blocks * tile::rows - 1) / (Blocks * tile::rows), tiles = row_tiles * label_tiles;
  const int first = static_cast<int>(blockIdx.x) / Blocks, stride = static_cast<int>(gridDim.x) / Blocks;
  const auto row_of = [&](int t) { return (t / label_tiles * Blocks + rank) * tile::rows; };
  const auto label_of = [&](int t) { return t % label_tiles * tile::labels; };

  if (group < 0) {
    registers_down_to<40>();
    if (warp == 0 && lane == 0) {
      int stage = 0, parity = 0;
      for (int t = first; t < tiles; t += stride)
        for (int k = 0; k < steps; ++k) {
          barrier_wait<Watched>(empty + stage, parity ^ 1, "an empty stage");
          unsigned char* const to = base + stage * tile::stage_bytes;
          barrier_expect(full + stage, tile::stage_bytes);
          copy_tile(to, of_de, full + stage, k * tile::depth, row_of(t));
          if constexpr (Blocks == 1) {
            copy_tile(to + tile::de_bytes, of_table, full + stage, k * tile::depth, label_of(t));
          } else {
            constexpr int half = tile::labels / Blocks;
            cluster::copy_tile_to_both(to + tile::de_bytes + rank * half * row_bytes, of_table, full + stage, k * tile::depth,
                                       label_of(t) + rank * half);
          }
          if (k < tile::groups * tile::panels)  // the tile's weights, for the end of it
            cluster::prefetch_tile(of_w, label_of(t) + k / tile::groups * panel_columns, row_of(t) + k % tile::groups * tile::group_rows);
          if (++stage == tile::stages) stage = 0, parity ^= 1;
        }
    }
    __syncwarp();
  } else {
    registers_up_to<232>();
    unsigned char* const out = base + tile::stages * tile::stage_bytes + group * tile::staged * tile::panel_bytes;
    const int row = 16 * (warp % 4) + lane / 4;  // of the group's 64; the other is 8 further
    const bool storing = warp % 4 == 0 && lane == 0;
    int stage = 0, parity = 0;
    float d[tile::labels / 2] = {};
    for (int t = first; t < tiles; t += stride) {
      const int at = row_of(t) + group * tile::group_rows + row, label = label_of(t) + 2 * (lane % 4);
      const float mean[2] = {at < rows ? dots[at] : 0.0f, at + 8 < rows ? dots[at + 8] : 0.0f};
      pin(d);
      int before = 0;
      const auto release = [&] {
        if (lane < Blocks) {
          if constexpr (Blocks == 1) barrier_arrive(empty + before);
          else cluster::arrive(empty + before, lane);
        }
      };
      for (int k = 0; k < steps; ++k) {
        barrier_wait<Watched>(full + stage, parity, "a full stage");
        const std::uint32_t from = shared_address(base + stage * tile::stage_bytes);
        const std::uint64_t a = k_major(from + group * tile::group_rows * row_bytes), b = k_major(from + tile::de_bytes);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < tile::depth / 16; ++i) wgmma_m64<tile::labels>::multiply(d, a + i * k_step, b + i * k_step, k + i != 0);
        wgmma_commit();
        if (k > 0) {
          wgmma_wait<1>();
          release();
        }
        before = stage;
        if (++stage == tile::stages) stage = 0, parity ^= 1;
      }
      // The weights come while the last products run. labels is even: a pair is inside or outside.
      std::uint32_t weights[tile::labels / 4];
#pragma unroll
      for (int j = 0; j < tile::labels / 8; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          weights[2 * j + h] = at + 8 * h < rows && label + 8 * j < labels
                                   ? *reinterpret_cast<const std::uint32_t*>(w + index_t{at + 8 * h} * labels + label + 8 * j)
                                   : 0u;
      wgmma_wait<0>();
      pin(d);
      release();
#pragma unroll
      for (int p = 0; p < tile::panels; ++p) {
        unsigned char* const to = out + p % tile::staged * tile::panel_bytes;
        if (storing) cluster::store_wait_but_one();
        group_sync(1 + group, 128);
#pragma unroll
        for (int j = 0; j < 8; ++j)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int n = 8 * p + j;
            const std::uint32_t two = weights[2 * n + h];
            const float low = __uint_as_float(two << 16), high = __uint_as_float(two & 0xFFFF0000u);
            *reinterpret_cast<std::uint32_t*>(to + swizzled(row + 8 * h, j) + 4 * (lane % 4)) =
                pack(inverse_temperature * low * (d[4 * n + 2 * h] - mean[h]), inverse_temperature * high * (d[4 * n + 2 * h + 1] - mean[h]));
          }
        shared_written();
        group_sync(1 + group, 128);
        if (storing) store_tile(of_dz, to, label_of(t) + p * panel_columns, row_of(t) + group * tile::group_rows);
      }
    }
    if (storing) store_done();
  }
  if constexpr (Blocks > 1) cluster::meet();  // a block that is gone takes no arrivals
#endif
}

}  // namespace kernel::mixing

namespace cuda_detail::mixing {

/// Whether logit_gradient can run: rows of 16 bytes, all pointers aligned.
inline bool has_logit_gradient(const cuda_queue& q, index_t rows, index_t labels, index_t width) {
  return q.hopper() && labels % 8 == 0 && width % 8 == 0 && rows > 0 && rows < (index_t{1} << 30) && labels < (index_t{1} << 30);
}
/// dz = w o (de E^T - dots) / T.
template <int Blocks, bool Watched = false>
void logit_gradient(cuda_queue& q, const bfloat16* de, const bfloat16* table, const bfloat16* w, const float* dots, bfloat16* dz, index_t rows,
                    index_t labels, index_t width, float inverse_temperature) {
  using tile = kernel::mixing::logit_tile;
  const CUtensorMap of_de = hopper::tile_map(de, rows, width, width, tile::rows), of_table = hopper::tile_map(table, labels, width, width, tile::labels / Blocks),
                    of_w = hopper::tile_map(w, rows, labels, labels, tile::group_rows), of_dz = hopper::tile_map(dz, rows, labels, labels, tile::group_rows);
  const auto f = kernel::mixing::logit_gradient<Blocks, Watched>;
  check(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, tile::shared_bytes), "logit_gradient");
  const index_t tiles = ((rows + Blocks * tile::rows - 1) / (Blocks * tile::rows)) * ((labels + tile::labels - 1) / tile::labels);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = Blocks, cluster.val.clusterDim.y = 1, cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.blockDim = dim3(tile::threads);
  config.dynamicSmemBytes = tile::shared_bytes;
  config.stream = q.stream();
  config.attrs = &cluster;
  config.numAttrs = Blocks > 1 ? 1 : 0;
  int at_once = q.multiprocessors();
  config.gridDim = dim3(static_cast<unsigned>(q.multiprocessors() / Blocks * Blocks));
  // Clusters do not tile the device: those left over would begin when the others end.
  if constexpr (Blocks > 1) check(cudaOccupancyMaxActiveClusters(&at_once, f, &config), "cudaOccupancyMaxActiveClusters");
  config.gridDim = dim3(static_cast<unsigned>(Blocks * std::min<index_t>(tiles, std::max(1, at_once))));
  check(cudaLaunchKernelEx(&config, f, of_de, of_table, of_w, of_dz, w, dots, static_cast<int>(rows), static_cast<int>(labels), static_cast<int>(width),
                           inverse_temperature),
        "logit_gradient");
}

}  // namespace cuda_detail::mixing
}  // namespace planlm
