/// Distances between texts.
#include "text_scores.hpp"
#include <algorithm>
#include <numeric>
#include <set>
#include <sstream>
#include <utility>

namespace train_infill_sampler {
namespace {

int levenshtein(const std::vector<int>& a, const std::vector<int>& b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 0; i < a.size(); ++i) {
    int diagonal = std::exchange(row[0], static_cast<int>(i) + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const int replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

/// Mean of f(i, j) over i < j; 0 where there is no pair.
template <class F>
double mean_over_pairs(std::size_t count, const F& f) {
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = i + 1; j < count; ++j) sum += f(i, j);
  return count > 1 ? 2 * sum / double(count * (count - 1)) : 0;
}

}  // namespace

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}
double edit_diversity(std::span<const std::vector<int>> texts) {
  return mean_over_pairs(texts.size(), [&](std::size_t i, std::size_t j) {
    const std::size_t longer = std::max(texts[i].size(), texts[j].size());
    return longer > 0 ? double(levenshtein(texts[i], texts[j])) / double(longer) : 0.0;
  });
}
double distinct_pairs(std::span<const std::vector<int>> texts) {
  std::set<std::pair<int, int>> seen;
  std::size_t all = 0;
  for (const auto& text : texts)
    for (std::size_t t = 0; t + 1 < text.size(); ++t, ++all) seen.insert({text[t], text[t + 1]});
  return all > 0 ? double(seen.size()) / double(all) : 0;
}
double cosine_diversity(const planlm::embeddings& vectors, planlm::index_t begin, planlm::index_t end) {
  return end - begin < 2 ? 0 : 1 - mean_over_pairs(static_cast<std::size_t>(end - begin), [&](std::size_t i, std::size_t j) {
    const auto a = vectors.row(begin + static_cast<planlm::index_t>(i)), b = vectors.row(begin + static_cast<planlm::index_t>(j));
    const auto empty = [](std::span<const float> row) { return std::all_of(row.begin(), row.end(), [](float x) { return x == 0; }); };
    if (empty(a) && empty(b)) return 1.0;  // two texts without a word that says anything are alike
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);  // rows have length 1, or are 0
  });
}

}  // namespace train_infill_sampler
