/// Reading and dividing.
#include "prompt_text.hpp"
#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/text/corpus.hpp>

namespace train_token_guidance {
namespace {

namespace labelled_text = train_latent_classifier;

template <class Names>
auto value_of(const Names& names, const std::string& name) {
  for (const auto& n : names)
    if (name == n.first) return n.second;
  throw error("there is no '" + name + "'");
}

/// FNV-1a.
class hash {
 public:
  void add(const std::string& s) {
    for (const char c : s + "\n") value_ = (value_ ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  }
  std::string text() const { return std::to_string(value_); }

 private:
  std::uint64_t value_ = 1469598103934665603ull;
};

/// Sentences of a class that stand in it alone, each once. In equal numbers from both: `wanted` of both classes together.
void expect_enough(const labelled_text::classes& given, std::int64_t wanted) {
  for (const std::size_t c : {std::size_t{0}, std::size_t{1}}) {
    std::set<std::string> own(given[c].sentences.begin(), given[c].sentences.end());
    for (const std::string& s : given[1 - c].sentences) own.erase(s);
    if (own.size() < static_cast<std::size_t>(wanted / 2) + 2)
      throw input_error(given[c].source + ": " + std::to_string(own.size()) + " different sentences of the class '" + given[c].name +
                        "' alone, but --test, --validation and --pool take " + std::to_string(wanted / 2) +
                        " of each class and the language model learns from the rest; give more sentences or lower them");
  }
}

}  // namespace

prompt_text read_prompt_text(const prompt_options& o, const shared_options& s) {
  const labelled_text::classes given{labelled_text::read_class("--class", o.class_files[0]),
                                     labelled_text::read_class("--class", o.class_files[1])};
  if (given[0].name == given[1].name) throw input_error("--class: both classes are called '" + given[0].name + "'");
  expect_enough(given, std::int64_t{o.test} + o.validation + o.pool);
  labelled_text::division sentences = labelled_text::divide(given, {o.test, o.validation, o.pool});

  text::corpus corpus = text::read_corpus(
      s.text.text, {value_of(text::corpus_format_names, s.text.format), value_of(text::splitter_names, s.text.splitter)});
  std::string about = corpus.description;
  std::set<std::string> held_out;
  for (const auto* part : {&sentences.test, &sentences.validation})
    for (const auto& e : *part) held_out.insert(e.sentence);
  for (const auto& part : sentences.pool) held_out.insert(part.begin(), part.end());
  for (auto& d : corpus.documents) std::erase_if(d.sentences, [&](const std::string& words) { return held_out.contains(words); });
  std::erase_if(corpus.documents, [](const auto& d) { return d.sentences.empty(); });
  if (corpus.documents.size() < 30) corpus = text::cut_long_documents(std::move(corpus));  // a book without headings is one document
  if (corpus.documents.size() < 3)
    throw input_error(about + ": too little to learn a language from, expected at least 3 documents; give more text, or --format lines if every "
                              "line is a sentence");
  const text::document_split split = text::split_documents(static_cast<int>(corpus.documents.size()), 0, {0.9, 0.05, 0.05});
  std::vector<int> known = split.train, unknown = split.test;
  known.insert(known.end(), split.valid.begin(), split.valid.end());
  std::sort(known.begin(), known.end());
  const auto of_text = static_cast<int>(corpus.documents.size());
  for (const std::string& words : sentences.unlabelled) {
    known.push_back(static_cast<int>(corpus.documents.size()));
    corpus.documents.push_back({"unlabelled", {words}});
  }
  hash all;
  for (const auto& d : corpus.documents) {
    for (const std::string& words : d.sentences) all.add(words);
    all.add("");
  }
  for (const auto* part : {&sentences.test, &sentences.validation})
    for (const auto& e : *part) all.add(e.sentence + char('0' + e.label));
  for (const auto& part : sentences.pool)
    for (const std::string& words : part) all.add(words);

  text::vocabulary vocabulary = text::vocabulary::train(text::sentences_of(corpus, known), s.text.vocabulary);
  about += "; " + given[0].source + " (" + std::to_string(given[0].sentences.size()) + " sentences), " + given[1].source + " (" +
           std::to_string(given[1].sentences.size()) + "): " + std::to_string(sentences.test.size()) + " test, " +
           std::to_string(sentences.validation.size()) + " validation, " + std::to_string(sentences.pool[0].size() + sentences.pool[1].size()) +
           " to label, " + std::to_string(sentences.unlabelled.size()) + " unlabelled for the language model";
  text::tokenised_corpus ids = text::tokenise(std::move(corpus), vocabulary);
  if (static_cast<std::size_t>(of_text) + sentences.unlabelled.size() != ids.documents.size())
    throw input_error(about + ": some documents hold no words; remove them");
  return {{std::move(ids), {}, std::move(vocabulary), about, 0}, std::move(known), std::move(unknown), std::move(sentences),
          {given[0].name, given[1].name}, about, all.text()};
}

}  // namespace train_token_guidance
