/// Dense products by Eigen: the oracle of `tiled_products`, and the choice where Eigen has a better kernel for the machine.
///
/// Including this header includes Eigen/Core; nothing else of the numeric core does.
#pragma once
#include <algorithm>
#include <cstddef>
#include <Eigen/Core>
#include <planlm/backend/concept.hpp>

namespace planlm {

/// `cpu<float, eigen_products>`. The order of summation depends on the shape, so results agree with other row counts only to rounding.
struct eigen_products {
  template <class Real>
  static constexpr std::size_t scratch_bytes() {
    return 0;
  }

  template <class Real>
  static void multiply(Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, const Real* bias, into mode, void*) {
    using row_vector = Eigen::Matrix<Real, 1, Eigen::Dynamic>;
    using row_major = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    Eigen::Map<row_major, 0, Eigen::OuterStride<>> to(c.data, c.rows, c.cols, Eigen::OuterStride<>(c.row_stride));
    if (mode == into::replace) to.setZero();
    if (bias) to.rowwise() += Eigen::Map<const row_vector>(bias, c.cols);
    if (a.cols == 0) return;
    with_map(a, [&](const auto& left) { with_map(b, [&](const auto& right) { to.noalias() += alpha * left * right; }); });
  }

 private:
  // Eigen's kernels want to know at compile time which axis is contiguous.
  template <class Real, class F>
  static void with_map(operand<const Real> m, F&& f) {
    using row_major = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using column_major = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
    if (m.col_stride == 1)
      f(Eigen::Map<const row_major, 0, Eigen::OuterStride<>>(m.data, m.rows, m.cols, Eigen::OuterStride<>(m.row_stride)));
    else
      f(Eigen::Map<const column_major, 0, Eigen::OuterStride<>>(m.data, m.rows, m.cols, Eigen::OuterStride<>(m.col_stride)));
  }
};

}  // namespace planlm
