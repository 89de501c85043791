// Cases A10 to A13 and A20 of the published objectives, in float64 from PyTorch, and facts F14 and F16 to F22.
#include <planlm/objectives/guided_likelihood.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>
#include <nlohmann/json.hpp>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;
using numbers = std::vector<double>;
using nlohmann::json;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;

namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

void flatten(const json& values, numbers& to) {
  if (values.is_array())
    for (const json& v : values) flatten(v, to);
  else to.push_back(values.get<double>());
}
numbers flat_of(const json& values) {
  numbers v;
  flatten(values, v);
  return v;
}
const json& golden(const char* name) {
  static const json all = json::parse(std::ifstream(PLANLM_GOLDEN "/guided_likelihood.json"));
  return all.at(name);
}

/// Sequences of logits and tokens with rewards, in host memory.
struct batch {
  index_t vocabulary = 0;
  numbers logits{}, rewards{};
  std::vector<int> tokens{}, offsets{};
  index_t rows() const { return static_cast<index_t>(tokens.size()); }
  template <class Backend = B>
  guided_tokens<Backend> view(context<Backend>& cx) const {
    return {cx.upload(tokens), cx.upload(std::vector<typename Backend::accum>(rewards.begin(), rewards.end())), cx.upload(offsets)};
  }
  const_tensor<B> z() const { return {logits.data(), rows(), vocabulary}; }
};
/// A case of the golden file: rows beyond a sequence are masked, and hold NaN for logits and reward.
batch golden_batch(const json& in) {
  batch b{.logits = flat_of(in.at("logits"))};
  const json& ids = in.contains("ids") ? in.at("ids") : in.at("labels");
  const auto sequences = static_cast<int>(ids.size()), steps = static_cast<int>(ids.at(0).size());
  for (const double id : flat_of(ids)) b.tokens.push_back(static_cast<int>(id));
  for (int s = 0; s <= sequences; ++s) b.offsets.push_back(s * steps);
  b.rewards = in.contains("r") ? flat_of(in.at("r")) : numbers(b.tokens.size(), in.at("r_const").get<double>());
  b.vocabulary = static_cast<index_t>(b.logits.size() / b.tokens.size());
  const numbers mask = in.contains("mask") ? flat_of(in.at("mask")) : numbers(b.tokens.size(), 1);
  const auto width = static_cast<std::size_t>(b.vocabulary);
  for (std::size_t r = 0; r < b.tokens.size(); ++r) {
    if (mask[r] == 0) b.tokens[r] = -1;
    if (b.tokens[r] >= 0) continue;
    b.rewards[r] = none;
    for (std::size_t i = 0; i < width; ++i) b.logits[r * width + i] = none;
  }
  return b;
}
/// Sequences of these lengths, some rows masked, rewards in (0, 1.3).
batch random_batch(const std::vector<int>& lengths, index_t vocabulary, std::uint64_t seed = 1) {
  batch b{.vocabulary = vocabulary, .offsets = {0}};
  const philox random{seed};
  for (const int length : lengths) b.offsets.push_back(b.offsets.back() + length);
  for (std::uint64_t r = 0; r < static_cast<std::uint64_t>(b.offsets.back()); ++r) {
    const bool masked = r % 5 == 3;
    b.tokens.push_back(masked ? -1 : static_cast<int>(random.below(static_cast<std::uint32_t>(vocabulary), r, 0)));
    b.rewards.push_back(masked ? none : 0.01 + 1.29 * random.uniform(r, 1));
  }
  b.logits = normal_values(b.rows() * vocabulary, seed + 1);
  return b;
}

struct outcome {
  double total, likelihood, bonus;
  numbers nll, gradient, weights;
};
template <class Objective, class... More>
outcome evaluate(const batch& b, const Objective& objective, More... more) {
  context<B> cx;
  testing::poison(cx);
  auto scope = cx.scope();
  const guided_tokens<B> tokens = b.view(cx);
  const auto out = objective(cx, b.z(), tokens, more...);
  return {cx.read_one(out.total), cx.read_one(out.likelihood), cx.read_one(out.bonus),
          cx.read(out.nll),       cx.read(out.gradient),       cx.read(objective.weights(cx, tokens, more...).likelihood)};
}
double gap(const numbers& a, const numbers& b) { return largest_error(a, b); }
guided_likelihood published(double alpha, token_credit credit = token_credit::own) {
  guided_likelihood objective = guided_likelihood::maximum_entropy(alpha, credit);
  objective.probability_floor = 1e-8;
  return objective;
}

const std::vector<int> lengths{4, 1, 7, 0, 3};

}  // namespace

TEST_CASE("A10: REINFORCE with maximum entropy at a fixed length, own rewards and rewards to go") {
  const json& one = golden("A10_reinforce_maxent_fixed_length");
  const batch b = golden_batch(one.at("inputs"));
  const double alpha = one.at("inputs").at("alpha");
  for (const bool to_go : {false, true}) {
    const json& expected = one.at("outputs").at(to_go ? "q" : "r");
    const outcome o = evaluate(b, published(alpha, to_go ? token_credit::to_go : token_credit::own));
    CHECK(std::abs(o.total - expected.at("loss").get<double>()) < 1e-14);
    CHECK(std::abs(o.likelihood - expected.at("reinforce").get<double>()) < 1e-14);
    CHECK(std::abs(-o.bonus / alpha - expected.at("neg_entropy").get<double>()) < 1e-14);
    CHECK(gap(o.gradient, flat_of(expected.at("grad_logits"))) < 1e-15);
    CHECK(gap(o.nll, flat_of(one.at("outputs").at("nll"))) < 1e-14);
    if (to_go)
      for (std::size_t i = 0; i < 6; ++i) CHECK(std::abs(6 * o.weights[i] - flat_of(one.at("outputs").at("q_values"))[i]) < 1e-14);
  }
  const outcome exact = evaluate(b, guided_likelihood::maximum_entropy(alpha));
  CHECK(std::abs(-exact.bonus / alpha - one.at("outputs").at("neg_entropy_exact_mean").get<double>()) < 1e-14);
}

TEST_CASE("A11: the masked form divides by the batch's tokens, and NaN under the mask is not read") {
  const json& one = golden("A11_reinforce_maxent_masked");
  const json& expected = one.at("outputs");
  const batch b = golden_batch(one.at("inputs"));
  const double alpha = one.at("inputs").at("alpha");
  const outcome o = evaluate(b, published(alpha));
  CHECK(std::abs(o.total - expected.at("loss").get<double>()) < 1e-14);
  CHECK(std::abs(o.likelihood - expected.at("reinforce").get<double>()) < 1e-14);
  CHECK(std::abs(-o.bonus / alpha - expected.at("neg_entropy").get<double>()) < 1e-14);
  CHECK(gap(o.gradient, flat_of(expected.at("grad_logits"))) < 1e-15);
  const outcome to_go = evaluate(b, published(0, token_credit::to_go));
  CHECK(std::abs(to_go.total - expected.at("reinforce_q").get<double>()) < 1e-14);
  CHECK(gap(to_go.gradient, flat_of(expected.at("grad_logits_q"))) < 1e-15);
}

TEST_CASE("A12: reward-weighted likelihood, plain, of e^r, and of rewards to go") {
  const json& one = golden("A12_reward_weighted_mle");
  const batch b = golden_batch(one.at("inputs"));
  const auto check = [&](const char* name, const guided_likelihood& objective) {
    CAPTURE(name);
    const json& expected = one.at("outputs").at(name);
    const outcome o = evaluate(b, objective);
    CHECK(std::abs(o.total - expected.at("loss").get<double>()) < 1e-14);
    numbers weights = o.weights;
    for (double& w : weights) w *= 2;  // there before the mean over two sequences
    CHECK(gap(weights, flat_of(expected.at("weights"))) < 1e-15);
    CHECK(gap(o.gradient, flat_of(expected.at("grad_logits"))) < 1e-15);
  };
  check("plain", guided_likelihood::reward_weighted());
  check("exp", guided_likelihood::reward_weighted(token_credit::own, true));
  check("q", guided_likelihood::reward_weighted(token_credit::to_go));
}

TEST_CASE("A13: a constant reward gives the mean over sequences of their mean nll; divided by the batch's rewards, that over tokens") {
  const json& one = golden("A13_wmle_constant_reward");
  const json& expected = one.at("outputs");
  const batch b = golden_batch(one.at("inputs"));
  const outcome o = evaluate(b, guided_likelihood::reward_weighted());
  CHECK(std::abs(o.total - expected.at("loss").get<double>()) < 1e-14);
  CHECK(gap(o.gradient, flat_of(expected.at("grad_logits"))) < 1e-15);
  const numbers each = flat_of(expected.at("per_seq_mean_nll"));
  CHECK(std::abs(o.total - (each[0] + each[1]) / 2) < 1e-14);
  for (const bool exponential : {false, true}) {
    const outcome whole = evaluate(b, guided_likelihood{.normaliser = token_normaliser::rewards, .exponential = exponential});
    CHECK(std::abs(whole.total - expected.at("global_token_mean_nll").get<double>()) < 1e-14);
  }
}

TEST_CASE("F22 and A20: the sample gradient's expectation over actions is the exact gradient of mean reward and entropy") {
  const json& one = golden("A20_reinforce_expectation");
  const numbers theta = flat_of(one.at("inputs").at("theta")), r = flat_of(one.at("inputs").at("r"));
  const double alpha = one.at("inputs").at("alpha");
  const auto expected_ascent = [&](const numbers& logits) {
    double whole = 0;
    for (const double t : logits) whole += std::exp(t);
    numbers ascent(3);
    for (std::size_t a = 0; a < 3; ++a) {
      const batch b{.vocabulary = 3, .logits = logits, .rewards = {r[a]}, .tokens = {static_cast<int>(a)}, .offsets = {0, 1}};
      const outcome o = evaluate(b, guided_likelihood::maximum_entropy(alpha));
      for (std::size_t v = 0; v < 3; ++v) ascent[v] -= std::exp(logits[a]) / whole * o.gradient[v];
    }
    return ascent;
  };
  CHECK(gap(expected_ascent(theta), flat_of(one.at("outputs").at("expected_gradient"))) < 1e-14);
  // It is 0 at softmax(r / alpha), and ascent leads there.
  const numbers optimum = flat_of(one.at("outputs").at("optimal_policy"));
  numbers at{r[0] / alpha, r[1] / alpha, r[2] / alpha};
  for (const double g : expected_ascent(at)) CHECK(std::abs(g) < 1e-14);
  at = theta;
  for (int step = 0; step < 3000; ++step) {
    const numbers g = expected_ascent(at);
    for (std::size_t v = 0; v < 3; ++v) at[v] += 5 * g[v];
  }
  double whole = 0;
  for (const double t : at) whole += std::exp(t);
  for (std::size_t v = 0; v < 3; ++v) CHECK(std::abs(std::exp(at[v]) / whole - optimum[v]) < 1e-6);
}

TEST_CASE("F16: reward-weighted weights add up to 1 in every sequence that has a token, whatever the rewards' scale") {
  const batch b = random_batch(lengths, 5);
  for (const bool exponential : {false, true})
    for (const token_credit credit : {token_credit::own, token_credit::to_go}) {
      const guided_likelihood objective = guided_likelihood::reward_weighted(credit, exponential);
      const outcome o = evaluate(b, objective);
      for (std::size_t s = 0; s < lengths.size(); ++s) {
        double sum = 0;
        for (auto r = static_cast<std::size_t>(b.offsets[s]); r < static_cast<std::size_t>(b.offsets[s + 1]); ++r) sum += o.weights[r];
        CHECK(std::abs(sum - (lengths[s] > 0 ? 0.25 : 0)) < 1e-15);  // the empty one is no member of the mean
      }
      // Scale of r; of e^r that is a shift of r, however large.
      batch other = b;
      for (double& r : other.rewards) r = exponential ? r + 3000 : 7 * r;
      CHECK(gap(evaluate(other, objective).gradient, o.gradient) < (exponential ? 1e-12 : 1e-15));
    }
}

TEST_CASE("F17 and F14: masked rows have gradient 0 whatever they hold, in every form") {
  const batch b = random_batch(lengths, 5);
  batch other = b;
  for (std::size_t r = 0; r < other.tokens.size(); ++r)
    if (other.tokens[r] < 0) {
      other.rewards[r] = 1e300, other.tokens[r] = -100;
      for (std::size_t i = 0; i < 5; ++i) other.logits[r * 5 + i] = none;
    }
  for (const token_credit credit : {token_credit::own, token_credit::to_go})
    for (const token_normaliser by : {token_normaliser::tokens, token_normaliser::sequence_tokens, token_normaliser::rewards,
                                      token_normaliser::sequence_rewards}) {
      CAPTURE(int(credit), int(by));
      const guided_likelihood objective{.credit = credit, .normaliser = by, .entropy = 0.3};
      const outcome clean = evaluate(b, objective), spoiled = evaluate(other, objective);
      CHECK(std::isfinite(clean.total));
      CHECK(spoiled.total == clean.total);
      CHECK(same_bits(spoiled.gradient, clean.gradient));
      for (std::size_t r = 0; r < b.tokens.size(); ++r)
        if (b.tokens[r] < 0)
          for (std::size_t i = 0; i < 5; ++i) CHECK(clean.gradient[r * 5 + i] == 0);
    }
}

TEST_CASE("F18: rewards come in as constants, by type, and the gradient is that of weights that do not move") {
  static_assert(std::is_same_v<decltype(guided_tokens<B>::rewards), const_accum_tensor<B>>);
  static_assert(std::is_const_v<std::remove_pointer_t<decltype(token_weights<B>::likelihood.data)>>);
  // Rewards that depend on the logits: the gradient is still that with their values held.
  const batch b = random_batch({4, 3}, 5);
  const guided_likelihood objective = guided_likelihood::reward_weighted();
  const numbers held = evaluate(b, objective).weights;
  const auto loss = [&](const numbers& logits) {
    batch moved = b;
    moved.logits = logits;
    const outcome o = evaluate(moved, objective);
    double total = 0;
    for (std::size_t r = 0; r < held.size(); ++r) total += held[r] * o.nll[r];
    return total;
  };
  const auto gradient = [&](const numbers& logits) {
    batch moved = b;
    moved.logits = logits;
    for (std::size_t r = 0; r < held.size(); ++r)
      if (b.tokens[r] >= 0) moved.rewards[r] = b.rewards[r] * std::exp(logits[5 * r] - b.logits[5 * r]);
    return evaluate(moved, objective).gradient;
  };
  CHECK(testing::directional_error(b.logits, loss, gradient) < 1e-8);
}

TEST_CASE("F19: the gradient of logits adds up to 0 over the vocabulary, in every row and form") {
  const batch b = random_batch(lengths, 13);
  const guided_likelihood each[] = {guided_likelihood::maximum_entropy(), published(0.125), guided_likelihood::reward_weighted()};
  for (const guided_likelihood& objective : each) {
    const outcome o = evaluate(b, objective);
    for (std::size_t r = 0; r < b.tokens.size(); ++r) {
      double sum = 0;
      for (std::size_t i = 0; i < 13; ++i) sum += o.gradient[r * 13 + i];
      CHECK(std::abs(sum) < 1e-15);
    }
  }
}

TEST_CASE("F20: without entropy and with rewards of 1 the loss is the plain mean nll of the tokens, and its gradient") {
  batch b = random_batch(lengths, 13);
  for (double& r : b.rewards) r = std::isnan(r) ? r : 1;
  const outcome o = evaluate(b, guided_likelihood::maximum_entropy(0));
  context<B> cx;
  double tokens = 0;
  for (const int t : b.tokens) tokens += t >= 0;
  const auto plain = ops::cross_entropy<B>(cx, b.z(), indices<B>(b.tokens.data(), b.rows()), 1 / tokens);
  CHECK(std::abs(o.total - cx.read_one(plain.total)) < 1e-14);
  CHECK(gap(o.gradient, cx.read(plain.dz)) < 1e-15);
  // Mean over sequences of their means, too.
  const outcome even = evaluate(b, guided_likelihood{.normaliser = token_normaliser::sequence_tokens});
  const outcome weighted = evaluate(b, guided_likelihood::reward_weighted());
  CHECK(gap(even.gradient, weighted.gradient) < 1e-15);
  CHECK(std::abs(even.total - weighted.total) < 1e-14);
}

TEST_CASE("F21: at a uniform policy the entropy has no gradient and is log V") {
  batch b = random_batch(lengths, 64);
  b.logits.assign(b.logits.size(), 0.37);
  for (double& r : b.rewards) r = std::isnan(r) ? r : 0;
  for (const double floor : {0.0, 1e-8}) {
    guided_likelihood objective = guided_likelihood::maximum_entropy(1);
    objective.probability_floor = floor;
    const outcome o = evaluate(b, objective);
    if (floor == 0) CHECK(std::abs(o.bonus - std::log(64)) < 1e-14);
    for (const double g : o.gradient) CHECK(std::abs(g) < 1e-16);
  }
}

TEST_CASE("rewards times c are the entropy's coefficient divided by c, and a constant reward has no expected gradient") {
  const batch b = random_batch(lengths, 5);
  batch scaled = b;
  for (double& r : scaled.rewards) r *= 4;
  numbers expected = evaluate(b, guided_likelihood::maximum_entropy(0.1)).gradient;
  for (double& g : expected) g *= 4;
  CHECK(gap(evaluate(scaled, guided_likelihood::maximum_entropy(0.4)).gradient, expected) < 1e-15);
  const numbers logits{0.3, -1, 0.8};
  double whole = 0;
  for (const double t : logits) whole += std::exp(t);
  numbers mean(3);
  for (std::size_t a = 0; a < 3; ++a) {
    const batch one{.vocabulary = 3, .logits = logits, .rewards = {0.7}, .tokens = {static_cast<int>(a)}, .offsets = {0, 1}};
    const outcome o = evaluate(one, guided_likelihood::maximum_entropy(0));
    for (std::size_t v = 0; v < 3; ++v) mean[v] += std::exp(logits[a]) / whole * o.gradient[v];
  }
  for (const double g : mean) CHECK(std::abs(g) < 1e-16);
}

TEST_CASE("in a table, reward-weighted likelihood is at rest at the data's probability times the mean weight of a token") {
  // Tokens 0, 0, 1, 2, 2, 2 from one state: pi is proportional to count times mean reward.
  batch b{.vocabulary = 3, .rewards = {0.2, 0.6, 1.2, 0.5, 0.1, 0.3}, .tokens = {0, 0, 1, 2, 2, 2}, .offsets = {0, 1, 2, 3, 4, 5, 6}};
  for (int r = 0; r < 6; ++r)
    for (const double credit : {0.8, 1.2, 0.9}) b.logits.push_back(std::log(credit));
  const outcome o = evaluate(b, guided_likelihood{.normaliser = token_normaliser::rewards});
  for (std::size_t v = 0; v < 3; ++v) {
    double slope = 0;
    for (std::size_t r = 0; r < 6; ++r) slope += o.gradient[r * 3 + v];
    CHECK(std::abs(slope) < 1e-15);
  }
}

TEST_CASE("by hand: what each normaliser divides by, masked tokens left out") {
  batch b{.vocabulary = 2, .rewards = {1, none, 3, 4, 0}, .tokens = {0, -1, 1, 0, 1}, .offsets = {0, 3, 3, 5}};
  b.logits.assign(10, 0);
  const auto weights = [&](token_normaliser by, token_credit credit = token_credit::own) {
    return evaluate(b, guided_likelihood{.credit = credit, .normaliser = by}).weights;
  };
  using n = token_normaliser;
  const auto to_go = token_credit::to_go;
  CHECK(gap(weights(n::tokens), {1 / 4.0, 0, 3 / 4.0, 4 / 4.0, 0}) < 1e-15);
  CHECK(gap(weights(n::sequence_tokens), {1 / 4.0, 0, 3 / 4.0, 4 / 4.0, 0}) < 1e-15);
  CHECK(gap(weights(n::rewards), {1 / 8.0, 0, 3 / 8.0, 4 / 8.0, 0}) < 1e-15);
  CHECK(gap(weights(n::sequence_rewards), {1 / 8.0, 0, 3 / 8.0, 1 / 2.0, 0}) < 1e-15);
  CHECK(gap(weights(n::tokens, to_go), {4 / 4.0, 0, 3 / 4.0, 4 / 4.0, 0}) < 1e-15);
  CHECK(gap(weights(n::rewards, to_go), {4 / 11.0, 0, 3 / 11.0, 4 / 11.0, 0}) < 1e-15);
  CHECK(gap(weights(n::sequence_rewards, to_go), {4 / 14.0, 0, 3 / 14.0, 1 / 2.0, 0}) < 1e-15);
  // Of e^r, with rewards whose exponential is no number.
  b.rewards = {1000 + std::log(1.0), none, 1000 + std::log(3.0), 1000 + std::log(4.0), -1e9};
  const outcome shifted = evaluate(b, guided_likelihood{.normaliser = n::rewards, .exponential = true});
  CHECK(gap(shifted.weights, {1 / 8.0, 0, 3 / 8.0, 4 / 8.0, 0}) < 1e-12);
}

TEST_CASE("sequences without a token and rewards that sum to 0 weigh 0; a reward that is no number shows in the loss") {
  batch b{.vocabulary = 2, .rewards = {0, 0, none, 2}, .tokens = {0, 1, -1, 1}, .offsets = {0, 2, 3, 4}};
  b.logits.assign(8, 0);
  const outcome o = evaluate(b, guided_likelihood::reward_weighted());
  CHECK(gap(o.weights, {0, 0, 0, 0.5}) < 1e-15);
  CHECK(std::abs(o.total - std::log(2) / 2) < 1e-15);
  b.tokens.assign(4, -1);
  for (const guided_likelihood& objective : {guided_likelihood::reward_weighted(), guided_likelihood::maximum_entropy()}) {
    const outcome nothing = evaluate(b, objective);
    CHECK(nothing.total == 0);
    CHECK(nothing.gradient == numbers(8));
  }
  b.tokens = {0, 1, 0, 1};
  for (const guided_likelihood& objective : {guided_likelihood::reward_weighted(), guided_likelihood::maximum_entropy()})
    CHECK(std::isnan(evaluate(b, objective).total));
  // No sequences at all.
  const batch empty{.vocabulary = 2, .offsets = {0}};
  CHECK(evaluate(empty, guided_likelihood::maximum_entropy()).total == 0);
}

TEST_CASE("the gradients of guided objectives pass the directional check, over logits and over hidden states and table") {
  const batch b = random_batch(lengths, 7);
  const guided_likelihood both[] = {published(0.2, token_credit::to_go), guided_likelihood::reward_weighted()};
  for (const guided_likelihood& objective : both) {
    batch moved = b;
    for (std::size_t r = 0; r < moved.tokens.size(); ++r)
      if (moved.tokens[r] < 0) moved.rewards[r] = 5;
    const auto at = [&](const numbers& logits) {
      moved.logits = logits;
      return evaluate(moved, objective);
    };
    CHECK(testing::directional_error(
              b.logits, [&](const numbers& v) { return at(v).total; }, [&](const numbers& v) { return at(v).gradient; }) < 1e-8);
    const auto n = static_cast<std::size_t>(b.rows()) * 3;
    const auto linear = [&](const numbers& v, numbers* gradient) {
      context<B> cx;
      const tensor<B> dtable = cx.make_zero(7, 3);
      const auto out = objective(cx, const_tensor<B>(v.data(), b.rows(), 3), const_tensor<B>(v.data() + n, 7, 3), b.view(cx), dtable);
      if (gradient) {
        *gradient = cx.read(out.gradient);
        for (const double g : cx.read(dtable)) gradient->push_back(g);
      }
      return cx.read_one(out.total);
    };
    const auto gradient = [&](const numbers& v) {
      numbers g;
      linear(v, &g);
      return g;
    };
    CHECK(testing::directional_error(
              normal_values((b.rows() + 7) * 3, 4), [&](const numbers& v) { return linear(v, nullptr); }, gradient) < 1e-8);
  }
}

TEST_CASE("the mixture is reward-weighted likelihood of the references plus what is switched on of the samples") {
  const batch b = random_batch({4, 3, 5, 2}, 5);
  const auto part = [&](std::size_t first, std::size_t last) {
    batch some{.vocabulary = 5, .offsets = {0}};
    const auto from = static_cast<std::size_t>(b.offsets[first]), to = static_cast<std::size_t>(b.offsets[last]);
    some.tokens.assign(b.tokens.begin() + b.offsets[first], b.tokens.begin() + b.offsets[last]);
    some.rewards.assign(b.rewards.begin() + b.offsets[first], b.rewards.begin() + b.offsets[last]);
    some.logits.assign(b.logits.begin() + 5 * b.offsets[first], b.logits.begin() + 5 * b.offsets[last]);
    for (std::size_t s = first + 1; s <= last; ++s) some.offsets.push_back(b.offsets[s] - static_cast<int>(from));
    CHECK(some.tokens.size() == to - from);
    return some;
  };
  const outcome references = evaluate(part(0, 2), guided_likelihood::reward_weighted());
  for (const double c : {-1.0, 0.0, 0.7})
    for (const double a : {-1.0, 0.0, 0.2}) {
      CAPTURE(c, a);
      const outcome o = evaluate(b, guided_mixture{.reinforce = c, .entropy = a}, index_t{2});
      const guided_likelihood switched{.entropy = std::max(a, 0.0), .scale = std::max(c, 0.0)};
      const outcome samples = evaluate(part(2, 4), switched);
      CHECK(std::abs(o.total - references.total - samples.total) < 1e-14);
      numbers expected = references.gradient;
      expected.insert(expected.end(), samples.gradient.begin(), samples.gradient.end());
      CHECK(gap(o.gradient, expected) < 1e-15);
    }
  // Samples that are off may have no rewards at all.
  batch unknown = b;
  for (std::size_t r = static_cast<std::size_t>(b.offsets[2]); r < b.rewards.size(); ++r) unknown.rewards[r] = none;
  CHECK(evaluate(unknown, guided_mixture{}, index_t{2}).total == references.total);
  context<B> cx;
  CHECK_THROWS_WITH(guided_mixture{}.weights(cx, b.view(cx), 5), "guided_mixture: 5 references among 4 sequences");
}

TEST_CASE("F28: guided objectives give the same bits with 1, 2 and 3 threads, and the float ones are near the double ones") {
  using F = cpu<float>;
  const batch b = random_batch({40, 33, 64, 1, 17}, 301);
  const std::vector<float> narrow(b.logits.begin(), b.logits.end());
  for (const guided_likelihood& objective : {guided_likelihood::maximum_entropy(), guided_likelihood::reward_weighted()}) {
    const outcome exact = evaluate(b, objective);
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 1}) {
      context<F> cx{F::queue(threads)};
      const auto out = objective(cx, const_tensor<F>(narrow.data(), b.rows(), 301), b.view(cx));
      const std::vector<float> gradient = cx.read(out.gradient);
      if (first.empty()) first = gradient;
      CHECK(same_bits(gradient, first));
      CHECK(std::abs(cx.read_one(out.total) - exact.total) < 2e-5 * std::abs(exact.total));
      CHECK(testing::relative_error(gradient, exact.gradient) < 2e-5);
    }
  }
}

TEST_CASE("offsets beyond the rows of a batch are cut off, not followed") {
  batch b{.vocabulary = 2, .rewards = {1, 3, 2}, .tokens = {0, 1, 0}, .offsets = {-7, 2, 1000000, 2000000}};
  b.logits.assign(6, 0);
  batch right = b;
  right.offsets = {0, 2, 3, 3};
  for (const token_credit credit : {token_credit::own, token_credit::to_go})
    CHECK(evaluate(b, guided_likelihood::reward_weighted(credit)).weights ==
          evaluate(right, guided_likelihood::reward_weighted(credit)).weights);
}

TEST_CASE("shapes of guided tokens that do not fit are told in one line") {
  context<B> cx;
  batch b = random_batch({3}, 5);
  guided_tokens<B> tokens = b.view(cx);
  tokens.rewards = {tokens.rewards.data, 2};
  CHECK_THROWS_WITH(guided_likelihood{}.weights(cx, tokens), "guided_likelihood: 3 tokens, but 2 rewards");
  tokens = b.view(cx);
  tokens.offsets = {};
  CHECK_THROWS_WITH(guided_likelihood{}.weights(cx, tokens), "guided_likelihood: no offsets, expected one more than sequences");
}
