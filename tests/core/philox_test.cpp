#include <planlm/core/philox.hpp>

#include <cmath>

#include "../catch.hpp"

using namespace planlm;

namespace {

bool same(random_block a, random_block b) {
  for (int i = 0; i < 4; ++i)
    if (a.word[i] != b.word[i]) return false;
  return true;
}

}  // namespace

// Known answers of Random123, the reference implementation of the paper's authors.
static_assert(philox4x32({{0, 0, 0, 0}}, 0, 0).word[0] == 0x6627e8d5u);

TEST_CASE("Philox4x32-10 gives the known answers of its authors") {
  CHECK(same(philox4x32({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}));
  const std::uint32_t ff = 0xffffffffu;
  CHECK(same(philox4x32({{ff, ff, ff, ff}}, ff, ff), {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}));
  CHECK(same(philox4x32({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u),
             {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}));
}

TEST_CASE("uniform numbers lie strictly inside (0, 1), in float as in double") {
  CHECK(unit_interval(0) == 0x1p-24);
  CHECK(unit_interval(0xffffffffu) == 1 - 0x1p-24);
  CHECK(static_cast<float>(unit_interval(0)) > 0.0f);
  CHECK(static_cast<float>(unit_interval(0xffffffffu)) < 1.0f);
  bool exact = true;
  for (std::uint32_t bits = 0; bits < 0xffff0000u; bits += 65521) {
    const double u = unit_interval(bits);
    exact = exact && static_cast<double>(static_cast<float>(u)) == u;  // float loses nothing
  }
  CHECK(exact);
}

TEST_CASE(
    "uniform numbers have mean 1/2 and variance 1/12, normal ones 0 and 1, and integers stay in range") {
  const philox random{42, 3, 7};
  const int n = 100000;
  double sum = 0, squares = 0, normal_sum = 0, normal_squares = 0;
  int counts[7] = {};
  for (int i = 0; i < n; ++i) {
    const auto row = static_cast<std::uint64_t>(i / 10);
    const auto index = static_cast<std::uint32_t>(i % 10);
    const double u = random.uniform(row, index) - 0.5, z = random.normal(row, index);
    sum += u;
    squares += u * u;
    normal_sum += z;
    normal_squares += z * z;
    const std::uint32_t k = random.below(6, row, index);
    ++counts[k < 6 ? k : 6];
  }
  CHECK(std::abs(sum / n) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::abs(squares / n - 1.0 / 12) < 5 * std::sqrt(1.0 / 180 / n));
  CHECK(std::abs(normal_sum / n) < 5 * std::sqrt(1.0 / n));
  CHECK(std::abs(normal_squares / n - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(counts[6] == 0);
  for (int k = 0; k < 6; ++k) CHECK(std::abs(counts[k] - n / 6.0) < 5 * std::sqrt(n * 5 / 36.0));
  CHECK(random.below(1, 0, 0) == 0);
}

TEST_CASE(
    "seed, step, stream, row and index each change the draw, and the upper half of seed and row counts") {
  const philox a{1, 2, 3};
  const std::uint32_t word = a.word(4, 5);
  CHECK(a.word(4, 5) == word);
  CHECK(philox{9, 2, 3}.word(4, 5) != word);
  CHECK(philox{1 + (std::uint64_t{1} << 32), 2, 3}.word(4, 5) != word);
  CHECK(a.at_step(9).word(4, 5) != word);
  CHECK(a.with_stream(9).word(4, 5) != word);
  CHECK(a.word(9, 5) != word);
  CHECK(a.word(4 + (std::uint64_t{1} << 32), 5) != word);
  CHECK(a.word(4, 6) != word);
  CHECK(a.word(4, 9) != word);
  CHECK(philox{1, 9, 9}.at_step(2).with_stream(3).word(4, 5) == word);
}

TEST_CASE("neighbouring blocks made together are those made one by one") {
  const philox random{(std::uint64_t{77} << 32) + 5, 0xFFFF1234u, 0x80000003u};
  for (const std::uint64_t row : {std::uint64_t{0}, (std::uint64_t{3} << 32) + 0xFFFFFFF0u})
    for (const std::uint32_t first : {0u, 4711u, 0xFFFFFFFAu})  // the last runs over the end
      for (const int n : {1, 7, 16}) {
        std::uint32_t words[64] = {};
        random.neighbouring_bits<16>(row, first, n, words);
        for (int k = 0; k < n; ++k) {
          const random_block block = random.bits(row, first + static_cast<std::uint32_t>(k));
          for (int j = 0; j < 4; ++j) CHECK(words[4 * k + j] == block.word[j]);
        }
      }
}
