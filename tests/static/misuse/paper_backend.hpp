/// A backend that exists on paper: everything is declared, nothing defined. Enough to see what compiles.
#pragma once
#include <planlm/backend/concept.hpp>

template <class Real>
struct paper {
  using real = Real;
  using accum = Real;
  using space = planlm::host_memory;
  struct queue {};

  static void* allocate(std::size_t bytes);
  static void deallocate(void* memory, std::size_t bytes);
  static void zero(queue&, void* to, std::size_t bytes);
  static void copy(queue&, void* to, const void* from, std::size_t bytes);
  static void upload(queue&, void* to, const void* from, std::size_t bytes);
  static void download(queue&, void* to, const void* from, std::size_t bytes);
  static void synchronize(queue&);
  template <class F>
  static void for_each(queue&, planlm::index_t n, const F& f);
  template <class F>
  static void for_rows(queue&, planlm::index_t rows, const F& f);
  template <class F>
  static void add_column_sums(queue&, planlm::index_t rows, planlm::index_t cols, const F& f,
                              planlm::view<Real, 1> y);
  static void gemm(queue&, Real alpha, planlm::operand<const Real> a, planlm::operand<const Real> b,
                   planlm::operand<Real> c, planlm::into mode);
  static void gemm_batched(queue&, Real alpha, planlm::operand<const Real> a, planlm::index_t a_step,
                           planlm::operand<const Real> b, planlm::index_t b_step, planlm::operand<Real> c,
                           planlm::index_t c_step, planlm::index_t count, planlm::into mode);
};
static_assert(planlm::Backend<paper<float>>);
