/// Every objective that weighs tokens, forward and gradient in one pass over rows of logits:
///
///   loss = sum over rows of  w nll - h H,    nll = log W - (z_token - top),   H the entropy of the row, in nats
///   dz_i = w (p_i - [i = token]) + h p_i (log p_i + H)
///
/// w and h belong to a row and lie on the device. Plain likelihood, reward-weighted likelihood, REINFORCE with maximum entropy and their
/// relatives differ in w and h alone: a weight is a constant, whoever computed it gets no gradient. w may be negative.   [2306.00398]
///
/// A token below 0 masks its row: value and gradient 0; its weights are not read and may be NaN, so may its logits. (Not its hidden state:
/// 0 times NaN would reach the table.) Rules are those of ops/token_policy.hpp, and -nll is its log-probability of the token, bit for bit:
/// a policy's ratio to itself is 1. A token that its row's rules exclude has nll infinity and no gradient from w; with w = 0 it costs 0.
///
/// probability_floor f > 0: H is -sum (p + f) log(p + f), as published code has it with 1e-8; over 50,000 tokens that is up to .009 off.
/// The logits of all rows never exist at once. Sums of the loss are in double and in one order: two runs give the same bits.
#pragma once
#include <cmath>
#include <cstddef>
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/math.hpp>
#include <planlm/ops/token_policy.hpp>

namespace planlm {

/// What rows of tokens weigh. Where a view is empty all rows weigh the same.
template <Backend B>
struct token_weights {
  const_accum_tensor<B> likelihood = {};  // (N): w
  const_accum_tensor<B> entropy = {};     // (N): h
  typename B::accum uniform_likelihood = 1;
  typename B::accum uniform_entropy = 0;
  double probability_floor = 0;
};

/// An objective over tokens with its gradient at unit upstream.
template <Backend B>
struct token_objective_loss {
  accum_tensor<B> total;       // (1): likelihood - bonus
  accum_tensor<B> likelihood;  // (1): sum of w nll
  accum_tensor<B> bonus;       // (1): sum of h H
  accum_tensor<B> nll;         // (N), nats, unweighted; 0 where masked
  accum_tensor<B> entropy;     // (N), nats, unweighted; 0 where masked
  tensor<B> gradient;          // of the logits (N, V), or of the hidden states (N, C)
};

namespace ops {

namespace kernel {

/// nll and entropy of rows of constrained logits; the gradient takes the logits' place.
template <class T>
struct token_objective {
  using A = accum_of<T>;
  T* z;
  const int* token;                     // (rows)
  const A *likelihood_of, *entropy_of;  // (rows) or null
  A *nll, *entropy;
  index_t cols, stride;
  A uniform_likelihood, uniform_entropy, floor;
  PLANLM_HD index_t width() const { return cols; }
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    T* row = z + r * stride;
    if (token[r] < 0) {
      team.for_each(cols, [=](index_t i) { row[i] = T(A(0)); });
      if (team.leader()) nll[r] = entropy[r] = A(0);
      return;
    }
    const A w = likelihood_of ? likelihood_of[r] : uniform_likelihood, h = entropy_of ? entropy_of[r] : uniform_entropy;
    if (floor > A(0)) floored(team, r, row, w, h);
    else if (h == A(0)) exact<std::is_same_v<T, A>>(team, r, row, w, h);
    else exact<false>(team, r, row, w, h);
  }

 private:
  PLANLM_HD index_t chosen(index_t r) const { return token[r] < cols ? token[r] : cols - 1; }
  /// NaN says that there is none; its gradient would spoil every parameter.
  template <class Team>
  PLANLM_HD void without_distribution(const Team& team, index_t r, T* row) const {
    if (team.leader()) nll[r] = entropy[r] = A(NAN);
    team.for_each(cols, [=](index_t i) { row[i] = T(A(0)); });
  }
  /// Keep: one exponential a logit instead of three; the entropy's gradient needs the logits again.
  template <bool Keep, class Team>
  PLANLM_HD void exact(const Team& team, index_t r, T* row, A w, A h) const {
    const A given = A(row[chosen(r)]);
    const row_softmax<A> s = softmax_of_row<Keep>(team, row, cols);
    if (!s.distribution()) return without_distribution(team, r, row);
    const double log_whole = ::log(s.whole);
    const A of_row = s.entropy(log_whole);
    if (team.leader()) {
      nll[r] = -s.log_probability(given, log_whole);
      entropy[r] = of_row;
    }
    const bool takes = given - s.top > A(-INFINITY);
    gradient_of_row<Keep>(team, row, cols, row_upstream<A>{takes ? -w : A(0), A(0), -h, chosen(r), -1}, s.top, s.whole, of_row);
  }
  template <class Team>
  PLANLM_HD void floored(const Team& team, index_t r, T* row, A w, A h) const {
    const index_t n = cols, at = chosen(r);
    const A given = A(row[at]), least = floor;
    const row_softmax<A> s = softmax_of_row<false>(team, row, n);
    const A inverse = A(1 / s.whole), top = s.top, a = given - top > A(-INFINITY) ? w : A(0);
    if (!s.distribution()) return without_distribution(team, r, row);
    // An element of the row stays its lane's own: nobody has to wait for another.
    constexpr bool keep = std::is_same_v<T, A>;  // else probabilities are computed again rather than rounded
    const auto probability = [=](index_t i) { return math::exp(A(row[i]) - top) * inverse; };
    const A mean = team.template sum<A>(n, [=](index_t i) {
      const A p = probability(i);
      if constexpr (keep) row[i] = p;
      return p * math::log(p + least);
    });
    const auto kept = [=](index_t i) {
      if constexpr (keep) return A(row[i]);
      else return probability(i);
    };
    const A whole = team.template sum<A>(n, [=](index_t i) {
      const A q = kept(i) + least;
      return q * math::log(q);
    });
    if (team.leader()) {
      nll[r] = -s.log_probability(given, ::log(s.whole));
      entropy[r] = -whole;
    }
    team.for_each(n, [=](index_t i) {
      const A p = kept(i);  // where it is 0 the gradient is 0 (not -0) without a branch: the logarithm is the floor's at least
      row[i] = (i == at ? A(0) - a : A(0)) + p * (a + h * (math::log(p + least) - mean));
    });
  }
};

/// The sums of a loss over rows. What is masked or weighs 0 is not read.
template <class A>
struct token_objective_sums {
  const int* token;
  const A *likelihood_of, *entropy_of, *nll, *entropy;
  A uniform_likelihood, uniform_entropy;
  A *total, *likelihood, *bonus;
  index_t rows;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const double l = weighted(team, likelihood_of, uniform_likelihood, nll), h = weighted(team, entropy_of, uniform_entropy, entropy);
    if (!team.leader()) return;
    likelihood[0] = A(l);
    bonus[0] = A(h);
    total[0] = A(l - h);
  }

 private:
  template <class Team>
  PLANLM_HD double weighted(const Team& team, const A* weight, A uniform, const A* value) const {
    const int* t = token;
    return team.template sum<double>(rows, [=](index_t r) {
      if (t[r] < 0) return 0.0;
      const A w = weight ? weight[r] : uniform;
      return w == A(0) ? 0.0 : double(w) * double(value[r]);
    });
  }
};

}  // namespace kernel

namespace objective_rows {

template <Backend B>
void check(const char* who, index_t rows, index_t vocabulary, indices<B> tokens, const token_rules<B>& rules, const token_weights<B>& w) {
  policy_rows::check(who, rows, vocabulary, tokens, rules);
  const auto fits = [&](const const_accum_tensor<B>& each) {
    if (each && each.size() != rows)
      throw shape_error(std::string(who) + ": " + std::to_string(rows) + " rows, but " + std::to_string(each.size()) + " weights");
  };
  fits(w.likelihood), fits(w.entropy);
  if (!(w.probability_floor >= 0 && w.probability_floor < 1))
    throw error(std::string(who) + ": the floor of probabilities is " + std::to_string(w.probability_floor) +
                ", expected 0 or above, below 1");
}
template <Backend B>
token_objective_loss<B> make(context<B>& cx, index_t rows, index_t cols) {
  using A = typename B::accum;
  const auto number = [&](index_t n) { return cx.template make_of<A>(n); };
  return {number(1), number(1), number(1), number(rows), number(rows), cx.make(rows, cols)};
}
template <Backend B>
void block(context<B>& cx, const policy_rows::block<B>& b, indices<B> tokens, const token_weights<B>& w,
           const token_objective_loss<B>& out) {
  using A = typename B::accum;
  B::for_rows(cx.queue(), b.rows,
              kernel::token_objective<typename B::real>{b.z, tokens.data + b.begin, policy_rows::from(w.likelihood, b.begin),
                                                        policy_rows::from(w.entropy, b.begin), out.nll.data + b.begin,
                                                        out.entropy.data + b.begin, b.cols, b.stride, w.uniform_likelihood,
                                                        w.uniform_entropy, A(w.probability_floor)});
}
template <Backend B>
void sums(context<B>& cx, indices<B> tokens, const token_weights<B>& w, const token_objective_loss<B>& out) {
  B::for_rows(cx.queue(), 1,
              kernel::token_objective_sums<typename B::accum>{tokens.data, w.likelihood.data, w.entropy.data, out.nll.data,
                                                              out.entropy.data, w.uniform_likelihood, w.uniform_entropy, out.total.data,
                                                              out.likelihood.data, out.bonus.data, tokens.size()});
}

}  // namespace objective_rows

/// Logits that are there already: z (N, V), unconstrained, left as they are; tokens (N).
/// Errors: shape_error; planlm::error for a floor that is no probability.
template <Backend B>
token_objective_loss<B> token_objective(context<B>& cx, const_tensor<B> z, indices<B> tokens, const token_weights<B>& weights,
                                        const token_rules<B>& rules = {}) {
  objective_rows::check("token_objective", z.rows(), z.cols(), tokens, rules, weights);
  const token_objective_loss<B> out = objective_rows::make(cx, z.rows(), z.cols());
  B::copy(cx.queue(), out.gradient.data, z.data, static_cast<std::size_t>(z.size()) * sizeof(typename B::real));
  const policy_rows::block<B> all{out.gradient.data, 0, z.rows(), z.cols(), z.cols()};
  policy_rows::constrain(cx, all, rules);
  objective_rows::block(cx, all, tokens, weights, out);
  objective_rows::sums(cx, tokens, weights, out);
  return out;
}

/// hidden (N, C), table (V, C), tokens (N), by blocks of rows: logits, loss, gradient in their place and its two products.
/// dtable += or empty.
/// Errors: shape_error; planlm::error for a floor that is no probability.
template <Backend B>
token_objective_loss<B> linear_token_objective(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, indices<B> tokens,
                                               const token_weights<B>& weights, tensor<B> dtable, const token_rules<B>& rules = {}) {
  const char* const who = "linear_token_objective";
  objective_rows::check(who, hidden.rows(), table.rows(), tokens, rules, weights);
  policy_rows::check_widths(who, hidden, table);
  policy_rows::check_gradient(who, table, dtable);
  const token_objective_loss<B> out = objective_rows::make(cx, hidden.rows(), hidden.cols());
  policy_rows::each_block(cx, hidden, table, rules, [&](const policy_rows::block<B>& b) {
    objective_rows::block(cx, b, tokens, weights, out);
    policy_rows::products(cx, b, hidden, table, out.gradient, dtable);
  });
  objective_rows::sums(cx, tokens, weights, out);
  return out;
}

}  // namespace ops
}  // namespace planlm
