#include <planlm/ops/token_policy.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
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
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
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
  p.stop = static_cast<int>(vocabulary / 2);
  for (index_t r = 0; r < rows; ++r) {
    const auto row = static_cast<std::uint64_t>(r);
    p.tokens.push_back(r % 6 == 4 ? -1 : static_cast<int>(random.below(static_cast<std::uint32_t>(vocabulary), row, 1)));
    if (with_rules) p.stopping.push_back(r % 5 == 1 ? forbidden : r % 7 == 3 ? forced : free_stop);
    // A row that is forced, or must not stop, takes something that it may take, or nothing.
    if (with_rules && p.stopping.back() == forced) p.tokens.back() = r % 2 ? p.stop : -1;
    if (with_rules && p.stopping.back() == forbidden && p.tokens.back() == p.stop) p.tokens.back() = -1;
  }
  if (with_rules && vocabulary > 1) p.penalty = normal_values(vocabulary, 3);
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
