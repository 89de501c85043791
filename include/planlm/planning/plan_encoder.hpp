/// From a set of label paths to one conditioning vector for each sentence: rows of a table, one vector per path, one vector per set.
///
/// A policy, for paths as for sets, is a layer that turns packed sequences into one row each:
///   (cx, p, x (N, C), sequences) -> vjp{y (sequences, C), pullback(dy, g) -> dx (N, C)}.
/// Two of them: the mean of the rows, and the mean after encoder blocks. The published sizes are unknown.   [2409.00070]
#pragma once
#include <string>
#include <vector>
#include <planlm/layers/positions.hpp>
#include <planlm/layers/transformer_block.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/pool.hpp>
#include <planlm/ops/prepend.hpp>
#include <planlm/planning/plan_paths.hpp>

namespace planlm {

/// The mean of a sequence's rows. A sequence of one row is that row, bit for bit but that -0 becomes +0.
template <Backend B>
struct mean_of_rows {
  using backend = B;
  using params = no_params;

  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto operator()(context<B>& cx, const params&, const_tensor<B> x, const sequences<B>& seq) const {
    return vjp{ops::mean_pool(cx, x, seq), [&cx, seq, rows = x.rows()](const_tensor<B> dy, const params&) {
                 return const_tensor<B>(ops::mean_pool_pullback(cx, dy, seq, rows));
               }};
  }
};

/// A code of the row's place, encoder blocks, the mean of the rows. `length` is the longest sequence that learned positions take.
/// `Code`: sinusoidal_positions, learned_positions, or no_positions, with which the order of a sequence's rows makes no difference.
template <Backend B, class Code>
struct encoded_mean {
  using backend = B;
  struct params {
    typename Code::params code;
    std::vector<typename encoder_block<B>::params> blocks;
  };
  index_t width, heads = 2, inner = 4 * width, depth = 1, length = 16;

  Code code() const { return {length, width}; }
  stack<encoder_block<B>> blocks() const { return {depth, encoder_block<B>(width, heads, inner)}; }

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_code = within("code", f);
    auto in_blocks = within("blocks", f);
    code().each_param(in_code, p.code...);
    blocks().each_param(in_blocks, p.blocks...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x, const sequences<B>& seq) const {
    auto [u, code_pullback] = code()(cx, p.code, x, seq);
    auto [h, blocks_pullback] = blocks()(cx, p.blocks, const_tensor<B>(u), seq);
    return vjp{ops::mean_pool(cx, const_tensor<B>(h), seq),
               [&cx, seq, rows = x.rows(), code_pullback = code_pullback, blocks_pullback = blocks_pullback](
                   const_tensor<B> dy, const params& g) -> const_tensor<B> {
                 const const_tensor<B> dh = ops::mean_pool_pullback(cx, dy, seq, rows);
                 return code_pullback(blocks_pullback(dh, g.blocks), g.code);
               }};
  }
};

/// Policies for a path: order matters to the transformer, not to the mean.
template <Backend B, class Code = sinusoidal_positions<B>>
using path_transformer = encoded_mean<B, Code>;
template <Backend B>
using linear_path = mean_of_rows<B>;
/// Policies for a set: neither tells the order of the paths.
template <Backend B>
using set_transformer = encoded_mean<B, no_positions<B>>;
template <Backend B>
using mean_set = mean_of_rows<B>;

/// paths [S, P, T] of labels -> c (S, C):  e_(s,k) = Path(table[a_0], ..., table[a_(T-1)]),  c_s = Set(e_(s,0), ..., e_(s,P-1)).
///   table (K, C), meant to be overwritten with the label centroids; a label below 0 is a row of zeros. P and T may change between calls.
///   With linear_path, mean_set and one step, c tends to the label mixture's sum_k p_k table_k as P grows.
///   pullback(dc, g): paths are drawn, so no gradient reaches the planner.
template <Backend B, class Path = path_transformer<B>, class Set = set_transformer<B>>
struct plan_encoder {
  static_assert(must_be_layer<Path>() && must_be_layer<Set>());
  using backend = B;
  struct params {
    tensor<B> table;
    typename Path::params path;
    typename Set::params set;
  };
  index_t labels, width;
  Path path;
  Set set;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_path = within("path", f);
    auto in_set = within("set", f);
    f(matrix_spec("table", labels, width, initial::normal, 0.02), p.table...);
    path.each_param(in_path, p.path...);
    set.each_param(in_set, p.set...);
  }
  auto operator()(context<B>& cx, const params& p, const plan_paths<B>& plans) const {
    const index_t count = plans.sentences * plans.paths;
    if (plans.steps < 1 || count < 1 || plans.labels.size() != count * plans.steps)
      throw shape_error("plan_encoder: " + std::to_string(plans.labels.size()) + " labels for " + std::to_string(plans.sentences) +
                        " sentences of " + std::to_string(plans.paths) + " paths of " + std::to_string(plans.steps) +
                        " steps, expected their product and at least one of each");
    const sequences<B> in_paths = ops::even_sequences(cx, count, plans.steps);
    const sequences<B> in_sets = ops::even_sequences(cx, plans.sentences, plans.paths);
    const const_tensor<B> rows = ops::gather_rows(cx, const_tensor<B>(p.table), plans.labels);     // (S P T, C)
    auto [e, path_pullback] = path(cx, p.path, rows, in_paths);                                      // (S P, C)
    auto [c, set_pullback] = set(cx, p.set, const_tensor<B>(e), in_sets);                            // (S, C)
    return vjp{c, [&cx, ids = plans.labels, path_pullback = path_pullback, set_pullback = set_pullback](const_tensor<B> dc,
                                                                                                        const params& g) {
                 auto temporaries = cx.scope();
                 const const_tensor<B> drows = path_pullback(set_pullback(dc, g.set), g.path);
                 if (g.table) ops::scatter_add_rows(cx, drows, ids, g.table);
               }};
  }
};

}  // namespace planlm
