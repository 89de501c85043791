/// What the Hopper pullback of attention needs of every row first: rowsum(y o dy), and log sum exp in base 2.
///
/// Both (heads, rows), every sequence's rows padded to a multiple of 128 with lse = +inf: weights of queries past a sequence's end are then
/// exactly 0. Traffic: y and dy read once, 4 N heads Width bytes; two floats a row and head written.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cmath>
#include <cstdint>
#include <cuda_runtime.h>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/config.hpp>

namespace planlm {

/// Where sequence s, which begins at row `begin`, begins when every sequence takes whole tiles of 128 rows.
PLANLM_HD constexpr int padded_begin(int begin, int s) { return (begin + 128 * s) / 128 * 128; }

namespace kernel {

/// One warp a padded row: delta and lse of all heads. 8 elements of y and dy a lane.
template <int Width>
__global__ void attention_hopper_delta(int padded, int sequences, const int* offsets, int heads, const bfloat16* y, const bfloat16* dy,
                                       const float* lse, float* lse2, float* delta) {
  constexpr int lanes = Width / 8;  // of one head
  const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, warps = gridDim.x * blockDim.x / 32, lane = threadIdx.x % 32;
  for (int at = warp; at < padded; at += warps) {
    int low = 0, high = sequences - 1;  // the last sequence that begins at or before `at`
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (padded_begin(offsets[middle], middle) <= at) low = middle;
      else high = middle - 1;
    }
    const int begin = offsets[low], r = at - padded_begin(begin, low);
    const bool real = r < offsets[low + 1] - begin;
    const index_t row = begin + r;
    for (int from = 0; from < heads * lanes; from += 32) {
      const int unit = from + lane;
      const bool here = unit < heads * lanes;
      float sum = 0;
      if (real && here) {
        const uint4 a = *reinterpret_cast<const uint4*>(y + row * heads * Width + 8 * unit);
        const uint4 b = *reinterpret_cast<const uint4*>(dy + row * heads * Width + 8 * unit);
        const std::uint32_t x[4] = {a.x, a.y, a.z, a.w}, g[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum += __uint_as_float(x[i] << 16) * __uint_as_float(g[i] << 16);
          sum += __uint_as_float(x[i] & 0xFFFF0000u) * __uint_as_float(g[i] & 0xFFFF0000u);
        }
      }
#pragma unroll
      for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (here && unit % lanes == 0) {
        const int head = unit / lanes;
        lse2[index_t{head} * padded + at] = real ? lse[row * heads + head] * 1.4426950408889634f : INFINITY;
        delta[index_t{head} * padded + at] = sum;
      }
    }
  }
}

}  // namespace kernel
}  // namespace planlm
