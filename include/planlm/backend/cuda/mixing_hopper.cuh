/// The gradient of the logits on Hopper: dz = w o (de E^T - <de, e>) / T, the product's epilogue, so that dw never exists in memory.
///
/// <w, dw> of a row is <de, e>, which needs no dw. A block makes tiles of 128 sentences x 256 labels, one after another: one warp starts the
/// bulk copies of de (128, 64) and E (256, 64) into a ring of three, two warpgroups multiply (wgmma m64n256k16), two warps bring the tile's w
/// beforehand and store dz, which the warpgroups put in its place.
/// Traffic: de, w, dz and E once each from and to device memory, b (S C + 2 S K + K C); the composition writes and reads dw besides and reads
/// w once more: 3 S K b saved, less the 2 S C b of the row dots. Operations: 2 S K C.
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
  static constexpr int rows = 128, labels = 256, depth = 64, stages = 3, groups = 2, group_rows = rows / groups;
  static constexpr int de_bytes = rows * depth * 2, table_bytes = labels * depth * 2, stage_bytes = de_bytes + table_bytes;
  static constexpr int panels = labels / hopper::panel_columns, panel_bytes = group_rows * hopper::row_bytes;
  static constexpr int weights_bytes = panels * panel_bytes;  // of one warpgroup
  static constexpr int shared_bytes = 1024 + stages * stage_bytes + groups * weights_bytes;
  static constexpr int threads = 128 * (1 + groups);
};

/// dz (S, K) from de (S, C), table (K, C), w (S, K) and dots (S) = <de, e>. A map's box: de 128 rows, table 256, w
/// and dz 64.
template <bool Watched>
__global__ void __launch_bounds__(logit_tile::threads, 1)
    logit_gradient(const __grid_constant__ CUtensorMap of_de, const __grid_constant__ CUtensorMap of_table, const __grid_constant__ CUtensorMap of_w,
                   const __grid_constant__ CUtensorMap of_dz, const float* dots, int rows, int labels, int width, float inverse_temperature) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using namespace hopper;
  using tile = logit_tile;
  extern __shared__ unsigned char memory[];
  __shared__ barrier full[tile::stages], empty[tile::stages], weights_full[tile::groups], dz_full[tile::groups];
  unsigned char* const base = memory + ((1024 - (shared_address(memory) & 1023)) & 1023);
  unsigned char* const weights = base + tile::stages * tile::stage_bytes;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32, group = warp / 4 - 1;
  if (threadIdx.x == 0) {
    for (int s = 0; s < tile::stages; ++s) barrier_init(full + s, 1), barrier_init(empty + s, tile::groups * 4);
    for (int g = 0; g < tile::groups; ++g) barrier_init(weights_full + g, 1), barrier_init(dz_full + g, 4);
    barrier_init_done();
  }
  __syncthreads();

  const int steps = (width + tile::depth - 1) / tile::depth, label_tiles = (labels + tile::labels - 1) / tile::labels;
  const int tiles = (rows + tile::rows - 1) / tile::rows * label_tiles;
  const int first = static_cast<int>(blockIdx.x), stride = static_cast<int>(gridDim.x);
  const auto row_of = [&](int t) { return t / label_tiles * tile::rows; };
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
          copy_tile(to + tile::de_bytes, of_table, full + stage, k * tile::depth, label_of(t));
          if (++stage == tile::stages) stage = 0, parity ^= 1;
        }
    } else if ((warp == 1 || warp == 2) && lane == 0) {
      const int g = warp - 1;
      unsigned char* const own = weights + g * tile::weights_bytes;
      int parity = 0;
      for (int t = first; t < tiles; t += stride, parity ^= 1) {
        const int row = row_of(t) + g * tile::group_rows;
        barrier_expect(weights_full + g, tile::weights_bytes);
        for (int p = 0; p < tile::panels; ++p)
          copy_tile(own + p * tile::panel_bytes, of_w, weights_full + g, label_of(t) + p * panel_columns, row);
        barrier_wait<Watched>(dz_full + g, parity, "dz");
        for (int p = 0; p < tile::panels; ++p) store_tile(of_dz, own + p * tile::panel_bytes, label_of(t) + p * panel_columns, row);
        store_wait();
      }
      store_done();
    }
    __syncwarp();
  } else {
    registers_up_to<232>();
    unsigned char* const own = weights + group * tile::weights_bytes;
    const int row = 16 * (warp % 4) + lane / 4;  // of the group's 64; the other is 8 further
    int stage = 0, parity = 0, weights_parity = 0;
    float d[tile::labels / 2] = {};
    for (int t = first; t < tiles; t += stride, weights_parity ^= 1) {
      const int at = row_of(t) + group * tile::group_rows + row;
      const float mean[2] = {at < rows ? dots[at] : 0.0f, at + 8 < rows ? dots[at + 8] : 0.0f};
      pin(d);
      int before = 0;
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
          if (lane == 0) barrier_arrive(empty + before);
        }
        before = stage;
        if (++stage == tile::stages) stage = 0, parity ^= 1;
      }
      wgmma_wait<0>();
      pin(d);
      if (lane == 0) barrier_arrive(empty + before);
      barrier_wait<Watched>(weights_full + group, weights_parity, "the weights");
#pragma unroll
      for (int j = 0; j < tile::labels / 8; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          auto* const p = reinterpret_cast<std::uint32_t*>(own + j / 8 * tile::panel_bytes + swizzled(row + 8 * h, j % 8) + 4 * (lane % 4));
          const std::uint32_t w = *p;
          const float low = __uint_as_float(w << 16), high = __uint_as_float(w & 0xFFFF0000u);
          *p = pack(inverse_temperature * low * (d[4 * j + 2 * h] - mean[h]), inverse_temperature * high * (d[4 * j + 2 * h + 1] - mean[h]));
        }
      shared_written();
      __syncwarp();
      if (lane == 0) barrier_arrive(dz_full + group);
    }
  }
#endif
}

}  // namespace kernel::mixing

namespace cuda_detail::mixing {

/// Whether logit_gradient can run: rows of 16 bytes, all pointers aligned.
inline bool has_logit_gradient(const cuda_queue& q, index_t rows, index_t labels, index_t width) {
  return q.hopper() && labels % 8 == 0 && width % 8 == 0 && rows > 0 && rows < (index_t{1} << 30) && labels < (index_t{1} << 30);
}
/// dz = w o (de E^T - dots) / T.
template <bool Watched = false>
void logit_gradient(cuda_queue& q, const bfloat16* de, const bfloat16* table, const bfloat16* w, const float* dots, bfloat16* dz, index_t rows,
                    index_t labels, index_t width, float inverse_temperature) {
  using tile = kernel::mixing::logit_tile;
  const auto of_rows = [&](const bfloat16* x) { return hopper::tile_map(x, rows, labels, labels, tile::group_rows); };
  const index_t tiles = (rows + tile::rows - 1) / tile::rows * ((labels + tile::labels - 1) / tile::labels);
  const auto blocks = static_cast<unsigned>(std::min<index_t>(tiles, q.multiprocessors()));
  q.launch("logit_gradient", dim3(blocks), dim3(tile::threads), tile::shared_bytes, kernel::mixing::logit_gradient<Watched>,
           hopper::tile_map(de, rows, width, width, tile::rows), hopper::tile_map(table, labels, width, width, tile::labels), of_rows(w), of_rows(dz),
           dots, static_cast<int>(rows), static_cast<int>(labels), static_cast<int>(width), inverse_temperature);
}

}  // namespace cuda_detail::mixing
}  // namespace planlm
