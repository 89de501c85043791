/// The same model, weights and batch in PyTorch: tests/golden/planner_lm.json and its straight-through twin hold what it computed in double.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>

#include "../catch.hpp"
#include "golden.hpp"
#include "joint.hpp"

using namespace planlm;
using namespace planlm::testing::golden_files;

namespace {

/// The golden model. Our names are `lm.*` and `adapters.*`; those of the planner's own store get the prefix `planner.`.
template <class T, class Mix>
struct golden_run : testing::joint<planner_lm<cpu<T>>, Mix> {
  using B = cpu<T>;
  using base = testing::joint<planner_lm<B>, Mix>;

  golden_run(const testing::small_batch& batch, const json& file, Mix mix) : base(batch, lm_of(file), planner_of(file), mix) {
    const json& parameters = file["parameters"];
    CHECK(parameters.size() == this->theta.slots().size() + this->phi.slots().size());
    for (std::size_t n = 0; n < parameters.size(); ++n) {
      const json& p = parameters[n];
      const std::string name = p["name"];
      std::size_t count = 1;
      for (const std::size_t extent : p["shape"]) count *= extent;
      const auto v = hashed(count, static_cast<std::uint32_t>(n), p["scale"], p["offset"]);
      const std::vector<T> values(v.begin(), v.end());
      if (in_planner(name)) this->phi.write(this->cx, this->phi.find(name.substr(8)), values);
      else this->theta.write(this->cx, this->theta.find(name), values);
    }
    const auto z = hashed(this->embeddings.size(), static_cast<std::uint32_t>(parameters.size()), 2, 0);
    CHECK(distance(z, numbers(file["contexts"])) <= 0);
    this->embeddings.assign(z.begin(), z.end());
  }
  static bool in_planner(const std::string& name) { return name.rfind("planner.", 0) == 0; }
  static planner_lm<B> lm_of(const json& file) {
    const json& z = file["sizes"];
    return {{z["vocabulary"], z["positions"], z["width"], z["heads"], z["layers"]}, z["labels"], z["label_width"], z["first_adapted"]};
  }
  static planner<B> planner_of(const json& file) {
    const json& z = file["sizes"];
    return {z["label_width"], z["labels"], z["planner_heads"], z["planner_mlp_width"], 1};
  }
  std::vector<T> gradient(const std::string& name) {
    return in_planner(name) ? this->phi.read_gradient(this->cx, this->phi.find(name.substr(8)))
                            : this->theta.read_gradient(this->cx, this->theta.find(name));
  }
};

}  // namespace

TEST_CASE("the batch of the golden files is the small batch of the tests") {
  const json file = golden("planner_lm.json");
  const testing::small_batch batch;
  CHECK(file["tokens"] == batch.tokens);
  CHECK(file["targets"] == batch.targets);
  CHECK(file["sentence"] == batch.sentence);
  CHECK(file["sequence_offsets"] == json({0, 7, 11}));
  CHECK(file["context_offsets"] == json({0, 1, 4, 6, 10}));
  CHECK(file["sizes"]["vocabulary"] == testing::small_batch::vocabulary);
}

TEMPLATE_TEST_CASE("logits, loss and every gradient of the planner-conditioned model equal PyTorch's", "", float, double) {
  const json file = golden("planner_lm.json");
  const testing::small_batch batch;
  using B = cpu<TestType>;
  golden_run<TestType, mixture> ours(batch, file, mixture{file["sizes"]["mixing_temperature"]});
  const auto out = ours.run();
  constexpr double close = tolerance<TestType>;
  CHECK(distance(out.planner_logits, numbers(file["planner_logits"])) < close);
  CHECK(distance(std::vector<double>{out.loss}, {file["loss"].get<double>()}) < close);
  {
    auto scope = ours.cx.scope();
    const auto s = ours.cx.upload(std::span<const TestType>(out.planner_logits), testing::small_batch::sentences, ours.plan.labels);
    const auto p = ours.mix.weights(ours.cx, const_tensor<B>(s)).value;
    CHECK(distance(ours.cx.read(p), numbers(file["probabilities"])) < close);
    const auto h = ours.cx.upload(std::span<const TestType>(out.hidden), 11, ours.model.lm.sizes.width);
    const auto logits = ops::matmul_nt(ours.cx, const_tensor<B>(h), const_tensor<B>(ours.theta.weights.lm.token.table));
    CHECK(distance(ours.cx.read(logits), numbers(file["logits"])) < close);
  }
  CHECK(file["gradients"].size() == ours.theta.slots().size() + ours.phi.slots().size());
  for (const auto& [name, values] : file["gradients"].items()) {
    CAPTURE(name);
    CHECK(distance(ours.gradient(name), numbers(values)) < close);
  }
}

TEMPLATE_TEST_CASE("straight-through mixing gives adapters and planner PyTorch's gradients", "", float, double) {
  const json model = golden("planner_lm.json"), file = golden("planner_lm_straight_through.json");
  const testing::small_batch batch;
  golden_run<TestType, straight_through> ours(batch, model, straight_through{model["sizes"]["mixing_temperature"]});
  const auto out = ours.run();
  constexpr double close = tolerance<TestType>;
  CHECK(distance(std::vector<double>{out.loss}, {file["loss"].get<double>()}) < close);
  CHECK(distance(out.planner_logits, numbers(file["planner_logits"])) < close);
  CHECK(file["gradients"].size() > ours.phi.slots().size());
  for (const auto& [name, values] : file["gradients"].items()) {
    CAPTURE(name);
    CHECK(distance(ours.gradient(name), numbers(values)) < close);
  }
}

TEMPLATE_TEST_CASE("ten joint steps of AdamW with clipping give PyTorch's losses", "", float, double) {
  const json file = golden("planner_lm.json");
  const json& t = file["training"];
  const testing::small_batch batch;
  using B = cpu<TestType>;
  golden_run<TestType, mixture> ours(batch, file, mixture{file["sizes"]["mixing_temperature"]});
  context<B>& cx = ours.cx;
  const adamw_options options{t["beta1"], t["beta2"], t["epsilon"], t["weight_decay"]};
  adamw<B> of_model(cx, ours.theta.flat_weights().size(), options), of_planner(cx, ours.phi.flat_weights().size(), options);
  std::vector<double> losses, norms;
  for (int step = 0; step < t["steps"]; ++step) {
    losses.push_back(ours.run().loss);
    auto scope = cx.scope();
    auto clip = clip_global_norm(cx, t["clip_norm"].get<double>(), ours.theta.flat_grads(), ours.phi.flat_grads());
    norms.push_back(read_norm(cx, clip));
    if (std::is_same_v<TestType, double>) {
      // PyTorch divides by norm + 1e-6: with our exact factor the losses agree to some 1e-8 only.
      const std::vector<TestType> factor{static_cast<TestType>(std::min(1.0, t["clip_norm"].get<double>() / (norms.back() + 1e-6)))};
      clip.factor = cx.upload(factor);
    }
    of_model.step(cx, ours.theta.flat_weights(), ours.theta.flat_grads(), t["learning_rate"], clip.factor);
    of_planner.step(cx, ours.phi.flat_weights(), ours.phi.flat_grads(), t["learning_rate"], clip.factor);
  }
  const std::vector<double> expected = numbers(t["losses_float64"]), expected_norms = numbers(t["gradient_norms_float64"]);
  REQUIRE(losses.size() == expected.size());
  for (std::size_t k = 0; k < losses.size(); ++k) {
    CAPTURE(k);
    CHECK(distance(std::vector<double>{losses[k]}, {expected[k]}) < tolerance<TestType>);
    CHECK(distance(std::vector<double>{norms[k]}, {expected_norms[k]}) < tolerance<TestType>);
  }
}
