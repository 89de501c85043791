#include <planlm/layers/mlp.hpp>

#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("the feed-forward branch passes the gradient check at odd shapes and with each activation") {
  struct shape {
    index_t rows, width, inner;
  };
  for (const shape s : {shape{1, 1, 1}, {1, 7, 13}, {5, 3, 1}, {19, 17, 5}}) {
    CAPTURE(s.rows, s.width, s.inner);
    context<B> cx;
    testing::poison(cx);
    CHECK(testing::gradient_error(cx, mlp<B>{s.width, s.inner}, s.rows, s.width) < 1e-7);
    CHECK(testing::gradient_error(cx, mlp<B, ops::silu>{s.width, s.inner}, s.rows, s.width) < 1e-7);
    CHECK(testing::gradient_error(cx, mlp<B, ops::relu>{s.width, s.inner}, s.rows, s.width) < 1e-7);
  }
}

TEST_CASE("frozen parameters of the feed-forward branch are left untouched and change nothing else") {
  CHECK(testing::frozen_parameters_stay_untouched(mlp<B>{5, 11}, 4, 5));
}
