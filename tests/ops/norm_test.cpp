#include <planlm/ops/norm.hpp>

#include <cmath>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"

using namespace planlm;
using testing::largest_error;

namespace {

template <class T, bool Centred>
std::vector<T> normed(const std::vector<T>& x, index_t rows, double epsilon) {
  using B = cpu<T>;
  context<B> cx;
  const index_t cols = static_cast<index_t>(x.size()) / rows;
  const std::vector<T> one(static_cast<std::size_t>(cols), T(1)), zero(static_cast<std::size_t>(cols));
  ops::norm_statistics<B> kept;
  return cx.read(ops::norm<Centred>(cx, const_tensor<B>(cx.upload(std::span<const T>(x), rows, cols)),
                                    const_tensor<B, 1>(cx.upload(one)), const_tensor<B, 1>(cx.upload(zero)),
                                    epsilon, kept));
}

}  // namespace

TEST_CASE("norms by hand") {
  const double s = 1 / std::sqrt(2.0 / 3);  // 1, 2, 3: variance 2 / 3
  CHECK(largest_error(normed<double, true>({1, 2, 3}, 1, 0), std::vector<double>{-s, 0, s}) < 1e-15);
  CHECK(largest_error(normed<double, false>({3, 4, 0, 0}, 1, 0), std::vector<double>{1.2, 1.6, 0, 0}) <
        1e-15);
  CHECK(largest_error(normed<double, true>({5, 5, 5}, 1, 1e-5), std::vector<double>{0, 0, 0}) <
        1e-15);  // no variance at all
  CHECK(largest_error(normed<double, false>({0, 0}, 1, 1e-5), std::vector<double>{0, 0}) < 1e-15);
}

TEST_CASE("layer norm does not change when a row is shifted or scaled") {
  const std::vector<double> x = testing::normal_values(3 * 33, 1);
  std::vector<double> moved = x;
  for (double& v : moved) v = 40 * v + 7;
  CHECK(largest_error(normed<double, true>(moved, 3, 0), normed<double, true>(x, 3, 0)) < 1e-12);
}

TEST_CASE("layer norm in float survives a mean far larger than the deviation") {
  std::vector<float> x = testing::normal_values<float>(2 * 300, 1);
  for (float& v : x) v = std::round(v * 64) / 64 + 10000;  // exact in float
  const std::vector<double> exact(x.begin(), x.end());
  CHECK(largest_error(normed<float, true>(x, 2, 1e-5), normed<double, true>(exact, 2, 1e-5)) < 1e-3);
}

namespace {

struct pulled {
  std::vector<float> dx, dscale, dshift;
};

/// The pullback of `rows` rows in the backend's own form.
template <bool Centred>
pulled pull(index_t rows, index_t cols, bool residual, int threads) {
  using B = cpu<float>;
  context<B> cx{B::queue(threads)};
  testing::poison(cx);
  const auto matrix = [&](std::uint64_t seed) {
    const std::vector<float> v = testing::normal_values<float>(rows * cols, seed);
    return const_tensor<B>(cx.upload(std::span<const float>(v), rows, cols));
  };
  const const_tensor<B> x = matrix(1), dy = matrix(2), more = residual ? matrix(3) : const_tensor<B>{};
  const const_tensor<B, 1> scale = cx.upload(testing::normal_values<float>(cols, 4));
  ops::norm_statistics<B> kept;
  ops::norm<Centred>(cx, x, scale, Centred ? scale : const_tensor<B, 1>{}, 1e-5, kept);
  const tensor<B, 1> dscale = cx.make(cols), dshift = cx.make(cols);
  for (index_t c = 0; c < cols; ++c) dscale[c] = 1, dshift[c] = 2;  // gradients are added
  const auto dx = ops::norm_pullback<Centred>(cx, x, scale, kept, dy, dscale, Centred ? dshift : tensor<B, 1>{}, more);
  return {cx.read(dx), cx.read(dscale), cx.read(dshift)};
}

/// The same by the equations, in double.
template <bool Centred>
pulled by_equations(index_t rows, index_t cols, bool residual) {
  const auto values = [&](index_t n, std::uint64_t seed) { return testing::normal_values<float>(n, seed); };
  const std::vector<float> x = values(rows * cols, 1), dy = values(rows * cols, 2), more = values(rows * cols, 3), scale = values(cols, 4);
  std::vector<double> dscale(static_cast<std::size_t>(cols), 1.0), dshift(static_cast<std::size_t>(cols), 2.0);
  pulled out;
  const double n = double(cols);
  for (index_t r = 0; r < rows; ++r) {
    const auto at = [&](index_t c) { return static_cast<std::size_t>(r * cols + c); };
    const auto to = [](index_t c) { return static_cast<std::size_t>(c); };
    double mean = 0, variance = 0, first = 0, second = 0;
    for (index_t c = 0; Centred && c < cols; ++c) mean += x[at(c)] / n;
    for (index_t c = 0; c < cols; ++c) variance += (x[at(c)] - mean) * (x[at(c)] - mean) / n;
    const double s = 1 / std::sqrt(variance + 1e-5);
    for (index_t c = 0; c < cols; ++c) {
      const double h = (x[at(c)] - mean) * s, d = double(dy[at(c)]) * scale[to(c)];
      if (Centred) first += d / n, dshift[to(c)] += dy[at(c)];
      second += d * h / n;
      dscale[to(c)] += dy[at(c)] * h;
    }
    for (index_t c = 0; c < cols; ++c)
      out.dx.push_back(static_cast<float>(s * (double(dy[at(c)]) * scale[to(c)] - first - (x[at(c)] - mean) * s * second) +
                                          (residual ? more[at(c)] : 0.f)));
  }
  out.dscale.assign(dscale.begin(), dscale.end());
  out.dshift.assign(dshift.begin(), dshift.end());
  return out;
}

template <bool Centred>
void check_pullback(index_t rows, index_t cols) {
  for (const bool residual : {false, true}) {
    CAPTURE(rows, cols, residual, Centred);
    const pulled one = pull<Centred>(rows, cols, residual, 1), wanted = by_equations<Centred>(rows, cols, residual);
    CHECK(largest_error(one.dx, wanted.dx) < 1e-4);
    CHECK(largest_error(one.dscale, wanted.dscale) < 1e-4);
    CHECK(largest_error(one.dshift, wanted.dshift) < 1e-4);
    for (const int threads : {2, 3}) {
      const pulled more = pull<Centred>(rows, cols, residual, threads);
      CHECK(testing::same_bits(more.dx, one.dx));
      CHECK(testing::same_bits(more.dscale, one.dscale));
      CHECK(testing::same_bits(more.dshift, one.dshift));
    }
  }
}

}  // namespace

TEST_CASE("the pullback of norms over blocks of rows follows the equations, with the same bits on 1, 2 and 3 threads") {
  for (const index_t rows : {1, 64, 65, 300})
    for (const index_t cols : {5, 48, 130}) {
      check_pullback<true>(rows, cols);
      check_pullback<false>(rows, cols);
    }
}

TEST_CASE("the pullback of a norm of no rows adds nothing") {
  const pulled none = pull<true>(0, 3, false, 2);
  CHECK(none.dx.empty());
  CHECK(none.dscale == std::vector<float>{1, 1, 1});
  CHECK(none.dshift == std::vector<float>{2, 2, 2});
}
