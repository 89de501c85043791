#include <planlm/planning/gate.hpp>

#include <cmath>
#include <vector>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::normal_values;
using testing::same_bits;
using values = std::vector<double>;

static_assert(must_be_layer<no_gate<B>>() && must_be_layer<learned_gate<B>>() && must_be_layer<zero_gate<B>>());

TEST_CASE("a learned gate scales each column by its own factor, and its gradient sums over rows") {
  context<B> cx;
  testing::poison(cx);
  const learned_gate<B> gate{3, initial::ones};
  parameters<learned_gate<B>> theta(cx, gate, philox{1});
  theta.write(cx, 0, values{2, -1, 0});
  const values x{1, 2, 3, 4, 5, 6}, dy{1, 1, 1, 10, 10, 10};
  auto [y, pullback] = gate(cx, theta.weights, const_tensor<B>(x.data(), 2, 3));
  CHECK(cx.read(y) == values{2, -2, 0, 8, -5, 0});
  CHECK(cx.read(pullback(const_tensor<B>(dy.data(), 2, 3), theta.grads)) == values{2, -1, 0, 20, -10, 0});
  CHECK(theta.read_gradient(cx, 0) == values{41, 52, 63});
}

TEST_CASE("learned gates pass the gradient check and leave a frozen gate alone, whatever they start at") {
  for (const initial start : {initial::zeros, initial::ones, initial::normal}) {
    context<B> cx;
    CHECK(testing::gradient_error(cx, learned_gate<B>{5, start}, 4, 5) < 1e-9);
    CHECK(testing::gradient_error(cx, learned_gate<B>{1, start}, 1, 1) < 1e-9);
    CHECK(testing::frozen_parameters_stay_untouched(learned_gate<B>{5, start}, 4, 5));
  }
}

TEST_CASE("a gate starts where its configuration says: zeros, ones, or normal numbers as wide as Xavier's") {
  context<B> cx;
  const auto start_of = [&](const auto& gate) {
    parameters theta(cx, gate, philox{1});
    return theta.read(cx, 0);
  };
  CHECK(start_of(zero_gate<B>{4}) == values(4, 0.0));
  CHECK(start_of(one_gate<B>{4}) == values(4, 1.0));
  CHECK(start_of(learned_gate<B>{4}) == values(4, 0.0));
  const values random = start_of(random_gate<B>{4000});
  CHECK(random == start_of(learned_gate<B>{4000, initial::normal}));
  double squares = 0;
  for (const double v : random) squares += v * v;
  CHECK(std::sqrt(squares / 4000) == Approx(std::sqrt(2.0 / 4001)).epsilon(0.05));
}

TEST_CASE("a gate of ones is no gate, bit for bit") {
  context<B> cx;
  parameters<one_gate<B>> theta(cx, one_gate<B>{7}, philox{1});
  const values x = normal_values(35, 2), dy = normal_values(35, 3);
  auto [y, pullback] = one_gate<B>{7}(cx, theta.weights, const_tensor<B>(x.data(), 5, 7));
  CHECK(same_bits(cx.read(y), x));
  CHECK(same_bits(cx.read(pullback(const_tensor<B>(dy.data(), 5, 7), {})), dy));
}
