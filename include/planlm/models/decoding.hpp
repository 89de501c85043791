/// Language models token by token: hidden rows of new tokens from the caches of all layers.
///
///     kv_cache<B> cache = cache_of(cx, model, 8, 256);                        // eight sequences of up to 256 tokens
///     auto rows = cache.extend(cx, slots, prompt_lengths);                    // then cache.step(cx, slots) for one token each
///     const_tensor<B> hidden = decode(cx, model, theta.weights, tokens, rows, cache);
///     auto logits = ops::matmul_nt(cx, hidden, const_tensor<B>(theta.weights.token.table));
#pragma once
#include <concepts>
#include <string>
#include <planlm/layers/decoding.hpp>
#include <planlm/models/planner_lm.hpp>
#include <planlm/models/transformer_lm.hpp>

namespace planlm {

/// Caches for `sequences` sequences of at most `capacity` tokens of a language model ...
template <Backend B, class Code, class Rotation>
kv_cache<B> cache_of(context<B>& cx, const transformer_lm<B, Code, Rotation>& lm, index_t sequences, index_t capacity) {
  return {cx, lm.sizes.layers, lm.block().attention.shape, sequences, capacity};
}
/// ... or of a planner-conditioned one, with the running sums that its gates go on from.
template <Backend B, class... Policies>
kv_cache<B> cache_of(context<B>& cx, const planner_lm<B, Policies...>& model, index_t sequences, index_t capacity) {
  const auto& adapter = model.adapters.adapter;
  return {cx, model.lm.sizes.layers, model.lm.block().attention.shape, sequences, capacity, adapter.columns() - adapter.width};
}

namespace detail {
/// Embedding, position code, blocks and final norm: enter(x) is what happens to the embeddings, block(i, x) runs block i.
template <Backend B, class Code, class Rotation, class Enter, class Block>
const_tensor<B> decode_rows(context<B>& cx, const transformer_lm<B, Code, Rotation>& lm,
                            const typename transformer_lm<B, Code, Rotation>::params& p, indices<B> tokens, const decoding_rows<B>& rows,
                            const kv_cache<B>& cache, const Enter& enter, const Block& block) {
  if (tokens.size() != rows.count() || cache.layers() != lm.sizes.layers)
    throw shape_error("decode: " + std::to_string(tokens.size()) + " tokens for " + std::to_string(rows.count()) + " rows, a cache of " +
                      std::to_string(cache.layers()) + " layers for a model of " + std::to_string(lm.sizes.layers));
  if (std::same_as<Code, learned_positions<B>> && rows.longest > lm.sizes.length)
    throw shape_error("decode: position " + std::to_string(rows.longest - 1) + " is beyond the model's " + std::to_string(lm.sizes.length) +
                      " learned positions");
  const const_tensor<B> e = lm.token()(cx, p.token, tokens).value;
  const_tensor<B> x = enter(const_tensor<B>(lm.position()(cx, p.position, e, rows.seq).value));
  for (index_t i = 0; i < lm.sizes.layers; ++i) {
    auto temporaries = cx.scope();
    x = block(i, x);
    if (rows.from_start) x = temporaries.keep(x);  // a prompt's temporaries are many, a step's are not worth the copy
    else temporaries.keep_all();
  }
  return lm.norm()(cx, p.norm, x).value;
}
}  // namespace detail

/// tokens (N), the new rows, -> hidden (N, width) after the final norm.
template <Backend B, class Code, class Rotation>
const_tensor<B> decode(context<B>& cx, const transformer_lm<B, Code, Rotation>& lm,
                       const typename transformer_lm<B, Code, Rotation>::params& p, indices<B> tokens, const decoding_rows<B>& rows,
                       const kv_cache<B>& cache) {
  const auto block = lm.block();
  return detail::decode_rows(cx, lm, p, tokens, rows, cache, [](const_tensor<B> x) { return x; }, [&](index_t i, const_tensor<B> x) {
    return decode(cx, block, p.blocks[static_cast<std::size_t>(i)], x, rows, cache.layer(i));
  });
}

/// Plans of every adapter for inputs c (S, inputs: label weights or label embeddings), into rows [first, first + S) of
/// plans (adapters, P, columns). Planning a sentence is one call; the tokens of the sentence then use its row.
template <Backend B, class... Policies>
void write_plans(context<B>& cx, const planner_lm<B, Policies...>& model, const typename planner_lm<B, Policies...>::params& p,
                 const_tensor<B> c, tensor<B, 3> plans, index_t first = 0) {
  const index_t columns = model.adapters.adapter.columns();
  if (plans.extent(0) != model.adapters.depth || plans.extent(2) != columns || first < 0 || first + c.rows() > plans.extent(1))
    throw shape_error("write_plans: plans are (" + std::to_string(plans.extent(0)) + ", " + std::to_string(plans.extent(1)) + ", " +
                      std::to_string(plans.extent(2)) + "), expected " + std::to_string(model.adapters.depth) +
                      " adapted layers, rows up to " + std::to_string(first + c.rows()) + ", width " + std::to_string(columns));
  for (index_t i = 0; i < model.adapters.depth; ++i) {
    auto scope = cx.scope();
    const const_tensor<B> u = model.adapters.adapter(cx, p.adapters[static_cast<std::size_t>(i)], c).value;  // (S, columns)
    B::copy(cx.queue(), plans.data + (i * plans.extent(1) + first) * columns, u.data,
            static_cast<std::size_t>(u.size()) * sizeof(typename B::real));
  }
}

/// The same conditioned on plans (adapters, P, columns): row r of the new rows follows plan sentence[r] (below 0: none). The cache is that of
/// cache_of(cx, model, ...); for gates that do not look at rows the language model's own does as well.
/// Where a sentence has rows of its own, they come with token -1 and the plan numbers that insert_plan_rows or prefix_plan_rows gives.
template <Backend B, class Placement, class Adapter, class Code, class Rotation, class Kept>
const_tensor<B> decode(context<B>& cx, const planner_lm<B, Placement, Adapter, Code, Rotation, Kept>& model,
                       const typename planner_lm<B, Placement, Adapter, Code, Rotation, Kept>::params& p, indices<B> tokens,
                       indices<B> sentence, tensor<B, 3> plans, const decoding_rows<B>& rows, const kv_cache<B>& cache) {
  const Adapter& adapter = model.adapters.adapter;
  if (sentence.size() != rows.count() || plans.extent(0) != model.adapters.depth || plans.extent(2) != adapter.columns())
    throw shape_error("decode: " + std::to_string(sentence.size()) + " sentence numbers for " + std::to_string(rows.count()) +
                      " rows, plans of " + std::to_string(plans.extent(0)) + " layers, " + std::to_string(plans.extent(2)) + " wide, for " +
                      std::to_string(model.adapters.depth) + ", " + std::to_string(adapter.columns()) + " wide");
  if (cache.sum_columns() != adapter.columns() - adapter.width && adapter.columns() != adapter.width)
    throw shape_error("decode: the gates go on from running sums of " + std::to_string(adapter.columns() - adapter.width) +
                      " columns, the cache holds " + std::to_string(cache.sum_columns()) + "; make it with cache_of(cx, model, ...)");
  const auto injection = [&](index_t i, index_t layer) {  // adapter i, in block `layer`
    const const_tensor<B> plan(plans.data + i * plans.extent(1) * plans.extent(2), plans.extent(1), plans.extent(2));
    return adapter.injection(p.adapters[static_cast<std::size_t>(i)], plan, sentence, rows.seq,
                             running_sums<B>{cache.layer(layer).sums, rows.slot});
  };
  const auto enter = [&](const_tensor<B> x) {
    if constexpr (std::same_as<Placement, at_embedding>) return const_tensor<B>(injection(0, 0)(cx, x).value);
    else return x;
  };
  const auto block = model.lm.block();
  return detail::decode_rows(cx, model.lm, p.lm, tokens, rows, cache, enter, [&](index_t i, const_tensor<B> x) {
    const auto& weights = p.lm.blocks[static_cast<std::size_t>(i)];
    if constexpr (!std::same_as<Placement, at_embedding>) {
      const index_t adapted = i - model.first_adapted;
      if (adapted >= 0) return decode(cx, block, weights, x, rows, cache.layer(i), Placement{}, injection(adapted, i));
    }
    return decode(cx, block, weights, x, rows, cache.layer(i));
  });
}

}  // namespace planlm
