/// Clipping by the global norm, and the name of the parameter whose value stopped being finite.
///
/// The norm goes over all gradients that are trained together; the factor min(1, max_norm / norm) stays on
/// the device and is applied by the optimiser as it reads the gradients (training/optimizer.hpp), so clipping
/// costs one read of them and no write.
///
/// A norm that is not finite scales nothing: the factor is then NaN, at which an optimiser leaves everything
/// as it is, and read_norm throws numeric_error.
#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/ops/reduce.hpp>
#include <planlm/training/parameters.hpp>

namespace planlm {

namespace kernel {
template <class A>
struct clip_factor {
  const A* squares;
  A *norm, *factor;
  A most, epsilon;
  PLANLM_HD void operator()(index_t) const {
    const A n = std::sqrt(squares[0]), measured = n + epsilon;
    norm[0] = n;
    factor[0] = (measured > most ? most / measured : A(1)) + (n - n);  // n - n is 0, or NaN if n is not finite
  }
};
}  // namespace kernel

/// Both (1), in the arena of the context.
template <Backend B>
struct global_norm {
  scalar<B> norm, factor;
};

/// The largest norm, which may be infinity: measure, never clip. `epsilon` is added to a norm before it is
/// compared: 1e-6 in published training loops, where it leaves clipped gradients that much shorter.
struct norm_limit {
  double most, epsilon;
  norm_limit(double most, double epsilon = 0) : most(most), epsilon(epsilon) {}
};

/// Norm and clipping factor of all `grads`, flat views (n) of any sizes.
template <Backend B, std::convertible_to<const_tensor<B, 1>>... Grads>
  requires(sizeof...(Grads) > 0)
global_norm<B> clip_global_norm(context<B>& cx, norm_limit limit, Grads... grads) {
    if (!(limit.most > 0))
      throw error("clip_global_norm: max_norm = " + std::to_string(limit.most) + ", expected above 0");
    if (!(limit.epsilon >= 0))
      throw error("clip_global_norm: epsilon = " + std::to_string(limit.epsilon) + ", expected at least 0");
    using A = typename B::accum;
    global_norm<B> result{cx.template make_of<A>(1), cx.template make_of<A>(1)};
    auto scope = cx.scope();
    const const_tensor<B, 1> views[] = {grads...};
    auto squares = ops::sum_of_squares<B>(cx, std::span<const const_tensor<B, 1>>(views));
    B::for_each(
        cx.queue(), 1,
        kernel::clip_factor<A>{squares.data, result.norm.data, result.factor.data, static_cast<A>(limit.most),
                               static_cast<A>(limit.epsilon)});
    return result;
}

/// Waits for the device and returns the norm before clipping; throws numeric_error if it is not finite.
template <Backend B>
double read_norm(context<B>& cx, const global_norm<B>& g) {
  const auto norm = static_cast<double>(cx.read_one(g.norm));
  if (!std::isfinite(norm))
    throw numeric_error(
        "the global gradient norm is " + std::to_string(norm) +
        "; a step given its factor changed nothing; find_not_finite names the gradient, and a smaller "
        "rate or a longer warm-up may prevent it");
  return norm;
}

/// Which value of which parameter: `index` counts from the start of the tensor.
struct not_finite_value {
  std::string parameter;
  index_t index;
};

/// Waits for the device; the first infinity or NaN in flat weights or gradients laid out by `slots`, in the
/// order of the layers. `flat_values`: a view (n), or what flat_weights() of a store gives.
template <Backend B, class Values>
std::optional<not_finite_value> find_not_finite(context<B>& cx, const std::vector<parameter_slot>& slots,
                                                const Values& flat_values) {
  auto scope = cx.scope();
  const index_t at = [&] {
    if constexpr (requires { flat_values.master; }) return cx.read_one(ops::first_not_finite<B>(cx, flat_values.master));
    else return cx.read_one(ops::first_not_finite<B>(cx, flat_values));
  }();
  if (at < 0) return std::nullopt;
  const auto after = std::upper_bound(slots.begin(), slots.end(), at,
                                      [](index_t i, const parameter_slot& s) { return i < s.offset; });
  if (after == slots.begin()) return not_finite_value{"", at};
  const parameter_slot& slot = *(after - 1);
  return not_finite_value{slot.spec.name, at - slot.offset};
}

}  // namespace planlm
