/// How a variant writes: continuations of test documents and texts begun from nothing, and their scores (methods section 11).
#include "checkpoint.hpp"
#include "experiment.hpp"
#include <algorithm>
#include <array>
#include <cmath>
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

void experiment::continue_documents(const variant_plan& plan, const conditioned_parts& parts, variant_result& result) {
  if (options_.generate == 0 || !can_write(plan)) return;
  const language l{data_.vocabulary, material_.encoder, labels_.centroids, material_.ends, options_.context, options_.length};
  const auto& documents = data_.corpus.text.documents;
  const auto tokens = static_cast<std::size_t>(options_.generate_tokens);
  // What is given: the document's first sentences, as many as fill a window; what is true: the tokens after them.
  std::vector<std::vector<std::string>> prompts, openings;
  std::vector<std::vector<std::string>> true_words;
  label_lists true_labels, opening_labels;
  std::vector<float> opening_vectors;
  const auto labels_from = [&](int document, int first, int count) {
    const auto begin = labels_.labels.begin() + data_.row_of({document, first});
    return std::vector<std::int32_t>(begin, begin + count);
  };
  for (const int d : data_.split.test) {
    if (static_cast<int>(prompts.size()) == options_.generate) break;
    const auto& ids = data_.corpus.documents[static_cast<std::size_t>(d)];
    const auto& sentences = documents[static_cast<std::size_t>(d)].sentences;
    int given = 1;
    while (given < ids.sentences() && ids.sentence_begin[static_cast<std::size_t>(given)] <= options_.length) ++given;
    const auto upto = [&](int from) {  // sentences that begin within the next `tokens` tokens
      int to = from;
      while (to < ids.sentences() && static_cast<std::size_t>(ids.sentence_begin[static_cast<std::size_t>(to)]) <
                                         static_cast<std::size_t>(ids.sentence_begin[static_cast<std::size_t>(from)]) + tokens)
        ++to;
      return to;
    };
    if (given == ids.sentences()) continue;  // nothing true comes after
    prompts.emplace_back(sentences.begin(), sentences.begin() + given);
    const auto first = static_cast<std::size_t>(ids.sentence_begin[static_cast<std::size_t>(given)]);
    const std::size_t length = std::min(tokens, ids.tokens.size() - first);
    true_words.push_back(words_of(data_.vocabulary.decode(std::span(ids.tokens).subspan(first, length))));
    true_labels.add(labels_from(d, given, upto(given) - given));
    const int opening = upto(0);
    opening_labels.add(labels_from(d, 0, opening));
    for (int s = 0; s < opening; ++s) {
      const auto row = labels_.vectors.row(data_.row_of({d, s}));
      opening_vectors.insert(opening_vectors.end(), row.begin(), row.end());
    }
  }
  if (prompts.empty()) return;

  const philox before = device_.random;
  device_.training = false;
  writing_rule rule;
  rule.new_tokens = options_.generate_tokens;
  rule.random = random(10);
  const bool planned = plan.adapted;
  const std::vector<written_text> continued = write_on(device_, parts, plan.test, planned, l, prompts, rule);
  rule.random = random(11);
  const std::vector<written_text> begun = write_on(device_, parts, plan.test, planned, l, std::vector<std::vector<std::string>>(prompts.size()), rule);
  device_.training = true;
  device_.random = before;

  generation_scores g;
  g.documents = static_cast<index_t>(prompts.size());
  std::vector<std::vector<std::string>> words;
  label_lists labels, begun_labels;
  std::vector<std::int32_t> plans, own;
  for (const written_text& t : continued) {
    std::vector<std::string> text;
    std::vector<std::int32_t> of_document;
    for (const written_sentence& s : t.sentences) {
      text.push_back(s.text);
      of_document.push_back(s.own);
      if (s.complete && s.planned >= 0) plans.push_back(s.planned), own.push_back(s.own);
    }
    words.push_back(words_of(joined(text)));
    labels.add(of_document);
  }
  g.rouge2 = mean_rouge_n(words, true_words, 2).f;
  const label_distance distance = label_edit_distance(labels.view(), true_labels.view());
  g.edits = distance.edits, g.edits_normalised = distance.normalised;
  g.followed = has_plans(plan) && !plans.empty() ? followed_plan(plans, own).rate() : NAN;
  std::vector<std::string> begun_sentences;
  for (const written_text& t : begun) {
    std::vector<std::int32_t> of_document;
    for (const written_sentence& s : t.sentences) {
      of_document.push_back(s.own);
      if (s.complete) begun_sentences.push_back(s.text);
    }
    begun_labels.add(of_document);
  }
  const label_sequences train = sequences_of(data_, labels_, data_.split.train), valid = sequences_of(data_, labels_, data_.split.valid);
  const label_critic critic = latent_critic(train.view(), valid.view(), options_.labels, std::array{1.0, 0.1});
  g.latent_perplexity = critic.score(begun_labels.view()).perplexity();
  g.latent_perplexity_of_truth = critic.score(opening_labels.view()).perplexity();
  g.mauve = begun_sentences.empty() ? NAN : mauve(opening_vectors, material_.encoder.encode(begun_sentences).values, labels_.vectors.width).score;
  result.generation = g;
  for (std::size_t i = 0; i < std::min<std::size_t>(3, continued.size()); ++i) {
    sample_text sample{joined(continued[i].prompt), {}};
    for (const written_sentence& s : continued[i].sentences) sample.sentences.push_back({s.text, has_plans(plan) ? s.planned : -1, s.own});
    result.samples.push_back(std::move(sample));
  }
}

}  // namespace train_planner_lm
