/// The head of a policy over tokens that may stop at every prefix: per row the log-probabilities of the token taken and of the stop, and
/// the entropy, from hidden states and the token table. The N x V logits never exist at once; the pullback makes them again.
///
///   log p = z - top - log W,  W = sum_i e^(z_i - top);   H = log W - (1 / W) sum_i e^(z_i - top) (z_i - top)
///   dz_i = a [i = taken] + c [i = stop] - p_i ((a + c) + h (log p_i + H))     with upstreams a, c, h of the three values.
/// Without h that is the gradient of the log-probabilities that 2310.04363 trains. Where a + c = 0, as at the root of a trajectory under a
/// loss of differences, only the two entries of a row have a gradient, exactly. a = -weight alone is a weighted nll.
///
/// Rules change logits before the softmax, through `constrain`, for the sampler as for the scorer: z + penalty; -infinity at the stop where
/// it is forbidden, and everywhere else where it is forced. A logit of -infinity has probability 0 and gradient 0. A token that its row's
/// rules exclude, as a replayed action may be, has log-probability -infinity; its upstream is not read. A row without a finite logit has no
/// distribution: values NaN, as ops::sample has them, gradient 0. Values are those of ops::sample's `plain` for the same logits, bit for
/// bit: the exponentials of a row are summed in double by the same team in the same order.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/math.hpp>
#include <planlm/core/vjp.hpp>
#include <planlm/ops/cross_entropy.hpp>

namespace planlm {

/// Whether a row may choose the stop, may not, or may choose nothing else.
enum class stop_rule : int { free = 0, forbidden = 1, forced = 2 };

/// What the rows of a policy may choose.
template <Backend B>
struct token_rules {
  int stop = -1;                       // the token that ends; -1: there is none, and `stopping` is not read
  indices<B> stopping = {};            // (N) stop_rule of each row, as int; empty: all free
  const_accum_tensor<B> penalty = {};  // (V) added to the logits, finite or -infinity; empty: none. A forced stop is spared
};

namespace ops {

namespace kernel {

/// z (rows, cols), row r at z + r stride, under the rules.
template <class T>
struct constrain {
  using A = accum_of<T>;
  T* z;
  const int* stopping;  // (rows) or null
  const A* penalty;     // (cols) or null
  index_t cols, stride, stop;
  PLANLM_HD index_t width() const { return cols; }
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* row = z + r * stride;
    const A* add = penalty;
    const index_t at = stop;
    const int rule = stopping && at >= 0 ? stopping[r] : static_cast<int>(stop_rule::free);
    if (rule == static_cast<int>(stop_rule::forced)) {
      team.for_each(cols, [=](index_t i) {
        if (i != at) row[i] = T(A(-INFINITY));
      });
      return;
    }
    if (add) team.for_each(cols, [=](index_t i) { row[i] = A(row[i]) + add[i]; });
    if (rule != static_cast<int>(stop_rule::forbidden)) return;
    team.sync();  // the leader need not be who added the penalty
    if (team.leader()) row[at] = T(A(-INFINITY));
  }
};

/// The sums over a row of constrained logits that its softmax is made of.
template <class A>
struct row_softmax {
  A top;         // the largest logit
  A around;      // sum of e^(z - top) (z - top)
  double whole;  // sum of e^(z - top)
  PLANLM_HD bool distribution() const { return whole < INFINITY; }  // false for NaN, too
  PLANLM_HD A log_probability(A z, double log_whole) const { return distribution() ? A(double(z - top) - log_whole) : A(NAN); }
  PLANLM_HD A entropy(double log_whole) const { return distribution() ? A(log_whole - double(around) / whole) : A(NAN); }
};
/// Keep: the exponentials take the logits' place. What a lane has read before, others may write after.
template <bool Keep, class T, class Team>
PLANLM_HD row_softmax<accum_of<T>> softmax_of_row(const Team& team, T* row, index_t n) {
  using A = accum_of<T>;
  const A top = team.template max<A>(n, [=](index_t i) { return A(row[i]); });
  team.sync();
  const A around = team.template sum<A>(n, [=](index_t i) {
    const A v = A(row[i]) - top, e = math::exp(v);
    if constexpr (Keep) row[i] = e;
    return e * (v > A(-1e4) ? v : A(-1e4));  // e is 0 there: -infinity adds nothing, and the product is no branch
  });
  team.sync();
  // Values of A, added in double: exponentials that are computed here become vectors.
  const double whole = team.template sum<double>(n, [=](index_t i) { return Keep ? A(row[i]) : math::exp(A(row[i]) - top); });
  return {top, around, whole};
}
/// Upstreams of a row's values: of log p(token), of log p(stop), of the entropy.
template <class A>
struct row_upstream {
  A token, stop, entropy;
  index_t token_at, stop_at;
};
/// The gradient of a row of constrained logits in their place; of a row of kept exponentials if there is no upstream of the entropy.
template <bool Kept, class T, class Team>
PLANLM_HD void gradient_of_row(const Team& team, T* row, index_t n, const row_upstream<accum_of<T>>& up, accum_of<T> top, double whole,
                               accum_of<T> entropy) {
  using A = accum_of<T>;
  const A a = up.token, c = up.stop, h = up.entropy, both = a + c;
  const index_t chosen = up.token_at, end = up.stop_at;
  team.sync();  // every lane has read what it needs before the owners write
  const auto picked = [=](index_t i) { return (i == chosen ? a : A(0)) + (i == end ? c : A(0)); };
  if (both == A(0) && h == A(0)) {
    team.for_each(n, [=](index_t i) { row[i] = picked(i); });
    return;
  }
  const A inverse = A(1 / whole);
  if (h == A(0)) {
    const A factor = both * inverse;
    team.for_each(n, [=](index_t i) { row[i] = picked(i) - (Kept ? A(row[i]) : math::exp(A(row[i]) - top)) * factor; });
    return;
  }
  if constexpr (!Kept) {
    const A shift = entropy - A(::log(whole));
    team.for_each(n, [=](index_t i) {
      const A v = A(row[i]) - top, p = math::exp(v) * inverse;
      row[i] = picked(i) - (p > A(0) ? p * (both + h * (v + shift)) : A(0));
    });
  }
}

/// Values of rows of constrained logits, and what their gradient needs: the largest logit and the sum of exponentials. The logits are lost.
template <class T>
struct token_policy {
  using A = accum_of<T>;
  T* z;
  const int* token;  // (rows)
  A *taken, *stop_value, *entropy, *top_of;
  double* whole_of;
  index_t cols, stride, stop;
  PLANLM_HD index_t width() const { return cols; }
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* row = z + r * stride;
    const index_t n = cols, given = token[r];
    const A at_token = A(row[given < 0 ? 0 : given < n ? given : n - 1]), at_stop = A(row[stop < 0 ? 0 : stop]);
    // In narrow storage the exponentials are computed again rather than rounded twice.
    const row_softmax<A> s = softmax_of_row<std::is_same_v<T, A>>(team, row, n);
    if (!team.leader()) return;
    const double log_whole = ::log(s.whole);
    taken[r] = given < 0 ? A(0) : s.log_probability(at_token, log_whole);
    stop_value[r] = stop < 0 ? A(-INFINITY) : s.log_probability(at_stop, log_whole);
    entropy[r] = s.entropy(log_whole);
    top_of[r] = s.top;
    whole_of[r] = s.whole;
  }
};

/// The gradient of rows of constrained logits, in their place. Upstreams (rows), null for zero.
template <class T>
struct token_policy_pullback {
  using A = accum_of<T>;
  T* z;
  const int *token, *stopping;  // stopping may be null
  const A *dtaken, *dstop, *dentropy;
  const A *entropy, *top_of;
  const double* whole_of;
  index_t cols, stride, stop;
  PLANLM_HD index_t width() const { return cols; }
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* row = z + r * stride;
    const index_t n = cols, given = token[r], chosen = given < n ? given : n - 1, end = stop;
    const A top = top_of[r];
    const bool forced = stopping && end >= 0 && stopping[r] == static_cast<int>(stop_rule::forced);
    // What cannot be chosen has no gradient, and its upstream may be anything.
    const bool takes = dtaken && !forced && given >= 0 && A(row[chosen]) - top > A(-INFINITY);
    const bool stops = dstop && !forced && end >= 0 && A(row[end]) - top > A(-INFINITY);
    const row_upstream<A> up{takes ? dtaken[r] : A(0), stops ? dstop[r] : A(0), dentropy && !forced ? dentropy[r] : A(0), chosen, end};
    gradient_of_row<false>(team, row, n, up, top, whole_of[r], entropy[r]);
  }
};

}  // namespace kernel

/// Values of the rows of a policy, in nats.
template <Backend B>
struct token_policy_values {
  accum_tensor<B> taken;    // (N) log p(token); 0 where none was taken, -infinity where it could not be
  accum_tensor<B> stop;     // (N) log p(stop); -infinity where it is forbidden or there is none, 0 where it is forced
  accum_tensor<B> entropy;  // (N) of what the rules left
};

/// What the gradient of rows of logits needs besides the logits.
template <Backend B>
struct token_policy_kept {
  accum_tensor<B> top;                       // (N) the largest logit
  view<double, 1, typename B::space> whole;  // (N) sum of e^(z - top)
};

namespace policy_rows {

template <Backend B>
void check(const char* who, index_t rows, index_t vocabulary, indices<B> tokens, const token_rules<B>& rules) {
  const std::string name = who;
  if (vocabulary < 1) throw shape_error(name + ": there are no tokens to choose from");
  if (tokens.size() != rows)
    throw shape_error(name + ": " + std::to_string(rows) + " rows, but " + std::to_string(tokens.size()) + " tokens");
  if (rules.stop >= vocabulary)
    throw shape_error(name + ": the stop is token " + std::to_string(rules.stop) + ", the vocabulary has " + std::to_string(vocabulary));
  if (rules.stopping && rules.stopping.size() != rows)
    throw shape_error(name + ": " + std::to_string(rows) + " rows, but " + std::to_string(rules.stopping.size()) + " stop rules");
  if (rules.penalty && rules.penalty.size() != vocabulary)
    throw shape_error(name + ": the vocabulary has " + std::to_string(vocabulary) + " tokens, but there are " +
                      std::to_string(rules.penalty.size()) + " penalties");
}
template <Backend B>
void check_upstream(const char* who, index_t rows, std::initializer_list<const_accum_tensor<B>> upstreams) {
  for (const const_accum_tensor<B>& upstream : upstreams)
    if (upstream && upstream.size() != rows)
      throw shape_error(std::string(who) + ": an upstream gradient has " + std::to_string(upstream.size()) + " values, expected " +
                        std::to_string(rows) + " or none");
}

template <class T, class U, class S>
void check_widths(const char* who, view<T, 2, S> hidden, view<U, 2, S> table) {
  if (hidden.cols() != table.cols())
    throw shape_error(std::string(who) + ": hidden has " + std::to_string(hidden.cols()) + " columns, the table " +
                      std::to_string(table.cols()));
}
template <class T, class U, class S>
void check_gradient(const char* who, view<T, 2, S> table, view<U, 2, S> dtable) {
  if (dtable && !same_shape(dtable, table))
    throw shape_error(std::string(who) + ": the table is (" + std::to_string(table.rows()) + ", " + std::to_string(table.cols()) +
                      "), its gradient (" + std::to_string(dtable.rows()) + ", " + std::to_string(dtable.cols()) + ")");
}

/// A block of logits: rows [begin, begin + rows) of the policy, in z.
template <Backend B>
struct block {
  typename B::real* z;
  index_t begin, rows, cols, stride;
};
template <class T, class S>
T* from(view<T, 1, S> v, index_t begin) {
  return v ? v.data + begin : nullptr;
}
template <Backend B>
bool any(const token_rules<B>& rules) {
  return rules.penalty || (rules.stop >= 0 && rules.stopping);
}

template <Backend B>
void constrain(context<B>& cx, const block<B>& b, const token_rules<B>& rules) {
  if (!any(rules)) return;
  B::for_rows(cx.queue(), b.rows, kernel::constrain<typename B::real>{b.z, from(rules.stopping, b.begin), rules.penalty.data, b.cols,
                                                                      b.stride, rules.stop});
}
template <Backend B>
void values(context<B>& cx, const block<B>& b, indices<B> tokens, const token_rules<B>& rules, const token_policy_values<B>& out,
            const token_policy_kept<B>& kept) {
  B::for_rows(cx.queue(), b.rows,
              kernel::token_policy<typename B::real>{b.z, tokens.data + b.begin, out.taken.data + b.begin, out.stop.data + b.begin,
                                                     out.entropy.data + b.begin, kept.top.data + b.begin, kept.whole.data + b.begin,
                                                     b.cols, b.stride, rules.stop});
}
template <Backend B>
void pullback(context<B>& cx, const block<B>& b, indices<B> tokens, const token_rules<B>& rules, const_accum_tensor<B> dtaken,
              const_accum_tensor<B> dstop, const_accum_tensor<B> dentropy, const_accum_tensor<B> entropy,
              const token_policy_kept<B>& kept) {
  B::for_rows(cx.queue(), b.rows,
              kernel::token_policy_pullback<typename B::real>{
                  b.z, tokens.data + b.begin, from(rules.stopping, b.begin), from(dtaken, b.begin), from(dstop, b.begin),
                  from(dentropy, b.begin), entropy.data + b.begin, kept.top.data + b.begin, kept.whole.data + b.begin, b.cols, b.stride,
                  rules.stop});
}
/// f(block of constrained logits hidden tableᵀ), for one block of rows after another.
template <Backend B, class F>
void each_block(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, const token_rules<B>& rules, const F& f) {
  const index_t n = hidden.rows(), cols = table.rows(), step = cross_entropy_rows<B>(n, cols), stride = logit_stride<B>(cols);
  auto scope = cx.scope();
  auto* const z = cx.make(step, stride).data;
  for (index_t begin = 0; begin < n; begin += step) {
    const block<B> b{z, begin, std::min(n - begin, step), cols, stride};
    B::gemm(cx.queue(), 1, plain(row_range(hidden, begin, begin + b.rows)), transposed(table), {z, b.rows, cols, stride, 1}, into::replace);
    constrain(cx, b, rules);
    f(b);
  }
}
/// What the gradient of a block of logits is worth to hidden (=) and table (+=, or empty).
template <Backend B>
void products(context<B>& cx, const block<B>& b, const_tensor<B> hidden, const_tensor<B> table, tensor<B> dhidden, tensor<B> dtable) {
  const index_t end = b.begin + b.rows;
  B::gemm(cx.queue(), 1, {b.z, b.rows, b.cols, b.stride, 1}, plain(table), plain(row_range(dhidden, b.begin, end)), into::replace);
  if (dtable)
    B::gemm(cx.queue(), 1, {b.z, b.cols, b.rows, 1, b.stride}, plain(row_range(hidden, b.begin, end)), plain(dtable), into::add);
}
template <Backend B>
token_policy_values<B> make_values(context<B>& cx, index_t rows) {
  using A = typename B::accum;
  return {cx.template make_of<A>(rows), cx.template make_of<A>(rows), cx.template make_of<A>(rows)};
}
template <Backend B>
token_policy_kept<B> make_kept(context<B>& cx, index_t rows) {
  return {cx.template make_of<typename B::accum>(rows), cx.template make_of<double>(rows)};
}

}  // namespace policy_rows

/// z (N, V) in place: + penalty, -infinity at the stop where it is forbidden and everywhere else where it is forced. What a sampler draws
/// from and what a scorer scores both come through here. Errors: shape_error.
template <Backend B>
void constrain(context<B>& cx, tensor<B> z, const token_rules<B>& rules) {
  policy_rows::check<B>("constrain", z.rows(), z.cols(), indices<B>(nullptr, z.rows()), rules);
  policy_rows::constrain<B>(cx, {z.data, 0, z.rows(), z.cols(), z.cols()}, rules);
}

/// Logits that are there already, of a table of them: z (N, V), unconstrained, tokens (N; below 0: none taken).
///   pullback(dtaken, dstop, dentropy) -> dz (N, V); each upstream (N) or empty. z must live until then.
/// Errors: shape_error.
template <Backend B>
auto token_policy(context<B>& cx, const_tensor<B> z, indices<B> tokens, const token_rules<B>& rules) {
  using T = typename B::real;
  using given = const_accum_tensor<B>;
  policy_rows::check("token_policy", z.rows(), z.cols(), tokens, rules);
  const auto copied = [&cx, z, rules] {
    auto copy = cx.make(z.rows(), z.cols());
    B::copy(cx.queue(), copy.data, z.data, static_cast<std::size_t>(z.size()) * sizeof(T));
    policy_rows::constrain<B>(cx, {copy.data, 0, z.rows(), z.cols(), z.cols()}, rules);
    return policy_rows::block<B>{copy.data, 0, z.rows(), z.cols(), z.cols()};
  };
  const token_policy_values<B> out = policy_rows::make_values(cx, z.rows());
  const token_policy_kept<B> kept = policy_rows::make_kept(cx, z.rows());
  {
    auto scope = cx.scope();
    policy_rows::values(cx, copied(), tokens, rules, out, kept);
  }
  return vjp{out, [&cx, copied, z, tokens, rules, kept, entropy = given(out.entropy)](given dtaken, given dstop, given dentropy) {
               policy_rows::check_upstream<B>("token_policy", z.rows(), {dtaken, dstop, dentropy});
               const policy_rows::block<B> dz = copied();
               policy_rows::pullback(cx, dz, tokens, rules, dtaken, dstop, dentropy, entropy, kept);
               return tensor<B>(dz.z, dz.rows, dz.cols);
             }};
}

/// hidden (N, C), table (V, C), tokens (N; below 0: none taken), by blocks of rows: constrained logits of a block, then its values; in the
/// pullback the logits again, the gradient in their place, and its two products. Per row a logit and a sum are kept.
///   pullback(dtaken, dstop, dentropy, dtable) -> dhidden (N, C); each upstream (N) or empty; dtable += or empty. hidden, table, tokens and
///   rules must live until then. Where dentropy is empty, or 0 in a row, nothing is computed for it.
/// Errors: shape_error.
template <Backend B>
auto linear_token_policy(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> tokens, const token_rules<B>& rules) {
  using given = const_accum_tensor<B>;
  const index_t rows = hidden.rows(), vocabulary = table.rows();
  policy_rows::check("linear_token_policy", rows, vocabulary, tokens, rules);
  policy_rows::check_widths("linear_token_policy", hidden, table);
  const token_policy_values<B> out = policy_rows::make_values(cx, rows);
  const token_policy_kept<B> kept = policy_rows::make_kept(cx, rows);
  policy_rows::each_block(cx, hidden, table, rules,
                          [&](const policy_rows::block<B>& b) { policy_rows::values(cx, b, tokens, rules, out, kept); });
  return vjp{out, [&cx, hidden, table, tokens, rules, kept, entropy = given(out.entropy)](given dtaken, given dstop, given dentropy,
                                                                                                 tensor<B> dtable) {
               policy_rows::check_upstream<B>("linear_token_policy", hidden.rows(), {dtaken, dstop, dentropy});
               policy_rows::check_gradient("linear_token_policy", table, dtable);
               if (!dtaken && !dstop && !dentropy) return cx.make_zero(hidden.rows(), hidden.cols());
               const tensor<B> dhidden = cx.make(hidden.rows(), hidden.cols());
               policy_rows::each_block(cx, hidden, table, rules, [&](const policy_rows::block<B>& b) {
                 policy_rows::pullback(cx, b, tokens, rules, dtaken, dstop, dentropy, entropy, kept);
                 policy_rows::products(cx, b, hidden, table, dhidden, dtable);
               });
               return dhidden;
             }};
}

}  // namespace ops
}  // namespace planlm
