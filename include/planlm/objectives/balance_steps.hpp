/// Where the points u of a trajectory come from and where their gradients go, in the form ops/sub_trajectory_balance.hpp scans: step t is
/// u_{t+1} - u_t, so that no point of great size is ever formed. `flow_steps` has a learned flow at each state, `stopping_steps` a policy
/// that may stop at each state, whose flow is R(s) / q(stop | s). And the two shapes of loss that need no recurrence: neighbours, and the
/// two ends.
#pragma once
#include <planlm/objectives/regression.hpp>
#include <planlm/objectives/trajectories.hpp>
#include <planlm/ops/sub_trajectory_balance.hpp>

namespace planlm {

using ops::balance_mean;

namespace balance_kernel {

/// u_m = sum of log P_F - log P_B before m, minus log F(s_m); the last point has log R.   [2209.12782]
template <class A>
struct flow_steps {
  flow_reader<A> read;
  A *dpf, *dpb, *dflow;
  double scale = 1;  // of a loss whose curvature is not 2
  PLANLM_HD double step(index_t r, index_t t) const { return read.residual(r, t, read.last(r)); }
  PLANLM_HD void write_point(index_t r, index_t k, double g) const {
    if (k < read.steps) dflow[r * read.steps + k] = k < read.last(r) ? A(-g) : A(0);
  }
  PLANLM_HD void write_step(index_t r, index_t t, double h) const {
    dpf[r * read.steps + t] = A(h);
    if (dpb) dpb[r * read.steps + t] = A(-h);
  }
  PLANLM_HD void scale_row(index_t r, index_t k, double factor) const {
    if (k >= read.steps) return;
    const double by = factor * scale;
    const index_t i = r * read.steps + k;
    dpf[i] = A(double(dpf[i]) * by);
    if (dpb) dpb[i] = A(double(dpb[i]) * by);
    dflow[i] = A(double(dflow[i]) * by);
  }
};

/// Slopes of neighbours alone: loss = sum of g(step) times a factor. Writes gradients and what each trajectory adds.
template <class Steps, class G>
struct neighbours {
  Steps steps;
  G g;
  const int* last;
  const double* count;  // (1): steps of the batch
  double* sums;         // (rows)
  index_t rows, cols;
  balance_mean mean;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const Steps s = steps;
    const G of = g;
    const index_t n = last[r] < 0 ? 0 : last[r] < cols ? last[r] : cols - 1;
    const double per = mean == balance_mean::pairs ? (count[0] > 0 ? 1 / count[0] : 0) : n > 0 ? 1 / (double(n) * double(rows)) : 0;
    const double sum = team.template sum<double>(n, [=](index_t t) { return of.value(s.step(r, t)); });
    const index_t width = cols;
    team.for_each(width, [=](index_t k) {
      const double after = k < n ? per * of.slope(s.step(r, k)) : 0;
      const double before = k > 0 && k <= n ? per * of.slope(s.step(r, k - 1)) : 0;
      s.write_point(r, k, before - after);
      if (k + 1 < width) s.write_step(r, k, after);
    });
    if (team.leader()) sums[r] = sum;
  }
};
/// Only the two ends: g(u_n - u_0), mean over all rows.
template <class Steps, class G>
struct ends {
  Steps steps;
  G g;
  const int* last;
  double* sums;
  index_t rows, cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const Steps s = steps;
    const index_t n = last[r] < 0 ? 0 : last[r] < cols ? last[r] : cols - 1;
    const double rise = team.template sum<double>(n, [=](index_t t) { return s.step(r, t); });
    const double slope = n > 0 ? g.slope(rise) / double(rows) : 0;
    const index_t width = cols;
    team.for_each(width, [=](index_t k) {
      s.write_point(r, k, n == 0 ? 0 : (k == n ? slope : 0) - (k == 0 ? slope : 0));
      if (k + 1 < width) s.write_step(r, k, k < n ? slope : 0);
    });
    if (team.leader()) sums[r] = n > 0 ? g.value(rise) : 0;
  }
};
/// How many steps the batch has.
struct count_steps {
  const int* last;
  double* count;
  index_t rows, cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const int* n = last;
    const index_t most = cols - 1;
    const double sum = team.template sum<double>(rows, [=](index_t r) {
      return n[r] < 0 ? 0.0 : double(n[r] < most ? n[r] : most);
    });
    if (team.leader()) count[0] = sum;
  }
};
/// What sums become. `own` divides a row's sum by its own weights (null: 1), `share` turns it into its part of the total.
template <class A>
struct finish_sums {
  const double* sums;
  const double *own, *share;
  double uniform_share;
  A *each, *total;
  index_t rows;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t) const {
    const double *s = sums, *d = own, *w = share;
    const double all = uniform_share;
    A* to = each;
    team.for_each(rows, [=](index_t r) { to[r] = A(d ? (d[r] > 0 ? s[r] / d[r] : 0) : s[r]); });
    const double sum = team.template sum<double>(rows, [=](index_t r) { return s[r] * (w ? w[r] : all); });
    if (team.leader()) total[0] = A(sum);
  }
};
/// Weights of a mean over neighbours: each row's steps, and its share of the total.
struct neighbour_weights {
  const int* last;
  const double* count;
  double *own, *share;
  index_t rows, cols;
  balance_mean mean;
  PLANLM_HD void operator()(index_t r) const {
    const index_t n = last[r] < 0 ? 0 : last[r] < cols ? last[r] : cols - 1;
    own[r] = double(n);
    if (mean == balance_mean::pairs) share[r] = count[0] > 0 ? 1 / count[0] : 0;
    else share[r] = n > 0 ? 1 / (double(n) * double(rows)) : 0;
  }
};

/// Loss and gradients of all neighbours.
template <Backend B, class Steps, RegressionFunction G>
void balance_neighbours(context<B>& cx, const Steps& steps, G g, indices<B> last, index_t cols, balance_mean mean,
                        accum_tensor<B> total, accum_tensor<B> each) {
  const index_t rows = last.size();
  auto scope = cx.scope();
  const auto count = cx.template make_of<double>(1), sums = cx.template make_of<double>(rows);
  const auto own = cx.template make_of<double>(rows), share = cx.template make_of<double>(rows);
  B::for_rows(cx.queue(), 1, count_steps{last.data, count.data, rows, cols});
  B::for_each(cx.queue(), rows, neighbour_weights{last.data, count.data, own.data, share.data, rows, cols, mean});
  B::for_rows(cx.queue(), rows, neighbours<Steps, G>{steps, g, last.data, count.data, sums.data, rows, cols, mean});
  B::for_rows(cx.queue(), 1,
              finish_sums<typename B::accum>{sums.data, own.data, share.data, 0, each.data, total.data, rows});
}
/// Loss and gradients of the two ends.
template <Backend B, class Steps, RegressionFunction G>
void balance_ends(context<B>& cx, const Steps& steps, G g, indices<B> last, index_t cols, accum_tensor<B> total,
                  accum_tensor<B> each) {
  const index_t rows = last.size();
  auto scope = cx.scope();
  const auto sums = cx.template make_of<double>(rows);
  B::for_rows(cx.queue(), rows, ends<Steps, G>{steps, g, last.data, sums.data, rows, cols});
  B::for_rows(cx.queue(), 1, finish_sums<typename B::accum>{sums.data, nullptr, nullptr, rows > 0 ? 1 / double(rows) : 0, each.data,
                                                            total.data, rows});
}

}  // namespace balance_kernel

}  // namespace planlm
