#include <planlm/planning/label_mixture.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using values = std::vector<double>;

namespace {

/// A label mixture under a non-linear loss whose derivative is known: L = sum a tanh(c), so g = a (1 - tanh^2 c).
struct experiment {
  index_t sentences, labels, width;
  context<B> cx{};
  label_mixture<B> layer{labels, width};
  parameters<label_mixture<B>> theta{cx, layer, philox{3}};
  values a = normal_values(sentences * width, 41);

  struct outcome {
    double loss;
    values c, g, dz, dtable;
  };
  template <class Mix>
  outcome run(const Mix& mix, const values& z) {
    auto scope = cx.scope();
    theta.zero_grads(cx);
    auto [c, pullback] = layer(cx, theta.weights, const_tensor<B>(z.data(), sentences, labels), mix);
    outcome out{0, cx.read(c), values(a.size()), {}, {}};
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double t = std::tanh(out.c[i]);
      out.loss += a[i] * t;
      out.g[i] = a[i] * (1 - t * t);
    }
    out.dz = cx.read(pullback(const_tensor<B>(out.g.data(), sentences, width), theta.grads));
    out.dtable = theta.read_gradient(cx, 0);
    return out;
  }
  values table() { return theta.read(cx, 0); }
  void set_table(const values& v) { theta.write(cx, 0, v); }
  /// Row k of a matrix with `width` columns.
  std::span<const double> row(const values& m, index_t k) const {
    return std::span<const double>(m).subspan(static_cast<std::size_t>(k * width), static_cast<std::size_t>(width));
  }
};
double dot(std::span<const double> x, std::span<const double> y) {
  double total = 0;
  for (std::size_t i = 0; i < x.size(); ++i) total += x[i] * y[i];
  return total;
}
values mixture_of(const values& z, index_t rows, double t) {
  context<B> cx;
  return cx.read(mixture{t}.weights(cx, const_tensor<B>(z.data(), rows, static_cast<index_t>(z.size()) / rows)).value);
}
double row_error(std::span<const double> x, std::span<const double> y) {
  return largest_error(values(x.begin(), x.end()), values(y.begin(), y.end()));
}

constexpr index_t shapes[][3]{{1, 1, 1}, {1, 7, 3}, {5, 1, 2}, {13, 17, 9}, {3, 130, 5}, {2, 3, 1}};

}  // namespace

TEST_CASE("a label mixture is the mean of table rows under the weights: two labels by hand") {
  experiment x{2, 2, 3};
  x.set_table({1, 2, 3, 5, 6, 7});
  const double ln3 = std::log(3);
  CHECK(largest_error(x.run(mixture{}, {0, ln3, 0, 0}).c, values{4, 5, 6, 3, 4, 5}) < 1e-15);
  CHECK(largest_error(x.run(mixture{0.5}, {0, ln3, 0, 0}).c, values{4.6, 5.6, 6.6, 3, 4, 5}) < 1e-15);
}

TEST_CASE("a label mixture passes the gradient check under every differentiable policy") {
  for (const auto [s, k, c] : shapes) {
    CAPTURE(s, k, c);
    context<B> cx;
    testing::poison(cx);
    const label_mixture<B> layer{k, c};
    CHECK(testing::gradient_error(cx, layer, s, k, {}) < 1e-7);
    CHECK(testing::gradient_error(cx, layer, s, k, {}, mixture{0.7}) < 1e-7);
    CHECK(testing::gradient_error(cx, layer, s, k, {}, top_k{3, 0.7}) < 1e-7);
    CHECK(testing::gradient_error(cx, layer, s, k, {}, gumbel_softmax{0.7, 0.5}) < 1e-7);
  }
}

TEST_CASE("logits with another number of labels are refused") {
  experiment x{2, 3, 4};
  const values z(8);
  try {
    x.layer(x.cx, x.theta.weights, const_tensor<B>(z.data(), 2, 4));
    FAIL("no error");
  } catch (const shape_error& e) {
    CAPTURE(e.what());
    CHECK(std::string(e.what()).find("label_mixture: z is (2, 4), the layer expects (S, 3)") == 0);
    CHECK(std::string(e.what()).find("label_mixture_test.cpp:") != std::string::npos);
  }
}

TEST_CASE("fact 1: dL/ds_k = p_k / T (q_k - mean of q) = p_k / T g (C_k - c), and it sums to zero") {
  for (const auto [s, k, c] : shapes) {
    CAPTURE(s, k, c);
    experiment x{s, k, c};
    const double t = 0.7;
    const values z = normal_values(s * k, 43), p = mixture_of(z, s, t), table = x.table();
    const auto out = x.run(mixture{t}, z);
    values by_q(z.size()), by_c(z.size());
    for (index_t r = 0; r < s; ++r) {
      const auto g = x.row(out.g, r);
      double mean = 0, sum = 0;
      for (index_t j = 0; j < k; ++j) mean += p[static_cast<std::size_t>(r * k + j)] * dot(g, x.row(table, j));
      for (index_t j = 0; j < k; ++j) {
        const auto at = static_cast<std::size_t>(r * k + j);
        by_q[at] = p[at] / t * (dot(g, x.row(table, j)) - mean);
        by_c[at] = p[at] / t * (dot(g, x.row(table, j)) - dot(g, x.row(out.c, r)));
        sum += out.dz[at];
      }
      CHECK(std::abs(sum) < 1e-14);
    }
    CHECK(largest_error(out.dz, by_q) < 1e-14);
    CHECK(largest_error(out.dz, by_c) < 1e-14);
    const auto loss = [&](const values& at) { return x.run(mixture{t}, at).loss; };
    CHECK(testing::directional_error(z, loss, [&](const values&) { return out.dz; }) < 1e-8);
  }
}

TEST_CASE("fact 2: dL/dC_k = p_k g for every row; hard selection gives the chosen row all of g and the others nothing") {
  experiment x{1, 7, 3};
  const values z = normal_values(7, 47), p = mixture_of(z, 1, 1);
  const auto soft = x.run(mixture{}, z), chosen = x.run(hard{}, z);
  const auto best = std::max_element(z.begin(), z.end()) - z.begin();
  for (index_t k = 0; k < 7; ++k)
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(x.row(soft.dtable, k)[i] == Approx(p[static_cast<std::size_t>(k)] * soft.g[i]).epsilon(1e-14));
      CHECK(x.row(soft.dtable, k)[i] != 0);
      CHECK(x.row(chosen.dtable, k)[i] == (k == best ? chosen.g[i] : 0));
    }
}

TEST_CASE("fact 4: one-hot weights give the table row bit for bit, the hard loss and no gradient for the logits") {
  for (const auto [s, k, c] : shapes) {
    CAPTURE(s, k, c);
    experiment x{s, k, c};
    values z(static_cast<std::size_t>(s * k), -3.0);
    for (index_t r = 0; r < s; ++r) z[static_cast<std::size_t>(r * k + (5 * r + 1) % k)] = 1000;
    const auto soft = x.run(mixture{}, z), chosen = x.run(hard{}, z);
    const values table = x.table();
    for (index_t r = 0; r < s; ++r) {
      const auto row = x.row(table, (5 * r + 1) % k), got = x.row(soft.c, r);
      CHECK(same_bits(values(row.begin(), row.end()), values(got.begin(), got.end())));
    }
    CHECK(soft.loss == chosen.loss);
    CHECK(same_bits(soft.c, chosen.c));
    CHECK(std::all_of(soft.dz.begin(), soft.dz.end(), [](double v) { return v == 0; }));
    CHECK(same_bits(soft.dtable, chosen.dtable));
  }
}

TEST_CASE("fact 5: at a high temperature or equal logits c is the mean row and dL/ds_k = g (C_k - mean) / (K T)") {
  for (const auto [s, k, c] : shapes) {
    CAPTURE(s, k, c);
    experiment x{s, k, c};
    const values z = normal_values(s * k, 53), table = x.table();
    values mean(static_cast<std::size_t>(c));
    for (index_t j = 0; j < k; ++j)
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += x.row(table, j)[i] / double(k);
    const auto flat = x.run(mixture{2}, values(z.size(), 0.25)), hot = x.run(mixture{1e9}, z), same = x.run(uniform{}, z);
    const auto cold = x.run(mixture{1e-5}, z);
    CHECK(largest_error(hot.c, flat.c) < 1e-8);
    CHECK(same_bits(same.c, flat.c));
    CHECK(same_bits(cold.c, x.run(hard{}, z).c));
    for (index_t r = 0; r < s; ++r) {
      CHECK(row_error(x.row(flat.c, r), mean) < 1e-14);
      for (index_t j = 0; j < k; ++j) {
        const double expected = (dot(x.row(flat.g, r), x.row(table, j)) - dot(x.row(flat.g, r), mean)) / (double(k) * 2);
        CHECK(flat.dz[static_cast<std::size_t>(r * k + j)] == Approx(expected).margin(1e-14));
      }
    }
  }
}

TEST_CASE("fact 6: a constant added to a sentence's logits leaves loss and gradients bit for bit") {
  experiment x{2, 4, 3};
  const values z{0.25, -1.5, 3, 0.125, 2, 2, -0.75, 1};
  values shifted = z;
  for (std::size_t i = 0; i < 4; ++i) shifted[i] += 64;
  const auto a = x.run(mixture{0.7}, z), b = x.run(mixture{0.7}, shifted);
  CHECK(a.loss == b.loss);
  CHECK(same_bits(a.dz, b.dz));
  CHECK(same_bits(a.dtable, b.dtable));
}

TEST_CASE("fact 8: a mixture is never longer than the longest row, and a broad one is near the mean") {
  experiment x{64, 17, 9};
  const values table = x.table();
  double longest = 0, total = 0;
  for (index_t k = 0; k < 17; ++k) longest = std::max(longest, std::sqrt(dot(x.row(table, k), x.row(table, k))));
  const auto out = x.run(mixture{4}, normal_values(64 * 17, 59)), far = x.run(mixture{0.1}, normal_values(64 * 17, 59));
  for (index_t r = 0; r < 64; ++r) {
    const double length = std::sqrt(dot(x.row(out.c, r), x.row(out.c, r)));
    CHECK(length <= longest);
    CHECK(std::sqrt(dot(x.row(far.c, r), x.row(far.c, r))) <= longest);
    total += length / 64;
  }
  CHECK(total < 0.5 * longest);
}

TEST_CASE("fact 9: permuting labels in table and logits together changes nothing but the order of gradients") {
  experiment x{5, 7, 3};
  const std::vector<std::size_t> to{3, 0, 6, 1, 5, 2, 4};
  const values z = normal_values(35, 61), table = x.table();
  const auto before = x.run(mixture{0.7}, z);
  values z2(35), table2(21), dz2(35), dtable2(21);
  for (std::size_t k = 0; k < 7; ++k) {
    for (std::size_t r = 0; r < 5; ++r) z2[7 * r + to[k]] = z[7 * r + k], dz2[7 * r + to[k]] = before.dz[7 * r + k];
    for (std::size_t i = 0; i < 3; ++i) table2[3 * to[k] + i] = table[3 * k + i], dtable2[3 * to[k] + i] = before.dtable[3 * k + i];
  }
  x.set_table(table2);
  const auto after = x.run(mixture{0.7}, z2);
  CHECK(largest_error(after.c, before.c) < 1e-14);
  CHECK(after.loss == Approx(before.loss).epsilon(1e-14));
  CHECK(largest_error(after.dz, dz2) < 1e-14);
  CHECK(largest_error(after.dtable, dtable2) < 1e-14);
}

TEST_CASE("fact 10: a table of equal rows makes the loss independent of the logits and their gradient zero") {
  experiment x{3, 4, 2};
  x.set_table({0.5, -1.25, 0.5, -1.25, 0.5, -1.25, 0.5, -1.25});
  const auto a = x.run(mixture{}, normal_values(12, 67)), b = x.run(mixture{}, normal_values(12, 68));
  CHECK(std::abs(a.loss - b.loss) < 1e-15);
  CHECK(largest_error(a.dz, values(12)) < 1e-15);
  // Two equal rows: moving probability from one to the other is free.
  x.set_table({0.5, -1.25, 2, 1, 0.5, -1.25, 3, 3});
  const values z = normal_values(12, 69), p = mixture_of(z, 3, 1);
  const auto out = x.run(mixture{}, z);
  for (std::size_t r = 0; r < 3; ++r) CHECK(out.dz[4 * r] * p[4 * r + 2] == Approx(out.dz[4 * r + 2] * p[4 * r]).epsilon(1e-13));
}

TEST_CASE("fact 13: straight-through linearises the loss at the chosen row, and only that row gets a table gradient") {
  experiment x{5, 7, 3};
  const double t = 0.7;
  const values z = normal_values(35, 71), p = mixture_of(z, 5, t), table = x.table();
  const auto out = x.run(straight_through{t}, z), chosen = x.run(hard{}, z);
  CHECK(out.loss == chosen.loss);
  CHECK(same_bits(out.c, chosen.c));
  CHECK(same_bits(out.dtable, chosen.dtable));
  std::vector<bool> taken(7);
  for (std::size_t r = 0; r < 5; ++r) {
    taken[static_cast<std::size_t>(std::max_element(z.begin() + 7 * std::ptrdiff_t(r), z.begin() + 7 * std::ptrdiff_t(r + 1)) -
                                   z.begin()) - 7 * r] = true;
    const auto g = x.row(out.g, static_cast<index_t>(r));  // at the hard point
    double mean = 0;
    for (std::size_t k = 0; k < 7; ++k) mean += p[7 * r + k] * dot(g, x.row(table, static_cast<index_t>(k)));
    for (std::size_t k = 0; k < 7; ++k)
      CHECK(out.dz[7 * r + k] ==
            Approx(p[7 * r + k] / t * (dot(g, x.row(table, static_cast<index_t>(k))) - mean)).margin(1e-15));
  }
  for (std::size_t k = 0; k < 7; ++k)
    for (std::size_t i = 0; i < 3; ++i) CHECK((out.dtable[3 * k + i] != 0) == taken[k]);
}

TEST_CASE("fact 14: the loss under hard selection does not move with the logits, whatever straight-through says") {
  experiment x{5, 7, 3};
  const values z = normal_values(35, 73);
  const auto loss = [&](const values& at) { return x.run(hard{}, at).loss; };
  CHECK(testing::directional_error(z, loss, [](const values& at) { return values(at.size()); }) == 0);
  CHECK(x.run(hard{}, z).dz.empty());
  const auto through = [&](const values& at) { return x.run(straight_through{}, at).dz; };
  CHECK(testing::directional_error(z, loss, through) > 1e-2);
}

TEST_CASE("fact 15: with one-hot probabilities straight-through and mixture give the same gradient, zero") {
  experiment x{1, 4, 3};
  const values z{2, 1000, 0, -1};
  const auto a = x.run(mixture{}, z), b = x.run(straight_through{}, z);
  CHECK(a.loss == b.loss);
  CHECK(std::all_of(a.dz.begin(), a.dz.end(), [](double v) { return v == 0; }));
  CHECK(std::all_of(b.dz.begin(), b.dz.end(), [](double v) { return v == 0; }));
  CHECK(same_bits(a.dtable, b.dtable));
}

TEST_CASE("fact 25: gumbel with scale 0 equals the plain mixture in loss and gradients, bit for bit") {
  experiment x{5, 7, 3};
  const values z = normal_values(35, 79);
  const auto a = x.run(mixture{0.7}, z), b = x.run(gumbel_softmax{0.7, 0}, z);
  CHECK(a.loss == b.loss);
  CHECK(same_bits(a.dz, b.dz));
  CHECK(same_bits(a.dtable, b.dtable));
}

TEST_CASE("a frozen table is left alone, the logits' gradient stays") {
  experiment x{5, 7, 3};
  const values z = normal_values(35, 83);
  const auto whole = x.run(mixture{}, z);
  x.theta.zero_grads(x.cx);
  auto [c, pullback] = x.layer(x.cx, x.theta.weights, const_tensor<B>(z.data(), 5, 7));
  CHECK(same_bits(x.cx.read(pullback(const_tensor<B>(whole.g.data(), 5, 3), label_mixture<B>::params{})), whole.dz));
  CHECK(x.theta.read_gradient(x.cx, 0) == values(21));
}

TEST_CASE("the fused label mixture has the bits of the composed one, values and gradients, whatever the tile") {
  for (const auto& [sentences, labels, width] : {std::array<index_t, 3>{1, 1, 1}, {5, 7, 3}, {130, 33, 17}, {700, 5, 9}}) {
    for (const int threads : {1, 2}) {
      context<B> cx{B::queue{threads}};
      const label_mixture<B> layer{labels, width};
      static_assert(HasFusedMixing<B>);
      parameters theta{cx, layer, philox{5}};
      const values z = normal_values(sentences * labels, 51), de = normal_values(sentences * width, 52);
      const const_tensor<B> logits(z.data(), sentences, labels), gradient(de.data(), sentences, width);
      const auto both = [&](const auto& result) {
        theta.zero_grads(cx);
        std::vector<values> out{cx.read(const_tensor<B>(result.value)), cx.read(const_tensor<B>(result.pullback(gradient, theta.grads)))};
        out.push_back(theta.read_gradient(cx, 0));
        return out;
      };
      auto scope = cx.scope();
      const auto fused = both(layer.fused(cx, theta.weights, logits, 0.7));
      const auto composed = both(layer.composed(cx, theta.weights, logits, mixture{0.7}));
      for (std::size_t i = 0; i < fused.size(); ++i) CHECK(same_bits(fused[i], composed[i]));
    }
  }
}

TEST_CASE("a temperature that is not above zero is refused with its value") {
  context<B> cx;
  const label_mixture<B> layer{3, 2};
  parameters theta{cx, layer, philox{5}};
  const values z(3);
  const const_tensor<B> logits(z.data(), 1, 3);
  CHECK_THROWS_WITH(layer(cx, theta.weights, logits, mixture{0}), "softmax: the temperature is 0.000000, expected above 0");
  CHECK_THROWS_WITH(layer(cx, theta.weights, logits, top_k{2, -1}), "softmax: the temperature is -1.000000, expected above 0");
}

namespace {

/// The layer, which takes rows of the table here, against the same policy by products.
template <class R, class Mix>
void sparse_is_composed(index_t sentences, index_t labels, index_t width, const Mix& mix, const std::vector<R>& z, int threads) {
  using C = cpu<R>;
  CAPTURE(sentences, labels, width, threads);
  context<C> cx{typename C::queue{threads}};
  testing::poison(cx);
  cx.random = philox{19, 3, 0};
  const label_mixture<C> layer{labels, width};
  parameters<label_mixture<C>> theta{cx, layer, philox{5}};
  const std::vector<R> de = normal_values<R>(sentences * width, 52);
  const const_tensor<C> logits(z.data(), sentences, labels), gradient(de.data(), sentences, width);
  const auto all_of = [&](const auto& result) {
    theta.zero_grads(cx);
    std::vector<std::vector<R>> out{cx.read(const_tensor<C>(result.value)), cx.read(const_tensor<C>(result.pullback(gradient, theta.grads)))};
    out.push_back(theta.read_gradient(cx, 0));
    return out;
  };
  auto scope = cx.scope();
  const auto ours = all_of(layer(cx, theta.weights, logits, mix)), theirs = all_of(layer.composed(cx, theta.weights, logits, mix));
  const double scale = sizeof(R) == 8 ? 1 : 1e8;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    CAPTURE(i);
    REQUIRE(ours[i].size() == theirs[i].size());
    if (!ours[i].empty()) CHECK(largest_error(ours[i], theirs[i]) < 1e-13 * scale);
  }
  // Sums begin with what is there, and a frozen table is left alone.
  auto [e, pullback] = layer(cx, theta.weights, logits, mix);
  const auto once = theta.read_gradient(cx, 0), dz = cx.read(pullback(gradient, typename label_mixture<C>::params{}));
  CHECK(same_bits(theta.read_gradient(cx, 0), once));
  CHECK(same_bits(dz, ours[1]));
  pullback(gradient, theta.grads);
  const auto twice = theta.read_gradient(cx, 0);
  std::vector<R> expected = once;
  for (R& v : expected) v *= 2;
  CHECK(largest_error(twice, expected) < 1e-13 * scale);
  // One that is replaced is not read.
  const tensor<C, 1> dirty = theta.flat_grads();
  std::fill(dirty.data, dirty.data + dirty.size(), R(NAN));
  CHECK(same_bits(cx.read(pullback(gradient, theta.grads, into::replace)), ours[1]));
  CHECK(theta.read_gradient(cx, 0) == ours[2]);
  auto [slow, composed_pullback] = layer.composed(cx, theta.weights, logits, mix);
  std::fill(dirty.data, dirty.data + dirty.size(), R(NAN));
  composed_pullback(gradient, theta.grads, into::replace);
  CHECK(largest_error(theta.read_gradient(cx, 0), theirs[2]) < 1e-13 * scale);
}
template <class R>
void every_policy(index_t s, index_t k, index_t c, const std::vector<R>& z, int threads) {
  const auto check = [&](const auto& mix) { sparse_is_composed<R>(s, k, c, mix, z, threads); };
  for (const index_t taken : {1, 2, 5, 9, 32, 40}) {
    CAPTURE(taken);
    check(top_k{taken, 0.7});
  }
  check(hard{});
  check(straight_through{0.7});
  check(gumbel_softmax{.temperature = 0.7, .discrete = true});
  check(sampled{0.7});
  check(uniform{});
  check(mixture{0.7});
  check(fixed{k / 2});
  std::vector<int> label;
  for (index_t r = 0; r < s; ++r) label.push_back(static_cast<int>((r * 5 + 3) % k));
  check(oracle<cpu<R>>{{label.data(), label.size()}});
  for (const index_t none : {index_t{-1}, k}) {  // a sentence without a label: no row, no gradient
    if (s > 0) label[static_cast<std::size_t>(s / 2)] = static_cast<int>(none);
    check(oracle<cpu<R>>{{label.data(), label.size()}});
  }
}

}  // namespace

TEST_CASE("a mixture of few labels by rows of the table is the mixture by products, values and gradients, under every policy") {
  for (const auto& [s, k, c] : {std::array<index_t, 3>{1, 1, 1}, {0, 7, 3}, {1, 7, 3}, {5, 1, 2}, {13, 17, 9}, {3, 130, 64}, {70, 130, 131}, {300, 65, 257},
                               {9, 300, 400}})
    for (const int threads : {1, 3}) {
      every_policy<double>(s, k, c, normal_values(s * k, 51), threads);
      every_policy<float>(s, k, c, normal_values<float>(s * k, 51), threads);
    }
}

TEST_CASE("of equal logits the lower labels are taken by rows as by products, and masked ones last") {
  const double none = -std::numeric_limits<double>::infinity();
  for (const index_t k : {3, 64, 200}) {
    every_policy<double>(4, k, 5, values(static_cast<std::size_t>(4 * k), 1.5), 2);
    values z = normal_values(4 * k, 57);
    for (std::size_t i = 0; i < z.size(); ++i) z[i] = std::round(2 * z[i]);
    every_policy<double>(4, k, 5, z, 2);
    for (std::size_t i = 0; i < z.size(); ++i)
      if (i % 3) z[i] = none;
    every_policy<double>(4, k, 5, z, 2);
  }
}

TEST_CASE("the largest logits of a row are those a stable sort puts first; a NaN is passed over, but in the first place it is all there is") {
  for (const index_t n : {1, 5, 63, 64, 65, 200, 1024, 2111, 2112, 4800, 8500})  // beyond 32 chunks of a row are read twice, 64 are a group
    for (const index_t k : {1, 2, 5, 8, 9, 32})
      for (const auto& [with_nan, rising] : {std::pair{false, false}, {true, false}, {false, true}}) {
        if (k > n) continue;
        CAPTURE(n, k, with_nan, rising);
        values z = normal_values(n, 58);
        for (double& v : z) v = std::round(8 * v) / 8;
        if (rising) std::sort(z.begin(), z.end());  // the largest in the last chunk and behind it
        if (with_nan)
          for (std::size_t i = 1; i < z.size(); i += 3) z[i] = NAN;
        std::vector<int> order;
        for (int i = 0; i < n; ++i)
          if (!std::isnan(z[static_cast<std::size_t>(i)])) order.push_back(i);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return z[static_cast<std::size_t>(a)] > z[static_cast<std::size_t>(b)]; });
        B::queue q(1);
        std::vector<int> label(static_cast<std::size_t>(k), -1);
        values value(static_cast<std::size_t>(k));
        B::take_largest(q, {z.data(), index_t{1}, n}, {label.data(), index_t{1}, k}, {value.data(), index_t{1}, k});
        for (std::size_t j = 0; j < label.size(); ++j) {
          CHECK(std::count(label.begin(), label.end(), label[j]) == 1);
          if (j < order.size()) CHECK((label[j] == order[j] && value[j] == z[static_cast<std::size_t>(order[j])]));
          else CHECK(value[j] == -std::numeric_limits<double>::infinity());
        }
        z[0] = NAN;
        B::take_largest(q, {z.data(), index_t{1}, n}, {label.data(), index_t{1}, k}, {value.data(), index_t{1}, k});
        CHECK(label[0] == 0);
        CHECK(std::isnan(value[0]));
      }
}

TEST_CASE("rows of the table are pulled back without a gradient of the weights, and more pairs than an int counts are refused") {
  constexpr index_t s = 9, k = 3, labels = 7, c = 37;
  const values weight = normal_values(s * k, 63), de = normal_values(s * c, 64), table = normal_values(labels * c, 65);
  std::vector<int> label;
  for (index_t i = 0; i < s; ++i)
    for (index_t j = 0; j < k; ++j) label.push_back(static_cast<int>((i * 2 + j * 3) % labels));
  B::queue q(2);
  values dw(weight.size()), with(table.size()), without(table.size());
  into mode = into::add;
  const auto pull = [&](index_t rows, view<double, 2> to, values& dtable) {
    B::mix_few_pullback(q, {label.data(), rows, k}, {weight.data(), rows, k}, {table.data(), labels, c}, {de.data(), rows, c}, to,
                        {dtable.data(), labels, c}, mode);
  };
  pull(s, {dw.data(), s, k}, with);
  pull(s, {}, without);
  CHECK(same_bits(with, without));
  mode = into::replace;
  pull(s, {}, without);
  CHECK(same_bits(with, without));
  double expected = 0;
  for (index_t j = 0; j < c; ++j) expected += de[static_cast<std::size_t>(j)] * table[static_cast<std::size_t>(3 * c + j)];
  CHECK(std::abs(dw[1] - expected) < 1e-12);
  CHECK_THROWS_WITH(pull(index_t{1} << 30, {}, without), "label mixing: 1073741824 sentences with 3 labels each are more than 2^31 pairs; mix fewer sentences at once");
}

TEST_CASE("a NaN logit in the first place makes the mixture of the few largest NaN, one elsewhere has no weight") {
  experiment x{2, 30, 3};
  values z = normal_values(60, 59);
  z[0] = NAN, z[31] = NAN;
  const auto out = x.run(top_k{3}, z);
  for (std::size_t i = 0; i < 6; ++i) CHECK(std::isnan(out.c[i]) == (i < 3));
  const auto one = x.run(hard{}, z);
  CHECK(row_error(x.row(one.c, 0), x.row(x.table(), 0)) == 0);
}

TEST_CASE("a mixture of few labels has the same bits with any number of threads") {
  constexpr index_t s = 700, k = 90, c = 300;
  const std::vector<float> z = normal_values<float>(s * k, 61), de = normal_values<float>(s * c, 62);
  into mode = into::add;
  const auto run = [&](int threads, const auto& mix) {
    using C = cpu<float>;
    context<C> cx{C::queue{threads}};
    const label_mixture<C> layer{k, c};
    parameters<label_mixture<C>> theta{cx, layer, philox{5}};
    auto [e, pullback] = layer(cx, theta.weights, const_tensor<C>(z.data(), s, k), mix);
    std::vector<float> out = cx.read(e);
    const auto dz = cx.read(pullback(const_tensor<C>(de.data(), s, c), theta.grads, mode)), dtable = theta.read_gradient(cx, 0);
    out.insert(out.end(), dz.begin(), dz.end());
    out.insert(out.end(), dtable.begin(), dtable.end());
    return out;
  };
  const auto check = [&](const auto& mix) {
    mode = into::add;
    const auto one = run(1, mix);
    for (const into each : {into::add, into::replace}) {
      mode = each;
      CHECK(same_bits(run(2, mix), one));
      CHECK(same_bits(run(5, mix), one));
    }
  };
  check(top_k{5});
  check(hard{});
  check(straight_through{});
  check(uniform{});
  check(mixture{0.7});
}
