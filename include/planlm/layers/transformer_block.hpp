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
/// Kept for the pullback are 3 C + C + C + inner + C values per row; norms, activations and the injection are made again.
/// The injection, if any, acts where `Placement` says; sinks given to the pullback are handed to the injection's pullback.
///   pullback(dy, g, [input_gradient,] sink...) -> dx, empty where neither it nor what it leads to is wanted
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
    return run<true>(cx, p, x, seq, Placement{}, inject);
  }
  /// The pullback alone, for `recompute`: the feed-forward branch's second product, which is the output's only, is not made.
  template <class Placement = at_attention_output, class Injection = no_injection>
  auto again(context<B>& cx, const params& p, const_tensor<B> x, const sequences<B>& seq, Placement = {}, const Injection& inject = {}) const {
    return run<false>(cx, p, x, seq, Placement{}, inject).pullback;
  }

 private:
  template <bool Output, class Placement, class Injection>
  auto run(context<B>& cx, const params& p, const_tensor<B> x, const sequences<B>& seq, Placement, const Injection& inject) const {
    constexpr bool in_attention = std::same_as<Placement, at_attention_output>;
    const auto norm1 = [&cx, n = norm(), p1 = p.norm1, x] {
      auto [f, norm_pullback] = n(cx, p1, x);
      return vjp{f, [&cx, norm_pullback = norm_pullback](const_tensor<B> df, const auto& g) { return pull(cx, norm_pullback, df, g); }};
    };
    auto [h, attention_pullback] = attention.run(cx, p.attention, norm1, seq, pick<in_attention>(inject), x);
    // norm2, then the injection if it belongs here; made again in the pullback rather than kept.
    const auto norm2 = [&cx, n = norm(), p2 = p.norm2, h = const_tensor<B>(h), inject = pick<!in_attention>(inject)] {
      auto [f, norm_pullback] = n(cx, p2, h);
      auto [v, inject_pullback] = inject(cx, const_tensor<B>(f));
      return vjp{v, [&cx, norm_pullback = norm_pullback, inject_pullback = inject_pullback](const_tensor<B> dv, const auto& g,
                                                                                            const auto&... sink) {
                   return pull(cx, norm_pullback, inject_pullback(dv, sink...), g);
                 }};
    };
    auto [y, mlp_pullback] = mlp.template run<Output>(cx, p.mlp, norm2, const_tensor<B>(h));
    const auto pullback = [&cx, attention_pullback = attention_pullback, mlp_pullback = mlp_pullback, norm = norm()](
                              const_tensor<B> dy, const params& g, input_gradient input, const auto&... sink) {
      // What the feed-forward branch made, gradients of the inner width above all, is gone before the other begins.
      const const_tensor<B> dh = [&] {
        auto temporaries = cx.scope();
        const norm_gradients g2{norm, g.norm2, dy};
        if constexpr (in_attention) return temporaries.keep(mlp_pullback(dy, g.mlp, g2));
        else return temporaries.keep(mlp_pullback(dy, g.mlp, g2, sink...));
      }();
      const norm_gradients g1{norm, g.norm1, dh, input.wanted};
      if constexpr (in_attention) return attention_pullback(dh, g.attention, g1, sink...);
      else return attention_pullback(dh, g.attention, g1);
    };
    return vjp{y, [pullback](const_tensor<B> dy, const params& g, const auto&... rest) {
                 if constexpr (begins_with_input_gradient<std::remove_cvref_t<decltype(rest)>...>) return pullback(dy, g, rest...);
                 else return pullback(dy, g, input_gradient{}, rest...);
               }};
  }
  /// What a branch's norm is given in the pullback: the gradients of its parameters, and the gradient that went past the branch.
  struct norm_gradients {
    const Norm& norm;
    const typename Norm::params& gradients;
    const_tensor<B> residual;
    bool input = true;
    bool wanted() const {
      auto views = gradients;
      return input || wants_gradient(norm, views);
    }
  };
  /// A norm's pullback + residual, by the norm itself where it can.
  template <class Pullback>
  static const_tensor<B> pull(context<B>& cx, const Pullback& pullback, const_tensor<B> df, const norm_gradients& g) {
    if constexpr (requires { pullback(df, g.gradients, g.residual); }) return pullback(df, g.gradients, g.residual);
    else return ops::sum(cx, g.residual, const_tensor<B>(pullback(df, g.gradients)));
  }
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
