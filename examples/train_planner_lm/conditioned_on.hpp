/// The planner-conditioned language model of one placement, adapter and gate, behind one interface: which it is, is chosen at run time.
#pragma once
#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>
#include "learner.hpp"
#include "trainer/parts_on.hpp"
#include <planlm/models/generator.hpp>
#include <planlm/models/planner_lm.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/ops/reduce.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/plan_adapter.hpp>

namespace train_planner_lm {

template <Backend B>
class conditioned {
 public:
  using lm_params = typename transformer_lm<B>::params;
  virtual ~conditioned() = default;
  /// Columns of what the adapters take.
  virtual index_t inputs() const = 0;
  virtual std::unique_ptr<part> make(context<B>& cx, philox start, bool trained, double weight_decay) const = 0;
  /// Forward, loss and pullback given the adapters' input (S, inputs); -> its gradient, if wanted. `loss`: sum of weight times nll.
  virtual const_tensor<B> step(context<B>& cx, language_model_source<B>& lm, part& adapters, const planned_rows<B>& rows, const_tensor<B> input,
                               bool want_dinput, typename B::accum weight, double& loss) const = 0;
  virtual const_tensor<B> hidden(context<B>& cx, const lm_params& lm, const part& adapters, const planned_rows<B>& rows,
                                 const_tensor<B> input) const = 0;
  /// In which layer's output the first value that is no finite number stands.
  virtual std::string first_not_finite(context<B>& cx, const lm_params& lm, const part& adapters, const planned_rows<B>& rows,
                                       const_tensor<B> input) const = 0;
  virtual std::vector<continuation> generate(context<B>& cx, const lm_params& lm, const part& adapters, const generation_request& r) const = 0;
};

/// Texts from a generator, plans asked of the request. `Model` follows plans or is a plain language model.
template <class Model>
std::vector<continuation> generate_on(context<typename Model::backend>& cx, const Model& model, const typename Model::params& p,
                                        const generation_request& r, plan_layout layout = plan_layout::added) {
  using accum = typename Model::backend::accum;
  std::size_t longest = 0;
  for (const auto& t : r.tokens) longest = std::max(longest, t.size());
  generation_options o;
  o.sequences = static_cast<index_t>(r.tokens.size());
  o.longest = static_cast<index_t>(longest) + r.new_tokens;
  o.layout = layout;
  o.ends = r.ends;
  o.longest_sentence = r.longest_sentence;
  o.rule = r.rule;
  generator<Model> gen(cx, model, p, o, r.random);
  for (std::size_t i = 0; i < r.tokens.size(); ++i) {
    generation_prompt<accum> from;
    from.tokens = r.tokens[i];
    from.sentence = r.sentence[i];
    if constexpr (FollowsPlans<Model>) from.plans.assign(r.plans[i].begin(), r.plans[i].end());
    gen.start(static_cast<index_t>(i), std::move(from));
  }
  const auto written = [&](index_t slot) { return static_cast<index_t>(gen.text(slot).tokens.size() - gen.text(slot).given); };
  const auto step = [&] {
    if constexpr (FollowsPlans<Model>)
      return gen.step([&](std::span<const int> slots) {
        std::vector<std::vector<int>> tokens;
        for (const int slot : slots) tokens.push_back(gen.text(slot).tokens);
        const std::vector<float> inputs = r.plan(slots, tokens);
        return std::vector<accum>(inputs.begin(), inputs.end());
      });
    else return gen.step();
  };
  while (step() > 0)
    for (index_t slot = 0; slot < o.sequences; ++slot)
      if (gen.live(slot) && written(slot) >= r.new_tokens) gen.stop(slot);
  std::vector<continuation> all;
  for (index_t slot = 0; slot < o.sequences; ++slot) {
    const auto& t = gen.text(slot);
    const auto given = static_cast<std::ptrdiff_t>(t.given);
    // sentence[i] holds token i + 1.
    all.push_back({{t.tokens.begin() + given, t.tokens.end()}, {t.sentence.begin() + given - 1, t.sentence.end() - 1}});
  }
  return all;
}

template <Backend B, class Placement, class Adapter>
class conditioned_on final : public conditioned<B> {
  using model_type = planner_lm<B, Placement, Adapter>;
  using adapter_part = part_on<B, typename model_type::adapter_stack>;
  using typename conditioned<B>::lm_params;

 public:
  /// `fixed_gate`: the gate stays as it began.
  conditioned_on(const lm_sizes& sizes, Adapter adapter, index_t first_adapted, bool fixed_gate, plan_layout layout)
      : model_(sizes, adapter, first_adapted), fixed_gate_(fixed_gate), layout_(layout) {}

  index_t inputs() const override { return model_.adapters.adapter.inputs(); }
  std::unique_ptr<part> make(context<B>& cx, philox start, bool trained, double weight_decay) const override {
    return std::make_unique<adapter_part>(cx, model_.adapters, start, trained, weight_decay);
  }
  const_tensor<B> step(context<B>& cx, language_model_source<B>& lm, part& adapters, const planned_rows<B>& rows, const_tensor<B> input,
                       bool want_dinput, typename B::accum weight, double& loss) const override {
    auto& own = adapter_part::of(adapters);
    const typename model_type::params weights{lm.lm_weights(), own.weights};
    typename model_type::params grads{lm.lm_gradients(), own.grads};
    if constexpr (requires { grads.adapters.front().gate.gate; })
      if (fixed_gate_)
        for (auto& g : grads.adapters) g.gate.gate = {};
    auto [h, pullback] = model_(cx, weights, rows, input, !lm.lm_trained());
    auto nll = ops::linear_cross_entropy(cx, const_tensor<B>(h), const_tensor<B>(weights.lm.token.table), rows.targets, {}, weight,
                                         grads.lm.token.table);
    loss = double(cx.read_one(nll.total));
    return pullback(nll.dhidden, grads, want_dinput);
  }
  const_tensor<B> hidden(context<B>& cx, const lm_params& lm, const part& adapters, const planned_rows<B>& rows,
                         const_tensor<B> input) const override {
    return model_(cx, {lm, adapter_part::of(adapters).weights}, rows, input, true).value;
  }
  std::string first_not_finite(context<B>& cx, const lm_params& lm, const part& adapters, const planned_rows<B>& rows,
                               const_tensor<B> input) const override {
    const auto bad = [&](const_tensor<B> x) { return cx.read_one(ops::first_not_finite<B>(cx, flat(x))) >= 0; };
    const auto& own = adapter_part::of(adapters).weights;
    const auto& adapter = model_.adapters.adapter;
    const_tensor<B> x = model_.lm.token()(cx, lm.token, rows.tokens).value;
    x = model_.lm.position()(cx, lm.position, x, rows.rows).value;
    if (bad(x)) return "the embeddings";
    if constexpr (model_type::embedded) {
      const const_tensor<B> u = adapter(cx, own.front(), input).value;
      if (bad(u)) return "adapter 0";
      x = adapter.injection(own.front(), u, rows.sentence, rows.rows)(cx, x).value;
    }
    for (std::size_t i = 0; i < lm.blocks.size(); ++i) {
      const auto below = static_cast<std::size_t>(model_.first_adapted);
      if (model_type::embedded || i < below) {
        x = model_.lm.block()(cx, lm.blocks[i], x, rows.rows).value;
      } else if constexpr (!model_type::embedded) {
        const const_tensor<B> u = adapter(cx, own[i - below], input).value;
        if (bad(u)) return "adapter " + std::to_string(i - below);
        x = model_.lm.block()(cx, lm.blocks[i], x, rows.rows, Placement{}, adapter.injection(own[i - below], u, rows.sentence, rows.rows)).value;
      }
      if (bad(x)) return "block " + std::to_string(i);
    }
    return bad(model_.lm.norm()(cx, lm.norm, x).value) ? "the last norm" : "";
  }
  std::vector<continuation> generate(context<B>& cx, const lm_params& lm, const part& adapters, const generation_request& r) const override {
    return generate_on(cx, model_, {lm, adapter_part::of(adapters).weights}, r, layout_);
  }

 private:
  model_type model_;
  bool fixed_gate_;
  plan_layout layout_;
};

/// The model that `c` asks for. Errors: planlm::error for a combination that there is not.
template <Backend B>
std::unique_ptr<conditioned<B>> make_conditioned(const learner_sizes& s, const conditioning& c) {
  using place = conditioning::place;
  using gating = conditioning::gating;
  using gate = learned_gate<B>;
  const lm_sizes sizes{s.vocabulary, s.length, s.width, s.heads, s.layers};
  const bool fixed_gate = c.gate == gating::none;
  const plan_layout layout = c.where == place::inserted ? plan_layout::inserted : c.where == place::prefix ? plan_layout::prefix : plan_layout::added;
  const auto gate_of = [&](index_t width) {
    return gate{width, c.gate == gating::zero ? initial::zeros : c.gate == gating::learned ? initial::normal : initial::ones};
  };
  const auto with = [&]<class Placement, class Adapter>(Placement, const Adapter& adapter) -> std::unique_ptr<conditioned<B>> {
    return std::make_unique<conditioned_on<B, Placement, Adapter>>(sizes, adapter, s.first_adapted, fixed_gate, layout);
  };
  const auto tables = [&](index_t width) { return label_adapter<B, gate>{s.labels, s.label_width, width, gate_of(width)}; };
  if (c.where == place::attention_output) {
    if (c.from != conditioning::source::table_per_layer)
      return with(at_attention_output{}, plan_adapter<B, gate>{s.label_width, s.width, gate_of(s.width)});
    if (c.gate == gating::context)
      return with(at_attention_output{}, label_adapter<B, context_gate<B>>{s.labels, s.label_width, s.width, {s.width}});
    if (c.gate == gating::none) return with(at_attention_output{}, label_adapter<B>{s.labels, s.label_width, s.width});
    return with(at_attention_output{}, tables(s.width));
  }
  if (c.gate == gating::context || c.from != conditioning::source::table_per_layer)
    throw error("plans that enter elsewhere than at the attention output have a table per layer and no gate of the context");
  if (c.where == place::feed_forward_input) return with(at_feed_forward_input{}, tables(s.width));
  return with(at_embedding{}, tables(c.where == place::prefix ? s.prefix_rows * s.width : s.width));
}

}  // namespace train_planner_lm
