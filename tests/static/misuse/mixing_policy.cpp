// What a mixing policy has to bring, and what the models that take one say when it does not.
#include <planlm/models/planner_lm.hpp>
#include <planlm/planning/label_mixture.hpp>
#include "paper_backend.hpp"

using namespace planlm;
using B = paper<float>;

/// A user's policy: the weights are the logits.
struct identity {
  auto weights(context<B>&, const_tensor<B> z) const {
    return vjp{z, [](const_tensor<B> dw) { return dw; }};
  }
};
struct without_pullback {
  auto weights(context<B>&, const_tensor<B> z) const { return z; }
};
struct pullback_of_nothing {
  auto weights(context<B>&, const_tensor<B> z) const {
    return vjp{z, [](const_tensor<B>) {}};
  }
};
struct without_weights {};

void use(context<B>& cx, const label_mixture<B>::params& p, const planner_lm<B>::params& q, const planned_rows<B>& rows) {
  const label_mixture<B> mix{3, 2};
  const planner_lm<B> model({5, 4, 2, 1, 1}, 3, 2, 0);
  const const_tensor<B> z;
#if CASE == 0
  mix(cx, p, z, identity{});
  mix(cx, p, z, top_k{});
  model(cx, q, rows, z, identity{});
  model(cx, q, rows, z);
#elif CASE == 1
  // expect: planlm: a mixing policy needs weights.context, logits. that returns vjp.weights, pullback.
  mix(cx, p, z, without_pullback{});
#elif CASE == 2
  // expect: planlm: a mixing policy needs weights.context, logits. that returns vjp.weights, pullback.
  model(cx, q, rows, z, without_pullback{});
#elif CASE == 3
  // expect: planlm: a mixing policy's pullback must return the gradient of the logits
  model(cx, q, rows, z, pullback_of_nothing{});
#elif CASE == 4
  // expect: planlm: a mixing policy needs weights.context, logits. that returns vjp.weights, pullback.
  model(cx, q, rows, z, without_weights{});
#elif CASE == 5
  // expect: planlm: a mixing policy needs weights.context, logits. that returns vjp.weights, pullback.
  mix(cx, p, z, oracle<paper<double>>{});
#endif
  (void)cx, (void)p, (void)q, (void)rows, (void)mix, (void)model, (void)z;
}
