/// Rewards of all that a trajectory passed through: log R of the object that stops after k actions, k = 0 .. n.
///
/// A reward is any callable that is const and gives, in nats and untempered,
///     std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const;     // entry b: (n_b + 1)
/// -infinity is a reward like any other: what has it is never to be made. NaN and +infinity are errors.
///
/// Tempering divides log R by a temperature T, but a penalty on what must not be written keeps its size [2310.04363 and its code]. So
/// a reward may keep the two apart, with a member `split` that gives for every trajectory base, shift and cap, and
///     log R_T[k] = min(base[k] / T + shift[k], cap[k]);
/// its call is the same at T = 1. Rows are stored split and untempered (training/replay.hpp) and tempered when they are used.
///
///     auto reward = validity_penalty{sum_of{likelihood, scaled{0.1, action_count{}}}, is_sentence, -20.0};
///     auto rows = split_rewards(reward, trajectories);       // checked
///     auto log_r = tempered(rows[b], temperature(step));     // (n_b + 1)
///
/// The likelihood under a frozen language model is in models/likelihood_reward.hpp.
///
/// Errors: numeric_error and shape_error that name trajectory and prefix.
#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/models/rollout.hpp>

namespace planlm {

/// The rewards of one trajectory. An empty `shift` is 0 everywhere, an empty `cap` infinity.
struct log_reward_row {
  std::vector<double> base, shift{}, cap{};  // (n + 1) nats
  bool operator==(const log_reward_row&) const = default;
};

/// log R_T of every prefix: min(base / T + shift, cap).
inline std::vector<double> tempered(const log_reward_row& row, double temperature = 1) {
  if (!(temperature > 0 && std::isfinite(temperature)))
    throw error("tempered: the reward temperature is " + std::to_string(temperature) + ", expected a number above 0");
  std::vector<double> out(row.base.size());
  for (std::size_t k = 0; k < out.size(); ++k) {
    out[k] = row.base[k] / temperature + (row.shift.empty() ? 0 : row.shift[k]);
    if (!row.cap.empty()) out[k] = std::min(out[k], row.cap[k]);
  }
  return out;
}

template <class R, class Real>
concept PrefixReward = requires(const R& reward, std::span<const rollout<Real>> z) {
  { reward(z) } -> std::convertible_to<std::vector<std::vector<double>>>;
} || because<"PrefixReward: needs std::vector<std::vector<double>> operator()(std::span<const rollout<Real>>) const, "
             "for a trajectory of n actions the n + 1 log-rewards of stopping after 0 .. n of them", R, Real>();

/// A reward that keeps what is not tempered apart.
template <class R, class Real>
concept SplitPrefixReward = requires(const R& reward, std::span<const rollout<Real>> z) {
  { reward.split(z) } -> std::same_as<std::vector<log_reward_row>>;
};

/// What stood there when choice k was made: all that was written after the prompt, by the policy or by a tool.
template <class Real>
std::span<const int> prefix_text(const rollout<Real>& z, std::size_t k) {
  const std::size_t from = z.prompt.size();
  return std::span<const int>(z.state).subspan(from, static_cast<std::size_t>(z.decided[k] + 1) - from);
}

namespace detail {

inline std::string trajectory_name(std::size_t row, std::size_t prefix) {
  return "trajectory " + std::to_string(row) + ", prefix " + std::to_string(prefix);
}

/// Whether prompt, actions, state and decided tell one story. Errors: shape_error naming the trajectory.
template <class Real>
void check_rollouts(std::span<const rollout<Real>> z) {
  for (std::size_t b = 0; b < z.size(); ++b) {
    const std::size_t prompt = z[b].prompt.size(), n = z[b].actions.size();
    bool right = z[b].decided.size() == n + 1 && z[b].decided[0] + std::ptrdiff_t{1} == static_cast<std::ptrdiff_t>(prompt) &&
                 z[b].state.size() >= prompt && std::equal(z[b].prompt.begin(), z[b].prompt.end(), z[b].state.begin());
    for (std::size_t k = 0; right && k < n; ++k) {
      const auto at = static_cast<std::size_t>(z[b].decided[k] + 1);
      right = z[b].decided[k] < z[b].decided[k + 1] && static_cast<std::size_t>(z[b].decided[k + 1]) < z[b].state.size() &&
              z[b].state[at] == z[b].actions[k];
    }
    if (!right)
      throw shape_error("prefix reward: trajectory " + std::to_string(b) + ": its state is not its prompt and its " + std::to_string(n) +
                        " actions, each where `decided` says; make it with a rollout_sampler or with given_rollout");
  }
}

/// `what`: base, shift or cap.
inline void check_reward_values(const std::vector<double>& values, std::size_t row, std::size_t n, bool optional, double most,
                                const char* what) {
  if (optional && values.empty()) return;
  if (values.size() != n + 1)
    throw shape_error("prefix reward: trajectory " + std::to_string(row) + " has " + std::to_string(n) + " actions, the reward gave " +
                      std::to_string(values.size()) + " entries of " + what + ", expected " + std::to_string(n + 1) +
                      ", one for each prefix");
  for (std::size_t k = 0; k <= n; ++k)
    if (!(values[k] <= most))
      throw numeric_error("prefix reward: " + trajectory_name(row, k) + ": the log-reward's " + what + " is " +
                          std::to_string(values[k]) + ", expected a number or -infinity");
}

/// Errors: shape_error, numeric_error naming trajectory and prefix.
template <class Real>
void check_rewards(const std::vector<log_reward_row>& rows, std::span<const rollout<Real>> z) {
  if (rows.size() != z.size())
    throw shape_error("prefix reward: " + std::to_string(z.size()) + " trajectories, but rewards of " + std::to_string(rows.size()));
  constexpr double infinity = std::numeric_limits<double>::infinity(), largest = std::numeric_limits<double>::max();
  for (std::size_t b = 0; b < z.size(); ++b) {
    const std::size_t n = z[b].actions.size();
    check_reward_values(rows[b].base, b, n, false, largest, "base");
    check_reward_values(rows[b].shift, b, n, true, largest, "shift");
    check_reward_values(rows[b].cap, b, n, true, infinity, "cap");
  }
}

inline std::vector<std::vector<double>> untempered(const std::vector<log_reward_row>& rows) {
  std::vector<std::vector<double>> out;
  out.reserve(rows.size());
  for (const log_reward_row& row : rows) out.push_back(tempered(row));
  return out;
}

/// f(text, number of the trajectory), or f(text) for those that need no more.
template <class F>
auto ask(const F& f, std::span<const int> text, std::size_t row) {
  if constexpr (std::is_invocable_v<const F&, std::span<const int>, std::size_t>) return f(text, row);
  else return f(text);
}

}  // namespace detail

/// The rewards of any PrefixReward, in parts and checked.
template <class Real, PrefixReward<Real> R>
std::vector<log_reward_row> split_rewards(const R& reward, std::span<const rollout<Real>> z) {
  detail::check_rollouts(z);
  std::vector<log_reward_row> rows;
  if constexpr (SplitPrefixReward<R, Real>) {
    rows = reward.split(z);
  } else {
    for (std::vector<double>& base : std::vector<std::vector<double>>(reward(z))) rows.push_back({std::move(base)});
  }
  detail::check_rewards(rows, z);
  return rows;
}
template <class Real, PrefixReward<Real> R>
std::vector<log_reward_row> split_rewards(const R& reward, const std::vector<rollout<Real>>& z) {
  return split_rewards(reward, std::span<const rollout<Real>>(z));
}

/// R^weight: weight log R; a weight of 0 gives 0 whatever R is. Log-linear mixtures of likelihoods are sums of these.
template <class R>
struct scaled {
  double weight;
  R reward;
  template <class Real>
  std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const {
    static_assert(!SplitPrefixReward<R, Real>, "planlm::scaled: penalties stay as they are; put them around the scaled reward");
    std::vector<std::vector<double>> rows = reward(z);
    for (std::vector<double>& row : rows)
      for (double& r : row) r = weight == 0 ? 0 : weight * r;
    return rows;
  }
};
template <class R>
scaled(double, R) -> scaled<R>;

/// The product of rewards: the sum of their logs.
template <class... R>
class sum_of {
 public:
  explicit sum_of(R... rewards) : rewards_(std::move(rewards)...) { static_assert(sizeof...(R) > 0); }
  template <class Real>
  std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const {
    static_assert((!SplitPrefixReward<R, Real> && ...), "planlm::sum_of: penalties are not tempered; put them around the sum");
    std::vector<std::vector<double>> total(z.size());
    for (std::size_t b = 0; b < z.size(); ++b) total[b].assign(z[b].actions.size() + 1, 0.0);
    std::apply([&](const R&... reward) { (add(split_rewards(reward, z), total), ...); }, rewards_);
    return total;
  }

 private:
  static void add(const std::vector<log_reward_row>& rows, std::vector<std::vector<double>>& total) {
    for (std::size_t b = 0; b < rows.size(); ++b)
      for (std::size_t k = 0; k < rows[b].base.size(); ++k) total[b][k] += rows[b].base[k];
  }
  std::tuple<R...> rewards_;
};

/// The number of actions, to be scaled: a bonus or a price of length.
struct action_count {
  template <class Real>
  std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const {
    std::vector<std::vector<double>> rows(z.size());
    for (std::size_t b = 0; b < z.size(); ++b)
      for (std::size_t k = 0; k <= z[b].actions.size(); ++k) rows[b].push_back(static_cast<double>(k));
    return rows;
  }
};

/// The log-probability of a class: `probability(text)` or `probability(text, number of the trajectory)`, in [0, 1], of every prefix.
template <class F>
struct classifier_reward {
  F probability;
  template <class Real>
  std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const {
    std::vector<std::vector<double>> rows(z.size());
    for (std::size_t b = 0; b < z.size(); ++b)
      for (std::size_t k = 0; k <= z[b].actions.size(); ++k) {
        const double p = detail::ask(probability, prefix_text(z[b], k), b);
        if (!(p >= 0 && p <= 1))
          throw numeric_error("classifier_reward: " + detail::trajectory_name(b, k) + ": the probability is " + std::to_string(p) +
                              ", expected 0 to 1");
        rows[b].push_back(std::log(p));
      }
    return rows;
  }
};
template <class F>
classifier_reward(F) -> classifier_reward<F>;

/// The published form of a least length: before tempering, prefixes of fewer than `shortest` actions have the log-reward `floor`. Policies
/// trained with it may collapse; masking the stop (rollout_rule::shortest) does without.
template <class R>
struct length_floor {
  R reward;
  index_t shortest = 1;
  double floor = -99;
  template <class Real>
  std::vector<log_reward_row> split(std::span<const rollout<Real>> z) const {
    std::vector<log_reward_row> rows = split_rewards(reward, z);
    for (log_reward_row& row : rows)
      std::fill_n(row.base.begin(), std::clamp<index_t>(shortest, 0, static_cast<index_t>(row.base.size())), floor);
    return rows;
  }
  template <class Real>
  std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const {
    return detail::untempered(split(z));
  }
};
template <class R>
length_floor(R, index_t, double = -99) -> length_floor<R>;

/// Where the text is not valid, log R_T is at most `most`, at any temperature. `is_valid(text)` or `is_valid(text, number of the trajectory)`
/// is not asked about the text before the first action if `empty_is_invalid`.
template <class R, class F>
struct validity_penalty {
  R reward;
  F is_valid;
  double most;
  bool empty_is_invalid = false;
  template <class Real>
  std::vector<log_reward_row> split(std::span<const rollout<Real>> z) const {
    std::vector<log_reward_row> rows = split_rewards(reward, z);
    for (std::size_t b = 0; b < z.size(); ++b) {
      rows[b].cap.resize(rows[b].base.size(), std::numeric_limits<double>::infinity());
      for (std::size_t k = 0; k < rows[b].cap.size(); ++k)
        if ((k == 0 && empty_is_invalid) || !detail::ask(is_valid, prefix_text(z[b], k), b))
          rows[b].cap[k] = std::min(rows[b].cap[k], most);
    }
    return rows;
  }
  template <class Real>
  std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const {
    return detail::untempered(split(z));
  }
};
template <class R, class F>
validity_penalty(R, F, double, bool = false) -> validity_penalty<R, F>;

/// Where `is_bad`, log R_T is less by `nats`, at any temperature: a rationale that leads to the wrong label, say.
template <class R, class F>
struct shift_penalty {
  R reward;
  F is_bad;
  double nats = 50;
  template <class Real>
  std::vector<log_reward_row> split(std::span<const rollout<Real>> z) const {
    std::vector<log_reward_row> rows = split_rewards(reward, z);
    for (std::size_t b = 0; b < z.size(); ++b) {
      rows[b].shift.resize(rows[b].base.size(), 0.0);
      for (std::size_t k = 0; k < rows[b].shift.size(); ++k)
        if (detail::ask(is_bad, prefix_text(z[b], k), b)) {
          rows[b].shift[k] -= nats;
          if (!rows[b].cap.empty()) rows[b].cap[k] -= nats;  // it comes off what is capped already
        }
    }
    return rows;
  }
  template <class Real>
  std::vector<std::vector<double>> operator()(std::span<const rollout<Real>> z) const {
    return detail::untempered(split(z));
  }
};
template <class R, class F>
shift_penalty(R, F, double = 50) -> shift_penalty<R, F>;

}  // namespace planlm
