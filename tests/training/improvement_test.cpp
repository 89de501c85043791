#include <planlm/training/improvement.hpp>

#include <cmath>

#include "../catch.hpp"

using namespace planlm;

TEST_CASE("a value improves on the best if it is better by more than the threshold's share of it") {
  const improvement lower{}, higher{better::higher, 0.01};
  CHECK(lower(0.9998, 1));
  CHECK_FALSE(lower(1 - 1e-4, 1));
  CHECK_FALSE(lower(1, 1));
  CHECK(higher(1.02, 1));
  CHECK_FALSE(higher(1.01, 1));
  CHECK_FALSE(higher(0.5, 1));
  CHECK(improvement{better::lower, 0}(std::nextafter(1.0, 0.0), 1));
}

TEST_CASE("the first value is an improvement whichever side is better") {
  for (const improvement improved : {improvement{better::lower}, improvement{better::higher}}) {
    CHECK(improved(1e300, improved.worst()));
    CHECK(improved(-1e300, improved.worst()));
  }
}

TEST_CASE("a best value below zero is not beaten by one that is a little worse, as it is in the published form") {
  const improvement higher{better::higher, 1e-2}, lower{better::lower, 1e-2};
  CHECK(-10.05 > -10 * (1 + 1e-2));  // the published form calls it better
  CHECK_FALSE(higher(-10.05, -10));
  CHECK_FALSE(higher(-10, -10));
  CHECK_FALSE(higher(-9.95, -10));
  CHECK(higher(-9.8, -10));
  CHECK_FALSE(lower(-9.95, -10));
  CHECK_FALSE(lower(-10.05, -10));
  CHECK(lower(-10.2, -10));
}
