#include <planlm/training/reward_temperature.hpp>

#include <cmath>
#include <limits>
#include <planlm/training/schedule.hpp>

#include "../catch.hpp"

using namespace planlm;

static_assert(Schedule<reward_temperature>);

TEST_CASE("fact 28: reward temperatures fall in equal strides to the horizon and stay there") {
  const reward_temperature sentence(1, 0.8, 750);
  CHECK(sentence(0) == 1);
  CHECK(sentence(1) == Approx(0.9997333333333334).epsilon(1e-15));
  CHECK(sentence(100) == Approx(0.9733333333333334).epsilon(1e-15));
  CHECK(sentence(375) == Approx(0.9).epsilon(1e-15));
  CHECK(sentence(750) == 0.8);
  CHECK(sentence(1000) == 0.8);
  const reward_temperature arithmetic(1.1, 0.5, 150);
  CHECK(arithmetic(0) == 1.1);
  CHECK(arithmetic(75) == Approx(0.8).epsilon(1e-15));
  CHECK(arithmetic(150) == 0.5);
  CHECK(arithmetic(300) == 0.5);
  CHECK(reward_temperature(1.1, 0.85, 100)(50) == Approx(0.975).epsilon(1e-15));
  CHECK(reward_temperature(1.2, 1, 150)(75) == Approx(1.1).epsilon(1e-15));
}

TEST_CASE("a single reward temperature holds for all steps") {
  CHECK(reward_temperature()(0) == 1);
  CHECK(reward_temperature(0.7)(0) == 0.7);
  CHECK(reward_temperature(0.7)(12345) == 0.7);
}

TEST_CASE("a reward temperature that is not above 0, no horizon and a negative step are errors") {
  CHECK_THROWS_AS(reward_temperature(0, 1, 10), error);
  CHECK_THROWS_AS(reward_temperature(1, -1, 10), error);
  CHECK_THROWS_AS(reward_temperature(1, std::nan(""), 10), error);
  CHECK_THROWS_AS(reward_temperature(1, 1, 0), error);
  CHECK_THROWS_AS(reward_temperature(1, 1, 10)(-1), error);
}

TEST_CASE("rows of rewards are tempered side by side, with 0 where a row has no prefix") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::vector<log_reward_row> rows{{{-1, -2, -4}}, {{-3}, {-1}}, {{-2, -infinity}, {}, {-10, infinity}}};
  CHECK(tempered_rewards<double>(rows, 0.5, 3) ==
        std::vector<double>{-2, -4, -8, 0, /**/ -7, 0, 0, 0, /**/ -10, -infinity, 0, 0});
  CHECK(tempered_rewards<float>(rows, 2, 2) == std::vector<float>{-0.5f, -1, -2, -2.5f, 0, 0, -10, -INFINITY, 0});
  CHECK_THROWS_AS(tempered_rewards<double>(rows, 1, 1), shape_error);
}
