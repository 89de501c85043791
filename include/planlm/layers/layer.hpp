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
enum class initial { zeros, ones, normal, uniform, constant };

/// Name, extents and start of one parameter tensor. `scale`: standard deviation of normal, half width of uniform, the
/// value of constant.
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

/// A visitor with a member type `ignores_names`: composites then build no names, so that visiting allocates nothing.
template <class F>
concept IgnoresNames = requires { typename F::ignores_names; };
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
auto within(std::string prefix, F& visitor) {
  if constexpr (IgnoresNames<F>) return visitor;
  else return prefixed<F>{std::move(prefix), visitor};
}

/// May be given to a block's pullback before its sinks: whether the gradient of its input is wanted. If not, and if no parameter needs what
/// leads to it, the pullback returns an empty view and leaves that out, as below the first adapter of a frozen model.
struct input_gradient {
  bool wanted = true;
};
template <class... Sink>
inline constexpr bool begins_with_input_gradient = false;
template <class... Sink>
inline constexpr bool begins_with_input_gradient<input_gradient, Sink...> = true;

/// Parameters of a layer that has none.
struct no_params {};

namespace archetype {
struct parameter_visitor {
  template <class... T>
  void operator()(const parameter_spec&, T&...) {}
};
}  // namespace archetype

template <class L>
concept HasBackend = Backend<typename L::backend> || because<"Layer: needs a member type backend that models Backend", L>();
template <class L>
concept HasParameters = requires(const L& layer, typename L::params& p, archetype::parameter_visitor& f) {
  layer.each_param(f);
  layer.each_param(f, p);
  layer.each_param(f, p, p);
} || because<"Layer: needs a struct params of views and each_param(f, params...) that calls f(spec, tensors...) for each", L>();

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

/// Layer<L>, with the first thing that is missing as an error of its own: a failed `static_assert(Layer<L>)` shows in g++ alone what it was.
template <class L>
consteval bool must_be_layer() {
  static_assert(std::copyable<L>, "planlm: a layer must be copyable configuration");
  if constexpr (!HasBackend<L>)
    static_assert(HasBackend<L>, "planlm: a layer needs a member type backend that models Backend");
  else if constexpr (!HasParameters<L>)
    static_assert(HasParameters<L>, "planlm: a layer needs a struct params of views and each_param(f, params...)");
  else if constexpr (!HasForward<L>)
    static_assert(HasForward<L>, "planlm: calling a layer must return vjp{output, pullback}");
  else
    static_assert(HasPullback<L>, "planlm: a layer's pullback must return the gradient of its input");
  return true;
}

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

/// The pullback of call_layer alone: of a layer that has again(cx, p, x, extra...), without what is made for its output.
template <class L, Backend B, class... Extra>
auto call_again(const L& layer, context<B>& cx, const typename L::params& p, const_tensor<B> x, const Extra&... extra) {
  if constexpr (requires { layer.again(cx, p, x, extra...); }) return layer.again(cx, p, x, extra...);
  else return call_layer(layer, cx, p, x, extra...).pullback;
}

namespace detail {
struct wanted_gradients {
  using ignores_names = void;
  bool& any;
  template <class Tensor>
  void operator()(const parameter_spec&, const Tensor& gradient) const {
    any = any || static_cast<bool>(gradient);
  }
};
}  // namespace detail

/// Whether any gradient of `g` is wanted.
template <Parametrised L>
bool wants_gradient(const L& layer, typename L::params& g) {
  bool wanted = false;
  detail::wanted_gradients look{wanted};
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
