/// Dense products of views. Letters: n plain, t transposed, in the order of the operands.
#pragma once
#include <concepts>
#include <string>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>

namespace planlm {

/// A backend that can start the sums of a product at a bias.
template <class B>
concept HasFusedBias = requires(typename B::queue& q, operand<const typename B::real> a, operand<typename B::real> c,
                                const_tensor<B, 1> bias) { B::gemm_bias(q, typename B::real(1), a, a, bias, c, into::add); };

/// A backend with column sums of a matrix as it lies in memory. False: not this matrix.
template <class B>
concept HasMatrixColumnSums = requires(typename B::queue& q, const_tensor<B> x, tensor<B, 1> y) {
  { B::add_matrix_column_sums(q, x, y) } -> std::same_as<bool>;
};

namespace ops {

namespace kernel {
template <class T>
struct add_bias {
  const T* bias;
  T* y;
  index_t cols;
  PLANLM_HD void operator()(index_t i) const { y[i] += bias[i % cols]; }
};
template <class T>
struct entry {
  const T* x;
  index_t cols;
  PLANLM_HD accum_of<T> operator()(index_t r, index_t c) const { return x[r * cols + c]; }
};
}  // namespace kernel

inline std::string shape_text(index_t rows, index_t cols) {
  return "(" + std::to_string(rows) + ", " + std::to_string(cols) + ")";
}

/// a (M, K), b (K, N) -> a b (M, N).
template <Backend B>
tensor<B> matmul(context<B>& cx, const_tensor<B> a, const_tensor<B> b) {
  auto c = cx.make(a.rows(), b.cols());
  B::gemm(cx.queue(), 1, plain(a), plain(b), plain(c), into::replace);
  return c;
}
/// a (M, K), b (N, K) -> a b^T (M, N).
template <Backend B>
tensor<B> matmul_nt(context<B>& cx, const_tensor<B> a, const_tensor<B> b) {
  auto c = cx.make(a.rows(), b.rows());
  B::gemm(cx.queue(), 1, plain(a), transposed(b), plain(c), into::replace);
  return c;
}
/// c (M, N) = a b^T + bias, or += it; a (M, K), b (N, K), bias (N).
template <Backend B>
void matmul_nt_bias(context<B>& cx, const_tensor<B> a, const_tensor<B> b, const_tensor<B, 1> bias, tensor<B> c, into mode) {
  if constexpr (HasFusedBias<B>) {
    B::gemm_bias(cx.queue(), 1, plain(a), transposed(b), bias, plain(c), mode);
  } else {
    B::gemm(cx.queue(), 1, plain(a), transposed(b), plain(c), mode);
    B::for_each(cx.queue(), c.size(), kernel::add_bias<typename B::real>{bias.data, c.data, c.cols()});
  }
}
/// a (M, K), b (N, K), bias (N) -> a b^T + bias (M, N).
template <Backend B>
tensor<B> matmul_nt_bias(context<B>& cx, const_tensor<B> a, const_tensor<B> b, const_tensor<B, 1> bias) {
  auto c = cx.make(a.rows(), b.rows());
  matmul_nt_bias(cx, a, b, bias, c, into::replace);
  return c;
}
/// c (M, N) += a^T b with a (K, M), b (K, N).
template <Backend B>
void matmul_tn_add(context<B>& cx, const_tensor<B> a, const_tensor<B> b, tensor<B> c) {
  B::gemm(cx.queue(), 1, transposed(a), plain(b), plain(c), into::add);
}
/// c (M, N) += a b^T with a (M, K), b (N, K).
template <Backend B>
void matmul_nt_add(context<B>& cx, const_tensor<B> a, const_tensor<B> b, tensor<B> c) {
  B::gemm(cx.queue(), 1, plain(a), transposed(b), plain(c), into::add);
}
/// c (M, N) += a b with a (M, K), b (K, N).
template <Backend B>
void matmul_add(context<B>& cx, const_tensor<B> a, const_tensor<B> b, tensor<B> c) {
  B::gemm(cx.queue(), 1, plain(a), plain(b), plain(c), into::add);
}
/// y (N) += column sums of x (M, N).
template <Backend B>
void add_column_sums(context<B>& cx, const_tensor<B> x, tensor<B, 1> y) {
  if constexpr (HasMatrixColumnSums<B>)
    if (B::add_matrix_column_sums(cx.queue(), x, y)) return;
  B::add_column_sums(cx.queue(), x.rows(), x.cols(), kernel::entry<typename B::real>{x.data, x.cols()}, y);
}

}  // namespace ops
}  // namespace planlm
