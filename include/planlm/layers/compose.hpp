/// Composition: the chain rule written as function calls.
#pragma once
#include <new>
#include <string>
#include <tuple>
#include <utility>
#include <vector>
#include <planlm/layers/layer.hpp>
#include <planlm/ops/elementwise.hpp>

namespace planlm {

/// x -> last(...second(first(x))). Parameters are named by position ("0.w"); what goes to disk under a stable name is a named struct.
template <class... Ls>
struct sequential {
  static_assert(sizeof...(Ls) > 0, "planlm::sequential: needs at least one layer");
  static_assert((must_be_layer<Ls>() && ...));
  using backend = typename std::tuple_element_t<0, std::tuple<Ls...>>::backend;
  static_assert((std::same_as<typename Ls::backend, backend> && ...),
                "planlm::sequential: all layers must use the same backend and number type");
  using params = std::tuple<typename Ls::params...>;
  std::tuple<Ls...> layers;

  sequential(Ls... ls) : layers(std::move(ls)...) {}

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    visit(f, std::index_sequence_for<Ls...>{}, p...);
  }
  template <class... Extra>
    requires (CallableWith<Ls, Extra...> && ...)
  auto operator()(context<backend>& cx, const params& p, const_tensor<backend> x, const Extra&... extra) const {
    return run<0>(cx, p, x, extra...);
  }

 private:
  template <class F, std::size_t... I, class... P>
  void visit(F& f, std::index_sequence<I...>, P&... p) const {
    (visit_one<I>(f, p...), ...);
  }
  template <std::size_t I, class F, class... P>
  void visit_one(F& f, P&... p) const {
    auto inner = within(std::to_string(I), f);
    std::get<I>(layers).each_param(inner, std::get<I>(p)...);
  }
  template <std::size_t I, class... Extra>
  auto run(context<backend>& cx, const params& p, const_tensor<backend> x, const Extra&... extra) const {
    auto [y, pullback] = call_layer(std::get<I>(layers), cx, std::get<I>(p), x, extra...);
    if constexpr (I + 1 == sizeof...(Ls)) {
      return vjp{y, [pullback = pullback](const_tensor<backend> dy, const params& g) { return pullback(dy, std::get<I>(g)); }};
    } else {
      auto [z, rest] = run<I + 1>(cx, p, const_tensor<backend>(y), extra...);
      return vjp{z, [pullback = pullback, rest = rest](const_tensor<backend> dz, const params& g) {
                   return pullback(rest(dz, g), std::get<I>(g));
                 }};
    }
  }
};

/// x -> x + branch(x).
template <class L>
struct residual {
  static_assert(must_be_layer<L>());
  using backend = typename L::backend;
  using params = typename L::params;
  L branch;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    branch.each_param(f, p...);
  }
  template <class... Extra>
    requires CallableWith<L, Extra...>
  auto operator()(context<backend>& cx, const params& p, const_tensor<backend> x, const Extra&... extra) const {
    auto [y, pullback] = call_layer(branch, cx, p, x, extra...);
    return vjp{ops::sum(cx, x, const_tensor<backend>(y)), [&cx, pullback = pullback](const_tensor<backend> dy, const params& g) {
                 return ops::sum(cx, dy, const_tensor<backend>(pullback(dy, g)));
               }};
  }
};
template <class L>
residual(L) -> residual<L>;

/// `depth` steps with one type of pullback: step(i, x) returns vjp{y, pullback}. The pullbacks live in the context's arena.
/// The result's pullback takes (dy, back) and calls back(i, pullback_i, dy) -> dx from the last step to the first, releasing what each step
/// made but its dx: the memory of a backward pass is that of one step, however deep the chain. A dx that is empty ends the walk.
template <Backend B, class Step>
auto chain(context<B>& cx, index_t depth, const_tensor<B> x, const Step& step) {
  using result = decltype(step(index_t{0}, x));
  using pullback_type = typename result::pullback_type;
  auto* pullbacks = cx.template make_pullbacks<pullback_type>(depth);
  for (index_t i = 0; i < depth; ++i) {
    auto [y, pullback] = step(i, x);
    if (y.rows() != x.rows() || y.cols() != x.cols())
      throw shape_error("chain: step " + std::to_string(i) + " turns (" + std::to_string(x.rows()) + ", " + std::to_string(x.cols()) +
                        ") into (" + std::to_string(y.rows()) + ", " + std::to_string(y.cols()) + "); a stack's block must keep the shape");
    new (pullbacks + i) pullback_type(pullback);
    x = y;
  }
  return vjp{x, [&cx, pullbacks, depth](const_tensor<B> dy, const auto& back) {
               const auto gradient = cx.make(dy.rows(), dy.cols());
               for (index_t i = depth - 1; i >= 0; --i) {
                 auto temporaries = cx.scope();
                 const const_tensor<B> dx = back(i, pullbacks[i], dy);
                 if (!dx) return dx;
                 B::copy(cx.queue(), gradient.data, dx.data, static_cast<std::size_t>(dx.size()) * sizeof(typename B::real));
                 dy = gradient;
               }
               return dy;
             }};
}

/// The same block, `depth` times, each with parameters of its own: one instantiation whatever the depth.
template <class L>
struct stack {
  static_assert(must_be_layer<L>());
  using backend = typename L::backend;
  using params = std::vector<typename L::params>;
  index_t depth;
  L block;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    (p.resize(static_cast<std::size_t>(depth)), ...);
    for (std::size_t i = 0; i < static_cast<std::size_t>(depth); ++i) {
      auto inner = within(std::to_string(i), f);
      block.each_param(inner, p[i]...);
    }
  }
  template <class... Extra>
    requires CallableWith<L, Extra...>
  auto operator()(context<backend>& cx, const params& p, const_tensor<backend> x, const Extra&... extra) const {
    auto [y, pullback] = chain(cx, depth, x, [&](index_t i, const_tensor<backend> h) {
      return call_layer(block, cx, p[static_cast<std::size_t>(i)], h, extra...);
    });
    return vjp{y, [pullback = pullback](const_tensor<backend> dy, const params& g) {
                 const typename L::params frozen{};  // what an empty list of gradients means for each block
                 return pullback(dy, [&](index_t i, const auto& back, const_tensor<backend> d) {
                   const auto at = static_cast<std::size_t>(i);
                   return back(d, at < g.size() ? g[at] : frozen);
                 });
               }};
  }
};
template <class L>
stack(index_t, L) -> stack<L>;

/// Activation checkpointing (1604.06174): keeps only the input of `inner` and runs it again when the gradient is asked for; with
/// inner.again(cx, p, x, extra...), where there is one: its pullback, without what is made for the output alone.
template <class L>
struct recompute {
  static_assert(must_be_layer<L>());
  using backend = typename L::backend;
  using params = typename L::params;
  L inner;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    inner.each_param(f, p...);
  }
  /// `p` must outlive the pullback.
  template <class... Extra>
    requires CallableWith<L, Extra...>
  auto operator()(context<backend>& cx, const params& p, const_tensor<backend> x, const Extra&... extra) const {
    auto forward = cx.scope();
    const const_tensor<backend> y = forward.keep(const_tensor<backend>(call_layer(inner, cx, p, x, extra...).value));
    return vjp{y, [this_inner = inner, &cx, &p, x, ... extra = extra](const_tensor<backend> dy, const params& g, const auto&... sink) {
                 auto backward = cx.scope();
                 const auto pullback = call_again(this_inner, cx, p, x, extra...);
                 const const_tensor<backend> dx = pullback(dy, g, sink...);
                 return dx ? const_tensor<backend>(backward.keep(dx)) : dx;
               }};
  }
};
template <class L>
recompute(L) -> recompute<L>;

}  // namespace planlm
