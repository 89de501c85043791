#include <planlm/testing/gradient_check.hpp>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/layers/compose.hpp>
#include <planlm/layers/linear.hpp>
#include <planlm/layers/norm.hpp>

#include "../catch.hpp"

using namespace planlm;

namespace {

using B = cpu<double>;

enum class fault { none, input_gradient, parameter_gradient, forgets_parameter, assigns, forgets_input };

/// linear with one fault planted in its pullback.
template <fault Fault>
struct faulty_linear {
  using backend = B;
  using params = linear<B>::params;
  linear<B> right;

  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    right.each_param(f, p...);
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x) const {
    auto [y, pullback] = right(cx, p, x);
    return vjp{y, [&cx, x, pullback = pullback](const_tensor<B> dy, const params& g) {
                 params given = g;
                 if constexpr (Fault == fault::forgets_parameter) given.b = {};
                 if constexpr (Fault == fault::assigns) ops::fill(cx, g.b, 0.0);
                 tensor<B> dx = pullback(dy, given);
                 if constexpr (Fault == fault::input_gradient)
                   dx = ops::scaled(cx, const_tensor<B>(dx), 1.001);
                 if constexpr (Fault == fault::parameter_gradient)
                   ops::matmul_tn_add(cx, const_tensor<B>(ops::scaled(cx, dy, 0.001)), x, g.w);
                 if constexpr (Fault == fault::forgets_input) ops::fill(cx, dx, 0.0);
                 return dx;
               }};
  }
};
static_assert(Layer<faulty_linear<fault::assigns>>);

template <fault Fault>
double error_of() {
  context<B> cx;
  return testing::gradient_error(cx, faulty_linear<Fault>{{7, 3}}, 5, 7);
}

}  // namespace

TEST_CASE("the gradient check accepts a right layer") { CHECK(error_of<fault::none>() < 1e-8); }
TEST_CASE("the gradient check catches an input gradient that is off by a thousandth") {
  CHECK(error_of<fault::input_gradient>() > 1e-5);
}
TEST_CASE("the gradient check catches a parameter gradient that is off by a thousandth") {
  CHECK(error_of<fault::parameter_gradient>() > 1e-5);
}
TEST_CASE("the gradient check catches a parameter gradient that is forgotten") {
  CHECK(error_of<fault::forgets_parameter>() > 1e-2);
}
TEST_CASE("the gradient check catches a parameter gradient that is assigned where it must be added") {
  CHECK(error_of<fault::assigns>() > 1e-2);
}
TEST_CASE("the gradient check catches a missing input gradient") {
  CHECK(error_of<fault::forgets_input>() > 1e-2);
}

TEST_CASE("a fault deep inside a composition is still caught") {
  context<B> cx;
  const auto with = [&](auto inner) {
    return testing::gradient_error(cx, stack{3, residual{sequential{layer_norm<B>{6}, inner}}}, 4, 6);
  };
  CHECK(with(faulty_linear<fault::none>{{6, 6}}) < 1e-7);
  CHECK(with(faulty_linear<fault::input_gradient>{{6, 6}}) > 1e-5);
  CHECK(with(faulty_linear<fault::forgets_parameter>{{6, 6}}) > 1e-2);
}

TEST_CASE(
    "the directional check answers infinity to a gradient of the wrong length or one that is not a number") {
  const auto loss = [](const std::vector<double>& x) { return x[0] * x[0] + x[1]; };
  const std::vector<double> at{3.0, 4.0};
  CHECK(testing::directional_error(at, loss, [](const std::vector<double>& x) {
          return std::vector<double>{2 * x[0], 1.0};
        }) < 1e-9);
  CHECK(std::isinf(testing::directional_error(
      at, loss, [](const std::vector<double>& x) { return std::vector<double>{2 * x[0]}; })));
  CHECK(std::isinf(testing::directional_error(at, loss, [](const std::vector<double>&) {
    return std::vector<double>{NAN, 1.0};
  })));
}
