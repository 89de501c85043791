/// Learning-rate schedules: the factor on the base rate as a function of the step.
///
/// Convention, the same for all of them:
///   - Steps count from 0; a run of N steps uses s = 0 .. N - 1.
///   - A decay over N steps starts at 1 (s = 0) and would reach `final_factor` at s = N, one past its last
///     step: with final_factor = 0 the last step still has 1/N of the rate (linear), so that no step of the
///     run is spent at rate 0. From s = N on the factor stays at final_factor.
///   - A warm-up over W steps has factor (s + 1) / (W + 1) at s = 0 .. W - 1: neither 0 at its first step nor
///     the peak at its last. At s = W the inner schedule begins, at its own step 0.
///
/// Errors: planlm::error, with the numbers, for a setting out of range or a negative step.
#pragma once
#include <cmath>
#include <concepts>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <string>
#include <utility>

namespace planlm {

template <class S>
concept Schedule = requires(const S& schedule, index_t step) {
  { schedule(step) } -> std::convertible_to<double>;
}
|| because<"Schedule: needs double operator()(index_t step) const, the factor on the base rate", S>();

namespace detail {

inline void check_schedule_steps(const char* schedule, const char* name, index_t steps, index_t least) {
  if (steps < least)
    throw error(std::string(schedule) + ": " + name + " = " + std::to_string(steps) + ", expected at least " +
                std::to_string(least));
}

inline void check_final_factor(const char* schedule, double factor) {
  // Written so that NaN fails too.
  if (!(factor >= 0 && factor <= 1))
    throw error(std::string(schedule) + ": final_factor = " + std::to_string(factor) + ", expected 0 to 1");
}

}  // namespace detail

/// 1 at every step.
struct constant_rate {
  double operator()(index_t step) const {
    detail::check_schedule_steps("constant_rate", "step", step, 0);
    return 1;
  }
};

/// 1 - (1 - final_factor) s / steps.
class linear_decay {
 public:
  explicit linear_decay(index_t steps, double final_factor = 0) : steps_(steps), final_factor_(final_factor) {
    detail::check_schedule_steps("linear_decay", "steps", steps, 1);
    detail::check_final_factor("linear_decay", final_factor);
  }
  double operator()(index_t step) const {
    detail::check_schedule_steps("linear_decay", "step", step, 0);
    if (step >= steps_) return final_factor_;
    return 1 - (1 - final_factor_) * static_cast<double>(step) / static_cast<double>(steps_);
  }

 private:
  index_t steps_;
  double final_factor_;
};

/// final_factor + (1 - final_factor) (1 + cos(pi s / steps)) / 2.
class cosine_decay {
 public:
  explicit cosine_decay(index_t steps, double final_factor = 0) : steps_(steps), final_factor_(final_factor) {
    detail::check_schedule_steps("cosine_decay", "steps", steps, 1);
    detail::check_final_factor("cosine_decay", final_factor);
  }
  double operator()(index_t step) const {
    detail::check_schedule_steps("cosine_decay", "step", step, 0);
    if (step >= steps_) return final_factor_;
    const double angle = 3.14159265358979323846 * static_cast<double>(step) / static_cast<double>(steps_);
    return final_factor_ + (1 - final_factor_) * (1 + std::cos(angle)) / 2;
  }

 private:
  index_t steps_;
  double final_factor_;
};

/// A linear rise over `steps` steps to the start of another schedule; `steps` = 0 is the other schedule
/// alone.
template <Schedule Inner = constant_rate>
class warmup {
 public:
  explicit warmup(index_t steps, Inner inner = {}) : steps_(steps), inner_(std::move(inner)) {
    detail::check_schedule_steps("warmup", "steps", steps, 0);
  }
  double operator()(index_t step) const {
    detail::check_schedule_steps("warmup", "step", step, 0);
    if (step >= steps_) return inner_(step - steps_);
    return inner_(0) * static_cast<double>(step + 1) / static_cast<double>(steps_ + 1);
  }

 private:
  index_t steps_;
  Inner inner_;
};

/// The rise of published fine-tuning [2310.04363, its code]: s / steps of the other schedule's start, so that the first step has rate 0 and
/// does nothing but fill the optimiser's memory. For comparisons; `warmup` wastes no step.
template <Schedule Inner = constant_rate>
class warmup_from_zero {
 public:
  explicit warmup_from_zero(index_t steps, Inner inner = {}) : steps_(steps), inner_(std::move(inner)) {
    detail::check_schedule_steps("warmup_from_zero", "steps", steps, 0);
  }
  double operator()(index_t step) const {
    detail::check_schedule_steps("warmup_from_zero", "step", step, 0);
    if (step >= steps_) return inner_(step - steps_);
    return inner_(0) * static_cast<double>(step) / static_cast<double>(steps_);
  }

 private:
  index_t steps_;
  Inner inner_;
};

/// `warmup_steps` up, `stable_steps` at 1, then a linear decay over `decay_steps` (whose own first step is
/// still 1).
class warmup_stable_decay {
 public:
  warmup_stable_decay(index_t warmup_steps, index_t stable_steps, index_t decay_steps,
                      double final_factor = 0)
      : stable_(warmup_steps, hold(stable_steps, linear_decay(checked(decay_steps), final_factor))) {}
  double operator()(index_t step) const { return stable_(step); }

 private:
  /// 1 for `steps` steps, then the decay from its own step 0.
  class hold {
   public:
    hold(index_t steps, linear_decay then) : steps_(steps), then_(then) {
      detail::check_schedule_steps("warmup_stable_decay", "stable_steps", steps, 0);
    }
    double operator()(index_t step) const { return step < steps_ ? 1.0 : then_(step - steps_); }

   private:
    index_t steps_;
    linear_decay then_;
  };
  static index_t checked(index_t decay_steps) {
    detail::check_schedule_steps("warmup_stable_decay", "decay_steps", decay_steps, 1);
    return decay_steps;
  }

  warmup<hold> stable_;
};

}  // namespace planlm
