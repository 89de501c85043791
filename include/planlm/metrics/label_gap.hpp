/// How clearly a classifier is right: the probability of the label minus the largest of the others, scaled apart where it is right and
/// where it is wrong. The score of a prompt is the mean over examples.   [2306.00398, released code: 200 and 180]
///
/// The label is left out of "the others" by its place, not by its value: an exact tie has gap 0, and counts as wrong.
#pragma once
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>

namespace planlm {

/// p: probabilities of at least two classes. -1 to 1. Errors: shape_error.
template <std::floating_point Real>
double label_gap(std::span<const Real> p, int label) {
  const auto classes = static_cast<int>(p.size());
  if (classes < 2 || label < 0 || label >= classes)
    throw shape_error("label_gap: label " + std::to_string(label) + " of " + std::to_string(classes) +
                      " classes, expected at least two classes and a label among them");
  double other = -std::numeric_limits<double>::infinity();
  for (int c = 0; c < classes; ++c)
    if (c != label) other = std::max(other, double(p[static_cast<std::size_t>(c)]));
  return double(p[static_cast<std::size_t>(label)]) - other;
}

struct label_gap_score {
  double reward = 0;    // mean over examples
  double accuracy = 0;  // share of examples with a gap above 0
};

struct label_gap_reward {
  double right = 200, wrong = 180;

  double operator()(double gap) const { return gap * (gap > 0 ? right : wrong); }

  /// p: probabilities of `classes` for one example after another. No examples: 0. Errors: shape_error.
  template <std::floating_point Real>
  label_gap_score score(std::span<const Real> p, index_t classes, std::span<const int> labels) const {
    const auto width = static_cast<std::size_t>(std::max<index_t>(classes, 0));
    if (p.size() != width * labels.size())
      throw shape_error("label_gap_reward: " + std::to_string(p.size()) + " probabilities, expected " + std::to_string(labels.size()) +
                        " examples of " + std::to_string(classes));
    label_gap_score mean;
    for (std::size_t n = 0; n < labels.size(); ++n) {
      const double gap = label_gap(p.subspan(n * width, width), labels[n]);
      mean.reward += (*this)(gap);
      mean.accuracy += gap > 0 ? 1 : 0;
    }
    const double examples = std::max(1.0, static_cast<double>(labels.size()));
    return {mean.reward / examples, mean.accuracy / examples};
  }
};

}  // namespace planlm
