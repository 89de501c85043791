/// A learning rate that falls when validation stops improving.   [2306.00398, its code: factor 0.8, patience 2, least rate 1e-6]
///
///     reduce_on_plateau plateau(5e-5);
///     optimiser.step(cx, w, g, plateau.rate(), norm.factor);
///     plateau.observe(validation_loss);                          // after every validation
///
/// The value number patience + 1 in a row without an improvement multiplies the rate by `factor`, and the count starts again. The best
/// value stays. A fall of no more than `least_change` is not made: it would change a recorded step for nothing.
///
/// Errors: planlm::error for a setting out of range, numeric_error for a value that is not finite, input_error for saved values that are
/// none; each leaves the object as it was.
#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/training/improvement.hpp>

namespace planlm {

struct plateau_options {
  double factor = 0.8;
  index_t patience = 2;  // values without an improvement that change nothing
  double least_rate = 1e-6, least_change = 1e-8;
  improvement improved{};
};

class reduce_on_plateau {
 public:
  explicit reduce_on_plateau(double rate, plateau_options options = {}) : options_(options), rate_(rate), best_(options.improved.worst()) {
    const auto expect = [](bool right, const char* name, double value, const char* expected) {
      if (!right) throw error(std::string("reduce_on_plateau: ") + name + " = " + std::to_string(value) + ", expected " + expected);
    };
    // Written so that NaN fails too.
    expect(rate >= 0 && rate < INFINITY, "rate", rate, "a finite number of at least 0");
    expect(options.factor > 0 && options.factor < 1, "factor", options.factor, "above 0 and below 1");
    expect(options.patience >= 0, "patience", static_cast<double>(options.patience), "at least 0");
    expect(options.least_rate >= 0 && options.least_rate < INFINITY, "least_rate", options.least_rate, "a finite number of at least 0");
    expect(options.least_change >= 0 && options.least_change < INFINITY, "least_change", options.least_change,
           "a finite number of at least 0");
    detail::check_improvement("reduce_on_plateau", options.improved);
  }

  /// Takes the value of a validation; gives the rate of the steps that follow.
  double observe(double value) {
    detail::check_observed("reduce_on_plateau", value);
    if (options_.improved(value, best_)) best_ = value, waited_ = 0;
    else ++waited_;
    if (waited_ > options_.patience) {
      waited_ = 0;
      const double lower = std::max(rate_ * options_.factor, options_.least_rate);
      if (rate_ - lower > options_.least_change) rate_ = lower;
    }
    return rate_;
  }
  double rate() const { return rate_; }
  /// Values since the last improvement or reduction.
  index_t waited() const { return waited_; }

  /// All that changes, for a checkpoint; and back.
  std::vector<double> state() const { return {rate_, best_, static_cast<double>(waited_)}; }
  void restore(std::span<const double> state) {
    const bool right = state.size() == 3 && state[0] >= 0 && state[0] < INFINITY && !std::isnan(state[1]) && state[2] >= 0 &&
                       state[2] <= static_cast<double>(options_.patience);
    if (!right) throw input_error("reduce_on_plateau: the saved state is not one of these settings; expected rate, best value and count");
    rate_ = state[0], best_ = state[1], waited_ = static_cast<index_t>(state[2]);
  }

 private:
  plateau_options options_;
  double rate_, best_;
  index_t waited_ = 0;
};

}  // namespace planlm
