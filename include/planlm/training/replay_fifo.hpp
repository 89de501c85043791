/// The newest trajectories: the oldest leaves first.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/training/replay.hpp>

namespace planlm {

class fifo_replay {
 public:
  /// Errors: planlm::error for a capacity below 1.
  explicit fifo_replay(index_t capacity = 1000) : capacity_(capacity) { detail::check_capacity(capacity); }

  void add(replay_item item) {
    detail::check_item(item);
    item.reward = tempered(item.rewards).back();
    item.id = next_++;
    item.key.clear();
    if (static_cast<index_t>(items_.size()) >= capacity_) items_.erase(items_.begin());
    items_.push_back(std::move(item));
  }

  /// The oldest first; valid until the next change.
  std::span<const replay_item> items() const { return items_; }
  index_t size() const { return static_cast<index_t>(items_.size()); }
  /// Places in items(): see draw_items.
  std::vector<std::size_t> draw(index_t count, replay_draw how, philox random, std::uint64_t row = 0) const {
    return draw_items(detail::log_rewards_of(items()), count, how, random, row);
  }

  replay_values pack() const {
    detail::replay_writer out(kind, capacity_, 0, next_, items_.size());
    for (const replay_item& item : items_) out.item(item);
    return std::move(out).values();
  }
  /// The very buffer that was packed. Errors: input_error for values that are damaged or of another capacity; then the buffer is as it was.
  void unpack(const replay_values& values, const std::string& name = "checkpoint") {
    detail::replay_reader in(values, name, kind, "the newest", capacity_, 0);
    if (static_cast<index_t>(in.items().size()) > capacity_) in.refuse("it has more items than the capacity");
    const auto older = [](const replay_item& a, const replay_item& b) { return a.id < b.id; };
    if (!std::is_sorted(in.items().begin(), in.items().end(), older)) in.refuse("its items are not in the order they came");
    items_ = std::move(in.items());
    next_ = in.next();
  }

 private:
  static constexpr int kind = 3;
  index_t capacity_;
  std::uint64_t next_ = 0;
  std::vector<replay_item> items_;
};

}  // namespace planlm
