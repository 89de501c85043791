/// Stochastic gradient descent with momentum, as PyTorch defines it; the Nesterov form is that of Sutskever
/// et al. (ICML 2013).
///
///   g += weight_decay w;   b = momentum b + g;   w -= rate b            (b starts at 0)
///   Nesterov:                                    w -= rate (g + momentum b)
///
/// Weight decay is the gradient of weight_decay |w|^2 / 2, not decoupled. Without momentum there is no state.
/// Errors: planlm::error for options, shape_error for views of other sizes.
#pragma once
#include <utility>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/training/optimizer.hpp>

namespace planlm {

struct sgd_options {
  double momentum = 0, weight_decay = 0;
  bool nesterov = false;
};

namespace kernel {
enum class sgd_form { plain, momentum, nesterov };

template <class T, sgd_form Form>
struct sgd {
  T* b;
  T rate, momentum, decay;
  PLANLM_HD T operator()(index_t i, T w, T g) const {
    T direction = g + decay * w;
    if constexpr (Form != sgd_form::plain) {
      const T velocity = momentum * b[i] + direction;
      b[i] = velocity;
      direction = Form == sgd_form::nesterov ? direction + momentum * velocity : velocity;
    }
    return w - rate * direction;
  }
  template <class V>
  PLANLM_HD void streams(V& s) {
    if constexpr (Form != sgd_form::plain) s.update(b);
  }
};
}  // namespace kernel

/// Owns the velocity of `size` weights if there is momentum.
template <Backend B>
class sgd {
 public:
  using backend = B;

  sgd(context<B>& cx, index_t size, sgd_options options = {}, std::vector<decay_range> decay = {})
      : options_(options),
        size_(size),
        decay_(std::move(decay)),
        velocity_(cx, options.momentum != 0 ? size : 0) {
    detail::check_share("sgd", "momentum", options.momentum);
    detail::check_not_negative("sgd", "weight_decay", options.weight_decay);
    if (options.nesterov && options.momentum == 0) throw error("sgd: nesterov needs a momentum above 0");
    detail::check_decay_ranges("sgd", decay_, size);
  }

  /// One step on flat views; consumes the gradients. Allocates nothing.
  void step(context<B>& cx, flat_weights<B> weights, tensor<B, 1> grads, double rate,
            const_scalar<B> factor = {}) {
    using kernel::sgd_form;
    detail::check_step("sgd", size_, weights.size(), grads.size(), rate);
    ++count;
    if (options_.momentum == 0) run<sgd_form::plain>(cx, weights, grads, rate, factor);
    else if (options_.nesterov) run<sgd_form::nesterov>(cx, weights, grads, rate, factor);
    else run<sgd_form::momentum>(cx, weights, grads, rate, factor);
  }

  /// Steps taken; set it when a checkpoint is loaded.
  index_t count = 0;
  std::vector<optimizer_state<B>> state() const {
    if (options_.momentum == 0) return {};
    return {{"velocity", velocity_.values()}};
  }
  const sgd_options& options() const { return options_; }

 private:
  template <kernel::sgd_form Form>
  void run(context<B>& cx, flat_weights<B> weights, tensor<B, 1> grads, double rate, const_scalar<B> factor) {
    using A = typename B::accum;
    update_weights<B>(cx, weights, grads, factor, decay_,
                      kernel::sgd<A, Form>{velocity_.values().data, A(rate), A(options_.momentum),
                                           A(options_.weight_decay)});
  }

  sgd_options options_;
  index_t size_;
  std::vector<decay_range> decay_;
  buffer<B, typename B::accum> velocity_;
};

}  // namespace planlm
