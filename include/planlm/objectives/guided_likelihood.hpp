/// A language model trained with rewards of single tokens: REINFORCE with maximum entropy where the tokens are its own samples,
/// reward-weighted likelihood where they are references.
///
///   maximum entropy   loss = (1 / M) sum over tokens of  r nll - alpha H,   M the tokens of the batch
///   reward-weighted   loss = (1 / S) sum over sequences of sum_t w_t nll_t,   w_t = r_t / sum of the sequence's r
///   mixture           reward-weighted on references + c (1 / M) sum r nll - a (1 / M) sum H on samples          [2306.00398 section 3]
///
/// Rewards are constants: views of const values come in and no gradient of them goes out. A reward may be the token's own or everything
/// from it to the end (to_go), and may pass through e^r before. Every token's reward raises its probability, for there is no baseline:
/// entropy is what keeps the policy from collapsing. One step's optimum of the first form is softmax(r / alpha).
///
/// Reward-weighted, the weights of a sequence add up to 1 whatever the rewards' scale, and a constant reward gives the mean over sequences
/// of their mean nll: a short reference weighs as much as a long one, and the loss is not to be compared with the mean over tokens. Rewards
/// that weights are divided by have to be 0 or above; a sequence (a batch) of rewards that sum to 0 weighs 0.
///
/// Rows are packed; a token below 0 masks its row and its reward is not read. A sequence without a token is none of the S.
#pragma once
#include <cmath>
#include <cstddef>
#include <string>
#include <planlm/backend/context.hpp>
#include <planlm/core/error.hpp>
#include <planlm/ops/token_objective.hpp>

namespace planlm {

/// Tokens and what they earned: sequence s holds rows [offsets[s], offsets[s + 1]), which cover no row twice. What
/// offsets say beyond row N is cut off, not followed.
template <Backend B>
struct guided_tokens {
  indices<B> tokens;              // (N): below 0: masked
  const_accum_tensor<B> rewards;  // (N)
  indices<B> offsets;             // (S + 1): sequences<B>::offsets
};

/// What a token is rewarded for: itself, or everything from it to the end of its sequence.
enum class token_credit { own, to_go };

/// What weights are divided by, so that they add up to something known.
enum class token_normaliser {
  tokens,            // the batch's tokens: a mean over tokens
  sequence_tokens,   // the sequence's tokens, and the sequences: a mean over sequences of their means
  rewards,           // what the batch's tokens are credited with; constant rewards give the plain mean over tokens
  sequence_rewards,  // what the sequence's tokens are credited with, and the sequences
};

namespace guided_kernel {

/// A row of the batch, or its end, whatever an offset says.
PLANLM_HD constexpr index_t row_within(index_t v, index_t rows) { return v < 0 ? 0 : v < rows ? v : rows; }

/// What becomes of rewards, per sequence: the credit of rows, its sum, the number of tokens.
template <class A>
struct credit_of_sequence {
  const A* reward;
  const int *token, *offset;
  double *credit, *sum, *count, *shift;
  index_t rows;
  bool to_go, exponential, shifted;  // shifted: e^(r - largest), for weights that are divided by their sum
  PLANLM_HD void operator()(index_t s) const {
    const index_t begin = row_within(offset[s], rows), end = row_within(offset[s + 1], rows);
    double top = 0, n = 0;
    for (index_t r = begin; r < end; ++r) {
      if (token[r] < 0) continue;
      if (shifted && (n == 0 || double(reward[r]) > top)) top = double(reward[r]);
      n += 1;
    }
    double all = 0, left = 0;
    for (index_t r = end - 1; r >= begin; --r) {
      credit[r] = 0;
      if (token[r] < 0) continue;
      const double v = exponential ? ::exp(double(reward[r]) - top) : double(reward[r]);
      left += v;
      credit[r] = to_go ? left : v;
      all += credit[r];
    }
    sum[s] = all, count[s] = n, shift[s] = n > 0 ? top : double(-INFINITY);
  }
};
/// Of the whole batch: tokens, sequences that have one, credit and what it is shifted by.
struct credit_of_batch {
  const double *sum, *count, *shift;
  double* whole;  // (4)
  index_t sequences;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const double *all = sum, *n = count, *by = shift;
    const double top = team.template max<double>(sequences, [=](index_t s) { return by[s]; });
    const double tokens = team.template sum<double>(sequences, [=](index_t s) { return n[s]; });
    const double live = team.template sum<double>(sequences, [=](index_t s) { return n[s] > 0 ? 1.0 : 0.0; });
    const double credit = team.template sum<double>(sequences, [=](index_t s) { return n[s] > 0 ? all[s] * ::exp(by[s] - top) : 0.0; });
    if (team.leader()) whole[0] = tokens, whole[1] = live, whole[2] = credit, whole[3] = top;
  }
};
template <class A>
struct weights_of_sequence {
  const double *credit, *sum, *count, *shift, *whole;
  const int *token, *offset;
  token_normaliser by;
  double likelihood_scale, entropy_scale;
  A *likelihood, *entropy;
  index_t rows;
  PLANLM_HD static double inverse(double v) { return v == 0 ? 0 : 1 / v; }
  PLANLM_HD void operator()(index_t s) const {
    const bool alone = by == token_normaliser::sequence_tokens || by == token_normaliser::sequence_rewards;
    const double share = alone ? inverse(whole[1] * count[s]) : inverse(whole[0]);
    const double factor = by == token_normaliser::rewards            ? ::exp(shift[s] - whole[3]) * inverse(whole[2])
                          : by == token_normaliser::sequence_rewards ? inverse(whole[1] * sum[s])
                                                                     : share;
    for (index_t r = row_within(offset[s], rows), end = row_within(offset[s + 1], rows); r < end; ++r) {
      const bool masked = token[r] < 0;
      likelihood[r] = masked || likelihood_scale == 0 ? A(0) : A(likelihood_scale * credit[r] * factor);
      entropy[r] = masked ? A(0) : A(entropy_scale * share);
    }
  }
};

}  // namespace guided_kernel

struct guided_likelihood {
  token_credit credit = token_credit::own;
  token_normaliser normaliser = token_normaliser::tokens;
  bool exponential = false;      // e^r instead of r
  double entropy = 0;            // alpha; the entropy is averaged over tokens as the normaliser says, over the batch or each sequence
  double scale = 1;              // of the likelihood term
  double probability_floor = 0;  // ops/token_objective.hpp

  static constexpr guided_likelihood maximum_entropy(double alpha = 0.125, token_credit credit = token_credit::own) {
    return {.credit = credit, .entropy = alpha};
  }
  static constexpr guided_likelihood reward_weighted(token_credit credit = token_credit::own, bool exponential = false) {
    return {.credit = credit, .normaliser = token_normaliser::sequence_rewards, .exponential = exponential};
  }

  /// What the batch's rows weigh, on the device. Errors: shape_error.
  template <Backend B>
  token_weights<B> weights(context<B>& cx, const guided_tokens<B>& batch) const {
    check("guided_likelihood", batch);
    const auto [likelihood, of_entropy] = make_weights(cx, batch);
    fill(cx, batch, 0, batch.offsets.size() - 1, likelihood, of_entropy);
    return gather<B>(likelihood, of_entropy);
  }
  /// Logits z (N, V) that are there already. Errors: shape_error.
  template <Backend B>
  token_objective_loss<B> operator()(context<B>& cx, const_tensor<B> z, const guided_tokens<B>& batch,
                                     const token_rules<B>& rules = {}) const {
    return ops::token_objective<B>(cx, z, batch.tokens, weights(cx, batch), rules);
  }
  /// hidden (N, C), table (V, C); dtable += or empty. Errors: shape_error.
  template <Backend B>
  token_objective_loss<B> operator()(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, const guided_tokens<B>& batch,
                                     tensor<B> dtable, const token_rules<B>& rules = {}) const {
    return ops::linear_token_objective<B>(cx, hidden, table, batch.tokens, weights(cx, batch), dtable, rules);
  }

 private:
  friend struct guided_mixture;
  template <Backend B>
  struct pair {
    accum_tensor<B> likelihood, entropy;
  };
  template <Backend B>
  static void check(const char* who, const guided_tokens<B>& batch) {
    const std::string name = who;
    if (batch.rewards.size() != batch.tokens.size())
      throw shape_error(name + ": " + std::to_string(batch.tokens.size()) + " tokens, but " + std::to_string(batch.rewards.size()) +
                        " rewards");
    if (batch.offsets.size() < 1) throw shape_error(name + ": no offsets, expected one more than sequences");
  }
  /// All 0: a row of no sequence weighs nothing.
  template <Backend B>
  static pair<B> make_weights(context<B>& cx, const guided_tokens<B>& batch) {
    using A = typename B::accum;
    const index_t rows = batch.tokens.size();
    const auto zeros = [&] {
      const auto made = cx.template make_of<A>(rows);
      B::zero(cx.queue(), made.data, static_cast<std::size_t>(rows) * sizeof(A));
      return made;
    };
    const accum_tensor<B> likelihood = zeros(), of_entropy = zeros();
    return {likelihood, of_entropy};
  }
  template <Backend B>
  token_weights<B> gather(accum_tensor<B> likelihood, accum_tensor<B> of_entropy) const {
    return {.likelihood = likelihood, .entropy = of_entropy, .probability_floor = probability_floor};
  }
  /// Rows of the sequences [first, last) alone.
  template <Backend B>
  void fill(context<B>& cx, const guided_tokens<B>& batch, index_t first, index_t last, accum_tensor<B> likelihood,
            accum_tensor<B> of_entropy) const {
    using A = typename B::accum;
    const index_t n = last - first;
    if (n < 1) return;
    auto scope = cx.scope();
    const index_t rows = batch.tokens.size();
    const auto of_row = cx.template make_of<double>(rows), sum = cx.template make_of<double>(n),
               count = cx.template make_of<double>(n), shift = cx.template make_of<double>(n), whole = cx.template make_of<double>(4);
    const bool divided = normaliser == token_normaliser::rewards || normaliser == token_normaliser::sequence_rewards;
    const int *token = batch.tokens.data, *offset = batch.offsets.data + first;
    B::for_each(cx.queue(), n,
                guided_kernel::credit_of_sequence<A>{batch.rewards.data, token, offset, of_row.data, sum.data, count.data, shift.data, rows,
                                                     credit == token_credit::to_go, exponential, exponential && divided});
    B::for_rows(cx.queue(), 1, guided_kernel::credit_of_batch{sum.data, count.data, shift.data, whole.data, n});
    B::for_each(cx.queue(), n,
                guided_kernel::weights_of_sequence<A>{of_row.data, sum.data, count.data, shift.data, whole.data, token, offset, normaliser,
                                                      scale, entropy, likelihood.data, of_entropy.data, rows});
  }
};

/// References and samples in one batch, the references' sequences first.
struct guided_mixture {
  guided_likelihood supervised = guided_likelihood::reward_weighted();
  double reinforce = -1;  // c; 0 or below: off
  double entropy = -1;    // a; 0 or below: off
  token_credit credit = token_credit::own;  // of the samples
  double probability_floor = 0;  // of all rows: that of `supervised` is not read

  /// Errors: shape_error, also for more references than sequences.
  template <Backend B>
  token_weights<B> weights(context<B>& cx, const guided_tokens<B>& batch, index_t references) const {
    guided_likelihood::check("guided_mixture", batch);
    const index_t sequences = batch.offsets.size() - 1;
    if (references < 0 || references > sequences)
      throw shape_error("guided_mixture: " + std::to_string(references) + " references among " + std::to_string(sequences) + " sequences");
    const auto [likelihood, of_entropy] = guided_likelihood::make_weights(cx, batch);
    const guided_likelihood sampled{.credit = credit, .entropy = entropy > 0 ? entropy : 0, .scale = reinforce > 0 ? reinforce : 0,
                                    .probability_floor = probability_floor};
    supervised.fill(cx, batch, 0, references, likelihood, of_entropy);
    sampled.fill(cx, batch, references, sequences, likelihood, of_entropy);
    return sampled.gather<B>(likelihood, of_entropy);
  }
  template <Backend B>
  token_objective_loss<B> operator()(context<B>& cx, const_tensor<B> z, const guided_tokens<B>& batch, index_t references,
                                     const token_rules<B>& rules = {}) const {
    return ops::token_objective<B>(cx, z, batch.tokens, weights(cx, batch, references), rules);
  }
  template <Backend B>
  token_objective_loss<B> operator()(context<B>& cx, const_tensor<B> hidden, const_tensor<B> table, const guided_tokens<B>& batch,
                                     index_t references, tensor<B> dtable, const token_rules<B>& rules = {}) const {
    return ops::linear_token_objective<B>(cx, hidden, table, batch.tokens, weights(cx, batch, references), dtable, rules);
  }
};

}  // namespace planlm
