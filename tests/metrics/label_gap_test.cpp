#include <cmath>
#include <fstream>
#include <span>
#include <vector>
#include <nlohmann/json.hpp>
#include <planlm/metrics/label_gap.hpp>

#include "../catch.hpp"

using namespace planlm;
using numbers = std::vector<double>;

TEST_CASE("F26: the gap reward of golden A14 is 36.5 with two classes, and its own with three") {
  const auto all = nlohmann::json::parse(std::ifstream(PLANLM_GOLDEN "/guided_likelihood.json")).at("A14_prompt_gap_reward");
  const auto &in = all.at("inputs"), &out = all.at("outputs");
  for (const std::string way : {"", "_3way"}) {
    CAPTURE(way);
    const index_t classes = way.empty() ? 2 : 3;
    numbers p;
    for (const auto& row : in.at("class_probs" + way))
      for (const auto& v : row) p.push_back(v.get<double>());
    const auto labels = in.at("labels" + way).get<std::vector<int>>();
    const label_gap_reward reward;
    for (std::size_t n = 0; n < labels.size(); ++n) {
      const auto width = static_cast<std::size_t>(classes);
      const double gap = label_gap(std::span<const double>(p).subspan(n * width, width), labels[n]);
      CHECK(std::abs(gap - out.at("gap" + way).at(n).get<double>()) < 1e-14);
      CHECK(std::abs(reward(gap) - out.at("gap_reward" + way).at(n).get<double>()) < 1e-12);
    }
    const label_gap_score score = reward.score(std::span<const double>(p), classes, labels);
    CHECK(std::abs(score.reward - out.at("score" + way).get<double>()) < 1e-12);
    if (way.empty()) {
      CHECK(std::abs(score.reward - 36.5) < 1e-12);
      CHECK(score.accuracy == out.at("acc").get<double>());
    }
  }
}

TEST_CASE("an exact tie has gap 0 and is wrong, whichever class is the label") {
  const numbers tie{0.5, 0.5}, three{0.4, 0.4, 0.2};
  CHECK(label_gap(std::span<const double>(tie), 0) == 0);
  CHECK(label_gap(std::span<const double>(three), 1) == 0);
  CHECK(label_gap(std::span<const double>(three), 2) == Approx(-0.2));
  const std::vector<int> label{1};
  CHECK(label_gap_reward{}.score(std::span<const double>(tie), 2, label).accuracy == 0);
}

TEST_CASE("gaps of no examples, of one class and of labels that do not exist") {
  const numbers p{0.5, 0.5};
  const std::vector<int> nothing, one{0};
  CHECK(label_gap_reward{}.score(std::span<const double>(), 2, nothing).reward == 0);
  CHECK_THROWS_WITH(label_gap(std::span<const double>(p), 2),
                    "label_gap: label 2 of 2 classes, expected at least two classes and a label among them");
  CHECK_THROWS_AS(label_gap(std::span<const double>(p).first(1), 0), shape_error);
  CHECK_THROWS_AS(label_gap(std::span<const double>(p), -1), shape_error);
  CHECK_THROWS_WITH(label_gap_reward{}.score(std::span<const double>(p), 3, one),
                    "label_gap_reward: 2 probabilities, expected 1 examples of 3");
}
