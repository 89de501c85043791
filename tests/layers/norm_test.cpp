#include <planlm/layers/norm.hpp>

#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("layer norm and RMS norm pass the gradient check at odd shapes") {
  struct shape {
    index_t rows, cols;
  };
  for (const shape s : {shape{1, 2}, {1, 17}, {5, 7}, {31, 3}, {3, 130}, {70, 65}}) {
    CAPTURE(s.rows, s.cols);
    context<B> cx;
    testing::poison(cx);
    CHECK(testing::gradient_error(cx, layer_norm<B>{s.cols}, s.rows, s.cols) < 1e-7);
    CHECK(testing::gradient_error(cx, rms_norm<B>{s.cols}, s.rows, s.cols) < 1e-7);
    CHECK(testing::gradient_error(cx, layer_norm<B>{s.cols, 0.5}, s.rows, s.cols) < 1e-7);
  }
  context<B> cx;
  CHECK(testing::gradient_error(cx, rms_norm<B>{1, 0.5}, 4, 1) < 1e-7);
  CHECK(testing::gradient_error(cx, layer_norm<B>{1, 0.5}, 4, 1) < 1e-7);
}

TEST_CASE("a frozen scale or shift is left untouched and changes nothing else") {
  CHECK(testing::frozen_parameters_stay_untouched(layer_norm<B>{7}, 5, 7));
  CHECK(testing::frozen_parameters_stay_untouched(rms_norm<B>{7}, 5, 7));
}
