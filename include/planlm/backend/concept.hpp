/// What a backend is: where memory lives, where work runs, and about a dozen functions. New mathematics is never a new backend function:
/// it is a functor over indices or a row kernel over a team. Fused operations are optional and found by concept (ops/*.hpp).
#pragma once
#include <concepts>
#include <cstddef>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/view.hpp>

namespace planlm {

/// One matrix operand: element (r, c) is data[r * row_stride + c * col_stride]. Transposition is a swap of strides.
template <class T>
struct operand {
  T* data = nullptr;
  index_t rows = 0, cols = 0, row_stride = 0, col_stride = 0;
};
template <class T, class S>
PLANLM_HD constexpr operand<T> plain(view<T, 2, S> v) {
  return {v.data, v.extent(0), v.extent(1), v.extent(1), 1};
}
template <class T, class S>
PLANLM_HD constexpr operand<T> transposed(view<T, 2, S> v) {
  return {v.data, v.extent(1), v.extent(0), 1, v.extent(1)};
}

/// Whether a product replaces its destination or is added to it.
enum class into { replace, add };

// Named archetypes instead of lambdas: nvcc 13.0 evaluates a lambda in a requires-expression to "unsatisfied" without a word.
namespace archetype {
struct index_function {
  PLANLM_HD void operator()(index_t) const {}
};
struct row_function {
  template <class Team>
  PLANLM_HD void operator()(const Team&, index_t) const {}
};
template <class T>
struct entry_function {
  PLANLM_HD T operator()(index_t, index_t) const { return T(0); }
};
template <class T>
struct value_function {
  PLANLM_HD T operator()(index_t) const { return T(0); }
};
}  // namespace archetype

template <class B>
concept HasElementTypes = requires {
  typename B::real;
  typename B::accum;
  typename B::space;
  typename B::queue;
} || because<"Backend: needs the types real, accum, space (host_memory or device_memory) and queue", B>();

template <class B>
concept HasMemory = requires(typename B::queue& q, void* d, const void* s, std::size_t n) {
  { B::allocate(n) } -> std::same_as<void*>;
  B::deallocate(d, n);
  B::zero(q, d, n);
  B::copy(q, d, s, n);
  B::upload(q, d, s, n);
  B::download(q, d, s, n);
  B::synchronize(q);
} || because<"Backend: needs allocate, deallocate, zero, copy, upload, download and synchronize", B>();

template <class B>
concept HasLoops = requires(typename B::queue& q, index_t n, view<typename B::real, 1, typename B::space> y) {
  B::for_each(q, n, archetype::index_function{});
  B::for_rows(q, n, archetype::row_function{});
  B::add_column_sums(q, n, n, archetype::entry_function<typename B::accum>{}, y);
} || because<"Backend: needs for_each(queue, n, f), for_rows(queue, rows, f) and add_column_sums(queue, rows, cols, f, y)", B>();

template <class B>
concept HasProducts = requires(typename B::queue& q, operand<const typename B::real> a, operand<typename B::real> c, index_t n) {
  B::gemm(q, typename B::real(1), a, a, c, into::add);
  B::gemm_batched(q, typename B::real(1), a, n, a, n, c, n, n, into::replace);
} || because<"Backend: needs gemm(queue, alpha, A, B, C, into) and gemm_batched (the same with a step between operands and a count)", B>();

/// The one template parameter of layers and models: device and number types. `real` is what lies in memory, `accum` what is computed in:
/// the same, or a wider one (bfloat16 and float); then a kernel rounds once, when it stores.
template <class B>
concept Backend = HasElementTypes<B> && HasMemory<B> && HasLoops<B> && HasProducts<B>;

/// The threads that share one row: a loop over the row, reductions whose result every member sees, a leader, a meeting point.
template <class T>
concept Team = requires(const T& t, index_t n) {
  t.for_each(n, archetype::index_function{});
  { t.template sum<float>(n, archetype::value_function<float>{}) } -> std::same_as<float>;
  { t.template max<float>(n, archetype::value_function<float>{}) } -> std::same_as<float>;
  { t.leader() } -> std::same_as<bool>;
  t.sync();
} || because<"Team: needs for_each(n, f), sum<T>(n, f), max<T>(n, f), leader() and sync()", T>();

/// Values of backend B: mutable and read-only, by rank.
template <Backend B, int R = 2>
using tensor = view<typename B::real, R, typename B::space>;
template <Backend B, int R = 2>
using const_tensor = view<const typename B::real, R, typename B::space>;
/// What values of backend B are summed and measured in: statistics of rows, losses, weights of rows, an optimiser's memory.
template <Backend B, int R = 1>
using accum_tensor = view<typename B::accum, R, typename B::space>;
template <Backend B, int R = 1>
using const_accum_tensor = view<const typename B::accum, R, typename B::space>;
/// Token, label, sentence or row numbers.
template <Backend B>
using indices = view<const int, 1, typename B::space>;

}  // namespace planlm
