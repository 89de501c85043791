/// Finite differences against pullbacks, for users' layers as much as for the library's.
///
/// A directional check: along random directions of the input and of all parameters together, the derivative
/// of <dy, layer(x)> by central differences of fourth order must equal the inner product of the direction
/// with what the pullback returns. Use a double backend.
#pragma once
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>
#include <planlm/layers/layer.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm::testing {

/// Settings of the check. Inputs and parameters are drawn from N(0, 1) times these scales, around their
/// initial value.
struct check_options {
  int directions = 6;
  double step = 1e-5;
  double input_scale = 1;
  double parameter_scale = 0.5;
  std::uint64_t seed = 1;
};

/// The largest relative disagreement over directions: |numeric - analytic| / max(1, |numeric|, |analytic|).
/// `loss(x, p)` -> double and `gradient(x, p, dx, g)` may be any functions of flat values: the general form,
/// for losses.
template <class Loss, class Gradient>
double directional_error(std::vector<double> x, Loss&& loss, Gradient&& gradient, check_options o = {}) {
  const std::vector<double> g = gradient(x);
  double worst = g.size() == x.size() ? 0 : INFINITY;
  const philox random{o.seed, 0, 977};
  for (int d = 0; d < o.directions && std::isfinite(worst); ++d) {
    std::vector<double> direction(x.size()), moved = x;
    double analytic = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      direction[i] = random.normal(i, static_cast<std::uint32_t>(d));
      analytic += direction[i] * g[i];
    }
    const auto loss_at = [&](double distance) {
      for (std::size_t i = 0; i < x.size(); ++i) moved[i] = x[i] + distance * direction[i];
      return loss(moved);
    };
    // Fourth order: the curvature of a norm over few columns would cost the plain central difference three
    // digits.
    const double near = loss_at(o.step) - loss_at(-o.step), far = loss_at(2 * o.step) - loss_at(-2 * o.step);
    const double numeric = (8 * near - far) / (12 * o.step);
    const double error =
        std::abs(numeric - analytic) / std::max({1.0, std::abs(numeric), std::abs(analytic)});
    worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
  }
  return worst;
}

/// The check of a layer at x (rows, cols): input and every parameter at once, each weighted with a random
/// output gradient. `extra...` are passed to the layer after x (sequences, say). The result is below about
/// 1e-7 for a right pullback.
template <Parametrised L, class... Extra>
double gradient_error(context<typename L::backend>& cx, const L& layer, index_t rows, index_t cols,
                      check_options o = {}, const Extra&... extra) {
  using B = typename L::backend;
  static_assert(std::is_same_v<typename B::real, double>,
                "planlm::testing: finite differences need a double backend");
  parameters<L> theta(cx, layer, philox{o.seed, 0, 0});
  const auto inputs = static_cast<std::size_t>(rows * cols);
  std::vector<double> at(inputs);
  const philox random{o.seed, 1, 0};
  for (std::size_t i = 0; i < inputs; ++i) at[i] = o.input_scale * random.normal(i, 0);
  for (std::size_t n = 0; n < theta.slots().size(); ++n) {
    std::vector<double> w = theta.read(cx, n);
    for (std::size_t i = 0; i < w.size(); ++i)
      at.push_back(w[i] +
                   o.parameter_scale * random.with_stream(static_cast<std::uint32_t>(n + 1)).normal(i, 0));
  }
  auto load = [&](const std::vector<double>& v) {
    std::size_t from = inputs;
    for (std::size_t n = 0; n < theta.slots().size(); ++n) {
      const auto size = static_cast<std::size_t>(theta.slots()[n].spec.size());
      theta.write(cx, n, std::span<const double>(v).subspan(from, size));
      from += size;
    }
    return cx.upload(std::span<const double>(v).first(inputs), rows, cols);
  };
  const philox weight{o.seed, 2, 0};
  auto loss = [&](const std::vector<double>& v) {
    auto scope = cx.scope();
    const std::vector<double> y =
        cx.read(const_tensor<B>(layer(cx, theta.weights, const_tensor<B>(load(v)), extra...).value));
    double total = 0;
    for (std::size_t i = 0; i < y.size(); ++i) total += weight.normal(i, 0) * y[i];
    return total;
  };
  auto gradient = [&](const std::vector<double>& v) {
    auto scope = cx.scope();
    auto [y, pullback] = layer(cx, theta.weights, const_tensor<B>(load(v)), extra...);
    std::vector<double> dy(static_cast<std::size_t>(y.size()));
    for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = weight.normal(i, 0);
    // Gradients are added: one that is assigned, or never touched, is off by what was there before.
    constexpr double before = 1;
    const std::vector<double> start(static_cast<std::size_t>(theta.flat_grads().size()), before);
    B::upload(cx.queue(), theta.flat_grads().data, start.data(), start.size() * sizeof(double));
    const const_tensor<B> dx =
        pullback(const_tensor<B>(cx.upload(std::span<const double>(dy), y.rows(), y.cols())), theta.grads);
    std::vector<double> g = cx.read(dx);
    for (std::size_t n = 0; n < theta.slots().size(); ++n)
      for (const double total : theta.read_gradient(cx, n)) g.push_back(total - before);
    return g;
  };
  return directional_error(at, loss, gradient, o);
}

}  // namespace planlm::testing
