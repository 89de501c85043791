/// Passages of documents and their key sentences: what a summary is learnt from where nobody wrote one.
///
/// A passage is a few sentences in a row. Its key sentence is the one that has most in common with the
/// others, by ROUGE-1 F of its words against all of theirs (the principal sentence of gap-sentence
/// pre-training, 1912.08777 section 3.1), decided by the text alone. Where no sentence is ahead of all others
/// there is no passage: few words are shared, so that ties are many, and to take the first would make first
/// sentences key.
///
/// A language model reads  BOS, each sentence with its stop, the cue  and goes on with the key sentence and
/// its stop. The cue is a token of its own behind those of the language.
#pragma once
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/core/philox.hpp>
#include "sampler/language.hpp"

namespace train_token_guidance {

using sampler::tokens;

/// Words of a text as scores see them: runs of letters and digits, case folded.
std::vector<std::string> words_of(const std::string& text);

/// Which passages there are.
struct passage_shape {
  int sentences = 3, shortest = 4, longest = 36;  // tokens of each sentence, its stop not counted
  int room = 136;                                 // tokens of prompt and key sentence together
  bool marked = true;       // one sentence is the key sentence; false: none, its number is 0
  bool key_left_in = true;  // the passage that is read still has its key sentence
};
struct marked_passage {
  int document, first, key;  // its first sentence; the key sentence, counted from there
};

/// Passages of these documents that fit, none over another, at most `most` of them, in an order that `random`
/// decides.
std::vector<marked_passage> find_passages(const sampler::language& l, std::span<const int> documents,
                                          const passage_shape& shape, int most, planlm::philox random);

/// Passages as tokens and words; a view of the language, which must outlive it.
class passage_set {
 public:
  passage_set(const sampler::language& l, passage_shape shape, std::vector<marked_passage> passages)
      : language_(&l), shape_(shape), passages_(std::move(passages)) {}
  int size() const { return static_cast<int>(passages_.size()); }
  int document(int i) const { return at(i).document; }
  static int cue(const sampler::language& l) { return l.stop() + 1; }

  tokens prompt(int i) const { return prompt(i, at(i).key); }
  /// The key sentence and its stop.
  tokens key(int i) const { return sentence(i, at(i).key); }
  /// Prompt and answer with sentence `which` in the key sentence's place, and where the answer begins.
  std::pair<tokens, std::size_t> line(int i, int which) const;
  const passage_shape& shape() const { return shape_; }

  const std::string& key_text(int i) const { return text(i, at(i).key); }
  /// The first sentence of what is read.
  const std::string& lead_text(int i) const;
  /// All that is read.
  std::string text(int i) const;

 private:
  const marked_passage& at(int i) const { return passages_[static_cast<std::size_t>(i)]; }
  tokens prompt(int i, int key) const;
  tokens sentence(int i, int which) const;
  const std::string& text(int i, int which) const;
  bool read(int which, int key) const { return shape_.key_left_in || which != key; }

  const sampler::language* language_;
  passage_shape shape_;
  std::vector<marked_passage> passages_;
};

}  // namespace train_token_guidance
