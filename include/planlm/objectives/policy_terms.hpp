/// A batch of rollouts of a policy that may stop at every prefix, as a language model does, and what a loss of them returns.
///
/// Row b took n = length[b] actions and then stopped. Everything in nats; rewards are tempered already. Of row b only taken t < n and stop
/// and reward at k <= n are read; what lies beyond may hold anything, NaN included, and its gradient is 0.
///
/// A stop before `shortest` is forbidden: where the softmax masks it, it has no probability, and its prefix is no object. The stop at
/// `longest` is certain: it counts as 0, is not read and gets no gradient. A row shorter than `shortest` is no object either: loss and
/// gradient 0, no member of its group, but one of the B where a loss is a mean over rows.   [2310.04363]
#pragma once
#include <limits>
#include <planlm/objectives/score_regression.hpp>
#include <planlm/objectives/trajectories.hpp>

namespace planlm {

template <Backend B>
struct policy_terms {
  const_accum_tensor<B, 2> taken;   // (B, L): log q of action t
  const_accum_tensor<B, 2> stop;    // (B, L + 1): log q of stopping after k actions
  const_accum_tensor<B, 2> reward;  // (B, L + 1): log R of the object that ends there
  indices<B> length;                // (B): n
  indices<B> group = {};            // (B): which prompt, 0 .. groups - 1; empty: all one
  index_t groups = 1;
  index_t shortest = 0;
  index_t longest = std::numeric_limits<index_t>::max();
};

/// A loss and its gradients at unit upstream.
template <Backend B>
struct policy_loss {
  accum_tensor<B> total;       // (1)
  accum_tensor<B> each;        // (B): a row's own
  accum_tensor<B, 2> dtaken;   // (B, L)
  accum_tensor<B, 2> dstop;    // (B, L + 1)
  accum_tensor<B> dflow = {};  // (G), where a flow is learned
};

namespace balance_kernel {

template <class A>
struct policy_reader {
  const A *taken, *stop, *reward;
  const int *length, *group;
  index_t cols, shortest, longest;  // cols = L + 1
  PLANLM_HD index_t last(index_t r) const {
    const index_t n = length[r];
    return n < 0 ? 0 : n < cols ? n : cols - 1;
  }
  PLANLM_HD int member(index_t r) const { return last(r) < shortest ? -1 : group ? group[r] : 0; }
  PLANLM_HD double move(index_t r, index_t t) const { return double(taken[r * (cols - 1) + t]); }
  PLANLM_HD double stopping(index_t r, index_t k) const { return k < longest ? double(stop[r * cols + k]) : 0; }
  PLANLM_HD double log_reward(index_t r, index_t k) const { return double(reward[r * cols + k]); }
  /// log q(stop) - log R at prefix k.
  PLANLM_HD double end(index_t r, index_t k) const { return stopping(r, k) - log_reward(r, k); }
};

/// log q of the whole object, minus log R where `against_reward`; 0 for a row that is none.
template <class A>
struct policy_score {
  policy_reader<A> read;
  bool against_reward;
  double* score;
  int* member;  // or null
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const policy_reader<A> from = read;
    const index_t n = from.last(r);
    const int of = from.member(r);
    const double moves = team.template sum<double>(of < 0 ? 0 : n, [=](index_t t) { return from.move(r, t); });
    if (!team.leader()) return;
    if (member) member[r] = of;
    score[r] = of < 0 ? 0 : moves + (against_reward ? from.end(r, n) : from.stopping(r, n));
  }
};
/// The slope of a row goes to each of its actions and to its stop.
template <class A>
struct spread_policy_slope {
  policy_reader<A> read;
  const double* slope;
  A *dtaken, *dstop;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const index_t n = read.last(r), cols = read.cols;
    const double s = slope[r];
    const bool chosen = n < read.longest;
    A *taken = dtaken + r * (cols - 1), *stop = dstop + r * cols;
    team.for_each(cols, [=](index_t k) {
      stop[k] = k == n && chosen ? A(s) : A(0);
      if (k + 1 < cols) taken[k] = k < n ? A(s) : A(0);
    });
  }
};
/// u_k = log q of the object that ends at k, minus its log R; 0 where there is none.
template <class A>
struct policy_residual {
  policy_reader<A> read;
  A* u;
  PLANLM_HD void operator()(index_t r) const {
    const index_t n = read.last(r);
    double moves = 0;
    for (index_t k = 0; k < read.cols; ++k) {
      u[r * read.cols + k] = k <= n && k >= read.shortest ? A(moves + read.end(r, k)) : A(0);
      if (k < n) moves += read.move(r, k);
    }
  }
};
template <class A>
struct narrowed {
  const double* from;
  A* to;
  PLANLM_HD void operator()(index_t i) const { to[i] = A(from[i]); }
};

}  // namespace balance_kernel

namespace balance_detail {

template <Backend B>
void check(const char* loss, const policy_terms<B>& z, const_accum_tensor<B> flow, bool learned) {
  const index_t rows = z.stop.rows(), cols = z.stop.cols();
  if (rows < 1 || cols < 1) throw shape_error(std::string(loss) + ": stop is " + shape_of(z.stop) + ", expected rows and L + 1 columns");
  expect_shape(loss, "taken", z.taken, cols == 1, rows, cols - 1);
  expect_shape(loss, "reward", z.reward, false, rows, cols);
  expect_shape(loss, "length", z.length, false, rows);
  expect_shape(loss, "group", z.group, true, rows);
  if (z.groups < 1) throw shape_error(std::string(loss) + ": " + std::to_string(z.groups) + " groups, expected at least 1");
  if (z.shortest < 0 || z.longest < z.shortest)
    throw error(std::string(loss) + ": lengths from " + std::to_string(z.shortest) + " to " + std::to_string(z.longest) +
                ", expected 0 <= shortest <= longest");
  if (learned) expect_shape(loss, "flow", flow, false, z.groups);
}
template <Backend B>
balance_kernel::policy_reader<typename B::accum> reader(const policy_terms<B>& z) {
  return {z.taken.data, z.stop.data, z.reward.data, z.length.data, z.group.data, z.stop.cols(), z.shortest, z.longest};
}
template <Backend B>
policy_loss<B> make_loss(context<B>& cx, const policy_terms<B>& z, bool flow) {
  using A = typename B::accum;
  const index_t rows = z.stop.rows(), cols = z.stop.cols();
  policy_loss<B> out{cx.template make_of<A>(1), cx.template make_of<A>(rows), cx.template make_of<A>(rows, cols - 1),
                     cx.template make_of<A>(rows, cols), {}};
  if (flow) out.dflow = cx.template make_of<A>(z.groups);
  return out;
}
/// Score, regression, slopes: the loss of whole objects.
template <Backend B, class Regress>
policy_loss<B> object_loss(context<B>& cx, const policy_terms<B>& z, bool flow, const Regress& regress) {
  using A = typename B::accum;
  policy_loss<B> out = make_loss(cx, z, flow);
  auto scope = cx.scope();
  const index_t rows = z.stop.rows();
  const balance_kernel::scored_rows<B> kept(cx, rows);
  B::for_rows(cx.queue(), rows, balance_kernel::policy_score<A>{reader(z), true, kept.score.data, kept.member.data});
  regress(kept, out);
  B::for_rows(cx.queue(), rows, balance_kernel::spread_policy_slope<A>{reader(z), kept.slope.data, out.dtaken.data, out.dstop.data});
  return out;
}

}  // namespace balance_detail

/// u (B, L + 1): log q - log R of the object that ends at each prefix, 0 beyond n and before `shortest`. At the optimum each is -log Z of
/// its prompt: their mean and spread tell how far training is.
template <Backend B>
accum_tensor<B, 2> policy_residuals(context<B>& cx, const policy_terms<B>& z) {
  balance_detail::check("policy_residuals", z, {}, false);
  auto u = cx.template make_of<typename B::accum>(z.stop.rows(), z.stop.cols());
  B::for_each(cx.queue(), z.stop.rows(), balance_kernel::policy_residual<typename B::accum>{balance_detail::reader(z), u.data});
  return u;
}

/// (B): log q of each row's object, its stop included; 0 for a row shorter than `shortest`.
template <Backend B>
accum_tensor<B> object_log_probability(context<B>& cx, const policy_terms<B>& z) {
  using A = typename B::accum;
  balance_detail::check("object_log_probability", z, {}, false);
  auto out = cx.template make_of<A>(z.stop.rows());
  auto scope = cx.scope();
  const auto score = cx.template make_of<double>(z.stop.rows());
  B::for_rows(cx.queue(), z.stop.rows(), balance_kernel::policy_score<A>{balance_detail::reader(z), false, score.data, nullptr});
  B::for_each(cx.queue(), z.stop.rows(), balance_kernel::narrowed<A>{score.data, out.data});
  return out;
}

}  // namespace planlm
