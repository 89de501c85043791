/// What task prompt reads: running text and the sentences of two classes. The language model learns from the text and from the sentences that
/// are in no held-out part, which have lost their labels; the labelled ones and those to test on it never sees.
#pragma once
#include <array>
#include <string>
#include <vector>
#include "prompt.hpp"
#include "sampler/language.hpp"
#include "train_latent_classifier/sentences.hpp"

namespace train_token_guidance {

struct prompt_text {
  sampler::language language;       // documents of the text, then each unlabelled sentence as a document of its own
  std::vector<int> known, unknown;  // documents that the language model learns from; documents of the text that measure it
  train_latent_classifier::division sentences;
  std::array<std::string, 2> classes;
  std::string about;                // in a line
  std::string fingerprint;          // of all that was read
};

/// Errors: input_error naming the flag or the file.
prompt_text read_prompt_text(const prompt_options& o, const shared_options& s);

}  // namespace train_token_guidance
