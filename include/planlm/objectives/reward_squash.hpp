/// From a reward head's logits z to token rewards r = g(z): g increases, is bounded, and where rewards become weights is positive.
///
///   soft_clipped_reward   u = most - sp(most - z), r = least + sp(u - least), sp(x) = ln(1 + e^x)      [2306.00398, released code]
///   sigmoid_reward        r = 1 / (1 + e^-z)
///
/// The first ends at least + sp(most - least), 1.3133 for the defaults and not 1, and never falls below `least`: weights that are shares of
/// a sum of rewards are never negative. A head that starts at z near 0 gives r = .5487 everywhere.
#pragma once
#include <cmath>
#include <concepts>
#include <string>
#include <type_traits>
#include <planlm/backend/context.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/core/concept_text.hpp>
#include <planlm/core/error.hpp>
#include <planlm/core/vjp.hpp>

namespace planlm {

/// value(z) and slope(z), its derivative, both in double.
template <class G>
concept RewardSquash = requires(const G& g, double z) {
  { g.value(z) } -> std::same_as<double>;
  { g.slope(z) } -> std::same_as<double>;
} || because<"RewardSquash: needs double value(double) const and double slope(double) const", G>();

namespace preference_kernel {

/// ln(1 + e^x); nothing overflows.
PLANLM_HD inline double softplus(double x) { return x > 0 ? x + ::log1p(::exp(-x)) : ::log1p(::exp(x)); }
/// ln(1 + t) for t >= 0 by a logarithm, a third of log1p's time: u - 1 is what 1 + t was rounded to.
PLANLM_HD inline double log_of_one_more(double t) {
  const double u = 1 + t;
  return u == 1 || u == INFINITY ? t : ::log(u) * (t / (u - 1));
}
/// 1 / (1 + e^-x), its small side as exact as its large one.
PLANLM_HD inline double logistic(double x) { return 1 / (1 + ::exp(-x)); }

}  // namespace preference_kernel

/// With s = 1 / (1 + e^(most - z)) the two softplus are one logarithm: r = least + ln(1 + e^(most - least) s).
class soft_clipped_reward {
 public:
  soft_clipped_reward() : soft_clipped_reward(1, 1e-8) {}
  /// Errors: planlm::error unless least < most < 700 and most - least < 700.
  soft_clipped_reward(double most, double least) : most_(most), least_(least), odds_(::exp(most - least)) {
    if (!(least < most && most < 700 && most - least < 700))
      throw error("soft_clipped_reward: most = " + std::to_string(most) + " and least = " + std::to_string(least) +
                  ", expected least < most < 700 and no more than 700 between them");
  }
  PLANLM_HD double value(double z) const {
    const double x = z - most_, t = ::exp(-::fabs(x));
    return least_ + preference_kernel::log_of_one_more(odds_ * (x > 0 ? 1 : t) / (1 + t));
  }
  PLANLM_HD double slope(double z) const {
    const double x = z - most_, t = ::exp(-::fabs(x)), near_one = 1 / (1 + t), rest = t * near_one;
    const double k = odds_ * (x > 0 ? near_one : rest);
    return k / (1 + k) * (x > 0 ? rest : near_one);
  }
  /// What rewards approach as z grows.
  PLANLM_HD double supremum() const { return least_ + preference_kernel::log_of_one_more(odds_); }

 private:
  double most_, least_, odds_;
};

struct sigmoid_reward {
  PLANLM_HD double value(double z) const { return preference_kernel::logistic(z); }
  PLANLM_HD double slope(double z) const { return preference_kernel::logistic(z) * preference_kernel::logistic(-z); }
};

namespace preference_kernel {

template <RewardSquash G, class T, class A>
struct squash_logits {
  G g;
  const T* z;
  A* r;
  PLANLM_HD void operator()(index_t i) const { r[i] = A(g.value(double(accum_of<T>(z[i])))); }
};
template <RewardSquash G, class T, class A>
struct squash_pullback {
  G g;
  const T* z;
  const A* dr;
  T* dz;
  PLANLM_HD void operator()(index_t i) const {
    dz[i] = T(accum_of<T>(double(dr[i]) * g.slope(double(accum_of<T>(z[i])))));
  }
};

}  // namespace preference_kernel

/// Token rewards (N) of logits of any shape with N values; `z` is kept for the pullback: dr (N) -> dz (N), in z's type. Each reward depends
/// on its own logit alone, so what lies between generations may hold anything. Errors: shape_error, from the pullback.
template <Backend B, RewardSquash G, class T, int R>
auto token_rewards(context<B>& cx, const G& squash, view<T, R, typename B::space> z) {
  using A = typename B::accum;
  using Z = std::remove_const_t<T>;
  const index_t n = z.size();
  const Z* from = z.data;
  const auto r = cx.template make_of<A>(n);
  B::for_each(cx.queue(), n, preference_kernel::squash_logits<G, Z, A>{squash, from, r.data});
  return vjp{r, [&cx, squash, from, n](const_accum_tensor<B> dr) {
               if (dr.size() != n)
                 throw shape_error("token_rewards: " + std::to_string(dr.size()) + " gradients for " + std::to_string(n) + " rewards");
               const auto dz = cx.template make_of<Z>(n);
               B::for_each(cx.queue(), n, preference_kernel::squash_pullback<G, Z, A>{squash, from, dr.data, dz.data});
               return dz;
             }};
}

}  // namespace planlm
