/// VarGrad, the log-partition variance: mean over n of (S_n - mean of S in n's group)^2, S as in trajectory balance.   [2302.05446]
///
/// It is trajectory balance at the log Z that is best for the batch, so nothing has to be learned beside the policy. A group is all
/// trajectories of one prompt: the mean over different prompts would mean nothing. The gradient is the same whether or not it flows
/// through the mean. A group of one has nothing to compare: its loss and gradient are 0, so draw at least two per prompt.
#pragma once
#include <planlm/objectives/trajectory_balance.hpp>

namespace planlm {

struct log_partition_variance {
  double log_reward_clip_min = no_clip;  // log R is not read below it

  /// Errors: shape_error.
  template <Backend B>
  trajectory_loss<B> operator()(context<B>& cx, const trajectories<B>& z) const {
    using A = typename B::accum;
    balance_detail::check("log_partition_variance", z, false);
    trajectory_loss<B> out = balance_detail::make_loss(cx, z, false, false);
    auto scope = cx.scope();
    const index_t n = z.log_pf.rows(), steps = z.log_pf.cols();
    const balance_kernel::scored_rows<B> rows(cx, n);
    B::for_rows(cx.queue(), n,
                balance_kernel::trajectory_score<A>{balance_detail::reader(z, log_reward_clip_min), z.group.data, 1, 1, false,
                                                    rows.score.data, rows.member.data});
    balance_kernel::regress_about_mean<B>(cx, squared{}, rows, z.groups, nullptr, out.total, out.each);
    B::for_rows(cx.queue(), n, balance_kernel::spread_slope<A>{rows.slope.data, z.length.data, 1, false, out.dlog_pf.data,
                                                               out.dlog_pb.data, steps});
    return out;
  }
};

}  // namespace planlm
