/// From token rewards to one number per generation, and the lists in which generations are compared.   [2306.00398]
///
///   sum        e = sum of r_t                                        grows with the length
///   average    e = C mean of r_t
///   soft_max   e = C beta ln sum of e^(r_t / beta)                   one good token is enough
///   soft_min   e = -C beta ln sum of e^(-r_t / beta)                 one bad token is enough
///
/// C, the common length, is the mean length of the generations of a list, a constant for the gradient: it brings the last three to
/// the scale of a sum, without which a softmax over e is nearly flat. At equal lengths C average is the sum. soft_max of a constant
/// reward exceeds it by beta ln n (soft_min falls below it by as much): with unequal lengths that outweighs the rewards.
/// subtract_log_length takes it away; off is the published form. beta towards 0 is the hard maximum, large beta the average with that
/// same offset.
///
/// Logits lie in rows z (N): generation s has those from first[s] on, length[s] of them, so that packed rows, padded rows and prompts with
/// their generations behind them all fit. Other rows are never read, NaN included, and their gradient is 0. Ranges must not overlap. A
/// generation without tokens is in no list: it has e = 0 and counts neither in C nor among those it would be compared with. All sums are in
/// double and in one order.
#pragma once
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>
#include <planlm/backend/team.hpp>
#include <planlm/objectives/reward_squash.hpp>

namespace planlm {

template <class F>
concept HasAggregateValue = requires(const F& f, const serial_team& team, index_t n) {
  { f.value(team, n, archetype::value_function<double>{}) } -> std::same_as<double>;
} || because<"ScoreAggregation: needs double value(team, n, r) const, of rewards r(0) .. r(n - 1), n >= 1", F>();
template <class F>
concept HasAggregateWeight = requires(const F& f, double value, index_t n, double r) {
  { f.weight(value, n, r) } -> std::same_as<double>;
} || because<"ScoreAggregation: needs double weight(value, n, r) const, d value / d r for a token of reward r", F>();
template <class F>
concept HasCommonLength = requires(const F& f) {
  { f.common_length } -> std::convertible_to<bool>;
} || because<"ScoreAggregation: needs bool common_length, whether the list's mean length is a factor", F>();

/// How token rewards become the score of a generation.
template <class F>
concept ScoreAggregation = HasAggregateValue<F> && HasAggregateWeight<F> && HasCommonLength<F>;

namespace aggregation {

struct sum {
  bool common_length = false;
  template <class Team, class R>
  PLANLM_HD double value(const Team& team, index_t n, R r) const {
    return team.template sum<double>(n, r);
  }
  PLANLM_HD double weight(double, index_t, double) const { return 1; }
};
struct average {
  bool common_length = true;
  template <class Team, class R>
  PLANLM_HD double value(const Team& team, index_t n, R r) const {
    return team.template sum<double>(n, r) / double(n);
  }
  PLANLM_HD double weight(double, index_t n, double) const { return 1 / double(n); }
};
struct soft_max {
  double beta = 2;  // above 0
  bool common_length = true, subtract_log_length = false;
  template <class Team, class R>
  PLANLM_HD double value(const Team& team, index_t n, R r) const {
    const double top = team.template max<double>(n, r), b = beta;
    const double all = team.template sum<double>(n, [=](index_t t) { return ::exp((r(t) - top) / b); });
    return top + b * ::log(all) - correction(n);
  }
  PLANLM_HD double weight(double value, index_t n, double r) const { return ::exp((r - (value + correction(n))) / beta); }

 private:
  PLANLM_HD double correction(index_t n) const { return subtract_log_length ? beta * ::log(double(n)) : 0; }
};
struct soft_min {
  double beta = 2;  // above 0
  bool common_length = true, subtract_log_length = false;
  template <class Team, class R>
  PLANLM_HD double value(const Team& team, index_t n, R r) const {
    return -mirrored().value(team, n, [=](index_t t) { return -r(t); });
  }
  PLANLM_HD double weight(double value, index_t n, double r) const { return mirrored().weight(-value, n, -r); }

 private:
  PLANLM_HD soft_max mirrored() const { return {beta, common_length, subtract_log_length}; }
};

}  // namespace aggregation

/// S generations, and I places in L lists in which they are compared. A generation may have places in several lists The pullback then
/// looks through all places for each generation: nothing for 16 in 320 places, about 2 s for 10,000 in 100,000 on one core.
template <Backend B>
struct preference_lists {
  indices<B> first, length;  // (S): generation s is rows first[s] .. first[s] + length[s] - 1
  indices<B> offsets;        // (L + 1): list l compares places offsets[l] .. offsets[l + 1] - 1, as many as it likes
  view<const double, 1, typename B::space> score = {};  // (I): true scores, only their order within a list counts: rounding would tie them
  indices<B> item = {};      // (I): the generation in each place, below 0: none; empty: place i has generation i
  indices<B> tie = {};       // (I): of equal scores the one with the smaller number is better; empty, or equal again: the earlier place

  index_t places() const { return item ? item.size() : length ? length.size() : score.size(); }
  index_t count() const { return offsets.size() - 1; }
};

namespace preference_kernel {

/// Reads lists on either side, never outside of what they are made of.
struct list_reader {
  const int *first, *length, *offsets, *item;
  index_t rows, generations, places;
  PLANLM_HD index_t begin(index_t l) const { return within(offsets[l], places); }
  PLANLM_HD index_t size(index_t l) const {
    const index_t end = within(offsets[l + 1], places);
    return end > begin(l) ? end - begin(l) : 0;
  }
  /// The generation in place i, -1 for none.
  PLANLM_HD index_t at(index_t i) const {
    const index_t s = item ? item[i] : i;
    return s >= 0 && s < generations ? s : -1;
  }
  PLANLM_HD index_t row(index_t s) const { return within(first[s], rows); }
  PLANLM_HD index_t tokens(index_t s) const { return within(length[s], rows - row(s)); }
  /// Whether place i has a generation with tokens.
  PLANLM_HD bool present(index_t i) const { return at(i) >= 0 && (!length || length[at(i)] > 0); }

 private:
  PLANLM_HD static index_t within(index_t v, index_t most) { return v < 0 ? 0 : v < most ? v : most; }
};

/// A generation's rewards, and what they add up to.
template <RewardSquash G, ScoreAggregation F, class T>
struct aggregate_rewards {
  G g;
  F f;
  list_reader read;
  const T* z;
  double *reward, *value;  // (N), (S)
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t s) const {
    const index_t n = read.tokens(s);
    const T* from = z + read.row(s);
    double* r = reward + read.row(s);
    const G squash = g;
    team.for_each(n, [=](index_t t) { r[t] = squash.value(double(accum_of<T>(from[t]))); });
    team.sync();
    const double v = n > 0 ? f.value(team, n, [=](index_t t) { return r[t]; }) : 0;
    if (team.leader()) value[s] = v;
  }
};
/// e of a list's places, and by what each is multiplied there.
struct score_lists {
  list_reader read;
  const double* value;
  double *factor, *e;  // (I)
  bool common_length;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t l) const {
    const list_reader from = read;
    const index_t begin = from.begin(l), size = from.size(l);
    double c = 1;
    if (common_length) {
      const double members = team.template sum<double>(size, [=](index_t k) { return from.present(begin + k) ? 1.0 : 0.0; });
      const double tokens = team.template sum<double>(
          size, [=](index_t k) { return from.present(begin + k) ? double(from.tokens(from.at(begin + k))) : 0.0; });
      c = members > 0 ? tokens / members : 0;
    }
    double *scale = factor + begin, *to = e + begin;
    const double* v = value;
    team.for_each(size, [=](index_t k) {
      const bool in = from.present(begin + k);
      scale[k] = in ? c : 0;
      to[k] = in ? c * v[from.at(begin + k)] : 0;
    });
  }
};
/// dz of a generation: what its places ask of its value, then down to each logit.
template <RewardSquash G, ScoreAggregation F, class T>
struct aggregate_pullback {
  G g;
  F f;
  list_reader read;
  const T* z;
  const double *reward, *value, *factor, *de;
  T* dz;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t s) const {
    const list_reader from = read;
    const double *scale = factor, *upstream = de;
    const auto share = [=](index_t i) { return from.at(i) == s && scale[i] != 0 ? scale[i] * upstream[i] : 0.0; };
    const double d = from.item ? team.template sum<double>(from.places, share) : share(s);
    const index_t n = from.tokens(s), row = from.row(s);
    const T* logit = z + row;
    const double *r = reward + row, v = value[s];
    T* to = dz + row;
    const G squash = g;
    const F aggregate = f;
    team.for_each(n, [=](index_t t) {
      to[t] = T(accum_of<T>(d * aggregate.weight(v, n, r[t]) * squash.slope(double(accum_of<T>(logit[t])))));
    });
  }
};

}  // namespace preference_kernel

namespace preference_detail {

[[noreturn]] inline void wrong(const char* name, index_t has, index_t wants, const char* what) {
  throw shape_error("preference_lists: " + std::string(name) + " has " + std::to_string(has) + " values for " +
                    std::to_string(wants) + " " + what);
}
/// The lists alone, without logits.
template <Backend B>
void check_places(const preference_lists<B>& lists, bool scored) {
  if (lists.offsets.size() < 2)
    throw shape_error("preference_lists: offsets has " + std::to_string(lists.offsets.size()) + " values, expected one more than lists");
  if (scored && lists.score.size() != lists.places()) wrong("score", lists.score.size(), lists.places(), "places");
  if (lists.tie && lists.tie.size() != lists.places()) wrong("tie", lists.tie.size(), lists.places(), "places");
}
template <Backend B>
void check_generations(const preference_lists<B>& lists) {
  if (lists.length.size() < 1) throw shape_error("preference_lists: length is empty, expected one value per generation");
  if (lists.first.size() != lists.length.size()) wrong("first", lists.first.size(), lists.length.size(), "generations");
}
template <class F>
void check_beta(const F& f) {
  if constexpr (requires { f.beta; })
    if (!(f.beta > 0 && f.beta < INFINITY))
      throw error("aggregation: beta is " + std::to_string(f.beta) + ", expected above 0 and finite; aggregation::average is its limit");
}
template <Backend B>
preference_kernel::list_reader reader(const preference_lists<B>& lists, index_t rows) {
  const index_t places = lists.places();
  return {lists.first.data, lists.length.data, lists.offsets.data, lists.item.data, rows,
          lists.length ? lists.length.size() : std::numeric_limits<index_t>::max(), places};
}

/// What scores keep for their gradient.
template <Backend B>
struct kept_scores {
  view<double, 1, typename B::space> reward, value, factor;  // (N), (S), (I)
};
template <Backend B>
kept_scores<B> make_kept(context<B>& cx, index_t rows, const preference_lists<B>& lists) {
  return {cx.template make_of<double>(rows), cx.template make_of<double>(lists.length.size()), cx.template make_of<double>(lists.places())};
}
template <Backend B, class G, class F, class T>
void scores(context<B>& cx, const G& g, const F& f, const T* z, index_t rows, const preference_lists<B>& lists, const kept_scores<B>& kept,
            view<double, 1, typename B::space> e) {
  const auto bytes = static_cast<std::size_t>(e.size()) * sizeof(double);
  B::zero(cx.queue(), e.data, bytes);  // a place in no list
  B::zero(cx.queue(), kept.factor.data, bytes);
  const auto read = reader(lists, rows);
  B::for_rows(cx.queue(), lists.length.size(),
              preference_kernel::aggregate_rewards<G, F, T>{g, f, read, z, kept.reward.data, kept.value.data});
  B::for_rows(cx.queue(), lists.count(),
              preference_kernel::score_lists{read, kept.value.data, kept.factor.data, e.data, bool(f.common_length)});
}
template <Backend B, class G, class F, class T>
void scores_pullback(context<B>& cx, const G& g, const F& f, const T* z, index_t rows, const preference_lists<B>& lists,
                     const kept_scores<B>& kept, const double* de, T* dz) {
  B::zero(cx.queue(), dz, static_cast<std::size_t>(rows) * sizeof(T));
  B::for_rows(cx.queue(), lists.length.size(),
              preference_kernel::aggregate_pullback<G, F, T>{g, f, reader(lists, rows), z, kept.reward.data, kept.value.data,
                                                             kept.factor.data, de, dz});
}

}  // namespace preference_detail

/// e (I) of every place from logits z of N values, in double; 0 where a generation has no tokens. The pullback takes de (I) and returns
/// dz (N), in z's type, 0 where no generation lies. Scores of `lists` are not read.
/// Errors: planlm::error for a beta that is not above 0 and finite, shape_error.
template <Backend B, RewardSquash G, ScoreAggregation F, class T, int R>
auto list_scores(context<B>& cx, const G& squash, const F& aggregate, view<T, R, typename B::space> z, const preference_lists<B>& lists) {
  using Z = std::remove_const_t<T>;
  preference_detail::check_generations(lists);
  preference_detail::check_places(lists, false);
  preference_detail::check_beta(aggregate);
  const index_t rows = z.size(), places = lists.places();
  const Z* from = z.data;
  const auto e = cx.template make_of<double>(places);
  const auto kept = preference_detail::make_kept(cx, rows, lists);
  preference_detail::scores(cx, squash, aggregate, from, rows, lists, kept, e);
  return vjp{e, [&cx, squash, aggregate, from, rows, places, lists, kept](view<const double, 1, typename B::space> de) {
               if (de.size() != places) preference_detail::wrong("de", de.size(), places, "places");
               const auto dz = cx.template make_of<Z>(rows);
               preference_detail::scores_pullback(cx, squash, aggregate, from, rows, lists, kept, de.data, dz.data);
               return dz;
             }};
}

}  // namespace planlm
