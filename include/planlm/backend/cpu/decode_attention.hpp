/// Attention of single query rows over cached keys on the CPU: one task per row and key-value head, with the products and the softmax of
/// the packed forward pass, so that its values have the same bits.
#pragma once
#include <planlm/backend/concept.hpp>
#include <planlm/backend/team.hpp>
#include <planlm/core/math.hpp>

namespace planlm::cpu_detail {

/// The query heads (heads, width) of one row against n keys and values `stride` apart; p has room for heads * n values.
template <class Products, class T>
void decode_attention(const T* q, index_t heads, index_t width, const T* k, const T* v, index_t n, index_t stride, T scale, T* y, T* p,
                      void* scratch) {
  Products::template multiply<T>(1, {q, heads, width, width, 1}, {k, width, n, 1, stride}, {p, heads, n, n, 1}, nullptr, into::replace,
                                 scratch);
  const serial_team team;
  for (index_t h = 0; h < heads; ++h) {
    T* row = p + h * n;
    const T top = team.max<T>(n, [=](index_t i) { return row[i]; });
    const T total = team.sum<T>(n, [=](index_t i) {
      const T e = math::exp(scale * (row[i] - top));
      row[i] = e;
      return e;
    });
    const T inverse = T(1) / total;
    team.for_each(n, [=](index_t i) { row[i] *= inverse; });
  }
  Products::template multiply<T>(1, {p, heads, n, n, 1}, {v, n, width, stride, 1}, {y, heads, width, width, 1}, nullptr, into::replace,
                                 scratch);
}

}  // namespace planlm::cpu_detail
