/// Bit sequences written word by word: R(x) = exp(-min over modes of Hamming(x, mode) / temperature).   [2201.13259]
///
/// `words` words of `word` bits: 2^word actions, a tree of sum over k <= words of 2^(word k) states; only whole sequences are objects.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>
#include <planlm/core/philox.hpp>
#include <planlm/environments/string_tree.hpp>

namespace planlm {

/// `count` different sequences of `bits` bits, each put together from the motifs 00000000, 11111111, 11110000, 00001111 and 00111100, the
/// last cut where bits is no multiple of 8. Errors: planlm::error if there are not so many.
inline std::vector<std::uint64_t> motif_modes(int bits, int count, philox random) {
  constexpr std::array<std::uint64_t, 5> motifs{0x00, 0xFF, 0xF0, 0x0F, 0x3C};
  if (bits < 1 || bits > 48) throw error("motif_modes: " + std::to_string(bits) + " bits, expected 1 .. 48");
  std::vector<std::uint64_t> modes;
  for (std::uint64_t trial = 0; static_cast<int>(modes.size()) < count; ++trial) {
    if (trial > 1000 + 100 * static_cast<std::uint64_t>(std::max(count, 0)))
      throw error("motif_modes: found " + std::to_string(modes.size()) + " different sequences of " + std::to_string(bits) +
                  " bits, " + std::to_string(count) + " were asked for");
    std::uint64_t sequence = 0;
    const int blocks = (bits + 7) / 8;
    for (int block = 0; block < blocks; ++block)
      sequence = sequence << 8 | motifs[random.below(5, trial, static_cast<std::uint32_t>(block))];
    sequence >>= 8 * blocks - bits;
    if (std::find(modes.begin(), modes.end(), sequence) == modes.end()) modes.push_back(sequence);
  }
  return modes;
}

class bit_sequence {
 public:
  /// Modes as numbers of words * word bits, the first word highest. Errors: planlm::error for a size that cannot be enumerated, a
  /// temperature not above 0, no mode or one of more bits.
  bit_sequence(int word, int words, std::vector<std::uint64_t> modes, double temperature = 1)
      : word_(word), modes_(check(word, words, std::move(modes), temperature)),
        tree_(1 << word, words, [&](const std::vector<int>& s) { return reward_of(s, word * words, temperature); }, words) {}

  index_t states() const { return tree_.states(); }
  int actions() const { return tree_.actions(); }
  index_t child(index_t state, int word) const { return tree_.child(state, word); }
  index_t parent(index_t state, int word) const { return tree_.parent(state, word); }
  bool stops(index_t state) const { return tree_.stops(state); }
  double log_reward(index_t state) const { return tree_.log_reward(state); }
  const std::vector<std::uint64_t>& modes() const { return modes_; }
  /// The bits of a state's words, the first word highest.
  std::uint64_t bits_of(index_t state) const { return joined(tree_.letters_of(state)); }

 private:
  static std::vector<std::uint64_t> check(int word, int words, std::vector<std::uint64_t> modes, double temperature) {
    if (word < 1 || words < 1 || word > 16 || word * words > 30)
      throw error("bit_sequence: " + std::to_string(words) + " words of " + std::to_string(word) +
                  " bits; up to 30 bits together can be enumerated");
    if (!(temperature > 0)) throw error("bit_sequence: temperature " + std::to_string(temperature) + ", expected above 0");
    if (modes.empty()) throw error("bit_sequence: there is no mode");
    for (const std::uint64_t mode : modes)
      if (mode >> (word * words) != 0)
        throw error("bit_sequence: mode " + std::to_string(mode) + " has more than " + std::to_string(word * words) + " bits");
    return modes;
  }
  std::uint64_t joined(const std::vector<int>& letters) const {
    std::uint64_t bits = 0;
    for (const int w : letters) bits = bits << word_ | static_cast<std::uint64_t>(w);
    return bits;
  }
  double reward_of(const std::vector<int>& letters, int bits, double temperature) const {
    int nearest = bits;
    for (const std::uint64_t mode : modes_) nearest = std::min(nearest, std::popcount(mode ^ joined(letters)));
    return -nearest / temperature;
  }

  int word_;
  std::vector<std::uint64_t> modes_;
  string_tree tree_;
};

}  // namespace planlm
