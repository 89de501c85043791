/// REINFORCE on whole objects: what distribution matching is compared with, and the reverse KL.
///
///   loss = -mean over rows of advantage * log q(object),   advantage = return, made relative to the group, a constant
///   return = log R - entropy * log q(object)
///
/// entropy 0 maximises the mean log R: the policy ends on its best objects and forgets the rest. entropy 1 descends KL(q || R / Z); with
/// baseline group_mean its gradient is half of VarGrad's, exactly, on rows the policy drew itself. Values between weigh entropy less.
/// The expectation is right for rows that the policy drew itself at temperature 1, and only for those. The loss is a surrogate: its
/// gradient is what is meant, its value says nothing.
///
/// Baselines: none; group_mean subtracts the mean return of the row's prompt; group_normalised divides by the standard deviation (of the
/// population) as well, and a group whose returns are all equal, one row among them, has advantage 0.   [2402.03300]
#pragma once
#include <planlm/objectives/policy_terms.hpp>

namespace planlm {

enum class policy_baseline { none, group_mean, group_normalised };

namespace balance_kernel {

struct scored_returns {
  const double *log_q, *score;  // score = log q - log R
  double* value;
  double entropy;
  PLANLM_HD void operator()(index_t r) const { value[r] = (log_q[r] - score[r]) - entropy * log_q[r]; }
};
/// The population's standard deviation of each group.
struct group_deviations {
  const double *value, *mean;
  const int* member;
  double* deviation;
  index_t rows;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t g) const {
    const double *v = value, m = mean[g];
    const int* of = member;
    const double count = team.template sum<double>(rows, [=](index_t r) { return of[r] == int(g) ? 1.0 : 0.0; });
    const double sum = team.template sum<double>(rows, [=](index_t r) { return of[r] == int(g) ? (v[r] - m) * (v[r] - m) : 0.0; });
    if (team.leader()) deviation[g] = count > 0 ? ::sqrt(sum / count) : 0;
  }
};
template <class A>
struct advantage_slopes {
  const double *log_q, *returns, *mean, *deviation;  // mean and deviation null: not used
  const int* member;
  double *value, *slope;
  A* each;
  index_t rows;
  PLANLM_HD void operator()(index_t r) const {
    const int g = member[r];
    double advantage = g < 0 ? 0 : returns[r] - (mean ? mean[g] : 0);
    // Equal returns differ by their rounding: a spread below that is none.
    if (deviation && g >= 0) advantage = deviation[g] > 1e-9 * (1 + (mean[g] < 0 ? -mean[g] : mean[g])) ? advantage / deviation[g] : 0;
    value[r] = g < 0 ? 0 : -advantage * log_q[r];
    slope[r] = -advantage / double(rows);
    each[r] = A(value[r]);
  }
};

}  // namespace balance_kernel

struct policy_gradient {
  policy_baseline baseline = policy_baseline::group_mean;
  double entropy = 0;  // 0: reward only; 1: reverse KL

  static constexpr policy_gradient reverse_kl(policy_baseline baseline = policy_baseline::group_mean) { return {baseline, 1}; }

  /// `flow` is not read. Errors: planlm::error for lengths that cross, shape_error.
  template <Backend B>
  policy_loss<B> operator()(context<B>& cx, const policy_terms<B>& z, const_accum_tensor<B> = {}) const {
    using A = typename B::accum;
    balance_detail::check("policy_gradient", z, {}, false);
    return balance_detail::object_loss(cx, z, false, [&](const balance_kernel::scored_rows<B>& kept, policy_loss<B>& out) {
      const index_t rows = z.stop.rows();
      const auto log_q = cx.template make_of<double>(rows), returns = cx.template make_of<double>(rows),
                 mean = cx.template make_of<double>(z.groups), deviation = cx.template make_of<double>(z.groups);
      const int* member = kept.member.data;
      B::for_rows(cx.queue(), rows, balance_kernel::policy_score<A>{balance_detail::reader(z), false, log_q.data, nullptr});
      B::for_each(cx.queue(), rows, balance_kernel::scored_returns{log_q.data, kept.score.data, returns.data, entropy});
      const bool relative = baseline != policy_baseline::none, normalised = baseline == policy_baseline::group_normalised;
      if (relative) B::for_rows(cx.queue(), z.groups, balance_kernel::group_means{returns.data, member, mean.data, rows, 1});
      if (normalised)
        B::for_rows(cx.queue(), z.groups, balance_kernel::group_deviations{returns.data, mean.data, member, deviation.data, rows});
      B::for_each(cx.queue(), rows,
                  balance_kernel::advantage_slopes<A>{log_q.data, returns.data, relative ? mean.data : nullptr,
                                                      normalised ? deviation.data : nullptr, member, kept.value.data, kept.slope.data,
                                                      out.each.data, rows});
      B::for_rows(cx.queue(), 1,
                  balance_kernel::sum_regression<A>{kept.value.data, kept.slope.data, member, out.total.data, nullptr, rows});
    });
  }
};

}  // namespace planlm
