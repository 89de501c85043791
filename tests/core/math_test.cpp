#include <planlm/core/math.hpp>

#include <algorithm>
#include <limits>

#include "../catch.hpp"

using namespace planlm;

namespace {

const float infinity = std::numeric_limits<float>::infinity();
const float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// |got - exact| in units of the last place of the exact value as a float.
double units(float got, double exact) {
  const auto rounded = static_cast<float>(exact);
  return std::abs(got - exact) / (std::nextafter(std::abs(rounded), infinity) - std::abs(rounded));
}

}  // namespace

TEST_CASE("exp in float is within 2 units in the last place over its whole range") {
  double worst = 0;
  for (int i = -87290; i <= 88715; ++i)
    for (const float nudge : {0.0f, 0.00037f}) {
      const float x = static_cast<float>(i) / 1000.0f + nudge;
      worst = std::max(worst, units(math::exp(x), std::exp(static_cast<double>(x))));
    }
  CAPTURE(worst);
  CHECK(worst < 2);
}

TEST_CASE("exp is 0 at minus infinity, infinity above its range, exactly 1 at 0, and lets NaN through") {
  CHECK(math::exp(-infinity) == 0.0f);
  CHECK(math::exp(-1000.0f) == 0.0f);
  CHECK(math::exp(infinity) == infinity);
  CHECK(math::exp(1000.0f) == infinity);
  CHECK(math::exp(0.0f) == 1.0f);
  CHECK(math::exp(-0.0f) == 1.0f);
  CHECK(std::isnan(math::exp(not_a_number)));
  CHECK(math::exp(-std::numeric_limits<double>::infinity()) == 0.0);
  CHECK(std::isnan(math::exp(std::numeric_limits<double>::quiet_NaN())));
  CHECK(std::isfinite(math::exp(88.7f)));
}

TEST_CASE("log in float is within 2 units in the last place and minus infinity at 0") {
  double worst = 0;
  for (float x = 1.2e-38f; x < 1e38f; x *= 1.00037f)
    worst = std::max(worst, units(math::log(x), std::log(static_cast<double>(x))));
  CAPTURE(worst);
  CHECK(worst < 2);
  for (float x = 0.4f; x < 2.1f; x += 7e-7f)  // most is lost around 1
    worst = std::max(worst, units(math::log(x), std::log(static_cast<double>(x))));
  for (float x = 1e-45f; x < 1.2e-38f; x = std::max(x * 1.37f, std::nextafter(x, 1.0f)))  // below the normal numbers, 1e-45 the smallest there is
    worst = std::max(worst, units(math::log(x), std::log(static_cast<double>(x))));
  CHECK(worst < 2);
  CHECK(math::log(0.0f) == -infinity);
  volatile float below[] = {-0.0f, -1e-45f, -1e-39f, -1e-9f, -1.0f, -infinity};  // not known to the compiler, so that sanitizers see them
  CHECK(math::log(below[0]) == -infinity);
  for (int i = 1; i < 6; ++i) CHECK(std::isnan(math::log(below[i])));
  CHECK(math::log(std::numeric_limits<float>::max()) == Approx(88.7228391f));
  CHECK(math::log(1.0f) == 0.0f);
  CHECK(math::log(infinity) == infinity);
  CHECK(std::isnan(math::log(not_a_number)));
}

TEST_CASE("tanh in float is within 2e-7 everywhere, odd to rounding, bounded by 1, and lets NaN through") {
  double worst = 0, odd = 0, largest = 0;
  for (int i = -120000; i <= 120000; ++i) {
    const float x = static_cast<float>(i) / 10000.0f, y = math::tanh(x);
    worst = std::max(worst, std::abs(y - std::tanh(static_cast<double>(x))));
    odd = std::max(odd, std::abs(static_cast<double>(y) + math::tanh(-x)));
    largest = std::max(largest, std::abs(static_cast<double>(y)));
  }
  CAPTURE(worst);
  CHECK(worst < 2e-7);
  CHECK(odd < 3e-7);
  CHECK(largest <= 1);
  volatile float far[] = {20.0f, 44.5f, 89.0f, 1e30f, infinity};
  for (volatile float& x : far) {
    CHECK(math::tanh(x) == 1.0f);
    CHECK(math::tanh(-x) == -1.0f);
  }
  CHECK(std::isnan(math::tanh(not_a_number)));
}

TEST_CASE("sigmoid is 0, 1/2 and 1 where it should be") {
  CHECK(math::sigmoid(0.0f) == 0.5f);
  CHECK(math::sigmoid(-1000.0f) == 0.0f);
  CHECK(math::sigmoid(1000.0f) == 1.0f);
  CHECK(std::isnan(math::sigmoid(not_a_number)));
}
