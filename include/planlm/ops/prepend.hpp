/// Sequences that get one more row in front, and sequences made of others: what an unrolled planner and sets of paths run on.
///
/// New offsets are computed twice, by a kernel and by the host, so that nothing is uploaded or downloaded; the host's copy lies in the context
/// and lives as long as its scope. Sequences made here have no positions unless their function says so.
/// Errors: shape_error where there is no sequence.
#pragma once
#include <string>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/error.hpp>
#include <planlm/ops/sequences.hpp>

namespace planlm::ops {

namespace kernel {
/// Where sequence i begins among copies of `count` sequences of `rows` rows together; sequences of copy c are more + c growth rows longer.
struct lengthened_offsets {
  const int* offset;
  int* to;
  index_t count, rows, more, growth;
  PLANLM_HD void operator()(index_t i) const {
    const index_t c = i / count, s = i % count;
    const index_t before = c * rows + count * (c * more + growth * (c * (c - 1) / 2));
    to[i] = static_cast<int>(before + offset[s] + (more + c * growth) * s);
  }
};
struct even_offsets {
  int* to;
  index_t length;
  PLANLM_HD void operator()(index_t i) const { to[i] = static_cast<int>(i * length); }
};
struct even_positions {
  int* to;
  index_t length;
  PLANLM_HD void operator()(index_t i) const { to[i] = static_cast<int>(i % length); }
};
/// Sequence q of y: the row table[id_q] + shift (shift alone where id_q < 0), then sequence source_q of x, or q % count without sources.
template <class T>
struct prepend_rows {
  const T* x;
  const int* offset;
  const T* table;
  const int* id;
  const T* shift;
  const int* source;
  T* y;
  const int* to;
  index_t count, cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t q) const {
    using A = accum_of<T>;
    const index_t s = source ? source[q] : q % count, width = cols;
    const int label = id[q];
    const T* row = table + static_cast<index_t>(label < 0 ? 0 : label) * width;
    const T* added = shift;
    T* front = y + static_cast<index_t>(to[q]) * width;
    team.for_each(width, [=](index_t c) { front[c] = (label < 0 ? A(0) : A(row[c])) + A(added[c]); });
    const T* from = x + static_cast<index_t>(offset[s]) * width;
    T* rest = front + width;
    team.for_each((offset[s + 1] - offset[s]) * width, [=](index_t i) { rest[i] = from[i]; });
  }
};
template <class T>
struct prepend_rows_pullback {
  const T* dy;
  const int* from;
  const T* base;
  T *dx, *dfront;
  const int* offset;
  index_t cols;
  template <class Team>
  PLANLM_HD void operator()(const Team& team, index_t s) const {
    using A = accum_of<T>;
    const index_t width = cols, begin = static_cast<index_t>(offset[s]) * width;
    const T* front = dy + static_cast<index_t>(from[s]) * width;
    T* first = dfront + s * width;
    team.for_each(width, [=](index_t c) { first[c] = front[c]; });
    const T *rest = front + width, *added = base + begin;
    T* to = dx + begin;
    team.for_each((offset[s + 1] - offset[s]) * width, [=](index_t i) { to[i] = A(added[i]) + A(rest[i]); });
  }
};
}  // namespace kernel

namespace detail {
inline void check_sequences(const char* who, index_t count) {
  if (count < 1) throw shape_error(std::string(who) + ": " + std::to_string(count) + " sequences, expected at least one");
}
}  // namespace detail

/// `copies` copies of the S sequences one after another; those of copy c are more + c growth rows longer than the ones given.
template <Backend B>
sequences<B> lengthened(context<B>& cx, const sequences<B>& seq, index_t more, index_t copies = 1, index_t growth = 0) {
  const index_t count = seq.count(), size = copies * count + 1;
  detail::check_sequences("lengthened", copies < 1 ? copies : count);
  int* const host = cx.template make_pullbacks<int>(size);
  const auto there = cx.template make_of<int>(size);
  const index_t rows = seq.host_offsets[count];
  const kernel::lengthened_offsets of_host{seq.host_offsets, host, count, rows, more, growth};
  for (index_t i = 0; i < size; ++i) of_host(i);
  B::for_each(cx.queue(), size, kernel::lengthened_offsets{seq.offsets.data, there.data, count, rows, more, growth});
  return {there, host, {}};
}
/// `count` sequences of `length` rows each, with positions.
template <Backend B>
sequences<B> even_sequences(context<B>& cx, index_t count, index_t length) {
  detail::check_sequences("even_sequences", count);
  int* const host = cx.template make_pullbacks<int>(count + 1);
  const auto there = cx.template make_of<int>(count + 1), positions = cx.template make_of<int>(count * length);
  const kernel::even_offsets of_host{host, length};
  for (index_t i = 0; i <= count; ++i) of_host(i);
  B::for_each(cx.queue(), count + 1, kernel::even_offsets{there.data, length});
  B::for_each(cx.queue(), count * length, kernel::even_positions{positions.data, length});
  return {there, host, positions};
}

/// x (N, C) in S sequences, ids (Q), table (K, C), shift (C) -> y, whose sequences are `longer` (Q, each one row longer than its source):
/// first table[id_q] + shift, then the rows of sequence sources_q of x; without sources, of sequence q % S.
template <Backend B>
tensor<B> prepend_rows(context<B>& cx, const_tensor<B> x, const sequences<B>& seq, const_tensor<B> table, indices<B> ids,
                       const_tensor<B, 1> shift, const sequences<B>& longer, indices<B> sources = {}) {
  const index_t count = longer.count();
  detail::check_sequences("prepend_rows", seq.count() < 1 ? seq.count() : count);
  auto y = cx.make(index_t{longer.host_offsets[count]}, x.cols());
  B::for_rows(cx.queue(), count,
              kernel::prepend_rows<typename B::real>{x.data, seq.offsets.data, table.data, ids.data, shift.data, sources.data, y.data,
                                                     longer.offsets.data, seq.count(), x.cols()});
  return y;
}

/// Gradients of what was prepended to, and of the rows in front.
template <Backend B>
struct prepended_gradients {
  tensor<B> dx;      // (N, C)
  tensor<B> dfront;  // (S, C)
};
/// dy (N + S, C) of sequences `longer`, each prepended to once; base (N, C) -> dx = base + the rows of dy behind the front, dfront.
template <Backend B>
prepended_gradients<B> prepend_rows_pullback(context<B>& cx, const_tensor<B> dy, const sequences<B>& seq, const sequences<B>& longer,
                                             const_tensor<B> base) {
  const index_t count = seq.count();
  detail::check_sequences("prepend_rows_pullback", count);
  prepended_gradients<B> d{cx.make(base.rows(), base.cols()), cx.make(count, base.cols())};
  B::for_rows(cx.queue(), count,
              kernel::prepend_rows_pullback<typename B::real>{dy.data, longer.offsets.data, base.data, d.dx.data, d.dfront.data,
                                                              seq.offsets.data, base.cols()});
  return d;
}

}  // namespace planlm::ops
