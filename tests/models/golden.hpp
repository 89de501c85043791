/// What the tests against PyTorch share: the files of tests/golden, the arrays that both sides make, and how far numbers are apart.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <type_traits>
#include <vector>
#include <nlohmann/json.hpp>

#include "../catch.hpp"

namespace planlm::testing::golden_files {

using nlohmann::json;

inline json golden(const std::string& name) {
  std::ifstream file(PLANLM_GOLDEN "/" + name);
  INFO("tests/golden/" << name);
  REQUIRE(file);
  return json::parse(file);
}
inline std::vector<double> numbers(const json& values) { return values.get<std::vector<double>>(); }

/// Array `number` of the golden files: tests/golden/hashed.py says how its elements are made.
inline std::vector<double> hashed(std::size_t count, std::uint32_t number, double scale, double offset) {
  std::vector<double> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t h = static_cast<std::uint32_t>(i) * 2654435761u + (number + 1) * 2246822519u;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    values[i] = static_cast<double>(static_cast<float>(offset + (double(h) / 4294967296.0 - 0.5) * scale));
  }
  return values;
}

/// The files hold nine significant digits: half a unit of the last one.
inline double half_digit(double v) { return v == 0 ? 0 : 0.5 * std::pow(10.0, std::floor(std::log10(std::abs(v))) - 8); }

/// Largest difference beyond the files' rounding, relative to the array's largest element; NaN never passes.
template <class T>
double distance(const std::vector<T>& ours, const std::vector<double>& theirs) {
  if (ours.size() != theirs.size() || ours.empty()) return INFINITY;
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double difference = std::abs(double(ours[i]) - theirs[i]) - half_digit(theirs[i]);
    worst = difference > worst || !std::isfinite(difference) ? difference : worst;
    largest = std::max(largest, std::abs(theirs[i]));
  }
  return std::isfinite(worst) ? worst / largest : INFINITY;
}

/// How close a backend of T comes.
template <class T>
constexpr double tolerance = std::is_same_v<T, double> ? 1e-11 : 2e-5;

}  // namespace planlm::testing::golden_files
