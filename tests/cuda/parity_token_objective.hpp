/// Weighted tokens on any backend, results in host memory: one more part of parity.hpp, and like it with inputs rounded to `Input`.
///
/// Names begin with "token objective" (weights that are given) and "guided" (weights made of rewards on the device); gradients are
/// "... dhidden", "... dtable", "... dz". Rows of 307 tokens are taken by warps, of 5003 by blocks. Masked rows hold NaN for weights.
#pragma once
#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>
#include <planlm/objectives/guided_likelihood.hpp>
#include <planlm/ops/token_objective.hpp>
#include <planlm/testing/compare.hpp>

namespace planlm::testing {

template <Backend B, class Input>
class token_objective_results {
 public:
  using T = typename B::real;
  using A = typename B::accum;
  token_objective_results(context<B>& cx, std::map<std::string, std::vector<double>>& out) : cx_(cx), out_(out) {}

  void run() {
    for (const index_t vocabulary : {307, 5003}) {
      for (const double floor : {0.0, 1e-3}) weighted(vocabulary, floor);
      guided(vocabulary);
    }
  }

 private:
  static constexpr index_t rows_ = 41, width_ = 23;
  const_tensor<B> normals(index_t rows, index_t cols, std::uint64_t seed, double scale = 1) {
    const std::vector<Input> from = normal_values<Input>(rows * cols, seed, scale);
    return cx_.upload(std::span<const T>(std::vector<T>(from.begin(), from.end())), rows, cols);
  }
  template <class V>
  void keep(const std::string& name, const V& v) {
    const auto read = cx_.read(v);
    out_[name].assign(read.begin(), read.end());
  }
  void keep(const std::string& name, const token_objective_loss<B>& loss, const char* of) {
    keep(name + " total", loss.total), keep(name + " likelihood", loss.likelihood), keep(name + " bonus", loss.bonus);
    keep(name + " nll", loss.nll), keep(name + " entropy", loss.entropy), keep(name + of, loss.gradient);
  }
  indices<B> tokens(index_t vocabulary) {
    std::vector<int> token(rows_);
    for (int i = 0; i < int(rows_); ++i)
      token[static_cast<std::size_t>(i)] = i % 7 == 3 ? -1 : i * 31 % static_cast<int>(vocabulary);
    return cx_.upload(token);
  }
  /// Above 0, so that sums of the losses do not cancel; 0 in every fifth row, NaN where tokens() masks.
  const_accum_tensor<B> positive(std::uint64_t seed) {
    std::vector<A> v(rows_);
    const philox random{seed};
    for (std::size_t r = 0; r < v.size(); ++r) v[r] = r % 7 == 3 ? A(NAN) : r % 5 == 2 ? A(0) : A(0.1 + random.uniform(r, 0));
    return cx_.upload(v);
  }
  void weighted(index_t vocabulary, double floor) {
    poison(cx_, 1 << 18);
    auto scope = cx_.scope();
    const std::string name = "token objective of " + std::to_string(vocabulary) + (floor > 0 ? ", floor" : "");
    const const_tensor<B> hidden = normals(rows_, width_, 92, 0.3), table = normals(vocabulary, width_, 93);
    const tensor<B> dtable = cx_.make_zero(vocabulary, width_);
    const token_weights<B> weights{.likelihood = positive(94), .entropy = positive(95), .probability_floor = floor};
    keep(name, ops::linear_token_objective<B>(cx_, hidden, table, tokens(vocabulary), weights, dtable), " dhidden");
    keep(name + " dtable", dtable);
    keep(name + ", logits", ops::token_objective<B>(cx_, normals(rows_, vocabulary, 97), tokens(vocabulary), weights), " dz");
  }
  void guided(index_t vocabulary) {
    const std::vector<int> offsets{0, 11, 11, 12, 30, int(rows_)};
    for (const bool exponential : {false, true})
      for (const token_credit credit : {token_credit::own, token_credit::to_go})
        for (int by = 0; by < 4; ++by) {
          poison(cx_, 1 << 18);
          auto scope = cx_.scope();
          const std::string name = "guided " + std::to_string(vocabulary) + (exponential ? " e^r" : " r") +
                                   (credit == token_credit::own ? " own " : " to go ") + std::to_string(by);
          const guided_likelihood objective{.credit = credit, .normaliser = static_cast<token_normaliser>(by),
                                            .exponential = exponential, .entropy = 0.125};
          const guided_tokens<B> batch{tokens(vocabulary), positive(96), cx_.upload(offsets)};
          keep(name, objective(cx_, normals(rows_, vocabulary, 97), batch), " dz");
        }
  }

  context<B>& cx_;
  std::map<std::string, std::vector<double>>& out_;
};

/// Adds its arrays to `out`.
template <Backend B, class Input>
void token_objective_parity(context<B>& cx, std::map<std::string, std::vector<double>>& out) {
  token_objective_results<B, Input>(cx, out).run();
}

}  // namespace planlm::testing
