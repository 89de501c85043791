/// Activations and dropout as layers.
#pragma once
#include <string>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/elementwise.hpp>

namespace planlm {

/// y = F(x) per element;  pullback: dx = dy F'(x). F is ops::gelu, ops::silu, ops::relu or a struct like them.
template <Backend B, class F>
struct activation {
  using backend = B;
  using params = no_params;
  template <class V, class... P>
  void each_param(V&&, P&...) const {}
  auto operator()(context<B>& cx, const params&, const_tensor<B> x) const {
    return vjp{ops::map<F>(cx, x),
               [&cx, x](const_tensor<B> dy, const params&) { return ops::map_pullback<F>(cx, x, dy); }};
  }
};
template <Backend B>
using gelu = activation<B, ops::gelu>;
template <Backend B>
using silu = activation<B, ops::silu>;
template <Backend B>
using relu = activation<B, ops::relu>;

/// Zero with probability `rate`, else x / (1 - rate); the identity when the context is not training.   [Srivastava et al., JMLR 2014]
/// The mask is a function of (seed, step, stream, element): give every dropout of a model a stream of its own.
template <Backend B>
struct dropout {
  using backend = B;
  using params = no_params;
  double rate;
  std::uint32_t stream;

  template <class V, class... P>
  void each_param(V&&, P&...) const {}
  auto operator()(context<B>& cx, const params&, const_tensor<B> x) const {
    if (!(rate >= 0 && rate < 1)) throw error("dropout: the rate is " + std::to_string(rate) + ", expected in [0, 1)");
    const bool active = cx.training && rate > 0;
    const philox random = cx.random.with_stream(stream);
    const const_tensor<B> y = active ? const_tensor<B>(ops::dropout(cx, x, rate, random)) : x;
    return vjp{y, [&cx, active, random, rate = rate](const_tensor<B> dy, const params&) {
                 return active ? const_tensor<B>(ops::dropout(cx, dy, rate, random)) : dy;
               }};
  }
};

}  // namespace planlm
