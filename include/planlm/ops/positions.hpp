/// Positions: sinusoids added to rows, rotations of query and key pairs.
#pragma once
#include <cmath>
#include <planlm/backend/context.hpp>
#include <planlm/backend/team.hpp>
#include <planlm/core/bfloat16.hpp>

namespace planlm::ops {

namespace kernel {
/// y = x + PE(position), PE[2i] = sin(pos / 10000^(2i / C)), PE[2i + 1] = cos(the same).
template <class T>
struct add_sinusoids {
  const T* x;
  const int* position;
  T* y;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    using A = accum_of<T>;
    const T* from = x + r * cols;
    T* to = y + r * cols;
    const double pos = position[r], width = static_cast<double>(cols);
    const index_t n = cols;
    team.for_each((n + 1) / 2, [=](index_t pair) {
      const index_t c = 2 * pair;
      const double angle = pos * ::exp(-9.210340371976182736 * static_cast<double>(c) / width);  // ln 10000
      to[c] = A(from[c]) + A(::sin(angle));
      if (c + 1 < n) to[c + 1] = A(from[c + 1]) + A(::cos(angle));
    });
  }
};
/// Pairs (x_2i, x_2i+1) of every head turn by pos base^(-2i / width), or back.
template <class T>
struct rotate {
  T* x;  // first rotated column; `heads` heads side by side
  const int* position;
  index_t stride, heads, width;
  double log_base;
  accum_of<T> direction;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    using A = accum_of<T>;
    T* row = x + r * stride;
    const double pos = position[r], w = static_cast<double>(width), log_b = log_base;
    const index_t pairs = width / 2, d = width, all = heads;
    const A sign = direction;
    const auto turn = [=](index_t pair, index_t from, index_t to) {
      const double angle = pos * ::exp(-log_b * static_cast<double>(2 * pair) / w);
      const A c = A(::cos(angle)), s = sign * A(::sin(angle));
      for (index_t head = from; head < to; ++head) {
        T* at = row + head * d + 2 * pair;
        const A a = at[0], b = at[1];
        at[0] = a * c - b * s;
        at[1] = a * s + b * c;
      }
    };
    // An angle is much dearer than what it turns: members that come by one after another take it for all heads.
    if constexpr (VisitsNeighbours<Team>) team.for_each(pairs, [=](index_t i) { turn(i, 0, all); });
    else team.for_each(all * pairs, [=](index_t i) { turn(i % pairs, i / pairs, i / pairs + 1); });
  }
};
}  // namespace kernel

/// x (N, C) + sinusoidal code of positions (N).   [1706.03762, section 3.5]
template <Backend B>
tensor<B> add_sinusoids(context<B>& cx, const_tensor<B> x, indices<B> positions) {
  auto y = cx.make(x.rows(), x.cols());
  B::for_rows(cx.queue(), x.rows(), kernel::add_sinusoids<typename B::real>{x.data, positions.data, y.data, x.cols()});
  return y;
}
/// Turns `heads` heads of `width` columns, from column `first` of x (N, C), in place by their position; `forward` false turns back.
/// [2104.09864, equation 34]
template <Backend B>
void rotate(context<B>& cx, tensor<B> x, index_t first, index_t heads, index_t width, indices<B> positions, double base, bool forward) {
  using A = typename B::accum;
  B::for_rows(cx.queue(), x.rows(), kernel::rotate<typename B::real>{x.data + first, positions.data, x.cols(), heads, width, std::log(base),
                                                                     forward ? A(1) : A(-1)});
}

}  // namespace planlm::ops
