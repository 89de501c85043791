#include <planlm/objectives/trajectory_balance.hpp>

#include "flow_goldens.hpp"

using namespace objectives_test;

namespace {
template <class G>
auto balance(const G& g) {
  return [g](context<B>& cx, const trajectories<B>& z, view<const double, 1> log_z) { return trajectory_balance<G>{g}(cx, z, log_z); };
}
}  // namespace

TEST_CASE("trajectory balance has the published loss and gradients for every regression, fact 19") {
  flow_batch b = golden_batch();
  check_case("TB", b, balance(squared{}));
  check_case("TB_half", b, balance(half_squared{}));
  check_case("TB_shifted_cosh", b, balance(shifted_cosh{}));
  check_case("TB_linex1", b, balance(linex{1}));
  const outcome o = evaluate(b, balance(squared{}));
  CHECK(std::abs(o.total - 0.091666666667) < 1e-11);
  CHECK(gap({o.dpf[0], o.dpf[4], o.dpf[8], o.dz[0]}, {-0.066666666667, -0.3, 0.166666666667, -0.2}) < 1e-11);
  const numbers scores = golden("A_trajectory_losses").at("cases").at("TB").at("scores_without_logZ").get<numbers>();
  for (std::size_t n = 0; n < 3; ++n) CHECK(std::abs(o.dpf[4 * n] * 3 / 2 - 1.25 - scores[n]) < 1e-11);
  b.log_z = {1.5};
  check_case("TB_logZ1.5", b, balance(squared{}));
}

TEST_CASE("a policy in proportion to the reward has trajectory balance 0, and the loss grows with the square of what log Z is off by") {
  // Two steps, then out: objects 00, 01, 10, 11 with q = R / Z, Z = 8.
  const double r[] = {1, 3, 2, 2};
  flow_batch b;
  b.length = {3, 3, 3, 3}, b.steps = 3;
  for (int x = 0; x < 4; ++x) {
    const double first = x < 2 ? 0.5 : 0.5, second = r[x] / 4;
    for (const double p : {first, second, 1.0}) b.pf.push_back(std::log(p));
    b.reward.push_back(std::log(r[x]));
  }
  b.log_z = {std::log(8.0)};
  const outcome at = evaluate(b, balance(squared{}));
  CHECK(at.total < 1e-28);
  for (const double g : at.dpf) CHECK(std::abs(g) < 1e-14);
  b.log_z = {std::log(8.0) + 0.25};
  CHECK(std::abs(evaluate(b, balance(squared{})).total - 0.0625) < 1e-14);
}

TEST_CASE("each prompt has its log Z, whose gradient is the sum over its trajectories") {
  const flow_batch b = flow_batch::random({3, 5, 1, 4, 2}, 5, 10);
  const outcome both = evaluate(b, balance(squared{}));
  CHECK(both.dz.size() == 2);
  for (int group = 0; group < 2; ++group) {
    double sum = 0;
    for (std::size_t n = 0; n < 5; ++n)
      if (b.group[n] == group) sum += both.dpf[5 * n];
    CHECK(std::abs(sum - both.dz[static_cast<std::size_t>(group)]) < 1e-14);
  }
  double mean = 0;
  for (const double e : both.each) mean += e / 5;
  CHECK(std::abs(mean - both.total) < 1e-14);
}

TEST_CASE("trajectory balance has the gradient of its value in everything, whatever the regression, and reads no padding") {
  const flow_batch b = flow_batch::random({3, 0, 5, 1, 4, 2}, 5, 20);
  CHECK(gradient_gap(b, balance(squared{})) < 1e-7);
  CHECK(gradient_gap(b, balance(half_squared{})) < 1e-7);
  CHECK(gradient_gap(b, balance(shifted_cosh{})) < 1e-7);
  CHECK(gradient_gap(b, balance(linex{0.5})) < 1e-7);
  const outcome o = evaluate(b, balance(squared{}));
  CHECK(o.each[1] == 0);
  for (std::size_t i = 0; i < o.dpf.size(); ++i)
    if (static_cast<int>(i % 5) >= b.length[i / 5]) CHECK((o.dpf[i] == 0 && o.dpb[i] == 0));
}

TEST_CASE("trajectory balance reads no reward below the least one it is given, and without backward probabilities takes them for 1") {
  flow_batch b = flow_batch::random({3, 5, 1}, 5, 30);
  flow_batch raised = b;
  b.reward[1] = -1e30;
  raised.reward[1] = -2;
  raised.reward[0] = std::max(raised.reward[0], -2.0), b.reward[0] = raised.reward[0];
  raised.reward[2] = std::max(raised.reward[2], -2.0), b.reward[2] = raised.reward[2];
  const auto floor = [](context<B>& cx, const trajectories<B>& z, view<const double, 1> log_z) {
    return trajectory_balance<>{.log_reward_clip_min = -2}(cx, z, log_z);
  };
  CHECK(evaluate(b, floor).total == evaluate(raised, balance(squared{})).total);
  CHECK(evaluate(b, floor).dpf == evaluate(raised, balance(squared{})).dpf);
  flow_batch without = raised, ones = raised;
  without.pb.clear();
  ones.pb = numbers(15);
  CHECK(evaluate(without, balance(squared{})).dpf == evaluate(ones, balance(squared{})).dpf);
  CHECK(evaluate(without, balance(squared{})).dpb.empty());
}

TEST_CASE("a batch in which every trajectory is empty has trajectory balance 0 and no gradient") {
  const flow_batch b = flow_batch::random({0, 0}, 3, 40);
  const outcome o = evaluate(b, balance(squared{}));
  CHECK(o.total == 0);
  CHECK(o.dpf == numbers(6));
  CHECK(o.dz == numbers(2));
}

TEST_CASE("trajectory balance tells which shape does not fit") {
  flow_batch b = flow_batch::random({3, 2}, 3, 50);
  context<B> cx;
  b.log_z = {1};
  CHECK_THROWS_WITH(trajectory_balance<>{}(cx, b.terms(), b.z()), "trajectory_balance: log_z is (1), expected (2)");
  b.reward.pop_back();
  CHECK_THROWS_WITH(trajectory_balance<>{}(cx, b.terms(), b.z()), "trajectory_balance: log_reward is (1), expected (2)");
}
