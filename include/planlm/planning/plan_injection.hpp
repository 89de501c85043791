/// How the vector of a sentence reaches the rows of a sequence: it is added.
#pragma once
#include <planlm/core/vjp.hpp>
#include <planlm/ops/gather.hpp>

namespace planlm {

/// x_t + u[sentence(t)]; x_t alone where sentence(t) is below 0.   x (N, D), sentence (N), u (S, D)
/// u (S, P D) is read as (S P, D): P vectors per sentence, for rows that carry a plan and nothing else (plan_rows.hpp).
///   pullback(dx, du, ...): du += segment sum of dx, unless it is empty.
template <Backend B>
struct plan_injection {
  const_tensor<B> u;
  indices<B> sentence;
  auto operator()(context<B>& cx, const_tensor<B> x) const {
    const const_tensor<B> vectors(u.data, u.size() / x.cols(), x.cols());
    return vjp{const_tensor<B>(ops::add_gathered_rows(cx, x, vectors, sentence)),
               [&cx, s = sentence](const_tensor<B> dx, tensor<B> du, const auto&...) {
                 if (du) ops::add_segment_sums(cx, dx, s, tensor<B>(du.data, du.size() / dx.cols(), dx.cols()));
                 return dx;
               }};
  }
};

}  // namespace planlm
