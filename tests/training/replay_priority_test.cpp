#include <planlm/training/replay_priority.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "../catch.hpp"
#include "replay_cases.hpp"

using namespace planlm;
using testing::item_of;
using testing::random_item;
using testing::rewards_of;
using numbers = std::vector<double>;

TEST_CASE("ten, twenty, thirty, then five and twenty-five: the best three stay") {
  priority_replay buffer({.capacity = 3});
  for (const int r : {10, 20, 30}) CHECK(buffer.add(item_of({r}, r)));
  CHECK_FALSE(buffer.add(item_of({5}, 5)));
  CHECK(buffer.add(item_of({25}, 25)));
  CHECK(rewards_of(buffer.items()) == numbers{20, 25, 30});
}

TEST_CASE("ten thousand insertions keep what sorting all and cutting keeps, the newer of equals") {
  priority_replay buffer({.capacity = 50});
  std::vector<replay_item> all;
  for (std::uint32_t i = 0; i < 10000; ++i) {
    replay_item item = random_item(philox{6}, i);
    buffer.add(item);
    item.reward = tempered(item.rewards).back();
    item.id = i;
    all.push_back(item);
    std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.reward < b.reward; });
    if (all.size() > 50) all.erase(all.begin());
    const auto items = buffer.items();
    REQUIRE(std::equal(items.begin(), items.end(), all.begin(), all.end()));
  }
}

TEST_CASE("items that are to be apart turn away newcomers that are nearer, whatever their reward") {
  priority_replay buffer({.capacity = 10, .apart = 2});
  CHECK(buffer.add(item_of({1, 2, 3}, -5)));
  CHECK_FALSE(buffer.add(item_of({1, 2, 4}, 0)));
  CHECK(buffer.add(item_of({1, 4, 5}, -9)));
  CHECK(rewards_of(buffer.items()) == numbers{-9, -5});
  priority_replay by_first({.capacity = 10, .apart = 1.5}, [](const replay_item& a, const replay_item& b) {
    return std::abs(double(a.actions[0]) - double(b.actions[0]));
  });
  CHECK(by_first.add(item_of({1}, 0)));
  CHECK_FALSE(by_first.add(item_of({2}, 0)));
  CHECK(by_first.add(item_of({3}, 0)));
}

TEST_CASE("a buffer of the best that was saved and restored goes on as if nothing had happened") {
  const philox random{22};
  priority_replay buffer({.capacity = 30, .apart = 1}), restored({.capacity = 30, .apart = 1});
  for (std::uint32_t i = 0; i < 300; ++i) buffer.add(random_item(random, i));
  restored.unpack(buffer.pack());
  for (std::uint32_t i = 300; i < 900; ++i) {
    const replay_item item = random_item(random, i);
    REQUIRE(buffer.add(item) == restored.add(item));
    REQUIRE(buffer.pack() == restored.pack());
    REQUIRE(buffer.draw(5, {}, random, i) == restored.draw(5, {}, random, i));
  }
}

TEST_CASE("damaged values of the best are refused with one line, and the buffer stays as it was") {
  priority_replay buffer({.capacity = 6}), other({.capacity = 6});
  for (std::uint32_t i = 0; i < 20; ++i) buffer.add(random_item(philox{2}, i, 3));
  other.add(item_of({1, 2, 3}, -1));
  CHECK(testing::damage(other, buffer.pack()) > 100);
}

TEST_CASE("a rule of the best that is none is an error") {
  CHECK_THROWS_AS(priority_replay({.capacity = 0}), error);
  CHECK_THROWS_AS(priority_replay({.apart = std::nan("")}), error);
}
