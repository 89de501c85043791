/// The same adapters, gates and placements in PyTorch: tests/golden/adapters.json holds what it computed in double.
#include <span>
#include <string>
#include <type_traits>
#include <vector>
#include <planlm/models/planner_lm.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/plan_rows.hpp>
#include <planlm/training/parameters.hpp>

#include "../catch.hpp"
#include "golden.hpp"
#include "joint.hpp"
#include "shared_table.hpp"

using namespace planlm;
using namespace planlm::testing::golden_files;

namespace {

/// Runs one case of the file: model(sizes) makes the planner_lm. `Shared`: behind one table for all layers.
template <class Model, bool Shared, class Make>
void check_case(const std::string& name, const Make& make) {
  using B = typename Model::backend;
  using T = typename B::real;
  using whole = std::conditional_t<Shared, testing::with_shared_table<Model>, Model>;
  const json file = golden("adapters.json");
  const json& z = file["sizes"];
  const json& c = file["cases"][name];
  CAPTURE(name);
  REQUIRE(!c.is_null());
  const whole model = [&]() -> whole {
    const Model inner = make(lm_sizes{z["vocabulary"], z["positions"], z["width"], z["heads"], z["layers"]});
    if constexpr (Shared) return {inner, {z["labels"], z["label_width"]}};
    else return inner;
  }();
  context<B> cx;
  testing::poison(cx);
  parameters<whole> theta(cx, model, philox{1});
  REQUIRE(c["parameters"].size() == theta.slots().size());
  std::uint32_t number = 0;
  for (const json& p : c["parameters"]) {
    const std::size_t n = theta.find(p["name"]);
    const auto v = hashed(static_cast<std::size_t>(theta.slots()[n].spec.size()), number++, p["scale"], p["offset"]);
    theta.write(cx, n, std::vector<T>(v.begin(), v.end()));
  }
  const testing::small_batch batch;
  const std::vector<int> offsets{0, 7, 11};
  const rows_with_plans rows = insert_plan_rows({batch.tokens, batch.targets, batch.sentence, offsets}, c["rows"]);
  const auto ids = [](const std::vector<int>& v) { return indices<B>(v.data(), v.size()); };
  const planned_rows<B> planned{ids(rows.tokens), ids(rows.targets), ids(c["rows"] == 0 ? batch.sentence : rows.plan),
                                {ids(rows.offsets), rows.offsets.data(), ids(rows.positions)}, 4};
  const auto at = hashed(4 * z["labels"].get<std::size_t>(), number, 3, 0);
  const std::vector<T> logits(at.begin(), at.end());
  auto [h, pullback] = model(cx, theta.weights, planned, const_tensor<B>(logits.data(), 4, z["labels"].get<index_t>()),
                             mixture{z["temperature"]});
  const auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.lm.token.table), planned.targets,
                                              const_tensor<B, 1>{}, T(1) / T(11), theta.grads.lm.token.table);
  const const_tensor<B> dz = pullback(loss.dhidden, theta.grads);
  constexpr double close = tolerance<T>;
  CHECK(distance(std::vector<double>{double(cx.read_one(loss.total))}, {c["loss"].get<double>()}) < close);
  CHECK(distance(cx.read(dz), numbers(c["dz"])) < close);
  CHECK(c["gradients"].size() >= 4);
  for (const auto& [tensor, values] : c["gradients"].items()) {
    CAPTURE(tensor);
    CHECK(distance(theta.read_gradient(cx, theta.find(tensor)), numbers(values)) < close);
  }
}

constexpr index_t labels = 5, label_width = 6, width = 8;

}  // namespace

TEST_CASE("the batch of the adapters' golden file is the small batch of the tests") {
  const json file = golden("adapters.json");
  const testing::small_batch batch;
  CHECK(file["tokens"] == batch.tokens);
  CHECK(file["targets"] == batch.targets);
  CHECK(file["sentence"] == batch.sentence);
  CHECK(file["sequence_offsets"] == json({0, 7, 11}));
  CHECK(file["cases"].size() == 7);
}

TEMPLATE_TEST_CASE("adapters inside the blocks, with tables of their own or one for all, give PyTorch's loss and gradients", "", float, double) {
  using B = cpu<TestType>;
  {
    using adapter = plan_adapter<B, learned_gate<B>>;
    using model = planner_lm<B, at_attention_output, adapter>;
    check_case<model, true>("shared table", [](lm_sizes s) { return model(s, adapter{label_width, width}); });
  }
  {
    using model = planner_lm<B, at_attention_output, label_adapter<B, context_gate<B>>>;
    check_case<model, false>("context gate", [](lm_sizes s) { return model(s, labels, label_width, 0); });
  }
  {
    using adapter = plan_adapter<B, context_gate<B>>;
    using model = planner_lm<B, at_feed_forward_input, adapter>;
    check_case<model, true>("context gate by column", [](lm_sizes s) { return model(s, adapter{label_width, width, {width, true}}); });
  }
  {
    using model = planner_lm<B, at_feed_forward_input>;
    check_case<model, false>("feed-forward", [](lm_sizes s) { return model(s, labels, label_width, 0); });
  }
}

TEMPLATE_TEST_CASE("plans at the embedding and on rows of their own give PyTorch's loss and gradients", "", float, double) {
  using B = cpu<TestType>;
  {
    using model = planner_lm<B, at_embedding>;
    check_case<model, false>("embedding", [](lm_sizes s) { return model(s, labels, label_width, 0); });
    check_case<model, false>("inserted rows", [](lm_sizes s) { return model(s, label_adapter<B>{labels, label_width, 2 * width}); });
  }
  {
    using adapter = plan_adapter<B, context_gate<B>>;
    using model = planner_lm<B, at_embedding, adapter>;
    check_case<model, true>("embedding, context gate", [](lm_sizes s) { return model(s, adapter{label_width, width}); });
  }
}
