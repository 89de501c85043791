/// Training a tabular policy that may stop at every prefix with the library's losses and Adam: a loop of plain arrays on the host.
///
/// The policy has a row of logits (letters + 1, the stop last) for whatever row_of(prefix) names: a prefix of its own for an exact test, its
/// last letter for a longer one. The sampler never stops before `shortest` and always at `longest`; with `masked` (the default) the scored
/// softmax knows that, without it the stop's probability at short prefixes is in the loss, as 2310.04363 was published.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/environments/exact.hpp>
#include <planlm/environments/policy_table.hpp>
#include <planlm/environments/string_tree.hpp>
#include <planlm/environments/trajectory.hpp>
#include <planlm/objectives/policy_terms.hpp>
#include <planlm/training/adamw.hpp>

namespace fixtures {

using planlm::index_t;
using on = planlm::cpu<double>;

/// What is to be learned.
struct prefix_task {
  int letters, longest, shortest;
  index_t rows;
  std::function<index_t(const std::vector<int>&)> row_of;
  std::function<double(const std::vector<int>&)> log_reward;  // of the string that stops here; also of one that is too short
};
/// How. Behaviour: as the policy with probability `on_policy`, else tempered by U(.5, 2), one temperature a step; a share `uniform` of it equal.
struct prefix_recipe {
  int steps = 3000, batch = 32;
  double rate = 0.02, last_rate = 0.02, flow_rate = 0.1;
  double on_policy = 1.0 / 3, uniform = 0;
  double first_temperature = 1, temperature_steps = 1;  // of the reward, going to 1
  bool masked = true;
  std::uint64_t seed = 1;
};

class prefix_training {
 public:
  using loss_type = std::function<planlm::policy_loss<on>(planlm::context<on>&, const planlm::policy_terms<on>&, planlm::const_accum_tensor<on>)>;

  prefix_training(prefix_task task, std::vector<double> logits, prefix_recipe recipe)
      : task_(std::move(task)), recipe_(recipe), width_(static_cast<std::size_t>(task_.letters) + 1), logits_(std::move(logits)),
        gradient_(logits_.size(), 0.0), scored_(logits_.size()), drawn_(logits_.size()), dscored_(logits_.size(), 0.0),
        fresh_(static_cast<std::size_t>(task_.rows), -1), flow_(1, 0.0), flow_gradient_(1, 0.0),
        adam_(cx_, static_cast<index_t>(logits_.size())), flow_adam_(cx_, 1) {}

  /// Goes on until `steps` steps have been taken.
  void train(const loss_type& loss, int steps) {
    for (; step_ < steps; ++step_) step(loss);
  }

  const std::vector<double>& logits() const { return logits_; }
  double flow() const { return flow_[0]; }
  /// Standard deviation of log q - log R over all points where the newest batch might have stopped.
  double spread() const { return spread_; }

 private:
  void refresh(index_t row, bool short_of, double temperature) {
    const auto r = static_cast<std::size_t>(row);
    if (fresh_[r] == step_) return;
    fresh_[r] = step_;
    touched_.push_back(r);
    const auto letters = static_cast<int>(width_) - 1;
    double *scored = &scored_[r * width_], *drawn = &drawn_[r * width_];
    const auto softmax = [&](bool all, double* out) {
      planlm::detail::log_softmax_where(&logits_[r * width_], letters + 1, [=](int j) { return j < letters || all; }, out);
    };
    softmax(!short_of || !recipe_.masked, scored);
    if (short_of && !recipe_.masked) softmax(false, drawn);
    else std::copy_n(scored, width_, drawn);
    if (temperature != 1 || recipe_.uniform > 0)
      planlm::explore_row(drawn, letters + 1, {.temperature = temperature, .uniform = recipe_.uniform}, drawn);
    double sum = 0;
    for (std::size_t j = 0; j < width_; ++j) drawn[j] = sum += std::exp(drawn[j]);  // from here on cumulative
  }

  void step(const loss_type& loss) {
    const planlm::philox random = planlm::philox{recipe_.seed}.at_step(static_cast<std::uint32_t>(step_));
    const planlm::philox rule = random.with_stream(1);
    const double temperature = rule.uniform(0, 0) < recipe_.on_policy ? 1 : 0.5 + 1.5 * rule.uniform(0, 1);
    const double share = std::min(1.0, step_ / recipe_.temperature_steps);
    const double cool = recipe_.first_temperature + (1 - recipe_.first_temperature) * share;
    const auto rows = static_cast<std::size_t>(recipe_.batch), longest = static_cast<std::size_t>(task_.longest), wide = longest + 1;
    taken_.assign(rows * longest, NAN), stop_.assign(rows * wide, NAN), reward_.assign(rows * wide, NAN);
    length_.assign(rows, 0);
    at_.assign(rows * wide, 0), choice_.assign(rows * wide, 0);
    touched_.clear();
    for (std::size_t b = 0; b < rows; ++b) {
      std::vector<int> prefix;
      for (;;) {
        const std::size_t k = prefix.size();
        reward_[b * wide + k] = task_.log_reward(prefix) / cool;
        if (k == longest) {
          stop_[b * wide + k] = 0;
          break;
        }
        const index_t row = task_.row_of(prefix);
        const bool short_of = static_cast<int>(k) < task_.shortest;
        refresh(row, short_of, temperature);
        const auto r = static_cast<std::size_t>(row) * width_;
        at_[b * wide + k] = r;
        stop_[b * wide + k] = scored_[r + width_ - 1];
        const double u = random.uniform(b, static_cast<std::uint32_t>(k)) * drawn_[r + width_ - 1];
        const auto choice = static_cast<std::size_t>(std::upper_bound(&drawn_[r], &drawn_[r + width_ - 1], u) - &drawn_[r]);
        choice_[b * wide + k] = choice;
        if (choice + 1 == width_) break;
        taken_[b * longest + k] = scored_[r + choice];
        prefix.push_back(static_cast<int>(choice));
      }
      length_[b] = static_cast<int>(prefix.size());
    }
    const auto n = static_cast<index_t>(rows), w = static_cast<index_t>(wide);
    planlm::policy_terms<on> terms{};
    terms.taken = {taken_.data(), n, w - 1};
    terms.stop = {stop_.data(), n, w};
    terms.reward = {reward_.data(), n, w};
    terms.length = {length_.data(), n};
    terms.shortest = task_.shortest;
    terms.longest = task_.longest;
    auto scope = cx_.scope();
    const auto out = loss(cx_, terms, {flow_.data(), 1});
    for (std::size_t b = 0; b < rows; ++b)
      for (std::size_t k = 0; k <= static_cast<std::size_t>(length_[b]) && k < longest; ++k) {
        const std::size_t r = at_[b * wide + k];
        if (scored_[r + width_ - 1] != planlm::minus_infinity) dscored_[r + width_ - 1] += out.dstop.data[b * wide + k];
        if (k < static_cast<std::size_t>(length_[b])) dscored_[r + choice_[b * wide + k]] += out.dtaken.data[b * longest + k];
      }
    for (const std::size_t r : touched_) {
      planlm::row_pullback(&scored_[r * width_], &dscored_[r * width_], static_cast<int>(width_), &gradient_[r * width_]);
      std::fill_n(&dscored_[r * width_], width_, 0.0);
    }
    const auto flat = [](std::vector<double>& v) { return planlm::tensor<on, 1>(v.data(), static_cast<index_t>(v.size())); };
    const double rate = recipe_.rate + (recipe_.last_rate - recipe_.rate) * step_ / recipe_.steps;
    adam_.step(cx_, flat(logits_), flat(gradient_), rate);
    if (out.dflow) {
      flow_gradient_[0] = out.dflow.data[0];
      flow_adam_.step(cx_, flat(flow_), flat(flow_gradient_), recipe_.flow_rate);
    }
    measure_spread();
  }

  void measure_spread() {
    const auto longest = static_cast<std::size_t>(task_.longest), wide = longest + 1;
    double count = 0, sum = 0, squares = 0;
    for (std::size_t b = 0; b < length_.size(); ++b) {
      double q = 0;
      for (std::size_t k = 0; k <= static_cast<std::size_t>(length_[b]); ++k) {
        const double u = q + stop_[b * wide + k] - reward_[b * wide + k];
        if (static_cast<int>(k) >= task_.shortest) count += 1, sum += u, squares += u * u;
        if (k < static_cast<std::size_t>(length_[b])) q += taken_[b * longest + k];
      }
    }
    spread_ = std::sqrt(std::max(0.0, squares / count - sum / count * (sum / count)));
  }

  prefix_task task_;
  prefix_recipe recipe_;
  std::size_t width_;
  planlm::context<on> cx_;
  std::vector<double> logits_, gradient_, scored_, drawn_, dscored_;
  std::vector<int> fresh_;  // the step a row was made in
  std::vector<std::size_t> touched_;
  std::vector<double> flow_, flow_gradient_;
  planlm::adamw<on> adam_, flow_adam_;
  std::vector<double> taken_, stop_, reward_;
  std::vector<int> length_;
  std::vector<std::size_t> at_, choice_;
  double spread_ = 0;
  int step_ = 0;
};

}  // namespace fixtures
