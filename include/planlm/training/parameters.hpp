/// The parameter store: one flat buffer of weights, one of gradients, and structs of views into them.
#pragma once
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/core/error.hpp>
#include <planlm/layers/layer.hpp>

namespace planlm {

/// Where a named tensor lies in the flat buffers.
struct parameter_slot {
  parameter_spec spec;
  index_t offset;
};

/// Parameters of model M. `weights` and `grads` are `M::params`; a store without gradients is a frozen one: its `grads` are empty views.
///
///     parameters theta{cx, model, philox{seed}};
///     auto [y, pullback] = model(cx, theta.weights, x);
///     pullback(dy, theta.grads);
template <Parametrised M>
class parameters {
 public:
  using backend = typename M::backend;
  using real = typename backend::real;
  enum class gradients { none, kept };

  /// Draws initial values from `random`; parameter number n uses stream random.stream + n. The layout pads each tensor to 16 values.
  parameters(context<backend>& cx, const M& model, philox random, gradients kind = gradients::kept) {
    index_t size = 0;
    auto lay_out = [&](const parameter_spec& spec) {
      if (spec.size() < 1)
        throw shape_error("parameters: '" + spec.name + "' has " + std::to_string(spec.size()) + " values; every extent must be positive");
      slots_.push_back({spec, size});
      size += (spec.size() + 15) / 16 * 16;
    };
    model.each_param(lay_out);
    weights_ = buffer<backend>(cx, size);
    bind(model, weights_, weights);
    if (kind == gradients::kept) {
      grads_ = buffer<backend>(cx, size);
      bind(model, grads_, grads);
    } else {
      std::size_t n = 0;
      auto leave_empty = [&](const parameter_spec&, auto&) { ++n; };
      model.each_param(leave_empty, grads);  // gives stacks their depth
    }
    std::vector<real> host;
    for (std::size_t n = 0; n < slots_.size(); ++n) {
      draw(slots_[n].spec, random.with_stream(random.stream + static_cast<std::uint32_t>(n)), host);
      write(cx, n, host);
    }
  }

  typename M::params weights{}, grads{};

  tensor<backend, 1> flat_weights() const { return weights_.values(); }
  /// Empty if the store keeps no gradients.
  tensor<backend, 1> flat_grads() const { return grads_.values(); }
  const std::vector<parameter_slot>& slots() const { return slots_; }
  /// Values that are parameters, padding not counted.
  index_t count() const {
    index_t n = 0;
    for (const parameter_slot& s : slots_) n += s.spec.size();
    return n;
  }
  /// The number of the tensor called `name`; throws planlm::error with the nearest names if there is none.
  std::size_t find(const std::string& name) const {
    for (std::size_t n = 0; n < slots_.size(); ++n)
      if (slots_[n].spec.name == name) return n;
    throw error("parameters: there is no tensor '" + name + "'; the first is '" + (slots_.empty() ? "" : slots_[0].spec.name) + "'");
  }
  /// Replaces tensor number n.
  void write(context<backend>& cx, std::size_t n, std::span<const real> values) {
    const parameter_slot& s = slots_.at(n);
    if (static_cast<index_t>(values.size()) != s.spec.size())
      throw shape_error("parameters: '" + s.spec.name + "' has " + std::to_string(s.spec.size()) + " values, " +
                        std::to_string(values.size()) + " were given");
    backend::upload(cx.queue(), weights_.values().data + s.offset, values.data(), values.size_bytes());
  }
  std::vector<real> read(context<backend>& cx, std::size_t n) const { return read_from(cx, weights_, n); }
  std::vector<real> read_gradient(context<backend>& cx, std::size_t n) const { return read_from(cx, grads_, n); }
  /// Copies all weights of another store of the same model.
  void copy_weights(context<backend>& cx, const parameters& from) {
    if (from.weights_.size() != weights_.size()) throw shape_error("parameters: copy_weights between stores of different models");
    backend::copy(cx.queue(), weights_.values().data, from.weights_.values().data, static_cast<std::size_t>(weights_.size()) * sizeof(real));
  }
  void zero_grads(context<backend>& cx) {
    if (grads_.size()) backend::zero(cx.queue(), grads_.values().data, static_cast<std::size_t>(grads_.size()) * sizeof(real));
  }

 private:
  void bind(const M& model, const buffer<backend>& memory, typename M::params& views) {
    std::size_t n = 0;
    auto point = [&](const parameter_spec& spec, auto& tensor) {
      tensor.data = memory.values().data + slots_[n++].offset;
      for (int axis = 0; axis < tensor.rank; ++axis) tensor.extents[axis] = spec.extents[axis];
    };
    model.each_param(point, views);
  }
  static void draw(const parameter_spec& spec, philox random, std::vector<real>& values) {
    values.assign(static_cast<std::size_t>(spec.size()), spec.start == initial::ones ? real(1) : real(0));
    if (spec.start == initial::normal)
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<real>(spec.scale * random.normal(i, 0));
    if (spec.start == initial::uniform)
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<real>(spec.scale * (2 * random.uniform(i, 0) - 1));
  }
  std::vector<real> read_from(context<backend>& cx, const buffer<backend>& memory, std::size_t n) const {
    const parameter_slot& s = slots_.at(n);
    std::vector<real> host(static_cast<std::size_t>(s.spec.size()));
    backend::download(cx.queue(), host.data(), memory.values().data + s.offset, host.size() * sizeof(real));
    backend::synchronize(cx.queue());
    return host;
  }

  std::vector<parameter_slot> slots_;
  buffer<backend> weights_, grads_;
};

}  // namespace planlm
