#include <planlm/layers/lora.hpp>

#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("low-rank adaptation passes the gradient check at odd shapes") {
  struct shape {
    index_t rows, in, out, rank;
  };
  for (const shape s : {shape{1, 1, 1, 1}, {1, 7, 3, 2}, {5, 1, 4, 1}, {9, 17, 5, 3}}) {
    CAPTURE(s.rows, s.in, s.out, s.rank);
    context<B> cx;
    testing::poison(cx);
    CHECK(testing::gradient_error(cx, lora<B>{{s.in, s.out}, s.rank, 8}, s.rows, s.in) < 1e-7);
    CHECK(testing::gradient_error(cx, lora<B>{{s.in, s.out, false}, s.rank}, s.rows, s.in) < 1e-7);
  }
}

TEST_CASE("low-rank adaptation starts as its base layer, bit for bit") {
  context<B> cx;
  const linear<B> base{7, 5};
  const lora<B> layer{base, 3};
  parameters theta(cx, layer, philox{4});
  const std::vector<double> x = testing::normal_values(6 * 7, 2);
  const const_tensor<B> input = cx.upload(std::span<const double>(x), 6, 7);
  CHECK(testing::same_bits(cx.read(layer(cx, theta.weights, input).value),
                           cx.read(base(cx, theta.weights.base, input).value)));
}

TEST_CASE("a frozen base learns nothing while both factors do") {
  context<B> cx;
  const lora<B> layer{{7, 5}, 3};
  parameters theta = testing::perturbed(cx, layer);
  lora<B>::params g = theta.grads;
  g.base = {};
  const auto out = testing::run_layer(cx, layer, theta, g, 6, 7, 0.0);
  const auto moved = [&](const char* name) {
    double total = 0;
    for (const double v : out.gradients[theta.find(name)]) total += std::abs(v);
    return total;
  };
  CHECK(moved("base.w") == 0);
  CHECK(moved("base.b") == 0);
  CHECK(moved("a") > 1);
  CHECK(moved("b") > 1);
  CHECK(testing::frozen_parameters_stay_untouched(layer, 6, 7));
}
