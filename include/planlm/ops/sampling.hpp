/// Tokens drawn from rows of logits: temperature, top-k, top-p or the most probable one; with the log-probabilities of what was drawn.
///
/// A draw is argmax over candidates of (z_i - max z) / temperature + G_i, G_i = -log(-log U_i): the Gumbel-max form of the softmax.
/// U_i is word i of the counter-based stream at the row's place, so a draw depends on neither the number of threads nor on the other rows,
/// and CPU and GPU draw the same token from the same logits: keys are formed in double, where two of them are as good as never within
/// rounding of each other (equal ones, less than 2^-30 of a nat apart, go to the lower index).
/// Candidates are those at or above a bound that is found by bisection over the ordered bits of a logit: for top-k by counting, for top-p by
/// summing probabilities in integers, whose sum has no order. Equal logits stay or go together. top-p acts on what top-k left, both after the
/// temperature. A row that holds a NaN, or no finite logit, gives token -1 and log-probabilities NaN.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/math.hpp>

namespace planlm {

/// How one row is drawn. The default is the whole softmax.
struct sampling_rule {
  double temperature = 1;
  double top_p = 1;                               // smallest set of most probable tokens that holds this much probability
  int top_k = std::numeric_limits<int>::max();    // at most so many tokens, but for equal ones
  bool greedy = false;                            // the most probable token, the lowest of several; nothing is drawn
};

/// Errors: planlm::error for a temperature not above 0, top_k below 1, top_p outside (0, 1].
inline void check_rule(const sampling_rule& rule) {
  if (!(rule.temperature > 0) || std::isinf(rule.temperature))
    throw error("sampling: the temperature is " + std::to_string(rule.temperature) +
                ", expected a number above 0; for the most probable token set greedy");
  if (rule.top_k < 1) throw error("sampling: top_k is " + std::to_string(rule.top_k) + ", expected at least 1; leave it out for all tokens");
  if (!(rule.top_p > 0 && rule.top_p <= 1)) throw error("sampling: top_p is " + std::to_string(rule.top_p) + ", expected in (0, 1]");
}

namespace ops {

namespace kernel {

/// The bits of x as an integer in the order of the numbers; both zeros are one. Not for NaN.
PLANLM_HD inline std::int64_t ordered(float x) {
  const auto bits = __builtin_bit_cast(std::int32_t, x);
  return x == 0 ? 0 : bits >= 0 ? bits : -std::int64_t{bits & 0x7FFFFFFF};
}
PLANLM_HD inline std::int64_t ordered(double x) {
  const auto bits = __builtin_bit_cast(std::int64_t, x);
  return x == 0 ? 0 : bits >= 0 ? bits : -(bits & 0x7FFFFFFFFFFFFFFF);
}

/// A probability in units of 2^-40 of the most probable token's.
template <class A>
PLANLM_HD std::uint64_t integer_mass(A shifted) {
  return static_cast<std::uint64_t>(math::exp(shifted) * A(0x1p40));
}

inline constexpr std::int64_t below_all = std::numeric_limits<std::int64_t>::min();  // of ordered bits
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

  PLANLM_HD index_t width() const { return cols; }

  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* row = z + r * cols;
    const index_t n = cols;
    const sampling_rule how = rules ? rules[r] : rule;
    const A top = team.template max<A>(n, [=](index_t i) { return A(row[i]); });
    const double whole = team.template sum<double>(n, [=](index_t i) { return double(math::exp(A(row[i]) - top)); });
    if (!(whole < INFINITY)) {
      if (team.leader()) token[r] = -1, drawn[r] = plain[r] = A(NAN);
      return;
    }
    // The lowest index of the largest logit.
    const index_t first = -team.template max<index_t>(n, [=](index_t i) { return A(row[i]) == top ? -i : -n; });
    const A beta = A(1 / how.temperature);
    std::int64_t bound = below_all;
    if (!how.greedy && how.top_k < n) bound = top_k_bound(team, row, top, how.top_k);
    if (!how.greedy && how.top_p < 1) bound = top_p_bound(team, row, top, beta, bound, how.top_p);
    const index_t given = forced ? forced[r] : -1;
    const index_t chosen = given >= 0 ? (given < n ? given : n - 1) : how.greedy ? first : draw(team, row, top, beta, bound, first, r);
    const std::int64_t b = bound;
    const double kept = how.greedy ? 1 : team.template sum<double>(n, [=](index_t i) {
      const A v = A(row[i]);
      return ordered(v) >= b ? double(math::exp(beta * (v - top))) : 0.0;
    });
    if (team.leader()) {
      const A v = A(row[chosen]);
      const bool candidate = how.greedy ? chosen == first : ordered(v) >= b;
      token[r] = static_cast<int>(chosen);
      plain[r] = A(double(v - top) - ::log(whole));
      drawn[r] = !candidate ? A(-INFINITY) : how.greedy ? A(0) : A(double(beta * (v - top)) - ::log(kept));
    }
  }

 private:
  /// The largest bound that at least k logits reach.
  template <class Team>
  PLANLM_HD std::int64_t top_k_bound(const Team& team, const T* row, A top, index_t k) const {
    std::int64_t low = ordered(A(-INFINITY)), high = ordered(top) + 1;  // at least k reach `low`, fewer reach `high`
    while (low + 1 < high) {
      const std::int64_t middle = between(low, high);
      const auto count = team.template sum<std::int64_t>(cols, [=](index_t i) {
        return std::int64_t{ordered(A(row[i])) >= middle};
      });
      (count >= k ? low : high) = middle;
      if (count == k) break;
    }
    return low;
  }
  /// The largest bound whose candidates hold p of the probability of those at or above `least`.
  template <class Team>
  PLANLM_HD std::int64_t top_p_bound(const Team& team, const T* row, A top, A beta, std::int64_t least, double p) const {
    const auto mass_from = [&](std::int64_t from) {
      return team.template sum<std::uint64_t>(cols, [=](index_t i) {
        const A v = A(row[i]);
        return ordered(v) >= from ? integer_mass(beta * (v - top)) : std::uint64_t{0};
      });
    };
    std::int64_t low = least, high = ordered(top) + 1;
    if (low < ordered(A(-INFINITY))) low = ordered(A(-INFINITY));
    const double wanted = p * double(mass_from(low));
    for (int step = 1; low + 1 < high; ++step) {
      std::int64_t middle = between(low, high);
      // Now and then the next logit below `high`: once nothing lies between, that is the bound.
      const bool next = step % 4 == 0;
      if (next) {
        const std::int64_t l = low, h = high;
        middle = team.template max<std::int64_t>(cols, [=](index_t i) {
          const std::int64_t v = ordered(A(row[i]));
          return v < h && v > l ? v : l;
        });
        if (middle == low) break;
      }
      const bool enough = double(mass_from(middle)) >= wanted;
      (enough ? low : high) = middle;
      if (next && enough) break;
    }
    return low;
  }
  /// The candidate with the largest key. Its key and index travel as one integer: 42 bits of the key's order, then the index from above.
  template <class Team>
  PLANLM_HD index_t draw(const Team& team, const T* row, A top, A beta, std::int64_t bound, index_t first, index_t r) const {
    constexpr std::int64_t low_bits = largest_vocabulary - 1;
    const index_t n = cols;
    const auto at = static_cast<std::uint64_t>(place[r]);
    const philox words = random;
    // A lane's own best so far spares it most logarithms: a key is at most z / temperature + 22.9, and at most that + -log(1 - U).
    double best = gumbel(words.word(at, static_cast<std::uint32_t>(first)));
    const std::int64_t key = team.template max<std::int64_t>((n + 3) / 4, [=](index_t block) mutable {
      std::int64_t found = below_all;
      random_block bits{};
      bool have_bits = false;
      for (index_t j = 0; j < 4; ++j) {
        const index_t i = 4 * block + j;
        if (i >= n) break;
        const A v = A(row[i]);
        const A shifted = beta * (v - top);
        if (ordered(v) < bound || double(shifted) + 22.9 < best) continue;
        if (!have_bits) bits = words.bits(at, static_cast<std::uint32_t>(block)), have_bits = true;
        const float beyond = (static_cast<float>(~bits.word[j]) + 0.5f) * 0x1p-32f;
        if (float(shifted) - math::log(beyond) + 1e-3f < float(best)) continue;
        const double own = double(shifted) + gumbel(bits.word[j]);
        if (own < best) continue;
        best = own;
        const std::int64_t packed = (ordered(own) & ~low_bits) | (low_bits - i);
        found = packed > found ? packed : found;
      }
      return found;
    });
    return low_bits - (key & low_bits);
  }
  /// Halfway, rounded down; the difference of two doubles' ordered bits need not fit.
  PLANLM_HD static std::int64_t between(std::int64_t low, std::int64_t high) { return (low >> 1) + (high >> 1) + (low & high & 1); }
  /// -log(-log u) of a word's u, which is an odd multiple of 2^-33: all 32 bits count, so that equal draws are rare at any vocabulary.
  PLANLM_HD static double gumbel(std::uint32_t word) { return -::log(-::log((double(word) + 0.5) * 0x1p-32)); }
};

}  // namespace kernel

/// What was drawn. `drawn`: log-probability under the distribution it came from (0 under greedy, -infinity for a forced token that
/// could not have been drawn); `plain`: under the softmax of the logits as they are. Nats.
template <Backend B>
struct sampled_tokens {
  view<int, 1, typename B::space> token;                         // (S)
  view<typename B::accum, 1, typename B::space> drawn, plain;    // (S)
};

/// logits (S, V) of the backend's number type or of its accum; one rule for all rows, or one each (checked by check_rules).
/// places (S), not negative: where in its stream a row draws, e.g. sequence * length + position; the same place, step, stream and logits
/// give the same token. forced (S) or empty: a token that is not negative is taken instead of drawn, and scored by the same sums, bit for bit.
/// Errors: shape_error, planlm::error for a rule that is none.
template <class T, Backend B>
sampled_tokens<B> sample_rows(context<B>& cx, view<const T, 2, typename B::space> logits, const sampling_rule& rule,
                              view<const sampling_rule, 1, typename B::space> rules, philox random, indices<B> places, indices<B> forced) {
  using A = typename B::accum;
  static_assert(std::is_same_v<accum_of<T>, A>, "planlm::sample: the logits are of the backend's number type or of its accum");
  const index_t rows = logits.rows();
  if (logits.cols() < 1 || logits.cols() > kernel::largest_vocabulary)
    throw shape_error("sample: the vocabulary has " + std::to_string(logits.cols()) + " tokens, expected 1 to " +
                      std::to_string(kernel::largest_vocabulary));
  if (places.size() != rows || (forced && forced.size() != rows) || (rules && rules.size() != rows))
    throw shape_error("sample: " + std::to_string(rows) + " rows of logits, but " + std::to_string(places.size()) + " places, " +
                      std::to_string(forced.size()) + " forced tokens, " + std::to_string(rules.size()) + " rules");
  sampled_tokens<B> out{cx.template make_of<int>(rows), cx.template make_of<A>(rows), cx.template make_of<A>(rows)};
  B::for_rows(cx.queue(), rows,
              kernel::sample<T>{logits.data, rules.data, rule, places.data, forced.data, out.token.data, out.drawn.data, out.plain.data,
                                logits.cols(), random});
  return out;
}
/// One rule for all rows.
template <Backend B>
sampled_tokens<B> sample(context<B>& cx, const_tensor<B> logits, const sampling_rule& rule, philox random, indices<B> places,
                         indices<B> forced = {}) {
  check_rule(rule);
  return sample_rows<typename B::real>(cx, logits, rule, {}, random, places, forced);
}
/// A rule for every row, in host memory.
template <Backend B>
sampled_tokens<B> sample(context<B>& cx, const_tensor<B> logits, std::span<const sampling_rule> rules, philox random, indices<B> places,
                         indices<B> forced = {}) {
  for (const sampling_rule& rule : rules) check_rule(rule);
  const view<const sampling_rule, 1, typename B::space> there = cx.upload(rules, static_cast<index_t>(rules.size()));
  return sample_rows<typename B::real>(cx, logits, {}, there, random, places, forced);
}

}  // namespace ops
}  // namespace planlm
