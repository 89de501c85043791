/// The best trajectories of all: a buffer that lets the lowest reward go, and if asked keeps items apart.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/training/edit_distance.hpp>
#include <planlm/training/replay.hpp>

namespace planlm {

struct priority_replay_rule {
  index_t capacity = 1000;
  double apart = 0;  // a newcomer nearer than this to a stored item is ignored, whatever its reward; 0: none is
};

class priority_replay {
 public:
  /// How far two items are apart. None: the edit distance of their actions.
  using distance_function = std::function<double(const replay_item&, const replay_item&)>;

  /// Errors: planlm::error for a rule that is none.
  explicit priority_replay(priority_replay_rule rule = {}, distance_function distance = {}) : rule_(rule), distance_(std::move(distance)) {
    detail::check_capacity(rule.capacity);
    if (!(rule.apart >= 0 && std::isfinite(rule.apart)))
      throw error("replay: items are to be " + std::to_string(rule.apart) + " apart, expected 0 or more");
  }

  /// Whether the item is in the buffer now. Of equal rewards the older leaves first.
  bool add(replay_item item) {
    detail::check_item(item);
    item.reward = tempered(item.rewards).back();
    item.id = next_++;
    item.key.clear();
    const bool full = static_cast<index_t>(items_.size()) >= rule_.capacity;
    if (full && detail::lower(item, items_.front())) return false;
    if (rule_.apart > 0)
      for (const replay_item& other : items_)
        if (near(item, other)) return false;
    if (full) items_.erase(items_.begin());
    const auto at = std::upper_bound(items_.begin(), items_.end(), item, detail::lower);
    items_.insert(at, std::move(item));
    return true;
  }

  /// By reward, ascending; valid until the next change.
  std::span<const replay_item> items() const { return items_; }
  index_t size() const { return static_cast<index_t>(items_.size()); }
  /// Places in items(): see draw_items.
  std::vector<std::size_t> draw(index_t count, replay_draw how, philox random, std::uint64_t row = 0) const {
    return draw_items(detail::log_rewards_of(items()), count, how, random, row);
  }

  replay_values pack() const {
    detail::replay_writer out(kind, rule_.capacity, rule_.apart, next_, items_.size());
    for (const replay_item& item : items_) out.item(item);
    return std::move(out).values();
  }
  /// The very buffer that was packed. Errors: input_error for values that are damaged or of another rule; then the buffer is as it was.
  void unpack(const replay_values& values, const std::string& name = "checkpoint") {
    detail::replay_reader in(values, name, kind, "the best of all", rule_.capacity, rule_.apart);
    if (static_cast<index_t>(in.items().size()) > rule_.capacity) in.refuse("it has more items than the capacity");
    if (!std::is_sorted(in.items().begin(), in.items().end(), detail::lower)) in.refuse("the rewards are not in order");
    items_ = std::move(in.items());
    next_ = in.next();
  }

 private:
  static constexpr int kind = 2;
  bool near(const replay_item& a, const replay_item& b) const {
    if (distance_) return distance_(a, b) < rule_.apart;
    const auto bound = static_cast<index_t>(std::ceil(std::min(rule_.apart, 1e15)));
    return edit_distance(a.actions, b.actions, bound) < bound;
  }

  priority_replay_rule rule_;
  distance_function distance_;
  std::uint64_t next_ = 0;
  std::vector<replay_item> items_;
};

}  // namespace planlm
