/// Transcendental functions without branches or tables, so that loops over them vectorise and both devices agree.
///
/// In float: relative error of exp and log below 2 units in the last place; in double the standard library's.
/// The polynomials are minimax fits on the reduced interval.
#pragma once
#include <cmath>
#include <cstdint>
#include <planlm/core/config.hpp>

namespace planlm::math {

/// e^x. Zero below -87.3 (so also at -infinity), infinity above 88.7.
PLANLM_HD inline float exp(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);  // the device has an exponential of its own, as exact and half as long
#else
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
  const float shifted = x * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, so that n = 128 does not overflow the exponent field.
  const auto k = static_cast<std::int32_t>(__builtin_bit_cast(std::uint32_t, shifted) - 0x4B400000u);
  const std::int32_t half = k >> 1;
  const float scaled = p * __builtin_bit_cast(float, (half + 127) << 23) * __builtin_bit_cast(float, (k - half + 127) << 23);
  // Beyond the range `scaled` is anything. It is replaced by masks: of conditional values g++ makes branches unless there is AVX-512, and then
  // no loop over them becomes vectors.
  const std::int32_t above = -static_cast<std::int32_t>(x > 88.72f), below = -static_cast<std::int32_t>(x < -87.3f);
  return __builtin_bit_cast(float, (__builtin_bit_cast(std::int32_t, scaled) & ~(above | below)) | (above & 0x7F800000));
#endif
}
PLANLM_HD inline double exp(double x) { return ::exp(x); }

/// Natural logarithm; -infinity at zero, NaN below.
PLANLM_HD inline float log(float x) {
#if defined(__CUDA_ARCH__)
  return ::logf(x);
#else
  // x = 2^k m, sqrt(1/2) <= m < sqrt(2); a number below the normal ones is scaled by 2^23 first. No branches, as in exp.
  const std::int32_t tiny = -static_cast<std::int32_t>(x < 1.17549435e-38f);
  const float normal = x * __builtin_bit_cast(float, 0x3F800000 + (tiny & (23 << 23)));
  const auto bits = __builtin_bit_cast(std::uint32_t, normal);
  const std::int32_t k = static_cast<std::int32_t>(bits - 0x3F3504F3u) >> 23;
  const float r = __builtin_bit_cast(float, bits - (static_cast<std::uint32_t>(k) << 23)) - 1.0f, n = static_cast<float>(k - (tiny & 23));
  float p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  const float square = r * r;
  const float of_number = n * 0.693359375f + (r + (n * -2.12194440e-4f + (p * r * square - 0.5f * square)));
  const std::int32_t zero = -static_cast<std::int32_t>(x == 0.0f), above = -static_cast<std::int32_t>(x > 3.402823466e38f),
                     none = -static_cast<std::int32_t>(!(x >= 0.0f));
  const std::int32_t kept = __builtin_bit_cast(std::int32_t, of_number) & ~(zero | above | none);
  return __builtin_bit_cast(float, kept | (zero & static_cast<std::int32_t>(0xFF800000)) | (above & 0x7F800000) | (none & 0x7FC00000));
#endif
}
PLANLM_HD inline double log(double x) { return ::log(x); }

/// a / b for normal numbers; on the GPU within 2 units in the last place for |b| below 2^126, without the slow path of exact division.
PLANLM_HD inline float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return ::__fdividef(a, b);
#else
  return a / b;
#endif
}
PLANLM_HD inline double quotient(double a, double b) { return a / b; }

/// Hyperbolic tangent, absolute error below 2e-7 in float, 4e-7 on the GPU: there it takes the special function units, because an activation
/// otherwise waits for its arithmetic rather than for memory.
PLANLM_HD inline float tanh(float x) {
#if defined(__CUDA_ARCH__)
  const float bounded = x < -9.0f ? -9.0f : (x > 9.0f ? 9.0f : x);
  float e, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(bounded * 2.88539008177792681f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(e + 1.0f));
  return 1.0f - 2.0f * inverse;
#else
  // Without bounds: exp has its own, and of a bound that makes a result known beforehand g++ makes a branch, after which no loop becomes vectors.
  return 1.0f - 2.0f / (exp(2.0f * x) + 1.0f);
#endif
}
PLANLM_HD inline double tanh(double x) { return ::tanh(x); }

/// 1 / (1 + e^-x).
template <class T>
PLANLM_HD inline T sigmoid(T x) {
  return quotient(T(1), T(1) + exp(-x));
}

}  // namespace planlm::math
