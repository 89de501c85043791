/// Cross-entropy of next tokens, fused with the output projection so that the N x V logits never exist at once.
#pragma once
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/math.hpp>
#include <planlm/ops/elementwise.hpp>
#include <planlm/ops/matmul.hpp>

namespace planlm::ops {

namespace kernel {
/// nll_r = log sum exp z_r - z_r[target]; z_r becomes weight_r (softmax(z_r) - onehot) unless only values are wanted.
/// A target below 0 is ignored: value and gradient 0.
template <class T>
struct cross_entropy {
  using A = accum_of<T>;
  T* z;
  const int* target;
  const A* weight;  // (N) or null for `uniform_weight`
  A* nll;
  index_t cols;
  A uniform_weight;
  bool gradient;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* row = z + r * cols;
    const int label = target[r];
    if (label < 0) {
      if (team.leader()) nll[r] = A(0);
      if (gradient) team.for_each(cols, [=](index_t i) { row[i] = T(0); });
      return;
    }
    const A picked = row[label];
    const A top = team.template max<A>(cols, [=](index_t i) { return A(row[i]); });
    if (!gradient) {
      const A total = team.template sum<A>(cols, [=](index_t i) { return math::exp(A(row[i]) - top); });
      if (team.leader()) nll[r] = math::log(total) + top - picked;
      return;
    }
    team.sync();  // every lane has picked before the owner of the label's column writes it
    constexpr bool keep = std::is_same_v<T, A>;  // else the exponentials are computed again rather than rounded twice
    const A total = team.template sum<A>(cols, [=](index_t i) {
      const A e = math::exp(A(row[i]) - top);
      if constexpr (keep) row[i] = e;
      return e;
    });
    const A w = weight ? weight[r] : uniform_weight;
    const A factor = w / total;
    team.sync();
    team.for_each(cols, [=](index_t i) {
      const A e = keep ? A(row[i]) : math::exp(A(row[i]) - top);
      row[i] = e * factor - (i == label ? w : A(0));
    });
    if (team.leader()) nll[r] = math::log(total) + top - picked;
  }
};
template <class A>
struct weighted_total {
  const A *nll, *weight;
  A uniform_weight;
  A* total;
  index_t n;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const A *v = nll, *w = weight;
    const A u = uniform_weight;
    const A sum = team.template sum<A>(n, [=](index_t i) { return v[i] * (w ? w[i] : u); });
    if (team.leader()) total[0] = sum;
  }
};
}  // namespace kernel

/// A backend with its own cross-entropy of rows of logits, in place; row r begins at z + r * stride. Its constants say how many values of
/// logits it holds at a time, and that a row of them is padded to a multiple of how many.
template <class B>
concept HasFusedCrossEntropy = requires(typename B::queue& q, typename B::real* z, index_t n, const int* targets,
                                        const typename B::accum* weights, typename B::accum* nll) {
  B::cross_entropy(q, z, n, n, n, targets, weights, typename B::accum(1), nll, true);
  { B::logit_values } -> std::convertible_to<index_t>;
  { B::logit_multiple } -> std::convertible_to<index_t>;
};

/// nll (rows), and the gradient in place of z unless only values are wanted. `weights` null: all rows weigh `uniform_weight`.
template <Backend B>
void cross_entropy_in_place(context<B>& cx, typename B::real* z, index_t rows, index_t cols, index_t stride, const int* targets,
                            const typename B::accum* weights, typename B::accum uniform_weight, typename B::accum* nll, bool gradient) {
  if constexpr (HasFusedCrossEntropy<B>)
    B::cross_entropy(cx.queue(), z, rows, cols, stride, targets, weights, uniform_weight, nll, gradient);
  else
    B::for_rows(cx.queue(), rows, kernel::cross_entropy<typename B::real>{z, targets, weights, nll, cols, uniform_weight, gradient});
}

/// A token loss with its gradient at unit upstream: sum over rows of weight_r nll_r.
template <Backend B>
struct token_loss {
  accum_tensor<B> total;  // (1), nats
  accum_tensor<B> nll;    // (N), nats, unweighted
  tensor<B> dhidden;      // (N, C)
};

/// The same for logits that are there already: a planner's.
template <Backend B>
struct logit_loss {
  accum_tensor<B> total;  // (1), nats
  accum_tensor<B> nll;    // (N), nats
  tensor<B> dz;           // (N, K)
};
/// z (N, K), targets (N); every row weighs `weight`.
template <Backend B>
logit_loss<B> cross_entropy(context<B>& cx, const_tensor<B> z, indices<B> targets, typename B::accum weight) {
  using T = typename B::real;
  using A = typename B::accum;
  logit_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(z.rows()), cx.make(z.rows(), z.cols())};
  B::copy(cx.queue(), out.dz.data, z.data, static_cast<std::size_t>(z.size()) * sizeof(T));
  cross_entropy_in_place(cx, out.dz.data, z.rows(), z.cols(), z.cols(), targets.data, nullptr, weight, out.nll.data, true);
  B::for_rows(cx.queue(), 1, kernel::weighted_total<A>{out.nll.data, nullptr, weight, out.total.data, z.rows()});
  return out;
}

/// The plain composition, all logits at once. The oracle of the fused form.
/// hidden (N, C), table (V, C), targets (N); weights (N) or, if empty, `uniform_weight` for every row (1 / targets for a mean).
/// Adds to dtable unless it is empty.
template <Backend B>
token_loss<B> linear_cross_entropy_plain(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> targets,
                                         const_accum_tensor<B> weights, typename B::accum uniform_weight, tensor<B> dtable) {
  using T = typename B::real;
  using A = typename B::accum;
  token_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(hidden.rows()), {}};
  auto z = matmul_nt(cx, hidden, table);  // (N, V)
  B::for_rows(cx.queue(), z.rows(),
              kernel::cross_entropy<T>{z.data, targets.data, weights.data, out.nll.data, z.cols(), uniform_weight, true});
  out.dhidden = matmul(cx, const_tensor<B>(z), table);
  if (dtable) matmul_tn_add(cx, const_tensor<B>(z), hidden, dtable);
  B::for_rows(cx.queue(), 1, kernel::weighted_total<A>{out.nll.data, weights.data, uniform_weight, out.total.data, z.rows()});
  return out;
}

/// Rows whose logits are held at a time, in blocks of about equal size. Every block reads the table twice and its gradient once, so few rows
/// cost time; yet a block, with half a million values that products pack beside it, should take no more than an eighth of what all logits
/// would. Hence that share, but at least 128 rows or what makes 2^18 values, and at most 512 rows or 2^24 values; all that before blocks are
/// made equal and rounded up to 8 rows.
constexpr index_t cross_entropy_rows(index_t rows, index_t vocabulary) {
  const index_t v = std::max<index_t>(vocabulary, 1);
  const index_t least = std::clamp<index_t>((index_t{1} << 18) / v, 128, 512), most = std::clamp<index_t>((index_t{1} << 24) / v, 32, 512);
  const index_t fit = std::min(std::max(rows / 8 - (index_t{1} << 19) / v, least), most), blocks = std::max<index_t>((rows + fit - 1) / fit, 1);
  return std::clamp<index_t>(((rows + blocks - 1) / blocks + 7) / 8 * 8, 1, std::max<index_t>(rows, 1));
}
/// The same for a backend: each block rounds what it adds to the table's gradient, so where storage is narrow there are few of them. A
/// backend that says how many values it holds gets blocks of about equal size, multiples of 64 rows, and holds no more than a seventh of the
/// logits of 7168 rows or more: the memory of a loss should be small beside that of its logits.
template <Backend B>
constexpr index_t cross_entropy_rows(index_t rows, index_t vocabulary) {
  if constexpr (HasFusedCrossEntropy<B>) {
    const index_t most = std::max<index_t>(B::logit_values / std::max<index_t>(vocabulary, 1), 64);
    const index_t blocks = std::max((rows + most - 1) / most, std::min<index_t>(rows / 1024, 7));
    return blocks > 1 ? std::min<index_t>(((rows + blocks - 1) / blocks + 63) / 64 * 64, rows) : std::max<index_t>(rows, 1);
  } else if constexpr (std::is_same_v<typename B::real, typename B::accum>) {
    return cross_entropy_rows(rows, vocabulary);
  } else {
    const index_t fit = (index_t{1} << 26) / std::max<index_t>(vocabulary, 1);
    return std::clamp<index_t>(fit / 8 * 8, std::min<index_t>(rows, 32), std::max<index_t>(std::min<index_t>(rows, 4096), 1));
  }
}
/// From one row of logits to the next: a product that stores rows of odd length may not use wide accesses.
template <Backend B>
constexpr index_t logit_stride(index_t vocabulary) {
  if constexpr (HasFusedCrossEntropy<B>) return (vocabulary + B::logit_multiple - 1) / B::logit_multiple * B::logit_multiple;
  else return vocabulary;
}

/// The same by blocks of rows: logits, softmax, gradient and its two products while the block is in the cache.
/// Errors: shape_error for a gradient of another shape than the table.
template <Backend B>
token_loss<B> linear_cross_entropy(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> targets,
                                   const_accum_tensor<B> weights, typename B::accum uniform_weight, tensor<B> dtable) {
  using T = typename B::real;
  using A = typename B::accum;
  const index_t rows = hidden.rows(), vocabulary = table.rows(), step = cross_entropy_rows<B>(rows, vocabulary);
  if (dtable && !same_shape(dtable, table))
    throw shape_error("linear_cross_entropy: the gradient of a table (" + std::to_string(vocabulary) + ", " + std::to_string(table.cols()) +
                      ") has the shape (" + std::to_string(dtable.rows()) + ", " + std::to_string(dtable.cols()) + ")");
  token_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(rows), cx.make(rows, hidden.cols())};
  auto scope = cx.scope();
  const index_t stride = logit_stride<B>(vocabulary);
  T* const z = cx.make(step, stride).data;
  for (index_t begin = 0; begin < rows; begin += step) {
    const index_t end = std::min(rows, begin + step), n = end - begin;
    const auto h = row_range(hidden, begin, end);
    B::gemm(cx.queue(), 1, plain(h), transposed(table), {z, n, vocabulary, stride, 1}, into::replace);
    cross_entropy_in_place(cx, z, n, vocabulary, stride, targets.data + begin, weights ? weights.data + begin : nullptr, uniform_weight,
                           out.nll.data + begin, true);
    B::gemm(cx.queue(), 1, {z, n, vocabulary, stride, 1}, plain(table), plain(row_range(out.dhidden, begin, end)), into::replace);
    if (dtable) B::gemm(cx.queue(), 1, {z, vocabulary, n, 1, stride}, plain(h), plain(dtable), into::add);
  }
  B::for_rows(cx.queue(), 1, kernel::weighted_total<A>{out.nll.data, weights.data, uniform_weight, out.total.data, rows});
  return out;
}

/// Nats per row without any gradient: for evaluation. hidden (N, C), table (V, C), targets (N) -> (N).
template <Backend B>
accum_tensor<B> linear_token_nll(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> targets) {
  using A = typename B::accum;
  const index_t rows = hidden.rows(), vocabulary = table.rows(), step = cross_entropy_rows<B>(rows, vocabulary);
  auto nll = cx.template make_of<A>(rows);
  auto scope = cx.scope();
  const index_t stride = logit_stride<B>(vocabulary);
  auto* const z = cx.make(step, stride).data;
  for (index_t begin = 0; begin < rows; begin += step) {
    const index_t end = std::min(rows, begin + step), n = end - begin;
    B::gemm(cx.queue(), 1, plain(row_range(hidden, begin, end)), transposed(table), {z, n, vocabulary, stride, 1}, into::replace);
    cross_entropy_in_place(cx, z, n, vocabulary, stride, targets.data + begin, nullptr, A(0), nll.data + begin, false);
  }
  return nll;
}

}  // namespace planlm::ops
