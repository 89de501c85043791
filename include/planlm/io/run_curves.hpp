/// Curves of a run from its metrics.jsonl, for the report page.
///
/// A line of the log is an object with "seed" (0 where there is none), "stage", "step" and values; a value is
/// named by its path, "smoothed" or "planner/entropy". Lines without it, and damaged lines, are passed over: a
/// log that was cut short still gives a page. Errors: none for what the log holds; a log that cannot be read
/// has no curves.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <planlm/io/chart.hpp>
#include <string>
#include <utility>
#include <vector>

namespace planlm {

struct run_curve {
  int seed;
  std::string stage;
  series points;  // x: steps; its name is that of the stage
};

namespace detail {

/// Nothing for a seed that is no number of a run.
inline std::optional<int> seed_of(const nlohmann::json& line) {
  const auto found = line.find("seed");
  if (found == line.end()) return 0;
  if (!found->is_number_integer()) return std::nullopt;
  const auto fitting = [](auto seed) {
    return std::in_range<int>(seed) ? std::optional(static_cast<int>(seed)) : std::nullopt;
  };
  return found->is_number_unsigned() ? fitting(found->get<std::uint64_t>())
                                     : fitting(found->get<std::int64_t>());
}

}  // namespace detail

/// One curve for every seed and stage that has the value, in the order of their first line. A step logged
/// again, by a run that was stopped between two checkpoints and went on, replaces what came after it.
inline std::vector<run_curve> run_curves(const std::filesystem::path& metrics, const std::string& value) {
  std::vector<run_curve> curves;
  std::ifstream in(metrics);
  const nlohmann::json::json_pointer where("/" + value);
  for (std::string line; std::getline(in, line);) {
    const auto j = nlohmann::json::parse(line, nullptr, false);
    if (!j.is_object() || !j.contains("stage") || !j.contains("step") || !j.contains(where)) continue;
    const auto& v = j.at(where);
    const std::optional<int> seed = detail::seed_of(j);
    if (!seed || !j.at("stage").is_string() || !j.at("step").is_number() || !(v.is_number() || v.is_null()))
      continue;
    const auto stage = j.at("stage").get<std::string>();
    run_curve* mine = nullptr;
    for (run_curve& c : curves)
      if (c.seed == *seed && c.stage == stage) mine = &c;
    if (!mine) mine = &curves.emplace_back(run_curve{*seed, stage, {stage, {}, {}}});
    series& points = mine->points;
    const auto step = j.at("step").get<double>();
    while (!points.x.empty() && points.x.back() >= step) points.x.pop_back(), points.y.pop_back();
    points.x.push_back(step);
    points.y.push_back(v.is_null() ? std::numeric_limits<double>::quiet_NaN() : v.get<double>());
  }
  return curves;
}

}  // namespace planlm
