/// The oracle against hand-worked flows, published sums and its own identities.
#include <planlm/environments/exact.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include <planlm/environments/backward_policy.hpp>
#include <planlm/environments/binary_tree.hpp>
#include <planlm/environments/hyper_grid.hpp>
#include <planlm/environments/policy_table.hpp>

#include "../catch.hpp"
#include "fixtures.hpp"

namespace {

using namespace planlm;
using fixtures::second_order_model;

template <class E>
std::vector<double> uniform_policy(const E& env) {
  return forward_table(env, std::vector<double>(static_cast<std::size_t>(env.states() * (env.actions() + 1)), 0.0));
}
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

}  // namespace

TEST_CASE("fact 15: the optimal policy of seven strings", "[environments]") {
  const auto tree = fixtures::seven_strings();
  const auto backward = one_parent{}(tree);
  const auto flow = exact::log_flows(tree, backward);
  CHECK(std::exp(flow[0]) == Approx(9).epsilon(1e-12));
  CHECK(exact::log_partition(tree) == Approx(2.197224577).epsilon(1e-9));
  for (const index_t s : {1, 2}) CHECK(std::exp(flow[static_cast<std::size_t>(s)]) == Approx(4.25).epsilon(1e-12));
  const std::vector<double> p{.055555555556, .111111111111, .222222222222, .027777777778, .333333333333, .166666666667, .083333333333};
  CHECK(largest_difference(exact::posterior(tree), p) < 1e-12);
  const auto policy = exact::optimal_policy(tree, backward);
  const std::vector<double> expected{.472222, .472222, .055556, .058824, .705882, .235294, .352941, .176471, .470588};
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(std::exp(policy[i]) == Approx(expected[i]).margin(5e-7));
  // u of every prefix of every string is -log Z.
  for (index_t s = 0; s < tree.states(); ++s) {
    double u = policy[static_cast<std::size_t>(3 * s + 2)] - tree.log_reward(s);
    std::vector<int> before;
    for (const int a : tree.letters_of(s)) {
      u += policy[static_cast<std::size_t>(3 * tree.state_of(before) + a)];
      before.push_back(a);
    }
    CHECK(u == Approx(-2.197224577336).epsilon(1e-11));
  }
  CHECK(exact::total_variation(exact::terminating(tree, policy), exact::posterior(tree)) < 1e-15);
}

TEST_CASE("fact 16: the uniform policy of seven strings is .3889 away in total variation", "[environments]") {
  const auto tree = fixtures::seven_strings();
  const auto q = exact::terminating(tree, uniform_policy(tree));
  CHECK(q[0] == Approx(1.0 / 3));
  for (std::size_t s = 1; s < 7; ++s) CHECK(q[s] == Approx(1.0 / 9));
  CHECK(exact::total_variation(q, exact::posterior(tree)) == Approx(.388888888889).epsilon(1e-11));
  CHECK(exact::l1(q, exact::posterior(tree)) == Approx(.777777777778).epsilon(1e-11));
}

TEST_CASE("facts 33 and 34: a language model with a temperature for whole strings", "[environments]") {
  struct known {
    double temperature, log_z, entropy, p_max, tv_model, tv_tempered;
  };
  for (const known& k : {known{.5, -5.319441047, 2.492124924, .214569139, .710359079, .811530473},
                         known{.7, -2.945608683, 3.488344068, .141796007, .595545343, .657890942},
                         known{1, -.827599914, 4.629004764, .074148737, .452047882, .452047882}}) {
    CAPTURE(k.temperature);
    const auto tree = second_order_model::tree(k.temperature);
    const auto p = exact::posterior(tree);
    CHECK(exact::log_partition(tree) == Approx(k.log_z).margin(1e-9));
    CHECK(exact::entropy(p) == Approx(k.entropy).margin(1e-9));
    CHECK(*std::max_element(p.begin(), p.end()) == Approx(k.p_max).margin(1e-9));
    const auto away = [&](double t) { return exact::total_variation(exact::terminating(tree, forward_table(tree, second_order_model::policy_logits(tree, t))), p); };
    CHECK(away(1) == Approx(k.tv_model).margin(1e-9));
    CHECK(away(k.temperature) == Approx(k.tv_tempered).margin(1e-9));
  }
}

TEST_CASE("golden N: log-rewards of five strings and the eight most probable ones", "[environments]") {
  const std::vector<std::vector<int>> sampled{{0}, {1, 2}, {3, 0, 1}, {2, 1, 3, 0}, {}}, best{{0}, {1}, {2}, {3}, {}, {1, 0}, {1, 1}, {3, 0}};
  struct known {
    double temperature;
    std::vector<double> log_r, p;
  };
  for (const known& k :
       {known{.5, {-6.858564313, -9.741469954, -13.168705593, -16.039866294, -7.858078825},
              {.214569139, .184673444, .164225044, .151994739, .078973907, .014811531, .013581755, .012364671}},
        known{.7, {-4.898974509, -6.958192824, -9.406218281, -11.457047353, -5.612913447},
              {.141796007, .127385248, .117142779, .110842875, .069439128, .021008819, .019747541, .018466697}},
        known{1, {-3.429282156, -4.870734977, -6.584352796, -8.019933147, -3.929039413},
              {.074148737, .068789532, .064869391, .062407158, .044984401, .019481397, .018655121, .017799648}}}) {
    CAPTURE(k.temperature);
    const auto tree = second_order_model::tree(k.temperature);
    for (std::size_t i = 0; i < sampled.size(); ++i) CHECK(tree.log_reward(tree.state_of(sampled[i])) == Approx(k.log_r[i]).margin(1e-9));
    auto p = exact::posterior(tree);
    for (std::size_t i = 0; i < best.size(); ++i) {
      const auto most = std::max_element(p.begin(), p.end());
      CHECK(tree.letters_of(most - p.begin()) == best[i]);
      CHECK(*most == Approx(k.p[i]).margin(1e-9));
      *most = 0;
    }
  }
}

TEST_CASE("the same where the empty string is no object", "[environments]") {
  const auto tree = second_order_model::tree(.7, 1);
  CHECK(exact::log_partition(tree) == Approx(-3.01757647).margin(1e-8));
  const auto model = forward_table(tree, second_order_model::policy_logits(tree));
  CHECK(exact::total_variation(exact::terminating(tree, model), exact::posterior(tree)) == Approx(.604574419).margin(1e-9));
}

TEST_CASE("on a grid every backward policy has its own policy and the same target", "[environments]") {
  const hyper_grid grid(2, 8);
  const auto p = exact::posterior(grid);
  std::vector<double> logits(static_cast<std::size_t>(2 * grid.states()));
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(double(i));
  const auto uniform = uniform_parents{}(grid), learned = learned_parents{}(grid, logits);
  std::vector<double> policies[2];
  for (int which = 0; which < 2; ++which) {
    const auto& backward = which ? learned : uniform;
    CHECK(exact::log_flows(grid, backward)[0] == Approx(3.109060958861).epsilon(1e-11));
    policies[which] = exact::optimal_policy(grid, backward);
    const auto q = exact::terminating(grid, policies[which]);
    CHECK(exact::total_variation(q, p) < 1e-14);
    CHECK(exact::kl(p, q) == Approx(0).margin(1e-13));
  }
  CHECK(std::abs(policies[0][0] - policies[1][0]) > .01);
}

TEST_CASE("objects without reward are not sampled", "[environments]") {
  const binary_tree tree({std::log(1.), minus_infinity, minus_infinity, minus_infinity, std::log(3.), std::log(4.), minus_infinity, minus_infinity});
  const auto policy = exact::optimal_policy(tree, one_parent{}(tree));
  const auto q = exact::terminating(tree, policy);
  const auto p = exact::posterior(tree);
  CHECK(exact::log_partition(tree) == Approx(std::log(8.)));
  CHECK(p[7] == Approx(.125));
  CHECK(exact::total_variation(p, q) < 1e-15);
  for (std::size_t row = 0; row < 15; ++row) {  // rows are distributions, also where nothing beyond has a reward
    double sum = 0;
    for (std::size_t j = 0; j < 3; ++j) sum += std::exp(policy[3 * row + j]);
    CHECK(sum == Approx(1));
  }
  const auto uniform = exact::terminating(tree, uniform_policy(tree));
  CHECK(exact::kl(uniform, p) == INFINITY);
  CHECK(exact::kl(p, uniform) == Approx(.125 * std::log(1.) + .375 * std::log(3.) + .5 * std::log(4.)));
  CHECK_THROWS_AS(exact::log_partition(binary_tree({minus_infinity, minus_infinity})), error);
}

TEST_CASE("probabilities of states on a grid by hand", "[environments]") {
  // 2 x 2, uniform over the permitted: from 00 thirds; from 01 and 10 halves; 11 must stop.
  const hyper_grid grid(2, 2);
  const auto policy = uniform_policy(grid);
  const auto visit = exact::visits(grid, policy), end = exact::terminating(grid, policy);
  const std::vector<double> visits{1, 1. / 3, 1. / 3, 1. / 3}, ends{1. / 3, 1. / 6, 1. / 6, 1. / 3};
  CHECK(largest_difference(visit, visits) < 1e-15);
  CHECK(largest_difference(end, ends) < 1e-15);
}

TEST_CASE("the oracle refuses tables of other sizes", "[environments]") {
  const hyper_grid grid(2, 3);
  CHECK_THROWS_AS(exact::log_flows(grid, std::vector<double>(9)), shape_error);
  CHECK_THROWS_AS(exact::terminating(grid, std::vector<double>(18)), shape_error);
  CHECK_THROWS_AS(exact::l1({1, 2}, {1}), shape_error);
}
