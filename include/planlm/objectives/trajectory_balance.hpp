/// Trajectory balance: mean over n of g(log Z + S_n), S = sum of log P_F - log P_B, minus log R.   [2201.13259]
///
/// 0 on all trajectories exactly if the policy draws objects in proportion to R and log Z is the logarithm of the sum of R. log Z is a
/// parameter of its own, one number or one per group, and wants a learning rate about a hundred times the policy's, or a first value of
/// -mean S. On-policy the expected gradient of the squared form is twice that of KL(policy || R / Z), whatever log Z is.
#pragma once
#include <planlm/objectives/score_regression.hpp>
#include <planlm/objectives/trajectories.hpp>

namespace planlm {

namespace balance_kernel {

/// score_r = a * sum of (log P_F - the other) / length^normalise - b * log R.
template <class A>
struct trajectory_score {
  flow_reader<A> read;
  const int* group;
  double policy_weight, reward_weight;
  bool length_normalised;
  double* score;
  int* member;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const flow_reader<A> from = read;
    const index_t n = from.last(r);
    const double moves = team.template sum<double>(n, [=](index_t t) { return from.move(r, t); });
    if (!team.leader()) return;
    member[r] = n == 0 ? -1 : group ? group[r] : 0;
    if (n == 0) score[r] = 0;
    else score[r] = policy_weight * (length_normalised ? moves / double(n) : moves) - reward_weight * from.log_reward(r);
  }
};
/// Every transition of a trajectory gets the trajectory's slope.
template <class A>
struct spread_slope {
  const double* slope;
  const int* length;
  double policy_weight;
  bool length_normalised;
  A *dpf, *dpb;  // dpb may be null
  index_t steps;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const index_t n = length[r];
    const double s = n > 0 ? policy_weight * slope[r] / (length_normalised ? double(n < steps ? n : steps) : 1) : 0;
    A *forward = dpf + r * steps, *backward = dpb ? dpb + r * steps : nullptr;
    team.for_each(steps, [=](index_t t) {
      forward[t] = t < n ? A(s) : A(0);
      if (backward) backward[t] = t < n ? A(-s) : A(0);
    });
  }
};

}  // namespace balance_kernel

template <RegressionFunction G = squared>
struct trajectory_balance {
  G g{};
  double log_reward_clip_min = no_clip;  // log R is not read below it

  /// log_z (groups). Errors: shape_error.
  template <Backend B>
  trajectory_loss<B> operator()(context<B>& cx, const trajectories<B>& z, const_accum_tensor<B> log_z) const {
    using A = typename B::accum;
    balance_detail::check("trajectory_balance", z, false);
    balance_detail::expect_shape("trajectory_balance", "log_z", log_z, false, z.groups);
    trajectory_loss<B> out = balance_detail::make_loss(cx, z, false, true);
    auto scope = cx.scope();
    const index_t n = z.log_pf.rows(), steps = z.log_pf.cols();
    const balance_kernel::scored_rows<B> rows(cx, n);
    B::for_rows(cx.queue(), n,
                balance_kernel::trajectory_score<A>{balance_detail::reader(z, log_reward_clip_min), z.group.data, 1, 1, false,
                                                    rows.score.data, rows.member.data});
    balance_kernel::regress<B, G, A>(cx, g, rows, log_z.data, nullptr, out.total, out.each, out.dlog_z);
    B::for_rows(cx.queue(), n, balance_kernel::spread_slope<A>{rows.slope.data, z.length.data, 1, false, out.dlog_pf.data,
                                                               out.dlog_pb.data, steps});
    return out;
  }
};

}  // namespace planlm
