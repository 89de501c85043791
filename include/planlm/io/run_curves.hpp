/// Curves of a run from its metrics.jsonl, for the report page.
///
/// A line of the log is an object with "seed", "stage", "step" and values; a value is named by its path, "smoothed" or "planner/entropy".
/// Lines without it, and lines that are no objects, are passed over: a log that was cut short still gives a page.
#pragma once
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>
#include <nlohmann/json.hpp>
#include <planlm/io/chart.hpp>

namespace planlm {

struct run_curve {
  int seed;
  std::string stage;
  series points;  // x: steps; its name is that of the stage
};

/// One curve for every seed and stage that has the value, in the order of their first line. A step logged again, by a run that was stopped
/// between two checkpoints and went on, replaces what came after it.
inline std::vector<run_curve> run_curves(const std::filesystem::path& metrics, const std::string& value) {
  std::vector<run_curve> curves;
  std::ifstream in(metrics);
  const nlohmann::json::json_pointer where("/" + value);
  for (std::string line; std::getline(in, line);) {
    const auto j = nlohmann::json::parse(line, nullptr, false);
    if (!j.is_object() || !j.contains("stage") || !j.contains("step") || !j.contains(where)) continue;
    const auto& v = j.at(where);
    if (!j.at("stage").is_string() || !j.at("step").is_number() || !(v.is_number() || v.is_null())) continue;
    const int seed = j.value("seed", 0);
    const std::string stage = j.at("stage");
    run_curve* mine = nullptr;
    for (run_curve& c : curves)
      if (c.seed == seed && c.stage == stage) mine = &c;
    if (!mine) {
      curves.push_back({seed, stage, {stage, {}, {}}});
      mine = &curves.back();
    }
    const double step = j.at("step");
    while (!mine->points.x.empty() && mine->points.x.back() >= step) mine->points.x.pop_back(), mine->points.y.pop_back();
    mine->points.x.push_back(step);
    mine->points.y.push_back(v.is_null() ? NAN : v.get<double>());
  }
  return curves;
}

}  // namespace planlm
