/// The published three sentences of 4, 1 and 3 tokens, padding replaced by NaN.
#pragma once
#include "batch.hpp"

namespace objectives_test {

inline policy_batch published_sentences() {
  const auto& f = golden("F_modified_subtb_next_sentence");
  policy_batch b;
  b.length = {4, 1, 3}, b.cols = 5;
  for (std::size_t r = 0; r < 3; ++r)
    for (std::size_t k = 0; k < 5; ++k) {
      const auto n = static_cast<std::size_t>(b.length[r]);
      if (k < 4) b.taken.push_back(k < n ? f.at("log_pf").at(r).at(k).get<double>() : nan_value);
      b.stop.push_back(k <= n ? f.at("log_pterm").at(r).at(k).get<double>() : nan_value);
      b.reward.push_back(k <= n ? f.at("log_r").at(r).at(k).get<double>() : nan_value);
    }
  return b;
}

}  // namespace objectives_test
