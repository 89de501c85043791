#include <planlm/models/planner_lm.hpp>

#include <algorithm>
#include <cmath>
#include <vector>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "joint.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::joint;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using testing::small_batch;
using values = std::vector<double>;

namespace {

constexpr index_t labels = 7, label_width = 5, width = 6;

planner<B> small_planner() { return {6, labels, 2, 9, 1}; }
template <class Model = planner_lm<B>>
Model small_model(index_t layers = 3, index_t first_adapted = 1) {
  return Model({small_batch::vocabulary, small_batch::longest, width, 3, layers}, labels, label_width, first_adapted);
}

template <class Model, class Mix = mixture>
void check_gradients(const Mix& mix = {0.7}) {
  const small_batch batch;
  for (const auto& [layers, first] : {std::pair<index_t, index_t>{1, 0}, {2, 0}, {2, 1}, {3, 1}}) {
    CAPTURE(layers, first);
    CHECK(joint<Model, Mix>(batch, small_model<Model>(layers, first), small_planner(), mix).gradient_error() < 1e-7);
  }
}
bool all_zero(const values& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return x == 0; });
}
template <class Run>
values gradients_of(Run& run) {
  values g = testing::read_all(run.cx, run.theta, true);
  for (const double v : testing::read_all(run.cx, run.phi, true)) g.push_back(v);
  return g;
}

/// Mixture that counts how often a forward pass asks for weights.
struct counting_mixture {
  int* calls;
  template <Backend Any>
  auto weights(context<Any>& cx, const_tensor<Any> z) const {
    ++*calls;
    return gumbel_softmax{}.weights(cx, z);
  }
};

}  // namespace

TEST_CASE("planner, adapters and language model pass the gradient check together, at both placements and under every gate") {
  check_gradients<planner_lm<B>>();
  check_gradients<planner_lm<B, at_attention_output, label_adapter<B, zero_gate<B>>>>();
  check_gradients<planner_lm<B, at_attention_output, label_adapter<B, one_gate<B>>>>();
  check_gradients<planner_lm<B, at_feed_forward_input>>();
  check_gradients<planner_lm<B, at_feed_forward_input, label_adapter<B, zero_gate<B>>>>();
  check_gradients<planner_lm<B, at_feed_forward_input, label_adapter<B, one_gate<B>>>>();
}

TEST_CASE("the planner-conditioned model passes the gradient check with sinusoidal and rotary positions") {
  check_gradients<planner_lm<B, at_attention_output, label_adapter<B>, sinusoidal_positions<B>>>();
  check_gradients<planner_lm<B, at_feed_forward_input, label_adapter<B>, no_positions<B>, rotary>>();
}

TEST_CASE("the planner-conditioned model passes the gradient check under every policy that has a gradient or needs none") {
  check_gradients<planner_lm<B>>(top_k{3, 0.7});
  check_gradients<planner_lm<B>>(gumbel_softmax{0.7, 0.5});
  check_gradients<planner_lm<B>>(hard{});
  check_gradients<planner_lm<B>>(uniform{});
  check_gradients<planner_lm<B>>(fixed{2});
}

TEST_CASE("the planner-conditioned model passes the gradient check at odd sizes: one label, width one") {
  const small_batch batch;
  CHECK(joint<planner_lm<B>>(batch, {{23, 7, 1, 1, 2}, 1, 1, 0}, {1, 1, 1, 1, 1}).gradient_error() < 1e-7);
  CHECK(joint<planner_lm<B>>(batch, {{41, 9, 15, 5, 2}, 33, 17, 1}, {9, 33, 3, 4, 2}).gradient_error() < 1e-7);
}

TEST_CASE("fact 1: layers and positions of a sentence sum up before the softmax Jacobian runs once") {
  const small_batch batch;
  joint<planner_lm<B>> run(batch, small_model(), small_planner(), mixture{0.7});
  const auto out = run.run();
  const auto loss = [&](const values& z) { return run.loss_at(z); };
  CHECK(testing::directional_error(out.planner_logits, loss, [&](const values&) { return out.dz; }) < 1e-8);
  for (std::size_t s = 0; s < 4; ++s) {
    double total = 0, size = 0;
    for (std::size_t k = 0; k < labels; ++k) total += out.dz[labels * s + k], size += std::abs(out.dz[labels * s + k]);
    CHECK(size > 1e-4);
    CHECK(std::abs(total) < 1e-15);
  }
}

TEST_CASE("fact 4: one-hot probabilities give the loss of the hard label and no gradient for the planner") {
  const small_batch batch;
  joint<planner_lm<B>> soft(batch, small_model(), small_planner());
  joint<planner_lm<B>, hard> chosen(batch, small_model(), small_planner());
  values z(4 * labels, -2.0);
  for (std::size_t s = 0; s < 4; ++s) z[labels * s + (3 * s + 1) % labels] = 1000;
  CHECK(soft.loss_at(z) == chosen.loss_at(z));
  // The planner's own logits, made extreme by its head, so that the pullback is that of a step.
  values head = soft.phi.read(soft.cx, soft.phi.find("head.w"));
  for (double& v : head) v *= 1e5;
  soft.phi.write(soft.cx, soft.phi.find("head.w"), head);
  const auto out = soft.run();
  CHECK(all_zero(out.dz));
  CHECK(all_zero(testing::read_all(soft.cx, soft.phi, true)));
}

TEST_CASE("fact 6: a constant added to the logits of a sentence changes neither loss nor gradients") {
  const small_batch batch;
  joint<planner_lm<B>> run(batch, small_model(), small_planner(), mixture{0.7});
  const double before = run.run().loss;
  const values g = gradients_of(run);
  values bias = run.phi.read(run.cx, run.phi.find("head.b"));
  for (double& v : bias) v += 3;
  run.phi.write(run.cx, run.phi.find("head.b"), bias);
  run.zero_grads();
  CHECK(run.run().loss == Approx(before).epsilon(1e-14));
  CHECK(largest_error(gradients_of(run), g) < 1e-13);
}

TEST_CASE("fact 9: permuting labels in every table and in the planner's head changes nothing") {
  const small_batch batch;
  joint<planner_lm<B>> run(batch, small_model(), small_planner(), mixture{0.7});
  const auto before = run.run();
  const std::vector<std::size_t> to{3, 0, 6, 1, 5, 2, 4};
  const auto permute = [&](auto& store, const char* name, std::size_t cols, bool gradient = false) {
    const std::size_t n = store.find(name);
    const values rows = gradient ? store.read_gradient(run.cx, n) : store.read(run.cx, n);
    values moved(rows.size());
    for (std::size_t k = 0; k < labels; ++k)
      for (std::size_t i = 0; i < cols; ++i) moved[cols * to[k] + i] = rows[cols * k + i];
    if (!gradient) store.write(run.cx, n, moved);
    return moved;
  };
  const values expected_table = permute(run.theta, "adapters.1.table", label_width, true);
  const values expected_head = permute(run.phi, "head.w", 6, true);
  const values lm_gradient = run.theta.read_gradient(run.cx, 0);
  permute(run.theta, "adapters.0.table", label_width);
  permute(run.theta, "adapters.1.table", label_width);
  permute(run.phi, "head.w", 6);
  permute(run.phi, "head.b", 1);
  run.zero_grads();
  const auto after = run.run();
  CHECK(after.loss == Approx(before.loss).epsilon(1e-14));
  CHECK(largest_error(after.hidden, before.hidden) < 1e-13);
  CHECK(largest_error(run.theta.read_gradient(run.cx, run.theta.find("adapters.1.table")), expected_table) < 1e-13);
  CHECK(largest_error(run.phi.read_gradient(run.cx, run.phi.find("head.w")), expected_head) < 1e-13);
  CHECK(largest_error(run.theta.read_gradient(run.cx, 0), lm_gradient) < 1e-13);
}

TEST_CASE("fact 10: tables of equal rows, W = 0 or gates at zero give the planner no gradient, and the loss ignores its logits") {
  const small_batch batch;
  {
    joint<planner_lm<B>> run(batch, small_model(), small_planner());
    for (const char* name : {"adapters.0.table", "adapters.1.table"}) {
      const std::size_t n = run.theta.find(name);
      values table = run.theta.read(run.cx, n);
      for (std::size_t i = label_width; i < table.size(); ++i) table[i] = table[i % label_width];
      run.theta.write(run.cx, n, table);
    }
    const auto out = run.run();
    CHECK(largest_error(out.dz, values(out.dz.size())) < 1e-16);
    CHECK(run.loss_at(normal_values(4 * labels, 5)) == Approx(out.loss).epsilon(1e-14));
  }
  {
    joint<planner_lm<B>> run(batch, small_model(), small_planner());
    for (const char* name : {"adapters.0.w", "adapters.1.w"}) run.theta.write(run.cx, run.theta.find(name), values(width * label_width));
    const auto out = run.run();
    CHECK(all_zero(out.dz));
    CHECK(all_zero(testing::read_all(run.cx, run.phi, true)));
    CHECK(all_zero(run.theta.read_gradient(run.cx, run.theta.find("adapters.0.table"))));
    CHECK(run.loss_at(normal_values(4 * labels, 5)) == out.loss);
  }
  {
    joint<planner_lm<B, at_attention_output, label_adapter<B, zero_gate<B>>>> run(
        batch, small_model<planner_lm<B, at_attention_output, label_adapter<B, zero_gate<B>>>>(), small_planner());
    for (const char* name : {"adapters.0.gate", "adapters.1.gate"}) run.theta.write(run.cx, run.theta.find(name), values(width));
    const auto out = run.run();
    CHECK(all_zero(out.dz));
    CHECK(all_zero(run.theta.read_gradient(run.cx, run.theta.find("adapters.0.table"))));
    CHECK_FALSE(all_zero(run.theta.read_gradient(run.cx, run.theta.find("adapters.0.gate"))));
    CHECK(run.loss_at(normal_values(4 * labels, 5)) == out.loss);
  }
}

namespace {

/// The plain language model whose `bias` takes up what label k adds at each adapted block: weight (W C_k + b).
template <class Model>
void check_constant_bias(const char* weight, const char* bias) {
  const small_batch batch;
  const int k = 4;
  joint<Model, fixed> run(batch, small_model<Model>(), small_planner(), fixed{k});
  const auto out = run.run();
  parameters<transformer_lm<B>> plain(run.cx, run.model.lm, philox{1});
  for (std::size_t n = 0; n < plain.slots().size(); ++n)
    plain.write(run.cx, n, run.theta.read(run.cx, run.theta.find("lm." + plain.slots()[n].spec.name)));
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const std::string adapter = "adapters." + std::to_string(layer), block = "blocks." + std::to_string(layer + 1) + ".";
    const values table = run.theta.read(run.cx, run.theta.find(adapter + ".table"));
    const values w = run.theta.read(run.cx, run.theta.find(adapter + ".w"));
    values u = run.theta.read(run.cx, run.theta.find(adapter + ".b"));
    for (std::size_t d = 0; d < width; ++d)
      for (std::size_t i = 0; i < label_width; ++i) u[d] += w[label_width * d + i] * table[label_width * k + i];
    const values m = plain.read(run.cx, plain.find(block + weight));
    values b = plain.read(run.cx, plain.find(block + bias));
    for (std::size_t row = 0; row < b.size(); ++row)
      for (std::size_t d = 0; d < width; ++d) b[row] += m[width * row + d] * u[d];
    plain.write(run.cx, plain.find(block + bias), b);
  }
  const auto h = run.model.lm(run.cx, plain.weights, small_batch::as_indices<B>(batch.tokens), batch.chunks.view<B>()).value;
  CHECK(largest_error(run.cx.read(const_tensor<B>(h)), out.hidden) < 1e-13);
  CHECK(all_zero(testing::read_all(run.cx, run.phi, true)));
  CHECK(out.dz.empty());
}

}  // namespace

TEST_CASE("fact 11: conditioning on one fixed label equals a constant bias per adapted block") {
  check_constant_bias<planner_lm<B>>("attention.out.w", "attention.out.b");
  check_constant_bias<planner_lm<B, at_feed_forward_input>>("mlp.up.w", "mlp.up.b");
}

TEST_CASE("fact 13: straight-through has the loss and the language model's gradients of the hard choice, and a planner gradient") {
  const small_batch batch;
  joint<planner_lm<B>, straight_through> through(batch, small_model(), small_planner());
  joint<planner_lm<B>, hard> chosen(batch, small_model(), small_planner());
  const auto a = through.run(), b = chosen.run();
  CHECK(a.loss == b.loss);
  CHECK(same_bits(testing::read_all(through.cx, through.theta, true), testing::read_all(chosen.cx, chosen.theta, true)));
  CHECK_FALSE(all_zero(testing::read_all(through.cx, through.phi, true)));
  CHECK(b.dz.empty());
  // The pullback of the weights is taken at the hard point: perturb one weight of one sentence there.
  const values p = [&] {
    auto scope = through.cx.scope();
    return through.cx.read(
        mixture{}.weights(through.cx, through.cx.upload(std::span<const double>(a.planner_logits), 4, labels)).value);
  }();
  const auto loss_of_weights = [&](const values& w) {
    auto scope = through.cx.scope();
    const auto h = through.model(through.cx, through.theta.weights, batch.view<B>(), const_tensor<B>(w.data(), 4, labels)).value;
    return through.cx.read_one(ops::linear_cross_entropy(through.cx, const_tensor<B>(h),
                                                         const_tensor<B>(through.theta.weights.lm.token.table),
                                                         small_batch::as_indices<B>(batch.targets), const_tensor<B, 1>{}, 1.0 / 11,
                                                         tensor<B>{})
                                   .total);
  };
  values one_hot(4 * labels), expected(4 * labels);
  for (std::size_t s = 0; s < 4; ++s) {
    const auto row = a.planner_logits.begin() + std::ptrdiff_t(labels * s);
    one_hot[labels * s + static_cast<std::size_t>(std::max_element(row, row + labels) - row)] = 1;
  }
  for (std::size_t s = 0; s < 4; ++s) {
    values q(labels);
    double mean = 0;
    for (std::size_t k = 0; k < labels; ++k) {
      values up = one_hot, down = one_hot;
      up[labels * s + k] += 1e-6;
      down[labels * s + k] -= 1e-6;
      q[k] = (loss_of_weights(up) - loss_of_weights(down)) / 2e-6;
      mean += p[labels * s + k] * q[k];
    }
    for (std::size_t k = 0; k < labels; ++k) expected[labels * s + k] = p[labels * s + k] * (q[k] - mean);
  }
  CHECK(largest_error(a.dz, expected) < 1e-9);
}

TEST_CASE("fact 14: under hard selection a small change of the planner leaves the loss as it is") {
  const small_batch batch;
  joint<planner_lm<B>, hard> run(batch, small_model(), small_planner());
  const values z = run.run().planner_logits;
  const auto zero = [](const values& at) { return values(at.size()); };
  CHECK(testing::directional_error(z, [&](const values& at) { return run.loss_at(at); }, zero) == 0);
}

TEST_CASE("fact 20: given labels, what is predicted at t does not see x at t + 1 or later") {
  const small_batch batch;
  joint<planner_lm<B>> run(batch, small_model(), small_planner());
  const auto hidden = [&](const std::vector<int>& tokens) {
    auto scope = run.cx.scope();
    planned_rows<B> rows = batch.view<B>();
    rows.tokens = small_batch::as_indices<B>(tokens);
    const values z = normal_values(4 * labels, 3);
    return run.cx.read(const_tensor<B>(
        run.model(run.cx, run.theta.weights, rows, const_tensor<B>(z.data(), 4, labels), mixture{}).value));
  };
  const values before = hidden(batch.tokens);
  for (std::size_t changed = 0; changed < 11; ++changed) {
    std::vector<int> tokens = batch.tokens;
    tokens[changed] = (tokens[changed] + 1) % 23;
    const values after = hidden(tokens);
    for (std::size_t t = 0; t < 11; ++t) {
      CAPTURE(changed, t);
      const bool same = std::equal(before.begin() + std::ptrdiff_t(width * t), before.begin() + std::ptrdiff_t(width * (t + 1)),
                                   after.begin() + std::ptrdiff_t(width * t));
      CHECK(same == (t < changed || (t < 7) != (changed < 7)));
    }
  }
}

TEST_CASE("a label conditions the rows of its sentence and what follows them in their chunk, nothing else") {
  const small_batch batch;
  joint<planner_lm<B>> run(batch, small_model(), small_planner());
  const values z = normal_values(4 * labels, 3);
  const auto hidden = [&](const values& logits) {
    auto scope = run.cx.scope();
    return run.cx.read(const_tensor<B>(run.model(run.cx, run.theta.weights, batch.view<B>(),
                                                 const_tensor<B>(logits.data(), 4, labels), mixture{})
                                           .value));
  };
  const values before = hidden(z);
  for (std::size_t s = 0; s < 4; ++s) {
    values other = z;
    other[labels * s] += 1;
    const values after = hidden(other);
    for (std::size_t t = 0; t < 11; ++t) {
      CAPTURE(s, t);
      bool reached = false;
      for (std::size_t source = t < 7 ? 0 : 7; source <= t; ++source) reached = reached || batch.sentence[source] == int(s);
      const bool same = std::equal(before.begin() + std::ptrdiff_t(width * t), before.begin() + std::ptrdiff_t(width * (t + 1)),
                                   after.begin() + std::ptrdiff_t(width * t));
      CHECK(same == !reached);
    }
  }
}

TEST_CASE("fact 25: gumbel with scale 0 equals the mixture, and outside training it is noiseless: loss and gradients bit for bit") {
  const small_batch batch;
  joint<planner_lm<B>> plain(batch, small_model(), small_planner(), mixture{0.7});
  joint<planner_lm<B>, gumbel_softmax> silent(batch, small_model(), small_planner(), gumbel_softmax{0.7, 0});
  joint<planner_lm<B>, gumbel_softmax> noisy(batch, small_model(), small_planner(), gumbel_softmax{0.7, 1});
  const double loss = plain.run().loss;
  CHECK(silent.run().loss == loss);
  CHECK(same_bits(gradients_of(silent), gradients_of(plain)));
  CHECK(noisy.run().loss != loss);
  noisy.cx.training = false;
  noisy.zero_grads();
  CHECK(noisy.run().loss == loss);
  CHECK(same_bits(gradients_of(noisy), gradients_of(plain)));
}

TEST_CASE("all layers share one draw per sentence: a forward pass asks its policy once") {
  const small_batch batch;
  int calls = 0;
  joint<planner_lm<B>, counting_mixture> run(batch, small_model(3, 0), small_planner(), counting_mixture{&calls});
  run.run();
  CHECK(calls == 1);
}

TEST_CASE("fact 26: under uniform weights the planner gets no gradient, and any planner gives the same loss") {
  const small_batch batch;
  joint<planner_lm<B>, uniform> run(batch, small_model(), small_planner());
  const auto out = run.run();
  CHECK(out.dz.empty());
  CHECK(all_zero(testing::read_all(run.cx, run.phi, true)));
  CHECK_FALSE(all_zero(run.theta.read_gradient(run.cx, run.theta.find("adapters.0.table"))));
  CHECK(run.loss_at(normal_values(4 * labels, 5, 10)) == out.loss);
  joint<planner_lm<B>> flat(batch, small_model(), small_planner());
  CHECK(flat.loss_at(values(4 * labels, 1.5)) == out.loss);  // the mixture's analogue of a fixed label
}

TEST_CASE("a planner that is not wanted costs no gradient and changes none") {
  const small_batch batch;
  joint<planner_lm<B>> run(batch, small_model(), small_planner());
  run.run();
  const values whole = testing::read_all(run.cx, run.theta, true);
  run.zero_grads();
  CHECK(run.run(run.theta.grads, run.phi.grads, false).dz.empty());
  CHECK(same_bits(testing::read_all(run.cx, run.theta, true), whole));
  CHECK(all_zero(testing::read_all(run.cx, run.phi, true)));
}

namespace {

template <class Model>
void frozen_leaves_gradients(bool keeps_activations) {
  const small_batch batch;
  for (const index_t first : {0, 1, 2}) {
    CAPTURE(first);
    joint<Model> run(batch, small_model<Model>(3, first), small_planner());
    run.cx.memory().reset_peak();
    const auto whole = run.run();
    const std::size_t peak = run.cx.memory().peak_bytes();
    const values g = gradients_of(run);
    const std::size_t lm_values = static_cast<std::size_t>(count_parameters(run.model.lm));
    for (const bool told : {false, true}) {
      run.zero_grads();
      run.cx.memory().reset_peak();
      auto adapters_only = run.theta.grads;
      adapters_only.lm = {};
      run.frozen = told;
      const auto out = run.run(adapters_only, run.phi.grads);
      CHECK(out.loss == whole.loss);
      CHECK(same_bits(out.dz, whole.dz));
      const values frozen = gradients_of(run);
      CHECK(all_zero(values(frozen.begin(), frozen.begin() + std::ptrdiff_t(lm_values))));
      CHECK(same_bits(values(frozen.begin() + std::ptrdiff_t(lm_values), frozen.end()),
                      values(g.begin() + std::ptrdiff_t(lm_values), g.end())));
      if (told && first > 0 && keeps_activations) CHECK(run.cx.memory().peak_bytes() < peak);
      else CHECK(run.cx.memory().peak_bytes() <= peak);
    }
  }
}

}  // namespace

TEST_CASE("a frozen language model leaves adapters and planner their gradients bit for bit, and needs less memory") {
  frozen_leaves_gradients<planner_lm<B>>(true);
  frozen_leaves_gradients<planner_lm<B, at_feed_forward_input>>(true);
  frozen_leaves_gradients<planner_lm<B, at_attention_output, label_adapter<B>, learned_positions<B>, no_rotation, keep_inputs>>(false);
  frozen_leaves_gradients<planner_lm<B, at_feed_forward_input, label_adapter<B>, learned_positions<B>, no_rotation, keep_inputs>>(false);
}

TEST_CASE("a model called as frozen refuses to hand out gradients of the language model") {
  const small_batch batch;
  joint<planner_lm<B>> run(batch, small_model(), small_planner());
  run.frozen = true;
  CHECK_THROWS_WITH(run.run(), "planner_lm: called as frozen, but a gradient of the language model is wanted");
  // The pullback refuses before it adds anything.
  run.zero_grads();
  auto scope = run.cx.scope();
  const values c = normal_values(batch.sentences * run.model.adapters.adapter.inputs(), 5);
  auto [h, pullback] = run.model(run.cx, run.theta.weights, batch.view<B>(),
                                 const_tensor<B>(c.data(), batch.sentences, run.model.adapters.adapter.inputs()), true);
  const values dh = normal_values(h.size(), 6);
  CHECK_THROWS_AS(pullback(const_tensor<B>(dh.data(), h.rows(), h.cols()), run.theta.grads), planlm::error);
  CHECK(all_zero(testing::read_all(run.cx, run.theta, true)));
}

TEST_CASE("the first adapted block is one of the blocks") {
  CHECK_THROWS_WITH(small_model(3, 3), "planner_lm: the first adapted block is 3, expected one of the 3 blocks, numbered from 0");
  CHECK_THROWS_AS(small_model(3, -1), shape_error);
}
