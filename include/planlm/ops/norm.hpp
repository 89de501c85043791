/// Normalisation of rows: layer norm (1607.06450) and root-mean-square norm (1910.07467).
#pragma once
#include <cmath>
#include <concepts>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/ops/elementwise.hpp>
#include <planlm/ops/matmul.hpp>

namespace planlm::ops {

namespace kernel {
/// y = (x - mean) rstd scale + shift; keeps mean and rstd. `Centred` false: mean is 0 and there is no shift.
template <class T, bool Centred>
struct norm {
  using A = accum_of<T>;
  const T *x, *scale, *shift;
  T* y;
  A *mean, *rstd;
  index_t cols;
  A epsilon;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = x + r * cols;
    T* to = y + r * cols;
    const T *g = scale, *b = shift;
    A m = 0;
    if constexpr (Centred) m = team.template sum<A>(cols, [=](index_t i) { return A(from[i]); }) / A(cols);
    const A variance = team.template sum<A>(cols, [=](index_t i) { return (A(from[i]) - m) * (A(from[i]) - m); }) / A(cols);
    const A s = A(1) / std::sqrt(variance + epsilon);
    if constexpr (Centred) team.for_each(cols, [=](index_t i) { to[i] = (A(from[i]) - m) * s * A(g[i]) + A(b[i]); });
    else team.for_each(cols, [=](index_t i) { to[i] = A(from[i]) * s * A(g[i]); });
    if (team.leader()) {
      if constexpr (Centred) mean[r] = m;
      rstd[r] = s;
    }
  }
};
/// With h = (x - mean) rstd and d = dy scale: dx = rstd (d - mean(d) - h mean(d h)), without the mean(d) term if not centred.
template <class T, bool Centred>
struct norm_pullback {
  using A = accum_of<T>;
  const T *x, *scale;
  const A *mean, *rstd;
  const T* dy;
  T* dx;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T *from = x + r * cols, *d = dy + r * cols, *g = scale;
    T* to = dx + r * cols;
    const A m = Centred ? mean[r] : A(0), s = rstd[r];
    A first = 0;
    if constexpr (Centred) first = team.template sum<A>(cols, [=](index_t i) { return A(d[i]) * A(g[i]); }) / A(cols);
    const A second = team.template sum<A>(cols, [=](index_t i) { return A(d[i]) * A(g[i]) * (A(from[i]) - m) * s; }) / A(cols);
    team.for_each(cols, [=](index_t i) { to[i] = s * (A(d[i]) * A(g[i]) - first - (A(from[i]) - m) * s * second); });
  }
};
/// Entry (r, c) of dy o h, whose column sums are the gradient of the scale.
template <class T, bool Centred>
struct norm_scale_entry {
  using A = accum_of<T>;
  const T* x;
  const A *mean, *rstd;
  const T* dy;
  index_t cols;
  PLANLM_HD A operator()(index_t r, index_t c) const {
    return A(dy[r * cols + c]) * (A(x[r * cols + c]) - (Centred ? mean[r] : A(0))) * rstd[r];
  }
};
}  // namespace kernel

/// What the pullback of a norm needs beside its input: one mean and one reciprocal standard deviation per row.
template <Backend B>
struct norm_statistics {
  accum_tensor<B> mean, rstd;
};

/// A backend that normalises rows in one pass, and pulls back through that with both column sums in one pass. False: not this shape.
template <class B>
concept HasFusedNorm = requires(typename B::queue& q, const_tensor<B> x, const_tensor<B, 1> scale, double epsilon, tensor<B> y,
                                accum_tensor<B> statistic, tensor<B, 1> gradient) {
  { B::template norm<true>(q, x, scale, scale, epsilon, y, statistic, statistic) } -> std::same_as<bool>;
  { B::template norm_pullback<true>(q, x, scale, statistic, statistic, x, x, y, gradient, gradient) } -> std::same_as<bool>;
};

/// x (N, C) -> (N, C); fills `kept`. An empty `shift` means root-mean-square norm.
template <bool Centred, Backend B>
tensor<B> norm(context<B>& cx, const_tensor<B> x, const_tensor<B, 1> scale, const_tensor<B, 1> shift, double epsilon,
               norm_statistics<B>& kept) {
  using T = typename B::real;
  using A = typename B::accum;
  auto y = cx.make(x.rows(), x.cols());
  if (Centred) kept.mean = cx.template make_of<A>(x.rows());
  kept.rstd = cx.template make_of<A>(x.rows());
  if constexpr (HasFusedNorm<B>)
    if (B::template norm<Centred>(cx.queue(), x, scale, shift, epsilon, y, kept.mean, kept.rstd)) return y;
  B::for_rows(cx.queue(), x.rows(),
              kernel::norm<T, Centred>{x.data, scale.data, shift.data, y.data, kept.mean.data, kept.rstd.data, x.cols(), A(epsilon)});
  return y;
}
/// dx [+ residual]; adds to the gradients of scale and shift where they are wanted.
template <bool Centred, Backend B>
tensor<B> norm_pullback(context<B>& cx, const_tensor<B> x, const_tensor<B, 1> scale, norm_statistics<B> kept, const_tensor<B> dy,
                        tensor<B, 1> dscale, tensor<B, 1> dshift, const_tensor<B> residual = {}) {
  using T = typename B::real;
  auto dx = cx.make(x.rows(), x.cols());
  if constexpr (HasFusedNorm<B>)
    if (B::template norm_pullback<Centred>(cx.queue(), x, scale, kept.mean, kept.rstd, dy, residual, dx, dscale, dshift)) return dx;
  if (dscale)
    B::add_column_sums(cx.queue(), x.rows(), x.cols(),
                       kernel::norm_scale_entry<T, Centred>{x.data, kept.mean.data, kept.rstd.data, dy.data, x.cols()}, dscale);
  if (dshift) add_column_sums(cx, dy, dshift);
  B::for_rows(cx.queue(), x.rows(),
              kernel::norm_pullback<T, Centred>{x.data, scale.data, kept.mean.data, kept.rstd.data, dy.data, dx.data, x.cols()});
  if (residual) add_to(cx, residual, dx);
  return dx;
}

}  // namespace planlm::ops
