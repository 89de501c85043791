#include <planlm/objectives/score_regression.hpp>

#include <planlm/objectives/log_partition_variance.hpp>
#include <planlm/objectives/policy_gradient.hpp>
#include <planlm/testing/lane_team.hpp>

#include "batch.hpp"

using namespace objectives_test;

TEST_CASE("means of groups leave out rows that are no members, and an empty group has mean 0") {
  const numbers score{1, 100, 3, 8};
  const std::vector<int> member{0, -1, 0, 2};
  numbers mean(3, nan_value);
  for (index_t g = 0; g < 3; ++g) balance_kernel::group_means{score.data(), member.data(), mean.data(), 4, -1}(serial_team{}, g);
  CHECK(mean == numbers{-2, 0, -8});
}

TEST_CASE("kernels of scores and slopes give the same numbers under lanes, and bits do not depend on threads") {
  const flow_batch b = flow_batch::random({3, 0, 40, 1, 17, 8, 9}, 40, 700);
  const policy_batch p = policy_batch::random({3, 0, 40, 1, 17, 8, 9}, 41, 710, 1, 40);
  const auto run = [&](auto launch) {
    numbers score(7), value(7), slope(7), each(7), total(1), dz(2), mean(2), deviation(2), dpf(280), dpb(280), dtaken(280), dstop(287);
    std::vector<int> member(7);
    launch(7, balance_kernel::trajectory_score<double>{balance_detail::reader(b.terms(), -1), b.group.data(), 0.5, 1.5, true, score.data(),
                                                       member.data()});
    launch(2, balance_kernel::group_means{score.data(), member.data(), mean.data(), 7, -1});
    launch(2, balance_kernel::group_deviations{score.data(), mean.data(), member.data(), deviation.data(), 7});
    for (index_t r = 0; r < 7; ++r)
      balance_kernel::regress_scores<linex, double, double>{{}, score.data(), member.data(), mean.data(), nullptr, value.data(),
                                                            slope.data(), each.data(), 7}(r);
    launch(3, balance_kernel::sum_regression<double>{value.data(), slope.data(), member.data(), total.data(), dz.data(), 7});
    launch(7, balance_kernel::spread_slope<double>{slope.data(), b.length.data(), 0.5, true, dpf.data(), dpb.data(), 40});
    numbers out = score;
    launch(7, balance_kernel::policy_score<double>{balance_detail::reader(p.terms()), true, score.data(), member.data()});
    launch(7, balance_kernel::spread_policy_slope<double>{balance_detail::reader(p.terms()), score.data(), dtaken.data(), dstop.data()});
    for (const numbers* v : {&mean, &deviation, &total, &dz, &dpf, &dpb, &score, &dtaken, &dstop}) out.insert(out.end(), v->begin(), v->end());
    return out;
  };
  const numbers serial = run([](index_t rows, const auto& kernel) {
    for (index_t r = 0; r < rows; ++r) kernel(serial_team{}, r);
  });
  const numbers lanes = run([](index_t rows, const auto& kernel) { planlm::testing::run_lanes<4>(rows, kernel); });
  CHECK(gap(serial, lanes) < 1e-12);
  const auto on = [&](int threads) {
    context<B> cx{B::queue(threads)};
    return read(cx, log_partition_variance{}(cx, b.terms()));
  };
  CHECK(planlm::testing::same_bits(on(1).dpf, on(3).dpf));
  CHECK(on(1).total == on(3).total);
}
