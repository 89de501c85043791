/// The adapter of one layer: what the embedding of a sentence's label becomes on its way into the language model.
#pragma once
#include <cmath>
#include <string>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/running_mean.hpp>
#include <planlm/planning/gate.hpp>
#include <planlm/planning/plan_injection.hpp>

namespace planlm {

/// u = gate(c W^T + b): one plan per sentence.   [2404.00614, section on the adapter]
///   c (S, label width) -> u (S, columns),  W (columns, label width), b (columns)
///   pullback(du, g, dc, mode): dW += dv^T c, db += sums of dv;  dc += dv W (with into::replace =) unless it is empty. So layers sum up
///   over one table that they share: label_mixture gives c once, its pullback runs once.
/// Columns are the width of the language model, P times that where a sentence has P rows of its own (plan_rows.hpp), and the gate's logits.
/// Errors: shape_error if c is not label width wide, or the gate not as wide as the adapter.
template <Backend B, class Gate = no_gate<B>>
struct plan_adapter {
  using backend = B;
  struct params {
    tensor<B> w;
    tensor<B, 1> b;
    typename Gate::params gate;
  };
  index_t label_width, width;
  Gate gate{width};

  /// Columns of what it is called with, and of a plan.
  index_t inputs() const { return label_width; }
  index_t columns() const { return width + gate.logits(); }

  /// W starts Xavier-normal, b at zero.
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("w", columns(), label_width, initial::normal, std::sqrt(2.0 / double(width + label_width))), p.w...);
    f(vector_spec("b", columns()), p.b...);
    gate.each_param(f, p.gate...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> c) const {
    if (c.cols() != label_width || gate.width != width)
      throw shape_error("plan_adapter: embeddings are " + ops::shape_text(c.rows(), c.cols()) + ", expected (S, " +
                        std::to_string(label_width) + "); the gate is " + std::to_string(gate.width) + " wide, the adapter " +
                        std::to_string(width));
    const const_tensor<B> v = ops::matmul_nt_bias(cx, c, const_tensor<B>(p.w), const_tensor<B, 1>(p.b));
    auto [u, gate_pullback] = gate(cx, p.gate, v);
    return vjp{u, [&cx, c, w = p.w, gate_pullback = gate_pullback](const_tensor<B> du, const params& g, tensor<B> dc, into mode = into::add) {
                 const const_tensor<B> dv = gate_pullback(du, g.gate);
                 if (g.w) ops::matmul_tn_add(cx, dv, c, g.w);
                 if (g.b) ops::add_column_sums(cx, dv, g.b);
                 if (dc) B::gemm(cx.queue(), 1, plain(dv), plain(const_tensor<B>(w)), plain(dc), mode);
               }};
  }
  /// What adds the plans to rows: row t of `rows` follows plan sentence[t] (below 0: none). `before`: what a cache knows of earlier rows.
  ///   its pullback(dx, dplan, g): dplan += , g (the adapter's) += where the gate looks at rows.
  auto injection(const params& p, const_tensor<B> plan, indices<B> sentence, const sequences<B>& rows,
                 const running_sums<B>& before = {}) const {
    if constexpr (requires { gate.injection(p.gate, plan, sentence, rows, before); })
      return gate.injection(p.gate, plan, sentence, rows, before);
    else return plan_injection<B>{plan, sentence};
  }
};

/// What planner_lm asks of an adapter, apart from the calls: a type that lacks one gets a sentence instead of a page.
template <class A>
consteval bool must_be_adapter() {
  static_assert(
      requires(const A& adapter) { adapter.inputs(), adapter.columns(), adapter.width; typename A::params; },
      "planlm: the third parameter of planner_lm is an adapter, such as label_adapter<B> or plan_adapter<B>; a gate is a parameter of those");
  return true;
}

}  // namespace planlm
