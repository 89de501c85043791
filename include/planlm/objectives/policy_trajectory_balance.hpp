/// Trajectory balance and VarGrad for a policy that may stop at every prefix: only the object that was drawn counts, S = log q - log R.
///
///   policy_trajectory_balance         mean over rows of g(flow[group] + S), flow = log Z of the prompt, learned   [2201.13259]
///   policy_log_partition_variance     mean over rows of (S - mean of S in the row's group)^2                      [2302.05446]
///
/// The second needs at least two rows per prompt: a group of one has loss and gradient 0. The policy's support and its scores have to
/// agree: a stop that the sampler forbids has to be masked in the scored softmax too, or log Z is off by log(1 - q(stop)).
#pragma once
#include <planlm/objectives/policy_terms.hpp>

namespace planlm {

template <RegressionFunction G = squared>
struct policy_trajectory_balance {
  G g{};

  /// flow (groups): log Z. Errors: planlm::error for lengths that cross, shape_error.
  template <Backend B>
  policy_loss<B> operator()(context<B>& cx, const policy_terms<B>& z, const_accum_tensor<B> flow) const {
    balance_detail::check("policy_trajectory_balance", z, flow, true);
    return balance_detail::object_loss(cx, z, true, [&](const auto& rows, policy_loss<B>& out) {
      balance_kernel::regress<B, G, typename B::accum>(cx, g, rows, flow.data, nullptr, out.total, out.each, out.dflow);
    });
  }
};

struct policy_log_partition_variance {
  /// `flow` is not read. Errors: planlm::error for lengths that cross, shape_error.
  template <Backend B>
  policy_loss<B> operator()(context<B>& cx, const policy_terms<B>& z, const_accum_tensor<B> = {}) const {
    balance_detail::check("policy_log_partition_variance", z, {}, false);
    return balance_detail::object_loss(cx, z, false, [&](const auto& rows, policy_loss<B>& out) {
      balance_kernel::regress_about_mean<B>(cx, squared{}, rows, z.groups, nullptr, out.total, out.each);
    });
  }
};

}  // namespace planlm
