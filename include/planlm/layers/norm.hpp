/// Layer norm and root-mean-square norm of rows.
#pragma once
#include <planlm/layers/layer.hpp>
#include <planlm/ops/norm.hpp>

namespace planlm {

/// y = (x - mean(x)) / sqrt(var(x) + epsilon) o scale + shift, per row.   [1607.06450, equation 3]
///   x (N, C) -> (N, C), scale (C), shift (C). Keeps mean and reciprocal deviation, one each per row.
///   pullback(dy, g[, residual]): the residual (N, C) is added to what is returned.
template <Backend B>
struct layer_norm {
  using backend = B;
  struct params {
    tensor<B, 1> scale, shift;
  };
  index_t width;
  double epsilon = 1e-5;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(vector_spec("scale", width, initial::ones), p.scale...);
    f(vector_spec("shift", width), p.shift...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x) const {
    ops::norm_statistics<B> kept;
    auto y = ops::norm<true>(cx, x, const_tensor<B, 1>(p.scale), const_tensor<B, 1>(p.shift), epsilon, kept);
    return vjp{y, [&cx, x, p, kept](const_tensor<B> dy, const params& g, const_tensor<B> residual = {}) {
                 return ops::norm_pullback<true>(cx, x, const_tensor<B, 1>(p.scale), kept, dy, g.scale, g.shift, residual);
               }};
  }
};

/// y = x / sqrt(mean(x^2) + epsilon) o scale, per row.   [1910.07467, equation 4]
///   x (N, C) -> (N, C), scale (C). pullback(dy, g[, residual]) as above.
template <Backend B>
struct rms_norm {
  using backend = B;
  struct params {
    tensor<B, 1> scale;
  };
  index_t width;
  double epsilon = 1e-5;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(vector_spec("scale", width, initial::ones), p.scale...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x) const {
    ops::norm_statistics<B> kept;
    auto y = ops::norm<false>(cx, x, const_tensor<B, 1>(p.scale), const_tensor<B, 1>{}, epsilon, kept);
    return vjp{y, [&cx, x, p, kept](const_tensor<B> dy, const params& g, const_tensor<B> residual = {}) {
                 return ops::norm_pullback<false>(cx, x, const_tensor<B, 1>(p.scale), kept, dy, g.scale, tensor<B, 1>{}, residual);
               }};
  }
};

}  // namespace planlm
