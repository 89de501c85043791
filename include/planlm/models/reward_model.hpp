/// A reward for every generated token, from the language model's hidden row behind it.   [2306.00398, its code]
///
///   z_t = w2 . relu(W1 h_t + b1) + b2,   h_t: the row whose input is the token a_t, so that z_t knows the prompt and a_0 .. a_t
///
/// Rewards are r = g(z) (objectives/reward_squash.hpp). Rows are packed: each generation behind its prompt, no padding, so that nothing
/// beyond a length exists. Head and language model are trained together; logits and their gradients are kept in accum, also where
/// activations are not. Where published code starts generations with one token more in training than in use, here both see the same.
///
///     packed_generations batch(model.lm.sizes);
///     for (const auto& answer : answers) batch.add(prompt, answer);
///     batch.end_list();
///     const auto rows = upload(cx, batch);
///     auto [z, pullback] = model(cx, theta.weights, rows);                    // (M)
///     const auto loss = listwise_preference{}(cx, z, {rows.first, rows.length, rows.lists, scores});
///     pullback(loss.dz, theta.grads);                                         // leave grads.lm empty to train the head alone
///     auto r = token_rewards(cx, soft_clipped_reward{}, token_logits(cx, model, theta.weights, batch)).value;   // for use
///
/// A policy that reads the same rows predicts a token one row before a reward model has read it: `predicted_tokens` brings r there.
///
///     auto [h, policy_pullback] = policy(cx, w, rows.tokens, rows.rows);      // (N, width)
///     auto step = guided_likelihood::maximum_entropy()(cx, h, w.token.table, predicted_tokens(cx, rows, r), grads.token.table);
///     policy_pullback(step.gradient, grads);
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>
#include <planlm/layers/linear.hpp>
#include <planlm/models/transformer_lm.hpp>
#include <planlm/objectives/guided_likelihood.hpp>
#include <planlm/ops/gather.hpp>

namespace planlm {

namespace kernel {
/// z_r = b + sum_c relu(u_rc) w_c, summed in A.
template <class T>
struct reward_logit {
  using A = accum_of<T>;
  const T *u, *w, *b;
  A* z;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T *row = u + r * cols, *weight = w;
    const A total = team.template sum<A>(cols, [=](index_t c) { return ops::relu::f(A(row[c])) * A(weight[c]); });
    if (team.leader()) z[r] = total + A(b[0]);
  }
};
/// du_rc = dz_r w_c relu'(u_rc).
template <class T>
struct reward_logit_pullback {
  using A = accum_of<T>;
  const T *u, *w;
  const A* dz;
  T* du;
  index_t cols;
  PLANLM_HD void operator()(index_t i) const { du[i] = dz[i / cols] * A(w[i % cols]) * ops::relu::df(A(u[i])); }
};
/// dz_r relu(u_rc): its column sums are dw.
template <class T>
struct reward_weight_entry {
  using A = accum_of<T>;
  const T* u;
  const A* dz;
  index_t cols;
  PLANLM_HD A operator()(index_t r, index_t c) const { return dz[r] * ops::relu::f(A(u[r * cols + c])); }
};
template <class A>
struct reward_bias_entry {
  const A* dz;
  PLANLM_HD A operator()(index_t r, index_t) const { return dz[r]; }
};
/// What row r predicts, and what that earns; nothing and 0 where it predicts none.
template <class A>
struct predicted_token {
  const int *token, *generated, *predicts;
  const A* reward;
  int* to;
  A* earns;
  PLANLM_HD void operator()(index_t r) const {
    const int m = predicts[r];
    to[r] = m < 0 ? -1 : token[generated[m]];
    earns[r] = m < 0 ? A(0) : reward[m];
  }
};
}  // namespace kernel

/// h (M, width) -> z (M). The start is Xavier-uniform with gain 1e-4 and biases of -1e-4, so that all rewards are alike at first.
///   pullback(dz (M), g): g.up, g.down += ;  dh = du W1
template <Backend B>
struct reward_head {
  using backend = B;
  struct params {
    typename linear<B>::params up, down;
  };
  index_t width, inner = 2048;

  linear<B> up() const { return {width, inner}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    const double spread = 1e-4 * std::sqrt(6.0);
    f(matrix_spec("up.w", inner, width, initial::uniform, spread / std::sqrt(double(width + inner))), p.up.w...);
    f(vector_spec("up.b", inner, initial::constant, -1e-4), p.up.b...);
    f(matrix_spec("down.w", 1, inner, initial::uniform, spread / std::sqrt(double(inner + 1))), p.down.w...);
    f(vector_spec("down.b", 1, initial::constant, -1e-4), p.down.b...);
  }

  auto operator()(context<B>& cx, const params& p, const_tensor<B> h) const {
    using T = typename B::real;
    using A = typename B::accum;
    auto [u, up_pullback] = up()(cx, p.up, h);                                                   // (M, inner)
    const accum_tensor<B> z = cx.template make_of<A>(h.rows());
    B::for_rows(cx.queue(), h.rows(), kernel::reward_logit<T>{u.data, p.down.w.data, p.down.b.data, z.data, inner});
    return vjp{z, [&cx, u = const_tensor<B>(u), w = p.down.w, up_pullback = up_pullback](const_accum_tensor<B> dz, const params& g) {
                 if (dz.size() != u.rows())
                   throw shape_error("reward_head: " + std::to_string(dz.size()) + " gradients for " + std::to_string(u.rows()) + " logits");
                 const index_t cols = u.cols();
                 if (g.down.w)
                   B::add_column_sums(cx.queue(), u.rows(), cols, kernel::reward_weight_entry<T>{u.data, dz.data, cols},
                                      flat(g.down.w));
                 if (g.down.b) B::add_column_sums(cx.queue(), u.rows(), 1, kernel::reward_bias_entry<A>{dz.data}, g.down.b);
                 const tensor<B> du = cx.make(u.rows(), cols);
                 B::for_each(cx.queue(), du.size(), kernel::reward_logit_pullback<T>{u.data, w.data, dz.data, du.data, cols});
                 return const_tensor<B>(up_pullback(const_tensor<B>(du), g.up));
               }};
  }
};

/// Prompts and their generations on the host, one after another, and which of them are compared.
class packed_generations {
 public:
  /// Of the model that is to read them.
  explicit packed_generations(lm_sizes sizes) : sizes_(sizes) {}

  /// Errors: input_error for a generation without tokens, for a row that the model cannot hold, for a token it does not know.
  void add(std::span<const int> prompt, std::span<const int> generation) {
    const std::size_t length = prompt.size() + generation.size();
    const std::string name = "generation " + std::to_string(count());
    if (generation.empty()) throw input_error(name + " has no token, so nothing of it can be rewarded; leave it out");
    if (static_cast<index_t>(length) > sizes_.length)
      throw input_error(name + " has " + std::to_string(prompt.size()) + " tokens of a prompt and " + std::to_string(generation.size()) +
                        " of its own, the model holds " + std::to_string(sizes_.length) + "; shorten the prompt");
    for (const std::span<const int> part : {prompt, generation})
      for (const int token : part)
        if (token < 0 || token >= sizes_.vocabulary)
          throw input_error(name + " has the token " + std::to_string(token) + ", the model knows 0 to " +
                            std::to_string(sizes_.vocabulary - 1) + "; tokenise it with the model's vocabulary");
    for (std::size_t t = 0; t < length; ++t) {
      const bool own = t >= prompt.size();
      tokens_.push_back(own ? generation[t - prompt.size()] : prompt[t]);
      positions_.push_back(static_cast<int>(t));
      number_.push_back(own ? static_cast<int>(generated_.size()) : -1);
      predicts_.push_back(t + 1 >= prompt.size() && t + 1 < length ? static_cast<int>(generated_.size()) + (own ? 1 : 0) : -1);
      if (own) generated_.push_back(static_cast<int>(number_.size()) - 1);
    }
    offsets_.push_back(static_cast<int>(tokens_.size()));
    length_.push_back(static_cast<int>(generation.size()));
    first_.push_back(static_cast<int>(generated_.size() - generation.size()));
  }
  /// The generations added since the list before are compared with each other. Errors: planlm::error where there are none.
  void end_list() {
    if (lists_.back() == static_cast<int>(count())) throw error("packed_generations: a list without generations; add some before end_list");
    lists_.push_back(static_cast<int>(count()));
  }
  void clear() {
    for (std::vector<int>* list : {&tokens_, &positions_, &number_, &predicts_, &generated_, &first_, &length_}) list->clear();
    offsets_ = lists_ = {0};
  }

  /// S and M.
  index_t count() const { return static_cast<index_t>(length_.size()); }
  index_t generated_tokens() const { return static_cast<index_t>(generated_.size()); }
  /// (S): generation s has logits and rewards first[s] .. first[s] + length[s] - 1.
  const std::vector<int>& first() const { return first_; }
  const std::vector<int>& length() const { return length_; }
  /// (L + 1): list l has generations lists[l] .. lists[l + 1] - 1.
  const std::vector<int>& lists() const { return lists_; }
  const std::vector<int>& tokens() const { return tokens_; }
  const std::vector<int>& positions() const { return positions_; }
  const std::vector<int>& offsets() const { return offsets_; }
  /// (M) the packed row of each generated token; (N) the generated token of each packed row, below 0 in prompts.
  const std::vector<int>& generated() const { return generated_; }
  const std::vector<int>& number() const { return number_; }
  /// (N) the generated token behind each packed row, which a policy predicts there; below 0: none. A generation without a prompt has a
  /// first token that no row predicts.
  const std::vector<int>& predicts() const { return predicts_; }

 private:
  lm_sizes sizes_;
  std::vector<int> tokens_, positions_, number_, predicts_, generated_, first_, length_, offsets_{0}, lists_{0};
};

/// The same where kernels read it.
template <Backend B>
struct generated_rows {
  indices<B> tokens;         // (N)
  sequences<B> rows;         // S prompts with their generations, how the N rows fall into them
  indices<B> generated;      // (M) packed row of each generated token
  indices<B> number;         // (N) generated token of each packed row, below 0: none
  indices<B> predicts;       // (N) generated token behind each packed row, below 0: none
  indices<B> first, length;  // (S) generation s has logits first[s] .. first[s] + length[s] - 1
  indices<B> lists;          // (L + 1) generations that are compared
};

/// In the arena of the context; the batch may go.
template <Backend B>
generated_rows<B> upload(context<B>& cx, const packed_generations& batch) {
  if (batch.count() == 0) throw error("upload: a batch without generations; leave the call out");
  int* const host_offsets = cx.template make_pullbacks<int>(static_cast<index_t>(batch.offsets().size()));
  std::copy(batch.offsets().begin(), batch.offsets().end(), host_offsets);
  const auto list = [&](const std::vector<int>& values) { return indices<B>(cx.upload(values)); };
  return {list(batch.tokens()),
          {list(batch.offsets()), host_offsets, list(batch.positions())},
          list(batch.generated()),
          list(batch.number()),
          list(batch.predicts()),
          list(batch.first()),
          list(batch.length()),
          list(batch.lists())};
}

/// Of packed rows what a policy predicts in them, with rewards r (M) of the generated tokens: rows that predict none are masked.
/// Errors: shape_error.
template <Backend B>
guided_tokens<B> predicted_tokens(context<B>& cx, const generated_rows<B>& rows, view<const typename B::accum, 1, typename B::space> r) {
  using A = typename B::accum;
  if (r.size() != rows.generated.size())
    throw shape_error("predicted_tokens: " + std::to_string(r.size()) + " rewards for " + std::to_string(rows.generated.size()) +
                      " generated tokens");
  const index_t n = rows.tokens.size();
  const auto tokens = cx.template make_of<int>(n);
  const auto rewards = cx.template make_of<A>(n);
  B::for_each(cx.queue(), n,
              kernel::predicted_token<A>{rows.tokens.data, rows.generated.data, rows.predicts.data, r.data, tokens.data, rewards.data});
  return {tokens, rewards, rows.rows.offsets};
}

/// A language model `LM`, called as transformer_lm is, under a reward head.   rows -> z (M)
///   pullback(dz (M), g): where no gradient of the language model is wanted its pullback does not run.
template <class LM>
struct reward_model {
  using backend = typename LM::backend;
  using B = backend;
  struct params {
    typename LM::params lm;
    typename reward_head<B>::params head;
  };
  LM lm;
  index_t inner = 2048;

  reward_head<B> head() const { return {lm.sizes.width, inner}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_lm = within("lm", f);
    auto in_head = within("head", f);
    lm.each_param(in_lm, p.lm...);
    head().each_param(in_head, p.head...);
  }

  auto operator()(context<B>& cx, const params& p, const generated_rows<B>& batch) const {
    auto [h, lm_pullback] = lm(cx, p.lm, batch.tokens, batch.rows);                               // (N, width)
    const const_tensor<B> seen = ops::gather_rows(cx, const_tensor<B>(h), batch.generated);       // (M, width)
    auto [z, head_pullback] = head()(cx, p.head, seen);                                           // (M)
    return vjp{z, [&cx, lm = lm, number = batch.number, lm_pullback = lm_pullback, head_pullback = head_pullback](
                      const_accum_tensor<B> dz, params& g) {
                 const const_tensor<B> dseen = head_pullback(dz, g.head);
                 if (wants_gradient(lm, g.lm)) lm_pullback(const_tensor<B>(ops::gather_rows(cx, dseen, number)), g.lm);
               }};
  }
};
template <class LM>
reward_model(LM, index_t = 2048) -> reward_model<LM>;

/// z (M) of guidance that is frozen: everything else is released.
template <class LM>
accum_tensor<typename LM::backend> token_logits(context<typename LM::backend>& cx, const reward_model<LM>& model,
                                                const typename reward_model<LM>::params& p, const packed_generations& batch) {
  auto scope = cx.scope();
  return scope.keep(model(cx, p, upload(cx, batch)).value);
}

}  // namespace planlm
