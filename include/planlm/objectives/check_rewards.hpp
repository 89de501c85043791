/// Rewards before they enter a loss, on the host: one that is not a number would make every weight one in a single step.
#pragma once
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <vector>
#include <planlm/core/error.hpp>

namespace planlm {

/// rewards[b][k]: log R of rollout b stopped after k actions, in nats, untempered. Values below `floor`, -infinity among them, become
/// `floor`.
/// Errors: numeric_error naming rollout and prefix for NaN and +infinity, and for -infinity where no floor is given.
template <class Real>
void check_rewards(std::span<std::vector<Real>> rewards, double floor = -std::numeric_limits<double>::infinity()) {
  for (std::size_t b = 0; b < rewards.size(); ++b)
    for (std::size_t k = 0; k < rewards[b].size(); ++k) {
      Real& r = rewards[b][k];
      const auto fail = [&](const char* what) {
        throw numeric_error("the log-reward of rollout " + std::to_string(b) + " at prefix " + std::to_string(k) + " is " + what);
      };
      if (std::isnan(r)) fail("not a number; a reward has to be a finite number at every prefix");
      if (std::isinf(r) && r > 0) fail("+infinity; a reward has to be finite at every prefix");
      if (double(r) < floor) r = Real(floor);
      if (std::isinf(r)) fail("-infinity: the reward is 0 there, which no policy can match; give a floor for log-rewards");
    }
}

}  // namespace planlm
