#include <planlm/models/prefix_reward.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "../catch.hpp"

using namespace planlm;
using trajectory = rollout<double>;
using trajectories = std::span<const trajectory>;
using rows = std::vector<std::vector<double>>;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// log R[k] = -(sum of the first k actions); 0 for none.
struct minus_sum {
  rows operator()(trajectories z) const {
    rows out;
    for (const trajectory& t : z) {
      out.push_back({0.0});
      for (const int a : t.actions) out.back().push_back(out.back().back() - a);
    }
    return out;
  }
};
struct constant {
  double value;
  rows operator()(trajectories z) const {
    rows out;
    for (const trajectory& t : z) out.emplace_back(t.actions.size() + 1, value);
    return out;
  }
};
struct no_reward {
  double operator()(int) const { return 0; }
};

std::vector<trajectory> two() { return {given_rollout<double>({9, 8}, {1, 2, 4}), given_rollout<double>({7}, {})}; }

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

static_assert(PrefixReward<minus_sum, double> && PrefixReward<action_count, double> && PrefixReward<action_count, float>);
static_assert(PrefixReward<std::function<rows(trajectories)>, double> && !PrefixReward<no_reward, double>);
static_assert(!PrefixReward<minus_sum, float>);
static_assert(SplitPrefixReward<length_floor<minus_sum>, double> && !SplitPrefixReward<scaled<minus_sum>, double>);

TEST_CASE("any callable is a reward, a lambda too") {
  const auto z = two();
  const auto split = split_rewards([](trajectories t) { return minus_sum{}(t); }, z);
  REQUIRE(split.size() == 2);
  CHECK(split[0] == log_reward_row{{0, -1, -3, -7}});
  CHECK(split[1] == log_reward_row{{0}});
}

TEST_CASE("the text of a prefix leaves the prompt out and takes in what a tool wrote") {
  const auto z = given_rollout<double>({9, 8}, {1, 2}, [](const trajectory& t) { return std::vector<int>(std::size_t(t.actions.back()), 5); });
  REQUIRE(z.state == std::vector<int>{9, 8, 1, 5, 2, 5, 5});
  const auto text = [&](std::size_t k) {
    const auto t = prefix_text(z, k);
    return std::vector<int>(t.begin(), t.end());
  };
  CHECK(text(0).empty());
  CHECK(text(1) == std::vector<int>{1, 5});
  CHECK(text(2) == std::vector<int>{1, 5, 2, 5, 5});
}

TEST_CASE("a product of powers of rewards is a weighted sum of logs") {
  const auto z = two();
  const auto r = sum_of{scaled{0.5, minus_sum{}}, scaled{2.0, action_count{}}, constant{-1}}(trajectories(z));
  CHECK(r == rows{{-1, 0.5, 1.5, 1.5}, {-1}});
}

TEST_CASE("a power of 0 is 1, of a reward of 0 too") {
  const auto z = two();
  CHECK(scaled{0.0, constant{-infinity}}(trajectories(z)) == rows{{0, 0, 0, 0}, {0}});
  CHECK(scaled{2.0, constant{-infinity}}(trajectories(z))[1][0] == -infinity);
}

TEST_CASE("a classifier's reward is the log of its probability, and 0 has the reward of what is never made") {
  const auto z = two();
  const auto r = classifier_reward{[](std::span<const int> text) { return text.empty() ? 0.0 : 1.0 / text.back(); }}(trajectories(z));
  CHECK(r[0] == std::vector<double>{-infinity, 0, std::log(0.5), std::log(0.25)});
  CHECK(r[1] == std::vector<double>{-infinity});
  const auto by_row = classifier_reward{[](std::span<const int>, std::size_t b) { return b == 0 ? 1.0 : 0.5; }}(trajectories(z));
  CHECK(by_row == rows{{0, 0, 0, 0}, {std::log(0.5)}});
}

TEST_CASE("a probability that is none is an error that names trajectory and prefix") {
  const auto z = two();
  const auto odd = classifier_reward{[](std::span<const int> text) { return text.size() == 2 ? 1.5 : 0.5; }};
  CHECK(message_of([&] { odd(trajectories(z)); }) ==
        "classifier_reward: trajectory 0, prefix 2: the probability is 1.500000, expected 0 to 1");
}

TEST_CASE("fact 30: a prefix shorter than the least length has a log-reward of -99, -123.75 at temperature 0.8") {
  const auto z = two();
  const auto split = split_rewards(length_floor{minus_sum{}, 1}, z);
  CHECK(split[0].base == std::vector<double>{-99, -1, -3, -7});
  CHECK(split[1].base == std::vector<double>{-99});
  CHECK(tempered(split[0], 0.8)[0] == Approx(-123.75).epsilon(1e-14));
  CHECK(split_rewards(length_floor{minus_sum{}, 10, -20.0}, z)[0].base == std::vector<double>(4, -20));
}

TEST_CASE("an invalid prefix is capped, and tempering moves the rewards but not the cap") {
  const auto z = two();
  const validity_penalty reward{minus_sum{}, [](std::span<const int> text) { return text.size() != 2; }, -5.0, true};
  const auto split = split_rewards(reward, z);
  CHECK(split[0].base == std::vector<double>{0, -1, -3, -7});
  CHECK(split[0].cap == std::vector<double>{-5, infinity, -5, infinity});
  CHECK(tempered(split[0]) == std::vector<double>{-5, -1, -5, -7});
  CHECK(tempered(split[0], 0.5) == std::vector<double>{-5, -2, -6, -14});  // -3 / 0.5 is below the cap by itself
  CHECK(tempered(split[0], 2) == std::vector<double>{-5, -0.5, -5, -3.5});
  CHECK(reward(trajectories(z)) == rows{{-5, -1, -5, -7}, {-5}});
}

TEST_CASE("a shift is not tempered, whichever way it is nested with a cap") {
  const auto z = two();
  const auto bad = [](std::span<const int> text) { return text.size() == 1; };
  const auto good = [](std::span<const int> text) { return text.size() != 1; };
  const auto shifted = split_rewards(shift_penalty{minus_sum{}, bad}, z);
  CHECK(tempered(shifted[0], 0.5) == std::vector<double>{0, -52, -6, -14});
  const auto shift_outside = split_rewards(shift_penalty{validity_penalty{minus_sum{}, good, -5.0}, bad, 10.0}, z);
  CHECK(tempered(shift_outside[0], 0.5) == std::vector<double>{0, -15, -6, -14});  // min(-2, -5) - 10
  const auto cap_outside = split_rewards(validity_penalty{shift_penalty{minus_sum{}, bad, 10.0}, good, -5.0}, z);
  CHECK(tempered(cap_outside[0], 0.5) == std::vector<double>{0, -12, -6, -14});  // min(-2 - 10, -5)
}

TEST_CASE("a reward of the wrong shape or without a value is an error that names the trajectory") {
  const auto z = two();
  CHECK(message_of([&] { split_rewards(constant{std::nan("")}, z); }) ==
        "prefix reward: trajectory 0, prefix 0: the log-reward's base is nan, expected a number or -infinity");
  CHECK(message_of([&] { split_rewards(constant{infinity}, z); }).find("is inf") != std::string::npos);
  CHECK(message_of([&] {
          split_rewards([](trajectories) { return rows{{0, 0, 0, 0}, {0, 0}}; }, z);
        }) == "prefix reward: trajectory 1 has 0 actions, the reward gave 2 entries of base, expected 1, one for each prefix");
  CHECK(message_of([&] { split_rewards([](trajectories) { return rows{{0, 0, 0, 0}}; }, z); }) ==
        "prefix reward: 2 trajectories, but rewards of 1");
  CHECK(message_of([&] { sum_of{minus_sum{}, constant{std::nan("")}}(trajectories(z)); }).find("trajectory 0, prefix 0") !=
        std::string::npos);
  CHECK_NOTHROW(split_rewards(constant{-infinity}, z));
}

TEST_CASE("a trajectory whose state is another one's is an error that names it") {
  auto z = two();
  z[0].state[3] = 6;
  CHECK(message_of([&] { split_rewards(minus_sum{}, z); }).find("trajectory 0: its state is not its prompt and its 3 actions") !=
        std::string::npos);
  z = two();
  z[1].decided.clear();
  CHECK(message_of([&] { split_rewards(minus_sum{}, z); }).find("trajectory 1") != std::string::npos);
}

TEST_CASE("a reward temperature that is not above 0 is an error") {
  const log_reward_row row{{-1}};
  CHECK_THROWS_AS(tempered(row, 0), error);
  CHECK_THROWS_AS(tempered(row, std::nan("")), error);
  CHECK(tempered(log_reward_row{{-infinity}}, 0.5)[0] == -infinity);
}
