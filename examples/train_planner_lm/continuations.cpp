/// How a variant writes: continuations of test documents and texts begun from nothing, and their scores (methods section 11).
#include "checkpoint.hpp"
#include "experiment.hpp"
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <planlm/metrics/mauve.hpp>
#include <planlm/metrics/plan_following.hpp>
#include <planlm/metrics/rouge.hpp>

namespace train_planner_lm {
namespace {

/// Runs of letters and digits, Latin capitals made small; bytes beyond ASCII count as letters.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  bool inside = false;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool letter = byte >= 0x80 || std::isalnum(byte) != 0;
    if (letter && !inside) words.emplace_back();
    if (letter) words.back().push_back(static_cast<char>(byte < 0x80 ? std::tolower(byte) : byte));
    inside = letter;
  }
  return words;
}

constexpr std::uint64_t mauve_seeds = 5;

struct label_lists {
  std::vector<std::int32_t> labels;
  std::vector<index_t> starts{0};
  void add(const std::vector<std::int32_t>& document) {
    labels.insert(labels.end(), document.begin(), document.end());
    starts.push_back(static_cast<index_t>(labels.size()));
  }
  label_documents view() const { return {labels, starts}; }
};

std::string joined(const std::vector<std::string>& sentences) {
  std::string all;
  for (const std::string& s : sentences) all += (all.empty() ? "" : " ") + s;
  return all;
}

}  // namespace

void experiment::score_writing(const variant_plan& plan, const method& how, const conditioned_parts& parts, variant_result& result) {
  const language l{data_.vocabulary, material_.encoder, labels_.centroids, material_.ends, options_.context, options_.length};
  const auto tokens = static_cast<std::size_t>(options_.generate_tokens);
  // What is given: a document's first sentences, as many as fill a window; what is true: as many tokens after them as are written. Documents
  // that end before are left out. Labels and vectors are of whole sentences among those tokens, on both sides.
  std::vector<std::vector<std::string>> prompts, true_words;
  label_lists true_labels, opening_labels;
  std::vector<float> opening_vectors;
  for (const int d : data_.split.test) {
    if (static_cast<int>(prompts.size()) == options_.generate) break;
    const auto& ids = data_.corpus.documents[static_cast<std::size_t>(d)];
    const auto& sentences = data_.corpus.text.documents[static_cast<std::size_t>(d)].sentences;
    const auto begin_of = [&](int s) { return static_cast<std::size_t>(ids.sentence_begin[static_cast<std::size_t>(s)]); };
    const auto whole_ones = [&](int from) {  // the first sentence that does not end within `tokens` tokens
      int to = from;
      while (to < ids.sentences() && begin_of(to + 1) <= begin_of(from) + tokens) ++to;
      return to;
    };
    int given = 1;
    while (given < ids.sentences() && begin_of(given) <= static_cast<std::size_t>(options_.length)) ++given;
    if (given == ids.sentences() || begin_of(given) + tokens > ids.tokens.size()) continue;
    prompts.emplace_back(sentences.begin(), sentences.begin() + given);
    true_words.push_back(words_of(data_.vocabulary.decode(std::span(ids.tokens).subspan(begin_of(given), tokens))));
    const auto labels = labels_.labels.begin() + data_.row_of({d, 0});
    true_labels.add({labels + given, labels + whole_ones(given)});
    opening_labels.add({labels, labels + whole_ones(0)});
    for (int s = 0; s < whole_ones(0); ++s) {
      const auto row = labels_.vectors.row(data_.row_of({d, s}));
      opening_vectors.insert(opening_vectors.end(), row.begin(), row.end());
    }
  }
  generation_scores g{options_.generate, options_.generate_tokens, static_cast<index_t>(prompts.size()), NAN, NAN, NAN, NAN, NAN, NAN, NAN};
  result.samples.clear();
  result.generation = g;
  if (prompts.empty()) return;  // no document is long enough

  const philox before = device_.random;
  device_.training = false;
  writing_rule rule;
  rule.new_tokens = options_.generate_tokens;
  rule.random = random(of_continuations);
  const std::vector<written_text> continued = write_on(device_, parts, how, plan.adapted, l, prompts, rule);
  rule.random = random(of_beginnings);
  const std::vector<written_text> begun = write_on(device_, parts, how, plan.adapted, l, std::vector<std::vector<std::string>>(prompts.size()), rule);
  device_.training = true;
  device_.random = before;

  std::vector<std::vector<std::string>> words;
  label_lists labels, begun_labels;
  std::vector<std::int32_t> plans, own;
  for (const written_text& t : continued) {
    std::vector<std::string> text;
    std::vector<std::int32_t> of_document;
    for (const written_sentence& s : t.sentences) {
      text.push_back(s.text);
      if (!s.complete) continue;
      of_document.push_back(s.own);
      if (s.planned >= 0) plans.push_back(s.planned), own.push_back(s.own);
    }
    words.push_back(words_of(joined(text)));
    labels.add(of_document);
  }
  g.rouge2 = mean_rouge_n(words, true_words, 2).f;
  const label_distance distance = label_edit_distance(labels.view(), true_labels.view());
  g.edits = distance.edits, g.edits_normalised = distance.normalised;
  if (has_plans(plan) && !plans.empty()) g.followed = followed_plan(plans, own).rate();
  std::vector<std::string> begun_sentences;
  for (const written_text& t : begun) {
    std::vector<std::int32_t> of_document;
    for (const written_sentence& s : t.sentences)
      if (s.complete) of_document.push_back(s.own), begun_sentences.push_back(s.text);
    begun_labels.add(of_document);
  }
  // Texts are cut off, so their end is no outcome of the critic.
  const label_sequences train = sequences_of(data_, labels_, data_.split.train), valid = sequences_of(data_, labels_, data_.split.valid);
  const double delta = choose_delta(train.view(), valid.view(), options_.labels, latent_deltas);
  const label_critic critic = label_critic::bigram(train.view(), options_.labels, delta);
  g.latent_perplexity = critic.score(begun_labels.view()).perplexity();
  g.latent_perplexity_of_truth = critic.score(opening_labels.view()).perplexity();
  if (!begun_sentences.empty() && !opening_vectors.empty()) {
    const std::vector<float> vectors = material_.encoder.encode(begun_sentences).values;
    g.mauve = 0;
    for (std::uint64_t seed = 0; seed < mauve_seeds; ++seed)  // with so few texts the clusters alone move it
      g.mauve += mauve(opening_vectors, vectors, labels_.vectors.width, {.seed = seed}).score / double(mauve_seeds);
  }
  result.generation = g;
  for (std::size_t i = 0; i < std::min<std::size_t>(3, continued.size()); ++i) {
    sample_text sample{joined(continued[i].prompt), {}};
    for (const written_sentence& s : continued[i].sentences) sample.sentences.push_back({s.text, has_plans(plan) ? s.planned : -1, s.own, s.complete});
    result.samples.push_back(std::move(sample));
  }
}

}  // namespace train_planner_lm
