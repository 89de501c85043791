#include <planlm/models/reward_model.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>
#include <planlm/objectives/listwise_preference.hpp>
#include <planlm/testing/gradient_check.hpp>
#include <planlm/testing/lane_team.hpp>
#include <planlm/training/adamw.hpp>

#include "../backend/bfloat16_backend.hpp"
#include "../catch.hpp"
#include "joint.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using values = std::vector<double>;
using ids = std::vector<int>;

namespace {

constexpr lm_sizes small{23, 12, 6, 3, 2};
using model_type = reward_model<transformer_lm<B>>;

/// Two prompts, the second empty, with three and two generations of one to five tokens.
packed_generations small_lists(lm_sizes sizes = small) {
  packed_generations batch(sizes);
  const ids prompt{3, 17, 8, 0};
  for (const ids& generation : {ids{22, 11, 3}, ids{5}, ids{14, 20, 9, 1, 2}}) batch.add(prompt, generation);
  batch.end_list();
  for (const ids& generation : {ids{7, 7}, ids{6, 0, 21, 4}}) batch.add({}, generation);
  batch.end_list();
  return batch;
}

template <Backend D>
preference_lists<D> lists_of(const generated_rows<D>& rows, const values& scores) {
  return {rows.first, rows.length, rows.lists, {scores.data(), static_cast<index_t>(scores.size())}};
}

/// The values of the tensors whose names begin with `prefix`.
template <class M>
std::vector<values> gradients_of(context<B>& cx, const parameters<M>& theta, const std::string& prefix) {
  std::vector<values> all;
  for (std::size_t n = 0; n < theta.slots().size(); ++n)
    if (theta.slots()[n].spec.name.starts_with(prefix)) all.push_back(theta.read_gradient(cx, n));
  return all;
}

/// Finite differences over all parameters of <dz, z>, or of a loss of z that gives dz.
template <class Loss>
double model_error(const model_type& model, const packed_generations& batch, const Loss& loss_of, double step = 1e-6) {
  context<B> cx;
  testing::poison(cx);
  auto theta = testing::perturbed(cx, model);
  auto loss = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    const auto rows = upload(cx, batch);
    return loss_of(cx, rows, model(cx, theta.weights, rows).value).first;
  };
  auto gradient = [&](const values& at) {
    auto scope = cx.scope();
    testing::write_all(cx, theta, std::span<const double>(at));
    theta.zero_grads(cx);
    const auto rows = upload(cx, batch);
    auto [z, pullback] = model(cx, theta.weights, rows);
    pullback(loss_of(cx, rows, z).second, theta.grads);
    return testing::read_all(cx, theta, true);
  };
  testing::check_options options;
  options.step = step;
  return testing::directional_error(testing::read_all(cx, theta), loss, gradient, options);
}

}  // namespace

TEST_CASE("golden A19: the reward head's logits, rewards and the gradients of the rewards' sum") {
  context<B> cx;
  testing::poison(cx);
  const reward_head<B> head{3, 4};
  parameters<reward_head<B>> theta(cx, head, philox{1});
  theta.write(cx, theta.find("up.w"), values{-1.399, -0.033, 1.038, -0.266, 0.394, -0.627, 0.128, -0.815, -0.779, 1.36, 0.437, -1.446});
  theta.write(cx, theta.find("up.b"), values{0.022, -0.042, -0.181, 0.01});
  theta.write(cx, theta.find("down.w"), values{-0.363, 0.201, 0.287, -0.15});
  theta.write(cx, theta.find("down.b"), values{-0.113});
  const values h{0.973, -0.956, 1.132, -0.001, 1.395, -1.489}, ones{1, 1};
  auto [z, head_pullback] = head(cx, theta.weights, const_tensor<B>(h.data(), 2, 3));
  auto [r, squash_pullback] = token_rewards(cx, soft_clipped_reward{}, z);
  CHECK(largest_error(cx.read(z), values{-0.113, -0.23896105099999998}) < 1e-14);
  CHECK(largest_error(cx.read(r), values{0.5141782636549793, 0.47658939395066663}) < 1e-14);
  const values dh = cx.read(head_pullback(squash_pullback(const_accum_tensor<B>(ones.data(), 2)), theta.grads));
  CHECK(largest_error(dh, values{0, 0, 0, -0.07568206245231957, 0.004010650183323037, 0.026712094261881703}) < 1e-14);
  const auto gradient = [&](const char* name) { return theta.read_gradient(cx, theta.find(name)); };
  CHECK(largest_error(gradient("up.w"),
                      values{0, 0, 0, -5.90838967200183e-05, 0.08242203592442553, -0.08797592221610726, 0, 0, 0, 4.409246023881963e-05,
                             -0.06150898203315337, 0.06565367329560243}) < 1e-14);
  CHECK(largest_error(gradient("up.b"), values{0, 0.0590838967200183, 0, -0.044092460238819624}) < 1e-14);
  CHECK(largest_error(gradient("down.w"), values{0, 0.4237282489453217, 0, 0.8146373039359501}) < 1e-14);
  CHECK(largest_error(gradient("down.b"), values{0.596536482613115}) < 1e-14);
}

TEST_CASE("the reward head starts near nothing: weights within Xavier's bound times 1e-4, biases of -1e-4") {
  context<B> cx;
  const reward_head<B> head{48};
  parameters<reward_head<B>> theta(cx, head, philox{1});
  CHECK(theta.read(cx, theta.find("up.b")) == values(2048, -1e-4));
  CHECK(theta.read(cx, theta.find("down.b")) == values{-1e-4});
  for (const auto& [name, bound] : {std::pair{"up.w", 1e-4 * std::sqrt(6.0 / 2096)}, std::pair{"down.w", 1e-4 * std::sqrt(6.0 / 2049)}}) {
    const values w = theta.read(cx, theta.find(name));
    const auto [least, most] = std::minmax_element(w.begin(), w.end());
    CHECK(*most <= bound);
    CHECK(*most > 0.98 * bound);
    CHECK(*least >= -bound);
    CHECK(*least < -0.98 * bound);
  }
}

TEST_CASE("facts F1, F3: an untrained reward model gives every token .5487 and the first loss of averages is ln K!") {
  context<B> cx;
  const model_type model{{small}};
  parameters<model_type> theta(cx, model, philox{5});
  const auto rows = upload(cx, small_lists());
  const auto z = model(cx, theta.weights, rows).value;
  const values r = cx.read(token_rewards(cx, soft_clipped_reward{}, z).value);
  REQUIRE(r.size() == 15);
  for (const double reward : r) CHECK(std::abs(reward - 0.548702248576) < 1e-6);
  const values scores{0.3, 0.1, 0.7, 1, 2};
  const auto loss = listwise_preference{}(cx, z, lists_of(rows, scores));
  CHECK(cx.read_one(loss.total) == Approx((std::log(6.0) + std::log(2.0)) / 2).epsilon(1e-5));
}

TEST_CASE("the reward model passes the gradient check into head and language model, through logits and through preferences") {
  const values dz = normal_values(15, 8), scores{0.3, 0.1, 0.7, 1, 2};
  const auto weighted = [&](context<B>& cx, const generated_rows<B>&, accum_tensor<B> z) {
    const values host = cx.read(z);
    double total = 0;
    for (std::size_t i = 0; i < host.size(); ++i) total += host[i] * dz[i];
    return std::pair{host.size() == dz.size() ? total : NAN, const_accum_tensor<B>(dz.data(), 15)};
  };
  const auto preferred = [&](context<B>& cx, const generated_rows<B>& rows, accum_tensor<B> z) {
    const auto loss = listwise_preference{}(cx, z, lists_of(rows, scores));
    return std::pair{double(cx.read_one(loss.total)), const_accum_tensor<B>(loss.dz)};
  };
  for (const index_t inner : {1, 5, 17}) {
    CAPTURE(inner);
    CHECK(model_error({{small}, inner}, small_lists(), weighted) < 1e-7);
    CHECK(model_error({{small}, inner}, small_lists(), preferred) < 1e-7);
  }
}

TEST_CASE("a token's reward sees the prompt and the generation up to that token, nothing behind it and no other generation") {
  context<B> cx;
  const model_type model{{small}, 9};
  auto theta = testing::perturbed(cx, model);
  const std::vector<ids> prompts{{3, 17}, {3, 17}, {4}}, generations{{5, 6, 7}, {8, 9}, {10, 11}};
  const auto logits = [&](const std::vector<ids>& before, const std::vector<ids>& after) {
    packed_generations batch(small);
    for (std::size_t i = 0; i < before.size(); ++i) batch.add(before[i], after[i]);
    return cx.read(token_logits(cx, model, theta.weights, batch));
  };
  const values z = logits(prompts, generations);
  REQUIRE(z.size() == 7);
  const auto changed = [&](const values& other) {
    std::string where;
    for (std::size_t i = 0; i < 7; ++i) where += other[i] == z[i] ? '.' : 'x';
    return where;
  };
  auto other = generations;
  other[0][1] = 20;
  CHECK(changed(logits(prompts, other)) == ".xx....");
  other = generations;
  other[1][0] = 20;
  CHECK(changed(logits(prompts, other)) == "...xx..");
  auto asked = prompts;
  asked[2][0] = 20;
  CHECK(changed(logits(asked, generations)) == ".....xx");
  // Alone a generation has what it has in company, bit for bit.
  CHECK(same_bits(logits({{4}}, {{10, 11}}), values(z.begin() + 5, z.end())));
}

TEST_CASE("fact F15: rows are packed prompt by prompt and generation by generation") {
  const packed_generations batch = small_lists();
  CHECK(batch.count() == 5);
  CHECK(batch.generated_tokens() == 15);
  CHECK(batch.lists() == ids{0, 3, 5});
  CHECK(batch.first() == ids{0, 3, 4, 9, 11});
  CHECK(batch.length() == ids{3, 1, 5, 2, 4});
  CHECK(batch.offsets() == ids{0, 7, 12, 21, 23, 27});
  CHECK(batch.tokens() == ids{3, 17, 8, 0, 22, 11, 3, 3, 17, 8, 0, 5, 3, 17, 8, 0, 14, 20, 9, 1, 2, 7, 7, 6, 0, 21, 4});
  CHECK(batch.generated() == ids{4, 5, 6, 11, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26});
  CHECK(batch.positions() == ids{0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 1, 2, 3});
  CHECK(batch.predicts() == ids{-1, -1, -1, 0, 1, 2, -1, -1, -1, -1, 3, -1, -1, -1, -1, 4, 5, 6, 7, 8, -1, 10, -1, 12, 13, 14, -1});
  for (std::size_t i = 0; i < batch.number().size(); ++i) {
    const int number = batch.number()[i];
    CHECK((number < 0 ? batch.positions()[i] < 4 : batch.generated()[static_cast<std::size_t>(number)] == static_cast<int>(i)));
  }
  packed_generations again = small_lists();
  again.clear();
  CHECK(again.count() == 0);
  again.add(ids{1}, ids{2});
  CHECK(again.offsets() == ids{0, 2});
  CHECK(again.generated() == ids{1});
  CHECK(again.predicts() == ids{0, -1});
  CHECK(again.first() == ids{0});
}

TEST_CASE("a policy predicts a token one row before the reward model has read it, and is trained with its reward there") {
  context<B> cx;
  testing::poison(cx);
  const auto rows = upload(cx, small_lists());
  values r(15);
  for (std::size_t m = 0; m < 15; ++m) r[m] = 0.25 + double(m);
  const guided_tokens<B> batch = predicted_tokens(cx, rows, const_accum_tensor<B>(r.data(), 15));
  CHECK(cx.read(batch.tokens) ==
        ids{-1, -1, -1, 22, 11, 3, -1, -1, -1, -1, 5, -1, -1, -1, -1, 14, 20, 9, 1, 2, -1, 7, -1, 0, 21, 4, -1});
  const values earned = cx.read(batch.rewards);
  CHECK(earned == values{0, 0, 0, 0.25, 1.25, 2.25, 0, 0, 0, 0, 3.25, 0, 0, 0, 0, 4.25, 5.25, 6.25, 7.25, 8.25, 0, 10.25, 0, 12.25, 13.25,
                         14.25, 0});
  CHECK(cx.read(batch.offsets) == ids{0, 7, 12, 21, 23, 27});
  CHECK_THROWS_WITH(predicted_tokens(cx, rows, const_accum_tensor<B>(r.data(), 14)), "predicted_tokens: 14 rewards for 15 generated tokens");
  // Ascent along it makes what is rewarded more probable than what is not.
  const transformer_lm<B> policy{{23, 12, 12, 3, 1}};
  parameters<transformer_lm<B>> theta(cx, policy, philox{5});
  packed_generations two(policy.sizes);
  two.add(ids{3}, ids{8, 1}), two.add(ids{3}, ids{9, 2});
  const values worth{1, 1, 0.1, 0.1};
  const auto weights = theta.flat_weights();
  adamw<B> adam{cx, weights.size()};
  values nll;
  for (int step = 0; step < 40; ++step) {
    auto scope = cx.scope();
    const auto packed = upload(cx, two);
    auto [h, pullback] = policy(cx, theta.weights, packed.tokens, packed.rows);
    const auto loss = guided_likelihood::maximum_entropy(0)(cx, h, theta.weights.token.table,
                                                            predicted_tokens(cx, packed, const_accum_tensor<B>(worth.data(), 4)),
                                                            theta.grads.token.table);
    nll = cx.read(loss.nll);
    pullback(loss.gradient, theta.grads);
    adam.step(cx, weights, theta.flat_grads(), 0.01);
  }
  // The first row of both is the same state; 1 against .1 is what likelihood weighted so makes of it.
  CHECK(std::exp(-nll[0]) == Approx(1 / 1.1).epsilon(0.05));
  CHECK(std::exp(-nll[3]) == Approx(0.1 / 1.1).epsilon(0.3));
}

TEST_CASE("with a frozen language model the head's gradients keep their bits and nothing else is written") {
  context<B> cx;
  const model_type model{{small}, 9};
  auto theta = testing::perturbed(cx, model);
  const values dz = normal_values(15, 8);
  const auto run = [&](bool frozen) {
    testing::poison(cx);
    theta.zero_grads(cx);
    auto scope = cx.scope();
    auto g = theta.grads;
    if (frozen) g.lm = {};
    model(cx, theta.weights, upload(cx, small_lists())).pullback(const_accum_tensor<B>(dz.data(), 15), g);
    return std::pair{gradients_of(cx, theta, "head."), gradients_of(cx, theta, "lm.")};
  };
  const auto [head, lm] = run(false);
  const auto [head_alone, nothing] = run(true);
  CHECK(head == head_alone);
  REQUIRE(lm.size() == nothing.size());
  for (std::size_t n = 0; n < lm.size(); ++n) {
    CHECK(lm[n] != nothing[n]);
    CHECK(nothing[n] == values(nothing[n].size(), 0));
  }
}

TEST_CASE("fact F18: logits for use leave no gradient and no memory, and have the bits of training") {
  context<B> cx;
  const model_type model{{small}, 9};
  auto theta = testing::perturbed(cx, model);
  const auto batch = small_lists();
  const values trained = cx.read(model(cx, theta.weights, upload(cx, batch)).value);
  const values before = testing::read_all(cx, theta, true);
  auto scope = cx.scope();
  const accum_tensor<B> z = token_logits(cx, model, theta.weights, batch);
  CHECK(same_bits(cx.read(z), trained));
  CHECK(same_bits(testing::read_all(cx, theta, true), before));
  // What is made next follows the fifteen logits.
  const auto next = cx.make(index_t{1});
  CHECK(next.data - z.data >= 15);
  CHECK(next.data - z.data < 64);
}

TEST_CASE("fact F28: a reward model learns an order of generations, with the same bits in every run and for any number of threads") {
  using F = cpu<float>;
  const auto train = [](int threads) {
    context<F> cx{F::queue(threads)};
    const reward_model<transformer_lm<F>> model{{{23, 12, 12, 3, 1}}, 32};
    parameters<reward_model<transformer_lm<F>>> theta(cx, model, philox{5});
    const auto weights = theta.flat_weights();
    adamw<F> adam{cx, weights.size()};
    const values scores{0.3, 0.1, 0.7, 1, 2};
    const auto batch = small_lists(model.lm.sizes);
    std::vector<float> losses;
    for (int step = 0; step < 60; ++step) {
      auto scope = cx.scope();
      const auto rows = upload(cx, batch);
      auto [z, pullback] = model(cx, theta.weights, rows);
      const auto loss = listwise_preference{}(cx, z, lists_of(rows, scores));
      losses.push_back(cx.read_one(loss.total));
      pullback(const_accum_tensor<F>(loss.dz), theta.grads);
      adam.step(cx, weights, theta.flat_grads(), 0.01);
    }
    return losses;
  };
  const std::vector<float> losses = train(1);
  CHECK(losses.front() == Approx((std::log(6.0) + std::log(2.0)) / 2).epsilon(1e-3));
  CHECK(losses.back() < 0.2);
  CHECK(same_bits(losses, train(1)));
  CHECK(same_bits(losses, train(2)));
  CHECK(same_bits(losses, train(3)));
}

TEST_CASE("logits are kept in the type of sums where activations are rounded more") {
  using D = testing::bfloat16_backend;
  context<D> cx;
  const reward_head<D> head{3, 4};
  parameters<reward_head<D>> theta(cx, head, philox{1});
  theta.write(cx, theta.find("up.w"), std::vector<float>{1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0});
  theta.write(cx, theta.find("down.w"), std::vector<float>{1, 1, 1, 1});
  theta.write(cx, theta.find("up.b"), std::vector<float>(4));
  theta.write(cx, theta.find("down.b"), std::vector<float>(1));
  const std::vector<bfloat16> h{bfloat16(256.f), bfloat16(1.f), bfloat16(0.0078125f)};
  CHECK(cx.read(head(cx, theta.weights, const_tensor<D>(h.data(), 1, 3)).value) == std::vector<float>{257.0078125f});
}

TEST_CASE("the head's kernels give a warp what they give a thread") {
  const std::vector<float> u = normal_values<float>(5 * 77, 1), w = normal_values<float>(77, 2), b{0.5f};
  std::vector<float> alone(5), together(5);
  const kernel::reward_logit<float> one{u.data(), w.data(), b.data(), alone.data(), 77}, many{u.data(), w.data(), b.data(), together.data(), 77};
  for (index_t r = 0; r < 5; ++r) one(serial_team{}, r);
  testing::run_lanes<32>(5, many);
  CHECK(largest_error(together, alone) < 1e-6);
}

TEST_CASE("a batch refuses generations that nothing can be said of, with the number and the remedy") {
  packed_generations batch(small);
  CHECK_THROWS_WITH(batch.end_list(), "packed_generations: a list without generations; add some before end_list");
  batch.add(ids{1}, ids{2});
  CHECK_THROWS_WITH(batch.add(ids{1}, ids{}), "generation 1 has no token, so nothing of it can be rewarded; leave it out");
  CHECK_THROWS_WITH(batch.add(ids(9, 1), ids(4, 1)),
                    "generation 1 has 9 tokens of a prompt and 4 of its own, the model holds 12; shorten the prompt");
  CHECK_THROWS_WITH(batch.add(ids{1}, ids{2, 23}),
                    "generation 1 has the token 23, the model knows 0 to 22; tokenise it with the model's vocabulary");
  CHECK_THROWS_AS(batch.add(ids{-1}, ids{2}), input_error);
  CHECK(batch.count() == 1);
  CHECK(batch.tokens() == ids{1, 2});
  context<B> cx;
  CHECK_THROWS_AS(upload(cx, packed_generations(small)), error);
  const model_type model{{small}, 9};
  auto theta = testing::perturbed(cx, model);
  const values two{1, 1};
  CHECK_THROWS_AS(model(cx, theta.weights, upload(cx, batch)).pullback(const_accum_tensor<B>(two.data(), 2), theta.grads), shape_error);
}
