/// A case of the goldens of general trajectories against a loss: value and every gradient that is not padding.
#pragma once
#include "batch.hpp"

namespace objectives_test {

template <class Loss>
void check_case(const std::string& name, const flow_batch& b, const Loss& loss) {
  CAPTURE(name);
  const auto& expected = golden("A_trajectory_losses").at("cases").at(name);
  const outcome o = evaluate(b, loss);
  CHECK(std::abs(o.total - expected.at("loss").get<double>()) < 1e-11);
  CHECK(gap(o.dpf, turned(expected.at("d_log_pf"), b.length, 4, 0)) < 1e-11);
  if (!o.dpb.empty()) {
    // log P_B of an exit is 0 and nobody's variable; some of the published losses drop its gradient.
    numbers dpb = turned(expected.at("d_log_pb"), b.length, 4, 0);
    for (std::size_t n = 0; n < b.length.size(); ++n) {
      const auto exit = 4 * n + static_cast<std::size_t>(b.length[n]) - 1;
      CHECK(o.dpb[exit] == -o.dpf[exit]);
      dpb[exit] = o.dpb[exit];
    }
    CHECK(gap(o.dpb, dpb) < 1e-11);
  }
  if (!o.dflow.empty()) CHECK(gap(o.dflow, turned(expected.at("d_logF"), b.length, 4, 0)) < 1e-11);
  if (!o.dz.empty()) CHECK(std::abs(o.dz[0] - expected.at("d_logZ").get<double>()) < 1e-11);
}

}  // namespace objectives_test
