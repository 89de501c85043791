/// The codebook of labels: k-means++ seeding, Lloyd rounds, nearest-centroid labels (2410.12492 section 3).
///
///   points [N, C] float -> centroids M [K, C] float, labels (N) in 0 .. K-1
///   objective  J = sum_n min_k |x_n - M_k|^2, a double, never larger after a round than before it
///
/// Centroids are means as they come, never re-normalised: a diffuse cluster has a short centroid. Distances
/// are sums of squared differences in double, in one order for every (point, centroid) pair. So equal
/// centroids tie exactly, a tie goes to the lowest label, and `assign_labels` repeats the labels of the fit
/// bit for bit. Threads share fixed blocks of rows and never add across them: the same bits for any thread
/// count.
///
/// cost    3 N K C flop a round
/// errors  input_error for a number of labels that the points cannot fill, numeric_error for a point that is
///         not finite, shape_error for extents that disagree
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/backend/cpu/pool.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>

namespace planlm {

struct kmeans_options {
  index_t labels = 64;     // K
  int max_rounds = 30;     // Lloyd rounds; fewer when the labels stop changing
  std::uint64_t seed = 0;  // of the k-means++ draws
  int threads = 1;
};

struct kmeans_result {
  std::vector<float> centroids;      // M [K, C]
  std::vector<std::int32_t> labels;  // (N), the nearest row of M
  std::vector<double> objective;     // J after seeding and after every round
  bool converged = false;            // the labels stopped changing before `max_rounds`
};

namespace detail {

/// f(first, last) on consecutive blocks of rows, whose size does not depend on the number of threads.
template <class F>
void for_row_blocks(cpu_detail::thread_pool& pool, index_t rows, index_t block, const F& f) {
  pool.run((rows + block - 1) / block,
           [&](index_t b, int) { f(b * block, std::min(rows, (b + 1) * block)); });
}

constexpr index_t kmeans_block = 1024;  // rows

/// Centroids as double in panels of `lanes` neighbours, [K / lanes, C, lanes]: the innermost loop runs over
/// centroids, which vectorises without changing the order in which one distance is summed.
class centroid_panels {
 public:
  static constexpr index_t lanes = 16;

  centroid_panels(std::span<const float> centroids, index_t width)
      : count_(static_cast<index_t>(centroids.size()) / width), width_(width) {
    panels_.resize(static_cast<std::size_t>((count_ + lanes - 1) / lanes * width * lanes));
    for (index_t k = 0; k < count_; ++k)
      for (index_t c = 0; c < width; ++c)
        panels_[static_cast<std::size_t>((k / lanes * width + c) * lanes + k % lanes)] =
            centroids[static_cast<std::size_t>(k * width + c)];
  }

  /// The nearest centroid of x (C), the lowest among equals, and its squared distance.
  std::pair<std::int32_t, double> nearest(const float* x) const {
    std::int32_t best = 0;
    double best_distance = std::numeric_limits<double>::infinity();
    const double* panel = panels_.data();
    for (index_t first = 0; first < count_; first += lanes) {
      double sum[lanes] = {};
      for (index_t c = 0; c < width_; ++c, panel += lanes) {
        const double xc = x[c];
        for (index_t j = 0; j < lanes; ++j) {
          const double d = xc - panel[j];
          sum[j] += d * d;
        }
      }
      const index_t filled = std::min(lanes, count_ - first);
      for (index_t j = 0; j < filled; ++j)
        if (sum[j] < best_distance) {
          best_distance = sum[j];
          best = static_cast<std::int32_t>(first + j);
        }
    }
    return {best, best_distance};
  }

 private:
  index_t count_, width_;
  std::vector<double> panels_;
};

/// |x - y|^2 in eight interleaved sums; zero exactly when x == y.
inline double squared_distance(const float* x, const float* y, index_t width) {
  double sum[8] = {};
  for (index_t c = 0; c < width; ++c) {
    const double d = double{x[c]} - double{y[c]};
    sum[c % 8] += d * d;
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

/// Nearest centroids of all points into labels (N) and squared distances (N); the objective.
inline double assign(std::span<const float> points, std::span<const float> centroids, index_t width,
                     cpu_detail::thread_pool& pool, std::vector<std::int32_t>& labels,
                     std::vector<double>& distances) {
  const centroid_panels panels(centroids, width);
  const index_t rows = static_cast<index_t>(points.size()) / width;
  for_row_blocks(pool, rows, kmeans_block, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      const auto [label, distance] = panels.nearest(points.data() + i * width);
      labels[static_cast<std::size_t>(i)] = label;
      distances[static_cast<std::size_t>(i)] = distance;
    }
  });
  double objective = 0;
  for (double d : distances) objective += d;
  return objective;
}

/// The rows of each label, ascending: starts (K + 1) into rows (N).
struct label_members {
  std::vector<index_t> starts, rows;

  label_members(std::span<const std::int32_t> labels, index_t count)
      : starts(static_cast<std::size_t>(count) + 1), rows(labels.size()) {
    for (auto a : labels) ++starts[static_cast<std::size_t>(a) + 1];
    for (std::size_t k = 1; k < starts.size(); ++k) starts[k] += starts[k - 1];
    std::vector<index_t> next(starts.begin(), starts.end() - 1);
    for (std::size_t i = 0; i < labels.size(); ++i)
      rows[static_cast<std::size_t>(next[static_cast<std::size_t>(labels[i])]++)] = static_cast<index_t>(i);
  }
};

/// M_k = mean of the points with label k, summed in double by ascending row. No label is empty here.
inline void centroids_of(std::span<const float> points, std::span<const std::int32_t> labels, index_t width,
                         cpu_detail::thread_pool& pool, std::vector<float>& centroids) {
  const index_t count = static_cast<index_t>(centroids.size()) / width;
  const label_members members(labels, count);
  for_row_blocks(pool, count, 1, [&](index_t k, index_t) {
    std::vector<double> sum(static_cast<std::size_t>(width));
    const index_t begin = members.starts[static_cast<std::size_t>(k)];
    const index_t end = members.starts[static_cast<std::size_t>(k) + 1];
    for (index_t m = begin; m < end; ++m) {
      const float* x = points.data() + members.rows[static_cast<std::size_t>(m)] * width;
      for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += x[c];
    }
    for (std::size_t c = 0; c < sum.size(); ++c)
      centroids[static_cast<std::size_t>(k * width) + c] =
          static_cast<float>(sum[c] / static_cast<double>(end - begin));
  });
}

/// Moves every centroid without points onto the farthest point of a label that keeps others. False if there
/// was none to move. Such a point exists while there are as many distinct points as labels, and it stops
/// paying its distance.
inline bool reseed_empty(std::span<const float> points, index_t width, std::vector<float>& centroids,
                         std::vector<std::int32_t>& labels, const std::vector<double>& distances) {
  const std::size_t count = centroids.size() / static_cast<std::size_t>(width);
  std::vector<index_t> used(count);
  for (auto a : labels) ++used[static_cast<std::size_t>(a)];
  bool moved = false;
  for (std::size_t k = 0; k < count; ++k) {
    if (used[k] > 0) continue;
    std::size_t farthest = labels.size();
    for (std::size_t i = 0; i < labels.size(); ++i)
      if (distances[i] > (farthest == labels.size() ? 0.0 : distances[farthest]) &&
          used[static_cast<std::size_t>(labels[i])] > 1)
        farthest = i;
    if (farthest == labels.size()) continue;
    const auto at = static_cast<index_t>(farthest) * width;
    std::copy_n(points.begin() + at, width, centroids.begin() + static_cast<index_t>(k) * width);
    --used[static_cast<std::size_t>(labels[farthest])];
    used[k] = 1;
    labels[farthest] = static_cast<std::int32_t>(k);
    moved = true;
  }
  return moved;
}

inline index_t check_points(std::span<const float> points, index_t width, location at) {
  if (width < 1 || static_cast<index_t>(points.size()) % width != 0)
    throw_shape_error("k-means: " + std::to_string(points.size()) + " numbers are no rows of width " +
                          std::to_string(width),
                      at);
  for (std::size_t i = 0; i < points.size(); ++i)
    if (!std::isfinite(points[i]))
      throw numeric_error("k-means: point " + std::to_string(static_cast<index_t>(i) / width) + ", column " +
                          std::to_string(static_cast<index_t>(i) % width) + " is " +
                          std::to_string(points[i]) +
                          ", expected a finite number; check the sentence encoder");
  return static_cast<index_t>(points.size()) / width;
}

inline void check_labels(index_t labels, index_t rows) {
  if (rows < 1)
    throw input_error("labels: there are no sentences to put into clusters; give a text with sentences");
  if (labels < 1)
    throw input_error("labels: " + std::to_string(labels) + " asked for, expected a number from 1 to " +
                      std::to_string(rows) + " (the number of sentences)");
  if (labels > rows)
    throw input_error("labels: " + std::to_string(labels) + " asked for, but there are only " +
                      std::to_string(rows) + " sentences; ask for at most " + std::to_string(rows) +
                      " or give a longer text");
}

}  // namespace detail

/// k-means++ (Arthur and Vassilvitskii, SODA 2007): the first centroid is any point, each further one a point
/// drawn with probability proportional to its squared distance from the nearest centroid so far. Gives [K,
/// C], rows of `points`, all distinct.
inline std::vector<float> kmeans_plus_plus(std::span<const float> points, index_t width,
                                           const kmeans_options& options, location at = location::here()) {
  const index_t rows = detail::check_points(points, width, at);
  detail::check_labels(options.labels, rows);
  const philox draws{options.seed, 0, 0x6b2b2bu};
  const auto unit =
      [&](index_t k) {  // 52 bits: the 23 of philox::uniform would never reach most of a long text
        const auto bits = draws.bits(static_cast<std::uint64_t>(k), 0);
        return (static_cast<double>(bits.word[0] >> 6) * 0x1p26 + static_cast<double>(bits.word[1] >> 6) +
                0.5) *
               0x1p-52;
      };

  cpu_detail::thread_pool pool(options.threads);
  std::vector<float> centroids;
  centroids.reserve(static_cast<std::size_t>(options.labels * width));
  std::vector<double> distances(static_cast<std::size_t>(rows), std::numeric_limits<double>::infinity());
  index_t chosen = std::min(rows - 1, static_cast<index_t>(unit(0) * static_cast<double>(rows)));
  for (index_t k = 1;; ++k) {
    const float* centroid = points.data() + chosen * width;
    centroids.insert(centroids.end(), centroid, centroid + width);
    if (k == options.labels) return centroids;
    detail::for_row_blocks(pool, rows, detail::kmeans_block, [&](index_t first, index_t last) {
      for (index_t i = first; i < last; ++i) {
        double& d = distances[static_cast<std::size_t>(i)];
        d = std::min(d, detail::squared_distance(points.data() + i * width, centroid, width));
      }
    });
    double total = 0;
    for (double d : distances) total += d;
    if (!(total > 0))
      throw input_error("labels: " + std::to_string(options.labels) + " asked for, but the " +
                        std::to_string(rows) + " sentences have only " + std::to_string(k) +
                        " distinct embeddings; ask for at most " + std::to_string(k) +
                        " or give a more varied text");
    const double target = unit(k) * total;
    double passed = 0;
    for (index_t i = 0; i < rows && !(passed > target); ++i)
      if (const double d = distances[static_cast<std::size_t>(i)]; d > 0) {
        passed += d;
        chosen = i;
      }
  }
}

/// Lloyd rounds from given centroids [K, C] until no label changes or `max_rounds` are done. A label without
/// points moves to the farthest point, so that none is empty in the end provided there are K distinct points.
/// `options.labels` and `seed` are not read.
inline kmeans_result lloyd(std::span<const float> points, index_t width, std::vector<float> centroids,
                           const kmeans_options& options, location at = location::here()) {
  const index_t rows = detail::check_points(points, width, at);
  detail::check_labels(detail::check_points(centroids, width, at), rows);
  cpu_detail::thread_pool pool(options.threads);
  kmeans_result result;
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows));
  std::vector<double> distances(labels.size());
  for (int round = 0;; ++round) {
    double objective = 0;
    do {
      objective = detail::assign(points, centroids, width, pool, labels, distances);
    } while (detail::reseed_empty(points, width, centroids, labels, distances));
    const bool same = round > 0 && labels == result.labels;
    // The mean rounded to float is the best float centroid, so only the rounding of the sums can make a round
    // worse. Such a round is not taken.
    const bool worse = round > 0 && objective > result.objective.back();
    if (!worse) {
      result.centroids = centroids;
      result.labels = labels;
      result.objective.push_back(objective);
    }
    result.converged = same || worse;
    if (result.converged || round >= options.max_rounds) return result;
    detail::centroids_of(points, labels, width, pool, centroids);
  }
}

/// The codebook and the labels of the training sentences. Fit on training sentences only; label others by
/// `assign_labels`.
inline kmeans_result kmeans(std::span<const float> points, index_t width, const kmeans_options& options = {},
                            location at = location::here()) {
  return lloyd(points, width, kmeans_plus_plus(points, width, options, at), options, at);
}

/// labels (N): the nearest row of centroids [K, C] for every row of points [N, C], the lowest among equals.
inline std::vector<std::int32_t> assign_labels(std::span<const float> points,
                                               std::span<const float> centroids, index_t width,
                                               int threads = 1, location at = location::here()) {
  const index_t rows = detail::check_points(points, width, at);
  if (detail::check_points(centroids, width, at) < 1) throw_shape_error("assign_labels: no centroids", at);
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows));
  std::vector<double> distances(labels.size());
  cpu_detail::thread_pool pool(threads);
  detail::assign(points, centroids, width, pool, labels, distances);
  return labels;
}

}  // namespace planlm
