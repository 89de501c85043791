/// MAUVE: how close two sets of texts are as distributions (2102.01454, Pillutla et al.).
///
///   histograms  p, q over k clusters of both sets together;  R_l = l p + (1 - l) q, 0 < l < 1
///   curve       (exp(-c KL(q | R_l)), exp(-c KL(p | R_l))), c = 5, with the end points (1, 0) and (0, 1)
///   score       the area under the curve: 1 for p = q; for disjoint p and q the curve is ((1 - l)^c, l^c),
///               whose area is c! c! / (2 c)!, 0.003968 for c = 5, and a little more over few l (trapezoids)
///
/// Recipe, after the published program: one vector per text (rows of P [N, C] and Q [M, C]); scaled to length
/// 1; k = max(2, min(N, M) / 10 rounded, halves to even), at most the number of distinct vectors; k-means++
/// and Lloyd rounds on all N + M rows, the best of 5 restarts; 25 values of l from 1e-6 to 1 - 1e-6. Unlike
/// there the vectors are not projected on the components that hold 90 % of the variance: that step is for
/// encoders of a thousand columns, ours has few. So scores compare with each other under one encoder, not
/// with published ones. Histograms are count / N; `pseudo_count` b smooths them to (count + b) / (N + k b),
/// 1/2 being Krichevsky and Trofimov's (2212.14578).
///
/// Rows are put into one order before clustering: the score does not depend on the order of the texts, nor on
/// which set is called P, up to rounding. Same bits for any number of threads. Where clusters fall depends on
/// the seed, and with few texts moves the score: average a hundred texts over several seeds.
///
/// cost    3 k (N + M) C flop a Lloyd round
/// errors  input_error for a set without texts, numeric_error for a vector that is not finite, shape_error
/// for
///         extents that disagree and options out of range
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <planlm/planning/kmeans.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace planlm {

struct mauve_options {
  index_t clusters = 0;     // k; 0 for the rule above
  double scale = 5;         // c
  index_t mixtures = 25;    // values of l
  double pseudo_count = 0;  // b
  index_t restarts = 5;     // of k-means, the lowest objective counts
  int max_rounds = 500;
  std::uint64_t seed = 0;
  int threads = 1;
};

/// A point of the divergence curve: x falls when q has what p lacks, y when p has what q lacks.
struct divergence_point {
  double x = 0, y = 0;
};

struct mauve_result {
  double score = 0;
  std::vector<double> p, q;             // histograms (k)
  std::vector<divergence_point> curve;  // from (1, 0) to (0, 1)
};

/// Mixture weights l: `count` of them, evenly from 1e-6 to 1 - 1e-6; one alone is 1/2.
inline std::vector<double> mauve_mixtures(index_t count) {
  constexpr double edge = 1e-6;
  std::vector<double> weights(static_cast<std::size_t>(std::max<index_t>(count, 0)), 0.5);
  for (std::size_t i = 0; weights.size() > 1 && i < weights.size(); ++i)
    weights[i] = edge + (1 - 2 * edge) * static_cast<double>(i) / static_cast<double>(weights.size() - 1);
  return weights;
}

/// KL(p | r) = sum p ln(p / r) in nats; 0 ln 0 = 0.
inline double kl_divergence(std::span<const double> p, std::span<const double> r) {
  double sum = 0;
  for (std::size_t k = 0; k < p.size(); ++k)
    if (p[k] > 0) sum += p[k] * std::log(p[k] / r[k]);
  return std::max(sum, 0.0);  // rounding of equal histograms
}

/// The curve of two histograms (k each, sums 1) for ascending mixture weights in (0, 1).
inline std::vector<divergence_point> divergence_curve(std::span<const double> p, std::span<const double> q,
                                                      std::span<const double> mixtures, double scale = 5,
                                                      location at = location::here()) {
  if (p.size() != q.size() || p.empty())
    throw_shape_error("MAUVE: histograms of " + std::to_string(p.size()) + " and " +
                          std::to_string(q.size()) + " bins, expected as many, at least one",
                      at);
  for (std::size_t i = 0; i < mixtures.size(); ++i)
    if (!(mixtures[i] > (i == 0 ? 0 : mixtures[i - 1])) || !(mixtures[i] < 1))
      throw_shape_error(
          "MAUVE: mixture weight " + std::to_string(i) + " is out of place, they ascend between 0 and 1", at);
  if (!(scale > 0) || !std::isfinite(scale))
    throw_shape_error("MAUVE: scale " + std::to_string(scale) + ", expected a number above 0", at);
  std::vector<divergence_point> curve{{1, 0}};
  std::vector<double> mixed(p.size());
  for (const double l : mixtures) {
    for (std::size_t k = 0; k < p.size(); ++k) mixed[k] = l * p[k] + (1 - l) * q[k];
    curve.push_back({std::exp(-scale * kl_divergence(q, mixed)), std::exp(-scale * kl_divergence(p, mixed))});
  }
  curve.push_back({0, 1});
  return curve;
}

/// Trapezoids under a curve of falling x.
inline double area_under(std::span<const divergence_point> curve) {
  double area = 0;
  for (std::size_t i = 1; i < curve.size(); ++i)
    area += (curve[i - 1].x - curve[i].x) * (curve[i - 1].y + curve[i].y) / 2;
  return area;
}

namespace detail {

/// Rows scaled to length 1 appended to `out`; a row of zeros stays.
inline void append_unit_rows(std::span<const float> rows, index_t width, std::vector<float>& out) {
  for (std::size_t begin = 0; begin < rows.size(); begin += static_cast<std::size_t>(width)) {
    const auto row = rows.subspan(begin, static_cast<std::size_t>(width));
    double square = 0;
    for (const float v : row) square += double{v} * v;
    const double scale = square > 0 ? 1 / std::sqrt(square) : 0;
    for (const float v : row) out.push_back(static_cast<float>(v * scale) + 0.0f);  // no -0
  }
}

/// count / 10 rounded, halves to the even neighbour: 25 -> 2, 35 -> 4.
inline index_t tenth(index_t count) {
  const index_t whole = count / 10, rest = count % 10;
  return whole + (rest > 5 || (rest == 5 && whole % 2 == 1));
}

/// Rows in one order whatever order they came in, and how many are distinct.
struct row_order {
  std::vector<index_t> rows;
  index_t distinct = 0;

  row_order(std::span<const float> values, index_t width)
      : rows(values.size() / static_cast<std::size_t>(width)) {
    const auto less = [&](index_t a, index_t b) {
      const float *x = values.data() + a * width, *y = values.data() + b * width;
      return std::lexicographical_compare(x, x + width, y, y + width);
    };
    std::iota(rows.begin(), rows.end(), index_t{0});
    std::sort(rows.begin(), rows.end(), less);
    for (std::size_t i = 0; i < rows.size(); ++i) distinct += i == 0 || less(rows[i - 1], rows[i]);
  }
};

inline kmeans_result best_of_restarts(std::span<const float> points, index_t width, index_t clusters,
                                      const mauve_options& options) {
  kmeans_result best;
  for (index_t r = 0; r < options.restarts; ++r) {
    const auto bits = philox{options.seed, 0, 0x6d617576u}.bits(static_cast<std::uint64_t>(r), 0);  // "mauv"
    const std::uint64_t seed = std::uint64_t{bits.word[0]} << 32 | bits.word[1];
    kmeans_result one = kmeans(points, width, {clusters, options.max_rounds, seed, options.threads});
    if (r == 0 || one.objective.back() < best.objective.back()) best = std::move(one);
  }
  return best;
}

}  // namespace detail

/// MAUVE of texts with the vectors P [N, width] and Q [M, width].
inline mauve_result mauve(std::span<const float> p, std::span<const float> q, index_t width,
                          const mauve_options& options = {}, location at = location::here()) {
  const index_t from_p = detail::check_points(p, width, at), from_q = detail::check_points(q, width, at);
  if (from_p == 0 || from_q == 0)
    throw input_error("MAUVE: sets of " + std::to_string(from_p) + " and " + std::to_string(from_q) +
                      " texts, expected at least one text in each; generate or give more");
  if (options.clusters < 0 || options.mixtures < 1 || !(options.pseudo_count >= 0) ||
      !std::isfinite(options.pseudo_count) || options.restarts < 1 || options.max_rounds < 0)
    throw_shape_error(
        "MAUVE: clusters, pseudo_count and max_rounds must be at least 0, mixtures and restarts at least 1",
        at);
  std::vector<float> rows;
  rows.reserve(p.size() + q.size());
  detail::append_unit_rows(p, width, rows);
  detail::append_unit_rows(q, width, rows);
  const detail::row_order order(rows, width);
  std::vector<float> points;
  points.reserve(rows.size());
  for (const index_t row : order.rows)
    points.insert(points.end(), rows.begin() + row * width, rows.begin() + (row + 1) * width);
  const index_t rule = std::max<index_t>(2, detail::tenth(std::min(from_p, from_q)));
  const index_t clusters = std::min(options.clusters > 0 ? options.clusters : rule, order.distinct);
  const kmeans_result fit = detail::best_of_restarts(points, width, clusters, options);

  mauve_result result;
  result.p.assign(static_cast<std::size_t>(clusters), options.pseudo_count);
  result.q = result.p;
  for (std::size_t i = 0; i < order.rows.size(); ++i)
    ++(order.rows[i] < from_p ? result.p : result.q)[static_cast<std::size_t>(fit.labels[i])];
  const double added = options.pseudo_count * static_cast<double>(clusters);
  for (double& share : result.p) share /= static_cast<double>(from_p) + added;
  for (double& share : result.q) share /= static_cast<double>(from_q) + added;
  result.curve = divergence_curve(result.p, result.q, mauve_mixtures(options.mixtures), options.scale, at);
  result.score = area_under(result.curve);
  return result;
}

}  // namespace planlm
