#include <planlm/training/low_rank.hpp>

#include <numeric>
#include <planlm/layers/lora.hpp>
#include <planlm/models/planner_lm.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/look_ahead.hpp>
#include <planlm/testing/gradient_check.hpp>
#include <planlm/training/adamw.hpp>

#include "../backend/bfloat16_backend.hpp"
#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using testing::normal_values;
using testing::perturbed;
using testing::same_bits;

namespace {

using B = cpu<double>;

template <class M>
std::vector<std::string> adapted_names(const low_rank<M>& factors) {
  std::vector<std::string> names;
  for (const auto& m : factors.matrices()) names.push_back(m.spec.name);
  return names;
}
template <class Store, class Context>
auto all_weights(Context& cx, const Store& store) {
  using backend = typename Store::backend;
  return cx.read(const_accum_tensor<backend>(store.flat_weights()));
}
/// A small language model and two sequences of tokens.
struct small_lm {
  transformer_lm<B> model{{11, 8, 12, 2, 2}};
  std::vector<int> tokens{3, 9, 0, 10, 4, 4, 7, 1}, targets{9, 0, 10, 4, 4, 7, 1, 2};
  testing::packed rows{5, 3};
};

}  // namespace

TEST_CASE("factors are those of the matrices a filter takes, by default all but embeddings") {
  const transformer_lm<B> model{{11, 8, 12, 2, 1}};
  CHECK(adapted_names(low_rank{model, {.rank = 2}}) ==
        std::vector<std::string>{"blocks.0.attention.qkv.w", "blocks.0.attention.out.w", "blocks.0.mlp.up.w",
                                 "blocks.0.mlp.down.w"});
  const auto queries = [](const parameter_spec& spec) { return spec.name.ends_with("qkv.w"); };
  const low_rank some{model, {.rank = 3}, queries};
  CHECK(adapted_names(some) == std::vector<std::string>{"blocks.0.attention.qkv.w"});
  context<B> cx;
  parameters theta(cx, some, philox{1});
  REQUIRE(theta.slots().size() == 2);
  CHECK(theta.slots()[0].spec.name == "blocks.0.attention.qkv.w.a");
  CHECK(theta.slots()[1].spec.name == "blocks.0.attention.qkv.w.b");
  CHECK(theta.count() == 3 * 12 + 36 * 3);
  const auto vectors = [](const parameter_spec& spec) { return spec.rank == 1; };
  CHECK_THROWS_WITH((low_rank{model, {.rank = 3}, vectors}),
                    "low_rank: the filter takes none of the model's 16 parameters");
}

TEST_CASE("a rank that a matrix cannot have is refused by the name of the matrix") {
  const transformer_lm<B> model{{11, 8, 12, 2, 1}};
  CHECK_THROWS_WITH((low_rank{model, {.rank = 13}}),
                    "low_rank: rank 13 for 'blocks.0.attention.qkv.w', which is (36, 12); expected 1 to 12");
  CHECK_THROWS_AS((low_rank{model, {.rank = 0}}), planlm::error);
  CHECK_NOTHROW(low_rank{model, {.rank = 12}});
}

TEST_CASE("factors at their start leave the weights bit for bit as they are") {
  const small_lm t;
  context<B> cx;
  const low_rank rule{t.model, {.rank = 3}};
  auto base = perturbed(cx, t.model);
  parameters theta(cx, rule, philox{5});
  parameters working(cx, t.model, philox{6});
  working.copy_weights(cx, base);
  rule.merge(cx, base, theta, working);
  CHECK(same_bits(all_weights(cx, working), all_weights(cx, base)));
}

TEST_CASE("merged weights give layers/lora.hpp's output, and the gradients of its factors") {
  const linear<B> base_layer{7, 5};
  const index_t rank = 3, rows = 9;
  const double alpha = 8;
  const lora<B> layer{base_layer, rank, alpha};
  context<B> cx;
  auto expected = perturbed(cx, layer);
  const auto outcome = testing::run_layer(cx, layer, expected, expected.grads, rows, 7, 0.0);

  const low_rank rule{base_layer, {rank, alpha}};
  parameters base(cx, base_layer, philox{1}), working(cx, base_layer, philox{2});
  parameters theta(cx, rule, philox{3});
  for (const char* name : {"w", "b"})
    base.write(cx, base.find(name), expected.read(cx, expected.find(std::string("base.") + name)));
  for (const char* name : {"a", "b"})
    theta.write(cx, theta.find(std::string("w.") + name), expected.read(cx, expected.find(name)));
  working.copy_weights(cx, base);
  rule.merge(cx, base, theta, working);
  const auto merged =
      testing::run_layer(cx, base_layer, working, rule.wanted(base_layer, working), rows, 7, 0.0);
  CHECK(testing::largest_error(merged.y, outcome.y) < 1e-13);
  CHECK(testing::largest_error(merged.dx, outcome.dx) < 1e-13);
  rule.pull(cx, working, theta);
  CHECK(testing::relative_error(theta.read_gradient(cx, 0), outcome.gradients[expected.find("a")]) < 1e-13);
  CHECK(testing::relative_error(theta.read_gradient(cx, 1), outcome.gradients[expected.find("b")]) < 1e-13);
  // What has been pulled is gone, what was not wanted never came.
  for (std::size_t n = 0; n < 2; ++n)
    for (const double g : working.read_gradient(cx, n)) CHECK(g == 0);
  // Pulled gradients add up.
  const auto once = theta.read_gradient(cx, 0);
  testing::run_layer(cx, base_layer, working, rule.wanted(base_layer, working), rows, 7, 0.0);
  rule.pull(cx, working, theta);
  const auto twice = theta.read_gradient(cx, 0);
  for (std::size_t i = 0; i < once.size(); ++i) CHECK(twice[i] == 2 * once[i]);
}

TEST_CASE("gradients of factors through a language model pass the check by differences") {
  const small_lm t;
  context<B> cx;
  const low_rank rule{t.model, {.rank = 2, .alpha = 4}};
  auto base = perturbed(cx, t.model);
  parameters theta = perturbed(cx, rule);
  parameters working(cx, t.model, philox{1});
  working.copy_weights(cx, base);
  const auto seq = t.rows.view<B>();
  const indices<B> tokens(t.tokens.data(), t.tokens.size()), targets(t.targets.data(), t.targets.size());
  const auto load = [&](const std::vector<double>& v) {
    write_weights<B>(cx, theta.flat_weights(), v);
    rule.merge(cx, base, theta, working);
  };
  const auto loss = [&](const std::vector<double>& v) {
    auto scope = cx.scope();
    load(v);
    auto [h, pullback] = t.model(cx, working.weights, tokens, seq);
    const auto y = cx.read(const_tensor<B>(h));
    const auto weight = normal_values(static_cast<index_t>(y.size()), 9);
    return std::inner_product(y.begin(), y.end(), weight.begin(), 0.0);
  };
  const auto gradient = [&](const std::vector<double>& v) {
    auto scope = cx.scope();
    load(v);
    theta.zero_grads(cx);
    auto [h, pullback] = t.model(cx, working.weights, tokens, seq);
    const auto dh = normal_values(h.size(), 9);
    pullback(cx.upload(std::span<const double>(dh), h.rows(), h.cols()), rule.wanted(t.model, working));
    rule.pull(cx, working, theta);
    return cx.read(theta.flat_grads());
  };
  CHECK(testing::directional_error(all_weights(cx, theta), loss, gradient) < 1e-7);
}

TEST_CASE("where weights are stored in bfloat16, merging starts from all digits and writes both copies") {
  using H = testing::bfloat16_backend;
  const linear<H> layer{6, 4};
  context<H> cx;
  const low_rank rule{layer, {.rank = 2, .alpha = 2}};
  parameters base(cx, layer, philox{1}), working(cx, layer, philox{2});
  parameters theta(cx, rule, philox{3});
  const auto w = normal_values<float>(24, 4), a = normal_values<float>(12, 5),
             b = normal_values<float>(8, 6, 1e-3);
  base.write(cx, base.find("w"), w);
  theta.write(cx, theta.find("w.a"), a);
  theta.write(cx, theta.find("w.b"), b);
  working.copy_weights(cx, base);
  rule.merge(cx, base, theta, working);
  const auto merged = working.read(cx, working.find("w"));
  const auto rounded = cx.read(const_tensor<H>(working.weights.w));
  bool differs_from_rounded = false;
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t c = 0; c < 6; ++c) {
      const double exact =
          double(w[r * 6 + c]) + double(b[r * 2]) * double(a[c]) + double(b[r * 2 + 1]) * double(a[6 + c]);
      CHECK(std::abs(merged[r * 6 + c] - exact) < 1e-6);
      CHECK(float(rounded[r * 6 + c]) == float(bfloat16(merged[r * 6 + c])));
      differs_from_rounded = differs_from_rounded || merged[r * 6 + c] != float(rounded[r * 6 + c]);
    }
  CHECK(differs_from_rounded);
}

TEST_CASE("stores of another model are refused") {
  context<B> cx;
  const linear<B> layer{7, 5}, other{5, 7};
  const low_rank rule{layer, {.rank = 2}};
  parameters base(cx, layer, philox{1}), wrong(cx, other, philox{1});
  parameters theta(cx, rule, philox{2});
  CHECK_THROWS_AS(rule.merge(cx, wrong, theta, base), shape_error);
  CHECK_THROWS_AS(rule.merge(cx, base, theta, wrong), shape_error);
  parameters without(cx, layer, philox{1}, parameters<linear<B>>::gradients::none);
  CHECK_THROWS_AS(rule.pull(cx, without, theta), planlm::error);
}

TEST_CASE("stores of other factors are refused before anything is written") {
  context<B> cx;
  const transformer_lm<B> model{{11, 8, 12, 2, 1}};
  const low_rank rule{model, {.rank = 2}};
  const auto queries = [](const parameter_spec& spec) { return spec.name.ends_with("qkv.w"); };
  const auto vectors_too = [](const parameter_spec& spec) { return !spec.name.ends_with("qkv.w"); };
  parameters base(cx, model, philox{1}), working(cx, model, philox{2});
  const auto before = all_weights(cx, working);
  const auto refused = [&](const low_rank<transformer_lm<B>>& other) {
    parameters theta(cx, other, philox{3});
    CHECK_THROWS_AS(rule.merge(cx, base, theta, working), shape_error);
    CHECK_THROWS_AS(rule.pull(cx, working, theta), shape_error);
  };
  refused(low_rank{model, {.rank = 1}});
  refused(low_rank{model, {.rank = 3}});
  refused(low_rank{model, {.rank = 2}, queries});
  refused(low_rank{model, {.rank = 2}, vectors_too});  // more matrices, others
  CHECK(same_bits(all_weights(cx, working), before));
  parameters one(cx, low_rank{model, {.rank = 1}}, philox{3});
  CHECK_THROWS_WITH(rule.merge(cx, base, one, working),
                    "low_rank: a store of factors that is not of these 4 matrices at rank 2; make it from "
                    "this description or one with the same rank and filter");
}

TEST_CASE("tables of labels and gates of adapters are no projections") {
  using adapter = label_adapter<B, context_gate<B>>;
  const planner_lm<B, at_attention_output, adapter> model({11, 8, 12, 2, 2},
                                                          adapter{5, 3, 12, {12, true}}, 1);
  const auto names = adapted_names(low_rank{model, {.rank = 2}});
  CHECK(names.size() == 2 * 4 + 1);
  CHECK(names.back() == "adapters.0.w");
  const look_ahead<B> ahead{planner<B>{6, 5, 2, 10, 1}};
  for (const std::string& name : adapted_names(low_rank{ahead, {.rank = 2}})) CHECK(name != "ahead.actions");
  // What only sounds alike is one.
  CHECK(is_projection(matrix_spec("mlp.gate.w", 4, 4, initial::zeros)));
  CHECK(is_projection(matrix_spec("w", 4, 4, initial::zeros)));
  CHECK_FALSE(is_projection(matrix_spec("gate", 4, 4, initial::zeros)));
}

TEST_CASE("each policy trains what it says: nothing, factors, everything") {
  const small_lm t;
  const auto train = [&](tuning_policy how, int steps) {
    context<B> cx;
    const auto base = perturbed(cx, t.model);
    const auto before = all_weights(cx, base);
    tuned_weights lm{cx, t.model, base, how, philox{4}};
    const auto seq = t.rows.view<B>();
    const indices<B> tokens(t.tokens.data(), t.tokens.size()), targets(t.targets.data(), t.targets.size());
    std::optional<adamw<B>> optimiser;
    if (lm.trains()) optimiser.emplace(cx, lm.flat_weights().size(), adamw_options{});
    std::vector<double> losses;
    for (int s = 0; s < steps; ++s) {
      auto scope = cx.scope();
      auto g = lm.gradients();
      auto [h, pullback] = t.model(cx, lm.weights(), tokens, seq);
      auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(lm.weights().token.table),
                                            targets, {}, 1.0 / 8, g.token.table);
      double sum = 0;
      for (const double nll : cx.read(loss.nll)) sum += nll;
      losses.push_back(sum);
      if (wants_gradient(t.model, g)) pullback(const_tensor<B>(loss.dhidden), g);
      lm.pull(cx);
      if (optimiser) optimiser->step(cx, lm.flat_weights(), lm.flat_grads(), 1e-2);
      lm.merge(cx);
    }
    CHECK(same_bits(all_weights(cx, base), before));
    return std::pair{losses, lm.count()};
  };
  const auto [still, none] = train(frozen{}, 3);
  CHECK(none == 0);
  CHECK(still[2] == still[0]);
  const auto [low, some] = train(low_rank_tuning{2, 8}, 30);
  CHECK(some == 2 * 2 * ((36 + 12) + (12 + 12) + (48 + 12) + (12 + 48)));
  CHECK(low[0] == still[0]);
  CHECK(low[29] < 0.8 * low[0]);
  const auto [full, all] = train(full_tuning{}, 30);
  CHECK(all == count_parameters(t.model));
  CHECK(full[29] < 0.8 * full[0]);
}
