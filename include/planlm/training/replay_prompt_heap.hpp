/// The best trajectories of every prompt, few like others: a bounded heap per prompt, the lowest reward on top.   [2310.04363 and its code]
///
/// An item that comes, in this order:
///   1. has the string of a stored one: it is ignored, whatever its reward;
///   2. is near a stored one, edit distance < tolerance (length + length): the first near one in the order of the heap's array decides. If
///      its reward is not lower, the newcomer is ignored, else it takes its place. Others that are near stay as they are;
///   3. enters; where there are too many then, the lowest leaves, which may be the newcomer.
/// So two stored items can be near each other, as published. Equal rewards: the older is the lower. Two empty lists are equal strings, but
/// never near, 0 < 0 being false. The array is the one of Python's heapq after the same operations.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/training/edit_distance.hpp>
#include <planlm/training/replay.hpp>

namespace planlm {

struct prompt_replay_rule {
  index_t capacity = 50;    // items of a prompt
  double tolerance = 0.25;  // 0: nothing is near
};

class prompt_replay {
 public:
  /// What strings are compared: of the actions, without the stop. None: the actions themselves.
  using key_function = std::function<std::string(std::span<const int>)>;

  /// Errors: planlm::error for a rule that is none.
  explicit prompt_replay(prompt_replay_rule rule = {}, key_function key = {}) : rule_(rule), key_(std::move(key)) {
    detail::check_capacity(rule.capacity);
    if (!(rule.tolerance >= 0 && std::isfinite(rule.tolerance)))
      throw error("replay: a tolerance of " + std::to_string(rule.tolerance) + ", expected 0 or more");
  }

  /// Whether the item is in the buffer now.
  bool add(replay_item item) {
    detail::check_item(item);
    item.reward = tempered(item.rewards).back();
    item.id = next_++;
    item.key = key_ ? key_(item.actions) : std::string{};
    heap& h = heaps_[item.prompt];
    for (const replay_item& other : h)
      if (key_ ? other.key == item.key : other.actions == item.actions) return false;
    for (std::size_t i = 0; i < h.size(); ++i) {
      if (!near(h[i].actions, item.actions)) continue;
      if (h[i].reward >= item.reward) return false;
      h.erase(h.begin() + static_cast<std::ptrdiff_t>(i));
      for (std::size_t at = h.size() / 2; at-- > 0;) sink(h, at);
      push(h, std::move(item));
      return true;
    }
    if (static_cast<index_t>(h.size()) < rule_.capacity) {
      push(h, std::move(item));
      return true;
    }
    if (!detail::lower(h[0], item)) return false;
    h[0] = std::move(item);
    sink(h, 0);
    return true;
  }

  /// Of a prompt, in the order of the heap's array; valid until the next change.
  std::span<const replay_item> items(int prompt) const {
    const auto at = heaps_.find(prompt);
    return at == heaps_.end() ? std::span<const replay_item>{} : std::span<const replay_item>(at->second);
  }
  /// Those that have items, ascending.
  std::vector<int> prompts() const {
    std::vector<int> all;
    for (const auto& [prompt, h] : heaps_) all.push_back(prompt);
    return all;
  }
  index_t size() const {
    index_t all = 0;
    for (const auto& [prompt, h] : heaps_) all += static_cast<index_t>(h.size());
    return all;
  }
  /// Places in items(prompt): see draw_items.
  std::vector<std::size_t> draw(int prompt, index_t count, replay_draw how, philox random, std::uint64_t row = 0) const {
    return draw_items(detail::log_rewards_of(items(prompt)), count, how, random, row);
  }

  replay_values pack() const {
    detail::replay_writer out(kind, rule_.capacity, rule_.tolerance, next_, static_cast<std::size_t>(size()));
    for (const auto& [prompt, h] : heaps_)
      for (const replay_item& item : h) out.item(item);
    return std::move(out).values();
  }
  /// The very buffer that was packed, its strings made again. `name`: of the file, for errors. Errors: input_error for values that are
  /// damaged or of another rule; then the buffer is as it was.
  void unpack(const replay_values& values, const std::string& name = "checkpoint") {
    detail::replay_reader in(values, name, kind, "the best of every prompt", rule_.capacity, rule_.tolerance);
    std::map<int, heap> heaps;
    int newest = -1;
    for (replay_item& item : in.items()) {
      if (item.prompt < newest) in.refuse("its prompts are not in order");
      newest = item.prompt;
      heap& h = heaps[newest];
      if (key_) item.key = key_(item.actions);
      h.push_back(std::move(item));
      if (static_cast<index_t>(h.size()) > rule_.capacity) in.refuse("a prompt has more items than the capacity");
      if (h.size() > 1 && detail::lower(h.back(), h[(h.size() - 2) / 2])) in.refuse("the rewards are not in the order of a heap");
    }
    heaps_ = std::move(heaps);
    next_ = in.next();
  }

 private:
  static constexpr int kind = 1;
  using heap = std::vector<replay_item>;

  bool near(std::span<const int> a, std::span<const int> b) const {
    const double limit = rule_.tolerance * static_cast<double>(a.size() + b.size());
    const auto bound = static_cast<index_t>(std::ceil(std::min(limit, 1e15)));  // for whole distances, d < limit is d < its ceiling
    return bound > 0 && edit_distance(a, b, bound) < bound;
  }
  static void push(heap& h, replay_item item) {
    h.push_back(std::move(item));
    rise(h, 0, h.size() - 1);
  }
  // Up from `at`, past those that are higher, to `top` at most.
  static void rise(heap& h, std::size_t top, std::size_t at) {
    while (at > top && detail::lower(h[at], h[(at - 1) / 2])) {
      std::swap(h[at], h[(at - 1) / 2]);
      at = (at - 1) / 2;
    }
  }
  // All the way down along the lower children, then up again: the array of heapq.
  static void sink(heap& h, std::size_t top) {
    std::size_t at = top;
    for (std::size_t child = 2 * at + 1; child < h.size(); child = 2 * at + 1) {
      if (child + 1 < h.size() && !detail::lower(h[child], h[child + 1])) ++child;
      std::swap(h[at], h[child]);
      at = child;
    }
    rise(h, top, at);
  }

  prompt_replay_rule rule_;
  key_function key_;
  std::uint64_t next_ = 0;
  std::map<int, heap> heaps_;  // none is empty
};

}  // namespace planlm
