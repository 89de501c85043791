/// C = alpha A B (+ C), register-tiled, with a summation order that depends on the inner extent alone.
///
/// Element (i, j) is sum over blocks of 256 inner indices of (sequential multiply-adds over the block): the same bits for any number of rows,
/// columns or threads. That is what lets a decoder that computes one row agree bit for bit with the training pass that computed a thousand.
#pragma once
#include <algorithm>
#include <cstddef>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cpu/simd.hpp>

namespace planlm::inline PLANLM_CPU_ABI {

/// Register-tiled products of the library itself; the default of `cpu`.
struct tiled_products {
  static constexpr index_t block_k = 256;  // inner indices per block: one panel of B stays in the first-level cache

  template <class Real>
  struct tile {
    static constexpr int width = simd<Real>::width;
    static constexpr int rows = vector_bytes == 64 ? 8 : vector_bytes == 32 ? 6 : 4;
    static constexpr int vectors = vector_bytes == 64 ? 3 : 2;
    static constexpr int cols = vectors * width;
    static constexpr index_t block_n = 10 * cols;  // columns of B packed at a time: a panel block stays in the second-level cache
  };

  /// Bytes of private scratch memory that one thread needs.
  template <class Real>
  static constexpr std::size_t scratch_bytes() {
    return static_cast<std::size_t>(block_k * tile<Real>::block_n) * sizeof(Real);
  }

  /// The block of C given by its operand; `bias` (one value per column, or null) is added once.
  template <class Real>
  static void multiply(Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, const Real* bias, into mode,
                       void* scratch) {
    using t = tile<Real>;
    Real* packed = static_cast<Real*>(scratch);
    if (a.cols == 0) return start(c, bias, mode);
    for (index_t jc = 0; jc < c.cols; jc += t::block_n) {
      const index_t nc = std::min(t::block_n, c.cols - jc);
      for (index_t pc = 0; pc < a.cols; pc += block_k) {
        const index_t kc = std::min(block_k, a.cols - pc);
        for (index_t j = 0; j < nc; j += t::cols)
          pack(b, pc, kc, jc + j, std::min<index_t>(t::cols, nc - j), packed + j * kc);
        const bool first = pc == 0 && mode == into::replace;
        for (index_t j = 0; j < nc; j += t::cols) {
          const panel<Real> to{packed + j * kc, c.data + jc + j, std::min<index_t>(t::cols, nc - j),
                               pc == 0 && bias ? bias + jc + j : nullptr, !first};
          index_t i = 0;
          for (; i + t::rows <= c.rows; i += t::rows) run<t::rows>(alpha, a, i, pc, kc, to, c.row_stride);
          for (; i + 2 <= c.rows; i += 2) run<2>(alpha, a, i, pc, kc, to, c.row_stride);
          for (; i < c.rows; ++i) run<1>(alpha, a, i, pc, kc, to, c.row_stride);
        }
      }
    }
  }

 private:
  template <class Real>
  struct panel {
    const Real* b;     // packed (kc, cols)
    Real* c;           // first row's destination
    index_t cols;      // of them valid
    const Real* bias;  // added to the first block's sums
    bool add;
  };

  template <class Real>
  static void start(operand<Real> c, const Real* bias, into mode) {
    for (index_t i = 0; i < c.rows; ++i)
      for (index_t j = 0; j < c.cols; ++j) {
        Real& at = c.data[i * c.row_stride + j];
        at = (mode == into::add ? at : Real(0)) + (bias ? bias[j] : Real(0));
      }
  }

  // Columns [j, j + n) of B, inner indices [p, p + kc), as rows of `cols` values; missing columns are zero.
  template <class Real>
  static void pack(operand<const Real> b, index_t p, index_t kc, index_t j, index_t n, Real* to) {
    using t = tile<Real>;
    const Real* from = b.data + p * b.row_stride + j * b.col_stride;
    if (n < t::cols) std::fill(to, to + kc * t::cols, Real(0));
    if (b.col_stride == 1) {
      for (index_t k = 0; k < kc; ++k) std::copy_n(from + k * b.row_stride, n, to + k * t::cols);
      return;
    }
    index_t k = 0;
    if (b.row_stride == 1 && n == t::cols)
      for (; k + t::width <= kc; k += t::width)
        for (int v = 0; v < t::vectors; ++v) {
          typename simd<Real>::type r[t::width];
          for (int x = 0; x < t::width; ++x) r[x] = simd<Real>::load(from + (v * t::width + x) * b.col_stride + k);
          simd<Real>::transpose(r);
          for (int x = 0; x < t::width; ++x) simd<Real>::store(to + (k + x) * t::cols + v * t::width, r[x]);
        }
    for (; k < kc; ++k)
      for (index_t x = 0; x < n; ++x) to[k * t::cols + x] = from[k * b.row_stride + x * b.col_stride];
  }

  // M rows of C from row i, one packed panel of B. A is read in place: its elements are broadcast.
  template <int M, class Real>
  static void run(Real alpha, operand<const Real> a, index_t i, index_t p, index_t kc, const panel<Real>& to, index_t stride) {
    using t = tile<Real>;
    using v = typename simd<Real>::type;
    constexpr int n = t::vectors;
    const Real* from = a.data + i * a.row_stride + p * a.col_stride;
    v sum[M][n];
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) sum[r][j] = v{};
    const Real* b = to.b;
    for (index_t k = 0; k < kc; ++k, b += t::cols, from += a.col_stride) {
      v bv[n];
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) bv[j] = simd<Real>::load(b + j * t::width);
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r) {
        const Real x = from[r * a.row_stride];
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) sum[r][j] += x * bv[j];
      }
    }
    Real* c = to.c + i * stride;
    if (to.cols == t::cols) {
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) {
          Real* at = c + r * stride + j * t::width;
          v value = alpha * sum[r][j];
          if (to.bias) value = simd<Real>::load(to.bias + j * t::width) + value;
          simd<Real>::store(at, to.add ? simd<Real>::load(at) + value : value);
        }
      return;
    }
    alignas(64) Real edge[M * t::cols];
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) simd<Real>::store(edge + r * t::cols + j * t::width, alpha * sum[r][j]);
    for (int r = 0; r < M; ++r)
      for (index_t j = 0; j < to.cols; ++j) {
        const Real value = to.bias ? to.bias[j] + edge[r * t::cols + j] : edge[r * t::cols + j];
        c[r * stride + j] = to.add ? c[r * stride + j] + value : value;
      }
  }
};

}  // namespace planlm::inline PLANLM_CPU_ABI
