/// The leading right singular vectors of a sparse matrix by randomised subspace iteration.
///
///   A [S, V] sparse ~ U Sigma R^T,  R [V, C]
///   Q <- orth(A^T A Q), `rounds` times from random Q [V, C + oversampling]
///   R = Q W, W the leading eigenvectors of Q^T A^T A Q
///
/// Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011. The largest entry of
/// each column of R is positive, which fixes the sign; columns beyond the rank of A are zero. A^T A Q is
/// formed one row of A at a time, so A Q is never stored. Threads own columns of Q and never add across
/// them: the same bits for any thread count.
///
/// cost    4 nnz(A) (C + oversampling) + 4 V (C + oversampling)^2 flop a round
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>
#include <planlm/backend/cpu/pool.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/philox.hpp>

namespace planlm {

/// Rows of a sparse matrix: columns[e], values[e] for e in starts[s] .. starts[s + 1] - 1 belong to row s.
struct sparse_rows {
  std::vector<std::size_t> starts{0};
  std::vector<std::int32_t> columns;
  std::vector<float> values;

  std::size_t size() const { return starts.size() - 1; }
};

struct truncated_svd_options {
  int rounds = 8;             // of subspace iteration
  index_t oversampling = 16;  // columns beyond `width` that are iterated too
  std::uint64_t seed = 0;     // of the first subspace
  int threads = 1;
};

namespace detail {

/// A tall matrix [V, 8 slices] of double as slices of eight columns, each [V, 8]: an entry of a sparse row
/// meets one cache line.
class sliced_matrix {
 public:
  static constexpr std::size_t lanes = 8;
  using slice_type = std::vector<double>;  // [V, lanes]
  using square = std::array<double, lanes * lanes>;

  sliced_matrix(std::size_t rows, std::size_t columns)
      : rows_(rows), slices_((columns + lanes - 1) / lanes, slice_type(rows * lanes)) {}

  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return slices_.size() * lanes; }
  double& at(std::size_t row, std::size_t column) {
    return slices_[column / lanes][row * lanes + column % lanes];
  }
  const slice_type& slice(std::size_t s) const { return slices_[s]; }

  /// this = A^T A q; a slice is one thread's from beginning to end.
  void apply_gram(const sparse_rows& a, const sliced_matrix& q, cpu_detail::thread_pool& pool) {
    pool.run(static_cast<index_t>(slices_.size()), [&](index_t s, int) {
      gram_slice(a, q.slices_[static_cast<std::size_t>(s)], slices_[static_cast<std::size_t>(s)]);
    });
  }

  /// Columns made orthonormal from the left by Gram-Schmidt, every projection done twice. A column that is a
  /// combination of earlier ones becomes zero, so the rank shows as the number of columns left.
  void orthonormalise() {
    for (std::size_t s = 0; s < slices_.size(); ++s) {
      slice_type& z = slices_[s];
      const square before = product(z, z);
      for (int twice = 0; twice < 2; ++twice)
        for (std::size_t left = 0; left < s; ++left) subtract_projection(slices_[left], z);
      for (std::size_t c = 0; c < lanes; ++c) {
        for (int twice = 0; twice < 2; ++twice) subtract_left_columns(z, c);
        const double length = std::sqrt(dots(z, c)[c]);
        const double scale = length > 1e-10 * std::sqrt(before[c * lanes + c]) ? 1 / length : 0;
        for (std::size_t r = 0; r < z.size(); r += lanes) z[r + c] *= scale;
      }
    }
  }

  /// a^T b for one slice of each, [lanes, lanes].
  static square product(const slice_type& a, const slice_type& b) {
    square g{};
    for (std::size_t r = 0; r < a.size(); r += lanes)
      for (std::size_t i = 0; i < lanes; ++i)
        for (std::size_t j = 0; j < lanes; ++j) g[i * lanes + j] += a[r + i] * b[r + j];
    return g;
  }

 private:
  static void gram_slice(const sparse_rows& a, const slice_type& q, slice_type& z) {
    std::fill(z.begin(), z.end(), 0.0);
    for (std::size_t s = 0; s < a.size(); ++s) {
      double y[lanes] = {};  // row s of A q
      for (std::size_t e = a.starts[s]; e < a.starts[s + 1]; ++e) {
        const double* row = q.data() + static_cast<std::size_t>(a.columns[e]) * lanes;
        for (std::size_t j = 0; j < lanes; ++j) y[j] += double{a.values[e]} * row[j];
      }
      for (std::size_t e = a.starts[s]; e < a.starts[s + 1]; ++e) {
        double* row = z.data() + static_cast<std::size_t>(a.columns[e]) * lanes;
        for (std::size_t j = 0; j < lanes; ++j) row[j] += double{a.values[e]} * y[j];
      }
    }
  }
  static void subtract_projection(const slice_type& left, slice_type& z) {
    const square g = product(left, z);
    for (std::size_t r = 0; r < z.size(); r += lanes)
      for (std::size_t i = 0; i < lanes; ++i)
        for (std::size_t j = 0; j < lanes; ++j) z[r + j] -= left[r + i] * g[i * lanes + j];
  }
  /// Column c of a slice against all its columns.
  static std::array<double, lanes> dots(const slice_type& z, std::size_t c) {
    std::array<double, lanes> d{};
    for (std::size_t r = 0; r < z.size(); r += lanes)
      for (std::size_t j = 0; j < lanes; ++j) d[j] += z[r + c] * z[r + j];
    return d;
  }
  static void subtract_left_columns(slice_type& z, std::size_t c) {
    const auto d = dots(z, c);
    for (std::size_t r = 0; r < z.size(); r += lanes) {
      double projected = 0;
      for (std::size_t j = 0; j < c; ++j) projected += d[j] * z[r + j];
      z[r + c] -= projected;
    }
  }

  std::size_t rows_;
  std::vector<slice_type> slices_;
};

/// Eigenvalues (the diagonal g ends with) and eigenvectors (columns of w) of symmetric g [n, n] by cyclic
/// Jacobi rotations.
inline void jacobi_eigen(std::vector<double>& g, std::vector<double>& w, std::size_t n) {
  w.assign(n * n, 0.0);
  for (std::size_t i = 0; i < n; ++i) w[i * n + i] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, diagonal = 0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) (i == j ? diagonal : off) += g[i * n + j] * g[i * n + j];
    if (off <= 1e-28 * diagonal) return;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        if (g[p * n + q] == 0) continue;
        const double theta = (g[q * n + q] - g[p * n + p]) / (2 * g[p * n + q]);
        const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        const auto rotate = [c, s](double& x, double& y) {
          const double x0 = x, y0 = y;
          x = c * x0 - s * y0;
          y = s * x0 + c * y0;
        };
        for (std::size_t k = 0; k < n; ++k) rotate(g[k * n + p], g[k * n + q]);
        for (std::size_t k = 0; k < n; ++k) rotate(g[p * n + k], g[q * n + k]);
        for (std::size_t k = 0; k < n; ++k) rotate(w[k * n + p], w[k * n + q]);
      }
  }
}

}  // namespace detail

/// R [columns, width]: the right singular vectors of the `width` largest singular values of a [S, columns].
inline std::vector<float> right_singular_vectors(const sparse_rows& a, index_t columns, index_t width,
                                                 const truncated_svd_options& options = {}) {
  constexpr std::size_t lanes = detail::sliced_matrix::lanes;
  const auto rows = static_cast<std::size_t>(columns), wanted = static_cast<std::size_t>(width);
  cpu_detail::thread_pool pool(options.threads);
  detail::sliced_matrix q(rows, std::min(wanted + static_cast<std::size_t>(options.oversampling), rows)),
      z = q;
  const philox draws{options.seed, 0, 0x737664u};
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < q.columns(); ++c)
      q.at(r, c) = draws.uniform(r, static_cast<std::uint32_t>(c)) - 0.5;
  q.orthonormalise();
  for (int round = 0; round < options.rounds; ++round) {
    z.apply_gram(a, q, pool);
    std::swap(q, z);
    q.orthonormalise();
  }
  z.apply_gram(a, q, pool);
  const std::size_t n = q.columns();
  std::vector<double> g(n * n), w;  // q^T A^T A q
  for (std::size_t i = 0; i < n; i += lanes)
    for (std::size_t j = i; j < n; j += lanes) {
      const auto block = detail::sliced_matrix::product(q.slice(i / lanes), z.slice(j / lanes));
      for (std::size_t k = 0; k < lanes * lanes; ++k)
        g[(i + k / lanes) * n + j + k % lanes] = g[(j + k % lanes) * n + i + k / lanes] = block[k];
    }
  detail::jacobi_eigen(g, w, n);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return g[i * n + i] > g[j * n + j]; });

  std::vector<float> components(rows * wanted);
  std::vector<double> column(rows);
  for (std::size_t c = 0; c < std::min(wanted, n); ++c) {
    const std::size_t from = order[c];
    if (!(g[from * n + from] > 1e-10 * g[order[0] * n + order[0]]))
      break;  // beyond the rank there is only rounding
    std::size_t largest = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      column[r] = 0;
      for (std::size_t k = 0; k < n; ++k) column[r] += q.at(r, k) * w[k * n + from];
      if (std::abs(column[r]) > std::abs(column[largest])) largest = r;
    }
    const double sign = column[largest] < 0 ? -1 : 1;
    for (std::size_t r = 0; r < rows; ++r) components[r * wanted + c] = static_cast<float>(sign * column[r]);
  }
  return components;
}

}  // namespace planlm
