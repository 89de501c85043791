/// What a layer is, and how its parameters are visited.
///
/// A layer is configuration. Parameters, gradients and activations are values it is given. Calling it returns its output and its pullback:
///
///     auto [y, pullback] = layer(cx, p, x);     // x (N, in) -> y (N, out)
///     auto dx = pullback(dy, g);                // g += parameter gradients, dx = activation gradient
///
/// `p` and `g` are the same struct of views, `L::params`. An empty view in `g` means that the parameter is frozen: nothing is computed for it.
#pragma once
#include <concepts>
#include <string>
#include <type_traits>
#include <utility>
#include <planlm/backend/context.hpp>
#include <planlm/core/vjp.hpp>
#include <planlm/ops/sequences.hpp>

namespace planlm {

/// How a parameter starts.
enum class initial { zeros, ones, normal, uniform };

/// Name, extents and start of one parameter tensor. `scale`: standard deviation of normal, half width of uniform.
struct parameter_spec {
  std::string name;
  index_t extents[2];
  int rank;
  initial start = initial::zeros;
  double scale = 0;
  index_t size() const { return extents[0] * (rank == 2 ? extents[1] : 1); }
};
inline parameter_spec matrix_spec(std::string name, index_t rows, index_t cols, initial start, double scale = 0) {
  return {std::move(name), {rows, cols}, 2, start, scale};
}
inline parameter_spec vector_spec(std::string name, index_t size, initial start = initial::zeros, double scale = 0) {
  return {std::move(name), {size, 1}, 1, start, scale};
}

/// A visitor that puts `prefix.` before every name: how a composite visits a member.
template <class F>
struct prefixed {
  std::string prefix;
  F& visitor;
  template <class... Tensors>
  void operator()(parameter_spec spec, Tensors&... tensors) {
    spec.name = prefix + "." + spec.name;
    visitor(std::move(spec), tensors...);
  }
};
template <class F>
prefixed<F> within(std::string prefix, F& visitor) {
  return {std::move(prefix), visitor};
}

/// Parameters of a layer that has none.
struct no_params {};

namespace archetype {
struct parameter_visitor {
  template <class... T>
  void operator()(const parameter_spec&, T&...) {}
};
}  // namespace archetype

template <class L>
concept HasBackend = Backend<typename L::backend> || because<"Layer: needs a member type `backend` that models Backend", L>();
template <class L>
concept HasParameters = requires(const L& layer, typename L::params& p, archetype::parameter_visitor& f) {
  layer.each_param(f);
  layer.each_param(f, p);
  layer.each_param(f, p, p);
} || because<"Layer: needs a struct `params` of views and each_param(f, params...) that calls f(spec, tensors...) for each", L>();

/// Copyable configuration with named parameters. Everything that can be initialised, counted, saved and trained.
template <class L>
concept Parametrised = std::copyable<L> && HasBackend<L> && HasParameters<L>;

template <class L>
concept HasForward =
    requires(const L& layer, context<typename L::backend>& cx, const typename L::params& p, const_tensor<typename L::backend> x) {
      layer(cx, p, x).value;
    } || requires(const L& layer, context<typename L::backend>& cx, const typename L::params& p, const_tensor<typename L::backend> x,
                  const sequences<typename L::backend>& seq) { layer(cx, p, x, seq).value; } ||
    because<"Layer: calling it with (context, params, input[, sequences]) must return vjp{output, pullback}", L>();
template <class L>
concept HasPullback =
    requires(const L& layer, context<typename L::backend>& cx, const typename L::params& p, const_tensor<typename L::backend> x) {
      { layer(cx, p, x).pullback(x, p) } -> std::convertible_to<const_tensor<typename L::backend>>;
    } || requires(const L& layer, context<typename L::backend>& cx, const typename L::params& p, const_tensor<typename L::backend> x,
                  const sequences<typename L::backend>& seq) {
      { layer(cx, p, x, seq).pullback(x, p) } -> std::convertible_to<const_tensor<typename L::backend>>;
    } || because<"Layer: the pullback must take (output gradient, parameter gradients) and return the input gradient", L>();

/// A map from rows to rows with an exact pullback: what sequential, residual, stack and recompute compose.
template <class L>
concept Layer = Parametrised<L> && HasForward<L> && HasPullback<L>;

/// Whether a layer can be called with x, alone or followed by `Extra` (sequences, a placement, an injection).
template <class L, class... Extra>
concept CallableWith =
    requires(const L& layer, context<typename L::backend>& cx, const typename L::params& p, const_tensor<typename L::backend> x,
             const Extra&... extra) { layer(cx, p, x, extra...); } ||
    requires(const L& layer, context<typename L::backend>& cx, const typename L::params& p, const_tensor<typename L::backend> x) {
      layer(cx, p, x);
    };
/// Calls a layer that may or may not look at the sequence structure of its rows.
template <class L, Backend B, class... Extra>
auto call_layer(const L& layer, context<B>& cx, const typename L::params& p, const_tensor<B> x, const Extra&... extra) {
  if constexpr (requires { layer(cx, p, x, extra...); }) return layer(cx, p, x, extra...);
  else return layer(cx, p, x);
}

/// Whether any gradient of `g` is wanted.
template <Parametrised L>
bool wants_gradient(const L& layer, typename L::params& g) {
  bool wanted = false;
  auto look = [&](const parameter_spec&, const auto& tensor) { wanted = wanted || static_cast<bool>(tensor); };
  layer.each_param(look, g);
  return wanted;
}

/// Number of parameters.
template <Parametrised L>
index_t count_parameters(const L& layer) {
  index_t n = 0;
  auto count = [&](const parameter_spec& spec) { n += spec.size(); };
  layer.each_param(count);
  return n;
}

}  // namespace planlm
