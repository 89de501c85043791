/// The experiment's steps on backend B.
#pragma once
#include <optional>
#include "learner.hpp"
#include <planlm/planlm.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/clipping.hpp>

namespace train_planner_lm {

/// Weights of module M, which may be trained.
template <Backend B, class M>
class part_on final : public part {
 public:
  using store = parameters<M>;
  part_on(context<B>& cx, const M& module, philox start, bool trained, double weight_decay)
      : cx_(cx), weights(cx, module, start, trained ? store::gradients::kept : store::gradients::none) {
    if (!trained) return;
    optimiser.emplace(cx, size(), adamw_options{.weight_decay = weight_decay},
                      weight_decay > 0 ? decay_of_matrices(weights.slots()) : std::vector<decay_range>{});
  }

  const std::vector<parameter_slot>& slots() const override { return weights.slots(); }
  index_t size() const override { return weights.flat_weights().size(); }
  std::vector<float> read() override { return cx_.read(const_accum_tensor<B>(weights.flat_weights())); }
  void write(std::span<const float> values) override { write_weights<B>(cx_, weights.flat_weights(), values); }
  void write(const std::string& name, std::span<const float> values) override { weights.write(cx_, weights.find(name), values); }
  void copy(const part& from) override { weights.copy_weights(cx_, of(from)); }
  std::vector<std::string> moments() const override {
    std::vector<std::string> names;
    if (optimiser)
      for (const auto& s : const_cast<adamw<B>&>(*optimiser).state()) names.emplace_back(s.name);
    return names;
  }
  std::vector<float> read_moment(std::size_t n) override { return cx_.read(const_accum_tensor<B>(optimiser->state().at(n).values)); }
  void write_moment(std::size_t n, std::span<const float> values) override {
    const auto to = optimiser->state().at(n).values;
    if (static_cast<index_t>(values.size()) != to.size()) throw shape_error("part: a moment of another size");
    B::upload(cx_.queue(), to.data, values.data(), values.size_bytes());
  }
  index_t& count() override { return optimiser->count; }
  std::string first_not_finite() override {
    const auto at = find_not_finite(cx_, weights.slots(), weights.flat_weights());
    return at ? at->parameter : "";
  }

  static const store& of(const part& p) { return dynamic_cast<const part_on&>(p).weights; }
  void step(double rate, const global_norm<B>& norm) {
    optimiser->step(cx_, weights.flat_weights(), weights.flat_grads(), rate, norm.factor);
  }

 private:
  context<B>& cx_;

 public:
  store weights;
  std::optional<adamw<B>> optimiser;
};

template <Backend B>
class learner_on final : public learner {
  using real = typename B::real;
  using accum = typename B::accum;
  using model_type = planner_lm<B>;
  using lm_part = part_on<B, typename model_type::lm_type>;
  using adapter_part = part_on<B, typename model_type::adapter_stack>;
  using planner_part = part_on<B, planner<B>>;

 public:
  learner_on(typename B::queue queue, const learner_sizes& s)
      : cx_(std::move(queue)), model_({s.vocabulary, s.length, s.width, s.heads, s.layers}, s.labels, s.label_width, s.first_adapted),
        plan_{s.label_width, s.labels, s.planner_heads, s.planner_inner, s.planner_layers} {}

  std::unique_ptr<part> make(kind what, philox start, bool trained, double weight_decay) override {
    switch (what) {
      case kind::language_model: return std::make_unique<lm_part>(cx_, model_.lm, start, trained, weight_decay);
      case kind::adapters: return std::make_unique<adapter_part>(cx_, model_.adapters, start, trained, weight_decay);
      case kind::planner: break;
    }
    return std::make_unique<planner_part>(cx_, plan_, start, trained, weight_decay);
  }

  step_result language_model_step(part& trained, const host_batch& host, const learning_rates& rates) override {
    auto scope = begin();
    auto& lm = dynamic_cast<lm_part&>(trained);
    const batch b = load(host);
    auto [h, pullback] = model_.lm(cx_, lm.weights.weights, b.rows.tokens, b.rows.rows);
    auto loss = ops::linear_cross_entropy(cx_, const_tensor<B>(h), const_tensor<B>(lm.weights.weights.token.table), b.rows.targets, {},
                                          mean_of(b), lm.weights.grads.token.table);
    pullback(loss.dhidden, lm.weights.grads);
    const auto norm = clip_global_norm(cx_, rates.clip, lm.weights.flat_grads());
    lm.step(rates.main, norm);
    return {double(cx_.read_one(loss.total)), b.tokens(), double(cx_.read_one(norm.norm))};
  }

  step_result planner_step(part& trained, const host_batch& host, const learning_rates& rates) override {
    auto scope = begin();
    auto& p = dynamic_cast<planner_part&>(trained);
    const batch b = load(host);
    auto [z, pullback] = plan_(cx_, p.weights.weights, b.context, b.contexts);
    auto loss = ops::cross_entropy(cx_, const_tensor<B>(z), b.labels, accum(1) / static_cast<accum>(b.labels.size()));
    pullback(loss.dz, p.weights.grads);
    const auto norm = clip_global_norm(cx_, rates.clip, p.weights.flat_grads());
    p.step(rates.main, norm);
    return {double(cx_.read_one(loss.total)), b.labels.size(), double(cx_.read_one(norm.norm))};
  }

  step_result variant_step(const part& lm, part& trained, part* planner, const policy& how, const host_batch& host,
                           const learning_rates& rates) override {
    auto scope = begin();
    auto& adapters = dynamic_cast<adapter_part&>(trained);
    const batch b = load(host);
    double total = 0;
    const auto through = [&](const_tensor<B> z) {  // -> dz
      return std::visit(
          [&](const auto& chosen) {
            auto [w, back] = as_policy(chosen, b).weights(cx_, z);
            const const_tensor<B> dw = model_step(lm_part::of(lm), adapters, b, w, planner != nullptr, total);
            return planner ? const_tensor<B>(back(dw)) : const_tensor<B>{};
          },
          how);
    };
    if (!planner) {
      through(b.logits);
      const auto norm = clip_global_norm(cx_, rates.clip, adapters.weights.flat_grads());
      const auto gradient = double(cx_.read_one(norm.norm));
      adapters.step(rates.main, norm);
      return {total, b.tokens(), gradient};
    }
    auto& p = dynamic_cast<planner_part&>(*planner);
    auto [z, planner_pullback] = plan_(cx_, p.weights.weights, b.context, b.contexts);
    const const_tensor<B> dz = through(z);
    if (dz) planner_pullback(dz, p.weights.grads);
    const auto norm = clip_global_norm(cx_, rates.clip, adapters.weights.flat_grads(), p.weights.flat_grads());
    const auto gradient = double(cx_.read_one(norm.norm));
    adapters.step(rates.main, norm);
    p.step(rates.planner, norm);
    return {total, b.tokens(), gradient};
  }

  std::vector<float> logits(const part& planner, const host_batch& host) override {
    auto scope = begin();
    const batch b = load(host);
    const const_tensor<B> z = plan_(cx_, planner_part::of(planner).weights, b.context, b.contexts).value;
    return floats(cx_.read(z));
  }

  std::vector<float> token_nll(const part& lm, const part* adapters, const policy& how, const host_batch& host) override {
    auto scope = begin();
    const batch b = load(host);
    const auto& weights = lm_part::of(lm).weights;
    const_tensor<B> h;
    if (adapters) {
      const typename model_type::params both{weights, adapter_part::of(*adapters).weights};
      const const_tensor<B> w =
          std::visit([&](const auto& chosen) { return const_tensor<B>(as_policy(chosen, b).weights(cx_, b.logits).value); }, how);
      h = model_(cx_, both, b.rows, w, true).value;
    } else {
      h = model_.lm(cx_, weights, b.rows.tokens, b.rows.rows).value;
    }
    return floats(cx_.read(const_accum_tensor<B>(ops::linear_token_nll(cx_, h, const_tensor<B>(weights.token.table), b.rows.targets))));
  }

  std::string first_not_finite(const part& base, const part* adapters, const part* planner, const policy& how,
                               const host_batch& host) override {
    auto scope = begin();
    const auto bad = [&](const_tensor<B> x) { return cx_.read_one(ops::first_not_finite<B>(cx_, flat(x))) >= 0; };
    const auto at = [](const std::string& layer) { return "it appears first in the output of " + layer; };
    const batch b = load(host);
    const auto& lm = lm_part::of(base).weights;
    const_tensor<B> w;
    if (adapters) {
      const_tensor<B> z = b.logits;
      if (planner) z = plan_(cx_, planner_part::of(*planner).weights, b.context, b.contexts).value;
      if (bad(z)) return at("the planner");
      w = std::visit([&](const auto& chosen) { return const_tensor<B>(as_policy(chosen, b).weights(cx_, z).value); }, how);
      if (bad(w)) return at("the label mixture");
    }
    const_tensor<B> x = model_.lm.token()(cx_, lm.token, b.rows.tokens).value;
    x = model_.lm.position()(cx_, lm.position, x, b.rows.rows).value;
    if (bad(x)) return at("the embeddings");
    for (std::size_t i = 0; i < lm.blocks.size(); ++i) {
      const auto below = static_cast<std::size_t>(model_.first_adapted);
      if (!adapters || i < below) {
        x = model_.lm.block()(cx_, lm.blocks[i], x, b.rows.rows).value;
      } else {
        const const_tensor<B> u = model_.adapters.adapter(cx_, adapter_part::of(*adapters).weights[i - below], w).value;
        if (bad(u)) return at("adapter " + std::to_string(i - below));
        x = model_.lm.block()(cx_, lm.blocks[i], x, b.rows.rows, at_attention_output{}, plan_injection<B>{u, b.rows.sentence}).value;
      }
      if (bad(x)) return at("block " + std::to_string(i));
    }
    return bad(model_.lm.norm()(cx_, lm.norm, x).value) ? at("the last norm")
                                                        : "all layers are finite: it appears first in the logits or on the way back";
  }

 private:
  /// A batch as the backend sees it; lives until the scope of the step ends.
  struct batch {
    planned_rows<B> rows;
    indices<B> labels;        // (S)
    const_tensor<B> logits;   // (S, K)
    const_tensor<B> context;  // (R, label width)
    sequences<B> contexts;
    index_t tokens() const { return rows.tokens.size(); }
  };

  auto begin() {
    cx_.random = random;
    cx_.training = training;
    return cx_.scope();
  }
  indices<B> ids(std::span<const int> host) { return cx_.upload(host, static_cast<index_t>(host.size())); }
  const_tensor<B> matrix(std::span<const float> host, index_t cols) {
    const index_t rows = static_cast<index_t>(host.size()) / cols;
    if constexpr (std::same_as<real, float>) {
      return cx_.upload(host, rows, cols);
    } else {
      rounded_.assign(host.begin(), host.end());
      return cx_.upload(std::span<const real>(rounded_), rows, cols);
    }
  }
  batch load(const host_batch& host) {
    batch b;
    if (!host.tokens.empty())
      b.rows = {ids(host.tokens), ids(host.targets), ids(host.sentence),
                {ids(host.chunk_offsets), host.chunk_offsets.data(), ids(host.positions)}, static_cast<index_t>(host.labels.size())};
    b.labels = ids(host.labels);
    if (!host.logits.empty()) b.logits = matrix(host.logits, plan_.labels);
    if (!host.context_offsets.empty()) {
      b.context = matrix(host.context, plan_.width);
      b.contexts = {ids(host.context_offsets), host.context_offsets.data(), ids(host.context_positions)};
    }
    return b;
  }
  static accum mean_of(const batch& b) { return accum(1) / static_cast<accum>(b.tokens()); }
  template <class T>
  static std::vector<float> floats(std::vector<T> v) {
    if constexpr (std::same_as<T, float>) return v;
    else return {v.begin(), v.end()};
  }

  /// A policy of the plan, with what it needs of the batch.
  template <class P>
  static auto as_policy(const P& p, const batch& b) {
    if constexpr (std::same_as<P, oracle_labels>) return oracle<B>{b.labels};
    else return p;
  }

  // Forward, loss and pullback of the language model given label weights; -> dw.
  const_tensor<B> model_step(const typename lm_part::store& lm, adapter_part& adapters, const batch& b, const_tensor<B> w, bool want_dw,
                             double& total) {
    const typename model_type::params weights{lm.weights, adapters.weights.weights};
    typename model_type::params grads{lm.grads, adapters.weights.grads};
    auto [h, pullback] = model_(cx_, weights, b.rows, w, true);
    auto loss = ops::linear_cross_entropy(cx_, const_tensor<B>(h), const_tensor<B>(lm.weights.token.table), b.rows.targets, {}, mean_of(b),
                                          tensor<B>{});
    total = double(cx_.read_one(loss.total));
    return pullback(loss.dhidden, grads, want_dw);
  }

  context<B> cx_;
  model_type model_;
  planner<B> plan_;
  std::vector<real> rounded_;
};

}  // namespace train_planner_lm
