/// AdamW: Adam with decoupled weight decay (1711.05101, algorithm 2), in one pass over memory.
///
///   m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2
///   w -= rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon) + rate weight_decay w;   t counts from 1
///
/// Per value: g, m, v, w are read and written once (g as zero). Errors: planlm::error for options,
/// shape_error for views of other sizes.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/training/optimizer.hpp>

namespace planlm {

struct adamw_options {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
};

namespace kernel {
/// sqrt(x) for 0 <= x, within one unit in the last place of a normal x; NaN at infinity, so that a second
/// moment that overflowed shows. On the host std::sqrt sets errno, a branch that keeps loops scalar unless
/// the user passes -fno-math-errno. This is arithmetic alone: a guess of 1 / sqrt(x) from half the exponent
/// (relative error 0.035), Newton rounds that square the error, one Heron round on x times that.
template <class T>
PLANLM_HD T square_root(T x) {
#if defined(__CUDA_ARCH__)
  return ::sqrt(x);
#else
  using bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr bits start = sizeof(T) == 4 ? bits(0x5F375A86) : bits(0x5FE6EB50C7B537A9);
  constexpr int rounds = sizeof(T) == 4 ? 2 : 3;
  T y = __builtin_bit_cast(T, static_cast<bits>(start - (__builtin_bit_cast(bits, x) >> 1)));
  const T half = T(0.5) * x;
  for (int i = 0; i < rounds; ++i) y = y * (T(1.5) - half * y * y);
  const T s = x * y;
  return s + T(0.5) * y * (x - s * s);
#endif
}

template <class T>
struct adamw {
  T *m, *v;
  T beta1, rest1, beta2, rest2;  // rest = 1 - beta, rounded once
  T rate, correction, epsilon;   // rate / (1 - b1^t) and 1 / sqrt(1 - b2^t)
  T decay;                       // rate weight_decay
  PLANLM_HD T operator()(index_t i, T w, T g) const {
    const T mean = beta1 * m[i] + rest1 * g;
    const T square = beta2 * v[i] + rest2 * g * g;
    m[i] = mean;
    v[i] = square;
    return w - (rate * mean / (square_root(square) * correction + epsilon) + decay * w);
  }
  template <class V>
  PLANLM_HD void streams(V& s) {
    s.update(m), s.update(v);
  }
};
}  // namespace kernel

/// Owns the moments of `size` weights, zero at first.
template <Backend B>
class adamw {
 public:
  using backend = B;

  adamw(context<B>& cx, index_t size, adamw_options options = {}, std::vector<decay_range> decay = {})
      : options_(options), decay_(std::move(decay)), mean_(cx, size), square_(cx, size) {
    detail::check_share("adamw", "beta1", options.beta1);
    detail::check_share("adamw", "beta2", options.beta2);
    // At 0 a weight whose gradient was always 0 would become 0 / 0.
    detail::check_option(typename B::accum(options.epsilon) > 0 && options.epsilon < INFINITY, "adamw",
                         "epsilon", options.epsilon, "a finite number above 0");
    detail::check_not_negative("adamw", "weight_decay", options.weight_decay);
    detail::check_decay_ranges("adamw", decay_, size);
  }

  /// One step on flat views; consumes the gradients. Allocates nothing.
  void step(context<B>& cx, flat_weights<B> weights, tensor<B, 1> grads, double rate,
            const_scalar<B> factor = {}) {
    using A = typename B::accum;
    detail::check_step("adamw", mean_.size(), weights.size(), grads.size(), rate);
    const auto t = static_cast<double>(++count);
    const auto& o = options_;
    const double mean_correction = 1 - std::pow(o.beta1, t), square_correction = 1 - std::pow(o.beta2, t);
    update_weights<B>(
        cx, weights, grads, factor, decay_,
        kernel::adamw<A>{mean_.values().data, square_.values().data, A(o.beta1), A(1 - o.beta1), A(o.beta2),
                         A(1 - o.beta2), A(rate / mean_correction), A(1 / std::sqrt(square_correction)),
                         A(o.epsilon), A(rate * o.weight_decay)});
  }

  /// Steps taken; set it when a checkpoint is loaded.
  index_t count = 0;
  std::vector<optimizer_state<B>> state() const {
    return {{"mean", mean_.values()}, {"square", square_.values()}};
  }
  const adamw_options& options() const { return options_; }

 private:
  adamw_options options_;
  std::vector<decay_range> decay_;
  buffer<B, typename B::accum> mean_, square_;
};

}  // namespace planlm
