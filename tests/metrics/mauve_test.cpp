#include <cmath>
#include <cstdint>
#include <limits>
#include <planlm/core/philox.hpp>
#include <planlm/metrics/mauve.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"

using namespace planlm;

namespace {

using histogram = std::vector<double>;
using vectors = std::vector<float>;

double area(const histogram& p, const histogram& q, const std::vector<double>& mixtures) {
  return area_under(divergence_curve(p, q, mixtures));
}

/// counts[j] rows along axis j of three, a little beside it, of different length.
vectors rows_along_axes(const std::vector<int>& counts, std::uint64_t seed) {
  const philox draws{seed};
  vectors rows;
  std::uint64_t row = 0;
  for (std::size_t axis = 0; axis < counts.size(); ++axis)
    for (int i = 0; i < counts[axis]; ++i, ++row)
      for (std::size_t c = 0; c < 3; ++c)
        rows.push_back(static_cast<float>((c == axis ? 2.0 : 0.0) +
                                          0.01 * draws.normal(row, static_cast<std::uint32_t>(c))));
  return rows;
}

/// Normal draws in four dimensions with mean (1, shift, 0, 0).
vectors cloud(index_t count, double shift, std::uint64_t seed) {
  const philox draws{seed};
  vectors rows;
  for (index_t i = 0; i < count; ++i)
    for (std::uint32_t c = 0; c < 4; ++c)
      rows.push_back(static_cast<float>((c == 0   ? 1
                                         : c == 1 ? shift
                                                  : 0) +
                                        0.5 * draws.normal(static_cast<std::uint64_t>(i), c)));
  return rows;
}

vectors reversed_rows(const vectors& rows, std::size_t width) {
  vectors turned;
  for (std::size_t begin = rows.size(); begin > 0; begin -= width)
    turned.insert(turned.end(), rows.begin() + static_cast<std::ptrdiff_t>(begin - width),
                  rows.begin() + static_cast<std::ptrdiff_t>(begin));
  return turned;
}

}  // namespace

TEST_CASE("the curve of two bins and one mixture, worked by hand") {
  // p = (1/2, 1/2), q = (1, 0), R = (3/4, 1/4)
  // KL(q | R) = ln 4/3, x = (3/4)^5;  KL(p | R) = (ln 2/3 + ln 2)/2 = (ln 4/3)/2, y = (3/4)^2.5
  const auto curve = divergence_curve(histogram{0.5, 0.5}, histogram{1, 0}, std::vector{0.5});
  REQUIRE(curve.size() == 3);
  CHECK((curve[0].x == 1 && curve[0].y == 0 && curve[2].x == 0 && curve[2].y == 1));
  CHECK(curve[1].x == Approx(243.0 / 1024).epsilon(1e-13));
  CHECK(curve[1].y == Approx(std::pow(0.75, 2.5)).epsilon(1e-13));
  // (1 - x) y/2 + x (y + 1)/2 = (x + y)/2
  CHECK(area_under(curve) == Approx((243.0 / 1024 + std::pow(0.75, 2.5)) / 2).epsilon(1e-13));
}

TEST_CASE("the curve of two bins and two mixtures, worked by hand") {
  const auto curve = divergence_curve(histogram{0.5, 0.5}, histogram{1, 0}, std::vector{0.25, 0.75});
  REQUIRE(curve.size() == 4);
  // l = 1/4: R = (7/8, 1/8), KL(q | R) = ln 8/7, KL(p | R) = (ln 4/7 + ln 4)/2 = (ln 16/7)/2
  const double x1 = std::pow(7.0 / 8, 5), y1 = std::pow(7.0 / 16, 2.5);
  // l = 3/4: R = (5/8, 3/8), KL(q | R) = ln 8/5, KL(p | R) = (ln 4/5 + ln 4/3)/2 = (ln 16/15)/2
  const double x2 = std::pow(5.0 / 8, 5), y2 = std::pow(15.0 / 16, 2.5);
  CHECK(curve[1].x == Approx(x1).epsilon(1e-13));
  CHECK(curve[1].y == Approx(y1).epsilon(1e-13));
  CHECK(curve[2].x == Approx(x2).epsilon(1e-13));
  CHECK(curve[2].y == Approx(y2).epsilon(1e-13));
  const double by_hand = (1 - x1) * y1 / 2 + (x1 - x2) * (y1 + y2) / 2 + x2 * (y2 + 1) / 2;
  CHECK(area_under(curve) == Approx(by_hand).epsilon(1e-13));
  CHECK(area_under(curve) == Approx(0.3231905296000065).epsilon(1e-12));  // NumPy
}

TEST_CASE("bins that mirror each other have x = y at one half") {
  // R = (1/2, 1/2), KL = 3/4 ln 3/2 + 1/4 ln 1/2
  const double x = std::pow(1.5, -3.75) * std::pow(2.0, 1.25);
  CHECK(area({0.75, 0.25}, {0.25, 0.75}, {0.5}) == Approx(x).epsilon(1e-13));
}

TEST_CASE("the area over the published mixtures agrees with NumPy") {
  const auto mixtures = mauve_mixtures(25);
  REQUIRE(mixtures.size() == 25);
  CHECK(mixtures.front() == 1e-6);
  CHECK(mixtures.back() == Approx(1 - 1e-6).epsilon(1e-15));
  CHECK(mixtures[12] == Approx(0.5).epsilon(1e-15));
  CHECK(area({0.55, 0.45}, {0.45, 0.55}, mixtures) == Approx(0.9983869108989173).epsilon(1e-12));
  CHECK(area({0.75, 0.25}, {0.25, 0.75}, mixtures) == Approx(0.5596114605911457).epsilon(1e-12));
  CHECK(area({0.95, 0.05}, {0.05, 0.95}, mixtures) == Approx(0.026397713219434158).epsilon(1e-12));
}

TEST_CASE("equal histograms score 1, disjoint ones c! c! / (2 c)!") {
  CHECK(area({0.2, 0.3, 0.5}, {0.2, 0.3, 0.5}, mauve_mixtures(25)) == Approx(1).epsilon(1e-12));
  const auto curve = divergence_curve(histogram{0.25, 0.75, 0}, histogram{0, 0, 1}, mauve_mixtures(9));
  const auto mixtures = mauve_mixtures(9);
  for (std::size_t i = 0; i < mixtures.size(); ++i) {
    CHECK(curve[i + 1].x == Approx(std::pow(1 - mixtures[i], 5)).epsilon(1e-10).margin(1e-300));
    CHECK(curve[i + 1].y == Approx(std::pow(mixtures[i], 5)).epsilon(1e-10).margin(1e-300));
  }
  // 5! 5! / 10! = 14400 / 3628800 = 1/252
  CHECK(area({1, 0}, {0, 1}, mauve_mixtures(20001)) == Approx(1.0 / 252).epsilon(1e-6));
  CHECK(area({1, 0}, {0, 1}, mauve_mixtures(25)) == Approx(0.0040720962619612555).epsilon(1e-12));
}

TEST_CASE("the area falls as two histograms drift apart, and is symmetric") {
  double before = 2;
  for (int d = 0; d <= 10; ++d) {
    const histogram p{0.5 + d / 20.0, 0.5 - d / 20.0}, q{0.4, 0.6};
    const double one = area({0.5, 0.5}, p, mauve_mixtures(25));
    CHECK(one < before);
    before = one;
    CHECK(area(p, q, mauve_mixtures(25)) == Approx(area(q, p, mauve_mixtures(25))).epsilon(1e-12));
  }
}

TEST_CASE("planted clusters become the histograms whose area is the score") {
  mauve_options options;
  options.clusters = 2;
  const auto result = mauve(rows_along_axes({30, 10}, 1), rows_along_axes({50, 150}, 2), 3, options);
  const bool turned = result.p[0] < result.p[1];
  CHECK(result.p == (turned ? histogram{0.25, 0.75} : histogram{0.75, 0.25}));
  CHECK(result.q == (turned ? histogram{0.75, 0.25} : histogram{0.25, 0.75}));
  CHECK(result.score == Approx(0.5596114605911457).epsilon(1e-12));
  CHECK(result.curve.size() == 27);
}

TEST_CASE("a pseudo-count smooths both histograms") {
  mauve_options options;
  options.clusters = 2;
  options.pseudo_count = 0.5;
  // (3 + 1/2) / (3 + 2/2), (0 + 1/2) / 4;  (0 + 1/2) / (1 + 1), (1 + 1/2) / 2
  const auto result = mauve(rows_along_axes({3}, 1), rows_along_axes({0, 1}, 2), 3, options);
  const bool turned = result.p[0] < result.p[1];
  CHECK(result.p == (turned ? histogram{0.125, 0.875} : histogram{0.875, 0.125}));
  CHECK(result.q == (turned ? histogram{0.75, 0.25} : histogram{0.25, 0.75}));
  options.pseudo_count = 0;
  CHECK(mauve(rows_along_axes({3}, 1), rows_along_axes({0, 1}, 2), 3, options).score ==
        Approx(0.0040720962619612555).epsilon(1e-12));
}

TEST_CASE("equal sets score 1, in whatever order") {
  const vectors texts = cloud(200, 0.3, 7);
  const auto result = mauve(texts, reversed_rows(texts, 4), 4);
  CHECK(result.score == Approx(1).epsilon(1e-12));
  CHECK(result.p == result.q);
  CHECK(result.p.size() == 20);
}

TEST_CASE("the score does not depend on the order of the texts, the lengths of the vectors or the sides") {
  const vectors p = cloud(150, 0, 1), q = cloud(90, 0.7, 2);
  const auto result = mauve(p, q, 4);
  CHECK(result.score > 0.02);
  CHECK(result.score < 0.98);
  CHECK(mauve(reversed_rows(p, 4), reversed_rows(q, 4), 4).score == result.score);
  vectors twice = q;
  for (float& v : twice) v *= 2;
  CHECK(mauve(p, twice, 4).score == result.score);
  const auto turned = mauve(q, p, 4);
  CHECK(turned.p == result.q);
  CHECK(turned.q == result.p);
  CHECK(turned.score == Approx(result.score).epsilon(1e-12));
}

TEST_CASE("the score falls as the texts of one set drift away") {
  double before = 2;
  for (const double shift : {0.0, 0.5, 1.0, 2.0, 8.0}) {
    const double score = mauve(cloud(300, 0, 1), cloud(300, shift, 2), 4).score;
    CHECK(score < before);
    before = score;
  }
  CHECK(before < 0.01);
  CHECK(mauve(cloud(300, 0, 1), cloud(300, 0, 2), 4).score > 0.9);
}

TEST_CASE("MAUVE gives the same bits for one seed and any number of threads") {
  const vectors p = cloud(1500, 0, 1), q = cloud(1200, 0.5, 2);
  mauve_options options;
  options.clusters = 16;
  options.max_rounds = 20;
  options.seed = 9;
  const auto one = mauve(p, q, 4, options);
  options.threads = 3;
  const auto three = mauve(p, q, 4, options);
  CHECK(one.score == three.score);
  CHECK(one.p == three.p);
  CHECK(one.q == three.q);
  options.seed = 10;
  CHECK(mauve(p, q, 4, options).p != one.p);
}

TEST_CASE("there are a tenth as many clusters as texts in the smaller set, halves to even, two at least") {
  const auto clusters = [](index_t n, index_t m) {
    return mauve(cloud(n, 0, 1), cloud(m, 0, 2), 4).p.size();
  };
  CHECK(clusters(1, 1) == 2);
  CHECK(clusters(24, 100) == 2);
  CHECK(clusters(100, 25) == 2);
  CHECK(clusters(100, 26) == 3);
  CHECK(clusters(35, 100) == 4);
  CHECK(clusters(104, 105) == 10);
}

TEST_CASE("texts that repeat leave no more clusters than there are distinct vectors") {
  const vectors same{1, 2, 1, 2, 1, 2}, other{2, 1, 2, 1};
  CHECK(mauve(same, same, 2).p == histogram{1});
  CHECK(mauve(same, same, 2).score == Approx(1).epsilon(1e-12));
  CHECK(mauve(same, other, 2).score == Approx(0.0040720962619612555).epsilon(1e-12));
  mauve_options options;
  options.clusters = 50;
  CHECK(mauve(same, other, 2, options).p.size() == 2);
  const vectors unknown(4, 0.0f);  // texts without a known word
  CHECK(mauve(unknown, unknown, 2).score == Approx(1).epsilon(1e-12));
}

TEST_CASE("MAUVE refuses what is no pair of sets of vectors") {
  const vectors rows = cloud(20, 0, 1), none;
  CHECK_THROWS_WITH(
      mauve(rows, none, 4),
      "MAUVE: sets of 20 and 0 texts, expected at least one text in each; generate or give more");
  CHECK_THROWS_AS(mauve(none, rows, 4), input_error);
  CHECK_THROWS_AS(mauve(rows, rows, 3), shape_error);
  CHECK_THROWS_AS(mauve(rows, rows, 0), shape_error);
  vectors bad = rows;
  bad[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(mauve(rows, bad, 4), numeric_error);
  for (int i = 0; i < 6; ++i) {
    mauve_options options;
    if (i == 0) options.clusters = -1;
    if (i == 1) options.mixtures = 0;
    if (i == 2) options.restarts = 0;
    if (i == 3) options.pseudo_count = -1;
    if (i == 4) options.scale = 0;
    if (i == 5) options.max_rounds = -1;
    CHECK_THROWS_AS(mauve(rows, rows, 4, options), shape_error);
  }
  CHECK_THROWS_AS(divergence_curve(histogram{1}, histogram{0.5, 0.5}, std::vector{0.5}), shape_error);
  CHECK_THROWS_AS(divergence_curve(histogram{1}, histogram{1}, std::vector{0.0}), shape_error);
  CHECK_THROWS_AS(divergence_curve(histogram{1}, histogram{1}, std::vector{1.0}), shape_error);
  CHECK_THROWS_AS(divergence_curve(histogram{1}, histogram{1}, std::vector{0.6, 0.5}), shape_error);
}
