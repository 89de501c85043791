/// From one number per trajectory, its score, to a loss: the part that trajectory balance, VarGrad and their relatives share.
///
///   loss = mean over rows of weight_r g(score_r + shift of r's group)
///   slope_r = d loss / d score_r,  d shift = sum of the group's slopes
///
/// A row that is no member (`member` -1) or has weight 0 has loss and slope 0, whatever its score, but counts in the mean. Sums over rows are in double and in row order of the
/// team, so that a backend gives the same bits every time.
#pragma once
#include <planlm/backend/context.hpp>
#include <planlm/objectives/regression.hpp>

namespace planlm::balance_kernel {

/// The mean score of each group, times `sign`; 0 for an empty one.
struct group_means {
  const double* score;
  const int* member;
  double* mean;
  index_t rows;
  double sign;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t g) const {
    const double* s = score;
    const int* of = member;
    const double count = team.template sum<double>(rows, [=](index_t r) { return of[r] == int(g) ? 1.0 : 0.0; });
    const double total = team.template sum<double>(rows, [=](index_t r) { return of[r] == int(g) ? s[r] : 0.0; });
    if (team.leader()) mean[g] = count > 0 ? sign * total / count : 0;
  }
};

template <RegressionFunction G, class Shift, class A>
struct regress_scores {
  G g;
  const double* score;
  const int* member;
  const Shift* shift;  // (groups), or null: 0
  const A* weight;     // (rows), or null: 1
  double *value, *slope;
  A* each;
  index_t rows;
  PLANLM_HD void operator()(index_t r) const {
    const double w = weight ? double(weight[r]) : 1;
    if (member[r] < 0 || w == 0) {
      value[r] = slope[r] = 0;
      each[r] = A(0);
      return;
    }
    const double t = shift ? score[r] + double(shift[member[r]]) : score[r];
    value[r] = w * g.value(t);
    slope[r] = w * g.slope(t) / double(rows);
    each[r] = A(value[r]);
  }
};

/// Row 0 sums the loss, row 1 + g what the shift of group g gets.
template <class A>
struct sum_regression {
  const double *value, *slope;
  const int* member;
  A *total, *dshift;
  index_t rows;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t job) const {
    const double *v = value, *s = slope;
    const int* of = member;
    if (job == 0) {
      const double sum = team.template sum<double>(rows, [=](index_t r) { return v[r]; });
      if (team.leader()) total[0] = A(rows > 0 ? sum / double(rows) : 0);
      return;
    }
    const double sum = team.template sum<double>(rows, [=](index_t r) { return of[r] == int(job - 1) ? s[r] : 0.0; });
    if (team.leader()) dshift[job - 1] = A(sum);
  }
};

/// What is kept per row between score and gradient.
template <Backend B>
struct scored_rows {
  view<double, 1, typename B::space> score, value, slope;
  view<int, 1, typename B::space> member;
  scored_rows(context<B>& cx, index_t rows)
      : score(cx.template make_of<double>(rows)),
        value(cx.template make_of<double>(rows)),
        slope(cx.template make_of<double>(rows)),
        member(cx.template make_of<int>(rows)) {}
};

/// Fills slopes, `each` (rows) and `total` (1); dshift (groups) unless it is empty.
template <Backend B, RegressionFunction G, class Shift>
void regress(context<B>& cx, G g, const scored_rows<B>& rows, const Shift* shift, const typename B::accum* weight,
             accum_tensor<B> total, accum_tensor<B> each, accum_tensor<B> dshift) {
  using A = typename B::accum;
  const index_t n = each.size();
  B::for_each(cx.queue(), n, regress_scores<G, Shift, A>{g, rows.score.data, rows.member.data, shift, weight, rows.value.data,
                                                         rows.slope.data, each.data, n});
  B::for_rows(cx.queue(), 1 + (dshift ? dshift.size() : 0),
              sum_regression<A>{rows.value.data, rows.slope.data, rows.member.data, total.data, dshift.data, n});
}
/// The same about the mean of each group: the shift that makes the loss of squares smallest.
template <Backend B, RegressionFunction G>
void regress_about_mean(context<B>& cx, G g, const scored_rows<B>& rows, index_t groups, const typename B::accum* weight,
                        accum_tensor<B> total, accum_tensor<B> each) {
  const auto mean = cx.template make_of<double>(groups);
  B::for_rows(cx.queue(), groups, group_means{rows.score.data, rows.member.data, mean.data, each.size(), -1});
  regress<B, G, double>(cx, g, rows, mean.data, weight, total, each, {});
}

}  // namespace planlm::balance_kernel
