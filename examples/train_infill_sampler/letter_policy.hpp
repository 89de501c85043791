/// The policy that fills gaps of letters: a network that sees the three letters before the place to write,
/// the three behind the gap and how many were written, and gives logits of 27 letters and the stop.
///
///   x = sum of one row of a table for each of the seven facts;  h = relu(x);  y = W (h + relu(V h + b)) + c
#pragma once
#include <utility>
#include <vector>
#include <planlm/layers/activation.hpp>
#include <planlm/layers/compose.hpp>
#include <planlm/layers/embedding.hpp>
#include <planlm/layers/linear.hpp>
#include <planlm/ops/gather.hpp>
#include "letter_model.hpp"

namespace train_infill_sampler {

using namespace planlm;

template <Backend B>
struct letter_policy {
  using backend = B;
  using layers_type = sequential<relu<B>, residual<sequential<linear<B>, relu<B>>>, linear<B>>;
  struct params {
    typename embedding<B>::params facts;
    typename layers_type::params layers;
  };
  static constexpr int fact_count = 7, places = 6, outputs = letter_count + 1, stop = letter_count;
  index_t hidden;

  embedding<B> facts() const { return {places * letter_count + candidates::longest, hidden, 0.4}; }
  layers_type layers() const {
    return {relu<B>{}, residual<sequential<linear<B>, relu<B>>>{{linear<B>{hidden, hidden}, relu<B>{}}},
            linear<B>{hidden, outputs, true, 0.02}};
  }
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_facts = within("facts", f);
    auto in_layers = within("layers", f);
    facts().each_param(in_facts, p.facts...);
    layers().each_param(in_layers, p.layers...);
  }

  /// rows (7 N) of the table, seven for each state, and which state each is of -> logits (N, 28).
  auto operator()(context<B>& cx, const params& p, indices<B> rows, indices<B> state, index_t states) const {
    auto [each, facts_pullback] = facts()(cx, p.facts, rows);
    auto [z, pullback] =
        layers()(cx, p.layers, const_tensor<B>(ops::segment_sum(cx, const_tensor<B>(each), state, states)));
    return vjp{z, [&cx, state, facts_pullback = facts_pullback, pullback = pullback](const_tensor<B> dz,
                                                                                     const params& g) {
                 const const_tensor<B> dx = pullback(dz, g.layers);
                 facts_pullback(const_tensor<B>(ops::gather_rows(cx, dx, state)), g.facts);
               }};
  }

  /// The table's rows for a gap with `n` letters written.
  static void add_facts(std::vector<int>& rows, const gap& g, const std::array<letter, 3>& written, int n) {
    for (int i = 0; i < 3; ++i) {
      const int at = n + i;  // of the three before and those written, the last three
      rows.push_back(i * letter_count + (at < 3 ? g.before[static_cast<std::size_t>(at)]
                                                : written[static_cast<std::size_t>(at - 3)]));
    }
    for (int i = 0; i < 3; ++i) rows.push_back((3 + i) * letter_count + g.after[static_cast<std::size_t>(i)]);
    rows.push_back(places * letter_count + n);
  }
};

}  // namespace train_infill_sampler
