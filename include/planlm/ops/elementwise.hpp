/// Elementwise mathematics: value and derivative side by side, written once for every backend.
#pragma once
#include <cstdint>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/math.hpp>

namespace planlm::ops {

/// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): the tanh form of GELU (1606.08415), as in GPT-2.
struct gelu {
  template <class T>
  PLANLM_HD static T f(T x) {
    return T(0.5) * x * (T(1) + math::tanh(inner(x)));
  }
  template <class T>
  PLANLM_HD static T df(T x) {
    const T t = math::tanh(inner(x));
    return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * T(0.7978845608028654) * (T(1) + T(3 * 0.044715) * x * x);
  }

 private:
  template <class T>
  PLANLM_HD static T inner(T x) {
    return T(0.7978845608028654) * (x + T(0.044715) * x * x * x);
  }
};
/// x sigmoid(x) (1702.03118).
struct silu {
  template <class T>
  PLANLM_HD static T f(T x) {
    return x * math::sigmoid(x);
  }
  template <class T>
  PLANLM_HD static T df(T x) {
    const T s = math::sigmoid(x);
    return s * (T(1) + x * (T(1) - s));
  }
};
/// max(x, 0); the derivative at 0 is 0.
struct relu {
  template <class T>
  PLANLM_HD static T f(T x) {
    return x > T(0) ? x : T(0);
  }
  template <class T>
  PLANLM_HD static T df(T x) {
    return x > T(0) ? T(1) : T(0);
  }
};

namespace kernel {
// `stream` and streams() name the arrays whose element i belongs to index i alone: a backend may then take several indices at once.
template <class F, class T>
struct map {
  const T* x;
  T* y;
  PLANLM_HD void operator()(index_t i) const { y[i] = F::f(accum_of<T>(x[i])); }
  using stream = T;
  template <class V>
  PLANLM_HD void streams(V& v) {
    v.read(x), v.write(y);
  }
};
template <class F, class T>
struct map_pullback {
  const T *x, *dy;
  T* dx;
  PLANLM_HD void operator()(index_t i) const { dx[i] = accum_of<T>(dy[i]) * F::df(accum_of<T>(x[i])); }
  using stream = T;
  template <class V>
  PLANLM_HD void streams(V& v) {
    v.read(x), v.read(dy), v.write(dx);
  }
};
template <class T>
struct sum {
  const T *a, *b;
  T* y;
  PLANLM_HD void operator()(index_t i) const { y[i] = accum_of<T>(a[i]) + accum_of<T>(b[i]); }
  using stream = T;
  template <class V>
  PLANLM_HD void streams(V& v) {
    v.read(a), v.read(b), v.write(y);
  }
};
template <class T>
struct add_scaled {
  accum_of<T> scale;
  const T* x;
  T* y;
  PLANLM_HD void operator()(index_t i) const { y[i] += scale * accum_of<T>(x[i]); }
  using stream = T;
  template <class V>
  PLANLM_HD void streams(V& v) {
    v.read(x), v.update(y);
  }
};
template <class T>
struct scale {
  accum_of<T> factor;
  const T* x;
  T* y;
  PLANLM_HD void operator()(index_t i) const { y[i] = factor * accum_of<T>(x[i]); }
  using stream = T;
  template <class V>
  PLANLM_HD void streams(V& v) {
    v.read(x), v.write(y);
  }
};
template <class T>
struct fill {
  T value;
  T* y;
  PLANLM_HD void operator()(index_t i) const { y[i] = value; }
  using stream = T;
  template <class V>
  PLANLM_HD void streams(V& v) {
    v.write(y);
  }
};
/// One value for every group of `count` elements: `block` of the counter-based stream covers four.
template <class T>
struct dropout {
  philox random;
  double rate;
  index_t n;
  const T* x;
  T* y;
  PLANLM_HD void operator()(index_t block) const {
    const random_block bits = random.bits(static_cast<std::uint64_t>(block), 0);
    const auto kept = accum_of<T>(1.0 / (1.0 - rate));
    for (index_t j = 0; j < 4; ++j) {
      const index_t i = 4 * block + j;
      if (i < n) y[i] = unit_interval(bits.word[j]) < rate ? T(0) : T(kept * accum_of<T>(x[i]));
    }
  }
};
}  // namespace kernel

/// F of every element.
template <class F, Backend B>
tensor<B> map(context<B>& cx, const_tensor<B> x) {
  auto y = cx.make(x.rows(), x.cols());
  B::for_each(cx.queue(), x.size(), kernel::map<F, typename B::real>{x.data, y.data});
  return y;
}
/// dx = dy F'(x).
template <class F, Backend B>
tensor<B> map_pullback(context<B>& cx, const_tensor<B> x, const_tensor<B> dy) {
  auto dx = cx.make(x.rows(), x.cols());
  B::for_each(cx.queue(), x.size(), kernel::map_pullback<F, typename B::real>{x.data, dy.data, dx.data});
  return dx;
}
/// a + b.
template <Backend B>
tensor<B> sum(context<B>& cx, const_tensor<B> a, const_tensor<B> b) {
  auto y = cx.make(a.rows(), a.cols());
  B::for_each(cx.queue(), a.size(), kernel::sum<typename B::real>{a.data, b.data, y.data});
  return y;
}
/// y += scale x.
template <Backend B>
void add_to(context<B>& cx, const_tensor<B> x, tensor<B> y, typename B::accum scale = 1) {
  B::for_each(cx.queue(), x.size(), kernel::add_scaled<typename B::real>{scale, x.data, y.data});
}
/// factor x.
template <Backend B>
tensor<B> scaled(context<B>& cx, const_tensor<B> x, typename B::accum factor) {
  auto y = cx.make(x.rows(), x.cols());
  B::for_each(cx.queue(), x.size(), kernel::scale<typename B::real>{factor, x.data, y.data});
  return y;
}
/// Every element of y becomes `value`.
template <Backend B, int R>
void fill(context<B>& cx, view<typename B::real, R, typename B::space> y, typename B::accum value) {
  using T = typename B::real;
  B::for_each(cx.queue(), y.size(), kernel::fill<T>{T(value), y.data});
}
/// Zero with probability `rate`, else divided by 1 - rate. The same `random` gives the same mask, so nothing is stored for the pullback.
template <Backend B>
tensor<B> dropout(context<B>& cx, const_tensor<B> x, double rate, philox random) {
  auto y = cx.make(x.rows(), x.cols());
  B::for_each(cx.queue(), (x.size() + 3) / 4, kernel::dropout<typename B::real>{random, rate, x.size(), x.data, y.data});
  return y;
}

}  // namespace planlm::ops
