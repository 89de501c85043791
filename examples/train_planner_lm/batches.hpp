/// How batches of text become plain numbers for a device, and in what order they come.
#pragma once
#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include "learner.hpp"
#include "prepare.hpp"
#include <planlm/planning/plan_rows.hpp>

namespace train_planner_lm {

inline learner_sizes sizes_of(const options& o, index_t vocabulary) {
  return {vocabulary,      o.length,          o.width,         o.heads,          o.layers,      o.first_adapted, o.labels, o.label_width,
          o.planner_heads, o.planner_inner,   o.planner_layers, o.horizon,       o.plan_layers, o.prefix_rows,   o.rank,   o.alpha};
}

/// What a batch should hold beside its text.
struct wanted {
  const std::vector<float>* logits = nullptr;  // of all sentences, (sentences, K)
  bool context = false;                        // for a planner that runs in the step
  index_t horizon = 0;                         // coming labels
  bool first_rows = false;
};

/// Fills batches; its buffers are reused, so that a step allocates nothing once they have grown. A batch is good until the next.
class batcher {
 public:
  batcher(const data& d, const labelling& l, const options& o)
      : data_(&d), labelling_(&l), context_(o.context), labels_(o.labels), prefix_rows_(o.prefix_rows) {}

  host_batch load(std::span<const text::chunk> chunks, const wanted& w = {}, const conditioning& reach = {}) {
    text::make_batch(data_->corpus.documents, chunks, batch_);
    host_batch out;
    out.tokens = batch_.tokens;
    out.targets = batch_.targets;
    out.sentence = batch_.sentence;
    out.chunk_offsets = batch_.sequence_offsets;
    out.positions = batch_.positions;
    out.targets_given = static_cast<index_t>(batch_.targets.size());
    fill_sentences(batch_.sentences, w, out);
    if (w.first_rows) fill_first_rows(chunks, out);
    if (reach.own_rows()) give_plans_rows(reach, out);
    return out;
  }
  /// Sentences alone, for a planner.
  host_batch load(std::span<const text::sentence_ref> sentences, const wanted& w = {nullptr, true, 0, false}) {
    host_batch out;
    fill_sentences(sentences, w, out);
    return out;
  }
  /// Chunks with the label of every sentence that begins in them as a token before it, as number vocabulary + label.
  host_batch load_with_label_tokens(std::span<const text::chunk> chunks, int vocabulary) {
    for (auto* v : {&own_.tokens, &own_.targets, &own_.positions, &own_.offsets}) v->clear();
    own_.offsets.push_back(0);
    host_batch out;
    for (const text::chunk& c : chunks) {
      const auto& d = data_->corpus.documents[static_cast<std::size_t>(c.document)];
      const auto& begins = d.sentence_begin;
      int position = 0;
      const auto row = [&](int token, int target) {
        own_.tokens.push_back(token), own_.targets.push_back(target), own_.positions.push_back(position++);
      };
      for (int i = 0; i < c.length; ++i) {
        const auto at = static_cast<std::size_t>(c.begin + i);
        const auto begun = std::lower_bound(begins.begin(), begins.end() - 1, c.begin + i + 1);
        if (begun != begins.end() - 1 && *begun == c.begin + i + 1) {
          const int label = labelling_->labels[static_cast<std::size_t>(data_->row_of({c.document, static_cast<int>(begun - begins.begin())}))];
          row(d.tokens[at], vocabulary + label);
          row(vocabulary + label, d.tokens[at + 1]);
        } else {
          row(d.tokens[at], d.tokens[at + 1]);
        }
      }
      own_.offsets.push_back(static_cast<int>(own_.tokens.size()));
    }
    out.tokens = own_.tokens;
    out.targets = own_.targets;
    out.chunk_offsets = own_.offsets;
    out.positions = own_.positions;
    out.targets_given = static_cast<index_t>(own_.targets.size());
    return out;
  }
  /// Replaces what the last such batch holds.
  std::vector<int>& tokens_of_last() { return own_.tokens; }
  std::vector<int>& targets_of_last() { return own_.targets; }

 private:
  void fill_sentences(std::span<const text::sentence_ref> sentences, const wanted& w, host_batch& out) {
    const auto label = [&](text::sentence_ref s) { return labelling_->labels[static_cast<std::size_t>(data_->row_of(s))]; };
    oracle_.clear();
    for (const text::sentence_ref s : sentences) oracle_.push_back(label(s));
    out.labels = oracle_;
    if (w.logits) {
      logits_.clear();
      const auto width = static_cast<std::size_t>(labels_);
      for (const text::sentence_ref s : sentences) {
        const auto from = w.logits->begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(data_->row_of(s)) * width);
        logits_.insert(logits_.end(), from, from + static_cast<std::ptrdiff_t>(width));
      }
      out.logits = logits_;
    }
    if (w.horizon > 0) {
      coming_.clear();
      for (int step = 0; step < w.horizon; ++step)
        for (const text::sentence_ref s : sentences) {
          const bool there = s.sentence + step < data_->corpus.documents[static_cast<std::size_t>(s.document)].sentences();
          coming_.push_back(there ? label({s.document, s.sentence + step}) : -1);
        }
      out.coming = coming_;
    }
    if (!w.context) return;
    text::planner_contexts(sentences, data_->first_row, context_, labelling_->empty_row(), rows_);
    positions_.clear();
    values_.clear();
    const embeddings& e = labelling_->vectors;
    for (std::size_t s = 0; s + 1 < rows_.offsets.size(); ++s)
      for (int r = rows_.offsets[s]; r < rows_.offsets[s + 1]; ++r) {
        positions_.push_back(r - rows_.offsets[s]);
        const auto row = e.row(rows_.rows[static_cast<std::size_t>(r)]);
        values_.insert(values_.end(), row.begin(), row.end());
      }
    out.context = values_;
    out.context_offsets = rows_.offsets;
    out.context_positions = positions_;
  }
  void fill_first_rows(std::span<const text::chunk> chunks, host_batch& out) {
    first_rows_.assign(batch_.sentences.size(), -1);
    for (std::size_t c = 0; c < chunks.size(); ++c)
      for (int r = batch_.sequence_offsets[c]; r < batch_.sequence_offsets[c + 1]; ++r) {
        const int s = batch_.sentence[static_cast<std::size_t>(r)];
        const text::sentence_ref which = batch_.sentences[static_cast<std::size_t>(s)];
        const int begin = data_->corpus.documents[static_cast<std::size_t>(which.document)].sentence_begin[static_cast<std::size_t>(which.sentence)];
        if (chunks[c].begin + r - batch_.sequence_offsets[c] + 1 == begin) first_rows_[static_cast<std::size_t>(s)] = r;
      }
    out.first_rows = first_rows_;
  }
  void give_plans_rows(const conditioning& reach, host_batch& out) {
    const host_rows rows{out.tokens, out.targets, out.sentence, out.chunk_offsets};
    own_ = reach.where == conditioning::place::inserted ? insert_plan_rows(rows, 1) : prefix_plan_rows(rows, prefix_rows_);
    out.tokens = own_.tokens;
    out.targets = own_.targets;
    out.sentence = own_.plan;
    out.chunk_offsets = own_.offsets;
    out.positions = own_.positions;
  }

  const data* data_;
  const labelling* labelling_;
  int context_, labels_, prefix_rows_;
  text::batch batch_;
  text::context_rows rows_;
  rows_with_plans own_;  // of batches with more rows than text
  std::vector<int> oracle_, positions_, coming_, first_rows_;
  std::vector<float> values_, logits_;
};

/// Batches of chunks in an order that depends on the seed alone: every variant that cuts the text alike sees the same.
class chunk_order {
 public:
  chunk_order(std::vector<text::chunk> chunks, int batch, std::uint64_t seed)
      : chunks_(std::move(chunks)), batch_(std::min<std::size_t>(static_cast<std::size_t>(batch), chunks_.size())), seed_(seed) {}
  int steps_per_epoch() const { return static_cast<int>(chunks_.size() / batch_); }
  std::span<const text::chunk> at(index_t step) {
    const index_t epoch = step / steps_per_epoch();
    const auto first = static_cast<std::size_t>(step % steps_per_epoch()) * batch_;
    if (epoch != epoch_) {
      text::shuffled_order(static_cast<int>(chunks_.size()), philox{seed_, static_cast<std::uint32_t>(epoch), 0x6f726465}, order_);
      epoch_ = epoch;
    }
    taken_.clear();
    for (std::size_t i = first; i < first + batch_; ++i) taken_.push_back(chunks_[static_cast<std::size_t>(order_[i])]);
    return taken_;
  }

 private:
  std::vector<text::chunk> chunks_, taken_;
  std::size_t batch_;
  std::uint64_t seed_;
  index_t epoch_ = -1;
  std::vector<int> order_;
};

/// Chunks of documents for windows of `length` rows in which every sentence begun, or running on at the chunk's begin, takes `per_sentence`
/// rows more and every chunk `per_chunk`. With neither, those of text::cut_chunks.
inline std::vector<text::chunk> cut_chunks(const data& d, std::span<const int> documents, int length, int per_sentence, int per_chunk) {
  std::vector<text::chunk> chunks;
  for (const int document : documents) {
    const auto& t = d.corpus.documents[static_cast<std::size_t>(document)];
    const auto& begins = t.sentence_begin;
    const int inputs = static_cast<int>(t.tokens.size()) - 1;
    for (int begin = 0; begin < inputs;) {
      int rows = per_chunk + per_sentence, end = begin;  // the sentence running on, or the first one
      auto next = std::upper_bound(begins.begin(), begins.end() - 1, begin + 1);
      while (end < inputs) {
        const bool begins_here = end > begin && next != begins.end() - 1 && *next == end + 1;
        const int more = 1 + (begins_here ? per_sentence : 0);
        if (rows + more > length && end > begin) break;
        rows += more;
        if (begins_here) ++next;
        ++end;
      }
      chunks.push_back({document, begin, end - begin});
      begin = end;
    }
  }
  return chunks;
}

}  // namespace train_planner_lm
