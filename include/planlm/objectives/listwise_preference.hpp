/// Lists of generations ordered by their true scores: how likely the scores e that a model gives them make that order.   [2306.00398]
///
///   loss = mean over lists of sum over ranks k of [ln sum over i >= k of e^(e_i) - e_k],   places in order of descending true score
///
/// the Plackett-Luce likelihood of choosing best first. Two places: softplus(e_worse - e_better), Bradley and Terry's. Equal e give ln K!,
/// where training starts. Only differences of e and the order of true scores matter; the gradients of a list sum to 0.
///
/// With l_k the logarithm of the sum from k on, c_k = e^(l_k+1 - l_k) is the chance that k is not chosen, and
///   d loss / d e_k = Q_k (1 - c_k) - c_k,   Q_k+1 = (1 + Q_k) c_k,  Q_0 = 0:
/// one pass back for l, one forth; nothing overflows, and no large numbers are subtracted. Ranks are counted, in time K^2 for a list of K places.
///
/// Equal scores are ordered by `tie`, then by place: published as a random permutation for each batch (`shuffled_ties`). A list whose
/// scores are all equal tells nothing, and an order of its ties would teach that order: it is left out unless asked for. Lists left out,
/// and those of fewer than two generations with tokens, have loss and gradient 0 but count in the mean, and are counted. A true score that
/// is not a number makes the loss none.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>
#include <planlm/core/philox.hpp>
#include <planlm/objectives/score_aggregation.hpp>

namespace planlm {

/// A list whose scores are all equal: left out, or taken in the order of its ties as published.
enum class equal_scores { left_out, ordered };

/// Loss and gradient at unit upstream.
template <Backend B>
struct ranking_loss {
  accum_tensor<B> total;                     // (1)
  accum_tensor<B> each;                      // (L)
  accum_tensor<B> silent;                    // (1): how many lists carry no information
  view<double, 1, typename B::space> de;     // (I)
};
template <Backend B, class T>
struct preference_loss {
  accum_tensor<B> total, each, silent;       // (1), (L), (1)
  view<double, 1, typename B::space> score;  // (I): e
  view<T, 1, typename B::space> dz;          // (N): 0 where no generation lies
};

namespace preference_kernel {

template <class A>
struct rank_lists {
  list_reader read;
  const double *e, *score;
  const int* tie;             // or null
  index_t* order;             // (I): places of a list from best to worst
  double* behind;             // (I): l at each rank
  double *loss, *uninformed;  // (L): a list's loss; 1 where it carries no information
  A* each;
  double* de;
  double scale, epsilon;
  equal_scores equal;

  /// Whether place i is better than place j. A total order: a score that is no number is the worst.
  PLANLM_HD bool before(index_t i, index_t j) const {
    const double a = score[i], b = score[j];
    if (a > b) return true;
    if (a < b) return false;
    const bool unordered_a = !(a == a), unordered_b = !(b == b);
    if (unordered_a != unordered_b) return unordered_b;
    if (tie && tie[i] != tie[j]) return tie[i] < tie[j];
    return i < j;
  }
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t l) const {
    const rank_lists own = *this;
    const index_t begin = read.begin(l), size = read.size(l);
    const double members = team.template sum<double>(size, [=](index_t k) { return own.read.present(begin + k) ? 1.0 : 0.0; });
    const double unordered = team.template sum<double>(size, [=](index_t k) {
      const double y = own.score[begin + k];
      return own.read.present(begin + k) && !(y == y) ? 1.0 : 0.0;
    });
    team.for_each(size, [=](index_t k) {
      const index_t i = begin + k;
      own.de[i] = 0;
      if (!own.read.present(i)) return;
      index_t rank = 0;
      for (index_t j = begin; j < begin + size; ++j)
        if (j != i && own.read.present(j) && own.before(j, i)) ++rank;
      own.order[begin + rank] = i;
    });
    team.sync();
    if (!team.leader()) return;
    const index_t n = static_cast<index_t>(members);
    const bool informed = n > 1 && score[order[begin]] > score[order[begin + n - 1]];
    const bool counts = n > 1 && (informed || equal == equal_scores::ordered);
    loss[l] = unordered > 0 ? NAN : counts ? back(begin, n) : 0;
    uninformed[l] = informed || unordered > 0 ? 0 : 1;
    each[l] = A(loss[l]);
    if (unordered > 0)
      for (index_t k = 0; k < n; ++k) de[order[begin + k]] = NAN;
    else if (counts)
      forth(begin, n);
  }

 private:
  /// l at each rank; returns the loss.
  PLANLM_HD double back(index_t begin, index_t n) const {
    const index_t* at = order + begin;
    double* to = behind + begin;
    double total = 0;
    to[n - 1] = e[at[n - 1]];
    for (index_t k = n - 2; k >= 0; --k) {
      const double term = softplus(to[k + 1] - e[at[k]]);
      to[k] = e[at[k]] + term;
      total += term;
    }
    if (epsilon == 0) return total;
    const double top = e[at[highest(begin, n)]];
    total = 0;
    for (index_t k = 0; k < n; ++k) {
      to[k] = top + ::log(::exp(to[k] - top) + epsilon);
      total += to[k] - e[at[k]];
    }
    return total;
  }
  PLANLM_HD void forth(index_t begin, index_t n) const {
    const index_t* at = order + begin;
    const double* l = behind + begin;
    double reached = 0;
    if (epsilon == 0) {
      for (index_t k = 0; k < n; ++k) {
        const bool last = k + 1 == n;
        const double own = e[at[k]], chosen = last ? 1 : logistic(own - l[k + 1]), missed = last ? 0 : logistic(l[k + 1] - own);
        de[at[k]] = scale * (reached * chosen - missed);
        reached = (1 + reached) * missed;
      }
      return;
    }
    const index_t top = at[highest(begin, n)];
    double through_top = 0;  // epsilon is relative to the largest e, so it moves with it
    for (index_t k = 0; k < n; ++k) {
      const double chosen = ::exp(e[at[k]] - l[k]);
      de[at[k]] = scale * (reached * chosen - (1 - chosen));
      through_top += epsilon * ::exp(e[top] - l[k]);
      if (k + 1 < n) reached = (1 + reached) * ::exp(l[k + 1] - l[k]);
    }
    de[top] += scale * through_top;
  }
  /// The rank of the largest e.
  PLANLM_HD index_t highest(index_t begin, index_t n) const {
    const index_t* at = order + begin;
    index_t best = 0;
    for (index_t k = 1; k < n; ++k) best = e[at[k]] > e[at[best]] ? k : best;
    return best;
  }
};

/// Row 0: the mean of the losses; row 1: how many lists carry no information.
template <class A>
struct mean_of_lists {
  const double *loss, *uninformed;
  A *total, *silent;
  index_t lists;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const double* from = r == 0 ? loss : uninformed;
    const double sum = team.template sum<double>(lists, [=](index_t l) { return from[l]; });
    if (!team.leader()) return;
    if (r == 0) total[0] = A(sum / double(lists));
    else silent[0] = A(sum);
  }
};

}  // namespace preference_kernel

/// The loss of scores e, whatever gave them.
struct plackett_luce {
  equal_scores equal = equal_scores::left_out;
  double epsilon = 0;  // 1e-10 for parity with the published code, ln(sum + epsilon) relative to a list's largest e: wrong beyond 23 nats

  /// e (I). Of the lists `first` is not read, and `length` may be empty: then every place counts.
  /// Errors: planlm::error for a negative epsilon, shape_error.
  template <Backend B>
  ranking_loss<B> operator()(context<B>& cx, view<const double, 1, typename B::space> e, const preference_lists<B>& lists) const {
    using A = typename B::accum;
    check(lists);
    if (e.size() != lists.places()) preference_detail::wrong("e", e.size(), lists.places(), "places");
    ranking_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(lists.count()), cx.template make_of<A>(1),
                        cx.template make_of<double>(lists.places())};
    auto scope = cx.scope();
    rank(cx, e, lists, out);
    return out;
  }

  template <Backend B>
  void check(const preference_lists<B>& lists) const {
    preference_detail::check_places(lists, true);
    if (!(epsilon >= 0)) throw error("plackett_luce: epsilon is " + std::to_string(epsilon) + ", expected 0 or more");
  }
  /// Fills `out`; temporaries belong to the caller's scope.
  template <Backend B>
  void rank(context<B>& cx, view<const double, 1, typename B::space> e, const preference_lists<B>& lists,
            const ranking_loss<B>& out) const {
    using A = typename B::accum;
    const index_t places = lists.places(), count = lists.count();
    const auto order = cx.template make_of<index_t>(places);
    const auto behind = cx.template make_of<double>(places), loss = cx.template make_of<double>(count),
               uninformed = cx.template make_of<double>(count);
    B::zero(cx.queue(), out.de.data, static_cast<std::size_t>(places) * sizeof(double));
    B::for_rows(cx.queue(), count,
                preference_kernel::rank_lists<A>{preference_detail::reader(lists, 0), e.data, lists.score.data, lists.tie.data,
                                                 order.data, behind.data, loss.data, uninformed.data, out.each.data, out.de.data,
                                                 1 / double(count), epsilon, equal});
    B::for_rows(cx.queue(), 2, preference_kernel::mean_of_lists<A>{loss.data, uninformed.data, out.total.data, out.silent.data, count});
  }
};

/// From a reward head's logits to the loss of lists and the logits' gradient, in one call.
template <RewardSquash G = soft_clipped_reward, ScoreAggregation F = aggregation::average>
struct listwise_preference {
  G squash{};
  F aggregate{};
  plackett_luce ranking{};

  /// z: N values. Errors: planlm::error for a beta that is not above 0 and finite or a negative epsilon, shape_error.
  template <Backend B, class T, int R>
  preference_loss<B, std::remove_const_t<T>> operator()(context<B>& cx, view<T, R, typename B::space> z,
                                                        const preference_lists<B>& lists) const {
    using A = typename B::accum;
    using Z = std::remove_const_t<T>;
    preference_detail::check_generations(lists);
    preference_detail::check_beta(aggregate);
    ranking.check(lists);
    const index_t rows = z.size(), places = lists.places();
    const Z* from = z.data;
    preference_loss<B, Z> out{cx.template make_of<A>(1), cx.template make_of<A>(lists.count()), cx.template make_of<A>(1),
                              cx.template make_of<double>(places), cx.template make_of<Z>(rows)};
    auto scope = cx.scope();
    const auto kept = preference_detail::make_kept(cx, rows, lists);
    preference_detail::scores(cx, squash, aggregate, from, rows, lists, kept, out.score);
    const ranking_loss<B> ranked{out.total, out.each, out.silent, cx.template make_of<double>(places)};
    ranking.rank<B>(cx, out.score, lists, ranked);
    preference_detail::scores_pullback(cx, squash, aggregate, from, rows, lists, kept, ranked.de.data, out.dz.data);
    return out;
  }
};

/// Numbers for `preference_lists::tie` that order the ties of each list at random. `offsets` (L + 1) in host memory.
/// Errors: shape_error for offsets that fall or are negative.
inline std::vector<int> shuffled_ties(const philox& random, std::span<const int> offsets) {
  for (std::size_t l = 0; l < offsets.size(); ++l)
    if (const int before = l > 0 ? offsets[l - 1] : 0; offsets[l] < before)
      throw shape_error("shuffled_ties: offset " + std::to_string(l) + " is " + std::to_string(offsets[l]) + ", expected at least " +
                        std::to_string(before));
  std::vector<int> tie(offsets.empty() ? 0 : static_cast<std::size_t>(offsets.back()));
  for (std::size_t l = 0; l + 1 < offsets.size(); ++l)
    for (int i = offsets[l]; i < offsets[l + 1]; ++i)
      tie[static_cast<std::size_t>(i)] = static_cast<int>(random.word(l, static_cast<std::uint32_t>(i - offsets[l])) >> 1);
  return tie;
}

}  // namespace planlm
