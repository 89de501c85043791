/// What the tests of replay buffers share: items, and damage to saved values.
#pragma once
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>
#include <planlm/training/replay.hpp>

#include "../catch.hpp"

namespace planlm::testing {

/// An item of these actions, whose object has this log-reward and whose shorter prefixes have less.
inline replay_item item_of(std::vector<int> actions, double reward, int prompt = 0) {
  replay_item item;
  item.prompt = prompt;
  for (std::size_t k = 0; k <= actions.size(); ++k) item.rewards.base.push_back(reward - double(actions.size() - k));
  item.actions = std::move(actions);
  return item;
}
/// Up to three prompts, short lists of few tokens, few rewards: duplicates, near lists and ties abound.
inline replay_item random_item(philox random, std::uint32_t i, std::uint32_t longest = 6) {
  std::vector<int> actions(random.below(longest + 1, i, 0));
  for (std::size_t t = 0; t < actions.size(); ++t) actions[t] = static_cast<int>(random.below(4, i, 10 + static_cast<std::uint32_t>(t)));
  replay_item item = item_of(std::move(actions), -0.5 * random.below(30, i, 1), static_cast<int>(random.below(3, i, 2)));
  if (random.below(5, i, 3) == 0) item.rewards.shift.assign(item.rewards.base.size(), -1.0);
  if (random.below(5, i, 4) == 0) item.rewards.cap.assign(item.rewards.base.size(), -3.0);
  return item;
}
template <class Buffer>
std::vector<double> rewards_of(const Buffer& items) {
  std::vector<double> rewards;
  for (const replay_item& item : items) rewards.push_back(item.reward);
  return rewards;
}

/// Every single number changed, removed or added: the values are refused with one line, or accepted as another sound buffer; refused ones
/// leave the buffer as it was. Returns how many were refused.
template <class Buffer>
int damage(Buffer& buffer, const replay_values& sound) {
  const replay_values before = buffer.pack();
  int refused = 0, accepted = 0;
  const auto attempt = [&](const replay_values& values) {
    try {
      buffer.unpack(values, "run/checkpoint");
      ++accepted;
      REQUIRE(buffer.pack() == values);
      buffer.unpack(before);
    } catch (const input_error& e) {
      ++refused;
      const std::string message = e.what();
      REQUIRE(message.starts_with("run/checkpoint: "));
      REQUIRE(message.find('\n') == std::string::npos);
      REQUIRE(message.find("; go on ") != std::string::npos);
      REQUIRE(buffer.pack() == before);
    }
  };
  for (std::size_t i = 0; i < sound.wholes.size(); ++i) {
    for (const int put : {-1, 0, 1, 5, sound.wholes[i] + 1, 2147483647, -2147483647 - 1}) {
      if (put == sound.wholes[i]) continue;
      replay_values values = sound;
      values.wholes[i] = put;
      attempt(values);
    }
    replay_values values = sound;
    values.wholes.resize(i);
    attempt(values);
  }
  for (std::size_t i = 0; i < sound.numbers.size(); ++i) {
    for (const double put : {std::nan(""), std::numeric_limits<double>::infinity(), -1e9, 1e9}) {
      replay_values values = sound;
      values.numbers[i] = put;
      if (std::isnan(put) || !(put == sound.numbers[i])) attempt(values);
    }
    replay_values values = sound;
    values.numbers.resize(i);
    attempt(values);
  }
  replay_values longer = sound;
  longer.wholes.push_back(0);
  attempt(longer);
  longer = sound;
  longer.numbers.push_back(0);
  attempt(longer);
  CHECK(refused > accepted);
  return refused;
}

}  // namespace planlm::testing
