#include <planlm/ops/running_mean.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>
#include <planlm/testing/gradient_check.hpp>

#include "../backend/bfloat16_backend.hpp"
#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using B = cpu<double>;
using testing::normal_values;
using testing::packed;
using testing::same_bits;
using values = std::vector<double>;

namespace {

/// The operation as a layer, so that the public gradient check can see it.
struct running_mean_layer {
  using backend = B;
  using params = no_params;
  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto operator()(context<B>& cx, const params&, const_tensor<B> x, const sequences<B>& seq) const {
    return vjp{const_tensor<B>(ops::running_mean(cx, x, seq)), [&cx, seq](const_tensor<B> dy, const params&) {
                 return const_tensor<B>(ops::running_mean_pullback(cx, dy, seq));
               }};
  }
};

/// Rows of one sequence cut into pieces: the running means of all, computed piece by piece from cached sums.
template <class Any>
std::vector<typename Any::real> in_pieces(context<Any>& cx, const std::vector<typename Any::real>& x, index_t cols,
                                          const std::vector<int>& pieces, int slot, accum_tensor<Any, 3> sums) {
  std::vector<typename Any::real> y;
  int begin = 0;
  for (const int n : pieces) {
    auto scope = cx.scope();
    const std::vector<int> offsets{0, n}, slots(static_cast<std::size_t>(n), slot);
    std::vector<int> positions;
    for (int t = 0; t < n; ++t) positions.push_back(begin + t);
    const sequences<Any> seq{cx.upload(offsets), offsets.data(), cx.upload(positions)};
    const auto piece =
        std::span<const typename Any::real>(x).subspan(static_cast<std::size_t>(begin * cols), static_cast<std::size_t>(n * cols));
    const auto m = cx.read(ops::running_mean(cx, const_tensor<Any>(cx.upload(piece, index_t{n}, cols)), seq,
                                             running_sums<Any>{sums, indices<Any>(cx.upload(slots))}));
    y.insert(y.end(), m.begin(), m.end());
    begin += n;
  }
  return y;
}

}  // namespace

TEST_CASE("the running mean of a row is that of the rows of its sequence so far") {
  context<B> cx;
  testing::poison(cx);
  const packed seq{3, 1, 2};
  const values x{1, 10, 3, 20, 8, 60, 7, 5, 2, 4, 4, 0}, dy{6, 12, 2, 4, 3, 9, 1, 2, 5, 1, 8, 6};
  CHECK(cx.read(ops::running_mean(cx, const_tensor<B>(x.data(), 6, 2), seq.view<B>())) ==
        values{1, 10, 2, 15, 4, 30, 7, 5, 2, 4, 3, 2});
  // Backwards: dy_3 / 3, then + dy_2 / 2, then + dy_1.
  CHECK(cx.read(ops::running_mean_pullback(cx, const_tensor<B>(dy.data(), 6, 2), seq.view<B>())) ==
        values{8, 17, 2, 5, 1, 3, 1, 2, 9, 4, 4, 3});
}

TEST_CASE("the running mean passes the gradient check") {
  context<B> cx;
  const packed usual{5, 1, 12}, one{1};
  CHECK(testing::gradient_error(cx, running_mean_layer{}, 18, 7, {}, usual.view<B>()) < 1e-9);
  CHECK(testing::gradient_error(cx, running_mean_layer{}, 18, 1, {}, usual.view<B>()) < 1e-9);
  CHECK(testing::gradient_error(cx, running_mean_layer{}, 1, 1, {}, one.view<B>()) < 1e-9);
}

TEST_CASE("fact 20: the running mean of row t does not see t + 1, nor another sequence") {
  context<B> cx;
  const packed seq{5, 4};
  const values x = normal_values(9, 3);
  const auto means = [&](const values& at) { return cx.read(ops::running_mean(cx, const_tensor<B>(at.data(), 9, 1), seq.view<B>())); };
  const values before = means(x);
  for (std::size_t changed = 0; changed < 9; ++changed) {
    values other = x;
    other[changed] += 1;
    const values after = means(other);
    for (std::size_t t = 0; t < 9; ++t) {
      CAPTURE(changed, t);
      CHECK((after[t] == before[t]) == (t < changed || (t < 5) != (changed < 5)));
    }
  }
}

TEST_CASE("running means have the same bits with 1, 2 and 3 threads") {
  const packed seq{1, 70, 33, 2, 40};
  const values x = normal_values(146 * 19, 4);
  const auto run = [&](int threads) {
    context<B> cx{B::queue(threads)};
    testing::poison(cx);
    const const_tensor<B> m = ops::running_mean(cx, const_tensor<B>(x.data(), 146, 19), seq.view<B>());
    values all = cx.read(m);
    for (const double v : cx.read(ops::running_mean_pullback(cx, m, seq.view<B>()))) all.push_back(v);
    return all;
  };
  CHECK(same_bits(run(2), run(1)));
  CHECK(same_bits(run(3), run(1)));
}

TEMPLATE_TEST_CASE("a sequence that goes on from cached sums has the bits of one that never stopped, also after it was cut", "", cpu<float>,
                   cpu<double>, testing::bfloat16_backend) {
  using Any = TestType;
  context<Any> cx;
  testing::poison(cx);
  const index_t cols = 3, n = 12;
  const auto x = normal_values<typename Any::real>(n * cols, 5);
  const packed whole{12};
  const auto expected = cx.read(ops::running_mean(cx, const_tensor<Any>(x.data(), n, cols), whole.view<Any>()));
  const accum_tensor<Any, 3> sums = cx.template make_of<typename Any::accum>(2, 16, cols);
  CHECK(same_bits(in_pieces(cx, x, cols, {12}, 1, sums), expected));
  CHECK(same_bits(in_pieces(cx, x, cols, {1, 4, 1, 6}, 1, sums), expected));
  CHECK(same_bits(in_pieces(cx, x, cols, {5, 7}, 0, sums), expected));
  // Slot 1 is cut to five rows and goes another way; slot 0 beside it is not touched.
  const auto kept = cx.read(sums);
  auto other = x;
  for (std::size_t i = 5 * cols; i < other.size(); ++i) other[i] = x[other.size() - 1 - i];
  in_pieces(cx, other, cols, {12}, 1, sums);
  const auto now = cx.read(sums);
  CHECK(std::equal(now.begin(), now.begin() + 12 * cols, kept.begin()));
  const auto again = in_pieces(cx, x, cols, {5, 7}, 1, sums);
  CHECK(same_bits(again, expected));
}

TEST_CASE("in bfloat16 the sum is kept in float and each mean is rounded once") {
  using N = testing::bfloat16_backend;
  context<N> cx;
  const packed seq{300};
  const std::vector<bfloat16> x(300, bfloat16(1.0f));
  for (const bfloat16 m : cx.read(ops::running_mean(cx, const_tensor<N>(x.data(), 300, 1), seq.view<N>()))) CHECK(float(m) == 1.0f);
}

TEST_CASE("cached sums of another width are refused") {
  context<B> cx;
  const packed seq{1};
  const std::vector<int> slot{0};
  CHECK_THROWS_WITH(ops::running_mean(cx, const_tensor<B>(cx.make(1, 3)), seq.view<B>(),
                                      running_sums<B>{cx.make(1, 4, 2), indices<B>(slot.data(), 1)}),
                    "running_mean: sums of width 2 for rows of width 3");
}
