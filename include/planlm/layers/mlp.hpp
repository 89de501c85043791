/// The feed-forward branch of a transformer block.
#pragma once
#include <planlm/layers/activation.hpp>
#include <planlm/layers/linear.hpp>

namespace planlm {

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
  template <class Make>
  auto run(context<B>& cx, const params& p, const Make& make, const_tensor<B> residual) const {
    auto [u, up_pullback] = remade_linear(cx, up(), p.up, make);                                                    // (N, inner)
    auto [y, down_pullback] = remade_linear(
        cx, down(), p.down, [&cx, u = const_tensor<B>(u)] { return activation<B, F>{}(cx, no_params{}, u); }, residual);  // (N, C)
    return vjp{y, [up_pullback = up_pullback, down_pullback = down_pullback](const_tensor<B> dy, const params& g, const auto&... rest) {
                 return up_pullback(down_pullback(dy, g.down, no_params{}), g.up, rest...);
               }};
  }
};

}  // namespace planlm
