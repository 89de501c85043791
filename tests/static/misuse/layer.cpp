// What a layer has to bring, and what a composition says when it does not.
#include <planlm/layers/compose.hpp>
#include <planlm/layers/linear.hpp>
#include <vector>
#include "paper_backend.hpp"

using namespace planlm;
using B = paper<float>;

/// y = 2 x, as a user writes it.
struct doubled {
  using backend = B;
  using params = no_params;
  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto operator()(context<B>& cx, const params&, const_tensor<B> x) const {
    return vjp{ops::sum(cx, x, x), [&cx](const_tensor<B> dy, const params&) { return ops::sum(cx, dy, dy); }};
  }
};

struct without_pullback : doubled {
  auto operator()(context<B>& cx, const params&, const_tensor<B> x) const { return ops::sum(cx, x, x); }
};

struct pullback_of_nothing : doubled {
  auto operator()(context<B>& cx, const params&, const_tensor<B> x) const {
    return vjp{ops::sum(cx, x, x), [](const_tensor<B>, const params&) {}};
  }
};

struct without_parameters {
  using backend = B;
  struct params {};
  auto operator()(context<B>& cx, const params&, const_tensor<B> x) const {
    return vjp{ops::sum(cx, x, x), [&cx](const_tensor<B> dy, const params&) { return ops::sum(cx, dy, dy); }};
  }
};

struct without_backend {
  using params = no_params;
};

template <class Kept>
struct pullback_that_owns : doubled {
  auto operator()(context<B>& cx, const params&, const_tensor<B> x) const {
    return vjp{x, [&cx, kept = Kept(3)](const_tensor<B> dy, const params&) { return ops::sum(cx, dy, dy); }};
  }
};

void use(context<B>& cx, linear<B>::params& p) {
  const linear<B> map{2, 2};
  [[maybe_unused]] const const_tensor<B> x;
#if CASE == 0
  sequential net{map, doubled{}, residual{map}};
  auto [y, pullback] = map(cx, p, x);
  pullback(y, p);
#elif CASE == 1
  // expect: planlm: calling a layer must return vjp.output, pullback.
  sequential net{map, without_pullback{}};
#elif CASE == 2
  // expect: planlm: a layer's pullback must return the gradient of its input
  sequential net{map, pullback_of_nothing{}};
#elif CASE == 3
  // expect: planlm: a layer needs a struct params of views and each_param
  sequential net{map, without_parameters{}};
#elif CASE == 4
  // expect: planlm: a layer needs a member type backend that models Backend
  residual net{without_backend{}};
#elif CASE == 5
  // expect: planlm::sequential: all layers must use the same backend and number type
  sequential net{map, linear<paper<double>>{2, 2}};
#elif CASE == 6
  // expect: planlm::vjp: a pullback captures views, sizes and other pullbacks, nothing that owns memory
  pullback_that_owns<std::vector<float>>{}(cx, {}, x);
#elif CASE == 7
  // expect: (no match for call|cannot be called with the given argument list|no matching function)
  map(cx, p, const_tensor<paper<double>>{});
#elif CASE == 8
  // expect: (could not convert|no instance of function template "planlm::ops::add_to" matches|no matching function for call to 'add_to')
  ops::add_to(cx, x, x);
#elif CASE == 9
  // expect: planlm: a layer's pullback must return the gradient of its input
  stack net{2, pullback_of_nothing{}};
#elif CASE == 10
  // expect: planlm: calling a layer must return vjp.output, pullback.
  recompute net{without_pullback{}};
#endif
  (void)cx, (void)p, (void)map;
}
