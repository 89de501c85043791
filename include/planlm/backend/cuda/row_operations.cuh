/// The memory-bound operations of the CUDA backend, under the names by which ops/ and training/ look for them.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <vector>
#include <planlm/backend/cuda/column_sums.cuh>
#include <planlm/backend/cuda/cross_entropy.cuh>
#include <planlm/backend/cuda/elements.cuh>
#include <planlm/backend/cuda/gather.cuh>
#include <planlm/backend/cuda/norm.cuh>
#include <planlm/backend/cuda/queue.cuh>
#include <planlm/backend/cuda/rows.cuh>
#include <planlm/backend/cuda/scatter.cuh>
#include <planlm/backend/cuda/segment_sums.cuh>
#include <planlm/backend/cuda/updates.cuh>
#include <planlm/core/view.hpp>

namespace planlm::cuda_detail {

/// Base of cuda<Real>. Functions that return bool may decline a shape: then the plain composition runs.
template <class Real>
struct row_operations {
  using accum = accum_of<Real>;
  using queue = cuda_queue;
  template <class T>
  using matrix = view<T, 2, device_memory>;
  template <class T>
  using vector = view<T, 1, device_memory>;

  /// See ops/norm.hpp.
  template <bool Centred>
  static bool norm(queue& q, matrix<const Real> x, vector<const Real> scale, vector<const Real> shift, double epsilon, matrix<Real> y,
                   vector<accum> mean, vector<accum> rstd) {
    return cuda_detail::norm<Centred>(q, norm_call<Real>{x.data, nullptr, scale.data, shift.data, nullptr, y.data, mean.data, rstd.data,
                                                         x.rows(), x.cols(), accum(epsilon)});
  }
  template <bool Centred>
  static bool norm_pullback(queue& q, matrix<const Real> x, vector<const Real> scale, vector<accum> mean, vector<accum> rstd,
                            matrix<const Real> dy, matrix<const Real> residual, matrix<Real> dx, vector<Real> dscale,
                            vector<Real> dshift) {
    return cuda_detail::norm_pullback<Centred>(q, norm_pullback_call<Real>{x.data, scale.data, dy.data, residual.data, mean.data, rstd.data,
                                                                           dx.data, nullptr, x.rows(), x.cols()},
                                               dscale.data, dshift.data);
  }

  /// See ops/cross_entropy.hpp: logits held at a time (256 MiB), and rows of whole 16 bytes.
  static constexpr index_t logit_values = (index_t{1} << 28) / static_cast<index_t>(sizeof(Real));
  static constexpr index_t logit_multiple = 16 / static_cast<index_t>(sizeof(Real));
  static void cross_entropy(queue& q, Real* z, index_t rows, index_t cols, index_t stride, const int* targets, const accum* weights,
                            accum uniform_weight, accum* nll, bool gradient) {
    cuda_detail::cross_entropy(q, cross_entropy_call<Real>{z, targets, weights, nll, rows, cols, stride, uniform_weight, gradient});
  }

  /// See ops/gather.hpp.
  static void gather_rows(queue& q, matrix<const Real> table, vector<const int> ids, matrix<const Real> x, matrix<Real> y) {
    cuda_detail::gather_rows(q, ids.size(), table.cols(), table.data, ids.data, x.data, y.data);
  }
  static void scatter_add_rows(queue& q, matrix<const Real> x, vector<const int> ids, matrix<Real> table) {
    cuda_detail::scatter_add_rows(q, ids.size(), table.cols(), table.rows(), x.data, ids.data, table.data);
  }
  static void add_segment_sums(queue& q, matrix<const Real> x, vector<const int> ids, matrix<Real> sums) {
    cuda_detail::add_segment_sums(q, ids.size(), sums.cols(), sums.rows(), x.data, ids.data, sums.data);
  }

  /// See ops/matmul.hpp.
  static bool add_matrix_column_sums(queue& q, matrix<const Real> x, vector<Real> y) {
    return cuda_detail::add_matrix_column_sums(q, x.rows(), x.cols(), x.data, y.data);
  }
  /// See ops/reduce.hpp.
  template <index_t Block>
  static bool block_squares(queue& q, vector<const Real> x, accum* part) {
    return cuda_detail::block_squares<static_cast<int>(Block)>(q, x.size(), x.data, part);
  }
  /// See training/optimizer.hpp.
  template <class Range, class Rule>
  static bool update_weights(queue& q, vector<accum> weights, Real* rounded, vector<Real> grads, vector<const accum> factor,
                             const std::vector<Range>& ranges, const Rule& rule) {
    return cuda_detail::update_weights(q, weights.size(), weights.data, rounded, grads.data, factor.data, ranges, rule);
  }
};

}  // namespace planlm::cuda_detail
