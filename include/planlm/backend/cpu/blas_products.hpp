/// Dense products by a BLAS with the C interface (OpenBLAS, MKL, BLIS): the choice where it has a better kernel for the machine.
///
/// Including this header needs cblas.h, and a program that does so links the library. No other header includes it. Our pool cuts the work,
/// so the library should run one thread a call (OPENBLAS_NUM_THREADS=1, MKL_NUM_THREADS=1).
#pragma once
#include <cstddef>
#include <limits>
#include <type_traits>
#include <cblas.h>
#include <planlm/backend/concept.hpp>
#include <planlm/core/error.hpp>

namespace planlm {

/// `cpu<float, blas_products>` and double. The order of summation is the library's own, so results agree with other row counts and numbers
/// of threads only to rounding.
/// Errors: shape_error for an operand with neither stride 1, or an extent beyond int.
struct blas_products {
  template <class Real>
  static constexpr std::size_t scratch_bytes() {
    return 0;
  }

  template <class Real>
  static void multiply(Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, const Real* bias, into mode, void*) {
    if (c.rows == 0 || c.cols == 0) return;
    if (c.cols > 1 && c.col_stride != 1) throw shape_error("blas_products: the elements of a row of the result have to lie side by side");
    Real beta = mode == into::add ? Real(1) : Real(0);
    if (bias || a.cols == 0) {
      for (index_t i = 0; i < c.rows; ++i)
        for (index_t j = 0; j < c.cols; ++j) {
          Real& at = c.data[i * c.row_stride + j];
          at = (mode == into::add ? at : Real(0)) + (bias ? bias[j] : Real(0));
        }
      beta = Real(1);
    }
    if (a.cols == 0) return;
    const matrix left = matrix_of(a), right = matrix_of(b);
    const int m = narrow(c.rows), n = narrow(c.cols), k = narrow(a.cols), stride = narrow(c.rows == 1 ? c.cols : c.row_stride);
    if constexpr (std::is_same_v<Real, float>)
      cblas_sgemm(CblasRowMajor, left.turned, right.turned, m, n, k, alpha, a.data, left.stride, b.data, right.stride, beta, c.data, stride);
    else
      cblas_dgemm(CblasRowMajor, left.turned, right.turned, m, n, k, alpha, a.data, left.stride, b.data, right.stride, beta, c.data, stride);
  }

 private:
  struct matrix {
    CBLAS_TRANSPOSE turned;
    int stride;
  };
  static int narrow(index_t n) {
    if (n > std::numeric_limits<int>::max()) throw shape_error("blas_products: an extent or a stride is larger than an int");
    return static_cast<int>(n);
  }
  // A stride along an axis of extent 1 says nothing, but the library wants it as long as a row.
  template <class Real>
  static matrix matrix_of(operand<const Real> m) {
    if (m.col_stride == 1 && (m.row_stride >= m.cols || m.rows == 1)) return {CblasNoTrans, narrow(m.rows == 1 ? m.cols : m.row_stride)};
    if (m.row_stride == 1 && (m.col_stride >= m.rows || m.cols == 1)) return {CblasTrans, narrow(m.cols == 1 ? m.rows : m.col_stride)};
    if (m.cols == 1) return {CblasNoTrans, narrow(m.row_stride)};
    if (m.rows == 1) return {CblasTrans, narrow(m.col_stride)};
    throw shape_error("blas_products: an operand needs one axis whose elements lie side by side");
  }
};

}  // namespace planlm
