/// A team of a whole block: how long rows, or few of them, run a row kernel.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cuda_runtime.h>
#include <planlm/backend/concept.hpp>

namespace planlm {

/// Thread t of Threads takes i = t, t + Threads, ... of every loop. A reduction folds the lanes of each warp 16, 8, 4, 2, 1 apart and adds the
/// warps in order; it meets all threads, but memory that one of them wrote is for the others only after sync(). All threads of the block must
/// take part in every call.
template <int Threads>
class block_team {
  static_assert(Threads % 32 == 0 && Threads <= 1024, "planlm::block_team: whole warps, at most 32 of them");

 public:
  static constexpr int warps = Threads / 32;
  /// What the warps of a team share.
  struct meeting {
    double value[warps];
  };
  __device__ explicit block_team(meeting& room) : room_(&room), thread_(static_cast<int>(threadIdx.x)) {}

  template <class F>
  __device__ void for_each(index_t n, F f) const {
    for (index_t i = thread_; i < n; i += Threads) f(i);
  }
  template <class T, class F>
  __device__ T sum(index_t n, F f) const {
    T own{};
#pragma unroll 4
    for (index_t i = thread_; i < n; i += Threads) own += f(i);
    for (int width = 16; width > 0; width /= 2) own += __shfl_xor_sync(all, own, width);
    const T* value = exchange(own);
    T total = value[0];
    for (int w = 1; w < warps; ++w) total += value[w];
    return total;
  }
  /// n >= 1.
  template <class T, class F>
  __device__ T max(index_t n, F f) const {
    T own{};
#pragma unroll 4
    for (index_t i = thread_; i < n; i += Threads) {
      const T v = f(i);
      if (i < Threads || v > own) own = v;
    }
    // Lanes without a value take the first lane's; a warp without any is left out below.
    const T first = __shfl_sync(all, own, 0);
    if (thread_ >= n) own = first;
    for (int width = 16; width > 0; width /= 2) {
      const T other = __shfl_xor_sync(all, own, width);
      own = other > own ? other : own;
    }
    const T* value = exchange(own);
    T best = value[0];
    for (int w = 1; w < warps && index_t{w} * 32 < n; ++w) best = value[w] > best ? value[w] : best;
    return best;
  }
  __device__ bool leader() const { return thread_ == 0; }
  __device__ void sync() const { __syncthreads(); }

 private:
  static constexpr unsigned all = 0xFFFFFFFFu;
  /// One value per warp, seen by all threads until the next exchange.
  template <class T>
  __device__ const T* exchange(T own) const {
    static_assert(sizeof(T) <= sizeof(double) && alignof(T) <= alignof(double), "planlm::block_team: reduces at most 8 bytes");
    T* value = reinterpret_cast<T*>(room_->value);
    __syncthreads();  // the values before have been read
    if (thread_ % 32 == 0) value[thread_ / 32] = own;
    __syncthreads();
    return value;
  }

  meeting* room_;
  int thread_;
};
static_assert(Team<block_team<128>>);

}  // namespace planlm
