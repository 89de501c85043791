#include <planlm/training/lion.hpp>

#include <cmath>
#include <planlm/testing/compare.hpp>
#include <vector>

#include "../catch.hpp"
#include "flat.hpp"

using namespace planlm;
using testing::flat_view;

TEST_CASE("Lion's first steps are the hand-worked ones") {
  context<cpu<double>> cx;
  // b1 = 1/2, b2 = 3/4. Step 1: sign(g / 2), then m = g / 4. Step 2 with g2 = -1/2 where m = 1: 1/2 - 1/4 > 0
  // keeps the direction; where m = -1: -1/2 - 1/4 < 0.
  std::vector<double> w{1, 1, 1}, g{4, -4, 0};
  lion optimiser{cx, 3, {.beta1 = 0.5, .beta2 = 0.75}};
  optimiser.step(cx, flat_view(w), flat_view(g), 0.25);
  CHECK(w == std::vector<double>{0.75, 1.25, 1});
  CHECK(optimiser.state()[0].values[0] == 1);
  g = {-0.5, -0.5, -0.5};
  optimiser.step(cx, flat_view(w), flat_view(g), 0.25);
  CHECK(w == std::vector<double>{0.5, 1.5, 1.25});
  CHECK(optimiser.state()[0].values[0] == 0.75 * 1 - 0.25 * 0.5);
}

TEST_CASE("Lion moves every weight by the rate, whatever the size of the gradient, and decays decoupled") {
  context<cpu<double>> cx;
  std::vector<double> w{2, 2, 2}, g{1e-30, 1e30, 0};
  lion optimiser{cx, 3, {.weight_decay = 0.5}};
  optimiser.step(cx, flat_view(w), flat_view(g), 0.25);
  const double decayed = 2 - 0.25 * 0.5 * 2;
  CHECK(w == std::vector<double>{decayed - 0.25, decayed - 0.25, decayed});
}

TEST_CASE("a NaN gradient shows up in Lion's weights instead of counting as sign 0") {
  context<cpu<double>> cx;
  std::vector<double> w{1}, g{NAN};
  lion optimiser{cx, 1};
  optimiser.step(cx, flat_view(w), flat_view(g), 0.25);
  CHECK(std::isnan(w[0]));
}

TEST_CASE("Lion agrees with its equations over many steps") {
  context<cpu<double>> cx;
  const index_t n = 1500;
  auto w = testing::normal_values(n, 1), expected = w;
  std::vector<double> m(w.size());
  lion optimiser{cx, n, {.weight_decay = 0.1}};
  for (std::uint64_t step = 0; step < 30; ++step) {
    auto g = testing::normal_values(n, 50 + step);
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double c = 0.9 * m[i] + (1 - 0.9) * g[i];
      expected[i] -= 0.01 * ((c > 0) - (c < 0) + 0.1 * expected[i]);
      m[i] = 0.99 * m[i] + (1 - 0.99) * g[i];
    }
    optimiser.step(cx, flat_view(w), flat_view(g), 0.01);
  }
  CHECK(testing::largest_error(w, expected) < 1e-12);
}

TEST_CASE("Lion refuses options out of range") {
  context<cpu<float>> cx;
  CHECK_THROWS_WITH(lion(cx, 4, {.beta2 = 1.5}), "lion: beta2 = 1.500000, expected at least 0 and below 1");
  CHECK_THROWS_WITH(lion(cx, 4, {.weight_decay = -1}),
                    "lion: weight_decay = -1.000000, expected a finite number of at least 0");
}
