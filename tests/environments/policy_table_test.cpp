/// Rows of choices: values by hand, gradients against differences, exploration, and sampled ways.
#include <planlm/environments/policy_table.hpp>

#include <planlm/environments/backward_policy.hpp>
#include <planlm/environments/exact.hpp>
#include <planlm/environments/hyper_grid.hpp>
#include <planlm/environments/trajectory.hpp>

#include "../catch.hpp"
#include "fixtures.hpp"

namespace {

using namespace planlm;

std::vector<double> waves(std::size_t n) {
  std::vector<double> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = std::cos(1.7 * double(i) + 0.3);
  return v;
}
/// sum of w log P where P is there.
double weighted(const std::vector<double>& table, const std::vector<double>& w) {
  double sum = 0;
  for (std::size_t i = 0; i < table.size(); ++i)
    if (table[i] != minus_infinity) sum += w[i] * table[i];
  return sum;
}

}  // namespace

TEST_CASE("uniform parents on a grid: one of each axis that has gone up", "[environments]") {
  const hyper_grid grid(2, 3);
  const auto table = uniform_parents{}(grid);
  const auto at = [&](int x, int y, int a) { return table[static_cast<std::size_t>(2 * (3 * x + y) + a)]; };
  CHECK(at(0, 0, 0) == minus_infinity);
  CHECK(at(2, 0, 0) == 0);
  CHECK(at(2, 0, 1) == minus_infinity);
  CHECK(at(1, 2, 0) == Approx(-std::log(2.)));
  CHECK_THROWS_WITH(one_parent{}(grid), "one_parent: state 4 has 2 parents; take uniform_parents or learned_parents");
  CHECK(learned_parents{}(grid, std::vector<double>(18, 0.0)) == table);
}

TEST_CASE("gradients of both tables agree with differences", "[environments]") {
  const hyper_grid grid(2, 3);
  const auto check = [&](const auto& make, int width) {
    std::vector<double> logits = waves(static_cast<std::size_t>(grid.states() * width));
    const auto table = make(logits);
    std::vector<double> w(table.size());
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = std::sin(double(i) * double(i));
    const auto g = table_pullback(table, w, width);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double h = 1e-5, old = logits[i];
      logits[i] = old + h;
      const double up = weighted(make(logits), w);
      logits[i] = old - h;
      const double down = weighted(make(logits), w);
      logits[i] = old;
      CHECK(g[i] == Approx((up - down) / (2 * h)).margin(1e-9));
    }
  };
  check([&](const std::vector<double>& l) { return forward_table(grid, l); }, 3);
  check([&](const std::vector<double>& l) { return learned_parents{}(grid, l); }, 2);
}

TEST_CASE("fact 27: exploration by exit penalty, temperature and uniform share", "[environments]") {
  // Logits .5, -1, (not permitted), exit 0.
  const std::vector<double> row{.5, -1, minus_infinity, 0};
  const auto check = [&](const exploration& rule, std::vector<double> expected) {
    std::vector<double> out(4);
    explore_row(row.data(), 4, rule, out.data());
    CHECK(out[2] == minus_infinity);
    for (const std::size_t j : {0u, 1u, 3u}) CHECK(out[j] == Approx(expected[j]).margin(1e-9));
  };
  check({}, {-.604130605, -2.104130605, 0, -1.104130605});
  check({.temperature = 2}, {-.811448898, -1.561448898, 0, -1.061448898});
  check({.temperature = .5}, {-.349012217, -3.349012217, 0, -1.349012217});
  check({.uniform = .1}, {-.643923240, -1.944282731, 0, -1.103577401});
  check({.exit_penalty = 1}, {-.368981135, -1.868981135, 0, -1.868981135});
  check({.temperature = 2, .uniform = .1}, {-.836726797, -1.504258518, 0, -1.065103699});
  std::vector<double> out(4);
  CHECK_THROWS_AS(explore_row(row.data(), 4, {.temperature = 0}, out.data()), error);
  CHECK_THROWS_AS(explore_row(row.data(), 4, {.uniform = 1.5}, out.data()), error);
}

TEST_CASE("a choice follows its probabilities and never the forbidden", "[environments]") {
  const std::vector<double> row{minus_infinity, std::log(.25), minus_infinity, std::log(.75), minus_infinity};
  CHECK(choose(row.data(), 5, 1e-9) == 1);
  CHECK(choose(row.data(), 5, .2499) == 1);
  CHECK(choose(row.data(), 5, .2501) == 3);
  CHECK(choose(row.data(), 5, 1 - 1e-17) == 3);
  const std::vector<double> none(3, minus_infinity);
  CHECK_THROWS_AS(choose(none.data(), 3, .5), numeric_error);
}

TEST_CASE("sampled ways are ways, end as the oracle says, and come again", "[environments]") {
  const hyper_grid grid(2, 4);
  const auto table = forward_table(grid, waves(48));
  const auto backward = learned_parents{}(grid, waves(32));
  const auto row = [&](index_t s) { return &table[static_cast<std::size_t>(3 * s)]; };
  const auto back = [&](index_t s) { return &backward[static_cast<std::size_t>(2 * s)]; };
  const auto expected = exact::terminating(grid, table);
  std::vector<double> seen(16, 0.0);
  const int n = 20000;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(n); ++i) {
    const trajectory t = sample_forward(grid, row, {}, philox{5}, i);
    seen[static_cast<std::size_t>(t.object())] += 1.0 / n;
    if (i % 500 != 0) continue;
    const trajectory same = sample_forward(grid, row, {}, philox{5}, i), reverse = sample_backward(grid, t.object(), back, philox{5}, i);
    CHECK((same.states == t.states && same.actions == t.actions));
    CHECK(reverse.length() == t.length());  // the way's length is the sum of coordinates
    for (const trajectory& way : {t, reverse}) {
      CHECK(way.states[0] == 0);
      CHECK(way.actions.back() == 2);
      REQUIRE(way.states.size() == way.actions.size());
      for (std::size_t k = 0; k + 1 < way.states.size(); ++k) CHECK(grid.child(way.states[k], way.actions[k]) == way.states[k + 1]);
    }
  }
  CHECK(exact::total_variation(seen, expected) < .02);  // about sqrt(states / samples) / 2 = .014 at most
  CHECK_THROWS_AS(sample_backward(fixtures::second_order_model::tree(1, 1), 0, back, philox{1}, 0), error);
}
