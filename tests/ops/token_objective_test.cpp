#include <planlm/ops/token_objective.hpp>

#include <cmath>
#include <limits>
#include <span>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/core/bfloat16.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/gradient_check.hpp>
#include <planlm/testing/lane_team.hpp>

#include "../catch.hpp"

using namespace planlm;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using numbers = std::vector<double>;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double none = std::numeric_limits<double>::quiet_NaN();

/// Rows with weights of either sign and of 0; masked rows have NaN for weights.
struct problem {
  index_t rows, width, vocabulary;
  std::vector<int> tokens{};
  numbers likelihood{}, entropy{};
  double floor = 0;
  numbers hidden() const { return normal_values(rows * width, 1); }
  numbers table() const { return normal_values(vocabulary * width, 2); }
};
problem make_problem(index_t rows, index_t width, index_t vocabulary, double floor = 0) {
  problem p{.rows = rows, .width = width, .vocabulary = vocabulary, .floor = floor};
  const philox random{5};
  p.likelihood = normal_values(rows, 7), p.entropy = normal_values(rows, 8);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    p.tokens.push_back(r % 6 == 4 ? -1 : static_cast<int>(random.below(static_cast<std::uint32_t>(vocabulary), r, 1)));
    if (r % 3 == 1) p.entropy[r] = 0;
    if (r % 7 == 2) p.likelihood[r] = 0;
    if (p.tokens[r] < 0) p.likelihood[r] = p.entropy[r] = none;
  }
  return p;
}

template <class T>
struct outcome {
  double total, likelihood, bonus;
  std::vector<T> nll, entropy, gradient, dtable;
};
template <class B>
const_accum_tensor<B> values_of(context<B>& cx, const numbers& v) {
  if (v.empty()) return {};
  return cx.upload(std::vector<typename B::accum>(v.begin(), v.end()));
}
template <class B>
tensor<B> matrix_of(context<B>& cx, const numbers& v, index_t rows, index_t cols) {
  const std::vector<typename B::real> narrow(v.begin(), v.end());
  return cx.upload(std::span<const typename B::real>(narrow), rows, cols);
}
template <class B>
token_weights<B> weights_of(context<B>& cx, const problem& p) {
  return {.likelihood = values_of(cx, p.likelihood), .entropy = values_of(cx, p.entropy), .probability_floor = p.floor};
}
template <class B>
outcome<typename B::real> read(context<B>& cx, const token_objective_loss<B>& out) {
  return {double(cx.read_one(out.total)), double(cx.read_one(out.likelihood)), double(cx.read_one(out.bonus)), cx.read(out.nll),
          cx.read(out.entropy), cx.read(out.gradient), {}};
}

/// The table's gradient starts at 0.5 and is left out when frozen.
template <class T>
outcome<T> fused(const problem& p, bool frozen = false, int threads = 1) {
  using B = cpu<T>;
  context<B> cx{typename B::queue(threads)};
  testing::poison(cx);
  auto scope = cx.scope();
  const tensor<B> hidden = matrix_of(cx, p.hidden(), p.rows, p.width), table = matrix_of(cx, p.table(), p.vocabulary, p.width);
  tensor<B> dtable;
  if (!frozen) dtable = matrix_of(cx, numbers(static_cast<std::size_t>(table.size()), 0.5), p.vocabulary, p.width);
  outcome<T> out = read(
      cx, ops::linear_token_objective<B>(cx, hidden, table, indices<B>(p.tokens.data(), p.rows), weights_of(cx, p), dtable));
  if (!frozen) out.dtable = cx.read(dtable);
  return out;
}

/// The definition, through whole matrices and stored probabilities: d of w nll + h sum q log q, each by its own chain rule.
outcome<double> composed(const problem& p) {
  const numbers h = p.hidden(), w = p.table();
  outcome<double> out{0, 0, 0, {}, {}, numbers(h.size()), numbers(w.size(), 0.5)};
  const auto width = static_cast<std::size_t>(p.width), size = static_cast<std::size_t>(p.vocabulary);
  for (std::size_t r = 0; r < static_cast<std::size_t>(p.rows); ++r) {
    if (p.tokens[r] < 0) {
      out.nll.push_back(0), out.entropy.push_back(0);
      continue;
    }
    numbers z(size), prob(size), dprob(size), dz(size);
    double sum = 0, entropy = 0, inner = 0;
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t c = 0; c < width; ++c) z[i] += h[r * width + c] * w[i * width + c];
      sum += std::exp(z[i]);
    }
    const auto token = static_cast<std::size_t>(p.tokens[r]);
    for (std::size_t i = 0; i < size; ++i) {
      prob[i] = std::exp(z[i]) / sum;
      entropy -= (prob[i] + p.floor) * std::log(prob[i] + p.floor);
      dprob[i] = p.entropy[r] * (std::log(prob[i] + p.floor) + 1) - (i == token ? p.likelihood[r] / prob[i] : 0);
      inner += prob[i] * dprob[i];
    }
    out.nll.push_back(-std::log(prob[token])), out.entropy.push_back(entropy);
    out.likelihood += p.likelihood[r] * out.nll.back(), out.bonus += p.entropy[r] * entropy;
    for (std::size_t i = 0; i < size; ++i) {
      dz[i] = prob[i] * (dprob[i] - inner);
      for (std::size_t c = 0; c < width; ++c) {
        out.gradient[r * width + c] += dz[i] * w[i * width + c];
        out.dtable[i * width + c] += dz[i] * h[r * width + c];
      }
    }
  }
  out.total = out.likelihood - out.bonus;
  return out;
}

}  // namespace

TEST_CASE("the fused objective equals its definition, values and gradients, with a floor of probabilities and without") {
  // 512 rows are one block at this vocabulary: 1100 rows are three, the last of them short.
  for (const double floor : {0.0, 1e-3})
    for (const problem& p : {make_problem(1, 1, 1, floor), make_problem(8, 7, 3, floor), make_problem(33, 5, 130, floor),
                             make_problem(1100, 6, 37, floor)}) {
      CAPTURE(p.rows, p.vocabulary, floor);
      const outcome<double> expected = composed(p);
      const auto check = [&](const auto& out, double limit) {
        const double sums = std::sqrt(double(p.rows));
        CHECK(std::abs(out.total - expected.total) < limit * sums);
        CHECK(std::abs(out.likelihood - expected.likelihood) < limit * sums);
        CHECK(std::abs(out.bonus - expected.bonus) < limit * sums);
        CHECK(largest_error(out.nll, expected.nll) < limit);
        CHECK(largest_error(out.entropy, expected.entropy) < limit);
        CHECK(largest_error(out.gradient, expected.gradient) < limit);
        CHECK(largest_error(out.dtable, expected.dtable) < limit);
      };
      check(fused<double>(p), 2e-12);
      check(fused<float>(p), 5e-5);
    }
}

TEST_CASE("the fused objective is the token policy's values and pullback, bit for bit, with rules and without") {
  using B = cpu<float>;
  problem p = make_problem(700, 7, 37);
  std::vector<int> stopping(700);
  for (std::size_t r = 0; r < 700; ++r) {
    stopping[r] = r % 5 == 1 ? 1 : r % 7 == 3 ? 2 : 0;
    if (p.tokens[r] < 0) p.likelihood[r] = p.entropy[r] = 0;  // there a pullback has an entropy, too
  }
  for (const bool with_rules : {false, true}) {
    CAPTURE(with_rules);
    context<B> cx{B::queue(2)};
    const tensor<B> hidden = matrix_of(cx, p.hidden(), p.rows, p.width), table = matrix_of(cx, p.table(), p.vocabulary, p.width);
    const indices<B> tokens(p.tokens.data(), p.rows);
    token_rules<B> rules;
    if (with_rules) rules = {9, indices<B>(stopping.data(), p.rows), values_of(cx, normal_values(p.vocabulary, 3))};
    numbers upstream = p.likelihood, of_entropy = p.entropy;
    for (double& v : upstream) v = -v;
    for (double& v : of_entropy) v = -v;
    // What was forced has no entropy to lose; a pullback leaves it out.
    const tensor<B> once = cx.make_zero(p.vocabulary, p.width), twice = cx.make_zero(p.vocabulary, p.width);
    auto [v, pullback] = ops::linear_token_policy<B>(cx, hidden, table, tokens, rules);
    const tensor<B> dhidden = pullback(values_of(cx, upstream), {}, values_of(cx, of_entropy), twice);
    const auto out = ops::linear_token_objective<B>(cx, hidden, table, tokens, weights_of(cx, p), once, rules);
    const std::vector<float> taken = cx.read(v.taken), entropy = cx.read(v.entropy);
    std::size_t different = 0;
    for (std::size_t r = 0; r < 700; ++r) {
      const auto i = static_cast<index_t>(r);
      different += p.tokens[r] >= 0 && (out.nll[i] != -taken[r] || out.entropy[i] != entropy[r]);
    }
    CHECK(different == 0);
    CHECK(largest_error(cx.read(out.gradient), cx.read(dhidden)) == 0);
    CHECK(largest_error(cx.read(once), cx.read(twice)) == 0);
  }
}

TEST_CASE("logits that are there already give what those that are made give, bit for bit, and stay as they were") {
  using B = cpu<float>;
  const problem p = make_problem(300, 7, 37);
  context<B> cx;
  const tensor<B> hidden = matrix_of(cx, p.hidden(), p.rows, p.width), table = matrix_of(cx, p.table(), p.vocabulary, p.width);
  const tensor<B> z = ops::matmul_nt<B>(cx, hidden, table);
  const std::vector<float> before = cx.read(z);
  const auto out = ops::token_objective<B>(cx, z, indices<B>(p.tokens.data(), p.rows), weights_of(cx, p));
  const outcome<float> expected = fused<float>(p), values = read(cx, out);
  CHECK(values.total == expected.total);
  CHECK(same_bits(values.nll, expected.nll));
  CHECK(same_bits(values.entropy, expected.entropy));
  CHECK(same_bits(cx.read(ops::matmul<B>(cx, out.gradient, table)), expected.gradient));
  CHECK(same_bits(cx.read(z), before));
}

TEST_CASE("the fused objective passes the directional check over input and table") {
  using B = cpu<double>;
  for (const double floor : {0.0, 1e-2}) {
    const problem p = make_problem(14, 5, 11, floor);
    context<B> cx;
    const auto n = static_cast<std::size_t>(p.rows * p.width);
    const auto split = [&](const numbers& v, numbers* gradient) {
      auto scope = cx.scope();
      const tensor<B> dtable = cx.make_zero(p.vocabulary, p.width);
      const const_tensor<B> hidden = cx.upload(std::span<const double>(v).first(n), p.rows, p.width);
      const const_tensor<B> table = cx.upload(std::span<const double>(v).subspan(n), p.vocabulary, p.width);
      const auto out =
          ops::linear_token_objective<B>(cx, hidden, table, indices<B>(p.tokens.data(), p.rows), weights_of(cx, p), dtable);
      if (gradient) {
        *gradient = cx.read(out.gradient);
        for (const double g : cx.read(dtable)) gradient->push_back(g);
      }
      return cx.read_one(out.total);
    };
    const auto gradient = [&](const numbers& v) {
      numbers g;
      split(v, &g);
      return g;
    };
    CHECK(testing::directional_error(
              normal_values((p.rows + p.vocabulary) * p.width, 4), [&](const numbers& v) { return split(v, nullptr); }, gradient) < 1e-8);
  }
}

TEST_CASE("by hand: a weight, an entropy, and both") {
  using B = cpu<double>;
  context<B> cx;
  // Logits 0, ln 2, ln 5: probabilities 1/8, 2/8, 5/8.
  numbers z;
  for (int r = 0; r < 3; ++r) z.insert(z.end(), {0, std::log(2.0), std::log(5.0)});
  const std::vector<int> tokens{1, 0, 2};
  const numbers w{2, 0, -1}, h{0, 1, 0.5};
  const auto out = ops::token_objective<B>(cx, const_tensor<B>(z.data(), 3, 3), indices<B>(tokens.data(), 3),
                                           {.likelihood = values_of(cx, w), .entropy = values_of(cx, h)});
  const double e = std::log(8) - std::log(2) / 4 - 5 * std::log(5) / 8;
  const auto slope = [&](double p) { return p * (std::log(p) + e); };
  CHECK(largest_error(cx.read(out.nll), numbers{std::log(4), std::log(8), std::log(1.6)}) < 1e-15);
  CHECK(largest_error(cx.read(out.entropy), numbers(3, e)) < 1e-15);
  CHECK(std::abs(cx.read_one(out.likelihood) - (2 * std::log(4) - std::log(1.6))) < 1e-15);
  CHECK(std::abs(cx.read_one(out.bonus) - 1.5 * e) < 1e-15);
  CHECK(std::abs(cx.read_one(out.total) - (2 * std::log(4) - std::log(1.6) - 1.5 * e)) < 1e-15);
  CHECK(largest_error(cx.read(out.gradient),
                      numbers{0.25, -1.5, 1.25, slope(1 / 8.0), slope(1 / 4.0), slope(5 / 8.0), -1 / 8.0 + slope(1 / 8.0) / 2,
                              -1 / 4.0 + slope(1 / 4.0) / 2, 3 / 8.0 + slope(5 / 8.0) / 2}) < 1e-15);
  // Weights that all rows share.
  const auto even = ops::token_objective<B>(cx, const_tensor<B>(z.data(), 3, 3), indices<B>(tokens.data(), 3),
                                            {.uniform_likelihood = 0.5, .uniform_entropy = 0.25});
  CHECK(std::abs(cx.read_one(even.total) - (std::log(4) + std::log(8) + std::log(1.6)) / 2 + 0.75 * e) < 1e-15);
}

TEST_CASE("F14: what a mask covers is not read: NaN there changes no bit, and its gradient is 0") {
  using B = cpu<double>;
  for (const double floor : {0.0, 1e-8}) {
    const problem p = make_problem(40, 1, 11, floor);
    context<B> cx;
    const auto with = [&](double garbage) {
      numbers z = normal_values(40 * 11, 9), w = p.likelihood, h = p.entropy;
      for (std::size_t r = 0; r < 40; ++r)
        if (p.tokens[r] < 0) {
          w[r] = h[r] = garbage;
          for (std::size_t i = 0; i < 11; ++i) z[r * 11 + i] = garbage;
        }
      return read(cx, ops::token_objective<B>(cx, const_tensor<B>(z.data(), 40, 11), indices<B>(p.tokens.data(), 40),
                                              {.likelihood = values_of(cx, w), .entropy = values_of(cx, h), .probability_floor = floor}));
    };
    const auto clean = with(1), spoiled = with(none);
    CHECK(std::isfinite(spoiled.total));
    CHECK(spoiled.total == clean.total);
    CHECK(same_bits(spoiled.gradient, clean.gradient));
    CHECK(same_bits(spoiled.nll, clean.nll));
    for (std::size_t r = 0; r < 40; ++r)
      if (p.tokens[r] < 0)
        for (std::size_t i = 0; i < 11; ++i) CHECK(spoiled.gradient[r * 11 + i] == 0);
  }
}

TEST_CASE("a token that is excluded costs infinity unless it weighs nothing, and has no gradient; logits may be extreme") {
  using B = cpu<double>;
  context<B> cx;
  const numbers z{0, 1, -infinity, 0, 1, -infinity, 900, -900, 0};
  const std::vector<int> tokens{2, 2, 1};
  numbers w{0, 0, 1};
  const auto run = [&] {
    return read(cx, ops::token_objective<B>(cx, const_tensor<B>(z.data(), 3, 3), indices<B>(tokens.data(), 3),
                                            {.likelihood = values_of(cx, w), .uniform_entropy = 0.5}));
  };
  const auto free = run();
  CHECK(free.nll[0] == infinity);
  CHECK(std::abs(free.likelihood - 1800) < 1e-12);
  CHECK(std::isfinite(free.total));
  CHECK(free.gradient[2] == 0);
  CHECK(free.gradient[6] == 1);
  CHECK(free.gradient[7] == -1);
  w[0] = 1;
  const auto charged = run();
  CHECK(charged.total == infinity);
  CHECK(std::vector<double>(charged.gradient.begin(), charged.gradient.begin() + 3) ==
        std::vector<double>(free.gradient.begin(), free.gradient.begin() + 3));
}

TEST_CASE("a row without a distribution has values NaN and gradient 0, with and without a floor; an excluded token's gradient is 0, not -0") {
  using B = cpu<double>;
  context<B> cx;
  const std::vector<int> tokens{1, 1, 0, 1, 0};
  const double nan_value = std::nan("");
  const numbers z{-infinity, -infinity, -infinity, 0, 1, infinity, 0, nan_value, 1, -infinity, 0, 3, -infinity, 0, 3};
  for (const double floor : {0.0, 1e-8, 1e-300})
    for (const double bonus : {0.0, 0.5})
      for (const double weight : {0.0, 1.0}) {
        CAPTURE(floor, bonus, weight);
        const auto l = read(cx, ops::token_objective<B>(cx, const_tensor<B>(z.data(), 5, 3), indices<B>(tokens.data(), 5),
                                                        {.uniform_likelihood = weight, .uniform_entropy = bonus, .probability_floor = floor}));
        for (std::size_t r = 0; r < 3; ++r) {
          CAPTURE(r);
          CHECK(std::isnan(l.nll[r]));
          CHECK(std::isnan(l.entropy[r]));
          for (std::size_t i = 0; i < 3; ++i) CHECK(l.gradient[3 * r + i] == 0);
        }
        for (const std::size_t excluded : {9u, 12u}) {
          CHECK(l.gradient[excluded] == 0);
          CHECK(!std::signbit(l.gradient[excluded]));
        }
        for (std::size_t i = 9; i < 15; ++i) CHECK(std::isfinite(l.gradient[i]));
        CHECK((l.gradient[11] != 0) == (bonus != 0 || weight != 0));
      }
}

TEST_CASE("F28: a frozen table changes no bit, threads change none, and a second run changes none") {
  const problem p = make_problem(700, 48, 301);
  const auto one = fused<float>(p), frozen = fused<float>(p, true);
  CHECK(frozen.total == one.total);
  CHECK(same_bits(frozen.gradient, one.gradient));
  for (const int threads : {1, 2, 3}) {
    const auto more = fused<float>(p, false, threads);
    CHECK(more.total == one.total);
    CHECK(same_bits(more.nll, one.nll));
    CHECK(same_bits(more.entropy, one.entropy));
    CHECK(same_bits(more.gradient, one.gradient));
    CHECK(same_bits(more.dtable, one.dtable));
  }
}

TEST_CASE("a team of any width gives the same rows and the same sums of an objective") {
  const index_t rows = 30;
  for (const double floor : {0.0, 1e-3})
    for (const index_t vocabulary : {1, 3, 5, 130}) {
      CAPTURE(vocabulary, floor);
      const index_t stride = vocabulary + 3;  // padded rows: what lies between them is left alone
      const problem p = make_problem(rows, 1, vocabulary);
      const numbers z = normal_values(rows * stride, 4, 2);
      const auto run = [&](auto launch) {
        numbers gradient = z, nll(rows, none), entropy = nll, sums(3, none);
        launch(rows, ops::kernel::token_objective<double>{gradient.data(), p.tokens.data(), p.likelihood.data(), p.entropy.data(),
                                                          nll.data(), entropy.data(), vocabulary, stride, 1, 0, floor});
        launch(1, ops::kernel::token_objective_sums<double>{p.tokens.data(), p.likelihood.data(), p.entropy.data(), nll.data(),
                                                            entropy.data(), 1, 0, &sums[0], &sums[1], &sums[2], rows});
        return std::vector<numbers>{nll, entropy, sums, gradient};
      };
      const auto serial = run([](index_t n, const auto& kernel) {
        for (index_t r = 0; r < n; ++r) kernel(serial_team{}, r);
      });
      const auto lanes = run([](index_t n, const auto& kernel) { testing::run_lanes<4>(n, kernel); });
      for (std::size_t i = 0; i < serial.size(); ++i) CHECK(largest_error(lanes[i], serial[i]) < 1e-13);
      for (index_t r = 0; r < rows; ++r)
        for (index_t c = vocabulary; c < stride; ++c)
          CHECK(serial[3][static_cast<std::size_t>(r * stride + c)] == z[static_cast<std::size_t>(r * stride + c)]);
    }
}

TEST_CASE("logits of sixteen bits: values in single precision, the gradient rounded once") {
  const index_t rows = 30, vocabulary = 130;
  for (const double floor : {0.0, 1e-3}) {
    const problem p = make_problem(rows, 1, vocabulary);
    const std::vector<float> drawn = normal_values<float>(rows * vocabulary, 4, 2), w(p.likelihood.begin(), p.likelihood.end()),
                             h(p.entropy.begin(), p.entropy.end());
    std::vector<bfloat16> narrow(drawn.begin(), drawn.end());
    numbers exact(narrow.begin(), narrow.end()), nll(rows), entropy(rows);
    std::vector<float> narrow_nll(rows), narrow_entropy(rows);
    for (index_t r = 0; r < rows; ++r) {
      ops::kernel::token_objective<bfloat16>{narrow.data(), p.tokens.data(), w.data(), h.data(), narrow_nll.data(), narrow_entropy.data(),
                                             vocabulary, vocabulary, 1, 0, float(floor)}(serial_team{}, r);
      ops::kernel::token_objective<double>{exact.data(), p.tokens.data(), p.likelihood.data(), p.entropy.data(), nll.data(),
                                           entropy.data(), vocabulary, vocabulary, 1, 0, floor}(serial_team{}, r);
    }
    CHECK(largest_error(narrow_nll, nll) < 1e-5);
    CHECK(largest_error(narrow_entropy, entropy) < 1e-5);
    for (std::size_t i = 0; i < exact.size(); ++i) CHECK(std::abs(double(float(narrow[i])) - exact[i]) <= std::abs(exact[i]) / 256 + 1e-5);
  }
}

TEST_CASE("the objective never holds all logits") {
  using B = cpu<float>;
  const index_t rows = 4096, width = 4, vocabulary = 8192;
  context<B> cx{B::queue(2)};
  auto scope = cx.scope();
  const std::vector<float> h = normal_values<float>(rows * width, 1), w = normal_values<float>(vocabulary * width, 2);
  const std::vector<int> tokens(static_cast<std::size_t>(rows), 7);
  ops::linear_token_objective<B>(cx, const_tensor<B>(h.data(), rows, width), const_tensor<B>(w.data(), vocabulary, width),
                                 indices<B>(tokens.data(), rows), {}, {});
  CHECK(cx.memory().peak_bytes() < static_cast<std::size_t>(rows * vocabulary) * sizeof(float) / 7);
}

TEST_CASE("shapes of an objective that do not fit are told in one line") {
  using B = cpu<double>;
  context<B> cx;
  const numbers z(12);
  const std::vector<int> id(4);
  const const_tensor<B> rows(z.data(), 3, 4);
  const auto with = [&](index_t tokens, const token_weights<B>& w) {
    return ops::token_objective<B>(cx, rows, indices<B>(id.data(), tokens), w);
  };
  const const_accum_tensor<B> two(z.data(), 2);
  CHECK_THROWS_WITH(with(2, {}), "token_objective: 3 rows, but 2 tokens");
  CHECK_THROWS_WITH(with(3, {.likelihood = two}), "token_objective: 3 rows, but 2 weights");
  CHECK_THROWS_WITH(with(3, {.entropy = two}), "token_objective: 3 rows, but 2 weights");
  CHECK_THROWS_AS(with(3, {.probability_floor = -1e-8}), error);
  CHECK_THROWS_AS(with(3, {.probability_floor = none}), error);
  const indices<B> tokens(id.data(), 3);
  CHECK_THROWS_WITH(ops::linear_token_objective<B>(cx, rows, const_tensor<B>(z.data(), 4, 3), tokens, {}, {}),
                    "linear_token_objective: hidden has 4 columns, the table 3");
  CHECK_THROWS_WITH(ops::linear_token_objective<B>(cx, rows, rows, tokens, {}, cx.make_zero(4, 3)),
                    "linear_token_objective: the table is (3, 4), its gradient (4, 3)");
  // No rows at all are fine.
  CHECK(cx.read_one(ops::token_objective<B>(cx, const_tensor<B>(z.data(), 0, 4), indices<B>(id.data(), 0), {}).total) == 0);
}
