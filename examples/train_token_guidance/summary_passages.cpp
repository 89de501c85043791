/// Finding passages, marking their key sentences, laying them out.
#include "summary_passages.hpp"
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <planlm/metrics/rouge.hpp>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

namespace train_token_guidance {
namespace {

/// -1 where none is ahead of all others.
int key_sentence(const sampler::language& l, int document, int first, int sentences) {
  std::vector<std::vector<std::string>> words;
  for (int i = 0; i < sentences; ++i) words.push_back(words_of(l.words(document, first + i)));
  int best = -1;
  double most = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::vector<std::string> others;
    for (std::size_t j = 0; j < words.size(); ++j)
      if (j != i) others.insert(others.end(), words[j].begin(), words[j].end());
    const double common = planlm::rouge_n(words[i], others, 1).f;
    if (common > most)
      most = common, best = static_cast<int>(i);
    else if (common == most)
      best = -1;
  }
  return best;
}

}  // namespace

std::vector<std::string> words_of(const std::string& text) {
  icu::UnicodeString folded = icu::UnicodeString::fromUTF8(text);
  folded.foldCase();
  std::vector<std::string> words;
  std::string word;
  for (int i = 0; i < folded.length(); i = folded.moveIndex32(i, 1)) {
    const UChar32 c = folded.char32At(i);
    if (u_isalnum(c)) {
      icu::UnicodeString(c).toUTF8String(word);
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

std::vector<marked_passage> find_passages(const sampler::language& l, std::span<const int> documents,
                                          const passage_shape& shape, int most, planlm::philox random) {
  std::vector<marked_passage> all;
  for (const int d : documents)
    for (int i = 0; i + shape.sentences <= l.sentences(d);) {
      int size = 3 + shape.longest;  // BOS, cue and the longest key sentence with its stop
      bool fits = true;
      for (int s = i; s < i + shape.sentences; ++s) {
        const int n = static_cast<int>(l.sentence(d, s).size());
        fits = fits && n >= shape.shortest && n <= shape.longest;
        size += n + 1;
      }
      fits = fits && size <= shape.room;
      const int key = fits && shape.marked ? key_sentence(l, d, i, shape.sentences) : 0;
      if (!fits || key < 0) {
        ++i;
        continue;
      }
      all.push_back({d, i, key});
      i += shape.sentences;
    }
  const std::size_t kept = std::min(all.size(), static_cast<std::size_t>(most));
  for (std::size_t i = 0; i < kept; ++i)
    std::swap(all[i], all[i + random.below(static_cast<std::uint32_t>(all.size() - i), i, 0)]);
  all.resize(kept);
  return all;
}

tokens passage_set::sentence(int i, int which) const {
  const auto s = language_->sentence(at(i).document, at(i).first + which);
  tokens all(s.begin(), s.end());
  all.push_back(language_->stop());
  return all;
}
const std::string& passage_set::text(int i, int which) const {
  return language_->words(at(i).document, at(i).first + which);
}
tokens passage_set::prompt(int i, int key) const {
  tokens all{language_->vocabulary.bos()};
  for (int s = 0; s < shape_.sentences; ++s)
    if (read(s, key)) {
      const tokens one = sentence(i, s);
      all.insert(all.end(), one.begin(), one.end());
    }
  all.push_back(cue(*language_));
  return all;
}
std::pair<tokens, std::size_t> passage_set::line(int i, int which) const {
  tokens all = prompt(i, which);
  const std::size_t first = all.size();
  const tokens answer = sentence(i, which);
  all.insert(all.end(), answer.begin(), answer.end());
  return {std::move(all), first};
}
const std::string& passage_set::lead_text(int i) const { return text(i, read(0, at(i).key) ? 0 : 1); }
std::string passage_set::text(int i) const {
  std::string all;
  for (int s = 0; s < shape_.sentences; ++s)
    if (read(s, at(i).key)) all += (all.empty() ? "" : "  ·  ") + text(i, s);
  return all;
}

}  // namespace train_token_guidance
