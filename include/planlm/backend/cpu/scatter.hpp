/// Sums of rows by number on a CPU, a whole row at a time: a row is read as one stream, and a sum that several rows in succession go to stays in
/// the first-level cache.
///
/// The sums are shared out by their numbers, number modulo a power of two, and where there are few numbers by columns, too. Every task looks at
/// all numbers and takes its own rows in order: each sum has one writer and the order of rows, so bits do not depend on the cut.
#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cpu/simd.hpp>

namespace planlm::cpu_detail::inline PLANLM_CPU_ABI {

template <class Real>
void add_to_row(index_t n, const Real* __restrict from, Real* __restrict to) {
  for (index_t c = 0; c < n; ++c) to[c] += from[c];
}

/// table (count, cols)[ids] += x (rows, cols), rows in order; none for ids below 0.
template <class Queue, class Real>
void scatter_add_rows(Queue& q, index_t rows, index_t cols, index_t count, const Real* x, const int* id, Real* table) {
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(Real)), least_columns = 64;
  const index_t threads = q.threads(), wanted = threads == 1 ? 1 : (cols < least_columns ? 2 : 4) * threads;
  const auto classes = static_cast<index_t>(std::bit_floor(static_cast<std::uint64_t>(std::clamp<index_t>(count, 1, wanted))));
  const index_t cuts = classes >= 2 * threads || threads == 1 ? 1 : (wanted + classes - 1) / classes;
  // Whole cache lines, where the table begins with one: two threads that write one line wait for each other.
  const index_t width = std::max(((cols + cuts - 1) / cuts + line - 1) / line * line, least_columns), pieces = (cols + width - 1) / width;
  q.pool().run(classes * pieces, [&](index_t task, int) {
    const index_t begin = task / classes * width, n = std::min(width, cols - begin);
    const int mine = static_cast<int>(task % classes), mask = static_cast<int>(classes - 1);
    for (index_t r = 0; r < rows; ++r)
      if (id[r] >= 0 && (id[r] & mask) == mine) add_to_row(n, x + r * cols + begin, table + static_cast<index_t>(id[r]) * cols + begin);
  });
}

}  // namespace planlm::cpu_detail::inline PLANLM_CPU_ABI
