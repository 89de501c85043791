/// Detailed balance: every transition on its own.   [2111.09266; forward-looking 2302.01687; modified 2310.04363]
///
///   residual = log F(s) + log P_F - log F(s') - log P_B, with log R in place of log F(s') on the exit
///
/// Forward-looking (`state_log_reward` given): log F(s) is log_flow + the log-reward so far at s; the exit has log R as before. Gradients
/// go to both ends' flows, nothing is held constant.
///
/// Modified, where every state may end: F(s) = R(s) / P_F(exit | s), so no flow is learned:
///   residual = log R(s) + log P_F + log P_F(exit | s') - log R(s') - log P_B - log P_F(exit | s)
/// It is sub-trajectory balance of such policies at lambda = 0.
#pragma once
#include <planlm/objectives/balance_steps.hpp>

namespace planlm {

template <RegressionFunction G = squared>
struct detailed_balance {
  balance_mean mean = balance_mean::pairs;  // over all transitions of the batch, or within trajectories first
  double log_reward_clip_min = no_clip;     // log R is not read below it
  G g{};

  /// Takes log_flow. Errors: shape_error.
  template <Backend B>
  trajectory_loss<B> operator()(context<B>& cx, const trajectories<B>& z) const {
    balance_detail::check("detailed_balance", z, true);
    trajectory_loss<B> out = balance_detail::make_loss(cx, z, true, false);
    const balance_kernel::flow_steps<typename B::accum> steps{balance_detail::reader(z, log_reward_clip_min), out.dlog_pf.data,
                                                              out.dlog_pb.data, out.dlog_flow.data};
    balance_kernel::balance_neighbours<B>(cx, steps, g, z.length, z.log_pf.cols() + 1, mean, out.total, out.each);
    return out;
  }
};

/// Trajectories whose every state may end: after k of length[n] transitions the object is there with log_stop and log_reward [n, k].
template <Backend B>
struct stopping_trajectories {
  const_accum_tensor<B, 2> log_pf;       // (N, T): transitions, no exit among them
  const_accum_tensor<B, 2> log_stop;     // (N, T + 1)
  const_accum_tensor<B, 2> log_reward;   // (N, T + 1)
  indices<B> length;                     // (N)
  const_accum_tensor<B, 2> log_pb = {};  // (N, T) or nothing: 0
};
template <Backend B>
struct stopping_loss {
  accum_tensor<B> total, each;
  accum_tensor<B, 2> dlog_pf, dlog_stop, dlog_pb;  // dlog_pb empty where log_pb is
};

namespace balance_kernel {
/// u_k = sum of log P_F - log P_B before k, plus log P_F(exit) minus log R at k.
template <class A>
struct stopping_steps {
  const A *pf, *pb, *stop, *reward;
  index_t cols;
  A *dpf, *dpb, *dstop;
  PLANLM_HD double step(index_t r, index_t t) const {
    const A *s = stop + r * cols + t, *w = reward + r * cols + t;
    const index_t i = r * (cols - 1) + t;
    const double rise = (double(w[0]) - double(w[1])) + (double(s[1]) - double(s[0])) + double(pf[i]);
    return pb ? rise - double(pb[i]) : rise;
  }
  PLANLM_HD void write_point(index_t r, index_t k, double g) const { dstop[r * cols + k] = A(g); }
  PLANLM_HD void write_step(index_t r, index_t t, double h) const {
    dpf[r * (cols - 1) + t] = A(h);
    if (dpb) dpb[r * (cols - 1) + t] = A(-h);
  }
};
}  // namespace balance_kernel

template <RegressionFunction G = squared>
struct modified_detailed_balance {
  balance_mean mean = balance_mean::pairs;
  G g{};

  /// Errors: shape_error.
  template <Backend B>
  stopping_loss<B> operator()(context<B>& cx, const stopping_trajectories<B>& z) const {
    using A = typename B::accum;
    const char* name = "modified_detailed_balance";
    const index_t n = z.log_pf.rows(), t = z.log_pf.cols();
    balance_detail::expect_shape(name, "log_stop", z.log_stop, false, n, t + 1);
    balance_detail::expect_shape(name, "log_reward", z.log_reward, false, n, t + 1);
    balance_detail::expect_shape(name, "log_pb", z.log_pb, true, n, t);
    balance_detail::expect_shape(name, "length", z.length, false, n);
    stopping_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(n), cx.template make_of<A>(n, t),
                         cx.template make_of<A>(n, t + 1), {}};
    if (z.log_pb) out.dlog_pb = cx.template make_of<A>(n, t);
    const balance_kernel::stopping_steps<A> steps{z.log_pf.data, z.log_pb.data,    z.log_stop.data,  z.log_reward.data,
                                                  t + 1,         out.dlog_pf.data, out.dlog_pb.data, out.dlog_stop.data};
    balance_kernel::balance_neighbours<B>(cx, steps, g, z.length, t + 1, mean, out.total, out.each);
    return out;
  }
};

}  // namespace planlm
