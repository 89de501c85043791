#include <planlm/layers/activation.hpp>

#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("GELU and SiLU pass the gradient check at odd shapes") {
  struct shape {
    index_t rows, cols;
  };
  for (const shape s : {shape{1, 1}, {1, 17}, {5, 7}, {31, 1}}) {
    CAPTURE(s.rows, s.cols);
    context<B> cx;
    testing::check_options wide;
    wide.input_scale = 3;
    CHECK(testing::gradient_error(cx, gelu<B>{}, s.rows, s.cols, wide) < 1e-7);
    CHECK(testing::gradient_error(cx, silu<B>{}, s.rows, s.cols, wide) < 1e-7);
  }
}

TEST_CASE("ReLU passes the gradient check away from zero") {
  for (const index_t n : {1, 7, 35}) {
    std::vector<double> x = testing::normal_values(n, 5);
    for (double& v : x) v += v < 0 ? -0.1 : 0.1;
    const std::vector<double> weight = testing::normal_values(n, 6);
    context<B> cx;
    const auto loss = [&](const std::vector<double>& v) {
      auto scope = cx.scope();
      const std::vector<double> y =
          cx.read(relu<B>{}(cx, {}, const_tensor<B>(cx.upload(std::span<const double>(v), 1, n))).value);
      double total = 0;
      for (std::size_t i = 0; i < y.size(); ++i) total += weight[i] * y[i];
      return total;
    };
    const auto gradient = [&](const std::vector<double>& v) {
      auto scope = cx.scope();
      auto [y, pullback] = relu<B>{}(cx, {}, const_tensor<B>(cx.upload(std::span<const double>(v), 1, n)));
      return cx.read(pullback(const_tensor<B>(cx.upload(std::span<const double>(weight), 1, n)), {}));
    };
    CHECK(testing::directional_error(x, loss, gradient) < 1e-8);
  }
  CHECK(ops::relu::f(0.0) == 0.0);
  CHECK(ops::relu::df(0.0) == 0.0);
}

namespace {

std::vector<double> ones(index_t n) { return std::vector<double>(static_cast<std::size_t>(n), 1.0); }

/// Dropout of ones, forward and backward: the masks times 1 / (1 - rate).
struct masks {
  std::vector<double> forward, backward;
};
masks masks_of(context<B>& cx, const dropout<B>& layer, index_t rows, index_t cols) {
  auto scope = cx.scope();
  const std::vector<double> one = ones(rows * cols);
  auto [y, pullback] = layer(cx, {}, const_tensor<B>(cx.upload(std::span<const double>(one), rows, cols)));
  const auto dx = pullback(const_tensor<B>(cx.upload(std::span<const double>(one), rows, cols)), {});
  return {cx.read(y), cx.read(dx)};
}

}  // namespace

TEST_CASE("dropout passes the gradient check while training and in evaluation") {
  context<B> cx;
  cx.random = philox{9, 4, 0};
  for (const bool training : {true, false}) {
    cx.training = training;
    for (const index_t cols : {1, 7, 33})
      CHECK(testing::gradient_error(cx, dropout<B>{0.4, 2}, 5, cols) < 1e-8);
  }
}

TEST_CASE("dropout is the identity in evaluation and at rate 0, without a copy") {
  context<B> cx;
  const const_tensor<B> x = cx.make_zero(3, 5);
  cx.training = false;
  CHECK(dropout<B>{0.5, 1}(cx, {}, x).value.data == x.data);
  CHECK(dropout<B>{0.5, 1}(cx, {}, x).pullback(x, {}).data == x.data);
  cx.training = true;
  CHECK(dropout<B>{0.0, 1}(cx, {}, x).value.data == x.data);
  CHECK(dropout<B>{0.5, 1}(cx, {}, x).value.data != x.data);
}

TEST_CASE("dropout uses one mask forward and backward, drops at its rate, and keeps the mean") {
  for (const double rate : {0.1, 0.5, 0.8}) {
    CAPTURE(rate);
    context<B> cx;
    cx.random = philox{17};
    const masks m = masks_of(cx, dropout<B>{rate, 3}, 301, 333);  // 100233 elements: no multiple of four
    CHECK(testing::same_bits(m.forward, m.backward));
    double zeros = 0, total = 0, others = 0;
    for (const double v : m.forward) {
      others += v != 0 && v != 1 / (1 - rate);
      zeros += v == 0;
      total += v;
    }
    const auto n = static_cast<double>(m.forward.size());
    const double deviation = std::sqrt(rate * (1 - rate) / n);
    CHECK(others == 0);
    CHECK(std::abs(zeros / n - rate) < 5 * deviation);
    CHECK(std::abs(total / n - 1) < 5 * deviation / (1 - rate));
  }
}

TEST_CASE("the mask of dropout depends on seed, step and stream, and not on threads") {
  const auto mask = [](int threads, std::uint64_t seed, std::uint32_t step, std::uint32_t stream) {
    context<B> cx{B::queue(threads)};
    cx.random = philox{seed, step, 0};
    return masks_of(cx, dropout<B>{0.5, stream}, 301, 333).forward;
  };
  const auto first = mask(1, 1, 1, 1);
  CHECK(testing::same_bits(mask(2, 1, 1, 1), first));
  CHECK(testing::same_bits(mask(3, 1, 1, 1), first));
  CHECK_FALSE(testing::same_bits(mask(1, 2, 1, 1), first));
  CHECK_FALSE(testing::same_bits(mask(1, 1, 2, 1), first));
  CHECK_FALSE(testing::same_bits(mask(1, 1, 1, 2), first));
}
