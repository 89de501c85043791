#include <planlm/planning/plan_encoder.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>
#include <planlm/planning/label_mixture.hpp>

#include "../catch.hpp"
#include "look_ahead_case.hpp"

using namespace planlm;
using testing::as_list;
using testing::as_matrix;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using B = cpu<double>;
using values = std::vector<double>;

namespace {

using learned_path = path_transformer<B, learned_positions<B>>;
using whole_encoder = plan_encoder<B>;
using linear_encoder = plan_encoder<B, linear_path<B>, mean_set<B>>;

/// Two sentences, three paths of four steps each; label 5 never occurs, -1 once.
const std::vector<int> two_sentences{0, 2, 2, 1, 4, 0, 1, 3, 2, 2, -1, 3, 1, 1, 1, 4, 0, 3, 4, 2, 1, 1, 1, 4};

plan_paths<B> plans(const std::vector<int>& labels, index_t sentences, index_t paths) {
  return {as_list<B>(labels), sentences, paths, static_cast<index_t>(labels.size()) / (sentences * paths)};
}

template <class Encoder>
values encoded(context<B>& cx, const Encoder& layer, const parameters<Encoder>& theta, const plan_paths<B>& given) {
  auto scope = cx.scope();
  testing::poison(cx, 50000);
  return cx.read(const_tensor<B>(layer(cx, theta.weights, given).value));
}

template <class Encoder>
void check_gradients(const Encoder& layer) {
  context<B> cx;
  const auto error = [&](const plan_paths<B>& given) {
    return testing::parameter_error(cx, layer, [&](const auto& p) { return layer(cx, p, given); });
  };
  CHECK(error(plans(two_sentences, 2, 3)) < 1e-7);
  CHECK(error(plans(two_sentences, 4, 6)) < 1e-7);   // one step
  CHECK(error(plans(two_sentences, 6, 1)) < 1e-7);   // one path
  CHECK(error(plans({3}, 1, 1)) < 1e-7);
}

template <class Encoder>
void check_golden(const testing::look_ahead_golden& g, const Encoder& layer) {
  context<B> cx;
  parameters<Encoder> theta(cx, layer, philox{1});
  REQUIRE(g.fill(cx, theta));
  std::vector<int> labels;
  for (const auto& sentence : g.size<std::vector<std::vector<std::vector<int>>>>("plan"))
    for (const auto& path : sentence) labels.insert(labels.end(), path.begin(), path.end());
  auto [c, pullback] = layer(cx, theta.weights, plans(labels, g.size("sentences"), g.size("paths")));
  CHECK(g.holds("output", cx.read(const_tensor<B>(c))));
  const values dc = g.array("upstream");
  pullback(as_matrix<B>(dc, c.rows()), theta.grads);
  CHECK(g.wrong_gradient(cx, theta) == "");
}

/// The labels of a plan with the paths of each sentence in another order.
std::vector<int> reordered(const std::vector<int>& labels, const std::vector<std::size_t>& order, std::size_t steps) {
  std::vector<int> out;
  for (std::size_t begin = 0; begin < labels.size(); begin += order.size() * steps)
    for (const std::size_t k : order)
      for (std::size_t t = 0; t < steps; ++t) out.push_back(labels[begin + k * steps + t]);
  return out;
}

}  // namespace

TEST_CASE("every encoder of plans passes the gradient check") {
  SECTION("linear path, mean set") { check_gradients(linear_encoder{6, 4, {}, {}}); }
  SECTION("linear path, set transformer") { check_gradients(plan_encoder<B, linear_path<B>>{6, 4, {}, {4, 2, 7, 2}}); }
  SECTION("path transformer, mean set") { check_gradients(plan_encoder<B, path_transformer<B>, mean_set<B>>{6, 4, {4, 2, 7, 2}, {}}); }
  SECTION("learned steps, mean set") { check_gradients(plan_encoder<B, learned_path, mean_set<B>>{6, 4, {4, 2, 7, 1, 5}, {}}); }
  SECTION("path and set transformer") { check_gradients(whole_encoder{6, 4, {4, 2, 7}, {4, 1, 9}}); }
  SECTION("learned steps, set transformer") { check_gradients(plan_encoder<B, learned_path>{6, 6, {6, 3, 7, 1, 4}, {6}}); }
}

TEST_CASE("encoders of plans agree with PyTorch") {
  const testing::look_ahead_golden g("plan_encoder"), learned("plan_encoder_learned");
  const index_t K = g.size("labels"), C = g.size("width"), H = g.size("heads"), F = g.size("inner"), D = g.size("path_depth");
  check_golden(g, whole_encoder{K, C, {C, H, F, D}, {C, H, F, g.size("set_depth")}});
  check_golden(learned, plan_encoder<B, learned_path, mean_set<B>>{K, C, {C, H, F, D, learned.size("length")}, {}});
}

TEST_CASE("the order of the paths makes no difference, that of the steps does where their place is coded") {
  context<B> cx;
  const std::vector<std::size_t> order{2, 0, 1};
  const std::vector<int> moved = reordered(two_sentences, order, 4);
  std::vector<int> backwards = two_sentences;
  for (std::size_t i = 0; i < backwards.size(); i += 4) std::reverse(backwards.begin() + std::ptrdiff_t(i), backwards.begin() + std::ptrdiff_t(i) + 4);
  const auto check = [&](const auto& layer, bool tells_steps) {
    auto theta = testing::perturbed(cx, layer);
    const values c = encoded(cx, layer, theta, plans(two_sentences, 2, 3));
    CHECK(largest_error(encoded(cx, layer, theta, plans(moved, 2, 3)), c) < 1e-14);
    const double difference = largest_error(encoded(cx, layer, theta, plans(backwards, 2, 3)), c);
    if (tells_steps) CHECK(difference > 1e-3);
    else CHECK(difference < 1e-14);
  };
  check(linear_encoder{6, 4, {}, {}}, false);
  check(plan_encoder<B, linear_path<B>>{6, 4, {}, {4}}, false);
  check(whole_encoder{6, 4, {4}, {4}}, true);
  check(plan_encoder<B, learned_path, mean_set<B>>{6, 4, {4}, {}}, true);
}

TEST_CASE("a linear path and a mean set average table rows: one path of one step is its row bit for bit") {
  context<B> cx;
  const linear_encoder layer{3, 2, {}, {}};
  parameters<linear_encoder> theta(cx, layer, philox{1});
  theta.write(cx, 0, values{1, 2, 10, 20, 0.1, 0.7});
  CHECK(same_bits(encoded(cx, layer, theta, plans({2, 0}, 2, 1)), values{0.1, 0.7, 1, 2}));
  // Two paths of two steps: ((1 + 10) / 2 + (10 + 10) / 2) / 2 and twice that; a label below 0 is a row of zeros.
  CHECK(largest_error(encoded(cx, layer, theta, plans({0, 1, 1, 1}, 1, 2)), values{7.75, 15.5}) < 1e-15);
  CHECK(largest_error(encoded(cx, layer, theta, plans({-1, 1, 0, -1}, 1, 2)), values{2.75, 5.5}) < 1e-15);
}

TEST_CASE("the numbers of paths and steps may change from call to call, and no sentence sees the paths of another") {
  context<B> cx;
  const whole_encoder layer{6, 4, {4}, {4}};
  auto theta = testing::perturbed(cx, layer);
  const values whole = encoded(cx, layer, theta, plans(two_sentences, 2, 3));
  const std::vector<int> second(two_sentences.begin() + 12, two_sentences.end());
  CHECK(largest_error(encoded(cx, layer, theta, plans(second, 1, 3)), values(whole.begin() + 4, whole.end())) < 1e-14);
  // Every path twice: the same set, as attention and mean see it.
  std::vector<int> doubled;
  for (int s = 0; s < 2; ++s)
    for (int copy = 0; copy < 2; ++copy)
      doubled.insert(doubled.end(), two_sentences.begin() + 12 * s, two_sentences.begin() + 12 * (s + 1));
  CHECK(largest_error(encoded(cx, layer, theta, plans(doubled, 2, 6)), whole) < 1e-14);
  CHECK(encoded(cx, layer, theta, plans(second, 3, 2)).size() == 12);
  CHECK(encoded(cx, layer, theta, plans(second, 1, 12)).size() == 4);
}

TEST_CASE("section 6.3: with one step, linear paths and a mean set, plans tend to the label mixture as 1 / sqrt(paths)") {
  constexpr index_t sentences = 256, K = 8, C = 6;
  context<B> cx;
  const look_ahead<B> model{planner<B>{C, K, 2, 10, 1}};
  auto theta = testing::perturbed(cx, model, 3, 0.8);
  const linear_encoder layer{K, C, {}, {}};
  auto phi = testing::perturbed(cx, layer, 11, 1);
  const values table = phi.read(cx, 0), z = normal_values(sentences * C, 5);
  std::vector<int> offsets(sentences + 1), positions(sentences, 0);
  std::iota(offsets.begin(), offsets.end(), 0);
  const sequences<B> seq{as_list<B>(offsets), offsets.data(), as_list<B>(positions)};
  const auto input = as_matrix<B>(z, sentences);
  // The limit, and the exact variance of one draw: sum_k p_k |C_k - c|^2.
  const double temperature = 1.3;
  const auto logits = model(cx, theta.weights, input, seq).value;
  const const_tensor<B> p = mixture{temperature}.weights(cx, const_tensor<B>(logits)).value;
  const label_mixture<B> mixing{K, C};
  const values limit = cx.read(const_tensor<B>(mixing(cx, {phi.weights.table}, const_tensor<B>(logits), mixture{temperature}).value));
  double variance = 0;
  for (index_t s = 0; s < sentences; ++s)
    for (index_t k = 0; k < K; ++k)
      for (index_t c = 0; c < C; ++c) {
        const double away = table[static_cast<std::size_t>(k * C + c)] - limit[static_cast<std::size_t>(s * C + c)];
        variance += p(s, k) * away * away;
      }
  variance /= double(sentences);
  values x, y;
  for (const index_t paths : {16, 64, 256, 1024, 4096}) {
    auto scope = cx.scope();
    const auto drawn = sample_paths(cx, model, theta.weights, input, seq, 1, paths, temperature, philox{7, static_cast<std::uint32_t>(paths)});
    const values c = cx.read(const_tensor<B>(layer(cx, phi.weights, drawn).value));
    double square = 0;
    for (std::size_t i = 0; i < c.size(); ++i) square += (c[i] - limit[i]) * (c[i] - limit[i]);
    const double error = std::sqrt(square / double(sentences)), expected = std::sqrt(variance / double(paths));
    CAPTURE(paths, error, expected);
    CHECK(error / expected > 0.88);
    CHECK(error / expected < 1.12);
    x.push_back(std::log(double(paths))), y.push_back(std::log(error));
  }
  const double mx = std::accumulate(x.begin(), x.end(), 0.0) / double(x.size()), my = std::accumulate(y.begin(), y.end(), 0.0) / double(y.size());
  double xy = 0, xx = 0;
  for (std::size_t i = 0; i < x.size(); ++i) xy += (x[i] - mx) * (y[i] - my), xx += (x[i] - mx) * (x[i] - mx);
  CAPTURE(xy / xx);
  CHECK(std::abs(xy / xx + 0.5) < 0.1);
}

TEST_CASE("a frozen parameter of a plan encoder stays untouched and changes no other gradient") {
  context<B> cx;
  const plan_encoder<B, learned_path> layer{6, 4, {4, 2, 7, 1, 4}, {4}};
  auto theta = testing::perturbed(cx, layer);
  const values dc = normal_values(8, 5);
  const auto gradients = [&](const auto& g) {
    auto scope = cx.scope();
    testing::poison(cx, 50000);
    const values start(static_cast<std::size_t>(theta.flat_grads().size()), 0.25);
    B::upload(cx.queue(), theta.flat_grads().data, start.data(), start.size() * sizeof(double));
    layer(cx, theta.weights, plans(two_sentences, 2, 3)).pullback(as_matrix<B>(dc, 2), g);
    std::vector<values> all;
    for (std::size_t n = 0; n < theta.slots().size(); ++n) all.push_back(theta.read_gradient(cx, n));
    return all;
  };
  const auto whole = gradients(theta.grads);
  for (std::size_t frozen = 0; frozen <= whole.size(); ++frozen) {
    auto g = theta.grads;
    std::size_t n = 0;
    auto freeze = [&](const parameter_spec&, auto& tensor) {
      if (n == frozen || frozen == whole.size()) tensor = {};
      ++n;
    };
    layer.each_param(freeze, g);
    const auto got = gradients(g);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      CAPTURE(frozen, i);
      const bool stays = i == frozen || frozen == whole.size();
      CHECK(same_bits(got[i], stays ? values(whole[i].size(), 0.25) : whole[i]));
    }
  }
}

TEST_CASE("labels that do not fill the plan, and more steps than were learned, are refused") {
  context<B> cx;
  const plan_encoder<B, learned_path> layer{6, 4, {4, 2, 7, 1, 3}, {4}};
  auto theta = testing::perturbed(cx, layer);
  CHECK_THROWS_AS(layer(cx, theta.weights, {as_list<B>(two_sentences), 2, 3, 3}), shape_error);
  CHECK_THROWS_AS(layer(cx, theta.weights, {as_list<B>(two_sentences), 2, 3, 4}), shape_error);
  CHECK_THROWS_AS(layer(cx, theta.weights, plan_paths<B>{}), shape_error);
}
