/// Lists of generations for the tests of preferences: the goldens, padded or packed, with NaN wherever no generation lies.
#pragma once
#include <planlm/objectives/listwise_preference.hpp>

#include "batch.hpp"

namespace objectives_test {

inline const nlohmann::json& preference_golden(const std::string& name) {
  static const nlohmann::json all = nlohmann::json::parse(std::ifstream(PLANLM_GOLDEN "/preference_lists.json"));
  return all.at(name);
}

/// r = z: what is aggregated is what is given.
struct no_squash {
  double value(double z) const { return z; }
  double slope(double) const { return 1; }
};

struct list_batch {
  std::vector<int> first, length, offsets, item, tie;
  numbers z, score;

  template <class C = B>
  preference_lists<C> lists() const {
    return {ints(first), ints(length), ints(offsets), row(score), ints(item), ints(tie)};
  }
  std::size_t generations() const { return length.size(); }
  void lists_of(int k) {
    offsets.clear();
    for (int i = 0; i <= static_cast<int>(length.size()); i += k) offsets.push_back(i);
  }
  /// f(place in z) for every token of every generation.
  template <class F>
  void each_token(const F& f) const {
    for (std::size_t s = 0; s < length.size(); ++s)
      for (int t = 0; t < length[s]; ++t) f(static_cast<std::size_t>(first[s] + t));
  }
  /// Of values laid out like z, those of tokens.
  numbers tokens(const numbers& v) const {
    numbers out;
    each_token([&](std::size_t i) { out.push_back(v[i]); });
    return out;
  }
  /// Whether values laid out like z are 0, not even -0, wherever no token is.
  bool nothing_between(const numbers& v) const {
    std::vector<bool> token(v.size(), false);
    each_token([&](std::size_t i) { token[i] = true; });
    for (std::size_t i = 0; i < v.size(); ++i)
      if (!token[i] && !(v[i] == 0 && !std::signbit(v[i]))) return false;
    return true;
  }

  /// Rows of a golden as they are, padded, or one after another with `gap` rows before each.
  static list_batch of(const nlohmann::json& z, const nlohmann::json& mask, int k, int gap = -1) {
    list_batch b;
    for (std::size_t n = 0; n < z.size(); ++n) {
      int count = 0;
      for (const auto& m : mask.at(n)) count += m.get<double>() > 0;
      for (int i = 0; i < gap; ++i) b.z.push_back(nan_value);
      b.first.push_back(static_cast<int>(b.z.size()));
      b.length.push_back(count);
      for (int t = 0; t < static_cast<int>(z.at(n).size()); ++t)
        if (t < count) b.z.push_back(z.at(n).at(static_cast<std::size_t>(t)).get<double>());
        else if (gap < 0) b.z.push_back(nan_value);
    }
    b.lists_of(k);
    return b;
  }
  /// Random logits and scores; before each generation lies a row that is none's.
  static list_batch random(std::vector<int> lengths, std::vector<int> offsets, std::uint64_t seed) {
    list_batch b;
    b.length = std::move(lengths), b.offsets = std::move(offsets);
    int rows = 0;
    for (const int n : b.length) b.first.push_back(++rows), rows += n;
    const numbers drawn = planlm::testing::normal_values(rows, seed, 1.5);
    b.z.assign(static_cast<std::size_t>(rows), nan_value);
    b.each_token([&](std::size_t i) { b.z[i] = drawn[i]; });
    b.score = planlm::testing::normal_values(static_cast<index_t>(b.length.size()), seed + 1);
    return b;
  }
};

struct list_outcome {
  double total, silent;
  numbers each, score, dz;
};
/// loss(cx, z, lists) on memory full of NaN.
template <class Loss>
list_outcome evaluate(const list_batch& b, const Loss& loss, int threads = 1) {
  context<B> cx{B::queue(threads)};
  planlm::testing::poison(cx, 20000);
  const auto l = loss(cx, row(b.z), b.lists());
  return {cx.read_one(l.total), cx.read_one(l.silent), cx.read(l.each), cx.read(l.score), cx.read(l.dz)};
}
/// The scores of all places alone, and dz for upstream c.
template <class G, class F>
std::pair<numbers, numbers> scores(const list_batch& b, const G& squash, const F& aggregate, const numbers& c = {}) {
  context<B> cx;
  planlm::testing::poison(cx, 20000);
  auto [e, pullback] = list_scores(cx, squash, aggregate, row(b.z), b.lists());
  const numbers value = cx.read(e);
  return {value, c.empty() ? numbers{} : cx.read(pullback(row(c)))};
}
/// Against central differences along random directions of the logits of all tokens.
template <class Loss>
double gradient_gap(list_batch b, const Loss& loss) {
  const auto load = [&](const numbers& x) {
    std::size_t i = 0;
    b.each_token([&](std::size_t at) { b.z[at] = x[i++]; });
  };
  return planlm::testing::directional_error(
      b.tokens(b.z),
      [&](const numbers& x) {
        load(x);
        return evaluate(b, loss).total;
      },
      [&](const numbers& x) {
        load(x);
        return b.tokens(evaluate(b, loss).dz);
      });
}

/// Loss and gradient of scores alone: lists of k places.
inline std::pair<double, numbers> rank(const numbers& e, const numbers& y, int k, const plackett_luce& loss = {},
                                       const std::vector<int>& tie = {}) {
  context<B> cx;
  planlm::testing::poison(cx, 20000);
  list_batch b;
  b.score = y, b.tie = tie;
  for (int i = 0; i <= static_cast<int>(e.size()); i += k) b.offsets.push_back(i);
  const auto l = loss(cx, row(e), b.lists());
  return {cx.read_one(l.total), cx.read(l.de)};
}

}  // namespace objectives_test
