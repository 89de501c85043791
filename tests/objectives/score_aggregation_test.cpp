#include <planlm/objectives/score_aggregation.hpp>

#include <planlm/testing/lane_team.hpp>

#include "preference_case.hpp"

using namespace objectives_test;

namespace {
/// f(aggregation, its name in the goldens).
template <class F>
void for_each_aggregation(const F& f, double beta = 2, bool common_length = true) {
  f(aggregation::sum{}, "sum");
  f(aggregation::average{common_length}, "avg");
  f(aggregation::soft_max{beta, common_length}, "max");
  f(aggregation::soft_min{beta, common_length}, "min");
}
/// Value without C of one generation of rewards, and each reward's weight.
template <class F>
std::pair<double, numbers> alone(const F& f, const numbers& r) {
  const auto n = static_cast<index_t>(r.size());
  const double v = f.value(serial_team{}, n, [&](index_t t) { return r[static_cast<std::size_t>(t)]; });
  numbers w;
  for (const double x : r) w.push_back(f.weight(v, n, x));
  return {v, w};
}
double total(const numbers& v) {
  double s = 0;
  for (const double x : v) s += x;
  return s;
}
}  // namespace

TEST_CASE("A03, F15: every aggregation has the published scores and gradients, padded as packed, lists of rows that follow each other") {
  const auto& c = preference_golden("A03_aggregate");  // F15: rows are (list, place); taken the other way round the scores differ
  const numbers upstream = flattened(c.at("c"));
  for (const double beta : {2.0, 0.5})
    for_each_aggregation(
        [&](const auto& f, std::string name) {
          if (name == "max" || name == "min") name += beta == 2 ? "_beta2.0" : "_beta0.5";
          CAPTURE(name);
          const auto& expected = c.at("expected").at(name);
          const numbers dx = flattened(expected.at("grad_x"));
          const list_batch padded = list_batch::of(c.at("x"), c.at("mask"), 2), packed = list_batch::of(c.at("x"), c.at("mask"), 2, 0),
                           apart = list_batch::of(c.at("x"), c.at("mask"), 2, 3);
          for (const list_batch& b : {padded, packed, apart}) {
            const auto [e, dz] = scores(b, no_squash{}, f, upstream);
            CHECK(gap(e, flattened(expected.at("e"))) < 1e-12);
            CHECK(gap(b.tokens(dz), padded.tokens(dx)) < 1e-12);
            CHECK(b.nothing_between(dz));
          }
        },
        beta);
  list_batch turned = list_batch::of(c.at("x"), c.at("mask"), 2);
  turned.item = {0, 2, 1, 3};
  CHECK(gap(scores(turned, no_squash{}, aggregation::average{}).first, flattened(c.at("expected").at("avg").at("e"))) > 0.1);
}

TEST_CASE("A04, F11: scores of a constant reward have the published offsets of beta ln n, which the option takes away") {
  const auto& c = preference_golden("A04_aggregate_constant_reward_identity");
  const double r = c.at("r").get<double>(), beta = c.at("beta").get<double>();
  for (const auto& length : c.at("lengths")) {
    const numbers rewards(length.get<std::size_t>(), r);
    for_each_aggregation(
        [&](const auto& f, const std::string& name) {
          CAPTURE(name, rewards.size());
          const double expected = c.at("expected").at(std::to_string(rewards.size())).at(name).template get<double>();
          CHECK(std::abs(alone(f, rewards).first - expected) < 1e-14);
        },
        beta);
    CHECK(std::abs(alone(aggregation::soft_max{beta, true, true}, rewards).first - r) < 1e-14);
    CHECK(std::abs(alone(aggregation::soft_min{beta, true, true}, rewards).first - r) < 1e-14);
  }
}

TEST_CASE("A21: soft aggregations have the published weights, nearly equal at beta 2, all on one token at small beta") {
  const auto& c = preference_golden("A21_soft_agg_gradient_weights");
  const numbers r = c.at("r").get<numbers>();
  const auto [top, high] = alone(aggregation::soft_max{2}, r);
  const auto [bottom, low] = alone(aggregation::soft_min{2}, r);
  CHECK(std::abs(top - c.at("expected").at("max").get<double>()) < 1e-14);
  CHECK(std::abs(bottom - c.at("expected").at("min").get<double>()) < 1e-14);
  CHECK(gap(high, c.at("expected").at("max_weights").get<numbers>()) < 1e-14);
  CHECK(gap(low, c.at("expected").at("min_weights").get<numbers>()) < 1e-14);
  const auto [hard, one] = alone(aggregation::soft_max{1e-3}, r);
  CHECK(std::abs(hard - 0.9) < 1e-12);
  CHECK(gap(one, {0, 0, 1}) < 1e-12);
  const auto [mean, equal] = alone(aggregation::soft_max{1e6, true, true}, r);
  CHECK(std::abs(mean - 0.5) < 1e-6);
  CHECK(gap(equal, {1. / 3, 1. / 3, 1. / 3}) < 1e-6);
}

TEST_CASE("F10, F12: the soft minimum is minus the soft maximum of minus the rewards, and they enclose the hard ones") {
  const numbers r = planlm::testing::normal_values(9, 3);
  numbers turned = r;
  for (double& x : turned) x = -x;
  const double top = *std::max_element(r.begin(), r.end()), bottom = *std::min_element(r.begin(), r.end());
  for (const double beta : {0.01, 0.5, 2.0, 50.0})
    for (const bool corrected : {false, true}) {
      CAPTURE(beta, corrected);
      const aggregation::soft_max high{beta, true, corrected};
      const aggregation::soft_min low{beta, true, corrected};
      CHECK(alone(low, r).first == -alone(high, turned).first);
      CHECK(alone(low, r).second == alone(high, turned).second);
      if (corrected) CHECK((alone(high, r).first <= top && alone(low, r).first >= bottom));
      else CHECK((alone(high, r).first >= top && alone(low, r).first <= bottom));
    }
}

TEST_CASE("F9, F13: weights of a generation add up to its length or to C, and C average is the sum at equal lengths") {
  const list_batch b = list_batch::random({5, 2, 3, 1, 7, 4}, {0, 3, 6}, 20);
  const numbers ones(6, 1);
  const numbers common{10. / 3, 10. / 3, 10. / 3, 4, 4, 4};
  for_each_aggregation([&](const auto& f, const std::string& name) {
    CAPTURE(name);
    const numbers dz = scores(b, no_squash{}, f, ones).second;
    for (std::size_t s = 0; s < 6; ++s) {
      double sum = 0;
      for (int t = 0; t < b.length[s]; ++t) sum += dz[static_cast<std::size_t>(b.first[s] + t)];
      CHECK(std::abs(sum - (name == "sum" ? b.length[s] : common[s])) < 1e-13);
    }
  });
  for_each_aggregation(
      [&](const auto& f, const std::string& name) {
        if (name == "sum") return;
        CHECK(std::abs(total(scores(b, no_squash{}, f, ones).second) - 6) < 1e-13);
      },
      0.7, false);
  const list_batch equal = list_batch::random({4, 4, 4}, {0, 3}, 30);
  const soft_clipped_reward g;
  CHECK(gap(scores(equal, g, aggregation::average{}).first, scores(equal, g, aggregation::sum{}).first) < 1e-14);
}

TEST_CASE("a generation in several lists has the C of each, and the sum of what they ask") {
  list_batch shared = list_batch::random({3, 1, 4}, {0, 2, 4}, 40);
  shared.item = {0, 1, 2, 0};
  shared.score = {1, 2, 3, 4};
  const numbers c{0.5, -2, 1, 3};
  const auto [e, dz] = scores(shared, sigmoid_reward{}, aggregation::average{}, c);
  numbers mean(3), upstream{0.5 * 2 + 3 * 3.5, -2 * 2, 3.5};
  for (std::size_t s = 0; s < 3; ++s) {
    for (int t = 0; t < shared.length[s]; ++t) {
      const auto i = static_cast<std::size_t>(shared.first[s] + t);
      mean[s] += sigmoid_reward{}.value(shared.z[i]) / shared.length[s];
      CHECK(std::abs(dz[i] - upstream[s] / shared.length[s] * sigmoid_reward{}.slope(shared.z[i])) < 1e-14);
    }
  }
  CHECK(gap(e, {2 * mean[0], 2 * mean[1], 3.5 * mean[2], 3.5 * mean[0]}) < 1e-14);
}

TEST_CASE("a generation without tokens has score 0 and no part in C, and one in no list has no gradient") {
  list_batch b = list_batch::random({2, 0, 4, 3}, {0, 3}, 50);
  const auto [e, dz] = scores(b, no_squash{}, aggregation::average{}, {1, nan_value, 1, nan_value});
  CHECK(e[1] == 0);
  CHECK(e[3] == 0);
  CHECK(std::abs(e[0] - 3 * (b.z[1] + b.z[2]) / 2) < 1e-14);
  CHECK(std::abs(dz[1] - 1.5) < 1e-14);
  CHECK(dz[static_cast<std::size_t>(b.first[3])] == 0);
  CHECK(b.nothing_between(dz));
}

TEST_CASE("kernels of scores give a lane team the numbers of one thread") {
  list_batch b = list_batch::random({40, 1, 0, 17, 33, 5, 2}, {0, 4, 4, 9}, 60);
  b.item = {0, 1, 2, 3, 4, 5, 6, 0, 3};
  b.score.assign(9, 1);
  const numbers de = planlm::testing::normal_values(9, 61);
  const auto rows = static_cast<index_t>(b.z.size());
  const auto read = preference_detail::reader(b.lists(), rows);
  const auto run = [&](auto launch) {
    numbers reward(b.z.size()), value(7), factor(9), e(9), dz(b.z.size());
    const soft_clipped_reward g;
    const aggregation::soft_min f{0.3};
    launch(7, preference_kernel::aggregate_rewards<soft_clipped_reward, aggregation::soft_min, double>{
                  g, f, read, b.z.data(), reward.data(), value.data()});
    launch(3, preference_kernel::score_lists{read, value.data(), factor.data(), e.data(), true});
    launch(7, preference_kernel::aggregate_pullback<soft_clipped_reward, aggregation::soft_min, double>{
                  g, f, read, b.z.data(), reward.data(), value.data(), factor.data(), de.data(), dz.data()});
    numbers out = value;
    for (const numbers* v : {&reward, &factor, &e, &dz}) out.insert(out.end(), v->begin(), v->end());
    return out;
  };
  const numbers serial = run([](index_t n, const auto& kernel) {
    for (index_t r = 0; r < n; ++r) kernel(serial_team{}, r);
  });
  const numbers lanes = run([](index_t n, const auto& kernel) { planlm::testing::run_lanes<4>(n, kernel); });
  CHECK(gap(serial, lanes) < 1e-12);
}

TEST_CASE("lists that do not fit their generations are refused") {
  const auto fails = [](const auto& change, const auto& f) {
    list_batch b = list_batch::random({2, 3}, {0, 2}, 70);
    change(b);
    CHECK_THROWS_AS(scores(b, sigmoid_reward{}, f), error);
  };
  const auto keep = [](list_batch&) {};
  const aggregation::sum sum;
  fails([](list_batch& b) { b.first.pop_back(); }, sum);
  fails([](list_batch& b) { b.length.clear(), b.first.clear(); }, sum);
  fails([](list_batch& b) { b.offsets = {0}; }, sum);
  fails([](list_batch& b) { b.tie = {1}; }, sum);
  fails(keep, aggregation::soft_max{0});
  fails(keep, aggregation::soft_min{-1});
  fails(keep, aggregation::soft_max{nan_value});
  fails(keep, aggregation::soft_min{INFINITY});
  const list_batch good = list_batch::random({2, 3}, {0, 2}, 70);
  const numbers short_one{1};
  CHECK_THROWS_AS(scores(good, sigmoid_reward{}, sum, short_one), shape_error);
}

TEST_CASE("numbers that point outside of the logits or the generations are cut off, not followed") {
  list_batch b = list_batch::random({2, 3}, {0, 2}, 80);
  for (double& v : b.z) v = 1;  // seven rows
  b.offsets = {-3, 50}, b.item = {7, -1, 1};
  b.first = {0, 5}, b.length = {4, 100};
  CHECK(scores(b, no_squash{}, aggregation::sum{}).first == numbers{0, 0, 2});
  b.first = {0, -5}, b.length = {0, 3};
  CHECK(scores(b, no_squash{}, aggregation::sum{}).first == numbers{0, 0, 3});
  b.first = {0, 900};
  CHECK(scores(b, no_squash{}, aggregation::sum{}).first == numbers{0, 0, 0});
}
