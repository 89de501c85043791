/// Modified sub-trajectory balance for a policy that may stop at every prefix.   [2310.04363, equation 3]
///
///   u_k = log q(actions before k, stop) - log R(object that ends at k)
///   loss = sum over pairs i < j of lambda^(j-i-1) (u_j - u_i)^2 / the same sum of weights
///
/// At the optimum every u is -log Z of its prompt. Pairs lie within a row, so the root alone ties rows with different first actions
/// together, and what stands there decides whether training finds the target (docs/gflownet.md):
///
///   batch_mean        a point in front of the row: the mean of u_n over its group, a constant. Nothing to learn; default.
///   learned           a point in front of the row: -flow[group], log F of the empty continuation, learned.
///   stop_probability  no further point: u_0 itself, as published. With `shortest` > 0 this is the published form: every prefix is a
///                     point, rewards before `shortest` carry a floor and stops are not masked; then a residual of the floor's size sits
///                     at the root and the policy may collapse on what it drew first.
///
/// With the first two, points are the anchor and the prefixes from `shortest` to n, in this order: distances i to j count points, not
/// tokens, so that the anchor is a neighbour of the first prefix that may end. Rows that stop at once have an anchor and a point. With
/// stop_probability a row of n = 0 has no pair and adds nothing. No pairs in the whole batch: loss and gradient 0.
///
/// lambda = 1 weighs all pairs alike, lambda = 0 is modified detailed balance. balance_mean::pairs is the mean over the batch's pairs, long
/// rows counting more (as published); trajectories the mean of rows.
#pragma once
#include <planlm/objectives/balance_weighting.hpp>
#include <planlm/objectives/policy_terms.hpp>

namespace planlm {

enum class root_anchor { batch_mean, learned, stop_probability };

namespace balance_kernel {

/// Point p of a row is the anchor (p = 0, where there is one) or prefix p + offset.
template <class A>
struct anchored_steps {
  policy_reader<A> read;
  const double* anchor;  // (groups): u of the root, or null
  index_t first;         // the first prefix that is a point
  A *dtaken, *dstop;
  double* droot;  // (rows), where there is an anchor
  PLANLM_HD index_t prefix(index_t p) const { return anchor ? p + first - 1 : p; }
  PLANLM_HD double step(index_t r, index_t t) const {
    if (anchor && t == 0) {
      double moves = 0;
      for (index_t i = 0; i < first; ++i) moves += read.move(r, i);
      return moves + read.end(r, first) - anchor[read.group ? read.group[r] : 0];
    }
    const index_t k = prefix(t);
    return (read.log_reward(r, k) - read.log_reward(r, k + 1)) + (read.stopping(r, k + 1) - read.stopping(r, k)) + read.move(r, k);
  }
  PLANLM_HD void write_point(index_t r, index_t p, double g) const {
    if (anchor && p == 0) droot[r] = g;
    else dstop[r * read.cols + prefix(p)] = prefix(p) < read.longest ? A(g) : A(0);
  }
  PLANLM_HD void write_step(index_t r, index_t t, double h) const {
    A* d = dtaken + r * (read.cols - 1);
    if (anchor && t == 0) {
      for (index_t i = 0; i < first; ++i) d[i] = A(h);
    } else {
      d[prefix(t)] = A(h);
    }
  }
  PLANLM_HD void scale_row(index_t r, index_t p, double factor) const {
    A* d = dtaken + r * (read.cols - 1);
    if (anchor && p == 0) {
      droot[r] *= factor;
      const index_t moves = first < read.cols - 1 ? first : read.cols - 1;
      for (index_t i = 0; i < moves; ++i) d[i] = A(double(d[i]) * factor);
      return;
    }
    const index_t k = prefix(p);
    A& s = dstop[r * read.cols + k];
    s = A(double(s) * factor);
    if (k + 1 < read.cols) d[k] = A(double(d[k]) * factor);
  }
};
/// The number of the last point.
struct last_points {
  const int* length;
  int* last;
  index_t most, first;
  PLANLM_HD void operator()(index_t r) const {
    const index_t n = length[r] < most ? length[r] : most;
    last[r] = n < first ? 0 : int(n - first + 1);
  }
};
template <class A>
struct negated {
  const A* from;
  double* to;
  PLANLM_HD void operator()(index_t i) const { to[i] = -double(from[i]); }
};
/// A learned log F enters as -u.
template <class A>
struct flow_gradient {
  const double* droot;
  const int *group, *last;
  A* dflow;
  index_t rows;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t g) const {
    const double* d = droot;
    const int *of = group, *n = last;
    const double sum = team.template sum<double>(rows, [=](index_t r) { return n[r] > 0 && (of ? of[r] : 0) == int(g) ? d[r] : 0.0; });
    if (team.leader()) dflow[g] = A(-sum);
  }
};

}  // namespace balance_kernel

struct modified_sub_trajectory_balance {
  double lambda = 1;  // in [0, 1]
  root_anchor root = root_anchor::batch_mean;
  balance_mean mean = balance_mean::pairs;

  /// flow (groups) where the root is learned, otherwise not read. Linear time and memory.
  /// Errors: planlm::error for lambda outside [0, 1] or lengths that cross, shape_error.
  template <Backend B>
  policy_loss<B> operator()(context<B>& cx, const policy_terms<B>& z, const_accum_tensor<B> flow = {}) const {
    return anchored(cx, z, flow, [&](const auto& steps, indices<B> last, index_t cols, const policy_loss<B>& out) {
      ops::kernel::balance<B>(cx, steps, last, lambda, mean, cols, out.each, out.total);
    });
  }
  /// The same with any regression, pair by pair in quadratic time.
  template <Backend B, RegressionFunction G = squared>
  policy_loss<B> by_pairs(context<B>& cx, const policy_terms<B>& z, const_accum_tensor<B> flow = {}, G g = {}) const {
    return anchored(cx, z, flow, [&](const auto& steps, indices<B> last, index_t cols, const policy_loss<B>& out) {
      balance_kernel::balance_by_pairs<B>(cx, steps, g, last, cols, lambda, mean, false, out.total, out.each);
    });
  }

 private:
  template <Backend B, class Balance>
  policy_loss<B> anchored(context<B>& cx, const policy_terms<B>& z, const_accum_tensor<B> flow, const Balance& balance) const {
    using A = typename B::accum;
    const char* name = "modified_sub_trajectory_balance";
    const bool learned = root == root_anchor::learned;
    balance_detail::check(name, z, flow, learned);
    ops::check_balance(lambda, z.stop.rows(), z.stop.cols(), z.length.size());
    policy_loss<B> out = balance_detail::make_loss(cx, z, learned);
    auto scope = cx.scope();
    const index_t rows = z.stop.rows(), width = z.stop.cols();
    const auto read = balance_detail::reader(z);
    if (root == root_anchor::stop_probability) {
      const balance_kernel::anchored_steps<A> steps{read, nullptr, 0, out.dtaken.data, out.dstop.data, nullptr};
      balance(steps, z.length, width, out);
      return out;
    }
    B::zero(cx.queue(), out.dtaken.data, static_cast<std::size_t>(out.dtaken.size()) * sizeof(A));
    B::zero(cx.queue(), out.dstop.data, static_cast<std::size_t>(out.dstop.size()) * sizeof(A));
    const auto anchor = cx.template make_of<double>(z.groups), droot = cx.template make_of<double>(rows);
    const auto last = cx.template make_of<int>(rows);
    if (learned) {
      B::for_each(cx.queue(), z.groups, balance_kernel::negated<A>{flow.data, anchor.data});
    } else {
      const auto score = cx.template make_of<double>(rows);
      const auto member = cx.template make_of<int>(rows);
      B::for_rows(cx.queue(), rows, balance_kernel::policy_score<A>{read, true, score.data, member.data});
      B::for_rows(cx.queue(), z.groups, balance_kernel::group_means{score.data, member.data, anchor.data, rows, 1});
    }
    B::for_each(cx.queue(), rows, balance_kernel::last_points{z.length.data, last.data, width - 1, z.shortest});
    const balance_kernel::anchored_steps<A> steps{read, anchor.data, z.shortest, out.dtaken.data, out.dstop.data, droot.data};
    const index_t points = z.shortest < width ? width - z.shortest + 1 : 1;
    balance(steps, indices<B>(last), points, out);
    if (learned)
      B::for_rows(cx.queue(), z.groups,
                  balance_kernel::flow_gradient<A>{droot.data, z.group.data, last.data, out.dflow.data, rows});
    return out;
  }
};

/// Neighbouring prefixes only.
inline constexpr modified_sub_trajectory_balance policy_modified_detailed_balance(root_anchor root = root_anchor::batch_mean,
                                                                                   balance_mean mean = balance_mean::pairs) {
  return {0, root, mean};
}

}  // namespace planlm
