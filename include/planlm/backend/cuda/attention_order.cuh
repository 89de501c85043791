/// The order in which blocks take tiles of attention: from one counter, so that whoever is free takes the next, the longest first.
///
/// A tile's result does not depend on who computes it, nor when. With tiles dealt out in turn instead, the causal kernel's last block ends 10 to
/// 20 % after the mean (16384 tokens, 16 heads, 132 multiprocessors); from the counter 1 %.
#pragma once
#if !defined(__CUDACC__)
#error "planlm: this header is for CUDA; include it from a .cu file compiled by nvcc"
#endif
#include <algorithm>
#include <cstddef>
#include <cuda_runtime.h>
#include <planlm/core/config.hpp>

namespace planlm {

/// Tiles of `rows` rows of (sequence, head) pairs. Lengths alike: pairs in groups whose keys and values stay in the L2 cache; inside a group one
/// tile of every pair, then the next. Lengths unlike: head by head, sequence after sequence, sequence s from slot begin / rows + s on. Both
/// name some tiles that do not exist; whoever takes one takes another.
struct attention_order {
  int heads, sequences, rows;
  int tiles, group;  // of the longest sequence; pairs
  int slots;         // of all sequences, 0: lengths alike
  bool descending;   // later tiles are longer

  struct place {
    int sequence, head, tile;
  };
  PLANLM_HD int items() const { return heads * (slots ? slots : sequences * tiles); }
  PLANLM_HD place at(int item, const int* offsets) const {
    if (slots) {
      const int head = item / slots, slot = descending ? slots - 1 - item % slots : item % slots;
      int low = 0, high = sequences - 1;  // the last sequence whose first slot is not after `slot`
      while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (offsets[middle] / rows + middle <= slot) low = middle;
        else high = middle - 1;
      }
      return {low, head, slot - (offsets[low] / rows + low)};
    }
    const int pairs = sequences * heads, first = item / (group * tiles) * group, local = item - first * tiles;
    const int count = group < pairs - first ? group : pairs - first;
    const int rank = local / count, pair = first + local - rank * count;
    return {pair / heads, pair % heads, descending ? tiles - 1 - rank : rank};
  }

  /// `pair_bytes` are the keys and values of one token and head.
  static attention_order of(index_t heads, const int* host_offsets, index_t sequences, int rows, int pair_bytes, bool descending) {
    index_t longest = 0, real = 0;
    for (index_t s = 0; s < sequences; ++s) {
      const index_t length = host_offsets[s + 1] - host_offsets[s];
      longest = std::max(longest, length);
      real += (length + rows - 1) / rows;
    }
    const index_t tiles = (longest + rows - 1) / rows, cached = index_t{40} << 20;
    const index_t group = std::clamp<index_t>(cached / std::max<index_t>(longest * pair_bytes, 1), 1, std::max<index_t>(sequences * heads, 1));
    const index_t slots = 2 * sequences * tiles > 3 * real ? host_offsets[sequences] / rows + sequences : 0;
    return {static_cast<int>(heads), static_cast<int>(sequences), rows, static_cast<int>(tiles), static_cast<int>(group),
            static_cast<int>(slots), descending};
  }
};

namespace kernel {

/// One tile's work. head < 0: there is no more.
struct attention_work {
  int sequence, head, tile, begin, length;
};
/// What the one thread of a block that takes work keeps. The counter holds 0 when the kernel begins; the next number is asked for when one is
/// handed out, long before it is needed.
struct attention_feed {
  const attention_order& order;
  const int* offsets;
  int* counter;
  int item;

  __device__ __forceinline__ attention_work next() {
    while (item < order.items()) {
      const auto place = order.at(item, offsets);
      item = gridDim.x + atomicAdd(counter, 1);
      const int begin = offsets[place.sequence], length = offsets[place.sequence + 1] - begin;
      if (place.tile * order.rows < length) return {place.sequence, place.head, place.tile, begin, length};
    }
    return {0, -1, 0, 0, 0};
  }
};

}  // namespace kernel
}  // namespace planlm
