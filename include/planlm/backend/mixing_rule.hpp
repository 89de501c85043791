/// How a backend with a fused label mixing turns a row of logits into label weights.
#pragma once
#include <planlm/core/config.hpp>
#include <planlm/core/philox.hpp>

namespace planlm {

/// y = z + noise G,  G_k = -log(-log U_k) of (row, label);  w = softmax(y / T) over the `taken` largest y of the row (0: over all), or, where
/// discrete, the one-hot of the largest y. Of equal values the lowest index goes first.
/// The gradient of the logits is that of the softmax, at the weights' own support; none where not differentiable.
struct mixing_rule {
  index_t taken = 0;
  double inverse_temperature = 1;
  double noise = 0;
  philox random{};
  bool discrete = false;
  bool differentiable = true;
};

}  // namespace planlm
