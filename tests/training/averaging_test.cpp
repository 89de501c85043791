#include <planlm/training/averaging.hpp>

#include <cmath>
#include <planlm/testing/compare.hpp>
#include <vector>

#include "../catch.hpp"
#include "flat.hpp"

using namespace planlm;
using testing::flat_view;
using B = cpu<double>;

static_assert(AveragingRule<exponential_average> && AveragingRule<running_mean> && !AveragingRule<int>);

namespace {

/// The average of the one-weight models 8, 4, 12.
template <class Rule>
double average_of_three(Rule rule) {
  context<B> cx;
  weight_average average{cx, 1, rule};
  for (const double value : {8.0, 4.0, 12.0}) {
    std::vector<double> w{value};
    average.update(cx, flat_view(w));
  }
  CHECK(average.count == 3);
  return average.values()[0];
}

}  // namespace

TEST_CASE("averages of three updates are the hand-worked ones") {
  CHECK(average_of_three(running_mean{}) == 8);
  CHECK(average_of_three(exponential_average{0.75}) == 0.5625 * 8 + 0.1875 * 4 + 0.25 * 12);
  // Shares 0.25 * (0.5625, 0.75, 1) over their sum 1 - 0.75^3 = 0.578125.
  CHECK(average_of_three(exponential_average{0.75, true}) ==
        Approx(0.25 * (0.5625 * 8 + 0.75 * 4 + 12) / 0.578125).epsilon(1e-14));
  CHECK(average_of_three(exponential_average{0.0}) == 12);
}

TEST_CASE("the average of equal weights is those weights") {
  context<B> cx;
  auto w = testing::normal_values(100, 1);
  weight_average average{cx, 100, exponential_average{0.9, true}};
  for (int i = 0; i < 50; ++i) average.update(cx, flat_view(w));
  CHECK(testing::same_bits(cx.read(average.values()), w));
}

TEST_CASE("bias correction makes a long average equal to the uncorrected one") {
  const exponential_average corrected{0.9, true}, plain{0.9};
  CHECK(corrected(1) == 1);
  CHECK(plain(1) == 1);
  CHECK(plain(2) == Approx(0.1));
  CHECK(corrected(2) == Approx(0.1 / 0.19));
  CHECK(corrected(1000) == Approx(plain(1000)).epsilon(1e-14));
}

TEST_CASE("swapping puts the average into the model and swapping again restores every bit") {
  context<B> cx{B::queue(2)};
  const index_t n = 40000;
  auto first = testing::normal_values(n, 1), w = testing::normal_values(n, 2);
  weight_average average{cx, n, running_mean{}};
  average.update(cx, flat_view(first));
  average.update(cx, flat_view(w));
  const auto trained = w, mean = cx.read(average.values());
  CHECK(mean[5] == Approx((first[5] + w[5]) / 2));
  average.swap(cx, flat_view(w));
  CHECK(average.swapped());
  CHECK(testing::same_bits(w, mean));
  CHECK_THROWS_WITH(average.update(cx, flat_view(w)),
                    "weight_average: update() while the average is in the model; swap() back first");
  average.swap(cx, flat_view(w));
  CHECK(testing::same_bits(w, trained));
  CHECK(testing::same_bits(cx.read(average.values()), mean));
}

TEST_CASE("the running mean of SGD's noise is closer to the optimum than the last weights") {
  // w moves as 0.5 w + noise of unit deviation: its stationary deviation is 1.15, that of a mean of 5000
  // about 0.03.
  context<B> cx;
  const index_t n = 200;
  std::vector<double> w(n);
  weight_average average{cx, n, running_mean{}};
  for (std::uint64_t step = 0; step < 5000; ++step) {
    const auto noise = testing::normal_values(n, 100 + step);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = 0.5 * w[i] + noise[i];
    average.update(cx, flat_view(w));
  }
  double last = 0, mean = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    last += w[i] * w[i] / n;
    mean += average.values()[static_cast<index_t>(i)] * average.values()[static_cast<index_t>(i)] / n;
  }
  CHECK(last > 0.9);
  CHECK(mean < 0.002);
}

TEST_CASE("averaging refuses a decay out of range, another size and a swap before the first update") {
  context<B> cx;
  std::vector<double> w(3), other(4);
  CHECK_THROWS_WITH(exponential_average(1.0),
                    "exponential_average: decay = 1.000000, expected at least 0 and below 1");
  weight_average average{cx, 3, running_mean{}};
  CHECK_THROWS_WITH(average.swap(cx, flat_view(w)), "weight_average: swap() before the first update()");
  CHECK_THROWS_AS(average.update(cx, flat_view(other)), shape_error);
}
