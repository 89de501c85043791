/// The experiment's steps on backend B.
#pragma once
#include <algorithm>
#include <array>
#include <initializer_list>
#include <list>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include "conditioned_on.hpp"
#include <planlm/planlm.hpp>
#include <planlm/planning/look_ahead.hpp>
#include <planlm/planning/plan_encoder.hpp>
#include <planlm/planning/plan_paths.hpp>

namespace train_planner_lm {

template <Backend B>
class learner_on final : public learner {
  using real = typename B::real;
  using accum = typename B::accum;
  using lm_type = transformer_lm<B>;
  using source = language_model_source<B>;
  using planner_part = part_on<B, planner<B>>;
  using look_ahead_part = part_on<B, look_ahead<B>>;
  using head_part = part_on<B, linear<B>>;
  using table_part = part_on<B, label_mixture<B>>;
  using encoder_part = part_on<B, plan_encoder<B>>;

 public:
  learner_on(typename B::queue queue, const learner_sizes& s)
      : cx_(std::move(queue)), sizes_(s), lm_{{s.vocabulary, s.length, s.width, s.heads, s.layers}},
        plan_{s.label_width, s.labels, s.planner_heads, s.planner_inner, s.planner_layers}, ahead_{plan_, s.plan_layers},
        head_{s.width, s.labels}, table_{s.labels, s.label_width},
        encoder_{s.labels, s.label_width, {s.label_width, s.planner_heads, s.planner_inner, s.plan_layers},
                 {s.label_width, s.planner_heads, s.planner_inner, s.plan_layers}} {}

  std::unique_ptr<part> make(kind what, philox start, bool trained, double decay, const conditioning& reach) override {
    switch (what) {
      case kind::language_model: return std::make_unique<language_model_part<B>>(cx_, lm_, start, trained, decay);
      case kind::extended_language_model: {
        lm_type extended = lm_;
        extended.sizes.vocabulary += sizes_.labels;
        return std::make_unique<language_model_part<B>>(cx_, extended, start, trained, decay);
      }
      case kind::adapters: return model_of(reach).make(cx_, start, trained, decay);
      case kind::encoder:
        if (reach.from == conditioning::source::paths) return std::make_unique<encoder_part>(cx_, encoder_, start, trained, decay);
        return std::make_unique<table_part>(cx_, table_, start, trained, decay);
      case kind::look_ahead: return std::make_unique<look_ahead_part>(cx_, ahead_, start, trained, decay);
      case kind::label_head: return std::make_unique<head_part>(cx_, head_, start, trained, decay);
      case kind::planner: break;
    }
    return std::make_unique<planner_part>(cx_, plan_, start, trained, decay);
  }
  std::unique_ptr<part> make_low_rank(const part& base, philox start) override {
    const auto& weights = part_on<B, lm_type>::of(base);
    return std::make_unique<low_rank_part<B>>(cx_, lm_, weights, low_rank_tuning{sizes_.rank, sizes_.alpha}, start);
  }

  step_result language_model_step(part& trained, const host_batch& host, const learning_rates& rates) override {
    auto scope = begin();
    auto& lm = source::in(trained);
    const batch b = load(host);
    auto& grads = lm.lm_gradients();
    auto [h, pullback] = lm_(cx_, lm.lm_weights(), b.rows.tokens, b.rows.rows);
    auto loss = ops::linear_cross_entropy(cx_, const_tensor<B>(h), const_tensor<B>(lm.lm_weights().token.table), b.rows.targets, {},
                                          mean_of(b), grads.token.table);
    pullback(loss.dhidden, grads);
    return update(b.targets, double(cx_.read_one(loss.total)), rates.clip, {{&trained, rates.main}});
  }

  step_result planner_step(part& trained, const host_batch& host, const learning_rates& rates) override {
    auto scope = begin();
    const batch b = load(host);
    if (dynamic_cast<look_ahead_part*>(&trained)) {
      auto& p = look_ahead_part::of(trained);
      const index_t sentences = b.contexts.count(), steps = b.coming.size() / sentences;
      auto [z, pullback] = ahead_(cx_, p.weights, b.context, b.contexts, indices<B>(b.coming.data, (steps - 1) * sentences));
      auto loss = ops::cross_entropy(cx_, const_tensor<B>(z), b.coming, accum(1) / static_cast<accum>(b.valid));
      pullback(loss.dz, p.grads);
      return update(b.valid, double(cx_.read_one(loss.total)), rates.clip, {{&trained, rates.main}});
    }
    auto& p = planner_part::of(trained);
    auto [z, pullback] = plan_(cx_, p.weights, b.context, b.contexts);
    auto loss = ops::cross_entropy(cx_, const_tensor<B>(z), b.labels, accum(1) / static_cast<accum>(b.labels.size()));
    pullback(loss.dz, p.grads);
    return update(b.labels.size(), double(cx_.read_one(loss.total)), rates.clip, {{&trained, rates.main}});
  }

  step_result label_head_step(part& trained, const part& lm, const host_batch& host, const learning_rates& rates) override {
    auto scope = begin();
    auto& head = head_part::of(trained);
    std::vector<int> labels(host.labels.begin(), host.labels.end());
    index_t given = 0;
    for (std::size_t s = 0; s < labels.size(); ++s) {
      if (host.first_rows[s] < 0) labels[s] = -1;
      else ++given;
    }
    const batch b = load(host);
    auto [z, pullback] = head_(cx_, head.weights, first_hidden(lm, b));
    auto loss = ops::cross_entropy(cx_, const_tensor<B>(z), ids(labels), accum(1) / static_cast<accum>(std::max<index_t>(given, 1)));
    pullback(loss.dz, head.grads);
    return update(given, double(cx_.read_one(loss.total)), rates.clip, {{&trained, rates.main}});
  }

  step_result variant_step(const conditioned_parts& parts, const method& how, const host_batch& host, const learning_rates& rates) override {
    auto scope = begin();
    const batch b = load(host);
    auto& lm = source::in(*parts.lm);
    const bool joint = parts.planner && of(*parts.planner).trained() && how.reach.from != conditioning::source::paths;
    const bool encoder = parts.encoder && of(*parts.encoder).trained();
    double total = 0;
    // -> dz: of the logits, empty where none is wanted or none flows.
    const auto through = [&](const_tensor<B> z) {
      return with_input(parts, how, b, z, [&](const_tensor<B> input, const auto& back) {
        const const_tensor<B> dinput =
            model_of(how.reach).step(cx_, lm, *parts.adapters, b.rows, input, joint || encoder, mean_of(b), total);
        return joint || encoder ? const_tensor<B>(back(dinput)) : const_tensor<B>{};
      });
    };
    if (joint) {
      auto& p = planner_part::of(*parts.planner);
      auto [z, planner_pullback] = plan_(cx_, p.weights, b.context, b.contexts);
      const_tensor<B> dz = through(z);
      if (how.planner_loss > 0) {
        const auto own = ops::cross_entropy(cx_, const_tensor<B>(z), b.labels, static_cast<accum>(how.planner_loss / double(b.labels.size())));
        dz = dz ? const_tensor<B>(ops::sum(cx_, dz, const_tensor<B>(own.dz))) : const_tensor<B>(own.dz);
      }
      if (dz) planner_pullback(dz, p.grads);
    } else {
      through(logits_for(parts, how, b));
    }
    return update(b.targets, total, rates.clip,
                  {{parts.adapters, rates.main}, {joint ? parts.planner : nullptr, rates.planner}, {parts.encoder, rates.main},
                   {lm.lm_trained() ? parts.lm : nullptr, rates.lm}});
  }

  std::vector<float> logits(const part& planner, const host_batch& host) override {
    auto scope = begin();
    const batch b = load(host);
    return floats(cx_.read(planner_logits(planner, b)));
  }
  std::vector<float> label_head_logits(const part& head, const part& lm, const host_batch& host) override {
    auto scope = begin();
    const batch b = load(host);
    const const_tensor<B> z = head_(cx_, head_part::of(head).weights, first_hidden(lm, b)).value;
    return floats(cx_.read(z));
  }
  std::vector<int> likely_labels(const part& lm, const host_batch& host, std::span<const int> rows) override {
    auto scope = begin();
    const batch b = load(host);
    const auto& weights = source::in(lm).lm_weights();
    const const_tensor<B> h = ops::gather_rows(cx_, hidden(weights, b), ids(rows));
    const const_tensor<B> of_labels(weights.token.table.row(sizes_.vocabulary), sizes_.labels, sizes_.width);
    const std::vector<int> nowhere(rows.size());
    const auto best = ops::sample(cx_, const_tensor<B>(ops::matmul_nt(cx_, h, of_labels)), {.greedy = true}, philox{}, ids(nowhere));
    return cx_.read(indices<B>(best.token));
  }

  std::vector<float> token_nll(const conditioned_parts& parts, const method& how, const host_batch& host) override {
    auto scope = begin();
    const batch b = load(host);
    const auto& weights = source::in(*parts.lm).lm_weights();
    const const_tensor<B> h = parts.adapters ? model_of(how.reach).hidden(cx_, weights, *parts.adapters, b.rows, input_for(parts, how, b))
                                             : hidden(weights, b);
    const const_tensor<B> table(weights.token.table.data, sizes_.vocabulary, sizes_.width);  // an extended model's labels are left out
    return floats(cx_.read(const_accum_tensor<B>(ops::linear_token_nll(cx_, h, table, b.rows.targets))));
  }

  std::string first_not_finite(const conditioned_parts& parts, const method& how, const host_batch& host) override {
    auto scope = begin();
    const auto bad = [&](const_tensor<B> x) { return cx_.read_one(ops::first_not_finite<B>(cx_, flat(x))) >= 0; };
    const auto at = [](const std::string& layer) { return "it appears first in the output of " + layer; };
    const std::string nowhere = "all layers are finite: it appears first in the logits or on the way back";
    const batch b = load(host);
    const auto& lm = source::in(*parts.lm).lm_weights();
    if (parts.adapters) {
      if (bad(logits_for(parts, how, b))) return at("the planner");
      const const_tensor<B> input = input_for(parts, how, b);
      if (bad(input)) return at(how.reach.from == conditioning::source::paths ? "the path encoder" : "the label mixture");
      const std::string layer = model_of(how.reach).first_not_finite(cx_, lm, *parts.adapters, b.rows, input);
      return layer.empty() ? nowhere : at(layer);
    }
    const_tensor<B> x = lm_.token()(cx_, lm.token, b.rows.tokens).value;
    x = lm_.position()(cx_, lm.position, x, b.rows.rows).value;
    if (bad(x)) return at("the embeddings");
    for (std::size_t i = 0; i < lm.blocks.size(); ++i) {
      x = lm_.block()(cx_, lm.blocks[i], x, b.rows.rows).value;
      if (bad(x)) return at("block " + std::to_string(i));
    }
    return bad(lm_.norm()(cx_, lm.norm, x).value) ? at("the last norm") : nowhere;
  }

  sentence_plans plan(const conditioned_parts& parts, const method& how, const host_batch& host) override {
    auto scope = begin();
    const batch b = load(host);
    sentence_plans out;
    if (how.reach.from == conditioning::source::paths) {
      const plan_paths<B> paths = paths_for(parts, how, b);
      const const_tensor<B> c = encoder_(cx_, encoder_part::of(*parts.encoder).weights, paths).value;
      out.inputs = floats(cx_.read(c));
      out.labels = most_frequent_first(cx_.read(paths.labels), paths);
      return out;
    }
    const const_tensor<B> z = logits_for(parts, how, b);
    const std::vector<float> w = std::visit(
        [&](const auto& chosen) { return floats(cx_.read(const_tensor<B>(as_policy(chosen, b).weights(cx_, z).value))); }, how.weights);
    const auto labels = static_cast<std::ptrdiff_t>(sizes_.labels);
    for (auto row = w.begin(); row != w.end(); row += labels) out.labels.push_back(static_cast<int>(std::max_element(row, row + labels) - row));
    out.inputs = how.reach.from == conditioning::source::table_per_layer ? w : floats(cx_.read(input_for(parts, how, b)));
    return out;
  }

  std::vector<continuation> generate(const conditioned_parts& parts, const method& how, const generation_request& request) override {
    cx_.training = false;
    const auto& weights = source::in(*parts.lm).lm_weights();
    if (parts.adapters) return model_of(how.reach).generate(cx_, weights, *parts.adapters, request);
    return generate_on(cx_, lm_, weights, request);
  }

 private:
  /// A batch as the backend sees it; lives until the scope of the step ends.
  struct batch {
    planned_rows<B> rows;
    indices<B> labels;        // (S)
    const_tensor<B> logits;   // (S, K)
    const_tensor<B> context;  // (R, label width)
    sequences<B> contexts;
    indices<B> coming, first_rows;
    index_t targets = 0, valid = 0;
  };
  struct update_of {
    part* which;
    double rate;
  };

  auto begin() {
    cx_.random = random;
    cx_.training = training;
    return cx_.scope();
  }
  static part_of<B>& of(part& p) { return dynamic_cast<part_of<B>&>(p); }
  conditioned<B>& model_of(const conditioning& reach) {
    for (auto& [which, model] : models_)
      if (which == reach) return *model;
    models_.emplace_back(reach, make_conditioned<B>(sizes_, reach));
    return *models_.back().second;
  }
  /// One step of every part that there is and that is trained, under one norm.
  step_result update(index_t tokens, double loss, double clip, std::initializer_list<update_of> parts) {
    std::array<tensor<B, 1>, 4> gradients{};
    std::size_t n = 0;
    for (const update_of& u : parts)
      if (u.which && of(*u.which).trained()) {
        of(*u.which).collect();
        gradients[n++] = of(*u.which).gradients();
      }
    const auto norm = clip_global_norm(cx_, clip, gradients[0], gradients[1], gradients[2], gradients[3]);
    const auto gradient = double(cx_.read_one(norm.norm));
    for (const update_of& u : parts)
      if (u.which && of(*u.which).trained()) of(*u.which).step(u.rate, norm);
    return {loss, tokens, gradient};
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
    if (!host.coming.empty()) b.coming = ids(host.coming);
    if (!host.first_rows.empty()) b.first_rows = ids(host.first_rows);
    b.targets = host.targets_given;
    b.valid = static_cast<index_t>(std::count_if(host.coming.begin(), host.coming.end(), [](int label) { return label >= 0; }));
    return b;
  }
  static accum mean_of(const batch& b) { return accum(1) / static_cast<accum>(b.targets); }
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

  const_tensor<B> hidden(const typename lm_type::params& weights, const batch& b) {
    return lm_(cx_, weights, b.rows.tokens, b.rows.rows).value;
  }
  /// (S, width); zeros for a sentence that does not begin here.
  const_tensor<B> first_hidden(const part& lm, const batch& b) {
    return ops::gather_rows(cx_, hidden(source::in(lm).lm_weights(), b), b.first_rows);
  }
  const_tensor<B> planner_logits(const part& p, const batch& b) {
    if (dynamic_cast<const look_ahead_part*>(&p)) return plan_(cx_, look_ahead_part::of(p).weights.plan, b.context, b.contexts).value;
    return plan_(cx_, planner_part::of(p).weights, b.context, b.contexts).value;
  }
  const_tensor<B> logits_for(const conditioned_parts& parts, const method&, const batch& b) {
    return parts.planner && b.context ? planner_logits(*parts.planner, b) : b.logits;
  }
  /// Paths of the look-ahead planner; of logits alone, as where a label is forced, their largest repeated.
  plan_paths<B> paths_for(const conditioned_parts& parts, const method& how, const batch& b) {
    const path_rule& rule = how.paths;
    if (rule.by == path_rule::choice::fixed) {
      const index_t sentences = b.contexts.count();
      return {ids(std::vector<int>(static_cast<std::size_t>(sentences * rule.steps))), sentences, 1, rule.steps};
    }
    if (!parts.planner) {
      const const_tensor<B> z = b.logits;
      const std::vector<real> host = cx_.read(z);
      std::vector<int> labels;
      for (index_t s = 0; s < z.rows(); ++s) {
        const auto row = host.begin() + s * z.cols();
        labels.insert(labels.end(), static_cast<std::size_t>(rule.steps), static_cast<int>(std::max_element(row, row + z.cols()) - row));
      }
      return {ids(labels), z.rows(), 1, rule.steps};
    }
    const auto& weights = look_ahead_part::of(*parts.planner).weights;
    switch (rule.by) {
      case path_rule::choice::most_probable: return argmax_paths(cx_, ahead_, weights, b.context, b.contexts, rule.steps);
      case path_rule::choice::beam: return beam_paths(cx_, ahead_, weights, b.context, b.contexts, rule.steps, rule.paths).paths;
      case path_rule::choice::fixed:
      case path_rule::choice::sampled: break;
    }
    return sample_paths(cx_, ahead_, weights, b.context, b.contexts, rule.steps, rule.paths, 1.0, cx_.random.with_stream(0x70617468));
  }
  static std::vector<int> most_frequent_first(const std::vector<int>& labels, const plan_paths<B>& paths) {
    std::vector<int> first;
    for (index_t s = 0; s < paths.sentences; ++s) {
      int best = -1, most = 0;
      for (index_t k = 0; k < paths.paths; ++k) {
        const auto label = [&](index_t j) { return labels[static_cast<std::size_t>((s * paths.paths + j) * paths.steps)]; };
        int count = 0;
        for (index_t j = 0; j < paths.paths; ++j) count += label(j) == label(k);
        if (count > most) most = count, best = label(k);
      }
      first.push_back(best);
    }
    return first;
  }
  /// f(input, back): what the adapters take, and its pullback -> dz, which also adds to the encoder's gradients.
  template <class F>
  const_tensor<B> with_input(const conditioned_parts& parts, const method& how, const batch& b, const_tensor<B> z, const F& f) {
    if (how.reach.from == conditioning::source::paths) {
      auto& encoder = encoder_part::of(*parts.encoder);
      auto [c, back] = encoder_(cx_, encoder.weights, paths_for(parts, how, b));
      return f(const_tensor<B>(c), [&, back = back](const_tensor<B> dc) {
        back(dc, encoder.grads);
        return const_tensor<B>{};
      });
    }
    return std::visit(
        [&](const auto& chosen) {
          const auto mix = as_policy(chosen, b);
          if (how.reach.from == conditioning::source::shared_table) {
            auto& table = table_part::of(*parts.encoder);
            auto [c, back] = table_(cx_, table.weights, z, mix);
            return f(const_tensor<B>(c), [&, back = back](const_tensor<B> dc) { return const_tensor<B>(back(dc, table.grads)); });
          }
          auto [w, back] = mix.weights(cx_, z);
          return f(const_tensor<B>(w), [back = back](const_tensor<B> dw) { return const_tensor<B>(back(dw)); });
        },
        how.weights);
  }
  const_tensor<B> input_for(const conditioned_parts& parts, const method& how, const batch& b) {
    return with_input(parts, how, b, logits_for(parts, how, b), [](const_tensor<B> input, const auto&) { return input; });
  }

  context<B> cx_;
  learner_sizes sizes_;
  lm_type lm_;
  planner<B> plan_;
  look_ahead<B> ahead_;
  linear<B> head_;
  label_mixture<B> table_;
  plan_encoder<B> encoder_;
  std::list<std::pair<conditioning, std::unique_ptr<conditioned<B>>>> models_;
  std::vector<real> rounded_;
};

}  // namespace train_planner_lm
