/// C = alpha A B (+ C), register-tiled, with a summation order that depends on the inner extent alone.
///
/// Element (i, j) is sum over blocks of 256 inner indices of (sequential multiply-adds over the block): the same bits for any number of rows,
/// columns or threads. That is what lets a decoder that computes one row agree bit for bit with the training pass that computed a thousand.
/// B is packed for many rows; a few rows read it where it lies, since packing would cost more than the product. A is read where it lies if
/// its rows are contiguous; its transpose is packed, because there every inner index is another page and often the same cache set.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cpu/simd.hpp>

namespace planlm::inline PLANLM_CPU_ABI {

/// Register-tiled products of the library itself; the default of `cpu`.
struct tiled_products {
  static constexpr index_t block_k = 256;  // inner indices per block: a tile's rows of A stay in the first-level cache
  static constexpr index_t few_rows = 4;   // of C, for which B is not packed

  template <class Real>
  struct tile {
    static constexpr int width = simd<Real>::width;
    static constexpr int rows = vector_bytes == 64 ? 8 : vector_bytes == 32 ? 6 : 4;
    static constexpr int vectors = vector_bytes == 64 ? 3 : 2;
    static constexpr int cols = vectors * width;
    static constexpr index_t block_n = 10 * cols;  // columns of B packed at a time: they stay in the second-level cache
    static constexpr index_t block_m = 8 * rows;   // rows of A^T packed at a time: whole cache lines are read
  };

  /// Bytes of private scratch memory that one thread needs.
  template <class Real>
  static constexpr std::size_t scratch_bytes() {
    return static_cast<std::size_t>(block_k * (tile<Real>::block_n + tile<Real>::block_m)) * sizeof(Real);
  }

  /// The block of C given by its operand; `bias` (one value per column, or null) is added once.
  template <class Real>
  static void multiply(Real alpha, operand<const Real> a, operand<const Real> b, operand<Real> c, const Real* bias, into mode,
                       void* scratch) {
    using t = tile<Real>;
    Real* packed = static_cast<Real*>(scratch);
    if (a.cols == 0) return start(c, bias, mode);
    if (c.rows <= few_rows && (b.row_stride == 1 || b.col_stride == 1)) return multiply_few(alpha, a, b, c, bias, mode, packed);
    Real* packed_a = packed + block_k * t::block_n;
    const bool in_place = a.col_stride == 1;
    for (index_t jc = 0; jc < c.cols; jc += t::block_n) {
      const index_t nc = std::min(t::block_n, c.cols - jc);
      for (index_t pc = 0; pc < a.cols; pc += block_k) {
        const index_t kc = std::min(block_k, a.cols - pc);
        pack(b, pc, kc, jc, nc, packed);
        const strip<Real> to{packed, nc, c.data + jc, pc == 0 && bias ? bias + jc : nullptr, pc > 0 || mode == into::add};
        for (index_t ic = 0; ic < c.rows; ic += t::block_m) {
          const index_t mc = std::min(t::block_m, c.rows - ic), whole = in_place ? mc / t::rows * t::rows : 0;
          if (whole < mc) pack_rows(a, pc, kc, ic + whole, mc - whole, packed_a);
          for (index_t i = 0; i < mc; i += t::rows) {
            const index_t rows = std::min<index_t>(t::rows, mc - i);
            const factor<Real> from = i < whole ? factor<Real>{a.data + (ic + i) * a.row_stride + pc, a.row_stride, 1}
                                                : factor<Real>{packed_a + (i - whole) * kc, 1, t::rows};
            Real* at = to.c + (ic + i) * c.row_stride;
            if (2 * rows > t::rows) run_strip<t::rows>(alpha, from, kc, to, at, rows, c.row_stride);
            else run_strip<t::rows / 2>(alpha, from, kc, to, at, rows, c.row_stride);
          }
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
  // Packed columns of B, panel by panel, and where their sums go.
  template <class Real>
  struct strip {
    const Real* b;
    index_t cols;
    Real* c;  // of the first row
    const Real* bias;
    bool add;
  };
  // Rows of A, in place or packed: element (r, k) is at[r * row_stride + k * col_stride].
  template <class Real>
  struct factor {
    const Real* at;
    index_t row_stride, col_stride;
  };

  template <class Real>
  static void start(operand<Real> c, const Real* bias, into mode) {
    for (index_t i = 0; i < c.rows; ++i)
      for (index_t j = 0; j < c.cols; ++j) {
        Real& at = c.data[i * c.row_stride + j];
        at = (mode == into::add ? at : Real(0)) + (bias ? bias[j] : Real(0));
      }
  }

  // Columns [j, j + n) of B, inner indices [p, p + kc), as panels of t::cols columns and kc rows; the last panel is as many vectors wide as it
  // needs, missing columns are zero.
  template <class Real>
  static void pack(operand<const Real> b, index_t p, index_t kc, index_t j, index_t n, Real* to) {
    using t = tile<Real>;
    const Real* from = b.data + p * b.row_stride + j * b.col_stride;
    const index_t whole = n / t::cols * t::cols, rest = n - whole, wide = (rest + t::width - 1) / t::width * t::width;
    Real* last = to + whole * kc;
    if (b.col_stride == 1) {
      for (index_t k = 0; k < kc; ++k, from += b.row_stride) {
        for (index_t x = 0; x < whole; x += t::cols) std::memcpy(to + x * kc + k * t::cols, from + x, t::cols * sizeof(Real));
        for (index_t x = 0; x < rest; ++x) last[k * wide + x] = from[whole + x];
        for (index_t x = rest; x < wide; ++x) last[k * wide + x] = Real(0);
      }
      return;
    }
    for (index_t x = 0; x < n; x += t::width) {
      const bool in_last = x >= whole;
      const index_t panel = x / t::cols * t::cols, stride = in_last ? wide : t::cols;
      pack_vector(from + x * b.col_stride, b.row_stride, b.col_stride, kc, std::min<index_t>(t::width, n - x),
                  to + panel * kc + (x - panel), stride);
    }
  }
  // `n` columns, at most one vector of them, into rows that are `stride` apart.
  template <class Real>
  static void pack_vector(const Real* from, index_t row_stride, index_t col_stride, index_t kc, index_t n, Real* to, index_t stride) {
    constexpr int width = simd<Real>::width;
    index_t k = 0;
    if (row_stride == 1)
      for (; k + width <= kc; k += width) {
        typename simd<Real>::type r[width];
        for (int x = 0; x < width; ++x) r[x] = x < n ? simd<Real>::load(from + x * col_stride + k) : typename simd<Real>::type{};
        simd<Real>::transpose(r);
        for (int x = 0; x < width; ++x) simd<Real>::store(to + (k + x) * stride, r[x]);
      }
    for (; k < kc; ++k)
      for (index_t x = 0; x < width; ++x) to[k * stride + x] = x < n ? from[k * row_stride + x * col_stride] : Real(0);
  }
  // Rows [i, i + m) of A, inner indices [p, p + kc), as tiles (kc, rows of a tile); missing rows are zero.
  template <class Real>
  static void pack_rows(operand<const Real> a, index_t p, index_t kc, index_t i, index_t m, Real* to) {
    constexpr int rows = tile<Real>::rows;
    const Real* from = a.data + i * a.row_stride + p * a.col_stride;
    const index_t whole = m / rows * rows;
    for (index_t k = 0; k < kc; ++k) {
      const Real* line = from + k * a.col_stride;
      if (a.row_stride == 1)
        for (index_t r = 0; r < whole; r += rows) std::memcpy(to + r * kc + k * rows, line + r, rows * sizeof(Real));
      else
        for (index_t r = 0; r < whole; ++r) to[r / rows * rows * kc + k * rows + r % rows] = line[r * a.row_stride];
      if (whole < m)
        for (index_t r = 0; r < rows; ++r) to[whole * kc + k * rows + r] = whole + r < m ? line[(whole + r) * a.row_stride] : Real(0);
    }
  }

  // `rows` <= M rows of C, all columns of a strip.
  template <int M, class Real>
  static void run_strip(Real alpha, const factor<Real>& a, index_t kc, const strip<Real>& s, Real* c, index_t rows, index_t stride) {
    using t = tile<Real>;
    for (index_t j = 0; j < s.cols; j += t::cols) {
      const index_t n = std::min<index_t>(t::cols, s.cols - j);
      const int vectors = static_cast<int>((n + t::width - 1) / t::width);
      const panel<Real> to{s.b + j * kc, vectors * t::width, c + j, n, s.bias ? s.bias + j : nullptr, s.add};
      if (vectors == t::vectors) run<M, t::vectors>(alpha, a, kc, to, rows, stride);
      else if (vectors == 1) run<M, 1>(alpha, a, kc, to, rows, stride);
      else run<M, 2>(alpha, a, kc, to, rows, stride);
    }
  }
  // M rows of C, of which `rows` exist, one panel of n vectors of B. Elements of A are broadcast.
  template <int M, int n, class Real>
  static void run(Real alpha, const factor<Real>& a, index_t kc, const panel<Real>& to, index_t rows, index_t stride) {
    using t = tile<Real>;
    using v = typename simd<Real>::type;
    const Real* from = a.at;
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
    finish<M, n>(alpha, sum, to, rows, stride);
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
    finish<M, n>(alpha, sum, to, M, stride);
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
        const Real* added = pc == 0 && bias ? bias + j : nullptr;
        const bool add = pc > 0 || mode == into::add;
        const factor<Real> from{a.data + pc * a.col_stride, a.row_stride, a.col_stride};
        if (b.row_stride == 1) {
          run_turned<M>(alpha, a, pc, kc, at, b.col_stride, {at, b.row_stride, c.data + j, n, added, add}, c.row_stride);
        } else if (n < t::cols) {
          pack(b, pc, kc, j, n, packed);
          run_strip<M>(alpha, from, kc, {packed, n, c.data + j, added, add}, c.data + j, M, c.row_stride);
        } else {
          run<M, t::vectors>(alpha, from, kc, {at, b.row_stride, c.data + j, n, added, add}, M, c.row_stride);
        }
      }
  }

  // alpha sum, with bias or what is there, becomes the first `rows` of M rows of C.
  template <int M, int n, class Real, class Sums>
  [[gnu::always_inline]] static void finish(Real alpha, const Sums& sum, const panel<Real>& to, index_t rows, index_t stride) {
    constexpr int width = simd<Real>::width, cols = n * width;
    using v = typename simd<Real>::type;
    if (to.cols == cols && rows == M) {
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) {
          Real* at = to.c + r * stride + j * width;
          v value = alpha * sum[r][j];
          simd<Real>::settle(value);
          if (to.bias) value = simd<Real>::load(to.bias + j * width) + value;
          simd<Real>::store(at, to.add ? simd<Real>::load(at) + value : value);
        }
      return;
    }
    alignas(64) Real edge[M * cols];
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) {
        v value = alpha * sum[r][j];
        simd<Real>::settle(value);
        simd<Real>::store(edge + r * cols + j * width, value);
      }
    for (index_t r = 0; r < rows; ++r)
      for (index_t j = 0; j < to.cols; ++j) {
        const Real value = to.bias ? to.bias[j] + edge[r * cols + j] : edge[r * cols + j];
        to.c[r * stride + j] = to.add ? to.c[r * stride + j] + value : value;
      }
  }
};

}  // namespace planlm::inline PLANLM_CPU_ABI
