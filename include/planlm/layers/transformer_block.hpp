/// Transformer blocks: norm first (GPT-2) for language models, norm last (the original) for the planner's encoder.
#pragma once
#include <planlm/layers/attention.hpp>
#include <planlm/layers/mlp.hpp>
#include <planlm/layers/norm.hpp>
#include <planlm/ops/elementwise.hpp>

namespace planlm {

/// Where a plan enters a block: the heads' output before its projection (2404.00614, the GPT-2 placement; the default) ...
struct at_attention_output {};
/// ... or the input of the feed-forward branch, after its norm (the OLMo placement).
struct at_feed_forward_input {};

/// h = x + attention(norm1(x));  y = h + mlp(norm2(h)).   x (N, C) with sequences -> (N, C).
/// The injection, if any, acts where `Placement` says; sinks given to the pullback are handed to the injection's pullback.
template <Backend B, class Norm = layer_norm<B>, class Activation = ops::gelu, class Positions = no_rotation>
struct transformer_block {
  using backend = B;
  struct params {
    typename Norm::params norm1, norm2;
    typename planlm::attention<B, Positions>::params attention;
    typename planlm::mlp<B, Activation>::params mlp;
  };
  index_t width;
  planlm::attention<B, Positions> attention;
  planlm::mlp<B, Activation> mlp;

  transformer_block(index_t width, index_t heads, bool causal, index_t inner, double residual_scale = 0.02, index_t kv_heads = 0,
                    Positions positions = {})
      : width(width), attention(width, heads, causal, kv_heads, positions, residual_scale), mlp{width, inner, residual_scale} {}
  Norm norm() const { return {width}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_norm1 = within("norm1", f);
    auto in_attention = within("attention", f);
    auto in_norm2 = within("norm2", f);
    auto in_mlp = within("mlp", f);
    norm().each_param(in_norm1, p.norm1...);
    attention.each_param(in_attention, p.attention...);
    norm().each_param(in_norm2, p.norm2...);
    mlp.each_param(in_mlp, p.mlp...);
  }

  template <class Placement = at_attention_output, class Injection = no_injection>
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x, const sequences<B>& seq, Placement = {},
                  const Injection& inject = {}) const {
    constexpr bool in_attention = std::same_as<Placement, at_attention_output>;
    auto [a, norm1_pullback] = norm()(cx, p.norm1, x);
    auto [o, attention_pullback] = attention(cx, p.attention, a, seq, pick<in_attention>(inject));
    auto h = ops::sum(cx, x, const_tensor<B>(o));
    auto [f, norm2_pullback] = norm()(cx, p.norm2, h);
    auto [v, inject_pullback] = pick<!in_attention>(inject)(cx, const_tensor<B>(f));
    auto [m, mlp_pullback] = mlp(cx, p.mlp, v);
    auto y = ops::sum(cx, const_tensor<B>(h), const_tensor<B>(m));
    return vjp{y, [&cx, norm1_pullback = norm1_pullback, attention_pullback = attention_pullback, norm2_pullback = norm2_pullback,
                   inject_pullback = inject_pullback,
                   mlp_pullback = mlp_pullback](const_tensor<B> dy, const params& g, const auto&... sink) {
                 const const_tensor<B> dv = mlp_pullback(dy, g.mlp);
                 const_tensor<B> df;
                 if constexpr (in_attention) df = inject_pullback(dv);
                 else df = inject_pullback(dv, sink...);
                 const const_tensor<B> dh = ops::sum(cx, dy, const_tensor<B>(norm2_pullback(df, g.norm2)));
                 const_tensor<B> da;
                 if constexpr (in_attention) da = attention_pullback(dh, g.attention, sink...);
                 else da = attention_pullback(dh, g.attention);
                 return ops::sum(cx, dh, const_tensor<B>(norm1_pullback(da, g.norm1)));
               }};
  }

 private:
  template <bool Take, class Injection>
  static auto pick(const Injection& inject) {
    if constexpr (Take) return inject;
    else return no_injection{};
  }
};

/// h = norm1(x + attention(x));  y = norm2(h + mlp(h)), attention not causal.   [1706.03762, section 3.1]
template <Backend B, class Activation = ops::relu>
struct encoder_block {
  using backend = B;
  struct params {
    typename planlm::attention<B>::params attention;
    typename layer_norm<B>::params norm1, norm2;
    typename planlm::mlp<B, Activation>::params mlp;
  };
  index_t width;
  planlm::attention<B> attention;
  planlm::mlp<B, Activation> mlp;

  encoder_block(index_t width, index_t heads, index_t inner) : width(width), attention(width, heads, false), mlp{width, inner} {}
  layer_norm<B> norm() const { return {width}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_attention = within("attention", f);
    auto in_norm1 = within("norm1", f);
    auto in_mlp = within("mlp", f);
    auto in_norm2 = within("norm2", f);
    attention.each_param(in_attention, p.attention...);
    norm().each_param(in_norm1, p.norm1...);
    mlp.each_param(in_mlp, p.mlp...);
    norm().each_param(in_norm2, p.norm2...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x, const sequences<B>& seq) const {
    auto [a, attention_pullback] = attention(cx, p.attention, x, seq);
    auto [h, norm1_pullback] = norm()(cx, p.norm1, ops::sum(cx, x, const_tensor<B>(a)));
    auto [m, mlp_pullback] = mlp(cx, p.mlp, h);
    auto [y, norm2_pullback] = norm()(cx, p.norm2, ops::sum(cx, const_tensor<B>(h), const_tensor<B>(m)));
    return vjp{y, [&cx, attention_pullback = attention_pullback, norm1_pullback = norm1_pullback, mlp_pullback = mlp_pullback,
                   norm2_pullback = norm2_pullback](const_tensor<B> dy, const params& g) {
                 const const_tensor<B> dm = norm2_pullback(dy, g.norm2);
                 const const_tensor<B> dh = ops::sum(cx, dm, const_tensor<B>(mlp_pullback(dm, g.mlp)));
                 const const_tensor<B> da = norm1_pullback(dh, g.norm1);
                 return ops::sum(cx, da, const_tensor<B>(attention_pullback(da, g.attention)));
               }};
  }
};

}  // namespace planlm
