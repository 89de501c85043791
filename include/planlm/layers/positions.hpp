/// Codes of a row's position, added to its embedding. Rotary positions act inside the heads: see `rotary` in attention.hpp.
#pragma once
#include <string>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/positions.hpp>

namespace planlm {

/// y = x + table[position].   x (N, C), positions (N) below `length`, table (length, C).
template <Backend B>
struct learned_positions {
  using backend = B;
  struct params {
    tensor<B> table;
  };
  index_t length, width;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(matrix_spec("table", length, width, initial::normal, 0.02), p.table...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x, const sequences<B>& seq) const {
    for (index_t s = 0; s < seq.count(); ++s)
      if (seq.host_offsets[s + 1] - seq.host_offsets[s] > length)
        throw shape_error("learned_positions: sequence " + std::to_string(s) + " has " +
                          std::to_string(seq.host_offsets[s + 1] - seq.host_offsets[s]) + " rows, the table has " +
                          std::to_string(length) + " positions");
    return vjp{ops::add_gathered_rows(cx, x, const_tensor<B>(p.table), seq.positions),
               [&cx, seq](const_tensor<B> dy, const params& g) {
                 if (g.table) ops::scatter_add_rows(cx, dy, seq.positions, g.table);
                 return dy;
               }};
  }
};

/// y = x + sinusoids of the position; no parameters, any length.   [1706.03762, section 3.5]
template <Backend B>
struct sinusoidal_positions {
  using backend = B;
  using params = no_params;
  index_t length, width;

  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto operator()(context<B>& cx, const params&, const_tensor<B> x, const sequences<B>& seq) const {
    return vjp{ops::add_sinusoids(cx, x, seq.positions), [](const_tensor<B> dy, const params&) { return dy; }};
  }
};

/// y = x: for models whose heads turn by position.
template <Backend B>
struct no_positions {
  using backend = B;
  using params = no_params;
  index_t length, width;

  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto operator()(context<B>&, const params&, const_tensor<B> x, const sequences<B>&) const {
    return vjp{x, [](const_tensor<B> dy, const params&) { return dy; }};
  }
};

}  // namespace planlm
