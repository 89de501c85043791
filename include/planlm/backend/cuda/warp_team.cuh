/// A team of 32: how a warp runs a row kernel.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cuda_runtime.h>
#include <planlm/backend/concept.hpp>

namespace planlm {

/// Lane l takes i = l, l + 32, l + 64, ... of every loop; a reduction folds lanes 16, 8, 4, 2, 1 apart, so its order is that of
/// testing::lane_team<32>, bit for bit. A reduction orders no memory: what one lane wrote another may read only after sync().
/// All 32 lanes must take part in every call.
class warp_team {
 public:
  static constexpr int lanes = 32;
  __device__ explicit warp_team(int lane) : lane_(lane) {}

  template <class F>
  __device__ void for_each(index_t n, F f) const {
    for (index_t i = lane_; i < n; i += lanes) f(i);
  }
  template <class T, class F>
  __device__ T sum(index_t n, F f) const {
    T own{};
    for (index_t i = lane_; i < n; i += lanes) own += f(i);
    // Lanes l and l ^ width add the same two numbers, so all lanes end with the same bits.
    for (int width = lanes / 2; width > 0; width /= 2) own += __shfl_xor_sync(all, own, width);
    return own;
  }
  /// n >= 1.
  template <class T, class F>
  __device__ T max(index_t n, F f) const {
    T own{};
    for (index_t i = lane_; i < n; i += lanes) {
      const T v = f(i);
      if (i < lanes || v > own) own = v;
    }
    const T first = __shfl_sync(all, own, 0);
    if (lane_ >= n) own = first;
    for (int width = lanes / 2; width > 0; width /= 2) {
      const T other = __shfl_xor_sync(all, own, width);
      own = other > own ? other : own;
    }
    return __shfl_sync(all, own, 0);  // a NaN or a zero of the other sign may have left lanes apart
  }
  __device__ bool leader() const { return lane_ == 0; }
  __device__ void sync() const { __syncwarp(all); }

 private:
  static constexpr unsigned all = 0xFFFFFFFFu;
  int lane_;
};
static_assert(Team<warp_team>);

}  // namespace planlm
