#include <planlm/objectives/check_rewards.hpp>

#include <limits>
#include <span>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

namespace {
const double infinite = std::numeric_limits<double>::infinity();
using rows = std::vector<std::vector<double>>;
}  // namespace

TEST_CASE("finite rewards pass unchanged, below a floor they become the floor") {
  rows r{{-1, -2.5}, {}, {0, 3, -80}};
  const rows before = r;
  check_rewards(std::span(r));
  CHECK(r == before);
  check_rewards(std::span(r), -2);
  CHECK(r == rows{{-1, -2}, {}, {0, 3, -2}});
}

TEST_CASE("a reward that is no number or infinite is told with its rollout and prefix") {
  rows r{{-1, -2.5}, {0, 3, std::nan("")}};
  CHECK_THROWS_WITH(check_rewards(std::span(r), -99.0),
                    "the log-reward of rollout 1 at prefix 2 is not a number; a reward has to be a finite number at every prefix");
  r[1][2] = infinite;
  CHECK_THROWS_WITH(check_rewards(std::span(r)),
                    "the log-reward of rollout 1 at prefix 2 is +infinity; a reward has to be finite at every prefix");
  CHECK_THROWS_AS(check_rewards(std::span(r)), numeric_error);
}

TEST_CASE("a reward of zero asks for a floor, and with one becomes it") {
  std::vector<std::vector<float>> r{{-1, float(-infinite)}};
  CHECK_THROWS_WITH(check_rewards(std::span(r)), "the log-reward of rollout 0 at prefix 1 is -infinity: the reward is 0 there, which no "
                                                 "policy can match; give a floor for log-rewards");
  check_rewards(std::span(r), -99);
  CHECK(r[0][1] == -99);
  CHECK(r[0][0] == -1);
}
