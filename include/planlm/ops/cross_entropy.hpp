/// Cross-entropy of next tokens, fused with the output projection so that the N x V logits never exist at once.
#pragma once
#include <algorithm>
#include <planlm/backend/context.hpp>
#include <planlm/core/math.hpp>
#include <planlm/ops/elementwise.hpp>
#include <planlm/ops/matmul.hpp>

namespace planlm::ops {

namespace kernel {
/// nll_r = log sum exp z_r - z_r[target]; z_r becomes weight_r (softmax(z_r) - onehot) unless only values are wanted.
/// A target below 0 is ignored: value and gradient 0.
template <class T>
struct cross_entropy {
  T* z;
  const int* target;
  const T* weight;  // (N) or null for `uniform_weight`
  T* nll;
  index_t cols;
  T uniform_weight;
  bool gradient;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* row = z + r * cols;
    const int label = target[r];
    if (label < 0) {
      if (team.leader()) nll[r] = T(0);
      if (gradient) team.for_each(cols, [=](index_t i) { row[i] = T(0); });
      return;
    }
    const T picked = row[label];
    const T top = team.template max<T>(cols, [=](index_t i) { return row[i]; });
    if (!gradient) {
      const T total = team.template sum<T>(cols, [=](index_t i) { return math::exp(row[i] - top); });
      if (team.leader()) nll[r] = math::log(total) + top - picked;
      return;
    }
    team.sync();  // every lane has picked before the owner of the label's column writes it
    const T total = team.template sum<T>(cols, [=](index_t i) {
      const T e = math::exp(row[i] - top);
      row[i] = e;
      return e;
    });
    const T w = weight ? weight[r] : uniform_weight;
    const T factor = w / total;
    team.sync();
    team.for_each(cols, [=](index_t i) { row[i] = row[i] * factor - (i == label ? w : T(0)); });
    if (team.leader()) nll[r] = math::log(total) + top - picked;
  }
};
template <class T, class A>
struct weighted_total {
  const T *nll, *weight;
  T uniform_weight;
  A* total;
  index_t n;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const T *v = nll, *w = weight;
    const T u = uniform_weight;
    const A sum = team.template sum<A>(n, [=](index_t i) { return A(v[i]) * A(w ? w[i] : u); });
    if (team.leader()) total[0] = sum;
  }
};
}  // namespace kernel

/// A token loss with its gradient at unit upstream: sum over rows of weight_r nll_r.
template <Backend B>
struct token_loss {
  view<typename B::accum, 1, typename B::space> total;  // (1), nats
  tensor<B, 1> nll;                                     // (N), nats, unweighted
  tensor<B> dhidden;                                    // (N, C)
};

/// The same for logits that are there already: a planner's.
template <Backend B>
struct logit_loss {
  view<typename B::accum, 1, typename B::space> total;  // (1), nats
  tensor<B, 1> nll;                                     // (N), nats
  tensor<B> dz;                                         // (N, K)
};
/// z (N, K), targets (N); every row weighs `weight`.
template <Backend B>
logit_loss<B> cross_entropy(context<B>& cx, const_tensor<B> z, indices<B> targets, typename B::real weight) {
  using T = typename B::real;
  logit_loss<B> out{cx.template make_of<typename B::accum>(1), cx.make(z.rows()), cx.make(z.rows(), z.cols())};
  B::copy(cx.queue(), out.dz.data, z.data, static_cast<std::size_t>(z.size()) * sizeof(T));
  B::for_rows(cx.queue(), z.rows(), kernel::cross_entropy<T>{out.dz.data, targets.data, nullptr, out.nll.data, z.cols(), weight, true});
  B::for_rows(cx.queue(), 1,
              kernel::weighted_total<T, typename B::accum>{out.nll.data, nullptr, weight, out.total.data, z.rows()});
  return out;
}

/// The plain composition, all logits at once. The oracle of the fused form.
/// hidden (N, C), table (V, C), targets (N); weights (N) or, if empty, `uniform_weight` for every row (1 / targets for a mean).
/// Adds to dtable unless it is empty.
template <Backend B>
token_loss<B> linear_cross_entropy_plain(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> targets,
                                         const_tensor<B, 1> weights, typename B::real uniform_weight, tensor<B> dtable) {
  using T = typename B::real;
  token_loss<B> out{cx.template make_of<typename B::accum>(1), cx.make(hidden.rows()), {}};
  auto z = matmul_nt(cx, hidden, table);  // (N, V)
  B::for_rows(cx.queue(), z.rows(),
              kernel::cross_entropy<T>{z.data, targets.data, weights.data, out.nll.data, z.cols(), uniform_weight, true});
  out.dhidden = matmul(cx, const_tensor<B>(z), table);
  if (dtable) matmul_tn_add(cx, const_tensor<B>(z), hidden, dtable);
  B::for_rows(cx.queue(), 1, kernel::weighted_total<T, typename B::accum>{out.nll.data, weights.data, uniform_weight, out.total.data, z.rows()});
  return out;
}

/// Rows whose logits are held at a time: at most about four million values.
constexpr index_t cross_entropy_rows(index_t rows, index_t vocabulary) {
  const index_t fit = (index_t{1} << 22) / std::max<index_t>(vocabulary, 1);
  return std::clamp<index_t>(fit / 8 * 8, std::min<index_t>(rows, 32), std::max<index_t>(std::min<index_t>(rows, 512), 1));
}

/// The same by blocks of rows: logits, softmax, gradient and its two products while the block is in the cache.
template <Backend B>
token_loss<B> linear_cross_entropy(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> targets,
                                   const_tensor<B, 1> weights, typename B::real uniform_weight, tensor<B> dtable) {
  using T = typename B::real;
  const index_t rows = hidden.rows(), vocabulary = table.rows(), step = cross_entropy_rows(rows, vocabulary);
  token_loss<B> out{cx.template make_of<typename B::accum>(1), cx.make(rows), cx.make(rows, hidden.cols())};
  auto scope = cx.scope();
  auto block = cx.make(step, vocabulary);
  for (index_t begin = 0; begin < rows; begin += step) {
    const index_t end = std::min(rows, begin + step);
    const auto h = row_range(hidden, begin, end);
    const auto z = row_range(block, 0, end - begin);
    B::gemm(cx.queue(), 1, plain(h), transposed(table), plain(z), into::replace);
    B::for_rows(cx.queue(), z.rows(),
                kernel::cross_entropy<T>{z.data, targets.data + begin, weights ? weights.data + begin : nullptr, out.nll.data + begin,
                                         vocabulary, uniform_weight, true});
    B::gemm(cx.queue(), 1, plain(const_tensor<B>(z)), plain(table), plain(row_range(out.dhidden, begin, end)), into::replace);
    if (dtable) matmul_tn_add(cx, const_tensor<B>(z), h, dtable);
  }
  B::for_rows(cx.queue(), 1, kernel::weighted_total<T, typename B::accum>{out.nll.data, weights.data, uniform_weight, out.total.data, rows});
  return out;
}

/// Nats per row without any gradient: for evaluation. hidden (N, C), table (V, C), targets (N) -> (N).
template <Backend B>
tensor<B, 1> linear_token_nll(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> targets) {
  using T = typename B::real;
  const index_t rows = hidden.rows(), vocabulary = table.rows(), step = cross_entropy_rows(rows, vocabulary);
  auto nll = cx.make(rows);
  auto scope = cx.scope();
  auto block = cx.make(step, vocabulary);
  for (index_t begin = 0; begin < rows; begin += step) {
    const index_t end = std::min(rows, begin + step);
    const auto z = row_range(block, 0, end - begin);
    B::gemm(cx.queue(), 1, plain(row_range(hidden, begin, end)), transposed(table), plain(z), into::replace);
    B::for_rows(cx.queue(), z.rows(),
                kernel::cross_entropy<T>{z.data, targets.data + begin, nullptr, nll.data + begin, vocabulary, T(0), false});
  }
  return nll;
}

}  // namespace planlm::ops
