/// Low-rank adaptation of a linear layer.
#pragma once
#include <cmath>
#include <planlm/layers/linear.hpp>
#include <planlm/ops/elementwise.hpp>

namespace planlm {

/// y = base(x) + (alpha / rank) x A^T B^T.   [2106.09685, equation 3]
///   x (N, in) -> (N, out),  A (rank, in) uniform, B (out, rank) zero: the start equals the base layer.
/// Freeze the base by leaving `g.base` empty.
template <Backend B>
struct lora {
  using backend = B;
  struct params {
    typename linear<B>::params base;
    tensor<B> a, b;
  };
  linear<B> base;
  index_t rank;
  double alpha = 32;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_base = within("base", f);
    base.each_param(in_base, p.base...);
    f(matrix_spec("a", rank, base.in, initial::uniform, 1 / std::sqrt(double(base.in))), p.a...);
    f(matrix_spec("b", base.out, rank, initial::zeros), p.b...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x) const {
    const auto scale = static_cast<typename B::accum>(alpha / double(rank));
    auto [y, base_pullback] = base(cx, p.base, x);                        // (N, out)
    auto low = ops::matmul_nt(cx, x, const_tensor<B>(p.a));               // (N, rank)
    B::gemm(cx.queue(), scale, plain(const_tensor<B>(low)), transposed(const_tensor<B>(p.b)), plain(y), into::add);
    return vjp{y, [&cx, x, p, low, scale, base_pullback = base_pullback](const_tensor<B> dy, const params& g) {
                 auto dx = base_pullback(dy, g.base);
                 auto dlow = cx.make(dy.rows(), p.a.rows());              // (N, rank)
                 B::gemm(cx.queue(), scale, plain(dy), plain(const_tensor<B>(p.b)), plain(dlow), into::replace);
                 if (g.b) B::gemm(cx.queue(), scale, transposed(dy), plain(const_tensor<B>(low)), plain(g.b), into::add);
                 if (g.a) ops::matmul_tn_add(cx, const_tensor<B>(dlow), x, g.a);
                 ops::matmul_add(cx, const_tensor<B>(dlow), const_tensor<B>(p.a), dx);
                 return dx;
               }};
  }
};

}  // namespace planlm
