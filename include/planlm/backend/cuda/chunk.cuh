/// Sixteen bytes of storage as numbers: how memory-bound kernels read and write.
///
/// A chunk is N neighbouring values of T that one thread loads or stores with one instruction; N = 1 where rows are not aligned.
/// A value is computed in accum_of<T> and rounded once, when it is stored.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstdint>
#include <type_traits>
#include <cuda_runtime.h>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/config.hpp>

namespace planlm::cuda_detail {

inline constexpr int chunk_bytes = 16;
/// Values of T in sixteen bytes.
template <class T>
inline constexpr int chunk_values = chunk_bytes / static_cast<int>(sizeof(T));

/// What moves `Bytes` bytes at once.
template <int Bytes>
struct raw_access {
  struct alignas(16) type {
    uint4 part[(Bytes + 15) / 16];
  };
};
template <>
struct raw_access<16> {
  using type = uint4;
};
template <>
struct raw_access<8> {
  using type = uint2;
};
template <>
struct raw_access<4> {
  using type = std::uint32_t;
};
template <>
struct raw_access<2> {
  using type = std::uint16_t;
};

/// N values of T as they lie in memory.
template <class T, int N>
struct alignas(sizeof(T) * N) chunk {
  using raw = typename raw_access<static_cast<int>(sizeof(T)) * N>::type;
  T value[N];

  __device__ void unpack(accum_of<T> (&to)[N]) const {
    if constexpr (std::is_same_v<T, bfloat16> && N % 2 == 0) {
      const auto words = __builtin_bit_cast(pairs, *this);
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        to[2 * i] = __uint_as_float(words.word[i] << 16);
        to[2 * i + 1] = __uint_as_float(words.word[i] & 0xFFFF0000u);
      }
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) to[i] = accum_of<T>(value[i]);
    }
  }
  __device__ static chunk pack(const accum_of<T> (&from)[N]) {
    if constexpr (std::is_same_v<T, bfloat16> && N % 2 == 0) {
      pairs words;
#pragma unroll
      for (int i = 0; i < N / 2; ++i)  // one conversion for two values
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words.word[i]) : "f"(from[2 * i + 1]), "f"(from[2 * i]));
      return __builtin_bit_cast(chunk, words);
    } else {
      chunk c;
#pragma unroll
      for (int i = 0; i < N; ++i) c.value[i] = T(from[i]);
      return c;
    }
  }
  /// The chunk at `from`, which is a multiple of its size.
  __device__ static chunk load(const T* from) { return __builtin_bit_cast(chunk, *reinterpret_cast<const raw*>(from)); }
  /// As one vector. __stwb is a strong store, up to 15 % slower in a gather; but see store_whole.
  __device__ void store(T* to) const { *reinterpret_cast<raw*>(to) = __builtin_bit_cast(raw, *this); }
  /// The same where the compiler would split it into four (seen where a loop's values come out of shared memory).
  __device__ void store_whole(T* to) const {
    if constexpr (sizeof(raw) == 16 || sizeof(raw) == 8) __stwb(reinterpret_cast<raw*>(to), __builtin_bit_cast(raw, *this));
    else store(to);
  }

 private:
  struct alignas(sizeof(T) * N) pairs {
    std::uint32_t word[N / 2 > 0 ? N / 2 : 1];
  };
};

/// Whether rows of `cols` values from p on can be read by chunks.
template <class T>
bool by_chunks(index_t cols, const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % chunk_bytes == 0 && cols % chunk_values<T> == 0;
}
template <class T, class... More>
bool by_chunks(index_t cols, const T* p, const More*... more) {
  return by_chunks(cols, p) && (by_chunks(cols, more) && ...);
}

/// The sum over `Width` neighbouring lanes of a warp, in all of them: folds Width / 2, ..., 2, 1 apart.
template <int Width, class A>
__device__ A lanes_sum(A own) {
#pragma unroll
  for (int apart = Width / 2; apart > 0; apart /= 2) own += __shfl_xor_sync(0xFFFFFFFFu, own, apart);
  return own;
}

/// Sums over `Threads` neighbouring threads of a block, the same bits in all of them. More than a warp goes through `room`, of one value per
/// warp and `Sums`; all threads of the block must take part then.
template <int Threads, int Sums, class A>
__device__ void team_sums(A (&own)[Sums], A* room) {
#pragma unroll
  for (int s = 0; s < Sums; ++s) own[s] = lanes_sum<32>(own[s]);
  if constexpr (Threads > 32) {
    constexpr int warps = Threads / 32;
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, first = thread / Threads * warps;
    __syncthreads();  // what the sums before left in `room` was read
    if (thread % 32 == 0)
#pragma unroll
      for (int s = 0; s < Sums; ++s) room[warp * Sums + s] = own[s];
    __syncthreads();
#pragma unroll
    for (int s = 0; s < Sums; ++s) {
      own[s] = room[first * Sums + s];
#pragma unroll
      for (int w = 1; w < warps; ++w) own[s] += room[(first + w) * Sums + s];
    }
  }
}

/// The largest over `Threads` neighbouring threads of a block, in all of them; like team_sums.
template <int Threads, class A>
__device__ A team_max(A own, A* room) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const A other = __shfl_xor_sync(0xFFFFFFFFu, own, apart);
    own = other > own ? other : own;
  }
  if constexpr (Threads > 32) {
    constexpr int warps = Threads / 32;
    const int thread = static_cast<int>(threadIdx.x), first = thread / Threads * warps;
    __syncthreads();
    if (thread % 32 == 0) room[thread / 32] = own;
    __syncthreads();
    own = room[first];
#pragma unroll
    for (int w = 1; w < warps; ++w) own = room[first + w] > own ? room[first + w] : own;
  }
  return own;
}

/// e^x by the special function unit: relative error about 2^-22 + |x| 2^-24; zero below the normal floats.
__device__ inline float quick_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504088896341f));
  return y;
}
__device__ inline double quick_exp(double x) { return ::exp(x); }

}  // namespace planlm::cuda_detail
