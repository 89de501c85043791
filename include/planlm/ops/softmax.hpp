/// Softmax of rows with a temperature, and its pullback.
#pragma once
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/math.hpp>

namespace planlm::ops {

namespace kernel {
template <class T>
struct softmax {
  using A = accum_of<T>;
  const T* z;
  T* p;
  index_t cols;
  A inverse_temperature;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T* from = z + r * cols;
    T* to = p + r * cols;
    const A beta = inverse_temperature;
    const A top = team.template max<A>(cols, [=](index_t i) { return A(from[i]); });
    constexpr bool keep = std::is_same_v<T, A>;  // else the exponentials are computed again rather than rounded twice
    const A total = team.template sum<A>(cols, [=](index_t i) {
      const A e = math::exp(beta * (A(from[i]) - top));
      if constexpr (keep) to[i] = e;
      return e;
    });
    const A inverse = A(1) / total;
    team.sync();
    if constexpr (keep) team.for_each(cols, [=](index_t i) { to[i] *= inverse; });
    else team.for_each(cols, [=](index_t i) { to[i] = math::exp(beta * (A(from[i]) - top)) * inverse; });
  }
};
template <class T>
struct softmax_pullback {
  using A = accum_of<T>;
  const T *p, *dp;
  T* dz;
  index_t cols;
  A inverse_temperature;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t r) const {
    const T *w = p + r * cols, *d = dp + r * cols;
    T* to = dz + r * cols;
    const A beta = inverse_temperature;
    const A mean = team.template sum<A>(cols, [=](index_t i) { return A(w[i]) * A(d[i]); });
    team.for_each(cols, [=](index_t i) { to[i] = beta * A(w[i]) * (A(d[i]) - mean); });
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
  B::for_rows(cx.queue(), z.rows(),
              kernel::softmax<typename B::real>{z.data, p.data, z.cols(), static_cast<typename B::accum>(1 / temperature)});
  return p;
}
/// dz = p o (dp - <p, dp>) / temperature.
template <Backend B>
tensor<B> softmax_pullback(context<B>& cx, const_tensor<B> p, const_tensor<B> dp, double temperature = 1) {
  auto dz = cx.make(p.rows(), p.cols());
  B::for_rows(cx.queue(), p.rows(), kernel::softmax_pullback<typename B::real>{p.data, dp.data, dz.data, p.cols(),
                                                                               static_cast<typename B::accum>(1 / temperature)});
  return dz;
}

}  // namespace planlm::ops
