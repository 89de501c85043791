/// Three sentences in a row of a document: the one before the gap, the middle, the one after.
#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <vector>
#include "options.hpp"

namespace train_infill_sampler {

using sampler::tokens;
using sampler::written;

struct triple {
  int document, middle;  // the middle's number in its document
};

/// Triples whose sentences have lengths that the flags allow, at most `most` of them, drawn without repeats.
std::vector<triple> find_triples(const sampler::language& l, std::span<const int> documents,
                                 const document_options& o, int most, planlm::philox random);

/// What policies and the reward see of them; a view of the language, which must outlive it.
class triple_set {
 public:
  triple_set(const sampler::language& l, std::vector<triple> triples)
      : language_(&l), triples_(std::move(triples)) {}
  int size() const { return static_cast<int>(triples_.size()); }
  tokens before(int i) const { return sentence(i, -1); }
  tokens middle(int i) const { return sentence(i, 0); }
  tokens after(int i) const { return sentence(i, 1); }
  const std::string& words(int i, int offset) const;

  /// BOS after stop before stop: a language model goes on with what could follow `before`, and knows `after`.
  tokens prompt(int i) const;
  /// BOS before stop: without the sentence after.
  tokens context(int i) const;
  /// stop after stop: what is appended to every prefix of a middle.
  tokens ending(int i) const;
  /// Its sequence for a language model, and the first token of the middle in it: BOS before stop middle stop
  /// after stop.
  tokens whole(int i, std::span<const int> middle) const;

 private:
  tokens sentence(int i, int offset) const;
  const sampler::language* language_;
  std::vector<triple> triples_;
};

/// log p(middle stop after stop | BOS before stop) of texts written for triples `of`, nats, under a frozen
/// model.
std::vector<double> log_rewards(sampler::machine& m, const sampler::part& lm, const triple_set& triples,
                                std::span<const tokens> middles, std::span<const int> of);

}  // namespace train_infill_sampler
