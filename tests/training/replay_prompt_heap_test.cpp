#include <planlm/training/replay_prompt_heap.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "replay_cases.hpp"

using namespace planlm;
using testing::item_of;
using testing::random_item;
using testing::rewards_of;
using numbers = std::vector<double>;

namespace {

/// The same rules, written down as they are told: whole tables of distances, Python's heapq function by function.
class naive_replay {
 public:
  naive_replay(std::size_t capacity, double tolerance) : capacity_(capacity), tolerance_(tolerance) {}
  bool add(replay_item item) {
    item.reward = tempered(item.rewards).back();
    item.id = next_++;
    auto& heap = heaps[item.prompt];
    for (const auto& other : heap)
      if (other.actions == item.actions) return false;
    for (std::size_t i = 0; i < heap.size(); ++i) {
      const auto both = double(heap[i].actions.size() + item.actions.size());
      if (!(double(distance(heap[i].actions, item.actions)) < tolerance_ * both)) continue;
      if (heap[i].reward >= item.reward) return false;
      heap.erase(heap.begin() + std::ptrdiff_t(i));
      for (std::size_t at = heap.size() / 2; at > 0; --at) siftup(heap, at - 1);
      heap.push_back(item);
      siftdown(heap, 0, heap.size() - 1);
      return true;
    }
    if (heap.size() < capacity_) {
      heap.push_back(item);
      siftdown(heap, 0, heap.size() - 1);
      return true;
    }
    if (!less(heap[0], item)) return false;
    heap[0] = item;
    siftup(heap, 0);
    return true;
  }
  std::map<int, std::vector<replay_item>> heaps;

 private:
  static bool less(const replay_item& a, const replay_item& b) { return a.reward != b.reward ? a.reward < b.reward : a.id < b.id; }
  static void siftdown(std::vector<replay_item>& heap, std::size_t start, std::size_t at) {
    const replay_item fresh = heap[at];
    while (at > start) {
      const std::size_t parent = (at - 1) / 2;
      if (!less(fresh, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = fresh;
  }
  static void siftup(std::vector<replay_item>& heap, std::size_t at) {
    const std::size_t start = at, end = heap.size();
    const replay_item fresh = heap[at];
    std::size_t child = 2 * at + 1;
    while (child < end) {
      if (child + 1 < end && !less(heap[child], heap[child + 1])) child += 1;
      heap[at] = heap[child];
      at = child;
      child = 2 * at + 1;
    }
    heap[at] = fresh;
    siftdown(heap, start, at);
  }
  static std::size_t distance(const std::vector<int>& a, const std::vector<int>& b) {
    std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
    for (std::size_t i = 0; i <= a.size(); ++i)
      for (std::size_t j = 0; j <= b.size(); ++j)
        d[i][j] = i == 0 || j == 0 ? i + j
                                   : std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0u : 1u)});
    return d[a.size()][b.size()];
  }
  std::size_t capacity_;
  double tolerance_;
  std::uint64_t next_ = 0;
};

bool is_heap(std::span<const replay_item> items) {
  for (std::size_t i = 1; i < items.size(); ++i) {
    const auto &up = items[(i - 1) / 2], &down = items[i];
    if (down.reward < up.reward || (down.reward == up.reward && down.id < up.id)) return false;
  }
  return true;
}
/// Item i of the heapq traces: four tokens, no two lists near.
std::vector<int> apart(int i) { return {10 * i, 10 * i + 1, 10 * i + 2, 10 * i + 3}; }

}  // namespace

TEST_CASE("fact 29: the published trace of insertions, evictions, duplicates and near lists") {
  prompt_replay buffer({.capacity = 2, .tolerance = 0.25});
  const auto add = [&](std::vector<int> actions, numbers rewards) {
    replay_item item;
    item.actions = std::move(actions);
    item.rewards.base = std::move(rewards);
    return buffer.add(item);
  };
  const auto holds = [&](const std::vector<std::pair<double, std::vector<int>>>& expected) {
    std::vector<std::pair<double, std::vector<int>>> held;
    for (const replay_item& item : buffer.items(0)) held.emplace_back(item.reward, item.actions);
    return held == expected;
  };
  CHECK(add({3, 4, 5}, {0, -8, -7, -6}));
  CHECK(holds({{-6, {3, 4, 5}}}));
  CHECK_FALSE(add({3, 4, 5}, {0, -8, -7, -5}));  // the same, though better
  CHECK(holds({{-6, {3, 4, 5}}}));
  CHECK(add({3, 4, 6}, {0, -8, -7, -5.5}));  // near and better
  CHECK(holds({{-5.5, {3, 4, 6}}}));
  CHECK_FALSE(add({3, 4, 7}, {0, -8, -7, -6.5}));  // near and worse
  CHECK(holds({{-5.5, {3, 4, 6}}}));
  CHECK(add({7, 8, 1, 2}, {0, -8, -7, -6, -9}));
  CHECK(holds({{-9, {7, 8, 1, 2}}, {-5.5, {3, 4, 6}}}));
  CHECK(add({5, 5, 5, 5}, {0, -8, -7, -6, -7}));  // the lowest leaves
  CHECK(holds({{-7, {5, 5, 5, 5}}, {-5.5, {3, 4, 6}}}));
  CHECK_FALSE(add({6, 6, 1, 1}, {0, -8, -7, -6, -20}));  // and is the newcomer
  CHECK(holds({{-7, {5, 5, 5, 5}}, {-5.5, {3, 4, 6}}}));
}

TEST_CASE("the array of the heap is that of Python's heapq") {
  prompt_replay buffer({.capacity = 7});
  const numbers rewards{-5, -9, -1, -7, -3, -8, -2, -6, -4, -10, -2.5, -1.5};
  const std::map<int, numbers> after{{3, {-9, -7, -1, -5}},
                                     {6, {-9, -7, -8, -5, -3, -1, -2}},
                                     {7, {-8, -7, -6, -5, -3, -1, -2}},
                                     {8, {-7, -5, -6, -4, -3, -1, -2}},
                                     {9, {-7, -5, -6, -4, -3, -1, -2}},
                                     {10, {-6, -5, -2.5, -4, -3, -1, -2}},
                                     {11, {-5, -4, -2.5, -1.5, -3, -1, -2}}};
  for (int i = 0; i < 12; ++i) {
    buffer.add(item_of(apart(i), rewards[std::size_t(i)]));
    if (after.contains(i)) CHECK(rewards_of(buffer.items(0)) == after.at(i));
  }
  std::vector<int> near = apart(10);  // that of reward -2.5, third in the array: removed, heapified, pushed
  near[3] = 999;
  CHECK(buffer.add(item_of(near, -0.5)));
  CHECK(rewards_of(buffer.items(0)) == numbers{-5, -4, -2, -3, -1, -1.5, -0.5});
}

TEST_CASE("pitfall 14.24: two empty lists are the same string but never near") {
  prompt_replay buffer({.capacity = 5});
  CHECK(buffer.add(item_of({}, -2)));
  CHECK_FALSE(buffer.add(item_of({}, -1)));
  int calls = 0;  // strings that differ each time
  prompt_replay told_apart({.capacity = 5}, [&](std::span<const int>) { return std::to_string(calls++); });
  CHECK(told_apart.add(item_of({}, -2)));
  CHECK(told_apart.add(item_of({}, -1)));
  CHECK(told_apart.size() == 2);
}

TEST_CASE("pitfall 14.10: the first near item decides, others that are near stay") {
  prompt_replay buffer({.capacity = 5});
  CHECK(buffer.add(item_of({1, 2, 3, 4}, -5)));
  CHECK(buffer.add(item_of({1, 2, 7, 8}, -4)));  // two edits of eight: not near
  CHECK(buffer.add(item_of({1, 2, 3, 8}, -3)));  // one edit from either: the lower is first in the array
  REQUIRE(rewards_of(buffer.items(0)) == numbers{-4, -3});
  CHECK(buffer.items(0)[1].actions == std::vector<int>{1, 2, 3, 8});
}

TEST_CASE("a distance that equals the tolerance is not near") {
  prompt_replay buffer({.capacity = 5, .tolerance = 0.25});
  buffer.add(item_of({1, 2}, -1));
  CHECK(buffer.add(item_of({1, 3}, -2)));  // 1 < 0.25 * 4 is false
  CHECK_FALSE(buffer.add(item_of({1, 3, 1}, -3)));  // 1 < 0.25 * 5
  prompt_replay tight({.capacity = 5, .tolerance = 0});
  tight.add(item_of({1, 2, 3, 4, 5, 6}, -1));
  CHECK(tight.add(item_of({1, 2, 3, 4, 5, 7}, -2)));
}

TEST_CASE("strings are compared by the user's function of the actions") {
  const auto without_nines = [](std::span<const int> actions) {
    std::string s;
    for (const int a : actions)
      if (a != 9) s += static_cast<char>('a' + a);
    return s;
  };
  prompt_replay buffer({.capacity = 5, .tolerance = 0}, without_nines);
  CHECK(buffer.add(item_of({1, 2}, -2)));
  CHECK_FALSE(buffer.add(item_of({1, 9, 2, 9}, -1)));
  CHECK(buffer.add(item_of({2, 1}, -1)));
  CHECK(buffer.items(0)[0].key == "bc");
}

TEST_CASE("of equal rewards in a full heap the oldest leaves") {
  prompt_replay buffer({.capacity = 2});
  for (int i = 0; i < 3; ++i) CHECK(buffer.add(item_of(apart(i), -1)));
  REQUIRE(buffer.items(0).size() == 2);
  std::set<std::uint64_t> ids{buffer.items(0)[0].id, buffer.items(0)[1].id};
  CHECK(ids == std::set<std::uint64_t>{1, 2});
}

TEST_CASE("every prompt has a heap of its own") {
  prompt_replay buffer({.capacity = 1});
  CHECK(buffer.add(item_of({1, 2}, -5, 7)));
  CHECK(buffer.add(item_of({1, 2}, -9, 3)));
  CHECK(buffer.prompts() == std::vector<int>{3, 7});
  CHECK(buffer.size() == 2);
  CHECK(buffer.items(5).empty());
  CHECK(buffer.draw(5, 4, {}, philox{1}).empty());
  CHECK(buffer.draw(7, 4, {}, philox{1}) == std::vector<std::size_t>(4, 0));
}

TEST_CASE("penalties count in the order of a heap and are stored apart from the rewards") {
  prompt_replay buffer({.capacity = 2});
  replay_item capped = item_of(apart(0), -1), shifted = item_of(apart(1), -2);
  capped.rewards.cap.assign(5, -30.0);
  shifted.rewards.shift.assign(5, -10.0);
  buffer.add(capped);
  buffer.add(shifted);
  CHECK(rewards_of(buffer.items(0)) == numbers{-30, -12});
  CHECK(buffer.items(0)[0].rewards == capped.rewards);
  CHECK(tempered(buffer.items(0)[0].rewards, 0.5).back() == -30);  // not -60
  CHECK(tempered(buffer.items(0)[1].rewards, 0.5).back() == -14);  // not -24
}

TEST_CASE("ten thousand insertions leave the array that the rules written down leave") {
  for (const double tolerance : {0.0, 0.1, 0.25, 0.6}) {
    prompt_replay buffer({.capacity = 12, .tolerance = tolerance});
    naive_replay naive(12, tolerance);
    const philox random{11};
    for (std::uint32_t i = 0; i < 10000; ++i) {
      const replay_item item = random_item(random, i);
      REQUIRE(buffer.add(item) == naive.add(item));
      const auto items = buffer.items(item.prompt);
      const auto& expected = naive.heaps[item.prompt];
      REQUIRE(std::equal(items.begin(), items.end(), expected.begin(), expected.end()));
      REQUIRE(is_heap(items));
      REQUIRE(items.size() <= 12);
    }
  }
}

TEST_CASE("without near lists a heap keeps the best of all that ever came") {
  prompt_replay buffer({.capacity = 20, .tolerance = 0});
  std::vector<std::pair<double, int>> came;
  const philox random{4};
  for (int i = 0; i < 3000; ++i) {
    const double reward = -static_cast<double>(random.below(500, static_cast<std::uint64_t>(i), 0));
    buffer.add(item_of(apart(i), reward));
    came.emplace_back(reward, i);
  }
  std::sort(came.rbegin(), came.rend());
  std::set<std::pair<double, int>> best(came.begin(), came.begin() + 20), held;
  for (const replay_item& item : buffer.items(0)) held.emplace(item.reward, item.actions[0] / 10);
  CHECK(held == best);
}

TEST_CASE("a heap that was saved and restored goes on as if nothing had happened") {
  const philox random{21};
  const auto first_token = [](std::span<const int> a) { return a.empty() ? std::string{} : std::to_string(a[0]) + std::to_string(a.size()); };
  prompt_replay buffer({.capacity = 12}, first_token);
  for (std::uint32_t i = 0; i < 700; ++i) buffer.add(random_item(random, i));
  const replay_values saved = buffer.pack();
  prompt_replay restored({.capacity = 12}, first_token);
  restored.add(item_of({1}, -1, 90));  // what was there before is gone
  restored.unpack(saved);
  CHECK(restored.pack() == saved);
  CHECK(restored.prompts() == buffer.prompts());
  for (std::uint32_t i = 700; i < 1500; ++i) {
    const replay_item item = random_item(random, i);
    REQUIRE(buffer.add(item) == restored.add(item));
    const auto a = buffer.items(item.prompt), b = restored.items(item.prompt);
    REQUIRE(std::equal(a.begin(), a.end(), b.begin(), b.end()));
    REQUIRE(buffer.draw(item.prompt, 5, {replay_weights::rewards}, random, i) ==
            restored.draw(item.prompt, 5, {replay_weights::rewards}, random, i));
  }
}

TEST_CASE("damaged values of a heap are refused with one line, and the buffer stays as it was") {
  prompt_replay buffer({.capacity = 4, .tolerance = 0.1});
  for (std::uint32_t i = 0; i < 40; ++i) buffer.add(random_item(philox{2}, i, 3));
  const auto tool = [](const rollout<float>&) { return std::vector<int>{5}; };
  buffer.add(replay_item_of(1, given_rollout<float>({1}, {2, 3}, tool), {{-1, -1, 0}}));
  const replay_values sound = buffer.pack();
  prompt_replay other({.capacity = 4, .tolerance = 0.1});
  other.add(item_of({1, 2, 3}, -1));
  CHECK(testing::damage(other, sound) > 100);
  other.unpack(sound);
  CHECK(other.pack() == sound);
}

TEST_CASE("a heap saved under another rule is refused with both rules named") {
  prompt_replay fifty, hundred({.capacity = 100, .tolerance = 0.1});
  fifty.add(item_of({1}, -1));
  try {
    hundred.unpack(fifty.pack(), "run/checkpoint");
    FAIL("it was accepted");
  } catch (const input_error& e) {
    CHECK(std::string(e.what()) ==
          "run/checkpoint: the replay buffer was saved with a capacity of 50 and a limit of 0.250000, now they are 100 and 0.100000; go on "
          "with the settings it was saved with");
  }
}

TEST_CASE("an item that is none and a rule that is none are errors") {
  prompt_replay buffer;
  replay_item item = item_of({1, 2}, -1);
  item.rewards.base.pop_back();
  CHECK_THROWS_AS(buffer.add(item), shape_error);
  item = item_of({1, 2}, std::nan(""));
  CHECK_THROWS_AS(buffer.add(item), shape_error);
  item = item_of({1, -2}, -1);
  CHECK_THROWS_AS(buffer.add(item), shape_error);
  item = item_of({1, 2}, -1, -1);
  CHECK_THROWS_AS(buffer.add(item), shape_error);
  item = item_of({1, 2}, -1);
  item.text = {1, 5, 3};
  item.seen = {0, 2, 3};
  CHECK_THROWS_AS(buffer.add(item), shape_error);
  CHECK(buffer.size() == 0);
  CHECK(buffer.add(item_of({1, 2}, -std::numeric_limits<double>::infinity())));
  CHECK_THROWS_AS(prompt_replay({.capacity = 0}), error);
  CHECK_THROWS_AS(prompt_replay({.tolerance = -0.1}), error);
}
