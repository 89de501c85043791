#include <planlm/ops/sampling.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <span>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/lane_team.hpp>

#include "../catch.hpp"

using namespace planlm;
using numbers = std::vector<double>;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// What a call returns, in host memory.
struct outcome {
  std::vector<int> token;
  numbers drawn, plain;
  bool operator==(const outcome& o) const {
    return token == o.token && testing::same_bits(drawn, o.drawn) && testing::same_bits(plain, o.plain);
  }
};
std::vector<int> counted(index_t n) {
  std::vector<int> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  return v;
}
template <class B = cpu<double>>
outcome draw(const std::vector<typename B::real>& logits, std::span<const sampling_rule> rules, const std::vector<int>& forced = {},
             philox random = philox{7}, int threads = 1) {
  context<B> cx{typename B::queue(threads)};
  testing::poison(cx);
  const auto rows = static_cast<index_t>(rules.size());
  const std::vector<int> places = counted(rows);
  const const_tensor<B> z(logits.data(), rows, static_cast<index_t>(logits.size()) / rows);
  const auto s = ops::sample(cx, z, rules, random, indices<B>(places.data(), rows),
                             forced.empty() ? indices<B>{} : indices<B>(forced.data(), rows));
  const auto drawn = cx.read(s.drawn), plain = cx.read(s.plain);
  return {cx.read(s.token), {drawn.begin(), drawn.end()}, {plain.begin(), plain.end()}};
}
/// log softmax of the candidates, -infinity for the others, by sorting.
numbers reference(const numbers& z, const sampling_rule& rule) {
  std::vector<std::size_t> order(z.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return z[a] > z[b]; });
  numbers p(z.size());
  for (std::size_t i = 0; i < z.size(); ++i) p[i] = std::exp((z[order[i]] - z[order[0]]) / rule.temperature);
  const auto k = std::min<std::size_t>(z.size(), static_cast<std::size_t>(rule.top_k));
  const double of_k = std::accumulate(p.begin(), p.begin() + static_cast<std::ptrdiff_t>(k), 0.0);
  std::size_t kept = k;
  double sum = of_k;
  if (rule.top_p < 1) {
    kept = 0, sum = 0;
    while (kept < k && sum < rule.top_p * of_k) sum += p[kept++];
  }
  numbers logp(z.size(), -infinity);
  for (std::size_t i = 0; i < kept; ++i) logp[order[i]] = std::log(p[i] / sum);
  return logp;
}
numbers repeated(const numbers& row, index_t rows) {
  numbers all;
  for (index_t r = 0; r < rows; ++r) all.insert(all.end(), row.begin(), row.end());
  return all;
}

}  // namespace

TEST_CASE("forced tokens have the log-probabilities of the candidates, and of the plain softmax") {
  for (const index_t vocabulary : {1, 2, 7, 61, 500})
    for (const sampling_rule rule : {sampling_rule{}, sampling_rule{.temperature = 0.6}, sampling_rule{.top_k = 1}, sampling_rule{.top_k = 5},
                                     sampling_rule{.top_p = 0.5}, sampling_rule{.temperature = 1.7, .top_p = 0.9, .top_k = 20},
                                     sampling_rule{.top_p = 1e-9}, sampling_rule{.top_k = 1000}}) {
      CAPTURE(vocabulary, rule.temperature, rule.top_k, rule.top_p);
      const numbers row = testing::normal_values(vocabulary, 3, 3);
      const std::vector<sampling_rule> rules(static_cast<std::size_t>(vocabulary), rule);
      const outcome o = draw(repeated(row, vocabulary), rules, counted(vocabulary));
      const numbers expected = reference(row, rule), plain = reference(row, {});
      for (std::size_t i = 0; i < row.size(); ++i) {
        CHECK(o.token[i] == int(i));
        CHECK((expected[i] == -infinity ? o.drawn[i] == -infinity : std::abs(o.drawn[i] - expected[i]) < 1e-12));
        CHECK(std::abs(o.plain[i] - plain[i]) < 1e-12);
      }
    }
}

TEST_CASE("what is drawn is scored by the bits that scoring it gives, in double and in float") {
  const index_t rows = 200, vocabulary = 997;
  const numbers z = testing::normal_values(rows * vocabulary, 11, 4);
  const std::vector<float> narrow(z.begin(), z.end());
  std::vector<sampling_rule> rules(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    rules[r].temperature = 0.5 + 0.01 * double(r);
    if (r % 3 == 1) rules[r].top_k = 40;
    if (r % 4 == 2) rules[r].top_p = 0.8;
    rules[r].greedy = r % 10 == 9;
  }
  const outcome wide = draw(z, rules);
  CHECK(draw(z, rules, wide.token) == wide);
  CHECK(draw(z, rules, std::vector<int>(rows, -1)) == wide);  // -1 forces nothing
  CHECK(draw(z, rules, {}, philox{7}, 3) == wide);
  const outcome thin = draw<cpu<float>>(narrow, rules);
  CHECK(draw<cpu<float>>(narrow, rules, thin.token) == thin);
  CHECK(thin.token == wide.token);  // no two keys of these rows are as near as float's rounding of the logits
  CHECK(testing::largest_error(thin.drawn, wide.drawn) < 2e-6);
  CHECK(testing::largest_error(thin.plain, wide.plain) < 2e-6);
  // Another step, stream or seed draws others; the greedy rows stay.
  for (const philox other : {philox{7, 1}, philox{7, 0, 1}, philox{8}}) {
    const outcome o = draw(z, rules, {}, other);
    int same = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      if (rules[r].greedy) CHECK(o.token[r] == wide.token[r]);
      else same += o.token[r] == wide.token[r];
    }
    CHECK(same < 90);
  }
}

TEST_CASE("draws are distributed as the rule says") {
  const numbers row{1.0, -0.5, 2.0, 0.3, -3.0, 1.5};
  const index_t draws = 40000;
  for (const sampling_rule rule : {sampling_rule{}, sampling_rule{.temperature = 2}, sampling_rule{.temperature = 0.5, .top_k = 4},
                                   sampling_rule{.top_p = 0.85}}) {
    CAPTURE(rule.temperature, rule.top_k, rule.top_p);
    const std::vector<sampling_rule> rules(static_cast<std::size_t>(draws), rule);
    const outcome o = draw(repeated(row, draws), rules);
    const numbers logp = reference(row, rule);
    double statistic = 0;
    int freedom = -1;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double expected = double(draws) * std::exp(logp[i]);
      const auto seen = static_cast<double>(std::count(o.token.begin(), o.token.end(), int(i)));
      if (expected == 0) {
        CHECK(seen == 0);
      } else {
        statistic += (seen - expected) * (seen - expected) / expected;
        ++freedom;
      }
    }
    CHECK(statistic < freedom + 4 * std::sqrt(2.0 * freedom) + 4);  // beyond the 99.9th percentile
  }
  // A flat row of many tokens: each is drawn about as often, first and last halves alike.
  const index_t wide = 1000, flat_draws = 4000;
  const std::vector<sampling_rule> rules(static_cast<std::size_t>(flat_draws));
  const outcome o = draw(numbers(static_cast<std::size_t>(wide * flat_draws)), rules);
  CHECK(std::set<int>(o.token.begin(), o.token.end()).size() > 950);
  const auto low = std::count_if(o.token.begin(), o.token.end(), [](int t) { return t < 500; });
  CHECK(std::abs(double(low) - 2000) < 4 * std::sqrt(1000.0));
}

TEST_CASE("candidates under top-k and top-p are those of a sort, for every k and p") {
  const numbers row = testing::normal_values(41, 9, 2);
  std::vector<sampling_rule> rules;
  for (int k = 1; k <= 42; ++k) rules.push_back({.top_k = k});
  for (int p = 1; p <= 50; ++p) rules.push_back({.temperature = 0.8, .top_p = p / 50.0});
  for (int p = 1; p <= 50; ++p) rules.push_back({.top_p = p / 50.0, .top_k = 17});
  for (const sampling_rule& rule : rules) {
    CAPTURE(rule.top_k, rule.top_p);
    const std::vector<sampling_rule> same(row.size(), rule);
    const outcome o = draw(repeated(row, 41), same, counted(41));
    const numbers expected = reference(row, rule);
    for (std::size_t i = 0; i < row.size(); ++i) CHECK((o.drawn[i] == -infinity) == (expected[i] == -infinity));
  }
}

TEST_CASE("equal logits stay or go together, and greedy takes the lowest of them") {
  const numbers row{0.0, 2.0, -0.0, 2.0, 1.0, 0.0};
  const auto kept = [&](const sampling_rule& rule) {
    const std::vector<sampling_rule> same(row.size(), rule);
    const outcome o = draw(repeated(row, 6), same, counted(6));
    std::vector<int> in;
    for (int i = 0; i < 6; ++i)
      if (o.drawn[static_cast<std::size_t>(i)] > -infinity) in.push_back(i);
    return in;
  };
  CHECK(kept({.top_k = 1}) == std::vector<int>{1, 3});
  CHECK(kept({.top_k = 3}) == std::vector<int>{1, 3, 4});
  CHECK(kept({.top_k = 4}) == std::vector<int>{0, 1, 2, 3, 4, 5});
  CHECK(kept({.top_p = 0.1}) == std::vector<int>{1, 3});
  CHECK(kept({.greedy = true}) == std::vector<int>{1});
  const std::vector<sampling_rule> greedy{{.greedy = true}};
  CHECK(draw(row, greedy).token[0] == 1);
  CHECK(draw(row, greedy).drawn[0] == 0);
  CHECK(draw(row, greedy).plain[0] == Approx(reference(row, {})[1]));
}

TEST_CASE("logits of -infinity are never drawn; a row with a NaN or without a finite logit gives token -1 and NaN") {
  numbers row(300, -infinity);
  row[17] = -1e30, row[250] = -1e30;
  const std::vector<sampling_rule> rules(100, {.temperature = 5, .top_k = 120});
  const outcome o = draw(repeated(row, 100), rules);
  CHECK(std::set<int>(o.token.begin(), o.token.end()) == std::set<int>{17, 250});
  CHECK(o.drawn[0] == Approx(std::log(0.5)));
  for (const double bad : {std::nan(""), -infinity, infinity})
    for (const std::size_t where : {std::size_t{0}, std::size_t{20}}) {
      numbers broken(40, bad == -infinity ? bad : 1.0);
      broken[where] = bad;
      const std::vector<sampling_rule> two{{.top_p = 0.5}};
      const outcome b = draw(broken, two);
      CHECK(b.token[0] == -1);
      CHECK((std::isnan(b.drawn[0]) && std::isnan(b.plain[0])));
    }
}

TEST_CASE("masked logits of the lowest float, and logits a bit apart, have the candidates of a sort") {
  for (const sampling_rule rule : {sampling_rule{.top_k = 3}, sampling_rule{.top_p = 0.6}, sampling_rule{.top_k = 30},
                                   sampling_rule{.top_p = 0.99, .top_k = 7}}) {
    std::vector<float> row(40, std::numeric_limits<float>::lowest());
    float at = 5;
    for (std::size_t i = 0; i < 10; ++i, at = std::nextafter(at, 10.0f)) row[3 * i] = at;
    row[1] = 1e-40f, row[2] = -3e20f;
    const numbers wide(row.begin(), row.end());
    const numbers expected = reference(wide, rule);
    std::vector<float> all;
    for (int i = 0; i < 40; ++i) all.insert(all.end(), row.begin(), row.end());
    const outcome o = draw<cpu<float>>(all, std::vector<sampling_rule>(40, rule), counted(40));
    CAPTURE(rule.top_k, rule.top_p);
    for (std::size_t i = 0; i < 40; ++i)
      if (row[i] > -1e20f || rule.top_k < 12) CHECK((o.drawn[i] == -infinity) == (expected[i] == -infinity));
  }
}

TEST_CASE("a team of any width draws the same tokens") {
  const index_t rows = 30;
  for (const index_t vocabulary : {1, 3, 5, 130, 1001}) {
    CAPTURE(vocabulary);
    const numbers z = testing::normal_values(rows * vocabulary, 4, 2);
    const std::vector<float> narrow(z.begin(), z.end());
    std::vector<sampling_rule> rules(rows);
    for (std::size_t r = 0; r < rows; ++r) {
      if (r % 3) rules[r].top_k = 1 + int(r);
      if (r % 2) rules[r].top_p = 0.3 + 0.02 * double(r);
      rules[r].greedy = r == 7;
      if (r % 5 == 0) rules[r].uniform = 0.5;
    }
    const std::vector<int> places = counted(rows);
    const auto run = [&](auto launch) {
      std::vector<int> token(rows, -7);
      std::vector<float> drawn(rows, NAN), plain = drawn;
      launch(rows, ops::kernel::sample<float>{narrow.data(), rules.data(), {}, places.data(), nullptr, token.data(), drawn.data(),
                                              plain.data(), vocabulary, philox{5}});
      return outcome{token, {drawn.begin(), drawn.end()}, {plain.begin(), plain.end()}};
    };
    const outcome serial = run([](index_t n, const auto& kernel) {
      for (index_t r = 0; r < n; ++r) kernel(serial_team{}, r);
    });
    const outcome lanes = run([](index_t n, const auto& kernel) { testing::run_lanes<4>(n, kernel); });
    CHECK(serial.token == lanes.token);
    CHECK(testing::largest_error(lanes.drawn, serial.drawn) < 1e-6);
    CHECK(testing::largest_error(lanes.plain, serial.plain) < 1e-6);
  }
}

TEST_CASE("the order of numbers is that of their ordered bits") {
  const float values[] = {-INFINITY, -3e38f, -1.5f, -1e-40f, 0.0f, 1e-45f, 2.0f, 3e38f, INFINITY};
  for (const float a : values)
    for (const float b : values) {
      CHECK((a < b) == (ops::kernel::ordered(a) < ops::kernel::ordered(b)));
      CHECK((double(a) < double(b)) == (ops::kernel::ordered(double(a)) < ops::kernel::ordered(double(b))));
    }
  for (const float a : values) {
    CHECK(ops::kernel::number(ops::kernel::ordered(a)) == a);
    CHECK(ops::kernel::number(ops::kernel::ordered(double(a))) == double(a));
  }
  for (const float a : values)
    for (const float b : values) {
      if (!(a < b)) continue;
      int halvings = 0;
      for (float low = a, middle = ops::kernel::between(a, b); low < middle; middle = ops::kernel::between(low, b), ++halvings) {
        REQUIRE((middle < b && halvings < 200));
        low = middle;
      }
    }
  CHECK(ops::kernel::ordered(-0.0f) == ops::kernel::ordered(0.0f));
  CHECK(ops::kernel::ordered(-0.0) == ops::kernel::ordered(0.0));
}

TEST_CASE("fact 27: uniform exploration mixes the rule's distribution with equal chances for its candidates") {
  // Mask, exit bias, temperature, log-softmax, mixture: a policy of four actions, of which the third is masked and the last one exits.
  const numbers logits{0.5, -1, -infinity, 0};
  const auto scored = [](const numbers& row, const sampling_rule& rule) {
    const std::vector<sampling_rule> rules(row.size(), rule);
    return draw(repeated(row, static_cast<index_t>(row.size())), rules, counted(static_cast<index_t>(row.size()))).drawn;
  };
  const auto check = [](const numbers& is, const numbers& expected) {
    for (std::size_t i = 0; i < expected.size(); ++i)
      CHECK((expected[i] == -infinity ? is[i] == -infinity : std::abs(is[i] - expected[i]) < 1e-11));
  };
  check(scored(logits, {}), {-0.604130605337, -2.104130605337, -infinity, -1.104130605337});
  check(scored(logits, {.temperature = 2}), {-0.811448897595, -1.561448897595, -infinity, -1.061448897595});
  check(scored(logits, {.temperature = 0.5}), {-0.349012216768, -3.349012216768, -infinity, -1.349012216768});
  check(scored(logits, {.uniform = 0.1}), {-0.643923240251, -1.944282731134, -infinity, -1.10357740132});
  check(scored(logits, {.temperature = 2, .uniform = 0.1}), {-0.836726797458, -1.504258517813, -infinity, -1.065103699039});
  const numbers biased{0.5, -1, -infinity, -1};
  check(scored(biased, {}), {-0.368981135401, -1.868981135401, -infinity, -1.868981135401});
  // Alone; over what top-k and top-p left; and around the most probable token.
  check(scored(logits, {.uniform = 1}), {std::log(1 / 3.0), std::log(1 / 3.0), -infinity, std::log(1 / 3.0)});
  check(scored(logits, {.top_k = 1, .uniform = 0.3}), {0, -infinity, -infinity, -infinity});
  check(scored(logits, {.top_k = 2, .greedy = true, .uniform = 0.3}), {std::log(0.85), -infinity, -infinity, std::log(0.15)});
  check(scored(logits, {.greedy = true, .uniform = 0.3}), {std::log(0.8), std::log(0.1), -infinity, std::log(0.1)});
}

TEST_CASE("without exploration every bit is that of a rule that knows none, and a row that does not explore draws the same token") {
  const index_t rows = 2000, vocabulary = 211;
  const numbers z = testing::normal_values(rows * vocabulary, 17, 2);
  for (const sampling_rule plain : {sampling_rule{}, sampling_rule{.temperature = 0.7, .top_k = 30}, sampling_rule{.greedy = true}}) {
    sampling_rule mixed = plain;
    mixed.uniform = 0.25;
    const outcome a = draw(z, std::vector<sampling_rule>(rows, plain)), b = draw(z, std::vector<sampling_rule>(rows, mixed));
    CHECK(testing::same_bits(draw(z, std::vector<sampling_rule>(rows, plain), b.token).plain, b.plain));
    CHECK(draw(z, std::vector<sampling_rule>(rows, mixed), b.token) == b);  // scored by the bits that drawing gives
    CHECK(draw(z, std::vector<sampling_rule>(rows, mixed), {}, philox{7}, 3) == b);
    index_t other = 0;
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) other += a.token[r] != b.token[r];
    CHECK(other < 0.25 * rows + 5 * std::sqrt(0.25 * 0.75 * rows));  // at most the rows that explore
    CHECK(other > 0.8 * 0.25 * rows);
  }
}

TEST_CASE("draws of a mixture are as frequent as their log-probability says") {
  const numbers row{1.0, -0.5, -infinity, 2.0, 0.3, -3.0, 1.5};
  const index_t draws = 40000;
  for (const sampling_rule rule : {sampling_rule{.uniform = 0.3}, sampling_rule{.temperature = 0.5, .top_k = 4, .uniform = 0.1},
                                   sampling_rule{.top_p = 0.85, .uniform = 0.6}, sampling_rule{.uniform = 1},
                                   sampling_rule{.greedy = true, .uniform = 0.4}}) {
    CAPTURE(rule.temperature, rule.top_k, rule.top_p, rule.uniform, rule.greedy);
    const outcome o = draw(repeated(row, draws), std::vector<sampling_rule>(static_cast<std::size_t>(draws), rule));
    const numbers logp = reference(row, rule);
    const auto candidates = static_cast<double>(std::count_if(logp.begin(), logp.end(), [](double l) { return l > -infinity; }));
    double all = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double p = rule.greedy ? double(i == 3) : std::exp(logp[i]);
      const double exact = logp[i] > -infinity ? (1 - rule.uniform) * p + rule.uniform / candidates : 0;
      const auto seen = static_cast<double>(std::count(o.token.begin(), o.token.end(), int(i)));
      // Five standard deviations of a binomial count: each of 35 counts stays within with probability 1 - 6e-7.
      CHECK(std::abs(seen - draws * exact) <= 5 * std::sqrt(draws * exact * (1 - exact)));
      const auto first = static_cast<std::size_t>(std::find(o.token.begin(), o.token.end(), int(i)) - o.token.begin());
      if (seen > 0) CHECK(std::abs(o.drawn[first] - std::log(exact)) < 1e-12);
      all += exact;
    }
    CHECK(all == Approx(1));
  }
  // The k-th of many candidates, the first and the last of them included, in a wide row with gaps.
  numbers gaps(3001, -infinity);
  for (std::size_t i = 1; i < gaps.size(); i += 3) gaps[i] = double(i % 7);
  const outcome o = draw(repeated(gaps, 6000), std::vector<sampling_rule>(6000, {.uniform = 1}));
  const std::set<int> seen(o.token.begin(), o.token.end());
  CHECK(seen.size() > 980);  // of 1000, about 997.5
  CHECK(std::all_of(seen.begin(), seen.end(), [](int t) { return t % 3 == 1; }));
}

TEST_CASE("a rule that is none is told in one line") {
  const numbers z(4);
  const auto with = [&](const sampling_rule& rule) { draw(z, std::vector<sampling_rule>{rule}); };
  CHECK_THROWS_WITH(with({.temperature = 0}),
                    "sampling: the temperature is 0.000000, expected a number above 0, from 1e-6 to 1e6; for the most probable token set greedy");
  CHECK_THROWS_AS(with({.temperature = -1}), error);
  CHECK_THROWS_AS(with({.temperature = NAN}), error);
  CHECK_THROWS_AS(with({.temperature = INFINITY}), error);
  CHECK_THROWS_AS(with({.temperature = 1e-40}), error);  // its reciprocal is no float
  CHECK_NOTHROW(with({.temperature = 1e-6}));
  CHECK_THROWS_WITH(with({.top_k = 0}), "sampling: top_k is 0, expected at least 1; leave it out for all tokens");
  CHECK_THROWS_WITH(with({.top_p = 0}), "sampling: top_p is 0.000000, expected in (0, 1]");
  CHECK_THROWS_AS(with({.top_p = 1.01}), error);
  CHECK_THROWS_AS(with({.top_p = NAN}), error);
  CHECK_THROWS_WITH(with({.uniform = 1.5}), "sampling: uniform is 1.500000, expected a probability, from 0 to 1; 0 explores nothing");
  CHECK_THROWS_AS(with({.uniform = -0.1}), error);
  CHECK_THROWS_AS(with({.uniform = NAN}), error);
  context<cpu<double>> cx;
  CHECK_THROWS_AS(ops::sample(cx, const_tensor<cpu<double>>(z.data(), 2, 2), sampling_rule{}, philox{}, indices<cpu<double>>{}), shape_error);
}

TEST_CASE("one more token is scored by the very sums of the one that is drawn") {
  using B = cpu<float>;
  context<B> cx(B::queue(2));
  const index_t rows = 5, vocabulary = 203;
  std::vector<float> z(static_cast<std::size_t>(rows * vocabulary));
  for (std::size_t i = 0; i < z.size(); ++i) z[i] = static_cast<float>(6 * philox{3}.uniform(i, 0));
  z[7] = -INFINITY;                                            // masked in the first row
  z[static_cast<std::size_t>(4 * vocabulary)] = float(NAN);    // the last row is none
  const const_tensor<B> logits(z.data(), rows, vocabulary);
  const std::vector<int> places = counted(rows), forced(static_cast<std::size_t>(rows), 7);
  const std::vector<sampling_rule> rules{{}, {.temperature = 0.5, .top_k = 4}, {.greedy = true}, {.top_p = 0.3, .uniform = 0.5}, {}};
  const indices<B> at(places.data(), rows);
  const std::span<const sampling_rule> how(rules);
  const auto apart = cx.read(ops::sample(cx, logits, sampling_rule{}, philox{}, at, indices<B>(forced.data(), rows)).plain);
  const auto both = ops::sample(cx, logits, how, philox{7}, at, {}, 7);
  const auto alone = ops::sample(cx, logits, how, philox{7}, at);
  const auto also = cx.read(both.also);
  for (std::size_t r = 0; r < 4; ++r) CHECK(also[r] == apart[r]);
  CHECK(also[0] == -INFINITY);
  CHECK(std::isnan(also[4]));
  CHECK(cx.read(both.token) == cx.read(alone.token));
  CHECK(cx.read(both.token)[4] == -1);
  CHECK_FALSE(alone.also);
  CHECK_THROWS_AS(ops::sample(cx, logits, sampling_rule{}, philox{}, at, {}, vocabulary), shape_error);
}
