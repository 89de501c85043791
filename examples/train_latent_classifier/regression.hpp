/// Logistic regression on sentence vectors: what labels are worth without a language model.
#pragma once
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>
#include <planlm/text/sentence_encoder.hpp>

namespace train_latent_classifier {

/// Minimises sum of log-losses + ridge / 2 |w|^2 (not of the bias) by gradient descent; vectors have length 1 at most.
class logistic_regression {
 public:
  logistic_regression(const planlm::embeddings& x, std::span<const int> labels, double ridge = 0.1, int steps = 2000)
      : w_(static_cast<std::size_t>(x.width) + 1, 0.0) {
    // The loss curves by at most a quarter of the sum of squared lengths, bias included, and the ridge: the step is stable.
    const double rate = 1 / (0.5 * double(x.rows) + ridge);
    for (int s = 0; s < steps; ++s) {
      std::vector<double> g(w_.size(), 0.0);
      for (std::size_t j = 0; j + 1 < w_.size(); ++j) g[j] = ridge * w_[j];
      for (planlm::index_t i = 0; i < x.rows; ++i) {
        const std::span<const float> v = x.row(i);
        const double miss = 1 / (1 + std::exp(-odds(v))) - labels[static_cast<std::size_t>(i)];
        for (std::size_t j = 0; j < v.size(); ++j) g[j] += miss * double(v[j]);
        g.back() += miss;
      }
      for (std::size_t j = 0; j < w_.size(); ++j) w_[j] -= rate * g[j];
    }
  }
  /// log p(1) - log p(0)
  double odds(std::span<const float> v) const {
    double sum = w_.back();
    for (std::size_t j = 0; j < v.size(); ++j) sum += w_[j] * double(v[j]);
    return sum;
  }

 private:
  std::vector<double> w_;
};

}  // namespace train_latent_classifier
