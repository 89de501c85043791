/// Scaled dot-product attention over packed sequences: no padding, grouped-query heads, causal or bidirectional.
#pragma once
#include <cmath>
#include <planlm/backend/attention_shape.hpp>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/math.hpp>
#include <planlm/ops/sequences.hpp>

namespace planlm {

/// A backend with an attention that never holds a whole T x T matrix.
template <class B>
concept HasFusedAttention =
    requires(typename B::queue& q, attention_shape shape, const_tensor<B> x, tensor<B> y, accum_tensor<B, 2> lse, sequences<B> s) {
      B::attention(q, shape, x, s, y, lse);
      B::attention_pullback(q, shape, x, s, x, lse, x, y);
    };

namespace ops {

namespace kernel {
/// Row r of a square score matrix becomes its softmax over the keys it may see; keeps log sum exp.
template <class T>
struct masked_softmax {
  using A = accum_of<T>;
  T* p;
  A* lse;
  index_t cols, lse_stride;
  A scale;
  bool causal;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* row = p + r * cols;
    const A s = scale;
    const index_t n = causal ? r + 1 : cols;
    const A top = team.template max<A>(n, [=](index_t i) { return A(row[i]); });
    const A total = team.template sum<A>(n, [=](index_t i) { return math::exp(s * (A(row[i]) - top)); });
    const A inverse = A(1) / total;
    team.sync();
    team.for_each(cols, [=](index_t i) { row[i] = i < n ? math::exp(s * (A(row[i]) - top)) * inverse : A(0); });
    if (team.leader()) lse[r * lse_stride] = s * top + math::log(total);
  }
};
/// dS = scale P o (dP - rowsum(P o dP)), in place of dP.
template <class T>
struct masked_softmax_pullback {
  using A = accum_of<T>;
  const T* p;
  T* dp;
  index_t cols;
  A scale;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* w = p + r * cols;
    T* d = dp + r * cols;
    const A s = scale;
    const A mean = team.template sum<A>(cols, [=](index_t i) { return A(w[i]) * A(d[i]); });
    team.sync();
    team.for_each(cols, [=](index_t i) { d[i] = s * A(w[i]) * (A(d[i]) - mean); });
  }
};
}  // namespace kernel

/// What attention returns: its output (N, heads * width) and log sum exp (N, heads) for the pullback.
template <Backend B>
struct attention_result {
  tensor<B> y;
  accum_tensor<B, 2> lse;
};

/// The plain composition: one T x T score matrix per sequence and head. The oracle of every fused attention.
/// qkv (N, packed_width): queries, keys, values side by side.
template <Backend B>
attention_result<B> attention_plain(context<B>& cx, attention_shape shape, const_tensor<B> qkv, sequences<B> seq) {
  using T = typename B::real;
  using A = typename B::accum;
  const index_t d = shape.width, ld = shape.packed_width();
  auto y = cx.make(qkv.rows(), shape.query_width());
  auto lse = cx.template make_of<A>(qkv.rows(), shape.heads);
  for (index_t s = 0; s < seq.count(); ++s)
    for (index_t h = 0; h < shape.heads; ++h) {
      auto scope = cx.scope();
      const index_t begin = seq.host_offsets[s], n = seq.host_offsets[s + 1] - begin, group = h / (shape.heads / shape.kv_heads);
      const T* q = qkv.row(begin) + h * d;
      const T* k = qkv.row(begin) + shape.query_width() + group * d;
      const T* v = k + shape.kv_width();
      auto p = cx.make(n, n);
      B::gemm(cx.queue(), 1, {q, n, d, ld, 1}, {k, d, n, 1, ld}, plain(p), into::replace);
      B::for_rows(cx.queue(), n,
                  kernel::masked_softmax<T>{p.data, lse.row(begin) + h, n, shape.heads, A(1 / std::sqrt(double(d))), shape.causal});
      B::gemm(cx.queue(), 1, {p.data, n, n, n, 1}, {v, n, d, ld, 1}, {y.row(begin) + h * d, n, d, y.cols(), 1}, into::replace);
    }
  return {y, lse};
}
/// dqkv (N, packed_width) of the plain composition.
template <Backend B>
tensor<B> attention_plain_pullback(context<B>& cx, attention_shape shape, const_tensor<B> qkv, sequences<B> seq, const_tensor<B> dy) {
  using T = typename B::real;
  using A = typename B::accum;
  const index_t d = shape.width, ld = shape.packed_width(), ldy = shape.query_width();
  auto dqkv = cx.make_zero(qkv.rows(), ld);
  for (index_t s = 0; s < seq.count(); ++s)
    for (index_t h = 0; h < shape.heads; ++h) {
      auto scope = cx.scope();
      const index_t begin = seq.host_offsets[s], n = seq.host_offsets[s + 1] - begin, group = h / (shape.heads / shape.kv_heads);
      const index_t at_q = begin * ld + h * d, at_k = begin * ld + shape.query_width() + group * d, at_v = at_k + shape.kv_width();
      const A scale = A(1 / std::sqrt(double(d)));
      auto p = cx.make(n, n), dp = cx.make(n, n);
      auto lse = cx.template make_of<A>(n);
      const T* g = dy.row(begin) + h * d;
      B::gemm(cx.queue(), 1, {qkv.data + at_q, n, d, ld, 1}, {qkv.data + at_k, d, n, 1, ld}, plain(p), into::replace);
      B::for_rows(cx.queue(), n, kernel::masked_softmax<T>{p.data, lse.data, n, 1, scale, shape.causal});
      B::gemm(cx.queue(), 1, {g, n, d, ldy, 1}, {qkv.data + at_v, d, n, 1, ld}, plain(dp), into::replace);
      B::gemm(cx.queue(), 1, {p.data, n, n, 1, n}, {g, n, d, ldy, 1}, {dqkv.data + at_v, n, d, ld, 1}, into::add);
      B::for_rows(cx.queue(), n, kernel::masked_softmax_pullback<T>{p.data, dp.data, n, scale});
      B::gemm(cx.queue(), 1, {dp.data, n, n, n, 1}, {qkv.data + at_k, n, d, ld, 1}, {dqkv.data + at_q, n, d, ld, 1}, into::add);
      B::gemm(cx.queue(), 1, {dp.data, n, n, 1, n}, {qkv.data + at_q, n, d, ld, 1}, {dqkv.data + at_k, n, d, ld, 1}, into::add);
    }
  return dqkv;
}

/// The backend's fused attention where it has one, else the plain composition.
template <Backend B>
attention_result<B> attention(context<B>& cx, attention_shape shape, const_tensor<B> qkv, sequences<B> seq) {
  if constexpr (HasFusedAttention<B>) {
    auto y = cx.make(qkv.rows(), shape.query_width());
    auto lse = cx.template make_of<typename B::accum>(qkv.rows(), shape.heads);
    B::attention(cx.queue(), shape, qkv, seq, y, lse);
    return {y, lse};
  } else {
    return attention_plain(cx, shape, qkv, seq);
  }
}
/// dqkv from dy, the output y and the log sum exp of the forward pass.
template <Backend B>
tensor<B> attention_pullback(context<B>& cx, attention_shape shape, const_tensor<B> qkv, sequences<B> seq, attention_result<B> kept,
                             const_tensor<B> dy) {
  if constexpr (HasFusedAttention<B>) {
    auto dqkv = cx.make(qkv.rows(), qkv.cols());
    B::attention_pullback(cx.queue(), shape, qkv, seq, kept.y, kept.lse, dy, dqkv);
    return dqkv;
  } else {
    return attention_plain_pullback(cx, shape, qkv, seq, dy);
  }
}

}  // namespace ops
}  // namespace planlm
