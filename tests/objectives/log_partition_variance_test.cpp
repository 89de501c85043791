#include <planlm/objectives/log_partition_variance.hpp>

#include "flow_goldens.hpp"

using namespace objectives_test;

namespace {
const auto variance = [](context<B>& cx, const trajectories<B>& z, view<const double, 1>) { return log_partition_variance{}(cx, z); };
const auto with_z = [](context<B>& cx, const trajectories<B>& z, view<const double, 1> log_z) {
  return trajectory_balance<>{}(cx, z, log_z);
};
}  // namespace

TEST_CASE("the log-partition variance has the published loss and gradients, fact 21") {
  check_case("LPV_VarGrad", golden_batch(), variance);
  const outcome o = evaluate(golden_batch(), variance);
  CHECK(std::abs(o.total - 0.081666666667) < 1e-11);
  CHECK(gap({o.dpf[0], o.dpf[4], o.dpf[8]}, {0, -0.233333333333, 0.233333333333}) < 1e-11);
}

TEST_CASE("trajectory balance exceeds the log-partition variance by the square of log Z plus the mean score, fact 20") {
  const flow_batch b = golden_batch();
  const double mean_score = (-1.35 - 1.70 - 1.00) / 3, excess = evaluate(b, with_z).total - evaluate(b, variance).total;
  CHECK(std::abs(excess - (1.25 + mean_score) * (1.25 + mean_score)) < 1e-12);
  CHECK(std::abs(excess - 0.01) < 1e-12);
}

TEST_CASE("the log-partition variance is trajectory balance at each prompt's best log Z, and its gradient is the same through the mean") {
  flow_batch b = flow_batch::random({3, 5, 1, 4, 2, 5, 3}, 5, 60);
  const outcome v = evaluate(b, variance);
  for (int group = 0; group < 2; ++group) {
    double sum = 0, count = 0;
    for (std::size_t n = 0; n < 7; ++n)
      if (b.group[n] == group) {
        double s = -b.reward[n];
        for (std::size_t t = 0; t < static_cast<std::size_t>(b.length[n]); ++t) s += b.pf[5 * n + t] - b.pb[5 * n + t];
        sum += s, ++count;
      }
    b.log_z[static_cast<std::size_t>(group)] = -sum / count;
  }
  const outcome t = evaluate(b, with_z);
  CHECK(std::abs(v.total - t.total) < 1e-14);
  CHECK(gap(v.dpf, t.dpf) < 1e-14);
  for (const double g : t.dz) CHECK(std::abs(g) < 1e-14);
  CHECK(gradient_gap(b, variance) < 1e-7);
}

TEST_CASE("the log-partition variance is half the mean over ordered pairs of squared differences, but for its bias") {
  flow_batch b = golden_batch();
  const numbers s{-1.35, -1.70, -1.00};
  double pairs = 0;
  for (const double x : s)
    for (const double y : s) pairs += (x - y) * (x - y) / 6;  // ordered pairs of different trajectories
  const double unbiased = evaluate(b, variance).total * 3 / 2;
  CHECK(std::abs(pairs - 2 * unbiased) < 1e-11);
  // And the deviation from the mean is that from the mean of the others, shrunk by (n - 1) / n.
  for (std::size_t i = 0; i < 3; ++i) {
    const double others = (s[(i + 1) % 3] + s[(i + 2) % 3]) / 2;
    CHECK(std::abs(evaluate(b, variance).dpf[4 * i] * 3 / 2 - 2.0 / 3 * (s[i] - others)) < 1e-11);
  }
}

TEST_CASE("a prompt with one trajectory has log-partition variance 0 and no gradient") {
  flow_batch b = flow_batch::random({3, 5, 2}, 5, 70);
  b.group = {0, 1, 0};
  const outcome o = evaluate(b, variance);
  CHECK(o.each[1] == 0);
  for (std::size_t t = 0; t < 5; ++t) CHECK(o.dpf[5 + t] == 0);
  CHECK(o.each[0] > 0);
  CHECK(std::abs(o.each[0] - o.each[2]) < 1e-14);
}

TEST_CASE("an empty trajectory is no member of its group's mean score") {
  flow_batch b = flow_batch::random({3, 2, 4, 0}, 5, 80);
  b.group = {0, 0, 0, 0}, b.groups = 1;
  const outcome with = evaluate(b, variance);
  flow_batch c = b;
  c.length.pop_back(), c.group.pop_back(), c.reward.pop_back();
  for (numbers* v : {&c.pf, &c.pb, &c.flow, &c.prior}) v->resize(15);
  const outcome without = evaluate(c, variance);
  CHECK(std::abs(with.each[0] - without.each[0]) < 1e-14);
  CHECK(std::abs(with.total * 4 - without.total * 3) < 1e-13);
}
