/// What the tables of the recovery task are made of: a row of logits for each situation, numbers drawn from them, lists of sequences.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstddef>
#include <numeric>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/core/philox.hpp>
#include <planlm/layers/embedding.hpp>
#include <planlm/objectives/guided_likelihood.hpp>
#include <planlm/objectives/listwise_preference.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/guidance_round.hpp>
#include <planlm/training/guidance_schedule.hpp>
#include <planlm/training/parameters.hpp>

namespace train_token_guidance::recovery {

using namespace planlm;
using device = cpu<double>;
using numbers = std::vector<double>;

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }
template <class T>
view<const T, 1> seen(const std::vector<T>& v) {
  return {v.data(), static_cast<index_t>(v.size())};
}

/// Trained logits, a row for each situation; gather and scatter are those of an embedding.
struct logit_table {
  embedding<device> rows;
  parameters<embedding<device>> theta;

  logit_table(context<device>& cx, index_t situations, index_t width, double start = 0)
      : rows{situations, width}, theta(cx, rows, philox{}) {
    theta.write(cx, 0, numbers(at(situations * width), start));
  }
  std::span<const double> row(index_t situation) const {
    return {theta.weights.table.data + situation * rows.width, at(rows.width)};
  }
};

inline numbers probabilities(std::span<const double> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  numbers p;
  double sum = 0;
  for (const double z : logits) sum += p.emplace_back(std::exp(z - top));
  for (double& v : p) v /= sum;
  return p;
}
/// The choice at the share u of the whole.
inline int drawn(std::span<const double> probability, double u) {
  for (std::size_t i = 0; i + 1 < probability.size(); ++i)
    if ((u -= probability[i]) < 0) return static_cast<int>(i);
  return static_cast<int>(probability.size()) - 1;
}

/// `count` different numbers below `n`.
inline std::vector<int> chosen(const philox& random, std::uint64_t row, int count, int n) {
  std::vector<int> all(at(n));
  std::iota(all.begin(), all.end(), 0);
  for (int i = 0; i < count; ++i)
    std::swap(all[at(i)], all[at(i) + random.below(static_cast<std::uint32_t>(n - i), row, static_cast<std::uint32_t>(i))]);
  all.resize(at(count));
  return all;
}

/// How rewards of tokens become the score of a sequence.
using aggregation_kind = std::variant<aggregation::average, aggregation::sum, aggregation::soft_max, aggregation::soft_min>;

/// Sequences for comparison: of each token the row of the guidance that has its logit.
struct ranked_sequences {
  std::vector<int> situation, first, length;
  std::vector<int> offsets{0}, item;  // lists; empty item: place i is sequence i
  numbers score;                      // of each place

  void add(std::span<const int> situations) {
    first.push_back(static_cast<int>(situation.size()));
    length.push_back(static_cast<int>(situations.size()));
    situation.insert(situation.end(), situations.begin(), situations.end());
  }
  /// Lists of k neighbours each.
  void lists_of(int k) {
    for (int end = k; end <= static_cast<int>(length.size()); end += k) offsets.push_back(end);
  }
  void only_last_tokens() {
    for (std::size_t s = 0; s < length.size(); ++s) first[s] += length[s] - 1, length[s] = 1;
  }
};

struct ranking {
  double loss;
  numbers score;  // e of each place
};
/// The loss of the lists; with `learn` its gradient is added to the guidance's.
inline ranking rank(context<device>& cx, logit_table& guidance, const ranked_sequences& lists, const aggregation_kind& f, bool learn) {
  auto scope = cx.scope();
  const auto [z, pullback] = guidance.rows(cx, guidance.theta.weights, seen(lists.situation));
  const preference_lists<device> l{.first = seen(lists.first), .length = seen(lists.length), .offsets = seen(lists.offsets),
                                   .score = seen(lists.score), .item = seen(lists.item)};
  return std::visit(
      [&, z = z, &pullback = pullback](const auto& aggregate) {
        const auto loss = listwise_preference<soft_clipped_reward, std::remove_cvref_t<decltype(aggregate)>>{.aggregate = aggregate}(cx, z, l);
        if (learn) pullback(const_tensor<device>(loss.dz.data, z.rows(), z.cols()), guidance.theta.grads);
        return ranking{cx.read_one(loss.total), cx.read(loss.score)};
      },
      f);
}
/// Adam on `steps` batches that make() returns, from the weights that are there.
template <class Make>
guidance_report train_rewards(context<device>& cx, logit_table& guidance, const aggregation_kind& f, int steps, double rate, const Make& make) {
  const guidance_round_options how{.steps = steps, .validate_every = steps, .rate = rate, .leaves = guidance_weights::last};
  double last = 0;
  return train_guidance(cx, guidance.theta, how, [&](index_t) { last = rank(cx, guidance, make(), f, true).loss; }, [&] { return last; });
}
/// At which all rewards are .5487.
inline constexpr double untrained_logit = -1e-4;
/// What the guidance gives for a token there.
inline double reward(const logit_table& guidance, index_t situation) { return soft_clipped_reward{}.value(guidance.row(situation)[0]); }

}  // namespace train_token_guidance::recovery
