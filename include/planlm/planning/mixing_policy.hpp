/// From a planner's logits to the weights of a label mixture: the variants of the interface between planner and language model.
///
/// A policy is a small type with one function, weights(cx, z) -> vjp{w, pullback}:
///   z (S, K) logits, one row per sentence -> w (S, K), rows that sum to 1;  pullback(dw) -> dz, or an empty view where no gradient flows.
/// One draw of randomness per sentence, shared by all layers and tokens.   [2410.12492, section 3; 2404.00614]
#pragma once
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/math.hpp>
#include <planlm/core/vjp.hpp>
#include <planlm/ops/softmax.hpp>
#include <planlm/planning/few_labels.hpp>
#include <planlm/planning/gumbel_noise.hpp>

namespace planlm {

template <class M, class B>
concept HasWeights = requires(const M& mix, context<B>& cx, const_tensor<B> z) {
  { mix.weights(cx, z).value } -> std::convertible_to<const_tensor<B>>;
} || because<"MixingPolicy: needs weights(context, logits) returning vjp{weights, pullback}", M, B>();
template <class M, class B>
concept HasWeightsPullback = requires(const M& mix, context<B>& cx, const_tensor<B> z) {
  { mix.weights(cx, z).pullback(z) } -> std::convertible_to<const_tensor<B>>;
} || because<"MixingPolicy: the pullback must take dweights and return dlogits, empty where no gradient flows", M, B>();

/// `M` is a way to turn logits into weights for backend B.
template <class M, class B>
concept MixingPolicy = std::copyable<M> && HasWeights<M, B> && HasWeightsPullback<M, B>;

/// MixingPolicy<M, B>, with the first thing that is missing as an error of its own: calls that take a policy have two overloads, and a
/// compiler that rejects both tells of overloads, not of the policy.
template <class M, class B>
consteval bool must_be_mixing_policy() {
  static_assert(std::copyable<M>, "planlm: a mixing policy must be copyable configuration");
  if constexpr (!HasWeights<M, B>)
    static_assert(HasWeights<M, B>, "planlm: a mixing policy needs weights(context, logits) that returns vjp{weights, pullback}");
  else
    static_assert(HasWeightsPullback<M, B>, "planlm: a mixing policy's pullback must return the gradient of the logits");
  return true;
}

namespace mixing_kernel {
/// Where the largest value of a row is; the lowest index of several.
template <class T, class Team>
PLANLM_HD index_t argmax(const Team& team, const T* row, index_t cols) {
  using A = accum_of<T>;
  const A top = team.template max<A>(cols, [=](index_t i) { return A(row[i]); });
  const index_t at = -team.template max<index_t>(cols, [=](index_t i) { return A(row[i]) == top ? -i : -cols; });
  return at < cols ? at : 0;  // a NaN equals nothing
}
template <class T>
struct one_hot_argmax {
  const T* z;
  T* w;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* to = w + r * cols;
    const index_t best = argmax(team, z + r * cols, cols);
    team.for_each(cols, [=](index_t i) { to[i] = i == best ? T(1) : T(0); });
  }
};
template <class T>
struct one_hot_label {
  const int* label;
  T* w;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* to = w + r * cols;
    const index_t chosen = label[r];
    team.for_each(cols, [=](index_t i) { to[i] = i == chosen ? T(1) : T(0); });
  }
};
template <class T>
struct one_hot_column {
  index_t column;
  T* w;
  index_t cols;
  PLANLM_HD void operator()(index_t i) const { w[i] = i % cols == column ? T(1) : T(0); }
};
template <class T>
struct constant {
  T value;
  T* w;
  PLANLM_HD void operator()(index_t i) const { w[i] = value; }
};
/// w becomes the one-hot of the first label whose cumulated probability exceeds a uniform draw of the sentence.
template <class T>
PLANLM_HD index_t first_beyond(const T* p, index_t cols, double u) {
  double cumulated = 0;
  for (index_t i = 0; i < cols; ++i) {
    cumulated += double(p[i]);
    if (u < cumulated) return i;
  }
  return cols - 1;
}
template <class T>
struct one_hot_sample {
  T* w;
  index_t cols;
  philox random;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* to = w + r * cols;
    double u = random.uniform(static_cast<std::uint64_t>(r), 0);
    if constexpr (!std::is_same_v<T, accum_of<T>>)  // rounded shares do not sum to 1
      u *= double(team.template sum<accum_of<T>>(cols, [=](index_t i) { return accum_of<T>(to[i]); }));
    team.sync();
    if (team.leader()) {
      const index_t chosen = first_beyond(to, cols, u);
      for (index_t i = 0; i < cols; ++i) to[i] = i == chosen ? T(1) : T(0);
    }
    team.sync();
  }
};
/// The label that one_hot_sample takes, of weights that sum to 1 in their own type.
template <class T>
struct label_sample {
  const T* p;
  int* label;
  index_t cols;
  philox random;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    if (team.leader())
      label[r] = static_cast<int>(first_beyond(p + r * cols, cols, random.uniform(static_cast<std::uint64_t>(r), 0)));
  }
};
/// Softmax over the k largest logits of a row, zero elsewhere. Of equal logits the one with the lower index is taken.
template <class T>
struct top_k_softmax {
  using A = accum_of<T>;
  const T* z;
  T* w;
  index_t cols, k;
  A inverse_temperature;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = z + r * cols;
    T* to = w + r * cols;
    const index_t n = cols;
    const index_t first = argmax(team, from, n);
    const A top = from[first];
    A bound = top;           // the last one taken: value and index
    index_t bound_at = first;
    for (index_t taken = 1; taken < k; ++taken) {
      const A b = bound;
      const index_t at = bound_at;
      // Behind the bound in the order (value descending, index ascending); lowest() marks those before it.
      const A next = team.template max<A>(n, [=](index_t i) {
        const A v = from[i];
        return v < b || (v == b && i > at) ? v : A(-INFINITY);
      });
      bound_at = -team.template max<index_t>(n, [=](index_t i) {
        return A(from[i]) == next && (next < b || i > at) ? -i : -n;
      });
      bound = next;
    }
    const A b = bound, beta = inverse_temperature;
    const index_t at = bound_at;
    const auto weight = [=](index_t i) {
      const A v = from[i];
      return v > b || (v == b && i <= at) ? math::exp(beta * (v - top)) : A(0);
    };
    if constexpr (std::is_same_v<T, A>) {
      const T total = team.template sum<T>(n, [=](index_t i) {
        const T e = weight(i);
        to[i] = e;
        return e;
      });
      const T inverse = T(1) / total;
      team.sync();
      team.for_each(n, [=](index_t i) { to[i] *= inverse; });
    } else {  // the exponentials again rather than rounded twice
      const A inverse = A(1) / team.template sum<A>(n, weight);
      team.sync();
      team.for_each(n, [=](index_t i) { to[i] = weight(i) * inverse; });
    }
  }
};
}  // namespace mixing_kernel

/// softmax(z / temperature): the proposed interface; exact, differentiable, passes the whole distribution.
struct mixture {
  double temperature = 1;
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    const const_tensor<B> p = ops::softmax(cx, z, temperature);
    return vjp{p, [&cx, p, t = temperature](const_tensor<B> dw) { return const_tensor<B>(ops::softmax_pullback(cx, p, dw, t)); }};
  }
};

/// The mixture of the k most probable labels, renormalised; its gradient stays among them. k >= K is the whole mixture.
struct top_k {
  index_t k = 5;
  double temperature = 1;
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    if (k < 1) throw error("top_k: k is " + std::to_string(k) + ", expected at least 1");
    ops::check_temperature(temperature);
    using A = typename B::accum;
    auto p = cx.make(z.rows(), z.cols());
    const index_t taken = k < z.cols() ? k : z.cols();
    B::for_rows(cx.queue(), z.rows(), mixing_kernel::top_k_softmax<typename B::real>{z.data, p.data, z.cols(), taken, A(1 / temperature)});
    return vjp{const_tensor<B>(p), [&cx, p, t = temperature](const_tensor<B> dw) {
                 return const_tensor<B>(ops::softmax_pullback(cx, const_tensor<B>(p), dw, t));
               }};
  }
  /// Beyond a quarter of the labels products are faster.
  index_t few_of(index_t labels) const { return k == 1 || (k <= 32 && 4 * k <= labels) ? k : 0; }
  template <Backend B>
    requires HasSparseMixing<B>
  auto few(context<B>& cx, const_tensor<B> z) const {
    using T = typename B::real;
    ops::check_temperature(temperature);
    const T beta = T(1 / temperature);
    auto label = cx.template make_of<int>(z.rows(), k);
    auto w = cx.make(z.rows(), k);
    B::take_largest(cx.queue(), z, label, w, mixing_kernel::softmax_of_few<T>{w.data, k, beta});
    return vjp{few_labels<B>{label, w}, [&cx, label, w, beta, cols = z.cols()](few_gradients<B> g) {
                 auto dz = cx.make(w.rows(), cols);
                 B::for_rows(cx.queue(), w.rows(),
                             mixing_kernel::spread_softmax_pullback<T>{label.data, w.data, g.dw.data, dz.data, cols, w.cols(), beta});
                 return const_tensor<B>(dz);
               }};
  }
};

/// One-hot of the largest logit: the published predecessor's interface. No gradient reaches the planner.
struct hard {
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    auto w = cx.make(z.rows(), z.cols());
    B::for_rows(cx.queue(), z.rows(), mixing_kernel::one_hot_argmax<typename B::real>{z.data, w.data, z.cols()});
    return vjp{const_tensor<B>(w), [](const_tensor<B>) { return const_tensor<B>{}; }};
  }
  index_t few_of(index_t) const { return 1; }
  template <Backend B>
    requires HasSparseMixing<B>
  auto few(context<B>& cx, const_tensor<B> z) const {
    return vjp{largest_label(cx, z), [] {}};
  }
};

/// Forward one-hot argmax, backward as if it had been the mixture.   [1308.3432]
struct straight_through {
  double temperature = 1;
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    const const_tensor<B> p = ops::softmax(cx, z, temperature);
    return vjp{hard{}.weights(cx, z).value,
               [&cx, p, t = temperature](const_tensor<B> dw) { return const_tensor<B>(ops::softmax_pullback(cx, p, dw, t)); }};
  }
  index_t few_of(index_t) const { return 1; }
  template <Backend B>
    requires HasSparseMixing<B>
  auto few(context<B>& cx, const_tensor<B> z) const {
    const const_tensor<B> p = ops::softmax(cx, z, temperature);
    return vjp{largest_label(cx, z),
               [&cx, p, t = temperature](const_tensor<B> dw) { return const_tensor<B>(ops::softmax_pullback(cx, p, dw, t)); }};
  }
};

/// softmax((z + scale G) / temperature), G_k = -log(-log U_k), one draw per sentence and label; with `discrete` its argmax forward and its
/// softmax backward. Noiseless when the context is not training.   [1611.01144, equation 2]
struct gumbel_softmax {
  double temperature = 1;
  double scale = 1;
  bool discrete = false;
  std::uint32_t stream = 0x67756d62;
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    const const_tensor<B> noisy = with_noise(cx, z), p = ops::softmax(cx, noisy, temperature);
    return vjp{discrete ? hard{}.weights(cx, noisy).value : p,
               [&cx, p, t = temperature](const_tensor<B> dw) { return const_tensor<B>(ops::softmax_pullback(cx, p, dw, t)); }};
  }
  index_t few_of(index_t) const { return discrete ? 1 : 0; }
  template <Backend B>
    requires HasSparseMixing<B>
  auto few(context<B>& cx, const_tensor<B> z) const {
    return straight_through{temperature}.few(cx, with_noise(cx, z));
  }

 private:
  template <Backend B>
  const_tensor<B> with_noise(context<B>& cx, const_tensor<B> z) const {
    if (!cx.training || scale == 0) return z;
    auto y = cx.make(z.rows(), z.cols());
    B::for_rows(cx.queue(), z.rows(),
                mixing_kernel::add_gumbel<typename B::real>{z.data, y.data, z.cols(), scale, cx.random.with_stream(stream)});
    return y;
  }
};

/// One-hot of a label drawn from softmax(z / temperature). No gradient.
struct sampled {
  double temperature = 1;
  std::uint32_t stream = 0x73616d70;
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    auto w = ops::softmax(cx, z, temperature);
    B::for_rows(cx.queue(), z.rows(), mixing_kernel::one_hot_sample<typename B::real>{w.data, z.cols(), cx.random.with_stream(stream)});
    return vjp{const_tensor<B>(w), [](const_tensor<B>) { return const_tensor<B>{}; }};
  }
  index_t few_of(index_t) const { return 1; }
  template <Backend B>
    requires HasSparseMixing<B>
  auto few(context<B>& cx, const_tensor<B> z) const {
    const auto p = ops::softmax(cx, z, temperature);
    auto label = cx.template make_of<int>(z.rows(), index_t{1});
    B::for_rows(cx.queue(), z.rows(),
                mixing_kernel::label_sample<typename B::real>{p.data, label.data, z.cols(), cx.random.with_stream(stream)});
    return vjp{few_labels<B>{label, {}}, [] {}};
  }
};

/// Every label 1 / K, whatever the logits: the mixture's analogue of a fixed label.
struct uniform {
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    using T = typename B::real;
    using A = typename B::accum;
    auto w = cx.make(z.rows(), z.cols());
    B::for_each(cx.queue(), w.size(), mixing_kernel::constant<T>{T(A(1) / A(z.cols())), w.data});
    return vjp{const_tensor<B>(w), [](const_tensor<B>) { return const_tensor<B>{}; }};
  }
};

/// The same label everywhere: the control with the same number of parameters.
struct fixed {
  index_t label = 0;
  template <Backend B>
  auto weights(context<B>& cx, const_tensor<B> z) const {
    check(z.cols());
    auto w = cx.make(z.rows(), z.cols());
    B::for_each(cx.queue(), w.size(), mixing_kernel::one_hot_column<typename B::real>{label, w.data, z.cols()});
    return vjp{const_tensor<B>(w), [](const_tensor<B>) { return const_tensor<B>{}; }};
  }
  index_t few_of(index_t) const { return 1; }
  template <Backend B>
    requires HasSparseMixing<B>
  auto few(context<B>& cx, const_tensor<B> z) const {
    check(z.cols());
    auto at = cx.template make_of<int>(z.rows(), index_t{1});
    B::for_each(cx.queue(), z.rows(), mixing_kernel::same_label{static_cast<int>(label), at.data});
    return vjp{few_labels<B>{at, {}}, [] {}};
  }

 private:
  void check(index_t labels) const {
    if (label < 0 || label >= labels)
      throw error("fixed: label " + std::to_string(label) + " is not in [0, " + std::to_string(labels) + ")");
  }
};

/// The true label of each sentence, none where it is not in [0, K): an upper reference that leaks the future, never a language model.
template <Backend B>
struct oracle {
  indices<B> labels;  // (S)
  auto weights(context<B>& cx, const_tensor<B> z) const {
    check(z.rows());
    auto w = cx.make(z.rows(), z.cols());
    B::for_rows(cx.queue(), z.rows(), mixing_kernel::one_hot_label<typename B::real>{labels.data, w.data, z.cols()});
    return vjp{const_tensor<B>(w), [](const_tensor<B>) { return const_tensor<B>{}; }};
  }
  index_t few_of(index_t) const { return 1; }
  auto few(context<B>& cx, const_tensor<B> z) const
    requires HasSparseMixing<B>
  {
    check(z.rows());
    auto at = cx.template make_of<int>(z.rows(), index_t{1});
    B::for_each(cx.queue(), z.rows(), mixing_kernel::label_or_none{labels.data, at.data, z.cols()});
    return vjp{few_labels<B>{at, {}}, [] {}};
  }

 private:
  void check(index_t sentences) const {
    if (labels.size() != sentences)
      throw shape_error("oracle: " + std::to_string(labels.size()) + " labels for " + std::to_string(sentences) + " sentences");
  }
};

}  // namespace planlm
