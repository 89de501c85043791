/// What the tests of models share: a small batch, and a planner trained together with the language model it conditions.
#pragma once
#include <span>
#include <utility>
#include <vector>
#include <planlm/models/planner_lm.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/planning/planner.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../layers/checks.hpp"

namespace planlm::testing {

/// Eleven rows in two chunks over 23 tokens; four sentences, of which the third crosses from one chunk into the other, with contexts of
/// one, three, two and four sentences. The batch of golden/planner_lm.json. Must outlive its views.
struct small_batch {
  std::vector<int> tokens{3, 17, 8, 0, 22, 11, 3, 14, 5, 20, 9}, targets{17, 8, 0, 22, 11, 3, 14, 5, 20, 9, 1};
  std::vector<int> sentence{0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3};
  packed chunks{7, 4}, contexts{1, 3, 2, 4};
  static constexpr index_t vocabulary = 23, longest = 8, sentences = 4;

  template <Backend B>
  planned_rows<B> view() const {
    return {as_indices<B>(tokens), as_indices<B>(targets), as_indices<B>(sentence), chunks.view<B>(), sentences};
  }
  template <Backend B>
  static indices<B> as_indices(const std::vector<int>& v) {
    return {v.data(), v.size()};
  }
};

/// The values of all tensors of a store, one after another without padding; and back.
template <Parametrised L>
std::vector<typename L::backend::real> read_all(context<typename L::backend>& cx, const parameters<L>& store, bool gradients = false) {
  std::vector<typename L::backend::real> all;
  for (std::size_t n = 0; n < store.slots().size(); ++n)
    for (const auto v : gradients ? store.read_gradient(cx, n) : store.read(cx, n)) all.push_back(v);
  return all;
}
template <Parametrised L>
std::size_t write_all(context<typename L::backend>& cx, parameters<L>& store, std::span<const typename L::backend::real> values) {
  std::size_t from = 0;
  for (std::size_t n = 0; n < store.slots().size(); ++n) {
    const auto size = static_cast<std::size_t>(store.slots()[n].spec.size());
    store.write(cx, n, values.subspan(from, size));
    from += size;
  }
  return from;
}

/// What one joint step computes, in host memory.
template <class T>
struct joint_outcome {
  double loss = 0;
  std::vector<T> planner_logits, hidden, dz;  // dz is empty where the policy lets no gradient through
};

/// Planner -> mixing policy -> language model -> mean cross-entropy, and back to every parameter.
template <class Model, class Mix = mixture, class Batch = small_batch>
struct joint {
  using B = typename Model::backend;
  using T = typename B::real;
  const Batch& batch;
  Model model;
  planner<B> plan;
  Mix mix;
  context<B> cx;
  parameters<Model> theta;
  parameters<planner<B>> phi;
  std::vector<T> embeddings;
  bool frozen = false;  // what the model is told about its language model

  /// Weights are moved off their initial values, so that zeros and ones do not hide a fault.
  joint(const Batch& rows, Model m, planner<B> p, Mix policy = {}, int threads = 1)
      : batch(rows), model(std::move(m)), plan(std::move(p)), mix(std::move(policy)), cx(typename B::queue(threads)),
        theta(perturbed(cx, model, 3)), phi(perturbed(cx, plan, 401)),
        embeddings(normal_values<T>(batch.contexts.rows() * plan.width, 77)) {}

  const_tensor<B> z() const { return {embeddings.data(), batch.contexts.rows(), plan.width}; }

  joint_outcome<T> run() { return run(theta.grads, phi.grads); }
  /// One forward pass and the pullbacks; gradients are added where `g` and `h` point.
  joint_outcome<T> run(typename Model::params& g, const typename planner<B>::params& h, bool want_dz = true) {
    auto scope = cx.scope();
    auto [s, planner_pullback] = plan(cx, phi.weights, z(), batch.contexts.template view<B>());
    auto [y, pullback] = model(cx, theta.weights, batch.template view<B>(), const_tensor<B>(s), mix, frozen);
    const auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(y), const_tensor<B>(theta.weights.lm.token.table),
                                                small_batch::as_indices<B>(batch.targets), const_tensor<B, 1>{},
                                                T(1) / T(batch.targets.size()), g.lm.token.table);
    const const_tensor<B> dz = pullback(loss.dhidden, g, want_dz);
    if (dz) planner_pullback(dz, h);
    return {double(cx.read_one(loss.total)), cx.read(const_tensor<B>(s)), cx.read(const_tensor<B>(y)), cx.read(dz)};
  }
  /// The loss alone, the planner replaced by the logits given (S, K).
  double loss_at(const std::vector<T>& logits) {
    auto scope = cx.scope();
    const const_tensor<B> s(logits.data(), small_batch::sentences, plan.labels);
    const auto y = model(cx, theta.weights, batch.template view<B>(), s, mix).value;
    return double(cx.read_one(ops::linear_cross_entropy(cx, const_tensor<B>(y), const_tensor<B>(theta.weights.lm.token.table),
                                                        small_batch::as_indices<B>(batch.targets), const_tensor<B, 1>{},
                                                        T(1) / T(batch.targets.size()), tensor<B>{})
                                  .total));
  }
  void zero_grads() {
    theta.zero_grads(cx);
    phi.zero_grads(cx);
  }

  /// Finite differences along directions in which every parameter of the language model, the adapters and the planner moves.
  double gradient_error(check_options o = {}) {
    poison(cx);
    auto load = [&](const std::vector<double>& v) {
      const std::size_t used = write_all(cx, theta, std::span<const double>(v));
      write_all(cx, phi, std::span<const double>(v).subspan(used));
    };
    std::vector<double> at = read_all(cx, theta);
    for (const double v : read_all(cx, phi)) at.push_back(v);
    auto loss = [&](const std::vector<double>& v) {
      load(v);
      auto scope = cx.scope();
      const auto s = plan(cx, phi.weights, z(), batch.contexts.template view<B>()).value;
      return loss_at(cx.read(const_tensor<B>(s)));
    };
    auto gradient = [&](const std::vector<double>& v) {
      load(v);
      zero_grads();
      run();
      std::vector<double> g = read_all(cx, theta, true);
      for (const double d : read_all(cx, phi, true)) g.push_back(d);
      return g;
    };
    return directional_error(at, loss, gradient, o);
  }
};

}  // namespace planlm::testing
