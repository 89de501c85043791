/// What guidance learns of tokens when all it is told is which of a few sequences is better, by how rewards become a score.
///
/// 20 kinds of tokens of hidden quality q, uniform in (0, 1). A sequence's true score is the mean q of its tokens + N(0, .03). A table with a
/// logit for each kind has 600 steps of Adam at .03 on 16 lists of K sequences; then 2000 pairs of fresh sequences tell how often the better
/// one has the higher score. Lengths are uniform in 4 to 16, or all 5.
///
/// Accuracy of pairs and order of tokens are two things: a score that grows with the length fails at pairs though its tokens are in order.
/// The earlier pilot gives all of this but the start (-1e-4) and whether the mean length multiplies the last token's reward (here not).
#pragma once
#include "recovery_tables.hpp"

namespace train_token_guidance::recovery {

struct pair_sizes {
  int kinds = 20, steps = 600, lists = 16, pairs = 2000;
  double noise = 0.03, rate = 0.03;
  int shortest = 4, longest = 16;
  pair_sizes of_length(int n) const {
    pair_sizes s = *this;
    s.shortest = s.longest = n;
    return s;
  }
};
struct pair_method {
  aggregation_kind aggregate = aggregation::average{};
  int places = 5;          // K
  bool only_last = false;  // the score is the reward of the last token
};
struct pair_outcome {
  double accuracy;     // of fresh pairs
  double spearman;     // of rewards and qualities over kinds
  double with_length;  // correlation of scores with lengths over the fresh sequences; NaN at one length
  double first_loss;
};

/// Pearson's; NaN where either does not vary.
inline double correlation(const numbers& x, const numbers& y) {
  double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) mx += x[i] / double(x.size()), my += y[i] / double(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mx) * (x[i] - mx), yy += (y[i] - my) * (y[i] - my);
    xy += (x[i] - mx) * (y[i] - my);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : NAN;
}
/// Places of values in their order, from 0; equal ones share the mean of theirs.
inline numbers ranks(const numbers& x) {
  numbers r;
  for (const double v : x) {
    double below = 0, equal = -1;
    for (const double w : x) below += w < v, equal += w == v;
    r.push_back(below + equal / 2);
  }
  return r;
}

inline pair_outcome recover_tokens(const pair_sizes& sizes, const pair_method& m, int seed) {
  context<device> cx{device::queue(1)};
  const philox random{static_cast<std::uint64_t>(seed), 0, 11};
  numbers quality;
  for (int v = 0; v < sizes.kinds; ++v) quality.push_back(random.uniform(std::uint64_t(v), 0));
  logit_table guidance(cx, sizes.kinds, 1, untrained_logit);
  numbers lengths;
  const auto batch = [&](int lists, int places, std::uint32_t step) {
    const philox now = random.with_stream(12).at_step(step);
    ranked_sequences b;
    lengths.clear();
    for (int s = 0; s < lists * places; ++s) {
      const auto row = std::uint64_t(s);
      const int n = sizes.shortest + static_cast<int>(now.below(std::uint32_t(sizes.longest - sizes.shortest + 1), row, 0));
      std::vector<int> kinds;
      double sum = 0;
      for (int t = 1; t <= n; ++t) sum += quality[at(kinds.emplace_back(now.below(std::uint32_t(sizes.kinds), row, std::uint32_t(t))))];
      b.add(kinds);
      b.score.push_back(sum / n + sizes.noise * now.with_stream(13).normal(row, 0));
      lengths.push_back(n);
    }
    b.lists_of(places);
    if (m.only_last) b.only_last_tokens();
    return b;
  };
  const double first_loss = rank(cx, guidance, batch(sizes.lists, m.places, 1), m.aggregate, false).loss;
  std::uint32_t step = 0;
  train_rewards(cx, guidance, m.aggregate, sizes.steps, sizes.rate, [&] { return batch(sizes.lists, m.places, ++step); });

  const ranked_sequences fresh = batch(sizes.pairs, 2, 0);
  const numbers e = rank(cx, guidance, fresh, m.aggregate, false).score;
  int agree = 0;
  for (std::size_t i = 0; i < e.size(); i += 2) agree += (e[i] > e[i + 1]) == (fresh.score[i] > fresh.score[i + 1]);
  numbers rewards;
  for (int v = 0; v < sizes.kinds; ++v) rewards.push_back(reward(guidance, v));
  return {double(agree) / sizes.pairs, correlation(ranks(rewards), ranks(quality)), correlation(e, lengths), first_loss};
}

}  // namespace train_token_guidance::recovery
