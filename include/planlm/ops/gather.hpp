/// Rows picked by number, and their sum back: embeddings, and the plan of a sentence spread over its tokens.
#pragma once
#include <cstddef>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>

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
    else if (base) team.for_each(cols, [=](index_t c) { to[c] = accum_of<T>(base[c]) + accum_of<T>(source[c]); });
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
/// next[r]: the first row after r with the same id, -1 if there is none; follows[next[r]] = 1. Rows with an id below 0 are in no chain.
struct chain_rows {
  const int* id;
  int *next, *follows;
  index_t rows;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    constexpr index_t block = 1024;
    const int wanted = id[r];
    index_t found = 0;
    for (index_t begin = r + 1; wanted >= 0 && found == 0 && begin < rows; begin += block) {
      const int* from = id + begin;
      const index_t n = rows - begin < block ? rows - begin : block;
      const index_t most = team.template max<index_t>(n, [=](index_t i) { return from[i] == wanted ? n - i : index_t{0}; });
      if (most > 0) found = begin + n - most;
    }
    if (!team.leader()) return;
    next[r] = found > 0 ? static_cast<int>(found) : -1;
    if (found > 0) follows[found] = 1;
  }
};
/// table[id] += the rows of one chain, for one block of columns: summed in A, rounded once. Row number r * blocks + b of the launch is the
/// chain that begins at row r; rows that follow another have nothing to do.
template <class T>
struct scatter_add_chains {
  const T* dy;
  const int *id, *next, *follows;
  T* table;
  index_t cols, block, blocks;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t task) const {
    using A = accum_of<T>;
    const index_t r = task / blocks, begin = task % blocks * block, width = cols;
    if (id[r] < 0 || follows[r]) return;
    const index_t n = width - begin < block ? width - begin : block;
    const T* from = dy + begin;
    const int* link = next;
    T* to = table + static_cast<index_t>(id[r]) * width + begin;
    team.for_each(n, [=](index_t c) {
      A total = to[c];
      for (index_t at = r; at >= 0; at = link[at]) total += A(from[at * width + c]);
      to[c] = total;
    });
  }
};
}  // namespace kernel

/// A backend with its own: y = [x +] table[ids], x may be empty; ...
template <class B>
concept HasFusedGather = requires(typename B::queue& q, const_tensor<B> x, indices<B> ids, tensor<B> y) { B::gather_rows(q, x, ids, x, y); };
/// ... table[ids] += x for any ids; and for ids that mostly ascend, so that the rows of one id lie together. In one order, rounded once.
template <class B>
concept HasFusedScatter = requires(typename B::queue& q, const_tensor<B> x, indices<B> ids, tensor<B> table) {
  B::scatter_add_rows(q, x, ids, table);
  B::add_segment_sums(q, x, ids, table);
};

/// table (K, C), ids (N) -> (N, C).
template <Backend B>
tensor<B> gather_rows(context<B>& cx, const_tensor<B> table, indices<B> ids) {
  auto y = cx.make(ids.size(), table.cols());
  if constexpr (HasFusedGather<B>) B::gather_rows(cx.queue(), table, ids, const_tensor<B>{}, y);
  else B::for_rows(cx.queue(), ids.size(), kernel::gather_rows<typename B::real>{table.data, ids.data, nullptr, y.data, table.cols()});
  return y;
}
/// x (N, C) + table[ids] (N, C): the injection of a plan, in one pass.
template <Backend B>
tensor<B> add_gathered_rows(context<B>& cx, const_tensor<B> x, const_tensor<B> table, indices<B> ids) {
  auto y = cx.make(ids.size(), table.cols());
  if constexpr (HasFusedGather<B>) B::gather_rows(cx.queue(), table, ids, x, y);
  else B::for_rows(cx.queue(), ids.size(), kernel::gather_rows<typename B::real>{table.data, ids.data, x.data, y.data, table.cols()});
  return y;
}
/// dtable[ids] += dy: the pullback of gather_rows. Deterministic.
template <Backend B>
void scatter_add_rows(context<B>& cx, const_tensor<B> dy, indices<B> ids, tensor<B> dtable) {
  using T = typename B::real;
  constexpr index_t block = 64;
  const index_t blocks = (dy.cols() + block - 1) / block;
  if constexpr (HasFusedScatter<B>) {
    B::scatter_add_rows(cx.queue(), dy, ids, dtable);
  } else if constexpr (std::is_same_v<T, typename B::accum>) {
    B::for_rows(cx.queue(), blocks, kernel::scatter_add_rows<T>{dy.data, ids.data, dtable.data, dy.rows(), dy.cols(), block});
  } else {
    // Added one by one in memory, rows that meet in one place would be rounded each time.
    auto scope = cx.scope();
    const index_t rows = ids.size();
    auto next = cx.template make_of<int>(rows), follows = cx.template make_of<int>(rows);
    B::zero(cx.queue(), follows.data, static_cast<std::size_t>(rows) * sizeof(int));
    B::for_rows(cx.queue(), rows, kernel::chain_rows{ids.data, next.data, follows.data, rows});
    B::for_rows(cx.queue(), rows * blocks, kernel::scatter_add_chains<T>{dy.data, ids.data, next.data, follows.data, dtable.data, dy.cols(),
                                                                         block, blocks});
  }
}
/// sums[segment] += x: the same for numbers that mostly ascend, such as the sentences of tokens. Any others are right too, if slower.
template <Backend B>
void add_segment_sums(context<B>& cx, const_tensor<B> x, indices<B> segment, tensor<B> sums) {
  if constexpr (HasFusedScatter<B>) B::add_segment_sums(cx.queue(), x, segment, sums);
  else scatter_add_rows(cx, x, segment, sums);
}
/// Sums of the rows of x (N, C) by segment number (N) -> (segments, C).
template <Backend B>
tensor<B> segment_sum(context<B>& cx, const_tensor<B> x, indices<B> segment, index_t segments) {
  auto y = cx.make_zero(segments, x.cols());
  add_segment_sums(cx, x, segment, y);
  return y;
}

}  // namespace planlm::ops
