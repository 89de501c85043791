/// Objects that were sampled before, kept by one of the library's replay buffers.
#pragma once
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>
#include <planlm/environments/environment.hpp>
#include <planlm/environments/trajectory.hpp>
#include <planlm/training/replay_fifo.hpp>
#include <planlm/training/replay_priority.hpp>
#include "options.hpp"
#include "trainer/stage.hpp"

namespace train_gflownet_grid {

using namespace planlm;

/// none, fifo: the newest, drawn alike; prioritised: the best, no two alike, drawn in proportion to their rewards.
class object_memory {
 public:
  object_memory(const state_graph& graph, const options& o) : graph_(graph), share_(o.replay_share) {
    if (o.replay == "fifo") buffer_ = fifo_replay(o.replay_size);
    if (o.replay == "prioritised")
      buffer_ = priority_replay({.capacity = o.replay_size, .apart = 0.5},
                                [this](const replay_item& a, const replay_item& b) { return object_of(a) == object_of(b) ? 0.0 : 1.0; });
  }
  object_memory(const object_memory&) = delete;

  void add(const trajectory& way) {
    if (std::holds_alternative<std::monostate>(buffer_)) return;
    replay_item item;
    item.actions.assign(way.actions.begin(), way.actions.end() - 1);
    for (const index_t s : way.states) item.rewards.base.push_back(graph_.log_reward(s));
    on_buffer([&](auto& b) { b.add(item); });
  }
  /// Objects for a share of a batch; none before there are any.
  std::vector<index_t> draw(int batch, philox random) const {
    std::vector<index_t> objects;
    const auto count = static_cast<index_t>(std::floor(share_ * batch));
    on_buffer([&](const auto& b) {
      const bool best = std::holds_alternative<priority_replay>(buffer_);
      for (const std::size_t i : b.draw(count, {.weights = best ? replay_weights::rewards : replay_weights::uniform}, random))
        objects.push_back(object_of(b.items()[i]));
    });
    return objects;
  }
  /// For the checkpoint.
  std::vector<trainer::named_memory> named() {
    if (std::holds_alternative<std::monostate>(buffer_)) return {};
    return {{"replay", [this] { return written(); }, [this](std::span<const double> values) { read(values); }}};
  }

 private:
  template <class F>
  void on_buffer(const F& f) const {
    if (const auto* b = std::get_if<fifo_replay>(&buffer_)) f(*b);
    if (const auto* b = std::get_if<priority_replay>(&buffer_)) f(*b);
  }
  template <class F>
  void on_buffer(const F& f) {
    if (auto* b = std::get_if<fifo_replay>(&buffer_)) f(*b);
    if (auto* b = std::get_if<priority_replay>(&buffer_)) f(*b);
  }
  index_t object_of(const replay_item& item) const {
    index_t s = 0;
    for (const int a : item.actions) s = graph_.child(s, a);
    return s;
  }
  /// How many numbers, the numbers, the whole numbers.
  std::vector<double> written() const {
    std::vector<double> all;
    on_buffer([&](const auto& b) {
      const replay_values v = b.pack();
      all.push_back(static_cast<double>(v.numbers.size()));
      all.insert(all.end(), v.numbers.begin(), v.numbers.end());
      all.insert(all.end(), v.wholes.begin(), v.wholes.end());
    });
    return all;
  }
  void read(std::span<const double> values) {
    const double count = values.empty() ? -1 : values[0];
    if (!(count >= 0 && count <= static_cast<double>(values.size() - 1) && count == std::floor(count)))
      throw input_error("the replay buffer of the checkpoint is damaged; remove the checkpoint to begin the stage again");
    const auto numbers = static_cast<std::size_t>(count);
    replay_values v;
    v.numbers.assign(values.begin() + 1, values.begin() + 1 + static_cast<std::ptrdiff_t>(numbers));
    for (const double w : values.subspan(1 + numbers)) v.wholes.push_back(std::abs(w) < 0x1p31 ? static_cast<int>(w) : -1);
    on_buffer([&](auto& b) { b.unpack(v); });
  }

  const state_graph& graph_;
  double share_;
  std::variant<std::monostate, fifo_replay, priority_replay> buffer_;
};

}  // namespace train_gflownet_grid
