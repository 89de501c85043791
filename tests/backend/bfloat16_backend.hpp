/// A backend for tests: bfloat16 in memory, float in arithmetic, serial loops and products on the host. What the library's code does with
/// storage narrower than its arithmetic can then be tested without a device that has it.
#pragma once
#include <concepts>
#include <cstddef>
#include <cstring>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/team.hpp>
#include <planlm/core/arena.hpp>
#include <planlm/core/bfloat16.hpp>

namespace planlm::testing {

/// Products are summed in float, term after term, and rounded once when they are stored.
struct bfloat16_backend {
  using real = bfloat16;
  using accum = float;
  using space = host_memory;
  struct queue {
    queue() = default;
    explicit queue(int) {}
  };

  static void* allocate(std::size_t bytes) { return host_allocator::allocate(bytes); }
  static void deallocate(void* p, std::size_t bytes) { host_allocator::deallocate(p, bytes); }
  static void zero(queue&, void* p, std::size_t bytes) { std::memset(p, 0, bytes); }
  static void copy(queue&, void* to, const void* from, std::size_t bytes) { std::memmove(to, from, bytes); }
  static void upload(queue&, void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  static void download(queue&, void* to, const void* from, std::size_t bytes) {
    if (bytes) std::memcpy(to, from, bytes);
  }
  static void synchronize(queue&) {}

  template <class F>
  static void for_each(queue&, index_t n, const F& f) {
    for (index_t i = 0; i < n; ++i) f(i);
  }
  template <class F>
  static void for_rows(queue&, index_t rows, const F& f) {
    for (index_t r = 0; r < rows; ++r) f(serial_team{}, r);
  }
  /// Entries are floats: an entry that were rounded before it is summed would not compile.
  template <class F>
  static void add_column_sums(queue&, index_t rows, index_t cols, const F& f, view<bfloat16, 1> y) {
    static_assert(std::same_as<decltype(f(rows, cols)), float>);
    for (index_t c = 0; c < cols; ++c) {
      float total = 0;
      for (index_t r = 0; r < rows; ++r) total += f(r, c);
      y[c] += total;
    }
  }
  static void gemm(queue& q, float alpha, operand<const bfloat16> a, operand<const bfloat16> b, operand<bfloat16> c, into mode) {
    gemm_batched(q, alpha, a, 0, b, 0, c, 0, 1, mode);
  }
  static void gemm_batched(queue&, float alpha, operand<const bfloat16> a, index_t a_step, operand<const bfloat16> b, index_t b_step,
                           operand<bfloat16> c, index_t c_step, index_t count, into mode) {
    for (index_t k = 0; k < count; ++k)
      for (index_t i = 0; i < c.rows; ++i)
        for (index_t j = 0; j < c.cols; ++j) {
          const bfloat16* x = a.data + k * a_step + i * a.row_stride;
          const bfloat16* y = b.data + k * b_step + j * b.col_stride;
          float total = 0;
          for (index_t l = 0; l < a.cols; ++l) total += float(x[l * a.col_stride]) * float(y[l * b.row_stride]);
          bfloat16& to = c.data[k * c_step + i * c.row_stride + j * c.col_stride];
          to = alpha * total + (mode == into::add ? float(to) : 0.f);
        }
  }
};
static_assert(Backend<bfloat16_backend>);

}  // namespace planlm::testing
