/// Lists of generations on any backend, results in host memory: one more part of parity.hpp, and like it with inputs rounded to `Input`.
///
/// Names begin with "preference"; gradients are "... dz" and "... de". Logits are of the accumulating type, as a reward head has them, and
/// where the name ends in "narrow" of the storing one. The lists hold 5, 1, 40, 3, 4 and 2 places, of generations of 1 to 300 tokens with
/// NaN between them and some in several lists: one generation without tokens, one place without a generation, equal scores with and
/// without numbers, and a list whose scores are all equal.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include <planlm/objectives/listwise_preference.hpp>
#include <planlm/testing/compare.hpp>

namespace planlm::testing {

template <Backend B, class Input>
class preference_results {
 public:
  using T = typename B::real;
  using A = typename B::accum;
  preference_results(context<B>& cx, std::map<std::string, std::vector<double>>& out) : cx_(cx), out_(out) {
    for (int s = 0; s < generations_; ++s) {
      first_.push_back(rows_ + 1 + s % 3);
      length_.push_back(s == 3 ? 0 : s == 7 ? 300 : s == 8 ? 1 : 4 + s * 37 % 125);
      rows_ = first_.back() + length_.back();
    }
    ++rows_;
    for (int i = 0; i < offsets_.back(); ++i) {
      item_.push_back(i < offsets_[3] ? i * 7 % generations_ : i - 36);
      score_.push_back(i / 2 * 5 % 11 + (i % 3 == 0 ? 1e-9 : 0));  // ties, and what single precision would tie
      tie_.push_back(i % 4 == 0 ? 3 : -i % 3);
    }
    item_[9] = -1;
    for (int i = offsets_[4]; i < offsets_[5]; ++i) score_[static_cast<std::size_t>(i)] = 2;
  }

  void run() {
    squashes();
    const auto each = [&](const auto& squash, const std::string& name) {
      aggregated(squash, aggregation::sum{}, name + " sum");
      aggregated(squash, aggregation::average{}, name + " average");
      aggregated(squash, aggregation::soft_max{}, name + " soft max");
      aggregated(squash, aggregation::soft_min{}, name + " soft min");
    };
    each(soft_clipped_reward{}, "preference, clipped,");
    each(sigmoid_reward{}, "preference, sigmoid,");
    aggregated(soft_clipped_reward{}, aggregation::average{false}, "preference, no common length, average");
    aggregated(soft_clipped_reward{}, aggregation::soft_max{0.3, true, true}, "preference, corrected, soft max");
    aggregated(soft_clipped_reward{}, aggregation::soft_min{0.3, false, true}, "preference, corrected, soft min");
    rankings();
  }

 private:
  static constexpr int generations_ = 46;
  template <class V>
  void keep(const std::string& name, const V& v) {
    const auto read = cx_.read(v);
    out_[name].assign(read.begin(), read.end());
  }
  template <class F>
  void on_poison(const F& f) {
    poison(cx_, 1 << 18);
    auto scope = cx_.scope();
    f();
  }
  /// NaN wherever no generation lies.
  template <class Z>
  view<const Z, 1, typename B::space> logits() {
    const std::vector<Input> drawn = normal_values<Input>(rows_, 70, 1.5);
    std::vector<Z> z(static_cast<std::size_t>(rows_), Z(NAN));
    for (std::size_t s = 0; s < first_.size(); ++s)
      for (auto i = static_cast<std::size_t>(first_[s]); i < static_cast<std::size_t>(first_[s] + length_[s]); ++i) z[i] = Z(drawn[i]);
    return cx_.upload(z);
  }
  preference_lists<B> lists() {
    return {cx_.upload(first_), cx_.upload(length_), cx_.upload(offsets_), cx_.upload(score_), cx_.upload(item_), cx_.upload(tie_)};
  }
  template <class Squash>
  void squashed(const Squash& squash, const std::string& name) {
    on_poison([&] {
      const std::vector<Input> z = normal_values<Input>(1031, 71, 4), dr = normal_values<Input>(1031, 72);
      auto [r, pullback] = token_rewards(cx_, squash, const_accum_tensor<B>(cx_.upload(std::vector<A>(z.begin(), z.end()))));
      keep(name, r), keep(name + " dz", pullback(cx_.upload(std::vector<A>(dr.begin(), dr.end()))));
    });
  }
  void squashes() {
    squashed(soft_clipped_reward{}, "preference reward, clipped"), squashed(sigmoid_reward{}, "preference reward, sigmoid");
  }
  template <class Squash, class F>
  void aggregated(const Squash& squash, const F& f, const std::string& name) {
    on_poison([&] {
      const auto l = lists();
      loss<A>(listwise_preference<Squash, F>{squash, f}, l, name);
      loss<T>(listwise_preference<Squash, F>{squash, f}, l, name + ", narrow");
      loss<A>(listwise_preference<Squash, F>{squash, f, {equal_scores::ordered, 1e-10}}, l, name + ", as published");
      auto [e, pullback] = list_scores(cx_, squash, f, logits<A>(), l);
      const auto de = cx_.upload(normal_values<double>(static_cast<index_t>(item_.size()), 73));
      keep(name + " score alone", e), keep(name + " score alone dz", pullback(de));
    });
  }
  template <class Z, class Loss>
  void loss(const Loss& objective, const preference_lists<B>& l, const std::string& name) {
    const auto out = objective(cx_, logits<Z>(), l);
    keep(name, out.total), keep(name + " each", out.each), keep(name + " silent", out.silent), keep(name + " score", out.score);
    keep(name + " dz", out.dz);
  }
  /// Scores that no logits made, near each other and hundreds apart.
  void rankings() {
    for (const double spread : {0.5, 5.0, 300.0})
      for (const bool shuffled : {false, true}) on_poison([&] {
        const auto e = view<const double, 1, typename B::space>(
            cx_.upload(normal_values<double>(static_cast<index_t>(item_.size()), 74, spread)));
        preference_lists<B> l{{}, {}, cx_.upload(offsets_), cx_.upload(score_)};
        if (shuffled) l.tie = cx_.upload(shuffled_ties(philox{5}, offsets_));
        const auto out = plackett_luce{}(cx_, e, l);
        const std::string name = "preference ranking " + std::to_string(static_cast<int>(10 * spread)) + (shuffled ? ", shuffled" : "");
        keep(name, out.total), keep(name + " each", out.each), keep(name + " silent", out.silent), keep(name + " de", out.de);
      });
  }

  context<B>& cx_;
  std::map<std::string, std::vector<double>>& out_;
  int rows_ = 0;
  const std::vector<int> offsets_{0, 5, 6, 46, 49, 53, 55};
  std::vector<int> first_, length_, item_, tie_;
  std::vector<double> score_;
};

/// Adds its arrays to `out`.
template <Backend B, class Input>
void preference_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  preference_results<B, Input>(cx, out).run();
}

}  // namespace planlm::testing
