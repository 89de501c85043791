/// A planner-conditioned model whose layers share one table of label embeddings: label_mixture once, a plan_adapter in every layer.
#pragma once
#include <planlm/models/planner_lm.hpp>
#include <planlm/planning/label_mixture.hpp>

namespace planlm::testing {

/// Called like planner_lm with logits and a policy. Parameters: labels.table, and those of the model.
template <class Model>
struct with_shared_table {
  using backend = typename Model::backend;
  using B = backend;
  struct params : Model::params {
    typename label_mixture<B>::params labels;
  };
  Model model;
  label_mixture<B> labels;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_labels = within("labels", f);
    labels.each_param(in_labels, p.labels...);
    model.each_param(f, p...);
  }
  template <class Mix>
  auto operator()(context<B>& cx, const params& p, const planned_rows<B>& batch, const_tensor<B> z, const Mix& mix, bool frozen = false) const {
    auto [c, mixture_pullback] = labels(cx, p.labels, z, mix);                                    // (S, label width), once
    auto [h, pullback] = model(cx, p, batch, const_tensor<B>(c), frozen);
    return vjp{h, [mixture_pullback = mixture_pullback, pullback = pullback](const_tensor<B> dh, params& g, bool = true) {
                 return const_tensor<B>(mixture_pullback(pullback(dh, g), g.labels));
               }};
  }
};

}  // namespace planlm::testing
