#include <planlm/training/replay.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../catch.hpp"
#include "replay_cases.hpp"

using namespace planlm;
using testing::item_of;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
using numbers = std::vector<std::size_t>;

}  // namespace

TEST_CASE("a trajectory comes back from its item, before any prompt") {
  const auto z = given_rollout<float>({7, 8}, {1, 2, 3});
  const replay_item item = replay_item_of(4, z, {{-4, -3, -2, -1}});
  CHECK(item.prompt == 4);
  CHECK(item.text.empty());
  const auto back = rollout_of<double>(item, {9, 9, 9});
  CHECK(back.state == std::vector<int>{9, 9, 9, 1, 2, 3});
  CHECK(back.actions == z.actions);
  CHECK(back.decided == std::vector<int>{2, 3, 4, 5});
}

TEST_CASE("what a tool wrote comes back between the actions") {
  const auto tool = [](const rollout<float>& t) { return std::vector<int>(t.actions.back() == 2 ? 2u : 0u, 5); };
  const auto z = given_rollout<float>({7, 8}, {1, 2, 3, 2}, tool);
  const replay_item item = replay_item_of(0, z, {std::vector<double>(5, -1.0)});
  CHECK(item.text == std::vector<int>{1, 2, 5, 5, 3, 2, 5, 5});
  CHECK(item.seen == std::vector<int>{0, 1, 4, 5, 8});
  const auto same = rollout_of<float>(item, {7, 8});
  CHECK(same.state == z.state);
  CHECK(same.decided == z.decided);
  CHECK(rollout_of<float>(item, {7}).decided == std::vector<int>{0, 1, 4, 5, 8});
}

TEST_CASE("draws are the same for the same key and others for another step or row") {
  const std::vector<double> rewards{-1, -2, -3, -4, -5, -6, -7, -8};
  for (const auto weights : {replay_weights::uniform, replay_weights::rewards})
    for (const auto repeats : {replay_repeats::always, replay_repeats::when_few, replay_repeats::not_when_few}) {
      const replay_draw how{weights, repeats};
      const auto draw = [&](philox random, std::uint64_t row) { return draw_items(rewards, 6, how, random, row); };
      CHECK(draw(philox{1}, 3) == draw(philox{1}, 3));
      CHECK(draw(philox{1}, 3) != draw(philox{1}, 4));
      CHECK(draw(philox{1}, 3) != draw(philox{1}.at_step(1), 3));
      CHECK(draw(philox{1}, 3).size() == 6);
    }
}

TEST_CASE("draws by reward come as often as the softmax of the rewards says, uniform ones equally often") {
  const std::vector<double> rewards{std::log(0.5), std::log(0.3), std::log(0.2), -infinity};
  std::vector<double> by_reward(4), uniform(4), first(4);
  const index_t draws = 40000;
  for (const std::size_t i : draw_items(rewards, draws, {replay_weights::rewards}, philox{3})) by_reward[i] += 1.0 / draws;
  for (const std::size_t i : draw_items(rewards, draws, {}, philox{3})) uniform[i] += 1.0 / draws;
  for (std::uint64_t row = 0; row < 20000; ++row)
    first[draw_items(rewards, 3, {replay_weights::rewards, replay_repeats::when_few}, philox{3}, row)[0]] += 1.0 / 20000;
  const std::vector<double> expected{0.5, 0.3, 0.2, 0};
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(by_reward[i] == Approx(expected[i]).margin(0.01));  // four standard deviations
    CHECK(uniform[i] == Approx(0.25).margin(0.01));
    CHECK(first[i] == Approx(expected[i]).margin(0.015));
  }
  CHECK(by_reward[3] == 0);
  CHECK(first[3] == 0);
}

TEST_CASE("without replacement no item comes twice, and those of reward 0 come last") {
  const std::vector<double> rewards{-1, -infinity, -3, -2, -infinity};
  for (std::uint64_t row = 0; row < 200; ++row) {
    const numbers drawn = draw_items(rewards, 4, {replay_weights::rewards, replay_repeats::when_few}, philox{9}, row);
    numbers sorted = drawn;
    std::sort(sorted.begin(), sorted.end());
    REQUIRE(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end());
    REQUIRE(drawn[3] == 1);  // of those without a chance the first
  }
  const numbers whole = draw_items(rewards, 5, {replay_weights::uniform, replay_repeats::when_few}, philox{9});
  numbers sorted = whole;
  std::sort(sorted.begin(), sorted.end());
  CHECK(sorted == numbers{0, 1, 2, 3, 4});
  CHECK(draw_items(rewards, 9, {replay_weights::uniform, replay_repeats::when_few}, philox{9}).size() == 9);
}

TEST_CASE("a buffer of no more items than are asked for gives all of them, in order, where that is the rule") {
  const std::vector<double> rewards{-1, -2, -3};
  const replay_draw published{replay_weights::rewards, replay_repeats::not_when_few};
  CHECK(draw_items(rewards, 3, published, philox{2}) == numbers{0, 1, 2});
  CHECK(draw_items(rewards, 8, published, philox{2}) == numbers{0, 1, 2});
  CHECK(draw_items(rewards, 2, published, philox{2}).size() == 2);
  CHECK(draw_items({}, 4, published, philox{2}).empty());
  CHECK(draw_items(rewards, 0, published, philox{2}).empty());
}

TEST_CASE("where nothing has a chance, all have the same") {
  const std::vector<double> rewards(4, -infinity);
  std::vector<int> seen(4);
  for (const std::size_t i : draw_items(rewards, 400, {replay_weights::rewards}, philox{2})) ++seen[i];
  for (const int n : seen) CHECK(n > 60);
}
