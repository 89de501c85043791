/// Training rows without padding: chunks of documents packed one behind the other; what the planner may see.
///
/// Row t of a chunk holds the input x_t, its target x_(t+1) and gamma(t), the sentence that contains the
/// TARGET (2410.12492, its code): the BOS row belongs to sentence 0, the last row of sentence i to sentence
/// i + 1. Chunks of N inputs lie side by side, each ending with the target that the next one begins with, so
/// that every token but BOS is a target exactly once (the paper's chunks of N tokens with stride N - 1).
/// Overloads with an output argument refill it and allocate only while it grows.  N rows, S sentences.
#pragma once
#include <algorithm>
#include <planlm/core/error.hpp>
#include <planlm/text/documents.hpp>
#include <span>
#include <string>
#include <vector>

namespace planlm::text {

/// Sentence `sentence` of document `document`, both counted from 0.
struct sentence_ref {
  int document = 0;
  int sentence = 0;
  friend bool operator==(const sentence_ref&, const sentence_ref&) = default;
};

/// Tokens begin .. begin+length-1 of a document are inputs, their targets lie one later.
struct chunk {
  int document = 0;
  int begin = 0;
  int length = 0;
  friend bool operator==(const chunk&, const chunk&) = default;
};

/// All chunks of one document, in order; the last may be shorter. A document of BOS alone has none.
inline std::vector<chunk> cut_chunks(const tokenised_document& tokens, int document, int length,
                                     location at = location::here()) {
  if (length < 1)
    throw_shape_error("cut_chunks: length " + std::to_string(length) + ", expected at least 1", at);
  std::vector<chunk> chunks;
  const int inputs = static_cast<int>(tokens.tokens.size()) - 1;
  for (int begin = 0; begin < inputs; begin += length)
    chunks.push_back({document, begin, std::min(length, inputs - begin)});
  return chunks;
}

/// The chunks of some documents, document by document.
inline std::vector<chunk> cut_chunks(std::span<const tokenised_document> documents,
                                     std::span<const int> chosen, int length,
                                     location at = location::here()) {
  std::vector<chunk> chunks;
  for (const int d : chosen) {
    const auto of_document = cut_chunks(documents[static_cast<std::size_t>(d)], d, length, at);
    chunks.insert(chunks.end(), of_document.begin(), of_document.end());
  }
  return chunks;
}

struct batch {
  std::vector<int> tokens;              // [N] input ids
  std::vector<int> targets;             // [N] next ids
  std::vector<int> positions;           // [N] position inside the chunk
  std::vector<int> sequence_offsets;    // [chunks + 1] first row of each chunk, then N
  std::vector<int> sentence;            // [N] gamma: which row of `sentences` contains the target
  std::vector<sentence_ref> sentences;  // [S] each once, in order of first use
  std::vector<int> document;            // [chunks]

  int rows() const { return static_cast<int>(tokens.size()); }
};

namespace detail {

/// Where `wanted` stands in `out.sentences` if an earlier chunk brought it, else -1. Inside a chunk the
/// sentences ascend with the rows, which allows bisection and spares a table.
inline int find_sentence(const batch& out, sentence_ref wanted) {
  for (std::size_t c = 0; c < out.document.size(); ++c) {
    if (out.document[c] != wanted.document) continue;
    const auto begin = out.sentence.begin() + out.sequence_offsets[c];
    const auto end = out.sentence.begin() + out.sequence_offsets[c + 1];
    const auto number = [&](int row) { return out.sentences[static_cast<std::size_t>(row)].sentence; };
    const auto found = std::lower_bound(begin, end, wanted.sentence,
                                        [&](int row, int sentence) { return number(row) < sentence; });
    if (found != end && number(*found) == wanted.sentence) return *found;
  }
  return -1;
}

inline void append_chunk(const tokenised_document& source, chunk piece, batch& out) {
  const auto& begins = source.sentence_begin;
  const auto first = source.tokens.begin() + piece.begin;
  out.tokens.insert(out.tokens.end(), first, first + piece.length);
  out.targets.insert(out.targets.end(), first + 1, first + 1 + piece.length);
  // The sentence of the first target: the last one that begins at or before it.
  auto sentence =
      static_cast<int>(std::upper_bound(begins.begin(), begins.end(), piece.begin + 1) - begins.begin()) - 1;
  for (int row = -1, i = 0; i < piece.length; ++i) {
    const int target = piece.begin + i + 1;
    if (row < 0 || target == begins[static_cast<std::size_t>(sentence) + 1]) {
      if (row >= 0) ++sentence;
      row = find_sentence(out, {piece.document, sentence});
      if (row < 0) {
        row = static_cast<int>(out.sentences.size());
        out.sentences.push_back({piece.document, sentence});
      }
    }
    out.positions.push_back(i);
    out.sentence.push_back(row);
  }
  out.document.push_back(piece.document);
  out.sequence_offsets.push_back(static_cast<int>(out.tokens.size()));
}

}  // namespace detail

/// Packs the chunks in the given order into `out`. A sentence cut by a chunk boundary is one row of
/// `sentences` even if both of its parts are here.
inline void make_batch(std::span<const tokenised_document> documents, std::span<const chunk> chunks,
                       batch& out, location at = location::here()) {
  for (auto* list :
       {&out.tokens, &out.targets, &out.positions, &out.sequence_offsets, &out.sentence, &out.document})
    list->clear();
  out.sentences.clear();
  out.sequence_offsets.push_back(0);
  for (const chunk& piece : chunks) {
    const auto d = static_cast<std::size_t>(piece.document);
    if (piece.document < 0 || d >= documents.size() || piece.begin < 0 || piece.length < 0 ||
        piece.length >= static_cast<int>(documents[d].tokens.size()) - piece.begin)
      throw_shape_error("make_batch: chunk (document " + std::to_string(piece.document) + ", begin " +
                            std::to_string(piece.begin) + ", length " + std::to_string(piece.length) +
                            ") leaves its document or the " + std::to_string(documents.size()) +
                            " documents given",
                        at);
    detail::append_chunk(documents[d], piece, out);
  }
}

inline batch make_batch(std::span<const tokenised_document> documents, std::span<const chunk> chunks,
                        location at = location::here()) {
  batch out;
  make_batch(documents, chunks, out, at);
  return out;
}

/// For sentence s the rows rows[offsets[s]] .. rows[offsets[s+1] - 1] of a matrix of sentence embeddings.
struct context_rows {
  std::vector<int> rows;
  std::vector<int> offsets;  // [S + 1]
};

/// What the planner may see of sentence i: the at most `length` sentences before it in its document, oldest
/// first, never itself or a later one. `first_row[d]` is the row of sentence 0 of document d; a first
/// sentence, which has no past, sees the one row `empty_row`. (2410.12492's code cuts this window in tokens.)
inline void planner_contexts(std::span<const sentence_ref> sentences, std::span<const int> first_row,
                             int length, int empty_row, context_rows& out, location at = location::here()) {
  if (length < 1)
    throw_shape_error("planner_contexts: length " + std::to_string(length) + ", expected >= 1", at);
  out.rows.clear();
  out.offsets.clear();
  out.offsets.push_back(0);
  for (const sentence_ref& s : sentences) {
    if (s.document < 0 || static_cast<std::size_t>(s.document) >= first_row.size())
      throw_shape_error("planner_contexts: document " + std::to_string(s.document) + " of " +
                            std::to_string(first_row.size()),
                        at);
    for (int i = std::max(0, s.sentence - length); i < s.sentence; ++i)
      out.rows.push_back(first_row[static_cast<std::size_t>(s.document)] + i);
    if (s.sentence == 0) out.rows.push_back(empty_row);
    out.offsets.push_back(static_cast<int>(out.rows.size()));
  }
}

inline context_rows planner_contexts(std::span<const sentence_ref> sentences, std::span<const int> first_row,
                                     int length, int empty_row, location at = location::here()) {
  context_rows out;
  planner_contexts(sentences, first_row, length, empty_row, out, at);
  return out;
}

/// `first_row` for a matrix that holds the sentences of the documents one behind the other, from row `first`
/// on; one entry more than documents, the last being the row behind all of them.
inline std::vector<int> first_rows(std::span<const tokenised_document> documents, int first = 0) {
  std::vector<int> rows{first};
  for (const auto& d : documents) rows.push_back(rows.back() + d.sentences());
  return rows;
}

}  // namespace planlm::text
