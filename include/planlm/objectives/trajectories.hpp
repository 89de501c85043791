/// A batch of N trajectories of a flow network, and what a loss of them returns.
///
/// Trajectory n takes length[n] transitions, the last of them the exit; padded to T columns. What lies beyond a length may hold anything,
/// NaN included: it is never read, and gradients there are 0. All values in nats.
///
/// A trajectory of length 0 has loss 0 and gradients 0, and is one of the N where a loss is a mean over trajectories; it is no member of
/// its group. All of length 0: the loss is 0.   [2201.13259, 2111.09266; forward-looking form 2302.01687]
#pragma once
#include <limits>
#include <string>
#include <planlm/backend/context.hpp>

namespace planlm {

template <Backend B>
struct trajectories {
  const_accum_tensor<B, 2> log_pf;                 // (N, T): log P_F of transition t
  const_accum_tensor<B> log_reward;                // (N): log R of the object
  indices<B> length;                               // (N): transitions, exit included
  const_accum_tensor<B, 2> log_pb = {};            // (N, T): log P_B; empty: 0, every state has one parent
  const_accum_tensor<B, 2> log_flow = {};          // (N, T): log F(s_t) of the state that transition t leaves
  const_accum_tensor<B, 2> state_log_reward = {};  // (N, T): forward-looking, the log-reward so far at s_t: log F(s_t) is log_flow + it
  const_accum_tensor<B, 2> log_prior = {};         // (N, T): log-probability of transition t under a prior, for losses relative to one
  indices<B> group = {};                           // (N): what a trajectory is conditioned on, 0 .. groups - 1; empty: all on the same
  index_t groups = 1;
};

/// A loss and its gradients at unit upstream.
template <Backend B>
struct trajectory_loss {
  accum_tensor<B> total;         // (1)
  accum_tensor<B> each;          // (N): a trajectory's own loss
  accum_tensor<B, 2> dlog_pf;    // (N, T)
  accum_tensor<B, 2> dlog_pb;    // (N, T), empty where log_pb is
  accum_tensor<B, 2> dlog_flow;  // (N, T), empty where the loss takes no flow
  accum_tensor<B> dlog_z;        // (groups), empty where the loss takes no log Z
};

inline constexpr double no_clip = -std::numeric_limits<double>::infinity();

namespace balance_kernel {

/// Reads a batch on either side; log R not below `clip`.
template <class A>
struct flow_reader {
  const A *pf, *pb, *flow, *so_far, *reward;
  const int* length;
  index_t steps;
  double clip;

  PLANLM_HD index_t last(index_t r) const {
    const index_t n = length[r];
    return n < 0 ? 0 : n < steps ? n : steps;
  }
  PLANLM_HD double move(index_t r, index_t t) const {
    const double forward = double(pf[r * steps + t]);
    return pb ? forward - double(pb[r * steps + t]) : forward;
  }
  PLANLM_HD double log_reward(index_t r) const {
    const double v = double(reward[r]);
    return v < clip ? clip : v;
  }
  /// log F of the state before transition k of n; that behind the last one is the reward.
  PLANLM_HD double log_flow(index_t r, index_t k, index_t n) const {
    if (k == n) return log_reward(r);
    const double f = double(flow[r * steps + k]);
    return so_far ? f + double(so_far[r * steps + k]) : f;
  }
  /// log F(s_t) + log P_F - log F(s_t+1) - log P_B.
  PLANLM_HD double residual(index_t r, index_t t, index_t n) const {
    return move(r, t) + (log_flow(r, t, n) - log_flow(r, t + 1, n));
  }
};

}  // namespace balance_kernel

namespace balance_detail {

template <class V>
std::string shape_of(const V& v) {
  std::string text = "(";
  for (int axis = 0; axis < V::rank; ++axis) text += (axis ? ", " : "") + std::to_string(v.extent(axis));
  return text + ")";
}
template <class V, class... E>
void expect_shape(const char* loss, const char* name, const V& v, bool may_be_empty, E... extents) {
  if (!v && may_be_empty) return;
  const index_t expected[] = {extents...};
  bool fits = sizeof...(E) == V::rank;
  for (int axis = 0; axis < V::rank && fits; ++axis) fits = v.extent(axis) == expected[axis];
  if (fits) return;
  std::string wanted;
  for (const index_t e : expected) wanted += (wanted.empty() ? "" : ", ") + std::to_string(e);
  throw shape_error(std::string(loss) + ": " + name + " is " + shape_of(v) + ", expected (" + wanted + ")" +
                    (may_be_empty ? " or nothing" : ""));
}
template <Backend B>
void check(const char* loss, const trajectories<B>& z, bool flow) {
  const index_t n = z.log_pf.rows(), t = z.log_pf.cols();
  if (n < 1) throw shape_error(std::string(loss) + ": log_pf is " + shape_of(z.log_pf) + ", expected at least one trajectory");
  expect_shape(loss, "log_reward", z.log_reward, false, n);
  expect_shape(loss, "length", z.length, false, n);
  expect_shape(loss, "log_pb", z.log_pb, true, n, t);
  expect_shape(loss, "log_flow", z.log_flow, !flow, n, t);
  expect_shape(loss, "state_log_reward", z.state_log_reward, true, n, t);
  expect_shape(loss, "log_prior", z.log_prior, true, n, t);
  expect_shape(loss, "group", z.group, true, n);
  if (z.groups < 1) throw shape_error(std::string(loss) + ": " + std::to_string(z.groups) + " groups, expected at least 1");
}
template <Backend B>
balance_kernel::flow_reader<typename B::accum> reader(const trajectories<B>& z, double clip) {
  return {z.log_pf.data,     z.log_pb.data, z.log_flow.data,  z.state_log_reward.data,
          z.log_reward.data, z.length.data, z.log_pf.cols(), clip};
}
/// Values and gradients as the batch needs them.
template <Backend B>
trajectory_loss<B> make_loss(context<B>& cx, const trajectories<B>& z, bool flow, bool log_z) {
  using A = typename B::accum;
  const index_t n = z.log_pf.rows(), t = z.log_pf.cols();
  trajectory_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(n), cx.template make_of<A>(n, t), {}, {}, {}};
  if (z.log_pb) out.dlog_pb = cx.template make_of<A>(n, t);
  if (flow) out.dlog_flow = cx.template make_of<A>(n, t);
  if (log_z) out.dlog_z = cx.template make_of<A>(z.groups);
  return out;
}

}  // namespace balance_detail

}  // namespace planlm
