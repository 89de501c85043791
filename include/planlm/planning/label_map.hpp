/// Pictures of a codebook: every label's place in a plane, and the sentences that stand for it.
///
///   centroids M [K, C]; X = M - mean row;  X'X / K = sum_i l_i v_i v_i', l_1 >= l_2 >= ...
///   place of label k  (X_k v_1, X_k v_2): the first two principal components, in the unit of the embeddings
///   share             l_i / (sum of all l): how much of the spread of the centroids an axis shows, 0 to 1
///
/// Eigenvectors come from Jacobi rotations in double on the smaller of X'X [C, C] and XX' [K, K]. The sign of
/// an axis is free, so it is fixed: the label farthest from 0 along it, the lowest of those as far, lies on
/// the positive side. An axis along which nothing spreads has all labels at 0.
///
/// cost    about 50 min(K, C)^3 flop
/// errors  numeric_error for numbers that are not finite, shape_error for extents that disagree
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/planning/kmeans.hpp>
#include <planlm/planning/label_statistics.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace planlm {

struct label_plane {
  std::vector<double> positions;  // [K, 2]
  std::array<double, 2> share{};  // of the spread, 0 to 1
};

namespace detail {

/// Eigenvalues (n), unsorted, and eigenvectors [n, n], one a row, of a symmetric matrix [n, n].
struct symmetric_eigen {
  std::vector<double> values, vectors;

  symmetric_eigen(std::vector<double> a, std::size_t n) : values(n), vectors(n * n) {
    for (std::size_t i = 0; i < n; ++i) vectors[i * n + i] = 1;
    double whole = 0;
    for (const double v : a) whole += v * v;
    for (int sweep = 0; sweep < 60; ++sweep) {
      double beside = 0;  // the diagonal
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < i; ++j) beside += a[i * n + j] * a[i * n + j];
      if (beside <= 1e-30 * whole) break;
      for (std::size_t p = 0; p < n; ++p)
        for (std::size_t q = p + 1; q < n; ++q) rotate(a, n, p, q);
    }
    for (std::size_t i = 0; i < n; ++i) values[i] = a[i * n + i];
  }

 private:
  /// Makes a[p, q] zero.
  void rotate(std::vector<double>& a, std::size_t n, std::size_t p, std::size_t q) {
    if (a[p * n + q] == 0) return;
    const double half = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
    const double tangent = (half < 0 ? -1 : 1) / (std::abs(half) + std::hypot(half, 1.0));
    const double cosine = 1 / std::hypot(tangent, 1.0), sine = tangent * cosine;
    const auto turn = [&](double& x, double& y) {
      const double old = x;
      x = cosine * old - sine * y;
      y = sine * old + cosine * y;
    };
    for (std::size_t i = 0; i < n; ++i) turn(a[p * n + i], a[q * n + i]);
    for (std::size_t i = 0; i < n; ++i) turn(a[i * n + p], a[i * n + q]);
    for (std::size_t i = 0; i < n; ++i) turn(vectors[p * n + i], vectors[q * n + i]);
    a[p * n + q] = a[q * n + p] = 0;
  }
};

}  // namespace detail

/// Places of the labels with centroids [K, width], K >= 1.
inline label_plane label_map(std::span<const float> centroids, index_t width,
                             location at = location::here()) {
  const index_t rows = detail::check_points(centroids, width, at);
  if (rows < 1) throw_shape_error("label_map: no centroids", at);
  const auto count = static_cast<std::size_t>(rows), columns = static_cast<std::size_t>(width);
  std::vector<double> x(centroids.begin(), centroids.end());
  for (std::size_t c = 0; c < columns; ++c) {
    double mean = 0;
    for (std::size_t k = 0; k < count; ++k) mean += x[k * columns + c];
    mean /= static_cast<double>(count);
    for (std::size_t k = 0; k < count; ++k) x[k * columns + c] -= mean;
  }
  const bool by_rows = count < columns;  // XX' is the smaller one
  const std::size_t n = by_rows ? count : columns, inner = by_rows ? columns : count;
  const std::size_t step = by_rows ? columns : 1, inner_step = by_rows ? 1 : columns;
  std::vector<double> products(n * n);
  double spread = 0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (std::size_t m = 0; m < inner; ++m)
        sum += x[i * step + m * inner_step] * x[j * step + m * inner_step];
      products[i * n + j] = products[j * n + i] = sum;
    }
    spread += products[i * n + i];
  }
  const detail::symmetric_eigen eigen(std::move(products), n);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return eigen.values[a] > eigen.values[b]; });

  label_plane plane;
  plane.positions.resize(2 * count);
  for (std::size_t axis = 0; axis < std::min<std::size_t>(2, n); ++axis) {
    const double value = eigen.values[order[axis]];
    if (!(value > 1e-12 * spread)) break;  // rounding
    plane.share[axis] = value / spread;
    const double* v = eigen.vectors.data() + order[axis] * n;
    double farthest = 0;
    for (std::size_t k = 0; k < count; ++k) {
      double& place = plane.positions[2 * k + axis];
      if (by_rows)
        place = v[k] * std::sqrt(value);  // XX' u = l u: X v = u sqrt(l)
      else
        for (std::size_t c = 0; c < columns; ++c) place += x[k * columns + c] * v[c];
      farthest = std::max(farthest, std::abs(place));
    }
    std::size_t first = 0;  // a label as far as any, up to the rounding of float centroids
    while (std::abs(plane.positions[2 * first + axis]) < (1 - 1e-6) * farthest) ++first;
    if (plane.positions[2 * first + axis] < 0)
      for (std::size_t k = 0; k < count; ++k) plane.positions[2 * k + axis] *= -1;
  }
  return plane;
}

/// For every label the rows of its `most` sentences nearest to its centroid, nearest first, the lowest row
/// first among equals; fewer where the label has fewer. points [N, C], labels (N), centroids [K, C]. Ask for
/// more than are shown where texts may repeat.
inline std::vector<std::vector<index_t>> typical_sentences(std::span<const float> points,
                                                           std::span<const std::int32_t> labels,
                                                           std::span<const float> centroids, index_t width,
                                                           index_t most, location at = location::here()) {
  const index_t rows = detail::check_points(points, width, at),
                count = detail::check_points(centroids, width, at);
  if (static_cast<index_t>(labels.size()) != rows || most < 0)
    throw_shape_error("typical_sentences: " + std::to_string(labels.size()) + " labels of " +
                          std::to_string(rows) + " sentences and " + std::to_string(most) +
                          " asked for, expected a label for each and at least 0",
                      at);
  label_counts(labels, count, at);  // all within 0 .. K-1
  const detail::label_members members(labels, count);
  std::vector<std::vector<index_t>> typical;
  for (index_t k = 0; k < count; ++k) {
    std::vector<std::pair<double, index_t>> near;
    for (index_t m = members.starts[static_cast<std::size_t>(k)];
         m < members.starts[static_cast<std::size_t>(k) + 1]; ++m) {
      const index_t row = members.rows[static_cast<std::size_t>(m)];
      near.emplace_back(
          detail::squared_distance(points.data() + row * width, centroids.data() + k * width, width), row);
    }
    const auto kept =
        near.begin() + static_cast<std::ptrdiff_t>(std::min(near.size(), static_cast<std::size_t>(most)));
    std::partial_sort(near.begin(), kept, near.end());
    typical.emplace_back();
    for (auto one = near.begin(); one != kept; ++one) typical.back().push_back(one->second);
  }
  return typical;
}

}  // namespace planlm
