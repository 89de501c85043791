/// One training of guidance: how long, at what rate, when it is validated, which weights it leaves.   [2306.00398, its code]
///
/// `guidance_round` is the plain numbers of it, for loops and checkpoints of one's own; `train_guidance` is the loop on a store. It goes on
/// from the weights that the store has and makes its own AdamW, so that moments of samples of an older policy are forgotten.
///
///     const auto report = train_guidance(cx, theta, {.steps = 10000, .validate_every = 100}, [&](index_t step) {
///       auto [z, pullback] = model(cx, theta.weights, rows);             // adds gradients to theta.grads
///       ...
///     }, [&] { return mean_loss_of_other_lists(); });
///
/// A round ends after `steps`, or with the validation that the early stop is out of patience at. Validations: every `validate_every` steps
/// and after the last. Where there are fewer of them than its patience, a plateau or an early stop does nothing.
///
/// Errors: planlm::error for a setting out of range; numeric_error for a gradient norm or a validation that is no finite number.
#pragma once
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/backend/context.hpp>
#include <planlm/core/error.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>
#include <planlm/training/early_stop.hpp>
#include <planlm/training/parameters.hpp>
#include <planlm/training/reduce_on_plateau.hpp>

namespace planlm {

/// Which weights a round leaves: those of its best validation, or its last.
enum class guidance_weights { best, last };

struct guidance_round_options {
  index_t steps = 10000, validate_every = 100;
  double rate = 5e-5;
  norm_limit clip{5, 1e-6};      // of the whole gradient
  plateau_options plateau{};
  index_t patience = 7;          // of the early stop
  guidance_weights leaves = guidance_weights::best;
};

class guidance_round {
 public:
  explicit guidance_round(const guidance_round_options& options)
      : options_(options), plateau_(options.rate, options.plateau), stop_(options.patience, options.plateau.improved) {
    expect(options.steps >= 1, "steps", options.steps);
    expect(options.validate_every >= 1, "validate_every", options.validate_every);
  }

  bool finished() const { return stop_.stopped() || steps_ == options_.steps; }
  /// Of the next step.
  double rate() const { return plateau_.rate(); }
  /// Counts a step; tells whether a validation is due.
  bool stepped() {
    if (finished()) throw error("guidance_round: step " + std::to_string(steps_ + 1) + " of a round that is finished");
    ++steps_;
    return steps_ % options_.validate_every == 0 || steps_ == options_.steps;
  }
  /// Takes the value of a validation; tells whether it is the best of the round.
  bool validated(double value) {
    const bool best = stop_.observe(value);
    plateau_.observe(value);
    return best;
  }
  index_t steps() const { return steps_; }
  const early_stop& stop() const { return stop_; }
  const guidance_round_options& options() const { return options_; }

  /// All that changes, for a checkpoint; and back. Errors: input_error, leaving the round as it was.
  std::vector<double> state() const {
    std::vector<double> all{static_cast<double>(steps_)};
    for (const std::vector<double>& part : {plateau_.state(), stop_.state()}) all.insert(all.end(), part.begin(), part.end());
    return all;
  }
  void restore(std::span<const double> state) {
    if (state.size() != 6 || !(state[0] >= 0 && state[0] <= static_cast<double>(options_.steps)))
      throw input_error("guidance_round: the saved state is not one of a round of " + std::to_string(options_.steps) + " steps");
    reduce_on_plateau plateau = plateau_;
    plateau.restore(state.subspan(1, 3));
    stop_.restore(state.subspan(4));
    plateau_ = plateau;
    steps_ = static_cast<index_t>(state[0]);
  }

 private:
  static void expect(bool right, const char* name, index_t value) {
    if (!right) throw error(std::string("guidance_round: ") + name + " = " + std::to_string(value) + ", expected at least 1");
  }
  guidance_round_options options_;
  reduce_on_plateau plateau_;
  early_stop stop_;
  index_t steps_ = 0;
};

/// What became of a round.
struct guidance_report {
  index_t steps = 0;
  bool stopped_early = false;
  double rate = 0;                // at its end
  double best = 0;                // its best validation
  std::vector<double> validations;
};

/// A round on the weights of `theta`. `accumulate(step)`, step from 0, adds the gradients of a batch to theta.grads; `validate()` -> double.
template <Parametrised M, std::invocable<index_t> Accumulate, std::invocable<> Validate>
guidance_report train_guidance(context<typename M::backend>& cx, parameters<M>& theta, const guidance_round_options& options,
                               Accumulate&& accumulate, Validate&& validate, const adamw_options& optimizer = {}) {
  using B = typename M::backend;
  using A = typename B::accum;
  guidance_round round(options);
  const auto weights = theta.flat_weights();
  const auto grads = theta.flat_grads();
  if (!grads) throw error("train_guidance: the store keeps no gradients; make it with gradients::kept");
  const accum_tensor<B> values = weights;
  const auto bytes = static_cast<std::size_t>(values.size()) * sizeof(A);
  adamw<B> adam{cx, values.size(), optimizer, decay_of_matrices(theta.slots())};
  buffer<B, A> best;
  if (options.leaves == guidance_weights::best) best = buffer<B, A>(cx, values.size());
  theta.zero_grads(cx);
  guidance_report report;
  while (!round.finished()) {
    {
      auto scope = cx.scope();
      accumulate(round.steps());
      const auto norm = clip_global_norm(cx, options.clip, grads);
      read_norm(cx, norm);
      adam.step(cx, weights, grads, round.rate(), norm.factor);
    }
    if (!round.stepped()) continue;
    const auto scope = cx.scope();
    const double value = validate();
    const bool improved = round.validated(value);
    report.validations.push_back(value);
    if (improved && best.size()) B::copy(cx.queue(), best.values().data, values.data, bytes);
  }
  if (best.size()) {
    B::copy(cx.queue(), values.data, best.values().data, bytes);
    round_weights<B>(cx, weights);  // the copy that layers read
  }
  report.steps = round.steps();
  report.stopped_early = round.steps() < options.steps;
  report.rate = round.rate();
  report.best = round.stop().best();
  return report;
}

}  // namespace planlm
