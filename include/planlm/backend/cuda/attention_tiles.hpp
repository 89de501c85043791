/// Which rows a block of attention works on, and which tiles of the other side it must see. Compiles for host and device.
///
/// Sequences are packed one after another. A tile never crosses a sequence, so a sequence of n rows has ceil(n / rows) tiles; sequence s
/// gets the numbers from offsets[s] / rows + s on (rounded down), which is enough for all its tiles and leaves at most one number of each
/// sequence unused. So the number of blocks follows from the number of rows and sequences alone, with no list of tiles to upload.
#pragma once
#include <planlm/core/config.hpp>

namespace planlm::cuda_detail {

/// Rows [first, first + tile) of the sequence in packed rows [begin, begin + length).
struct sequence_tile {
  int begin, length, first;
  PLANLM_HD bool empty() const { return first < 0 || first >= length; }
  PLANLM_HD int rows() const { return length - first; }  // left from `first` on; may be more than the tile holds
};

/// How many tile numbers `sequences` sequences of `n` rows in all take.
PLANLM_HD inline index_t tile_numbers(index_t n, index_t sequences, int tile_rows) { return n / tile_rows + sequences; }

/// What tile number u in [0, tile_numbers) stands for; perhaps nothing.
PLANLM_HD inline sequence_tile tile_at(const int* offsets, index_t sequences, int tile_rows, index_t u) {
  index_t low = 0, high = sequences;
  while (high - low > 1) {
    const index_t middle = (low + high) / 2;
    if (offsets[middle] / tile_rows + middle <= u)
      low = middle;
    else
      high = middle;
  }
  const int begin = offsets[low];
  return {begin, offsets[low + 1] - begin, static_cast<int>(u - begin / tile_rows - low) * tile_rows};
}

/// Tiles of keys that the queries [first, first + query_rows) see at least one key of.
PLANLM_HD inline int key_tiles(int first, int query_rows, int length, int tile_rows, bool causal) {
  const int seen = causal && first + query_rows < length ? first + query_rows : length;
  return (seen + tile_rows - 1) / tile_rows;
}
/// The leading ones of them that every one of these queries sees whole: no mask needed.
PLANLM_HD inline int whole_key_tiles(int first, int length, int tile_rows, bool causal) {
  const int seen = causal && first + 1 < length ? first + 1 : length;
  return seen / tile_rows;
}
/// The last key that query `row` sees.
PLANLM_HD inline int last_key(int row, int length, bool causal) { return causal && row < length ? row : length - 1; }

/// The first tile of queries with one that sees a key from `first_key` on.
PLANLM_HD inline int first_query_tile(int first_key, int tile_rows, bool causal) { return causal ? first_key / tile_rows : 0; }

}  // namespace planlm::cuda_detail
