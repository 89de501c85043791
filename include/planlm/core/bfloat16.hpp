/// A 16-bit float with the exponent of float: what a backend of low precision keeps in memory. All arithmetic happens in float.
#pragma once
#include <cstdint>
#include <type_traits>
#include <planlm/core/config.hpp>

namespace planlm {

/// The upper half of a float: 8 significant bits, relative rounding error at most 2^-8. Conversion rounds to nearest, ties to even; NaN stays
/// NaN. There are no operators of its own: operands become float, results float, and storing rounds once.
struct bfloat16 {
  std::uint16_t bits;

  bfloat16() = default;
  PLANLM_HD bfloat16(float x) : bits(rounded(x)) {}
  template <class N>
    requires(std::is_arithmetic_v<N> && !std::is_same_v<N, float>)
  PLANLM_HD bfloat16(N x) : bits(rounded(static_cast<float>(x))) {}
  PLANLM_HD operator float() const { return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits) << 16); }

  PLANLM_HD bfloat16& operator+=(float x) { return *this = float(*this) + x; }
  PLANLM_HD bfloat16& operator-=(float x) { return *this = float(*this) - x; }
  PLANLM_HD bfloat16& operator*=(float x) { return *this = float(*this) * x; }

 private:
  PLANLM_HD static std::uint16_t rounded(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    std::uint16_t b;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b) : "f"(x));
    return b;
#else
    const auto u = __builtin_bit_cast(std::uint32_t, x);
    if (x != x) return 0x7FFF;  // the one NaN that the device's conversion gives
    return static_cast<std::uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
#endif
  }
};
static_assert(sizeof(bfloat16) == 2 && std::is_trivially_copyable_v<bfloat16>);

namespace detail {
template <class T>
struct accumulation {
  using type = T;
};
template <>
struct accumulation<bfloat16> {
  using type = float;
};
}  // namespace detail

/// The type that values of T are computed and summed in.
template <class T>
using accum_of = typename detail::accumulation<std::remove_const_t<T>>::type;

}  // namespace planlm
