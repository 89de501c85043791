/// The look-ahead planner: labels of the next T sentences, each given those before it.
///
/// State H^0 is the planner's own input to its encoder; one unroll with label a puts v = actions[a] + arrival in front of every sequence, runs
/// the dynamics network and halves the gradient; the planner's encoder, pool and head read every state:
///   H^(t+1) = scale(g([actions[a_t] + arrival ; H^t])),  s^t = W_head mean_j f(H^t)_j + b.   [2404.00614's code; halving: 1911.08265, appendix G]
#pragma once
#include <cstddef>
#include <new>
#include <string>
#include <vector>
#include <planlm/ops/prepend.hpp>
#include <planlm/planning/planner.hpp>

namespace planlm {

/// What an unroll learns: one vector per label (meant to be overwritten with the label centroids), one that says "this is new", encoder blocks.
template <Backend B>
struct dynamics {
  using backend = B;
  struct params {
    tensor<B> actions;
    tensor<B, 1> arrival;
    std::vector<typename encoder_block<B>::params> blocks;
  };
  index_t width, labels, heads, inner, depth;

  stack<encoder_block<B>> blocks() const { return {depth, encoder_block<B>(width, heads, inner)}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_blocks = within("blocks", f);
    f(matrix_spec("actions", labels, width, initial::normal, 0.02), p.actions...);
    f(vector_spec("arrival", width, initial::normal, 0.02), p.arrival...);
    blocks().each_param(in_blocks, p.blocks...);
  }
};

/// z (R, width) and contexts of S sentences as for planner; labels (T - 1, S) as one list, T >= 1 -> s (T S, labels), laid out [T, S, labels].
///   Row (t, s) sees labels (0..t-1, s) and the context of s alone. With T = 1 it is the planner, bit for bit.
///   A label below 0 (there is no such sentence) adds `arrival` alone: its step and those after are for the loss to leave out.
///   There is no input gradient: the sentence encoder is frozen.
/// With targets (T, S), below 0 where a document has ended and `valid` of them not, labels and loss are
///   labels = indices<B>{targets.data, (T - 1) * S};   ops::cross_entropy(cx, s, targets, 1 / valid);
/// which is the cross-entropy averaged over valid steps.
template <Backend B>
struct look_ahead {
  using backend = B;
  struct params {
    typename planner<B>::params plan;
    typename dynamics<B>::params ahead;
  };
  planner<B> plan;
  index_t depth = 1;            // blocks of the dynamics network, of the shape of the planner's
  double gradient_scale = 0.5;  // what an unroll does to the gradient of the state it makes

  dynamics<B> ahead() const { return {plan.width, plan.labels, plan.heads, plan.inner, depth}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_plan = within("plan", f);
    auto in_ahead = within("ahead", f);
    plan.each_param(in_plan, p.plan...);
    ahead().each_param(in_ahead, p.ahead...);
  }

  /// Teacher forcing. pullback(ds, g).
  auto operator()(context<B>& cx, const params& p, const_tensor<B> z, const sequences<B>& contexts, indices<B> labels = {}) const {
    const index_t count = contexts.count(), unrolls = count > 0 ? labels.size() / count : 0;
    if (count < 1 || labels.size() != unrolls * count)
      throw shape_error("look_ahead: " + std::to_string(labels.size()) + " labels for " + std::to_string(count) +
                        " sentences, expected the same number for each");
    using A = typename B::accum;
    auto [u, input_pullback] = plan.input()(cx, p.plan.input, const_tensor<B>(ops::add_sinusoids(cx, z, contexts.positions)));
    // The states of all steps one below the other, so that the planner reads them in one pass.
    const sequences<B> every = unrolls > 0 ? ops::lengthened(cx, contexts, 0, unrolls + 1, 1) : contexts;
    const tensor<B> states = unrolls > 0 ? cx.make(index_t{every.host_offsets[every.count()]}, plan.width) : u;
    if (unrolls > 0) put(cx, u, states, 0);
    using pullback_type = typename decltype(ahead().blocks()(cx, p.ahead.blocks, const_tensor<B>(u), contexts))::pullback_type;
    auto* const pullbacks = cx.template make_pullbacks<pullback_type>(unrolls);
    auto* const lengths = cx.template make_pullbacks<sequences<B>>(unrolls + 1);
    new (lengths) sequences<B>(contexts);
    for (index_t t = 0; t < unrolls; ++t) {
      new (lengths + t + 1) sequences<B>(ops::lengthened(cx, contexts, t + 1));
      const const_tensor<B> x = ops::prepend_rows(cx, const_tensor<B>(step(states, every, t, count)), lengths[t],
                                                  const_tensor<B>(p.ahead.actions), part(labels, t, count),
                                                  const_tensor<B, 1>(p.ahead.arrival), lengths[t + 1]);
      auto [h, pullback] = ahead().blocks()(cx, p.ahead.blocks, x, lengths[t + 1]);
      new (pullbacks + t) pullback_type(pullback);
      put(cx, h, states, every.host_offsets[(t + 1) * count]);
    }
    auto [s, read_pullback] = read(cx, p.plan, const_tensor<B>(states), every);                       // (T S, labels)
    return vjp{s, [&cx, every, labels, unrolls, count, pullbacks, lengths, input_pullback = input_pullback,
                   read_pullback = read_pullback, scale = A(gradient_scale)](const_tensor<B> ds, const params& g) {
                 auto temporaries = cx.scope();
                 const const_tensor<B> dstates = read_pullback(ds, g.plan);
                 const_tensor<B> dh = step(dstates, every, unrolls, count);
                 for (index_t t = unrolls - 1; t >= 0; --t) {
                   if (scale != A(1)) dh = ops::scaled(cx, dh, scale);
                   const auto [dx, dfront] = ops::prepend_rows_pullback(cx, const_tensor<B>(pullbacks[t](dh, g.ahead.blocks)), lengths[t],
                                                                        lengths[t + 1], step(dstates, every, t, count));
                   if (g.ahead.actions) ops::scatter_add_rows(cx, const_tensor<B>(dfront), part(labels, t, count), g.ahead.actions);
                   if (g.ahead.arrival) ops::add_column_sums(cx, const_tensor<B>(dfront), g.ahead.arrival);
                   dh = dx;
                 }
                 input_pullback(dh, g.plan.input);
               }};
  }

  /// Where paths have got to: `copies` times S sequences, number c S + s belonging to sentence s, each one row longer for every step taken.
  struct state {
    const_tensor<B> h;
    sequences<B> seq;
    sequences<B> contexts;
    index_t steps = 0;
  };
  /// The state before any label, one copy. Errors: shape_error without a sentence.
  state start(context<B>& cx, const params& p, const_tensor<B> z, const sequences<B>& contexts) const {
    if (contexts.count() < 1)
      throw shape_error("look_ahead: " + std::to_string(contexts.count()) + " sentences, expected at least one");
    auto temporaries = cx.scope();
    const const_tensor<B> placed = ops::add_sinusoids(cx, z, contexts.positions);
    return {temporaries.keep(const_tensor<B>(plan.input()(cx, p.plan.input, placed).value)), contexts, contexts, 0};
  }
  /// The state after `labels` (copies S). Sequence number q goes on from sequence parents_q of `from`; without parents, from q % (its count).
  /// Errors: shape_error for labels or parents that do not fill whole copies, or none.
  state advance(context<B>& cx, const params& p, const state& from, indices<B> labels, indices<B> parents = {}) const {
    const index_t count = from.contexts.count(), copies = count > 0 ? labels.size() / count : 0;
    if (copies < 1 || labels.size() != copies * count || (parents && parents.size() != labels.size()))
      throw shape_error("look_ahead: " + std::to_string(labels.size()) + " labels and " + std::to_string(parents.size()) + " parents for " +
                        std::to_string(count) + " sentences");
    const sequences<B> longer = ops::lengthened(cx, from.contexts, from.steps + 1, copies);
    auto temporaries = cx.scope();
    const const_tensor<B> x = ops::prepend_rows(cx, from.h, from.seq, const_tensor<B>(p.ahead.actions), labels,
                                                const_tensor<B, 1>(p.ahead.arrival), longer, parents);
    return {temporaries.keep(const_tensor<B>(ahead().blocks()(cx, p.ahead.blocks, x, longer).value)), longer, from.contexts, from.steps + 1};
  }
  /// (copies S, labels)
  tensor<B> logits(context<B>& cx, const params& p, const state& at) const {
    auto temporaries = cx.scope();
    return temporaries.keep(const_tensor<B>(read(cx, p.plan, at.h, at.seq).value));
  }

 private:
  /// The planner behind its input: pullback(ds, g) -> dh.
  auto read(context<B>& cx, const typename planner<B>::params& p, const_tensor<B> h, const sequences<B>& seq) const {
    auto [f, blocks_pullback] = plan.blocks()(cx, p.blocks, h, seq);
    const const_tensor<B> r = ops::mean_pool(cx, const_tensor<B>(f), seq);
    auto [s, head_pullback] = plan.head()(cx, p.head, r);
    return vjp{s, [&cx, seq, rows = h.rows(), blocks_pullback = blocks_pullback, head_pullback = head_pullback](
                      const_tensor<B> ds, const typename planner<B>::params& g) -> const_tensor<B> {
                 const const_tensor<B> dr = head_pullback(ds, g.head);
                 return blocks_pullback(const_tensor<B>(ops::mean_pool_pullback(cx, dr, seq, rows)), g.blocks);
               }};
  }
  static void put(context<B>& cx, const_tensor<B> h, tensor<B> states, index_t row) {
    B::copy(cx.queue(), states.row(row), h.data, static_cast<std::size_t>(h.size()) * sizeof(typename B::real));
  }
  /// Rows of step t, and its labels.
  template <class T, class Space>
  static view<T, 2, Space> step(view<T, 2, Space> states, const sequences<B>& every, index_t t, index_t count) {
    return row_range(states, every.host_offsets[t * count], every.host_offsets[(t + 1) * count]);
  }
  static indices<B> part(indices<B> labels, index_t t, index_t count) { return {labels.data + t * count, count}; }
};

}  // namespace planlm
