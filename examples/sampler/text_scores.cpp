#include "text_scores.hpp"
#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <utility>
#include <planlm/training/edit_distance.hpp>

namespace sampler {

diversity diversity_of(std::span<const std::vector<int>> texts, const embeddings& vectors) {
  diversity d{NAN, NAN, NAN};
  const auto n = static_cast<index_t>(texts.size());
  std::set<std::pair<int, int>> different;
  std::size_t pairs = 0;
  for (const auto& t : texts)
    for (std::size_t i = 0; i + 1 < t.size(); ++i) different.emplace(t[i], t[i + 1]), ++pairs;
  if (pairs > 0) d.distinct = double(different.size()) / double(pairs);
  if (n < 2) return d;
  double cosine = 0, edits = 0;
  const auto empty = [](std::span<const float> row) { return std::all_of(row.begin(), row.end(), [](float v) { return v == 0; }); };
  for (index_t a = 0; a < n; ++a)
    for (index_t b = a + 1; b < n; ++b) {
      const auto x = vectors.row(a), y = vectors.row(b);
      // Texts of nothing but full stops have no vector; they are no diversity.
      cosine += empty(x) && empty(y) ? 1.0 : std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
      const auto &s = texts[static_cast<std::size_t>(a)], &t = texts[static_cast<std::size_t>(b)];
      const std::size_t longer = std::max(s.size(), t.size());
      if (longer > 0) edits += double(edit_distance(s, t)) / double(longer);
    }
  const double count = double(n) * double(n - 1) / 2;
  d.cosine = 1 - cosine / count, d.edits = edits / count;
  return d;
}

}  // namespace sampler
