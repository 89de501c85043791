/// A gate that depends on the context: how far each row follows its plan is decided by the plan and by what the sequence has said so far.
///
///   y_t = x_t + g_t o u_s,  g_t = sigmoid(v . [c_s ; m_t] + b0),  s = sentence(t),  m_t = mean of x_0 .. x_t
///
/// The logit is cut where its two halves meet. That of c is affine in c like u itself, so it is the last rows of the adapter's W and b and a
/// plan is (S, D + G): u and its logits. That of m_t is the running mean of v_m . x, G numbers a row instead of D, exactly: a mean is linear.
/// Causal, because m_t is; G is 1 (a scalar per row) or D (a gate per column).
#pragma once
#include <cmath>
#include <cstddef>
#include <planlm/core/math.hpp>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/running_mean.hpp>

namespace planlm {

namespace gate_kernel {
template <class A>
PLANLM_HD A sigmoid(A x) {
  return A(1) / (A(1) + math::exp(-x));
}
/// y_t = x_t + sigmoid(a_s + m_t) o u_s, where row s of the plan is [u_s ; a_s]; y_t = x_t where there is no plan.
template <class T>
struct add_gated {
  using A = accum_of<T>;
  const T *x, *plan, *m;
  const int* sentence;
  T* y;
  index_t cols, gates;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t t) const {
    const int s = sentence[t];
    const index_t n = cols, g = gates;
    const T *from = x + t * n, *u = plan + (s < 0 ? 0 : s) * (n + g), *mean = m + t * g;
    T* to = y + t * n;
    if (s < 0) {
      team.for_each(n, [=](index_t c) { to[c] = from[c]; });
    } else if (g == 1) {
      const A open = sigmoid(A(u[n]) + A(mean[0]));
      team.for_each(n, [=](index_t c) { to[c] = A(from[c]) + open * A(u[c]); });
    } else {
      team.for_each(n, [=](index_t c) { to[c] = A(from[c]) + sigmoid(A(u[n + c]) + A(mean[c])) * A(u[c]); });
    }
  }
};
/// What row t adds to the gradient of its plan, and dm_t; rows without a plan have dm_t = 0 and leave theirs unwritten.
template <class T>
struct add_gated_pullback {
  using A = accum_of<T>;
  const T *dy, *plan, *m;
  const int* sentence;
  T *dplan, *dm;
  index_t cols, gates;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t t) const {
    const int s = sentence[t];
    const index_t n = cols, g = gates;
    const T *d = dy + t * n, *u = plan + (s < 0 ? 0 : s) * (n + g), *mean = m + t * g;
    T *du = dplan + t * (n + g), *to = dm + t * g;
    if (s < 0) {
      team.for_each(g, [=](index_t c) { to[c] = T(0); });
    } else if (g == 1) {
      const A open = sigmoid(A(u[n]) + A(mean[0]));
      const A along = team.template sum<A>(n, [=](index_t c) { return A(d[c]) * A(u[c]); });
      team.for_each(n, [=](index_t c) { du[c] = open * A(d[c]); });
      if (team.leader()) du[n] = to[0] = T(open * (A(1) - open) * along);
    } else {
      team.for_each(n, [=](index_t c) {
        const A open = sigmoid(A(u[n + c]) + A(mean[c]));
        du[c] = open * A(d[c]);
        du[n + c] = to[c] = T(open * (A(1) - open) * A(d[c]) * A(u[c]));
      });
    }
  }
};
}  // namespace gate_kernel

/// The injection of a gated plan.   x (N, D), plan (S, D + G), v (G, D), sentence (N)
///   pullback(dy, dplan, g): dplan += per sentence, g.gate.gate += dz^T x with dz the running mean's gradient;  dx = dy + dz v
/// With `before`, rows go on from the sums that a cache holds (decoding).
template <Backend B>
struct gated_injection {
  const_tensor<B> plan, v;
  indices<B> sentence;
  sequences<B> rows;
  running_sums<B> before;
  auto operator()(context<B>& cx, const_tensor<B> x) const {
    using T = typename B::real;
    const const_tensor<B> z = ops::matmul_nt(cx, x, v);                            // (N, G)
    const const_tensor<B> m = ops::running_mean(cx, z, rows, before);
    const tensor<B> y = cx.make(x.rows(), x.cols());
    B::for_rows(cx.queue(), x.rows(), gate_kernel::add_gated<T>{x.data, plan.data, m.data, sentence.data, y.data, x.cols(), m.cols()});
    return vjp{const_tensor<B>(y), [&cx, at = *this, x, m](const_tensor<B> dy, tensor<B> dplan, const auto& g) {
                 const tensor<B> rows_of_plan = cx.make(x.rows(), at.plan.cols()), dm = cx.make(m.rows(), m.cols());
                 B::for_rows(cx.queue(), x.rows(),
                             gate_kernel::add_gated_pullback<T>{dy.data, at.plan.data, m.data, at.sentence.data, rows_of_plan.data, dm.data,
                                                                x.cols(), m.cols()});
                 if (dplan) ops::add_segment_sums(cx, const_tensor<B>(rows_of_plan), at.sentence, dplan);
                 const const_tensor<B> dz = ops::running_mean_pullback(cx, const_tensor<B>(dm), at.rows);
                 if (g.gate.gate) ops::matmul_tn_add(cx, dz, x, g.gate.gate);
                 const tensor<B> dx = cx.make(x.rows(), x.cols());
                 B::copy(cx.queue(), dx.data, dy.data, static_cast<std::size_t>(dx.size()) * sizeof(T));
                 ops::matmul_add(cx, dz, at.v, dx);
                 return const_tensor<B>(dx);
               }};
  }
};

/// The gate of a plan_adapter or label_adapter. Its parameter is v_m (G, D); v_c and b0 are the last rows of the adapter's W and b.
template <Backend B>
struct context_gate {
  using backend = B;
  struct params {
    tensor<B> gate;
  };
  index_t width;
  bool by_column = false;
  index_t logits() const { return by_column ? width : 1; }
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("gate", logits(), width, initial::normal, std::sqrt(2.0 / double(logits() + width))), p.gate...);
  }
  auto operator()(context<B>&, const params&, const_tensor<B> plan) const {
    return vjp{plan, [](const_tensor<B> dplan, const params&) { return dplan; }};
  }
  gated_injection<B> injection(const params& p, const_tensor<B> plan, indices<B> sentence, const sequences<B>& rows,
                               const running_sums<B>& before) const {
    return {plan, p.gate, sentence, rows, before};
  }
};

}  // namespace planlm
