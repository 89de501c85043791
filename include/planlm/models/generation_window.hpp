/// What a model sees of a text that it generates: a window of rows, those of plans among them, and windows
/// packed into batches.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>
#include <planlm/models/generation.hpp>

namespace planlm::detail {

struct window_rule {
  plan_layout layout;
  index_t plan_rows;  // rows of its own that a plan has; 0: it is added to the sentence's
  index_t keep;       // rows of a window that begins anew
  index_t inputs;     // values of a plan
};

/// The rows of a window, in order. A row counts as part of the sentence of its target.
struct text_window {
  struct row {
    int token, sentence, part;  // row `part` of a plan, with token -1; part below 0: a token
  };
  std::vector<row> rows;

  /// Token t of the text joins, after the rows of its plan where they belong.
  template <class Real>
  void see(const generated_text<Real>& text, std::size_t t, const window_rule& how) {
    const int sentence = text.sentence[t];
    const bool next =
        how.layout == plan_layout::inserted && !rows.empty() && rows.back().sentence != sentence;
    if (rows.empty() || next)
      for (index_t part = 0; part < how.plan_rows; ++part)
        rows.push_back({-1, sentence, static_cast<int>(part)});
    rows.push_back({text.tokens[t], sentence, -1});
  }
  /// Begins anew with the last tokens of the text that take no more than `keep` rows; one at least.
  template <class Real>
  void slide(const generated_text<Real>& text, const window_rule& how) {
    const std::size_t n = text.tokens.size();
    for (std::size_t begin = n - std::min(n, static_cast<std::size_t>(how.keep));; ++begin) {
      rows.clear();
      for (std::size_t t = begin; t < n; ++t) see(text, t, how);
      if (static_cast<index_t>(rows.size()) <= how.keep || begin + 1 == n) return;
    }
  }
};

/// Rows of several windows one after another, and the plans of their sentences, as planned_rows and decode
/// have them.
template <class Real>
struct packed_windows {
  std::vector<int> tokens, positions, sentence, offsets;
  std::vector<Real> plans;
  int sentences = 0;

  void clear() {
    for (auto* list : {&tokens, &positions, &sentence, &offsets}) list->clear();
    plans.clear();
    offsets.push_back(0);
    sentences = 0;
  }
  /// Rows [from, to) of a window, at least one.
  template <class A>
  void add(const generated_text<A>& text, const text_window& window, std::size_t from, std::size_t to,
           const window_rule& how) {
    const auto& row = window.rows;
    const int known = text.sentence.front(), first = row[from].sentence, last = row[to - 1].sentence;
    for (std::size_t t = from; t < to; ++t) {
      const int plan = sentences + row[t].sentence - first, rows = static_cast<int>(how.plan_rows);
      tokens.push_back(row[t].token);
      positions.push_back(static_cast<int>(t));
      sentence.push_back(rows == 0 ? plan : row[t].part < 0 ? -1 : plan * rows + row[t].part);
    }
    offsets.push_back(static_cast<int>(tokens.size()));
    plans.insert(plans.end(), text.plans.begin() + (first - known) * how.inputs,
                 text.plans.begin() + (last - known + 1) * how.inputs);
    sentences += last - first + 1;
  }
};

}  // namespace planlm::detail
