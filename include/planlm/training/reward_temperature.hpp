/// The temperature that rewards are raised by, over training: from one value to another in equal strides.   [2310.04363 and its code]
///
///   T(s) = start + (end - start) min(1, s / horizon)
/// A high temperature first keeps the differences between rewards small while the policy still covers what can be written.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/models/prefix_reward.hpp>

namespace planlm {

/// Steps count from 0. Errors: planlm::error for a temperature that is not above 0, a horizon below 1, a negative step.
class reward_temperature {
 public:
  explicit reward_temperature(double always = 1) : reward_temperature(always, always, 1) {}
  reward_temperature(double start, double end, index_t horizon) : start_(start), end_(end), horizon_(horizon) {
    for (const double t : {start, end})
      if (!(t > 0 && std::isfinite(t)))
        throw error("reward_temperature: a temperature of " + std::to_string(t) + ", expected a number above 0");
    if (horizon < 1) throw error("reward_temperature: a horizon of " + std::to_string(horizon) + " steps, expected at least 1");
  }
  double operator()(index_t step) const {
    if (step < 0) throw error("reward_temperature: step " + std::to_string(step) + ", expected 0 or more");
    if (step >= horizon_) return end_;
    return start_ + (end_ - start_) * (static_cast<double>(step) / static_cast<double>(horizon_));
  }

 private:
  double start_, end_;
  index_t horizon_;
};

/// log R_T of all rows as the losses read them: (rows, longest + 1), 0 where a row has no prefix.
/// Errors: shape_error for a row of more than longest + 1 entries.
template <class Real>
std::vector<Real> tempered_rewards(const std::vector<log_reward_row>& rows, double temperature, index_t longest) {
  const auto columns = static_cast<std::size_t>(std::max<index_t>(longest, 0)) + 1;
  std::vector<Real> out(rows.size() * columns, Real(0));
  for (std::size_t b = 0; b < rows.size(); ++b) {
    if (rows[b].base.size() > columns)
      throw shape_error("tempered_rewards: row " + std::to_string(b) + " has " + std::to_string(rows[b].base.size()) +
                        " entries, the longest has " + std::to_string(columns));
    std::size_t at = b * columns;
    for (const double r : tempered(rows[b], temperature)) out[at++] = static_cast<Real>(r);
  }
  return out;
}

}  // namespace planlm
