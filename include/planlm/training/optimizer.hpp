/// What an optimiser is, and the one loop over memory that all of them share.
///
/// An optimiser works on flat views (n) of weights and gradients (flat_weights and flat_grads of a store), so
/// it knows no model. Its arithmetic and memory are of type accum; where that is wider than what is stored, it
/// updates the master weights and writes their rounded copy in the same pass.
///
///     const auto w = theta.flat_weights(), g = theta.flat_grads();
///     adamw optimiser{cx, w.size(), {.weight_decay = 0.1}, decay_of_matrices(theta.slots())};
///     auto norm = clip_global_norm(cx, 1.0, g);
///     read_norm(cx, norm);                                  // numeric_error if it is not finite
///     optimiser.step(cx, w, g, base_rate * schedule(step), norm.factor);
///
/// `factor` is one number on the device that gradients are multiplied with as they are read; empty means 1.
/// If it is not finite the step leaves weights, state and gradients as they are. Otherwise the gradients are
/// zero afterwards.
///
/// Gradient accumulation needs nothing else, because pullbacks add: weight the losses of all micro-batches by
/// 1 / (targets of the whole batch), call every pullback, step once.
#pragma once
#include <cmath>
#include <concepts>
#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>
#include <planlm/backend/context.hpp>
#include <planlm/ops/reduce.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm {

/// A named piece of an optimiser's memory: what a checkpoint holds beside `count`.
template <Backend B>
struct optimizer_state {
  std::string name;
  accum_tensor<B> values;
};

template <class O>
concept HasStep = requires(O& o, context<typename O::backend>& cx, flat_weights<typename O::backend> w,
                           tensor<typename O::backend, 1> g, const_scalar<typename O::backend> factor) {
  o.step(cx, w, g, 1e-3);
  o.step(cx, w, g, 1e-3, factor);
} || because<"Optimizer: needs a type `backend` and step(context, weights, grads, rate[, factor])", O>();
template <class O>
concept HasOptimizerState = requires(O& o) {
  { (o.count) } -> std::same_as<index_t&>;
  { o.state() } -> std::same_as<std::vector<optimizer_state<typename O::backend>>>;
} || because<"Optimizer: needs `index_t count` (steps taken) and state(), named views for checkpoints", O>();

/// Takes steps and can be saved.
template <class O>
concept Optimizer = HasStep<O> && HasOptimizerState<O>;

/// Weight decay of the values [offset, offset + size) is multiplied by `factor`; values in no range have
/// factor 1.
struct decay_range {
  index_t offset, size;
  double factor;
};

/// Ranges for a parameter store: `factor(spec)` -> multiplier. Neighbours of one factor become one range, so
/// that the cost of a step is its memory traffic plus one launch per range.
template <class F>
  requires std::invocable<F&, const parameter_spec&>
std::vector<decay_range> decay_by(const std::vector<parameter_slot>& slots, F factor) {
  std::vector<decay_range> ranges;
  for (std::size_t n = 0; n < slots.size(); ++n) {
    const index_t begin = slots[n].offset;
    // The padding after a tensor is zero and stays it.
    const index_t end = n + 1 < slots.size() ? slots[n + 1].offset : begin + slots[n].spec.size();
    const double f = factor(slots[n].spec);
    if (!ranges.empty() && ranges.back().factor == f) ranges.back().size = end - ranges.back().offset;
    else ranges.push_back({begin, end - begin, f});
  }
  return ranges;
}
/// The usual choice: matrices decay; biases and the scales of norms, which are vectors, do not.
inline std::vector<decay_range> decay_of_matrices(const std::vector<parameter_slot>& slots) {
  return decay_by(slots, [](const parameter_spec& spec) { return spec.rank == 2 ? 1.0 : 0.0; });
}

/// Values that one row of an update covers: enough to hide the start of a row, little enough to keep every
/// multiprocessor busy.
inline constexpr index_t update_block = 1024;

namespace kernel {
/// w_i = rule(i, w_i, factor g_i); g_i = 0. The rule updates its own state at i. `rounded` is a copy of w in T, null where T is A.
template <class T, class A, class Rule>
struct update {
  Rule rule;
  A* w;
  T *rounded, *g;
  const A* factor;
  index_t begin, end;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const index_t first = begin + r * update_block;
    const index_t n = end - first < update_block ? end - first : update_block;
    const A scale = factor ? factor[0] : A(1);
    if (!(scale - scale == A(0))) return;
    A* weights = w;
    T *copies = rounded, *grads = g;
    const Rule apply = rule;  // private, as the pointers are: no store can change it, so the loop vectorises
    team.for_each(n, [=](index_t i) {
      const A next = apply(first + i, weights[first + i], scale * A(grads[first + i]));
      weights[first + i] = next;
      if constexpr (!std::is_same_v<T, A>) copies[first + i] = next;
      grads[first + i] = T(0);
    });
  }
};
}  // namespace kernel

/// A backend that runs a rule over all ranges at once. False: not these ranges, or not this memory.
template <class B, class Rule>
concept HasFusedUpdate = requires(typename B::queue& q, accum_tensor<B> master, typename B::real* rounded, tensor<B, 1> grads,
                                  const_scalar<B> factor, const std::vector<decay_range>& ranges, const Rule& rule) {
  { B::update_weights(q, master, rounded, grads, factor, ranges, rule) } -> std::same_as<bool>;
};

/// Runs an update rule over flat weights and gradients (n): what step() of an optimiser is made of. `Rule` is
/// trivially copyable, has `A decay` (multiplied by the factor of each range) and `A operator()(index_t i, A
/// weight, A gradient) const` -> new weight, with A the backend's accum. streams(v) of a rule calls v.update(p) for
/// each of its arrays: a backend may then take several weights at once.
template <Backend B, class Rule>
void update_weights(context<B>& cx, flat_weights<B> weights, tensor<B, 1> grads, const_scalar<B> factor,
                    const std::vector<decay_range>& ranges, const Rule& rule) {
  using T = typename B::real;
  using A = typename B::accum;
  const accum_tensor<B> master = weights;
  T* rounded = nullptr;
  if constexpr (!stores_all_digits<B>) rounded = weights.rounded.data;
  if constexpr (HasFusedUpdate<B, Rule>)
    if (B::update_weights(cx.queue(), master, rounded, grads, factor, ranges, rule)) return;
  auto launch = [&](index_t begin, index_t end, double multiplier) {
    if (begin >= end) return;
    kernel::update<T, A, Rule> k{rule, master.data, rounded, grads.data, factor.data, begin, end};
    k.rule.decay = static_cast<A>(rule.decay * multiplier);
    B::for_rows(cx.queue(), (end - begin + update_block - 1) / update_block, k);
  };
  index_t at = 0;
  for (const decay_range& range : ranges) {
    launch(at, range.offset, 1);
    at = range.offset + range.size;
    launch(range.offset, at, range.factor);
  }
  launch(at, weights.size(), 1);
}

namespace detail {

inline void check_decay_ranges(const char* who, const std::vector<decay_range>& ranges, index_t size) {
  index_t at = 0;
  for (const decay_range& r : ranges) {
    if (r.offset < at || r.size < 0 || r.offset + r.size > size || !(r.factor >= 0))
      throw shape_error(std::string(who) + ": decay range [" + std::to_string(r.offset) + ", " +
                        std::to_string(r.offset + r.size) + ") with factor " + std::to_string(r.factor) +
                        ": ranges ascend without overlap within the " + std::to_string(size) +
                        " weights, factors are at least 0");
    at = r.offset + r.size;
  }
}

inline void check_option(bool right, const char* who, const char* name, double value, const char* expected) {
  if (!right)
    throw error(std::string(who) + ": " + name + " = " + std::to_string(value) + ", expected " + expected);
}
// Comparisons are written so that NaN fails.
inline void check_share(const char* who, const char* name, double value) {
  check_option(value >= 0 && value < 1, who, name, value, "at least 0 and below 1");
}
inline void check_not_negative(const char* who, const char* name, double value) {
  check_option(value >= 0 && value < INFINITY, who, name, value, "a finite number of at least 0");
}

inline void check_step(const char* who, index_t size, index_t weights, index_t grads, double rate) {
  if (weights != size || grads != size)
    throw shape_error(std::string(who) + ": made for " + std::to_string(size) +
                      " weights, step() was given " + std::to_string(weights) + " weights and " +
                      std::to_string(grads) + " gradients");
  check_not_negative(who, "rate", rate);
}

}  // namespace detail

}  // namespace planlm
