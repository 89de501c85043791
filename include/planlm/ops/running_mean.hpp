/// The mean of a sequence's rows so far: row t sees rows 0 .. t and nothing after them.
///
/// Sums run in row order, in `accum`, one column at a time, so a sequence computed in pieces has the bits of one computed at once: what a
/// piece needs of the rows before it is their sum.
#pragma once
#include <string>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/ops/sequences.hpp>

namespace planlm {

/// Sums of rows that were seen before, as decoding keeps them: one for every position, so that a truncated sequence goes on from where it is.
template <Backend B>
struct running_sums {
  accum_tensor<B, 3> sums;  // (sequences, capacity, C)
  indices<B> slot;          // (N): the sequence a row belongs to
};

namespace ops {

namespace kernel {
/// Sequence s: y_t = (x_0 + .. + x_t) / (t + 1). With `sums`, rows begin at their position and each sum is stored.
template <class T>
struct running_mean {
  using A = accum_of<T>;
  const T* x;
  const int* offset;
  T* y;
  index_t cols;
  A* sums = nullptr;
  const int *slot = nullptr, *position = nullptr;
  index_t capacity = 0;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t s) const {
    const index_t begin = offset[s], end = offset[s + 1], n = cols;
    if (begin == end) return;
    const index_t before = sums ? position[begin] : 0;
    A* kept = sums ? sums + (slot[begin] * capacity + before) * n : nullptr;
    const T* from = x;
    T* to = y;
    team.for_each(n, [=](index_t c) {
      A total = before > 0 ? kept[c - n] : A(0);
      for (index_t r = begin; r < end; ++r) {
        total += A(from[r * n + c]);
        if (kept) kept[(r - begin) * n + c] = total;
        to[r * n + c] = total / A(before + r - begin + 1);
      }
    });
  }
};
/// dx_t = dy_t / (t + 1) + dy_(t+1) / (t + 2) + .. to the end of the sequence, summed from there.
template <class T>
struct running_mean_pullback {
  using A = accum_of<T>;
  const T* dy;
  const int* offset;
  T* dx;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t s) const {
    const index_t begin = offset[s], end = offset[s + 1], n = cols;
    const T* from = dy;
    T* to = dx;
    team.for_each(n, [=](index_t c) {
      A total = 0;
      for (index_t r = end; r-- > begin;) {
        total += A(from[r * n + c]) / A(r - begin + 1);
        to[r * n + c] = total;
      }
    });
  }
};
}  // namespace kernel

/// x (N, C) in S sequences -> (N, C). With `before`, rows go on from the sums of the rows cached before them, and their own sums are stored.
/// Errors: shape_error if the sums are of another width.
template <Backend B>
tensor<B> running_mean(context<B>& cx, const_tensor<B> x, const sequences<B>& seq, const running_sums<B>& before = {}) {
  auto y = cx.make(x.rows(), x.cols());
  kernel::running_mean<typename B::real> mean{x.data, seq.offsets.data, y.data, x.cols()};
  if (before.slot) {
    if (before.sums.cols() != x.cols())
      throw shape_error("running_mean: sums of width " + std::to_string(before.sums.cols()) + " for rows of width " +
                        std::to_string(x.cols()));
    mean.sums = before.sums.data, mean.slot = before.slot.data, mean.position = seq.positions.data;
    mean.capacity = before.sums.extent(1);
  }
  B::for_rows(cx.queue(), seq.count(), mean);
  return y;
}
/// dy (N, C) -> dx (N, C), for sequences that begin at their first row.
template <Backend B>
tensor<B> running_mean_pullback(context<B>& cx, const_tensor<B> dy, const sequences<B>& seq) {
  auto dx = cx.make(dy.rows(), dy.cols());
  B::for_rows(cx.queue(), seq.count(), kernel::running_mean_pullback<typename B::real>{dy.data, seq.offsets.data, dx.data, dy.cols()});
  return dx;
}

}  // namespace ops
}  // namespace planlm
