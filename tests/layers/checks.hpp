/// What the tests of layers share: packed sequences, one forward and pullback, and the check of frozen
/// parameters.
#pragma once
#include <cstring>
#include <initializer_list>
#include <span>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm::testing {

/// Sequences of the given lengths, one after another in host memory. Must outlive its views.
class packed {
 public:
  explicit packed(std::initializer_list<int> lengths) {
    for (const int length : lengths) {
      for (int t = 0; t < length; ++t) positions_.push_back(t);
      offsets_.push_back(offsets_.back() + length);
    }
  }
  packed(const packed&) = delete;
  packed& operator=(const packed&) = delete;
  index_t rows() const { return offsets_.back(); }
  template <Backend B>
  sequences<B> view() const {
    return {{offsets_.data(), offsets_.size()}, offsets_.data(), {positions_.data(), positions_.size()}};
  }

 private:
  std::vector<int> offsets_{0}, positions_;
};

/// What one forward and pullback leave in host memory.
template <class T>
struct outcome {
  std::vector<T> y, dx;
  std::vector<std::vector<T>> gradients;  // by tensor
};
template <class T>
bool same_bits(const outcome<T>& a, const outcome<T>& b) {
  if (a.gradients.size() != b.gradients.size()) return false;
  for (std::size_t n = 0; n < a.gradients.size(); ++n)
    if (!same_bits(a.gradients[n], b.gradients[n])) return false;
  return same_bits(a.y, b.y) && same_bits(a.dx, b.dx);
}

/// Weights off their initial value, so that zeros and ones do not hide a fault.
template <Parametrised L>
parameters<L> perturbed(context<typename L::backend>& cx, const L& layer, std::uint64_t seed = 3,
                        double scale = 0.3) {
  using T = typename L::backend::real;
  parameters<L> theta(cx, layer, philox{seed});
  for (std::size_t n = 0; n < theta.slots().size(); ++n) {
    std::vector<T> w = theta.read(cx, n);
    const std::vector<T> noise = normal_values<T>(static_cast<index_t>(w.size()), seed + n + 1, scale);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] += noise[i];
    theta.write(cx, n, w);
  }
  return theta;
}

/// One forward and pullback at random x (rows, cols) and dy; gradients start at `before` and go where `g`
/// points.
template <Parametrised L, class... Extra>
outcome<typename L::backend::real> run_layer(context<typename L::backend>& cx, const L& layer,
                                             parameters<L>& theta, const typename L::params& g, index_t rows,
                                             index_t cols, typename L::backend::real before,
                                             const Extra&... extra) {
  using B = typename L::backend;
  using T = typename B::real;
  poison(cx);
  auto scope = cx.scope();
  const std::vector<T> start(static_cast<std::size_t>(theta.flat_grads().size()), before);
  B::upload(cx.queue(), theta.flat_grads().data, start.data(), start.size() * sizeof(T));
  const std::vector<T> x = normal_values<T>(rows * cols, 21);
  auto [y, pullback] =
      layer(cx, theta.weights, const_tensor<B>(cx.upload(std::span<const T>(x), rows, cols)), extra...);
  const std::vector<T> dy = normal_values<T>(y.size(), 22);
  const const_tensor<B> dx =
      pullback(const_tensor<B>(cx.upload(std::span<const T>(dy), y.rows(), y.cols())), g);
  outcome<T> out{cx.read(const_tensor<B>(y)), cx.read(dx), {}};
  for (std::size_t n = 0; n < theta.slots().size(); ++n) out.gradients.push_back(theta.read_gradient(cx, n));
  return out;
}

/// Freezes each parameter alone, then all: dx and the other gradients keep their bits, the frozen one stays
/// as it was.
template <Parametrised L, class... Extra>
bool frozen_parameters_stay_untouched(const L& layer, index_t rows, index_t cols, const Extra&... extra) {
  using B = typename L::backend;
  using T = typename B::real;
  context<B> cx;
  parameters<L> theta = perturbed(cx, layer);
  const T before = T(0.25);
  const auto whole = run_layer(cx, layer, theta, theta.grads, rows, cols, before, extra...);
  const std::size_t tensors = theta.slots().size();
  bool right = tensors > 0;
  for (std::size_t frozen = 0; frozen <= tensors; ++frozen) {  // the last round freezes all
    typename L::params g = theta.grads;
    std::size_t n = 0;
    auto freeze = [&](const parameter_spec&, auto& tensor) {
      if (n == frozen || frozen == tensors) tensor = {};
      ++n;
    };
    layer.each_param(freeze, g);
    auto expected = whole;
    for (std::size_t i = 0; i < tensors; ++i)
      if (i == frozen || frozen == tensors)
        expected.gradients[i].assign(expected.gradients[i].size(), before);
    right = right && same_bits(run_layer(cx, layer, theta, g, rows, cols, before, extra...), expected);
  }
  return right;
}

}  // namespace planlm::testing
