#include <planlm/layers/embedding.hpp>

#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("embedding picks rows, gives zeros for negative numbers, and adds gradients of repeated rows") {
  context<B> cx;
  const embedding<B> layer{3, 2};
  parameters theta(cx, layer, philox{1});
  theta.write(cx, 0, std::vector<double>{1, 2, 3, 4, 5, 6});
  const std::vector<int> ids{2, 0, -1, 2};
  auto [y, pullback] = layer(cx, theta.weights, indices<B>(cx.upload(ids)));
  CHECK(cx.read(y) == std::vector<double>{5, 6, 1, 2, 0, 0, 5, 6});
  const std::vector<double> dy{1, 2, 3, 4, 5, 6, 7, 8};
  const const_tensor<B> upstream = cx.upload(std::span<const double>(dy), 4, 2);
  pullback(upstream, theta.grads);
  CHECK(theta.read_gradient(cx, 0) == std::vector<double>{3, 4, 0, 0, 8, 10});
  pullback(upstream, theta.grads);
  CHECK(theta.read_gradient(cx, 0) == std::vector<double>{6, 8, 0, 0, 16, 20});
  pullback(upstream, {});
  CHECK(theta.read_gradient(cx, 0) == std::vector<double>{6, 8, 0, 0, 16, 20});
}

TEST_CASE("embedding passes the directional check over its table at odd shapes") {
  struct shape {
    index_t count, width;
    std::vector<int> ids;
  };
  for (const shape& s : {shape{1, 1, {0}}, {5, 7, {4, 4, -1, 0, 4}}, {3, 65, {1, 2, 2}}, {2, 130, {1}}}) {
    CAPTURE(s.count, s.width);
    context<B> cx;
    const embedding<B> layer{s.count, s.width};
    parameters theta(cx, layer, philox{1});
    const auto rows = static_cast<index_t>(s.ids.size());
    const std::vector<double> weight = testing::normal_values(rows * s.width, 8);
    const auto loss = [&](const std::vector<double>& table) {
      auto scope = cx.scope();
      theta.write(cx, 0, table);
      const auto y = cx.read(layer(cx, theta.weights, indices<B>(cx.upload(s.ids))).value);
      double total = 0;
      for (std::size_t i = 0; i < y.size(); ++i) total += weight[i] * y[i];
      return total;
    };
    const auto gradient = [&](const std::vector<double>& table) {
      auto scope = cx.scope();
      theta.write(cx, 0, table);
      theta.zero_grads(cx);
      auto [y, pullback] = layer(cx, theta.weights, indices<B>(cx.upload(s.ids)));
      pullback(const_tensor<B>(cx.upload(std::span<const double>(weight), rows, s.width)), theta.grads);
      return theta.read_gradient(cx, 0);
    };
    CHECK(testing::directional_error(testing::normal_values(s.count * s.width, 7), loss, gradient) < 1e-8);
  }
}
