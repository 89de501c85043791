// The whole model on a backend that is none of ours, and what it says about a mixing policy or an adapter that is none.
#include <planlm/planlm.hpp>
#include "paper_backend.hpp"

using namespace planlm;
using B = paper<float>;

/// Hands the logits on as weights: not a distribution, but a policy.
struct as_they_are {
  auto weights(context<B>&, const_tensor<B> z) const {
    return vjp{z, [](const_tensor<B> dw) { return dw; }};
  }
};

struct no_weights {};

struct no_pullback {
  const_tensor<B> weights(context<B>&, const_tensor<B> z) const { return z; }
};

struct pullback_of_nothing {
  auto weights(context<B>&, const_tensor<B> z) const {
    return vjp{z, [](const_tensor<B>) {}};
  }
};

void use(context<B>& cx, planner_lm<B>::params& p, const planned_rows<B>& batch) {
  const planner_lm<B> model{{}, 4, 8, 0};
  const const_tensor<B> z;
#if CASE == 0
  {
    auto [h, pullback] = model(cx, p, batch, z, mixture{});
    pullback(h, p);
  }
  auto [h, pullback] = model(cx, p, batch, z, as_they_are{});
  pullback(h, p);
  const planner_lm<B, at_embedding, plan_adapter<B, context_gate<B>>> embedded{{}, {8, 128}};
  planner_lm<B, at_embedding, plan_adapter<B, context_gate<B>>>::params q;
  auto [e, back] = embedded(cx, q, batch, z);
  back(e, q);
#elif CASE == 1
  // expect: planlm: a mixing policy needs weights.context, logits. that returns vjp.weights, pullback
  model(cx, p, batch, z, no_weights{});
#elif CASE == 2
  // expect: planlm: a mixing policy needs weights.context, logits. that returns vjp.weights, pullback
  model(cx, p, batch, z, no_pullback{});
#elif CASE == 3
  // expect: planlm: a mixing policy.s pullback must return the gradient of the logits
  model(cx, p, batch, z, pullback_of_nothing{});
#elif CASE == 4
  // expect: (no match for call|no matching function|no instance of overloaded function)
  model(cx, p, batch, const_tensor<paper<double>>{}, mixture{});
#elif CASE == 5
  // expect: planlm: the third parameter of planner_lm is an adapter, such as label_adapter.B. or plan_adapter.B.
  const planner_lm<B, at_attention_output, no_gate<B>> gated{{}, 4, 8, 0};
#endif
}
