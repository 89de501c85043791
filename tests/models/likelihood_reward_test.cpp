#include <planlm/models/likelihood_reward.hpp>

#include <cmath>
#include <span>
#include <string>
#include <vector>
#include <planlm/models/transformer_lm.hpp>
#include <planlm/ops/cross_entropy.hpp>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using B = cpu<double>;
using rows = std::vector<std::vector<double>>;
using options = likelihood_options<double>;
template <class Real>
using trajectories = std::span<const rollout<Real>>;

namespace {

/// A language model that knows the last token only: logits are a row of a table, hidden states unit vectors.
struct bigram_lm {
  using backend = B;
  struct params {
    embedding<B>::params token;  // (V, V): [next, last]
    tensor<B> unit;              // (V, V)
  };
  lm_sizes sizes;
};
kv_cache<B> cache_of(context<B>& cx, const bigram_lm&, index_t sequences, index_t capacity) {
  return {cx, 1, attention_shape{1, 1, 1, true}, sequences, capacity};
}
const_tensor<B> decode(context<B>& cx, const bigram_lm&, const bigram_lm::params& p, indices<B> tokens, const decoding_rows<B>&,
                       const kv_cache<B>&) {
  return ops::gather_rows(cx, const_tensor<B>(p.unit), tokens);
}

/// The toy model of golden section G.
struct toy {
  context<B> cx;
  std::vector<double> table, unit = std::vector<double>(36, 0.0);
  bigram_lm model{{6, 64, 6, 1, 1}};
  bigram_lm::params p;
  explicit toy(const rows& logits = {{-0.5, 0.1, 0.7, -0.1, 0.5, -0.3},
                                     {0.5, -0.1, 0.7, 0.1, -0.5, 0.3},
                                     {0.1, -0.3, 0.7, 0.3, -0.1, -0.5},
                                     {-0.3, -0.5, 0.7, 0.5, 0.3, 0.1},
                                     {0.7, 0.7, 0.7, 0.7, 0.7, 0.7},
                                     {0.3, 0.5, 0.7, -0.5, -0.3, -0.1}}) {
    for (std::size_t next = 0; next < 6; ++next)
      for (std::size_t last = 0; last < 6; ++last) table.push_back(logits[last][next]);
    for (std::size_t i = 0; i < 6; ++i) unit[7 * i] = 1;
    p.token.table = {table.data(), 6, 6};
    p.unit = {unit.data(), 6, 6};
  }
};
/// Its three continuations of the prompt 0 1; token 5 is the stop.
std::vector<rollout<double>> golden_actions() {
  return {given_rollout<double>({0, 1}, {2, 3, 4}), given_rollout<double>({0, 1}, {3, 2}), given_rollout<double>({0, 1}, {4})};
}
void check_close(const rows& ours, const rows& theirs, double tolerance) {
  REQUIRE(ours.size() == theirs.size());
  for (std::size_t b = 0; b < ours.size(); ++b) {
    REQUIRE(ours[b].size() == theirs[b].size());
    for (std::size_t k = 0; k < ours[b].size(); ++k) {
      CAPTURE(b, k, ours[b][k], theirs[b][k]);
      CHECK(std::abs(ours[b][k] - theirs[b][k]) <= tolerance);
    }
  }
}

template <class Model>
struct scored {
  using T = typename Model::backend::real;
  context<typename Model::backend> cx;
  Model model;
  parameters<Model> theta;
  explicit scored(const lm_sizes& sizes) : model{sizes}, theta(testing::perturbed(cx, model)) {}
  /// log p of tokens[from ..] given those before, by a forward pass of their own and the plain token loss.
  double log_likelihood(const std::vector<int>& tokens, std::size_t from) {
    using D = typename Model::backend;
    auto scope = cx.scope();
    const auto n = static_cast<int>(tokens.size()) - 1;
    std::vector<int> in(tokens.begin(), tokens.end() - 1), out(tokens.begin() + 1, tokens.end()), offsets{0, n}, positions;
    for (int t = 0; t < n; ++t) positions.push_back(t);
    const sequences<D> seq{{offsets.data(), 2}, offsets.data(), {positions.data(), n}};
    const const_tensor<D> h = model(cx, theta.weights, indices<D>(in.data(), n), seq).value;
    const auto nll = cx.read(ops::linear_token_nll(cx, h, const_tensor<D>(theta.weights.token.table), indices<D>(out.data(), n)));
    double total = 0;
    for (std::size_t t = from - 1; t < nll.size(); ++t) total -= double(nll[t]);
    return total;
  }
};
std::vector<int> joined(std::vector<int> a, std::span<const int> b, const std::vector<int>& c) {
  a.insert(a.end(), b.begin(), b.end());
  a.insert(a.end(), c.begin(), c.end());
  return a;
}
template <class Real>
std::vector<rollout<Real>> some_trajectories() {
  const auto twice = [](const rollout<Real>& t) { return t.actions.back() == 11 ? std::vector<int>{7, 8} : std::vector<int>{}; };
  return {given_rollout<Real>({3, 17, 8}, {0, 22, 11, 3}), given_rollout<Real>({5}, {}),
          given_rollout<Real>({20, 9, 1}, {11, 4, 11}, twice), given_rollout<Real>({3, 17, 8}, {0, 22})};
}
std::string message_of(auto&& action) {
  try {
    action();
  } catch (const error& e) {
    return e.what();
  }
  return "no error";
}

/// The reward by the stop against one forward pass for every prefix.
template <class D>
void check_stop_reward(double tolerance) {
  using Real = typename D::accum;
  scored<transformer_lm<D>> lm(lm_sizes{23, 16, 6, 3, 2});
  const auto z = some_trajectories<Real>();
  for (const index_t block : {1, 9, 2048}) {
    const likelihood_reward reward(lm.cx, lm.model, lm.theta.weights, {.stop = 2, .rows = block});
    const rows ours = reward(trajectories<Real>(z));
    rows theirs(z.size());
    for (std::size_t b = 0; b < z.size(); ++b)
      for (std::size_t k = 0; k <= z[b].actions.size(); ++k)
        theirs[b].push_back(lm.log_likelihood(joined(z[b].prompt, prefix_text(z[b], k), {2}), z[b].prompt.size()));
    check_close(ours, theirs, tolerance);
  }
}

}  // namespace

static_assert(PrefixReward<likelihood_reward<transformer_lm<cpu<float>>>, float>);
static_assert(PrefixReward<likelihood_reward<bigram_lm>, double> && !PrefixReward<likelihood_reward<bigram_lm>, float>);

TEST_CASE("golden G: rewards of all prefixes under the toy model, with and without the floor") {
  toy lm;
  const auto z = golden_actions();
  const likelihood_reward reward(lm.cx, lm.model, lm.p, {.stop = 5});
  const rows plain{{-1.731939968252, -3.737172268878, -4.847377952081, -6.439137421309},
                   {-1.731939968252, -3.842145651455, -5.647377952081},
                   {-1.731939968252, -4.32369943748}};
  check_close(reward(trajectories<double>(z)), plain, 1e-12);
  rows floored = plain;
  for (auto& row : floored) row[0] = -99;
  check_close(length_floor{reward, 1}(trajectories<double>(z)), floored, 1e-12);
}

TEST_CASE("golden G: a penalty of -50 on token 2 changes the text's and the stop's probabilities") {
  toy lm;
  const auto z = golden_actions();
  const likelihood_reward reward(lm.cx, lm.model, lm.p, {.stop = 5, .penalty = {0, 0, -50, 0, 0, 0}});
  check_close(reward(trajectories<double>(z)),
              {{-1.425462794395, -53.074559449978, -53.870376850539, -55.279814762973},
               {-1.425462794395, -3.221280194956, -54.670376850539},
               {-1.425462794395, -3.834900706829}},
              1e-12);
}

TEST_CASE("fact 31: rewards of the replayed toy trajectories at temperature 0.8") {
  toy lm;
  const auto split = split_rewards(length_floor{likelihood_reward(lm.cx, lm.model, lm.p, {.stop = 5}), 1}, golden_actions());
  check_close({tempered(split[0], 0.8), tempered(split[1], 0.8), tempered(split[2], 0.8)},
              {{-123.75, -4.671465336098, -6.059222440102, -8.048921776637},
               {-123.75, -4.802682064318, -7.059222440102},
               {-123.75, -5.40462429685}},
              1e-12);
}

TEST_CASE("golden G: the reward of a middle is the likelihood of middle and ending, without an end of the text") {
  toy lm;
  const auto z = golden_actions();
  const auto reward = answer_reward(lm.cx, lm.model, lm.p, [](std::size_t, const auto&) { return std::vector<int>{1, 3}; });
  rows ours = reward(trajectories<double>(z));
  for (auto& row : ours)
    for (double& r : row) r /= 0.8;
  check_close(ours,  // the reference computed these in float32
              {{-5.079849720001, -6.8363904953, -9.224147796631, -10.463847160339},
               {-5.079849720001, -7.967607021332, -9.224147796631},
               {-5.079849720001, -7.81954908371}},
              4e-6);
}

TEST_CASE("the likelihood reward of every prefix is that of a forward pass of its own, by blocks of any size") {
  check_stop_reward<B>(1e-12);
  check_stop_reward<cpu<float>>(2e-5);
}

TEST_CASE("a reward does not depend on the size of blocks nor on the other trajectories, to the bit") {
  scored<transformer_lm<cpu<float>>> lm(lm_sizes{23, 16, 6, 3, 2});
  const auto z = some_trajectories<float>();
  likelihood_options<float> o{.stop = 2};
  const auto answer = [](std::size_t b, const rollout<float>&) { return std::vector<int>(b + 1, 4); };
  const rows at_once = likelihood_reward(lm.cx, lm.model, lm.theta.weights, o)(trajectories<float>(z));
  const rows answers = answer_reward(lm.cx, lm.model, lm.theta.weights, answer)(trajectories<float>(z));
  o.rows = 1;
  CHECK(likelihood_reward(lm.cx, lm.model, lm.theta.weights, o)(trajectories<float>(z)) == at_once);
  CHECK(answer_reward(lm.cx, lm.model, lm.theta.weights, answer, o)(trajectories<float>(z)) == answers);
  CHECK(likelihood_reward(lm.cx, lm.model, lm.theta.weights, o)(trajectories<float>(z).subspan(2, 1))[0] == at_once[2]);
}

TEST_CASE("facts 17 and 18: a policy that is the frozen model has u = 0 to the bit, and u = (1 - 1/T) log p at temperature T") {
  scored<transformer_lm<cpu<float>>> lm(lm_sizes{23, 24, 6, 3, 2});
  const std::vector<std::vector<int>> prompts{{3, 17, 8}, {5}, {3, 17, 8}, {20, 9, 1, 4}, {5}, {11, 12}};
  rollout_sampler<transformer_lm<cpu<float>>> sampler(lm.cx, lm.model, lm.theta.weights, 4);
  rollout_rule rule;
  rule.stop = 2, rule.longest = 12;
  for (const bool penalised : {false, true}) {
    if (penalised) rule.penalty.assign(23, 0.0f), rule.penalty[7] = -3, rule.penalty[2] = -1;
    const auto z = sampler.sample(prompts, rule, philox{8});
    const likelihood_reward reward(lm.cx, lm.model, lm.theta.weights, {.stop = 2, .penalty = rule.penalty});
    const auto split = split_rewards(reward, z);
    std::size_t prefixes = 0;
    for (std::size_t b = 0; b < z.size(); ++b) {
      double written = 0;
      const auto cold = tempered(split[b], 0.5);
      for (std::size_t k = 0; k <= z[b].actions.size(); ++k) {
        if (k > 0) written += double(z[b].taken[k - 1]);
        if (k == 12) continue;  // there the policy's stop is certain, the model's is not
        const double log_q = written + double(z[b].stop[k]);
        CHECK(log_q - split[b].base[k] == 0);
        CHECK(log_q - cold[k] == Approx((1 - 2) * log_q).epsilon(1e-14));
        ++prefixes;
      }
    }
    CHECK(prefixes > 20);
  }
}

TEST_CASE("an answer's reward is a forward pass for every prefix with the answer appended, shared prefixes or not") {
  scored<transformer_lm<B>> lm(lm_sizes{23, 16, 6, 3, 2});
  const auto z = some_trajectories<double>();
  for (const bool same : {true, false}) {
    const auto answer = [=](std::size_t b, const rollout<double>&) { return same ? std::vector<int>{6, 0} : std::vector<int>{int(b), 3, 1}; };
    for (const index_t block : {1, 30, 2048}) {
      rows theirs(z.size());
      for (std::size_t b = 0; b < z.size(); ++b)
        for (std::size_t k = 0; k <= z[b].actions.size(); ++k)
          theirs[b].push_back(lm.log_likelihood(joined(z[b].prompt, prefix_text(z[b], k), answer(b, z[b])), z[b].prompt.size()));
      check_close(answer_reward(lm.cx, lm.model, lm.theta.weights, answer, {.rows = block})(trajectories<double>(z)), theirs, 1e-12);
    }
  }
}

TEST_CASE("another prompt in place of the trajectory's own: demonstrations before the query") {
  scored<transformer_lm<B>> lm(lm_sizes{23, 16, 6, 3, 2});
  const auto z = some_trajectories<double>();
  const auto shots = [](std::size_t b, const rollout<double>& t) { return joined({1, 12, 13}, t.prompt, {int(b)}); };
  rows theirs(z.size());
  for (std::size_t b = 0; b < z.size(); ++b)
    for (std::size_t k = 0; k <= z[b].actions.size(); ++k)
      theirs[b].push_back(lm.log_likelihood(joined(shots(b, z[b]), prefix_text(z[b], k), {2}), z[b].prompt.size() + 4));
  check_close(likelihood_reward(lm.cx, lm.model, lm.theta.weights, {.stop = 2, .prompt = shots})(trajectories<double>(z)), theirs, 1e-12);
}

TEST_CASE("weights of text and ending, and the likelihood of what a tool wrote, can be left out") {
  toy lm;
  const auto echo = [](const rollout<double>& t) { return std::vector<int>{t.actions.back(), 0}; };
  const std::vector<rollout<double>> z{given_rollout<double>({1}, {3, 4}, echo)};  // 1 | 3 3 0 | 4 4 0 |
  const auto lp = [&](int last, int next) {
    double sum = 0;
    for (std::size_t v = 0; v < 6; ++v) sum += std::exp(lm.table[6 * v + std::size_t(last)]);
    return lm.table[6 * std::size_t(next) + std::size_t(last)] - std::log(sum);
  };
  const auto of = [&](options o) {
    o.stop = 5;
    return likelihood_reward(lm.cx, lm.model, lm.p, o)(trajectories<double>(z));
  };
  const double first = lp(1, 3), tool1 = lp(3, 3) + lp(3, 0), second = lp(0, 4), tool2 = lp(4, 4) + lp(4, 0);
  check_close(of({}), {{lp(1, 5), first + tool1 + lp(0, 5), first + tool1 + second + tool2 + lp(0, 5)}}, 1e-13);
  check_close(of({.tool_tokens = false}), {{lp(1, 5), first + lp(0, 5), first + second + lp(0, 5)}}, 1e-13);
  check_close(of({.ending_weight = 0}), {{0, first + tool1, first + tool1 + second + tool2}}, 1e-13);
  check_close(of({.text_weight = 0, .ending_weight = 2}), {{2 * lp(1, 5), 2 * lp(0, 5), 2 * lp(0, 5)}}, 1e-13);
  const auto answer = [](std::size_t, const auto&) { return std::vector<int>{2, 5}; };
  check_close(of({.ending = answer, .text_weight = 0}),
              {{lp(1, 2) + lp(2, 5), lp(0, 2) + lp(2, 5), lp(0, 2) + lp(2, 5)}}, 1e-13);
  // An ending is not penalised, the text is.
  check_close(of({.ending = answer, .penalty = {0, 0, -INFINITY, 0, 0, 0}}),
              {{lp(1, 2) + lp(2, 5), first + tool1 + lp(0, 2) + lp(2, 5) - std::log1p(-std::exp(lp(1, 2))) - 2 * std::log1p(-std::exp(lp(3, 2))),
                first + tool1 + second + tool2 + lp(0, 2) + lp(2, 5) - std::log1p(-std::exp(lp(1, 2))) -
                    2 * std::log1p(-std::exp(lp(3, 2))) - std::log1p(-std::exp(lp(0, 2))) - 2 * std::log1p(-std::exp(lp(4, 2)))}},
              1e-12);
  check_close(of({.ending = [](std::size_t, const auto&) { return std::vector<int>{}; }}),
              {{0, first + tool1, first + tool1 + second + tool2}}, 1e-13);
}

TEST_CASE("a text that the penalties exclude has a log-reward of -infinity") {
  toy lm;
  const auto z = golden_actions();
  const rows r = likelihood_reward(lm.cx, lm.model, lm.p, {.stop = 5, .penalty = {0, 0, -INFINITY, 0, 0, 0}})(trajectories<double>(z));
  CHECK(r[0][1] == -INFINITY);
  CHECK(r[0][3] == -INFINITY);
  CHECK(std::isfinite(r[1][1]));
  CHECK(r[1][2] == -INFINITY);
}

TEST_CASE("what a frozen model cannot score is an error that names trajectory and prefix") {
  toy lm;
  lm.model.sizes.length = 4;
  const auto z = golden_actions();
  const auto of = [&](const options& o) {
    return message_of([&] { likelihood_reward(lm.cx, lm.model, lm.p, o)(trajectories<double>(z)); });
  };
  CHECK(of({.stop = 5}) ==
        "likelihood_reward: trajectory 0, prefix 3: 5 tokens, prompt and ending included, exceed the model's window of 4; shorten one of "
        "them or take a model of more positions");
  CHECK(of({.ending = [](std::size_t, const auto&) { return std::vector<int>{1, 3}; }})
            .find("trajectory 0, prefix 2: 5 tokens") != std::string::npos);
  lm.model.sizes.length = 64;
  CHECK(of({.stop = 5}) == "no error");
  CHECK(of({.stop = 5, .prompt = [](std::size_t b, const auto&) { return std::vector<int>(b == 1 ? 0 : 1, 1); }}).find(
            "trajectory 1 has an empty prompt") != std::string::npos);
  CHECK(of({.ending = [](std::size_t, const auto&) { return std::vector<int>{6}; }}).find("token 6, the vocabulary has 6") !=
        std::string::npos);
  CHECK(of({.stop = 6}).find("the stop is token 6 of 6") != std::string::npos);
  CHECK(of({}).find("the stop is token -1") != std::string::npos);
  CHECK(of({.stop = 5, .penalty = {1, 2}}).find("2 penalties for a vocabulary of 6") != std::string::npos);
  lm.unit[6 * 4] = std::nan("");  // after token 4 there is no distribution
  CHECK(of({.stop = 5}).find("trajectory 0, prefix 3: the log-likelihood is not a number") != std::string::npos);
}

TEST_CASE("scoring leaves the context's memory and its training switch as they were") {
  toy lm;
  const auto z = golden_actions();
  const likelihood_reward reward(lm.cx, lm.model, lm.p, {.stop = 5});
  reward(trajectories<double>(z));
  CHECK(lm.cx.training);
  lm.cx.training = false;
  reward(trajectories<double>(z));
  CHECK_FALSE(lm.cx.training);
  CHECK(reward(trajectories<double>()).empty());
}
