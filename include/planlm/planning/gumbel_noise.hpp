/// Gumbel noise on logits: y = z - scale log(-log U), U of (row, label).
///
/// A serial team takes 16 blocks of random words together, in loops without branches, which become vectors. The noise is computed in double and
/// rounded once, so what a backend of float adds depends on its logarithm in one value of some hundred million.
#pragma once
#include <cmath>
#include <cstdint>
#include <planlm/backend/team.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/philox.hpp>

namespace planlm::mixing_kernel {

/// Natural logarithm of a positive normal number, to 2 units in the last place also near 1. On a host without branches:
/// x = 2^k m, sqrt(1/2) <= m < sqrt(2);  log m = 2 atanh(s), s = (m - 1) / (m + 1), s^2 < 0.0295, by its series up to s^21.
PLANLM_HD inline double positive_log(double x) {
#if defined(__CUDA_ARCH__)
  return ::log(x);
#else
  constexpr std::int64_t root_half = 0x3FE6A09E667F3BCD, round = 0x4338000000000000;  // sqrt(1/2); 1.5 2^52
  const auto bits = __builtin_bit_cast(std::int64_t, x);
  // The exponent as an integer in the low bits of 1.5 2^52: a shift of the unsigned, whose sign the offset spares.
  const auto k = static_cast<std::int64_t>((static_cast<std::uint64_t>(bits) - root_half + (std::uint64_t{1024} << 52)) >> 52) - 1024;
  const double exponent = __builtin_bit_cast(double, k + round) - 0x1.8p52;
  const double f = __builtin_bit_cast(double, bits - static_cast<std::int64_t>(static_cast<std::uint64_t>(k) << 52)) - 1;
  const double s = f / (2 + f), q = s * s;
  double p = 2.0 / 21;
  p = p * q + 2.0 / 19;
  p = p * q + 2.0 / 17;
  p = p * q + 2.0 / 15;
  p = p * q + 2.0 / 13;
  p = p * q + 2.0 / 11;
  p = p * q + 2.0 / 9;
  p = p * q + 2.0 / 7;
  p = p * q + 2.0 / 5;
  p = p * q + 2.0 / 3;
  return exponent * 0.693147180559945309417 + (2 * s + s * (q * p));
#endif
}
/// log(-log U) of a random word.
PLANLM_HD inline double log_of_exponential(std::uint32_t word) {
  return positive_log(-positive_log((static_cast<std::int32_t>(word >> 9) + 0.5) * 0x1p-23));  // unit_interval(word)
}

template <class T>
struct add_gumbel {
  using A = accum_of<T>;
  const T* z;
  T* y;
  index_t cols;
  double scale;
  philox random;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = z + r * cols;
    T* to = y + r * cols;
    const double s = scale;
    const philox draws = random;
    const auto row = static_cast<std::uint64_t>(r);
    if constexpr (VisitsNeighbours<Team>) {
      constexpr int blocks = 16, words = 4 * blocks;
      for (index_t begin = 0; begin < cols; begin += words) {
        const index_t count = cols - begin < words ? cols - begin : words;
        std::uint32_t bits[words] = {};
        draws.template neighbouring_bits<blocks>(row, static_cast<std::uint32_t>(begin / 4), blocks, bits);
        double noise[words];
        for (int t = 0; t < words; ++t) noise[t] = s * log_of_exponential(bits[t]);
        for (index_t t = 0; t < count; ++t) to[begin + t] = A(from[begin + t]) - A(noise[t]);
      }
    } else {
      team.for_each(cols, [=](index_t i) {
        to[i] = A(from[i]) - A(s * log_of_exponential(draws.word(row, static_cast<std::uint32_t>(i))));
      });
    }
  }
};

}  // namespace planlm::mixing_kernel
