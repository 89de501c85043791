/// A transformer block on new rows of sequences whose earlier keys and values are cached.
#pragma once
#include <concepts>
#include <planlm/layers/transformer_block.hpp>
#include <planlm/ops/kv_cache.hpp>

namespace planlm {

/// x (N, C), the new rows, -> (N, C); their keys and values enter the cache. The same products, norms and injection as in the forward pass of
/// training, nothing kept for a pullback. The injection may differ from call to call: a plan that changes between two tokens.
template <Backend B, class Norm, class Activation, class Positions, class Placement = at_attention_output, class Injection = no_injection>
const_tensor<B> decode(context<B>& cx, const transformer_block<B, Norm, Activation, Positions>& block,
                       const typename transformer_block<B, Norm, Activation, Positions>::params& p, const_tensor<B> x,
                       const decoding_rows<B>& rows, kv_layer<B> cache, Placement = {}, const Injection& inject = {}) {
  constexpr bool in_attention = std::same_as<Placement, at_attention_output>;
  const auto& layer = block.attention;
  const const_tensor<B> a = block.norm()(cx, p.norm1, x).value;
  const tensor<B> packed = layer.qkv()(cx, p.attention.qkv, a).value;  // (N, (heads + 2 kv_heads) width)
  layer.positions.turn(cx, packed, layer.shape, rows.seq, true);
  ops::append_kv(cx, layer.shape, const_tensor<B>(packed), rows, cache);
  const const_tensor<B> heads = rows.from_start && layer.shape.causal
                                    ? const_tensor<B>(ops::attention(cx, layer.shape, const_tensor<B>(packed), rows.seq).y)
                                    : const_tensor<B>(ops::decode_attention(cx, layer.shape, const_tensor<B>(packed), rows, cache));
  const auto injected = [&](bool here, const_tensor<B> v) { return here ? const_tensor<B>(inject(cx, v).value) : v; };
  const tensor<B> h = cx.make(x.rows(), x.cols());
  add_linear(cx, layer.out(), p.attention.out, injected(in_attention, heads), x, h);
  const const_tensor<B> f = injected(!in_attention, block.norm()(cx, p.norm2, const_tensor<B>(h)).value);
  return block.mlp.run(cx, p.mlp, given<B>{f}, const_tensor<B>(h)).value;
}

}  // namespace planlm
