/// The table of variants.
#include "variants.hpp"
#include <algorithm>
#include <utility>
#include <planlm/core/error.hpp>

namespace train_planner_lm {
namespace {

template <class Value>
Value one_of(const char* flag, const std::string& name, const std::vector<std::pair<const char*, Value>>& known) {
  std::string list;
  for (const auto& [word, value] : known) {
    if (name == word) return value;
    list += (list.empty() ? "" : ", ") + std::string(word);
  }
  throw input_error(std::string(flag) + ": there is no '" + name + "'; choose from " + list);
}

using place = conditioning::place;
using gating = conditioning::gating;
using source = conditioning::source;

/// What the flags say of every variant.
variant_plan base(const options& o) {
  variant_plan v;
  conditioning c;
  c.where = one_of<place>("--placement", o.placement, {{"attention", place::attention_output}, {"feed-forward", place::feed_forward_input},
                                                       {"embedding", place::embedding}, {"inserted", place::inserted}, {"prefix", place::prefix}});
  c.gate = one_of<gating>("--gate", o.gate, {{"none", gating::none}, {"zero", gating::zero}, {"one", gating::one}, {"learned", gating::learned},
                                             {"context", gating::context}});
  c.from = one_of<source>("--tables", o.tables, {{"per-layer", source::table_per_layer}, {"shared", source::shared_table}});
  v.train.reach = v.test.reach = c;
  v.train.planner_loss = o.planner_loss;
  v.lm = one_of<tuning>("--tuning", o.tuning, {{"frozen", tuning::frozen}, {"lora", tuning::low_rank}, {"full", tuning::full}});
  v.tables = one_of<table_start>("--table-start", o.table_start, {{"centroids", table_start::centroids}, {"random", table_start::random},
                                                                  {"free", table_start::free}});
  return v;
}

}  // namespace

std::vector<std::string> group_names() { return {"all", "paper", "paths", "tuning", "placements", "gates", "tables", "internal"}; }

std::vector<variant_plan> variants_of(const options& o) {
  std::vector<variant_plan> all;
  const variant_plan start = base(o);
  const auto add = [&](const char* group, const char* name, const char* about, const policy& train, const policy& test) -> variant_plan& {
    variant_plan v = start;
    v.group = group, v.name = name, v.about = about;
    v.train.weights = train, v.test.weights = test;
    all.push_back(std::move(v));
    return all.back();
  };
  add("paper", "none", "the base language model as it is", fixed{}, fixed{}).adapted = false;
  add("paper", "fixed", "one label everywhere: what adapters bring without a plan", fixed{}, fixed{}).control = "";
  add("paper", "uniform", "all labels alike", uniform{}, uniform{});
  add("paper", "sampled", "one label drawn from the planner", sampled{}, sampled{});
  add("paper", "oracle-predicted", "trained on true labels, tested on predicted ones", oracle_labels{}, hard{}).trained_as = "oracle-oracle";
  add("paper", "predicted", "the planner's most probable label", hard{}, hard{});
  add("paper", "mixture-frozen", "the planner's whole distribution, the planner frozen", mixture{}, mixture{});
  add("paper", "top5-frozen", "its five most probable labels", top_k{5}, top_k{5});
  add("paper", "mixture-tempered", "the frozen mixture sharpened by a temperature tuned on validation documents", mixture{}, mixture{})
      .temperatures = {0.75, 0.5, 0.35, 0.25};
  add("paper", "straight-through", "argmax forward, mixture backward, trained jointly", straight_through{}, hard{}).joint = true;
  add("paper", "gumbel", "noisy mixture in training, plain at test, trained jointly", gumbel_softmax{}, mixture{}).joint = true;
  {
    variant_plan& v = add("paper", "mixture-joint-delayed", "joint, the planner thawed later", mixture{}, mixture{});
    v.joint = v.delayed = true;
  }
  {
    variant_plan& v = add("paper", "mixture-joint-guided", "joint, with the planner's own cross-entropy at a tenth", mixture{}, mixture{});
    v.joint = true, v.train.planner_loss = 0.1;
  }
  add("paper", "mixture-joint", "the planner trained through the language model", mixture{}, mixture{}).joint = true;
  add("paper", "oracle-oracle", "told the true label: a bound, no language model", oracle_labels{}, oracle_labels{});

  const auto paths = [&](const char* name, const char* about, path_rule::choice by, int count, int steps) {
    variant_plan& v = add("paths", name, about, mixture{}, mixture{});
    v.labels_by = predictor::look_ahead;
    v.train.reach = {place::attention_output, start.train.reach.gate == gating::context ? gating::none : start.train.reach.gate, source::paths};
    v.train.paths = {by, count, steps};
    if (by == path_rule::choice::fixed) v.train.weights = fixed{};
    v.test = v.train;
    v.control = by == path_rule::choice::fixed ? "" : "paths-fixed";
  };
  using choice = path_rule::choice;
  paths("paths-fixed", "one path everywhere: what the encoder of paths brings without a plan", choice::fixed, 1, o.path_steps);
  paths("path-argmax", "the most probable label at each of --path-steps steps", choice::most_probable, 1, o.path_steps);
  paths("path-beam", "the best paths of a beam as wide as --paths", choice::beam, o.paths, o.path_steps);
  paths("paths-1-step", "--paths labels drawn, one step", choice::sampled, o.paths, 1);
  paths("paths-2-steps", "--paths paths of two steps drawn", choice::sampled, o.paths, 2);
  paths("paths-3-steps", "--paths paths of three steps drawn", choice::sampled, o.paths, 3);
  paths("paths-4-steps", "--paths paths of four steps drawn", choice::sampled, o.paths, 4);

  const auto tuned = [&](const char* name, const char* about, const policy& p, bool joint, tuning lm) {
    variant_plan& v = add("tuning", name, about, p, p);
    v.joint = joint, v.lm = lm;
    const std::string own = lm == tuning::low_rank ? "fixed-lora" : "fixed-full";
    v.control = v.name == own ? "" : own;
  };
  tuned("fixed-lora", "one label everywhere, low-rank updates of the language model", fixed{}, false, tuning::low_rank);
  tuned("mixture-frozen-lora", "mixture, planner frozen, low-rank updates", mixture{}, false, tuning::low_rank);
  tuned("mixture-joint-lora", "mixture, all trained, low-rank updates", mixture{}, true, tuning::low_rank);
  tuned("fixed-full", "one label everywhere, the whole language model trained", fixed{}, false, tuning::full);
  tuned("mixture-frozen-full", "mixture, planner frozen, the whole language model trained", mixture{}, false, tuning::full);
  tuned("mixture-joint-full", "mixture, everything trained", mixture{}, true, tuning::full);

  const auto placed = [&](const char* name, const char* about, place where, const policy& p = mixture{}, const char* control = "fixed") {
    variant_plan& v = add("placements", name, about, p, p);
    v.control = control;
    v.train.reach = v.test.reach = {where, start.train.reach.gate == gating::context ? gating::none : start.train.reach.gate, source::table_per_layer};
  };
  placed("at-feed-forward", "frozen mixture, added at the feed-forward input", place::feed_forward_input);
  placed("at-embedding", "frozen mixture, added to the embedding", place::embedding);
  placed("inserted-fixed", "the same token of its own at every sentence: what a place to attend to brings without a plan", place::inserted, fixed{}, "");
  placed("inserted-token", "frozen mixture, a token of its own at every sentence; windows hold less text", place::inserted, mixture{},
         "inserted-fixed");
  placed("prefix-fixed", "the same tokens before every chunk", place::prefix, fixed{}, "");
  placed("prefix", "frozen mixture, --prefix-rows tokens before every chunk, the plan of its first sentence; windows hold less text", place::prefix,
         mixture{}, "prefix-fixed");

  const auto gated = [&](const char* name, const char* about, gating gate) {
    variant_plan& v = add("gates", name, about, mixture{}, mixture{});
    v.train.reach.gate = v.test.reach.gate = gate;
    if (gate == gating::context) v.train.reach = v.test.reach = {place::attention_output, gate, source::table_per_layer};
  };
  gated("gate-zero", "frozen mixture, gate learned from zero", gating::zero);
  gated("gate-one", "frozen mixture, gate learned from one", gating::one);
  gated("gate-learned", "frozen mixture, gate learned from noise", gating::learned);
  gated("gate-context", "frozen mixture, gate computed from plan and text", gating::context);

  {
    variant_plan& v = add("tables", "table-shared", "frozen mixture, one table for all layers", mixture{}, mixture{});
    v.train.reach = v.test.reach = {place::attention_output, start.train.reach.gate == gating::context ? gating::none : start.train.reach.gate,
                                    source::shared_table};
  }
  add("tables", "table-random", "frozen mixture, tables begin as noise in [0, 1)", mixture{}, mixture{}).tables = table_start::random;
  add("tables", "table-free", "frozen mixture, tables begin as ordinary embeddings", mixture{}, mixture{}).tables = table_start::free;

  add("internal", "lm-as-planner", "labels predicted from the language model's hidden state, as tokens of its vocabulary", hard{}, hard{})
      .labels_by = predictor::language_model;
  {
    variant_plan& v = add("internal", "planning-tokens", "labels as tokens in the text, predicted by the language model, which is trained whole; windows hold less text",
                          fixed{}, fixed{});
    v.lm = tuning::full, v.adapted = false, v.planning_tokens = true, v.control = "fixed-full";
  }
  return all;
}

variant_plan plan_of(const std::string& name, const options& o) {
  for (variant_plan& v : variants_of(o))
    if (v.name == name) return v;
  throw input_error("--variants: there is no variant '" + name + "'");
}

std::vector<std::string> variant_names(const options& o, const std::string& group) {
  std::vector<std::string> names;
  const std::vector<variant_plan> all = variants_of(o);
  const auto chosen = [&](const variant_plan& v) { return group == "all" || v.group == group; };
  for (const variant_plan& v : all) {
    const bool compared = std::any_of(all.begin(), all.end(), [&](const variant_plan& w) { return chosen(w) && w.control == v.name; });
    if (chosen(v) || compared) names.push_back(v.name);
  }
  return names;
}

}  // namespace train_planner_lm
