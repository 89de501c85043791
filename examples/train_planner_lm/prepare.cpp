/// Reading, splitting, sentence vectors and labels.
#include "prepare.hpp"
#include <algorithm>
#include <filesystem>
#include <span>
#include <utility>
#include <planlm/planning/kmeans.hpp>
#include <planlm/text/corpus.hpp>

namespace train_planner_lm {
namespace {

/// Of tokens, of where sentences begin, and of their bytes, which the sentence encoder sees.
std::uint64_t fingerprint_of(const text::tokenised_corpus& corpus) {
  std::uint64_t h = 1469598103934665603ull;  // FNV-1a
  const auto add = [&h](std::uint64_t v) { h = (h ^ v) * 1099511628211ull; };
  for (const auto& d : corpus.documents) {
    add(d.tokens.size());
    for (const int t : d.tokens) add(static_cast<std::uint64_t>(t));
    add(d.sentence_begin.size());
    for (const int b : d.sentence_begin) add(static_cast<std::uint64_t>(b));
  }
  for (const auto& d : corpus.text.documents)
    for (const std::string& s : d.sentences) {
      for (const char c : s) add(static_cast<unsigned char>(c));
      add(256);
    }
  return h;
}

template <class Names>
auto value_of(const Names& names, const std::string& name) {
  for (const auto& n : names)
    if (name == n.first) return n.second;
  throw planlm::error("there is no '" + name + "'");
}

void need_three(const text::corpus& corpus) {
  if (corpus.documents.size() < 3)
    throw input_error(corpus.description + ": too little to split, training, validation and test need a document each (of a text without "
                      "documents, every 20 sentences are one); give more text, or --format lines if every line is a sentence");
}

text::corpus read(const std::filesystem::path& path, const options& o) {
  return text::read_corpus(path, text::read_options{value_of(text::corpus_format_names, o.format),
                                                    value_of(text::splitter_names, o.splitter)});
}

template <class Names>
std::string list_of(const Names& names) {
  std::string list;
  for (const auto& n : names) list += (list.empty() ? "" : ", ") + std::string(n.first);
  return list;
}

}  // namespace

std::string format_list() { return list_of(text::corpus_format_names); }
std::string splitter_list() { return list_of(text::splitter_names); }

data load(const options& o) {
  text::corpus corpus = read(o.text, o);
  std::string description = corpus.description;
  // A book without headings is one document: the split and the bootstrap need many.
  if (corpus.documents.size() < 30) {
    const std::size_t whole = corpus.documents.size();
    corpus = text::cut_long_documents(std::move(corpus));
    if (corpus.documents.size() > whole) description += ", cut into " + std::to_string(corpus.documents.size()) + " parts (neighbours may fall on both sides of the split)";
  }
  need_three(corpus);
  const auto own = static_cast<int>(corpus.documents.size());
  text::document_split split;
  if (o.test_text.empty()) {
    split = text::split_documents(own, 0);
  } else {
    text::corpus test = read(o.test_text, o);
    description += "; test documents: " + test.description;
    if (const std::size_t whole = test.documents.size(); whole < 10) {
      test = text::cut_long_documents(std::move(test));
      if (test.documents.size() > whole) description += ", cut into " + std::to_string(test.documents.size()) + " parts";
    }
    split = text::split_documents(own, 0, {0.8, 0.1, 0.1});
    split.train.insert(split.train.end(), split.test.begin(), split.test.end());  // --text keeps nothing for the test
    std::sort(split.train.begin(), split.train.end());
    split.test.clear();
    for (auto& d : test.documents) {
      split.test.push_back(static_cast<int>(corpus.documents.size()));
      corpus.documents.push_back(std::move(d));
    }
  }
  if (o.score == "valid") split.test = split.valid;
  const std::vector<std::string> train = text::sentences_of(corpus, split.train);
  text::vocabulary vocabulary = text::vocabulary::train(train, o.vocabulary);
  const std::size_t before = corpus.documents.size();
  text::tokenised_corpus tokens = text::tokenise(std::move(corpus), vocabulary);
  if (tokens.documents.size() != before)
    throw input_error(description + ": " + std::to_string(before - tokens.documents.size()) +
                      " documents hold no words; remove them");
  data d{std::move(tokens), std::move(split), std::move(vocabulary), {}, 0, std::move(description), 0};
  for (const auto& document : d.corpus.documents) {
    d.first_row.push_back(d.sentences);
    d.sentences += document.sentences();
  }
  d.fingerprint = fingerprint_of(d.corpus);
  const auto count = [&](const std::vector<int>& part) {
    index_t n = 0;
    for (const int i : part) n += d.corpus.documents[static_cast<std::size_t>(i)].sentences();
    return n;
  };
  const index_t sentences = count(d.split.train);
  if (sentences < o.labels)
    throw input_error(d.description + ": its training part has " + std::to_string(sentences) + " sentences, too few for --labels " +
                      std::to_string(o.labels) + "; give fewer labels or more text");
  return d;
}

tfidf_svd fit_encoder(const data& d, const options& o) {
  std::vector<std::string> train;
  std::vector<index_t> starts{0};
  for (const int i : d.split.train) {
    const auto& s = d.corpus.text.documents[static_cast<std::size_t>(i)].sentences;
    train.insert(train.end(), s.begin(), s.end());
    starts.push_back(static_cast<index_t>(train.size()));
  }
  tfidf_svd_options settings;
  settings.width = o.label_width;
  settings.threads = o.threads;
  return tfidf_svd::fit(train, starts, settings);
}

embeddings embed(const data& d, const tfidf_svd& encoder) {
  std::vector<std::string> all;
  all.reserve(static_cast<std::size_t>(d.sentences) + 1);
  for (const auto& document : d.corpus.text.documents) all.insert(all.end(), document.sentences.begin(), document.sentences.end());
  all.push_back(empty_context);
  return encoder.encode(all);
}

std::vector<char> sentence_ends(const data& d) {
  std::vector<int> seen(static_cast<std::size_t>(d.vocabulary.size())), last(seen.size());
  for (const int i : d.split.train) {
    const auto& t = d.corpus.documents[static_cast<std::size_t>(i)];
    for (std::size_t r = 1; r < t.tokens.size(); ++r) ++seen[static_cast<std::size_t>(t.tokens[r])];
    for (std::size_t s = 1; s < t.sentence_begin.size(); ++s) ++last[static_cast<std::size_t>(t.tokens[static_cast<std::size_t>(t.sentence_begin[s] - 1)])];
  }
  std::vector<char> ends(seen.size());
  for (std::size_t v = 0; v < seen.size(); ++v) ends[v] = 2 * last[v] > seen[v];
  return ends;
}

material gather(const options& o) {
  data d = load(o);
  tfidf_svd encoder = fit_encoder(d, o);
  embeddings vectors = embed(d, encoder);
  std::vector<char> ends = sentence_ends(d);
  return {std::move(d), std::move(encoder), std::move(vectors), std::move(ends)};
}

labelling label(const data& d, const embeddings& vectors, const options& o, std::uint64_t seed) {
  const auto width = static_cast<std::size_t>(vectors.width);
  std::vector<float> train;
  for (const int i : d.split.train) {
    const auto first = static_cast<std::size_t>(d.first_row[static_cast<std::size_t>(i)]);
    const auto n = static_cast<std::size_t>(d.corpus.documents[static_cast<std::size_t>(i)].sentences());
    train.insert(train.end(), vectors.values.begin() + static_cast<std::ptrdiff_t>(first * width),
                 vectors.values.begin() + static_cast<std::ptrdiff_t>((first + n) * width));
  }
  kmeans_options settings;
  settings.labels = o.labels;
  settings.seed = seed;
  settings.threads = o.threads;
  labelling l{vectors, kmeans(train, vectors.width, settings).centroids, {}};
  l.labels = assign_labels(std::span<const float>(vectors.values).first(static_cast<std::size_t>(d.sentences) * width), l.centroids,
                           vectors.width, o.threads);
  return l;
}

label_sequences sequences_of(const data& d, const labelling& l, const std::vector<int>& part) {
  label_sequences s;
  for (const int i : part) {
    const auto first = l.labels.begin() + d.first_row[static_cast<std::size_t>(i)];
    s.labels.insert(s.labels.end(), first, first + d.corpus.documents[static_cast<std::size_t>(i)].sentences());
    s.starts.push_back(static_cast<index_t>(s.labels.size()));
  }
  return s;
}

}  // namespace train_planner_lm
