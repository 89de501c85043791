/// Matching a distribution, exactly: the library's losses for policies that may stop at every prefix, on tasks that can be enumerated.
///
/// Bounds leave a factor of two to ten to what three seeds measure; total variation by forward dynamic programming, no samples.
#include <cmath>
#include <memory>
#include <vector>

#include <planlm/environments/backward_policy.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/objectives/policy_gradient.hpp>
#include <planlm/objectives/policy_trajectory_balance.hpp>

#include "../catch.hpp"
#include "fixtures.hpp"
#include "prefix_training.hpp"

namespace {

using namespace planlm;
using fixtures::prefix_recipe;
using fixtures::prefix_task;
using fixtures::prefix_training;
using fixtures::second_order_model;

constexpr double on_policy = 1, mixed = 1.0 / 3;

/// The fixture's strings under a temperature of .7, the policy starting as the language model.
struct strings {
  std::shared_ptr<const string_tree> tree;
  prefix_training run;

  explicit strings(prefix_recipe recipe, int shortest = 0, double floor = minus_infinity)
      : tree(std::make_shared<string_tree>(second_order_model::tree(.7, shortest))),
        run(task(tree, floor), second_order_model::policy_logits(*tree), recipe) {}
  /// `floor`: the log reward of what is too short.
  static prefix_task task(std::shared_ptr<const string_tree> tree, double floor) {
    return {tree->actions(), tree->longest(), tree->shortest(), tree->states(), [tree](const std::vector<int>& s) { return tree->state_of(s); },
            [tree, floor](const std::vector<int>& s) {
              const index_t state = tree->state_of(s);
              return tree->stops(state) ? tree->log_reward(state) : floor;
            }};
  }
  double distance() const { return exact::total_variation(exact::terminating(*tree, forward_table(*tree, run.logits())), exact::posterior(*tree)); }
};

template <class Loss>
void check_matches(const Loss& loss, double behaviour, double at_1000, double at_3000) {
  strings s({.on_policy = behaviour});
  CHECK(s.distance() == Approx(.595545343).margin(1e-9));
  s.run.train(loss, 1000);
  CHECK(s.distance() < at_1000);
  s.run.train(loss, 3000);
  CHECK(s.distance() < at_3000);
}

/// Training ends this far from the target where the empty string is no object.
template <class Loss>
double distance_without_empty(const Loss& loss, double floor, bool masked, double* flow = nullptr) {
  strings s({.masked = masked}, 1, floor);
  s.run.train(loss, 3000);
  if (flow) *flow = s.run.flow();
  return s.distance();
}

/// One prompt, 128 tokens, of which 101 alone are right answers: log reward 8 for a right first token, else -8; -8 p for each token at a place
/// p > 1. The policy is a bigram table that starts with skewed answers and goes on after one with probability .3.
struct numbers {
  static constexpr int letters = 128, answers = 101;
  static constexpr std::size_t width = letters + 1;
  prefix_training run;

  explicit numbers(prefix_recipe recipe)
      : run({letters, 5, 1, letters + 1, [](const std::vector<int>& s) { return s.empty() ? 0 : s.back() + 1; }, log_reward}, start(), recipe) {}

  static double log_reward(const std::vector<int>& s) {
    if (s.empty()) return -8;
    double sum = s[0] < answers ? 8 : -8;
    for (std::size_t place = 2; place <= s.size(); ++place) sum -= 8 * static_cast<double>(place);
    return sum;
  }
  static std::vector<double> start() {
    std::vector<double> logits(width * width, std::log(.3 / letters));
    double skew = 0;
    for (int v = 0; v < answers; ++v) skew += std::pow(v + 1, -1.2);
    for (int v = 0; v < letters; ++v)
      logits[static_cast<std::size_t>(v)] = v < answers ? std::log(.5 * std::pow(v + 1, -1.2) / skew) : std::log(.5 / (letters - answers));
    logits[letters] = -3;
    for (std::size_t row = 1; row < width; ++row) logits[row * width + letters] = std::log(.7);
    return logits;
  }
  /// The share of right answers, and KL between what is right and its uniform distribution.
  std::pair<double, double> valid_and_divergence() const {
    const auto& l = run.logits();
    std::vector<double> row(width), q;
    double valid = 0;
    planlm::detail::log_softmax_where(l.data(), letters, [](int) { return true; }, row.data());
    const std::vector<double> first = row;
    for (std::size_t v = 0; v < answers; ++v) {
      planlm::detail::log_softmax_where(&l[(v + 1) * width], static_cast<int>(width), [](int) { return true; }, row.data());
      q.push_back(std::exp(first[v] + row[letters]));
      valid += q.back();
    }
    for (double& x : q) x /= valid;
    return {valid, exact::kl(q, std::vector<double>(q.size(), 1.0 / answers))};
  }
};

/// Modified sub-trajectory balance of a policy on seven strings, each string a row.
double loss_on_seven_strings(const std::vector<double>& table) {
  const auto tree = fixtures::seven_strings();
  std::vector<double> taken(14, NAN), stop(21, NAN), reward(21, NAN);
  std::vector<int> length;
  for (index_t s = 0; s < 7; ++s) {
    const std::vector<int> word = tree.letters_of(s);
    index_t at = 0;
    for (std::size_t k = 0; k <= word.size(); ++k) {
      const auto row = static_cast<std::size_t>(s);
      stop[3 * row + k] = table[static_cast<std::size_t>(3 * at + 2)];
      reward[3 * row + k] = tree.log_reward(at);
      if (k == word.size()) break;
      taken[2 * row + k] = table[static_cast<std::size_t>(3 * at + word[k])];
      at = tree.child(at, word[k]);
    }
    length.push_back(static_cast<int>(word.size()));
  }
  context<fixtures::on> cx;
  policy_terms<fixtures::on> z{};
  z.taken = {taken.data(), 7, 2}, z.stop = {stop.data(), 7, 3}, z.reward = {reward.data(), 7, 3}, z.length = {length.data(), 7};
  z.longest = 2;
  return modified_sub_trajectory_balance{.root = root_anchor::stop_probability}(cx, z).total.data[0];
}

}  // namespace

TEST_CASE("facts 15 and 16: the loss of seven strings is 0 for the optimal policy and 3.4241 for the uniform one", "[environments]") {
  const auto tree = fixtures::seven_strings();
  CHECK(loss_on_seven_strings(exact::optimal_policy(tree, one_parent{}(tree))) < 1e-25);
  CHECK(loss_on_seven_strings(forward_table(tree, std::vector<double>(21, 0.0))) == Approx(3.424123763395).epsilon(1e-12));
}

TEST_CASE("modified sub-trajectory balance matches the strings, on-policy and off", "[environments]") {
  for (const root_anchor root : {root_anchor::stop_probability, root_anchor::batch_mean, root_anchor::learned}) {
    check_matches(modified_sub_trajectory_balance{.root = root}, mixed, .02, .005);
    check_matches(modified_sub_trajectory_balance{.root = root}, on_policy, .02, .005);
    check_matches(modified_sub_trajectory_balance{.lambda = .9, .root = root}, mixed, .02, .005);
  }
}
TEST_CASE("so does its one-step form, to the noise of a constant rate", "[environments]") {
  check_matches(modified_sub_trajectory_balance{.lambda = 0, .root = root_anchor::stop_probability}, mixed, .02, .02);
  check_matches(modified_sub_trajectory_balance{.lambda = 0}, mixed, .02, .02);
}
TEST_CASE("so do trajectory balance and VarGrad", "[environments]") {
  check_matches(policy_trajectory_balance<>{}, mixed, .02, .005);
  check_matches(policy_trajectory_balance<>{}, on_policy, .02, .005);
  check_matches(policy_log_partition_variance{}, mixed, .02, .005);
  check_matches(policy_log_partition_variance{}, on_policy, .02, .005);
}
TEST_CASE("trajectory balance learns log Z", "[environments]") {
  strings s({});
  s.run.train(policy_trajectory_balance<>{}, 3000);
  CHECK(std::abs(s.run.flow() - exact::log_partition(*s.tree)) < .01);
}
TEST_CASE("at the end log q - log R is the same number at every prefix", "[environments]") {
  for (const root_anchor root : {root_anchor::stop_probability, root_anchor::batch_mean}) {
    const modified_sub_trajectory_balance loss{.root = root};
    strings s({});
    s.run.train(loss, 1);
    CHECK(s.run.spread() > .5);
    s.run.train(loss, 3000);
    CHECK(s.run.spread() < .05);
  }
}
TEST_CASE("reward maximisation does not match: the control that must fail", "[environments]") {
  strings s({.on_policy = on_policy});
  s.run.train(policy_gradient{}, 3000);
  CHECK(s.distance() > .5);
}

TEST_CASE("with forbidden stops the published form collapses, and a higher floor saves it", "[environments]") {
  const modified_sub_trajectory_balance published{.root = root_anchor::stop_probability};
  CHECK(distance_without_empty(published, -99 / .7, false) > .5);
  CHECK(distance_without_empty(published, -12, false) < .005);
}
TEST_CASE("with the stop masked and the root anchored nothing collapses", "[environments]") {
  double flow = 0;
  CHECK(distance_without_empty(modified_sub_trajectory_balance{.root = root_anchor::learned}, minus_infinity, true, &flow) < .005);
  CHECK(std::abs(flow - -3.01757647) < .01);
  CHECK(distance_without_empty(modified_sub_trajectory_balance{.root = root_anchor::batch_mean}, minus_infinity, true) < .005);
  CHECK(distance_without_empty(policy_log_partition_variance{}, minus_infinity, true) < .005);
}

TEST_CASE("random numbers: balance gives all answers alike, reward maximisation one", "[environments]") {
  const auto start = numbers({}).valid_and_divergence();
  CHECK(start.first == Approx(.35).epsilon(1e-9));
  CHECK(start.second == Approx(1.390).margin(5e-4));
  numbers matched({.steps = 5000, .batch = 64, .last_rate = .0004, .first_temperature = 8, .temperature_steps = 2500});
  matched.run.train(modified_sub_trajectory_balance{}, 5000);
  CHECK(matched.valid_and_divergence().first > .99);
  CHECK(matched.valid_and_divergence().second < .02);
  numbers maximised({.steps = 1500, .batch = 64, .last_rate = .0004, .on_policy = on_policy});
  maximised.run.train(policy_gradient{}, 1500);
  CHECK(maximised.valid_and_divergence().first > .99);
  CHECK(maximised.valid_and_divergence().second > 2);
}
