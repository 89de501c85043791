#include <planlm/models/rollout.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>
#include <planlm/models/rollout_scores.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"
#include "../heap_requests.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using testing::perturbed;
using testing::same_bits;

namespace {

constexpr int vocabulary = 41, stop = 7;
constexpr lm_sizes sizes{vocabulary, 40, 24, 3, 2};
using strings = std::vector<std::vector<int>>;

/// Prompts of one to nine tokens; every third is one and the same.
strings make_prompts(std::size_t count) {
  strings prompts(count);
  for (std::size_t b = 0; b < count; ++b) {
    const std::size_t kind = b % 3 == 1 ? 4 : b, n = 1 + kind * 5 % 9;
    for (std::size_t t = 0; t < n; ++t)
      prompts[b].push_back(
          static_cast<int>(philox{5}.below(vocabulary, kind, static_cast<std::uint32_t>(t))));
  }
  return prompts;
}
/// After a multiple of five it writes two tokens, after other tokens nothing.
struct two_more {
  int* calls = nullptr;
  template <class Real>
  std::vector<int> operator()(const rollout<Real>& z) const {
    if (calls) ++*calls;
    const int a = z.actions.back();
    REQUIRE(z.state.back() == a);
    if (a % 5 != 0) return {};
    return {(a + 1) % vocabulary, stop};
  }
};
template <class B>
struct language_model {
  transformer_lm<B> model{sizes};
  context<B> cx;
  parameters<transformer_lm<B>> theta;
  explicit language_model(int threads = 1)
      : cx(typename B::queue(threads)), theta(perturbed(cx, model, 3, 0.25)) {}
  auto sampler(index_t rows) { return rollout_sampler<transformer_lm<B>>(cx, model, theta.weights, rows); }
};
template <class Real>
bool same_rollout(const rollout<Real>& a, const rollout<Real>& b) {
  return a.prompt == b.prompt && a.actions == b.actions && a.state == b.state && a.decided == b.decided &&
         same_bits(a.taken, b.taken) && same_bits(a.stop, b.stop) && same_bits(a.drawn, b.drawn);
}
template <class Real>
std::size_t count_actions(const std::vector<rollout<Real>>& z) {
  std::size_t n = 0;
  for (const auto& one : z) n += one.actions.size();
  return n;
}
std::vector<rollout_rule> many_rules() {
  std::vector<float> penalty(vocabulary);
  for (std::size_t i = 0; i < penalty.size(); ++i) penalty[i] = i % 6 == 3 ? -50.f : i % 6 == 2 ? 0.5f : 0.f;
  return {{.stop = stop, .longest = 20},
          {.stop = stop, .longest = 20, .draw = {.temperature = 0.6}},
          {.stop = stop, .shortest = 3, .longest = 20, .draw = {.temperature = 1.7}},
          {.stop = stop, .longest = 20, .draw = {.top_p = 0.8}, .penalty = penalty},
          {.stop = stop, .shortest = 5, .longest = 20, .draw = {.top_k = 30}},
          {.stop = stop, .shortest = 20, .longest = 20, .penalty = penalty},
          {.stop = stop, .shortest = 1, .longest = 20, .draw = {.temperature = 1.3, .uniform = 0.2}}};
}

}  // namespace

TEST_CASE("log-probabilities of sampled rollouts are those of training's forward pass, bit for bit") {
  std::vector<std::vector<rollout<float>>> of_one_thread;
  for (const int threads : {1, 2}) {
    language_model<cpu<float>> lm(threads);
    auto sampler = lm.sampler(64);
    std::size_t tokens = 0, right = 0;
    const std::vector<rollout_rule> rules = many_rules();
    for (std::size_t i = 0; i < rules.size(); ++i) {
      testing::poison(lm.cx);
      const auto z = sampler.sample(make_prompts(100), rules[i], philox{8}.at_step(std::uint32_t(i)));
      auto scope = lm.cx.scope();
      const auto scores = score_rollouts(lm.cx, lm.model, lm.theta.weights, z, rules[i]).value;
      const auto taken = lm.cx.read(scores.taken), stops = lm.cx.read(scores.stop);
      const auto length = lm.cx.read(scores.length);
      const auto cols = static_cast<std::size_t>(scores.taken.cols());
      for (std::size_t b = 0; b < z.size(); ++b) {
        const std::size_t n = z[b].actions.size();
        tokens += n + 1;
        std::vector<float> own(z[b].taken), ends(z[b].stop);
        own.resize(cols), ends.resize(cols + 1);  // zeros behind
        const auto t = taken.begin() + std::ptrdiff_t(b * cols);
        const auto s = stops.begin() + std::ptrdiff_t(b * (cols + 1));
        const bool same = length[b] == int(n) &&
                          same_bits(own, std::vector<float>(t, t + std::ptrdiff_t(cols))) &&
                          same_bits(ends, std::vector<float>(s, s + std::ptrdiff_t(cols + 1)));
        if (same) right += n + 1;
      }
      if (threads == 1)
        of_one_thread.push_back(z);
      else
        CHECK(std::equal(z.begin(), z.end(), of_one_thread[i].begin(), same_rollout<float>));
    }
    CAPTURE(threads);
    CHECK(tokens >= 10000);
    CHECK(right == tokens);
  }
}

TEST_CASE("the stop is masked before the shortest length and certain at the longest") {
  language_model<cpu<float>> lm;
  auto sampler = lm.sampler(16);
  for (const rollout_rule& rule : many_rules()) {
    bool early = false, full = false;
    for (const auto& z : sampler.sample(make_prompts(60), rule, philox{2})) {
      const std::size_t n = z.actions.size();
      REQUIRE((z.length() >= rule.shortest && z.length() <= rule.longest));
      REQUIRE((z.taken.size() == n && z.stop.size() == n + 1 && z.drawn.size() == n + 1));
      for (std::size_t k = 0; k <= n; ++k) {
        const bool forbidden = index_t(k) < rule.shortest, certain = index_t(k) == rule.longest;
        CHECK((z.stop[k] == -INFINITY) == forbidden);
        CHECK((z.stop[k] == 0) == certain);
        if (certain) CHECK(z.drawn[k] == 0);
        CHECK(std::isfinite(z.drawn[k]));
      }
      CHECK(std::find(z.actions.begin(), z.actions.end(), stop) == z.actions.end());
      if (!rule.penalty.empty())
        for (const int a : z.actions) CHECK(a % 6 != 3);
      early = early || z.length() < rule.longest;
      full = full || z.length() == rule.longest;
    }
    CHECK(full);
    CHECK(early == (rule.shortest < rule.longest));
  }
}

TEST_CASE("drawn is taken and stop without a behaviour of its own") {
  language_model<cpu<float>> lm;
  auto sampler = lm.sampler(8);
  for (const auto& z : sampler.sample(make_prompts(24), {.stop = stop, .longest = 20}, philox{2})) {
    std::vector<float> expected = z.taken;
    expected.push_back(z.stop.back());
    CHECK(same_bits(z.drawn, expected));
  }
}

TEST_CASE("what a tool writes is state: no action, no log-probability, nothing that counts for lengths") {
  using B = cpu<double>;
  language_model<B> lm;
  auto sampler = lm.sampler(8);
  int calls = 0;
  const rollout_rule rule{.stop = stop, .shortest = 1, .longest = 10};
  const auto z = sampler.sample(make_prompts(40), rule, philox{4}, two_more{&calls});
  CHECK(std::size_t(calls) == count_actions(z));  // the last action is asked for as well, a stop never
  bool wrote = false, wrote_last = false;
  for (const auto& one : z) {
    std::vector<int> state = one.prompt, decided{int(one.prompt.size()) - 1};
    for (const int a : one.actions) {
      state.push_back(a);
      if (a % 5 == 0) state.push_back((a + 1) % vocabulary), state.push_back(stop), wrote = true;
      decided.push_back(int(state.size()) - 1);
    }
    wrote_last = wrote_last || (one.length() == 10 && one.actions.back() % 5 == 0);
    CHECK(one.state == state);
    CHECK(one.decided == decided);
    REQUIRE(one.taken.size() == one.actions.size());
    REQUIRE(one.stop.size() == one.actions.size() + 1);
    for (std::size_t k = 0; k < one.taken.size(); ++k) {  // by the forward pass over the state alone
      auto scope = lm.cx.scope();
      const int seen = decided[k] + 1;
      const testing::packed rows{seen};
      const auto h = lm.model(lm.cx, lm.theta.weights, indices<B>(state.data(), seen), rows.view<B>()).value;
      auto logits = ops::matmul_nt(lm.cx, row_range(const_tensor<B>(h), seen - 1, seen),
                                   const_tensor<B>(lm.theta.weights.token.table));
      if (k == 0) logits[stop] = -INFINITY;
      double sum = 0;
      for (index_t i = 0; i < vocabulary; ++i) sum += std::exp(logits[i]);
      CHECK(one.taken[k] == Approx(logits[one.actions[k]] - std::log(sum)).epsilon(1e-12));
      if (k > 0) CHECK(one.stop[k] == Approx(logits[stop] - std::log(sum)).epsilon(1e-12));
    }
  }
  CHECK(wrote);
  CHECK(wrote_last);
  const auto scores = score_rollouts(lm.cx, lm.model, lm.theta.weights, z, rule).value;
  const auto taken = lm.cx.read(scores.taken);
  for (std::size_t b = 0; b < z.size(); ++b)
    for (std::size_t k = 0; k < z[b].taken.size(); ++k)
      CHECK(taken[b * std::size_t(scores.taken.cols()) + k] == z[b].taken[k]);
}

TEST_CASE(
    "a replay of sampled rollouts is the sample, with what tools wrote and log-probabilities of every kind") {
  language_model<cpu<float>> lm;
  auto sampler = lm.sampler(7);
  for (const rollout_rule& rule : many_rules()) {
    rollout_rule shorter = rule;
    shorter.shortest = std::min<index_t>(rule.shortest, 8);
    shorter.longest = 9;
    const auto z = sampler.sample(make_prompts(20), shorter, philox{6}, two_more{});
    std::vector<rollout<float>> bare;
    for (const auto& one : z) bare.push_back(given_rollout<float>(one.prompt, one.actions, two_more{}));
    const auto again = sampler.replay(bare, shorter);
    CHECK(std::equal(z.begin(), z.end(), again.begin(), again.end(), same_rollout<float>));
  }
}

TEST_CASE("a rollout depends on its row, its prompt and the philox alone") {
  language_model<cpu<float>> lm;
  const rollout_rule rule{.stop = stop, .shortest = 2, .longest = 15};
  const strings prompts = make_prompts(30);
  auto crowd = lm.sampler(30), few = lm.sampler(4), one = lm.sampler(1);
  const auto z = crowd.sample(prompts, rule, philox{9});
  CHECK(count_actions(z) > 250);
  // Rows that wait for a place in the cache.
  const auto waited = few.sample(prompts, rule, philox{9});
  CHECK(std::equal(z.begin(), z.end(), waited.begin(), waited.end(), same_rollout<float>));
  // Other neighbours, with other prompts.
  for (const std::size_t b : {std::size_t{0}, std::size_t{4}, std::size_t{29}}) {
    strings others(30, {1, 2});
    others[b] = prompts[b];
    CHECK(same_rollout(one.sample(others, rule, philox{9})[b], z[b]));
    CHECK(same_rollout(crowd.sample(others, rule, philox{9})[b], z[b]));
  }
  // Rows 1 and 4 have one prompt and draw apart; another seed draws otherwise.
  REQUIRE(prompts[1] == prompts[4]);
  CHECK(z[1].actions != z[4].actions);
  CHECK(crowd.sample(prompts, rule, philox{10})[4].actions != z[4].actions);
}

TEST_CASE("models with other codes of positions are sampled as they are scored") {
  const auto check = [](auto model) {
    using Model = decltype(model);
    using B = typename Model::backend;
    context<B> cx;
    testing::poison(cx);
    auto theta = perturbed(cx, model, 3, 0.25);
    rollout_sampler<Model> sampler(cx, model, theta.weights, 5, 38);
    const rollout_rule rule{.stop = stop, .shortest = 2, .longest = 9};
    const auto z = sampler.sample(make_prompts(15), rule, philox{8}, two_more{});
    const auto scores = score_rollouts(cx, model, theta.weights, z, rule).value;
    for (std::size_t b = 0; b < z.size(); ++b)
      for (std::size_t k = 0; k < z[b].actions.size(); ++k) {
        CHECK(z[b].taken[k] == scores.taken(index_t(b), index_t(k)));
        CHECK(z[b].stop[k] == scores.stop(index_t(b), index_t(k)));
      }
    CHECK(count_actions(z) > 80);
  };
  check(transformer_lm<cpu<float>, no_positions<cpu<float>>, rotary>{sizes});
  check(transformer_lm<cpu<double>, sinusoidal_positions<cpu<double>>>{sizes});
}

TEST_CASE("every row may have a behaviour of its own") {
  language_model<cpu<float>> lm;
  auto sampler = lm.sampler(12);
  const rollout_rule rule{.stop = stop, .longest = 15};
  const strings prompts = make_prompts(12);
  std::vector<sampling_rule> draws(12);
  for (std::size_t b = 0; b < 12; ++b)
    draws[b] = b % 3 == 0   ? sampling_rule{.temperature = 0.7}
               : b % 3 == 1 ? sampling_rule{.top_k = 3}
                            : sampling_rule{};
  const auto z = sampler.sample(prompts, rule, draws, philox{3});
  for (std::size_t b = 0; b < 3; ++b) {
    rollout_rule same = rule;
    same.draw = draws[b];
    const auto expected = sampler.sample(prompts, same, philox{3});
    for (std::size_t i = b; i < 12; i += 3) CHECK(same_rollout(z[i], expected[i]));
  }
}

TEST_CASE("forced actions come first, then the row is drawn on; a forced stop ends it") {
  language_model<cpu<float>> lm;
  auto sampler = lm.sampler(3);
  const strings prompts{{1}, {1}, {2, 3}}, forced{{4, 5, 6}, {9, stop, 3}, {}};
  const rollout_rule rule{.stop = stop, .longest = 12};
  const auto z = sampler.sample(prompts, rule, philox{12}, no_tool{}, forced);
  const auto free = sampler.sample(prompts, rule, philox{12});
  REQUIRE(z[0].actions.size() > 3);
  CHECK(std::equal(forced[0].begin(), forced[0].end(), z[0].actions.begin()));
  CHECK(z[1].actions == std::vector<int>{9});
  CHECK(same_rollout(z[2], free[2]));
}

TEST_CASE("log-probabilities of all strings add up to one, and samples follow them") {
  using B = cpu<double>;
  const transformer_lm<B> model{{5, 8, 6, 2, 1}};
  context<B> cx;
  auto theta = perturbed(cx, model, 3, 0.6);
  rollout_sampler<transformer_lm<B>> sampler(cx, model, theta.weights, 128);
  const rollout_rule rules[] = {{.stop = 4, .longest = 3},
                                {.stop = 4, .shortest = 2, .longest = 3},
                                {.stop = 4, .longest = 3, .penalty = {0, -1.5, 0, 0.5, 0.25}}};
  for (rollout_rule rule : rules)
    for (const sampling_rule& draw :
         {sampling_rule{}, sampling_rule{.temperature = 1.7}, sampling_rule{.top_p = 0.8},
          sampling_rule{.temperature = 0.6, .top_k = 3, .uniform = 0.1}}) {
      CAPTURE(rule.shortest, rule.penalty.size(), draw.temperature, draw.top_p);
      rule.draw = draw;
      strings all{{}};
      for (std::size_t i = 0; i < all.size(); ++i)
        if (all[i].size() < 3)
          for (int a = 0; a < 4; ++a) {
            all.push_back(all[i]);
            all.back().push_back(a);
          }
      CHECK(all.size() == 85);
      std::vector<rollout<double>> given;
      for (const auto& s : all)
        if (index_t(s.size()) >= rule.shortest) given.push_back(given_rollout<double>({2, 0}, s));
      double policy = 0, behaviour = 0;
      std::map<std::vector<int>, double> exact, seen;
      for (const auto& z : sampler.replay(given, rule)) {
        double q = z.stop.back(), d = 0;
        for (const double x : z.taken) q += x;
        for (const double x : z.drawn) d += x;
        policy += std::exp(q), behaviour += std::exp(d);
        exact[z.actions] = std::exp(d);
      }
      CHECK(policy == Approx(1).epsilon(1e-12));
      CHECK(behaviour == Approx(1).epsilon(1e-12));
      const int samples = 8000;
      for (const auto& z : sampler.sample(strings(samples, {2, 0}), rule, philox{31}))
        seen[z.actions] += 1.0 / samples;
      double apart = 0;
      for (const auto& [s, p] : exact) apart += std::abs(p - seen[s]) / 2;
      CHECK(exact.size() == given.size());
      CHECK(seen.size() <= exact.size());
      CHECK(apart < 0.045);
    }
}

TEST_CASE("sampling asks the heap for its results, not for its tokens") {
  language_model<cpu<float>> lm(2);
  auto sampler = lm.sampler(6);
  const strings prompts = make_prompts(6);
  const auto requests = [&](index_t longest) {
    const rollout_rule rule{.stop = stop, .shortest = longest, .longest = longest};
    sampler.sample(prompts, rule, philox{1});
    return testing::heap_requests([&] { sampler.sample(prompts, rule, philox{2}); });
  };
  requests(30);  // everything that grows has grown
  const int few = requests(4);
  CHECK(few >= 6 * 7);
  CHECK(requests(30) == few);
}

TEST_CASE("what cannot be sampled is said before anything is computed") {
  language_model<cpu<float>> lm;
  auto sampler = lm.sampler(2);
  const rollout_rule rule{.stop = stop, .longest = 30};
  const strings good{{1, 2}, {3}};
  const auto said = [&](const strings& prompts, const rollout_rule& r) -> std::string {
    try {
      sampler.sample(prompts, r, philox{1});
    } catch (const input_error& e) {
      return e.what();
    } catch (const planlm::error& e) {
      return std::string("error ") + e.what();
    }
    return "";
  };
  CHECK(said(good, rule).empty());
  CHECK(said({{1}, std::vector<int>(11, 3)}, rule) ==
        "rollout: row 1 has a prompt of 11 tokens, with 30 actions 41, but the window is 40; shorten the "
        "prompt, "
        "allow fewer actions or take a model of more positions");
  CHECK(said({{1}, {}}, rule) == "rollout: row 1 has an empty prompt; begin it with one token at least");
  CHECK(said({{1}, {3, 41}}, rule) ==
        "rollout: row 1 holds token 41, the vocabulary has 41; give tokens of the model's own vocabulary");
  CHECK(said(good, {.stop = 41}) ==
        "error rollout: the stop is token 41, expected one of the vocabulary of 41");
  CHECK(said(good, {.stop = 3, .shortest = 2}).substr(0, 31) == "error rollout: 2 to 1 actions; ");
  CHECK(said(good, {.stop = 3, .penalty = {1, 2}}) == "error rollout: 2 penalties for a vocabulary of 41");
  CHECK(said(good, {.stop = 3, .draw = {.temperature = 0}}).substr(0, 5) == "error");
  CHECK_THROWS_AS((rollout_sampler<transformer_lm<cpu<float>>>(lm.cx, lm.model, lm.theta.weights, 2, 41)),
                  shape_error);
  CHECK_THROWS_AS(sampler.sample(good, rule, std::vector<sampling_rule>(3), philox{1}), shape_error);

  // A tool that fills the state; afterwards the sampler goes on as before.
  const auto before = sampler.sample(good, rule, philox{1});
  const auto endless = [](const auto&) { return std::vector<int>(20, 3); };
  CHECK_THROWS_WITH(
      sampler.sample(good, {.stop = stop, .shortest = 9, .longest = 9}, philox{1}, endless),
      "rollout: the state of row 0 has 44 tokens, the window 40; shorten the prompt or what tools write, "
      "or take a model of more positions");
  const auto foreign = [](const auto&) { return std::vector<int>{-4}; };
  CHECK_THROWS_AS(sampler.sample(good, rule, philox{1}, foreign), input_error);
  const auto after = sampler.sample(good, rule, philox{1});
  CHECK(std::equal(before.begin(), before.end(), after.begin(), after.end(), same_rollout<float>));
}

TEST_CASE("given rollouts that the rule does not allow are refused by the number of their row") {
  language_model<cpu<float>> lm;
  auto sampler = lm.sampler(2);
  const rollout_rule rule{.stop = stop, .shortest = 2, .longest = 3};
  const auto said = [&](const rollout<float>& z) -> std::string {
    const std::vector<rollout<float>> both{given_rollout<float>({1}, {2, 3}), z};
    std::string from_replay, from_scores;
    try {
      sampler.replay(both, rule);
    } catch (const input_error& e) {
      from_replay = e.what();
    }
    try {
      score_rollouts(lm.cx, lm.model, lm.theta.weights, both, rule);
    } catch (const input_error& e) {
      from_scores = e.what();
    }
    CHECK(from_replay == from_scores);
    return from_replay;
  };
  CHECK(said(given_rollout<float>({1}, {2, 3, 4})).empty());
  CHECK(said(given_rollout<float>({1}, {2})) ==
        "rollout: row 1 has 1 actions, the rule asks for 2 to 3; leave it out or change the rule");
  CHECK(said(given_rollout<float>({1}, {2, 3, 4, 5})).substr(0, 28) == "rollout: row 1 has 4 actions");
  CHECK(said(given_rollout<float>({1}, {2, stop})) ==
        "rollout: row 1 has the stop, token 7, as action 1; end its actions before the first stop");
  CHECK(said(given_rollout<float>({}, {2, 3})) ==
        "rollout: row 1 has an empty prompt; begin it with one token at least");
  CHECK(said(given_rollout<float>(std::vector<int>(39, 1), {2, 3})).substr(0, 47) ==
        "rollout: the state of row 1 has 41 tokens, the ");
  CHECK(said(given_rollout<float>({1}, {2, 99})).substr(0, 29) == "rollout: row 1 holds token 99");
  auto torn = given_rollout<float>({1}, {2, 3});
  torn.actions[1] = 4;
  CHECK(said(torn) ==
        "rollout: row 1 has a state that is not its prompt, its actions and what was written between them; "
        "make it with given_rollout");
  torn = given_rollout<float>({1}, {2, 3});
  torn.decided[1] = 7;
  CHECK(said(torn).substr(0, 26) == "rollout: row 1 has a state");
}
