#include <planlm/training/guidance_round.hpp>

#include <cmath>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/layers/linear.hpp>
#include <planlm/testing/compare.hpp>

#include "../backend/bfloat16_backend.hpp"
#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;
using values = std::vector<double>;

namespace {

/// Three weights on the host, whose gradient a test writes.
template <Backend D>
struct three_weights {
  context<D> cx;
  linear<D> layer{3, 1, false};
  parameters<linear<D>> theta{cx, layer, philox{1}};

  explicit three_weights(std::vector<typename D::accum> start = {1, 2, 3}) { theta.write(cx, 0, start); }
  std::vector<typename D::accum> read() { return theta.read(cx, 0); }
  void add_gradient(std::vector<double> g) {
    for (std::size_t i = 0; i < g.size(); ++i) theta.flat_grads().data[i] = static_cast<typename D::accum>(g[i]);
  }
};

guidance_round_options steps(index_t steps, index_t validate_every) {
  guidance_round_options options;
  options.steps = steps;
  options.validate_every = validate_every;
  options.rate = 0.1;
  return options;
}

}  // namespace

TEST_CASE("a round goes on from the weights that are there with an optimiser that remembers nothing") {
  three_weights<B> own;
  // Adam's first step is the rate against the sign of the gradient; a step that remembered the first round would go on.
  train_guidance(own.cx, own.theta, steps(1, 1), [&](index_t) { own.add_gradient({1, -1, 1}); }, [] { return 1.0; });
  CHECK(testing::largest_error(own.read(), values{0.9, 2.1, 2.9}) < 1e-8);
  train_guidance(own.cx, own.theta, steps(1, 1), [&](index_t) { own.add_gradient({-1, -1, 0}); }, [] { return 1.0; });
  CHECK(testing::largest_error(own.read(), values{1, 2.2, 2.9}) < 1e-8);
}

TEST_CASE("a round leaves the weights of its best validation, or its last ones if asked to") {
  for (const auto leaves : {guidance_weights::best, guidance_weights::last}) {
    three_weights<B> own;
    guidance_round_options options = steps(8, 2);
    options.leaves = leaves;
    std::vector<values> at;
    const values losses{3, 1, 2, 1.5};
    const auto report = train_guidance(own.cx, own.theta, options, [&](index_t) { own.add_gradient({1, 0, -1}); },
                                       [&] {
                                         at.push_back(own.read());
                                         return losses.at(at.size() - 1);
                                       });
    CHECK(report.validations == losses);
    CHECK(report.best == 1);
    CHECK(report.steps == 8);
    CHECK_FALSE(report.stopped_early);
    REQUIRE(at.size() == 4);
    CHECK(at[1] != at[3]);
    CHECK(testing::same_bits(own.read(), at[leaves == guidance_weights::best ? 1 : 3]));
  }
}

TEST_CASE("the best weights come back with all their digits where layers read rounded ones") {
  using D = testing::bfloat16_backend;
  three_weights<D> own;
  guidance_round_options options = steps(3, 1);
  options.rate = 1e-3;
  std::vector<std::vector<float>> at;
  train_guidance(own.cx, own.theta, options, [&](index_t) { own.add_gradient({1, 1, 1}); },
                 [&] {
                   at.push_back(own.read());
                   return at.size() == 1 ? 1.0 : 2.0;
                 });
  REQUIRE(at.size() == 3);
  CHECK(testing::same_bits(own.read(), at[0]));
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(static_cast<float>(own.theta.weights.w.data[i]) == static_cast<float>(bfloat16(at[0][i])));
}

TEST_CASE("a round stops when validations stop improving, at a rate that has fallen on the way") {
  three_weights<B> own;
  guidance_round_options options;  // as published for prompts: at most 100 validations, 100 steps apart
  index_t batches = 0;
  const auto report = train_guidance(own.cx, own.theta, options,
                                     [&](index_t step) {
                                       CHECK(step == batches);
                                       ++batches;
                                     },
                                     [&] { return batches <= 300 ? 1.0 / static_cast<double>(batches) : 1.0; });
  CHECK(report.stopped_early);
  CHECK(report.steps == 1000);  // the best is number three, seven more
  CHECK(batches == 1000);
  CHECK(report.rate == 5e-5 * 0.8 * 0.8);
}

TEST_CASE("with a validation at the end alone, as published for summaries, neither plateau nor early stop does anything") {
  guidance_round_options options;
  options.steps = 898;
  options.validate_every = 2244;
  guidance_round round(options);
  std::vector<index_t> validated;
  while (!round.finished()) {
    if (!round.stepped()) continue;
    validated.push_back(round.steps());
    round.validated(1);
  }
  CHECK(validated == std::vector<index_t>{898});
  CHECK(round.rate() == 5e-5);
  CHECK(round.stop().countdown() == 7);
}

TEST_CASE("the gradient of a round is clipped by its global norm") {
  three_weights<B> own;
  guidance_round_options options = steps(1, 1);
  options.leaves = guidance_weights::last;
  // Adam with an epsilon as large as the clipped gradient's norm moves by rate g / (|g| + epsilon).
  train_guidance(own.cx, own.theta, options, [&](index_t) { own.add_gradient({3, -4, 12}); }, [] { return 1.0; }, {.epsilon = 5});
  const auto moved = [](double g) { return 0.1 * g / (std::abs(g) + 5); };
  CHECK(testing::largest_error(own.read(), values{1 - moved(1.1538460650887643), 2 - moved(-1.5384614201183524),
                                                  3 - moved(4.615384260355057)}) < 1e-13);
}

TEST_CASE("a round goes on from a checkpoint at any step as if it had never stopped") {
  guidance_round_options options = steps(20, 3);
  options.patience = 3;
  options.plateau.patience = 1;
  const auto loss = [](index_t step) { return step < 7 ? 10.0 - static_cast<double>(step) : 5.0; };
  const auto run = [&](guidance_round round, index_t until) {
    while (!round.finished() && round.steps() < until)
      if (round.stepped()) round.validated(loss(round.steps()));
    return round;
  };
  const guidance_round whole = run(guidance_round(options), 20);
  CHECK(whole.steps() == 15);  // validations of 7 4 5 5 5
  CHECK(whole.rate() == 0.1 * 0.8);
  for (index_t cut = 0; cut < 20; ++cut) {
    guidance_round again(options);
    again.restore(run(guidance_round(options), cut).state());
    CHECK(run(again, 20).state() == whole.state());
  }
}

TEST_CASE("a round refuses settings out of range, damaged states and gradients that are no numbers") {
  CHECK_THROWS_WITH(guidance_round(steps(0, 1)), "guidance_round: steps = 0, expected at least 1");
  CHECK_THROWS_WITH(guidance_round(steps(1, 0)), "guidance_round: validate_every = 0, expected at least 1");
  guidance_round round(steps(1, 1));
  const values before = round.state();
  for (values bad : {values{}, values{2, 0.1, 1, 0, 1, 7}, values{1, 0.1, 1, 9, 1, 7}, values{1, 0.1, 1, 0, 1, 8}, values{0, 1, 1, 1, 1}}) {
    CHECK_THROWS_AS(round.restore(bad), input_error);
    CHECK(round.state() == before);
  }
  round.stepped();
  CHECK(round.finished());
  CHECK_THROWS_WITH(round.stepped(), "guidance_round: step 2 of a round that is finished");

  three_weights<B> own;
  CHECK_THROWS_AS(train_guidance(own.cx, own.theta, steps(3, 1), [&](index_t) { own.add_gradient({1, NAN, 1}); }, [] { return 1.0; }),
                  numeric_error);
  CHECK(own.read() == values{1, 2, 3});
  CHECK_THROWS_AS(train_guidance(own.cx, own.theta, steps(3, 1), [](index_t) {}, [] { return NAN; }), numeric_error);
  parameters<linear<B>> frozen{own.cx, own.layer, philox{1}, parameters<linear<B>>::gradients::none};
  CHECK_THROWS_AS(train_guidance(own.cx, frozen, steps(3, 1), [](index_t) {}, [] { return 1.0; }), error);
}
