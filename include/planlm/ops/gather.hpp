/// Rows picked by number, and their sum back: embeddings, and the plan of a sentence spread over its tokens.
#pragma once
#include <planlm/backend/context.hpp>

namespace planlm::ops {

namespace kernel {
/// y_r = table[id_r], a row of zeros where id_r < 0; optionally + x_r.
template <class T>
struct gather_rows {
  const T* table;
  const int* id;
  const T* x;
  T* y;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const int from = id[r];
    const T* source = table + static_cast<index_t>(from < 0 ? 0 : from) * cols;
    const T* base = x ? x + r * cols : nullptr;
    T* to = y + r * cols;
    if (from < 0) team.for_each(cols, [=](index_t c) { to[c] = base ? base[c] : T(0); });
    else if (base) team.for_each(cols, [=](index_t c) { to[c] = base[c] + source[c]; });
    else team.for_each(cols, [=](index_t c) { to[c] = source[c]; });
  }
};
/// table[id_r] += dy_r for one block of columns, rows in order: no two teams touch the same value, so the sum has one order.
template <class T>
struct scatter_add_rows {
  const T* dy;
  const int* id;
  T* table;
  index_t rows, cols, block;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t b) const {
    const index_t begin = b * block;
    const index_t n = cols - begin < block ? cols - begin : block;
    for (index_t r = 0; r < rows; ++r) {
      if (id[r] < 0) continue;
      const T* from = dy + r * cols + begin;
      T* to = table + static_cast<index_t>(id[r]) * cols + begin;
      team.for_each(n, [=](index_t c) { to[c] += from[c]; });
    }
  }
};
}  // namespace kernel

/// table (K, C), ids (N) -> (N, C).
template <Backend B>
tensor<B> gather_rows(context<B>& cx, const_tensor<B> table, indices<B> ids) {
  auto y = cx.make(ids.size(), table.cols());
  B::for_rows(cx.queue(), ids.size(), kernel::gather_rows<typename B::real>{table.data, ids.data, nullptr, y.data, table.cols()});
  return y;
}
/// x (N, C) + table[ids] (N, C): the injection of a plan, in one pass.
template <Backend B>
tensor<B> add_gathered_rows(context<B>& cx, const_tensor<B> x, const_tensor<B> table, indices<B> ids) {
  auto y = cx.make(ids.size(), table.cols());
  B::for_rows(cx.queue(), ids.size(), kernel::gather_rows<typename B::real>{table.data, ids.data, x.data, y.data, table.cols()});
  return y;
}
/// dtable[ids] += dy: the pullback of gather_rows, and, over sentences, the segment sum. Deterministic.
template <Backend B>
void scatter_add_rows(context<B>& cx, const_tensor<B> dy, indices<B> ids, tensor<B> dtable) {
  constexpr index_t block = 64;
  B::for_rows(cx.queue(), (dy.cols() + block - 1) / block,
              kernel::scatter_add_rows<typename B::real>{dy.data, ids.data, dtable.data, dy.rows(), dy.cols(), block});
}
/// Sums of the rows of x (N, C) by segment number (N) -> (segments, C).
template <Backend B>
tensor<B> segment_sum(context<B>& cx, const_tensor<B> x, indices<B> segment, index_t segments) {
  auto y = cx.make_zero(segments, x.cols());
  scatter_add_rows(cx, x, segment, y);
  return y;
}

}  // namespace planlm::ops
