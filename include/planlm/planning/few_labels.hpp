/// The sparse form of a mixing policy: the few labels of a sentence that have a weight.
///
/// A policy may offer, beside weights(cx, z), few(cx, z) -> vjp{few_labels, pullback}, and few_of(K), how many of K labels that are, 0 where
/// `weights` should be used. The pullback takes what it needs of the gradient of the weights:
///   pullback()                 nothing: no gradient reaches the logits
///   pullback(few_gradients)    that of the labels taken, (S, k) -> dz (S, K)
///   pullback(const_tensor dw)  that of all labels, (S, K) -> dz (S, K)
/// A policy without it is mixed by products of (S, K) weights.
#pragma once
#include <concepts>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/math.hpp>

namespace planlm {

/// w(s, label(s, j)) = weight(s, j), zero elsewhere. The labels of a sentence are different ones. Without weights there is one label a sentence,
/// k = 1, of weight 1, and no pullback that asks for few_gradients; a label below 0 is none, whose e is a row of zeros.
template <Backend B>
struct few_labels {
  view<const int, 2, typename B::space> label;  // (S, k)
  const_tensor<B> weight;                       // (S, k) or empty
};
template <Backend B>
struct few_gradients {
  const_tensor<B> dw;  // (S, k)
};

/// A backend that mixes a few rows of the table a sentence, and finds the k largest logits of a row: labels and values by (value descending,
/// index ascending), then calls a row function, if it is given one.
template <class B>
concept HasSparseMixing = requires(typename B::queue& q, const_tensor<B> x, tensor<B> y, view<int, 2, typename B::space> i,
                                   view<const int, 2, typename B::space> label, typename B::accum w) {
  B::take_largest(q, x, i, y);
  B::take_largest(q, x, i, y, archetype::row_function{});
  B::mix_few(q, label, x, x, y);
  B::mix_few_pullback(q, label, x, x, x, y, y, into::add);
};
/// The same for one weight of all labels.
template <class B>
concept HasEvenMixing = requires(typename B::queue& q, const_tensor<B> x, tensor<B> y, typename B::accum w) {
  B::mix_evenly(q, w, x, y);
  B::mix_evenly_pullback(q, w, x, y, into::add);
};
/// A policy with a sparse form.
template <class Mix, class B>
concept HasFewLabels = HasSparseMixing<B> && requires(const Mix& mix, context<B>& cx, const_tensor<B> z, index_t labels) {
  { mix.few_of(labels) } -> std::convertible_to<index_t>;
  { mix.few(cx, z).value } -> std::convertible_to<few_labels<B>>;
};

namespace mixing_kernel {
/// Rows of dz: zero, but beta w (dw - <w, dw>) at the labels.
template <class T>
struct spread_softmax_pullback {
  const int* label;
  const T *weight, *dw;
  T* dz;
  index_t cols, k;
  T beta;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const int* at = label + r * k;
    const T *w = weight + r * k, *d = dw + r * k;
    T* to = dz + r * cols;
    const index_t n = k;
    team.for_each(cols, [=](index_t i) { to[i] = T(0); });
    const T mean = team.template sum<T>(n, [=](index_t j) { return w[j] * d[j]; }), b = beta;
    team.sync();
    team.for_each(n, [=](index_t j) { to[at[j]] = b * w[j] * (d[j] - mean); });
  }
};
/// Row r of w: logits, the largest first, become their softmax. Exponentials by whole vectors: in a loop over the few that are there they would
/// be taken one by one, as those of double are anyway.
template <class T>
struct softmax_of_few {
  T* w;
  index_t k;
  T beta;
  template <class Team>
  PLANLM_HD void operator()(const Team&, index_t r) const {
    constexpr int block = 16;
    T* to = w + r * k;
    const T top = to[0];
    T total = 0;
    for (index_t from = 0; from < k; from += block) {
      T e[block];
      const index_t n = k - from < block ? k - from : block;
      for (int i = 0; i < block; ++i) e[i] = top;
      for (index_t i = 0; i < n; ++i) e[i] = to[from + i];
      for (int i = 0; i < (std::is_same_v<T, float> ? block : static_cast<int>(n)); ++i) e[i] = math::exp(beta * (e[i] - top));
      for (index_t i = 0; i < n; ++i) to[from + i] = e[i], total += e[i];
    }
    const T inverse = T(1) / total;
    for (index_t i = 0; i < k; ++i) to[i] *= inverse;
  }
};
/// A label that there is not becomes -1.
struct label_or_none {
  const int* given;
  int* label;
  index_t labels;
  PLANLM_HD void operator()(index_t i) const { label[i] = given[i] >= 0 && given[i] < labels ? given[i] : -1; }
};
struct same_label {
  int value;
  int* label;
  PLANLM_HD void operator()(index_t i) const { label[i] = value; }
};
}  // namespace mixing_kernel

/// The label of the largest logit of each row.
template <Backend B>
few_labels<B> largest_label(context<B>& cx, const_tensor<B> z) {
  auto label = cx.template make_of<int>(z.rows(), index_t{1});
  B::take_largest(cx.queue(), z, label, cx.make(z.rows(), index_t{1}));
  return {label, {}};
}

}  // namespace planlm
