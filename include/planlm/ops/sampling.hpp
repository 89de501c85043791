/// Tokens drawn from rows of logits: temperature, top-k, top-p or the most probable one, mixed with uniform exploration where wanted; with
/// the log-probabilities of what was drawn.
///
/// A draw is argmax over candidates of (z_i - max z) / temperature + G_i, G_i = -log(-log U_i): the Gumbel-max form of the softmax.
/// U_i is word i of the counter-based stream at the row's place, so a draw depends on neither the number of threads nor on the other rows,
/// and CPU and GPU draw the same token from the same logits: keys are formed in double, where two of them are as good as never within
/// rounding of each other (equal ones, less than 2^-30 of a nat apart, go to the lower index).
/// Candidates are those at or above a bound that is found by bisection: for top-k by counting, for top-p by summing probabilities in integers,
/// whose sum has no order (backends may differ where a sum is within float's rounding, 1e-7, of p). Equal logits stay or go together. top-p
/// acts on what top-k left, both after the temperature. A row that holds a NaN, or no finite logit, gives token -1 and log-probabilities NaN.
///
/// `uniform` = epsilon: with that probability a candidate is drawn with equal chances instead. One more word of the place's stream, far
/// from those of the U_i, decides that, and its neighbour which; so a row that does not explore draws what it draws without epsilon, and
/// epsilon = 0 changes no bit. What was drawn has log-probability log((1 - epsilon) p + epsilon / candidates), whichever way it came.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/backend/team.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/math.hpp>

namespace planlm {

/// How one row is drawn. The default is the whole softmax.
struct sampling_rule {
  double temperature = 1;
  double top_p = 1;                               // smallest set of most probable tokens that holds this much probability
  int top_k = std::numeric_limits<int>::max();    // at most so many tokens, but for equal ones
  bool greedy = false;                            // the most probable token, the lowest of several; nothing is drawn
  double uniform = 0;                             // epsilon: the probability of drawing any candidate with equal chances; under greedy, too
};

/// Errors: planlm::error for a temperature outside [1e-6, 1e6], top_k below 1, top_p outside (0, 1], uniform outside [0, 1].
inline void check_rule(const sampling_rule& rule) {
  if (!(rule.temperature >= 1e-6 && rule.temperature <= 1e6))
    throw error("sampling: the temperature is " + std::to_string(rule.temperature) +
                ", expected a number above 0, from 1e-6 to 1e6; for the most probable token set greedy");
  if (rule.top_k < 1) throw error("sampling: top_k is " + std::to_string(rule.top_k) + ", expected at least 1; leave it out for all tokens");
  if (!(rule.top_p > 0 && rule.top_p <= 1)) throw error("sampling: top_p is " + std::to_string(rule.top_p) + ", expected in (0, 1]");
  if (!(rule.uniform >= 0 && rule.uniform <= 1))
    throw error("sampling: uniform is " + std::to_string(rule.uniform) + ", expected a probability, from 0 to 1; 0 explores nothing");
}

namespace ops {

namespace kernel {

/// The bits of x as an integer in the order of the numbers; both zeros are one. Not for NaN.
PLANLM_HD inline std::int32_t ordered(float x) {
  const auto bits = __builtin_bit_cast(std::int32_t, x);
  return x == 0 ? 0 : bits >= 0 ? bits : -(bits & 0x7FFFFFFF);
}
PLANLM_HD inline std::int64_t ordered(double x) {
  const auto bits = __builtin_bit_cast(std::int64_t, x);
  return x == 0 ? 0 : bits >= 0 ? bits : -(bits & 0x7FFFFFFFFFFFFFFF);
}
/// The number with these ordered bits.
PLANLM_HD inline float number(std::int32_t order) {
  return order >= 0 ? __builtin_bit_cast(float, order) : -__builtin_bit_cast(float, -order);
}
PLANLM_HD inline double number(std::int64_t order) {
  return order >= 0 ? __builtin_bit_cast(double, order) : -__builtin_bit_cast(double, -order);
}
/// A number between low < high, neither of them, or `low` if there is none. Near numbers are halved by value, far ones by their bits, so
/// that neither close logits nor a mask of -1e38 takes long.
template <class A>
PLANLM_HD A between(A low, A high) {
  if (high - low <= A(64)) {
    const A half = (low + high) * A(0.5);
    return half < high ? half : low;
  }
  const auto l = ordered(low), h = ordered(high);
  return number((l >> 1) + (h >> 1) + (l & h & 1));
}

/// A probability in units of 2^-40 of the most probable token's.
template <class A>
PLANLM_HD std::uint64_t integer_mass(A shifted) {
  return static_cast<std::uint64_t>(math::exp(shifted) * A(0x1p40));
}

inline constexpr std::int64_t no_key = std::numeric_limits<std::int64_t>::min();
inline constexpr index_t largest_vocabulary = index_t{1} << 22;  // sums of masses fit 64 bits, an index the low bits of a key

template <class T>
struct sample {
  using A = accum_of<T>;
  const T* z;
  const sampling_rule* rules;  // (S) or null for `rule`
  sampling_rule rule;
  const int *place, *forced;  // (S); forced may be null
  int* token;
  A *drawn, *plain;
  index_t cols;
  philox random;
  index_t also = -1;        // one more token whose log-probability is wanted, below 0: none
  A* also_plain = nullptr;  // (S)

  PLANLM_HD index_t width() const { return cols; }

  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* row = z + r * cols;
    const index_t n = cols;
    const sampling_rule how = rules ? rules[r] : rule;
    const A top = team.template max<A>(n, [=](index_t i) { return A(row[i]); });
    const double whole = team.template sum<double>(n, [=](index_t i) { return math::exp(A(row[i]) - top); });
    if (!(whole < INFINITY)) {
      if (team.leader()) {
        token[r] = -1, drawn[r] = plain[r] = A(NAN);
        if (also >= 0) also_plain[r] = A(NAN);
      }
      return;
    }
    // The lowest index of the largest logit.
    const index_t first = -team.template max<index_t>(n, [=](index_t i) { return A(row[i]) == top ? -i : -n; });
    const A beta = A(1 / how.temperature);
    A bound = A(-INFINITY);
    const bool explores = how.uniform > 0, bounded = !how.greedy || explores;
    if (bounded && how.top_k < n) bound = top_k_bound(team, row, top, how.top_k);
    if (bounded && how.top_p < 1) bound = top_p_bound(team, row, top, beta, bound, how.top_p);
    const index_t candidates = explores ? candidates_in(team, row, bound, 0, n) : 0;
    const random_block words = explores ? random.bits(static_cast<std::uint64_t>(place[r]), exploring_block) : random_block{};
    const index_t given = forced ? forced[r] : -1;
    index_t chosen = first;
    if (given >= 0) chosen = given < n ? given : n - 1;
    else if (explores && (double(words.word[0]) + 0.5) * 0x1p-32 < how.uniform)
      chosen = candidate(team, row, bound, static_cast<index_t>(static_cast<std::uint64_t>(candidates) * words.word[1] >> 32));
    else if (!how.greedy) chosen = draw(team, row, top, beta, bound, first, r);
    const A b = bound;
    const bool all = how.greedy || (beta == A(1) && b == A(-INFINITY));  // the same sum once more
    const double kept = all ? whole : team.template sum<double>(n, [=](index_t i) {
      const A v = A(row[i]);
      return v >= b ? math::exp(beta * (v - top)) : A(0);
    });
    if (team.leader()) {
      const A v = A(row[chosen]);
      const bool drawable = how.greedy ? chosen == first : v >= b;
      token[r] = static_cast<int>(chosen);
      plain[r] = A(double(v - top) - ::log(whole));
      if (also >= 0) also_plain[r] = A(double(A(row[also]) - top) - ::log(whole));
      if (!explores) {
        drawn[r] = !drawable ? A(-INFINITY) : how.greedy ? A(0) : A(double(beta * (v - top)) - ::log(kept));
      } else {
        const double p = !drawable ? 0.0 : how.greedy ? 1.0 : double(math::exp(beta * (v - top))) / kept;
        const double share = is_candidate(v, b) ? how.uniform / double(candidates) : 0.0;
        drawn[r] = A(::log((1 - how.uniform) * p + share));
      }
    }
  }

 private:
  /// The largest bound that at least k logits reach, or one with the same candidates.
  template <class Team>
  PLANLM_HD A top_k_bound(const Team& team, const T* row, A top, index_t k) const {
    return largest(team, row, A(-INFINITY), above(top), top - A(32), [&](A from) {
      const auto count = team.template sum<std::int32_t>(cols, [=](index_t i) { return std::int32_t{A(row[i]) >= from}; });
      return count < k ? amount::few : count > k ? amount::enough : amount::exactly;
    });
  }
  /// The largest bound whose candidates hold p of the probability of those at or above `least`, or one with the same candidates.
  template <class Team>
  PLANLM_HD A top_p_bound(const Team& team, const T* row, A top, A beta, A least, double p) const {
    const auto mass_from = [&](A from) {
      return double(team.template sum<std::uint64_t>(cols, [=](index_t i) {
        const A v = A(row[i]);
        return v >= from ? integer_mass(beta * (v - top)) : std::uint64_t{0};
      }));
    };
    A low = top - A(28) / beta;  // e^-28 is less than a unit of mass
    if (low < least) low = least;
    const double wanted = p * mass_from(low);
    const A high = above(top);
    return largest(team, row, low, high, between(low, high), [&](A from) { return mass_from(from) < wanted ? amount::few : amount::enough; });
  }
  enum class amount { few, enough, exactly };
  /// The largest logit in [low, high) from which `count` finds enough, or a bound with the same candidates; `low` has enough, `high` too few.
  template <class Team, class Count>
  PLANLM_HD A largest(const Team& team, const T* row, A low, A high, A middle, const Count& count) const {
    for (int step = 1;; ++step) {
      // Now and then the next logit below `high`: once no other lies between, that is the one.
      const bool next = step % 4 == 0;
      if (next) {
        const A l = low, h = high;
        middle = team.template max<A>(cols, [=](index_t i) {
          const A v = A(row[i]);
          return v < h && v > l ? v : l;
        });
      }
      if (!(low < middle)) return low;
      const amount how = count(middle);
      (how == amount::few ? high : low) = middle;
      if (how == amount::exactly || (next && how == amount::enough)) return low;
      middle = between(low, high);
    }
  }
  PLANLM_HD static A above(A x) { return number(ordered(x) + 1); }
  PLANLM_HD static bool is_candidate(A v, A bound) { return v >= bound && v > A(-INFINITY); }
  /// Candidates among tokens [begin, end).
  template <class Team>
  PLANLM_HD index_t candidates_in(const Team& team, const T* row, A bound, index_t begin, index_t end) const {
    return team.template sum<std::int32_t>(end - begin, [=](index_t i) { return std::int32_t{is_candidate(A(row[begin + i]), bound)}; });
  }
  /// The token that `rank` candidates precede, by bisection.
  template <class Team>
  PLANLM_HD index_t candidate(const Team& team, const T* row, A bound, index_t rank) const {
    index_t low = 0, high = cols;
    while (high - low > 1) {
      const index_t middle = low + (high - low) / 2, found = candidates_in(team, row, bound, low, middle);
      if (found > rank) {
        high = middle;
      } else {
        low = middle;
        rank -= found;
      }
    }
    return low;
  }
  /// The candidate with the largest key. Its key and index travel as one integer: 42 bits of the key's order, then the index from above.
  template <class Team>
  PLANLM_HD index_t draw(const Team& team, const T* row, A top, A beta, A bound, index_t first, index_t r) const {
    const index_t n = cols, blocks = (n + 3) / 4, some = blocks / 16;
    const auto at = static_cast<std::uint64_t>(place[r]);
    // What has been seen spares the rest most logarithms, so a sixteenth of the row goes ahead.
    const double start = gumbel(random.word(at, static_cast<std::uint32_t>(first)));
    std::int64_t key = (ordered(start) & ~index_bits) | (index_bits - first);
    const auto search = [&](index_t begin, index_t end) {
      if constexpr (VisitsNeighbours<Team>)
        key = best_of_neighbours<Team::neighbours>(team, row, top, beta, bound, at, begin, end, key);
      else
        key = best_key(team, row, top, beta, bound, at, begin, end, key);
    };
    if (some > 0) search(0, some);
    search(some, blocks);
    return index_bits - (key & index_bits);
  }
  /// The best of `least` and the keys of tokens 4 begin .. 4 end. A key is at most z / temperature + 22.9, and at most that - log(1 - U).
  template <class Team>
  PLANLM_HD std::int64_t best_key(const Team& team, const T* row, A top, A beta, A bound, std::uint64_t at, index_t begin, index_t end,
                                  std::int64_t least) const {
    const index_t n = cols;
    const philox words = random;
    double best = number(least & ~index_bits);
    const std::int64_t key = team.template max<std::int64_t>(end - begin, [=](index_t b) mutable {
      const index_t block = begin + b;
      std::int64_t found = no_key;
      random_block bits{};
      bool have_bits = false;
      for (index_t j = 0; j < 4; ++j) {
        const index_t i = 4 * block + j;
        if (i >= n) break;
        const A v = A(row[i]);
        const A shifted = beta * (v - top);
        if (!(v >= bound) || float(shifted) + 22.901f < float(best)) continue;
        if (!have_bits) bits = words.bits(at, static_cast<std::uint32_t>(block)), have_bits = true;
        if (float(shifted) + 0.6931472f * halvings(survivor(bits.word[j])) + 1e-3f < float(best)) continue;
        found = outdone(row, top, beta, i, bits.word[j], best, found);
      }
      return found;
    });
    return key > least ? key : least;
  }
  /// The same where one member of a team visits neighbours: what N blocks can reach at most is found for all of them together.
  template <index_t N, class Team>
  PLANLM_HD std::int64_t best_of_neighbours(const Team& team, const T* row, A top, A beta, A bound, std::uint64_t at, index_t begin,
                                            index_t end, std::int64_t least) const {
    const index_t n = cols;
    const philox words = random;
    double best = number(least & ~index_bits);
    const std::int64_t key = team.template max<std::int64_t>((end - begin + N - 1) / N, [=](index_t group) mutable {
      const index_t block = begin + group * N, from = 4 * block, most = 4 * (end - block) < n - from ? 4 * (end - block) : n - from;
      const index_t count = most < 4 * N ? most : 4 * N;
      const float least_reach = float(best) - 22.901f;
      float reach[4 * N];
      int near = 0;
      for (index_t t = 0; t < count; ++t) {
        const A v = A(row[from + t]);
        reach[t] = v >= bound ? float(beta * (v - top)) : -INFINITY;
      }
      for (index_t t = 0; t < count; ++t) near += reach[t] >= least_reach;
      std::int64_t found = no_key;
      if (near == 0) return found;
      std::uint32_t bits[4 * N];
      words.template neighbouring_bits<N>(at, static_cast<std::uint32_t>(block), static_cast<int>((count + 3) / 4), bits);
      for (index_t t = 0; t < count; ++t) reach[t] += 0.6931472f * halvings(survivor(bits[t])) + 1e-3f;
      for (index_t t = 0; t < count; ++t)
        if (!(reach[t] < float(best))) found = outdone(row, top, beta, from + t, bits[t], best, found);
      return found;
    });
    return key > least ? key : least;
  }
  /// 1 - U of a word, and how often at least it halves: -log of it is at most ln 2 for every time, which most candidates need no logarithm
  /// to be lost by.
  PLANLM_HD static float survivor(std::uint32_t word) { return (static_cast<float>(~word) + 0.5f) * 0x1p-32f; }
  PLANLM_HD static float halvings(float beyond) { return static_cast<float>(127 - (__builtin_bit_cast(std::int32_t, beyond) >> 23)); }
  /// The key of candidate i if it is above `best`, which it then becomes; else what was found before.
  PLANLM_HD static std::int64_t outdone(const T* row, A top, A beta, index_t i, std::uint32_t word, double& best, std::int64_t found) {
    const A shifted = beta * (A(row[i]) - top);
    if (float(shifted) - math::log(survivor(word)) + 1e-3f < float(best)) return found;
    const double own = double(shifted) + gumbel(word);
    if (own < best) return found;
    best = own;
    const std::int64_t packed = (ordered(own) & ~index_bits) | (index_bits - i);
    return packed > found ? packed : found;
  }
  static constexpr std::int64_t index_bits = largest_vocabulary - 1;
  static constexpr std::uint32_t exploring_block = 0xFFFFFFFFu;  // the U_i of the largest vocabulary lie in blocks below 2^20
  /// -log(-log u) of a word's u, which is an odd multiple of 2^-33: all 32 bits count, so that equal draws are rare at any vocabulary.
  PLANLM_HD static double gumbel(std::uint32_t word) { return -::log(-::log((double(word) + 0.5) * 0x1p-32)); }
};

}  // namespace kernel

/// What was drawn. `drawn`: log-probability under the distribution it came from (0 under greedy without exploration, -infinity for
/// a forced token that could not have been drawn); `plain`: under the softmax of the logits as they are; `also`: of the one more token that
/// was asked for, by the same sums, or empty. Nats.
template <Backend B>
struct sampled_tokens {
  view<int, 1, typename B::space> token;                         // (S)
  view<typename B::accum, 1, typename B::space> drawn, plain;    // (S)
  view<typename B::accum, 1, typename B::space> also{};          // (S)
};

/// logits (S, V) of the backend's number type or of its accum; one rule for all rows, or one each (checked by check_rules).
/// places (S), not negative: where in its stream a row draws, e.g. sequence * length + position; the same place, step, stream and logits
/// give the same token. forced (S) or empty: a token that is not negative is taken instead of drawn, and scored by the same sums, bit for bit.
/// Errors: shape_error, planlm::error for a rule that is none.
template <class T, Backend B>
sampled_tokens<B> sample_rows(context<B>& cx, view<const T, 2, typename B::space> logits, const sampling_rule& rule,
                              view<const sampling_rule, 1, typename B::space> rules, philox random, indices<B> places, indices<B> forced,
                              index_t also = -1) {
  using A = typename B::accum;
  static_assert(std::is_same_v<accum_of<T>, A>, "planlm::sample: the logits are of the backend's number type or of its accum");
  const index_t rows = logits.rows();
  if (logits.cols() < 1 || logits.cols() > kernel::largest_vocabulary)
    throw shape_error("sample: the vocabulary has " + std::to_string(logits.cols()) + " tokens, expected 1 to " +
                      std::to_string(kernel::largest_vocabulary));
  if (places.size() != rows || (forced && forced.size() != rows) || (rules && rules.size() != rows))
    throw shape_error("sample: " + std::to_string(rows) + " rows of logits, but " + std::to_string(places.size()) + " places, " +
                      std::to_string(forced.size()) + " forced tokens, " + std::to_string(rules.size()) + " rules");
  if (also >= logits.cols())
    throw shape_error("sample: the log-probability of token " + std::to_string(also) + " is wanted, the vocabulary has " +
                      std::to_string(logits.cols()));
  sampled_tokens<B> out{cx.template make_of<int>(rows), cx.template make_of<A>(rows), cx.template make_of<A>(rows)};
  if (also >= 0) out.also = cx.template make_of<A>(rows);
  B::for_rows(cx.queue(), rows,
              kernel::sample<T>{logits.data, rules.data, rule, places.data, forced.data, out.token.data, out.drawn.data, out.plain.data,
                                logits.cols(), random, also, out.also.data});
  return out;
}
/// One rule for all rows.
template <Backend B>
sampled_tokens<B> sample(context<B>& cx, const_tensor<B> logits, const sampling_rule& rule, philox random, indices<B> places,
                         indices<B> forced = {}, index_t also = -1) {
  check_rule(rule);
  return sample_rows<typename B::real>(cx, logits, rule, {}, random, places, forced, also);
}
/// A rule for every row, in host memory.
template <Backend B>
sampled_tokens<B> sample(context<B>& cx, const_tensor<B> logits, std::span<const sampling_rule> rules, philox random, indices<B> places,
                         indices<B> forced = {}, index_t also = -1) {
  for (const sampling_rule& rule : rules) check_rule(rule);
  const view<const sampling_rule, 1, typename B::space> there = cx.upload(rules, static_cast<index_t>(rules.size()));
  return sample_rows<typename B::real>(cx, logits, {}, there, random, places, forced, also);
}

}  // namespace ops
}  // namespace planlm
