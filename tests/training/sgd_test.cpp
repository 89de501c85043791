#include <planlm/training/sgd.hpp>

#include <planlm/testing/compare.hpp>
#include <vector>

#include "../catch.hpp"
#include "flat.hpp"

using namespace planlm;
using testing::flat_view;

namespace {

std::vector<double> after_two_steps(sgd_options options) {
  context<cpu<double>> cx;
  std::vector<double> w{1}, g{2};
  sgd optimiser{cx, 1, options};
  optimiser.step(cx, flat_view(w), flat_view(g), 0.125);
  const double first = w[0];
  g[0] = 1;
  optimiser.step(cx, flat_view(w), flat_view(g), 0.125);
  return {first, w[0]};
}

}  // namespace

TEST_CASE("the first two steps of every form of SGD are the hand-worked ones") {
  using pair = std::vector<double>;
  // w = 1, gradients 2 and 1, rate 1/8; all numbers are exact in binary.
  CHECK(after_two_steps({}) == pair{0.75, 0.625});
  // b = 2, then 0.5 * 2 + 1 = 2.
  CHECK(after_two_steps({.momentum = 0.5}) == pair{0.75, 0.5});
  // 2 + 0.5 * 2 = 3, then 1 + 0.5 * 2 = 2.
  CHECK(after_two_steps({.momentum = 0.5, .nesterov = true}) == pair{0.625, 0.375});
  // g + w: 2 + 1 = 3 -> 0.625; 1 + 0.625 = 1.625 -> 0.421875.
  CHECK(after_two_steps({.weight_decay = 1}) == pair{0.625, 0.421875});
}

TEST_CASE("SGD without momentum has no state, with momentum one named velocity") {
  context<cpu<float>> cx;
  CHECK(sgd(cx, 10).state().empty());
  const auto state = sgd(cx, 10, {.momentum = 0.9}).state();
  REQUIRE(state.size() == 1);
  CHECK(state[0].name == "velocity");
  CHECK(state[0].values.size() == 10);
}

TEST_CASE("momentum reaches 1 / (1 - momentum) times the step of a constant gradient") {
  context<cpu<double>> cx;
  std::vector<double> w{0}, g{0};
  sgd optimiser{cx, 1, {.momentum = 0.9}};
  double before = 0;
  for (int step = 0; step < 400; ++step) {
    before = w[0];
    g[0] = 1;
    optimiser.step(cx, flat_view(w), flat_view(g), 0.01);
  }
  CHECK(before - w[0] == Approx(0.1).epsilon(1e-12));
}

TEST_CASE("SGD refuses a momentum out of range and Nesterov without momentum") {
  context<cpu<float>> cx;
  CHECK_THROWS_WITH(sgd(cx, 4, {.momentum = 1}), "sgd: momentum = 1.000000, expected at least 0 and below 1");
  CHECK_THROWS_WITH(sgd(cx, 4, {.nesterov = true}), "sgd: nesterov needs a momentum above 0");
}
