/// The trained parts, and how batches of text become views of the backend.
#pragma once
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include "prepare.hpp"
#include <planlm/cpu.hpp>

namespace train_planner_lm {

/// The program's one choice of backend.
using B = cpu<float>;

using model_type = planner_lm<B>;
using lm_store = parameters<model_type::lm_type>;
using adapter_store = parameters<model_type::adapter_stack>;
using planner_store = parameters<planner<B>>;

inline model_type make_model(const options& o, const data& d) {
  return {{d.vocabulary.size(), o.length, o.width, o.heads, o.layers}, o.labels, o.label_width, o.first_adapted};
}
inline planner<B> make_planner(const options& o) {
  return {o.label_width, o.labels, o.planner_heads, o.planner_inner, o.planner_layers};
}

/// A number as text that reads back to the same bits.
std::string exact(double value);

/// A batch as the backend sees it; lives until the scope of the step ends.
struct device_batch {
  planned_rows<B> rows;
  indices<B> labels;                 // (S) oracle labels
  const_tensor<B> logits;            // (S, K) of the frozen planner, if they were given
  const_tensor<B> context;           // (R, label width) embeddings the planner sees, if asked for
  sequences<B> contexts;
  index_t tokens() const { return rows.tokens.size(); }
};

/// Fills batches; its buffers are reused, so that a step allocates nothing once they have grown.
class batcher {
 public:
  batcher(const data& d, const labelling& l, const options& o) : data_(&d), labelling_(&l), context_(o.context), labels_(o.labels) {}

  /// Chunks of text. `logits`: of all sentences, (sentences, K), or null. `with_context`: for a planner that runs in the step.
  device_batch load(context<B>& cx, std::span<const text::chunk> chunks, const std::vector<float>* logits, bool with_context) {
    text::make_batch(data_->corpus.documents, chunks, batch_);
    device_batch out;
    out.rows = {cx.upload(batch_.tokens), cx.upload(batch_.targets), cx.upload(batch_.sentence),
                {cx.upload(batch_.sequence_offsets), batch_.sequence_offsets.data(), cx.upload(batch_.positions)},
                static_cast<index_t>(batch_.sentences.size())};
    fill_sentences(cx, batch_.sentences, logits, with_context, out);
    return out;
  }
  /// Sentences alone, for the planner.
  device_batch load(context<B>& cx, std::span<const text::sentence_ref> sentences) {
    device_batch out;
    fill_sentences(cx, sentences, nullptr, true, out);
    return out;
  }
  const text::batch& host() const { return batch_; }

 private:
  void fill_sentences(context<B>& cx, std::span<const text::sentence_ref> sentences, const std::vector<float>* logits,
                      bool with_context, device_batch& out) {
    oracle_.clear();
    for (const text::sentence_ref s : sentences) oracle_.push_back(labelling_->labels[static_cast<std::size_t>(data_->row_of(s))]);
    out.labels = cx.upload(oracle_);
    const auto count = static_cast<index_t>(sentences.size());
    if (logits) {
      values_.clear();
      const auto width = static_cast<std::size_t>(labels_);
      for (const text::sentence_ref s : sentences) {
        const auto from = logits->begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(data_->row_of(s)) * width);
        values_.insert(values_.end(), from, from + static_cast<std::ptrdiff_t>(width));
      }
      out.logits = cx.upload(std::span<const float>(values_), count, static_cast<index_t>(width));
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
    out.context = cx.upload(std::span<const float>(values_), static_cast<index_t>(rows_.rows.size()), e.width);
    out.contexts = {cx.upload(rows_.offsets), rows_.offsets.data(), cx.upload(positions_)};
  }

  const data* data_;
  const labelling* labelling_;
  int context_, labels_;
  text::batch batch_;
  text::context_rows rows_;
  std::vector<int> oracle_, positions_;
  std::vector<float> values_;
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
