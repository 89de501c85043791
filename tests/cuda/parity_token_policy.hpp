/// The head of a policy that may stop, and draws that explore, on any backend, results in host memory: one more part of parity.hpp, and like
/// it with inputs rounded to `Input`.
///
/// Names begin with "token policy"; gradients are "... dhidden", "... dtable", "... dz". Rows of 307 tokens are taken by warps, of 5003 by
/// blocks. -infinity is kept as 0: it has no distance. Drawn tokens are exact: logits are inputs, so nothing is rounded before a draw.
#pragma once
#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>
#include <planlm/ops/sampling.hpp>
#include <planlm/ops/token_policy.hpp>
#include <planlm/testing/compare.hpp>

namespace planlm::testing {

template <Backend B, class Input>
class token_policy_results {
 public:
  using T = typename B::real;
  using A = typename B::accum;
  token_policy_results(context<B>& cx, std::map<std::string, std::vector<double>>& out) : cx_(cx), out_(out) {}

  void run() {
    for (const index_t vocabulary : {307, 5003}) {
      head(vocabulary, false);
      head(vocabulary, true);
      draws(vocabulary);
    }
  }

 private:
  static constexpr index_t rows_ = 41;
  template <class V>
  std::vector<V> rounded(index_t n, std::uint64_t seed, double scale = 1) {
    const std::vector<Input> from = normal_values<Input>(n, seed, scale);
    return {from.begin(), from.end()};
  }
  const_tensor<B> normals(index_t rows, index_t cols, std::uint64_t seed, double scale = 1) {
    return cx_.upload(std::span<const T>(rounded<T>(rows * cols, seed, scale)), rows, cols);
  }
  const_accum_tensor<B> vector(index_t n, std::uint64_t seed) { return cx_.upload(rounded<A>(n, seed)); }
  template <class V>
  void keep(const std::string& name, const V& v) {
    std::vector<double>& to = out_[name];
    to.clear();
    for (const auto x : cx_.read(v)) to.push_back(std::isinf(double(x)) ? 0 : double(x));
  }
  void head(index_t vocabulary, bool with_rules) {
    poison(cx_, 1 << 18);
    auto scope = cx_.scope();
    const std::string name = "token policy of " + std::to_string(vocabulary) + (with_rules ? ", rules" : "");
    const int stop = 17;
    std::vector<int> token(rows_), stopping(rows_);
    for (int i = 0; i < int(rows_); ++i) {
      const auto r = static_cast<std::size_t>(i);
      token[r] = i % 7 == 3 ? -1 : i % 11 == 5 ? stop : i * 31 % static_cast<int>(vocabulary);
      stopping[r] = i % 5 == 1 ? 1 : i % 6 == 2 ? 2 : 0;
    }
    token_rules<B> rules{stop};
    if (with_rules) rules.stopping = cx_.upload(stopping), rules.penalty = vector(vocabulary, 81);
    const const_tensor<B> hidden = normals(rows_, 23, 82, 0.3), table = normals(vocabulary, 23, 83);
    const indices<B> tokens = cx_.upload(token);
    const const_accum_tensor<B> dtaken = vector(rows_, 84), dstop = vector(rows_, 85), dentropy = vector(rows_, 86);
    auto [v, pullback] = ops::linear_token_policy<B>(cx_, hidden, table, tokens, rules);
    keep(name + " taken", v.taken), keep(name + " stop", v.stop), keep(name + " entropy", v.entropy);
    for (const bool with_entropy : {false, true}) {
      const std::string which = name + (with_entropy ? ", entropy" : "");
      const tensor<B> dtable = cx_.make_zero(vocabulary, 23);
      keep(which + " dhidden", pullback(dtaken, dstop, with_entropy ? dentropy : const_accum_tensor<B>{}, dtable));
      keep(which + " dtable", dtable);
    }
    const const_tensor<B> z = normals(rows_, vocabulary, 87);
    auto [of_logits, logits_pullback] = ops::token_policy<B>(cx_, z, tokens, rules);
    keep(name + ", logits taken", of_logits.taken), keep(name + ", logits entropy", of_logits.entropy);
    keep(name + ", logits dz", logits_pullback(dtaken, dstop, dentropy));
  }
  void draws(index_t vocabulary) {
    poison(cx_, 1 << 18);
    auto scope = cx_.scope();
    const std::string name = "token policy draws of " + std::to_string(vocabulary);
    const const_tensor<B> z = normals(rows_, vocabulary, 88, 2);
    std::vector<sampling_rule> rules(rows_);
    std::vector<int> place(rows_);
    for (std::size_t r = 0; r < rules.size(); ++r) {
      rules[r].uniform = double(r % 4) / 4;
      if (r % 5 == 4) rules[r].top_k = 9;
      rules[r].greedy = r % 9 == 7;
      place[r] = static_cast<int>(1000 * r + 7);
    }
    const auto s = ops::sample(cx_, z, std::span<const sampling_rule>(rules), philox{99, 3}, indices<B>(cx_.upload(place)));
    keep(name + " token", s.token), keep(name + " drawn", s.drawn), keep(name + " plain", s.plain);
  }

  context<B>& cx_;
  std::map<std::string, std::vector<double>>& out_;
};

/// Adds its arrays to `out`.
template <Backend B, class Input>
void token_policy_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  token_policy_results<B, Input>(cx, out).run();
}

}  // namespace planlm::testing
