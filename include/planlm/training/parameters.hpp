/// The parameter store: one flat buffer of weights, one of gradients, and structs of views into them.
///
/// Where a backend stores less than it computes in (real is not accum), a step smaller than half a unit of the last stored place would be
/// lost. The store then keeps the weights twice: the master in accum, which optimisers change and files hold, and its rounded copy, which
/// layers read.
#pragma once
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/error.hpp>
#include <planlm/layers/layer.hpp>

namespace planlm {

/// Where a named tensor lies in the flat buffers.
struct parameter_slot {
  parameter_spec spec;
  index_t offset;
};

namespace detail {
template <Backend B>
struct master_weights {
  accum_tensor<B> master;
  tensor<B, 1> rounded;
  index_t size() const { return master.size(); }
  operator accum_tensor<B>() const { return master; }
  operator const_accum_tensor<B>() const { return master; }
};
}  // namespace detail

/// Whether backend B stores weights in the type it computes in.
template <class B>
inline constexpr bool stores_all_digits = std::is_same_v<typename B::real, typename B::accum>;

/// All weights of a store, flat (n), as optimisers take them: a tensor<B, 1>, or the pair {master, rounded} that is written in one pass.
/// Either converts to an accum_tensor<B>, the values that count.
template <Backend B>
using flat_weights = std::conditional_t<stores_all_digits<B>, tensor<B, 1>, detail::master_weights<B>>;

namespace kernel {
template <class T>
struct round_weights {
  const accum_of<T>* master;
  T* rounded;
  PLANLM_HD void operator()(index_t i) const { rounded[i] = master[i]; }
};
}  // namespace kernel

/// Makes the rounded copy that of the master again: to be called by whoever wrote into a master. Nothing where there is one copy.
template <Backend B>
void round_weights(context<B>& cx, std::type_identity_t<flat_weights<B>> weights) {
  if constexpr (!stores_all_digits<B>)
    B::for_each(cx.queue(), weights.size(), kernel::round_weights<typename B::real>{weights.master.data, weights.rounded.data});
}
/// Replaces all flat weights by host values, one for each.
template <Backend B>
void write_weights(context<B>& cx, std::type_identity_t<flat_weights<B>> weights, std::span<const typename B::accum> values) {
  const accum_tensor<B> to = weights;
  if (static_cast<index_t>(values.size()) != to.size())
    throw shape_error("write_weights: " + std::to_string(values.size()) + " values for " + std::to_string(to.size()) + " weights");
  B::upload(cx.queue(), to.data, values.data(), values.size_bytes());
  round_weights<B>(cx, weights);
}

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
  using accum = typename backend::accum;
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
    if constexpr (!stores_all_digits<backend>) master_ = buffer<backend, accum>(cx, size);
    bind(model, weights_, weights);
    if (kind == gradients::kept) {
      grads_ = buffer<backend>(cx, size);
      bind(model, grads_, grads);
    } else {
      std::size_t n = 0;
      auto leave_empty = [&](const parameter_spec&, auto&) { ++n; };
      model.each_param(leave_empty, grads);  // gives stacks their depth
    }
    std::vector<accum> host;
    for (std::size_t n = 0; n < slots_.size(); ++n) {
      draw(slots_[n].spec, random.with_stream(random.stream + static_cast<std::uint32_t>(n)), host);
      write(cx, n, host);
    }
  }

  typename M::params weights{}, grads{};

  planlm::flat_weights<backend> flat_weights() const {
    if constexpr (stores_all_digits<backend>) return weights_.values();
    else return {master_.values(), weights_.values()};
  }
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
  void write(context<backend>& cx, std::size_t n, std::span<const accum> values) {
    const parameter_slot& s = slots_.at(n);
    if (static_cast<index_t>(values.size()) != s.spec.size())
      throw shape_error("parameters: '" + s.spec.name + "' has " + std::to_string(s.spec.size()) + " values, " +
                        std::to_string(values.size()) + " were given");
    write_weights<backend>(cx, part_of_weights(s.offset, s.spec.size()), values);
  }
  /// Tensor number n with all its digits.
  std::vector<accum> read(context<backend>& cx, std::size_t n) const {
    return read_from(cx, accum_tensor<backend>(flat_weights()), n);
  }
  std::vector<real> read_gradient(context<backend>& cx, std::size_t n) const { return read_from(cx, grads_.values(), n); }
  /// Copies all weights of another store of the same model.
  void copy_weights(context<backend>& cx, const parameters& from) {
    if (from.weights_.size() != weights_.size()) throw shape_error("parameters: copy_weights between stores of different models");
    backend::copy(cx.queue(), weights_.values().data, from.weights_.values().data, static_cast<std::size_t>(weights_.size()) * sizeof(real));
    if constexpr (!stores_all_digits<backend>)
      backend::copy(cx.queue(), master_.values().data, from.master_.values().data, static_cast<std::size_t>(master_.size()) * sizeof(accum));
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
  static void draw(const parameter_spec& spec, philox random, std::vector<accum>& values) {
    const double start = spec.start == initial::ones ? 1 : spec.start == initial::constant ? spec.scale : 0;
    values.assign(static_cast<std::size_t>(spec.size()), static_cast<accum>(start));
    if (spec.start == initial::normal)
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<accum>(spec.scale * random.normal(i, 0));
    if (spec.start == initial::uniform)
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<accum>(spec.scale * (2 * random.uniform(i, 0) - 1));
  }
  planlm::flat_weights<backend> part_of_weights(index_t offset, index_t size) const {
    const tensor<backend, 1> weights(weights_.values().data + offset, size);
    if constexpr (stores_all_digits<backend>) return weights;
    else return {accum_tensor<backend>(master_.values().data + offset, size), weights};
  }
  template <class T>
  std::vector<T> read_from(context<backend>& cx, view<T, 1, typename backend::space> flat, std::size_t n) const {
    const parameter_slot& s = slots_.at(n);
    std::vector<T> host(static_cast<std::size_t>(s.spec.size()));
    backend::download(cx.queue(), host.data(), flat.data + s.offset, host.size() * sizeof(T));
    backend::synchronize(cx.queue());
    return host;
  }

  std::vector<parameter_slot> slots_;
  buffer<backend> weights_, grads_;
  buffer<backend, accum> master_;  // empty where `weights_` holds all digits
};

}  // namespace planlm
