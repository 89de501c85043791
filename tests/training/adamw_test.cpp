#include <planlm/training/adamw.hpp>

#include <cmath>
#include <limits>
#include <planlm/testing/compare.hpp>
#include <vector>

#include "../catch.hpp"
#include "flat.hpp"

using namespace planlm;
using testing::flat_view;

namespace {

/// Algorithm 2 of 1711.05101 line by line, one array per line, as the oracle of the fused loop.
struct plain_adamw {
  adamw_options o;
  std::vector<double> m, v;
  int t = 0;
  void step(std::vector<double>& w, const std::vector<double>& g, double rate) {
    ++t;
    m.resize(w.size());
    v.resize(w.size());
    for (std::size_t i = 0; i < w.size(); ++i) m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
    for (std::size_t i = 0; i < w.size(); ++i) v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
    std::vector<double> update(w.size());
    for (std::size_t i = 0; i < w.size(); ++i)
      update[i] =
          (m[i] / (1 - std::pow(o.beta1, t))) / (std::sqrt(v[i] / (1 - std::pow(o.beta2, t))) + o.epsilon);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = w[i] - rate * o.weight_decay * w[i] - rate * update[i];
  }
};

/// Distance of square_root(x) from the nearest T to the root, in units in the last place.
template <class T>
double root_error(T x) {
  const long double exact = std::sqrt(static_cast<long double>(x));
  const T nearest = static_cast<T>(exact);
  const T unit = std::nextafter(nearest, std::numeric_limits<T>::infinity()) - nearest;
  return static_cast<double>(std::abs((static_cast<long double>(kernel::square_root(x)) - exact) / unit));
}

}  // namespace

TEST_CASE("AdamW's first two steps are the hand-worked ones") {
  context<cpu<double>> cx;
  // Step 1: m = 1, v = 1, both corrections give g = 2 and g^2 = 4, so the update is the sign of g.
  // Step 2, g = 0: m = 1/2, corrected 2/3; v = 3/4, corrected 12/7; update (2/3) / sqrt(12/7).
  std::vector<double> w{1, -1}, g{2, -2};
  adamw optimiser{cx, 2, {.beta1 = 0.5, .beta2 = 0.75, .epsilon = 1e-14}};
  optimiser.step(cx, flat_view(w), flat_view(g), 0.1);
  CHECK(w[0] == Approx(0.9).epsilon(1e-12));
  CHECK(w[1] == Approx(-0.9).epsilon(1e-12));
  optimiser.step(cx, flat_view(w), flat_view(g), 0.1);
  CHECK(w[0] == Approx(0.9 - 0.1 * 0.50917507721731547).epsilon(1e-12));
  CHECK(optimiser.count == 2);
}

TEST_CASE("AdamW's weight decay is decoupled: it does not pass through the moments") {
  context<cpu<double>> cx;
  std::vector<double> w{4, 4}, g{0, 1};
  adamw optimiser{cx, 2, {.weight_decay = 0.5}};
  optimiser.step(cx, flat_view(w), flat_view(g), 0.1);
  CHECK(w[0] == Approx(4 - 0.1 * 0.5 * 4).epsilon(1e-14));
  CHECK(w[1] == Approx(4 - 0.1 * 0.5 * 4 - 0.1).epsilon(1e-8));  // epsilon of 1e-8 beside a root of 1
  for (const auto& s : optimiser.state()) CHECK(s.values[0] == 0);
}

TEST_CASE("fused AdamW agrees with the plain composition to 1e-12 over sixty steps") {
  using B = cpu<double>;
  context<B> cx;
  const index_t n = 2 * update_block + 13;
  for (const double decay : {0.0, 0.1}) {
    auto w = testing::normal_values(n, 1), expected = w;
    plain_adamw oracle{{.weight_decay = decay}, {}, {}};
    adamw optimiser{cx, n, oracle.o};
    for (int step = 0; step < 60; ++step) {
      auto g =
          testing::normal_values(n, 100 + static_cast<std::uint64_t>(step), std::pow(10.0, step % 5 - 2));
      oracle.step(expected, g, 1e-2 / (1 + step));
      optimiser.step(cx, flat_view(w), flat_view(g), 1e-2 / (1 + step));
      REQUIRE(testing::largest_error(w, expected) < 1e-12);
    }
  }
}

TEST_CASE("AdamW in float stays within rounding of AdamW in double") {
  context<cpu<float>> cx;
  const index_t n = 5000;
  auto w = testing::normal_values<float>(n, 1);
  std::vector<double> expected(w.begin(), w.end());
  plain_adamw oracle{{.weight_decay = 0.1}, {}, {}};
  adamw optimiser{cx, n, oracle.o};
  for (int step = 0; step < 20; ++step) {
    auto g = testing::normal_values<float>(n, 100 + static_cast<std::uint64_t>(step));
    oracle.step(expected, std::vector<double>(g.begin(), g.end()), 1e-2);
    optimiser.step(cx, flat_view(w), flat_view(g), 1e-2);
  }
  // Per step: half an ulp of a weight below 8 and some ulps of an update of at most 0.02.
  CHECK(testing::largest_error(w, expected) < 20 * 6e-7);
}

TEST_CASE("the square root without errno is within one unit in the last place") {
  double worst = 0, worst_wide = 0;
  for (std::uint32_t mantissa = 0; mantissa < 1u << 24;
       mantissa += 61)  // [1, 4): both parities of the exponent
    worst = std::max(worst, root_error(__builtin_bit_cast(float, 0x3F800000u + mantissa)));
  for (int exponent = -126; exponent < 128; ++exponent)
    worst = std::max(worst, root_error(std::ldexp(1.37f, exponent)));
  for (int i = 0; i < 100000; ++i) worst_wide = std::max(worst_wide, root_error(1 + 3e-5 * i));
  for (int exponent = -1022; exponent < 1024; ++exponent)
    worst_wide = std::max(worst_wide, root_error(std::ldexp(1.37, exponent)));
  CHECK(worst <= 1);
  CHECK(worst_wide <= 1);
  CHECK(kernel::square_root(0.0f) == 0);
  CHECK(kernel::square_root(0.0) == 0);
  CHECK(std::isnan(kernel::square_root(std::numeric_limits<float>::infinity())));
  CHECK(std::isnan(kernel::square_root(std::numeric_limits<double>::infinity())));
  CHECK(std::isnan(kernel::square_root(std::numeric_limits<float>::quiet_NaN())));
}

TEST_CASE("AdamW refuses options out of range with the number and the range") {
  context<cpu<float>> cx;
  CHECK_THROWS_WITH(adamw(cx, 4, {.beta1 = 1}), "adamw: beta1 = 1.000000, expected at least 0 and below 1");
  CHECK_THROWS_WITH(adamw(cx, 4, {.beta2 = -0.1}),
                    "adamw: beta2 = -0.100000, expected at least 0 and below 1");
  CHECK_THROWS_WITH(adamw(cx, 4, {.epsilon = 0}),
                    "adamw: epsilon = 0.000000, expected a finite number above 0");
  CHECK_THROWS_WITH(adamw(cx, 4, {.weight_decay = NAN}),
                    "adamw: weight_decay = nan, expected a finite number of at least 0");
}
