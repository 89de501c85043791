#include <planlm/planning/plan_paths.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

#include "../catch.hpp"
#include "look_ahead_case.hpp"

using namespace planlm;
using testing::as_list;
using testing::as_matrix;
using testing::look_ahead_case;
using testing::normal_values;
using B = cpu<double>;
using values = std::vector<double>;
using path = std::vector<int>;

namespace {

look_ahead<B> small(index_t labels = 4) { return {planner<B>{6, labels, 2, 10, 1}}; }
/// Weights that make some labels much more probable than others.
struct sharp_case : look_ahead_case<double> {
  explicit sharp_case(index_t labels = 4, int threads = 1) : look_ahead_case(small(labels), threads, 0.8) {}
};

template <Backend C>
std::vector<path> of_sentence(const plan_paths<C>& plans, index_t s) {
  std::vector<path> out;
  for (index_t k = 0; k < plans.paths; ++k) {
    const int* from = plans.labels.data + (s * plans.paths + k) * plans.steps;
    out.emplace_back(from, from + plans.steps);
  }
  return out;
}

/// log softmax(logits / temperature) of one row.
values log_probabilities(const values& logits, std::size_t row, std::size_t cols, double temperature = 1) {
  values z(logits.begin() + static_cast<std::ptrdiff_t>(row * cols), logits.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols));
  double total = 0;
  for (const double v : z) total += std::exp(v / temperature);
  for (double& v : z) v = v / temperature - std::log(total);
  return z;
}

/// log p of every path of `steps` steps for every sentence, by teacher forcing, in the order of their labels.
std::vector<std::map<path, double>> enumerated(look_ahead_case<double>& at, index_t steps, double temperature = 1) {
  const auto labels = static_cast<std::size_t>(at.labels()), count = std::size_t{4};
  std::vector<std::map<path, double>> out(count);
  std::size_t total = 1;
  for (index_t t = 0; t < steps; ++t) total *= labels;
  for (std::size_t number = 0; number < total; ++number) {
    path p(static_cast<std::size_t>(steps));
    std::size_t rest = number;
    for (std::size_t t = p.size(); t-- > 0; rest /= labels) p[t] = static_cast<int>(rest % labels);
    std::vector<int> given;
    for (std::size_t t = 0; t + 1 < p.size(); ++t) given.insert(given.end(), count, p[t]);
    const values z = at.logits(given);
    for (std::size_t s = 0; s < count; ++s) {
      double score = 0;
      for (std::size_t t = 0; t < p.size(); ++t)
        score += log_probabilities(z, t * count + s, labels, temperature)[static_cast<std::size_t>(p[t])];
      out[s][p] = score;
    }
  }
  return out;
}

double chi_square(const values& observed, const values& expected) {
  double total = 0;
  for (std::size_t i = 0; i < observed.size(); ++i)
    total += (observed[i] - expected[i]) * (observed[i] - expected[i]) / expected[i];
  return total;
}

}  // namespace

TEST_CASE("every label of an argmax path is the most probable one given those before it") {
  sharp_case at;
  auto& cx = at.cx;
  testing::poison(cx, 50000);
  const auto best = argmax_paths(cx, at.model, at.theta.weights, at.input(), at.seq(), 4);
  CHECK(best.sentences == 4);
  CHECK(best.paths == 1);
  CHECK(best.steps == 4);
  std::vector<int> given;
  for (std::size_t t = 0; t < 3; ++t)
    for (index_t s = 0; s < 4; ++s) given.push_back(of_sentence(best, s)[0][t]);
  const values z = at.logits(given);
  for (std::size_t t = 0; t < 4; ++t)
    for (std::size_t s = 0; s < 4; ++s) {
      const auto row = z.begin() + static_cast<std::ptrdiff_t>((4 * t + s) * 4);
      CHECK(of_sentence(best, static_cast<index_t>(s))[0][t] == std::max_element(row, row + 4) - row);
    }
}

TEST_CASE("a beam of one is the argmax path") {
  sharp_case at(7);
  const auto best = argmax_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 5);
  const auto beam = beam_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 5, 1);
  CHECK(beam.paths.paths == 1);
  for (index_t s = 0; s < 4; ++s) CHECK(of_sentence(best, s) == of_sentence(beam.paths, s));
}

TEST_CASE("a beam as wide as there are paths lists all of them by probability, scores are sums of log softmax") {
  for (const index_t steps : {1, 2, 3}) {
    sharp_case at(3);
    const auto all = enumerated(at, steps);
    const auto paths = static_cast<std::size_t>(std::pow(3, double(steps)));
    for (const index_t wider : {0, 5}) {
      const auto beam = beam_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), steps, static_cast<index_t>(paths) + wider);
      REQUIRE(beam.paths.paths == static_cast<index_t>(paths));
      for (std::size_t s = 0; s < 4; ++s) {
        std::vector<path> expected;
        for (const auto& each : all[s]) expected.push_back(each.first);
        std::sort(expected.begin(), expected.end(), [&](const path& a, const path& b) { return all[s].at(a) > all[s].at(b); });
        CHECK(of_sentence(beam.paths, static_cast<index_t>(s)) == expected);
        double total = 0;
        for (std::size_t k = 0; k < paths; ++k) {
          CHECK(std::abs(beam.scores[s * paths + k] - all[s].at(expected[k])) < 1e-12);
          total += std::exp(beam.scores[s * paths + k]);
        }
        CHECK(std::abs(total - 1) < 1e-12);
      }
    }
  }
}

TEST_CASE("a narrow beam keeps its scores true, sorted and its paths distinct") {
  sharp_case at;
  const auto all = enumerated(at, 3);
  for (const index_t width : {2, 3, 5}) {
    const auto beam = beam_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 3, width);
    for (index_t s = 0; s < 4; ++s) {
      auto paths = of_sentence(beam.paths, s);
      REQUIRE(paths.size() == static_cast<std::size_t>(width));
      for (std::size_t k = 0; k < paths.size(); ++k) {
        const std::size_t i = static_cast<std::size_t>(s * width) + k;
        CHECK(std::abs(beam.scores[i] - all[static_cast<std::size_t>(s)].at(paths[k])) < 1e-12);
        if (k > 0) CHECK(beam.scores[i - 1] >= beam.scores[i]);
      }
      std::sort(paths.begin(), paths.end());
      CHECK(std::adjacent_find(paths.begin(), paths.end()) == paths.end());
    }
  }
}

TEST_CASE("of equal paths a beam and argmax take the lowest labels") {
  sharp_case at(3);
  for (const char* name : {"plan.head.w", "plan.head.b"}) {
    const std::size_t n = at.theta.find(name);
    at.theta.write(at.cx, n, values(at.theta.read(at.cx, n).size(), 0));
  }
  const auto beam = beam_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 2, 4);
  CHECK(of_sentence(beam.paths, 2) == std::vector<path>{{0, 0}, {0, 1}, {0, 2}, {1, 0}});
  CHECK(of_sentence(argmax_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 3), 1) == std::vector<path>{{0, 0, 0}});
}

TEST_CASE("sampled two-step paths occur as often as p(a1) p(a2 | a1) says") {
  sharp_case at;
  const double temperature = 1.5;
  const auto all = enumerated(at, 2, temperature);
  constexpr index_t paths = 20000;
  const auto drawn = sample_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 2, paths, temperature, philox{5, 0, 1});
  for (std::size_t s = 0; s < 4; ++s) {
    std::map<path, double> count;
    for (const path& each : of_sentence(drawn, static_cast<index_t>(s))) count[each] += 1;
    values observed, expected;
    for (const auto& [each, score] : all[s]) observed.push_back(count[each]), expected.push_back(double(paths) * std::exp(score));
    CAPTURE(s, *std::min_element(expected.begin(), expected.end()));
    CHECK(std::accumulate(observed.begin(), observed.end(), 0.0) == double(paths));
    CHECK(chi_square(observed, expected) < 44.3);  // exceeded once in 10^4 by 15 degrees of freedom
  }
}

TEST_CASE("paths of one sentence, and of equal sentences, are drawn independently") {
  // 1500 sentences with the same context; path 3 against path 7 of its group and path 19 of the next, and step 0 of one sentence against
  // step 0 of the one after it: each pair is as frequent as the product says.
  sharp_case at(3);
  constexpr index_t sentences = 1500;
  std::vector<int> offsets{0}, positions;
  values z;
  for (int s = 0; s < sentences; ++s) {
    z.insert(z.end(), at.z.begin() + 6, at.z.begin() + 24);
    positions.insert(positions.end(), {0, 1, 2});
    offsets.push_back(3 * s + 3);
  }
  const sequences<B> seq{as_list<B>(offsets), offsets.data(), as_list<B>(positions)};
  const auto drawn = sample_paths(at.cx, at.model, at.theta.weights, as_matrix<B>(z, 3 * sentences), seq, 1, 20, 1.3, philox{9});
  const values p = log_probabilities(at.logits(), 1, 3, 1.3);
  const auto label = [&](index_t s, index_t k) { return static_cast<std::size_t>(drawn.labels[s % sentences * 20 + k]); };
  for (const auto& [next, k] : std::vector<std::pair<index_t, index_t>>{{0, 7}, {0, 19}, {1, 3}}) {
    values observed(9), expected;
    for (index_t s = 0; s < sentences; ++s) observed[label(s, 3) * 3 + label(s + next, k)] += 1;
    for (const double a : p)
      for (const double b : p) expected.push_back(double(sentences) * std::exp(a + b));
    CAPTURE(next, k);
    CHECK(chi_square(observed, expected) < 31.9);  // 8 degrees of freedom, once in 10^4
  }
}

TEST_CASE("the same place draws the same path whatever the batch, and more paths or steps change none that were there") {
  sharp_case at(7);
  auto& cx = at.cx;
  const std::vector<int> places{70, 3, 911, 12};
  const auto draw = [&](index_t steps, index_t paths, philox random = {4, 2, 8}) {
    return sample_paths(cx, at.model, at.theta.weights, at.input(), at.seq(), steps, paths, 1.0, random, as_list<B>(places));
  };
  const auto whole = draw(3, 40);
  // Sentences 2 and 1 in another batch, in another order, alone with each other.
  const testing::packed other{2, 3};
  values z(at.z.begin() + 24, at.z.begin() + 36);
  z.insert(z.end(), at.z.begin() + 6, at.z.begin() + 24);
  const std::vector<int> their{911, 3};
  const auto moved = sample_paths(cx, at.model, at.theta.weights, as_matrix<B>(z, 5), other.view<B>(), 3, 40, 1.0, {4, 2, 8}, as_list<B>(their));
  CHECK(of_sentence(moved, 0) == of_sentence(whole, 2));
  CHECK(of_sentence(moved, 1) == of_sentence(whole, 1));
  const auto fewer = draw(3, 21), shorter = draw(2, 40);
  for (index_t s = 0; s < 4; ++s) {
    auto expected = of_sentence(whole, s);
    for (path& each : expected) each.pop_back();
    CHECK(of_sentence(shorter, s) == expected);
    expected = of_sentence(whole, s);
    expected.resize(21);
    CHECK(of_sentence(fewer, s) == expected);
    CHECK(of_sentence(draw(3, 40, {4, 3, 8}), s) != of_sentence(whole, s));
    CHECK(of_sentence(draw(3, 40, {4, 2, 9}), s) != of_sentence(whole, s));
  }
  const std::vector<int> elsewhere{71, 3, 911, 12};
  const auto shifted = sample_paths(cx, at.model, at.theta.weights, at.input(), at.seq(), 3, 40, 1.0, {4, 2, 8}, as_list<B>(elsewhere));
  CHECK(of_sentence(shifted, 0) != of_sentence(whole, 0));
  CHECK(of_sentence(shifted, 1) == of_sentence(whole, 1));
  // Without places a sentence draws by its number.
  const std::vector<int> numbers{0, 1, 2, 3};
  const auto by_number = sample_paths(cx, at.model, at.theta.weights, at.input(), at.seq(), 2, 5, 1.0, {4}, as_list<B>(numbers));
  const auto by_default = sample_paths(cx, at.model, at.theta.weights, at.input(), at.seq(), 2, 5, 1.0, {4});
  for (index_t s = 0; s < 4; ++s) CHECK(of_sentence(by_number, s) == of_sentence(by_default, s));
}

TEST_CASE("one and three threads draw the same paths, and drawing again asks for no memory") {
  sharp_case one(7, 1), three(7, 3);
  const auto draw = [](sharp_case& at) {
    auto scope = at.cx.scope();
    const auto drawn = sample_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 3, 40, 1.0, philox{1});
    return at.cx.read(drawn.labels);
  };
  const auto first = draw(one);
  CHECK(first == draw(three));
  draw(one);
  const auto asked = one.cx.memory().allocations();
  CHECK(draw(one) == first);
  CHECK(one.cx.memory().allocations() == asked);
}

TEST_CASE("a low temperature draws the argmax path") {
  sharp_case at(7);
  const auto best = argmax_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 3);
  const auto cold = sample_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 3, 20, 1e-4, philox{1});
  for (index_t s = 0; s < 4; ++s)
    for (const path& each : of_sentence(cold, s)) CHECK(each == of_sentence(best, s)[0]);
}

TEST_CASE("a sentence with a NaN in its context has no label and spoils no other; a beam names it") {
  sharp_case at;
  const auto whole = sample_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 2, 3, 1.0, philox{1});
  at.z[6 * 4 + 2] = std::numeric_limits<double>::quiet_NaN();  // sentence 2
  const auto spoilt = sample_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 2, 3, 1.0, philox{1});
  CHECK(of_sentence(spoilt, 2) == std::vector<path>(3, path{-1, -1}));
  for (const index_t s : {0, 1, 3}) CHECK(of_sentence(spoilt, s) == of_sentence(whole, s));
  CHECK_THROWS_AS(beam_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 2, 3), numeric_error);
  try {
    beam_paths(at.cx, at.model, at.theta.weights, at.input(), at.seq(), 2, 3);
  } catch (const numeric_error& e) {
    CHECK(std::string(e.what()).find("sentence 2 at step 0") != std::string::npos);
  }
}

TEST_CASE("a path that had no label has none later, though logits after it are numbers again") {
  // No blocks: a state is its rows, and logits are their mean through the head. The head overflows to inf - inf for the large first context;
  // the row that -1 puts in front, `arrival`, takes it away exactly, so that the second step has logits of zeros and b.
  look_ahead_case<double> at({planner<B>{6, 4, 2, 10, 0}, 0}, 1, 0.8);
  auto& cx = at.cx;
  for (std::size_t i = 0; i < 6; ++i) at.z[i] *= 1000;
  const auto row = cx.read(at.model.start(cx, at.theta.weights, at.input(), at.seq()).h);
  values w(4 * 6), away;
  w[0] = std::copysign(1e307, row[0]), w[1] = -std::copysign(1e307, row[1]);
  for (std::size_t i = 0; i < 6; ++i) away.push_back(-row[i]);
  at.theta.write(cx, at.theta.find("plan.head.w"), w);
  at.theta.write(cx, at.theta.find("ahead.arrival"), away);
  const values logits = at.logits({-1, -1, -1, -1});
  REQUIRE_FALSE(std::isfinite(logits[0]));  // fused into the sum, the second product leaves an infinity
  REQUIRE(std::all_of(logits.begin() + 16, logits.begin() + 20, [](double v) { return std::isfinite(v); }));
  const auto best = argmax_paths(cx, at.model, at.theta.weights, at.input(), at.seq(), 3);
  CHECK(of_sentence(best, 0)[0] == path{-1, -1, -1});
  const auto drawn = sample_paths(cx, at.model, at.theta.weights, at.input(), at.seq(), 3, 20, 1.0, philox{1});
  CHECK(of_sentence(drawn, 0) == std::vector<path>(20, path{-1, -1, -1}));
}

TEST_CASE("no sentences, no steps, no paths, a temperature of zero and places of another batch are refused") {
  sharp_case at;
  auto& p = at.theta.weights;
  const testing::packed none{};
  const const_tensor<B> nothing(at.z.data(), 0, 6);
  CHECK_THROWS_WITH(argmax_paths(at.cx, at.model, p, nothing, none.view<B>(), 2), "argmax_paths: 0 sentences, expected at least one");
  CHECK_THROWS_AS(beam_paths(at.cx, at.model, p, nothing, none.view<B>(), 2, 3), shape_error);
  CHECK_THROWS_AS(sample_paths(at.cx, at.model, p, nothing, none.view<B>(), 2, 3, 1.0, philox{1}), shape_error);
  CHECK_THROWS_AS(argmax_paths(at.cx, at.model, p, at.input(), at.seq(), 0), error);
  CHECK_THROWS_AS(beam_paths(at.cx, at.model, p, at.input(), at.seq(), 2, 0), error);
  CHECK_THROWS_AS(sample_paths(at.cx, at.model, p, at.input(), at.seq(), 2, 0, 1.0, philox{1}), error);
  CHECK_THROWS_AS(sample_paths(at.cx, at.model, p, at.input(), at.seq(), 2, 1, 0.0, philox{1}), error);
  const std::vector<int> places{1, 2, 3};
  CHECK_THROWS_AS(sample_paths(at.cx, at.model, p, at.input(), at.seq(), 2, 1, 1.0, philox{1}, as_list<B>(places)), shape_error);
}
