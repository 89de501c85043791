/// Sub-trajectory balance: pairs (i, j) of points of a trajectory, j - i = l, and how much each counts.   [2209.12782]
///
///   detailed_balance           l = 1 only, mean over the batch's transitions
///   modified_detailed_balance  l = 1 only, mean within each trajectory, then over trajectories
///   trajectory_balance         the two ends only, mean over trajectories: trajectory balance with log Z = log F(s_0)
///   equal                      all pairs of the batch alike
///   equal_within               all pairs of a trajectory alike, then the mean over trajectories
///   geometric_within           lambda^(l-1) over its sum within the trajectory, then the mean over trajectories
///   geometric                  per l the mean over the batch's pairs of that length, weighted lambda^(l-1) over the sum of
///                              lambda^(m-1) for m up to the longest length of the batch
///
/// Squares take linear time wherever the weight is a power of lambda; the two ends do always. `geometric` divides by the number of pairs of
/// each length, which is no power: it takes quadratic time, and so does every other regression over all pairs. Its sum form has no 0 / 0
/// at lambda = 1, where all lengths weigh alike.
#pragma once
#include <planlm/objectives/balance_steps.hpp>

namespace planlm {

enum class balance_weighting {
  detailed_balance,
  modified_detailed_balance,
  trajectory_balance,
  equal,
  equal_within,
  geometric_within,
  geometric
};

namespace balance_kernel {

/// lambda of a weighting that is a power of it.
PLANLM_HD constexpr double power_of(balance_weighting w, double lambda) {
  switch (w) {
    case balance_weighting::detailed_balance:
    case balance_weighting::modified_detailed_balance: return 0;
    case balance_weighting::equal:
    case balance_weighting::equal_within: return 1;
    default: return lambda;
  }
}
PLANLM_HD constexpr balance_mean mean_of(balance_weighting w) {
  return w == balance_weighting::detailed_balance || w == balance_weighting::equal ? balance_mean::pairs : balance_mean::trajectories;
}

/// Weights of pairs by length, (cols), entry 0 unused: lambda^(l-1), divided by norm and counts where `counted`.
struct length_weights {
  const int* last;
  double* weight;
  index_t rows, cols;
  double lambda;
  bool counted;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const int* n = last;
    const index_t most = cols - 1, all = rows;
    double* w = weight;
    team.for_each(cols, [=](index_t l) {
      double pairs = 0;
      for (index_t r = 0; r < all && l > 0; ++r) {
        const index_t own = n[r] < most ? n[r] : most;
        if (own >= l) pairs += double(own - l + 1);
      }
      w[l] = pairs;
    });
    team.sync();
    if (!team.leader()) return;
    double norm = 0, power = 1;
    for (index_t l = 1; l < cols && w[l] > 0; ++l, power *= lambda) norm += power;
    power = 1;
    for (index_t l = 1; l < cols; ++l, power *= lambda) w[l] = counted ? (w[l] > 0 ? power / (norm * w[l]) : 0) : power;
  }
};
/// A row's weights in all.
struct row_weights {
  const int* last;
  const double* weight;
  double* own;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const index_t n = last[r] < 0 ? 0 : last[r] < cols ? last[r] : cols - 1;
    const double* w = weight;
    const double sum = team.template sum<double>(n, [=](index_t l) { return double(n - l) * w[l + 1]; });
    if (team.leader()) own[r] = sum;
  }
};
/// What a row's sum of weighted pairs is multiplied with.
struct row_shares {
  const double* own;
  double* share;
  index_t rows;
  balance_mean mean;
  bool counted;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const double* d = own;
    double* to = share;
    const index_t all = rows;
    const balance_mean by = mean;
    const bool done = counted;
    const double sum = team.template sum<double>(rows, [=](index_t r) { return d[r]; });
    team.for_each(rows, [=](index_t r) {
      if (done) to[r] = 1;
      else if (by == balance_mean::pairs) to[r] = sum > 0 ? 1 / sum : 0;
      else to[r] = d[r] > 0 ? 1 / (d[r] * double(all)) : 0;
    });
  }
};
/// Pair by pair.
template <class Steps, class G>
struct all_pairs {
  Steps steps;
  G g;
  const int* last;
  const double *weight, *share;
  double *u, *du;  // (rows, cols)
  double* sums;    // (rows)
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const Steps s = steps;
    const G of = g;
    const index_t n = last[r] < 0 ? 0 : last[r] < cols ? last[r] : cols - 1, width = cols;
    double *point = u + r * cols, *slope = du + r * cols;
    const double *w = weight, own = share[r];
    if (team.leader()) {
      point[0] = 0;
      for (index_t t = 0; t < n; ++t) point[t + 1] = point[t] + s.step(r, t);
    }
    team.sync();
    const double sum = team.template sum<double>(n + 1, [=](index_t k) {
      double mine = 0;
      for (index_t i = 0; i < k; ++i) mine += w[k - i] * of.value(point[k] - point[i]);
      return mine;
    });
    team.for_each(n + 1, [=](index_t k) {
      double mine = 0;
      for (index_t i = 0; i < k; ++i) mine += w[k - i] * of.slope(point[k] - point[i]);
      for (index_t j = k + 1; j <= n; ++j) mine -= w[j - k] * of.slope(point[j] - point[k]);
      slope[k] = own * mine;
    });
    team.sync();
    if (team.leader()) {
      sums[r] = sum;
      double behind = 0;
      for (index_t t = n; t > 0; --t) {
        s.write_point(r, t, slope[t]);
        s.write_step(r, t - 1, behind += slope[t]);
      }
      s.write_point(r, 0, n > 0 ? slope[0] : 0);
    }
    team.for_each(width, [=](index_t k) {
      if (k > n) s.write_point(r, k, 0);
      if (k >= n && k + 1 < width) s.write_step(r, k, 0);
    });
  }
};

/// Any regression and weights, in quadratic time: the oracle of the recurrence.
template <Backend B, class Steps, RegressionFunction G>
void balance_by_pairs(context<B>& cx, const Steps& steps, G g, indices<B> last, index_t cols, double lambda, balance_mean mean,
                      bool counted, accum_tensor<B> total, accum_tensor<B> each) {
  const index_t rows = last.size();
  auto scope = cx.scope();
  const auto weight = cx.template make_of<double>(cols), own = cx.template make_of<double>(rows), share = cx.template make_of<double>(rows),
             sums = cx.template make_of<double>(rows);
  const auto u = cx.template make_of<double>(rows, cols), du = cx.template make_of<double>(rows, cols);
  B::for_rows(cx.queue(), 1, length_weights{last.data, weight.data, rows, cols, lambda, counted});
  B::for_rows(cx.queue(), rows, row_weights{last.data, weight.data, own.data, cols});
  B::for_rows(cx.queue(), 1, row_shares{own.data, share.data, rows, mean, counted});
  B::for_rows(cx.queue(), rows,
              all_pairs<Steps, G>{steps, g, last.data, weight.data, share.data, u.data, du.data, sums.data, cols});
  B::for_rows(cx.queue(), 1, finish_sums<typename B::accum>{sums.data, own.data, share.data, 0, each.data, total.data, rows});
}

/// values times a number.
template <class A>
struct times {
  A* v;
  double by;
  PLANLM_HD void operator()(index_t i) const { v[i] = A(double(v[i]) * by); }
};

}  // namespace balance_kernel

template <RegressionFunction G = squared>
struct sub_trajectory_balance {
  balance_weighting weighting = balance_weighting::geometric_within;
  double lambda = 0.9;                   // in [0, 1]; read by the two geometric ones
  double log_reward_clip_min = no_clip;  // log R is not read below it
  G g{};

  /// Takes log_flow, forward-looking where state_log_reward is given. `each`: a trajectory's own weighted mean.
  /// Errors: planlm::error for a lambda outside [0, 1], shape_error.
  template <Backend B>
  trajectory_loss<B> operator()(context<B>& cx, const trajectories<B>& z) const {
    trajectory_loss<B> out = prepare(cx, z);
    auto steps = steps_of<B>(z, out);
    const index_t cols = z.log_pf.cols() + 1;
    const auto power = balance_kernel::power_of(weighting, lambda);
    const auto mean = balance_kernel::mean_of(weighting);
    if (weighting == balance_weighting::trajectory_balance) {
      balance_kernel::balance_ends<B>(cx, steps, g, z.length, cols, out.total, out.each);
    } else if (weighting == balance_weighting::detailed_balance || weighting == balance_weighting::modified_detailed_balance) {
      balance_kernel::balance_neighbours<B>(cx, steps, g, z.length, cols, mean, out.total, out.each);
    } else if (!QuadraticRegression<G> || weighting == balance_weighting::geometric) {
      pairs<B>(cx, z, steps, out);
    } else if constexpr (QuadraticRegression<G>) {
      using A = typename B::accum;
      steps.scale = double(G::curvature) / 2;
      ops::kernel::balance<B>(cx, steps, z.length, power, mean, cols, out.each, out.total);
      if (steps.scale != 1) {
        B::for_each(cx.queue(), out.each.size(), balance_kernel::times<A>{out.each.data, steps.scale});
        B::for_each(cx.queue(), 1, balance_kernel::times<A>{out.total.data, steps.scale});
      }
    }
    return out;
  }

  /// The same pair by pair, in quadratic time: what the other form is held against.
  template <Backend B>
  trajectory_loss<B> by_pairs(context<B>& cx, const trajectories<B>& z) const {
    trajectory_loss<B> out = prepare(cx, z);
    if (weighting == balance_weighting::trajectory_balance)
      balance_kernel::balance_ends<B>(cx, steps_of<B>(z, out), g, z.length, z.log_pf.cols() + 1, out.total, out.each);
    else pairs<B>(cx, z, steps_of<B>(z, out), out);
    return out;
  }

 private:
  template <Backend B>
  trajectory_loss<B> prepare(context<B>& cx, const trajectories<B>& z) const {
    balance_detail::check("sub_trajectory_balance", z, true);
    ops::check_balance(lambda, z.log_pf.rows(), z.log_pf.cols() + 1, z.length.size());
    return balance_detail::make_loss(cx, z, true, false);
  }
  template <Backend B>
  balance_kernel::flow_steps<typename B::accum> steps_of(const trajectories<B>& z, const trajectory_loss<B>& out) const {
    return {balance_detail::reader(z, log_reward_clip_min), out.dlog_pf.data, out.dlog_pb.data, out.dlog_flow.data};
  }
  template <Backend B>
  void pairs(context<B>& cx, const trajectories<B>& z, const balance_kernel::flow_steps<typename B::accum>& steps,
             const trajectory_loss<B>& out) const {
    balance_kernel::balance_by_pairs<B>(cx, steps, g, z.length, z.log_pf.cols() + 1, balance_kernel::power_of(weighting, lambda),
                                        balance_kernel::mean_of(weighting), weighting == balance_weighting::geometric, out.total, out.each);
  }
};

}  // namespace planlm
