#include <planlm/training/reduce_on_plateau.hpp>

#include <cmath>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

namespace {

/// The rate after each of the values.
std::vector<double> rates_after(reduce_on_plateau plateau, const std::vector<double>& values) {
  std::vector<double> rates;
  for (const double value : values) rates.push_back(plateau.observe(value));
  return rates;
}

}  // namespace

TEST_CASE("fact F24, golden A15: the learning rate after each of thirteen validations") {
  const std::vector<double> losses{1.7, 1.6, 1.65, 1.61, 1.62, 1.63, 1.59, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7};
  CHECK(rates_after(reduce_on_plateau(5e-5), losses) ==
        std::vector<double>{5e-5, 5e-5, 5e-5, 5e-5, 4e-5, 4e-5, 4e-5, 4e-5, 4e-5, 3.2000000000000005e-05, 3.2000000000000005e-05,
                            3.2000000000000005e-05, 2.5600000000000006e-05});
}

TEST_CASE("a rate falls with the value after as many without an improvement as patience has, and not below its least") {
  CHECK(rates_after(reduce_on_plateau(8, {.factor = 0.5, .patience = 0, .least_rate = 3}), {1, 1, 1, 1}) ==
        std::vector<double>{8, 4, 3, 3});
  CHECK(rates_after(reduce_on_plateau(8, {.factor = 0.5, .patience = 1}), {1, 1, 1, 1, 1}) == std::vector<double>{8, 8, 4, 4, 2});
  // A step of no more than least_change is not taken.
  CHECK(rates_after(reduce_on_plateau(8, {.factor = 0.5, .patience = 0, .least_rate = 0, .least_change = 2}), {1, 1, 1, 1}) ==
        std::vector<double>{8, 4, 4, 4});
}

TEST_CASE("a plateau of scores is one of values that do not rise") {
  const plateau_options scores{.factor = 0.5, .patience = 1, .improved = {better::higher}};
  CHECK(rates_after(reduce_on_plateau(1, scores), {0.1, 0.2, 0.3, 0.2, 0.2}) == std::vector<double>{1, 1, 1, 1, 0.5});
}

TEST_CASE("a plateau goes on from a checkpoint as if it had never stopped") {
  const std::vector<double> losses{3, 2, 2, 2, 2, 1, 1, 1, 1, 1};
  const std::vector<double> whole = rates_after(reduce_on_plateau(1), losses);
  for (std::size_t cut = 0; cut <= losses.size(); ++cut) {
    reduce_on_plateau first(1), second(1);
    std::vector<double> rates;
    for (std::size_t i = 0; i < cut; ++i) rates.push_back(first.observe(losses[i]));
    second.restore(first.state());
    CHECK(second.rate() == first.rate());
    CHECK(second.waited() == first.waited());
    for (std::size_t i = cut; i < losses.size(); ++i) rates.push_back(second.observe(losses[i]));
    CHECK(rates == whole);
  }
}

TEST_CASE("a plateau refuses settings out of range, values that are no numbers and states that are none, and stays as it was") {
  CHECK_THROWS_WITH(reduce_on_plateau(-1), "reduce_on_plateau: rate = -1.000000, expected a finite number of at least 0");
  CHECK_THROWS_WITH(reduce_on_plateau(1, {.factor = 1}), "reduce_on_plateau: factor = 1.000000, expected above 0 and below 1");
  CHECK_THROWS_WITH(reduce_on_plateau(1, {.patience = -1}), "reduce_on_plateau: patience = -1.000000, expected at least 0");
  CHECK_THROWS_AS(reduce_on_plateau(NAN), error);
  CHECK_THROWS_AS(reduce_on_plateau(1, {.improved = {better::lower, NAN}}), error);
  reduce_on_plateau plateau(1, {.patience = 1});
  plateau.observe(2), plateau.observe(2);
  const std::vector<double> before = plateau.state();
  CHECK_THROWS_AS(plateau.observe(NAN), numeric_error);
  CHECK_THROWS_AS(plateau.observe(-INFINITY), numeric_error);
  for (const std::vector<double>& bad : {std::vector<double>{}, {1, 2}, {-1, 2, 0}, {1, NAN, 0}, {1, 2, 2}, {1, 2, 0, 0}})
    CHECK_THROWS_AS(plateau.restore(bad), input_error);
  CHECK(plateau.state() == before);
}
