/// Normalisation of rows: layer norm (1607.06450) and root-mean-square norm (1910.07467).
#pragma once
#include <cmath>
#include <planlm/backend/context.hpp>
#include <planlm/ops/matmul.hpp>

namespace planlm::ops {

namespace kernel {
/// y = (x - mean) rstd scale + shift; keeps mean and rstd. `Centred` false: mean is 0 and there is no shift.
template <class T, bool Centred>
struct norm {
  const T *x, *scale, *shift;
  T *y, *mean, *rstd;
  index_t cols;
  T epsilon;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = x + r * cols;
    T* to = y + r * cols;
    const T *g = scale, *b = shift;
    T m = 0;
    if constexpr (Centred) m = team.template sum<T>(cols, [=](index_t i) { return from[i]; }) / T(cols);
    const T variance = team.template sum<T>(cols, [=](index_t i) { return (from[i] - m) * (from[i] - m); }) / T(cols);
    const T s = T(1) / std::sqrt(variance + epsilon);
    if constexpr (Centred) team.for_each(cols, [=](index_t i) { to[i] = (from[i] - m) * s * g[i] + b[i]; });
    else team.for_each(cols, [=](index_t i) { to[i] = from[i] * s * g[i]; });
    if (team.leader()) {
      if constexpr (Centred) mean[r] = m;
      rstd[r] = s;
    }
  }
};
/// With h = (x - mean) rstd and d = dy scale: dx = rstd (d - mean(d) - h mean(d h)), without the mean(d) term if not centred.
template <class T, bool Centred>
struct norm_pullback {
  const T *x, *scale, *mean, *rstd, *dy;
  T* dx;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T *from = x + r * cols, *d = dy + r * cols, *g = scale;
    T* to = dx + r * cols;
    const T m = Centred ? mean[r] : T(0), s = rstd[r];
    T first = 0;
    if constexpr (Centred) first = team.template sum<T>(cols, [=](index_t i) { return d[i] * g[i]; }) / T(cols);
    const T second = team.template sum<T>(cols, [=](index_t i) { return d[i] * g[i] * (from[i] - m) * s; }) / T(cols);
    team.for_each(cols, [=](index_t i) { to[i] = s * (d[i] * g[i] - first - (from[i] - m) * s * second); });
  }
};
/// Entry (r, c) of dy o h, whose column sums are the gradient of the scale.
template <class T, bool Centred>
struct norm_scale_entry {
  const T *x, *mean, *rstd, *dy;
  index_t cols;
  PLANLM_HD T operator()(index_t r, index_t c) const {
    return dy[r * cols + c] * (x[r * cols + c] - (Centred ? mean[r] : T(0))) * rstd[r];
  }
};
}  // namespace kernel

/// What the pullback of a norm needs beside its input: one mean and one reciprocal standard deviation per row.
template <Backend B>
struct norm_statistics {
  tensor<B, 1> mean, rstd;
};

/// x (N, C) -> (N, C); fills `kept`. An empty `shift` means root-mean-square norm.
template <bool Centred, Backend B>
tensor<B> norm(context<B>& cx, const_tensor<B> x, const_tensor<B, 1> scale, const_tensor<B, 1> shift, double epsilon,
               norm_statistics<B>& kept) {
  using T = typename B::real;
  auto y = cx.make(x.rows(), x.cols());
  if (Centred) kept.mean = cx.make(x.rows());
  kept.rstd = cx.make(x.rows());
  B::for_rows(cx.queue(), x.rows(),
              kernel::norm<T, Centred>{x.data, scale.data, shift.data, y.data, kept.mean.data, kept.rstd.data, x.cols(), T(epsilon)});
  return y;
}
/// dx; adds to the gradients of scale and shift where they are wanted.
template <bool Centred, Backend B>
tensor<B> norm_pullback(context<B>& cx, const_tensor<B> x, const_tensor<B, 1> scale, norm_statistics<B> kept, const_tensor<B> dy,
                        tensor<B, 1> dscale, tensor<B, 1> dshift) {
  using T = typename B::real;
  if (dscale)
    B::add_column_sums(cx.queue(), x.rows(), x.cols(),
                       kernel::norm_scale_entry<T, Centred>{x.data, kept.mean.data, kept.rstd.data, dy.data, x.cols()}, dscale);
  if (dshift) add_column_sums(cx, dy, dshift);
  auto dx = cx.make(x.rows(), x.cols());
  B::for_rows(cx.queue(), x.rows(),
              kernel::norm_pullback<T, Centred>{x.data, scale.data, kept.mean.data, kept.rstd.data, dy.data, dx.data, x.cols()});
  return dx;
}

}  // namespace planlm::ops
