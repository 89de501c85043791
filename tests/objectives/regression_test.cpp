#include <planlm/objectives/regression.hpp>

#include "batch.hpp"

using namespace objectives_test;

namespace {
template <class G>
void check_golden(const char* name, const G& g) {
  const auto& e = golden("E_regression_losses");
  const numbers t = e.at("t").get<numbers>(), value = e.at(name).at("g").get<numbers>(), slope = e.at(name).at("dg").get<numbers>();
  for (std::size_t i = 0; i < t.size(); ++i) {
    CAPTURE(name, t[i]);
    CHECK(std::abs(g.value(t[i]) - value[i]) < 1e-12 * std::max(1.0, value[i]));
    CHECK(std::abs(g.slope(t[i]) - slope[i]) < 1e-12 * std::max(1.0, std::abs(slope[i])));
  }
}
template <class G>
void check_shape(const G& g) {
  CHECK(g.value(0) == 0);
  CHECK(g.slope(0) == 0);
  for (double t = -100; t <= 100; t += 0.25) {
    CAPTURE(t);
    CHECK(g.value(t) >= 0);
    CHECK(std::isfinite(float(g.value(t))));
    CHECK(std::isfinite(float(g.slope(t))));
    const double h = 1e-4, numeric = (g.value(t + h) - g.value(t - h)) / (2 * h);
    // At an exponent of 80 the curvature steps down to 0, and a central difference sees half of that.
    const double tolerance = std::abs(t) == 80 ? 1e-4 : 1e-6;
    CHECK(std::abs(numeric - g.slope(t)) < tolerance * std::max(1.0, std::abs(g.slope(t))));
  }
  // Where the exponent is held, value and slope go on without a step.
  for (const double t : {-80.0, 80.0, -160.0, 160.0}) {
    CHECK(std::abs(g.value(t * (1 + 1e-12)) / g.value(t) - 1) < 1e-9);
    CHECK(std::abs(g.slope(t * (1 + 1e-12)) / g.slope(t) - 1) < 1e-9);
  }
}
}  // namespace

TEST_CASE("regressions have the published values and slopes, fact 35") {
  check_golden("squared", squared{});
  check_golden("half_squared", half_squared{});
  check_golden("shifted_cosh", shifted_cosh{});
  check_golden("linex1", linex{1});
  check_golden("linex0.5", linex{0.5});
  CHECK(std::abs(shifted_cosh{}.value(2) - 5.524391382167) < 1e-12);
  CHECK(std::abs(linex{1}.value(2) - 4.389056098931) < 1e-12);
  CHECK(std::abs(linex{0.5}.value(2) - 2.873127313836) < 1e-12);
}

TEST_CASE("regressions are 0 at 0, finite in float for residuals of a hundred, and their slope is their derivative") {
  check_shape(squared{});
  check_shape(half_squared{});
  check_shape(shifted_cosh{});
  check_shape(linex{1});
  check_shape(linex{0.5});
  check_shape(linex{-1});
}

TEST_CASE("regressions keep their digits at small residuals, where all of them are parabolas") {
  for (const double t : {1e-9, -1e-6, 1e-3, -0.03, 0.049, 0.051}) {
    CAPTURE(t);
    CHECK(std::abs(shifted_cosh{}.value(t) / (t * t * (1 + t * t / 12 + t * t * t * t / 360)) - 1) < 1e-9);
    CHECK(std::abs(linex{1}.value(t) / (t * t / 2 * (1 + t / 3 + t * t / 12 + t * t * t / 60)) - 1) < 1e-6);
  }
  CHECK(std::abs(linex{1}.value(0.05 - 1e-12) / linex{1}.value(0.05 + 1e-12) - 1) < 1e-9);
}
