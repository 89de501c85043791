#include <planlm/models/rollout_scores.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>
#include <planlm/ops/sub_trajectory_balance.hpp>
#include <planlm/testing/gradient_check.hpp>
#include <planlm/training/low_rank.hpp>

#include "../catch.hpp"
#include "joint.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::perturbed;
using values = std::vector<double>;

namespace {

constexpr int stop = 5;
using lm = transformer_lm<B>;
const lm small{{23, 14, 6, 3, 2}};
using padded = const_accum_tensor<B, 2>;

/// Lengths 0 .. 6 of at most 6, tokens written by a tool in between, a state as long as the model.
std::vector<rollout<double>> some_rollouts(index_t shortest = 0) {
  const auto tool = [](const rollout<double>& z) {
    return z.actions.back() == 9 ? std::vector<int>{stop, 11} : std::vector<int>{};
  };
  std::vector<rollout<double>> z;
  const std::vector<std::vector<int>> prompts{{1, 2, 3}, {4}, {8, 8}, {1, 2, 3, 4}, {7}},
      actions{{6, 9, 2}, {}, {10, 11, 12, 9, 14, 15}, {3, 3, 9, 9, 2, 1}, {22}};
  for (std::size_t b = 0; b < prompts.size(); ++b)
    if (index_t(actions[b].size()) >= shortest)
      z.push_back(given_rollout<double>(prompts[b], actions[b], tool));
  return z;
}
rollout_rule constrained(index_t shortest) {
  rollout_rule rule{.stop = stop, .shortest = shortest, .longest = 6};
  for (int i = 0; i < 23; ++i) rule.penalty.push_back(i % 4 == 0 ? -3.f : 0.f);
  return rule;
}
/// Weights of an upstream (rows, cols): normal where something is to be read, NaN elsewhere.
struct upstream {
  values weights;
  index_t rows, cols;
  padded view() const { return {weights.data(), rows, cols}; }
};
template <class Read>
upstream weights_where(index_t rows, index_t cols, std::uint64_t seed, const Read& read) {
  upstream u{testing::normal_values(rows * cols, seed), rows, cols};
  for (index_t b = 0; b < rows; ++b)
    for (index_t k = 0; k < cols; ++k)
      if (!read(b, k)) u.weights[std::size_t(b * cols + k)] = std::numeric_limits<double>::quiet_NaN();
  return u;
}
double inner(const upstream& u, const values& v) {
  double sum = 0;
  for (std::size_t i = 0; i < v.size(); ++i)
    if (!std::isnan(u.weights[i])) sum += u.weights[i] * v[i];
  return sum;
}
/// Finite differences of a random combination of what is asked for.
double scores_error(bool of_taken, bool of_stop, bool of_entropy, index_t shortest) {
  const auto z = some_rollouts(shortest);
  const rollout_rule rule = constrained(shortest);
  const auto rows = index_t(z.size());
  const auto n = [&](index_t b) { return z[std::size_t(b)].length(); };
  const upstream a = weights_where(rows, 6, 41, [&](index_t b, index_t k) { return k < n(b); });
  const upstream c = weights_where(
      rows, 7, 42, [&](index_t b, index_t k) { return k <= n(b) && k >= shortest && k < rule.longest; });
  const upstream e =
      weights_where(rows, 7, 43, [&](index_t b, index_t k) { return k <= n(b) && k < rule.longest; });
  context<B> cx;
  testing::poison(cx);
  auto theta = perturbed(cx, small);
  auto loss = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    const auto s = score_rollouts(cx, small, theta.weights, z, rule).value;
    return (of_taken ? inner(a, cx.read(s.taken)) : 0) + (of_stop ? inner(c, cx.read(s.stop)) : 0) +
           (of_entropy ? inner(e, cx.read(s.entropy)) : 0);
  };
  auto gradient = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    const values start(std::size_t(theta.flat_grads().size()), 1.0);  // gradients are added
    B::upload(cx.queue(), theta.flat_grads().data, start.data(), start.size() * sizeof(double));
    auto [s, pullback] = score_rollouts(cx, small, theta.weights, z, rule);
    pullback(of_taken ? a.view() : padded{}, of_stop ? c.view() : padded{}, of_entropy ? e.view() : padded{},
             theta.grads);
    values g = testing::read_all(cx, theta, true);
    for (double& v : g) v -= 1;
    return g;
  };
  return testing::directional_error(testing::read_all(cx, theta), loss, gradient);
}

/// A table of logits by the token seen: the smallest model of a policy there is.
struct bigram {
  using backend = B;
  struct params {
    embedding<B>::params input, token;  // logits of the next token; the identity
  };
  lm_sizes sizes{6, 8, 6, 1, 1};
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    auto in_input = within("input", f), in_token = within("token", f);
    embedding<B>{6, 6}.each_param(in_input, p.input...);
    embedding<B>{6, 6}.each_param(in_token, p.token...);
  }
  auto operator()(context<B>& cx, const params& p, indices<B> tokens, const sequences<B>&) const {
    auto [h, back] = embedding<B>{6, 6}(cx, p.input, tokens);
    return vjp{h, [back = back](const_tensor<B> dh, const params& g) { back(dh, g.input); }};
  }
};
kv_cache<B> cache_of(context<B>& cx, const bigram&, index_t sequences, index_t capacity) {
  return {cx, 1, {1, 1, 1, true}, sequences, capacity};
}
const_tensor<B> decode(context<B>& cx, const bigram&, const bigram::params& p, indices<B> tokens,
                       const decoding_rows<B>&, const kv_cache<B>&) {
  return ops::gather_rows(cx, const_tensor<B>(p.input.table), tokens);
}

}  // namespace

TEST_CASE("rollout scores pass the gradient check, for every upstream alone and all of them") {
  for (const index_t shortest : {0, 3}) {
    CAPTURE(shortest);
    CHECK(scores_error(true, false, false, shortest) < 1e-7);
    CHECK(scores_error(false, true, false, shortest) < 1e-7);
    CHECK(scores_error(false, false, true, shortest) < 1e-7);
    CHECK(scores_error(true, true, true, shortest) < 1e-7);
  }
}

TEST_CASE("rollout scores are padded with zeros and count their actions") {
  context<B> cx;
  testing::poison(cx);
  auto theta = perturbed(cx, small);
  const auto z = some_rollouts();
  const auto s = score_rollouts(cx, small, theta.weights, z, constrained(0)).value;
  CHECK((s.taken.rows() == 5 && s.taken.cols() == 6 && s.stop.cols() == 7 && s.entropy.cols() == 7));
  CHECK(cx.read(s.length) == std::vector<int>{3, 0, 6, 6, 1});
  const values taken = cx.read(s.taken), stops = cx.read(s.stop), entropy = cx.read(s.entropy);
  for (std::size_t b = 0; b < 5; ++b)
    for (std::size_t k = 0; k < 7; ++k) {
      CAPTURE(b, k);
      const std::size_t n = z[b].actions.size();
      if (k < 6) CHECK((taken[b * 6 + k] < 0) == (k < n));
      CHECK((stops[b * 7 + k] < 0) == (k <= n && k < 6));  // 0 too where the stop is certain
      CHECK((entropy[b * 7 + k] > 0) == (k <= n && k < 6));
    }
  // No action at all.
  const std::vector<rollout<double>> none{given_rollout<double>({3}, {}), given_rollout<double>({4, 2}, {})};
  auto [at_once, pullback] = score_rollouts(cx, small, theta.weights, none, constrained(0));
  CHECK((at_once.taken.cols() == 0 && at_once.stop.cols() == 1));
  CHECK(cx.read(at_once.stop)[1] < 0);
  const values one{1, 1};
  theta.zero_grads(cx);
  pullback({}, padded(one.data(), 2, 1), {}, theta.grads);
  CHECK(theta.read_gradient(cx, 0)[std::size_t(stop) * 6] != 0);
  CHECK_THROWS_AS(pullback({}, padded(one.data(), 1, 2), {}, theta.grads), shape_error);
  CHECK_THROWS_AS(
      score_rollouts(cx, small, theta.weights, std::span<const rollout<double>>{}, constrained(0)),
      planlm::error);
}

TEST_CASE("what is frozen gets no gradient of rollouts, the rest that of the whole model") {
  context<B> cx;
  auto theta = perturbed(cx, small);
  const auto z = some_rollouts();
  const values a = testing::normal_values(30, 1), c = testing::normal_values(35, 2);
  const auto gradients = [&](const lm::params& g) {
    auto scope = cx.scope();
    theta.zero_grads(cx);
    auto [s, pullback] = score_rollouts(cx, small, theta.weights, z, constrained(0));
    pullback(padded(a.data(), 5, 6), padded(c.data(), 5, 7), {}, g);
    std::vector<values> all;
    for (std::size_t n = 0; n < theta.slots().size(); ++n) all.push_back(theta.read_gradient(cx, n));
    return all;
  };
  const auto whole = gradients(theta.grads);
  for (std::size_t frozen = 0; frozen <= whole.size(); ++frozen) {  // the last round freezes all
    CAPTURE(frozen);
    lm::params g = theta.grads;
    std::size_t n = 0;
    auto freeze = [&](const parameter_spec&, auto& tensor) {
      if (n == frozen || frozen == whole.size()) tensor = {};
      ++n;
    };
    small.each_param(freeze, g);
    const auto some = gradients(g);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      CHECK(*std::max_element(whole[i].begin(), whole[i].end()) > 0);
      CHECK(some[i] == (i == frozen || frozen == whole.size() ? values(whole[i].size()) : whole[i]));
    }
  }
}

TEST_CASE("factors of low rank are trained through rollout scores, and sampled with as they are scored") {
  context<B> cx;
  auto base = perturbed(cx, small);
  tuned_weights tuned{cx, small, base, low_rank_tuning{2, 4}, philox{6}};
  const auto z = some_rollouts();
  const rollout_rule rule = constrained(0);
  const upstream a =
      weights_where(5, 6, 41, [&](index_t b, index_t k) { return k < z[std::size_t(b)].length(); });
  const auto size = std::size_t(tuned.count());
  const auto write = [&](const values& at) {
    B::upload(cx.queue(), tuned.flat_weights().data, at.data(), size * sizeof(double));
    tuned.merge(cx);
  };
  auto loss = [&](const values& at) {
    auto scope = cx.scope();
    write(at);
    return inner(a, cx.read(score_rollouts(cx, small, tuned.weights(), z, rule).value.taken));
  };
  auto gradient = [&](const values& at) {
    auto scope = cx.scope();
    write(at);
    B::zero(cx.queue(), tuned.flat_grads().data, size * sizeof(double));
    auto [s, pullback] = score_rollouts(cx, small, tuned.weights(), z, rule);
    pullback(a.view(), {}, {}, tuned.gradients());
    tuned.pull(cx);
    return values(tuned.flat_grads().data, tuned.flat_grads().data + size);
  };
  const values at = testing::normal_values(index_t(size), 12, 0.3);
  CHECK(testing::directional_error(at, loss, gradient) < 1e-7);
  const values g = gradient(at);
  CHECK(std::count(g.begin(), g.end(), 0.0) < std::ptrdiff_t(size) / 4);

  rollout_sampler sampler(cx, small, tuned.weights(), 4);
  const auto scores = score_rollouts(cx, small, tuned.weights(), z, rule).value;
  const auto replayed = sampler.replay(z, rule);
  for (std::size_t b = 0; b < z.size(); ++b)
    for (std::size_t k = 0; k < z[b].actions.size(); ++k)
      CHECK(replayed[b].taken[k] == scores.taken(index_t(b), index_t(k)));
}

TEST_CASE(
    "facts 17 and 18: a policy that is its own reward is balanced, and off by a known factor under a "
    "temperature") {
  context<B> cx;
  auto theta = perturbed(cx, small);
  const auto z = some_rollouts();
  const rollout_rule rule{.stop = stop, .longest = 7};
  const auto s = score_rollouts(cx, small, theta.weights, z, rule).value;
  // log p_LM of every prefix and its stop, from the logits of the forward pass over each state alone.
  values log_p(5 * 7);
  for (std::size_t b = 0; b < 5; ++b) {
    const testing::packed rows{int(z[b].state.size())};
    const auto h =
        small(cx, theta.weights, indices<B>(z[b].state.data(), z[b].state.size()), rows.view<B>()).value;
    const auto logits = ops::matmul_nt(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.token.table));
    double path = 0;
    for (std::size_t k = 0; k <= z[b].actions.size(); ++k) {
      const double* at = logits.row(z[b].decided[k]);
      double sum = 0;
      for (int i = 0; i < 23; ++i) sum += std::exp(at[i]);
      log_p[b * 7 + k] = path + at[stop] - std::log(sum);
      if (k < z[b].actions.size()) path += at[z[b].actions[k]] - std::log(sum);
    }
  }
  for (const double temperature : {1.0, 0.7}) {
    values reward = log_p;
    for (double& r : reward) r /= temperature;
    double worst = 0;
    for (std::size_t b = 0; b < 5; ++b) {
      double u = 0;
      for (std::size_t k = 0; k <= z[b].actions.size(); ++k) {
        const double at = u + s.stop(index_t(b), index_t(k)) - reward[b * 7 + k];
        worst = std::max(worst, std::abs(at - (1 - 1 / temperature) * log_p[b * 7 + k]));
        if (k < z[b].actions.size()) u += s.taken(index_t(b), index_t(k));
      }
    }
    CHECK(worst < 1e-12);
    const auto loss = ops::policy_sub_trajectory_balance(cx, padded(s.taken), padded(s.stop),
                                                         padded(reward.data(), 5, 7), s.length, 1.0);
    CHECK((cx.read_one(loss.total) < 1e-24) == (temperature == 1));
  }
}

TEST_CASE(
    "fact 31: the toy sampler's replay, its loss, and gradients that touch two entries of the root alone") {
  // Section G of the reference numbers, policy_replay: stop 5, prompt (0, 1), lengths 3, 2, 1; rewards with
  // the floor of -99.
  const values logits{-0.9, 0.35,  -0.65, 0.6,  -0.4, 0.85,  -0.4,  -0.9, 0.85,  0.35,  -0.15, -0.65,
                      0.1,  0.1,   0.1,   0.1,  0.1,  0.1,   0.6,   1.1,  -0.65, -0.15, 0.35,  0.85,
                      1.1,  -0.15, 0.85,  -0.4, 0.6,  -0.65, -0.65, 0.85, 0.1,   -0.65, 0.85,  0.1};
  const values reward{-123.75,
                      -4.671465336098,
                      -6.059222440102,
                      -8.048921776637,
                      -123.75,
                      -4.802682064318,
                      -7.059222440102,
                      0,
                      -123.75,
                      -5.40462429685,
                      0,
                      0};
  const values taken{-0.977505862165,
                     -1.791759469228,
                     -1.949355180241,
                     -1.477505862165,
                     -2.949355180241,
                     0,
                     -1.977505862165,
                     0,
                     0};
  const values stops{-2.477505862165,
                     -1.791759469228,
                     -1.449355180241,
                     -2.871267165751,
                     -2.477505862165,
                     -1.449355180241,
                     -1.791759469228,
                     0,
                     -2.477505862165,
                     -2.871267165751,
                     0,
                     0};
  const values gradient{0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        -71.923129276216,
                        -47.965713065058,
                        -24.14332857378,
                        144.032170915055,
                        16.036091922796,
                        16.036091922796,
                        16.036091922796,
                        -32.313931323132,
                        16.036091922796,
                        -31.830436368054,
                        17.6066475857,
                        29.028454380265,
                        -19.249033270633,
                        8.316791425383,
                        -11.015567827645,
                        -24.687292293071,
                        15.925416249712,
                        4.562708147538,
                        12.402726646014,
                        3.553440678229,
                        9.659253224136,
                        -46.103544945629,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0};
  context<B> cx;
  const bigram model;
  parameters<bigram> theta(cx, model, philox{1});
  theta.write(cx, 0, logits);
  values identity(36);
  for (std::size_t i = 0; i < 6; ++i) identity[7 * i] = 1;
  theta.write(cx, 1, identity);
  const rollout_rule rule{.stop = 5,
                          .longest = 4};  // as published: a length of 3 is scored as if it could go on
  const std::vector<rollout<double>> z{given_rollout<double>({0, 1}, {2, 3, 4}),
                                       given_rollout<double>({0, 1}, {3, 2}),
                                       given_rollout<double>({0, 1}, {4})};
  theta.zero_grads(cx);
  auto [s, pullback] = score_rollouts(cx, model, theta.weights, z, rule);
  const values got_taken = cx.read(s.taken), got_stop = cx.read(s.stop);
  for (std::size_t i = 0; i < 9; ++i) CHECK(got_taken[i] == Approx(taken[i]).epsilon(1e-11).margin(1e-30));
  for (std::size_t i = 0; i < 12; ++i) CHECK(got_stop[i] == Approx(stops[i]).epsilon(1e-11).margin(1e-30));
  const auto loss = ops::policy_sub_trajectory_balance(cx, padded(s.taken), padded(s.stop),
                                                       padded(reward.data(), 3, 4), s.length, 1.0);
  CHECK(cx.read_one(loss.total) == Approx(8644.611713284366).epsilon(1e-11));
  bigram::params g = theta.grads;
  g.token = {};  // the identity is no parameter
  pullback(padded(loss.dmove), padded(loss.dstop), {}, g);
  const values got = theta.read_gradient(cx, 0);
  for (std::size_t i = 0; i < 36; ++i) {
    CAPTURE(i);
    CHECK(got[i] == Approx(gradient[i]).epsilon(1e-10).margin(1e-10));
  }
  // The root's row was seen by roots alone: what is neither the stop nor a first token has no gradient at
  // all.
  CHECK(std::abs(got[6]) < 1e-12);
  CHECK(std::abs(got[7]) < 1e-12);
  CHECK(theta.read_gradient(cx, 1) == values(36));

  rollout_sampler sampler(cx, model, theta.weights, 2);
  const auto replayed = sampler.replay(z, rule);
  for (std::size_t b = 0; b < 3; ++b)
    for (std::size_t k = 0; k <= z[b].actions.size(); ++k) {
      CHECK(replayed[b].stop[k] == got_stop[b * 4 + k]);
      if (k < z[b].actions.size()) CHECK(replayed[b].taken[k] == got_taken[b * 3 + k]);
    }
}
