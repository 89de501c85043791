/// Sub-trajectory balance: a weighted sum of squared differences of all pairs of points of a trajectory, in linear time.
///
///   loss of a trajectory u_0 .. u_n = num / den,  num = sum over i < j of lambda^(j-i-1) (u_j - u_i)^2,  den = the same sum of weights.
///
/// What u is makes the objective: log q - log R of the object that ends at prefix k (modified form, 2310.04363, equation 3), or sums of
/// log P_F - log P_B minus log F (2209.12782). u itself never enters, only its steps d_t = u_{t+1} - u_t: with q-weighted moments of all
/// points up to t taken about u_t,
///   M0 = sum lambda^(t-i),  M1 = sum lambda^(t-i) (u_t - u_i),  M2 = sum lambda^(t-i) (u_t - u_i)^2,
/// the pairs that end at t + 1 add M2 + 2 d M1 + d^2 M0 to num: nothing cancels, however large u is. Moments from the left and from the right
/// give both gradients: of a point and of a step. A trajectory is cut into up to 120 segments by its length alone; moments of segments
/// compose, so a team scans them side by side, a CPU thread eight of them in vectors, and every backend adds in the same order. Segments are
/// joined sixteen at a time first, so that none of them has a long way to its ends. All sums are in double.
#pragma once
#include <cstdint>
#include <string>
#include <planlm/backend/context.hpp>
#include <planlm/ops/balance_segments.hpp>

namespace planlm::ops {

/// What the loss of a batch is the mean of: all weighted pairs of the batch, long trajectories counting more (2310.04363), or one mean for
/// every trajectory ("geometric within").
enum class balance_mean { pairs, trajectories };

namespace kernel {

/// Steps of given points u (B, cols).
template <class A>
struct point_steps {
  const A* u;
  index_t cols;
  A* du;
  PLANLM_HD double step(index_t r, index_t t) const { return double(u[r * cols + t + 1]) - double(u[r * cols + t]); }
  PLANLM_HD void write_point(index_t r, index_t k, double g) const { du[r * cols + k] = A(g); }
  PLANLM_HD void write_step(index_t, index_t, double) const {}
  PLANLM_HD void scale_row(index_t r, index_t k, double factor) const { du[r * cols + k] = A(double(du[r * cols + k]) * factor); }
};
/// Steps of a policy whose every prefix may stop: log R_t + log q(next) + log q(stop)_{t+1} - log R_{t+1} - log q(stop)_t.
/// move (B, cols - 1), stop and reward (B, cols).
template <class A>
struct policy_steps {
  const A *move, *stop, *reward;
  index_t cols;
  A *dmove, *dstop;
  PLANLM_HD double step(index_t r, index_t t) const {
    const A *s = stop + r * cols + t, *w = reward + r * cols + t;
    return (double(w[0]) - double(w[1])) + (double(s[1]) - double(s[0])) + double(move[r * (cols - 1) + t]);
  }
  PLANLM_HD void write_point(index_t r, index_t k, double g) const { dstop[r * cols + k] = A(g); }
  PLANLM_HD void write_step(index_t r, index_t t, double h) const { dmove[r * (cols - 1) + t] = A(h); }
  PLANLM_HD void scale_row(index_t r, index_t k, double factor) const {
    A& s = dstop[r * cols + k];
    s = A(double(s) * factor);
    if (k + 1 < cols) {
      A& m = dmove[r * (cols - 1) + k];
      m = A(double(m) * factor);
    }
  }
};

/// num, den and the gradients of num for trajectory r. Nothing beyond its last point is read; gradients there are 0.
template <class Steps>
struct sub_trajectory_balance {
  Steps steps;
  const int* last;           // (B): n, the number of the last point
  double* kept;              // (B, cols, kept_of_point): of a trajectory what its points keep (cols, 2), then its steps
  balance_segment* segment;  // (B, most_segments)
  double* sums;              // (B, 2): num, den
  index_t cols;
  double lambda;

  static constexpr index_t kept_of_point = 3;
  PLANLM_HD index_t width() const { return cols; }

  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const index_t width = cols, n = last[r] < 0 ? 0 : (last[r] < width ? last[r] : width - 1);
    const Steps s = steps;
    double *at = kept + kept_of_point * r * cols, *step = at + 2 * cols;
    balance_segment* part = segment + most_segments * r;
    const index_t parts = n > 0 ? balance_segments(n) : 0;
    const balance_trajectory<Steps> own{s, r, n, parts, lambda, at, step, part};
    team.for_each(n, [=](index_t t) { step[t] = s.step(r, t); });
    team.sync();
    run_pass(team, balance_open_pass<Steps>{own});
    team.sync();
    const index_t groups = (parts + balance_group - 1) / balance_group;
    balance_segment* group = part + (most_segments - balance_groups);
    const auto end_of = [=](index_t g) { return (g + 1) * balance_group < parts ? (g + 1) * balance_group : parts; };
    team.for_each(groups > 1 ? groups : 0, [=](index_t g) {
      balance_segment all = part[g * balance_group];
      for (index_t b = g * balance_group + 1; b < end_of(g); ++b) all = joined(all, part[b]);
      group[g] = all;
    });
    team.sync();
    team.for_each(groups, [=](index_t own_group) {
      balance_moments m{1, 0, 0};  // at point 0: itself
      for (index_t g = 0; g < own_group; ++g) m = past(m, group[g]);
      for (index_t b = own_group * balance_group; b < end_of(own_group); ++b) part[b].before = m, m = past(m, part[b]);
      m = {1, 0, 0};
      for (index_t g = groups - 1; g > own_group; --g) m = back_past(m, group[g]);
      for (index_t b = end_of(own_group) - 1; b >= own_group * balance_group; --b) part[b].behind = m, m = back_past(m, part[b]);
    });
    if (team.leader() && n > 0) at[0] = 1, at[1] = 0;
    team.sync();
    run_pass(team, balance_left_pass<Steps>{own});
    team.sync();
    run_pass(team, balance_right_pass<Steps>{own});
    if (team.leader() && n > 0) s.write_point(r, n, 2 * at[2 * n + 1]);
    team.for_each(width, [=](index_t k) {
      if (k > n || n == 0) s.write_point(r, k, 0);
      if (k >= n && k + 1 < width) s.write_step(r, k, 0);
    });
    team.sync();
    if (team.leader()) {
      double num = 0, den = 0;
      for (index_t k = 0; k < parts; ++k) num += part[k].num, den += part[k].den;
      sums[2 * r] = num;
      sums[2 * r + 1] = den;
    }
  }
};

/// Divides by the weights: each trajectory's loss, the batch's, and the gradients.
template <class Steps, class A>
struct balance_finish {
  Steps steps;
  const double* sums;
  A *each, *total;
  index_t rows, cols;
  balance_mean mean;

  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const double* s = sums;
    const Steps to = steps;
    const double num = s[2 * r], den = s[2 * r + 1];
    const double own = den > 0 ? num / den : 0;
    double factor = den > 0 ? 1 / (den * double(rows)) : 0;
    if (mean == balance_mean::pairs) {
      const double all = team.template sum<double>(rows, [=](index_t i) { return s[2 * i + 1]; });
      factor = all > 0 ? 1 / all : 0;
      if (r == 0) {
        const double top = team.template sum<double>(rows, [=](index_t i) { return s[2 * i]; });
        if (team.leader()) total[0] = A(top * factor);
      }
    } else if (r == 0) {
      const double top = team.template sum<double>(rows, [=](index_t i) { return s[2 * i + 1] > 0 ? s[2 * i] / s[2 * i + 1] : 0; });
      if (team.leader()) total[0] = A(top / double(rows));
    }
    if (team.leader()) each[r] = A(own);
    team.for_each(cols, [=](index_t k) { to.scale_row(r, k, factor); });
  }
};

template <class B, class Steps>
void balance(context<B>& cx, const Steps& steps, indices<B> last, double lambda, balance_mean mean, index_t cols,
             view<typename B::accum, 1, typename B::space> each, view<typename B::accum, 1, typename B::space> total) {
  const index_t rows = last.size();
  auto scope = cx.scope();
  const auto kept = cx.template make_of<double>(rows, cols, sub_trajectory_balance<Steps>::kept_of_point);
  const auto segments = cx.template make_of<balance_segment>(rows, most_segments);
  const auto sums = cx.template make_of<double>(rows, 2);
  B::for_rows(cx.queue(), rows, sub_trajectory_balance<Steps>{steps, last.data, kept.data, segments.data, sums.data, cols, lambda});
  B::for_rows(cx.queue(), rows, balance_finish<Steps, typename B::accum>{steps, sums.data, each.data, total.data, rows, cols, mean});
}

}  // namespace kernel

inline void check_balance(double lambda, index_t rows, index_t cols, index_t lengths) {
  if (!(lambda >= 0 && lambda <= 1))
    throw error("sub_trajectory_balance: lambda is " + std::to_string(lambda) + ", expected in [0, 1]");
  if (lengths != rows || cols < 1)
    throw shape_error("sub_trajectory_balance: " + std::to_string(lengths) + " lengths for (" + std::to_string(rows) + ", " +
                      std::to_string(cols) + ") points");
}

/// A loss with its gradient at unit upstream.
template <Backend B>
struct balance_loss {
  using values = view<typename B::accum, 2, typename B::space>;
  view<typename B::accum, 1, typename B::space> total;  // (1)
  view<typename B::accum, 1, typename B::space> each;   // (B): num / den of a trajectory, 0 for one without steps
  values du;                                            // (B, cols)
};
/// u (B, cols): trajectory b has points 0 .. last[b] with last[b] < cols; what lies behind is never read and its gradient is 0.
/// A trajectory of a single point has no pairs and adds nothing; where no trajectory has one, loss and gradient are 0.
/// Errors: planlm::error for a lambda outside [0, 1], shape_error.
template <Backend B>
balance_loss<B> sub_trajectory_balance(context<B>& cx, view<const typename B::accum, 2, typename B::space> u, indices<B> last, double lambda,
                                       balance_mean mean = balance_mean::pairs) {
  using A = typename B::accum;
  check_balance(lambda, u.rows(), u.cols(), last.size());
  balance_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(u.rows()), cx.template make_of<A>(u.rows(), u.cols())};
  kernel::balance(cx, kernel::point_steps<A>{u.data, u.cols(), out.du.data}, last, lambda, mean, u.cols(), out.each, out.total);
  return out;
}

/// The loss of a policy every prefix of which may stop, and its gradients; the reward's would be -dstop.
template <Backend B>
struct policy_balance_loss {
  using values = view<typename B::accum, 2, typename B::space>;
  view<typename B::accum, 1, typename B::space> total, each;
  values dmove, dstop;
};
/// move (B, L): log q of the token taken after prefix t < last[b]; stop and reward (B, L + 1): log q(stop) and log R at prefix k <= last[b].
/// u_k = sum of move before k + stop_k - reward_k.   [2310.04363, equation 3]
template <Backend B>
policy_balance_loss<B> policy_sub_trajectory_balance(context<B>& cx, view<const typename B::accum, 2, typename B::space> move,
                                                     view<const typename B::accum, 2, typename B::space> stop,
                                                     view<const typename B::accum, 2, typename B::space> reward, indices<B> last,
                                                     double lambda, balance_mean mean = balance_mean::pairs) {
  using A = typename B::accum;
  check_balance(lambda, stop.rows(), stop.cols(), last.size());
  if (!same_shape(stop, reward) || move.rows() != stop.rows() || move.cols() + 1 != stop.cols())
    throw shape_error("policy_sub_trajectory_balance: stop is (" + std::to_string(stop.rows()) + ", " + std::to_string(stop.cols()) +
                      "), so the reward must be the same and move one column less; they are (" + std::to_string(reward.rows()) + ", " +
                      std::to_string(reward.cols()) + ") and (" + std::to_string(move.rows()) + ", " + std::to_string(move.cols()) + ")");
  const index_t rows = stop.rows(), cols = stop.cols();
  policy_balance_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(rows), cx.template make_of<A>(rows, cols - 1),
                             cx.template make_of<A>(rows, cols)};
  kernel::balance(cx, kernel::policy_steps<A>{move.data, stop.data, reward.data, cols, out.dmove.data, out.dstop.data}, last, lambda, mean,
                  cols, out.each, out.total);
  return out;
}

}  // namespace planlm::ops
