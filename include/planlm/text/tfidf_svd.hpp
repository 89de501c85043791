/// Sentence vectors without a download: tf-idf weights of words, then a truncated SVD (latent semantic
/// analysis).
///
///   weight(w)  idf = ln((1 + S) / (1 + sentences with w)), S training sentences
///   A [P, V]   a_pw = (1 + ln count(p, w)) weight(w), rows of length 1, one for each passage: neighbouring
///              sentences of one document
///   A ~ U Sigma R^T, components R [V, C];  a sentence's vector = a R, scaled to length 1
///
/// Why passages: words of one sentence hardly repeat, so an SVD of single sentences groups them by their
/// most frequent word. Words of a passage share a topic, and topics are what a planner can predict: in film
/// reviews (64 labels) the previous label tells 0.055 nats about the next one with passages of 30
/// sentences, 0.011 with single sentences (tests/text/tfidf_svd_test.cpp).
///
/// Everything is fitted on training sentences and frozen; `encode` projects any sentence with the fitted R,
/// and gives the zero vector for one without a known word. Words are runs of ASCII letters and digits
/// (lower-cased) and of multi-byte characters (as they are); Latin-1, general and CJK punctuation separates
/// words; kana and ideographs are words one by one. Threads share columns (fit) or sentences (encode) and
/// never add across them: the same bits for any thread count.
///
/// errors  input_error when no word repeats and for damaged saved state, shape_error for options out of range
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>
#include <planlm/backend/cpu/pool.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/text/sentence_encoder.hpp>
#include <planlm/text/truncated_svd.hpp>

namespace planlm {

struct tfidf_svd_options {
  index_t width = 64;              // C
  index_t min_sentences = 2;       // a word must occur in this many training sentences
  index_t max_vocabulary = 20000;  // V: the words of most sentences are kept
  index_t passage = 30;            // sentences of one document that share a row of A
  double common_idf = 2;           // the weight of words below this idf ...
  double common_factor = 1;        // ... is scaled by this
  int rounds = 8;                  // of subspace iteration
  index_t oversampling = 16;       // columns beyond `width` that are iterated too
  std::uint64_t seed = 0;          // of the first subspace
  int threads = 1;
};

/// All that a fitted encoder knows, as plain data for a checkpoint.
struct tfidf_svd_state {
  index_t width = 0;
  std::vector<std::string> words;  // (V), by falling number of sentences, then by bytes
  std::vector<float> weights;      // (V)
  std::vector<float> components;   // R [V, C]
  friend bool operator==(const tfidf_svd_state&, const tfidf_svd_state&) = default;
};

namespace detail {

/// f(word) for the words of a sentence, left to right; the word is valid during the call.
template <class F>
void for_each_word(std::string_view sentence, F&& f) {
  std::string word;
  const auto finish = [&] {
    if (!word.empty()) f(std::string_view(word));
    word.clear();
  };
  const auto byte = [&](std::size_t i) {
    return i < sentence.size() ? static_cast<unsigned char>(sentence[i]) : 0u;
  };
  for (std::size_t i = 0; i < sentence.size();) {
    const unsigned b = byte(i);
    if (b < 0x80) {
      const bool upper = b >= 'A' && b <= 'Z';
      if (upper || (b >= 'a' && b <= 'z') || (b >= '0' && b <= '9'))
        word.push_back(static_cast<char>(upper ? b + ('a' - 'A') : b));
      else
        finish();
      ++i;
      continue;
    }
    const std::size_t length = std::min<std::size_t>(b >= 0xF0   ? 4
                                                     : b >= 0xE0 ? 3
                                                     : b >= 0xC0 ? 2
                                                                 : 1,
                                                     sentence.size() - i);
    const unsigned next = byte(i + 1);
    const bool separates =
        (b == 0xC2 && next >= 0xA0 && next != 0xAA && next != 0xB5 && next != 0xBA) ||  // U+00A0-00BF
        (b == 0xE2 && (next == 0x80 || next == 0x81)) ||                                // U+2000-207F
        (b == 0xE3 && next == 0x80) ||                                                  // U+3000-303F
        (b == 0xEF && next == 0xBC);                                                    // full width
    const bool alone =
        !separates && b >= 0xE3 && b <= 0xE9;  // kana and CJK ideographs, written without spaces
    if (separates || alone) finish();
    if (!separates) word.append(sentence.substr(i, length));
    if (alone) finish();
    i += length;
  }
  finish();
}

struct string_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
};
/// Looked up by key alone: its iteration order is never used.
using word_index = std::unordered_map<std::string, std::int32_t, string_hash, std::equal_to<>>;

/// Appends the tf-idf row of `ids` (any order, repeated as they occur): of length 1, or empty.
inline void push_tfidf(sparse_rows& rows, std::vector<std::int32_t>& ids, std::span<const float> weights) {
  std::sort(ids.begin(), ids.end());
  const std::size_t begin = rows.values.size();
  double square = 0;
  for (std::size_t i = 0, j; i < ids.size(); i = j) {
    for (j = i; j < ids.size() && ids[j] == ids[i];) ++j;
    const double a =
        (1 + std::log(static_cast<double>(j - i))) * double{weights[static_cast<std::size_t>(ids[i])]};
    if (a == 0) continue;
    rows.columns.push_back(ids[i]);
    rows.values.push_back(static_cast<float>(a));
    square += a * a;
  }
  for (std::size_t i = begin; i < rows.values.size(); ++i)
    rows.values[i] = static_cast<float>(rows.values[i] / std::sqrt(square));
  rows.starts.push_back(rows.values.size());
}

/// The words of the training sentences, numbered in order of appearance.
class word_table {
 public:
  explicit word_table(std::span<const std::string> sentences) {
    word_index seen;
    std::vector<std::size_t> last;  // sentence, counted from 1, that had the word last
    for (std::size_t s = 0; s < sentences.size(); ++s) {
      for_each_word(sentences[s], [&](std::string_view word) {
        auto found = seen.find(word);
        if (found == seen.end()) {
          found = seen.emplace(std::string(word), static_cast<std::int32_t>(names_.size())).first;
          names_.emplace_back(word);
          frequency_.push_back(0);
          last.push_back(0);
        }
        const auto id = static_cast<std::size_t>(found->second);
        if (last[id] != s + 1) ++frequency_[id];
        last[id] = s + 1;
        tokens_.push_back(found->second);
      });
      ends_.push_back(tokens_.size());
    }
  }

  /// The words of sentences first .. last - 1.
  std::span<const std::int32_t> words(index_t first, index_t last) const {
    const std::size_t begin = ends_[static_cast<std::size_t>(first)],
                      end = ends_[static_cast<std::size_t>(last)];
    return std::span<const std::int32_t>(tokens_).subspan(begin, end - begin);
  }

  /// Fills the vocabulary and its weights; gives each word's place in it, or -1.
  std::vector<std::int32_t> choose(const tfidf_svd_options& options, tfidf_svd_state& state) const {
    const double sentences = static_cast<double>(ends_.size() - 1);
    std::vector<std::size_t> kept;
    for (std::size_t w = 0; w < names_.size(); ++w)
      if (frequency_[w] >= options.min_sentences) kept.push_back(w);
    if (kept.empty())
      throw input_error("sentence encoder: none of the " + std::to_string(names_.size()) + " words in " +
                        std::to_string(ends_.size() - 1) + " training sentences occurs in at least " +
                        std::to_string(options.min_sentences) + " of them; give a longer text");
    std::sort(kept.begin(), kept.end(), [&](auto a, auto b) {
      return frequency_[a] != frequency_[b] ? frequency_[a] > frequency_[b] : names_[a] < names_[b];
    });
    if (static_cast<index_t>(kept.size()) > options.max_vocabulary)
      kept.resize(static_cast<std::size_t>(options.max_vocabulary));
    std::vector<std::int32_t> rank(names_.size(), -1);
    for (std::size_t w : kept) {
      rank[w] = static_cast<std::int32_t>(state.words.size());
      state.words.push_back(names_[w]);
      const double idf = std::log((1 + sentences) / (1 + static_cast<double>(frequency_[w])));
      state.weights.push_back(
          static_cast<float>(idf < options.common_idf ? idf * options.common_factor : idf));
    }
    return rank;
  }

 private:
  std::vector<std::string> names_;
  std::vector<index_t> frequency_;  // sentences with the word
  std::vector<std::int32_t> tokens_;
  std::vector<std::size_t> ends_{0};  // of sentence s in tokens: ends[s] .. ends[s + 1]
};

}  // namespace detail

/// The encoder. Use: `auto encoder = tfidf_svd::fit(training_sentences); auto z = encoder.encode(sentences);`
class tfidf_svd {
 public:
  /// Document d is sentences[starts[d]] .. sentences[starts[d + 1] - 1]; starts has one entry more than there
  /// are documents.
  static tfidf_svd fit(std::span<const std::string> sentences, std::span<const index_t> starts,
                       const tfidf_svd_options& options = {}, location at = location::here()) {
    if (options.width < 1 || options.max_vocabulary < 1 || options.min_sentences < 1 || options.passage < 1 ||
        options.rounds < 0 || options.oversampling < 0)
      throw_shape_error(
          "tfidf_svd: width, max_vocabulary, min_sentences and passage must be at least 1, rounds and "
          "oversampling at least 0",
          at);
    if (starts.empty() || starts.front() != 0 || starts.back() != static_cast<index_t>(sentences.size()) ||
        !std::is_sorted(starts.begin(), starts.end()))
      throw_shape_error("tfidf_svd: document offsets must ascend from 0 to the number of sentences", at);
    const detail::word_table table(sentences);
    tfidf_svd_state state{options.width, {}, {}, {}};
    const std::vector<std::int32_t> rank = table.choose(options, state);
    sparse_rows rows;
    std::vector<std::int32_t> ids;
    for (std::size_t d = 0; d + 1 < starts.size(); ++d)
      for (index_t first = starts[d]; first < starts[d + 1]; first += options.passage) {
        ids.clear();
        for (const auto word : table.words(first, std::min(first + options.passage, starts[d + 1])))
          if (const auto id = rank[static_cast<std::size_t>(word)]; id >= 0) ids.push_back(id);
        detail::push_tfidf(rows, ids, state.weights);
      }
    state.components =
        right_singular_vectors(rows, static_cast<index_t>(state.words.size()), options.width,
                               {options.rounds, options.oversampling, options.seed, options.threads});
    return from_state(std::move(state), options.threads);
  }
  /// For sentences without documents: every sentence is a passage.
  static tfidf_svd fit(std::span<const std::string> sentences, const tfidf_svd_options& options = {},
                       location at = location::here()) {
    std::vector<index_t> starts(sentences.size() + 1);
    std::iota(starts.begin(), starts.end(), index_t{0});
    return fit(sentences, starts, options, at);
  }

  /// An encoder from saved data; gives the vectors that the saved one gave, bit for bit.
  static tfidf_svd from_state(tfidf_svd_state state, int threads = 1) {
    const std::size_t words = state.words.size();
    if (state.width < 1 || state.weights.size() != words ||
        state.components.size() != words * static_cast<std::size_t>(state.width))
      throw input_error(
          "sentence encoder: " + std::to_string(words) + " words, " + std::to_string(state.weights.size()) +
          " weights and " + std::to_string(state.components.size()) + " components of width " +
          std::to_string(state.width) + " do not fit together; the checkpoint is damaged, train again");
    return tfidf_svd(std::move(state), threads);
  }

  const tfidf_svd_state& state() const { return state_; }
  index_t width() const { return state_.width; }

  /// Vectors [sentences, width] of length 1, or 0 for a sentence that the fitted words say nothing about.
  embeddings encode(std::span<const std::string> sentences) const {
    embeddings out{static_cast<index_t>(sentences.size()), width(), {}};
    out.values.resize(sentences.size() * static_cast<std::size_t>(width()));
    constexpr std::size_t block = 256;  // sentences
    cpu_detail::thread_pool pool(sentences.size() > block ? threads_ : 1);
    pool.run(static_cast<index_t>((sentences.size() + block - 1) / block), [&](index_t b, int) {
      const std::size_t first = static_cast<std::size_t>(b) * block;
      encode_rows(sentences, first, std::min(sentences.size(), first + block), out.values);
    });
    return out;
  }

 private:
  tfidf_svd(tfidf_svd_state state, int threads) : state_(std::move(state)), threads_(threads) {
    for (std::size_t w = 0; w < state_.words.size(); ++w)
      index_.emplace(state_.words[w], static_cast<std::int32_t>(w));
  }

  void encode_rows(std::span<const std::string> sentences, std::size_t first, std::size_t last,
                   std::vector<float>& values) const {
    const auto width = static_cast<std::size_t>(state_.width);
    std::vector<double> sum(width);
    std::vector<std::int32_t> ids;
    for (std::size_t s = first; s < last; ++s) {
      ids.clear();
      detail::for_each_word(sentences[s], [&](std::string_view word) {
        if (const auto found = index_.find(word); found != index_.end()) ids.push_back(found->second);
      });
      sparse_rows row;
      detail::push_tfidf(row, ids, state_.weights);
      std::fill(sum.begin(), sum.end(), 0.0);
      for (std::size_t e = 0; e < row.values.size(); ++e) {
        const float* component = state_.components.data() + static_cast<std::size_t>(row.columns[e]) * width;
        for (std::size_t c = 0; c < width; ++c) sum[c] += double{row.values[e]} * component[c];
      }
      double square = 0;
      for (double v : sum) square += v * v;
      // A row of length 1 that projects to less than 1e-6 is rounding noise of words outside the subspace.
      const double scale = square > 1e-12 ? 1 / std::sqrt(square) : 0;
      for (std::size_t c = 0; c < width; ++c) values[s * width + c] = static_cast<float>(sum[c] * scale);
    }
  }

  tfidf_svd_state state_;
  detail::word_index index_;
  int threads_ = 1;
};

static_assert(SentenceEncoder<tfidf_svd>);

}  // namespace planlm
