#include "catch.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <planlm/core/philox.hpp>
#include <planlm/planning/label_map.hpp>
#include <vector>

using namespace planlm;

namespace {

struct point {
  double x, y;
};

/// The points of a plane carried into `width` >= 3 dimensions by two orthogonal directions and an offset.
std::vector<float> lifted(const std::vector<point>& points, index_t width) {
  // (2, 1, 2)/3 and (-2, 2, 1)/3 are orthogonal and of length 1; further columns only hold the offset
  std::vector<float> rows;
  for (const auto& [x, y] : points)
    for (index_t c = 0; c < width; ++c) {
      const double a = c == 0   ? 2
                       : c == 1 ? 1
                       : c == 2 ? 2
                                : 0,
                   b = c == 0   ? -2
                       : c == 1 ? 2
                       : c == 2 ? 1
                                : 0;
      rows.push_back(static_cast<float>((x * a + y * b) / 3 + 0.5 * static_cast<double>(c)));
    }
  return rows;
}

void check_places(const label_plane& plane, const std::vector<point>& expected) {
  REQUIRE(plane.positions.size() == 2 * expected.size());
  for (std::size_t k = 0; k < expected.size(); ++k) {
    CHECK(plane.positions[2 * k] == Approx(expected[k].x).epsilon(1e-6).margin(1e-6));
    CHECK(plane.positions[2 * k + 1] == Approx(expected[k].y).epsilon(1e-6).margin(1e-6));
  }
}

std::vector<float> random_rows(index_t count, index_t width, std::uint64_t seed) {
  std::vector<float> rows;
  for (index_t i = 0; i < count * width; ++i)
    rows.push_back(static_cast<float>(philox{seed}.normal(static_cast<std::uint64_t>(i), 0)));
  return rows;
}

}  // namespace

TEST_CASE("a rectangle planted in space is found again, with the first corner positive") {
  const std::vector<point> corners{{3, 1}, {3, -1}, {-3, 1}, {-3, -1}};
  for (const index_t width : {3, 4, 5, 9}) {  // by X'X, and with fewer labels than columns by XX'
    const auto plane = label_map(lifted(corners, width), width);
    check_places(plane, corners);
    // sum of squares 4 * 9 and 4 * 1
    CHECK(plane.share[0] == Approx(0.9).epsilon(1e-6));
    CHECK(plane.share[1] == Approx(0.1).epsilon(1e-6));
  }
  // The other corner first: both axes turn round.
  check_places(label_map(lifted({{-3, -1}, {3, -1}, {-3, 1}, {3, 1}}, 3), 3),
               {{3, 1}, {-3, 1}, {3, -1}, {-3, -1}});
}

TEST_CASE("the label farthest along an axis lies on its positive side") {
  // mean (0, 0) and no correlation; label 1 is farthest along x, labels 3 and 4 along y
  check_places(label_map(lifted({{2, 0}, {-4, 0}, {2, 0}, {0, -1}, {0, 1}}, 3), 3),
               {{-2, 0}, {4, 0}, {-2, 0}, {0, 1}, {0, -1}});
}

TEST_CASE("points of a plane keep their distances") {
  std::vector<point> points;
  for (std::uint64_t i = 0; i < 12; ++i)
    points.push_back({philox{2}.normal(i, 0), 0.4 * philox{2}.normal(i, 1)});
  for (const index_t width : {3, 20}) {
    const auto plane = label_map(lifted(points, width), width);
    for (std::size_t i = 0; i < points.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        CHECK(std::hypot(plane.positions[2 * i] - plane.positions[2 * j],
                         plane.positions[2 * i + 1] - plane.positions[2 * j + 1]) ==
              Approx(std::hypot(points[i].x - points[j].x, points[i].y - points[j].y)).epsilon(1e-4));
    CHECK(plane.share[0] + plane.share[1] == Approx(1).epsilon(1e-9));
  }
}

TEST_CASE("what is not spread has no place") {
  const auto line = label_map(lifted({{-2, 0}, {0, 0}, {2, 0}}, 3), 3);
  check_places(line, {{2, 0}, {0, 0}, {-2, 0}});
  CHECK((line.positions[1] == 0 && line.positions[3] == 0 && line.positions[5] == 0));
  CHECK(line.share[1] == 0);
  for (const std::vector<float>& same : {std::vector<float>{1, 2, 3}, {1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3}}) {
    const auto plane = label_map(same, 3);
    CHECK(plane.positions == std::vector<double>(same.size() / 3 * 2, 0.0));
    CHECK(plane.share[0] == 0);
  }
  const auto one_column = label_map(std::vector<float>{1, 2, 6}, 1);  // mean 3
  check_places(one_column, {{-2, 0}, {-1, 0}, {3, 0}});
}

TEST_CASE("the two axes hold the largest variances, uncorrelated, and shares are theirs") {
  const index_t count = 40, width = 7;
  std::vector<float> rows = random_rows(count, width, 4);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] *= static_cast<float>(1 + i % 7);
  const auto plane = label_map(rows, width);
  double xx = 0, yy = 0, xy = 0, x = 0;
  for (std::size_t k = 0; k < 40; ++k) {
    xx += plane.positions[2 * k] * plane.positions[2 * k];
    yy += plane.positions[2 * k + 1] * plane.positions[2 * k + 1];
    xy += plane.positions[2 * k] * plane.positions[2 * k + 1];
    x += plane.positions[2 * k];
  }
  CHECK(x == Approx(0).margin(1e-10));
  CHECK(xy == Approx(0).margin(1e-9 * xx));
  CHECK(xx / yy == Approx(plane.share[0] / plane.share[1]).epsilon(1e-10));
  // No single column spreads more than the first axis.
  double total = 0;
  for (std::size_t c = 0; c < 7; ++c) {
    double mean = 0, square = 0;
    for (std::size_t k = 0; k < 40; ++k) mean += rows[k * 7 + c] / 40.0;
    for (std::size_t k = 0; k < 40; ++k) square += (rows[k * 7 + c] - mean) * (rows[k * 7 + c] - mean);
    CHECK(square < xx);
    total += square;
  }
  CHECK(plane.share[0] == Approx(xx / total).epsilon(1e-10));
}

TEST_CASE("eigenvectors of a symmetric matrix are orthonormal and rebuild it") {
  const std::size_t n = 9;
  const std::vector<float> draws = random_rows(9, 9, 8);
  std::vector<double> a(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) a[i * n + j] = double{draws[i * n + j]} + double{draws[j * n + i]};
  const detail::symmetric_eigen eigen(a, n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) {
      double dot = 0, rebuilt = 0;
      for (std::size_t m = 0; m < n; ++m) {
        dot += eigen.vectors[i * n + m] * eigen.vectors[j * n + m];
        rebuilt += eigen.values[m] * eigen.vectors[m * n + i] * eigen.vectors[m * n + j];
      }
      CHECK(dot == Approx(i == j ? 1 : 0).margin(1e-12));
      CHECK(rebuilt == Approx(a[i * n + j]).margin(1e-11));
    }
}

TEST_CASE("columns of zeros and a shift of all centroids do not move the map") {
  const index_t count = 6;
  const std::vector<float> narrow = random_rows(count, 4, 3);
  std::vector<float> wide;
  for (std::size_t k = 0; k < 6; ++k)
    for (std::size_t c = 0; c < 10; ++c) wide.push_back(c < 4 ? narrow[k * 4 + c] : 2.0f);
  const auto a = label_map(narrow, 4), b = label_map(wide, 10);
  for (std::size_t i = 0; i < a.positions.size(); ++i)
    CHECK(a.positions[i] == Approx(b.positions[i]).epsilon(1e-8).margin(1e-9));
  CHECK(label_map(narrow, 4).positions == a.positions);
}

TEST_CASE("typical sentences are a label's own, nearest first, the lowest row of equals") {
  const std::vector<float> centroids{0, 0, 10, 0, 0, 10};
  // rows:            0       1      2       3       4       5      6
  const std::vector<float> points{1, 0, 9, 0, 0, 0.5f, 0, -1, 11, 0, 10, 0, 2, 0};
  const std::vector<std::int32_t> labels{0, 1, 0, 0, 1, 1, 0};
  using rows = std::vector<std::vector<index_t>>;
  // label 0: distances 1, .5, 1, 2 of rows 0, 2, 3, 6;  label 1: 1, 1, 0 of rows 1, 4, 5
  CHECK(typical_sentences(points, labels, centroids, 2, 3) == rows{{2, 0, 3}, {5, 1, 4}, {}});
  CHECK(typical_sentences(points, labels, centroids, 2, 1) == rows{{2}, {5}, {}});
  CHECK(typical_sentences(points, labels, centroids, 2, 9) == rows{{2, 0, 3, 6}, {5, 1, 4}, {}});
  CHECK(typical_sentences(points, labels, centroids, 2, 0) == rows{{}, {}, {}});
  CHECK(typical_sentences({}, {}, centroids, 2, 2) == rows{{}, {}, {}});
}

TEST_CASE("typical sentences and the map refuse extents that disagree") {
  const std::vector<float> centroids{0, 0, 10, 0}, points{1, 1};
  const std::vector<std::int32_t> labels{0}, two{0, 1}, outside{2};
  CHECK_THROWS_AS(typical_sentences(points, two, centroids, 2, 1), shape_error);
  CHECK_THROWS_AS(typical_sentences(points, outside, centroids, 2, 1), shape_error);
  CHECK_THROWS_AS(typical_sentences(points, labels, centroids, 2, -1), shape_error);
  CHECK_THROWS_AS(label_map(centroids, 3), shape_error);
  CHECK_THROWS_AS(label_map({}, 3), shape_error);
  CHECK_THROWS_AS(label_map(std::vector<float>{1, std::numeric_limits<float>::infinity()}, 2), numeric_error);
}
