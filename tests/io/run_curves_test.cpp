#include <cmath>
#include <planlm/io/run_curves.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "scratch_folder.hpp"

using namespace planlm;

namespace {

using numbers = std::vector<double>;

std::vector<run_curve> curves_of(const std::string& log, const std::string& value = "loss") {
  const scratch::folder folder;
  scratch::put(folder / "metrics.jsonl", log);
  return run_curves(folder / "metrics.jsonl", value);
}

}  // namespace

TEST_CASE("every seed and stage has a curve of its own, in the order of their first line") {
  const auto curves = curves_of(R"({"seed": 2, "stage": "joint", "step": 1, "loss": 5}
{"seed": 1, "stage": "joint", "step": 1, "loss": 6}
{"seed": 2, "stage": "base", "step": 1, "loss": 7}
{"seed": 2, "stage": "joint", "step": 2, "loss": 4}
{"stage": "joint", "step": 3, "loss": 3}
)");
  REQUIRE(curves.size() == 4);
  CHECK((curves[0].seed == 2 && curves[0].stage == "joint" && curves[0].points.name == "joint"));
  CHECK(curves[0].points.x == numbers{1, 2});
  CHECK(curves[0].points.y == numbers{5, 4});
  CHECK((curves[1].seed == 1 && curves[1].stage == "joint" && curves[1].points.y == numbers{6}));
  CHECK((curves[2].seed == 2 && curves[2].stage == "base" && curves[2].points.y == numbers{7}));
  CHECK((curves[3].seed == 0 && curves[3].points.x == numbers{3}));
}

TEST_CASE("a value is named by its path, and lines without it are passed over") {
  const std::string log = R"({"seed": 1, "stage": "s", "step": 1, "planner": {"entropy": 0.5}}
{"seed": 1, "stage": "s", "step": 2, "entropy": 9}
{"seed": 1, "stage": "s", "step": 3, "planner": {"loss": 9}}
{"seed": 1, "stage": "s", "step": 4, "planner": [0.7]}
{"seed": 1, "stage": "s", "step": 5, "planner": 0.7}
{"seed": 1, "stage": "s", "step": 6, "planner": {"entropy": 0.25}}
)";
  const auto curves = curves_of(log, "planner/entropy");
  REQUIRE(curves.size() == 1);
  CHECK(curves[0].points.x == numbers{1, 6});
  CHECK(curves[0].points.y == numbers{0.5, 0.25});
  CHECK(curves_of(log, "nowhere").empty());
}

TEST_CASE("null is a gap") {
  const auto curves = curves_of(R"({"seed": 1, "stage": "s", "step": 1, "loss": 2}
{"seed": 1, "stage": "s", "step": 2, "loss": null}
{"seed": 1, "stage": "s", "step": 3, "loss": 1}
)");
  REQUIRE(curves.size() == 1);
  CHECK(curves[0].points.x == numbers{1, 2, 3});
  CHECK(std::isnan(curves[0].points.y[1]));
}

TEST_CASE("a step logged again replaces what came after it, in its own curve alone") {
  const auto curves = curves_of(R"({"seed": 1, "stage": "s", "step": 10, "loss": 4}
{"seed": 1, "stage": "other", "step": 30, "loss": 9}
{"seed": 1, "stage": "s", "step": 20, "loss": 3}
{"seed": 1, "stage": "s", "step": 30, "loss": 2}
{"seed": 1, "stage": "s", "step": 20, "loss": 3.5}
)");
  REQUIRE(curves.size() == 2);
  CHECK(curves[0].points.x == numbers{10, 20});
  CHECK(curves[0].points.y == numbers{4, 3.5});
  CHECK(curves[1].points.x == numbers{30});
}

TEST_CASE("damaged lines are passed over") {
  const std::string good = R"({"seed": 1, "stage": "s", "step": 1, "loss": 2})";
  for (const std::string bad :
       {R"({"seed": "2", "stage": "s", "step": 2, "loss": 2})",
        R"({"seed": null, "stage": "s", "step": 2, "loss": 2})",
        R"({"seed": 1.5, "stage": "s", "step": 2, "loss": 2})",
        R"({"seed": 4294967297, "stage": "s", "step": 2, "loss": 2})",
        R"({"seed": 18446744073709551615, "stage": "s", "step": 2, "loss": 2})",
        R"({"seed": 1, "stage": 3, "step": 2, "loss": 2})",
        R"({"seed": 1, "stage": "s", "step": "2", "loss": 2})",
        R"({"seed": 1, "stage": "s", "step": 2, "loss": "2"})",
        R"({"seed": 1, "stage": "s", "step": 2, "loss": 1e999})",
        R"({"seed": 1, "stage": "s", "loss": 2})", R"({"seed": 1, "step": 2, "loss": 2})", R"([1, 2])", "7",
        "null", "", "{\"seed\": 1, \"stage\": \"\xFF\", \"step\": 2, \"loss\": 2}",
        R"({"seed": 1, "stage": "s", "step": 2, "lo)"}) {
    INFO(bad);
    const auto curves = curves_of(bad + "\n" + good + "\n" + bad);
    REQUIRE(curves.size() == 1);
    CHECK(curves[0].seed == 1);
    CHECK(curves[0].points.x == numbers{1});
  }
}

TEST_CASE("a file that is missing, empty or a folder gives no curves") {
  const scratch::folder folder;
  CHECK(run_curves(folder / "metrics.jsonl", "loss").empty());
  CHECK(run_curves(folder.path(), "loss").empty());
  CHECK(curves_of("").empty());
}
