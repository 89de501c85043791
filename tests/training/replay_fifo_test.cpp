#include <planlm/training/replay_fifo.hpp>

#include <vector>
#include <planlm/training/replay_priority.hpp>

#include "../catch.hpp"
#include "replay_cases.hpp"

using namespace planlm;
using testing::item_of;
using testing::random_item;
using testing::rewards_of;
using numbers = std::vector<double>;

TEST_CASE("one hundred, two hundred, three hundred, then one and two: the newest three stay, in order") {
  fifo_replay buffer(3);
  for (const int r : {100, 200, 300, 1, 2}) buffer.add(item_of({r}, r));
  CHECK(rewards_of(buffer.items()) == numbers{300, 1, 2});
  CHECK(buffer.size() == 3);
}

TEST_CASE("a buffer of the newest that was saved and restored goes on as if nothing had happened") {
  const philox random{23};
  fifo_replay buffer(20), restored(20);
  for (std::uint32_t i = 0; i < 33; ++i) buffer.add(random_item(random, i));
  restored.unpack(buffer.pack());
  for (std::uint32_t i = 33; i < 99; ++i) {
    buffer.add(random_item(random, i)), restored.add(random_item(random, i));
    REQUIRE(buffer.pack() == restored.pack());
    REQUIRE(buffer.draw(5, {}, random, i) == restored.draw(5, {}, random, i));
  }
}

TEST_CASE("damaged values of the newest are refused with one line, and the buffer stays as it was") {
  fifo_replay buffer(6), other(6);
  for (std::uint32_t i = 0; i < 9; ++i) buffer.add(random_item(philox{2}, i, 3));
  other.add(item_of({1, 2, 3}, -1));
  CHECK(testing::damage(other, buffer.pack()) > 100);
}

TEST_CASE("the values of one kind of buffer are refused by another") {
  fifo_replay newest(5);
  newest.add(item_of({1}, -1));
  priority_replay best({.capacity = 5});
  CHECK_THROWS_AS(best.unpack(newest.pack()), input_error);
  CHECK_THROWS_AS(fifo_replay(0), error);
}
