/// What the tests of looking ahead share: a small planner with weights and contexts, a scalar check of gradients, and the golden file.
#pragma once
#include <cmath>
#include <cstdint>
#include <fstream>
#include <string>
#include <utility>
#include <vector>
#include <nlohmann/json.hpp>
#include <planlm/planning/look_ahead.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../models/joint.hpp"

namespace planlm::testing {

template <Backend B>
const_tensor<B> as_matrix(const std::vector<typename B::real>& v, index_t rows) {
  return {v.data(), rows, static_cast<index_t>(v.size()) / rows};
}
template <Backend B>
indices<B> as_list(const std::vector<int>& v) {
  return {v.data(), v.size()};
}

/// A look-ahead planner over four contexts of one, three, two and four sentences.
template <class T>
struct look_ahead_case {
  using B = cpu<T>;
  using values = std::vector<T>;
  packed contexts{1, 3, 2, 4};
  static constexpr index_t sentences = 4;
  look_ahead<B> model;
  context<B> cx;
  parameters<look_ahead<B>> theta;
  values z;

  explicit look_ahead_case(look_ahead<B> m, int threads = 1, double scale = 0.3)
      : model(std::move(m)), cx(typename B::queue(threads)), theta(perturbed(cx, model, 3, scale)),
        z(normal_values<T>(contexts.rows() * model.plan.width, 7)) {}

  const_tensor<B> input() const { return as_matrix<B>(z, contexts.rows()); }
  sequences<B> seq() const { return contexts.template view<B>(); }
  index_t labels() const { return model.plan.labels; }

  values logits(const std::vector<int>& given = {}) {
    auto scope = cx.scope();
    poison(cx, 50000);
    return cx.read(const_tensor<B>(model(cx, theta.weights, input(), seq(), as_list<B>(given)).value));
  }
  /// All gradients, tensor by tensor, of <ds, logits>; each tensor starts at `before`, an empty view in `g` stays there.
  std::vector<values> gradients(const std::vector<int>& given, const values& ds, const typename look_ahead<B>::params& g, T before = 0) {
    auto scope = cx.scope();
    poison(cx, 50000);
    const values start(static_cast<std::size_t>(theta.flat_grads().size()), before);
    B::upload(cx.queue(), theta.flat_grads().data, start.data(), start.size() * sizeof(T));
    auto [s, pullback] = model(cx, theta.weights, input(), seq(), as_list<B>(given));
    pullback(as_matrix<B>(ds, s.rows()), g);
    std::vector<values> all;
    for (std::size_t n = 0; n < theta.slots().size(); ++n) all.push_back(theta.read_gradient(cx, n));
    return all;
  }
  std::vector<values> gradients(const std::vector<int>& given, const values& ds) { return gradients(given, ds, theta.grads); }
};

/// Finite differences of <dy, layer(x...)> over all parameters of a layer that has no input gradient; `call(weights)` -> vjp.
template <Parametrised L, class Call>
double parameter_error(context<typename L::backend>& cx, const L& layer, const Call& call, check_options options = {}) {
  using B = typename L::backend;
  auto theta = perturbed(cx, layer);
  const auto upstream = [](index_t size) { return normal_values(size, 8); };
  auto loss = [&](const std::vector<double>& at) {
    auto scope = cx.scope();
    write_all(cx, theta, std::span<const double>(at));
    const std::vector<double> y = cx.read(const_tensor<B>(call(theta.weights).value));
    const std::vector<double> dy = upstream(static_cast<index_t>(y.size()));
    double total = 0;
    for (std::size_t i = 0; i < y.size(); ++i) total += y[i] * dy[i];
    return total;
  };
  auto gradient = [&](const std::vector<double>& at) {
    auto scope = cx.scope();
    poison(cx, 50000);
    write_all(cx, theta, std::span<const double>(at));
    theta.zero_grads(cx);
    auto [y, pullback] = call(theta.weights);
    const std::vector<double> dy = upstream(y.size());
    pullback(as_matrix<B>(dy, y.rows()), theta.grads);
    return read_all(cx, theta, true);
  };
  return directional_error(read_all(cx, theta), loss, gradient, options);
}

/// One case of golden/look_ahead.json.
class look_ahead_golden {
 public:
  using numbers = std::vector<double>;
  explicit look_ahead_golden(const std::string& name)
      : case_(nlohmann::json::parse(std::ifstream(PLANLM_GOLDEN "/look_ahead.json")).at("cases").at(name)) {}

  template <class T = index_t>
  T size(const char* name) const {
    return case_.at("sizes").at(name).get<T>();
  }
  /// Array `name` of the case itself: inputs that are no parameter.
  numbers array(const char* name) const { return hashed(case_.at(name)); }
  template <Parametrised L>
  bool fill(context<typename L::backend>& cx, parameters<L>& theta) const {
    for (const auto& each : case_.at("arrays")) theta.write(cx, theta.find(each.at("name")), hashed(each));
    return theta.slots().size() == case_.at("arrays").size();
  }
  bool holds(const char* name, const numbers& ours) const { return agree(ours, case_.at(name)); }
  /// The first tensor whose gradient differs, empty if there is none.
  template <Parametrised L>
  std::string wrong_gradient(context<typename L::backend>& cx, const parameters<L>& theta) const {
    for (std::size_t n = 0; n < theta.slots().size(); ++n)
      if (!agree(theta.read_gradient(cx, n), case_.at("gradients").at(theta.slots()[n].spec.name))) return theta.slots()[n].spec.name;
    return "";
  }

 private:
  /// tests/golden/hashed.py says how its elements are made.
  static numbers hashed(const nlohmann::json& array) {
    std::size_t count = 1;
    for (const auto& extent : array.at("shape")) count *= extent.get<std::size_t>();
    const auto number = array.at("number").get<std::uint32_t>();
    const auto scale = array.at("scale").get<double>(), offset = array.at("offset").get<double>();
    numbers out(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
      h ^= h >> 15;
      h *= 2246822519u;
      h ^= h >> 13;
      out[i] = static_cast<float>(offset + (h / 4294967296.0 - 0.5) * scale);
    }
    return out;
  }
  /// The file keeps nine digits: half a unit of the last; sums of many terms may cancel to 1e-12.
  static bool agree(const numbers& ours, const nlohmann::json& expected) {
    const auto theirs = expected.is_array() ? expected.get<numbers>() : numbers{expected.get<double>()};
    if (ours.size() != theirs.size()) return false;
    for (std::size_t i = 0; i < ours.size(); ++i)
      if (!(std::abs(ours[i] - theirs[i]) <= 5.01e-9 * std::abs(theirs[i]) + 1e-12)) return false;
    return true;
  }
  nlohmann::json case_;
};

}  // namespace planlm::testing
