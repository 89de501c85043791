/// What is asked of a residual t = log q - log p + ...: a convex function with g(0) = g'(0) = 0 and its slope. t in nats.   [2410.02596]
///
/// Which one decides how errors of either sign weigh: squares alike; shifted_cosh alike, large ones far more; linex those above 0 (the
/// policy has too much mass there) more than those below. Beyond an exponent of 80 the functions with exponentials go on along their
/// tangent, so that values and slopes are finite in float for |t| up to 100 and beyond, and each slope is still that of its value.
#pragma once
#include <cmath>
#include <concepts>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/math.hpp>

namespace planlm {

/// value(t) >= 0 and slope(t), its derivative, both in double.
template <class G>
concept RegressionFunction = requires(const G& g, double t) {
  { g.value(t) } -> std::same_as<double>;
  { g.slope(t) } -> std::same_as<double>;
} || because<"RegressionFunction: needs double value(double) const and double slope(double) const", G>();
/// One that is curvature / 2 * t^2: sums over all pairs of points then take linear time.
template <class G>
concept QuadraticRegression = RegressionFunction<G> && requires {
  { G::curvature } -> std::convertible_to<double>;
};

/// t^2.
struct squared {
  static constexpr double curvature = 2;
  PLANLM_HD double value(double t) const { return t * t; }
  PLANLM_HD double slope(double t) const { return 2 * t; }
};
/// t^2 / 2.
struct half_squared {
  static constexpr double curvature = 1;
  PLANLM_HD double value(double t) const { return t * t / 2; }
  PLANLM_HD double slope(double t) const { return t; }
};

namespace balance_kernel {
inline constexpr double largest_exponent = 80;
}

/// e^t + e^-t - 2.
struct shifted_cosh {
  PLANLM_HD double value(double t) const {
    const double size = t < 0 ? -t : t, x = size < balance_kernel::largest_exponent ? size : balance_kernel::largest_exponent;
    const double m = ::expm1(x / 2), rise = m + m / (1 + m);  // 2 sinh(x / 2): nothing cancels near 0
    return rise * rise + (size - x) * within(x);
  }
  PLANLM_HD double slope(double t) const {
    const double size = t < 0 ? -t : t, x = size < balance_kernel::largest_exponent ? size : balance_kernel::largest_exponent;
    return t < 0 ? -within(x) : within(x);
  }

 private:
  PLANLM_HD static double within(double x) {
    const double m = ::expm1(x);
    return m + m / (1 + m);  // 2 sinh(x)
  }
};

/// (e^(alpha t) - alpha t - 1) / alpha^2, alpha not 0.
struct linex {
  double alpha = 1;
  PLANLM_HD double value(double t) const {
    const double a = alpha * t, x = a < balance_kernel::largest_exponent ? a : balance_kernel::largest_exponent;
    return (above_tangent(x) + (a - x) * ::expm1(x)) / (alpha * alpha);
  }
  PLANLM_HD double slope(double t) const {
    const double a = alpha * t, x = a < balance_kernel::largest_exponent ? a : balance_kernel::largest_exponent;
    return ::expm1(x) / alpha;
  }

 private:
  PLANLM_HD static double above_tangent(double x) {
    if (x > -0.05 && x < 0.05)
      return x * x * (1. / 2 + x * (1. / 6 + x * (1. / 24 + x * (1. / 120 + x * (1. / 720 + x * (1. / 5040 + x / 40320))))));
    return ::expm1(x) - x;
  }
};

}  // namespace planlm
