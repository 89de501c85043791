/// Non-owning, contiguous, row-major views with the memory space in the type.
///
/// A view of host memory cannot be passed where device memory is expected: that is a compile error, not a crash. Views are trivially
/// copyable, so they can be kernel arguments and be captured by a pullback that lives in an arena.
#pragma once
#include <concepts>
#include <type_traits>
#include <planlm/core/config.hpp>

namespace planlm {

/// Memory that the host reads and writes.
struct host_memory {};
/// Memory that only kernels of a device backend may touch.
struct device_memory {};

/// R axes of T in memory space `Space`. A default-constructed view is empty; as a gradient, empty means "not wanted" (frozen).
template <class T, int R, class Space = host_memory>
struct view {
  static_assert(R >= 1 && R <= 4, "planlm::view: the rank must be 1 to 4");
  using element_type = T;
  using space = Space;
  static constexpr int rank = R;

  T* data = nullptr;
  index_t extents[R] = {};

  view() = default;
  template <std::integral... E>
    requires(sizeof...(E) == R)
  PLANLM_HD constexpr view(T* pointer, E... e) : data(pointer), extents{static_cast<index_t>(e)...} {}
  /// A view to mutable elements converts to one of const elements, never back.
  template <class U>
    requires(std::same_as<const U, T> && !std::is_const_v<U>)
  PLANLM_HD constexpr view(const view<U, R, Space>& other) : data(other.data) {
    for (int axis = 0; axis < R; ++axis) extents[axis] = other.extents[axis];
  }

  PLANLM_HD constexpr index_t extent(int axis) const { return extents[axis]; }
  PLANLM_HD constexpr index_t size() const {
    index_t n = 1;
    for (int axis = 0; axis < R; ++axis) n *= extents[axis];
    return n;
  }
  /// The last axis.
  PLANLM_HD constexpr index_t cols() const { return extents[R - 1]; }
  /// All axes but the last, as one.
  PLANLM_HD constexpr index_t rows() const {
    index_t n = 1;
    for (int axis = 0; axis + 1 < R; ++axis) n *= extents[axis];
    return n;
  }
  PLANLM_HD constexpr T* row(index_t r) const { return data + r * cols(); }
  PLANLM_HD constexpr T& operator[](index_t i) const { return data[i]; }
  PLANLM_HD constexpr T& operator()(index_t r, index_t c) const
    requires(R == 2)
  {
    return data[r * extents[1] + c];
  }
  /// Whether there is anything to read or write; asks for a gradient when the view is one.
  PLANLM_HD constexpr explicit operator bool() const { return data != nullptr; }
};

/// The same memory as one axis.
template <class T, int R, class Space>
PLANLM_HD constexpr view<T, 1, Space> flat(view<T, R, Space> v) {
  return {v.data, v.size()};
}
/// The same memory as (rows, cols).
template <class T, int R, class Space>
PLANLM_HD constexpr view<T, 2, Space> as_matrix(view<T, R, Space> v) {
  return {v.data, v.rows(), v.cols()};
}
/// Rows [begin, end) of a matrix.
template <class T, class Space>
PLANLM_HD constexpr view<T, 2, Space> row_range(view<T, 2, Space> v, index_t begin, index_t end) {
  return {v.data + begin * v.cols(), end - begin, v.cols()};
}
/// Whether two views have the same extents.
template <class T, class U, int R, class S>
PLANLM_HD constexpr bool same_shape(view<T, R, S> a, view<U, R, S> b) {
  for (int axis = 0; axis < R; ++axis)
    if (a.extents[axis] != b.extents[axis]) return false;
  return true;
}

static_assert(std::is_trivially_copyable_v<view<float, 2>> && std::is_trivially_destructible_v<view<float, 2>>);
static_assert(std::convertible_to<view<float, 2>, view<const float, 2>>);
static_assert(!std::convertible_to<view<const float, 2>, view<float, 2>>);
static_assert(!std::convertible_to<view<float, 2, device_memory>, view<const float, 2, host_memory>>);

}  // namespace planlm
