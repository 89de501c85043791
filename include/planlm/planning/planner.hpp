/// The planner: from the embeddings of the sentences so far to logits over labels of the next one.
#pragma once
#include <string>
#include <vector>
#include <planlm/layers/compose.hpp>
#include <planlm/layers/linear.hpp>
#include <planlm/layers/positions.hpp>
#include <planlm/layers/transformer_block.hpp>
#include <planlm/ops/pool.hpp>

namespace planlm {

/// s = W_head mean_j H_j + b,  H = encoder(W_in (z_j + PE_j) + b_in), not causal.   [2404.00614; sizes there: width 768, 2 heads, inner 2048]
///   z (R, width) sentence embeddings, one sequence of n >= 1 of them, oldest first, for each of S sentences -> s (S, labels)
///   The head is meant to be overwritten with the label centroids, so that s starts as a dot product with them.
///   There is no input gradient: the sentence encoder is frozen.
template <Backend B>
struct planner {
  using backend = B;
  struct params {
    typename linear<B>::params input;
    std::vector<typename encoder_block<B>::params> blocks;
    typename linear<B>::params head;
  };
  index_t width, labels, heads = 2, inner = 2048, depth = 1;

  linear<B> input() const { return {width, width}; }
  stack<encoder_block<B>> blocks() const { return {depth, encoder_block<B>(width, heads, inner)}; }
  linear<B> head() const { return {width, labels}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_input = within("input", f);
    auto in_blocks = within("blocks", f);
    auto in_head = within("head", f);
    input().each_param(in_input, p.input...);
    blocks().each_param(in_blocks, p.blocks...);
    head().each_param(in_head, p.head...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> z, const sequences<B>& contexts) const {
    const const_tensor<B> placed = ops::add_sinusoids(cx, z, contexts.positions);                // (R, width)
    auto [u, input_pullback] = input()(cx, p.input, placed);
    auto [h, blocks_pullback] = blocks()(cx, p.blocks, const_tensor<B>(u), contexts);
    const const_tensor<B> r = ops::mean_pool(cx, const_tensor<B>(h), contexts);                 // (S, width)
    auto [s, head_pullback] = head()(cx, p.head, r);                                             // (S, labels)
    return vjp{s, [&cx, contexts, rows = z.rows(), input_pullback = input_pullback, blocks_pullback = blocks_pullback,
                   head_pullback = head_pullback](const_tensor<B> ds, const params& g) {
                 const const_tensor<B> dr = head_pullback(ds, g.head);
                 const const_tensor<B> dh = ops::mean_pool_pullback(cx, dr, contexts, rows);
                 input_pullback(blocks_pullback(dh, g.blocks), g.input);
               }};
  }
};

}  // namespace planlm
