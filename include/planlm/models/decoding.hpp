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

/// Caches for `sequences` sequences of at most `capacity` tokens of a language model.
template <Backend B, class Code, class Rotation>
kv_cache<B> cache_of(context<B>& cx, const transformer_lm<B, Code, Rotation>& lm, index_t sequences, index_t capacity) {
  return {cx, lm.sizes.layers, lm.block().attention.shape, sequences, capacity};
}

namespace detail {
/// Embedding, position code, blocks and final norm; block(i, x) runs block i.
template <Backend B, class Code, class Rotation, class Block>
const_tensor<B> decode_rows(context<B>& cx, const transformer_lm<B, Code, Rotation>& lm,
                            const typename transformer_lm<B, Code, Rotation>::params& p, indices<B> tokens, const decoding_rows<B>& rows,
                            const kv_cache<B>& cache, const Block& block) {
  if (tokens.size() != rows.count() || cache.layers() != lm.sizes.layers)
    throw shape_error("decode: " + std::to_string(tokens.size()) + " tokens for " + std::to_string(rows.count()) + " rows, a cache of " +
                      std::to_string(cache.layers()) + " layers for a model of " + std::to_string(lm.sizes.layers));
  if (std::same_as<Code, learned_positions<B>> && rows.longest > lm.sizes.length)
    throw shape_error("decode: position " + std::to_string(rows.longest - 1) + " is beyond the model's " + std::to_string(lm.sizes.length) +
                      " learned positions");
  const const_tensor<B> e = lm.token()(cx, p.token, tokens).value;
  const_tensor<B> x = lm.position()(cx, p.position, e, rows.seq).value;
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
  return detail::decode_rows(cx, lm, p, tokens, rows, cache, [&](index_t i, const_tensor<B> x) {
    return decode(cx, block, p.blocks[static_cast<std::size_t>(i)], x, rows, cache.layer(i));
  });
}

/// Adapter vectors of label weights w (S, K) for every adapted layer, into rows [first, first + S) of plans (adapted layers, P, width).
/// Planning a sentence is one call; the tokens of the sentence then use its row.
template <Backend B, class... Policies>
void write_plans(context<B>& cx, const planner_lm<B, Policies...>& model, const typename planner_lm<B, Policies...>::params& p,
                 const_tensor<B> w, tensor<B, 3> plans, index_t first = 0) {
  const index_t width = model.lm.sizes.width;
  if (plans.extent(0) != model.adapters.depth || plans.extent(2) != width || first < 0 || first + w.rows() > plans.extent(1))
    throw shape_error("write_plans: plans are (" + std::to_string(plans.extent(0)) + ", " + std::to_string(plans.extent(1)) + ", " +
                      std::to_string(plans.extent(2)) + "), expected " + std::to_string(model.adapters.depth) +
                      " adapted layers, rows up to " + std::to_string(first + w.rows()) + ", width " + std::to_string(width));
  for (index_t i = 0; i < model.adapters.depth; ++i) {
    auto scope = cx.scope();
    const const_tensor<B> u = model.adapters.adapter(cx, p.adapters[static_cast<std::size_t>(i)], w).value;  // (S, width)
    B::copy(cx.queue(), plans.data + (i * plans.extent(1) + first) * width, u.data,
            static_cast<std::size_t>(u.size()) * sizeof(typename B::real));
  }
}

/// The same conditioned on plans (adapted layers, P, width): row r of the new rows follows plan sentence[r] (below 0: none).
template <Backend B, class Placement, class Gate, class Code, class Rotation, class Kept>
const_tensor<B> decode(context<B>& cx, const planner_lm<B, Placement, Gate, Code, Rotation, Kept>& model,
                       const typename planner_lm<B, Placement, Gate, Code, Rotation, Kept>::params& p, indices<B> tokens,
                       indices<B> sentence, tensor<B, 3> plans, const decoding_rows<B>& rows, const kv_cache<B>& cache) {
  if (sentence.size() != rows.count() || plans.extent(0) != model.adapters.depth || plans.extent(2) != model.lm.sizes.width)
    throw shape_error("decode: " + std::to_string(sentence.size()) + " sentence numbers for " + std::to_string(rows.count()) +
                      " rows, plans of " + std::to_string(plans.extent(0)) + " layers for " + std::to_string(model.adapters.depth));
  const auto block = model.lm.block();
  return detail::decode_rows(cx, model.lm, p.lm, tokens, rows, cache, [&](index_t i, const_tensor<B> x) {
    const auto& weights = p.lm.blocks[static_cast<std::size_t>(i)];
    const index_t adapted = i - model.first_adapted;
    if (adapted < 0) return decode(cx, block, weights, x, rows, cache.layer(i));
    const const_tensor<B> u(plans.data + adapted * plans.extent(1) * plans.extent(2), plans.extent(1), plans.extent(2));
    return decode(cx, block, weights, x, rows, cache.layer(i), Placement{}, plan_injection<B>{u, sentence});
  });
}

}  // namespace planlm
