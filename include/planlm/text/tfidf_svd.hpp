/// Sentence vectors without a download: tf-idf weights of words, then a truncated SVD (latent semantic analysis).
///
///   A [S, V]   a_sw = (1 + ln count(s, w)) weight(w), every row of length 1
///   weight(w)  idf = ln((1 + S) / (1 + sentences with w)); words with idf < 2 count a tenth: they carry syntax, not topic
///   A ~ U Sigma R^T, components R [V, C];  sentence vector = a R, scaled to length 1
///
/// Everything is fitted on training sentences and frozen; `encode` projects any sentence with the fitted R. A sentence without a
/// known word is the zero vector. Words are runs of ASCII letters and digits (lower-cased) and of multi-byte characters (as they
/// are); Latin-1, general and CJK punctuation separates words; Chinese and Japanese characters are words one by one.
/// R comes from randomised subspace iteration (Halko, Martinsson, Tropp, SIAM Review 2011) with a fixed sign: the largest entry
/// of each component is positive. Components beyond the rank of A are zero. Threads share columns (fit) or sentences (encode)
/// and never add across them: same bits for any thread count.
/// cost    4 nnz(A) (C + oversampling) flop a round
/// errors  input_error when no word repeats and for damaged saved state, shape_error for options out of range
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <future>
#include <numeric>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/philox.hpp>
#include <planlm/text/sentence_encoder.hpp>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace planlm {

struct tfidf_svd_options {
  index_t width = 64;              // C
  index_t min_sentences = 2;       // a word must occur in this many training sentences
  index_t max_vocabulary = 20000;  // V: the words of most sentences are kept
  double common_idf = 2;           // words below this idf ...
  double common_factor = 0.1;      // ... are scaled by this
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
  const auto byte = [&](std::size_t i) { return i < sentence.size() ? static_cast<unsigned char>(sentence[i]) : 0u; };
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
    const std::size_t length = std::min<std::size_t>(b >= 0xF0 ? 4 : b >= 0xE0 ? 3 : b >= 0xC0 ? 2 : 1, sentence.size() - i);
    const unsigned next = byte(i + 1);
    const bool separates = (b == 0xC2 && next >= 0xA0 && next != 0xAA && next != 0xB5 && next != 0xBA) ||  // U+00A0-00BF
                           (b == 0xE2 && (next == 0x80 || next == 0x81)) ||                                // U+2000-207F
                           (b == 0xE3 && next == 0x80) ||                                                  // U+3000-303F
                           (b == 0xEF && next == 0xBC);                                                    // full width
    const bool alone = !separates && b >= 0xE3 && b <= 0xE9;  // kana and CJK ideographs, written without spaces
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

/// Sparse rows, [S, V]: entries starts[s] .. starts[s + 1] belong to row s.
struct sparse_rows {
  std::vector<std::size_t> starts{0};
  std::vector<std::int32_t> columns;
  std::vector<float> values;

  /// Appends the row of a sentence whose known words are `ids` (any order, repeated as they occur), of length 1 or empty.
  void push(std::vector<std::int32_t>& ids, std::span<const float> weights) {
    std::sort(ids.begin(), ids.end());
    const std::size_t begin = values.size();
    double square = 0;
    for (std::size_t i = 0, j; i < ids.size(); i = j) {
      for (j = i; j < ids.size() && ids[j] == ids[i];) ++j;
      const double a = (1 + std::log(static_cast<double>(j - i))) * weights[static_cast<std::size_t>(ids[i])];
      if (a == 0) continue;
      columns.push_back(ids[i]);
      values.push_back(static_cast<float>(a));
      square += a * a;
    }
    for (std::size_t i = begin; i < values.size(); ++i)
      values[i] = static_cast<float>(values[i] / std::sqrt(square));
    starts.push_back(values.size());
  }
};

/// A tall matrix [V, 8 * slices] of double as slices of eight columns, each [V, 8]: one entry of a sparse row meets one cache line.
class sliced_matrix {
 public:
  static constexpr std::size_t lanes = 8;
  using panel = std::vector<double>;  // [V, lanes]

  sliced_matrix(std::size_t rows, std::size_t columns)
      : rows_(rows), panels_((columns + lanes - 1) / lanes, panel(rows * lanes)) {}

  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return panels_.size() * lanes; }
  double& at(std::size_t row, std::size_t column) { return panels_[column / lanes][row * lanes + column % lanes]; }
  const panel& slice(std::size_t s) const { return panels_[s]; }

  /// this = A^T A q, slice by slice; a slice is one thread's from beginning to end.
  void apply_gram(const sparse_rows& a, const sliced_matrix& q, int threads) {
    const std::size_t team = std::clamp<std::size_t>(static_cast<std::size_t>(std::max(threads, 1)), 1, panels_.size());
    const auto work = [&](std::size_t member) {
      for (std::size_t s = member; s < panels_.size(); s += team) gram_slice(a, q.panels_[s], panels_[s]);
    };
    std::vector<std::future<void>> others;  // a future hands on what its thread throws
    for (std::size_t member = 1; member < team; ++member)
      others.push_back(std::async(std::launch::async, work, member));
    work(0);
    for (auto& other : others) other.get();
  }

  /// Columns made orthonormal from the left by Gram-Schmidt, every projection done twice. A column that is a combination of earlier
  /// ones becomes zero, so the rank shows as the number of columns left.
  void orthonormalise() {
    for (std::size_t s = 0; s < panels_.size(); ++s) {
      std::array<double, lanes> before{};
      for (std::size_t c = 0; c < lanes; ++c) before[c] = dot(panels_[s], c, c);
      for (int twice = 0; twice < 2; ++twice)
        for (std::size_t left = 0; left < s; ++left) subtract_projection(panels_[left], panels_[s]);
      for (std::size_t c = 0; c < lanes; ++c) {
        panel& p = panels_[s];
        for (int twice = 0; twice < 2; ++twice)
          for (std::size_t left = 0; left < c; ++left) {
            const double d = dot(p, left, c);
            for (std::size_t r = 0; r < rows_; ++r) p[r * lanes + c] -= d * p[r * lanes + left];
          }
        const double square = dot(p, c, c);
        const double scale = square > 1e-20 * before[c] && square > 0 ? 1 / std::sqrt(square) : 0;
        for (std::size_t r = 0; r < rows_; ++r) p[r * lanes + c] *= scale;
      }
    }
  }

  /// g [lanes, lanes] of a^T b for one slice of each.
  static std::array<double, lanes * lanes> product(const panel& a, const panel& b) {
    std::array<double, lanes * lanes> g{};
    for (std::size_t r = 0; r < a.size(); r += lanes)
      for (std::size_t i = 0; i < lanes; ++i)
        for (std::size_t j = 0; j < lanes; ++j) g[i * lanes + j] += a[r + i] * b[r + j];
    return g;
  }

 private:
  static void gram_slice(const sparse_rows& a, const panel& q, panel& z) {
    std::fill(z.begin(), z.end(), 0.0);
    for (std::size_t s = 0; s + 1 < a.starts.size(); ++s) {
      double y[lanes] = {};  // row s of A q
      for (std::size_t e = a.starts[s]; e < a.starts[s + 1]; ++e) {
        const double* row = q.data() + static_cast<std::size_t>(a.columns[e]) * lanes;
        for (std::size_t j = 0; j < lanes; ++j) y[j] += a.values[e] * row[j];
      }
      for (std::size_t e = a.starts[s]; e < a.starts[s + 1]; ++e) {
        double* row = z.data() + static_cast<std::size_t>(a.columns[e]) * lanes;
        for (std::size_t j = 0; j < lanes; ++j) row[j] += a.values[e] * y[j];
      }
    }
  }
  static void subtract_projection(const panel& left, panel& p) {
    const auto g = product(left, p);
    for (std::size_t r = 0; r < p.size(); r += lanes)
      for (std::size_t i = 0; i < lanes; ++i)
        for (std::size_t j = 0; j < lanes; ++j) p[r + j] -= left[r + i] * g[i * lanes + j];
  }
  static double dot(const panel& p, std::size_t i, std::size_t j) {
    double sum = 0;
    for (std::size_t r = 0; r < p.size(); r += lanes) sum += p[r + i] * p[r + j];
    return sum;
  }

  std::size_t rows_;
  std::vector<panel> panels_;
};

/// Eigenvalues and eigenvectors (columns of w) of symmetric g [n, n] by cyclic Jacobi rotations; g ends diagonal.
inline void jacobi_eigen(std::vector<double>& g, std::vector<double>& w, std::size_t n) {
  w.assign(n * n, 0.0);
  for (std::size_t i = 0; i < n; ++i) w[i * n + i] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, diagonal = 0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) (i == j ? diagonal : off) += g[i * n + j] * g[i * n + j];
    if (off <= 1e-28 * diagonal) return;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        if (g[p * n + q] == 0) continue;
        const double theta = (g[q * n + q] - g[p * n + p]) / (2 * g[p * n + q]);
        const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        const auto rotate = [c, s](double& x, double& y) {
          const double x0 = x, y0 = y;
          x = c * x0 - s * y0;
          y = s * x0 + c * y0;
        };
        for (std::size_t k = 0; k < n; ++k) rotate(g[k * n + p], g[k * n + q]);
        for (std::size_t k = 0; k < n; ++k) rotate(g[p * n + k], g[q * n + k]);
        for (std::size_t k = 0; k < n; ++k) rotate(w[k * n + p], w[k * n + q]);
      }
  }
}

/// The `width` leading right singular vectors of A [S, V] as float [V, width].
inline std::vector<float> right_singular_vectors(const sparse_rows& a, std::size_t vocabulary,
                                                 const tfidf_svd_options& options) {
  constexpr std::size_t lanes = sliced_matrix::lanes;
  const auto width = static_cast<std::size_t>(options.width);
  const auto wanted = width + static_cast<std::size_t>(options.oversampling);
  sliced_matrix q(vocabulary, std::min(wanted, vocabulary)), z = q;
  const philox draws{options.seed, 0, 0x737664u};
  for (std::size_t r = 0; r < q.rows(); ++r)
    for (std::size_t c = 0; c < q.columns(); ++c)
      q.at(r, c) = draws.uniform(r, static_cast<std::uint32_t>(c)) - 0.5;
  q.orthonormalise();
  for (int round = 0; round < options.rounds; ++round) {
    z.apply_gram(a, q, options.threads);
    std::swap(q, z);
    q.orthonormalise();
  }
  // Rayleigh and Ritz: the eigenvectors of q^T A^T A q, turned back by q.
  z.apply_gram(a, q, options.threads);
  const std::size_t n = q.columns();
  std::vector<double> g(n * n), w;
  for (std::size_t i = 0; i < n; i += lanes)
    for (std::size_t j = i; j < n; j += lanes) {
      const auto block = sliced_matrix::product(q.slice(i / lanes), z.slice(j / lanes));
      for (std::size_t k = 0; k < lanes * lanes; ++k)
        g[(i + k / lanes) * n + j + k % lanes] = g[(j + k % lanes) * n + i + k / lanes] = block[k];
    }
  jacobi_eigen(g, w, n);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return g[i * n + i] > g[j * n + j]; });

  std::vector<float> components(vocabulary * width);
  std::vector<double> column(vocabulary);
  for (std::size_t c = 0; c < std::min(width, n); ++c) {
    const std::size_t from = order[c];
    if (!(g[from * n + from] > 1e-10 * g[order[0] * n + order[0]])) break;  // beyond the rank: noise, left zero
    std::size_t largest = 0;
    for (std::size_t r = 0; r < vocabulary; ++r) {
      column[r] = 0;
      for (std::size_t k = 0; k < n; ++k) column[r] += q.at(r, k) * w[k * n + from];
      if (std::abs(column[r]) > std::abs(column[largest])) largest = r;
    }
    const double sign = column[largest] < 0 ? -1 : 1;
    for (std::size_t r = 0; r < vocabulary; ++r) components[r * width + c] = static_cast<float>(sign * column[r]);
  }
  return components;
}

}  // namespace detail

/// The encoder. Use: `auto encoder = tfidf_svd::fit(training_sentences); auto z = encoder.encode(sentences);`
class tfidf_svd {
 public:
  static tfidf_svd fit(std::span<const std::string> sentences, const tfidf_svd_options& options = {},
                       location at = location::here()) {
    if (options.width < 1 || options.max_vocabulary < 1 || options.min_sentences < 1 || options.rounds < 0 ||
        options.oversampling < 0)
      throw_shape_error("tfidf_svd: width, max_vocabulary and min_sentences must be at least 1, rounds and "
                        "oversampling at least 0",
                        at);
    // Words get provisional numbers in order of appearance, then ranks by how many sentences have them.
    detail::word_index seen;
    std::vector<std::string> names;
    std::vector<index_t> document_frequency, last_sentence;
    std::vector<std::int32_t> tokens;
    std::vector<std::size_t> ends;
    for (std::size_t s = 0; s < sentences.size(); ++s) {
      detail::for_each_word(sentences[s], [&](std::string_view word) {
        auto found = seen.find(word);
        if (found == seen.end()) {
          found = seen.emplace(std::string(word), static_cast<std::int32_t>(names.size())).first;
          names.emplace_back(word);
          document_frequency.push_back(0);
          last_sentence.push_back(-1);
        }
        const auto id = static_cast<std::size_t>(found->second);
        if (last_sentence[id] != static_cast<index_t>(s)) ++document_frequency[id];
        last_sentence[id] = static_cast<index_t>(s);
        tokens.push_back(found->second);
      });
      ends.push_back(tokens.size());
    }
    std::vector<std::size_t> kept;
    for (std::size_t w = 0; w < names.size(); ++w)
      if (document_frequency[w] >= options.min_sentences) kept.push_back(w);
    if (kept.empty())
      throw input_error("sentence encoder: none of the " + std::to_string(names.size()) + " words in " +
                        std::to_string(sentences.size()) + " training sentences occurs in at least " +
                        std::to_string(options.min_sentences) + " of them; give a longer text");
    std::sort(kept.begin(), kept.end(), [&](auto a, auto b) {
      return document_frequency[a] != document_frequency[b] ? document_frequency[a] > document_frequency[b]
                                                            : names[a] < names[b];
    });
    if (static_cast<index_t>(kept.size()) > options.max_vocabulary)
      kept.resize(static_cast<std::size_t>(options.max_vocabulary));

    tfidf_svd_state state{options.width, {}, {}, {}};
    std::vector<std::int32_t> rank(names.size(), -1);
    for (std::size_t w : kept) {
      rank[w] = static_cast<std::int32_t>(state.words.size());
      state.words.push_back(names[w]);
      const double idf = std::log((1 + static_cast<double>(sentences.size())) /
                                  (1 + static_cast<double>(document_frequency[w])));
      state.weights.push_back(static_cast<float>(idf < options.common_idf ? idf * options.common_factor : idf));
    }
    detail::sparse_rows rows;
    std::vector<std::int32_t> ids;
    for (std::size_t s = 0, t = 0; s < sentences.size(); ++s) {
      for (ids.clear(); t < ends[s]; ++t)
        if (const auto id = rank[static_cast<std::size_t>(tokens[t])]; id >= 0) ids.push_back(id);
      rows.push(ids, state.weights);
    }
    state.components = detail::right_singular_vectors(rows, state.words.size(), options);
    return from_state(std::move(state), options.threads);
  }

  /// An encoder from saved data; gives the vectors that the saved one gave, bit for bit.
  static tfidf_svd from_state(tfidf_svd_state state, int threads = 1) {
    const std::size_t words = state.words.size();
    if (state.width < 1 || state.weights.size() != words ||
        state.components.size() != words * static_cast<std::size_t>(state.width))
      throw input_error("sentence encoder: " + std::to_string(words) + " words, " +
                        std::to_string(state.weights.size()) + " weights and " +
                        std::to_string(state.components.size()) + " components of width " +
                        std::to_string(state.width) + " do not fit together; the checkpoint is damaged, train again");
    return tfidf_svd(std::move(state), threads);
  }

  const tfidf_svd_state& state() const { return state_; }
  index_t width() const { return state_.width; }

  /// Vectors [sentences, width] of length 1, or 0 for a sentence that the fitted words say nothing about.
  embeddings encode(std::span<const std::string> sentences) const {
    embeddings out{static_cast<index_t>(sentences.size()), width(), {}};
    out.values.resize(sentences.size() * static_cast<std::size_t>(width()));
    const auto team = std::clamp<std::size_t>(static_cast<std::size_t>(std::max(threads_, 1)), 1, sentences.size() / 256 + 1);
    const auto work = [&](std::size_t member) {  // rows are independent, any partition gives the same bits
      encode_rows(sentences, sentences.size() * member / team, sentences.size() * (member + 1) / team, out.values);
    };
    std::vector<std::future<void>> others;
    for (std::size_t member = 1; member < team; ++member)
      others.push_back(std::async(std::launch::async, work, member));
    work(0);
    for (auto& other : others) other.get();
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
      detail::sparse_rows row;
      row.push(ids, state_.weights);
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
