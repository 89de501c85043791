/// Levenshtein's distance of two token lists: insertions, deletions and substitutions, each of cost 1.
///
/// Only whether it is below a bound is asked of most pairs. What both lists begin and end with is set aside, and of the table of m x n only
/// the cells within `bound` of the diagonal are made, until all of a row have reached it: O(bound min(m, n)).
#pragma once
#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <utility>
#include <vector>
#include <planlm/core/config.hpp>

namespace planlm {

/// min(distance, bound); 0 for a bound below 1.
inline index_t edit_distance(std::span<const int> a, std::span<const int> b, index_t bound = std::numeric_limits<index_t>::max()) {
  if (bound < 1) return 0;
  if (a.size() > b.size()) std::swap(a, b);
  const auto front = static_cast<std::size_t>(std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin());
  a = a.subspan(front), b = b.subspan(front);
  const auto back = static_cast<std::size_t>(std::mismatch(a.rbegin(), a.rend(), b.rbegin()).first - a.rbegin());
  a = a.first(a.size() - back), b = b.first(b.size() - back);
  const auto m = static_cast<index_t>(a.size()), n = static_cast<index_t>(b.size());
  if (n - m >= bound) return bound;
  if (m == 0) return n;
  const index_t near = std::min(bound, n);  // n at most is the answer

  // cell[i]: distance of a[0 .. i) and b[0 .. j). What a row has not made holds at least `near`.
  std::vector<index_t> cell(a.size() + 1);
  for (std::size_t i = 0; i < cell.size(); ++i) cell[i] = static_cast<index_t>(i);
  for (index_t j = 1; j <= n; ++j) {
    const index_t begin = std::max<index_t>(1, j - near), end = std::min(m, j + near);
    const int token = b[static_cast<std::size_t>(j - 1)];
    index_t diagonal = cell[static_cast<std::size_t>(begin - 1)], left = begin == 1 ? j : near + 1, least = left;
    if (begin == 1) cell[0] = j;
    for (index_t i = begin; i <= end; ++i) {
      index_t& here = cell[static_cast<std::size_t>(i)];
      const index_t replaced = diagonal + (a[static_cast<std::size_t>(i - 1)] == token ? 0 : 1);
      diagonal = here;
      here = left = std::min({replaced, here + 1, left + 1});
      least = std::min(least, here);
    }
    if (least >= bound) return bound;
  }
  return std::min(cell[a.size()], bound);
}

}  // namespace planlm
