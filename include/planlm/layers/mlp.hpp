/// The feed-forward branch of a transformer block.
#pragma once
#include <concepts>
#include <string>
#include <planlm/layers/activation.hpp>
#include <planlm/layers/linear.hpp>

namespace planlm {

/// A backend whose products apply GELU, or its derivative, while they store: `takes_gelu(inner)` says for which widths.
///   gemm_gelu:           pre = A B + bias,  C = gelu(pre), both stored
///   gemm_gelu_pullback:  C = (A B) o gelu'(pre)
template <class B>
concept HasFusedGelu = requires(typename B::queue& q, operand<const typename B::real> a, operand<typename B::real> c, tensor<B> pre,
                                const_tensor<B, 1> bias, index_t inner) {
  { B::takes_gelu(inner) } -> std::same_as<bool>;
  B::gemm_gelu(q, a, a, bias, pre, c);
  B::gemm_gelu_pullback(q, a, a, pre, c);
};

/// y = F(x Wup^T + bup) Wdown^T + bdown.   x (N, C) -> (N, C), inner width `inner`.
template <Backend B, class F = ops::gelu>
struct mlp {
  using backend = B;
  struct params {
    typename linear<B>::params up, down;
  };
  index_t width, inner;
  double down_scale = 0.02;

  linear<B> up() const { return {width, inner, true, 0.02}; }
  linear<B> down() const { return {inner, width, true, down_scale}; }

  template <class V, class... P>
  void each_param(V&& f, P&... p) const {
    auto in_up = within("up", f);
    auto in_down = within("down", f);
    up().each_param(in_up, p.up...);
    down().each_param(in_down, p.down...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x) const {
    auto [y, pullback] = run(cx, p, given<B>{x}, {});
    return vjp{y, [pullback = pullback](const_tensor<B> dy, const params& g) { return pullback(dy, g, no_params{}); }};
  }

  /// [residual +] mlp(make().value): what a block calls, with a norm as `make`. Kept: the pre-activation (N, inner) alone.
  ///   pullback(dy, g, rest...): `rest` goes to make's pullback.
  /// Without `Output` the value is empty, and the product down, which no pullback looks at, is left out.
  template <bool Output = true, class Make>
  auto run(context<B>& cx, const params& p, const Make& make, const_tensor<B> residual) const {
    if constexpr (std::same_as<F, ops::gelu> && HasFusedGelu<B>) return fused<Output>(cx, p, make, residual);
    else return composed<Output>(cx, p, make, residual);
  }

  /// Step by step: the oracle of the fused form.
  template <bool Output = true, class Make>
  auto composed(context<B>& cx, const params& p, const Make& make, const_tensor<B> residual) const {
    auto [u, up_pullback] = remade_linear(cx, up(), p.up, make);                                                    // (N, inner)
    const auto activated = [&cx, u = const_tensor<B>(u)] { return activation<B, F>{}(cx, no_params{}, u); };
    auto [y, down_pullback] = [&] {
      if constexpr (Output) return remade_linear(cx, down(), p.down, activated, residual);                           // (N, C)
      else return vjp{const_tensor<B>{}, remade_linear_pullback(cx, p.down, activated)};
    }();
    return vjp{y, [up_pullback = up_pullback, down_pullback = down_pullback](const_tensor<B> dy, const params& g, const auto&... rest) {
                 return up_pullback(down_pullback(dy, g.down, no_params{}), g.up, rest...);
               }};
  }

  /// The activation and its derivative in the products' epilogues, where the backend takes the width.
  template <bool Output = true, class Make>
  auto fused(context<B>& cx, const params& p, const Make& make, const_tensor<B> residual) const {
    const bool fuse = B::takes_gelu(inner);
    auto scratch = cx.scratch();
    const const_tensor<B> x = scratch.run([&] { return make().value; });
    check_width(x);
    const tensor<B> u = cx.make(x.rows(), inner);
    const tensor<B> a = scratch.run([&] { return cx.make(x.rows(), inner); });
    if (fuse) {
      B::gemm_gelu(cx.queue(), plain(x), transposed(const_tensor<B>(p.up.w)), const_tensor<B, 1>(p.up.b), u, plain(a));
    } else {
      add_linear(cx, up(), p.up, x, {}, u);
      if constexpr (Output) B::for_each(cx.queue(), u.size(), ops::kernel::map<F, typename B::real>{u.data, a.data});
    }
    const tensor<B> y = Output ? cx.make(x.rows(), width) : tensor<B>{};
    if constexpr (Output) add_linear(cx, down(), p.down, const_tensor<B>(a), residual, y);
    return vjp{y, [&cx, make, u, p, fuse](const_tensor<B> dy, const params& g, const auto&... rest) {
                 auto temporary = cx.scratch();
                 if (g.down.w) {
                   const tensor<B> again = temporary.run([&] { return ops::map<F>(cx, const_tensor<B>(u)); });
                   ops::matmul_tn_add(cx, dy, const_tensor<B>(again), g.down.w);
                 }
                 if (g.down.b) ops::add_column_sums(cx, dy, g.down.b);
                 const tensor<B> du = cx.make(u.rows(), u.cols());
                 if (fuse) {
                   B::gemm_gelu_pullback(cx.queue(), plain(dy), plain(const_tensor<B>(p.down.w)), u, plain(du));
                 } else {
                   B::gemm(cx.queue(), 1, plain(dy), plain(const_tensor<B>(p.down.w)), plain(du), into::replace);
                   B::for_each(cx.queue(), du.size(), ops::kernel::map_pullback<F, typename B::real>{u.data, du.data, du.data});
                 }
                 auto x_again = temporary.run([&] { return make(); });
                 if (g.up.w) ops::matmul_tn_add(cx, const_tensor<B>(du), const_tensor<B>(x_again.value), g.up.w);
                 if (g.up.b) ops::add_column_sums(cx, const_tensor<B>(du), g.up.b);
                 const const_tensor<B> dx = ops::matmul(cx, const_tensor<B>(du), const_tensor<B>(p.up.w));
                 return const_tensor<B>(x_again.pullback(dx, rest...));
               }};
  }

 private:
  void check_width(const_tensor<B> x) const {
    if (x.cols() != width)
      throw shape_error("mlp: the input is " + ops::shape_text(x.rows(), x.cols()) + ", the layer expects (N, " + std::to_string(width) + ")");
  }
};

}  // namespace planlm
