/// The line that everything is written in:
///
///     sentence  CUE  rationale  SO  word  END
///
/// A rationale is a few words that go with the sentence. The base language model learns the pattern from unlabelled text (base_text.hpp): so
/// it comes to have a prior over rationales, and a place where a word sums the sentence up; a classifier says its label there. Words are
/// drawn with probability in proportion to their squared idf, and only those that are single pieces of the vocabulary.
///
/// No function here sees a label but `label_tokens`, which gives the tokens that stand for the two classes.
#pragma once
#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <planlm/text/vocabulary.hpp>

namespace train_latent_classifier {

class pattern {
 public:
  using tokens = std::vector<int>;

  /// Pieces and idf are learnt from `unlabelled`; longer sentences are cut to `most` tokens.
  pattern(std::span<const std::string> unlabelled, int pieces, int most)
      : vocabulary_(planlm::text::vocabulary::train(unlabelled, pieces)), most_(static_cast<std::size_t>(most)) {
    const auto size = static_cast<std::size_t>(vocabulary_.size());
    begins_.resize(size), word_.resize(size);
    for (std::size_t id = 0; id < size; ++id) {
      const std::string piece = vocabulary_.piece(static_cast<int>(id));
      begins_[id] = piece.starts_with(space);
      const std::string_view letters = std::string_view(piece).substr(begins_[id] ? space.size() : 0);
      word_[id] = begins_[id] && letters.size() > 1 && std::all_of(letters.begin(), letters.end(), [](unsigned char c) {
                    return c >= 0x80 || std::isalpha(c) != 0;
                  });
    }
    std::vector<int> sentences(size, 0), last(size, -1);
    for (std::size_t s = 0; s < unlabelled.size(); ++s)
      for (const int id : whole_words(sentence(unlabelled[s]))) {
        const auto at = static_cast<std::size_t>(id);
        if (std::exchange(last[at], static_cast<int>(s)) != static_cast<int>(s)) ++sentences[at];
      }
    weight_.resize(size);
    for (std::size_t id = 0; id < size; ++id) {
      const double idf = std::log((1 + double(unlabelled.size())) / (1 + double(sentences[id])));
      weight_[id] = idf * idf;
    }
  }

  const planlm::text::vocabulary& pieces() const { return vocabulary_; }
  int cue() const { return vocabulary_.size(); }
  int so() const { return vocabulary_.size() + 1; }
  int end() const { return vocabulary_.size() + 2; }
  planlm::index_t size() const { return vocabulary_.size() + 3; }

  tokens sentence(const std::string& words) const {
    tokens ids = vocabulary_.encode(words);
    if (ids.size() > most_) ids.resize(most_);
    return ids;
  }
  /// BOS, sentence, CUE: what a rationale is written for.
  tokens prompt(const std::string& words) const {
    tokens ids{vocabulary_.bos()};
    const tokens s = sentence(words);
    ids.insert(ids.end(), s.begin(), s.end());
    ids.push_back(cue());
    return ids;
  }
  /// Whether a piece of the vocabulary is a word by itself.
  bool is_word(int id) const { return word_[static_cast<std::size_t>(id)] != 0; }
  /// At most `count` different words of the sentence, the heavier the likelier, in the order they were drawn.
  tokens key_words(std::span<const int> sentence, std::size_t count, planlm::philox random, std::uint64_t row) const {
    std::vector<std::pair<double, int>> draws;  // the largest log(u) / weight are a draw without replacement
    tokens words = whole_words(sentence);
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    for (const int id : words)
      if (const double w = weight_[static_cast<std::size_t>(id)]; w > 0)
        draws.emplace_back(-std::log(random.uniform(row, static_cast<std::uint32_t>(id))) / w, id);
    std::sort(draws.begin(), draws.end());
    tokens out;
    for (std::size_t i = 0; i < std::min(count, draws.size()); ++i) out.push_back(draws[i].second);
    return out;
  }
  /// The first pieces of the words that stand for the classes. Errors: input_error where both are one piece.
  std::array<int, 2> label_tokens(const std::string& first, const std::string& second) const {
    const tokens a = vocabulary_.encode(first), b = vocabulary_.encode(second);
    if (a.empty() || b.empty() || a[0] == b[0])
      throw planlm::input_error("--label-words: '" + first + "' and '" + second + "' begin with the same piece '" +
                                (a.empty() ? std::string() : vocabulary_.decode(std::span(a).first(1))) +
                                "' of the vocabulary and cannot be told apart; choose others or raise --vocabulary");
    return {a[0], b[0]};
  }
  /// (V) log-factors of what a rationale may hold, besides SO that ends it: words, but no label, which would be the answer and not its reason.
  std::vector<float> penalty(const std::array<int, 2>& labels) const {
    std::vector<float> out(static_cast<std::size_t>(size()), -99.0f);
    for (int id = 0; id < vocabulary_.size(); ++id)
      if (is_word(id) && id != labels[0] && id != labels[1]) out[static_cast<std::size_t>(id)] = 0;
    out[static_cast<std::size_t>(so())] = 0;
    return out;
  }
  std::string words(std::span<const int> ids) const {
    tokens known;
    for (const int id : ids)
      if (id < vocabulary_.size()) known.push_back(id);
    return vocabulary_.decode(known);
  }

 private:
  static constexpr std::string_view space = "\xE2\x96\x81";  // U+2581, SentencePiece's mark

  // Pieces that are a word each: the next one begins another.
  tokens whole_words(std::span<const int> ids) const {
    tokens out;
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (word_[static_cast<std::size_t>(ids[i])] && (i + 1 == ids.size() || begins_[static_cast<std::size_t>(ids[i + 1])])) out.push_back(ids[i]);
    return out;
  }

  planlm::text::vocabulary vocabulary_;
  std::size_t most_;
  std::vector<char> begins_, word_;
  std::vector<double> weight_;
};

}  // namespace train_latent_classifier
