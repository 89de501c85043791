#include <planlm/ops/softmax.hpp>

#include <cmath>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;

namespace {

std::vector<double> softmax_of(context<B>& cx, const std::vector<double>& z, index_t rows,
                               double temperature = 1) {
  auto scope = cx.scope();
  return cx.read(ops::softmax(
      cx, const_tensor<B>(cx.upload(std::span<const double>(z), rows, static_cast<index_t>(z.size()) / rows)),
      temperature));
}

}  // namespace

TEST_CASE("softmax by hand, at two temperatures") {
  context<B> cx;
  const std::vector<double> z{0, std::log(2.0), std::log(5.0)};
  CHECK(largest_error(softmax_of(cx, z, 1), std::vector<double>{1 / 8.0, 2 / 8.0, 5 / 8.0}) < 1e-15);
  CHECK(largest_error(softmax_of(cx, z, 1, 0.5), std::vector<double>{1 / 30.0, 4 / 30.0, 25 / 30.0}) < 1e-15);
}

TEST_CASE(
    "softmax does not change when a row is shifted, far beyond the range of exp too, and its rows sum to 1") {
  context<B> cx;
  for (const index_t cols : {1, 3, 16, 50}) {
    CAPTURE(cols);
    const std::vector<double> z = normal_values(4 * cols, 1, 3);
    const auto p = softmax_of(cx, z, 4);
    for (const double shift : {-5000.0, 7.0, 5000.0}) {
      std::vector<double> moved = z;
      for (double& v : moved) v += shift;
      CHECK(largest_error(softmax_of(cx, moved, 4), p) < 1e-11);
    }
    for (index_t r = 0; r < 4; ++r) {
      double total = 0;
      for (index_t i = 0; i < cols; ++i) total += p[static_cast<std::size_t>(r * cols + i)];
      CHECK(total == Approx(1).epsilon(1e-14));
    }
  }
}

TEST_CASE("softmax passes the directional check at odd shapes and temperatures") {
  for (const index_t cols : {1, 3, 17})
    for (const double temperature : {0.3, 1.0, 4.0}) {
      CAPTURE(cols, temperature);
      context<B> cx;
      const index_t rows = 3;
      const std::vector<double> dp = normal_values(rows * cols, 2);
      const auto loss = [&](const std::vector<double>& z) {
        const auto p = softmax_of(cx, z, rows, temperature);
        double total = 0;
        for (std::size_t i = 0; i < p.size(); ++i) total += dp[i] * p[i];
        return total;
      };
      const auto gradient = [&](const std::vector<double>& z) {
        auto scope = cx.scope();
        const auto load = [&](const std::vector<double>& v) {
          return const_tensor<B>(cx.upload(std::span<const double>(v), rows, cols));
        };
        const const_tensor<B> p = ops::softmax(cx, load(z), temperature);
        return cx.read(ops::softmax_pullback(cx, p, load(dp), temperature));
      };
      CHECK(testing::directional_error(normal_values(rows * cols, 1), loss, gradient) < 1e-8);
    }
}
