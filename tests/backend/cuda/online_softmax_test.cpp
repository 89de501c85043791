#include "catch.hpp"
#include <algorithm>
#include <cmath>
#include <vector>
#include <planlm/backend/cuda/online_softmax.hpp>
#include <planlm/testing/compare.hpp>

using namespace planlm;
using namespace planlm::cuda_detail;

namespace {
struct exp2_host {
  double operator()(double x) const { return std::exp2(x); }
};
/// Softmax of `scores` times `values`, tile by tile.
std::pair<double, double> in_tiles(const std::vector<double>& scores, const std::vector<double>& values, double scale, std::size_t tile) {
  online_softmax<double, exp2_host> row;
  const double c = scale * log2_e;
  double sum = 0;
  for (std::size_t from = 0; from < scores.size(); from += tile) {
    const std::size_t to = std::min(from + tile, scores.size());
    sum *= row.raise(*std::max_element(scores.begin() + static_cast<long>(from), scores.begin() + static_cast<long>(to)), c);
    for (std::size_t i = from; i < to; ++i) {
      const double w = row.weight(scores[i], c);
      row.total += w;
      sum += w * values[i];
    }
  }
  return {sum / row.total, row.log_sum(scale)};
}
}  // namespace

TEST_CASE("two scores worked by hand") {
  // Weights 1/4 and 3/4: the second score is ln 3 higher. 0.25 * 8 + 0.75 * 4 = 5; log(1 + 3) = ln 4.
  for (const std::size_t tile : {1u, 2u}) {
    const auto [mean, log_sum] = in_tiles({0, 2 * std::log(3.0)}, {8, 4}, 0.5, tile);
    CHECK(mean == Approx(5).epsilon(1e-14));
    CHECK(log_sum == Approx(std::log(4.0)).epsilon(1e-14));
  }
}

TEST_CASE("softmax by tiles is softmax, whatever the tile and however the scores rise or fall") {
  std::vector<double> scores = testing::normal_values(203, 1, 20), values = testing::normal_values(203, 2);
  for (int order = 0; order < 3; ++order) {
    if (order == 1) std::sort(scores.begin(), scores.end());
    if (order == 2) std::reverse(scores.begin(), scores.end());
    const auto [mean, log_sum] = in_tiles(scores, values, 0.125, scores.size());
    for (const std::size_t tile : {1u, 16u, 64u}) {
      const auto [m, l] = in_tiles(scores, values, 0.125, tile);
      CHECK(m == Approx(mean).epsilon(1e-12));
      CHECK(l == Approx(log_sum).epsilon(1e-13));
    }
  }
}

TEST_CASE("masked scores weigh nothing, also in a tile where all are masked") {
  const double masked = masked_score<double>;
  const auto [mean, log_sum] = in_tiles({1, masked, masked, masked, 2, masked}, {3, 1e300, 1e300, 1e300, 5, 1e300}, 1, 2);
  const double w = 1 / (1 + std::exp(1.0));
  CHECK(mean == Approx(w * 3 + (1 - w) * 5).epsilon(1e-14));
  CHECK(log_sum == Approx(2 - std::log(1 - w)).epsilon(1e-14));
}
