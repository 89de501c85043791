/// Label mixing on the CPU where few labels of a sentence have a weight: rows of the table instead of products.
///
/// e_s = sum over j of w_sj E[label_sj]; pullback: dw_sj = <de_s, E[label_sj]>, dE[label_sj] += w_sj de_s.
/// Forward, columns are cut into strips, so that the rows of a strip stay in the second-level cache while they are visited in any order. The
/// pullback visits pairs by label (a stable counting sort): table and dE pass by once, in order, and what is loaded of de serves both sums.
/// A label belongs to one task, its sentences ascend, and every order of a sum depends on the shapes and labels alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/cpu/simd.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>

namespace planlm::cpu_detail::inline PLANLM_CPU_ABI {

#if !defined(__CUDACC__)
template <int Width>
struct lane_flags {
  typedef signed char type __attribute__((vector_size(Width)));
};
#endif
/// flag[l] is not 0 where lane l is at least `bound`.
template <class Real, class V>
void flag_lanes_that_reach(const V& m, Real bound, signed char* flag) {
  constexpr int width = simd<Real>::width;
#if defined(__CUDACC__)
  for (int l = 0; l < width; ++l) flag[l] = m[l] >= bound ? -1 : 0;
#else
  const auto flags = __builtin_convertvector(m >= bound, typename lane_flags<width>::type);
  std::memcpy(flag, &flags, width);
#endif
}
/// Flags are read by words of eight, or of all where there are fewer.
template <int Count>
std::uint64_t word_of_flags(const signed char* flag) {
  std::uint64_t word = 0;
  std::memcpy(&word, flag, Count < 8 ? Count : 8);
  return word & 0x8080808080808080u;
}
template <int Count>
bool any_flag(const signed char* flag) {
  std::uint64_t some = 0;
  for (int first = 0; first < Count; first += 8) some |= word_of_flags<Count>(flag + first);
  return some != 0;
}
/// `visit(i)` for each i in [0, Count) that is flagged, ascending.
template <int Count, class F>
void for_each_flag(const signed char* flag, const F& visit) {
  for (int first = 0; first < Count; first += 8)
    for (std::uint64_t some = word_of_flags<Count>(flag + first); some; some &= some - 1) visit(first + __builtin_ctzll(some) / 8);
}

/// The k largest of n values, 1 <= k <= n, as (value descending, index ascending). NaNs come last; but one in the first place makes every
/// value NaN, with labels 0 .. k - 1, as the maximum of a serial_team has it.
///   The k-th largest of the maxima of 16 lanes (64 for k > 8) is at most the k-th largest value; few values reach it, and only these are sorted.
template <int Lanes, class Real>
void take_largest_of(const Real* x, index_t n, index_t k, int* label, Real* value) {
  constexpr index_t chunk = 4 * Lanes;
  constexpr int width = simd<Real>::width, registers = Lanes / width;
  using v = typename simd<Real>::type;
  const v lowest = v{} - INFINITY;
  v top[registers];
  for (int r = 0; r < registers; ++r) top[r] = lowest;
  // A comparison with a NaN is false, so the maximum passes over it.
  const auto take_chunk = [x](index_t c, v (&m)[registers]) {
    for (int u = 0; u < 4; ++u)
      for (int r = 0; r < registers; ++r) {
        const v a = simd<Real>::load(x + c + u * Lanes + r * width);
        m[r] = a > m[r] ? a : m[r];
      }
  };
  const index_t full = n - n % chunk;
  // The maxima of a chunk are kept for the second look, and are chains of their own meanwhile: one chain through all of a row would wait.
  constexpr index_t kept_chunks = 32;
  v kept[kept_chunks * registers];
  const auto maxima_of = [&](index_t c, v (&m)[registers]) {
    for (int r = 0; r < registers; ++r) m[r] = lowest;
    take_chunk(c, m);
  };
  for (index_t c = 0; c < full; c += chunk) {
    v m[registers];
    maxima_of(c, m);
    for (int r = 0; r < registers; ++r) {
      if (c / chunk < kept_chunks) kept[c / chunk * registers + r] = m[r];
      top[r] = m[r] > top[r] ? m[r] : top[r];
    }
  }
  Real most[Lanes];
  for (int r = 0; r < registers; ++r) simd<Real>::store(most + r * width, top[r]);
  for (index_t i = full; i < n; ++i) {
    Real& m = most[(i - full) % Lanes];
    m = x[i] > m ? x[i] : m;
  }
  Real bound = -INFINITY;
  if (k == 1) {
    for (int l = 0; l < Lanes; ++l) bound = most[l] > bound ? most[l] : bound;
  } else {
    int before[Lanes] = {};  // how many maxima are above this one; with equal ones, fewer than its place
    for (int j = 0; j < Lanes; ++j) {
      const Real m = most[j];
      for (int l = 0; l < Lanes; ++l) before[l] += m >= most[l];
    }
    for (int l = 0; l < Lanes; ++l)
      if (before[l] >= k) bound = most[l] > bound ? most[l] : bound;
  }
  index_t taken = 0;
  const auto offer = [&](index_t i) {
    const Real a = x[i];
    if (!(a >= bound)) return;
    const auto precedes = [&](index_t j) { return a > value[j] || (a == value[j] && i < label[j]); };
    if (taken == k && !precedes(k - 1)) return;
    index_t at = taken < k ? taken++ : k - 1;
    for (; at > 0 && precedes(at - 1); --at) value[at] = value[at - 1], label[at] = label[at - 1];
    value[at] = a, label[at] = static_cast<int>(i);
  };
  for (index_t c = 0; c < full; c += chunk) {
    v m[registers];
    if (c / chunk < kept_chunks) {
      for (int r = 0; r < registers; ++r) m[r] = kept[c / chunk * registers + r];
    } else {
      maxima_of(c, m);
    }
    v any = m[0];
    for (int r = 1; r < registers; ++r) any = m[r] > any ? m[r] : any;
    alignas(8) signed char flag[chunk];
    flag_lanes_that_reach(any, bound, flag);
    if (!any_flag<width>(flag)) continue;
    for (int u = 0; u < 4 * registers; ++u) flag_lanes_that_reach(simd<Real>::load(x + c + u * width), bound, flag + u * width);
    for_each_flag<chunk>(flag, [&](int i) { offer(c + i); });
  }
  for (index_t i = full; i < n; ++i) offer(i);
  // What NaNs leave to be taken: any labels that are not taken yet, with nothing.
  for (int i = 0; taken < k; ++i)
    if (std::find(label, label + taken, i) == label + taken) value[taken] = -INFINITY, label[taken++] = i;
}
template <class Real>
void take_largest(const Real* x, index_t n, index_t k, int* label, Real* value) {
  if (x[0] != x[0]) {
    for (index_t j = 0; j < k; ++j) value[j] = x[0], label[j] = static_cast<int>(j);
  } else if (k <= 8) {
    take_largest_of<16>(x, n, k, label, value);
  } else {
    take_largest_of<64>(x, n, k, label, value);
  }
}

template <class Real>
constexpr index_t strip_columns = 8 * simd<Real>::width;

/// Columns [0, n) of e = sum of w_j rows[label_j], n <= strip_columns.
template <class Real>
void mix_strip(const int* label, const Real* weight, index_t k, const Real* table, index_t cols, index_t n, Real* e) {
  using v = typename simd<Real>::type;
  constexpr int width = simd<Real>::width;
  if (n == strip_columns<Real>) {
    v sum[8] = {};
    for (index_t j = 0; j < k; ++j) {
      const Real* from = table + static_cast<index_t>(label[j]) * cols;
      const Real w = weight[j];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) sum[i] += w * simd<Real>::load(from + i * width);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) simd<Real>::store(e + i * width, sum[i]);
    return;
  }
  std::fill(e, e + n, Real(0));
  for (index_t j = 0; j < k; ++j) {
    const Real* __restrict from = table + static_cast<index_t>(label[j]) * cols;
    const Real w = weight[j];
    Real* __restrict to = e;
    for (index_t c = 0; c < n; ++c) to[c] += w * from[c];
  }
}

/// The halves of a vector, added until one lane is left.
template <class Real>
Real sum_of_lanes(const typename simd<Real>::type& x) {
  Real lane[simd<Real>::width];
  simd<Real>::store(lane, x);
#pragma GCC unroll 4
  for (int half = simd<Real>::width / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

/// P pairs of one label, `table` and `dtable` its rows: with Weights dw = <de_s, E_k>, with Table dE_k += or, by Mode, = sum of w de_s.
template <int P, bool Weights, bool Table, into Mode, class Real>
void pull_row(const int* pair, const int* row_of, const Real* weight, const Real* table, const Real* de, index_t cols, Real* dw,
              Real* dtable) {
  using v = typename simd<Real>::type;
  constexpr int width = simd<Real>::width;
  constexpr index_t block = 2 * width;
  const Real* from[P];
  Real w[P];
  for (int p = 0; p < P; ++p) from[p] = de + row_of[p] * cols, w[p] = weight[pair[p]];
  v dots[P][2] = {};
  const auto visit = [&](const Real* row_at, Real* sum_at, const Real* const(&d_at)[P], index_t c) {
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) {
      const index_t at = c + u * width;
      v row = {}, sum = {};
      if constexpr (Weights) row = simd<Real>::load(row_at + at);
      if constexpr (Table && Mode == into::add) sum = simd<Real>::load(sum_at + at);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const v d = simd<Real>::load(d_at[p] + at);
        if constexpr (Table) sum += w[p] * d;
        if constexpr (Weights) dots[p][u] += row * d;
      }
      if constexpr (Table) simd<Real>::store(sum_at + at, sum);
    }
  };
  const index_t full = cols - cols % block;
  for (index_t c = 0; c < full; c += block) visit(table, dtable, from, c);
  if (full < cols) {  // by whole vectors, too: the compiler would choose for each of the variants how a loop over the rest is rounded
    Real row[block] = {}, sum[block] = {}, d[P][block] = {};
    const Real* rest[P];
    if constexpr (Weights) std::copy(table + full, table + cols, row);
    if constexpr (Table && Mode == into::add) std::copy(dtable + full, dtable + cols, sum);
    for (int p = 0; p < P; ++p) std::copy(from[p] + full, from[p] + cols, d[p]), rest[p] = d[p];
    visit(row, sum, rest, 0);
    if constexpr (Table) std::copy(sum, sum + (cols - full), dtable + full);
  }
  if constexpr (Weights)
    for (int p = 0; p < P; ++p) dw[pair[p]] = sum_of_lanes<Real>(dots[p][0] + dots[p][1]);
}

/// label, weight (rows, k), table (labels, cols) -> e (rows, cols).
template <class Queue, class Real>
void mix_few(Queue& q, index_t rows, index_t k, const int* label, const Real* weight, const Real* table, index_t cols, Real* e) {
  constexpr index_t width = strip_columns<Real>;
  const index_t strips = (cols + width - 1) / width, parts = std::clamp<index_t>(rows / 64, 1, q.threads());
  q.pool().run(strips * parts, [&](index_t task, int) {
    const index_t begin = task / parts * width, n = std::min(width, cols - begin), part = task % parts;
    for (index_t s = rows * part / parts; s < rows * (part + 1) / parts; ++s)
      mix_strip(label + s * k, weight + s * k, k, table + begin, cols, n, e + s * cols + begin);
  });
}
/// One label of weight 1 a row; below 0: none.
template <class Queue, class Real>
void take_rows(Queue& q, index_t rows, const int* label, const Real* table, index_t cols, Real* e) {
  const index_t groups = std::min<index_t>(rows, 4 * q.threads());
  q.pool().run(groups, [&](index_t group, int) {
    const auto bytes = static_cast<std::size_t>(cols) * sizeof(Real);
    for (index_t r = rows * group / groups; r < rows * (group + 1) / groups; ++r)
      if (label[r] < 0) std::memset(e + r * cols, 0, bytes);
      else std::memcpy(e + r * cols, table + static_cast<index_t>(label[r]) * cols, bytes);
  });
}
/// dw (rows, k) =, dtable (labels, cols) += or =; either may be null.
template <class Queue, class Real>
void mix_few_pullback(Queue& q, index_t rows, index_t k, const int* label, const Real* weight, const Real* table, index_t labels,
                      index_t cols, const Real* de, Real* dw, Real* dtable, into mode) {
  const index_t pairs = rows * k;
  if (pairs > std::numeric_limits<int>::max())
    throw shape_error("label mixing: " + std::to_string(rows) + " sentences with " + std::to_string(k) +
                      " labels each are more than 2^31 pairs; mix fewer sentences at once");
  auto* first = static_cast<int*>(q.scratch(0, static_cast<std::size_t>(labels + 1 + 2 * pairs) * sizeof(int)));
  int* pair = first + labels + 1;  // by label, sentences ascending
  int* row_of = pair + pairs;
  std::fill(first, first + labels + 1, 0);
  for (index_t p = 0; p < pairs; ++p) ++first[label[p] + 1];
  for (index_t l = 0; l < labels; ++l) first[l + 1] += first[l];
  for (index_t r = 0; r < rows; ++r)
    for (index_t p = r * k; p < (r + 1) * k; ++p) {
      const int at = first[label[p]]++;  // first[l] becomes the end of l
      pair[at] = static_cast<int>(p), row_of[at] = static_cast<int>(r);
    }
  // A task has the labels that end in its share of the work: of the pairs, and where all rows are written, of the labels too.
  const index_t of_label = dtable && mode == into::replace ? 1 : 0, work = pairs + of_label * labels;
  const index_t tasks = std::clamp<index_t>(work / 64, 1, 8 * q.threads());
  const auto begin_of = [=](index_t task) {
    index_t low = 0, high = task < tasks ? labels : 0;  // the first label with more than this behind it
    while (low < high) {
      const index_t l = (low + high) / 2;
      if (first[l] + of_label * (l + 1) > work * task / tasks) high = l;
      else low = l + 1;
    }
    return task < tasks ? low : labels;
  };
  const auto pull = [&](auto weights, auto rows_of_table, auto written) {
    constexpr bool w = decltype(weights)::value, t = decltype(rows_of_table)::value;
    constexpr into by = decltype(written)::value;
    q.pool().run(tasks, [&](index_t task, int) {
      for (index_t l = task > 0 ? begin_of(task) : 0, end = begin_of(task + 1); l < end; ++l) {
        const Real* row = table + l * cols;
        Real* to = t ? dtable + l * cols : nullptr;
        index_t p = l > 0 ? first[l - 1] : 0;
        if constexpr (t && by == into::replace) {  // the first visit writes
          if (p == first[l]) {
            index_t empty = l + 1;
            while (empty < end && first[empty] == p) ++empty;
            std::memset(to, 0, static_cast<std::size_t>((empty - l) * cols) * sizeof(Real));
            l = empty - 1;
            continue;
          }
          if (p + 1 == first[l]) pull_row<1, w, t, by>(pair + p, row_of + p, weight, row, de, cols, dw, to), p += 1;
          else pull_row<2, w, t, by>(pair + p, row_of + p, weight, row, de, cols, dw, to), p += 2;
        }
        for (; p + 2 <= first[l]; p += 2) pull_row<2, w, t, into::add>(pair + p, row_of + p, weight, row, de, cols, dw, to);
        if (p < first[l]) pull_row<1, w, t, into::add>(pair + p, row_of + p, weight, row, de, cols, dw, to);
      }
    });
  };
  constexpr std::true_type yes;
  constexpr std::false_type no;
  constexpr std::integral_constant<into, into::add> add;
  constexpr std::integral_constant<into, into::replace> replace;
  if (dw && dtable && mode == into::replace) pull(yes, yes, replace);
  else if (dw && dtable) pull(yes, yes, add);
  else if (dw) pull(yes, no, add);
  else if (dtable && mode == into::replace) pull(no, yes, replace);
  else if (dtable) pull(no, yes, add);
}

/// `put(begin, n, total)` for strips of columns: total[c] = w sum over rows of x[., begin + c], in blocks of 256 as products sum.
template <class Queue, class Real, class Put>
void sum_rows(Queue& q, Real w, const Real* x, index_t rows, index_t cols, const Put& put) {
  constexpr index_t width = 384, block = 256;
  q.pool().run((cols + width - 1) / width, [&](index_t strip, int) {
    const index_t begin = strip * width, n = std::min(width, cols - begin);
    Real total[width] = {}, sum[width];
    for (index_t from = 0; from < rows; from += block) {
      std::fill(sum, sum + n, Real(0));
      for (index_t r = from; r < std::min(rows, from + block); ++r) {
        const Real* row = x + r * cols + begin;
        for (index_t c = 0; c < n; ++c) sum[c] += w * row[c];
      }
      for (index_t c = 0; c < n; ++c) total[c] += sum[c];
    }
    put(begin, n, total);
  });
}
/// Every row of e = w (sum of the rows of table).
template <class Queue, class Real>
void mix_evenly(Queue& q, index_t rows, Real w, const Real* table, index_t labels, index_t cols, Real* e) {
  sum_rows(q, w, table, labels, cols, [=](index_t begin, index_t n, const Real* total) {
    for (index_t r = 0; r < rows; ++r) std::memcpy(e + r * cols + begin, total, static_cast<std::size_t>(n) * sizeof(Real));
  });
}
/// Every row of dtable += or = w (sum of the rows of de).
template <class Queue, class Real>
void mix_evenly_pullback(Queue& q, index_t rows, Real w, const Real* de, index_t labels, index_t cols, Real* dtable, into mode) {
  sum_rows(q, w, de, rows, cols, [=](index_t begin, index_t n, const Real* total) {
    for (index_t l = 0; l < labels; ++l) {
      Real* __restrict row = dtable + l * cols + begin;
      if (mode == into::replace) std::memcpy(row, total, static_cast<std::size_t>(n) * sizeof(Real));
      else
        for (index_t c = 0; c < n; ++c) row[c] += total[c];
    }
  });
}

}  // namespace planlm::cpu_detail::inline PLANLM_CPU_ABI
