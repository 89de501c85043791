#include "catch.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <planlm/core/philox.hpp>
#include <planlm/planning/kmeans.hpp>
#include <set>
#include <string>
#include <vector>

using namespace planlm;

namespace {

/// What the error says; "no error" if there is none.
template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const error& e) {
    return e.what();
  }
  return "no error";
}
bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

std::vector<float> random_points(index_t rows, index_t width, std::uint64_t seed, double scale = 1,
                                 double shift = 0) {
  const philox draws{seed};
  std::vector<float> points;
  for (index_t i = 0; i < rows; ++i)
    for (index_t c = 0; c < width; ++c)
      points.push_back(static_cast<float>(
          shift + scale * draws.normal(static_cast<std::uint64_t>(i), static_cast<std::uint32_t>(c))));
  return points;
}

long double distance(const std::vector<float>& a, index_t i, const std::vector<float>& b, index_t k,
                     index_t width) {
  long double sum = 0;
  for (index_t c = 0; c < width; ++c) {
    const long double d = static_cast<long double>(a[static_cast<std::size_t>(i * width + c)]) -
                          static_cast<long double>(b[static_cast<std::size_t>(k * width + c)]);
    sum += d * d;
  }
  return sum;
}

std::vector<index_t> usage(const std::vector<std::int32_t>& labels, index_t count) {
  std::vector<index_t> used(static_cast<std::size_t>(count));
  for (const auto a : labels) ++used.at(static_cast<std::size_t>(a));
  return used;
}

}  // namespace

TEST_CASE("Lloyd rounds on four points match the rounds worked by hand") {
  const std::vector<float> points{0, 1, 10, 11};
  const auto result = lloyd(points, 1, {0, 1}, {});
  REQUIRE(result.labels == std::vector<std::int32_t>{0, 0, 1, 1});
  REQUIRE(result.centroids == std::vector<float>{0.5f, 10.5f});
  REQUIRE(result.converged);
  REQUIRE(result.objective.size() == 3);
  REQUIRE(result.objective[0] == 0 + 0 + 81 + 100);
  REQUIRE(result.objective[1] == Approx(1 + 64.0 / 9 + 121.0 / 9));  // centroids 0 and 22/3
  REQUIRE(result.objective[2] == 1);
}

TEST_CASE("max_rounds bounds the rounds and the labels still belong to the centroids") {
  const std::vector<float> points{0, 1, 10, 11};
  kmeans_options options;
  options.max_rounds = 0;
  auto result = lloyd(points, 1, {0, 1}, options);
  REQUIRE(result.centroids == std::vector<float>{0, 1});
  REQUIRE(result.labels == std::vector<std::int32_t>{0, 1, 1, 1});
  REQUIRE_FALSE(result.converged);
  options.max_rounds = 1;
  result = lloyd(points, 1, {0, 1}, options);
  REQUIRE(result.objective.size() == 2);
  REQUIRE(result.labels == assign_labels(points, result.centroids, 1));
}

TEST_CASE("a label without points moves to the farthest point") {
  // All points go to centroid 0.5; label 1 takes 10 (farthest), label 2 the lower of 0 and 1, which are
  // equally far.
  kmeans_options options;
  options.max_rounds = 0;
  const auto result = lloyd(std::vector<float>{0, 1, 10}, 1, {0.5f, 100, 200}, options);
  REQUIRE(result.centroids == std::vector<float>{0.5f, 10, 0});
  REQUIRE(result.labels == std::vector<std::int32_t>{2, 0, 1});
  // 50 is farthest, but label 1 would be empty without it.
  const auto kept = lloyd(std::vector<float>{0, 1, 50}, 1, {0.5f, 40, 1000}, options);
  REQUIRE(kept.centroids == std::vector<float>{0.5f, 40, 0});
}

TEST_CASE("no label is empty when there are as many distinct points") {
  for (const index_t labels : {1, 2, 7, 16, 17, 40}) {
    // 40 distinct points, each three times, from a start that sends all of them to one centroid
    auto points = random_points(40, 3, 5);
    const auto once = points;
    for (int i = 0; i < 2; ++i) points.insert(points.end(), once.begin(), once.end());
    std::vector<float> far(static_cast<std::size_t>(labels * 3), 1e6f);
    std::fill_n(far.begin(), 3, 0.f);
    const auto used = usage(lloyd(points, 3, far, {}).labels, labels);
    REQUIRE(*std::min_element(used.begin(), used.end()) > 0);
  }
}

TEST_CASE("fact 22: every label is the nearest centroid and assignment repeats it") {
  for (const index_t width : {1, 3, 8, 19}) {
    const index_t rows = 700;
    const auto points = random_points(rows, width, 11 + static_cast<std::uint64_t>(width));
    for (const index_t labels : {1, 5, 16, 33}) {
      kmeans_options options;
      options.labels = labels;
      options.max_rounds = 6;
      const auto result = kmeans(points, width, options);
      REQUIRE(result.centroids.size() == static_cast<std::size_t>(labels * width));
      REQUIRE(assign_labels(points, result.centroids, width) == result.labels);
      index_t wrong = 0;
      long double objective = 0;
      for (index_t i = 0; i < rows; ++i) {
        long double least = std::numeric_limits<long double>::infinity();
        for (index_t k = 0; k < labels; ++k)
          least = std::min(least, distance(points, i, result.centroids, k, width));
        const auto own =
            distance(points, i, result.centroids, result.labels[static_cast<std::size_t>(i)], width);
        wrong += own > least * (1 + 1e-14L);
        objective += own;
      }
      REQUIRE(wrong == 0);
      REQUIRE(result.objective.back() == Approx(static_cast<double>(objective)).epsilon(1e-12));
      // Centroids are labelled as themselves.
      std::vector<std::int32_t> own(static_cast<std::size_t>(labels));
      for (std::size_t k = 0; k < own.size(); ++k) own[k] = static_cast<std::int32_t>(k);
      REQUIRE(assign_labels(result.centroids, result.centroids, width) == own);
    }
  }
}

TEST_CASE("fact 22: the objective never grows, far from the origin too") {
  for (const double shift : {0.0, 1e3, 1e5})
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const auto points = random_points(600, 4, seed, 0.1, shift);
      kmeans_options options;
      options.labels = 20;
      options.max_rounds = 100;
      options.seed = seed;
      const auto result = kmeans(points, 4, options);
      REQUIRE(result.objective.size() > 1);
      REQUIRE(std::is_sorted(result.objective.rbegin(), result.objective.rend()));
      REQUIRE(result.converged);
      REQUIRE(assign_labels(points, result.centroids, 4) == result.labels);
    }
}

TEST_CASE("fact 22: ties go to the lowest label, wherever the equal centroids stand") {
  const index_t width = 5, labels = 40;
  const auto points = random_points(200, width, 3);
  auto centroids = random_points(labels, width, 4);
  for (const index_t copy : {19, 20, 35, 39})
    std::copy_n(centroids.begin() + 3 * width, width, centroids.begin() + copy * width);
  const auto used = usage(assign_labels(points, centroids, width), labels);
  REQUIRE(used[3] > 0);
  for (const std::size_t copy : {19u, 20u, 35u, 39u}) REQUIRE(used[copy] == 0);
  // Midway between two centroids.
  REQUIRE(assign_labels(std::vector<float>{0, 5, -5}, std::vector<float>{5, -5}, 1) ==
          std::vector<std::int32_t>{0, 0, 1});
}

TEST_CASE("near ties are decided by the true distance, far from the origin too") {
  // |x|^2 - 2 x.c + |c|^2 would lose these differences: the points are 4096 from the origin, the centroids
  // 2^-10 apart.
  const float step = 0x1p-10f;
  const std::vector<float> centroids{4096, 4096, 4096 + 2 * step, 4096};
  const std::vector<float> points{4096 + step / 2, 4096, 4096 + step, 4096, 4096 + 3 * step / 2, 4096};
  REQUIRE(assign_labels(points, centroids, 2) == std::vector<std::int32_t>{0, 0, 1});
}

TEST_CASE("k-means++ draws distinct points in proportion to squared distance") {
  const std::vector<float> points{0, 0, 0, 10, 10, 14};
  // First a point at random, then the others by D^2. After 0 (probability 1/2): 10 has 2 * 100, 14 has 196.
  int starts_at_zero = 0, then_ten = 0;
  kmeans_options options;
  options.labels = 2;
  for (options.seed = 0; options.seed < 4000; ++options.seed) {
    const auto centroids = kmeans_plus_plus(points, 1, options);
    REQUIRE(centroids[0] != centroids[1]);
    if (centroids[0] == 0) {
      ++starts_at_zero;
      then_ten += centroids[1] == 10;
    }
  }
  REQUIRE(starts_at_zero / 4000.0 == Approx(0.5).margin(0.04));  // five standard deviations
  REQUIRE(then_ten / static_cast<double>(starts_at_zero) == Approx(200.0 / 396).margin(0.056));
  options.labels = 3;
  const auto all = kmeans_plus_plus(points, 1, options);
  REQUIRE(std::set<float>(all.begin(), all.end()) == std::set<float>{0, 10, 14});
}

TEST_CASE("centroids are means as they come, not re-normalised") {
  const std::vector<float> points{1, 0, 0, 1, -1, 0, -0.6f, -0.8f};
  const auto result = lloyd(points, 2, {1, 1, -1, -1}, {});
  REQUIRE(result.labels == std::vector<std::int32_t>{0, 0, 1, 1});
  REQUIRE(result.centroids[0] == 0.5f);
  REQUIRE(result.centroids[1] == 0.5f);
  REQUIRE(result.centroids[2] == Approx(-0.8));
  REQUIRE(result.centroids[3] == Approx(-0.4));
}

TEST_CASE("k-means gives the same bits twice and with 1, 2 and 3 threads") {
  const auto points = random_points(5000, 12, 8);
  kmeans_options options;
  options.labels = 37;
  options.max_rounds = 8;
  options.seed = 21;
  const auto one = kmeans(points, 12, options);
  for (const int threads : {1, 2, 3}) {
    options.threads = threads;
    const auto again = kmeans(points, 12, options);
    REQUIRE(again.centroids == one.centroids);
    REQUIRE(again.labels == one.labels);
    REQUIRE(again.objective == one.objective);
    REQUIRE(assign_labels(points, one.centroids, 12, threads) == one.labels);
  }
  options.seed = 22;
  REQUIRE(kmeans(points, 12, options).centroids != one.centroids);
}

TEST_CASE("numbers of labels that the sentences cannot fill are refused with both numbers") {
  const std::vector<float> points{0, 0, 1, 1, 0, 0, 2, 2, 1, 1};  // five points, three distinct
  kmeans_options options;
  options.labels = 0;
  REQUIRE_THROWS_AS(kmeans(points, 2, options), input_error);
  REQUIRE_THROWS_WITH(kmeans(points, 2, options),
                      "labels: 0 asked for, expected a number from 1 to 5 (the number of sentences)");
  options.labels = -3;
  REQUIRE_THROWS_WITH(kmeans(points, 2, options),
                      "labels: -3 asked for, expected a number from 1 to 5 (the number of sentences)");
  options.labels = 6;
  REQUIRE_THROWS_WITH(
      kmeans(points, 2, options),
      "labels: 6 asked for, but there are only 5 sentences; ask for at most 5 or give a longer text");
  options.labels = 4;
  REQUIRE_THROWS_WITH(
      kmeans(points, 2, options),
      "labels: 4 asked for, but the 5 sentences have only 3 distinct embeddings; ask for at most 3 or "
      "give a more varied text");
  options.labels = 3;
  REQUIRE(kmeans(points, 2, options).objective.back() == 0);
  REQUIRE_THROWS_WITH(kmeans({}, 2, options),
                      "labels: there are no sentences to put into clusters; give a text with sentences");
}

TEST_CASE("a point that is not finite is named, and so are extents that disagree") {
  std::vector<float> points{0, 1, 2, std::numeric_limits<float>::quiet_NaN()};
  REQUIRE_THROWS_AS(kmeans(points, 2, {}), numeric_error);
  REQUIRE_THROWS_WITH(
      kmeans(points, 2, {}),
      "k-means: point 1, column 1 is nan, expected a finite number; check the sentence encoder");
  REQUIRE(contains(message_of([&] {
                     kmeans(std::vector<float>{1, 2, 3}, 2, {});
                   }),
                   "3 numbers are no rows of width 2 (called from "));
  REQUIRE(contains(message_of([&] { kmeans(std::vector<float>{1, 2, 3}, 2, {}); }), "kmeans_test.cpp"));
  REQUIRE_THROWS_AS(assign_labels(std::vector<float>{1, 2}, {}, 2), shape_error);
}
