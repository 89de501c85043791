/// The hyper-grid: a point that starts in a corner, goes up by one along one axis at a time and may stop anywhere.   [2106.04399, section 4.1]
///
/// States: side^dimensions points, the last axis fastest; action a goes up along axis a. With c_i = |x_i / (side - 1) - 1/2|:
///   original   R0 + R1 prod [c_i > 1/4] + R2 prod [0.3 < c_i < 0.4]                                              R0 .1     R1 .5  R2 2
///   cosine     R0 + R1 prod (cos(50 c_i) + 1) n(5 c_i), n the standard normal density                            R0 .1     R1 .5
///   sparse     1 at the points of ones and (side - 2)s with at least one of the latter, R0 elsewhere; 2210.03308  R0 1e-12
///   deceptive  R0 + R1 (1 - prod [c_i > 1/10]) + R2 prod [0.3 < c_i <= 0.4]                            2410.01432  R0 1e-5   R1 .1  R2 2
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>
#include <planlm/environments/environment.hpp>

namespace planlm {

enum class grid_reward { original, cosine, sparse, deceptive };

/// Constants of a reward; one below 0 takes the value that the reward is known with.
struct grid_heights {
  double r0 = -1, r1 = -1, r2 = -1;
};

class hyper_grid {
 public:
  /// Errors: planlm::error for a size without points or with more than 2^31.
  hyper_grid(int dimensions, int side, grid_reward reward = grid_reward::original, grid_heights heights = {})
      : dimensions_(dimensions), side_(side), reward_(reward), heights_(heights) {
    if (dimensions < 1 || side < 2)
      throw error("hyper_grid: " + std::to_string(dimensions) + " dimensions of side " + std::to_string(side) +
                  "; expected at least 1 of side at least 2");
    stride_.assign(static_cast<std::size_t>(dimensions), 1);
    for (int i = 0; i < dimensions; ++i) {
      stride_[static_cast<std::size_t>(dimensions - 1 - i)] = states_;
      states_ *= side;
      if (states_ > index_t{1} << 31)
        throw error("hyper_grid: more than 2^31 points; a smaller side or fewer dimensions can be enumerated");
    }
    const auto given = [](double& r, double usual) {
      if (r < 0) r = usual;
    };
    const bool deceptive = reward == grid_reward::deceptive;
    given(heights_.r0, deceptive ? 1e-5 : reward == grid_reward::sparse ? 1e-12 : 0.1);
    given(heights_.r1, deceptive ? 0.1 : 0.5);
    given(heights_.r2, 2);
  }

  int dimensions() const { return dimensions_; }
  int side() const { return side_; }
  index_t states() const { return states_; }
  int actions() const { return dimensions_; }
  int coordinate(index_t state, int axis) const { return static_cast<int>(state / stride_[static_cast<std::size_t>(axis)] % side_); }
  index_t child(index_t state, int axis) const {
    return coordinate(state, axis) + 1 < side_ ? state + stride_[static_cast<std::size_t>(axis)] : -1;
  }
  index_t parent(index_t state, int axis) const {
    return coordinate(state, axis) > 0 ? state - stride_[static_cast<std::size_t>(axis)] : -1;
  }
  bool stops(index_t) const { return true; }
  double log_reward(index_t state) const { return std::log(reward(state)); }

  double reward(index_t state) const {
    constexpr double slack = 1e-12;  // a point on a border must not hang on rounding
    bool outer = true, band = true, shell = true, target = true;
    int far_ends = 0;
    double cosine = 1;
    for (int i = 0; i < dimensions_; ++i) {
      const int x = coordinate(state, i);
      const double c = std::abs(double(x) / (side_ - 1) - 0.5);
      outer = outer && c > 0.25 + slack;
      shell = shell && c > 0.1 + slack;
      band = band && c > 0.3 + slack && (reward_ == grid_reward::deceptive ? c < 0.4 + slack : c < 0.4 - slack);
      far_ends += x == side_ - 2;
      target = target && (x == 1 || x == side_ - 2);
      cosine *= (std::cos(50 * c) + 1) * std::exp(-12.5 * c * c) / std::sqrt(2 * 3.14159265358979323846);
    }
    const auto [r0, r1, r2] = heights_;
    switch (reward_) {
      case grid_reward::cosine: return r0 + r1 * cosine;
      case grid_reward::sparse: return r0 + (target && far_ends > 0 ? 1 : 0);
      case grid_reward::deceptive: return r0 + (shell ? 0 : r1) + (band ? r2 : 0);
      case grid_reward::original: break;
    }
    return r0 + (outer ? r1 : 0) + (band ? r2 : 0);
  }
  /// How many points have the largest reward, to a part in 10^9.
  index_t modes() const {
    double best = 0;
    for (index_t s = 0; s < states_; ++s) best = std::max(best, reward(s));
    index_t count = 0;
    for (index_t s = 0; s < states_; ++s) count += reward(s) > best * (1 - 1e-9);
    return count;
  }

 private:
  int dimensions_, side_;
  grid_reward reward_;
  grid_heights heights_;
  index_t states_ = 1;
  std::vector<index_t> stride_;
};

}  // namespace planlm
