/// A text as language for samplers: every sentence ends with a token of its own, the stop, so that a policy can end where a sentence does; the
/// language model that is trained on it, the reward of what samplers write.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>
#include <planlm/text/documents.hpp>
#include <planlm/text/vocabulary.hpp>
#include "machine.hpp"
#include "trainer/flags.hpp"
#include "trainer/stage.hpp"

namespace sampler {

struct text_options {
  std::filesystem::path text;
  std::string format = "automatic", splitter = "icu";
  int vocabulary = 2048;
  void add(trainer::flags& f);  // --text, --format, --splitter, --vocabulary
};

/// Documents, split and tokenised. The model's vocabulary is the pieces and the stop behind them.
struct language {
  text::tokenised_corpus corpus;
  text::document_split split;
  text::vocabulary vocabulary;
  std::string description;
  std::uint64_t fingerprint = 0;  // of all token ids

  int stop() const { return vocabulary.size(); }
  index_t size() const { return vocabulary.size() + 1; }
  /// Sentence i of a document without BOS or stop; words likewise.
  std::span<const int> sentence(int document, int i) const;
  const std::string& words(int document, int i) const;
  int sentences(int document) const;
  /// A text of words as tokens; tokens as words, stops left out.
  tokens encode(const std::string& words) const { return vocabulary.encode(words); }
  std::string decode(std::span<const int> ids) const;
};
/// Vocabulary is learnt from training documents alone. Errors: input_error for text that cannot be read or is too little.
language read_language(const text_options& o);

/// BOS, then sentences [begin, end) of a document, each with its stop.
tokens passage(const language& l, int document, int begin, int end);

/// The reward's model and how it is trained.
struct base_options {
  int layers = 2, width = 128, heads = 4, length = 96, steps = 1500, batch = 32;
  double rate = 2e-3;
  std::string device = "cpu";
  void add(trainer::flags& f);  // --device, --layers, --width, --heads, --length, --base-steps, --base-batch, --base-rate
  lm_sizes sizes(index_t vocabulary) const { return {vocabulary, length, width, heads, layers}; }
  void check() const;           // errors: input_error naming the flag
};
/// Passages for training: each begins with BOS at a random sentence of a random place in these documents and is cut at the model's length.
class passages {
 public:
  passages(const language& l, std::span<const int> documents, index_t length);
  packed_text batch(index_t count, philox random) const;
  /// Every sentence of the documents once, in passages one behind the other; at most `most` of them.
  packed_text all(std::size_t most) const;

 private:
  const language& language_;
  std::vector<int> documents_;
  index_t length_;
  std::vector<std::pair<int, int>> begins_;  // (document, sentence)
};
/// A frozen language model: trained on what batch(step) gives, or read from the run's base.safetensors. Same weights for all seeds of a run.
std::unique_ptr<part> base_model(machine& m, trainer::run& run, const base_options& o, const std::function<packed_text(index_t)>& batch);
/// Nats per target.
double nats_per_token(machine& m, const part& lm, const packed_text& text);

}  // namespace sampler
