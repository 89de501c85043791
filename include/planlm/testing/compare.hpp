/// Values for tests, and comparisons in which a NaN never passes for agreement.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>
#include <planlm/backend/context.hpp>
#include <planlm/core/philox.hpp>

namespace planlm::testing {

/// `count` draws from N(0, scale^2): rounded to T, so a float and a double test see the same numbers up to
/// rounding.
template <class T = double>
std::vector<T> normal_values(index_t count, std::uint64_t seed, double scale = 1) {
  const philox random{seed, 0, 4711};
  std::vector<T> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(scale * random.normal(i, 0));
  return values;
}

/// max over i of |a_i - b_i| / max(1, |b_i|); infinity if the lengths differ or a difference is not a number.
template <class T, class U>
double largest_error(const std::vector<T>& a, const std::vector<U>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    const double error = std::abs(x - y) / std::max(1.0, std::abs(y));
    if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
  }
  return worst;
}

/// ||a - b|| / ||b|| with Euclidean norms; infinity if the lengths differ, are 0, or anything is not a finite number.
template <class T, class U>
double relative_error(const std::vector<T>& a, const std::vector<U>& b) {
  if (a.size() != b.size() || a.empty()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  const double error = difference == 0 ? 0 : std::sqrt(difference / norm);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

/// Whether a and b are the same numbers bit for bit: +0 and -0 differ, a NaN equals its own bits.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// Fills the first `count` free values of the arena with NaN, so that reading what was never written shows.
template <Backend B>
void poison(context<B>& cx, index_t count = 100000) {
  auto scope = cx.scope();
  auto free_values = cx.make(count);
  const std::vector<typename B::real> nan(static_cast<std::size_t>(count),
                                          typename B::real(std::numeric_limits<double>::quiet_NaN()));
  B::upload(cx.queue(), free_values.data, nan.data(), nan.size() * sizeof(nan[0]));
  B::synchronize(cx.queue());
}

}  // namespace planlm::testing
