/// Stops a training that has stopped improving.   [2306.00398, its code: patience 7]
///
///     early_stop stop(7);
///     if (stop.observe(validation_loss)) keep(weights);           // the best so far
///     if (stop.stopped()) break;
///
/// A countdown: an improvement sets it to `patience`, any other value takes one off, at 0 the training is over, whatever comes.
///
/// Errors: planlm::error for a setting out of range, numeric_error for a value that is not finite, input_error for saved values that are
/// none; each leaves the object as it was.
#pragma once
#include <cmath>
#include <span>
#include <string>
#include <vector>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/training/improvement.hpp>

namespace planlm {

class early_stop {
 public:
  explicit early_stop(index_t patience, improvement improved = {})
      : patience_(patience), left_(patience), improved_(improved), best_(improved.worst()) {
    if (patience < 1) throw error("early_stop: patience = " + std::to_string(patience) + ", expected at least 1");
    detail::check_improvement("early_stop", improved);
  }

  /// Takes the value of a validation; tells whether it is the best so far.
  bool observe(double value) {
    detail::check_observed("early_stop", value);
    if (improved_(value, best_)) {
      best_ = value;
      if (!stopped()) left_ = patience_;
      return true;
    }
    if (left_ > 0) --left_;
    return false;
  }
  bool stopped() const { return left_ == 0; }
  index_t countdown() const { return left_; }
  /// The last value that was an improvement; an infinity before the first.
  double best() const { return best_; }

  /// All that changes, for a checkpoint; and back.
  std::vector<double> state() const { return {best_, static_cast<double>(left_)}; }
  void restore(std::span<const double> state) {
    if (state.size() != 2 || std::isnan(state[0]) || !(state[1] >= 0 && state[1] <= static_cast<double>(patience_)))
      throw input_error("early_stop: the saved state is not one of a patience of " + std::to_string(patience_) +
                        "; expected best value and countdown");
    best_ = state[0], left_ = static_cast<index_t>(state[1]);
  }

 private:
  index_t patience_, left_;
  improvement improved_;
  double best_;
};

}  // namespace planlm
