#include <planlm/ops/balance_segments.hpp>
#include <planlm/ops/sub_trajectory_balance.hpp>

#include <cmath>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/lane_team.hpp>

#include "../catch.hpp"

using namespace planlm;

namespace {

using numbers = std::vector<double>;
using steps = ops::kernel::point_steps<double>;

/// Moments of `count` steps, opened by one state.
ops::kernel::balance_segment opened(const double* step, index_t count, double lambda) {
  ops::kernel::balance_opening<double> s{1, 0, 0, 0, 0, 0, 0};
  for (index_t t = 0; t < count; ++t) s.take(step[t], lambda);
  return {s.decay, s.rise, s.left0, s.left1, s.left2, s.right0, s.right1, {}, {}, 0, 0};
}

}  // namespace

TEST_CASE("two segments joined are the segment of all their steps") {
  const numbers step = testing::normal_values<double>(40, 71);
  for (const double lambda : {0.0, 0.5, 0.95, 1.0})
    for (const index_t cut : {1, 7, 20, 39}) {
      CAPTURE(lambda, cut);
      const auto whole = opened(step.data(), 40, lambda);
      const auto both = ops::kernel::joined(opened(step.data(), cut, lambda), opened(step.data() + cut, 40 - cut, lambda));
      CHECK(both.decay == Approx(whole.decay).epsilon(1e-13));
      CHECK(both.rise == Approx(whole.rise).epsilon(1e-12));
      CHECK(both.left0 == Approx(whole.left0).epsilon(1e-13));
      CHECK(both.left1 == Approx(whole.left1).epsilon(1e-11));
      CHECK(both.left2 == Approx(whole.left2).epsilon(1e-12));
      CHECK(both.right0 == Approx(whole.right0).epsilon(1e-13));
      CHECK(both.right1 == Approx(whole.right1).epsilon(1e-11));
    }
}

TEST_CASE("segments side by side have the bits of segments one by one, at lengths that do not divide evenly too") {
  for (const index_t n : {1, 15, 16, 17, 63, 64, 65, 71, 100, 127, 255, 256, 259, 1023, 1024, 1077, 2050, 4095})
    for (const double lambda : {0.0, 0.9, 1.0}) {
      CAPTURE(n, lambda);
      const numbers u = testing::normal_values<double>(n + 3, 72);
      const int last = static_cast<int>(n);
      const auto run = [&](const auto& launch) {
        numbers du(u.size(), NAN), kept(ops::kernel::sub_trajectory_balance<steps>::kept_of_point * u.size(), NAN), sums(2, NAN);
        std::vector<ops::kernel::balance_segment> segments(ops::kernel::most_segments);
        const steps s{u.data(), n + 3, du.data()};
        launch(ops::kernel::sub_trajectory_balance<steps>{s, &last, kept.data(), segments.data(), sums.data(), n + 3, lambda});
        du.insert(du.end(), sums.begin(), sums.end());
        return du;
      };
      const numbers abreast = run([](const auto& kernel) { kernel(serial_team{}, 0); });
      const numbers alone = run([](const auto& kernel) { testing::run_lanes<4>(1, kernel); });
      CHECK(testing::same_bits(abreast, alone));
    }
}
