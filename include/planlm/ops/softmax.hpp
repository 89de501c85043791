/// Softmax of rows with a temperature, and its pullback.
#pragma once
#include <string>
#include <planlm/backend/context.hpp>
#include <planlm/core/math.hpp>

namespace planlm::ops {

namespace kernel {
template <class T>
struct softmax {
  const T* z;
  T* p;
  index_t cols;
  T inverse_temperature;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = z + r * cols;
    T* to = p + r * cols;
    const T beta = inverse_temperature;
    const T top = team.template max<T>(cols, [=](index_t i) { return from[i]; });
    const T total = team.template sum<T>(cols, [=](index_t i) {
      const T e = math::exp(beta * (from[i] - top));
      to[i] = e;
      return e;
    });
    const T inverse = T(1) / total;
    team.sync();
    team.for_each(cols, [=](index_t i) { to[i] *= inverse; });
  }
};
template <class T>
struct softmax_pullback {
  const T *p, *dp;
  T* dz;
  index_t cols;
  T inverse_temperature;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T *w = p + r * cols, *d = dp + r * cols;
    T* to = dz + r * cols;
    const T beta = inverse_temperature;
    const T mean = team.template sum<T>(cols, [=](index_t i) { return w[i] * d[i]; });
    team.for_each(cols, [=](index_t i) { to[i] = beta * w[i] * (d[i] - mean); });
  }
};
}  // namespace kernel

inline void check_temperature(double temperature) {
  if (!(temperature > 0)) throw error("softmax: the temperature is " + std::to_string(temperature) + ", expected above 0");
}
/// z (N, K) -> softmax(z / temperature) (N, K). Errors: planlm::error for a temperature that is not above 0.
template <Backend B>
tensor<B> softmax(context<B>& cx, const_tensor<B> z, double temperature = 1) {
  check_temperature(temperature);
  auto p = cx.make(z.rows(), z.cols());
  using T = typename B::real;
  B::for_rows(cx.queue(), z.rows(), kernel::softmax<T>{z.data, p.data, z.cols(), T(1 / temperature)});
  return p;
}
/// dz = p o (dp - <p, dp>) / temperature.
template <Backend B>
tensor<B> softmax_pullback(context<B>& cx, const_tensor<B> p, const_tensor<B> dp, double temperature = 1) {
  auto dz = cx.make(p.rows(), p.cols());
  using T = typename B::real;
  B::for_rows(cx.queue(), p.rows(), kernel::softmax_pullback<T>{p.data, dp.data, dz.data, p.cols(), T(1 / temperature)});
  return dz;
}

}  // namespace planlm::ops
