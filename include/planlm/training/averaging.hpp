/// Averages of weights over training steps, for evaluation: exponential moving average and stochastic weight
/// averaging (1803.05407).
///
/// Both are a += alpha_n (w - a) with n = 1, 2, ... and alpha_1 = 1, so nothing has to be known before the
/// first update:
///   exponential    alpha_n = 1 - decay, the first weights keep the share decay^(n-1); with bias correction
///                  (1 - decay) / (1 - decay^n): shares proportional to decay^(n-k) for all k = 1 .. n
///   running mean   alpha_n = 1 / n
///
///     weight_average average{cx, theta.flat_weights().size(), exponential_average{0.999}};
///     average.update(cx, theta.flat_weights());             // after each step, or each epoch
///     average.swap(cx, theta.flat_weights());               // evaluate the average ...
///     average.swap(cx, theta.flat_weights());               // ... and go on: the bits of before
///
/// Errors: planlm::error for an update while swapped, a swap before the first update, a decay out of range;
/// shape_error for other sizes.
#pragma once
#include <cmath>
#include <concepts>
#include <string>
#include <utility>
#include <planlm/backend/buffer.hpp>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/error.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm {

template <class R>
concept AveragingRule = requires(const R& rule, index_t n) {
  { rule(n) } -> std::convertible_to<double>;
} || because<"AveragingRule: needs double operator()(index_t n) const, the share of update n >= 1", R>();

class exponential_average {
 public:
  explicit exponential_average(double decay, bool bias_correction = false)
      : decay_(decay), bias_correction_(bias_correction) {
    if (!(decay >= 0 && decay < 1))
      throw error("exponential_average: decay = " + std::to_string(decay) +
                  ", expected at least 0 and below 1");
  }
  double operator()(index_t n) const {
    if (n == 1) return 1;
    return (1 - decay_) / (bias_correction_ ? 1 - std::pow(decay_, static_cast<double>(n)) : 1);
  }

 private:
  double decay_;
  bool bias_correction_;
};

struct running_mean {
  double operator()(index_t n) const { return 1 / static_cast<double>(n); }
};

namespace kernel {
template <class A>
struct move_towards {
  A* a;
  const A* w;
  A alpha;
  PLANLM_HD void operator()(index_t i) const { a[i] += alpha * (w[i] - a[i]); }
};
template <class A>
struct exchange {
  A *a, *b;
  PLANLM_HD void operator()(index_t i) const {
    const A kept = a[i];
    a[i] = b[i];
    b[i] = kept;
  }
};
}  // namespace kernel

/// Owns the average of `size` weights.
template <Backend B, AveragingRule Rule>
class weight_average {
 public:
  weight_average(context<B>& cx, index_t size, Rule rule) : rule_(std::move(rule)), average_(cx, size) {}

  void update(context<B>& cx, const_accum_tensor<B> weights) {
    check(weights.size());
    if (swapped_)
      throw error("weight_average: update() while the average is in the model; swap() back first");
    ++count;
    using A = typename B::accum;
    const auto a = average_.values();
    if (count == 1) B::copy(cx.queue(), a.data, weights.data, static_cast<std::size_t>(a.size()) * sizeof(A));
    else B::for_each(cx.queue(), a.size(), kernel::move_towards<A>{a.data, weights.data, A(rule_(count))});
  }
  /// Exchanges the average and the weights of the model.
  void swap(context<B>& cx, flat_weights<B> weights) {
    check(weights.size());
    if (count == 0) throw error("weight_average: swap() before the first update()");
    const accum_tensor<B> master = weights;
    B::for_each(cx.queue(), weights.size(),
                kernel::exchange<typename B::accum>{average_.values().data, master.data});
    round_weights<B>(cx, weights);
    swapped_ = !swapped_;
  }
  bool swapped() const { return swapped_; }

  /// Updates made; set it when a checkpoint is loaded.
  index_t count = 0;
  /// What a checkpoint saves, unless swapped.
  accum_tensor<B> values() const { return average_.values(); }

 private:
  void check(index_t size) const {
    if (size != average_.size())
      throw shape_error("weight_average: made for " + std::to_string(average_.size()) + " weights, given " +
                        std::to_string(size));
  }

  Rule rule_;
  buffer<B, typename B::accum> average_;
  bool swapped_ = false;
};
template <Backend B, class Rule>
weight_average(context<B>&, index_t, Rule) -> weight_average<B, Rule>;

}  // namespace planlm
