/// The label-conditioned adapter of one layer, and how its vector enters a block.
#pragma once
#include <cmath>
#include <planlm/core/bfloat16.hpp>
#include <planlm/layers/linear.hpp>
#include <planlm/ops/elementwise.hpp>
#include <planlm/ops/gather.hpp>
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

/// Gate policy: none, the paper's default. The adapter acts from the first step on.
template <Backend B>
struct no_gate {
  using backend = B;
  using params = no_params;
  index_t width;
  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto operator()(context<B>&, const params&, const_tensor<B> x) const {
    return vjp{x, [](const_tensor<B> dy, const params&) { return dy; }};
  }
};
/// Gate policy: a learned factor per column.   [2303.16199]  Started at zero it hides the plan, and with it the planner's gradient (fact 10).
template <Backend B, initial Start>
struct learned_gate {
  using backend = B;
  struct params {
    tensor<B, 1> gate;
  };
  index_t width;
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(vector_spec("gate", width, Start), p.gate...);
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
template <Backend B>
using zero_gate = learned_gate<B, initial::zeros>;
template <Backend B>
using one_gate = learned_gate<B, initial::ones>;

/// u = gate(c W^T + b),  c = w C: one vector per sentence, from a table of this layer's own.   [2404.00614, section on the adapter; 2410.12492]
///   w (S, K) label weights -> u (S, D),  C (K, label width), W (D, label width), b (D)
///   pullback(du, g, dw): dC += w^T dc, dW += dv^T c, db += sums of dv;  dw (S, K) += dc C^T unless it is empty, so that layers sum up
///   before the policy's pullback runs once (fact 1).
template <Backend B, class Gate = no_gate<B>>
struct label_adapter {
  using backend = B;
  struct params {
    tensor<B> table, w;
    tensor<B, 1> b;
    typename Gate::params gate;
  };
  index_t labels, label_width, width;

  /// W starts Xavier-normal, b at zero; the table is meant to be overwritten with the label centroids.
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("table", labels, label_width, initial::normal, 1 / std::sqrt(double(label_width))), p.table...);
    f(matrix_spec("w", width, label_width, initial::normal, std::sqrt(2.0 / double(width + label_width))), p.w...);
    f(vector_spec("b", width), p.b...);
    Gate{width}.each_param(f, p.gate...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> w) const {
    const const_tensor<B> c = ops::matmul(cx, w, const_tensor<B>(p.table));                                            // (S, label width)
    const const_tensor<B> v = ops::matmul_nt_bias(cx, c, const_tensor<B>(p.w), const_tensor<B, 1>(p.b));               // (S, D)
    auto [u, gate_pullback] = Gate{width}(cx, p.gate, v);
    return vjp{u, [&cx, w, c, p, gate_pullback = gate_pullback](const_tensor<B> du, const params& g, tensor<B> dw) {
                 const const_tensor<B> dv = gate_pullback(du, g.gate);
                 if (g.w) ops::matmul_tn_add(cx, dv, c, g.w);
                 if (g.b) ops::add_column_sums(cx, dv, g.b);
                 if (!g.table && !dw) return;
                 const const_tensor<B> dc = ops::matmul(cx, dv, const_tensor<B>(p.w));
                 if (g.table) ops::matmul_tn_add(cx, w, dc, g.table);
                 if (dw) ops::matmul_nt_add(cx, dc, const_tensor<B>(p.table), dw);
               }};
  }
};

/// Adds the vector of a row's sentence: x_t + u[sentence(t)].   x (N, D), u (S, D), sentence (N).
///   pullback(dx, du): du += segment sum of dx.
template <Backend B>
struct plan_injection {
  const_tensor<B> u;
  indices<B> sentence;
  auto operator()(context<B>& cx, const_tensor<B> x) const {
    return vjp{const_tensor<B>(ops::add_gathered_rows(cx, x, u, sentence)), [&cx, s = sentence](const_tensor<B> dx, tensor<B> du) {
                 if (du) ops::add_segment_sums(cx, dx, s, du);
                 return dx;
               }};
  }
};

}  // namespace planlm
