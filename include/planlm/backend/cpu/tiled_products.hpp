/// C = alpha A B (+ C), register-tiled, with a summation order that depends on the inner extent alone.
///
/// Element (i, j) is sum over blocks of 256 inner indices of (sequential multiply-adds over the block): the same bits for any number of rows,
/// columns or threads. That is what lets a decoder that computes one row agree bit for bit with the training pass that computed a thousand.
/// B is packed for many rows; a few rows read it where it lies, since packing would cost more than the product.
#pragma once
#include <algorithm>
#include <cstddef>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cpu/simd.hpp>

namespace planlm::inline PLANLM_CPU_ABI {

/// Register-tiled products of the library itself; the default of `cpu`.
struct tiled_products {
  static constexpr index_t block_k = 256;  // inner indices per block: one panel of B stays in the first-level cache
  static constexpr index_t few_rows = 4;   // of C, for which B is not packed

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
    if (c.rows <= few_rows && (b.row_stride == 1 || b.col_stride == 1)) return multiply_few(alpha, a, b, c, bias, mode, packed);
    for (index_t jc = 0; jc < c.cols; jc += t::block_n) {
      const index_t nc = std::min(t::block_n, c.cols - jc);
      for (index_t pc = 0; pc < a.cols; pc += block_k) {
        const index_t kc = std::min(block_k, a.cols - pc);
        for (index_t j = 0; j < nc; j += t::cols)
          pack(b, pc, kc, jc + j, std::min<index_t>(t::cols, nc - j), packed + j * kc);
        const bool first = pc == 0 && mode == into::replace;
        for (index_t j = 0; j < nc; j += t::cols) {
          const panel<Real> to{packed + j * kc, t::cols, c.data + jc + j, std::min<index_t>(t::cols, nc - j),
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
    const Real* b;     // (kc, cols)
    index_t b_stride;  // between its rows
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
    for (index_t k = 0; k < kc; ++k, b += to.b_stride, from += a.col_stride) {
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
    finish<M>(alpha, sum, to, to.c + i * stride, stride);
  }

  // The same by columns of B that lie in memory one after another: blocks of it are turned in registers.
  template <int M, class Real>
  static void run_turned(Real alpha, operand<const Real> a, index_t p, index_t kc, const Real* columns, index_t col_stride,
                         const panel<Real>& to, index_t stride) {
    using t = tile<Real>;
    using v = typename simd<Real>::type;
    constexpr int n = t::vectors;
    const Real* from = a.data + p * a.col_stride;
    v sum[M][n];
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) sum[r][j] = v{};
    for (index_t k = 0; k < kc; k += t::width) {
      const int depth = static_cast<int>(std::min<index_t>(t::width, kc - k));
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) {
        const index_t there = to.cols - j * t::width;
        if (there <= 0) break;
        const Real* at = columns + j * t::width * col_stride + k;
        v b[t::width];
        if (there >= t::width && depth == t::width) {
#pragma GCC unroll 16
          for (int x = 0; x < t::width; ++x) b[x] = simd<Real>::load(at + x * col_stride);
        } else {
          for (int x = 0; x < t::width; ++x) b[x] = x < there ? part(at + x * col_stride, depth) : v{};
        }
        simd<Real>::transpose(b);
        const Real* x = from + k * a.col_stride;
        if (depth == t::width) {
#pragma GCC unroll 16
          for (int y = 0; y < t::width; ++y, x += a.col_stride)
#pragma GCC unroll 16
            for (int r = 0; r < M; ++r) sum[r][j] += x[r * a.row_stride] * b[y];
        } else {
          for (int y = 0; y < depth; ++y, x += a.col_stride)
            for (int r = 0; r < M; ++r) sum[r][j] += x[r * a.row_stride] * b[y];
        }
      }
    }
    finish<M>(alpha, sum, to, to.c, stride);
  }
  template <class Real>
  static typename simd<Real>::type part(const Real* from, int n) {
    typename simd<Real>::type v{};
    for (int i = 0; i < n; ++i) v[i] = from[i];
    return v;
  }

  template <class Real>
  static void multiply_few(Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, const Real* bias, into mode,
                           Real* packed) {
    switch (c.rows) {
      case 1: return multiply_rows<1>(alpha, a, b, c, bias, mode, packed);
      case 2: return multiply_rows<2>(alpha, a, b, c, bias, mode, packed);
      case 3: return multiply_rows<3>(alpha, a, b, c, bias, mode, packed);
      case few_rows: return multiply_rows<few_rows>(alpha, a, b, c, bias, mode, packed);
    }
  }
  template <int M, class Real>
  static void multiply_rows(Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, const Real* bias, into mode,
                            Real* packed) {
    using t = tile<Real>;
    for (index_t j = 0; j < c.cols; j += t::cols)
      for (index_t pc = 0; pc < a.cols; pc += block_k) {
        const index_t kc = std::min(block_k, a.cols - pc), n = std::min<index_t>(t::cols, c.cols - j);
        const Real* at = b.data + pc * b.row_stride + j * b.col_stride;
        panel<Real> to{at, b.row_stride, c.data + j, n, pc == 0 && bias ? bias + j : nullptr, pc > 0 || mode == into::add};
        if (b.row_stride == 1) {
          run_turned<M>(alpha, a, pc, kc, at, b.col_stride, to, c.row_stride);
          continue;
        }
        if (n < t::cols) {
          pack(b, pc, kc, j, n, packed);
          to.b = packed, to.b_stride = t::cols;
        }
        run<M>(alpha, a, 0, pc, kc, to, c.row_stride);
      }
  }

  // alpha sum, with bias or what is there, becomes M rows of C.
  template <int M, class Real, class Sums>
  [[gnu::always_inline]] static void finish(Real alpha, const Sums& sum, const panel<Real>& to, Real* c, index_t stride) {
    using t = tile<Real>;
    using v = typename simd<Real>::type;
    constexpr int n = t::vectors;
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
