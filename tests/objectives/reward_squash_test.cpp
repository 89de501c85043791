#include <planlm/objectives/reward_squash.hpp>

#include "preference_case.hpp"

using namespace objectives_test;

namespace {
/// Rewards of logits, and dr / dz.
template <class C = B, class G>
std::pair<std::vector<typename C::accum>, std::vector<typename C::accum>> through(const G& g, const numbers& z) {
  using A = typename C::accum;
  const std::vector<A> logits(z.begin(), z.end()), ones(z.size(), A(1));
  context<C> cx;
  planlm::testing::poison(cx);
  auto [r, pullback] = token_rewards(cx, g, view<const A, 1>(logits.data(), logits.size()));
  return {cx.read(r), cx.read(pullback(view<const A, 1>(ones.data(), ones.size())))};
}
}  // namespace

TEST_CASE("A01, A02: both squashes have the published values and slopes") {
  for (const char* name : {"A01_reward_squash_softplus", "A02_reward_squash_sigmoid"}) {
    CAPTURE(name);
    const auto& c = preference_golden(name);
    const numbers z = c.at("z").get<numbers>();
    const auto [r, slope] = name[2] == '1' ? through(soft_clipped_reward{}, z) : through(sigmoid_reward{}, z);
    const numbers expected = c.at("expected").at("r").get<numbers>(), dr = c.at("expected").at("dr_dz").get<numbers>();
    CHECK(gap(r, expected) < 1e-14);
    CHECK(gap(slope, dr) < 1e-14);
    for (std::size_t i = 0; i < z.size(); ++i) CHECK(std::abs(slope[i] / dr[i] - 1) < 2e-4);  // far out, too: 9e-14 has digits
  }
}

TEST_CASE("F1: a reward grows with its logit from .548702248576 at the start of training to 1.313261690208, not 1") {
  const soft_clipped_reward g;
  CHECK(std::abs(g.value(-1e-4) - 0.548702248576) < 1e-12);
  CHECK(std::abs(g.supremum() - 1.313261690208) < 1e-12);
  CHECK(std::abs(g.value(1e6) - g.supremum()) < 1e-15);
  CHECK(g.value(-1e6) == 1e-8);
  for (double z = -30; z < 30; z += 0.25) {
    CHECK(g.value(z) < g.value(z + 0.25));
    CHECK(g.value(z) > 0);
    CHECK(sigmoid_reward{}.value(z) < sigmoid_reward{}.value(z + 0.25));
  }
  const soft_clipped_reward wide{3, 0.5};
  CHECK(std::abs(wide.value(1e3) - (0.5 + std::log1p(std::exp(2.5)))) < 1e-14);
  CHECK(std::abs(wide.value(-1e3) - 0.5) < 1e-15);
}

TEST_CASE("bounds of rewards that are no bounds are refused with both") {
  CHECK_THROWS_WITH((soft_clipped_reward{0, 0}), "soft_clipped_reward: most = 0.000000 and least = 0.000000, expected least < most < 700 and no more than 700 between them");
  CHECK_THROWS_AS((soft_clipped_reward{1, NAN}), error);
  CHECK_THROWS_AS((soft_clipped_reward{700, 0}), error);
  CHECK_THROWS_AS((soft_clipped_reward{1, -700}), error);
}

TEST_CASE("F2: slopes lie between 0 and 1 and are finite in float at logits of 30 either way and far beyond") {
  const numbers z{-1000, -100, -30, -5, 0, 5, 30, 100, 1000};
  const auto check = [&](const auto& g) {
    const auto [r, slope] = through<cpu<float>>(g, z);
    for (std::size_t i = 0; i < z.size(); ++i) {
      CHECK(std::isfinite(r[i]));
      CHECK((r[i] >= 0 && r[i] < 1.32f));
      CHECK((slope[i] >= 0 && slope[i] < 1));
    }
    CHECK((slope[2] > 0 && slope[6] > 0));
  };
  check(soft_clipped_reward{});
  check(sigmoid_reward{});
}

TEST_CASE("A19: rewards behind a small network have the published gradients of its last layer") {
  const auto& c = preference_golden("A19_reward_head_mlp");
  const auto& expected = c.at("expected");
  const auto [r, dz] = through(soft_clipped_reward{}, expected.at("z").get<numbers>());
  CHECK(gap(r, expected.at("r").get<numbers>()) < 1e-14);
  CHECK(std::abs(dz[0] + dz[1] - expected.at("grad_b2").at(0).get<double>()) < 1e-14);
  numbers dw2(4), du(8);
  for (std::size_t n = 0; n < 2; ++n)
    for (std::size_t j = 0; j < 4; ++j) {
      double u = c.at("b1").at(j).get<double>();
      for (std::size_t d = 0; d < 3; ++d) u += c.at("W1").at(j).at(d).get<double>() * c.at("h").at(n).at(d).get<double>();
      if (u <= 0) continue;
      dw2[j] += dz[n] * u;
      du[4 * n + j] = dz[n] * c.at("W2").at(0).at(j).get<double>();
    }
  CHECK(gap(dw2, flattened(expected.at("grad_W2"))) < 1e-14);
  numbers db1(4);
  for (std::size_t j = 0; j < 4; ++j) db1[j] = du[j] + du[4 + j];
  CHECK(gap(db1, expected.at("grad_b1").get<numbers>()) < 1e-14);
}

TEST_CASE("the pullback multiplies by the upstream and refuses one of another size") {
  context<B> cx;
  const numbers z{0.3, nan_value, -2}, up{2, 5, -3}, short_one{1};
  auto [r, pullback] = token_rewards(cx, sigmoid_reward{}, matrix(z, 3));
  const numbers dz = cx.read(pullback(row(up)));
  const double s = 1 / (1 + std::exp(-0.3)), t = 1 / (1 + std::exp(2.0));
  CHECK(std::abs(dz[0] - 2 * s * (1 - s)) < 1e-15);
  CHECK(std::abs(dz[2] + 3 * t * (1 - t)) < 1e-15);
  CHECK(std::abs(cx.read(r)[2] - t) < 1e-15);
  CHECK_THROWS_AS(pullback(row(short_one)), shape_error);
}
