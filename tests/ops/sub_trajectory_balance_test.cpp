#include <planlm/ops/sub_trajectory_balance.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/lane_team.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;
using numbers = std::vector<double>;
using ops::balance_mean;

namespace {

const double nan_value = std::numeric_limits<double>::quiet_NaN();

template <class C = B>
view<const typename C::accum, 2> matrix(const std::vector<typename C::accum>& v, index_t rows) {
  return {v.data(), rows, static_cast<index_t>(v.size()) / rows};
}
indices<B> lengths(const std::vector<int>& v) { return {v.data(), v.size()}; }

/// Pair by pair, in quadratic time.
struct pairwise {
  double loss = 0;
  numbers du;
};
pairwise all_pairs(const numbers& u, const std::vector<int>& last, double lambda, balance_mean mean) {
  const std::size_t rows = last.size(), cols = u.size() / rows;
  pairwise out{0, numbers(u.size())};
  numbers num(rows), den(rows);
  double all_num = 0, all_den = 0;
  for (std::size_t b = 0; b < rows; ++b) {
    const auto n = static_cast<std::size_t>(last[b]);
    for (std::size_t j = 1; j <= n; ++j) {
      double weight = 1;
      for (std::size_t i = j; i-- > 0; weight *= lambda) {
        const double d = u[b * cols + j] - u[b * cols + i];
        num[b] += weight * d * d;
        den[b] += weight;
        out.du[b * cols + j] += 2 * weight * d;
        out.du[b * cols + i] -= 2 * weight * d;
      }
    }
    all_num += num[b], all_den += den[b];
  }
  for (std::size_t b = 0; b < rows; ++b) {
    const double of = mean == balance_mean::pairs ? all_den : den[b] * double(rows);
    if (mean == balance_mean::trajectories && den[b] > 0) out.loss += num[b] / of;
    for (std::size_t k = 0; k < cols; ++k) out.du[b * cols + k] = of > 0 ? out.du[b * cols + k] / of : 0;
  }
  if (mean == balance_mean::pairs) out.loss = all_den > 0 ? all_num / all_den : 0;
  return out;
}
double distance(const numbers& a, const numbers& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  const double d = difference == 0 ? 0 : std::sqrt(difference / norm);
  return a.size() == b.size() && std::isfinite(d) ? d : std::numeric_limits<double>::infinity();
}
/// A walk around `level` whose steps have size `scale`; behind each trajectory lies what must not be read.
numbers walks(const std::vector<int>& last, std::size_t cols, double scale, double level) {
  numbers u(last.size() * cols, nan_value);
  const numbers steps = testing::normal_values(static_cast<index_t>(u.size()), 5, scale);
  for (std::size_t b = 0; b < last.size(); ++b) {
    double at = level;
    for (std::size_t k = 0; k <= static_cast<std::size_t>(last[b]); ++k) u[b * cols + k] = at += steps[b * cols + k];
  }
  return u;
}

// Three sentences of 4, 1 and 3 tokens, log q(token), log q(stop) and log R at every prefix, and what PyTorch in float64 makes of them.
const std::vector<int> sentence_last{4, 1, 3};
const double x = nan_value;
const numbers sentence_move{-1.1, -0.4, -2.0, -0.7, -0.9, x, x, x, -1.5, -0.6, -0.2, x};
const numbers sentence_stop{-4.0, -3.1, -2.2, -1.6, -0.5, -3.7, -0.8, x, x, x, -4.2, -2.5, -1.9, -0.3, x};
const numbers sentence_reward{-9.0, -7.2, -6.5, -7.9, -6.1, -9.0, -5.6, x, x, x, -9.0, -8.1, -7.0, -5.2, x};
const numbers sentence_u{5.0, 3.0, 2.8, 2.8, 1.4, 5.3, 3.9, x, x, x, 4.8, 4.1, 3.0, 2.6, x};
struct golden {
  double lambda, loss;
  numbers dmove, dstop;
};
const golden sentence_goldens[] = {
    {1.0, 2.785294117647,
     {-1.176470588235, -1.176470588235, -1.058823529412, -0.941176470588, -0.164705882353, 0, 0, 0, -0.552941176471, -0.776470588235,
      -0.482352941176, 0},
     {1.176470588235, 0, -0.117647058824, -0.117647058824, -0.941176470588, 0.164705882353, -0.164705882353, 0, 0, 0, 0.552941176471,
      0.223529411765, -0.294117647059, -0.482352941176, 0}},
    {0.9, 2.572274091577,
     {-1.071128424548, -1.029746471678, -0.912242161058, -0.840462353918, -0.178810907465, 0, 0, 0, -0.523915958873, -0.747429593205,
      -0.45111437512, 0},
     {1.071128424548, -0.041381952871, -0.11750431062, -0.07177980714, -0.840462353918, 0.178810907465, -0.178810907465, 0, 0, 0,
      0.523915958873, 0.223513634332, -0.296315218085, -0.45111437512, 0}},
    {0.5, 1.816703296703,
     {-0.720879120879, -0.492307692308, -0.386813186813, -0.518681318681, -0.246153846154, 0, 0, 0, -0.378021978022, -0.58021978022,
      -0.298901098901, 0},
     {0.720879120879, -0.228571428571, -0.105494505495, 0.131868131868, -0.518681318681, 0.246153846154, -0.246153846154, 0, 0, 0,
      0.378021978022, 0.202197802198, -0.281318681319, -0.298901098901, 0}},
    {0.0, 1.2275,
     {-0.5, -0.05, 0, -0.35, -0.35, 0, 0, 0, -0.175, -0.275, -0.1, 0},
     {0.5, -0.45, -0.05, 0.35, -0.35, 0.35, -0.35, 0, 0, 0, 0.175, 0.1, -0.175, -0.1, 0}}};
double largest_gap(const numbers& a, const numbers& b) {
  double gap = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    gap = std::isfinite(a[i]) ? std::max(gap, std::abs(a[i] - b[i])) : std::numeric_limits<double>::infinity();
  return gap;
}

}  // namespace

TEST_CASE("the balance of a policy that may stop anywhere has PyTorch's loss and gradients") {
  for (const golden& g : sentence_goldens) {
    CAPTURE(g.lambda);
    context<B> cx;
    testing::poison(cx);
    const auto l = ops::policy_sub_trajectory_balance<B>(cx, matrix(sentence_move, 3), matrix(sentence_stop, 3),
                                                         matrix(sentence_reward, 3), lengths(sentence_last), g.lambda);
    CHECK(std::abs(cx.read_one(l.total) - g.loss) < 1e-12);
    CHECK(largest_gap(cx.read(l.dmove), g.dmove) < 1e-12);
    CHECK(largest_gap(cx.read(l.dstop), g.dstop) < 1e-12);
    // The same as points: their gradient is that of stopping.
    const auto p = ops::sub_trajectory_balance<B>(cx, matrix(sentence_u, 3), lengths(sentence_last), g.lambda);
    CHECK(std::abs(cx.read_one(p.total) - g.loss) < 1e-12);
    CHECK(largest_gap(cx.read(p.du), g.dstop) < 1e-12);
  }
}

TEST_CASE("the balance of a general flow has the means that are published for its weightings") {
  // w_m = sum of log P_F - log P_B before m, minus log F(s_m), the last with log R: three trajectories of 4, 2 and 3 steps.
  const double pf[4][3] = {{-0.5, -1.2, -0.3}, {-0.9, -0.7, -1.1}, {-1.4, 0, -0.25}, {-0.2, 0, 0}};
  const double pb[4][3] = {{-0.1, -0.6, -0.4}, {-0.8, 0, -0.35}, {-0.05, 0, 0}, {0, 0, 0}};
  const double flow[4][3] = {{1.5, 1.5, 1.5}, {0.8, 0.25, 1.1}, {0.3, 0, 0.6}, {-0.4, 0, 0}};
  const double reward[3] = {-0.7, 0.4, 0.1};
  const std::vector<int> last{4, 2, 3};
  numbers w(15, nan_value);
  for (std::size_t b = 0; b < 3; ++b) {
    double sum = 0;
    const auto n = static_cast<std::size_t>(last[b]);
    for (std::size_t m = 0; m <= n; ++m) {
      w[5 * b + m] = sum - (m < n ? flow[m][b] : reward[b]);
      if (m < n) sum += pf[m][b] - pb[m][b];
    }
  }
  const auto loss = [&](double lambda, balance_mean mean) {
    context<B> cx;
    return cx.read_one(ops::sub_trajectory_balance<B>(cx, matrix(w, 3), lengths(last), lambda, mean).total);
  };
  CHECK(std::abs(loss(1, balance_mean::pairs) - 0.181973684211) < 1e-12);
  CHECK(std::abs(loss(0, balance_mean::pairs) - 0.244722222222) < 1e-12);
  CHECK(std::abs(loss(1, balance_mean::trajectories) - 0.222694444444) < 1e-12);
  CHECK(std::abs(loss(0.9, balance_mean::trajectories) - 0.228239820206) < 1e-12);
  CHECK(std::abs(loss(0.5, balance_mean::trajectories) - 0.25299939976) < 1e-12);
  CHECK(std::abs(loss(0.99, balance_mean::trajectories) - 0.223236574025) < 1e-12);
  CHECK(std::abs(loss(0, balance_mean::trajectories) - 0.289375) < 1e-12);
  // d log P_F of the first trajectory at lambda 0.9: sums of dw behind the step.
  context<B> cx;
  const numbers dw = cx.read(ops::sub_trajectory_balance<B>(cx, matrix(w, 3), lengths(last), 0.9, balance_mean::trajectories).du);
  const double expected[] = {0.079555752017, 0.06139536597, -0.098843334438, -0.029995947987};
  for (std::size_t t = 0; t < 4; ++t) {
    double sum = 0;
    for (std::size_t k = t + 1; k < 5; ++k) sum += dw[k];
    CHECK(std::abs(sum - expected[t]) < 1e-12);
  }
}

TEST_CASE("loss and gradients are those of all pairs, at any length, lambda and level of residuals, in double and float") {
  const std::vector<int> last{0, 1, 2, 15, 16, 17, 37, 300, 511};
  for (const double lambda : {0.0, 0.3, 0.9, 0.999, 1.0})
    for (const auto mean : {balance_mean::pairs, balance_mean::trajectories})
      for (const double level : {0.0, 1e4}) {
        CAPTURE(lambda, int(mean), level);
        const numbers u = walks(last, 520, 1, level);
        const pairwise expected = all_pairs(u, last, lambda, mean);
        context<B> cx;
        testing::poison(cx);
        const auto l = ops::sub_trajectory_balance<B>(cx, matrix(u, 9), lengths(last), lambda, mean);
        CHECK(std::abs(cx.read_one(l.total) / expected.loss - 1) < 1e-10);
        CHECK(distance(cx.read(l.du), expected.du) < 1e-10);
        CHECK(cx.read(l.each)[0] == 0);
        // In float only the points themselves are rounded, and the results: steps of 1 around a level of 1e4 keep four digits.
        using F = cpu<float>;
        const std::vector<float> rounded(u.begin(), u.end());
        const numbers again(rounded.begin(), rounded.end());
        const pairwise of_rounded = all_pairs(again, last, lambda, mean);
        context<F> fx;
        testing::poison(fx);
        const auto f = ops::sub_trajectory_balance<F>(fx, matrix<F>(rounded, 9), indices<F>(last.data(), last.size()), lambda, mean);
        const auto df = fx.read(f.du);
        CHECK(std::abs(double(fx.read_one(f.total)) / of_rounded.loss - 1) < 1e-7);
        CHECK(distance(numbers(df.begin(), df.end()), of_rounded.du) < 1e-7);
      }
}

TEST_CASE("four thousand points and residuals of ten thousand agree with all pairs to ten digits") {
  const std::vector<int> last{4096, 2500};
  for (const double lambda : {0.0, 0.9, 0.999, 1.0})
    for (const double scale : {1.0, 160.0}) {  // the second walks as far as 1e4
      CAPTURE(lambda, scale);
      const numbers u = walks(last, 4097, scale, 1e4);
      const pairwise expected = all_pairs(u, last, lambda, balance_mean::pairs);
      context<B> cx;
      const auto l = ops::sub_trajectory_balance<B>(cx, matrix(u, 2), lengths(last), lambda);
      CHECK(std::abs(cx.read_one(l.total) / expected.loss - 1) < 1e-10);
      CHECK(distance(cx.read(l.du), expected.du) < 1e-10);
    }
}

TEST_CASE("the gradient of a step is the sum of the points' gradients behind it, and a balanced policy has none") {
  const std::vector<int> last{63, 20, 0};
  context<B> cx;
  const numbers move = testing::normal_values(3 * 63, 1), stop = testing::normal_values(3 * 64, 2), reward = testing::normal_values(3 * 64, 3);
  const auto l = ops::policy_sub_trajectory_balance<B>(cx, matrix(move, 3), matrix(stop, 3), matrix(reward, 3), lengths(last), 0.95);
  const numbers dmove = cx.read(l.dmove), dstop = cx.read(l.dstop);
  for (std::size_t b = 0; b < 3; ++b) {
    double behind = 0;
    for (std::size_t t = 63; t-- > 0;) {
      behind += dstop[64 * b + t + 1];
      CHECK(std::abs(dmove[63 * b + t] - behind) < 1e-12);
    }
    CHECK(std::abs(behind + dstop[64 * b]) < 1e-12);
  }
  // R = q of every object: all points are 0.
  numbers matched(3 * 64);
  for (std::size_t b = 0; b < 3; ++b) {
    double sum = 0;
    for (std::size_t k = 0; k < 64; ++k) {
      matched[64 * b + k] = sum + stop[64 * b + k];
      if (k < 63) sum += move[63 * b + k];
    }
  }
  const auto none = ops::policy_sub_trajectory_balance<B>(cx, matrix(move, 3), matrix(stop, 3), matrix(matched, 3), lengths(last), 0.95);
  CHECK(cx.read_one(none.total) < 1e-24);
  for (const double g : cx.read(none.dmove)) CHECK(std::abs(g) < 1e-12);
}

TEST_CASE("trajectories without a step have loss 0 and gradient 0, also when there are no others") {
  const numbers u{1, nan_value, 7, nan_value};
  const std::vector<int> last{0, 0};
  for (const auto mean : {balance_mean::pairs, balance_mean::trajectories}) {
    context<B> cx;
    testing::poison(cx);
    const auto l = ops::sub_trajectory_balance<B>(cx, matrix(u, 2), lengths(last), 1, mean);
    CHECK(cx.read_one(l.total) == 0);
    CHECK(cx.read(l.du) == numbers(4));
  }
}

TEST_CASE("the kernels of the balance give the same bits under lanes, and threads do not change them") {
  const std::vector<int> last{0, 1, 40, 300};
  const numbers u = walks(last, 301, 1, 0);
  using steps = ops::kernel::point_steps<double>;
  const auto run = [&](auto launch) {
    numbers du(u.size(), nan_value), kept(3 * u.size()), sums(8, nan_value), each(4, nan_value), total(1, nan_value);
    std::vector<ops::kernel::balance_segment> segments(4 * ops::kernel::most_segments);
    const steps s{u.data(), 301, du.data()};
    launch(4, ops::kernel::sub_trajectory_balance<steps>{s, last.data(), kept.data(), segments.data(), sums.data(), 301, 0.9});
    launch(4, ops::kernel::balance_finish<steps, double>{s, sums.data(), each.data(), total.data(), 4, 301, balance_mean::trajectories});
    du.insert(du.end(), sums.begin(), sums.end());
    du.insert(du.end(), each.begin(), each.end());
    return du;
  };
  const numbers serial = run([](index_t rows, const auto& kernel) {
    for (index_t r = 0; r < rows; ++r) kernel(serial_team{}, r);
  });
  const numbers lanes = run([](index_t rows, const auto& kernel) { testing::run_lanes<4>(rows, kernel); });
  CHECK(testing::same_bits(serial, lanes));
  const auto threaded = [&](int threads) {
    context<B> cx{B::queue(threads)};
    return cx.read(ops::sub_trajectory_balance<B>(cx, matrix(u, 4), lengths(last), 0.9).du);
  };
  CHECK(testing::same_bits(threaded(1), threaded(3)));
}

TEST_CASE("a lambda beyond [0, 1] and shapes that do not fit are told in one line") {
  context<B> cx;
  const numbers u(6);
  const std::vector<int> last{1, 2}, three{1, 1, 1};
  CHECK_THROWS_WITH(ops::sub_trajectory_balance<B>(cx, matrix(u, 2), lengths(last), 1.5),
                    "sub_trajectory_balance: lambda is 1.500000, expected in [0, 1]");
  CHECK_THROWS_AS(ops::sub_trajectory_balance<B>(cx, matrix(u, 2), lengths(last), nan_value), error);
  CHECK_THROWS_AS(ops::sub_trajectory_balance<B>(cx, matrix(u, 2), lengths(three), 1), shape_error);
  CHECK_THROWS_AS(ops::policy_sub_trajectory_balance<B>(cx, matrix(u, 2), matrix(u, 2), matrix(u, 2), lengths(last), 1), shape_error);
}
