#include "catch.hpp"

#include <cmath>
#include <planlm/core/philox.hpp>
#include <planlm/text/truncated_svd.hpp>
#include <vector>

using namespace planlm;

namespace {

sparse_rows sparse(const std::vector<std::vector<float>>& dense) {
  sparse_rows a;
  for (const auto& row : dense) {
    for (std::size_t c = 0; c < row.size(); ++c)
      if (row[c] != 0) {
        a.columns.push_back(static_cast<std::int32_t>(c));
        a.values.push_back(row[c]);
      }
    a.starts.push_back(a.values.size());
  }
  return a;
}

std::vector<std::vector<float>> random_matrix(std::size_t rows, std::size_t columns, std::uint64_t seed) {
  const philox draws{seed};
  std::vector<std::vector<float>> m(rows, std::vector<float>(columns));
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c)
      if (draws.uniform(r, static_cast<std::uint32_t>(c)) < 0.3)
        m[r][c] = static_cast<float>(draws.normal(r, static_cast<std::uint32_t>(1000 + c)));
  return m;
}

}  // namespace

TEST_CASE("singular vectors of a diagonal matrix are its axes, largest first, largest entry positive") {
  const auto r = right_singular_vectors(sparse({{0, -3, 0}, {0, 0, 5}, {1, 0, 0}}), 3, 2);
  const std::vector<float> expected{0, 0, 0, 1, 1, 0};  // [3 columns, 2 components]: axis 2, then axis 1
  for (std::size_t i = 0; i < 6; ++i) REQUIRE(r[i] == Approx(expected[i]).margin(1e-7));
}

TEST_CASE("singular vectors are orthonormal eigenvectors of A^T A with falling eigenvalues") {
  const std::size_t rows = 60, columns = 45;
  const index_t width = 7;
  const auto dense = random_matrix(rows, columns, 4);
  const auto r = right_singular_vectors(sparse(dense), columns, width, {60, 16, 1, 1});
  const auto at = [&](std::size_t row, std::size_t k) { return double{r[row * 7 + k]}; };
  double before = 1e300;
  for (std::size_t k = 0; k < 7; ++k) {
    for (std::size_t j = 0; j <= k; ++j) {
      double dot = 0;
      for (std::size_t c = 0; c < columns; ++c) dot += at(c, j) * at(c, k);
      REQUIRE(dot == Approx(j == k ? 1.0 : 0.0).margin(1e-6));
    }
    std::vector<double> image(columns);  // A^T A r_k
    for (const auto& row : dense) {
      double y = 0;
      for (std::size_t c = 0; c < columns; ++c) y += double{row[c]} * at(c, k);
      for (std::size_t c = 0; c < columns; ++c) image[c] += double{row[c]} * y;
    }
    double value = 0, residual = 0, largest = 0;
    for (std::size_t c = 0; c < columns; ++c) value += image[c] * at(c, k);
    for (std::size_t c = 0; c < columns; ++c) {
      residual = std::max(residual, std::abs(image[c] - value * at(c, k)));
      if (std::abs(at(c, k)) > std::abs(largest)) largest = at(c, k);
    }
    REQUIRE(residual < 1e-4 * value);
    REQUIRE(value < before);
    REQUIRE(largest > 0);
    before = value;
  }
}

TEST_CASE("components beyond the rank are zero, and so are components beyond the number of columns") {
  // Rank 2: the third row is the sum of the others.
  for (const int rounds : {0, 8}) {
    const auto r =
        right_singular_vectors(sparse({{1, 2, 0, 0}, {0, 0, 3, 1}, {1, 2, 3, 1}}), 4, 6, {rounds, 16, 0, 1});
    for (std::size_t row = 0; row < 4; ++row) {
      REQUIRE(r[row * 6] != 0);
      for (std::size_t k = 2; k < 6; ++k) REQUIRE(r[row * 6 + k] == 0);
    }
  }
  for (const float v : right_singular_vectors(sparse({{0, 0}, {0, 0}}), 2, 2)) REQUIRE(v == 0);
}

TEST_CASE("singular vectors have the same bits twice and with 1, 2 and 3 threads") {
  const auto a = sparse(random_matrix(300, 90, 9));
  const auto one = right_singular_vectors(a, 90, 20, {8, 16, 5, 1});
  for (const int threads : {1, 2, 3}) REQUIRE(right_singular_vectors(a, 90, 20, {8, 16, 5, threads}) == one);
}
