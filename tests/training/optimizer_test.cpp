#include <planlm/training/optimizer.hpp>

#include <array>
#include <cmath>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/lane_team.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>
#include <planlm/training/lion.hpp>
#include <planlm/training/sgd.hpp>
#include <vector>

#include "../catch.hpp"
#include "../heap_requests.hpp"
#include "flat.hpp"

using namespace planlm;
using testing::flat_view;
using testing::one_value;

static_assert(Optimizer<adamw<cpu<float>>> && Optimizer<sgd<cpu<double>>> && Optimizer<lion<cpu<float>>>);
static_assert(!Optimizer<int>);

namespace {

/// Calls check(name, make): make(cx, size, ranges) builds an optimiser, for each of them.
template <class B, class F>
void for_each_optimiser(F check) {
  using ranges = std::vector<decay_range>;
  check("adamw", [](context<B>& cx, index_t n, ranges r = {}) {
    return adamw<B>{cx, n, {.weight_decay = 0.1}, r};
  });
  check("sgd", [](context<B>& cx, index_t n, ranges r = {}) {
    return sgd<B>{cx, n, {.weight_decay = 0.1}, r};
  });
  check("sgd with momentum", [](context<B>& cx, index_t n, ranges r = {}) {
    return sgd<B>{cx, n, {.momentum = 0.9, .weight_decay = 0.1}, r};
  });
  check("nesterov", [](context<B>& cx, index_t n, ranges r = {}) {
    return sgd<B>{cx, n, {.momentum = 0.9, .weight_decay = 0.1, .nesterov = true}, r};
  });
  check("lion", [](context<B>& cx, index_t n, ranges r = {}) {
    return lion<B>{cx, n, {.weight_decay = 0.1}, r};
  });
}

/// Weights after three steps of random gradients.
template <class T, class Make>
std::vector<T> trained(Make make, int threads, index_t n, const std::vector<decay_range>& ranges = {}) {
  using B = cpu<T>;
  context<B> cx{typename B::queue(threads)};
  auto w = testing::normal_values<T>(n, 1);
  auto optimiser = make(cx, n, ranges);
  for (std::uint64_t step = 0; step < 3; ++step) {
    auto g = testing::normal_values<T>(n, 10 + step);
    optimiser.step(cx, flat_view(w), flat_view(g), 0.01);
  }
  return w;
}

}  // namespace

TEST_CASE("every optimiser zeroes the gradients it consumed and counts its steps") {
  for_each_optimiser<cpu<float>>([](const char* name, auto make) {
    CAPTURE(name);
    context<cpu<float>> cx;
    const index_t n = 2 * update_block + 5;
    auto w = testing::normal_values<float>(n, 1), g = testing::normal_values<float>(n, 2);
    const auto before = w;
    auto optimiser = make(cx, n);
    optimiser.step(cx, flat_view(w), flat_view(g), 0.01);
    CHECK(testing::same_bits(g, std::vector<float>(g.size(), 0.0f)));
    CHECK(optimiser.count == 1);
    std::size_t moved = 0;
    for (std::size_t i = 0; i < w.size(); ++i) moved += w[i] != before[i];
    CHECK(moved == w.size());
  });
}

TEST_CASE("every optimiser gives the same bits for one, two and three threads") {
  for_each_optimiser<cpu<float>>([](const char* name, auto make) {
    CAPTURE(name);
    const index_t n = 50 * update_block + 77;
    const auto one = trained<float>(make, 1, n);
    CHECK(testing::same_bits(trained<float>(make, 2, n), one));
    CHECK(testing::same_bits(trained<float>(make, 3, n), one));
  });
}

TEST_CASE("a factor on the device is the same as scaled gradients") {
  for_each_optimiser<cpu<double>>([](const char* name, auto make) {
    CAPTURE(name);
    context<cpu<double>> cx;
    const index_t n = 3000;
    auto w = testing::normal_values(n, 1), expected = w, g = testing::normal_values(n, 2), halves = g;
    for (double& x : halves) x *= 0.5;
    const double half = 0.5;
    auto a = make(cx, n), b = make(cx, n);
    a.step(cx, flat_view(w), flat_view(g), 0.01, one_value(half));
    b.step(cx, flat_view(expected), flat_view(halves), 0.01);
    CHECK(testing::same_bits(w, expected));
  });
}

TEST_CASE("a factor that is not finite leaves weights, state and gradients as they are") {
  for_each_optimiser<cpu<double>>([](const char* name, auto make) {
    CAPTURE(name);
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
      context<cpu<double>> cx;
      auto w = testing::normal_values(100, 1), g = testing::normal_values(100, 2);
      const auto w_before = w, g_before = g;
      auto optimiser = make(cx, 100);
      optimiser.step(cx, flat_view(w), flat_view(g), 0.01, one_value(bad));
      CHECK(testing::same_bits(w, w_before));
      CHECK(testing::same_bits(g, g_before));
      for (const auto& s : optimiser.state())
        CHECK(testing::same_bits(cx.read(s.values), std::vector<double>(100, 0.0)));
    }
  });
}

TEST_CASE("no step allocates from the heap, clipping included, once the arena has its size") {
  for_each_optimiser<cpu<float>>([](const char* name, auto make) {
    CAPTURE(name);
    context<cpu<float>> cx{cpu<float>::queue(2)};
    const index_t n = 100000;
    std::vector<float> w(static_cast<std::size_t>(n), 1), g(w);
    auto optimiser = make(cx, n, {{0, 500, 0.0}, {600, 5, 2.0}});
    auto step = [&] {
      auto scope = cx.scope();
      auto norm = clip_global_norm(cx, 1.0, flat_view(g));
      optimiser.step(cx, flat_view(w), flat_view(g), 0.01, norm.factor);
    };
    step();
    CHECK(testing::heap_requests([&] {
            for (int i = 0; i < 5; ++i) step();
          }) == 0);
    std::vector<float> counted_too;
    CHECK(testing::heap_requests([&] { counted_too.resize(10); }) == 1);
  });
}

TEST_CASE("saved state and count continue a run bit for bit") {
  for_each_optimiser<cpu<float>>([](const char* name, auto make) {
    CAPTURE(name);
    context<cpu<float>> cx;
    const index_t n = 1500;
    auto w = testing::normal_values<float>(n, 1);
    auto optimiser = make(cx, n);
    auto run = [&](auto& o, std::vector<float>& weights, std::uint64_t from) {
      for (std::uint64_t s = from; s < from + 4; ++s) {
        auto g = testing::normal_values<float>(n, 20 + s);
        o.step(cx, flat_view(weights), flat_view(g), 0.01);
      }
    };
    run(optimiser, w, 0);
    auto resumed = make(cx, n);
    auto w2 = w;
    resumed.count = optimiser.count;
    const auto from = optimiser.state(), to = resumed.state();
    REQUIRE(from.size() == to.size());
    for (std::size_t i = 0; i < from.size(); ++i)
      for (index_t j = 0; j < n; ++j) to[i].values[j] = from[i].values[j];
    run(optimiser, w, 4);
    run(resumed, w2, 4);
    CHECK(testing::same_bits(w, w2));
  });
}

TEST_CASE("decay ranges multiply the decay of their values and of no others") {
  for_each_optimiser<cpu<double>>([](const char* name, auto make) {
    CAPTURE(name);
    const index_t n = 3 * update_block;
    const auto plain = trained<double>(make, 2, n);
    const std::vector<decay_range> ones{{5, 2000, 1.0}};
    CHECK(testing::same_bits(trained<double>(make, 2, n, ones), plain));

    context<cpu<double>> cx;
    std::vector<double> w(static_cast<std::size_t>(n), 1), g(w.size());
    auto optimiser = make(cx, n, {{0, 1, 0.0}, {10, 2000, 0.0}, {2010, 7, 3.0}});
    optimiser.step(cx, flat_view(w), flat_view(g), 0.5);
    auto expected = [](index_t i) {
      return i == 0 || (i >= 10 && i < 2010) ? 1.0 : i >= 2010 && i < 2017 ? 0.85 : 0.95;
    };
    index_t right = 0;
    // The gradient of SGD's decay also enters its Nesterov velocity: there the move is 1.9 times as long.
    const double longer = std::string(name) == "nesterov" ? 1.9 : 1;
    for (index_t i = 0; i < n; ++i)
      right += std::abs(w[static_cast<std::size_t>(i)] - (1 - longer * (1 - expected(i)))) < 1e-14;
    CHECK(right == n);
  });
}

TEST_CASE("decay ranges of a store cover it, join equal neighbours and leave vectors alone") {
  const std::vector<parameter_slot> slots{{vector_spec("a.scale", 5), 0},
                                          {vector_spec("a.shift", 5), 16},
                                          {matrix_spec("b.weight", 3, 5, initial::normal), 32},
                                          {vector_spec("b.bias", 3), 48}};
  const auto ranges = decay_of_matrices(slots);
  REQUIRE(ranges.size() == 3);
  CHECK((ranges[0].offset == 0 && ranges[0].size == 32 && ranges[0].factor == 0));
  CHECK((ranges[1].offset == 32 && ranges[1].size == 16 && ranges[1].factor == 1));
  CHECK((ranges[2].offset == 48 && ranges[2].size == 3 && ranges[2].factor == 0));
  CHECK(decay_by(slots, [](const parameter_spec&) { return 1.0; }).size() == 1);
  CHECK(decay_of_matrices({}).empty());
}

TEST_CASE("every optimiser converges on a quadratic") {
  using B = cpu<double>;
  // f = sum_i c_i (w_i - i)^2 / 2 with curvatures 0.5 to 2.
  auto distance = [](auto optimiser, context<B>& cx, double rate) {
    const index_t n = 7;
    std::vector<double> w(n, 20), g(n);
    for (int step = 0; step < 3000; ++step) {
      for (int i = 0; i < n; ++i)
        g[static_cast<std::size_t>(i)] = (0.5 + 0.25 * i) * (w[static_cast<std::size_t>(i)] - i);
      optimiser.step(cx, flat_view(w), flat_view(g), rate * (1 - step / 3000.0));
    }
    double worst = 0;
    for (int i = 0; i < n; ++i) worst = std::max(worst, std::abs(w[static_cast<std::size_t>(i)] - i));
    return worst;
  };
  context<B> cx;
  CHECK(distance(adamw<B>{cx, 7}, cx, 0.1) < 1e-3);
  CHECK(distance(sgd<B>{cx, 7}, cx, 0.1) < 1e-6);
  CHECK(distance(sgd<B>{cx, 7, {.momentum = 0.9}}, cx, 0.1) < 1e-6);
  CHECK(distance(sgd<B>{cx, 7, {.momentum = 0.9, .nesterov = true}}, cx, 0.1) < 1e-6);
  CHECK(distance(lion<B>{cx, 7}, cx, 0.1) < 1e-2);
}

TEST_CASE("accumulating two half batches is the full batch up to rounding") {
  using B = cpu<double>;
  context<B> cx;
  const index_t rows = 12, width = 5, vocabulary = 9;
  const auto hidden = testing::normal_values(rows * width, 1),
             start = testing::normal_values(vocabulary * width, 2);
  std::vector<int> targets(static_cast<std::size_t>(rows));
  for (std::size_t r = 0; r < targets.size(); ++r) targets[r] = static_cast<int>(r * 4 % 9);

  auto step = [&](std::vector<index_t> cuts) {
    std::vector<double> table = start, grads(table.size());
    adamw<B> optimiser{cx, vocabulary * width};
    for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
      const index_t begin = cuts[c], n = cuts[c + 1] - begin;
      auto scope = cx.scope();
      ops::linear_cross_entropy<B>(cx, {hidden.data() + begin * width, n, width},
                                   {table.data(), vocabulary, width}, {targets.data() + begin, n}, {},
                                   1.0 / static_cast<double>(rows),
                                   tensor<B>{grads.data(), vocabulary, width});
    }
    const auto accumulated = grads;
    optimiser.step(cx, flat_view(table), flat_view(grads), 0.1);
    return std::array{accumulated, table};
  };
  const auto full = step({0, rows}), halves = step({0, rows / 2, rows}), odd = step({0, 1, 8, rows});
  CHECK(testing::largest_error(halves[0], full[0]) < 1e-15);
  CHECK(testing::largest_error(halves[1], full[1]) < 1e-13);
  CHECK(testing::largest_error(odd[1], full[1]) < 1e-13);
}

TEST_CASE("the update kernel runs on a team of lanes") {
  const index_t n = update_block + 37;
  auto w = testing::normal_values(n, 1), g = testing::normal_values(n, 2), expected = w, g2 = g;
  std::vector<double> b(w.size()), b2(w.size());
  const kernel::sgd<double, kernel::sgd_form::momentum> rule{b.data(), 0.1, 0.9, 0.01},
      same{b2.data(), 0.1, 0.9, 0.01};
  testing::run_lanes<4>(
      2, kernel::update<double, double, decltype(rule)>{rule, w.data(), nullptr, g.data(), nullptr, 0, n});
  context<cpu<double>> cx;
  update_weights<cpu<double>>(cx, flat_view(expected), flat_view(g2), {}, {}, same);
  CHECK(testing::largest_error(w, expected) < 1e-15);
  CHECK(testing::same_bits(g, g2));
}

TEST_CASE("a step refuses views of another size, a missing gradient and a rate that is no number") {
  for_each_optimiser<cpu<float>>([](const char* name, auto make) {
    CAPTURE(name);
    context<cpu<float>> cx;
    std::vector<float> w(4), g(3);
    auto optimiser = make(cx, 4);
    CHECK_THROWS_AS(optimiser.step(cx, flat_view(w), flat_view(g), 0.1), shape_error);
    CHECK_THROWS_AS(optimiser.step(cx, flat_view(w), {}, 0.1), shape_error);
    CHECK_THROWS_AS(optimiser.step(cx, flat_view(w), flat_view(w), NAN), error);
    CHECK(optimiser.count == 0);
    CHECK_THROWS_AS(make(cx, 4, {{0, 3, 0.0}, {2, 1, 0.0}}), shape_error);
    CHECK_THROWS_AS(make(cx, 4, {{0, 5, 0.0}}), shape_error);
  });
}
