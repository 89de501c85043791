/// The label-conditioned adapter of one layer, with a table of its own.
#pragma once
#include <cmath>
#include <planlm/planning/plan_adapter.hpp>

namespace planlm {

/// u = gate(c W^T + b),  c = w C: a plan_adapter behind a table of this layer's own, as the papers have it.   [2404.00614; 2410.12492]
///   w (S, K) label weights -> u (S, columns),  C (K, label width)
///   pullback(du, g, dw): dC += w^T dc and what plan_adapter adds;  dw (S, K) += dc C^T unless it is empty, so that layers sum up before the
///   policy's pullback runs once (fact 1).
template <Backend B, class Gate = no_gate<B>>
struct label_adapter {
  using backend = B;
  struct params : plan_adapter<B, Gate>::params {
    tensor<B> table;
  };
  index_t labels, label_width, width;
  Gate gate{width};

  plan_adapter<B, Gate> without_table() const { return {label_width, width, gate}; }
  index_t inputs() const { return labels; }
  index_t columns() const { return width + gate.logits(); }

  /// The table is meant to be overwritten with the label centroids.
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("table", labels, label_width, initial::normal, 1 / std::sqrt(double(label_width))), p.table...);
    without_table().each_param(f, p...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> w) const {
    const const_tensor<B> c = ops::matmul(cx, w, const_tensor<B>(p.table));  // (S, label width)
    auto [u, plan_pullback] = without_table()(cx, p, c);
    return vjp{u, [&cx, w, c, table = p.table, plan_pullback = plan_pullback](const_tensor<B> du, const params& g, tensor<B> dw) {
                 const tensor<B> dc = g.table || dw ? cx.make(c.rows(), c.cols()) : tensor<B>{};
                 plan_pullback(du, g, dc, into::replace);
                 if (g.table) ops::matmul_tn_add(cx, w, const_tensor<B>(dc), g.table);
                 if (dw) ops::matmul_nt_add(cx, const_tensor<B>(dc), const_tensor<B>(table), dw);
               }};
  }
  auto injection(const params& p, const_tensor<B> plan, indices<B> sentence, const sequences<B>& rows,
                 const running_sums<B>& before = {}) const {
    return without_table().injection(p, plan, sentence, rows, before);
  }
};

}  // namespace planlm
