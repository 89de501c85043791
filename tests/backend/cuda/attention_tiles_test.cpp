#include "catch.hpp"
#include <algorithm>
#include <utility>
#include <vector>
#include <planlm/backend/cuda/attention_tiles.hpp>

using namespace planlm;
using namespace planlm::cuda_detail;

TEST_CASE("the tile numbers of packed sequences cover every row once and no row of another sequence") {
  for (const int tile : {16, 64, 128})
    for (const std::vector<int>& lengths : {std::vector<int>{1, 7, 37, 64, 65, 130, 257}, std::vector<int>(300, 3), std::vector<int>{128, 128},
                                            std::vector<int>{1000}, std::vector<int>{5, 0, 200, 0}}) {
      std::vector<int> offsets{0};
      for (const int n : lengths) offsets.push_back(offsets.back() + n);
      const index_t sequences = static_cast<index_t>(lengths.size());
      std::vector<int> covered(static_cast<std::size_t>(offsets.back()), 0);
      index_t unused = 0;
      for (index_t u = 0; u < tile_numbers(offsets.back(), sequences, tile); ++u) {
        const sequence_tile t = tile_at(offsets.data(), sequences, tile, u);
        if (t.empty()) {
          ++unused;
          continue;
        }
        CHECK(t.first % tile == 0);
        const auto s = static_cast<std::size_t>(std::upper_bound(offsets.begin(), offsets.end(), t.begin) - offsets.begin()) - 1;
        CHECK(offsets[s] == t.begin);
        CHECK(t.length == lengths[s]);
        for (int r = t.first; r < std::min(t.first + tile, t.length); ++r) ++covered[static_cast<std::size_t>(t.begin + r)];
      }
      CHECK(std::all_of(covered.begin(), covered.end(), [](int n) { return n == 1; }));
      CHECK(unused <= sequences);
    }
}

TEST_CASE("the tiles of the other side are those with a pair that is not masked, the whole ones those with no masked pair") {
  for (const bool causal : {true, false})
    for (const auto& [own, other] : {std::pair{64, 64}, std::pair{128, 64}, std::pair{64, 32}, std::pair{16, 48}})
      for (const int length : {1, 31, 64, 65, 127, 200}) {
        const auto seen = [&](int query, int key) { return query < length && key < length && (!causal || key <= query); };
        for (int first = 0; first < length; first += own) {
          const int queries = std::min(own, length - first), tiles = key_tiles(first, own, length, other, causal),
                    whole = whole_key_tiles(first, length, other, causal);
          for (int t = 0; t * other < length + other; ++t) {
            int pairs = 0;
            for (int q = 0; q < queries; ++q)
              for (int k = 0; k < other; ++k) pairs += seen(first + q, t * other + k);
            CHECK((t < tiles) == (pairs > 0));
            CHECK((t < whole) == (pairs == queries * other));
          }
          for (int q = first; q < first + queries; ++q) CHECK((seen(q, last_key(q, length, causal)) && !seen(q, last_key(q, length, causal) + 1)));
          // As a tile of keys: the first tile of queries that sees any of it.
          const int from = first_query_tile(first, other, causal);
          for (int t = 0; t * other < length; ++t) {
            bool any = false;
            for (int q = t * other; q < std::min((t + 1) * other, length); ++q)
              for (int k = first; k < first + own; ++k) any = any || seen(q, k);
            CHECK((t >= from) == any);
          }
        }
      }
}
