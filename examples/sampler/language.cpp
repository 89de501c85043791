/// Reading, splitting, passages and the base model.
#include "language.hpp"
#include <algorithm>
#include <iostream>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/text/corpus.hpp>
#include <planlm/training/schedule.hpp>

namespace sampler {
namespace {

template <class Names>
std::vector<std::string> names_of(const Names& names) {
  std::vector<std::string> list;
  for (const auto& n : names) list.emplace_back(n.first);
  return list;
}
template <class Names>
auto value_of(const Names& names, const std::string& name) {
  for (const auto& n : names)
    if (name == n.first) return n.second;
  throw error("there is no '" + name + "'");
}

}  // namespace

void text_options::add(trainer::flags& f) {
  f.path("--text", text, "UTF-8 text, JSON lines with a field text, or a folder of them", true);
  f.choice("--format", format, "of the text", names_of(text::corpus_format_names));
  f.choice("--splitter", splitter, "sentences of running text", names_of(text::splitter_names));
  f.whole("--vocabulary", vocabulary, "subword pieces");
}

std::span<const int> language::sentence(int document, int i) const {
  const auto& d = corpus.documents[static_cast<std::size_t>(document)];
  const auto begin = static_cast<std::size_t>(d.sentence_begin[static_cast<std::size_t>(i)]);
  const auto end = static_cast<std::size_t>(d.sentence_begin[static_cast<std::size_t>(i) + 1]);
  return std::span(d.tokens).subspan(begin, end - begin);
}
const std::string& language::words(int document, int i) const {
  return corpus.text.documents[static_cast<std::size_t>(document)].sentences[static_cast<std::size_t>(i)];
}
int language::sentences(int document) const { return corpus.documents[static_cast<std::size_t>(document)].sentences(); }
std::string language::decode(std::span<const int> ids) const {
  std::vector<int> pieces;
  for (const int id : ids)
    if (id != stop()) pieces.push_back(id);
  return vocabulary.decode(pieces);
}

language read_language(const text_options& o) {
  text::corpus corpus = text::read_corpus(o.text, {value_of(text::corpus_format_names, o.format), value_of(text::splitter_names, o.splitter)});
  std::string description = corpus.description;
  if (corpus.documents.size() < 30) {  // a book without headings is one document: a split needs many
    const std::size_t whole = corpus.documents.size();
    corpus = text::cut_long_documents(std::move(corpus));
    if (corpus.documents.size() > whole)
      description += ", cut into " + std::to_string(corpus.documents.size()) + " parts (neighbours may fall on both sides of the split)";
  }
  if (corpus.documents.size() < 3)
    throw input_error(description + ": too little to split, training, validation and test need a document each; give more text, or --format "
                      "lines if every line is a sentence");
  const std::size_t before = corpus.documents.size();
  text::document_split split = text::split_documents(static_cast<int>(before), 0);
  const std::vector<std::string> train = text::sentences_of(corpus, split.train);
  text::vocabulary vocabulary = text::vocabulary::train(train, o.vocabulary);
  text::tokenised_corpus ids = text::tokenise(std::move(corpus), vocabulary);
  if (ids.documents.size() != before)
    throw input_error(description + ": " + std::to_string(before - ids.documents.size()) + " documents hold no words; remove them");
  std::uint64_t h = 1469598103934665603ull;  // FNV-1a
  const auto add = [&h](std::uint64_t v) { h = (h ^ v) * 1099511628211ull; };
  for (const auto& d : ids.documents) {
    add(d.tokens.size());
    for (const int t : d.tokens) add(static_cast<std::uint64_t>(t));
    for (const int b : d.sentence_begin) add(static_cast<std::uint64_t>(b));
  }
  return {std::move(ids), std::move(split), std::move(vocabulary), std::move(description), h};
}

tokens passage(const language& l, int document, int begin, int end) {
  tokens all{l.vocabulary.bos()};
  for (int i = begin; i < end; ++i) {
    const auto s = l.sentence(document, i);
    all.insert(all.end(), s.begin(), s.end());
    all.push_back(l.stop());
  }
  return all;
}

void base_options::add(trainer::flags& f) {
  f.choice("--device", device, "that computes", {"cpu", "cuda"});
  f.whole("--layers", layers, "blocks of the language model");
  f.whole("--width", width, "its width");
  f.whole("--heads", heads, "its attention heads");
  f.whole("--length", length, "tokens of context");
  f.whole("--base-steps", steps, "steps of the base language model");
  f.whole("--base-batch", batch, "passages of each of its steps");
  f.above_zero("--base-rate", rate, "its learning rate");
}
void base_options::check() const {
  if (width % heads != 0)
    throw input_error("--width " + std::to_string(width) + " is no multiple of --heads " + std::to_string(heads));
  if (length < 8) throw input_error("--length " + std::to_string(length) + ": give at least 8 tokens of context");
}

passages::passages(const language& l, std::span<const int> documents, index_t length)
    : language_(l), documents_(documents.begin(), documents.end()), length_(length) {
  for (const int d : documents_)
    for (int i = 0; i < l.sentences(d); ++i) begins_.emplace_back(d, i);
}
packed_text passages::batch(index_t count, philox random) const {
  packed_text out;
  for (index_t b = 0; b < count; ++b) {
    const auto [document, first] = begins_[random.below(static_cast<std::uint32_t>(begins_.size()), static_cast<std::uint64_t>(b), 0)];
    tokens all{language_.vocabulary.bos()};
    for (int i = first; i < language_.sentences(document) && static_cast<index_t>(all.size()) <= length_; ++i) {
      const auto s = language_.sentence(document, i);
      all.insert(all.end(), s.begin(), s.end());
      all.push_back(language_.stop());
    }
    // One more token than rows: the last is only predicted.
    if (static_cast<index_t>(all.size()) > length_ + 1) all.resize(static_cast<std::size_t>(length_) + 1);
    const int last = all.back();
    all.pop_back();
    out.add(all);
    out.targets.back() = last;
  }
  return out;
}
packed_text passages::all(std::size_t most) const {
  packed_text out;
  std::size_t count = 0;
  for (const int d : documents_) {
    for (int i = 0; i < language_.sentences(d) && count < most; ++count) {
      tokens all{language_.vocabulary.bos()};
      const int first = i;
      for (; i < language_.sentences(d); ++i) {
        const auto s = language_.sentence(d, i);
        if (i > first && static_cast<index_t>(all.size() + s.size()) + 1 > length_) break;
        all.insert(all.end(), s.begin(), s.end());
        all.push_back(language_.stop());
      }
      if (static_cast<index_t>(all.size()) > length_) all.resize(static_cast<std::size_t>(length_));
      out.add(all);
    }
  }
  return out;
}

std::unique_ptr<part> base_model(machine& m, trainer::run& run, const base_options& o, const std::function<packed_text(index_t)>& batch) {
  const std::map<std::string, std::string> about{{"identity", run.identity()}};
  const auto file = run.file("base.safetensors");
  auto frozen = m.make(philox{}, false);
  if (std::filesystem::exists(file)) {
    trainer::run::load_parameters(*frozen, file, about);
    return frozen;
  }
  const auto lm = m.make(philox{0, 0, 1u << 16}, true, 0.01);
  const index_t warm = std::max(1, o.steps / 20);
  const warmup schedule{warm, cosine_decay{std::max<index_t>(1, o.steps - warm), 0.05}};
  m.random = philox{0, 0, 2u << 16};
  run.stage({"base", 0, o.steps, "--base-rate", {{"lm", lm.get()}}, {}},
            [&](index_t s) { return m.language_step(*lm, batch(s), {o.rate * schedule(s)}); }, [](index_t) { return true; },
            [](index_t) { return std::string("in the language model's own training"); });
  frozen->copy(*lm);
  trainer::run::save_parameters(*frozen, file, about);
  return frozen;
}
double nats_per_token(machine& m, const part& lm, const packed_text& text) {
  // In pieces of whole sequences, so that a long text needs little memory.
  double sum = 0;
  std::size_t count = 0, sequence = 0;
  while (sequence + 1 < text.offsets.size()) {
    packed_text piece;
    for (; sequence + 1 < text.offsets.size() && piece.tokens.size() < 4096; ++sequence) {
      for (int t = text.offsets[sequence]; t < text.offsets[sequence + 1]; ++t) {
        piece.tokens.push_back(text.tokens[static_cast<std::size_t>(t)]);
        piece.targets.push_back(text.targets[static_cast<std::size_t>(t)]);
      }
      piece.offsets.push_back(static_cast<int>(piece.tokens.size()));
    }
    const std::vector<float> nll = m.token_nll(lm, piece);
    for (std::size_t t = 0; t < nll.size(); ++t)
      if (piece.targets[t] >= 0) sum += double(nll[t]), ++count;
  }
  return count > 0 ? sum / double(count) : 0;
}

}  // namespace sampler
