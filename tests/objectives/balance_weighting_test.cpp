#include <planlm/objectives/balance_weighting.hpp>

#include <planlm/objectives/detailed_balance.hpp>
#include <planlm/objectives/trajectory_balance.hpp>
#include <planlm/testing/lane_team.hpp>

#include "flow_goldens.hpp"

using namespace objectives_test;
using w = balance_weighting;

namespace {
const w all_weightings[] = {w::detailed_balance, w::modified_detailed_balance, w::trajectory_balance, w::equal,
                            w::equal_within,     w::geometric_within,          w::geometric};
template <class G = squared>
auto sub(w weighting, double lambda, double clip = no_clip, const G& g = {}) {
  return [=](context<B>& cx, const trajectories<B>& z, view<const double, 1>) {
    return planlm::sub_trajectory_balance<G>{weighting, lambda, clip, g}(cx, z);
  };
}
template <class G = squared>
auto by_pairs(w weighting, double lambda, const G& g = {}) {
  return [=](context<B>& cx, const trajectories<B>& z, view<const double, 1>) {
    return planlm::sub_trajectory_balance<G>{weighting, lambda, no_clip, g}.by_pairs(cx, z);
  };
}
void check_same(const outcome& a, const outcome& b, double tolerance) {
  CHECK(std::abs(a.total - b.total) <= tolerance * std::abs(b.total));
  CHECK(distance(a.each, b.each) < tolerance);
  CHECK(distance(a.dpf, b.dpf) < tolerance);
  CHECK(distance(a.dflow, b.dflow) < tolerance);
  if (!b.dpb.empty()) CHECK(distance(a.dpb, b.dpb) < tolerance);
}
}  // namespace

TEST_CASE("sub-trajectory balance has the published loss and gradients for every weighting, fact 23") {
  const flow_batch b = golden_batch();
  check_case("SubTB_DB_lam0.9", b, sub(w::detailed_balance, 0.9));
  check_case("SubTB_ModifiedDB_lam0.9", b, sub(w::modified_detailed_balance, 0.9));
  check_case("SubTB_TB_lam0.9", b, sub(w::trajectory_balance, 0.9));
  check_case("SubTB_equal_lam0.9", b, sub(w::equal, 0.9));
  check_case("SubTB_equal_within_lam0.9", b, sub(w::equal_within, 0.9));
  check_case("SubTB_geometric_within_lam0.9", b, sub(w::geometric_within, 0.9));
  check_case("SubTB_geometric_lam0.9", b, sub(w::geometric, 0.9));
  check_case("SubTB_geometric_within_lam0.0", b, sub(w::geometric_within, 0));
  check_case("SubTB_geometric_within_lam0.5", b, sub(w::geometric_within, 0.5));
  check_case("SubTB_geometric_within_lam0.99", b, sub(w::geometric_within, 0.99));
  check_case("SubTB_geometric_within_lam1.0", b, sub(w::geometric_within, 1));
  check_case("SubTB_geometric_within_lam0.9_clip0", b, sub(w::geometric_within, 0.9, 0));
  for (const w weighting : all_weightings) {
    CAPTURE(int(weighting));
    check_same(evaluate(b, sub(weighting, 0.9)), evaluate(b, by_pairs(weighting, 0.9)), 1e-13);
  }
}

TEST_CASE("weights within trajectories are the published ones, in the gradient, too") {
  const auto& e = golden("E2_geometric_within_weights");
  const std::vector<int> length = e.at("terminating_idx").get<std::vector<int>>();
  const index_t steps = 5;
  flow_batch b;
  b.length = length, b.steps = steps;
  for (std::size_t n = 0; n < 4; ++n) {
    // Points 0, 0, .., 0, 1: the last one is in one pair of each length, whose weight is the golden's.
    b.reward.push_back(-1);
    for (int t = 0; t < 5; ++t) b.pf.push_back(t < length[n] ? 0 : nan_value), b.flow.push_back(t < length[n] ? 0 : nan_value);
  }
  const double lambda = e.at("lambda").get<double>();
  const outcome o = evaluate(b, sub(w::geometric_within, lambda));
  for (std::size_t n = 0; n < 4; ++n) {
    double expected = 0;
    const std::size_t first_row[] = {0, 5, 9, 12, 14};
    for (std::size_t l = 0; l < static_cast<std::size_t>(length[n]); ++l)
      expected += e.at("weights").at(first_row[l]).at(n).get<double>();
    CHECK(std::abs(o.each[n] / 4 - expected) < 1e-11);
    CHECK(std::abs(o.dpf[5 * n + static_cast<std::size_t>(length[n]) - 1] - 2 * expected) < 1e-11);
  }
}

TEST_CASE("golden E2: the weight of every single pair within trajectories") {
  const auto& e = golden("E2_geometric_within_weights");
  flow_batch b;
  b.length = e.at("terminating_idx").get<std::vector<int>>(), b.steps = 5;
  for (std::size_t n = 0; n < 4; ++n)
    for (int t = 0; t < 5; ++t) b.pf.push_back(t < b.length[n] ? 0 : nan_value);
  // A trajectory's loss with points u_0 .. u_5 of 0 but for those named. The loss is a quadratic form: w(u_i, u_j) from its mixed terms.
  const auto each = [&](std::initializer_list<std::size_t> ones) {
    numbers u(6);
    for (const std::size_t k : ones) u[k] = 1;
    b.flow.clear(), b.reward.clear();
    for (std::size_t n = 0; n < 4; ++n) {
      const auto last = static_cast<std::size_t>(b.length[n]);
      for (std::size_t t = 0; t < 5; ++t) b.flow.push_back(t < last ? -u[t] : nan_value);
      b.reward.push_back(-u[last]);
    }
    return evaluate(b, sub(w::geometric_within, e.at("lambda").get<double>())).each;
  };
  std::size_t row = 0;
  for (std::size_t l = 1; l <= 5; ++l)
    for (std::size_t i = 0; i + l <= 5; ++i, ++row) {
      const numbers both = each({i, i + l}), first = each({i}), second = each({i + l});
      for (std::size_t n = 0; n < 4; ++n) {
        CAPTURE(l, i, n);
        if (i + l > static_cast<std::size_t>(b.length[n])) continue;  // no such pair
        CHECK(std::abs((first[n] + second[n] - both[n]) / 2 / 4 - e.at("weights").at(row).at(n).get<double>()) < 1e-11);
      }
    }
  CHECK(row == 15);
}

TEST_CASE("geometric weights within trajectories pass through lambda 1 without a step, fact 24") {
  const flow_batch b = golden_batch();
  const double at = evaluate(b, sub(w::geometric_within, 1)).total;
  CHECK(std::abs(evaluate(b, sub(w::geometric_within, 1 - 1e-4)).total - at) < 1e-3);
  CHECK(std::abs(evaluate(b, sub(w::geometric_within, 1 - 1e-9)).total - at) < 1e-8);
  // So do those over the batch, which the closed form would make 0 / 0.
  const double over = evaluate(b, sub(w::geometric, 1)).total;
  CHECK(std::isfinite(over));
  CHECK(std::abs(evaluate(b, sub(w::geometric, 1 - 1e-9)).total - over) < 1e-8);
}

TEST_CASE("weightings meet where they should: lambda 0 and 1, two ends, neighbours") {
  const flow_batch b = flow_batch::random({3, 5, 1, 4, 2}, 5, 160);
  check_same(evaluate(b, sub(w::geometric_within, 0)), evaluate(b, sub(w::modified_detailed_balance, 0.3)), 1e-12);
  check_same(evaluate(b, sub(w::geometric_within, 1)), evaluate(b, sub(w::equal_within, 0.3)), 1e-12);
  const auto detailed = [](context<B>& cx, const trajectories<B>& z, view<const double, 1>) { return detailed_balance<>{}(cx, z); };
  check_same(evaluate(b, sub(w::detailed_balance, 1)), evaluate(b, detailed), 1e-13);
  // The two ends: trajectory balance with log Z = log F(s_0), one group for each trajectory.
  flow_batch ends = b;
  ends.groups = 5, ends.group = {0, 1, 2, 3, 4}, ends.log_z.clear();
  for (std::size_t n = 0; n < 5; ++n) ends.log_z.push_back(b.flow[5 * n]);
  const auto trajectory = [](context<B>& cx, const trajectories<B>& z, view<const double, 1> log_z) {
    return trajectory_balance<>{}(cx, z, log_z);
  };
  const outcome tb = evaluate(ends, trajectory), two = evaluate(b, sub(w::trajectory_balance, 1));
  CHECK(std::abs(tb.total - two.total) < 1e-13);
  CHECK(gap(tb.dpf, two.dpf) < 1e-13);
  for (std::size_t n = 0; n < 5; ++n) CHECK(std::abs(tb.dz[n] - two.dflow[5 * n]) < 1e-13);
  // Flow of the root and first step are one.
  for (const w weighting : all_weightings) {
    const outcome o = evaluate(b, sub(weighting, 0.7));
    for (std::size_t n = 0; n < 5; ++n) CHECK(std::abs(o.dflow[5 * n] - o.dpf[5 * n]) < 1e-12);
  }
}

TEST_CASE("sub-trajectory balance has the gradient of its value for every weighting and regression, and reads no padding") {
  for (const bool forward_looking : {false, true}) {
    const flow_batch b = flow_batch::random({3, 0, 5, 1, 4}, 5, 170, true, forward_looking);
    for (const w weighting : all_weightings) {
      CAPTURE(int(weighting), forward_looking);
      CHECK(gradient_gap(b, sub(weighting, 0.7)) < 1e-7);
      CHECK(gradient_gap(b, sub(weighting, 0.7, no_clip, half_squared{})) < 1e-7);
      CHECK(gradient_gap(b, sub(weighting, 0.7, no_clip, shifted_cosh{})) < 1e-7);
      CHECK(gradient_gap(b, sub(weighting, 0.7, no_clip, linex{0.5})) < 1e-7);
      CHECK(evaluate(b, sub(weighting, 0.7)).each[1] == 0);
    }
  }
}

TEST_CASE("halved squares halve sub-trajectory balance by either way") {
  const flow_batch b = flow_batch::random({3, 5, 1}, 5, 180);
  for (const w weighting : all_weightings) {
    const outcome whole = evaluate(b, sub(weighting, 0.7)), half = evaluate(b, sub(weighting, 0.7, no_clip, half_squared{}));
    CHECK(std::abs(whole.total - 2 * half.total) < 1e-14);
    CHECK(std::abs(whole.each[1] - 2 * half.each[1]) < 1e-14);
    for (std::size_t i = 0; i < whole.dpf.size(); ++i) CHECK(std::abs(whole.dpf[i] - 2 * half.dpf[i]) < 1e-14);
  }
}

TEST_CASE("the recurrence agrees with all pairs to ten digits up to four thousand steps and residuals of ten thousand, fact 11") {
  const auto check = [](std::vector<int> lengths, index_t steps, double scale, std::initializer_list<double> lambdas) {
    flow_batch b = flow_batch::random(std::move(lengths), steps, 190, false);
    for (double& v : b.flow) v *= scale;
    for (double& v : b.reward) v = v * scale + 3e4;
    for (const double lambda : lambdas)
      for (const w weighting : {w::geometric_within, w::equal}) {
        CAPTURE(lambda, steps, scale, int(weighting));
        check_same(evaluate(b, sub(weighting, lambda)), evaluate(b, by_pairs(weighting, lambda)), 1e-10);
      }
  };
  for (const double scale : {1.0, 1e4}) check({1, 2, 0, 17, 63, 64}, 64, scale, {0, 0.3, 0.5, 0.9, 0.99, 1});
  check({4096}, 4096, 1e4, {0, 0.3, 0.5, 0.9, 0.99, 1});
}

TEST_CASE("a batch of empty trajectories has sub-trajectory balance 0, and one step has one pair") {
  for (const w weighting : all_weightings) {
    CAPTURE(int(weighting));
    const outcome none = evaluate(flow_batch::random({0, 0}, 3, 200), sub(weighting, 0.9));
    CHECK(none.total == 0);
    CHECK(none.dpf == numbers(6));
    CHECK(none.dflow == numbers(6));
    flow_batch one;
    one.length = {1}, one.steps = 2;
    one.pf = {-0.5, nan_value}, one.flow = {2, nan_value}, one.reward = {0.75};
    const outcome o = evaluate(one, sub(weighting, 0.9));
    CHECK(std::abs(o.total - 0.5625) < 1e-14);  // (2 - 0.5 - 0.75)^2
    CHECK(gap(o.dpf, {1.5, 0}) < 1e-14);
    CHECK(gap(o.dflow, {1.5, 0}) < 1e-14);
  }
}

TEST_CASE("sub-trajectory balance tells a lambda beyond its range and flows that are missing") {
  flow_batch b = flow_batch::random({3, 2}, 3, 210);
  context<B> cx;
  CHECK_THROWS_WITH((planlm::sub_trajectory_balance<>{.lambda = 1.5}(cx, b.terms())),
                    "sub_trajectory_balance: lambda is 1.500000, expected in [0, 1]");
  b.flow.clear();
  CHECK_THROWS_AS(planlm::sub_trajectory_balance<>{}(cx, b.terms()), shape_error);
}

TEST_CASE("pairs and neighbours give the same numbers under lanes") {
  const flow_batch b = flow_batch::random({3, 0, 40, 1, 17}, 40, 220);
  const auto run = [&](auto launch) {
    numbers dpf(200, nan_value), dpb(200, nan_value), dflow(200, nan_value), weight(41), own(5), share(5), sums(5), u(205), du(205), count(1);
    const balance_kernel::flow_steps<double> steps{balance_detail::reader(b.terms(), no_clip), dpf.data(), dpb.data(), dflow.data()};
    using by = balance_kernel::all_pairs<balance_kernel::flow_steps<double>, shifted_cosh>;
    launch(1, balance_kernel::length_weights{b.length.data(), weight.data(), 5, 41, 0.9, true});
    launch(5, balance_kernel::row_weights{b.length.data(), weight.data(), own.data(), 41});
    launch(1, balance_kernel::row_shares{own.data(), share.data(), 5, balance_mean::trajectories, true});
    launch(5, by{steps, {}, b.length.data(), weight.data(), share.data(), u.data(), du.data(), sums.data(), 41});
    numbers out = dpf;
    for (const numbers* v : {&dpb, &dflow, &share}) out.insert(out.end(), v->begin(), v->end());
    launch(1, balance_kernel::count_steps{b.length.data(), count.data(), 5, 41});
    launch(5, balance_kernel::neighbours<balance_kernel::flow_steps<double>, linex>{steps, {}, b.length.data(), count.data(), sums.data(), 5,
                                                                                    41, balance_mean::pairs});
    for (const numbers* v : {&dpf, &dpb, &dflow, &count}) out.insert(out.end(), v->begin(), v->end());
    return out;
  };
  const numbers serial = run([](index_t rows, const auto& kernel) {
    for (index_t r = 0; r < rows; ++r) kernel(serial_team{}, r);
  });
  const numbers lanes = run([](index_t rows, const auto& kernel) { planlm::testing::run_lanes<4>(rows, kernel); });
  CHECK(gap(serial, lanes) < 1e-12);
}
