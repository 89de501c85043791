/// Label weights row by row: w = softmax((z + noise) / T) and its pullback, with the whole row in registers.
///
/// A row of up to 8192 labels belongs to 1, 2, 4 or 8 warps, 32 labels a thread, in 16-byte accesses; each value is read once and written
/// once, all arithmetic between is in float. Traffic of n = S K values of b bytes: forward 2 n b (read z, write w), pullback 3 n b (read w or
/// z, read dw, write dz in its place). Operations: one exponential a value, about eight others. Rows that do not fit or are not aligned to
/// 16 bytes take a warp each and pass over memory three times.
///
/// Gumbel noise is never stored: it is a function of (row, label), remade where it is needed.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <cstdint>
#include <type_traits>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/backend/mixing_rule.hpp>
#include <planlm/core/bfloat16.hpp>

namespace planlm {

namespace cuda_detail::mixing {

/// What the kernels need of a rule.
struct logit_rule {
  float inverse_temperature;
  float noise;
  philox random;
};
inline logit_rule logits_of(const mixing_rule& r) {
  return {static_cast<float>(r.inverse_temperature), static_cast<float>(r.noise), r.random};
}

/// 16 bytes of T as floats.
template <class T>
struct chunk {
  static constexpr int count = 16 / int(sizeof(T));
  __device__ static void load(const T* from, float* to) {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
    const std::uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (count == 8) {
        to[2 * i] = __uint_as_float(word[i] << 16);
        to[2 * i + 1] = __uint_as_float(word[i] & 0xFFFF0000u);
      } else {
        to[i] = __uint_as_float(word[i]);
      }
    }
  }
  __device__ static void store(T* to, const float* from) {
    std::uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (count == 8)
        word[i] = std::uint32_t{bfloat16(from[2 * i]).bits} | std::uint32_t{bfloat16(from[2 * i + 1]).bits} << 16;
      else
        word[i] = __float_as_uint(from[i]);
    }
    *reinterpret_cast<uint4*>(to) = make_uint4(word[0], word[1], word[2], word[3]);
  }
};

__device__ inline float log_of(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y * 0.693147181f;
}
/// -log(-log u), u in (0, 1) with 23 bits, exact as a float; absolute error near 1e-6. The hardware's logarithm has a small absolute error
/// near 1, which is enough for the outer one; the inner one comes from its series there.
__device__ inline float gumbel(std::uint32_t bits) {
  const float u = (static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f, v = 1.0f - u;
  const float series = v * (1.0f + v * (0.5f + v * (1.0f / 3 + v * (0.25f + v * (0.2f + v * (1.0f / 6))))));
  return -log_of(v < 0.1f ? series : -log_of(u));
}
/// Adds the noise of labels [first, first + Count) to y; first and Count are multiples of 4.
template <int Count>
__device__ void add_noise(const logit_rule& rule, index_t row, index_t first, float* y) {
#pragma unroll
  for (int b = 0; b < Count / 4; ++b) {
    const random_block bits = rule.random.bits(static_cast<std::uint64_t>(row), static_cast<std::uint32_t>(first / 4) + b);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[4 * b + i] += rule.noise * gumbel(bits.word[i]);
  }
}
template <class T>
__device__ float noisy(const logit_rule& rule, const T* z, index_t row, index_t label) {
  const float y = static_cast<float>(z[label]);
  return rule.noise == 0 ? y : y + rule.noise * gumbel(rule.random.word(static_cast<std::uint64_t>(row), static_cast<std::uint32_t>(label)));
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int w = 16; w > 0; w /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, w);
  return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
  for (int w = 16; w > 0; w /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, w));
  return x;
}
/// The same for the warps of a row; `slot` has one float a warp of the block and is used once a call site.
template <int Warps, bool Max>
__device__ float row_reduce(float x, float* slot) {
  x = Max ? warp_max(x) : warp_sum(x);
  if constexpr (Warps == 1) return x;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (threadIdx.x % 32 == 0) slot[warp] = x;
  __syncthreads();
  const float* own = slot + warp / Warps * Warps;
  x = own[0];
#pragma unroll
  for (int i = 1; i < Warps; ++i) x = Max ? fmaxf(x, own[i]) : x + own[i];
  return x;
}
constexpr float log2_e = 1.4426950408889634f;
__device__ inline float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace cuda_detail::mixing

namespace kernel::mixing {

inline constexpr int mixing_values = 32;  // of a row, a thread

/// The values of one row that a thread holds: chunk c of thread t of the row's team begins at label (c * team + t) * chunk.
template <class T, int Warps>
struct mixing_row {
  using chunk = cuda_detail::mixing::chunk<T>;
  static constexpr int chunks = mixing_values / chunk::count;
  index_t cols;
  int member;
  __device__ explicit mixing_row(index_t k) : cols(k), member(static_cast<int>(threadIdx.x) % (32 * Warps)) {}
  __device__ index_t label(int c) const { return (index_t{c} * (32 * Warps) + member) * chunk::count; }
  __device__ void load(const T* row, float* v, float other) const {
#pragma unroll
    for (int c = 0; c < chunks; ++c) {
      if (label(c) < cols) {
        chunk::load(row + label(c), v + c * chunk::count);
      } else {
#pragma unroll
        for (int i = 0; i < chunk::count; ++i) v[c * chunk::count + i] = other;
      }
    }
  }
  __device__ void store(T* row, const float* v) const {
#pragma unroll
    for (int c = 0; c < chunks; ++c)
      if (label(c) < cols) chunk::store(row + label(c), v + c * chunk::count);
  }
  /// v becomes exp((v + noise - max) / T); returns its sum over the row. `slots`: two floats a warp of the block.
  template <bool Noise>
  __device__ float exponentials(const cuda_detail::mixing::logit_rule& rule, index_t row, float* v, float* slots) const {
    if constexpr (Noise)
#pragma unroll
      for (int c = 0; c < chunks; ++c)
        if (label(c) < cols) cuda_detail::mixing::add_noise<chunk::count>(rule, row, label(c), v + c * chunk::count);
    float top = v[0];
#pragma unroll
    for (int i = 1; i < mixing_values; ++i) top = fmaxf(top, v[i]);
    top = cuda_detail::mixing::row_reduce<Warps, true>(top, slots);
    const float factor = rule.inverse_temperature * cuda_detail::mixing::log2_e;
    float total = 0;
#pragma unroll
    for (int i = 0; i < mixing_values; ++i) {
      v[i] = cuda_detail::mixing::exp2_of((v[i] - top) * factor);
      total += v[i];
    }
    return cuda_detail::mixing::row_reduce<Warps, false>(total, slots + blockDim.x / 32);
  }
};

/// w = softmax((z + noise) / T), (S, K).
template <class T, int Warps, bool Noise>
__global__ void __launch_bounds__(Warps == 8 ? 256 : 128) mixing_weights(const T* z, T* w, index_t rows, index_t cols, cuda_detail::mixing::logit_rule rule) {
  __shared__ float slots[16];
  const mixing_row<T, Warps> own(cols);
  const index_t r = index_t{blockIdx.x} * (blockDim.x / (32 * Warps)) + threadIdx.x / (32 * Warps);
  const bool inside = r < rows;
  if (Warps == 1 && !inside) return;
  const index_t at = (inside ? r : rows - 1) * cols;  // threads beyond the end go along to the barriers
  float v[mixing_values];
  own.load(z + at, v, -INFINITY);
  const float inverse = 1.0f / own.template exponentials<Noise>(rule, r, v, slots);
#pragma unroll
  for (int i = 0; i < mixing_values; ++i) v[i] *= inverse;
  if (inside) own.store(w + at, v);
}

/// dz = w o (dw - <w, dw>) / T in place of dw, from w, or from z where the weights were not kept.
template <class T, int Warps, bool Remade, bool Noise>
__global__ void __launch_bounds__(Warps == 8 ? 256 : 128)
    mixing_weights_pullback(const T* source, T* dw, index_t rows, index_t cols, cuda_detail::mixing::logit_rule rule) {
  __shared__ float slots[24];
  const mixing_row<T, Warps> own(cols);
  const index_t r = index_t{blockIdx.x} * (blockDim.x / (32 * Warps)) + threadIdx.x / (32 * Warps);
  const bool inside = r < rows;
  if (Warps == 1 && !inside) return;
  const index_t at = (inside ? r : rows - 1) * cols;
  float w[mixing_values], d[mixing_values];
  own.load(source + at, w, Remade ? -INFINITY : 0.0f);
  own.load(dw + at, d, 0.0f);
  if constexpr (Remade) {
    const float inverse = 1.0f / own.template exponentials<Noise>(rule, r, w, slots);
#pragma unroll
    for (int i = 0; i < mixing_values; ++i) w[i] *= inverse;
  }
  float mean = 0;
#pragma unroll
  for (int i = 0; i < mixing_values; ++i) mean += w[i] * d[i];
  mean = cuda_detail::mixing::row_reduce<Warps, false>(mean, slots + 2 * (blockDim.x / 32));
#pragma unroll
  for (int i = 0; i < mixing_values; ++i) d[i] = rule.inverse_temperature * w[i] * (d[i] - mean);
  if (inside) own.store(dw + at, d);
}

/// The same for any row: one warp, value by value.
template <class T>
__global__ void mixing_weights_any(const T* z, T* w, index_t rows, index_t cols, cuda_detail::mixing::logit_rule rule) {
  using namespace cuda_detail::mixing;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const index_t r = index_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= rows) return;
  const T* from = z + r * cols;
  float top = -INFINITY, total = 0;
  for (index_t i = lane; i < cols; i += 32) top = fmaxf(top, noisy(rule, from, r, i));
  top = warp_max(top);
  const float factor = rule.inverse_temperature * log2_e;
  for (index_t i = lane; i < cols; i += 32) total += exp2_of((noisy(rule, from, r, i) - top) * factor);
  const float inverse = 1.0f / warp_sum(total);
  for (index_t i = lane; i < cols; i += 32) w[r * cols + i] = exp2_of((noisy(rule, from, r, i) - top) * factor) * inverse;
}
template <class T, bool Remade>
__global__ void mixing_weights_pullback_any(const T* source, T* dw, index_t rows, index_t cols, cuda_detail::mixing::logit_rule rule) {
  using namespace cuda_detail::mixing;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const index_t r = index_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= rows) return;
  const T* from = source + r * cols;
  T* d = dw + r * cols;
  float top = -INFINITY, inverse = 1;
  const float factor = rule.inverse_temperature * log2_e;
  const auto weight = [&](index_t i) {
    if constexpr (Remade) return exp2_of((noisy(rule, from, r, i) - top) * factor) * inverse;
    else return static_cast<float>(from[i]);
  };
  if constexpr (Remade) {
    float total = 0;
    for (index_t i = lane; i < cols; i += 32) top = fmaxf(top, noisy(rule, from, r, i));
    top = warp_max(top);
    for (index_t i = lane; i < cols; i += 32) total += weight(i);
    inverse = 1.0f / warp_sum(total);
  }
  float mean = 0;
  for (index_t i = lane; i < cols; i += 32) mean += weight(i) * static_cast<float>(d[i]);
  mean = warp_sum(mean);
  for (index_t i = lane; i < cols; i += 32) d[i] = rule.inverse_temperature * weight(i) * (static_cast<float>(d[i]) - mean);
}

/// y[r] = <a_r, b_r>, float: one warp a row.
template <class T, bool Vectors>
__global__ void row_dots(const T* a, const T* b, float* y, index_t rows, index_t cols) {
  using chunk = cuda_detail::mixing::chunk<T>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const index_t r = index_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (r >= rows) return;
  float total = 0;
  if constexpr (Vectors) {
#pragma unroll 4
    for (index_t i = index_t{lane} * chunk::count; i < cols; i += 32 * chunk::count) {
      float u[chunk::count], v[chunk::count];
      chunk::load(a + r * cols + i, u), chunk::load(b + r * cols + i, v);
#pragma unroll
      for (int j = 0; j < chunk::count; ++j) total += u[j] * v[j];
    }
  } else {
    for (index_t i = lane; i < cols; i += 32) total += static_cast<float>(a[r * cols + i]) * static_cast<float>(b[r * cols + i]);
  }
  total = cuda_detail::mixing::warp_sum(total);
  if (lane == 0) y[r] = total;
}

}  // namespace kernel::mixing

namespace cuda_detail::mixing {

inline bool aligned_to_16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
/// Warps that hold a row of `cols` labels in registers; 0 if it does not fit or is not aligned.
template <class T>
int warps_of_row(index_t cols, const void* a, const void* b) {
  if (cols % chunk<T>::count != 0 || !aligned_to_16(a) || !aligned_to_16(b)) return 0;
  for (int warps = 1; warps <= 8; warps *= 2)
    if (cols <= index_t{warps} * 32 * kernel::mixing::mixing_values) return warps;
  return 0;
}
/// f(std::integral_constant<int, warps>{}), warps in 1, 2, 4, 8.
template <class F>
void with_warps(int warps, const F& f) {
  if (warps == 1) f(std::integral_constant<int, 1>{});
  else if (warps == 2) f(std::integral_constant<int, 2>{});
  else if (warps == 4) f(std::integral_constant<int, 4>{});
  else f(std::integral_constant<int, 8>{});
}
inline unsigned blocks_of(index_t rows, index_t each) { return static_cast<unsigned>((rows + each - 1) / each); }

template <class T>
void mixing_weights(cuda_queue& q, const logit_rule& rule, const T* z, T* w, index_t rows, index_t cols) {
  if (rows == 0 || cols == 0) return;
  const int warps = warps_of_row<T>(cols, z, w);
  if (warps == 0) {
    q.launch("mixing_weights_any", dim3(blocks_of(rows, 4)), dim3(128), 0, kernel::mixing::mixing_weights_any<T>, z, w, rows, cols, rule);
    return;
  }
  with_warps(warps, [&](auto count) {
    constexpr int n = decltype(count)::value, threads = n == 8 ? 256 : 128;
    const auto f = rule.noise == 0 ? kernel::mixing::mixing_weights<T, n, false> : kernel::mixing::mixing_weights<T, n, true>;
    q.launch("mixing_weights", dim3(blocks_of(rows, threads / (32 * n))), dim3(threads), 0, f, z, w, rows, cols, rule);
  });
}
/// `source` is w, or z where `remade`.
template <class T>
void mixing_weights_pullback(cuda_queue& q, const logit_rule& rule, bool remade, const T* source, T* dw, index_t rows, index_t cols) {
  if (rows == 0 || cols == 0) return;
  const int warps = warps_of_row<T>(cols, source, dw);
  if (warps == 0) {
    const auto f = remade ? kernel::mixing::mixing_weights_pullback_any<T, true> : kernel::mixing::mixing_weights_pullback_any<T, false>;
    q.launch("mixing_weights_pullback_any", dim3(blocks_of(rows, 4)), dim3(128), 0, f, source, dw, rows, cols, rule);
    return;
  }
  with_warps(warps, [&](auto count) {
    constexpr int n = decltype(count)::value, threads = n == 8 ? 256 : 128;
    const auto f = !remade           ? kernel::mixing::mixing_weights_pullback<T, n, false, false>
                   : rule.noise == 0 ? kernel::mixing::mixing_weights_pullback<T, n, true, false>
                                     : kernel::mixing::mixing_weights_pullback<T, n, true, true>;
    q.launch("mixing_weights_pullback", dim3(blocks_of(rows, threads / (32 * n))), dim3(threads), 0, f, source, dw, rows, cols, rule);
  });
}
template <class T>
void row_dots(cuda_queue& q, const T* a, const T* b, float* y, index_t rows, index_t cols) {
  if (rows == 0) return;
  const bool vectors = cols % chunk<T>::count == 0 && aligned_to_16(a) && aligned_to_16(b);
  const auto f = vectors ? kernel::mixing::row_dots<T, true> : kernel::mixing::row_dots<T, false>;
  q.launch("row_dots", dim3(blocks_of(rows, 4)), dim3(128), 0, f, a, b, y, rows, cols);
}

}  // namespace cuda_detail::mixing
}  // namespace planlm
