/// y = x W^T + b.
#pragma once
#include <cmath>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/matmul.hpp>

namespace planlm {

/// x (N, in) -> y (N, out),  W (out, in), b (out).
///   pullback: dW += dy^T x ;  db += column sums of dy ;  dx = dy W
/// Errors: shape_error if x has not `in` columns.
template <Backend B>
struct linear {
  using backend = B;
  struct params {
    tensor<B> w;
    tensor<B, 1> b;
  };
  index_t in, out;
  bool bias = true;
  double scale = -1;  // standard deviation of the initial weights; negative: 1 / sqrt(in)

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("w", out, in, initial::normal, scale < 0 ? 1 / std::sqrt(double(in)) : scale), p.w...);
    if (bias) f(vector_spec("b", out), p.b...);
  }

  auto operator()(context<B>& cx, const params& p, const_tensor<B> x, location at = location::here()) const {
    if (x.cols() != in)
      throw_shape_error("linear: x is " + ops::shape_text(x.rows(), x.cols()) + ", the layer expects (N, " + std::to_string(in) + ")", at);
    auto y = bias ? ops::matmul_nt_bias(cx, x, const_tensor<B>(p.w), const_tensor<B, 1>(p.b)) : ops::matmul_nt(cx, x, const_tensor<B>(p.w));
    return vjp{y, [&cx, x, w = p.w](const_tensor<B> dy, const params& g) {
                 if (g.w) ops::matmul_tn_add(cx, dy, x, g.w);
                 if (g.b) ops::add_column_sums(cx, dy, g.b);
                 return ops::matmul(cx, dy, const_tensor<B>(w));  // (N, in)
               }};
  }
};

}  // namespace planlm
