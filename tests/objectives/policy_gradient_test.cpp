#include <planlm/objectives/policy_gradient.hpp>

#include <planlm/objectives/policy_trajectory_balance.hpp>

#include "sentences.hpp"

using namespace objectives_test;

namespace {
auto reinforce(policy_baseline baseline, double entropy) {
  return [=](context<B>& cx, const policy_terms<B>& z, view<const double, 1>) { return policy_gradient{baseline, entropy}(cx, z); };
}
const policy_baseline baselines[] = {policy_baseline::none, policy_baseline::group_mean, policy_baseline::group_normalised};
}  // namespace

TEST_CASE("the policy gradient gives each action minus its sentence's advantage over the number of sentences") {
  policy_batch b = published_sentences();  // log R = -6.1, -5.6, -5.2
  const policy_outcome none = evaluate(b, reinforce(policy_baseline::none, 0));
  CHECK(gap({none.dtaken[0], none.dtaken[4], none.dtaken[8]}, {6.1 / 3, 5.6 / 3, 5.2 / 3}) < 1e-14);
  CHECK(std::abs(none.total - (6.1 * -4.7 + 5.6 * -1.7 + 5.2 * -2.6) / 3) < 1e-13);
  const double mean = -16.9 / 3;
  const policy_outcome relative = evaluate(b, reinforce(policy_baseline::group_mean, 0));
  CHECK(gap({relative.dtaken[0], relative.dtaken[4], relative.dtaken[8]}, {(6.1 + mean) / 3, (5.6 + mean) / 3, (5.2 + mean) / 3}) < 1e-14);
  const double deviation = std::sqrt(((6.1 + mean) * (6.1 + mean) + (5.6 + mean) * (5.6 + mean) + (5.2 + mean) * (5.2 + mean)) / 3);
  const policy_outcome unit = evaluate(b, reinforce(policy_baseline::group_normalised, 0));
  CHECK(std::abs(unit.dstop[4] - (6.1 + mean) / deviation / 3) < 1e-14);
}

TEST_CASE("reverse KL with the group's mean for a baseline has half the gradient of the log-partition variance") {
  const policy_batch b = policy_batch::random({4, 0, 3, 1, 5, 2, 2}, 6, 600, 0, 5);
  const policy_outcome kl = evaluate(b, [](context<B>& cx, const policy_terms<B>& z, view<const double, 1>) {
    return policy_gradient::reverse_kl()(cx, z);
  });
  const policy_outcome v = evaluate(b, [](context<B>& cx, const policy_terms<B>& z, view<const double, 1>) {
    return policy_log_partition_variance{}(cx, z);
  });
  for (std::size_t i = 0; i < kl.dtaken.size(); ++i) CHECK(std::abs(2 * kl.dtaken[i] - v.dtaken[i]) < 1e-14);
  for (std::size_t i = 0; i < kl.dstop.size(); ++i) CHECK(std::abs(2 * kl.dstop[i] - v.dstop[i]) < 1e-14);
}

TEST_CASE("the expected policy gradient with entropy 1 is that of the reverse KL, and with 0 that of the mean log-reward") {
  // One choice among four one-token objects; expectation over all of them, weighted by their probabilities.
  const numbers logits{0.3, -0.7, 1.1, 0.2}, log_r{-1, 0.5, -2, 0.1};
  const auto probabilities = [](const numbers& z) {
    numbers p(4);
    double sum = 0;
    for (std::size_t i = 0; i < 4; ++i) sum += std::exp(z[i]);
    for (std::size_t i = 0; i < 4; ++i) p[i] = std::exp(z[i]) / sum;
    return p;
  };
  for (const double entropy : {0.0, 0.5, 1.0}) {
    CAPTURE(entropy);
    const auto objective = [&](const numbers& z) {
      const numbers p = probabilities(z);
      double v = 0;
      for (std::size_t i = 0; i < 4; ++i) v -= p[i] * (log_r[i] - entropy * std::log(p[i]));
      return v;
    };
    const auto expected = [&](const numbers& z) {
      const numbers p = probabilities(z);
      numbers g(4);
      for (std::size_t x = 0; x < 4; ++x) {
        policy_batch b;
        b.length = {1}, b.cols = 2, b.shortest = 1, b.longest = 1, b.group = {0};
        b.taken = {std::log(p[x])}, b.stop = {nan_value, nan_value}, b.reward = {nan_value, log_r[x]};
        const double slope = evaluate(b, reinforce(policy_baseline::none, entropy)).dtaken[0];
        for (std::size_t v = 0; v < 4; ++v) g[v] += p[x] * slope * ((v == x ? 1 : 0) - p[v]);
      }
      return g;
    };
    CHECK(planlm::testing::directional_error(logits, objective, expected) < 1e-8);
  }
}

TEST_CASE("the policy gradient is the gradient of log-probabilities times advantages that do not move") {
  const policy_batch b = policy_batch::random({4, 0, 3, 1, 5, 2, 2}, 6, 610, 1, 5);
  for (const policy_baseline baseline : baselines)
    for (const double entropy : {0.0, 0.3}) {
      CAPTURE(int(baseline), entropy);
      const auto loss = reinforce(baseline, entropy);
      context<B> cx;
      const policy_outcome fixed = evaluate(b, loss);
      const numbers q = cx.read(object_log_probability(cx, b.terms()));
      numbers advantage(7);
      for (std::size_t r = 0; r < 7; ++r) advantage[r] = q[r] != 0 ? -fixed.each[r] / q[r] : 0;
      const auto at_fixed = [&](const policy_batch& moved) {
        context<B> c;
        const numbers now = c.read(object_log_probability(c, moved.terms()));
        double total = 0;
        for (std::size_t r = 0; r < 7; ++r) total -= advantage[r] * now[r] / 7;
        return total;
      };
      // The gradient at b itself: directions are taken there.
      CHECK(gradient_gap(b, loss, at_fixed) < 1e-7);
    }
}

TEST_CASE("equal returns and single rows have no advantage in their group") {
  policy_batch b = policy_batch::random({2, 2, 2}, 3, 620);
  b.group = {0, 0, 1};
  for (std::size_t r = 0; r < 3; ++r) b.reward[3 * r + 2] = 0.1 + 0.2;
  const policy_outcome unit = evaluate(b, reinforce(policy_baseline::group_normalised, 0));
  CHECK(unit.total == 0);
  CHECK(unit.dtaken == numbers(6));
  const policy_outcome relative = evaluate(b, reinforce(policy_baseline::group_mean, 0));
  CHECK(std::abs(relative.dtaken[0]) < 1e-16);
  CHECK(relative.dtaken[4] == 0);
}
