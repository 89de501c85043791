#include <planlm/training/clipping.hpp>

#include <cmath>
#include <limits>
#include <planlm/layers/linear.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/sgd.hpp>
#include <vector>

#include "../catch.hpp"
#include "flat.hpp"

using namespace planlm;
using testing::flat_view;
using B = cpu<double>;

TEST_CASE("the global norm goes over all gradients and the factor is max / norm above the limit") {
  context<B> cx;
  std::vector<double> a{3, 0}, b{4};
  auto g = clip_global_norm(cx, 2.5, flat_view(a), flat_view(b), tensor<B, 1>{});
  CHECK(read_norm(cx, g) == 5);
  CHECK(cx.read_one(g.factor) == 0.5);
  CHECK(a == std::vector<double>{3, 0});
}

TEST_CASE("below and at the limit the factor is exactly 1, so a step has the bits of an unclipped one") {
  context<cpu<float>> cx;
  std::vector<float> g{3, 4}, zero{0, 0};
  CHECK(cx.read_one(clip_global_norm(cx, 5.0, flat_view(g)).factor) == 1);
  CHECK(cx.read_one(clip_global_norm(cx, 5.1, flat_view(g)).factor) == 1);
  CHECK(cx.read_one(clip_global_norm(cx, 4.9, flat_view(g)).factor) < 1);
  CHECK(cx.read_one(clip_global_norm(cx, 1.0, flat_view(zero)).factor) == 1);
  CHECK(cx.read_one(clip_global_norm(cx, INFINITY, flat_view(g)).factor) == 1);

  auto w1 = testing::normal_values<float>(3000, 1), w2 = w1;
  auto g1 = testing::normal_values<float>(3000, 2, 1e-3), g2 = g1;
  sgd optimiser{cx, 3000};
  optimiser.step(cx, flat_view(w1), flat_view(g1), 0.3);
  optimiser.step(cx, flat_view(w2), flat_view(g2), 0.3, clip_global_norm(cx, 1.0, flat_view(g2)).factor);
  CHECK(testing::same_bits(w1, w2));
}

TEST_CASE("a clipped step moves the weights by rate times the limit") {
  context<B> cx;
  const index_t n = 20000;
  std::vector<double> w(n), g = testing::normal_values(n, 3, 7);
  sgd optimiser{cx, n};
  auto norm = clip_global_norm(cx, 1.5, flat_view(g));
  CHECK(read_norm(cx, norm) == Approx(7 * std::sqrt(20000.0)).epsilon(0.03));
  optimiser.step(cx, flat_view(w), flat_view(g), 0.5, norm.factor);
  CHECK(read_norm(cx, clip_global_norm(cx, 1.0, flat_view(w))) == Approx(0.75).epsilon(1e-12));
}

TEST_CASE("a norm that is not finite is reported and never scales: the step changes nothing") {
  for (const double bad :
       {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    context<B> cx;
    const index_t n = 3000;
    auto w = testing::normal_values(n, 4), g = testing::normal_values(n, 5);
    g[2999] = bad;
    const auto w_before = w, g_before = g;
    sgd optimiser{cx, n, {.momentum = 0.9, .weight_decay = 0.1}};
    auto norm = clip_global_norm(cx, 1.0, flat_view(g));
    CHECK_THROWS_AS(read_norm(cx, norm), numeric_error);
    optimiser.step(cx, flat_view(w), flat_view(g), 0.1, norm.factor);
    CHECK(testing::same_bits(w, w_before));
    CHECK(testing::same_bits(g, g_before));
    CHECK(read_norm(cx, clip_global_norm(cx, 1.0, optimiser.state()[0].values)) == 0);
  }
}

TEST_CASE("the value that is not finite is traced to its parameter and its place there") {
  context<B> cx;
  const linear<B> layer{5, 3};  // 15 weights, padded to 16, then 3 of bias
  parameters theta{cx, layer, philox{1}};
  REQUIRE(theta.slots().size() == 2);
  CHECK(!find_not_finite(cx, theta.slots(), theta.flat_grads()));
  theta.flat_grads()[theta.slots()[1].offset + 2] = NAN;
  auto found = find_not_finite(cx, theta.slots(), theta.flat_grads());
  REQUIRE(found);
  CHECK(found->parameter == theta.slots()[1].spec.name);
  CHECK(found->index == 2);
  theta.flat_grads()[14] = INFINITY;
  found = find_not_finite(cx, theta.slots(), theta.flat_grads());
  REQUIRE(found);
  CHECK(found->parameter == theta.slots()[0].spec.name);
  CHECK(found->index == 14);
}

TEST_CASE("clipping refuses a limit that is not positive") {
  context<B> cx;
  std::vector<double> g{1};
  CHECK_THROWS_WITH(clip_global_norm(cx, 0, flat_view(g)),
                    "clip_global_norm: max_norm = 0.000000, expected above 0");
  CHECK_THROWS_WITH(clip_global_norm(cx, NAN, flat_view(g)),
                    "clip_global_norm: max_norm = nan, expected above 0");
  CHECK_THROWS_AS(clip_global_norm(cx, -1, flat_view(g)), error);
}

TEST_CASE("fact F25, golden A17: with the epsilon of published loops clipped gradients are that much shorter") {
  context<B> cx;
  std::vector<double> g{3, -4, 12};
  const auto clip = clip_global_norm(cx, {5, 1e-6}, flat_view(g));
  CHECK(read_norm(cx, clip) == 13);
  const double factor = cx.read_one(clip.factor);
  CHECK(std::abs(factor * 3 - 1.1538460650887643) < 1e-15);
  CHECK(std::abs(factor * -4 + 1.5384614201183524) < 1e-15);
  CHECK(std::abs(factor * 12 - 4.615384260355057) < 1e-15);
  CHECK(cx.read_one(clip_global_norm(cx, {13, 1e-6}, flat_view(g)).factor) < 1);
  CHECK(cx.read_one(clip_global_norm(cx, {13.1, 1e-6}, flat_view(g)).factor) == 1);
  CHECK_THROWS_WITH(clip_global_norm(cx, {5, -1}, flat_view(g)), "clip_global_norm: epsilon = -1.000000, expected at least 0");
}
