/// Label mixing on the CPU: softmax and products tile by tile.
///
/// Forward: p = softmax(z / T) of a tile of rows, then their e = p E at once. Pullback: dw = de E^T of a tile, then dz = p o (dw - <p, dw>) / T
/// in its place; dw of all rows never exists beside dz. The same operations in the same order as the plain composition: the same bits.
#pragma once
#include <algorithm>
#include <planlm/backend/concept.hpp>
#include <planlm/backend/team.hpp>

namespace planlm::cpu_detail {

/// Rows per tile: each thread's share at once, because the table is packed once per tile.
constexpr index_t mixing_tile(index_t rows, index_t threads) {
  return std::clamp<index_t>((rows + threads - 1) / threads, 32, 512);
}

/// Rows [begin, begin + m) of z (S, K) -> p (S, K) by `softmax(team, row)` and e (S, C) = p E.
template <class Products, class T, class Softmax>
void mix_tile(const Softmax& softmax, index_t begin, index_t m, const T* p, operand<const T> table, T* e, void* scratch) {
  for (index_t r = begin; r < begin + m; ++r) softmax(serial_team{}, r);
  Products::template multiply<T>(1, {p + begin * table.rows, m, table.rows, table.rows, 1}, table,
                                 {e + begin * table.cols, m, table.cols, table.cols, 1}, nullptr, into::replace, scratch);
}
/// Rows [begin, begin + m) of de (S, C) -> dz (S, K): dw = de E^T in place of dz, then `pullback(team, row)` on it.
template <class Products, class T, class Pullback>
void mix_tile_pullback(const Pullback& pullback, index_t begin, index_t m, const T* de, operand<const T> table, T* dz, void* scratch) {
  Products::template multiply<T>(1, {de + begin * table.cols, m, table.cols, table.cols, 1},
                                 {table.data, table.cols, table.rows, 1, table.row_stride},
                                 {dz + begin * table.rows, m, table.rows, table.rows, 1}, nullptr, into::replace, scratch);
  for (index_t r = begin; r < begin + m; ++r) pullback(serial_team{}, r);
}

}  // namespace planlm::cpu_detail
