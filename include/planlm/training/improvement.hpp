/// Whether a validation value beats the best so far by more than noise: what plateaus and early stops share.
///
///   lower is better:   value < best - threshold |best|
///   higher is better:  value > best + threshold |best|
///
/// The published form is best (1 -+ threshold) [2306.00398, its code]: the same, to the bit, while best >= 0; below 0 it calls values
/// better that are a little worse.
#pragma once
#include <cmath>
#include <limits>
#include <string>
#include <planlm/core/error.hpp>

namespace planlm {

enum class better { lower, higher };

struct improvement {
  better direction = better::lower;
  double threshold = 1e-4;

  bool operator()(double value, double best) const {
    if (std::isinf(best)) return true;
    const double margin = best < 0 ? -threshold : threshold;
    return direction == better::lower ? value < best * (1 - margin) : value > best * (1 + margin);
  }
  /// What every value beats.
  double worst() const {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    return direction == better::lower ? infinity : -infinity;
  }
};

namespace detail {

inline void check_improvement(const char* who, const improvement& improved) {
  if (!(improved.threshold >= 0 && improved.threshold < 1))
    throw error(std::string(who) + ": threshold = " + std::to_string(improved.threshold) + ", expected at least 0 and below 1");
}
/// Errors: numeric_error.
inline void check_observed(const char* who, double value) {
  if (!std::isfinite(value))
    throw numeric_error(std::string(who) + ": a validation value is " + std::to_string(value) +
                        ", expected a finite number; nothing was changed");
}

}  // namespace detail

}  // namespace planlm
