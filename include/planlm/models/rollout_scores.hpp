/// What training needs of rollouts: log-probabilities of every action and of stopping before it, entropies,
/// and their gradients.
///
///     auto [scores, pullback] = score_rollouts(cx, model, theta.weights, z, rule);
///     const auto loss = objective(cx, {scores.taken, scores.stop, log_rewards, scores.length});
///     pullback(loss.dtaken, loss.dstop, {}, theta.grads);
///
/// States are packed, nothing is padded before the head; only rows that a choice saw go through it, by blocks
/// (ops/token_policy.hpp). Where the rollout ends at `longest` actions the stop is certain and its row is not
/// computed. Values are those of the sampler, bit for bit on the CPU, whatever the behaviour was (2310.04363,
/// section 3: policy and scores share the constraints).
#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>
#include <planlm/backend/context.hpp>
#include <planlm/core/vjp.hpp>
#include <planlm/models/rollout.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/sequences.hpp>
#include <planlm/ops/token_policy.hpp>

namespace planlm {

/// Of B rollouts, the longest of which has L actions; in nats. Row b counts up to column n = length[b], in
/// `taken` up to n - 1; beyond that there are zeros.
template <Backend B>
struct rollout_scores {
  accum_tensor<B, 2> taken;  // (B, L) log q(action k)
  accum_tensor<B, 2> stop;   // (B, L + 1) log q(stop) at choice k, -infinity where forbidden, 0 where certain
  accum_tensor<B, 2> entropy;  // (B, L + 1) of choice k under its constraints; 0 where the stop is certain
  indices<B> length;           // (B) n
};

namespace kernel {
/// Element i of what is padded: that of its choice, or 0 where there is none.
template <class A>
struct spread_choices {
  const A* from;      // by choice
  const int* choice;  // (elements); below 0: none
  A* to;
  PLANLM_HD void operator()(index_t i) const { to[i] = choice[i] < 0 ? A(0) : from[choice[i]]; }
};
}  // namespace kernel

namespace detail {
/// Packed states of rollouts and the choices in them, as host lists.
struct packed_choices {
  // Of the states; of each packed row, the choice that saw it or -1.
  std::vector<int> tokens, positions, offsets{0}, choice_of_row;
  // Of each choice: the packed row it saw, its action or -1, its stop_rule, its elements of what is padded.
  std::vector<int> row, taken, stopping, place_taken, place_stop;
  // Of each element of what is padded: its choice, or -1.
  std::vector<int> of_taken, of_stop;
  std::vector<int> length;  // of each rollout
  index_t longest = 0;
  bool any_forbidden = false;

  template <class Real>
  packed_choices(std::span<const rollout<Real>> z, const rollout_rule& rule) {
    for (const auto& one : z)
      longest = std::max(longest, one.length()), length.push_back(static_cast<int>(one.length()));
    const auto moves = static_cast<std::size_t>(longest), columns = moves + 1;
    of_taken.assign(z.size() * moves, -1), of_stop.assign(z.size() * columns, -1);
    for (std::size_t b = 0; b < z.size(); ++b) {
      const std::size_t n = z[b].actions.size(), choices = n + (z[b].length() < rule.longest ? 1 : 0);
      const auto last = static_cast<std::size_t>(z[b].decided[choices - 1]);  // no choice sees what is behind
      const std::size_t begin = tokens.size();
      for (std::size_t t = 0; t <= last; ++t)
        tokens.push_back(z[b].state[t]), positions.push_back(static_cast<int>(t));
      choice_of_row.resize(tokens.size(), -1);
      offsets.push_back(static_cast<int>(tokens.size()));
      for (std::size_t k = 0; k < choices; ++k) {
        const int number = static_cast<int>(row.size());
        const std::size_t at = begin + static_cast<std::size_t>(z[b].decided[k]);
        const bool moved = k < n, forbidden = static_cast<index_t>(k) < rule.shortest;
        choice_of_row[at] = number;
        row.push_back(static_cast<int>(at)), taken.push_back(moved ? z[b].actions[k] : -1);
        stopping.push_back(static_cast<int>(forbidden ? stop_rule::forbidden : stop_rule::free));
        any_forbidden = any_forbidden || forbidden;
        place_stop.push_back(static_cast<int>(b * columns + k));
        place_taken.push_back(moved ? static_cast<int>(b * moves + k) : -1);
        of_stop[b * columns + k] = number;
        if (moved) of_taken[b * moves + k] = number;
      }
    }
  }
};

/// to = from[numbers], 0 where a number is below 0.
template <Backend B, int R>
accum_tensor<B, R> spread(context<B>& cx, const_accum_tensor<B> from, indices<B> numbers,
                          accum_tensor<B, R> to) {
  B::for_each(cx.queue(), to.size(),
              kernel::spread_choices<typename B::accum>{from.data, numbers.data, to.data});
  return to;
}
}  // namespace detail

/// -> vjp{rollout_scores, pullback(dtaken (B, L), dstop, dentropy (B, L + 1), g)}. Each upstream may be
/// empty; it is not read beyond a row's length, at stops that are forbidden or certain, nor at entropies of
/// certain stops. g (Model::params) gets += what is not frozen there; the token table as embedding and as
/// head. Errors: planlm::error for a rule that is none or no rollouts, input_error for a rollout that the
/// rule or the model's length does not allow, naming its row; shape_error for upstreams of other extents.
template <class Model>
auto score_rollouts(context<typename Model::backend>& cx, const Model& model, const typename Model::params& p,
                    std::span<const rollout<typename Model::backend::accum>> z, const rollout_rule& rule) {
  using B = typename Model::backend;
  using A = typename B::accum;
  using upstream = const_accum_tensor<B, 2>;
  detail::check_rollout_rule(rule, model.sizes.vocabulary);
  if (z.empty()) throw error("score_rollouts: there are no rollouts; leave the call out");
  for (std::size_t b = 0; b < z.size(); ++b)
    detail::check_rollout(z[b], b, rule, model.sizes.vocabulary, model.sizes.length);
  const detail::packed_choices packed(z, rule);
  const auto batch = static_cast<index_t>(z.size()), longest = packed.longest;

  // The pullback reads them.
  int* const host_offsets = cx.template make_pullbacks<int>(static_cast<index_t>(packed.offsets.size()));
  std::copy(packed.offsets.begin(), packed.offsets.end(), host_offsets);
  const auto upload = [&](const std::vector<int>& list) { return indices<B>(cx.upload(list)); };
  const sequences<B> states{upload(packed.offsets), host_offsets, upload(packed.positions)};
  const indices<B> row = upload(packed.row), taken = upload(packed.taken),
                   choice_of_row = upload(packed.choice_of_row);
  const indices<B> place_taken = upload(packed.place_taken), place_stop = upload(packed.place_stop);
  token_rules<B> rules;
  rules.stop = rule.stop;
  if (packed.any_forbidden) rules.stopping = upload(packed.stopping);
  if (!rule.penalty.empty()) {
    const std::vector<A> penalty(rule.penalty.begin(), rule.penalty.end());
    rules.penalty = cx.upload(penalty);
  }

  rollout_scores<B> out{cx.template make_of<A>(batch, longest), cx.template make_of<A>(batch, longest + 1),
                        cx.template make_of<A>(batch, longest + 1), upload(packed.length)};
  auto [h, model_pullback] = model(cx, p, upload(packed.tokens), states);
  const const_tensor<B> seen = ops::gather_rows(cx, const_tensor<B>(h), row);  // (choices, width)
  auto [values, head_pullback] =
      ops::linear_token_policy(cx, seen, const_tensor<B>(p.token.table), taken, rules);
  detail::spread<B>(cx, values.taken, upload(packed.of_taken), out.taken);
  detail::spread<B>(cx, values.stop, upload(packed.of_stop), out.stop);
  detail::spread<B>(cx, values.entropy, upload(packed.of_stop), out.entropy);

  const index_t choices = row.size();
  return vjp{out, [&cx, model_pullback = model_pullback, head_pullback = head_pullback, choice_of_row,
                   place_taken, place_stop, batch, longest, choices](
                      upstream dtaken, upstream dstop, upstream dentropy, const typename Model::params& g) {
               const auto gathered = [&](upstream d, index_t cols, indices<B> place) {
                 if (!d) return const_accum_tensor<B>{};
                 if (d.rows() != batch || d.cols() != cols)
                   throw shape_error("score_rollouts: an upstream gradient is " +
                                     ops::shape_text(d.rows(), d.cols()) + ", expected " +
                                     ops::shape_text(batch, cols) + " or none");
                 return const_accum_tensor<B>(
                     detail::spread<B>(cx, flat(d), place, cx.template make_of<A>(choices)));
               };
               auto scope = cx.scope();
               const auto a = gathered(dtaken, longest, place_taken),
                          c = gathered(dstop, longest + 1, place_stop),
                          e = gathered(dentropy, longest + 1, place_stop);
               const const_tensor<B> dseen = head_pullback(a, c, e, g.token.table);
               model_pullback(ops::gather_rows(cx, dseen, choice_of_row), g);
             }};
}

}  // namespace planlm
