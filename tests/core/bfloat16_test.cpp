#include <planlm/core/bfloat16.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

#include <planlm/core/philox.hpp>

#include "../catch.hpp"

using namespace planlm;

namespace {

float of_bits(std::uint32_t bits) { return __builtin_bit_cast(float, bits); }
bfloat16 with_bits(std::uint32_t bits) {
  bfloat16 b;
  b.bits = static_cast<std::uint16_t>(bits);
  return b;
}

}  // namespace

static_assert(std::is_same_v<accum_of<bfloat16>, float> && std::is_same_v<accum_of<const bfloat16>, float>);
static_assert(std::is_same_v<accum_of<float>, float> && std::is_same_v<accum_of<double>, double>);
static_assert(std::is_same_v<decltype(bfloat16{} * bfloat16{}), float> && std::is_same_v<decltype(bfloat16{} + 1.f), float>);

TEST_CASE("a bfloat16 is the upper half of a float") {
  CHECK(bfloat16(0.f).bits == 0);
  CHECK(bfloat16(-0.f).bits == 0x8000);
  CHECK(bfloat16(1.f).bits == 0x3F80);
  CHECK(bfloat16(-2.5f).bits == 0xC020);
  CHECK(bfloat16(256).bits == 0x4380);
  CHECK(bfloat16(0.5).bits == 0x3F00);
  CHECK(float(bfloat16(3.140625f)) == 3.140625f);
}

TEST_CASE("every bfloat16 but the NaNs survives the way through float") {
  int wrong = 0, not_a_number = 0;
  for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const float f = with_bits(bits);
    if (std::isnan(f)) ++not_a_number, wrong += !std::isnan(float(bfloat16(f)));
    else wrong += bfloat16(f).bits != bits;
  }
  CHECK(wrong == 0);
  CHECK(not_a_number == 2 * 127);
}

TEST_CASE("halfway between two neighbours the even one is taken, a hair beside halfway the nearer one") {
  CHECK(bfloat16(of_bits(0x3F808000)).bits == 0x3F80);  // 1 + 2^-8 lies between 1 and 1 + 2^-7
  CHECK(bfloat16(of_bits(0x3F808001)).bits == 0x3F81);
  CHECK(bfloat16(of_bits(0x3F807FFF)).bits == 0x3F80);
  CHECK(bfloat16(of_bits(0x3F818000)).bits == 0x3F82);
  CHECK(bfloat16(of_bits(0x3F817FFF)).bits == 0x3F81);
  CHECK(bfloat16(of_bits(0xBF818000)).bits == 0xBF82);
  CHECK(bfloat16(of_bits(0x3FFF8000)).bits == 0x4000);  // a carry into the exponent
  CHECK(bfloat16(of_bits(0x00008000)).bits == 0x0000);  // among the subnormal numbers too
  CHECK(bfloat16(of_bits(0x00018000)).bits == 0x0002);
}

TEST_CASE("what is too large becomes infinity, infinities stay, a NaN stays a NaN") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(bfloat16(infinity).bits == 0x7F80);
  CHECK(bfloat16(-infinity).bits == 0xFF80);
  CHECK(bfloat16(std::numeric_limits<float>::max()).bits == 0x7F80);
  CHECK(bfloat16(of_bits(0x7F7F7FFF)).bits == 0x7F7F);  // the largest float that does not
  CHECK(bfloat16(of_bits(0x7F7F8000)).bits == 0x7F80);
  for (const std::uint32_t nan : {0x7FC00000u, 0x7F800001u, 0xFFC00000u, 0xFF80FFFFu, 0x7FFFFFFFu, 0xFFFFFFFFu})
    CHECK(std::isnan(float(bfloat16(of_bits(nan)))));
}

TEST_CASE("rounding errs by at most 2^-8 of the value, and neither neighbour is nearer") {
  const philox random{5};
  int wrong = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const float x = of_bits((random.word(i, 0) & 0x807FFFFFu) | (1u + random.below(250, i, 1)) << 23);
    const bfloat16 b = x;
    const double error = std::abs(double(float(b)) - x);
    wrong += !(error <= std::abs(double(x)) / 256);
    for (const std::uint32_t other : {b.bits + 1u, b.bits - 1u}) wrong += std::abs(double(float(with_bits(other))) - x) < error;
  }
  CHECK(wrong == 0);
}

TEST_CASE("assignment with an operator computes in float and rounds once") {
  bfloat16 b = 256;
  b += 1;  // 257 is halfway between 256 and 258
  CHECK(float(b) == 256);
  b += 1.5f;
  CHECK(float(b) == 258);
  b -= bfloat16(2);
  CHECK(float(b) == 256);
  b *= 0.5f;
  CHECK(float(b) == 128);
}
