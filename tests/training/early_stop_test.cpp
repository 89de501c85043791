#include <planlm/training/early_stop.hpp>

#include <cmath>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

TEST_CASE("fact F24, golden A15: the countdown after each of thirteen validations") {
  early_stop stop(7);
  std::vector<index_t> countdown;
  std::vector<bool> best;
  for (const double loss : {1.7, 1.6, 1.65, 1.61, 1.62, 1.63, 1.59, 1.7, 1.7, 1.7, 1.7, 1.7, 1.7}) {
    best.push_back(stop.observe(loss));
    countdown.push_back(stop.countdown());
  }
  CHECK(countdown == std::vector<index_t>{7, 7, 6, 5, 4, 3, 7, 6, 5, 4, 3, 2, 1});
  CHECK(best == std::vector<bool>{true, true, false, false, false, false, true, false, false, false, false, false, false});
  CHECK_FALSE(stop.stopped());
  stop.observe(1.7);
  CHECK(stop.stopped());
  CHECK(stop.best() == 1.59);
  stop.observe(1.7);
  CHECK(stop.countdown() == 0);
}

TEST_CASE("scores every 500 updates can stop a policy after 4000 of them at the earliest") {
  early_stop stop(7, {better::higher});
  int updates = 0;
  while (!stop.stopped()) {
    updates += 500;
    stop.observe(0.5);
  }
  CHECK(updates == 4000);
}

TEST_CASE("an early stop goes on from a checkpoint as if it had never stopped") {
  const std::vector<double> losses{3, 2, 2, 2.5, 1, 1, 1, 1};
  for (std::size_t cut = 0; cut <= losses.size(); ++cut) {
    early_stop whole(3), first(3), second(3);
    for (const double loss : losses) whole.observe(loss);
    for (std::size_t i = 0; i < cut; ++i) first.observe(losses[i]);
    second.restore(first.state());
    for (std::size_t i = cut; i < losses.size(); ++i) second.observe(losses[i]);
    CHECK(second.state() == whole.state());
    CHECK(second.stopped());
  }
}

TEST_CASE("what is stopped stays stopped, though a better value counts as the best") {
  early_stop stop(1);
  stop.observe(2), stop.observe(3);
  CHECK(stop.stopped());
  CHECK(stop.observe(1));
  CHECK(stop.best() == 1);
  CHECK(stop.stopped());
}

TEST_CASE("an early stop refuses a patience below one, values that are no numbers and states that are none, and stays as it was") {
  CHECK_THROWS_WITH(early_stop(0), "early_stop: patience = 0, expected at least 1");
  CHECK_THROWS_WITH(early_stop(1, {better::lower, 1}), "early_stop: threshold = 1.000000, expected at least 0 and below 1");
  early_stop stop(3);
  stop.observe(2), stop.observe(2);
  const std::vector<double> before = stop.state();
  CHECK_THROWS_WITH(stop.observe(NAN), "early_stop: a validation value is nan, expected a finite number; nothing was changed");
  for (const std::vector<double>& bad : {std::vector<double>{}, {1}, {NAN, 1}, {1, 4}, {1, -1}, {1, 1, 1}})
    CHECK_THROWS_AS(stop.restore(bad), input_error);
  CHECK(stop.state() == before);
}
