/// Rows of a table by number: tokens, positions, labels.
#pragma once
#include <planlm/layers/layer.hpp>
#include <planlm/ops/gather.hpp>

namespace planlm {

/// ids (N) -> y (N, C),  table (K, C). An id below 0 gives a row of zeros.
///   pullback: dtable[ids] += dy, rows in order; there is no input gradient.
template <Backend B>
struct embedding {
  using backend = B;
  struct params {
    tensor<B> table;
  };
  index_t count, width;
  double scale = 0.02;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("table", count, width, initial::normal, scale), p.table...);
  }
  auto operator()(context<B>& cx, const params& p, indices<B> ids) const {
    return vjp{ops::gather_rows(cx, const_tensor<B>(p.table), ids), [&cx, ids](const_tensor<B> dy, const params& g) {
                 if (g.table) ops::scatter_add_rows(cx, dy, ids, g.table);
               }};
  }
};

}  // namespace planlm
