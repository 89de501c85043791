/// Counter-based random numbers: the same bits on every backend, thread count and launch shape.
///
/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A draw is a pure function of
/// (seed, step, stream, row, index): nothing has to be carried along, so resuming a run is resuming its step number.
#pragma once
#include <cmath>
#include <cstdint>
#include <planlm/core/config.hpp>

namespace planlm {

/// 128 random bits.
struct random_block {
  std::uint32_t word[4];
};

/// Philox4x32 with ten rounds: `counter` enciphered under `key`.
PLANLM_HD constexpr random_block philox4x32(random_block counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * counter.word[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<std::uint32_t>(p1 >> 32) ^ counter.word[1] ^ key0, static_cast<std::uint32_t>(p1),
                static_cast<std::uint32_t>(p0 >> 32) ^ counter.word[3] ^ key1, static_cast<std::uint32_t>(p0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// A point of the lattice strictly inside (0, 1): 23 bits, so that float and double backends see the same number.
PLANLM_HD constexpr double unit_interval(std::uint32_t bits) { return ((bits >> 9) + 0.5) * 0x1p-23; }

/// One family of draws. `step` is the optimiser step, `stream` tells users of randomness apart (a layer, a purpose).
struct philox {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t stream = 0;

  /// The block of four words number `block` of row `row`.
  PLANLM_HD constexpr random_block bits(std::uint64_t row, std::uint32_t block) const {
    // The upper half of the row is folded into the step: rows beyond 2^32 do not occur within one step.
    return philox4x32({{block, static_cast<std::uint32_t>(row), stream, step ^ static_cast<std::uint32_t>(row >> 32)}},
                      static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
  }
  /// Blocks first .. first + n - 1 of a row, n <= N, word j of block k at words[4 k + j]: in loops over the blocks, which become vectors.
  template <int N>
  PLANLM_HD constexpr void neighbouring_bits(std::uint64_t row, std::uint32_t first, int n, std::uint32_t* words) const {
    constexpr std::uint64_t low = 0xFFFFFFFFu;
    std::uint64_t a[N], b[N], c[N], d[N];  // of one width throughout: only then are the loops vectors
    for (int k = 0; k < n; ++k) {
      a[k] = (first + static_cast<std::uint64_t>(k)) & low;
      b[k] = row & low;
      c[k] = stream;
      d[k] = step ^ (row >> 32);
    }
    std::uint64_t key0 = seed & low, key1 = seed >> 32;
    for (int round = 0; round < 10; ++round) {
      for (int k = 0; k < n; ++k) {
        const std::uint64_t p0 = 0xD2511F53u * a[k], p1 = 0xCD9E8D57u * c[k];
        a[k] = (p1 >> 32) ^ b[k] ^ key0;
        b[k] = p1 & low;
        c[k] = (p0 >> 32) ^ d[k] ^ key1;
        d[k] = p0 & low;
      }
      key0 = (key0 + 0x9E3779B9u) & low;
      key1 = (key1 + 0xBB67AE85u) & low;
    }
    for (int k = 0; k < n; ++k) {
      words[4 * k] = static_cast<std::uint32_t>(a[k]);
      words[4 * k + 1] = static_cast<std::uint32_t>(b[k]);
      words[4 * k + 2] = static_cast<std::uint32_t>(c[k]);
      words[4 * k + 3] = static_cast<std::uint32_t>(d[k]);
    }
  }
  /// Word `index` of row `row`.
  PLANLM_HD constexpr std::uint32_t word(std::uint64_t row, std::uint32_t index) const {
    return bits(row, index / 4).word[index % 4];
  }
  /// Uniform in (0, 1), never 0 and never 1.
  PLANLM_HD constexpr double uniform(std::uint64_t row, std::uint32_t index) const { return unit_interval(word(row, index)); }
  /// Uniform integer in [0, n), n >= 1; the bias is below n / 2^32.
  PLANLM_HD constexpr std::uint32_t below(std::uint32_t n, std::uint64_t row, std::uint32_t index) const {
    return static_cast<std::uint32_t>((std::uint64_t{word(row, index)} * n) >> 32);
  }
  /// Standard normal by Box and Muller, from words 2 index and 2 index + 1.
  double normal(std::uint64_t row, std::uint32_t index) const {
    const double u = uniform(row, 2 * index), v = uniform(row, 2 * index + 1);
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586476925 * v);
  }
  /// The same seed for another purpose.
  PLANLM_HD constexpr philox with_stream(std::uint32_t s) const { return {seed, step, s}; }
  PLANLM_HD constexpr philox at_step(std::uint32_t t) const { return {seed, t, stream}; }
};

}  // namespace planlm
