/// The planner-conditioned language model: the mixture of label embeddings enters the upper blocks.
#pragma once
#include <algorithm>
#include <string>
#include <vector>
#include <planlm/models/transformer_lm.hpp>
#include <planlm/planning/label_adapter.hpp>
#include <planlm/planning/mixing_policy.hpp>

namespace planlm {

/// What blocks keep for their pullback: everything they need ...
struct keep_activations {
  template <class Block>
  static Block of(const Block& block) {
    return block;
  }
};
/// ... or only their input: the forward pass of a block runs again in its pullback, for a fraction of the memory.
struct keep_inputs {
  template <class Block>
  static recompute<Block> of(const Block& block) {
    return {block};
  }
};

/// Packed rows of a batch and the sentences that condition them. Everything lives where kernels can read it.
template <Backend B>
struct planned_rows {
  indices<B> tokens, targets;  // (N): input token and the token after it
  indices<B> sentence;         // (N): row of the batch's sentences that contains the TARGET (section 4 of 2404.00614's code: gamma(t))
  sequences<B> rows;           // how the N rows fall into chunks
  index_t sentences = 0;       // S
};

/// Language model with one adapter per block from `first_adapted` on; the planner's weights or logits are an input.   [2410.12492, section 3]
/// All layers share the weights of a sentence, each mixes its own table.
/// `Placement`: at_attention_output (default) or at_feed_forward_input. `Gate`: no_gate (default), zero_gate, one_gate.
/// `Kept`: keep_activations (default) or keep_inputs; with the latter `p` must outlive the pullback.
template <Backend B, class Placement = at_attention_output, class Gate = no_gate<B>, class Code = learned_positions<B>,
          class Rotation = no_rotation, class Kept = keep_activations>
struct planner_lm {
  using backend = B;
  using lm_type = transformer_lm<B, Code, Rotation>;
  using adapter_type = label_adapter<B, Gate>;
  /// The adapters of the upper blocks: a model part of its own, because it has its own store and optimiser.
  struct adapter_stack {
    using backend = B;
    using params = std::vector<typename adapter_type::params>;
    index_t depth;
    adapter_type adapter;
    template <class F, class... P>
    void each_param(F&& f, P&... p) const {
      (p.resize(static_cast<std::size_t>(depth)), ...);
      for (std::size_t i = 0; i < static_cast<std::size_t>(depth); ++i) {
        auto inner = within(std::to_string(i), f);
        adapter.each_param(inner, p[i]...);
      }
    }
  };
  struct params {
    typename lm_type::params lm;
    typename adapter_stack::params adapters;
  };
  lm_type lm;
  index_t first_adapted;
  adapter_stack adapters;

  /// The papers adapt all blocks but the first two.
  planner_lm(lm_sizes sizes, index_t labels, index_t label_width, index_t first_adapted)
      : lm{sizes}, first_adapted(first_adapted), adapters{sizes.layers - first_adapted, {labels, label_width, sizes.width}} {
    if (first_adapted < 0 || first_adapted >= sizes.layers)
      throw shape_error("planner_lm: the first adapted block is " + std::to_string(first_adapted) + ", expected one of the " +
                        std::to_string(sizes.layers) + " blocks, numbered from 0");
  }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_lm = within("lm", f);
    auto in_adapters = within("adapters", f);
    lm.each_param(in_lm, p.lm...);
    adapters.each_param(in_adapters, p.adapters...);
  }

  /// Weights w (S, K) given: the language model alone. pullback(dhidden, g, want_dw) -> dw (S, K), empty if not wanted.
  /// `frozen` says that no gradient of the language model will be wanted: blocks below the first adapter then keep nothing.
  auto operator()(context<B>& cx, const params& p, const planned_rows<B>& batch, const_tensor<B> w, bool frozen = false) const {
    if (w.rows() != batch.sentences || w.cols() != adapters.adapter.labels)
      throw shape_error("planner_lm: weights are (" + std::to_string(w.rows()) + ", " + std::to_string(w.cols()) + "), expected (" +
                        std::to_string(batch.sentences) + " sentences, " + std::to_string(adapters.adapter.labels) + " labels)");
    if (batch.tokens.size() != batch.sentence.size())
      throw shape_error("planner_lm: " + std::to_string(batch.tokens.size()) + " tokens but " + std::to_string(batch.sentence.size()) +
                        " sentence numbers");
    const auto block = Kept::of(lm.block());
    auto below = [&] {
      auto [e, token_pullback] = lm.token()(cx, p.lm.token, batch.tokens);                       // (N, width)
      auto [x, position_pullback] = lm.position()(cx, p.lm.position, const_tensor<B>(e), batch.rows);
      auto [y, blocks_pullback] = chain(cx, first_adapted, const_tensor<B>(x), [&](index_t i, const_tensor<B> h) {
        return block(cx, p.lm.blocks[static_cast<std::size_t>(i)], h, batch.rows);
      });
      return vjp{y, [token_pullback = token_pullback, position_pullback = position_pullback, blocks_pullback = blocks_pullback](
                        const_tensor<B> dy, const typename lm_type::params& g) {
                   const const_tensor<B> dx = blocks_pullback(dy, [&](index_t i, const auto& pullback, const_tensor<B> d) {
                     return pullback(d, g.blocks[static_cast<std::size_t>(i)]);
                   });
                   token_pullback(position_pullback(dx, g.position), g.token);
                 }};
    };
    auto [lower, lower_pullback] = [&] {
      auto temporaries = cx.scope();
      auto result = below();
      if (frozen) result.value = temporaries.keep(result.value);
      else temporaries.keep_all();
      return result;
    }();
    auto [upper, upper_pullback] = chain(cx, adapters.depth, lower, [&](index_t i, const_tensor<B> h) {
      const auto at = static_cast<std::size_t>(i);
      auto [u, adapter_pullback] = adapters.adapter(cx, p.adapters[at], w);                      // (S, width)
      auto [y, block_pullback] = block(cx, p.lm.blocks[at + static_cast<std::size_t>(first_adapted)], h, batch.rows, Placement{},
                                       plan_injection<B>{u, batch.sentence});
      return vjp{y, [adapter_pullback = adapter_pullback, block_pullback = block_pullback](
                        const_tensor<B> dy, const auto& g_block, const auto& g_adapter, tensor<B> du, tensor<B> dw) {
                   const const_tensor<B> dh = block_pullback(dy, g_block, du);
                   adapter_pullback(du, g_adapter, dw);
                   return dh;
                 }};
    });
    auto [h, norm_pullback] = lm.norm()(cx, p.lm.norm, upper);                                   // (N, width)
    return vjp{h, [&cx, lower_pullback = lower_pullback, upper_pullback = upper_pullback, norm_pullback = norm_pullback,
                   rows = w.rows(), cols = w.cols(), first = static_cast<std::size_t>(first_adapted), width = lm.sizes.width, lm = lm,
                   frozen](const_tensor<B> dh, params& g, bool want_dw = true) {
                 const bool wants_lm = wants_gradient(lm, g.lm);  // also gives `g.lm = {}` its depth
                 const tensor<B> dw = want_dw ? cx.make_zero(rows, cols) : tensor<B>{};
                 const tensor<B> du = cx.make(rows, width);
                 const const_tensor<B> dlower = upper_pullback(
                     norm_pullback(dh, g.lm.norm), [&](index_t i, const auto& pullback, const_tensor<B> dy) {
                       const auto at = static_cast<std::size_t>(i);
                       B::zero(cx.queue(), du.data, static_cast<std::size_t>(du.size()) * sizeof(typename B::real));
                       return pullback(dy, g.lm.blocks[at + first], g.adapters[at], du, dw);
                     });
                 if (wants_lm) {
                   if (frozen) throw error("planner_lm: called as frozen, but a gradient of the language model is wanted");
                   lower_pullback(dlower, g.lm);
                 }
                 return const_tensor<B>(dw);
               }};
  }

  /// Logits z (S, K) and a mixing policy given. pullback(dhidden, g, want_dz) -> dz (S, K), empty where not wanted or where the policy
  /// passes no gradient.
  template <class Mix>
  auto operator()(context<B>& cx, const params& p, const planned_rows<B>& batch, const_tensor<B> z, const Mix& mix,
                  bool frozen = false) const {
    static_assert(must_be_mixing_policy<Mix, B>());
    auto [w, weights_pullback] = mix.weights(cx, z);                                             // (S, K), shared by all layers
    auto [h, pullback] = (*this)(cx, p, batch, const_tensor<B>(w), frozen);
    return vjp{h, [weights_pullback = weights_pullback, pullback = pullback](const_tensor<B> dh, params& g, bool want_dz = true) {
                 const const_tensor<B> dw = pullback(dh, g, want_dz);
                 return want_dz ? const_tensor<B>(weights_pullback(dw)) : const_tensor<B>{};
               }};
  }
};

}  // namespace planlm
