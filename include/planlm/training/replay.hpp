/// Trajectories that are kept to be trained on again: what is kept, how it is drawn, how a buffer is saved.   [2310.04363 and its code]
///
/// Buffers: replay_prompt_heap.hpp (the best of every prompt, few like others), replay_priority.hpp (the best of all), replay_fifo.hpp
/// (the newest). Rewards are stored untempered and tempered when they are used, since the temperature falls; log-probabilities are not
/// stored, since the policy changes.
///
///     for (std::size_t b = 0; b < z.size(); ++b) buffer.add(replay_item_of(prompt, z[b], rewards[b]));
///     for (const std::size_t i : buffer.draw(prompt, 8, {}, random)) again.push_back(rollout_of<float>(buffer.items(prompt)[i], tokens));
///
/// Errors: shape_error and numeric_error for an item that is none; input_error for saved values that are damaged.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <planlm/models/prefix_reward.hpp>

namespace planlm {

/// One trajectory of n actions.
struct replay_item {
  int prompt = 0;                    // the caller's number of its prompt, 0 or more
  std::vector<int> actions{};        // the stop not among them
  std::vector<int> text{}, seen{};   // where a tool wrote: all that follows the prompt; (n + 1) how much of it choice k saw. Else empty
  log_reward_row rewards{};          // (n + 1) of every prefix, untempered
  double reward = 0;                 // log R of the object, untempered: the last of them. A buffer sets it, ...
  std::uint64_t id = 0;              // ... the number of its insertion ...
  std::string key{};                 // ... and what it is called where strings are compared
  bool operator==(const replay_item&) const = default;
};

template <class Real>
replay_item replay_item_of(int prompt, const rollout<Real>& z, log_reward_row rewards) {
  replay_item item{prompt, z.actions, {}, {}, std::move(rewards)};
  if (z.state.size() > z.prompt.size() + z.actions.size()) {
    item.text.assign(z.state.begin() + static_cast<std::ptrdiff_t>(z.prompt.size()), z.state.end());
    for (const int last : z.decided) item.seen.push_back(last + 1 - static_cast<int>(z.prompt.size()));
  }
  return item;
}
/// The trajectory after its prompt; nothing is scored.
template <class Real>
rollout<Real> rollout_of(const replay_item& item, std::vector<int> prompt) {
  if (item.seen.empty()) return given_rollout<Real>(std::move(prompt), item.actions);
  rollout<Real> z;
  z.prompt = std::move(prompt);
  z.actions = item.actions;
  z.state = z.prompt;
  z.state.insert(z.state.end(), item.text.begin(), item.text.end());
  for (const int seen : item.seen) z.decided.push_back(static_cast<int>(z.prompt.size()) + seen - 1);
  return z;
}

/// How items are drawn from a buffer: each as often as the other, or in proportion to R (the softmax of stored log-rewards); ...
enum class replay_weights { uniform, rewards };
/// ... and whether an item may come twice: `always`; `when_few`, only where there are fewer than are asked for; `not_when_few`: where there
/// are no more than that each comes once, else with repetition, as published for infilling.
enum class replay_repeats { always, when_few, not_when_few };
struct replay_draw {
  replay_weights weights = replay_weights::uniform;
  replay_repeats repeats = replay_repeats::always;
};

/// Numbers of items drawn, `count` unless replay_repeats::not_when_few gives fewer; none from an empty buffer. The draw depends on the
/// rewards, `random` and `row` alone. Items of reward 0 are drawn last, or like others where there is nothing else.
inline std::vector<std::size_t> draw_items(std::span<const double> log_rewards, index_t count, replay_draw how, philox random,
                                           std::uint64_t row = 0) {
  const std::size_t n = log_rewards.size(), wanted = static_cast<std::size_t>(std::max<index_t>(count, 0));
  std::vector<std::size_t> drawn;
  if (n == 0 || wanted == 0) return drawn;
  if (how.repeats == replay_repeats::not_when_few && n <= wanted) {
    for (std::size_t i = 0; i < n; ++i) drawn.push_back(i);
    return drawn;
  }
  const double top = *std::max_element(log_rewards.begin(), log_rewards.end());
  const bool even = how.weights == replay_weights::uniform || !(top > -std::numeric_limits<double>::infinity());
  const auto log_weight = [&](std::size_t i) { return even ? 0.0 : log_rewards[i] - top; };
  if (how.repeats == replay_repeats::when_few && n >= wanted) {
    // The largest of log w + Gumbel noise are a draw without replacement.
    std::vector<std::pair<double, std::size_t>> keys;
    for (std::size_t i = 0; i < n; ++i)
      keys.emplace_back(std::log(-std::log(random.uniform(row, static_cast<std::uint32_t>(i)))) - log_weight(i), i);
    std::partial_sort(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(wanted), keys.end());
    for (std::size_t i = 0; i < wanted; ++i) drawn.push_back(keys[i].second);
    return drawn;
  }
  std::vector<double> below;  // sum of the weights up to and with each item
  for (std::size_t i = 0; i < n; ++i) below.push_back((i > 0 ? below.back() : 0.0) + std::exp(log_weight(i)));
  for (std::size_t i = 0; i < wanted; ++i) {
    const double at = random.uniform(row, static_cast<std::uint32_t>(i)) * below.back();
    drawn.push_back(std::min(static_cast<std::size_t>(std::upper_bound(below.begin(), below.end(), at) - below.begin()), n - 1));
  }
  return drawn;
}

/// A buffer as arrays of numbers, for a file.
struct replay_values {
  std::vector<double> numbers;
  std::vector<int> wholes;
  bool operator==(const replay_values&) const = default;
};

namespace detail {

/// Nothing, or what is wrong with an item.
inline std::string fault_of(const replay_item& item) {
  const std::size_t n = item.actions.size();
  const auto values = [n](const std::vector<double>& v, bool optional, double most) {
    return (optional && v.empty()) || (v.size() == n + 1 && std::all_of(v.begin(), v.end(), [most](double x) { return x <= most; }));
  };
  constexpr double largest = std::numeric_limits<double>::max(), infinity = std::numeric_limits<double>::infinity();
  if (item.prompt < 0) return "the prompt's number is " + std::to_string(item.prompt) + ", expected 0 or more";
  if (!values(item.rewards.base, false, largest) || !values(item.rewards.shift, true, largest) || !values(item.rewards.cap, true, infinity))
    return "the rewards of " + std::to_string(n) + " actions are not " + std::to_string(n + 1) + " numbers or -infinity";
  if (std::any_of(item.actions.begin(), item.actions.end(), [](int a) { return a < 0; })) return "an action is below 0";
  if (item.seen.empty() && item.text.empty()) return {};
  bool right = item.seen.size() == n + 1 && item.seen.front() == 0 && item.seen.back() == static_cast<int>(item.text.size());
  for (std::size_t k = 0; right && k < n; ++k)
    right = item.seen[k] >= 0 && item.seen[k] < item.seen[k + 1] && item.seen[k + 1] <= static_cast<int>(item.text.size()) &&
            item.text[static_cast<std::size_t>(item.seen[k])] == item.actions[k];
  return right ? std::string{} : "the text is not the actions and what a tool wrote after them";
}
/// Errors: shape_error.
inline void check_item(const replay_item& item) {
  if (const std::string fault = fault_of(item); !fault.empty()) throw shape_error("replay: " + fault);
}
inline void check_capacity(index_t capacity) {
  if (capacity < 1 || capacity > std::numeric_limits<int>::max())
    throw error("replay: a capacity of " + std::to_string(capacity) + " items, expected 1 or more");
}
/// The order of heaps and of the best: by reward, the older of equals first.
inline bool lower(const replay_item& a, const replay_item& b) {
  return a.reward < b.reward || (a.reward == b.reward && a.id < b.id);
}
inline std::vector<double> log_rewards_of(std::span<const replay_item> items) {
  std::vector<double> rewards;
  for (const replay_item& item : items) rewards.push_back(item.reward);
  return rewards;
}

/// Buffers in numbers. A 62-bit count takes two whole numbers.
class replay_writer {
 public:
  replay_writer(int kind, index_t capacity, double setting, std::uint64_t next, std::size_t items) {
    out_.wholes = {kind, static_cast<int>(capacity)};
    out_.numbers = {setting};
    count(next), count(items);
  }
  void item(const replay_item& item) {
    auto& w = out_.wholes;
    w.push_back(item.prompt);
    count(item.id);
    w.push_back(static_cast<int>(item.actions.size()));
    w.push_back(static_cast<int>(item.text.size()));
    w.push_back((item.seen.empty() ? 0 : 1) + (item.rewards.shift.empty() ? 0 : 2) + (item.rewards.cap.empty() ? 0 : 4));
    for (const auto* list : {&item.actions, &item.text, &item.seen}) w.insert(w.end(), list->begin(), list->end());
    for (const auto* list : {&item.rewards.base, &item.rewards.shift, &item.rewards.cap})
      out_.numbers.insert(out_.numbers.end(), list->begin(), list->end());
  }
  replay_values values() && { return std::move(out_); }

 private:
  void count(std::uint64_t n) {
    out_.wholes.push_back(static_cast<int>(n & 0x7FFFFFFF));
    out_.wholes.push_back(static_cast<int>(n >> 31 & 0x7FFFFFFF));
  }
  replay_values out_;
};

/// Trusts nothing: every number is held against what may be there, sizes against what is left. Errors: input_error.
class replay_reader {
 public:
  replay_reader(const replay_values& from, std::string name, int kind, const char* what, index_t capacity, double setting)
      : from_(from), name_(std::move(name)) {
    if (whole() != kind) refuse("it is not a buffer of this kind, " + std::string(what));
    const int saved = whole();
    const double other = numbers(1)[0];
    if (saved != capacity || !(other == setting))
      throw input_error(name_ + ": the replay buffer was saved with a capacity of " + std::to_string(saved) + " and a limit of " +
                        std::to_string(other) + ", now they are " + std::to_string(capacity) + " and " + std::to_string(setting) +
                        "; go on with the settings it was saved with");
    next_ = count();
    const std::uint64_t items = count();
    if (items > from_.wholes.size() / 6) refuse("it claims " + std::to_string(items) + " items");
    items_.reserve(static_cast<std::size_t>(items));
    for (std::uint64_t i = 0; i < items; ++i) items_.push_back(item());
    if (whole_ != from_.wholes.size() || number_ != from_.numbers.size()) refuse("there is more in it than its items");
    std::vector<std::uint64_t> ids;
    for (const replay_item& i : items_) ids.push_back(i.id);
    std::sort(ids.begin(), ids.end());
    if (std::adjacent_find(ids.begin(), ids.end()) != ids.end() || (!ids.empty() && ids.back() >= next_))
      refuse("the numbers of its insertions are not apart");
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw input_error(name_ + ": the replay buffer is damaged near whole number " + std::to_string(whole_) + " of " +
                      std::to_string(from_.wholes.size()) + ": " + what + "; go on from another checkpoint");
  }
  std::uint64_t next() const { return next_; }
  std::vector<replay_item>& items() { return items_; }

 private:
  std::span<const int> wholes(std::size_t n) {
    if (n > from_.wholes.size() - whole_) refuse("it ends too early");
    whole_ += n;
    return std::span(from_.wholes).subspan(whole_ - n, n);
  }
  std::span<const double> numbers(std::size_t n) {
    if (n > from_.numbers.size() - number_) refuse("its rewards end too early");
    number_ += n;
    return std::span(from_.numbers).subspan(number_ - n, n);
  }
  int whole() { return wholes(1)[0]; }
  std::size_t size() {
    const int n = whole();
    if (n < 0) refuse("a size of " + std::to_string(n));
    return static_cast<std::size_t>(n);
  }
  std::uint64_t count() {
    const std::uint64_t low = size();
    return low | static_cast<std::uint64_t>(size()) << 31;
  }
  replay_item item() {
    replay_item out;
    out.prompt = whole();
    out.id = count();
    const std::size_t n = size(), text = size(), parts = size();
    const auto fill = [](auto& list, auto values) { list.assign(values.begin(), values.end()); };
    fill(out.actions, wholes(n)), fill(out.text, wholes(text));
    if (parts & 1) fill(out.seen, wholes(n + 1));
    fill(out.rewards.base, numbers(n + 1));
    if (parts & 2) fill(out.rewards.shift, numbers(n + 1));
    if (parts & 4) fill(out.rewards.cap, numbers(n + 1));
    if (const std::string fault = parts > 7 ? "unknown parts" : fault_of(out); !fault.empty()) refuse(fault);
    out.reward = tempered(out.rewards).back();
    return out;
  }

  const replay_values& from_;
  std::string name_;
  std::size_t whole_ = 0, number_ = 0;
  std::uint64_t next_ = 0;
  std::vector<replay_item> items_;
};

}  // namespace detail

}  // namespace planlm
