/// Documents of sentences, as text and as token ids, and their split into train, valid and test.
///
/// Tokens of a document: BOS, then the ids of its sentences one after the other. Every sentence is tokenised
/// on its own, so that it has the same ids wherever it stands; a tokeniser that marks word starts, as
/// SentencePiece does, keeps the space between sentences (the code of 2410.12492 loses it). There is no end
/// mark: the last token has no target. No library is needed here: any tokeniser can feed it.
#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <numeric>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace planlm::text {

/// Text that belongs together: an article, a chapter, a review. Sentences have no white space around them.
struct document {
  std::string name;
  std::vector<std::string> sentences;
};

struct corpus {
  std::vector<document> documents;
  std::string description;  // where it came from and how it was read, for people
};

/// The same documents as ids. `sentence_begin` has one entry more than there are sentences: sentence i is
/// tokens[sentence_begin[i]] .. tokens[sentence_begin[i + 1] - 1], and sentence_begin[0] is 1, behind BOS.
struct tokenised_document {
  std::vector<int> tokens;
  std::vector<int> sentence_begin;

  int sentences() const { return static_cast<int>(sentence_begin.size()) - 1; }
};

/// Text and ids side by side: `documents[d]` sentence i is `text.documents[d].sentences[i]`.
struct tokenised_corpus {
  corpus text;
  std::vector<tokenised_document> documents;
  int dropped_sentences = 0;  // gave no token; they are missing from `text` too
};

/// Turns one sentence into ids; `bos()` is the id that opens a document and that `encode` never gives.
template <class T>
concept Tokeniser = requires(const T& tokeniser, const std::string& sentence) {
  { tokeniser.encode(sentence) } -> std::convertible_to<std::vector<int>>;
  { tokeniser.bos() } -> std::convertible_to<int>;
};

inline index_t count_sentences(const corpus& text) {
  index_t n = 0;
  for (const auto& d : text.documents) n += static_cast<index_t>(d.sentences.size());
  return n;
}

inline index_t count_tokens(std::span<const tokenised_document> documents) {
  index_t n = 0;
  for (const auto& d : documents) n += static_cast<index_t>(d.tokens.size());
  return n;
}

/// The sentences of some documents, in their order: what a vocabulary or an encoder may be fitted on (train
/// only).
inline std::vector<std::string> sentences_of(const corpus& text, std::span<const int> documents) {
  std::vector<std::string> all;
  for (const int d : documents) {
    const auto& sentences = text.documents.at(static_cast<std::size_t>(d)).sentences;
    all.insert(all.end(), sentences.begin(), sentences.end());
  }
  return all;
}

/// A sentence without tokens leaves both sides of the result, a document without sentences as well.
template <Tokeniser T>
tokenised_corpus tokenise(corpus text, const T& tokeniser) {
  tokenised_corpus out;
  out.text.description = std::move(text.description);
  for (auto& source : text.documents) {
    document kept{std::move(source.name), {}};
    tokenised_document ids{{tokeniser.bos()}, {1}};
    for (auto& sentence : source.sentences) {
      const std::vector<int> piece_ids = tokeniser.encode(sentence);
      if (piece_ids.empty()) {
        ++out.dropped_sentences;
        continue;
      }
      ids.tokens.insert(ids.tokens.end(), piece_ids.begin(), piece_ids.end());
      ids.sentence_begin.push_back(static_cast<int>(ids.tokens.size()));
      kept.sentences.push_back(std::move(sentence));
    }
    if (kept.sentences.empty()) continue;
    out.text.documents.push_back(std::move(kept));
    out.documents.push_back(std::move(ids));
  }
  if (out.documents.empty())
    throw input_error(out.text.description + ": no sentence gives a token; give text with words in it");
  return out;
}

/// Cuts every document of much more than `sentences` sentences into parts of about that many, none far
/// shorter, so that one running text becomes documents that can be split. Shorter documents stay as they are.
inline corpus cut_long_documents(corpus text, int sentences = 20) {
  if (sentences < 1)
    throw input_error("documents of " + std::to_string(sentences) +
                      " sentences: give a length of at least 1");
  corpus out{{}, std::move(text.description)};
  const auto length = static_cast<std::size_t>(sentences);
  for (auto& source : text.documents) {
    const std::size_t n = source.sentences.size();
    const std::size_t parts = std::max<std::size_t>(1, (n + length / 2) / length);
    if (parts == 1) {
      out.documents.push_back(std::move(source));
      continue;
    }
    for (std::size_t k = 0; k < parts; ++k) {
      document part{source.name + " (part " + std::to_string(k + 1) + " of " + std::to_string(parts) + ")",
                    {}};
      for (std::size_t i = n * k / parts; i < n * (k + 1) / parts; ++i)
        part.sentences.push_back(std::move(source.sentences[i]));
      out.documents.push_back(std::move(part));
    }
  }
  return out;
}

/// 0 .. n-1 in random order (Fisher and Yates, draw i from counter row i), into a buffer that is reused.
inline void shuffled_order(int n, philox draws, std::vector<int>& order) {
  order.resize(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (int i = 0; i + 1 < n; ++i) {
    const auto row = static_cast<std::uint64_t>(i);
    const std::uint32_t j = draws.below(static_cast<std::uint32_t>(n - i), row, 0);
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(i) + j]);
  }
}

inline std::vector<int> shuffled_order(int n, philox draws) {
  std::vector<int> order;
  shuffled_order(n, draws, order);
  return order;
}

struct split_fractions {
  double train = 0.8, valid = 0.1, test = 0.1;
};

/// Document numbers, ascending in each part; together every document once.
struct document_split {
  std::vector<int> train, valid, test;
};

/// A document goes to one part as a whole, since its sentences know each other. The draw depends on the seed
/// and the number of documents alone; the number of its stream keeps it apart from other uses of the seed.
inline document_split split_documents(int documents, std::uint64_t seed, split_fractions part = {}) {
  if (!(part.train > 0 && part.valid > 0 && part.test > 0 &&
        std::abs(part.train + part.valid + part.test - 1) < 1e-6))
    throw input_error("split " + std::to_string(part.train) + "/" + std::to_string(part.valid) + "/" +
                      std::to_string(part.test) + ": give three positive fractions that add up to 1");
  if (documents < 3)
    throw input_error(
        "the corpus has " + std::to_string(documents) + (documents == 1 ? " document" : " documents") +
        ", the split into train, valid and test needs at least 3: add text, or cut long documents");
  const auto share = [&](double fraction) {
    return std::max(1, static_cast<int>(std::lround(fraction * documents)));
  };
  const int test = std::min(share(part.test), documents - 2);
  const int valid = std::min(share(part.valid), documents - 1 - test);
  const std::vector<int> order = shuffled_order(documents, {seed, 0, 0x73706c69u});
  document_split out;
  out.test.assign(order.begin(), order.begin() + test);
  out.valid.assign(order.begin() + test, order.begin() + test + valid);
  out.train.assign(order.begin() + test + valid, order.end());
  for (auto* list : {&out.train, &out.valid, &out.test}) std::sort(list->begin(), list->end());
  return out;
}

}  // namespace planlm::text
