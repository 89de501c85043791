#include <planlm/objectives/relative_trajectory_balance.hpp>

#include "flow_goldens.hpp"

using namespace objectives_test;

namespace {
template <class L>
auto with_z(const L& loss) {
  return [loss](context<B>& cx, const trajectories<B>& z, view<const double, 1> log_z) { return loss(cx, z, log_z); };
}
template <class L>
auto without_z(const L& loss) {
  return [loss](context<B>& cx, const trajectories<B>& z, view<const double, 1>) { return loss(cx, z); };
}
}  // namespace

TEST_CASE("losses relative to a prior have the published values and gradients") {
  const flow_batch b = golden_batch();
  check_case("RTB_beta1.5", b, with_z(relative_trajectory_balance<>{.beta = 1.5}));
  check_case("RelLPV_beta1.5", b, without_z(relative_log_partition_variance{.beta = 1.5}));
  // The published gradient is that of log Z, the root value over alpha.
  flow_batch v = b;
  v.log_z = {2 * 1.25};
  const outcome o = evaluate(v, with_z(trust_pcl<>{.alpha = 2}));
  const auto& expected = golden("A_trajectory_losses").at("cases").at("TrustPCL_alpha2");
  CHECK(std::abs(o.total - expected.at("loss").get<double>()) < 1e-11);
  CHECK(gap(o.dpf, turned(expected.at("d_log_pf"), b.length, 4, 0)) < 1e-11);
  CHECK(std::abs(2 * o.dz[0] - expected.at("d_logZ").get<double>()) < 1e-11);
}

TEST_CASE("trust PCL is relative trajectory balance in other units") {
  flow_batch a = flow_batch::random({3, 5, 1, 4}, 5, 90), b = a;
  const double alpha = 2;
  for (double& v : b.log_z) v /= alpha;
  const outcome pcl = evaluate(a, with_z(trust_pcl<>{.alpha = alpha}));
  const outcome rtb = evaluate(b, with_z(relative_trajectory_balance<>{.beta = 1 / alpha}));
  CHECK(std::abs(pcl.total - alpha * alpha * rtb.total) < 1e-13);
  for (std::size_t i = 0; i < pcl.dpf.size(); ++i) CHECK(std::abs(pcl.dpf[i] - alpha * alpha * rtb.dpf[i]) < 1e-13);
}

TEST_CASE("the relative log-partition variance is relative trajectory balance at each prompt's best log Z") {
  flow_batch b = flow_batch::random({3, 5, 1, 4, 2}, 5, 100);
  const relative_trajectory_balance<> rtb{.beta = 0.7};
  for (std::size_t group = 0; group < 2; ++group) {
    // The slope in log Z is its distance from the best one, times the share of the prompt's trajectories.
    const double share = group == 0 ? 3.0 / 5 : 2.0 / 5;
    b.log_z[group] -= evaluate(b, with_z(rtb)).dz[group] / share;
  }
  const outcome best = evaluate(b, with_z(rtb)), lpv = evaluate(b, without_z(relative_log_partition_variance{.beta = 0.7}));
  CHECK(std::abs(best.total - lpv.total) < 1e-13);
  CHECK(gap(best.dpf, lpv.dpf) < 1e-13);
}

TEST_CASE("losses relative to a prior have the gradients of their values, also normalised by length") {
  const flow_batch b = flow_batch::random({3, 0, 5, 1, 4}, 5, 110);
  for (const bool normalised : {false, true}) {
    CAPTURE(normalised);
    CHECK(gradient_gap(b, with_z(relative_trajectory_balance<>{.beta = 1.5, .length_normalised = normalised})) < 1e-7);
    CHECK(gradient_gap(b, without_z(relative_log_partition_variance{.beta = 1.5, .length_normalised = normalised})) < 1e-7);
  }
  CHECK(gradient_gap(b, with_z(trust_pcl<shifted_cosh>{.alpha = 0.6})) < 1e-7);
}

TEST_CASE("the form normalised by length balances another policy, and weights of trajectories multiply what they add") {
  // A policy that matches prior times reward exactly: the plain form is 0, the normalised one is not.
  flow_batch b = flow_batch::random({2, 4}, 4, 120, false);
  b.group = {0, 0}, b.groups = 1, b.log_z = {0.3};
  for (std::size_t n = 0; n < 2; ++n) {
    double s = 0.3;
    for (std::size_t t = 0; t < static_cast<std::size_t>(b.length[n]); ++t) s += b.pf[4 * n + t] - b.prior[4 * n + t];
    b.reward[n] = s;
  }
  CHECK(evaluate(b, with_z(relative_trajectory_balance<>{})).total < 1e-28);
  CHECK(evaluate(b, with_z(relative_trajectory_balance<>{.length_normalised = true})).total > 1e-4);
  const flow_batch c = flow_batch::random({2, 4}, 4, 130);
  const numbers weight{0.5, 3};
  const auto weighted = [&](context<B>& cx, const trajectories<B>& z, view<const double, 1> log_z) {
    return relative_trajectory_balance<>{}(cx, z, log_z, row(weight));
  };
  const outcome plain = evaluate(c, with_z(relative_trajectory_balance<>{})), heavy = evaluate(c, weighted);
  CHECK(std::abs(heavy.each[0] - 0.5 * plain.each[0]) < 1e-14);
  CHECK(std::abs(heavy.dpf[4] - 3 * plain.dpf[4]) < 1e-14);
  CHECK(gradient_gap(c, weighted) < 1e-7);
}

TEST_CASE("a trajectory of weight 0 adds nothing to the relative balance, not even where its reward is 0") {
  flow_batch b = flow_batch::random({2, 4}, 4, 130);
  const numbers weight{0, 2};
  const auto weighted = [&](context<B>& cx, const trajectories<B>& z, view<const double, 1> log_z) {
    return relative_trajectory_balance<>{}(cx, z, log_z, row(weight));
  };
  const outcome finite = evaluate(b, weighted);
  b.reward[0] = -std::numeric_limits<double>::infinity();
  const outcome o = evaluate(b, weighted);
  CHECK(o.total == finite.total);
  CHECK(o.dpf == finite.dpf);
  CHECK(o.dz == finite.dz);
  CHECK(o.each[0] == 0);
}
