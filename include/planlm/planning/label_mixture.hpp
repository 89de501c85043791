/// The embedding of a distribution over labels.
#pragma once
#include <concepts>
#include <string>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/softmax.hpp>
#include <planlm/planning/mixing_policy.hpp>

namespace planlm {

/// A backend that mixes labels tile by tile: softmax(z / T) and its products without a pass over memory between them.
template <class B>
concept HasFusedMixing = requires(typename B::queue& q, const_tensor<B> x, tensor<B> y) {
  B::mix(q, archetype::row_function{}, x, x, y);
  B::mix_pullback(q, archetype::row_function{}, x, x, y);
};

/// e = w E,  w = mix.weights(z); for the default policy e = softmax(z / T) E.   [2410.12492, section 3]
///   z (S, K) -> e (S, C),  E (K, C)
///   pullback: dE += w^T de ;  dw = de E^T, then the policy's pullback; for the default dz = p o (dw - <p, dw>) / T
/// Errors: shape_error if z has not K columns. Exact for one-hot weights: e is then a row of E bit for bit.
template <Backend B>
struct label_mixture {
  using backend = B;
  struct params {
    tensor<B> table;
  };
  index_t labels, width;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("table", labels, width, initial::normal, 1), p.table...);
  }
  template <class Mix = mixture>
  auto operator()(context<B>& cx, const params& p, const_tensor<B> z, const Mix& mix = {}, location at = location::here()) const {
    static_assert(must_be_mixing_policy<Mix, B>());
    if (z.cols() != labels)
      throw_shape_error("label_mixture: z is " + ops::shape_text(z.rows(), z.cols()) + ", the layer expects (S, " +
                            std::to_string(labels) + ")", at);
    if constexpr (std::same_as<Mix, mixture> && HasFusedMixing<B>) return fused(cx, p, z, mix.temperature);
    else return composed(cx, p, z, mix);
  }

  /// Any policy, step by step: the oracle of the fused form.
  template <class Mix>
  auto composed(context<B>& cx, const params& p, const_tensor<B> z, const Mix& mix) const {
    auto [w, weights_pullback] = mix.weights(cx, z);                         // (S, K)
    auto e = ops::matmul(cx, w, const_tensor<B>(p.table));                   // (S, C)
    return vjp{e, [&cx, w = w, p, weights_pullback = weights_pullback](const_tensor<B> de, const params& g) {
                 if (g.table) ops::matmul_tn_add(cx, w, de, g.table);        // dE += w^T de
                 return weights_pullback(const_tensor<B>(ops::matmul_nt(cx, de, const_tensor<B>(p.table))));
               }};
  }
  auto fused(context<B>& cx, const params& p, const_tensor<B> z, double temperature) const {
    using T = typename B::real;
    ops::check_temperature(temperature);
    const auto beta = static_cast<typename B::accum>(1 / temperature);
    auto w = cx.make(z.rows(), z.cols());                                    // (S, K)
    auto e = cx.make(z.rows(), width);                                       // (S, C)
    B::mix(cx.queue(), ops::kernel::softmax<T>{z.data, w.data, z.cols(), beta}, w, p.table, e);
    return vjp{e, [&cx, w, p, beta](const_tensor<B> de, const params& g) {
                 if (g.table) ops::matmul_tn_add(cx, const_tensor<B>(w), de, g.table);  // dE += w^T de
                 auto dz = cx.make(w.rows(), w.cols());
                 B::mix_pullback(cx.queue(), ops::kernel::softmax_pullback<T>{w.data, dz.data, dz.data, dz.cols(), beta}, de, p.table, dz);
                 return const_tensor<B>(dz);
               }};
  }
};

}  // namespace planlm
