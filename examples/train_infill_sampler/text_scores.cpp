/// Words and vectors of texts.
#include "text_scores.hpp"
#include <algorithm>
#include <numeric>
#include <span>
#include <sstream>

namespace train_infill_sampler {

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}
double cosine_diversity(const planlm::embeddings& vectors) {
  const auto empty = [](std::span<const float> row) {
    return std::all_of(row.begin(), row.end(), [](float x) { return x == 0; });
  };
  double sum = 0;
  planlm::index_t pairs = 0;
  for (planlm::index_t i = 0; i < vectors.rows; ++i)
    for (planlm::index_t j = i + 1; j < vectors.rows; ++j, ++pairs) {
      const auto a = vectors.row(i), b = vectors.row(j);  // of length 1, or 0
      sum += empty(a) && empty(b) ? 1.0 : std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
    }
  return pairs > 0 ? 1 - sum / double(pairs) : 0;
}

}  // namespace train_infill_sampler
