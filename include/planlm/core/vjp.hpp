/// What calling a layer returns: its output and its pullback.
#pragma once
#include <type_traits>

namespace planlm {

/// `auto [y, pullback] = layer(cx, p, x);` then `auto dx = pullback(dy, g);`.
///
/// The gradient rule of the whole library: parameter gradients are `+=` (into the struct `g` of the same type as `p`; an empty view there
/// means frozen and is skipped), activation gradients are `=`, the optimiser zeroes what it consumed.
/// A pullback captures views and configuration only, so it is trivially destructible and can live in an arena.
template <class Value, class Pullback>
struct vjp {
  using value_type = Value;
  using pullback_type = Pullback;
  static_assert(std::is_trivially_destructible_v<Pullback>,
                "planlm::vjp: a pullback captures views, sizes and other pullbacks, nothing that owns memory");
  Value value;
  Pullback pullback;
};
template <class Value, class Pullback>
vjp(Value, Pullback) -> vjp<Value, Pullback>;

}  // namespace planlm
