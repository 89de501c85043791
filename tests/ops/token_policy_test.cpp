#include <planlm/ops/token_policy.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/sampling.hpp>
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
constexpr int free_stop = 0, forbidden = 1, forced = 2;

/// Rows of a policy: hidden states, tokens, rules and upstreams in double.
struct problem {
  index_t rows, width, vocabulary;
  std::vector<int> tokens;
  int stop = -1;
  std::vector<int> stopping{};
  numbers penalty{}, dtaken{}, dstop{}, dentropy{};
  numbers hidden() const { return normal_values(rows * width, 1); }
  numbers table() const { return normal_values(vocabulary * width, 2); }
};
/// Every row its own token and, where asked, its own rule; token -1 and the stop itself among the tokens.
problem make_problem(index_t rows, index_t width, index_t vocabulary, bool with_rules = true) {
  problem p{rows, width, vocabulary, {}};
  const philox random{5};
  with_rules = with_rules && vocabulary > 1;  // of one token nothing can be forbidden
  p.stop = static_cast<int>(vocabulary / 2);
  for (index_t r = 0; r < rows; ++r) {
    const auto row = static_cast<std::uint64_t>(r);
    p.tokens.push_back(r % 6 == 4 ? -1 : static_cast<int>(random.below(static_cast<std::uint32_t>(vocabulary), row, 1)));
    if (with_rules) p.stopping.push_back(r % 5 == 1 ? forbidden : r % 7 == 3 ? forced : free_stop);
    // A row that is forced, or must not stop, takes something that it may take, or nothing.
    if (with_rules && p.stopping.back() == forced) p.tokens.back() = r % 2 ? p.stop : -1;
    if (with_rules && p.stopping.back() == forbidden && p.tokens.back() == p.stop) p.tokens.back() = -1;
  }
  if (with_rules) p.penalty = normal_values(vocabulary, 3);
  p.dtaken = normal_values(rows, 7), p.dstop = normal_values(rows, 8), p.dentropy = normal_values(rows, 9);
  return p;
}

template <class T>
struct outcome {
  std::vector<T> taken, stop, entropy, dhidden, dtable;
};
template <class B>
view<const typename B::accum, 1> values_of(context<B>& cx, const numbers& v) {
  if (v.empty()) return {};
  const std::vector<typename B::accum> narrow(v.begin(), v.end());
  return cx.upload(narrow);
}
template <class B>
token_rules<B> rules_of(context<B>& cx, const problem& p) {
  return {p.stop, p.stopping.empty() ? indices<B>{} : indices<B>(p.stopping.data(), p.rows), values_of(cx, p.penalty)};
}
template <class B>
tensor<B> matrix_of(context<B>& cx, const numbers& v, index_t rows, index_t cols) {
  const std::vector<typename B::real> narrow(v.begin(), v.end());
  return cx.upload(std::span<const typename B::real>(narrow), rows, cols);
}

/// Fused; the table's gradient starts at 0.5 and is left out when frozen.
template <class T>
outcome<T> fused(const problem& p, bool frozen = false, int threads = 1) {
  using B = cpu<T>;
  context<B> cx{typename B::queue(threads)};
  testing::poison(cx);
  auto scope = cx.scope();
  const tensor<B> hidden = matrix_of(cx, p.hidden(), p.rows, p.width), table = matrix_of(cx, p.table(), p.vocabulary, p.width);
  tensor<B> dtable;
  if (!frozen) dtable = matrix_of(cx, numbers(static_cast<std::size_t>(table.size()), 0.5), p.vocabulary, p.width);
  auto [v, pullback] = ops::linear_token_policy<B>(cx, hidden, table, indices<B>(p.tokens.data(), p.rows), rules_of(cx, p));
  const auto dhidden = pullback(values_of(cx, p.dtaken), values_of(cx, p.dstop), values_of(cx, p.dentropy), dtable);
  outcome<T> out{cx.read(v.taken), cx.read(v.stop), cx.read(v.entropy), cx.read(dhidden), {}};
  if (!frozen) out.dtable = cx.read(dtable);
  return out;
}

/// The definition, with whole matrices and probabilities that are stored: log p by subtraction, gradients through them.
outcome<double> composed(const problem& p) {
  const numbers h = p.hidden(), w = p.table();
  outcome<double> out;
  out.dhidden.assign(h.size(), 0), out.dtable.assign(w.size(), 0.5);
  const auto at = [](const numbers& v, std::size_t i) { return v.empty() ? 0.0 : v[i]; };
  const auto width = static_cast<std::size_t>(p.width), size = static_cast<std::size_t>(p.vocabulary);
  for (std::size_t r = 0; r < static_cast<std::size_t>(p.rows); ++r) {
    const int rule = p.stopping.empty() ? free_stop : p.stopping[r];
    numbers z(size), prob(size), logp(size), dz(size);
    double sum = 0, entropy = 0;
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t c = 0; c < width; ++c) z[i] += h[r * width + c] * w[i * width + c];
      z[i] += at(p.penalty, i);
      const bool is_stop = static_cast<int>(i) == p.stop;
      if ((rule == forbidden && is_stop) || (rule == forced && !is_stop)) z[i] = -infinity;
      sum += std::exp(z[i]);
    }
    for (std::size_t i = 0; i < size; ++i) {
      logp[i] = z[i] - std::log(sum), prob[i] = std::exp(logp[i]);
      if (prob[i] > 0) entropy -= prob[i] * logp[i];
    }
    // Upstreams of log p, and from there through the log-softmax: dz = dlogp - p sum(dlogp).
    numbers dlogp(size);
    if (p.tokens[r] >= 0) dlogp[static_cast<std::size_t>(p.tokens[r])] += at(p.dtaken, r);
    if (p.stop >= 0 && rule == free_stop) dlogp[static_cast<std::size_t>(p.stop)] += at(p.dstop, r);
    for (std::size_t i = 0; i < size; ++i)
      if (prob[i] > 0) dlogp[i] -= at(p.dentropy, r) * prob[i] * (logp[i] + 1);
    double total = 0;
    for (const double d : dlogp) total += d;
    for (std::size_t i = 0; i < size; ++i) dz[i] = prob[i] > 0 ? dlogp[i] - prob[i] * total : 0;
    out.taken.push_back(p.tokens[r] < 0 ? 0 : logp[static_cast<std::size_t>(p.tokens[r])]);
    out.stop.push_back(p.stop < 0 ? -infinity : rule == forced ? 0 : logp[static_cast<std::size_t>(p.stop)]);
    out.entropy.push_back(entropy);
    for (std::size_t i = 0; i < size; ++i)
      for (std::size_t c = 0; c < width; ++c) {
        out.dhidden[r * width + c] += dz[i] * w[i * width + c];
        out.dtable[i * width + c] += dz[i] * h[r * width + c];
      }
  }
  return out;
}
/// -infinity in the same places, and near everywhere else.
template <class T>
double error_of(const std::vector<T>& a, const numbers& b) {
  if (a.size() != b.size()) return infinity;
  numbers x(a.begin(), a.end()), y = b;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (x[i] == -infinity && y[i] == -infinity) x[i] = y[i] = 0;
  return largest_error(x, y);
}
template <class T>
void check_equal(const outcome<T>& a, const outcome<double>& b, double limit) {
  CHECK(error_of(a.taken, b.taken) < limit);
  CHECK(error_of(a.stop, b.stop) < limit);
  CHECK(error_of(a.entropy, b.entropy) < limit);
  CHECK(error_of(a.dhidden, b.dhidden) < limit);
  CHECK(error_of(a.dtable, b.dtable) < limit);
}

}  // namespace

TEST_CASE("the fused head equals the plain composition, values and gradients, for every choice of upstreams") {
  // 512 rows are one block at this vocabulary: 1100 rows are three, the last of them short.
  for (const bool with_rules : {false, true})
    for (problem p : {make_problem(1, 1, 1, with_rules), make_problem(8, 7, 3, with_rules), make_problem(33, 5, 130, with_rules),
                      make_problem(1100, 6, 37, with_rules)}) {
      const problem whole = p;
      for (int mask = 0; mask < 8; ++mask) {
        if (p.rows > 1000 && mask != 3 && mask != 7) continue;
        CAPTURE(p.rows, p.width, p.vocabulary, with_rules, mask);
        p.dtaken = mask & 1 ? whole.dtaken : numbers{};
        p.dstop = mask & 2 ? whole.dstop : numbers{};
        p.dentropy = mask & 4 ? whole.dentropy : numbers{};
        const outcome<double> expected = composed(p);
        check_equal(fused<double>(p), expected, 2e-12);
        check_equal(fused<float>(p), expected, 5e-5);
      }
    }
}

TEST_CASE("the fused head passes the directional check over input and table, for each upstream and all together") {
  using B = cpu<double>;
  problem p = make_problem(14, 5, 11);
  const problem whole = p;
  for (int mask = 1; mask < 8; ++mask) {
    CAPTURE(mask);
    p.dtaken = mask & 1 ? whole.dtaken : numbers{};
    p.dstop = mask & 2 ? whole.dstop : numbers{};
    p.dentropy = mask & 4 ? whole.dentropy : numbers{};
    context<B> cx;
    const auto n = static_cast<std::size_t>(p.rows * p.width);
    const auto split = [&](const numbers& v, numbers* gradient) {
      auto scope = cx.scope();
      const tensor<B> dtable = cx.make_zero(p.vocabulary, p.width);
      const const_tensor<B> hidden = cx.upload(std::span<const double>(v).first(n), p.rows, p.width);
      const const_tensor<B> table = cx.upload(std::span<const double>(v).subspan(n), p.vocabulary, p.width);
      auto [values, pullback] = ops::linear_token_policy<B>(cx, hidden, table, indices<B>(p.tokens.data(), p.rows), rules_of(cx, p));
      if (gradient) {
        *gradient = cx.read(pullback(values_of(cx, p.dtaken), values_of(cx, p.dstop), values_of(cx, p.dentropy), dtable));
        for (const double g : cx.read(dtable)) gradient->push_back(g);
      }
      double total = 0;
      for (std::size_t r = 0; r < p.tokens.size(); ++r) {
        if (!p.dtaken.empty() && p.tokens[r] >= 0) total += p.dtaken[r] * values.taken[static_cast<index_t>(r)];
        if (!p.dstop.empty() && p.stopping[r] == free_stop) total += p.dstop[r] * values.stop[static_cast<index_t>(r)];
        if (!p.dentropy.empty()) total += p.dentropy[r] * values.entropy[static_cast<index_t>(r)];
      }
      return total;
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

TEST_CASE("log-probabilities are those of the sampler, bit for bit, with and without rules, in blocks and row by row") {
  using B = cpu<float>;
  const index_t rows = 3000, width = 24, vocabulary = 211;
  for (const bool with_rules : {false, true}) {
    problem p = make_problem(rows, width, vocabulary, with_rules);
    CAPTURE(with_rules);
    // Some actions that their row's rules exclude, too.
    for (std::size_t r = 0; r < p.tokens.size(); ++r)
      if (r % 31 == 1) p.tokens[r] = p.stop;
    context<B> cx{B::queue(2)};
    const tensor<B> hidden = matrix_of(cx, p.hidden(), rows, width), table = matrix_of(cx, p.table(), vocabulary, width);
    const token_rules<B> rules = rules_of(cx, p);
    const auto scored = ops::linear_token_policy<B>(cx, hidden, table, indices<B>(p.tokens.data(), rows), rules).value;
    const tensor<B> z = ops::matmul_nt<B>(cx, hidden, table);
    ops::constrain<B>(cx, z, rules);
    const std::vector<int> places(static_cast<std::size_t>(rows), 3), stops(static_cast<std::size_t>(rows), p.stop);
    const auto plain_of = [&](const std::vector<int>& tokens) {
      const indices<B> at(places.data(), rows), given(tokens.data(), rows);
      return cx.read(ops::sample<B>(cx, z, sampling_rule{}, philox{1}, at, given).plain);
    };
    std::vector<float> expected = plain_of(p.tokens);
    for (std::size_t r = 0; r < p.tokens.size(); ++r)
      if (p.tokens[r] < 0) expected[r] = 0;
    CHECK(same_bits(cx.read(scored.taken), expected));
    CHECK(same_bits(cx.read(scored.stop), plain_of(stops)));
    CHECK(std::count(expected.begin(), expected.end(), -INFINITY) == (with_rules ? 20 : 0));
    // One row at a time, as a decoder with a cache does it: a token drawn there is scored here by the same bits.
    std::vector<float> drawn(p.tokens.size());
    std::vector<int> token(p.tokens.size());
    for (index_t r = 0; r < rows; ++r) {
      auto scope = cx.scope();
      const tensor<B> row = ops::matmul_nt<B>(cx, row_range(const_tensor<B>(hidden), r, r + 1), table);
      token_rules<B> of_row{p.stop, {}, rules.penalty};
      if (with_rules) of_row.stopping = indices<B>(&p.stopping[static_cast<std::size_t>(r)], 1);
      ops::constrain<B>(cx, row, of_row);
      const int place = static_cast<int>(r);
      const auto s = ops::sample<B>(cx, row, sampling_rule{.temperature = 1.4}, philox{1}, indices<B>(&place, 1));
      token[static_cast<std::size_t>(r)] = s.token[0], drawn[static_cast<std::size_t>(r)] = s.plain[0];
    }
    CHECK(same_bits(cx.read(ops::linear_token_policy<B>(cx, hidden, table, indices<B>(token.data(), rows), rules).value.taken), drawn));
    CHECK(std::all_of(drawn.begin(), drawn.end(), [](float v) { return std::isfinite(v); }));
  }
}

TEST_CASE("logits that are there already give the values and gradients of those that are made, bit for bit") {
  using B = cpu<float>;
  const problem p = make_problem(700, 7, 37);
  context<B> cx{B::queue(2)};
  const tensor<B> hidden = matrix_of(cx, p.hidden(), p.rows, p.width), table = matrix_of(cx, p.table(), p.vocabulary, p.width);
  const indices<B> tokens(p.tokens.data(), p.rows);
  const tensor<B> z = ops::matmul_nt<B>(cx, hidden, table);
  const std::vector<float> before = cx.read(z);
  auto [v, pullback] = ops::token_policy<B>(cx, z, tokens, rules_of(cx, p));
  const tensor<B> dz = pullback(values_of(cx, p.dtaken), values_of(cx, p.dstop), values_of(cx, p.dentropy));
  const outcome<float> expected = fused<float>(p);
  CHECK(same_bits(cx.read(v.taken), expected.taken));
  CHECK(same_bits(cx.read(v.stop), expected.stop));
  CHECK(same_bits(cx.read(v.entropy), expected.entropy));
  CHECK(same_bits(cx.read(ops::matmul<B>(cx, dz, table)), expected.dhidden));
  CHECK(same_bits(cx.read(z), before));  // the caller's logits stay as they were
  CHECK(same_bits(cx.read(pullback(values_of(cx, p.dtaken), values_of(cx, p.dstop), values_of(cx, p.dentropy))), cx.read(dz)));
}

TEST_CASE("by hand: what is forbidden, forced, penalised or not taken") {
  using B = cpu<double>;
  context<B> cx;
  // Three tokens of logits 0, ln 2, ln 5, the last of them the stop: probabilities 1/8, 2/8, 5/8.
  const numbers row{0, std::log(2.0), std::log(5.0)};
  numbers z;
  for (int r = 0; r < 6; ++r) z.insert(z.end(), row.begin(), row.end());
  const std::vector<int> tokens{1, 1, 2, 0, -1, 2}, stopping{free_stop, forbidden, forced, forced, free_stop, forbidden};
  token_rules<B> rules{2, indices<B>(stopping.data(), 6)};
  const auto values = [&] { return ops::token_policy<B>(cx, const_tensor<B>(z.data(), 6, 3), indices<B>(tokens.data(), 6), rules).value; };
  auto v = values();
  CHECK(error_of(cx.read(v.taken), {std::log(1 / 4.0), std::log(2 / 3.0), 0, -infinity, 0, -infinity}) < 1e-15);
  CHECK(error_of(cx.read(v.stop), {std::log(5 / 8.0), -infinity, 0, 0, std::log(5 / 8.0), -infinity}) < 1e-15);
  const double whole = std::log(8) - std::log(2) / 4 - 5 * std::log(5) / 8, two = std::log(3) - 2 * std::log(2) / 3;
  CHECK(error_of(cx.read(v.entropy), {whole, two, 0, 0, whole, two}) < 1e-15);
  // A penalty that makes the stop as probable as token 1, on which it is impossible and forced all the same.
  const numbers penalty{-infinity, 0, std::log(2 / 5.0)};
  rules.penalty = const_accum_tensor<B>(penalty.data(), 3);
  v = values();
  const double half = std::log(0.5);
  CHECK(error_of(cx.read(v.taken), {half, 0, 0, -infinity, 0, -infinity}) < 1e-15);
  CHECK(error_of(cx.read(v.stop), {half, -infinity, 0, 0, half, -infinity}) < 1e-15);
  CHECK(error_of(cx.read(v.entropy), {-half, 0, 0, 0, -half, 0}) < 1e-15);
  const numbers never{0, 0, -infinity};  // a stop that is never free is forced all the same
  rules.penalty = const_accum_tensor<B>(never.data(), 3);
  v = values();
  CHECK(error_of(cx.read(v.stop), {-infinity, -infinity, 0, 0, -infinity, -infinity}) < 1e-15);
  CHECK(error_of(cx.read(v.taken), {std::log(2 / 3.0), std::log(2 / 3.0), 0, -infinity, 0, -infinity}) < 1e-15);
  // No stop at all: its rules are not read.
  rules = {-1, indices<B>(stopping.data(), 6)};
  CHECK(cx.read(values().stop) == numbers(6, -infinity));
  CHECK(cx.read(values().taken)[3] == Approx(std::log(1 / 8.0)));
}

TEST_CASE("upstreams of what cannot be chosen are not read, and one possible token has entropy and gradient exactly 0") {
  using B = cpu<double>;
  context<B> cx;
  const index_t rows = 7, vocabulary = 40;
  const numbers z = normal_values(rows * vocabulary, 3);
  const std::vector<int> tokens{-1, 5, 3, 5, -1, 7, 5};
  const std::vector<int> stopping{free_stop, forbidden, forced, forced, forced, free_stop, forbidden};
  const numbers dtaken{none, 1, none, none, none, none, none}, dstop{1, none, none, none, none, 1, none};
  const numbers dentropy{1, 1, none, none, none, 1, 0};
  numbers penalty(40);
  penalty[7] = -infinity, penalty[20] = -1e300;
  const token_rules<B> rules{5, indices<B>(stopping.data(), rows), const_accum_tensor<B>(penalty.data(), vocabulary)};
  // Row 1 takes the stop although it must not, row 5 what the penalty excludes, row 3 the stop that is forced.
  const auto gradient = [&](const numbers& a, const numbers& c, const numbers& h) {
    auto [v, pullback] = ops::token_policy<B>(cx, const_tensor<B>(z.data(), rows, vocabulary), indices<B>(tokens.data(), rows), rules);
    return cx.read(pullback(values_of(cx, a), values_of(cx, c), values_of(cx, h)));
  };
  const numbers dz = gradient(dtaken, dstop, dentropy);
  for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
    double sum = 0;
    for (std::size_t i = 0; i < 40; ++i) {
      const double d = dz[r * 40 + i];
      CHECK(std::isfinite(d));
      if ((r >= 2 && r <= 4) || r == 6 || i == 7 || i == 20 || (r == 1 && i == 5)) CHECK(d == 0);
      sum += d;
    }
    CHECK(std::abs(sum) < 1e-14);  // no constant added to a row's logits matters
  }
  // All but one token excluded by the penalty alone: the general sums give 0, too.
  numbers one(40, -infinity);
  one[12] = 3;
  const std::vector<int> same(static_cast<std::size_t>(rows), 12);
  auto [v, pullback] = ops::token_policy<B>(cx, const_tensor<B>(z.data(), rows, vocabulary), indices<B>(same.data(), rows),
                                            {12, {}, const_accum_tensor<B>(one.data(), vocabulary)});
  CHECK(cx.read(v.entropy) == numbers(7, 0));
  CHECK(cx.read(v.taken) == numbers(7, 0));
  CHECK(cx.read(v.stop) == numbers(7, 0));
  const numbers some = normal_values(rows, 4), other = normal_values(rows, 5), more = normal_values(rows, 6);
  CHECK(cx.read(pullback(values_of(cx, some), values_of(cx, other), values_of(cx, more))) == numbers(280, 0));
}

TEST_CASE("extreme logits give no NaN, and a row without a finite one has no distribution and no gradient") {
  using B = cpu<float>;
  context<B> cx;
  constexpr float low = std::numeric_limits<float>::lowest(), most = std::numeric_limits<float>::max(), never = -INFINITY;
  const std::vector<std::vector<float>> rows{{0, low, 0, 0, never},   {most, low, 0, never, 1}, {1e30f, -1e30f, 1e30f, never, never},
                                             {-200, 0, 100, 1, 2},   {never, never, never, never, 1}, {low, low, low, low, low},
                                             {88, -88, 87.5f, 0, 1}, {never, never, never, never, never}};
  for (const int token : {0, 1, 3, 4})
    for (const int stop : {-1, 0, 4}) {
      CAPTURE(token, stop);
      std::vector<float> z;
      for (const auto& row : rows) z.insert(z.end(), row.begin(), row.end());
      const std::vector<int> tokens(rows.size(), token);
      const auto n = static_cast<index_t>(rows.size());
      auto [v, pullback] = ops::token_policy<B>(cx, const_tensor<B>(z.data(), n, 5), indices<B>(tokens.data(), n), {stop});
      const std::vector<float> ones(rows.size(), 1.5f);
      const const_accum_tensor<B> up(ones.data(), n);
      const std::vector<float> dz = cx.read(pullback(up, up, up)), without = cx.read(pullback(up, up, {}));
      for (std::size_t r = 0; r < rows.size(); ++r) {
        CAPTURE(r);
        const auto i = static_cast<index_t>(r);
        const bool distribution = r + 1 < rows.size();
        CHECK(std::isnan(v.entropy[i]) == !distribution);
        CHECK(std::isnan(v.taken[i]) == !distribution);
        CHECK(std::isnan(v.stop[i]) == (!distribution && stop >= 0));
        if (distribution) CHECK((v.entropy[i] >= 0 && v.entropy[i] <= std::log(5.0f) * 1.000001f && v.taken[i] <= 0 && v.stop[i] <= 0));
        for (std::size_t c = 0; c < 5; ++c) {
          CHECK(std::isfinite(dz[r * 5 + c]));
          CHECK(std::isfinite(without[r * 5 + c]));
          if (!distribution || rows[r][c] == never) CHECK(dz[r * 5 + c] == 0);
        }
      }
    }
}

TEST_CASE("the sampled prefixes of a small policy have the published gradient of their loss, at the root in two entries only") {
  // Three rollouts of a policy whose logits depend on the previous token; modified sub-trajectory balance, all pairs alike.
  using B = cpu<double>;
  constexpr int stop = 5;
  const numbers bigram{-0.9, 0.35, -0.65, 0.6,   -0.4, 0.85, -0.4, -0.9,  0.85, 0.35, -0.15, -0.65, 0.1,   0.1,  0.1, 0.1,   0.1,  0.1,
                       0.6,  1.1,  -0.65, -0.15, 0.35, 0.85, 1.1,  -0.15, 0.85, -0.4, 0.6,   -0.65, -0.65, 0.85, 0.1, -0.65, 0.85, 0.1};
  const std::vector<std::vector<int>> action{{2, 3, 4}, {3, 2}, {4}};
  const std::vector<numbers> reward{{-123.75, -4.671465336098, -6.059222440102, -8.048921776637},
                                    {-123.75, -4.802682064318, -7.059222440102},
                                    {-123.75, -5.40462429685}};
  std::vector<int> previous, tokens;
  for (const auto& actions : action) {
    previous.push_back(1);
    for (const int a : actions) previous.push_back(a), tokens.push_back(a);
    tokens.push_back(-1);
  }
  const auto rows = static_cast<index_t>(previous.size());
  numbers hidden(static_cast<std::size_t>(rows) * 6), table(36);
  for (std::size_t r = 0; r < previous.size(); ++r) hidden[r * 6 + static_cast<std::size_t>(previous[r])] = 1;
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t j = 0; j < 6; ++j) table[i * 6 + j] = bigram[j * 6 + i];
  context<B> cx;
  const tensor<B> dtable = cx.make_zero(6, 6);
  auto [v, pullback] = ops::linear_token_policy<B>(cx, const_tensor<B>(hidden.data(), rows, 6), const_tensor<B>(table.data(), 6, 6),
                                                   indices<B>(tokens.data(), rows), {stop});
  CHECK(error_of(cx.read(v.taken), {-0.977505862165, -1.791759469228, -1.949355180241, 0, -1.477505862165, -2.949355180241, 0,
                                    -1.977505862165, 0}) < 1e-12);
  CHECK(error_of(cx.read(v.stop), {-2.477505862165, -1.791759469228, -1.449355180241, -2.871267165751, -2.477505862165, -1.449355180241,
                                   -1.791759469228, -2.477505862165, -2.871267165751}) < 1e-12);
  // u_k = the sum of log q before k + log q(stop) - log R; pairs (u_j - u_i)^2 over all, divided by how many there are: 6 + 3 + 1.
  numbers dtaken(previous.size()), dstop(previous.size());
  double loss = 0;
  std::size_t at = 0;
  for (std::size_t b = 0; b < 3; ++b) {
    const std::size_t points = action[b].size() + 1;
    numbers u(points);
    double path = 0, sum = 0;
    for (std::size_t k = 0; k < points; ++k) {
      u[k] = path + v.stop[static_cast<index_t>(at + k)] - reward[b][k];
      path += v.taken[static_cast<index_t>(at + k)], sum += u[k];
      for (std::size_t i = 0; i < k; ++i) loss += (u[k] - u[i]) * (u[k] - u[i]) / 10;
    }
    double after = 0;
    for (std::size_t k = points; k-- > 0;) {
      dtaken[at + k] = after;
      dstop[at + k] = 2 * (double(points) * u[k] - sum) / 10;
      after += dstop[at + k];
    }
    dtaken[at] = -dstop[at];  // the same to rounding; exact, so that the root's row shows what it means
    at += points;
  }
  CHECK(loss == Approx(8644.611713284366).epsilon(1e-12));
  pullback(values_of(cx, dtaken), values_of(cx, dstop), {}, dtable);
  const numbers root{0, 0, -71.923129276216, -47.965713065058, -24.14332857378, 144.032170915055};
  numbers expected(36);
  const std::vector<numbers> later{{16.036091922796, 16.036091922796, 16.036091922796, -32.313931323132, 16.036091922796, -31.830436368054},
                                   {17.6066475857, 29.028454380265, -19.249033270633, 8.316791425383, -11.015567827645, -24.687292293071},
                                   {15.925416249712, 4.562708147538, 12.402726646014, 3.553440678229, 9.659253224136, -46.103544945629}};
  std::copy(root.begin(), root.end(), expected.begin() + 6);
  for (std::size_t i = 0; i < 18; ++i) expected[12 + i] = later[i / 6][i % 6];
  numbers of_bigram(36);
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t j = 0; j < 6; ++j) of_bigram[j * 6 + i] = dtable[static_cast<index_t>(i * 6 + j)];
  CHECK(largest_error(of_bigram, expected) < 1e-11);
  for (const std::size_t exactly : {6u, 7u}) CHECK(of_bigram[exactly] == 0);  // neither a first token nor the stop: no softmax term at all
}

TEST_CASE("a frozen table changes no bit of value or input gradient, and threads change none at all") {
  const problem p = make_problem(700, 48, 301);
  const auto one = fused<float>(p), frozen = fused<float>(p, true);
  CHECK(same_bits(frozen.taken, one.taken));
  CHECK(same_bits(frozen.dhidden, one.dhidden));
  for (const int threads : {2, 3}) {
    const auto more = fused<float>(p, false, threads);
    CHECK(same_bits(more.taken, one.taken));
    CHECK(same_bits(more.stop, one.stop));
    CHECK(same_bits(more.entropy, one.entropy));
    CHECK(same_bits(more.dhidden, one.dhidden));
    CHECK(same_bits(more.dtable, one.dtable));
  }
}

TEST_CASE("without upstreams the gradient is 0, and an upstream of zeros is the same as none") {
  problem p = make_problem(40, 5, 11);
  const problem whole = p;
  p.dtaken = p.dstop = p.dentropy = {};
  const auto nothing = fused<double>(p);
  CHECK(nothing.dhidden == numbers(200, 0));
  CHECK(nothing.dtable == numbers(55, 0.5));
  p.dtaken = whole.dtaken;
  const auto alone = fused<float>(p);
  p.dstop = p.dentropy = numbers(40, 0);
  const auto zeros = fused<float>(p);
  CHECK(same_bits(zeros.dhidden, alone.dhidden));
  CHECK(same_bits(zeros.dtable, alone.dtable));
}

TEST_CASE("a team of any width gives the same rows") {
  const index_t rows = 30;
  for (const index_t vocabulary : {1, 3, 5, 130}) {
    CAPTURE(vocabulary);
    const index_t stride = vocabulary + 3;  // padded rows: what lies between them is left alone
    problem p = make_problem(rows, 1, vocabulary);
    const numbers z = normal_values(rows * stride, 4, 2);
    const auto run = [&](auto launch) {
      numbers made = z, taken(rows, none), stop = taken, entropy = taken, top = taken, whole = taken;
      launch(rows, ops::kernel::constrain<double>{made.data(), p.stopping.data(), p.penalty.empty() ? nullptr : p.penalty.data(),
                                                  vocabulary, stride, p.stop});
      numbers gradient = made;
      launch(rows, ops::kernel::token_policy<double>{made.data(), p.tokens.data(), taken.data(), stop.data(), entropy.data(), top.data(),
                                                     whole.data(), vocabulary, stride, p.stop});
      launch(rows, ops::kernel::token_policy_pullback<double>{gradient.data(), p.tokens.data(), p.stopping.data(), p.dtaken.data(),
                                                              p.dstop.data(), p.dentropy.data(), entropy.data(), top.data(), whole.data(),
                                                              vocabulary, stride, p.stop});
      return std::vector<numbers>{taken, stop, entropy, top, whole, gradient};
    };
    const auto serial = run([](index_t n, const auto& kernel) {
      for (index_t r = 0; r < n; ++r) kernel(serial_team{}, r);
    });
    const auto lanes = run([](index_t n, const auto& kernel) { testing::run_lanes<4>(n, kernel); });
    for (std::size_t i = 0; i < serial.size(); ++i) CHECK(error_of(lanes[i], serial[i]) < 1e-13);
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = vocabulary; c < stride; ++c)
        CHECK(serial[5][static_cast<std::size_t>(r * stride + c)] == z[static_cast<std::size_t>(r * stride + c)]);
  }
}

TEST_CASE("the head never holds all logits, neither forward nor back") {
  using B = cpu<float>;
  const index_t rows = 4096, width = 4, vocabulary = 8192;
  context<B> cx{B::queue(2)};
  auto scope = cx.scope();
  const std::vector<float> h = normal_values<float>(rows * width, 1), w = normal_values<float>(vocabulary * width, 2), up(4096, 1.0f);
  const std::vector<int> tokens(static_cast<std::size_t>(rows), 7);
  const const_accum_tensor<B> upstream(up.data(), rows);
  auto [v, pullback] = ops::linear_token_policy<B>(cx, const_tensor<B>(h.data(), rows, width), const_tensor<B>(w.data(), vocabulary, width),
                                                   indices<B>(tokens.data(), rows), {3});
  CHECK(cx.memory().used_bytes() < static_cast<std::size_t>(rows) * 8 * sizeof(float));  // kept: six numbers a row
  pullback(upstream, upstream, upstream, {});
  CHECK(cx.memory().peak_bytes() < static_cast<std::size_t>(rows * vocabulary) * sizeof(float) / 7);
}

TEST_CASE("shapes that do not fit are told in one line") {
  using B = cpu<double>;
  context<B> cx;
  const numbers z(12);
  const std::vector<int> id(4);
  const const_tensor<B> rows(z.data(), 3, 4);
  const auto with = [&](index_t tokens, const token_rules<B>& rules) {
    return ops::token_policy<B>(cx, rows, indices<B>(id.data(), tokens), rules);
  };
  CHECK_THROWS_WITH(with(2, {}), "token_policy: 3 rows, but 2 tokens");
  CHECK_THROWS_WITH(with(3, {4}), "token_policy: the stop is token 4, the vocabulary has 4");
  CHECK_THROWS_WITH(with(3, {1, indices<B>(id.data(), 4)}), "token_policy: 3 rows, but 4 stop rules");
  CHECK_THROWS_WITH(with(3, {1, {}, const_accum_tensor<B>(z.data(), 3)}),
                    "token_policy: the vocabulary has 4 tokens, but there are 3 penalties");
  CHECK_THROWS_WITH(with(3, {}).pullback(const_accum_tensor<B>(z.data(), 2), {}, {}),
                    "token_policy: an upstream gradient has 2 values, expected 3 or none");
  CHECK_THROWS_WITH(ops::linear_token_policy<B>(cx, rows, const_tensor<B>(z.data(), 4, 3), indices<B>(id.data(), 3), {}),
                    "linear_token_policy: hidden has 4 columns, the table 3");
  CHECK_THROWS_AS(ops::constrain<B>(cx, cx.make_zero(3, 4), {9}), shape_error);
  const auto head = ops::linear_token_policy<B>(cx, rows, rows, indices<B>(id.data(), 3), {1});
  CHECK_THROWS_WITH(head.pullback({}, {}, const_accum_tensor<B>(z.data(), 3), cx.make_zero(4, 3)),
                    "linear_token_policy: the table is (3, 4), its gradient (4, 3)");
  // No rows at all are fine.
  auto [v, pullback] = ops::linear_token_policy<B>(cx, const_tensor<B>(z.data(), 0, 4), rows, indices<B>(id.data(), 0), {1});
  CHECK(v.taken.size() == 0);
  CHECK(pullback({}, {}, {}, {}).size() == 0);
}
