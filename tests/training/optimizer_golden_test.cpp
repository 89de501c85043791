// The golden vectors of tests/golden/layers.json; its script checked them against a second implementation to
// 1e-12.
#include <fstream>
#include <nlohmann/json.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/lion.hpp>
#include <planlm/training/sgd.hpp>

#include "../catch.hpp"
#include "flat.hpp"

using namespace planlm;
using B = cpu<double>;

namespace {

const nlohmann::json& golden(const char* name) {
  static const nlohmann::json all = nlohmann::json::parse(std::ifstream(PLANLM_GOLDEN "/layers.json"));
  return all.at("layers").at(name);
}

/// The array that the file describes by its number: see "about" there.
std::vector<double> hashed(const nlohmann::json& array) {
  std::vector<double> values(array.at("shape").at(0).get<std::size_t>());
  const auto shift = (array.at("number").get<std::uint32_t>() + 1) * 2246822519u;
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t h = static_cast<std::uint32_t>(i) * 2654435761u + shift;
    h ^= h >> 15;
    h *= 2246822519u;
    h ^= h >> 13;
    values[i] = static_cast<float>(array.at("offset").get<double>() +
                                   (h / 0x1p32 - 0.5) * array.at("scale").get<double>());
  }
  return values;
}

template <class O>
void check_three_steps(context<B>& cx, O optimiser, const nlohmann::json& example) {
  auto w = hashed(example.at("arrays").at(0));
  for (std::size_t step = 1; step <= 3; ++step) {
    auto g = hashed(example.at("arrays").at(step));
    optimiser.step(cx, testing::flat_view(w), testing::flat_view(g),
                   example.at("sizes").at("learning_rate").get<double>());
    const auto expected = example.at("steps").at("after" + std::to_string(step)).get<std::vector<double>>();
    CHECK(testing::largest_error(w, expected) < 5.1e-9);  // the file holds nine digits
  }
}

double size_of(const nlohmann::json& example, const char* name) {
  return example.at("sizes").at(name).get<double>();
}

}  // namespace

TEST_CASE("AdamW takes PyTorch's three steps") {
  const auto& e = golden("adamw");
  context<B> cx;
  check_three_steps(
      cx,
      adamw{cx,
            6,
            {size_of(e, "beta1"), size_of(e, "beta2"), size_of(e, "epsilon"), size_of(e, "weight_decay")}},
      e);
}

TEST_CASE("SGD with momentum takes PyTorch's three steps") {
  const auto& e = golden("sgd");
  context<B> cx;
  check_three_steps(cx, sgd{cx, 6, {.momentum = size_of(e, "momentum")}}, e);
}

TEST_CASE("Lion takes the three steps of its equations") {
  const auto& e = golden("lion");
  context<B> cx;
  check_three_steps(cx, lion{cx, 6, {size_of(e, "beta1"), size_of(e, "beta2"), size_of(e, "weight_decay")}},
                    e);
}
