/// A decoder-only transformer language model.
#pragma once
#include <cmath>
#include <vector>
#include <planlm/layers/compose.hpp>
#include <planlm/layers/embedding.hpp>
#include <planlm/layers/positions.hpp>
#include <planlm/layers/transformer_block.hpp>

namespace planlm {

/// Sizes of a language model. The defaults are a small one; GPT-2 small is {50257, 1024, 768, 12, 12}.
struct lm_sizes {
  index_t vocabulary = 4096, length = 128, width = 128, heads = 4, layers = 2;
};

/// tokens (N) in sequences -> hidden (N, width) after the final norm; logits are hidden table^T, the table tied to the token embedding.
/// `Code`: learned_positions, sinusoidal_positions or no_positions (then `Rotation` is rotary).
template <Backend B, class Code = learned_positions<B>, class Rotation = no_rotation>
struct transformer_lm {
  using backend = B;
  using block_type = transformer_block<B, layer_norm<B>, ops::gelu, Rotation>;
  struct params {
    typename embedding<B>::params token;
    typename Code::params position;
    std::vector<typename block_type::params> blocks;
    typename layer_norm<B>::params norm;
  };
  lm_sizes sizes;

  embedding<B> token() const { return {sizes.vocabulary, sizes.width}; }
  Code position() const { return {sizes.length, sizes.width}; }
  /// Projections into the residual stream start smaller with depth, as in GPT-2.
  block_type block() const {
    return {sizes.width, sizes.heads, true, 4 * sizes.width, 0.02 / std::sqrt(2.0 * double(sizes.layers))};
  }
  layer_norm<B> norm() const { return {sizes.width}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_token = within("token", f);
    auto in_position = within("position", f);
    auto in_blocks = within("blocks", f);
    auto in_norm = within("norm", f);
    token().each_param(in_token, p.token...);
    position().each_param(in_position, p.position...);
    stack<block_type>{sizes.layers, block()}.each_param(in_blocks, p.blocks...);
    norm().each_param(in_norm, p.norm...);
  }

  auto operator()(context<B>& cx, const params& p, indices<B> tokens, const sequences<B>& seq) const {
    auto [e, token_pullback] = token()(cx, p.token, tokens);                                     // (N, width)
    auto [x, position_pullback] = position()(cx, p.position, const_tensor<B>(e), seq);
    auto [y, blocks_pullback] = stack<block_type>{sizes.layers, block()}(cx, p.blocks, const_tensor<B>(x), seq);
    auto [h, norm_pullback] = norm()(cx, p.norm, const_tensor<B>(y));
    return vjp{h, [token_pullback = token_pullback, position_pullback = position_pullback, blocks_pullback = blocks_pullback,
                   norm_pullback = norm_pullback](const_tensor<B> dh, const params& g) {
                 const const_tensor<B> dx = blocks_pullback(norm_pullback(dh, g.norm), g.blocks);
                 token_pullback(position_pullback(dx, g.position), g.token);
               }};
  }
};

}  // namespace planlm
