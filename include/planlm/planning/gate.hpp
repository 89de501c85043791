/// Gates of an adapter that act on the vector of a sentence, before it is added to the rows. context_gate.hpp has the one that looks at rows.
///
/// A gate is a layer (S, D) -> (S, D) and says how many `logits()` a plan carries for it beside its D columns: none here.
#pragma once
#include <cmath>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/matmul.hpp>

namespace planlm {

namespace gate_kernel {
template <class T>
struct scale_columns {
  const T *x, *gate;
  T* y;
  index_t cols;
  PLANLM_HD void operator()(index_t i) const { y[i] = accum_of<T>(x[i]) * accum_of<T>(gate[i % cols]); }
};
template <class T>
struct product_entry {
  const T *a, *b;
  index_t cols;
  PLANLM_HD accum_of<T> operator()(index_t r, index_t c) const {
    return accum_of<T>(a[r * cols + c]) * accum_of<T>(b[r * cols + c]);
  }
};
}  // namespace gate_kernel

/// None, the paper's default. The adapter acts from the first step on.
template <Backend B>
struct no_gate {
  using backend = B;
  using params = no_params;
  index_t width;
  index_t logits() const { return 0; }
  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto operator()(context<B>&, const params&, const_tensor<B> x) const {
    return vjp{x, [](const_tensor<B> dy, const params&) { return dy; }};
  }
};

/// A learned factor per column.   [2303.16199]  Where it starts is chosen at run time:
///   zeros   hides the plan, and with it the planner's and the table's gradient (fact 10) until the gate has moved
///   ones    acts like no gate; with an empty gradient it is none, bit for bit
///   normal  Xavier's: standard deviation sqrt(2 / (1 + width))
template <Backend B>
struct learned_gate {
  using backend = B;
  struct params {
    tensor<B, 1> gate;
  };
  index_t width;
  initial start = initial::zeros;
  index_t logits() const { return 0; }
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(vector_spec("gate", width, start, std::sqrt(2.0 / double(1 + width))), p.gate...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x) const {
    using T = typename B::real;
    auto y = cx.make(x.rows(), x.cols());
    B::for_each(cx.queue(), y.size(), gate_kernel::scale_columns<T>{x.data, p.gate.data, y.data, y.cols()});
    return vjp{const_tensor<B>(y), [&cx, x, p](const_tensor<B> dy, const params& g) {
                 if (g.gate)
                   B::add_column_sums(cx.queue(), x.rows(), x.cols(), gate_kernel::product_entry<T>{x.data, dy.data, x.cols()}, g.gate);
                 auto dx = cx.make(dy.rows(), dy.cols());
                 B::for_each(cx.queue(), dx.size(), gate_kernel::scale_columns<T>{dy.data, p.gate.data, dx.data, dx.cols()});
                 return const_tensor<B>(dx);
               }};
  }
};
/// The learned gate by the name of its start, where a program knows it.
template <Backend B>
struct zero_gate : learned_gate<B> {
  zero_gate(index_t width) : learned_gate<B>{width, initial::zeros} {}
};
template <Backend B>
struct one_gate : learned_gate<B> {
  one_gate(index_t width) : learned_gate<B>{width, initial::ones} {}
};
template <Backend B>
struct random_gate : learned_gate<B> {
  random_gate(index_t width) : learned_gate<B>{width, initial::normal} {}
};

}  // namespace planlm
