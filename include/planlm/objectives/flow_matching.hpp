/// Flow matching: what flows into a state flows out of it.   [2106.04399]
///
///   loss = mean over states of g(log sum exp incoming - log sum exp outgoing) + alpha * mean over terminating states of g(exit - log R)
///
/// Takes log-flows of edges, gathered per state: one row for each visited state, a column for each parent and for each action, the exit
/// among the actions; -infinity where there is no such edge. An edge that stands in several rows gets one gradient per place, for the
/// caller to add. A state without incoming edges is initial: it has loss 0 and is not one of the mean's states. Not needed on trees,
/// where P_B = 1 and the other balances see no parent but one. In nats.
#pragma once
#include <planlm/objectives/score_regression.hpp>
#include <planlm/objectives/trajectories.hpp>

namespace planlm {

template <Backend B>
struct edge_flows {
  const_accum_tensor<B, 2> incoming;       // (S, P)
  const_accum_tensor<B, 2> outgoing;       // (S, A); at least one edge in each row
  const_accum_tensor<B> exit = {};         // (M): log-flow of the exit of each terminating state, or nothing
  const_accum_tensor<B> log_reward = {};   // (M)
};
template <Backend B>
struct flow_matching_loss {
  accum_tensor<B> total;                 // (1)
  accum_tensor<B> matching, reward;      // (1) each: the two means, the second without alpha
  accum_tensor<B> each;                  // (S)
  accum_tensor<B, 2> dincoming, doutgoing;
  accum_tensor<B> dexit;                 // (M) or empty
};

namespace balance_kernel {

template <class A>
struct log_flow_sum {
  const A* edge;
  index_t cols;
  double* sum;  // (S): -infinity without edges
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const A* row = edge + r * cols;
    const double top = cols > 0 ? team.template max<double>(cols, [=](index_t i) { return double(row[i]); }) : -INFINITY;
    const bool none = top == -INFINITY;
    const double total = team.template sum<double>(cols, [=](index_t i) { return none ? 0.0 : math::exp(double(row[i]) - top); });
    if (team.leader()) sum[r] = none ? top : top + math::log(total);
  }
};
/// Residual of each state; an initial one is no member.
struct flow_scores {
  const double *in, *out;
  double* score;
  int* member;
  double* counted;
  PLANLM_HD void operator()(index_t r) const {
    const bool initial = in[r] == -INFINITY;
    member[r] = initial ? -1 : 0;
    score[r] = initial ? 0 : in[r] - out[r];
    counted[r] = initial ? 0 : 1;
  }
};
/// dedge = sign * slope * flow / sum of flows, over the share of states that count.
template <class A>
struct spread_flow {
  const A* edge;
  index_t cols, rows;
  const double *sum, *slope, *states;
  double sign;
  A* dedge;
  PLANLM_HD void operator()(index_t i) const {
    const index_t r = i / cols;
    const double s = states[0] > 0 ? sign * slope[r] * double(rows) / states[0] : 0;
    dedge[i] = s == 0 ? A(0) : A(s * math::exp(double(edge[i]) - sum[r]));
  }
};
template <class A, class G>
struct exit_slopes {
  const A *exit, *reward;
  G g;
  double factor;
  A* dexit;
  PLANLM_HD void operator()(index_t i) const { dexit[i] = A(factor * g.slope(double(exit[i]) - double(reward[i]))); }
};
template <class A, class G>
struct flow_totals {
  const double *value, *counted;
  index_t rows;
  const A *exit, *reward;
  index_t ends;
  G g;
  double alpha;
  double* states;
  A *total, *matching, *match_reward;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const double *v = value, *c = counted;
    const A *e = exit, *w = reward;
    const G of = g;
    const double sum = team.template sum<double>(rows, [=](index_t r) { return v[r]; });
    const double count = team.template sum<double>(rows, [=](index_t r) { return c[r]; });
    const double last = team.template sum<double>(ends, [=](index_t i) { return of.value(double(e[i]) - double(w[i])); });
    if (!team.leader()) return;
    const double flows = count > 0 ? sum / count : 0, rewards = ends > 0 ? last / double(ends) : 0;
    states[0] = count;
    matching[0] = A(flows);
    match_reward[0] = A(rewards);
    total[0] = A(flows + alpha * rewards);
  }
};

}  // namespace balance_kernel

template <RegressionFunction G = squared>
struct flow_matching {
  double alpha = 1;  // weight of matching rewards
  G g{};

  /// Errors: shape_error.
  template <Backend B>
  flow_matching_loss<B> operator()(context<B>& cx, const edge_flows<B>& z) const {
    using A = typename B::accum;
    const index_t s = z.incoming.rows(), p = z.incoming.cols(), a = z.outgoing.cols(), m = z.exit.size();
    balance_detail::expect_shape("flow_matching", "outgoing", z.outgoing, false, s, a);
    balance_detail::expect_shape("flow_matching", "log_reward", z.log_reward, !z.exit, m);
    flow_matching_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(1),    cx.template make_of<A>(1),
                              cx.template make_of<A>(s), cx.template make_of<A>(s, p), cx.template make_of<A>(s, a), {}};
    if (z.exit) out.dexit = cx.template make_of<A>(m);
    auto scope = cx.scope();
    const balance_kernel::scored_rows<B> rows(cx, s);
    const auto in = cx.template make_of<double>(s), from = cx.template make_of<double>(s), counted = cx.template make_of<double>(s),
               states = cx.template make_of<double>(1);
    B::for_rows(cx.queue(), s, balance_kernel::log_flow_sum<A>{z.incoming.data, p, in.data});
    B::for_rows(cx.queue(), s, balance_kernel::log_flow_sum<A>{z.outgoing.data, a, from.data});
    B::for_each(cx.queue(), s, balance_kernel::flow_scores{in.data, from.data, rows.score.data, rows.member.data, counted.data});
    balance_kernel::regress<B, G, double>(cx, g, rows, nullptr, nullptr, out.total, out.each, {});
    B::for_rows(cx.queue(), 1, balance_kernel::flow_totals<A, G>{rows.value.data, counted.data, s, z.exit.data, z.log_reward.data, m, g,
                                                                 alpha, states.data, out.total.data, out.matching.data, out.reward.data});
    B::for_each(cx.queue(), s * p, balance_kernel::spread_flow<A>{z.incoming.data, p, s, in.data, rows.slope.data, states.data, 1,
                                                                  out.dincoming.data});
    B::for_each(cx.queue(), s * a, balance_kernel::spread_flow<A>{z.outgoing.data, a, s, from.data, rows.slope.data, states.data, -1,
                                                                  out.doutgoing.data});
    if (z.exit)
      B::for_each(cx.queue(), m, balance_kernel::exit_slopes<A, G>{z.exit.data, z.log_reward.data, g, m > 0 ? alpha / double(m) : 0,
                                                                   out.dexit.data});
    return out;
  }
};

}  // namespace planlm
