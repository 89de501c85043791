/// The planner-conditioned language model: the embedding of each sentence's label enters the upper blocks, or the first one.
#pragma once
#include <concepts>
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

/// Where a plan enters besides the two places of transformer_block.hpp: it is added to the embeddings, before the first block. Rows that
/// carry a plan and nothing else (plan_rows.hpp) are embeddings of nothing plus a plan.
struct at_embedding {};

/// Packed rows of a batch and the sentences that condition them. Everything lives where kernels can read it.
template <Backend B>
struct planned_rows {
  indices<B> tokens, targets;  // (N): input token and the token after it; below 0: none
  indices<B> sentence;         // (N): row of the batch's sentences that contains the TARGET (section 4 of 2404.00614's code: gamma(t))
  sequences<B> rows;           // how the N rows fall into chunks
  index_t sentences = 0;       // S
};

/// Language model with one adapter per block from `first_adapted` on, or one before all blocks.   [2410.12492, section 3]
/// Its input c (S, adapter.inputs()) is shared by all adapters: label weights (S, K) for label_adapter, each of which mixes its own table;
/// label embeddings for plan_adapter, mixed once from a table that the layers share.
/// `Placement`: at_attention_output (default), at_feed_forward_input, at_embedding. `Adapter`: label_adapter<B, Gate> or plan_adapter<B, Gate>.
/// `Kept`: keep_activations (default) or keep_inputs; with the latter `p` must outlive the pullback.
template <Backend B, class Placement = at_attention_output, class Adapter = label_adapter<B>, class Code = learned_positions<B>,
          class Rotation = no_rotation, class Kept = keep_activations>
struct planner_lm {
  static_assert(must_be_adapter<Adapter>());
  using backend = B;
  using lm_type = transformer_lm<B, Code, Rotation>;
  using adapter_type = Adapter;
  static constexpr bool embedded = std::same_as<Placement, at_embedding>;
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
  index_t first_adapted;  // 0 at the embedding, where it plays no role
  adapter_stack adapters;

  /// The adapter as a value, with the gate that it holds. It is as wide as the model; at the embedding P times that for P rows per plan.
  planner_lm(lm_sizes sizes, Adapter adapter, index_t first_adapted = 0)
      : lm{sizes}, first_adapted(embedded ? 0 : first_adapted), adapters{embedded ? 1 : sizes.layers - first_adapted, adapter} {
    if (!embedded && (first_adapted < 0 || first_adapted >= sizes.layers))
      throw shape_error("planner_lm: the first adapted block is " + std::to_string(first_adapted) + ", expected one of the " +
                        std::to_string(sizes.layers) + " blocks, numbered from 0");
    const bool one_row = !embedded || adapter.columns() != adapter.width;  // a gate that looks at rows has one plan for each
    if (adapter.width < 1 || adapter.width % sizes.width != 0 || (one_row && adapter.width != sizes.width))
      throw shape_error("planner_lm: the adapter is " + std::to_string(adapter.width) + " wide, the language model " +
                        std::to_string(sizes.width) + (one_row ? "" : "; a multiple is expected, one width for each row of a plan"));
  }
  /// The papers adapt all blocks but the first two.
  planner_lm(lm_sizes sizes, index_t labels, index_t label_width, index_t first_adapted)
    requires requires(Adapter a) { a.labels; }
      : planner_lm(sizes, Adapter{labels, label_width, sizes.width}, first_adapted) {}

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_lm = within("lm", f);
    auto in_adapters = within("adapters", f);
    lm.each_param(in_lm, p.lm...);
    adapters.each_param(in_adapters, p.adapters...);
  }

  /// Inputs c (S, inputs) of the adapters given: the language model alone. pullback(dhidden, g, want_dc) -> dc (S, inputs), empty if not
  /// wanted. `frozen` says that no gradient of the language model will be wanted: blocks below the first adapter then keep nothing,
  /// and a pullback that is given one to write throws planlm::error before it writes any.
  auto operator()(context<B>& cx, const params& p, const planned_rows<B>& batch, const_tensor<B> c, bool frozen = false) const {
    if (c.rows() != batch.sentences || c.cols() != adapters.adapter.inputs())
      throw shape_error("planner_lm: the adapters' input is (" + std::to_string(c.rows()) + ", " + std::to_string(c.cols()) +
                        "), expected (" + std::to_string(batch.sentences) + " sentences, " +
                        std::to_string(adapters.adapter.inputs()) + " columns)");
    if (batch.tokens.size() != batch.sentence.size())
      throw shape_error("planner_lm: " + std::to_string(batch.tokens.size()) + " tokens but " + std::to_string(batch.sentence.size()) +
                        " sentence numbers");
    auto [lower, lower_pullback] = [&] {
      auto temporaries = cx.scope();
      auto result = below(cx, p.lm, batch);
      if (frozen) result.value = temporaries.keep(result.value);
      else temporaries.keep_all();
      return result;
    }();
    auto [upper, upper_pullback] = conditioned(cx, p, batch, c, lower, Placement{});
    auto [h, norm_pullback] = lm.norm()(cx, p.lm.norm, upper);                                   // (N, width)
    return vjp{h, [&cx, lower_pullback = lower_pullback, upper_pullback = upper_pullback, norm_pullback = norm_pullback, c, lm = lm,
                   depth = adapters.depth, frozen](const_tensor<B> dh, params& g, bool want_dc = true) {
                 const bool wants_lm = wants_gradient(lm, g.lm);        // also gives `g.lm = {}` its depth
                 if (wants_lm && frozen) throw error("planner_lm: called as frozen, but a gradient of the language model is wanted");
                 g.adapters.resize(static_cast<std::size_t>(depth));
                 const tensor<B> dc = want_dc ? cx.make_zero(c.rows(), c.cols()) : tensor<B>{};
                 const const_tensor<B> dlower = upper_pullback(norm_pullback(dh, g.lm.norm), g, dc, input_gradient{wants_lm});
                 if (wants_lm) lower_pullback(dlower, g.lm);
                 return const_tensor<B>(dc);
               }};
  }

  /// Logits z (S, K) and a mixing policy given, for adapters with tables. pullback(dhidden, g, want_dz) -> dz (S, K), empty where not wanted
  /// or where the policy passes no gradient.
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

 private:
  auto block() const { return Kept::of(lm.block()); }

  /// Embeddings and the blocks that see no plan. pullback(dy, g.lm).
  auto below(context<B>& cx, const typename lm_type::params& p, const planned_rows<B>& batch) const {
    auto [e, token_pullback] = lm.token()(cx, p.token, batch.tokens);                            // (N, width)
    auto [x, position_pullback] = lm.position()(cx, p.position, const_tensor<B>(e), batch.rows);
    auto [y, blocks_pullback] = chain(cx, first_adapted, const_tensor<B>(x), [&](index_t i, const_tensor<B> h) {
      return block()(cx, p.blocks[static_cast<std::size_t>(i)], h, batch.rows);
    });
    return vjp{y, [token_pullback = token_pullback, position_pullback = position_pullback, blocks_pullback = blocks_pullback](
                      const_tensor<B> dy, const typename lm_type::params& g) {
                 const const_tensor<B> dx = blocks_pullback(dy, [&](index_t i, const auto& pullback, const_tensor<B> d) {
                   return pullback(d, g.blocks[static_cast<std::size_t>(i)]);
                 });
                 token_pullback(position_pullback(dx, g.position), g.token);
               }};
  }
  /// The other blocks, each with its adapter. pullback(dy, g, dc, wanted) -> dx, empty where neither it nor what it leads to is wanted.
  template <class Place>
  auto conditioned(context<B>& cx, const params& p, const planned_rows<B>& batch, const_tensor<B> c, const_tensor<B> x, Place at) const {
    const auto first = static_cast<std::size_t>(first_adapted);
    auto [y, blocks_pullback] = chain(cx, adapters.depth, x, [&](index_t i, const_tensor<B> h) {
      const auto& own = p.adapters[static_cast<std::size_t>(i)];
      auto [u, adapter_pullback] = adapters.adapter(cx, own, c);                                 // (S, columns)
      auto [z, block_pullback] = block()(cx, p.lm.blocks[static_cast<std::size_t>(i) + first], h, batch.rows, at,
                                         adapters.adapter.injection(own, const_tensor<B>(u), batch.sentence, batch.rows));
      return vjp{z, [adapter_pullback = adapter_pullback, block_pullback = block_pullback](
                        const_tensor<B> dz, const auto& g_block, input_gradient input, const auto& g_adapter, tensor<B> du, tensor<B> dc) {
                   const const_tensor<B> dh = block_pullback(dz, g_block, input, du, g_adapter);
                   adapter_pullback(du, g_adapter, dc);
                   return dh;
                 }};
    });
    return vjp{y, [&cx, blocks_pullback = blocks_pullback, first, plans = c.rows(), columns = adapters.adapter.columns()](
                      const_tensor<B> dy, const params& g, tensor<B> dc, input_gradient wanted) {
                 const tensor<B> du = cx.make(plans, columns);
                 return blocks_pullback(dy, [&](index_t i, const auto& pullback, const_tensor<B> d) {
                   const auto layer = static_cast<std::size_t>(i);
                   B::zero(cx.queue(), du.data, static_cast<std::size_t>(du.size()) * sizeof(typename B::real));
                   return pullback(d, g.lm.blocks[layer + first], i > 0 ? input_gradient{} : wanted, g.adapters[layer], du, dc);
                 });
               }};
  }
  /// One adapter before all blocks.
  auto conditioned(context<B>& cx, const params& p, const planned_rows<B>& batch, const_tensor<B> c, const_tensor<B> x, at_embedding) const {
    const auto& own = p.adapters.front();
    auto [u, adapter_pullback] = adapters.adapter(cx, own, c);                                   // (S, columns)
    auto [e, injection_pullback] = adapters.adapter.injection(own, const_tensor<B>(u), batch.sentence, batch.rows)(cx, x);
    auto [y, blocks_pullback] = chain(cx, lm.sizes.layers, const_tensor<B>(e), [&](index_t i, const_tensor<B> h) {
      return block()(cx, p.lm.blocks[static_cast<std::size_t>(i)], h, batch.rows);
    });
    return vjp{y, [&cx, adapter_pullback = adapter_pullback, injection_pullback = injection_pullback, blocks_pullback = blocks_pullback,
                   plans = c.rows(), columns = adapters.adapter.columns()](const_tensor<B> dy, const params& g, tensor<B> dc, input_gradient) {
                 const const_tensor<B> de = blocks_pullback(dy, [&](index_t i, const auto& pullback, const_tensor<B> d) {
                   return pullback(d, g.lm.blocks[static_cast<std::size_t>(i)]);
                 });
                 const tensor<B> du = cx.make_zero(plans, columns);
                 const const_tensor<B> dx = injection_pullback(de, du, g.adapters.front());
                 adapter_pullback(du, g.adapters.front(), dc);
                 return dx;
               }};
  }
};

}  // namespace planlm
