/// Lion (2302.06675, algorithm 2): the sign of an interpolated momentum, so every weight moves by the rate.
///
///   w -= rate (sign(b1 m + (1 - b1) g) + weight_decay w);   then m = b2 m + (1 - b2) g
///
/// Half the state of AdamW; the paper advises a rate three to ten times smaller than AdamW's and a weight
/// decay as much larger. Errors: planlm::error for options, shape_error for views of other sizes.
#pragma once
#include <utility>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/training/optimizer.hpp>

namespace planlm {

struct lion_options {
  double beta1 = 0.9, beta2 = 0.99, weight_decay = 0;
};

namespace kernel {
template <class T>
struct lion {
  T* m;
  T beta1, rest1, beta2, rest2;  // rest = 1 - beta, rounded once
  T rate, decay;                 // decay = rate weight_decay
  PLANLM_HD T operator()(index_t i, T w, T g) const {
    const T mixed = beta1 * m[i] + rest1 * g;
    m[i] = beta2 * m[i] + rest2 * g;
    // Two choices, not one within the other, or g++ branches; the last term is NaN for what is not finite.
    const T sign = (mixed > T(0) ? T(1) : T(0)) - (mixed < T(0) ? T(1) : T(0)) + (mixed - mixed);
    return w - (rate * sign + decay * w);
  }
  template <class V>
  PLANLM_HD void streams(V& s) {
    s.update(m);
  }
};
}  // namespace kernel

/// Owns the momentum of `size` weights, zero at first.
template <Backend B>
class lion {
 public:
  using backend = B;

  lion(context<B>& cx, index_t size, lion_options options = {}, std::vector<decay_range> decay = {})
      : options_(options), decay_(std::move(decay)), mean_(cx, size) {
    detail::check_share("lion", "beta1", options.beta1);
    detail::check_share("lion", "beta2", options.beta2);
    detail::check_not_negative("lion", "weight_decay", options.weight_decay);
    detail::check_decay_ranges("lion", decay_, size);
  }

  /// One step on flat views; consumes the gradients. Allocates nothing.
  void step(context<B>& cx, flat_weights<B> weights, tensor<B, 1> grads, double rate,
            const_scalar<B> factor = {}) {
    using A = typename B::accum;
    detail::check_step("lion", mean_.size(), weights.size(), grads.size(), rate);
    ++count;
    const auto& o = options_;
    update_weights<B>(cx, weights, grads, factor, decay_,
                      kernel::lion<A>{mean_.values().data, A(o.beta1), A(1 - o.beta1), A(o.beta2),
                                      A(1 - o.beta2), A(rate), A(rate * o.weight_decay)});
  }

  /// Steps taken; set it when a checkpoint is loaded.
  index_t count = 0;
  std::vector<optimizer_state<B>> state() const { return {{"mean", mean_.values()}}; }
  const lion_options& options() const { return options_; }

 private:
  lion_options options_;
  std::vector<decay_range> decay_;
  buffer<B, typename B::accum> mean_;
};

}  // namespace planlm
