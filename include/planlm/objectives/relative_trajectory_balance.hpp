/// Losses relative to a prior: fine-tuning towards prior(x) R(x)^beta / Z.   [2405.20971; Trust-PCL 1707.01891, 2509.01632]
///
///   relative_trajectory_balance          mean g(log Z + sum (log P_F - log prior) - beta log R)
///   relative_log_partition_variance      the same at the log Z that is best for each group's batch: a group of one gives 0
///   trust_pcl                            mean g(v + alpha sum (log P_F - log prior) - log R): for squares alpha^2 times the first,
///                                        at beta = 1 / alpha and log Z = v / alpha
///
/// For a language model the prior is the model before fine-tuning: the optimum of KL-regularised reward maximisation. Backward
/// probabilities do not enter. Gradients go to log P_F and to log Z (or v), not to prior and reward.
///
/// `length_normalised` divides both sums by the trajectory's length, as FlowRL does (2509.15207). That is steadier on long texts, but its
/// zero is another point: P_F^(1 / length) is no ratio of probabilities, so the policy does not end at prior R^beta / Z. Never use it
/// where samples have to follow R.
#pragma once
#include <planlm/objectives/trajectory_balance.hpp>

namespace planlm {

namespace balance_detail {

/// The score a (sum of log P_F - log prior) - b log R of every row, its regression, and the slopes back to log P_F.
template <Backend B, class Regress>
trajectory_loss<B> relative_loss(context<B>& cx, const char* name, const trajectories<B>& z, bool log_z, double policy_weight,
                                 double reward_weight, bool length_normalised, double clip, const_accum_tensor<B> importance,
                                 const Regress& regress) {
  using A = typename B::accum;
  check(name, z, false);
  expect_shape(name, "log_prior", z.log_prior, false, z.log_pf.rows(), z.log_pf.cols());
  expect_shape(name, "importance", importance, true, z.log_pf.rows());
  trajectories<B> against = z;
  against.log_pb = {};
  trajectory_loss<B> out = make_loss(cx, against, false, log_z);
  auto scope = cx.scope();
  const index_t n = z.log_pf.rows(), steps = z.log_pf.cols();
  const balance_kernel::scored_rows<B> rows(cx, n);
  auto read = reader(against, clip);
  read.pb = z.log_prior.data;
  B::for_rows(cx.queue(), n, balance_kernel::trajectory_score<A>{read, z.group.data, policy_weight, reward_weight, length_normalised,
                                                                 rows.score.data, rows.member.data});
  regress(rows, out);
  B::for_rows(cx.queue(), n, balance_kernel::spread_slope<A>{rows.slope.data, z.length.data, policy_weight, length_normalised,
                                                             out.dlog_pf.data, nullptr, steps});
  return out;
}

}  // namespace balance_detail

template <RegressionFunction G = half_squared>
struct relative_trajectory_balance {
  double beta = 1;
  bool length_normalised = false;
  double log_reward_clip_min = no_clip;
  G g{};
  /// log_z (groups); importance (N) or nothing: weights of trajectories, constants; one of weight 0 adds nothing,
  /// whatever its values are. Errors: shape_error.
  template <Backend B>
  trajectory_loss<B> operator()(context<B>& cx, const trajectories<B>& z, const_accum_tensor<B> log_z,
                                const_accum_tensor<B> importance = {}) const {
    const char* name = "relative_trajectory_balance";
    balance_detail::expect_shape(name, "log_z", log_z, false, z.groups);
    return balance_detail::relative_loss<B>(
        cx, name, z, true, 1, beta, length_normalised, log_reward_clip_min, importance, [&](const auto& rows, trajectory_loss<B>& out) {
          balance_kernel::regress<B, G, typename B::accum>(cx, g, rows, log_z.data, importance.data, out.total, out.each, out.dlog_z);
        });
  }
};

struct relative_log_partition_variance {
  double beta = 1;
  bool length_normalised = false;
  double log_reward_clip_min = no_clip;
  /// Errors: shape_error.
  template <Backend B>
  trajectory_loss<B> operator()(context<B>& cx, const trajectories<B>& z) const {
    return balance_detail::relative_loss<B>(
        cx, "relative_log_partition_variance", z, false, 1, beta, length_normalised, log_reward_clip_min, {},
        [&](const auto& rows, trajectory_loss<B>& out) {
          balance_kernel::regress_about_mean<B>(cx, half_squared{}, rows, z.groups, nullptr, out.total, out.each);
        });
  }
};

template <RegressionFunction G = half_squared>
struct trust_pcl {
  double alpha = 1;
  double log_reward_clip_min = no_clip;
  G g{};
  /// root_value (groups): v, alpha times a log Z; its gradient is dlog_z. Errors: shape_error.
  template <Backend B>
  trajectory_loss<B> operator()(context<B>& cx, const trajectories<B>& z, const_accum_tensor<B> root_value) const {
    balance_detail::expect_shape("trust_pcl", "root_value", root_value, false, z.groups);
    return balance_detail::relative_loss<B>(
        cx, "trust_pcl", z, true, alpha, 1, false, log_reward_clip_min, {}, [&](const auto& rows, trajectory_loss<B>& out) {
          balance_kernel::regress<B, G, typename B::accum>(cx, g, rows, root_value.data, nullptr, out.total, out.each, out.dlog_z);
        });
  }
};

}  // namespace planlm
