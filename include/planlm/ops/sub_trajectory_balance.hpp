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
/// compose, so a team scans them side by side and every backend adds in the same order. Segments are joined sixteen at a time first, so that
/// none of them has a long way to its ends. All sums are in double.
#pragma once
#include <cstdint>
#include <string>
#include <planlm/backend/context.hpp>

namespace planlm::ops {

/// What the loss of a batch is the mean of: all weighted pairs of the batch, long trajectories counting more (2310.04363), or one mean for
/// every trajectory ("geometric within").
enum class balance_mean { pairs, trajectories };

namespace kernel {

/// Moments about the last point of what lies before it, and about the first point of what lies behind it.
struct balance_moments {
  double zeroth, first, second;
};
/// A stretch of steps from point a to point b: its decay lambda^(b - a), its rise u_b - u_a, moments about b of the points after a, moments
/// about a of the points before b, and what its own pairs' ends add to num and den.
struct balance_segment {
  double decay, rise, left0, left1, left2, right0, right1, num, den;
};

/// Moments about the far end of a segment, from those about its near end: coming from the left, and from the right (no second moment).
PLANLM_HD inline balance_moments past(const balance_moments& m, const balance_segment& p) {
  return {p.left0 + p.decay * m.zeroth, p.left1 + p.decay * (m.first + p.rise * m.zeroth),
          p.left2 + p.decay * (m.second + p.rise * (2 * m.first + p.rise * m.zeroth))};
}
PLANLM_HD inline balance_moments back_past(const balance_moments& m, const balance_segment& p) {
  return {p.right0 + p.decay * m.zeroth, p.right1 + p.decay * (m.first - p.rise * m.zeroth), 0};
}
/// Two neighbours as one segment.
PLANLM_HD inline balance_segment joined(const balance_segment& a, const balance_segment& b) {
  const balance_moments left = past({a.left0, a.left1, a.left2}, b), right = back_past({b.right0, b.right1, 0}, a);
  return {a.decay * b.decay, a.rise + b.rise, left.zeroth, left.first, left.second, right.zeroth, right.first, 0, 0};
}

/// How many segments a trajectory of n steps is cut into, and where segment k begins. Of the room for a trajectory the last eight places
/// are those of its groups.
inline constexpr index_t most_segments = 128, balance_groups = 8, balance_group = 16;
PLANLM_HD constexpr index_t balance_segments(index_t n) {
  if (n < 16) return 1;
  return n < 256 ? n / 8 : n < 1024 ? 32 : n < 2048 ? 64 : most_segments - balance_groups;
}
PLANLM_HD constexpr index_t balance_begin(index_t n, index_t k) { return n * k / balance_segments(n); }

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
  double* kept;              // (B, cols, 2): M0 and the pairs' first moment at every point
  balance_segment* segment;  // (B, most_segments)
  double* sums;              // (B, 2): num, den
  index_t cols;
  double lambda;

  PLANLM_HD index_t width() const { return cols; }

  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const index_t width = cols, n = last[r] < 0 ? 0 : (last[r] < width ? last[r] : width - 1);
    const Steps s = steps;
    const double l = lambda;
    double* at = kept + 2 * r * cols;
    balance_segment* part = segment + most_segments * r;
    const index_t parts = n > 0 ? balance_segments(n) : 0;
    team.for_each(parts, [=](index_t k) {
      balance_segment own{1, 0, 0, 0, 0, 0, 0, 0, 0};
      const index_t end = balance_begin(n, k + 1);
      for (index_t t = balance_begin(n, k); t < end; ++t) {
        const double d = s.step(r, t);
        own.right0 += own.decay;
        own.right1 -= own.decay * own.rise;
        const double pairs1 = own.left1 + own.left0 * d;
        const double pairs2 = own.left2 + d * (2 * own.left1 + own.left0 * d);
        own.left0 = 1 + l * own.left0;
        own.left1 = l * pairs1;
        own.left2 = l * pairs2;
        own.rise += d;
        own.decay *= l;
      }
      part[k] = own;
    });
    team.sync();
    const index_t groups = (parts + balance_group - 1) / balance_group;
    balance_segment* group = part + (most_segments - balance_groups);
    team.for_each(groups > 1 ? groups : 0, [=](index_t g) {
      const index_t end = (g + 1) * balance_group < parts ? (g + 1) * balance_group : parts;
      balance_segment all = part[g * balance_group];
      for (index_t b = g * balance_group + 1; b < end; ++b) all = joined(all, part[b]);
      group[g] = all;
    });
    team.sync();
    // From the left: what each point's pairs with the points before it add.
    team.for_each(parts, [=](index_t k) {
      balance_moments m{1, 0, 0};  // at point 0: itself
      const index_t own = k / balance_group;
      for (index_t g = 0; g < own; ++g) m = past(m, group[g]);
      for (index_t b = own * balance_group; b < k; ++b) m = past(m, part[b]);
      double num = 0, den = 0;
      if (k == 0) at[0] = 1, at[1] = 0;
      const index_t end = balance_begin(n, k + 1);
      for (index_t t = balance_begin(n, k); t < end; ++t) {
        const double d = s.step(r, t);
        const double pairs1 = m.first + m.zeroth * d;
        const double pairs2 = m.second + d * (2 * m.first + m.zeroth * d);
        num += pairs2;
        den += m.zeroth;
        m = {1 + l * m.zeroth, l * pairs1, l * pairs2};
        at[2 * (t + 1)] = m.zeroth;
        at[2 * (t + 1) + 1] = pairs1;
      }
      part[k].num = num;
      part[k].den = den;
    });
    team.sync();
    // From the right: gradients. Step t is part of every pair that lies around it, point t of every pair that it ends.
    team.for_each(parts, [=](index_t k) {
      balance_moments m{1, 0, 0};
      const index_t own = k / balance_group, end = (own + 1) * balance_group < parts ? (own + 1) * balance_group : parts;
      for (index_t g = groups - 1; g > own; --g) m = back_past(m, group[g]);
      for (index_t b = end - 1; b > k; --b) m = back_past(m, part[b]);
      const index_t begin = balance_begin(n, k);
      for (index_t t = balance_begin(n, k + 1) - 1; t >= begin; --t) {
        const double d = s.step(r, t), left0 = at[2 * t], pairs1 = at[2 * t + 1];
        const double behind = m.first - m.zeroth * d;
        s.write_step(r, t, 2 * (l * pairs1 * m.zeroth - left0 * behind));
        s.write_point(r, t, 2 * (pairs1 + behind));
        m = {1 + l * m.zeroth, l * behind, 0};
      }
      if (k == parts - 1) s.write_point(r, n, 2 * at[2 * n + 1]);
    });
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
  const auto kept = cx.template make_of<double>(rows, cols, 2);
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
