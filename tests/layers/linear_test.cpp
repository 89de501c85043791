#include <planlm/layers/linear.hpp>

#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("linear multiplies by the transposed weights and adds the bias") {
  context<B> cx;
  const linear<B> layer{2, 3};
  parameters theta(cx, layer, philox{1});
  theta.write(cx, theta.find("w"), std::vector<double>{1, 2, 3, 4, 5, 6});
  theta.write(cx, theta.find("b"), std::vector<double>{10, 20, 30});
  const std::vector<double> x{1, -1, 2, 0.5};
  auto [y, pullback] = layer(cx, theta.weights, const_tensor<B>(cx.upload(std::span<const double>(x), 2, 2)));
  CHECK(cx.read(y) == std::vector<double>{9, 19, 29, 13, 28, 43});

  const std::vector<double> dy{1, 0, 0, 0, 1, -1};
  const auto dx = pullback(const_tensor<B>(cx.upload(std::span<const double>(dy), 2, 3)), theta.grads);
  CHECK(cx.read(dx) == std::vector<double>{1, 2, -2, -2});
  CHECK(theta.read_gradient(cx, theta.find("w")) == std::vector<double>{1, -1, 2, 0.5, -2, -0.5});
  CHECK(theta.read_gradient(cx, theta.find("b")) == std::vector<double>{1, 1, -1});
}

TEST_CASE("linear passes the gradient check at odd shapes, with bias and without") {
  struct shape {
    index_t rows, in, out;
  };
  for (const shape s : {shape{1, 1, 1}, {1, 7, 3}, {5, 1, 4}, {9, 17, 1}, {33, 5, 19}, {67, 33, 50}})
    for (const bool bias : {true, false}) {
      CAPTURE(s.rows, s.in, s.out, bias);
      context<B> cx;
      testing::poison(cx);
      CHECK(testing::gradient_error(cx, linear<B>{s.in, s.out, bias}, s.rows, s.in) < 1e-7);
    }
}

TEST_CASE("a frozen weight or bias of linear is left untouched and changes nothing else") {
  CHECK(testing::frozen_parameters_stay_untouched(linear<B>{7, 5}, 6, 7));
  CHECK(testing::frozen_parameters_stay_untouched(linear<B>{7, 5, false}, 6, 7));
}

TEST_CASE("linear names both widths and the caller when its input is too narrow") {
  context<B> cx;
  const linear<B> layer{4, 3};
  parameters theta(cx, layer, philox{1});
  CHECK_THROWS_AS(layer(cx, theta.weights, const_tensor<B>(cx.make(2, 5))), shape_error);
  try {
    layer(cx, theta.weights, const_tensor<B>(cx.make(2, 5)));
  } catch (const shape_error& e) {
    const std::string what = e.what();
    CHECK(what.find("x is (2, 5), the layer expects (N, 4)") != std::string::npos);
    CHECK(what.find("linear_test.cpp:") != std::string::npos);
  }
}
