// Plans that enter before the first block: added to the embeddings, or on rows of their own.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>
#include <planlm/models/planner_lm.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/plan_rows.hpp>

#include "../catch.hpp"
#include "joint.hpp"
#include "shared_table.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::joint;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using testing::small_batch;
using values = std::vector<double>;

namespace {

constexpr index_t labels = 7, label_width = 5, width = 6, longest = 20;
constexpr lm_sizes sizes(index_t layers = 2) { return {small_batch::vocabulary, longest, width, 3, layers}; }
planner<B> small_planner() { return {6, labels, 2, 9, 1}; }
bool all_zero(const values& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return x == 0; });
}

template <class Gate = no_gate<B>, class Kept = keep_activations, class Code = learned_positions<B>, class Rotation = no_rotation>
using embedded = planner_lm<B, at_embedding, label_adapter<B, Gate>, Code, Rotation, Kept>;

/// The small batch with rows for plans in it.
struct batch_with_plans {
  small_batch without;
  rows_with_plans rows;
  std::vector<int> targets;
  testing::packed chunks, contexts{1, 3, 2, 4};
  batch_with_plans(bool inserted, int per_plan)
      : rows(inserted ? insert_plan_rows(of(without), per_plan) : prefix_plan_rows(of(without), per_plan)), targets(rows.targets),
        chunks{rows.offsets[1], rows.offsets[2] - rows.offsets[1]} {}
  static host_rows of(const small_batch& b) {
    static const std::vector<int> offsets{0, 7, 11};
    return {b.tokens, b.targets, b.sentence, offsets};
  }
  template <Backend Any>
  planned_rows<Any> view() const {
    const auto ids = [](const std::vector<int>& v) { return indices<Any>(v.data(), v.size()); };
    return {ids(rows.tokens), ids(rows.targets), ids(rows.plan), chunks.view<Any>(), small_batch::sentences};
  }
};

/// Rows [t, t + 1) of a matrix `width` wide equal in both.
bool same_row(const values& a, const values& b, std::size_t t) {
  const auto at = std::ptrdiff_t(width * t);
  return std::equal(a.begin() + at, a.begin() + at + width, b.begin() + at);
}
template <class Run>
values hidden_at(Run& run, const planned_rows<B>& rows, const values& z) {
  auto scope = run.cx.scope();
  return run.cx.read(
      const_tensor<B>(run.model(run.cx, run.theta.weights, rows, const_tensor<B>(z.data(), 4, labels), mixture{}).value));
}

}  // namespace

TEST_CASE("a plan at the embedding passes the gradient check under every gate") {
  const small_batch batch;
  const auto check = [&](const auto& model) {
    using model_type = std::decay_t<decltype(model)>;
    CHECK(joint<model_type>(batch, model, small_planner(), mixture{0.7}).gradient_error() < 1e-7);
  };
  check(embedded<>(sizes(1), labels, label_width, 0));
  check(embedded<>(sizes(), labels, label_width, 0));
  check(embedded<random_gate<B>, keep_inputs>(sizes(), labels, label_width, 0));
  check(embedded<context_gate<B>>(sizes(), labels, label_width, 0));
  check(embedded<context_gate<B>, keep_activations, no_positions<B>, rotary>(sizes(), {labels, label_width, width, {width, true}}));
}

TEST_CASE("plans on rows of their own pass the gradient check, inserted and as a prefix, one row and several, with one table for all") {
  for (const bool inserted : {true, false})
    for (const int per_plan : {1, 2}) {
      CAPTURE(inserted, per_plan);
      const batch_with_plans batch(inserted, per_plan);
      joint<embedded<learned_gate<B>>, mixture, batch_with_plans> run(
          batch, {sizes(), {labels, label_width, per_plan * width, {per_plan * width, initial::ones}}}, small_planner(), mixture{0.7});
      CHECK(run.gradient_error() < 1e-7);
    }
  using shared = testing::with_shared_table<planner_lm<B, at_embedding, plan_adapter<B>>>;
  const batch_with_plans batch(true, 1);
  CHECK(joint<shared, mixture, batch_with_plans>(batch, {{sizes(), {label_width, width}}, {labels, label_width}}, small_planner())
            .gradient_error() < 1e-7);
}

TEST_CASE("fact 11 at the embedding: one fixed label equals a constant added to the embedding of every position") {
  const small_batch batch;
  const int k = 4;
  joint<embedded<>, fixed> run(batch, embedded<>(sizes(), labels, label_width, 0), small_planner(), fixed{k});
  const auto out = run.run();
  parameters<transformer_lm<B>> plain(run.cx, run.model.lm, philox{1});
  for (std::size_t n = 0; n < plain.slots().size(); ++n)
    plain.write(run.cx, n, run.theta.read(run.cx, run.theta.find("lm." + plain.slots()[n].spec.name)));
  const values table = run.theta.read(run.cx, run.theta.find("adapters.0.table")), w = run.theta.read(run.cx, run.theta.find("adapters.0.w"));
  values u = run.theta.read(run.cx, run.theta.find("adapters.0.b")), positions = plain.read(run.cx, plain.find("position.table"));
  for (std::size_t d = 0; d < width; ++d)
    for (std::size_t i = 0; i < label_width; ++i) u[d] += w[label_width * d + i] * table[label_width * k + i];
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] += u[i % width];
  plain.write(run.cx, plain.find("position.table"), positions);
  const auto h = run.model.lm(run.cx, plain.weights, small_batch::as_indices<B>(batch.tokens), batch.chunks.view<B>()).value;
  CHECK(largest_error(run.cx.read(const_tensor<B>(h)), out.hidden) < 1e-13);
  CHECK(all_zero(testing::read_all(run.cx, run.phi, true)));
}

TEST_CASE("facts 9, 10 and 26 at the embedding") {
  const small_batch batch;
  joint<embedded<zero_gate<B>>> gated(batch, embedded<zero_gate<B>>(sizes(), labels, label_width, 0), small_planner());
  gated.theta.write(gated.cx, gated.theta.find("adapters.0.gate"), values(width));
  const auto shut = gated.run();
  CHECK(all_zero(shut.dz));
  CHECK(all_zero(gated.theta.read_gradient(gated.cx, gated.theta.find("adapters.0.table"))));
  CHECK_FALSE(all_zero(gated.theta.read_gradient(gated.cx, gated.theta.find("adapters.0.gate"))));

  joint<embedded<>, uniform> even(batch, embedded<>(sizes(), labels, label_width, 0), small_planner());
  const auto out = even.run();
  CHECK(all_zero(testing::read_all(even.cx, even.phi, true)));
  CHECK(even.loss_at(normal_values(4 * labels, 5, 10)) == out.loss);

  joint<embedded<>> run(batch, embedded<>(sizes(), labels, label_width, 0), small_planner(), mixture{0.7});
  const double before = run.run().loss;
  const auto turn = [&](auto& store, const char* name) {  // label k becomes label k - 1
    values rows = store.read(run.cx, store.find(name));
    std::rotate(rows.begin(), rows.begin() + std::ptrdiff_t(rows.size() / labels), rows.end());
    store.write(run.cx, store.find(name), rows);
  };
  turn(run.theta, "adapters.0.table"), turn(run.phi, "head.w"), turn(run.phi, "head.b");
  CHECK(run.run().loss == Approx(before).epsilon(1e-14));
}

TEST_CASE("a prefix of length zero equals the base language model: values and gradients, bit for bit") {
  for (const bool inserted : {true, false}) {
    const batch_with_plans batch(inserted, 0);
    joint<embedded<>, mixture, batch_with_plans> run(batch, embedded<>(sizes(), labels, label_width, 0), small_planner());
    const auto out = run.run();
    context<B>& cx = run.cx;
    const transformer_lm<B>& lm = run.model.lm;
    parameters<transformer_lm<B>> base(cx, lm, philox{1});
    for (std::size_t n = 0; n < base.slots().size(); ++n)
      base.write(cx, n, run.theta.read(cx, run.theta.find("lm." + base.slots()[n].spec.name)));
    const small_batch& rows = batch.without;
    auto [h, pullback] = lm(cx, base.weights, small_batch::as_indices<B>(rows.tokens), rows.chunks.view<B>());
    const auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(base.weights.token.table),
                                                small_batch::as_indices<B>(rows.targets), const_tensor<B, 1>{}, 1.0 / 11,
                                                base.grads.token.table);
    pullback(loss.dhidden, base.grads);
    CHECK(same_bits(out.hidden, cx.read(const_tensor<B>(h))));
    CHECK(out.loss == cx.read_one(loss.total));
    for (std::size_t n = 0; n < base.slots().size(); ++n) {
      CAPTURE(base.slots()[n].spec.name);
      CHECK(same_bits(base.read_gradient(cx, n), run.theta.read_gradient(cx, run.theta.find("lm." + base.slots()[n].spec.name))));
    }
    CHECK(all_zero(out.dz));
    CHECK(all_zero(run.theta.read_gradient(cx, run.theta.find("adapters.0.table"))));
  }
}

TEST_CASE("a row of a plan is what stands at its place: a prefix equals a language model that has the plan among its tokens") {
  const batch_with_plans batch(false, 1);
  joint<embedded<>, fixed, batch_with_plans> run(batch, embedded<>(sizes(), labels, label_width, 0), small_planner(), fixed{2});
  const auto out = run.run();
  context<B>& cx = run.cx;
  parameters<transformer_lm<B>> base(cx, run.model.lm, philox{1});
  for (std::size_t n = 0; n < base.slots().size(); ++n)
    base.write(cx, n, run.theta.read(cx, run.theta.find("lm." + base.slots()[n].spec.name)));
  // Token 2 occurs nowhere in the batch: its embedding becomes the plan of label 2.
  const values table = run.theta.read(cx, run.theta.find("adapters.0.table")), w = run.theta.read(cx, run.theta.find("adapters.0.w"));
  const values b = run.theta.read(cx, run.theta.find("adapters.0.b"));
  values token = base.read(cx, base.find("token.table"));
  for (std::size_t d = 0; d < width; ++d) {
    token[2 * width + d] = b[d];
    for (std::size_t i = 0; i < label_width; ++i) token[2 * width + d] += w[label_width * d + i] * table[label_width * 2 + i];
  }
  base.write(cx, base.find("token.table"), token);
  std::vector<int> tokens = batch.rows.tokens;
  std::replace(tokens.begin(), tokens.end(), -1, 2);
  const auto h = run.model.lm(cx, base.weights, small_batch::as_indices<B>(tokens), batch.chunks.view<B>()).value;
  CHECK(largest_error(out.hidden, cx.read(const_tensor<B>(h))) < 1e-13);
}

TEST_CASE("fact 20: inserted rows leak nothing, neither a later token nor the plan of a later sentence") {
  for (const int per_plan : {1, 2}) {
    const batch_with_plans batch(true, per_plan);
    joint<embedded<>, mixture, batch_with_plans> run(
        batch, {sizes(), {labels, label_width, per_plan * width}}, small_planner());
    const rows_with_plans& rows = batch.rows;
    const std::size_t n = rows.tokens.size(), second = static_cast<std::size_t>(rows.offsets[1]);
    const values z = normal_values(4 * labels, 3), before = hidden_at(run, batch.view<B>(), z);
    const auto reached = [&](std::size_t from, std::size_t t) { return t >= from && (t < second) == (from < second); };
    for (std::size_t changed = 0; changed < n; ++changed) {
      if (rows.tokens[changed] < 0) continue;
      std::vector<int> tokens = rows.tokens;
      tokens[changed] = (tokens[changed] + 1) % 23;
      auto view = batch.view<B>();
      view.tokens = small_batch::as_indices<B>(tokens);
      const values after = hidden_at(run, view, z);
      for (std::size_t t = 0; t < n; ++t) {
        CAPTURE(per_plan, changed, t);
        CHECK(same_row(before, after, t) == !reached(changed, t));
      }
    }
    for (std::size_t s = 0; s < 4; ++s) {
      values other = z;
      other[labels * s] += 1;
      const values after = hidden_at(run, batch.view<B>(), other);
      for (std::size_t t = 0; t < n; ++t) {
        bool seen = false;  // a row of the plan of s at or before t, in t's chunk
        for (std::size_t r = 0; r <= t; ++r) seen = seen || (rows.plan[r] >= 0 && rows.plan[r] / per_plan == int(s) && reached(r, t));
        CAPTURE(per_plan, s, t);
        CHECK(same_row(before, after, t) == !seen);
      }
    }
  }
}

TEST_CASE("the row that predicts the first token of a sentence sees the sentence's plan") {
  const batch_with_plans batch(true, 1);
  joint<embedded<>, mixture, batch_with_plans> run(batch, embedded<>(sizes(), labels, label_width, 0), small_planner());
  const values z = normal_values(4 * labels, 3), before = hidden_at(run, batch.view<B>(), z);
  const std::vector<int>& sentence = batch.without.sentence;
  for (std::size_t t = 0; t < batch.rows.tokens.size(); ++t) {
    const int row = batch.rows.row[t];
    if (row < 0) continue;
    values other = z;
    other[static_cast<std::size_t>(sentence[static_cast<std::size_t>(row)]) * labels] += 1;
    CHECK_FALSE(same_row(before, hidden_at(run, batch.view<B>(), other), t));
  }
}

TEST_CASE("a frozen language model leaves adapter and planner their gradients bit for bit at the embedding too") {
  const small_batch batch;
  joint<embedded<>> run(batch, embedded<>(sizes(), labels, label_width, 0), small_planner());
  const auto whole = run.run();
  const values adapter = run.theta.read_gradient(run.cx, run.theta.find("adapters.0.w"));
  run.zero_grads();
  auto adapters_only = run.theta.grads;
  adapters_only.lm = {};
  run.frozen = true;
  const auto out = run.run(adapters_only, run.phi.grads);
  CHECK(out.loss == whole.loss);
  CHECK(same_bits(out.dz, whole.dz));
  CHECK(same_bits(run.theta.read_gradient(run.cx, run.theta.find("adapters.0.w")), adapter));
  CHECK(all_zero(run.theta.read_gradient(run.cx, run.theta.find("lm.token.table"))));
}

TEST_CASE("chunks that grow beyond the model's positions, and adapters of odd widths, are refused") {
  const batch_with_plans batch(true, 1);
  const lm_sizes few{small_batch::vocabulary, 9, width, 3, 1};  // the first chunk has 7 rows and 3 plans
  joint<embedded<>, mixture, batch_with_plans> run(batch, embedded<>(few, labels, label_width, 0), small_planner());
  CHECK_THROWS_WITH(run.run(), "learned_positions: sequence 0 has 10 rows, the table has 9 positions");
  CHECK_THROWS_WITH((embedded<>(sizes(), {labels, label_width, 2 * width + 1})),
                    "planner_lm: the adapter is 13 wide, the language model 6; a multiple is expected, one width for each row of a plan");
  CHECK_THROWS_WITH((embedded<context_gate<B>>(sizes(), {labels, label_width, 2 * width})),
                    "planner_lm: the adapter is 12 wide, the language model 6");
}
