#include <planlm/planning/mixing_policy.hpp>

#include <array>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/gradient_check.hpp>
#include <planlm/testing/lane_team.hpp>

#include "../catch.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;
using values = std::vector<double>;

namespace {

struct shape {
  index_t rows, cols;
};
constexpr std::array<shape, 5> shapes{{{1, 1}, {1, 7}, {5, 1}, {13, 17}, {3, 130}}};

const_tensor<B> matrix(const values& v, index_t rows) { return {v.data(), rows, static_cast<index_t>(v.size()) / rows}; }

template <class Mix>
values weights_of(context<B>& cx, const Mix& mix, const values& z, index_t rows) {
  auto scope = cx.scope();
  return cx.read(mix.weights(cx, matrix(z, rows)).value);
}
template <class Mix>
values weights_of(const Mix& mix, const values& z, index_t rows = 1) {
  context<B> cx;
  return weights_of(cx, mix, z, rows);
}
/// What the policy's pullback makes of dw; empty where no gradient flows.
template <class Mix>
values pulled_back(context<B>& cx, const Mix& mix, const values& z, const values& dw, index_t rows) {
  auto scope = cx.scope();
  return cx.read(mix.weights(cx, matrix(z, rows)).pullback(matrix(dw, rows)));
}

/// Rows are distributions, the logits stay as they were, and a second call gives the same bits.
template <class Mix>
bool gives_distributions(const Mix& mix, shape s) {
  context<B> cx;
  testing::poison(cx);
  const values z = normal_values(s.rows * s.cols, 5, 2), before = z;
  const values w = weights_of(cx, mix, z, s.rows);
  bool right = w.size() == z.size() && same_bits(z, before) && same_bits(w, weights_of(cx, mix, z, s.rows));
  for (index_t r = 0; r < s.rows; ++r) {
    double total = 0;
    for (index_t k = 0; k < s.cols; ++k) {
      const double v = w[static_cast<std::size_t>(r * s.cols + k)];
      right = right && v >= 0 && v <= 1;
      total += v;
    }
    right = right && std::abs(total - 1) < 1e-12;
  }
  return right;
}

/// Finite differences of <dw, weights(z)> against the policy's pullback; no gradient counts as zero.
template <class Mix>
double policy_error(const Mix& mix, shape s) {
  context<B> cx;
  testing::poison(cx);
  const values dw = normal_values(s.rows * s.cols, 6);
  auto loss = [&](const values& z) {
    const values w = weights_of(cx, mix, z, s.rows);
    return std::inner_product(w.begin(), w.end(), dw.begin(), 0.0);
  };
  auto gradient = [&](const values& z) {
    const values dz = pulled_back(cx, mix, z, dw, s.rows);
    return dz.empty() ? values(z.size()) : dz;
  };
  return testing::directional_error(normal_values(s.rows * s.cols, 7, 2), loss, gradient);
}

template <class Mix>
void check_differentiable(const Mix& mix) {
  for (const shape s : shapes) {
    CAPTURE(s.rows, s.cols);
    CHECK(gives_distributions(mix, s));
    CHECK(policy_error(mix, s) < 1e-8);
  }
}
/// Piecewise constant: the true gradient is zero, and the policy says so with an empty view.
template <class Mix>
void check_without_gradient(const Mix& mix) {
  for (const shape s : shapes) {
    CAPTURE(s.rows, s.cols);
    CHECK(gives_distributions(mix, s));
    CHECK(policy_error(mix, s) == 0);
    context<B> cx;
    const values z = normal_values(s.rows * s.cols, 7);
    CHECK(pulled_back(cx, mix, z, z, s.rows).empty());
  }
}

const double ln2 = std::log(2), ln5 = std::log(5);

}  // namespace

TEST_CASE("mixture is the softmax of logits over temperature") {
  CHECK(largest_error(weights_of(mixture{}, {0, ln2, ln5}), values{0.125, 0.25, 0.625}) < 1e-15);
  CHECK(largest_error(weights_of(mixture{0.5}, {0, ln2, ln5}), values{1 / 30.0, 4 / 30.0, 25 / 30.0}) < 1e-15);
  CHECK(weights_of(mixture{}, {3}) == values{1});
  CHECK(largest_error(weights_of(mixture{}, {1000, 1000, -1000, 1000}), values{1 / 3.0, 1 / 3.0, 0, 1 / 3.0}) < 1e-15);
  check_differentiable(mixture{});
  check_differentiable(mixture{0.7});
  check_differentiable(mixture{3});
}

TEST_CASE("fact 6: adding a constant to all logits of a sentence changes neither weights nor gradient") {
  context<B> cx;
  const values z{0.25, -1.5, 3, 0.125, 2, 2, -0.75, 1}, dw = normal_values(8, 3);
  values shifted = z;
  for (std::size_t i = 0; i < 4; ++i) shifted[i] += 64;       // exact in binary, so the bits must agree
  for (std::size_t i = 4; i < 8; ++i) shifted[i] -= 1024;
  const auto check = [&](const auto& mix) {
    CHECK(same_bits(weights_of(cx, mix, z, 2), weights_of(cx, mix, shifted, 2)));
    CHECK(same_bits(pulled_back(cx, mix, z, dw, 2), pulled_back(cx, mix, shifted, dw, 2)));
  };
  check(mixture{0.5});
  check(top_k{2});
  check(straight_through{});
}

TEST_CASE("fact 5: a small temperature gives the hard choice, a large one or equal logits give every label 1 / K") {
  const values z = normal_values(5 * 7, 11);
  CHECK(same_bits(weights_of(mixture{1e-5}, z, 5), weights_of(hard{}, z, 5)));
  CHECK(largest_error(weights_of(mixture{1e9}, z, 5), weights_of(uniform{}, z, 5)) < 1e-8);
  CHECK(same_bits(weights_of(mixture{}, values(35, 0.3), 5), weights_of(uniform{}, z, 5)));
}

TEST_CASE("top_k keeps the k largest logits and renormalises them") {
  CHECK(largest_error(weights_of(top_k{2}, {0, ln2, ln5}), values{0, 2 / 7.0, 5 / 7.0}) < 1e-15);
  CHECK(largest_error(weights_of(top_k{2, 0.5}, {ln5, 0, ln2}), values{25 / 29.0, 0, 4 / 29.0}) < 1e-15);
  const values w = weights_of(top_k{2}, {0, ln2, ln5});
  CHECK(w[0] == 0);  // exactly
  check_differentiable(top_k{1});
  check_differentiable(top_k{3, 0.7});
  check_differentiable(top_k{5});
}

TEST_CASE("top_k takes the lower index of equal logits") {
  const values z{1, 3, 3, 3, 0};
  CHECK(weights_of(top_k{1}, z) == values{0, 1, 0, 0, 0});
  CHECK(weights_of(top_k{2}, z) == values{0, 0.5, 0.5, 0, 0});
  CHECK(largest_error(weights_of(top_k{3}, z), values{0, 1 / 3.0, 1 / 3.0, 1 / 3.0, 0}) < 1e-15);
  const values below{5, 3, 4, 3, 3};  // the tie is at the bound, not at the top
  const values three = weights_of(top_k{3}, below);
  CHECK(three[1] > 0);
  CHECK(three[3] == 0);
  CHECK(three[4] == 0);
  CHECK(weights_of(top_k{3}, values(5, -2.0))[3] == 0);
}

TEST_CASE("top_k with k = 1 is hard, with k = K or more the whole mixture, bit for bit") {
  for (const shape s : shapes) {
    const values z = normal_values(s.rows * s.cols, 13);
    CHECK(same_bits(weights_of(top_k{1}, z, s.rows), weights_of(hard{}, z, s.rows)));
    CHECK(same_bits(weights_of(top_k{s.cols, 0.7}, z, s.rows), weights_of(mixture{0.7}, z, s.rows)));
    CHECK(same_bits(weights_of(top_k{s.cols + 3, 0.7}, z, s.rows), weights_of(mixture{0.7}, z, s.rows)));
    CHECK(same_bits(weights_of(top_k{s.cols}, values(z.size(), 1.5), s.rows), weights_of(uniform{}, z, s.rows)));
  }
  CHECK_THROWS_WITH(weights_of(top_k{0}, {1, 2}), "top_k: k is 0, expected at least 1");
}

TEST_CASE("hard is the one-hot of the largest logit, the lowest index of equal ones") {
  CHECK(weights_of(hard{}, {2, 5, 5, 1, -3, -2, -1, -1}, 2) == values{0, 1, 0, 0, 0, 0, 1, 0});
  CHECK(weights_of(hard{}, values(130, 4.0))[0] == 1);
  check_without_gradient(hard{});
}

TEST_CASE("fact 14: the true gradient of a hard choice is zero") {
  for (const shape s : shapes) CHECK(policy_error(hard{}, s) == 0);
}

TEST_CASE("fact 13: straight-through is hard forward and the mixture's pullback backward") {
  for (const shape s : shapes) {
    CAPTURE(s.rows, s.cols);
    context<B> cx;
    const double t = 0.7;
    const values z = normal_values(s.rows * s.cols, 17), q = normal_values(s.rows * s.cols, 18);
    CHECK(gives_distributions(straight_through{t}, s));
    CHECK(same_bits(weights_of(straight_through{t}, z, s.rows), weights_of(hard{}, z, s.rows)));
    const values p = weights_of(mixture{t}, z, s.rows), dz = pulled_back(cx, straight_through{t}, z, q, s.rows);
    values expected(z.size());
    for (index_t r = 0; r < s.rows; ++r) {
      const auto row = static_cast<std::size_t>(r * s.cols), n = static_cast<std::size_t>(s.cols);
      double mean = 0;
      for (std::size_t k = 0; k < n; ++k) mean += p[row + k] * q[row + k];
      for (std::size_t k = 0; k < n; ++k) expected[row + k] = p[row + k] * (q[row + k] - mean) / t;
    }
    CHECK(largest_error(dz, expected) < 1e-14);
    CHECK(same_bits(dz, pulled_back(cx, mixture{t}, z, q, s.rows)));
  }
}

TEST_CASE("fact 15: where the distribution is one-hot, straight-through and mixture agree and pass no gradient") {
  context<B> cx;
  const values z{0, 1000, 3, -5}, q = normal_values(4, 19);
  CHECK(same_bits(weights_of(cx, mixture{}, z, 1), weights_of(cx, straight_through{}, z, 1)));
  CHECK(pulled_back(cx, mixture{}, z, q, 1) == values(4));
  CHECK(pulled_back(cx, straight_through{}, z, q, 1) == values(4));
}

TEST_CASE("fact 16: the expected loss over labels has the gradient p (L - its mean)") {
  context<B> cx;
  const values z = normal_values(6, 23), loss = normal_values(6, 24);
  const values p = weights_of(cx, mixture{}, z, 1), dz = pulled_back(cx, mixture{}, z, loss, 1);
  const double mean = std::inner_product(p.begin(), p.end(), loss.begin(), 0.0);
  for (std::size_t k = 0; k < 6; ++k) CHECK(dz[k] == Approx(p[k] * (loss[k] - mean)).margin(1e-15));
}

TEST_CASE("fact 17: minus the log of a mixture of likelihoods has the gradient p - posterior") {
  context<B> cx;
  const values z = normal_values(6, 25);
  const values loss{0.5, 1.5, 0.25, 2, 1, 3};
  auto value = [&](const values& at) {
    const values p = weights_of(cx, mixture{}, at, 1);
    double total = 0;
    for (std::size_t k = 0; k < 6; ++k) total += p[k] * std::exp(-loss[k]);
    return -std::log(total);
  };
  const values p = weights_of(cx, mixture{}, z, 1);
  const double total = std::exp(-value(z));
  values dw(6), expected(6);
  for (std::size_t k = 0; k < 6; ++k) {
    dw[k] = -std::exp(-loss[k]) / total;
    expected[k] = p[k] - p[k] * std::exp(-loss[k]) / total;
  }
  const values dz = pulled_back(cx, mixture{}, z, dw, 1);
  CHECK(largest_error(dz, expected) < 1e-15);
  CHECK(testing::directional_error(z, value, [&](const values&) { return dz; }) < 1e-9);
}

TEST_CASE("fact 18: the planner's cross-entropy has the gradient p - onehot") {
  context<B> cx;
  const values z = normal_values(3 * 4, 26);
  const std::vector<int> labels{2, 0, 3};
  values identity(16);
  for (std::size_t k = 0; k < 4; ++k) identity[5 * k] = 1;
  const auto loss = ops::linear_cross_entropy<B>(cx, matrix(z, 3), matrix(identity, 4), {labels.data(), 3}, {}, 1, {});
  values expected = weights_of(cx, mixture{}, z, 3);
  for (std::size_t r = 0; r < 3; ++r) expected[4 * r + static_cast<std::size_t>(labels[r])] -= 1;
  CHECK(largest_error(cx.read(loss.dhidden), expected) < 1e-15);
}

TEST_CASE("gumbel_softmax adds -log(-log u) to each logit in training, one draw per sentence and label") {
  context<B> cx;
  cx.random = philox{42, 3};
  const gumbel_softmax mix{0.7, 1.5};
  const values z = normal_values(3 * 5, 29);
  values noisy = z;
  for (std::uint32_t r = 0; r < 3; ++r)
    for (std::uint32_t k = 0; k < 5; ++k)
      noisy[5 * r + k] += 1.5 * -std::log(-std::log(cx.random.with_stream(mix.stream).uniform(r, k)));
  CHECK(largest_error(weights_of(cx, mix, z, 3), weights_of(cx, mixture{0.7}, noisy, 3)) < 1e-14);

  gumbel_softmax discrete = mix;
  discrete.discrete = true;
  CHECK(same_bits(weights_of(cx, discrete, z, 3), weights_of(cx, hard{}, noisy, 3)));
  const values dw = normal_values(15, 30);
  CHECK(same_bits(pulled_back(cx, discrete, z, dw, 3), pulled_back(cx, mix, z, dw, 3)));
}

TEST_CASE("gumbel_softmax is differentiable given its noise") {
  check_differentiable(gumbel_softmax{});
  check_differentiable(gumbel_softmax{0.7, 0.5});
  for (const shape s : shapes) CHECK(gives_distributions(gumbel_softmax{1, 1, true}, s));
}

TEST_CASE("gumbel noise depends on sentence, step and seed, not on who asks or how many sentences there are") {
  context<B> cx;
  cx.random = philox{42, 3};
  const gumbel_softmax mix{};
  const values same_row(2 * 9, 0.0);
  const values w = weights_of(cx, mix, same_row, 2);
  CHECK(same_bits(w, weights_of(cx, mix, same_row, 2)));  // a second layer would see the same plan
  CHECK_FALSE(same_bits(values(w.begin(), w.begin() + 9), values(w.begin() + 9, w.end())));
  CHECK(same_bits(values(w.begin(), w.begin() + 9), weights_of(cx, mix, values(9, 0.0), 1)));
  cx.random = philox{42, 4};
  CHECK_FALSE(same_bits(w, weights_of(cx, mix, same_row, 2)));
  cx.random = philox{43, 3};
  CHECK_FALSE(same_bits(w, weights_of(cx, mix, same_row, 2)));
  cx.random = philox{42, 3};
  gumbel_softmax other = mix;
  other.stream = 1;
  CHECK_FALSE(same_bits(w, weights_of(cx, other, same_row, 2)));
}

TEST_CASE("fact 25: gumbel with scale 0 equals the mixture, and outside training there is no noise") {
  context<B> cx;
  const values z = normal_values(3 * 5, 31), dw = normal_values(15, 32);
  const mixture plain{0.7};
  CHECK(same_bits(weights_of(cx, gumbel_softmax{0.7, 0}, z, 3), weights_of(cx, plain, z, 3)));
  CHECK_FALSE(same_bits(weights_of(cx, gumbel_softmax{0.7, 1}, z, 3), weights_of(cx, plain, z, 3)));
  cx.training = false;
  CHECK(same_bits(weights_of(cx, gumbel_softmax{0.7, 1}, z, 3), weights_of(cx, plain, z, 3)));
  CHECK(same_bits(pulled_back(cx, gumbel_softmax{0.7, 1}, z, dw, 3), pulled_back(cx, plain, z, dw, 3)));
  CHECK(same_bits(weights_of(cx, gumbel_softmax{0.7, 1, true}, z, 3), weights_of(cx, hard{}, z, 3)));
}

TEST_CASE("sampled draws labels as often as softmax says") {
  context<B> cx;
  const index_t sentences = 40000;
  for (const double t : {1.0, 2.0}) {
    const values row{0, ln2, ln5, -1000, -1};
    values z;
    for (index_t r = 0; r < sentences; ++r) z.insert(z.end(), row.begin(), row.end());
    const values p = weights_of(mixture{t}, row), w = weights_of(cx, sampled{t}, z, sentences);
    values count(row.size());
    for (std::size_t i = 0; i < w.size(); ++i) count[i % row.size()] += w[i];
    for (std::size_t k = 0; k < row.size(); ++k) {
      CAPTURE(t, k);
      const double n = double(sentences), sigma = std::sqrt(n * p[k] * (1 - p[k]));
      CHECK(std::abs(count[k] - n * p[k]) <= 4 * sigma);
    }
  }
}

TEST_CASE("sampled takes the first label whose cumulated probability exceeds the sentence's draw") {
  context<B> cx;
  const sampled mix{};
  const values z = normal_values(64 * 3, 33);
  for (std::uint32_t step = 0; step < 3; ++step) {
    cx.random = philox{9, step};
    const values p = weights_of(cx, mixture{}, z, 64), w = weights_of(cx, mix, z, 64);
    for (std::size_t r = 0; r < 64; ++r) {
      const double u = cx.random.with_stream(mix.stream).uniform(r, 0);
      const std::size_t expected = u < p[3 * r] ? 0 : u < p[3 * r] + p[3 * r + 1] ? 1 : 2;
      CHECK(w[3 * r + expected] == 1);
    }
    CHECK(same_bits(w, weights_of(cx, mix, z, 64)));
    cx.random = philox{9, step + 100};
    CHECK_FALSE(same_bits(w, weights_of(cx, mix, z, 64)));
  }
  check_without_gradient(sampled{});
  check_without_gradient(sampled{0.7});
}

TEST_CASE("uniform, fixed and oracle do not look at the logits") {
  CHECK(weights_of(uniform{}, {5, 6, 7, 8, 1, 1, 1, 9}, 2) == values(8, 0.25));
  CHECK(weights_of(fixed{2}, {5, 6, 7, 8, 1, 1, 1, 9}, 2) == values{0, 0, 1, 0, 0, 0, 1, 0});
  const std::vector<int> labels{3, 0};
  CHECK(weights_of(oracle<B>{{labels.data(), 2}}, {5, 6, 7, 8, 1, 1, 1, 9}, 2) == values{0, 0, 0, 1, 1, 0, 0, 0});
  check_without_gradient(uniform{});
  check_without_gradient(fixed{});
  for (const shape s : shapes) {
    std::vector<int> label;
    for (index_t r = 0; r < s.rows; ++r) label.push_back(static_cast<int>((r * 5 + 3) % s.cols));
    const oracle<B> truth{{label.data(), label.size()}};
    CHECK(gives_distributions(truth, s));
    CHECK(policy_error(truth, s) == 0);
  }
}

TEST_CASE("fixed and oracle name labels that do not fit") {
  const std::vector<int> labels{3, 0};
  CHECK_THROWS_WITH(weights_of(fixed{4}, {5, 6, 7, 8}), "fixed: label 4 is not in [0, 4)");
  CHECK_THROWS_WITH(weights_of(fixed{-1}, {5, 6, 7, 8}), "fixed: label -1 is not in [0, 4)");
  CHECK_THROWS_WITH(weights_of(oracle<B>{{labels.data(), 2}}, {5, 6, 7, 8}), "oracle: 2 labels for 1 sentences");
}

TEST_CASE("every row kernel gives four lanes what it gives one thread") {
  for (const shape s : shapes) {
    CAPTURE(s.rows, s.cols);
    values z = normal_values(s.rows * s.cols, 37);
    for (std::size_t i = 0; i + 1 < z.size(); i += 3) z[i + 1] = z[i];  // ties
    std::vector<int> label;
    for (index_t r = 0; r < s.rows; ++r) label.push_back(static_cast<int>((r * 7 + 2) % s.cols));
    const philox random{5, 1, 2};
    // kernel_on(w) -> kernel that writes w.
    const auto differ = [&](const values& start, auto kernel_on) {
      values one = start, four = start;
      const auto serial = kernel_on(one.data());
      for (index_t r = 0; r < s.rows; ++r) serial(serial_team{}, r);
      testing::run_lanes<4>(s.rows, kernel_on(four.data()));
      return largest_error(four, one);
    };
    const values empty(z.size(), NAN);
    const double* from = z.data();
    CHECK(differ(empty, [&](double* w) { return mixing_kernel::one_hot_argmax<double>{from, w, s.cols}; }) == 0);
    CHECK(differ(empty, [&](double* w) { return mixing_kernel::one_hot_label<double>{label.data(), w, s.cols}; }) == 0);
    CHECK(differ(empty, [&](double* w) { return mixing_kernel::add_gumbel<double>{from, w, s.cols, 0.5, random}; }) == 0);
    CHECK(differ(weights_of(mixture{}, z, s.rows),
                 [&](double* w) { return mixing_kernel::one_hot_sample<double>{w, s.cols, random}; }) == 0);
    for (const index_t k : {index_t{1}, (s.cols + 1) / 2, s.cols}) {
      CAPTURE(k);
      CHECK(differ(empty, [&](double* w) { return mixing_kernel::top_k_softmax<double>{from, w, s.cols, k, 1 / 0.7}; }) < 1e-14);
    }
  }
}
