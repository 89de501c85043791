/// Plans, tokens and sentences of texts being written.
#include "writer.hpp"
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include "prepare.hpp"
#include <planlm/planning/kmeans.hpp>

namespace train_planner_lm {
namespace {

/// One text: its sentences so far as vectors, and how far its tokens have been read.
struct draft {
  std::vector<std::vector<float>> vectors;  // of finished sentences
  std::size_t read = 0;                     // tokens that belong to them
  std::vector<int> planned;                 // of sentences written
};

class desk {
 public:
  desk(learner& device, const conditioned_parts& parts, const method& how, bool planned, const language& l, const writing_rule& rule)
      : device_(device), parts_(parts), how_(how), planned_(planned), l_(l), rule_(rule) {
    const std::vector<std::string> nothing{empty_context};
    empty_ = vectors_of(nothing)[0];
    for (const int label : rule.forced)
      if (label < 0 || label >= labels())
        throw input_error("--plan: there is no label " + std::to_string(label) + "; they are 0 to " + std::to_string(labels() - 1));
  }
  int labels() const { return static_cast<int>(static_cast<index_t>(l_.centroids.size()) / l_.encoder.width()); }

  std::vector<written_text> write(const std::vector<std::vector<std::string>>& prompts) {
    generation_request request;
    drafts_.assign(prompts.size(), {});
    for (std::size_t i = 0; i < prompts.size(); ++i) begin(i, prompts[i], request);
    request.ends = l_.ends;
    request.new_tokens = rule_.new_tokens;
    request.longest_sentence = rule_.longest_sentence;
    request.rule = rule_.sampling;
    request.random = rule_.random;
    if (planned_)
      request.plan = [&](std::span<const int> texts, std::span<const std::vector<int>> tokens) { return next_plans(texts, tokens); };
    const std::vector<continuation> done = device_.generate(parts_, how_, request);
    std::vector<written_text> all;
    for (std::size_t i = 0; i < done.size(); ++i) all.push_back(finish(i, prompts[i], request, done[i]));
    return all;
  }

 private:
  std::vector<std::vector<float>> vectors_of(std::span<const std::string> sentences) const {
    const embeddings e = l_.encoder.encode(sentences);
    std::vector<std::vector<float>> all;
    for (index_t r = 0; r < e.rows; ++r) all.emplace_back(e.row(static_cast<int>(r)).begin(), e.row(static_cast<int>(r)).end());
    return all;
  }
  /// The prompt's tokens, which sentence follows each, and the plans of its sentences and of the first one to be written.
  void begin(std::size_t i, const std::vector<std::string>& sentences, generation_request& request) {
    std::vector<int> tokens{l_.vocabulary.bos()}, sentence{0};
    std::vector<std::vector<float>> vectors;
    int number = 0;
    for (const std::string& s : sentences) {
      const std::vector<int> ids = l_.vocabulary.encode(s);
      if (ids.empty()) continue;
      vectors.push_back(vectors_of(std::span(&s, 1))[0]);
      for (std::size_t k = 0; k < ids.size(); ++k) {
        tokens.push_back(ids[k]);
        sentence.push_back(number + (k + 1 == ids.size()));
      }
      ++number;
    }
    draft& d = drafts_[i];
    std::vector<float> plans;
    if (planned_) {
      const int past = number;
      std::vector<std::span<const std::vector<float>>> contexts;
      for (int s = 0; s <= past; ++s) contexts.push_back(std::span(vectors).first(static_cast<std::size_t>(s)));
      sentence_plans p = plan(contexts, i, 0);
      const std::size_t columns = p.inputs.size() / p.labels.size();
      if (!rule_.forced.empty()) force(p, static_cast<std::size_t>(past), 0, columns);
      d.planned.push_back(p.labels.back());
      plans = std::move(p.inputs);
    }
    d.vectors = std::move(vectors);
    d.read = tokens.size();
    request.tokens.push_back(std::move(tokens));
    request.sentence.push_back(std::move(sentence));
    request.plans.push_back(std::move(plans));
  }
  /// A sentence of each of these texts has ended: what the planner makes of them.
  std::vector<float> next_plans(std::span<const int> texts, std::span<const std::vector<int>> tokens) {
    std::vector<float> inputs;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto number = static_cast<std::size_t>(texts[i]);
      draft& d = drafts_[number];
      const std::vector<std::string> sentence{l_.vocabulary.decode(std::span(tokens[i]).subspan(d.read))};
      d.vectors.push_back(vectors_of(sentence)[0]);
      d.read = tokens[i].size();
      sentence_plans p = plan({std::span<const std::vector<float>>(d.vectors)}, number, d.planned.size());
      if (d.planned.size() < rule_.forced.size()) force(p, 0, d.planned.size(), p.inputs.size());
      d.planned.push_back(p.labels[0]);
      inputs.insert(inputs.end(), p.inputs.begin(), p.inputs.end());
    }
    return inputs;
  }
  /// Plans of one text at a time, drawn by its number and the sentence's: a text does not depend on those written beside it.
  sentence_plans plan(const std::vector<std::span<const std::vector<float>>>& contexts, std::size_t text, std::size_t sentence) {
    std::vector<float> values;
    std::vector<int> offsets{0}, positions;
    for (const auto& c : contexts) {
      const std::size_t first = c.size() - std::min<std::size_t>(c.size(), static_cast<std::size_t>(l_.context));
      for (std::size_t r = first; r < c.size(); ++r) values.insert(values.end(), c[r].begin(), c[r].end());
      if (c.empty()) values.insert(values.end(), empty_.begin(), empty_.end());
      const int rows = static_cast<int>(std::max<std::size_t>(1, c.size() - first));
      for (int r = 0; r < rows; ++r) positions.push_back(r);
      offsets.push_back(offsets.back() + rows);
    }
    host_batch b;
    b.context = values, b.context_offsets = offsets, b.context_positions = positions;
    device_.random = rule_.random.at_step(static_cast<std::uint32_t>(text << 16 | (sentence & 0xffff)));
    return device_.plan(parts_, how_, b);
  }
  /// Row `row` becomes the plan of forced label number `n`: all weight on it, or all paths on it.
  void force(sentence_plans& p, std::size_t row, std::size_t n, std::size_t columns) {
    const int label = rule_.forced[n];
    std::vector<float> logits(static_cast<std::size_t>(labels()), -1e4f);
    logits[static_cast<std::size_t>(label)] = 1e4f;
    host_batch b;
    b.logits = logits;
    const sentence_plans one = device_.plan({parts_.lm, parts_.adapters, parts_.encoder, nullptr}, how_, b);
    std::copy(one.inputs.begin(), one.inputs.end(), p.inputs.begin() + static_cast<std::ptrdiff_t>(row * columns));
    p.labels[row] = label;
  }
  written_text finish(std::size_t i, const std::vector<std::string>& prompt, const generation_request& request, const continuation& done) const {
    written_text text{prompt, {}};
    const int first = request.sentence[i].back();
    for (std::size_t begin = 0; begin < done.tokens.size();) {
      std::size_t end = begin;
      while (end < done.tokens.size() && done.sentence[end] == done.sentence[begin]) ++end;
      written_sentence s;
      s.text = l_.vocabulary.decode(std::span(done.tokens).subspan(begin, end - begin));
      const auto number = static_cast<std::size_t>(done.sentence[begin] - first);
      if (number < drafts_[i].planned.size()) s.planned = drafts_[i].planned[number];
      s.complete = end < done.tokens.size() || l_.ends[static_cast<std::size_t>(done.tokens[end - 1])];
      text.sentences.push_back(std::move(s));
      begin = end;
    }
    std::vector<std::string> all;
    for (const written_sentence& s : text.sentences) all.push_back(s.text);
    const std::vector<int> own = labels_of(l_, all);
    for (std::size_t s = 0; s < own.size(); ++s) text.sentences[s].own = own[s];
    return text;
  }

  learner& device_;
  const conditioned_parts& parts_;
  const method& how_;
  bool planned_;
  const language& l_;
  const writing_rule& rule_;
  std::vector<float> empty_;
  std::vector<draft> drafts_;
};

}  // namespace

std::vector<int> labels_of(const language& l, std::span<const std::string> sentences) {
  if (sentences.empty()) return {};
  return assign_labels(l.encoder.encode(sentences).values, l.centroids, l.encoder.width());
}

std::vector<written_text> write_on(learner& device, const conditioned_parts& parts, const method& how, bool planned, const language& l,
                                   const std::vector<std::vector<std::string>>& prompts, const writing_rule& rule) {
  return prompts.empty() ? std::vector<written_text>{} : desk(device, parts, how, planned, l, rule).write(prompts);
}

}  // namespace train_planner_lm
