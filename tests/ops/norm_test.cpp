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
