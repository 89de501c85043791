/// Plans as rows of their own: an inserted row per sentence, or a prefix per chunk. Host memory only.
///
/// A row of a plan has no token (-1: an embedding of zeros) and no target (-1: no loss); with at_embedding the model adds plan s P + j to it,
/// row j of sentence s, and nothing to other rows, whose plan is -1. The adapter is then P times as wide as the model.
///
/// Where the rows stand. A row belongs to the sentence of its TARGET, so the first row of sentence i holds the last token of sentence i - 1,
/// and it predicts how sentence i begins. Inserted rows stand right before that row:
///   tokens        a b . | c d .        row of "." belongs to the sentence "c d ."
///   inserted    P a b P . c d P .      the last P is that of the sentence after
/// It sees its plan, so no first word is unplanned; no row of sentence i - 1 does, for attention looks back only; each target stays with its
/// token, used once, so that no rows at all (P = 0) give the batch back. A plan depends on sentences that ended before it, so the "." that it
/// precedes was known when it was made: while generating, feed the plan's rows first, then the token that ended the sentence.
/// A prefix carries the plan of the chunk's first sentence, the later sentences of the chunk have none.
///
/// Positions count all rows. A chunk must leave room: a model with a table of positions refuses a longer one (shape_error, learned_positions).
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>
#include <planlm/core/error.hpp>

namespace planlm {

/// The packed rows of a batch, as planned_rows has them.
struct host_rows {
  std::span<const int> tokens, targets, sentence;  // (N)
  std::span<const int> offsets;                    // (chunks + 1)
};
/// The same with rows for plans between them.
struct rows_with_plans {
  std::vector<int> tokens, targets;  // (M), -1 in rows of plans
  std::vector<int> plan;             // (M): s P + j in row j of sentence s, -1 in others; what planned_rows calls sentence
  std::vector<int> row;              // (M): which of the N rows this was, -1 in rows of plans
  std::vector<int> positions;        // (M)
  std::vector<int> offsets;          // (chunks + 1)
};

namespace detail {
/// `starts(s, last)`: whether the plan of sentence s stands before this row of it, `last` being the latest sentence of the chunk before the
/// row, -1 if there was none. Rows of no sentence are passed over.
template <class Starts>
rows_with_plans with_plans(const host_rows& batch, int rows_per_plan, const Starts& starts) {
  const std::size_t n = batch.tokens.size();
  if (rows_per_plan < 0) throw shape_error("plan rows: " + std::to_string(rows_per_plan) + " rows per plan, expected 0 or more");
  if (batch.targets.size() != n || batch.sentence.size() != n || batch.offsets.empty() || batch.offsets.back() != static_cast<int>(n))
    throw shape_error("plan rows: " + std::to_string(n) + " tokens, " + std::to_string(batch.targets.size()) + " targets, " +
                      std::to_string(batch.sentence.size()) + " sentence numbers and offsets that end at " +
                      std::to_string(batch.offsets.empty() ? 0 : batch.offsets.back()) + "; all must agree");
  if (batch.offsets.front() != 0)
    throw shape_error("plan rows: offsets that begin at " + std::to_string(batch.offsets.front()) + ", expected 0");
  for (std::size_t chunk = 0; chunk + 1 < batch.offsets.size(); ++chunk)
    if (batch.offsets[chunk] > batch.offsets[chunk + 1])
      throw shape_error("plan rows: chunk " + std::to_string(chunk) + " begins at row " + std::to_string(batch.offsets[chunk]) +
                        " and ends at " + std::to_string(batch.offsets[chunk + 1]) + "; offsets must not fall");
  rows_with_plans out;
  out.offsets.push_back(0);
  for (std::size_t chunk = 0; chunk + 1 < batch.offsets.size(); ++chunk) {
    const auto add = [&](int token, int target, int plan, int row) {
      out.positions.push_back(static_cast<int>(out.tokens.size()) - out.offsets.back());
      out.tokens.push_back(token), out.targets.push_back(target), out.plan.push_back(plan), out.row.push_back(row);
    };
    int last = -1;
    for (int t = batch.offsets[chunk]; t < batch.offsets[chunk + 1]; ++t) {
      const auto at = static_cast<std::size_t>(t);
      const int s = batch.sentence[at];
      if (s >= 0 && starts(s, last))
        for (int j = 0; j < rows_per_plan; ++j) add(-1, -1, s * rows_per_plan + j, -1);
      if (s >= 0) last = s;
      add(batch.tokens[at], batch.targets[at], -1, t);
    }
    out.offsets.push_back(static_cast<int>(out.tokens.size()));
  }
  return out;
}
}  // namespace detail

/// P rows wherever a sentence begins, and before the first row of a sentence in a chunk. Rows of no sentence (below 0) end none: a sentence
/// that goes on behind them gets its plan once.
/// Errors: shape_error if P is negative, the spans disagree, or the offsets do not begin at 0 or fall.
inline rows_with_plans insert_plan_rows(const host_rows& batch, int rows_per_plan) {
  return detail::with_plans(batch, rows_per_plan, [](int s, int last) { return s != last; });
}
/// P rows where a chunk begins: before its first row that belongs to a sentence. Errors: the same.
inline rows_with_plans prefix_plan_rows(const host_rows& batch, int rows_per_plan) {
  return detail::with_plans(batch, rows_per_plan, [](int, int last) { return last < 0; });
}

}  // namespace planlm
