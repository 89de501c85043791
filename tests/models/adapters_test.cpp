// What planner_lm does with its adapters: tables of their own or one for all, and every gate at every placement inside the blocks.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>
#include <planlm/models/planner_lm.hpp>
#include <planlm/planning/context_gate.hpp>

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
using testing::with_shared_table;
using values = std::vector<double>;

namespace {

constexpr index_t labels = 7, label_width = 5, width = 6;
constexpr lm_sizes sizes(index_t layers = 3) { return {small_batch::vocabulary, small_batch::longest, width, 3, layers}; }
planner<B> small_planner() { return {6, labels, 2, 9, 1}; }

using own_tables = planner_lm<B, at_attention_output, label_adapter<B, random_gate<B>>>;
using shared = with_shared_table<planner_lm<B, at_attention_output, plan_adapter<B, random_gate<B>>>>;
shared shared_model(index_t layers = 3, index_t first = 1) {
  return {{sizes(layers), {label_width, width}, first}, {labels, label_width}};
}
bool all_zero(const values& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return x == 0; });
}
template <class Run>
values gradient(Run& run, const std::string& name) {
  return run.theta.read_gradient(run.cx, run.theta.find(name));
}

template <class Placement, class Gate, class Kept = keep_activations>
void check_gate(Gate gate) {
  using adapter = label_adapter<B, Gate>;
  using model = planner_lm<B, Placement, adapter, learned_positions<B>, no_rotation, Kept>;
  const small_batch batch;
  for (const auto& [layers, first] : {std::pair<index_t, index_t>{1, 0}, {3, 1}}) {
    CAPTURE(layers, first);
    joint<model> run(batch, model(sizes(layers), adapter{labels, label_width, width, gate}, first), small_planner(), mixture{0.7});
    CHECK(run.gradient_error() < 1e-7);
  }
}

}  // namespace

TEST_CASE("layers that share a table pass the gradient check together with the planner") {
  const small_batch batch;
  for (const auto& [layers, first] : {std::pair<index_t, index_t>{1, 0}, {2, 1}, {3, 0}}) {
    CAPTURE(layers, first);
    CHECK(joint<shared>(batch, shared_model(layers, first), small_planner(), mixture{0.7}).gradient_error() < 1e-7);
  }
  CHECK(joint<shared, hard>(batch, shared_model(), small_planner()).gradient_error() < 1e-7);
  CHECK(joint<shared, gumbel_softmax>(batch, shared_model(), small_planner(), gumbel_softmax{0.7, 0.5}).gradient_error() < 1e-7);
}

TEST_CASE("a table that layers share does what copies of it do in every layer, and its gradient is the sum of theirs") {
  const small_batch batch;
  joint<own_tables> copies(batch, own_tables(sizes(), labels, label_width, 1), small_planner(), mixture{0.7});
  joint<shared> one(batch, shared_model(), small_planner(), mixture{0.7});
  const values table = normal_values(labels * label_width, 41);
  for (const char* name : {"adapters.0.table", "adapters.1.table"}) copies.theta.write(copies.cx, copies.theta.find(name), table);
  for (const parameter_slot& slot : one.theta.slots()) {
    const bool own = slot.spec.name != "labels.table";
    one.theta.write(one.cx, one.theta.find(slot.spec.name),
                    own ? copies.theta.read(copies.cx, copies.theta.find(slot.spec.name)) : table);
  }
  const auto a = copies.run(), b = one.run();
  CHECK(largest_error(b.hidden, a.hidden) < 1e-14);
  CHECK(b.loss == Approx(a.loss).epsilon(1e-14));
  CHECK(largest_error(b.dz, a.dz) < 1e-15);
  CHECK_FALSE(all_zero(b.dz));
  values sum = gradient(copies, "adapters.0.table");
  const values second = gradient(copies, "adapters.1.table");
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += second[i];
  CHECK(largest_error(gradient(one, "labels.table"), sum) < 1e-15);
  for (const parameter_slot& slot : one.theta.slots()) {
    CAPTURE(slot.spec.name);
    if (slot.spec.name == "labels.table") continue;
    CHECK(largest_error(gradient(one, slot.spec.name), gradient(copies, slot.spec.name)) < 1e-14);
  }
}

TEST_CASE("fact 9: permuting labels in the shared table and in the planner's head changes nothing") {
  const small_batch batch;
  joint<shared> run(batch, shared_model(), small_planner(), mixture{0.7});
  const auto before = run.run();
  const std::vector<std::size_t> to{3, 0, 6, 1, 5, 2, 4};
  const auto permuted = [&](const values& rows) {
    values moved(rows.size());
    const std::size_t cols = rows.size() / labels;
    for (std::size_t k = 0; k < labels; ++k)
      for (std::size_t i = 0; i < cols; ++i) moved[cols * to[k] + i] = rows[cols * k + i];
    return moved;
  };
  const values table = permuted(gradient(run, "labels.table")), w = gradient(run, "adapters.1.w");
  const auto move = [&](auto& store, const char* name) {
    store.write(run.cx, store.find(name), permuted(store.read(run.cx, store.find(name))));
  };
  move(run.theta, "labels.table"), move(run.phi, "head.w"), move(run.phi, "head.b");
  run.zero_grads();
  const auto after = run.run();
  CHECK(after.loss == Approx(before.loss).epsilon(1e-14));
  CHECK(largest_error(after.hidden, before.hidden) < 1e-13);
  CHECK(largest_error(gradient(run, "labels.table"), table) < 1e-13);
  CHECK(largest_error(gradient(run, "adapters.1.w"), w) < 1e-13);
}

TEST_CASE("fact 10: a shared table of equal rows, or gates at zero, give the planner no gradient") {
  const small_batch batch;
  joint<shared> flat(batch, shared_model(), small_planner());
  values table = flat.theta.read(flat.cx, flat.theta.find("labels.table"));
  for (std::size_t i = label_width; i < table.size(); ++i) table[i] = table[i % label_width];
  flat.theta.write(flat.cx, flat.theta.find("labels.table"), table);
  const auto out = flat.run();
  CHECK(largest_error(out.dz, values(out.dz.size())) < 1e-16);
  CHECK(flat.loss_at(normal_values(4 * labels, 5)) == Approx(out.loss).epsilon(1e-14));

  joint<shared> gated(batch, shared_model(), small_planner());
  for (const char* name : {"adapters.0.gate", "adapters.1.gate"}) gated.theta.write(gated.cx, gated.theta.find(name), values(width));
  const auto shut = gated.run();
  CHECK(all_zero(shut.dz));
  CHECK(all_zero(gradient(gated, "labels.table")));
  CHECK_FALSE(all_zero(gradient(gated, "adapters.0.gate")));
  CHECK(gated.loss_at(normal_values(4 * labels, 5)) == shut.loss);
}

TEST_CASE("fact 26: under the uniform policy a planner before a shared table receives nothing and can be anything") {
  const small_batch batch;
  joint<shared, uniform> run(batch, shared_model(), small_planner());
  const auto out = run.run();
  CHECK(out.dz.empty());
  CHECK(all_zero(testing::read_all(run.cx, run.phi, true)));
  CHECK_FALSE(all_zero(gradient(run, "labels.table")));
  CHECK(run.loss_at(normal_values(4 * labels, 5, 10)) == out.loss);
}

TEST_CASE("one instantiation serves every gate: ones without a gradient have the bits of a model without gates") {
  using plain_model = planner_lm<B>;
  using gated_model = planner_lm<B, at_attention_output, label_adapter<B, learned_gate<B>>>;
  const small_batch batch;
  joint<plain_model> plain(batch, {sizes(), labels, label_width, 1}, small_planner());
  joint<gated_model> gated(batch, {sizes(), {labels, label_width, width, {width, initial::ones}}, 1}, small_planner());
  for (const parameter_slot& slot : gated.theta.slots()) {
    const bool gate = slot.spec.name.ends_with("gate");
    gated.theta.write(gated.cx, gated.theta.find(slot.spec.name),
                      gate ? values(width, 1.0) : plain.theta.read(plain.cx, plain.theta.find(slot.spec.name)));
  }
  const auto a = plain.run();
  auto g = gated.theta.grads;
  for (auto& adapter : g.adapters) adapter.gate.gate = {};
  const auto b = gated.run(g, gated.phi.grads);
  CHECK(a.loss == b.loss);
  CHECK(same_bits(a.hidden, b.hidden));
  CHECK(same_bits(a.dz, b.dz));
  for (const parameter_slot& slot : plain.theta.slots()) {
    CAPTURE(slot.spec.name);
    CHECK(same_bits(gradient(plain, slot.spec.name), gradient(gated, slot.spec.name)));
  }
}

TEST_CASE("the model passes the gradient check under gates that start at random and under gates that look at the context") {
  check_gate<at_attention_output>(random_gate<B>{width});
  check_gate<at_feed_forward_input>(random_gate<B>{width});
  check_gate<at_attention_output>(context_gate<B>{width});
  check_gate<at_feed_forward_input>(context_gate<B>{width});
  check_gate<at_attention_output>(context_gate<B>{width, true});
  check_gate<at_feed_forward_input, context_gate<B>, keep_inputs>(context_gate<B>{width, true});
}

TEST_CASE("fact 20: under a gate that looks at the context, what is predicted at t does not see x at t + 1 or later") {
  using adapter = label_adapter<B, context_gate<B>>;
  using model = planner_lm<B, at_feed_forward_input, adapter>;
  const small_batch batch;
  joint<model> run(batch, {sizes(), adapter{labels, label_width, width}, 1}, small_planner());
  const values z = normal_values(4 * labels, 3);
  const auto hidden = [&](const std::vector<int>& tokens) {
    auto scope = run.cx.scope();
    planned_rows<B> rows = batch.view<B>();
    rows.tokens = small_batch::as_indices<B>(tokens);
    return run.cx.read(const_tensor<B>(run.model(run.cx, run.theta.weights, rows, const_tensor<B>(z.data(), 4, labels), mixture{}).value));
  };
  const values before = hidden(batch.tokens);
  for (std::size_t changed = 0; changed < 11; ++changed) {
    std::vector<int> tokens = batch.tokens;
    tokens[changed] = (tokens[changed] + 1) % 23;
    const values after = hidden(tokens);
    for (std::size_t t = 0; t < 11; ++t) {
      CAPTURE(changed, t);
      const auto at = std::ptrdiff_t(width * t);
      const bool same = std::equal(before.begin() + at, before.begin() + at + width, after.begin() + at);
      CHECK(same == (t < changed || (t < 7) != (changed < 7)));
    }
  }
}

TEST_CASE("adapters that are not wanted at all cost the planner nothing: an empty list of gradients is frozen adapters") {
  const small_batch batch;
  joint<own_tables> run(batch, own_tables(sizes(), labels, label_width, 1), small_planner());
  const auto whole = run.run();
  run.zero_grads();
  auto g = run.theta.grads;
  g.adapters = {};
  const auto out = run.run(g, run.phi.grads);
  CHECK(same_bits(out.dz, whole.dz));
  CHECK(all_zero(gradient(run, "adapters.0.table")));
  CHECK_FALSE(all_zero(gradient(run, "lm.token.table")));
}

TEST_CASE("the adapter's input and width must fit") {
  using plain = planner_lm<B, at_attention_output, plan_adapter<B>>;
  CHECK_THROWS_WITH(plain(sizes(), {label_width, 2 * width}), "planner_lm: the adapter is 12 wide, the language model 6");
  CHECK_THROWS_WITH(plain(sizes(), {label_width, width}, 3),
                    "planner_lm: the first adapted block is 3, expected one of the 3 blocks, numbered from 0");
  const small_batch batch;
  joint<shared> run(batch, shared_model(), small_planner());
  const values c = normal_values(4 * labels, 3);
  CHECK_THROWS_WITH(run.model.model(run.cx, run.theta.weights, batch.view<B>(), const_tensor<B>(c.data(), 4, labels)),
                    "planner_lm: the adapters' input is (4, 7), expected (4 sentences, 5 columns)");
}
