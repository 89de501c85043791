#include <planlm/objectives/listwise_preference.hpp>

#include <algorithm>
#include <planlm/testing/lane_team.hpp>

#include "preference_case.hpp"

using namespace objectives_test;

namespace {
template <class F = aggregation::average, class G = soft_clipped_reward>
auto loss_of(const F& f = {}, const G& g = {}, const plackett_luce& ranking = {}) {
  return [=](context<B>& cx, view<const double, 1> z, const preference_lists<B>& lists) {
    return listwise_preference<G, F>{g, f, ranking}(cx, z, lists);
  };
}
template <class F>
void for_each_aggregation(const F& f, double beta = 2) {
  f(aggregation::sum{}, "sum");
  f(aggregation::average{}, "avg");
  f(aggregation::soft_max{beta}, "max");
  f(aggregation::soft_min{beta}, "min");
}
double log_factorial(int n) { return std::lgamma(n + 1.0); }

/// Loss and gradient of one list as defined, quadratic and in long double.
std::pair<double, numbers> by_definition(const numbers& e, const numbers& y) {
  std::vector<std::size_t> order(e.size());
  for (std::size_t i = 0; i < e.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return y[a] > y[b]; });
  long double loss = 0;
  std::vector<long double> g(e.size(), -1);
  for (std::size_t k = 0; k < e.size(); ++k) {
    long double top = -INFINITY, sum = 0;
    for (std::size_t i = k; i < e.size(); ++i) top = std::max(top, static_cast<long double>(e[order[i]]));
    for (std::size_t i = k; i < e.size(); ++i) sum += std::exp(e[order[i]] - top);
    loss += top + std::log(sum) - e[order[k]];
    for (std::size_t i = k; i < e.size(); ++i) g[order[i]] += std::exp(e[order[i]] - top) / sum;
  }
  return {static_cast<double>(loss), numbers(g.begin(), g.end())};
}
}  // namespace

TEST_CASE("A05: the loss of lists has the published value and gradient, also with the published epsilon") {
  const auto& c = preference_golden("A05_listmle");
  const numbers e = flattened(c.at("e")), y = flattened(c.at("true_score"));
  const auto [loss, de] = rank(e, y, 4);
  CHECK(std::abs(loss - c.at("expected").at("loss").get<double>()) < 1e-13);
  CHECK(gap(de, flattened(c.at("expected").at("grad_e"))) < 1e-13);
  const auto [inexact, near] = rank(e, y, 4, {.epsilon = 1e-10});
  CHECK(std::abs(inexact - c.at("expected").at("loss_eps1e10").get<double>()) < 1e-13);
  CHECK(gap(near, de) < 1e-8);
  CHECK(gap(near, de) > 1e-11);
}

TEST_CASE("A06, F7: two places are a comparison of two, softplus of the worse minus the better, however far they are apart") {
  const auto& c = preference_golden("A06_listmle_pairwise");
  const auto [published, dpublished] = rank(flattened(c.at("e")), {1, 0}, 2);
  CHECK(std::abs(published - c.at("expected").at("softplus").get<double>()) < 1e-15);
  CHECK(gap(dpublished, flattened(c.at("expected").at("grad_e"))) < 1e-15);
  for (const double d : {-900.0, -40.0, -1.0, 0.0, 1e-9, 3.0, 40.0, 900.0}) {
    CAPTURE(d);
    const auto [loss, de] = rank({0, d}, {2, 7}, 2);  // the second is better
    CHECK(loss == preference_kernel::softplus(-d));
    CHECK(de[0] == preference_kernel::logistic(-d));
    CHECK(de[1] == -preference_kernel::logistic(-d));
  }
}

TEST_CASE("A07, F3: equal scores make a loss of ln K!, the first one of a head that starts with one logit everywhere") {
  const auto& c = preference_golden("A07_listmle_uniform");
  for (std::size_t i = 0; i < c.at("K").size(); ++i) {
    const int k = c.at("K").at(i).get<int>();
    numbers e(static_cast<std::size_t>(k), 0.37), y;
    for (int j = 0; j < k; ++j) y.push_back((j * 7) % 11);
    CHECK(std::abs(rank(e, y, k).first - c.at("expected").at("loss").at(i).get<double>()) < 1e-13);
  }
  list_batch uneven = list_batch::random({4, 16, 7, 9, 5, 11, 4, 8, 6, 12}, {0, 5, 10}, 100);
  list_batch even = list_batch::random({5, 5, 5, 5, 5, 5, 5, 5, 5, 5}, {0, 5, 10}, 110);
  uneven.each_token([&](std::size_t i) { uneven.z[i] = -1e-4; });
  even.each_token([&](std::size_t i) { even.z[i] = -1e-4; });
  for_each_aggregation([&](const auto& f, const std::string& name) {
    CAPTURE(name);
    CHECK(std::abs(evaluate(even, loss_of(f)).total - log_factorial(5)) < 1e-12);
    if (name == "avg") CHECK(std::abs(evaluate(uneven, loss_of(f)).total - log_factorial(5)) < 1e-12);
    else CHECK(std::abs(evaluate(uneven, loss_of(f)).total - log_factorial(5)) > 0.1);
  });
}

TEST_CASE("A08: ties go by their numbers, then by place, and both orders have the published losses") {
  const auto& c = preference_golden("A08_listmle_ties");
  const numbers e = flattened(c.at("e")), y = flattened(c.at("true_score"));
  const double first = c.at("expected").at("loss_01").get<double>(), second = c.at("expected").at("loss_10").get<double>();
  CHECK(std::abs(rank(e, y, 3).first - first) < 1e-14);
  CHECK(std::abs(rank(e, y, 3, {}, {4, 4, 0}).first - first) < 1e-14);
  CHECK(std::abs(rank(e, y, 3, {}, {0, 1, 2}).first - first) < 1e-14);
  CHECK(std::abs(rank(e, y, 3, {}, {9, 1, 0}).first - second) < 1e-14);
}

TEST_CASE("shuffled ties are the same for the same seed and put either of two first half the time") {
  std::vector<int> offsets;
  for (int l = 0; l <= 2000; ++l) offsets.push_back(2 * l);
  const std::vector<int> tie = shuffled_ties(philox{7, 0, 3}, offsets);
  CHECK(tie == shuffled_ties(philox{7, 0, 3}, offsets));
  CHECK(tie != shuffled_ties(philox{8, 0, 3}, offsets));
  int earlier = 0, negative = 0;
  for (std::size_t l = 0; l < 2000; ++l) earlier += tie[2 * l] < tie[2 * l + 1], negative += tie[2 * l] < 0;
  CHECK(std::abs(earlier - 1000) < 120);
  CHECK(negative == 0);
  CHECK(shuffled_ties(philox{}, {}).empty());
  CHECK_THROWS_WITH(shuffled_ties(philox{}, std::vector<int>{0, 5, 3}), "shuffled_ties: offset 2 is 3, expected at least 5");
  CHECK_THROWS_AS(shuffled_ties(philox{}, std::vector<int>{-4, 3}), shape_error);
}

TEST_CASE("A09, F14: from logits to loss and back every aggregation has the published numbers, and nothing of the NaN in the padding") {
  const auto& c = preference_golden("A09_guidance_end_to_end");
  for_each_aggregation([&](const auto& f, const std::string& name) {
    CAPTURE(name);
    const auto& expected = c.at("expected").at(name);
    const list_batch padded = list_batch::of(c.at("z"), c.at("mask"), 3);
    for (list_batch b : {padded, list_batch::of(c.at("z"), c.at("mask"), 3, 0), list_batch::of(c.at("z"), c.at("mask"), 3, 2)}) {
      b.score = flattened(c.at("true_score"));
      const list_outcome o = evaluate(b, loss_of(f));
      CHECK(std::abs(o.total - expected.at("loss").template get<double>()) < 1e-13);
      CHECK(gap(o.score, flattened(expected.at("e"))) < 1e-13);
      CHECK(gap(b.tokens(o.dz), padded.tokens(flattened(expected.at("grad_z")))) < 1e-13);
      CHECK(b.nothing_between(o.dz));  // F14: all of it is NaN
      CHECK(o.silent == 0);
    }
  });
}

TEST_CASE("F4, F5, F6, F8: gradients of a list sum to 0; shifts of e, the order of places and the scale of true scores do not count") {
  const numbers e = planlm::testing::normal_values(6, 200, 2), y = planlm::testing::normal_values(6, 201);
  const auto [loss, de] = rank(e, y, 6);
  double sum = 0;
  for (const double g : de) sum += g;
  CHECK(std::abs(sum) < 1e-15);
  for (const double shift : {1e3, -1e3}) {
    numbers moved = e;
    for (double& v : moved) v += shift;
    const auto [same, dsame] = rank(moved, y, 6);
    CHECK(std::abs(same - loss) < 1e-11);
    CHECK(gap(dsame, de) < 1e-12);
  }
  const std::size_t to[] = {3, 0, 5, 1, 4, 2};
  numbers pe(6), py(6), pde(6), grown(6);
  for (std::size_t i = 0; i < 6; ++i) pe[to[i]] = e[i], py[to[i]] = y[i], pde[to[i]] = de[i], grown[i] = std::exp(3 * y[i]) - 40;
  CHECK(rank(pe, py, 6) == std::pair{loss, pde});
  CHECK(rank(e, grown, 6) == std::pair{loss, de});
}

TEST_CASE("lists of any length agree with the definition, with scores that are far apart too") {
  for (const int k : {2, 3, 17, 300})
    for (const double spread : {0.1, 5.0, 200.0}) {
      CAPTURE(k, spread);
      const numbers e = planlm::testing::normal_values(k, 210, spread);
      numbers y = planlm::testing::normal_values(k, 211);
      for (double& v : y) v = std::round(4 * v);  // ties
      y[0] = 50;
      const auto [expected, gradient] = by_definition(e, y);
      const auto [loss, de] = rank(e, y, k);
      CHECK(std::abs(loss / expected - 1) < 1e-13);
      CHECK(gap(de, gradient) < 1e-11);
    }
}

TEST_CASE("the published epsilon pushes up what is ranked last and lies far below, the true sum does not") {
  const numbers e{0, -30}, y{1, 0};
  const auto [loss, de] = rank(e, y, 2);
  CHECK((loss > 0 && loss < 1e-12));
  CHECK((de[1] > 0 && de[1] < 1e-12));
  const auto [published, dpublished] = rank(e, y, 2, {.epsilon = 1e-10});
  CHECK(std::abs(published - 6.975) < 1e-3);
  CHECK(std::abs(dpublished[1] + 1) < 1e-2);
  CHECK(std::abs(dpublished[0] + dpublished[1]) < 1e-12);
  const numbers far{0.5, -12, 1, -21, -25}, order{5, 4, 3, 2, 1};
  const auto value = [&](const numbers& x) { return rank(x, order, 5, {.epsilon = 1e-10}).first; };
  const auto gradient = [&](const numbers& x) { return rank(x, order, 5, {.epsilon = 1e-10}).second; };
  CHECK(planlm::testing::directional_error(far, value, gradient) < 1e-7);
}

TEST_CASE("losses have the gradients of their values for every aggregation and squash") {
  list_batch b = list_batch::random({5, 2, 0, 3, 1, 7, 4, 1, 2}, {0, 3, 4, 9}, 300);
  list_batch shared = list_batch::random({5, 2, 3, 6}, {0, 3, 5, 9}, 310);
  shared.item = {0, 1, 2, 3, 0, 2, 1, 3, 0};
  shared.score = {2, 1, 3, 1, 1, 5, 4, 5, 5};
  shared.tie = {0, 0, 0, 1, 0, 3, 0, 2, 1};
  for (const list_batch& batch : {b, shared}) {
    for (const double beta : {2.0, 0.3})
      for_each_aggregation(
          [&](const auto& f, const std::string& name) {
            CAPTURE(name, beta);
            CHECK(gradient_gap(batch, loss_of(f)) < 1e-8);
            CHECK(gradient_gap(batch, loss_of(f, sigmoid_reward{})) < 1e-8);
          },
          beta);
    CHECK(gradient_gap(batch, loss_of(aggregation::soft_max{0.5, true, true}, soft_clipped_reward{2, 0.1})) < 1e-8);
    CHECK(gradient_gap(batch, loss_of(aggregation::soft_min{0.5, false, true}, soft_clipped_reward{}, {equal_scores::ordered})) < 1e-8);
    CHECK(batch.nothing_between(evaluate(batch, loss_of()).dz));
  }
}

TEST_CASE("a generation in several lists has the gradient of all of them") {
  list_batch shared = list_batch::random({3, 1, 4}, {0, 3, 5}, 320), apart = shared;
  shared.item = {0, 1, 2, 2, 0};
  shared.score = {3, 1, 2, 5, 4};
  apart.score = shared.score;
  apart.first.clear(), apart.length.clear(), apart.z.clear();  // each place with logits of its own
  for (const int s : shared.item) {
    const auto g = static_cast<std::size_t>(s);
    apart.first.push_back(static_cast<int>(apart.z.size()));
    apart.length.push_back(shared.length[g]);
    for (int t = 0; t < shared.length[g]; ++t) apart.z.push_back(shared.z[static_cast<std::size_t>(shared.first[g] + t)]);
  }
  for_each_aggregation([&](const auto& f, const std::string& name) {
    CAPTURE(name);
    const list_outcome one = evaluate(shared, loss_of(f)), each = evaluate(apart, loss_of(f));
    CHECK(std::abs(one.total - each.total) < 1e-14);
    CHECK(gap(one.score, each.score) < 1e-14);
    numbers sum(shared.z.size());
    for (std::size_t i = 0; i < 5; ++i)
      for (int t = 0; t < apart.length[i]; ++t)
        sum[static_cast<std::size_t>(shared.first[static_cast<std::size_t>(shared.item[i])] + t)] +=
            each.dz[static_cast<std::size_t>(apart.first[i] + t)];
    CHECK(gap(one.dz, sum) < 1e-14);
  });
}

TEST_CASE("true scores that only double tells apart are no ties, in a float backend either") {
  list_batch b = list_batch::random({2, 2}, {0, 2}, 325);
  b.score = {1, 1 + 1e-12};
  const std::vector<float> z(b.z.begin(), b.z.end());
  context<cpu<float>> cx;
  const auto l = listwise_preference<>{}(cx, view<const float, 1>(z.data(), z.size()), b.lists<cpu<float>>());
  CHECK(cx.read_one(l.silent) == 0);
  CHECK(cx.read(l.dz)[1] > 0);
}

TEST_CASE("a list whose scores are all equal is counted and teaches nothing, unless an order of its ties is wanted") {
  list_batch b = list_batch::random({3, 2, 4, 1, 5}, {0, 2, 5}, 330);
  b.score = {7, 7, 1, 3, 2};
  const list_outcome o = evaluate(b, loss_of());
  CHECK(o.silent == 1);
  CHECK(o.each[0] == 0);
  CHECK(std::abs(o.total - o.each[1] / 2) < 1e-15);
  CHECK(b.tokens(o.dz)[0] == 0);
  const list_outcome taken = evaluate(b, loss_of(aggregation::average{}, soft_clipped_reward{}, {equal_scores::ordered}));
  CHECK(taken.silent == 1);
  CHECK(std::abs(taken.each[0] - preference_kernel::softplus(o.score[1] - o.score[0])) < 1e-15);
  CHECK(b.tokens(taken.dz)[0] < 0);
  b.score = {7, 7, 1, 1, 1};
  const list_outcome none = evaluate(b, loss_of());
  CHECK(none.silent == 2);
  CHECK(none.total == 0);
  CHECK(gap(none.dz, numbers(b.z.size())) == 0);
}

TEST_CASE("without lengths every place of a generation counts, whatever the number of that generation") {
  list_batch b;
  b.offsets = {0, 3}, b.score = {1, 3, 2}, b.item = {70, 2, 15};
  const numbers e{0.3, -0.2, 0.8};
  context<B> cx;
  const auto l = plackett_luce{}(cx, row(e), b.lists());
  const auto [loss, de] = rank(e, b.score, 3);
  CHECK(cx.read_one(l.total) == loss);
  CHECK(cx.read(l.de) == de);
  CHECK(cx.read_one(l.silent) == 0);
  b.item[1] = -1;  // no generation
  const auto two = plackett_luce{}(cx, row(e), b.lists());
  CHECK(cx.read_one(two.total) == rank({0.3, 0.8}, {1, 2}, 2).first);
  CHECK(cx.read(two.de)[1] == 0);
}

TEST_CASE("generations without tokens are as if they were not in their list") {
  list_batch b = list_batch::random({3, 0, 4, 2, 0, 0, 5, 0}, {0, 4, 6, 8}, 340), without = b;
  without.length = {3, 4, 2, 5}, without.first = {b.first[0], b.first[2], b.first[3], b.first[6]};
  without.score = {b.score[0], b.score[2], b.score[3], b.score[6]};
  without.offsets = {0, 3, 3, 4};
  for_each_aggregation([&](const auto& f, const std::string& name) {
    CAPTURE(name);
    const list_outcome o = evaluate(b, loss_of(f)), w = evaluate(without, loss_of(f));
    CHECK(o.total == w.total);
    CHECK(o.dz == w.dz);
    CHECK(o.silent == 2);  // nobody, and one alone
    CHECK(w.silent == 2);
    CHECK((o.each[1] == 0 && o.each[2] == 0));
  });
}

TEST_CASE("a true score or a logit that is no number makes the loss none, one of a generation without tokens does not") {
  list_batch b = list_batch::random({3, 0, 4, 2, 3}, {0, 3, 5}, 350);
  b.score[1] = nan_value;
  CHECK(std::isfinite(evaluate(b, loss_of()).total));
  list_batch scored = b;
  scored.score[0] = nan_value;
  const list_outcome o = evaluate(scored, loss_of());
  CHECK((std::isnan(o.total) && std::isnan(o.each[0]) && std::isfinite(o.each[1])));
  CHECK(std::isnan(o.dz[static_cast<std::size_t>(b.first[2])]));
  CHECK(std::isfinite(o.dz[static_cast<std::size_t>(b.first[4])]));
  scored.score[0] = -INFINITY;  // the worst, and no news for e
  CHECK(std::isfinite(evaluate(scored, loss_of()).total));
  b.z[static_cast<std::size_t>(b.first[0])] = nan_value;
  CHECK(std::isnan(evaluate(b, loss_of()).total));
}

TEST_CASE("F28: two runs have the same bits, on one thread as on three, and float agrees with double") {
  const list_batch b = list_batch::random({40, 3, 17, 1, 9, 30, 2, 5, 8, 12, 6, 7}, {0, 4, 9, 12}, 360);
  for_each_aggregation([&](const auto& f, const std::string& name) {
    CAPTURE(name);
    const list_outcome o = evaluate(b, loss_of(f)), again = evaluate(b, loss_of(f)), three = evaluate(b, loss_of(f), 3);
    CHECK((o.total == again.total && o.total == three.total));
    CHECK(planlm::testing::same_bits(o.dz, again.dz));
    CHECK(planlm::testing::same_bits(o.dz, three.dz));
    CHECK(planlm::testing::same_bits(o.each, three.each));
    const std::vector<float> z(b.z.begin(), b.z.end());
    context<cpu<float>> cx;
    planlm::testing::poison(cx);
    const listwise_preference<soft_clipped_reward, std::remove_cvref_t<decltype(f)>> loss{{}, f};
    const auto l = loss(cx, view<const float, 1>(z.data(), z.size()), b.lists<cpu<float>>());
    CHECK(std::abs(double(cx.read_one(l.total)) / o.total - 1) < 2e-6);
    CHECK(planlm::testing::relative_error(cx.read(l.dz), o.dz) < 2e-6);
  });
}

TEST_CASE("logits of sixteen bits have the loss of their values, and gradients rounded once") {
  list_batch b = list_batch::random({4, 2, 7, 3, 5}, {0, 2, 5}, 365);
  std::vector<bfloat16> z;
  for (double& v : b.z) {
    z.push_back(bfloat16(static_cast<float>(v)));
    v = static_cast<double>(static_cast<float>(z.back()));
  }
  const list_outcome exact = evaluate(b, loss_of());
  context<cpu<float>> cx;
  planlm::testing::poison(cx);
  const auto l = listwise_preference<>{}(cx, view<const bfloat16, 1>(z.data(), z.size()), b.lists<cpu<float>>());
  CHECK(std::abs(double(cx.read_one(l.total)) / exact.total - 1) < 1e-6);
  numbers dz;
  for (const bfloat16 g : cx.read(l.dz)) dz.push_back(static_cast<double>(static_cast<float>(g)));
  for (std::size_t i = 0; i < dz.size(); ++i) CHECK(std::abs(dz[i] - exact.dz[i]) <= std::abs(exact.dz[i]) / 256);
}

TEST_CASE("kernels of ranks give a lane team the numbers of one thread") {
  numbers e = planlm::testing::normal_values(60, 370, 2), y = planlm::testing::normal_values(60, 371);
  for (double& v : y) v = std::round(2 * v);
  list_batch b;
  b.score = y, b.offsets = {0, 2, 2, 35, 36, 60}, b.tie.assign(60, 0), b.length.assign(60, 3);
  for (std::size_t i = 0; i < 60; ++i) b.tie[i] = static_cast<int>(i * 17 % 5);
  b.length[40] = b.length[3] = 0;
  const auto run = [&](auto launch) {
    numbers behind(60), loss(5), uninformed(5), each(5), de(60), total(1), silent(1);
    std::vector<index_t> order(60);
    launch(5, preference_kernel::rank_lists<double>{preference_detail::reader(b.lists(), 0), e.data(), y.data(), b.tie.data(), order.data(),
                                                    behind.data(), loss.data(), uninformed.data(), each.data(), de.data(), 0.2, 0,
                                                    equal_scores::left_out});
    launch(2, preference_kernel::mean_of_lists<double>{loss.data(), uninformed.data(), total.data(), silent.data(), 5});
    numbers out = loss;
    for (const numbers* v : {&uninformed, &each, &de, &total, &silent}) out.insert(out.end(), v->begin(), v->end());
    return out;
  };
  const numbers serial = run([](index_t n, const auto& kernel) {
    for (index_t r = 0; r < n; ++r) kernel(serial_team{}, r);
  });
  const numbers lanes = run([](index_t n, const auto& kernel) { planlm::testing::run_lanes<4>(n, kernel); });
  CHECK(gap(serial, lanes) < 1e-13);
}

namespace {
/// Twenty kinds of tokens of hidden quality, a sequence's true score their mean plus noise: the share of 2000 fresh pairs in which a table
/// of rewards puts the better one first after 600 steps of Adam on 16 lists of k, as a mean over five seeds.
template <class F>
double recovered(const F& f, int k, int shortest, int longest) {
  double right = 0;
  context<B> cx{B::queue(1)};
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const philox draws{seed, 0, 11};
    numbers quality(20), table(20, -1e-4), mean(20), square(20);
    for (std::size_t v = 0; v < 20; ++v) quality[v] = draws.uniform(v, 0);
    std::vector<int> token;
    const auto batch = [&](int lists, int places, std::uint32_t step) {
      const philox now = draws.with_stream(12).at_step(step);
      list_batch b;
      token.clear();
      for (int s = 0; s < lists * places; ++s) {
        const auto row = static_cast<std::uint64_t>(s);
        const int n = shortest + static_cast<int>(now.below(static_cast<std::uint32_t>(longest - shortest + 1), row, 0));
        double sum = 0;
        b.first.push_back(static_cast<int>(token.size()));
        b.length.push_back(n);
        for (int t = 0; t < n; ++t) {
          token.push_back(static_cast<int>(now.below(20, row, static_cast<std::uint32_t>(t + 1))));
          b.z.push_back(table[static_cast<std::size_t>(token.back())]);
          sum += quality[static_cast<std::size_t>(token.back())];
        }
        b.score.push_back(sum / n + 0.03 * now.with_stream(13).normal(row, 0));
      }
      b.lists_of(places);
      return b;
    };
    for (std::uint32_t step = 1; step <= 600; ++step) {
      const list_batch b = batch(16, k, step);
      auto scope = cx.scope();
      const view<double, 1> dz = loss_of(f)(cx, row(b.z), b.lists()).dz;
      numbers g(20);
      for (std::size_t i = 0; i < token.size(); ++i) g[static_cast<std::size_t>(token[i])] += dz.data[i];
      for (std::size_t v = 0; v < 20; ++v) {
        mean[v] = 0.9 * mean[v] + 0.1 * g[v], square[v] = 0.999 * square[v] + 0.001 * g[v] * g[v];
        table[v] -= 0.03 * (mean[v] / (1 - std::pow(0.9, step))) / (std::sqrt(square[v] / (1 - std::pow(0.999, step))) + 1e-8);
      }
    }
    const list_batch b = batch(2000, 2, 0);
    const numbers e = scores(b, soft_clipped_reward{}, f).first;
    int agree = 0;
    for (std::size_t i = 0; i < e.size(); i += 2) agree += (e[i] > e[i + 1]) == (b.score[i] > b.score[i + 1]);
    right += agree / 2000.0 / 5;
  }
  return right;
}
}  // namespace

TEST_CASE("the average finds the quality of tokens from scores of sequences of unequal length, where the sum finds their length") {
  const double average = recovered(aggregation::average{}, 5, 4, 16), sum = recovered(aggregation::sum{}, 5, 4, 16);
  CAPTURE(average, sum);
  CHECK(average >= 0.85);
  CHECK(sum <= 0.75);
  const double even_average = recovered(aggregation::average{}, 5, 5, 5), even_sum = recovered(aggregation::sum{}, 5, 5, 5);
  CHECK(even_average >= 0.85);
  CHECK(std::abs(even_average - even_sum) < 1e-6);
}

TEST_CASE("losses of lists refuse shapes that do not fit and an epsilon below 0") {
  const list_batch good = list_batch::random({2, 3}, {0, 2}, 380);
  const auto fails = [&](const auto& change, const plackett_luce& ranking = {}) {
    list_batch b = good;
    change(b);
    CHECK_THROWS_AS(evaluate(b, loss_of(aggregation::sum{}, sigmoid_reward{}, ranking)), error);
  };
  fails([](list_batch& b) { b.score.pop_back(); });
  fails([](list_batch& b) { b.item = {0, 1, 1}; });
  fails([](list_batch& b) { b.tie = {0}; });
  fails([](list_batch& b) { b.offsets = {}; });
  fails([](list_batch&) {}, {.epsilon = -1});
  fails([](list_batch&) {}, {.epsilon = nan_value});
  CHECK_THROWS_AS(rank({1, 2, 3}, {1, 2}, 2), shape_error);
  CHECK_THROWS_AS(evaluate(good, loss_of(aggregation::soft_min{0})), error);
}
