/// Guidance where there are references, but not all of their tokens are good: reward-weighted likelihood.   [2306.00398 section 3.2]
///
/// A situation has 4 good ones of 30 tokens. A reference is 5 tokens: with probability .3 any of the 30, else a good one. What a policy
/// samples is compared by unigram F1 with such a reference, in lists of 3; a preference is thus as noisy as the reference. Likelihood alone
/// puts .7 + .3 4 / 30 = .74 on good tokens. With mean rewards g of good and o of other tokens the weighted optimum has .74 g / (.74 g + .26 o).
///
/// The earlier pilot leaves open, and here are: 10 situations with 100 references each, 600 updates of 32 of them, Adam at .05, guidance trained
/// as in the loop, 150 steps of 32 lists before the first update and after every 100 in the first half.
#pragma once
#include "recovery_tables.hpp"

namespace train_token_guidance::recovery {

struct reference_sizes {
  int situations = 10, tokens = 30, good = 4, length = 5, references = 1000;
  double junk = 0.3;
  int updates = 600, batch = 32, period = 100, guidance_steps = 150, lists = 32, places = 3, tests = 2000;
  double rate = 0.05, guidance_rate = 0.05;
};
struct reference_outcome {
  double good;    // probability of good tokens, mean over situations
  double f1;      // of samples and new references
  double reward_good, reward_other, expected;  // of guidance, if any; the optimum that those rewards have
};

/// F1 of two bags of tokens.
inline double unigram_f1(std::span<const int> a, std::span<const int> b, int tokens) {
  std::vector<int> count(at(tokens));
  for (const int t : a) ++count[at(t)];
  int both = 0;
  for (const int t : b) both += count[at(t)]-- > 0;
  return 2.0 * both / double(a.size() + b.size());
}

class reference_task {
 public:
  reference_task(const reference_sizes& sizes, int seed) : s_(sizes), random_{static_cast<std::uint64_t>(seed), 0, 51} {
    for (int c = 0; c < s_.situations; ++c) {
      const std::vector<int> shuffled = chosen(random_, std::uint64_t(c), s_.good, s_.tokens);
      good_.insert(good_.end(), shuffled.begin(), shuffled.end());
    }
    for (int i = 0; i < s_.references; ++i) {
      const std::vector<int> one = reference(i % s_.situations, random_.with_stream(52), std::uint64_t(i));
      references_.insert(references_.end(), one.begin(), one.end());
    }
  }

  reference_outcome run(bool guided) const {
    context<device> cx{device::queue(1)};
    logit_table policy(cx, s_.situations, s_.tokens), guidance(cx, s_.situations * s_.tokens, 1, untrained_logit);
    adamw<device> adam{cx, policy.theta.flat_weights().size()};
    const auto sample = [&](int situation, const philox& now, std::uint64_t row) {
      std::vector<int> all;
      const numbers p = probabilities(policy.row(situation));
      for (int t = 0; t < s_.length; ++t) all.push_back(drawn(p, now.uniform(row, std::uint32_t(t))));
      return all;
    };
    std::uint32_t draws = 0;
    const auto train = [&](index_t) {
      train_rewards(cx, guidance, aggregation::average{}, s_.guidance_steps, s_.guidance_rate, [&] {
        const philox now = random_.with_stream(53).at_step(draws++);
        ranked_sequences lists;
        for (int l = 0; l < s_.lists; ++l) {
          const int r = static_cast<int>(now.below(std::uint32_t(s_.references), std::uint64_t(l), 0)), c = r % s_.situations;
          for (int k = 0; k < s_.places; ++k) {
            std::vector<int> a = sample(c, now.with_stream(54), std::uint64_t(l * s_.places + k));
            lists.score.push_back(unigram_f1(a, of(r), s_.tokens));
            for (int& t : a) t += c * s_.tokens;
            lists.add(a);
          }
        }
        lists.lists_of(s_.places);
        return lists;
      });
    };
    const guided_likelihood objective = guided_likelihood::reward_weighted();
    const auto update = [&](index_t u) {
      auto scope = cx.scope();
      const philox now = random_.with_stream(55).at_step(std::uint32_t(u));
      std::vector<int> rows, tokens, offsets{0};
      numbers r;
      for (int i = 0; i < s_.batch; ++i) {
        const int which = static_cast<int>(now.below(std::uint32_t(s_.references), std::uint64_t(i), 0)), c = which % s_.situations;
        for (const int token : of(which)) {
          rows.push_back(c), tokens.push_back(token);
          r.push_back(guided ? reward(guidance, c * s_.tokens + token) : 1);
        }
        offsets.push_back(static_cast<int>(rows.size()));
      }
      const auto [z, pullback] = policy.rows(cx, policy.theta.weights, seen(rows));
      const auto loss = objective(cx, const_tensor<device>(z), guided_tokens<device>{seen(tokens), seen(r), seen(offsets)});
      pullback(const_tensor<device>(loss.gradient), policy.theta.grads);
      adam.step(cx, policy.theta.flat_weights(), policy.theta.flat_grads(), s_.rate);
    };
    const auto schedule = guidance_schedule::for_share(s_.updates, s_.period);
    if (guided) alternate(schedule, s_.updates, train, update);
    else alternate(schedule, s_.updates, [](index_t) {}, update);

    reference_outcome out{0, 0, NAN, NAN, NAN};
    double of_good = 0, of_other = 0;
    for (int c = 0; c < s_.situations; ++c) {
      const numbers p = probabilities(policy.row(c));
      for (int t = 0; t < s_.tokens; ++t) {
        const bool good = is_good(c, t);
        if (good) out.good += p[at(t)] / s_.situations;
        (good ? of_good : of_other) += reward(guidance, c * s_.tokens + t) / s_.situations / (good ? s_.good : s_.tokens - s_.good);
      }
    }
    if (guided) {
      const double share = 1 - s_.junk * (s_.tokens - s_.good) / s_.tokens;
      out.reward_good = of_good, out.reward_other = of_other;
      out.expected = share * of_good / (share * of_good + (1 - share) * of_other);
    }
    for (int i = 0; i < s_.tests; ++i) {
      const int c = i % s_.situations;
      out.f1 += unigram_f1(sample(c, random_.with_stream(56), std::uint64_t(i)),
                           reference(c, random_.with_stream(57), std::uint64_t(i)), s_.tokens) / s_.tests;
    }
    return out;
  }

 private:
  bool is_good(int situation, int token) const {
    const auto first = good_.begin() + situation * s_.good;
    return std::find(first, first + s_.good, token) != first + s_.good;
  }
  std::span<const int> of(int reference) const { return std::span<const int>(references_).subspan(at(reference * s_.length), at(s_.length)); }
  std::vector<int> reference(int situation, const philox& now, std::uint64_t row) const {
    std::vector<int> all;
    for (std::uint32_t t = 0; t < std::uint32_t(s_.length); ++t)
      all.push_back(now.uniform(row, 3 * t) < s_.junk
                        ? static_cast<int>(now.below(std::uint32_t(s_.tokens), row, 3 * t + 1))
                        : good_[at(situation * s_.good + static_cast<int>(now.below(std::uint32_t(s_.good), row, 3 * t + 2)))]);
    return all;
  }

  reference_sizes s_;
  philox random_;
  std::vector<int> good_, references_;
};

}  // namespace train_token_guidance::recovery
