/// How batches of text become plain numbers for a device, and in what order they come.
#pragma once
#include <algorithm>
#include <string>
#include <utility>
#include <vector>
#include "learner.hpp"
#include "prepare.hpp"

namespace train_planner_lm {

inline learner_sizes sizes_of(const options& o, const data& d) {
  return {d.vocabulary.size(), o.length, o.width, o.heads, o.layers, o.first_adapted,
          o.labels, o.label_width, o.planner_heads, o.planner_inner, o.planner_layers};
}

/// Fills batches; its buffers are reused, so that a step allocates nothing once they have grown. A batch is good until the next.
class batcher {
 public:
  batcher(const data& d, const labelling& l, const options& o) : data_(&d), labelling_(&l), context_(o.context), labels_(o.labels) {}

  /// Chunks of text. `logits`: of all sentences, (sentences, K), or null. `with_context`: for a planner that runs in the step.
  host_batch load(std::span<const text::chunk> chunks, const std::vector<float>* logits, bool with_context) {
    text::make_batch(data_->corpus.documents, chunks, batch_);
    host_batch out;
    out.tokens = batch_.tokens;
    out.targets = batch_.targets;
    out.sentence = batch_.sentence;
    out.chunk_offsets = batch_.sequence_offsets;
    out.positions = batch_.positions;
    fill_sentences(batch_.sentences, logits, with_context, out);
    return out;
  }
  /// Sentences alone, for the planner.
  host_batch load(std::span<const text::sentence_ref> sentences) {
    host_batch out;
    fill_sentences(sentences, nullptr, true, out);
    return out;
  }

 private:
  void fill_sentences(std::span<const text::sentence_ref> sentences, const std::vector<float>* logits, bool with_context, host_batch& out) {
    oracle_.clear();
    for (const text::sentence_ref s : sentences) oracle_.push_back(labelling_->labels[static_cast<std::size_t>(data_->row_of(s))]);
    out.labels = oracle_;
    if (logits) {
      logits_.clear();
      const auto width = static_cast<std::size_t>(labels_);
      for (const text::sentence_ref s : sentences) {
        const auto from = logits->begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(data_->row_of(s)) * width);
        logits_.insert(logits_.end(), from, from + static_cast<std::ptrdiff_t>(width));
      }
      out.logits = logits_;
    }
    if (!with_context) return;
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

  const data* data_;
  const labelling* labelling_;
  int context_, labels_;
  text::batch batch_;
  text::context_rows rows_;
  std::vector<int> oracle_, positions_;
  std::vector<float> values_, logits_;
};

/// Batches of chunks in an order that depends on the seed alone: every variant sees the same.
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

}  // namespace train_planner_lm
