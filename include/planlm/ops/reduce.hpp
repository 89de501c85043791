/// Whole-buffer reductions of flat views (n): sum of squares, first value that is not finite.
///
/// A view is cut into fixed blocks of 8192 values, each reduced by one team; one team then reduces the block
/// results. The cut depends on n alone, so the bits depend neither on threads nor on the backend's launch
/// shape. Results stay on the device.
#pragma once
#include <algorithm>
#include <concepts>
#include <span>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>

namespace planlm {

/// One number in the backend's memory, of the type that sums are kept in.
template <Backend B>
using scalar = view<typename B::accum, 1, typename B::space>;
template <Backend B>
using const_scalar = view<const typename B::accum, 1, typename B::space>;

}  // namespace planlm

namespace planlm::ops {

inline constexpr index_t reduce_block = 8192;

/// A backend with the sums of squares of blocks of a view. False: not this view.
template <class B>
concept HasBlockSquares = requires(typename B::queue& q, const_tensor<B, 1> x, typename B::accum* part) {
  { B::template block_squares<reduce_block>(q, x, part) } -> std::same_as<bool>;
};

namespace kernel {
/// part_r = sum over block r of x^2.
template <class T, class A>
struct block_squares {
  const T* x;
  A* part;
  index_t n;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = x + r * reduce_block;
    const index_t left = n - r * reduce_block;
    const A sum = team.template sum<A>(left < reduce_block ? left : reduce_block,
                                       [=](index_t i) { return A(from[i]) * A(from[i]); });
    if (team.leader()) part[r] = sum;
  }
};
template <class A>
struct total {
  const A* part;
  A* y;
  index_t n;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const A* from = part;
    const A sum = team.template sum<A>(n, [=](index_t i) { return from[i]; });
    if (team.leader()) y[0] = sum;
  }
};
/// part_r = n - (first index in block r whose value is not finite), 0 if there is none: the largest part is
/// the first index.
template <class T>
struct block_not_finite {
  const T* x;
  index_t* part;
  index_t n;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = x;
    const index_t begin = r * reduce_block, all = n;
    const index_t count = all - begin < reduce_block ? all - begin : reduce_block;
    const index_t most = team.template max<index_t>(count, [=](index_t i) {
      const accum_of<T> v = from[begin + i];
      return v - v == accum_of<T>(0) ? index_t{0} : all - begin - i;  // infinity - infinity is not a number
    });
    if (team.leader()) part[r] = most;
  }
};
struct first_of_parts {
  const index_t* part;
  index_t* y;
  index_t parts, n;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const index_t* from = part;
    const index_t most = team.template max<index_t>(parts, [=](index_t i) { return from[i]; });
    if (team.leader()) y[0] = most == 0 ? -1 : n - most;
  }
};
}  // namespace kernel

constexpr index_t reduce_blocks(index_t n) { return (n + reduce_block - 1) / reduce_block; }

/// Sum over all values of all views, each (n), of x^2 -> (1). Empty views count as zero; overflow gives
/// infinity.
template <Backend B>
scalar<B> sum_of_squares(context<B>& cx, std::span<const const_tensor<B, 1>> views) {
  using A = typename B::accum;
  auto y = cx.template make_of<A>(1);
  auto scope = cx.scope();
  index_t parts = 0;
  for (const const_tensor<B, 1>& x : views) parts += reduce_blocks(x.size());
  auto part = cx.template make_of<A>(std::max<index_t>(parts, 1));
  index_t at = 0;
  for (const const_tensor<B, 1>& x : views) {
    const bool done = [&] {
      if constexpr (HasBlockSquares<B>) return B::template block_squares<reduce_block>(cx.queue(), x, part.data + at);
      else return false;
    }();
    if (!done)
      B::for_rows(cx.queue(), reduce_blocks(x.size()),
                  kernel::block_squares<typename B::real, A>{x.data, part.data + at, x.size()});
    at += reduce_blocks(x.size());
  }
  B::for_rows(cx.queue(), 1, kernel::total<A>{part.data, y.data, parts});
  return y;
}
template <Backend B>
scalar<B> sum_of_squares(context<B>& cx, const_tensor<B, 1> x) {
  return sum_of_squares<B>(cx, std::span<const const_tensor<B, 1>>(&x, 1));
}

/// The first index of x (n) that holds an infinity or a NaN, -1 if there is none -> (1).
template <Backend B, class T>
view<index_t, 1, typename B::space> first_not_finite(context<B>& cx, view<T, 1, typename B::space> x) {
  auto y = cx.template make_of<index_t>(1);
  auto scope = cx.scope();
  const index_t parts = std::max<index_t>(reduce_blocks(x.size()), 1);
  auto part = cx.template make_of<index_t>(parts);
  B::zero(cx.queue(), part.data, static_cast<std::size_t>(parts) * sizeof(index_t));
  B::for_rows(cx.queue(), reduce_blocks(x.size()),
              kernel::block_not_finite<std::remove_const_t<T>>{x.data, part.data, x.size()});
  B::for_rows(cx.queue(), 1, kernel::first_of_parts{part.data, y.data, parts, x.size()});
  return y;
}

}  // namespace planlm::ops
