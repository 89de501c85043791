/// y = x W^T + b.
#pragma once
#include <cmath>
#include <cstddef>
#include <string>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/matmul.hpp>

namespace planlm {

/// A backend that adds a residual and, unless it is empty, a bias while it stores a product: C = A B + bias + R.
template <class B>
concept HasFusedResidual = requires(typename B::queue& q, operand<const typename B::real> a, operand<typename B::real> c,
                                    const_tensor<B> residual, const_tensor<B, 1> bias) { B::gemm_residual(q, a, a, bias, residual, c); };

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

/// The input of a layer that is simply there.
template <Backend B>
struct given {
  const_tensor<B> x;
  auto operator()() const {
    return vjp{x, [](const_tensor<B> dx, const auto&...) { return dx; }};
  }
};

/// y = [residual +] layer(x), into y (N, out). The residual may be empty.
template <Backend B>
void add_linear(context<B>& cx, const linear<B>& layer, const typename linear<B>::params& p, const_tensor<B> x, const_tensor<B> residual,
                tensor<B> y) {
  const const_tensor<B, 1> bias = layer.bias ? const_tensor<B, 1>(p.b) : const_tensor<B, 1>{};
  if constexpr (HasFusedResidual<B>) {
    if (residual) return B::gemm_residual(cx.queue(), plain(x), transposed(const_tensor<B>(p.w)), bias, residual, plain(y));
  }
  if (residual) B::copy(cx.queue(), y.data, residual.data, static_cast<std::size_t>(y.size()) * sizeof(typename B::real));
  const into mode = residual ? into::add : into::replace;
  if (bias) ops::matmul_nt_bias(cx, x, const_tensor<B>(p.w), bias, y, mode);
  else B::gemm(cx.queue(), 1, plain(x), transposed(const_tensor<B>(p.w)), plain(y), mode);
}

/// The pullback of remade_linear, for a caller that has the product.
template <Backend B, class Make>
auto remade_linear_pullback(context<B>& cx, const typename linear<B>::params& p, const Make& make) {
  return [&cx, make, w = p.w](const_tensor<B> dy, const typename linear<B>::params& g, const auto&... rest) {
    auto temporary = cx.scratch();
    auto again = temporary.run([&] { return make(); });
    if (g.w) ops::matmul_tn_add(cx, dy, const_tensor<B>(again.value), g.w);
    if (g.b) ops::add_column_sums(cx, dy, g.b);
    const const_tensor<B> dx = ops::matmul(cx, dy, const_tensor<B>(w));
    return const_tensor<B>(again.pullback(dx, rest...));
  };
}
/// y = [residual +] layer(make().value), where the input is cheap to make again (a norm, an activation, an injection): it lives in scratch
/// memory and only what `make` captures is kept. make() -> vjp{x, pullback}.
///   pullback(dy, g, rest...): `rest` goes to make's pullback, whose result is returned. The residual's gradient is dy: the caller adds it.
template <Backend B, class Make>
auto remade_linear(context<B>& cx, const linear<B>& layer, const typename linear<B>::params& p, const Make& make,
                   const_tensor<B> residual = {}) {
  auto scratch = cx.scratch();
  const const_tensor<B> x = scratch.run([&] { return make().value; });
  if (x.cols() != layer.in)
    throw shape_error("remade_linear: the input is " + ops::shape_text(x.rows(), x.cols()) + ", the layer expects (N, " +
                      std::to_string(layer.in) + ")");
  auto y = cx.make(x.rows(), layer.out);
  add_linear(cx, layer, p, x, residual, y);
  return vjp{y, remade_linear_pullback(cx, p, make)};
}

}  // namespace planlm
