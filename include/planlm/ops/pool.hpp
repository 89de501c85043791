/// One row per sequence: the mean of its rows.
#pragma once
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/ops/sequences.hpp>

namespace planlm::ops {

namespace kernel {
template <class T>
struct mean_pool {
  const T* x;
  const int* offset;
  T* y;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t s) const {
    const index_t begin = offset[s], end = offset[s + 1], n = cols;
    using A = accum_of<T>;
    const T* from = x;
    const A inverse = A(1) / A(end - begin);
    T* to = y + s * n;
    team.for_each(n, [=](index_t c) {
      A total = 0;
      for (index_t r = begin; r < end; ++r) total += A(from[r * n + c]);
      to[c] = total * inverse;
    });
  }
};
template <class T>
struct mean_pool_pullback {
  const T* dy;
  const int* offset;
  T* dx;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t s) const {
    const index_t begin = offset[s], end = offset[s + 1], n = cols;
    using A = accum_of<T>;
    const T* from = dy + s * n;
    const A inverse = A(1) / A(end - begin);
    T* to = dx;
    team.for_each(n, [=](index_t c) {
      for (index_t r = begin; r < end; ++r) to[r * n + c] = A(from[c]) * inverse;
    });
  }
};
}  // namespace kernel

/// x (N, C) in S sequences, none of them empty -> (S, C).
template <Backend B>
tensor<B> mean_pool(context<B>& cx, const_tensor<B> x, const sequences<B>& seq) {
  auto y = cx.make(seq.count(), x.cols());
  B::for_rows(cx.queue(), seq.count(), kernel::mean_pool<typename B::real>{x.data, seq.offsets.data, y.data, x.cols()});
  return y;
}
/// dy (S, C) -> dx (N, C).
template <Backend B>
tensor<B> mean_pool_pullback(context<B>& cx, const_tensor<B> dy, const sequences<B>& seq, index_t rows) {
  auto dx = cx.make(rows, dy.cols());
  B::for_rows(cx.queue(), seq.count(), kernel::mean_pool_pullback<typename B::real>{dy.data, seq.offsets.data, dx.data, dy.cols()});
  return dx;
}

}  // namespace planlm::ops
