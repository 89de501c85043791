/// Attention on the CPU: tiles of 64 queries against the keys they may see. Memory per thread grows with T, never with T x T.
///
/// Forward (2205.14135 in one pass over keys, because a tile of 64 x T scores fits the cache): S = Q K^T, softmax, Y = P V, keeps log sum
/// exp. Pullback recomputes P from it. Keys are visited in order, and masked ones add exact zeros: a row's bits depend on neither the
/// tile it sits in nor on the keys after it, so decoding one row at a time gives the same values.
#pragma once
#include <algorithm>
#include <cmath>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/team.hpp>
#include <planlm/core/math.hpp>

namespace planlm::cpu_detail {

/// One (sequence, head): strided operands into packed rows.
template <class T>
struct attention_head {
  const T *q, *k, *v;
  index_t rows, width, stride;  // stride between rows of q, k, v
  bool causal;
  T scale;
};

inline constexpr index_t query_tile = 64;

/// Values of scratch memory that a tile needs, without the products' own.
constexpr index_t attention_scratch(index_t longest, index_t tiles) { return tiles * query_tile * longest; }

/// y (rows, width) with row stride y_stride; lse with stride lse_stride.
template <class Products, class T>
void attention_forward(const attention_head<T>& head, T* y, index_t y_stride, T* lse, index_t lse_stride, T* p, void* scratch) {
  for (index_t begin = 0; begin < head.rows; begin += query_tile) {
    const index_t m = std::min(query_tile, head.rows - begin), keys = head.causal ? begin + m : head.rows;
    Products::template multiply<T>(1, {head.q + begin * head.stride, m, head.width, head.stride, 1},
                                   {head.k, head.width, keys, 1, head.stride}, {p, m, keys, keys, 1}, nullptr, into::replace, scratch);
    for (index_t r = 0; r < m; ++r) {
      T* row = p + r * keys;
      const T scale = head.scale;
      const index_t n = head.causal ? begin + r + 1 : keys;
      const serial_team team;
      const T top = team.max<T>(n, [=](index_t i) { return row[i]; });
      const T total = team.sum<T>(n, [=](index_t i) {
        const T e = math::exp(scale * (row[i] - top));
        row[i] = e;
        return e;
      });
      const T inverse = T(1) / total;
      team.for_each(n, [=](index_t i) { row[i] *= inverse; });
      for (index_t i = n; i < keys; ++i) row[i] = T(0);
      lse[(begin + r) * lse_stride] = scale * top + math::log(total);
    }
    Products::template multiply<T>(1, {p, m, keys, keys, 1}, {head.v, keys, head.width, head.stride, 1},
                                   {y + begin * y_stride, m, head.width, y_stride, 1}, nullptr, into::replace, scratch);
  }
}

/// Adds to dq, dk, dv (row stride head.stride). `p` and `dp` are tiles of query_tile x T.
template <class Products, class T>
void attention_backward(const attention_head<T>& head, const T* y, const T* dy, index_t y_stride, const T* lse, index_t lse_stride,
                        T* dq, T* dk, T* dv, T* p, T* dp, void* scratch) {
  const index_t d = head.width, ld = head.stride;
  for (index_t begin = 0; begin < head.rows; begin += query_tile) {
    const index_t m = std::min(query_tile, head.rows - begin), keys = head.causal ? begin + m : head.rows;
    const operand<const T> q{head.q + begin * ld, m, d, ld, 1}, g{dy + begin * y_stride, m, d, y_stride, 1};
    Products::template multiply<T>(1, q, {head.k, d, keys, 1, ld}, {p, m, keys, keys, 1}, nullptr, into::replace, scratch);
    Products::template multiply<T>(1, g, {head.v, d, keys, 1, ld}, {dp, m, keys, keys, 1}, nullptr, into::replace, scratch);
    // <P, dP> of each row. Rows of y lie far apart and come from memory: in a loop of their own their loads wait together.
    T inner[query_tile];
    const serial_team team;
    for (index_t r = 0; r < m; ++r) {
      const T *out = y + (begin + r) * y_stride, *dout = dy + (begin + r) * y_stride;
      inner[r] = team.sum<T>(d, [=](index_t i) { return out[i] * dout[i]; });
    }
    for (index_t r = 0; r < m; ++r) {
      T *row = p + r * keys, *drow = dp + r * keys;
      const T scale = head.scale, log_total = lse[(begin + r) * lse_stride], delta = inner[r];
      const index_t n = head.causal ? begin + r + 1 : keys;
      team.for_each(n, [=](index_t i) {
        const T w = math::exp(scale * row[i] - log_total);
        row[i] = w;
        drow[i] = scale * w * (drow[i] - delta);
      });
      for (index_t i = n; i < keys; ++i) row[i] = drow[i] = T(0);
    }
    Products::template multiply<T>(1, {dp, m, keys, keys, 1}, {head.k, keys, d, ld, 1}, {dq + begin * ld, m, d, ld, 1}, nullptr,
                                   into::add, scratch);
    Products::template multiply<T>(1, {dp, keys, m, 1, keys}, q, {dk, keys, d, ld, 1}, nullptr, into::add, scratch);
    Products::template multiply<T>(1, {p, keys, m, 1, keys}, g, {dv, keys, d, ld, 1}, nullptr, into::add, scratch);
  }
}

}  // namespace planlm::cpu_detail
