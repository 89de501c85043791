/// What the base language model learns from: unlabelled sentences, each with words that go with it behind CUE and SO (pattern.hpp).
///
/// Half of a line's rationale are words of the sentence itself, half are words of one of the sentences most like it, by tf-idf vectors; the
/// word behind SO is always one of those. A copied word can be found by looking at one place; a word of a similar sentence asks what all of
/// the sentence is about, and that is what a label asks too. Everything here is made from strings that have lost their labels.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/text/tfidf_svd.hpp>
#include "pattern.hpp"

namespace train_latent_classifier {

class base_text {
 public:
  using tokens = pattern::tokens;

  /// `width` of the vectors; `nearest` sentences are kept for each, found among at most `candidates` spread over the text.
  base_text(const pattern& p, std::span<const std::string> sentences, int width, std::size_t nearest = 8, std::size_t candidates = 8192)
      : pattern_(p), encoder_(planlm::tfidf_svd::fit(sentences, options(width))) {
    for (const std::string& s : sentences) sentences_.push_back(p.sentence(s));
    const planlm::embeddings x = encoder_.encode(sentences);
    const std::size_t n = sentences.size(), m = std::min(n, candidates);
    std::vector<std::pair<float, std::uint32_t>> found(m);
    for (std::size_t i = 0; i < n; ++i) {
      const std::span<const float> a = x.row(static_cast<planlm::index_t>(i));
      for (std::size_t c = 0; c < m; ++c) {
        const auto j = static_cast<std::uint32_t>(c * n / m);
        const std::span<const float> b = x.row(static_cast<planlm::index_t>(j));
        float dot = 0;
        for (std::size_t k = 0; k < a.size(); ++k) dot += a[k] * b[k];
        found[c] = {j == i ? 2.0f : -dot, j};  // itself last
      }
      const std::size_t kept = std::min(nearest, m);
      std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(kept), found.end());
      near_.emplace_back();
      for (std::size_t c = 0; c < kept; ++c) near_.back().push_back(found[c].second);
    }
  }

  std::size_t size() const { return sentences_.size(); }
  const planlm::tfidf_svd& encoder() const { return encoder_; }

  /// The line of sentence i, without BOS, with words of this draw.
  tokens line(std::size_t i, planlm::philox random, std::uint64_t row) const {
    tokens out = sentences_[i];
    const auto count = random.with_stream(random.stream + 1).below(6, row, 0);
    const tokens own = pattern_.key_words(out, count, random, row);
    out.push_back(pattern_.cue());
    for (std::uint32_t k = 0; k < count; ++k) {
      if (k < own.size() && random.with_stream(random.stream + 1).uniform(row, k + 1) < 0.5) out.push_back(own[k]);
      else borrow(out, i, random.with_stream(random.stream + 2 + k), row);
    }
    out.push_back(pattern_.so());
    borrow(out, i, random.with_stream(random.stream + 9), row);
    out.push_back(pattern_.end());
    return out;
  }

 private:
  static planlm::tfidf_svd_options options(int width) {
    planlm::tfidf_svd_options o;
    o.width = width, o.passage = 1;
    return o;
  }
  /// A word of a sentence like this one, if it has one.
  void borrow(tokens& out, std::size_t i, planlm::philox random, std::uint64_t row) const {
    const auto& near = near_[i];
    const auto other = near[random.below(static_cast<std::uint32_t>(near.size()), row, static_cast<std::uint32_t>(pattern_.size()))];
    const tokens word = pattern_.key_words(sentences_[other], 1, random, row);
    out.insert(out.end(), word.begin(), word.end());
  }

  const pattern& pattern_;
  planlm::tfidf_svd encoder_;
  std::vector<tokens> sentences_;
  std::vector<std::vector<std::uint32_t>> near_;
};

}  // namespace train_latent_classifier
