/// Multi-head attention: projection, positions in the heads, attention, optional injection of a plan, output projection.
#pragma once
#include <string>
#include <planlm/layers/linear.hpp>
#include <planlm/ops/attention.hpp>
#include <planlm/ops/positions.hpp>

namespace planlm {

/// Position policy of attention: the heads see no position (learned or sinusoidal codes were added to the input).
struct no_rotation {
  template <Backend B>
  void turn(context<B>&, tensor<B>, attention_shape, sequences<B>, bool) const {}
};
/// Position policy of attention: queries and keys turn by their position.   [2104.09864]
struct rotary {
  double base = 10000;
  template <Backend B>
  void turn(context<B>& cx, tensor<B> qkv, attention_shape shape, sequences<B> seq, bool forward) const {
    ops::rotate(cx, qkv, 0, shape.heads + shape.kv_heads, shape.width, seq.positions, base, forward);
  }
};

/// What happens to the heads' output before its projection: nothing.
struct no_injection {
  template <Backend B>
  auto operator()(context<B>&, const_tensor<B> x) const {
    return vjp{x, [](const_tensor<B> dx, const auto&...) { return dx; }};
  }
};

/// x (N, C) with sequences -> (N, C).
///   qkv = x Wqkv^T + bqkv, heads attend within their sequence, o = inject(concatenated heads), y = o Wout^T + bout.
///   pullback(dy, g, sink...): the sinks are handed to the injection's pullback.
/// `Positions`: no_rotation or rotary. Errors: shape_error if heads, key-value heads and width do not fit together.
template <Backend B, class Positions = no_rotation>
struct attention {
  using backend = B;
  struct params {
    typename linear<B>::params qkv, out;
  };
  index_t width;
  attention_shape shape;
  Positions positions{};
  double out_scale = -1;

  attention(index_t width, index_t heads, bool causal, index_t kv_heads = 0, Positions positions = {}, double out_scale = -1)
      : width(width),
        shape{heads, kv_heads ? kv_heads : heads, heads > 0 ? width / heads : 0, causal},
        positions(positions),
        out_scale(out_scale) {
    if (heads < 1 || width % heads != 0 || heads % shape.kv_heads != 0)
      throw shape_error("attention: width " + std::to_string(width) + " must be a multiple of heads " + std::to_string(heads) +
                        ", and heads a multiple of key-value heads " + std::to_string(shape.kv_heads));
    if (std::same_as<Positions, rotary> && shape.width % 2 != 0)
      throw shape_error("attention: rotary positions turn pairs, but the head width " + std::to_string(shape.width) + " is odd");
  }
  linear<B> qkv() const { return {width, shape.packed_width(), true, 0.02}; }
  linear<B> out() const { return {shape.query_width(), width, true, out_scale < 0 ? 0.02 : out_scale}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_qkv = within("qkv", f);
    auto in_out = within("out", f);
    qkv().each_param(in_qkv, p.qkv...);
    out().each_param(in_out, p.out...);
  }

  template <class Injection = no_injection>
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x, const sequences<B>& seq, const Injection& inject = {}) const {
    auto [y, pullback] = run(cx, p, given<B>{x}, seq, inject, {});
    return vjp{y, [pullback = pullback](const_tensor<B> dy, const params& g, const auto&... sink) {
                 return pullback(dy, g, no_params{}, sink...);
               }};
  }

  /// [residual +] attention(make().value): what a block calls, with a norm as `make`. Kept: packed projections, heads, log sum exp.
  ///   pullback(dy, g, g_make, sink...): `g_make` goes to make's pullback. Where it has a member wanted() that says no, and no gradient of
  ///   the projections that come before is wanted either, the result is empty and the attention itself is not pulled back.
  template <class Make, class Injection>
  auto run(context<B>& cx, const params& p, const Make& make, const sequences<B>& seq, const Injection& inject,
           const_tensor<B> residual) const {
    auto [packed, qkv_pullback] = remade_linear(cx, qkv(), p.qkv, make);         // (N, (heads + 2 kv_heads) width)
    positions.turn(cx, packed, shape, seq, true);
    const auto heads = ops::attention(cx, shape, const_tensor<B>(packed), seq);  // (N, heads width)
    auto [y, out_pullback] =
        remade_linear(cx, out(), p.out, [&cx, inject, o = const_tensor<B>(heads.y)] { return inject(cx, o); }, residual);
    return vjp{y, [&cx, shape = shape, positions = positions, seq, packed = packed, heads, qkv_pullback = qkv_pullback,
                   out_pullback = out_pullback](const_tensor<B> dy, const params& g, const auto& g_make, const auto&... sink) {
                 const const_tensor<B> dheads = out_pullback(dy, g.out, sink...);
                 if constexpr (requires { g_make.wanted(); })
                   if (!g.qkv.w && !g.qkv.b && !g_make.wanted()) return const_tensor<B>{};
                 const tensor<B> dpacked = ops::attention_pullback(cx, shape, const_tensor<B>(packed), seq, heads, dheads);
                 positions.turn(cx, dpacked, shape, seq, false);
                 return qkv_pullback(dpacked, g.qkv, g_make);
               }};
  }
};

}  // namespace planlm
