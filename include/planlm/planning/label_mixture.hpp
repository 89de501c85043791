/// The embedding of a distribution over labels.
#pragma once
#include <concepts>
#include <cstddef>
#include <string>
#include <variant>
#include <planlm/backend/mixing_rule.hpp>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/softmax.hpp>
#include <planlm/planning/few_labels.hpp>
#include <planlm/planning/mixing_policy.hpp>

namespace planlm {

/// A backend that mixes labels tile by tile: softmax(z / T) and its products without a pass over memory between them.
template <class B>
concept HasFusedMixing = requires(typename B::queue& q, const_tensor<B> x, tensor<B> y) {
  B::mix(q, archetype::row_function{}, x, x, y);
  B::mix_pullback(q, archetype::row_function{}, x, x, y);
};

/// A backend that mixes by a rule: weights and product as it sees fit, keeping `mixing_bytes` bytes for the pullback.
template <class B>
concept HasRuledMixing =
    requires(typename B::queue& q, const mixing_rule& rule, const_tensor<B> x, tensor<B> y, void* kept, const void* had, index_t n) {
      { B::mixing_bytes(rule, n, n) } -> std::same_as<std::size_t>;
      B::mix_rows(q, rule, x, x, y, kept);
      B::mix_rows_pullback(q, rule, x, x, x, had, x, y, y);
    };

namespace detail {
// What the policies of mixing_policy.hpp that look at logits are as rules; a policy without one is mixed step by step.
template <Backend B>
mixing_rule rule_of(context<B>&, const mixture& mix) {
  ops::check_temperature(mix.temperature);
  return {.inverse_temperature = 1 / mix.temperature};
}
template <Backend B>
mixing_rule rule_of(context<B>&, const top_k& mix) {
  if (mix.k < 1) throw error("top_k: k is " + std::to_string(mix.k) + ", expected at least 1");
  ops::check_temperature(mix.temperature);
  return {.taken = mix.k, .inverse_temperature = 1 / mix.temperature};
}
template <Backend B>
mixing_rule rule_of(context<B>&, const hard&) {
  return {.discrete = true, .differentiable = false};
}
template <Backend B>
mixing_rule rule_of(context<B>&, const straight_through& mix) {
  ops::check_temperature(mix.temperature);
  return {.inverse_temperature = 1 / mix.temperature, .discrete = true};
}
template <Backend B>
mixing_rule rule_of(context<B>& cx, const gumbel_softmax& mix) {
  ops::check_temperature(mix.temperature);
  return {.inverse_temperature = 1 / mix.temperature,
          .noise = cx.training ? mix.scale : 0,
          .random = cx.random.with_stream(mix.stream),
          .discrete = mix.discrete};
}
}  // namespace detail
template <class Mix, class B>
concept HasMixingRule = requires(context<B>& cx, const Mix& mix) {
  { detail::rule_of(cx, mix) } -> std::same_as<mixing_rule>;
};

/// e = w E,  w = mix.weights(z); for the default policy e = softmax(z / T) E.   [2410.12492, section 3]
///   z (S, K) -> e (S, C),  E (K, C)
///   pullback(de, g, mode): dE += w^T de ;  dw = de E^T, then the policy's pullback; for the default dz = p o (dw - <p, dw>) / T.
///   With into::replace dE = w^T de: a gradient that is made once a step need not be zeroed before.
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
    if constexpr (HasMixingRule<Mix, B> && HasRuledMixing<B>) return ruled(cx, p, z, detail::rule_of(cx, mix));
    else if constexpr (std::same_as<Mix, mixture> && HasFusedMixing<B>) return fused(cx, p, z, mix.temperature);
    else if constexpr (std::same_as<Mix, uniform> && HasEvenMixing<B>) return even(cx, p, z.rows());
    else if constexpr (HasFewLabels<Mix, B>) return sparse_or_composed(cx, p, z, mix);
    else return composed(cx, p, z, mix);
  }

  /// Any policy, step by step: the oracle of the fused form.
  template <class Mix>
  auto composed(context<B>& cx, const params& p, const_tensor<B> z, const Mix& mix) const {
    auto [w, weights_pullback] = mix.weights(cx, z);                         // (S, K)
    auto e = ops::matmul(cx, w, const_tensor<B>(p.table));                   // (S, C)
    return vjp{e, [&cx, w = w, p, weights_pullback = weights_pullback](const_tensor<B> de, const params& g, into mode = into::add) {
                 pull_table(cx, w, de, g.table, mode);
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
    return vjp{e, [&cx, w, p, beta](const_tensor<B> de, const params& g, into mode = into::add) {
                 pull_table(cx, w, de, g.table, mode);
                 auto dz = cx.make(w.rows(), w.cols());
                 B::mix_pullback(cx.queue(), ops::kernel::softmax_pullback<T>{w.data, dz.data, dz.data, dz.cols(), beta}, de, p.table, dz);
                 return const_tensor<B>(dz);
               }};
  }
  /// By the policy's few labels: rows of the table instead of products.
  template <class Mix>
  auto sparse(context<B>& cx, const params& p, const_tensor<B> z, const Mix& mix) const {
    auto [w, weights_pullback] = mix.few(cx, z);                             // (S, k)
    auto e = cx.make(z.rows(), width);                                       // (S, C)
    B::mix_few(cx.queue(), w.label, w.weight, p.table, e);
    return vjp{e, [&cx, w = w, p, weights_pullback = weights_pullback](const_tensor<B> de, const params& g, into mode = into::add) {
                 if constexpr (requires(few_gradients<B> dw) { weights_pullback(dw); }) {
                   const tensor<B> dw = cx.make(w.label.rows(), w.label.cols());
                   B::mix_few_pullback(cx.queue(), w.label, w.weight, p.table, de, dw, g.table, mode);
                   return weights_pullback(few_gradients<B>{dw});
                 } else {
                   B::mix_few_pullback(cx.queue(), w.label, w.weight, p.table, de, tensor<B>{}, g.table, mode);
                   if constexpr (requires { weights_pullback(); }) return const_tensor<B>{};
                   else return weights_pullback(const_tensor<B>(ops::matmul_nt(cx, de, const_tensor<B>(p.table))));
                 }
               }};
  }
  /// Every label alike: one row for all sentences.
  auto even(context<B>& cx, const params& p, index_t sentences) const {
    using A = typename B::accum;
    const A weight = A(typename B::real(A(1) / A(labels)));
    auto e = cx.make(sentences, width);                                      // (S, C)
    B::mix_evenly(cx.queue(), weight, p.table, e);
    return vjp{e, [&cx, weight](const_tensor<B> de, const params& g, into mode = into::add) {
                 if (g.table) B::mix_evenly_pullback(cx.queue(), weight, de, g.table, mode);
                 return const_tensor<B>{};
               }};
  }
  auto ruled(context<B>& cx, const params& p, const_tensor<B> z, const mixing_rule& rule) const {
    auto e = cx.make(z.rows(), width);                                       // (S, C)
    void* kept = cx.template make_of<std::byte>(static_cast<index_t>(B::mixing_bytes(rule, z.rows(), labels))).data;
    B::mix_rows(cx.queue(), rule, z, p.table, e, kept);
    return vjp{e, [&cx, rule, z, e, kept, p](const_tensor<B> de, const params& g, into mode = into::add) {
                 if (g.table && mode == into::replace)
                   B::zero(cx.queue(), g.table.data, static_cast<std::size_t>(g.table.size()) * sizeof(typename B::real));
                 auto dz = rule.differentiable ? cx.make(z.rows(), z.cols()) : tensor<B>{};
                 B::mix_rows_pullback(cx.queue(), rule, z, p.table, e, kept, de, dz, g.table);
                 return const_tensor<B>(dz);
               }};
  }

 private:
  /// dE += or = w^T de.
  static void pull_table(context<B>& cx, const_tensor<B> w, const_tensor<B> de, tensor<B> dtable, into mode) {
    if (dtable) B::gemm(cx.queue(), 1, transposed(w), plain(de), plain(dtable), mode);
  }
  template <class Mix>
  auto sparse_or_composed(context<B>& cx, const params& p, const_tensor<B> z, const Mix& mix) const {
    using by_rows = decltype(sparse(cx, p, z, mix).pullback);
    using by_products = decltype(composed(cx, p, z, mix).pullback);
    const auto either = [](auto e, auto pullback) {
      return vjp{e, [pullback](const_tensor<B> de, const params& g, into mode = into::add) {
                   return std::visit([&](const auto& pulled) { return const_tensor<B>(pulled(de, g, mode)); }, pullback);
                 }};
    };
    using pullbacks = std::variant<by_rows, by_products>;
    if (const index_t few = mix.few_of(labels); few > 0 && few <= labels) {
      auto [e, pullback] = sparse(cx, p, z, mix);
      return either(e, pullbacks(std::in_place_index<0>, pullback));
    }
    auto [e, pullback] = composed(cx, p, z, mix);
    return either(e, pullbacks(std::in_place_index<1>, pullback));
  }
};

}  // namespace planlm
