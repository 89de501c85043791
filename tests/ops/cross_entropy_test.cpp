#include <planlm/ops/cross_entropy.hpp>

#include <cmath>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"

using namespace planlm;
using testing::largest_error;
using testing::normal_values;
using testing::same_bits;

namespace {

template <class T>
struct loss {
  double total;
  std::vector<T> nll, dhidden, dtable;
};

struct problem {
  index_t rows, width, vocabulary;
  std::vector<int> targets;
};
problem make_problem(index_t rows, index_t width, index_t vocabulary) {
  problem p{rows, width, vocabulary, {}};
  const philox random{5};
  for (index_t r = 0; r < rows; ++r) {
    const auto row = static_cast<std::uint64_t>(r);
    p.targets.push_back(random.below(5, row, 0) == 0
                            ? -1
                            : static_cast<int>(random.below(static_cast<std::uint32_t>(vocabulary), row, 1)));
  }
  return p;
}

enum class form { fused, plain };

template <class T>
loss<T> run(const problem& p, form which, const std::vector<T>& weights, T uniform, bool frozen = false,
            int threads = 1) {
  using B = cpu<T>;
  context<B> cx{typename B::queue(threads)};
  testing::poison(cx);
  auto scope = cx.scope();
  const std::vector<T> h = normal_values<T>(p.rows * p.width, 1),
                       w = normal_values<T>(p.vocabulary * p.width, 2);
  const const_tensor<B> hidden = cx.upload(std::span<const T>(h), p.rows, p.width);
  const const_tensor<B> table = cx.upload(std::span<const T>(w), p.vocabulary, p.width);
  const indices<B> targets = cx.upload(p.targets);
  const const_tensor<B, 1> weight =
      weights.empty() ? const_tensor<B, 1>{} : const_tensor<B, 1>(cx.upload(weights));
  tensor<B> dtable;
  if (!frozen) {
    dtable = cx.make(p.vocabulary, p.width);
    for (index_t i = 0; i < dtable.size(); ++i) dtable[i] = T(0.5);  // gradients are added
  }
  const auto out = which == form::fused
                       ? ops::linear_cross_entropy(cx, hidden, table, targets, weight, uniform, dtable)
                       : ops::linear_cross_entropy_plain(cx, hidden, table, targets, weight, uniform, dtable);
  loss<T> result{static_cast<double>(cx.read_one(out.total)), cx.read(out.nll), cx.read(out.dhidden), {}};
  if (!frozen) result.dtable = cx.read(dtable);
  return result;
}

}  // namespace

TEST_CASE("fused linear cross-entropy equals the plain composition, with uniform and with per-row weights") {
  // 512 rows are one block at most: 1100 rows are three, the last of them shorter.
  for (const problem& p :
       {make_problem(1, 1, 1), make_problem(5, 7, 3), make_problem(33, 5, 130), make_problem(1100, 6, 37)}) {
    CAPTURE(p.rows, p.width, p.vocabulary);
    std::vector<double> weights = normal_values(p.rows, 9);
    for (const std::vector<double>& w : {std::vector<double>{}, weights}) {
      const auto fused = run<double>(p, form::fused, w, 0.01), plain = run<double>(p, form::plain, w, 0.01);
      CHECK(fused.total == Approx(plain.total).epsilon(1e-12).margin(1e-12));
      CHECK(largest_error(fused.nll, plain.nll) < 1e-12);
      CHECK(largest_error(fused.dhidden, plain.dhidden) < 1e-12);
      CHECK(largest_error(fused.dtable, plain.dtable) < 1e-12);
    }
    const auto in_float = run<float>(p, form::fused, {}, 0.01f);
    const auto exact = run<double>(p, form::plain, {}, 0.01);
    CHECK(in_float.total == Approx(exact.total).epsilon(1e-5));
    CHECK(largest_error(in_float.nll, exact.nll) < 1e-5);
    CHECK(largest_error(in_float.dhidden, exact.dhidden) < 1e-5);
  }
}

TEST_CASE("cross-entropy by hand: two equal logits cost ln 2, and an ignored target nothing") {
  using B = cpu<double>;
  context<B> cx;
  const std::vector<double> h{1, 1, 1}, w{2, 2};
  const std::vector<int> ids{0, -1, 1};
  const tensor<B> dtable = cx.make_zero(2, 1);
  const auto out = ops::linear_cross_entropy(cx, const_tensor<B>(cx.upload(std::span<const double>(h), 3, 1)),
                                             const_tensor<B>(cx.upload(std::span<const double>(w), 2, 1)),
                                             indices<B>(cx.upload(ids)), {}, 0.5, dtable);
  CHECK(largest_error(cx.read(out.nll), std::vector<double>{std::log(2.0), 0, std::log(2.0)}) < 1e-15);
  CHECK(cx.read_one(out.total) == Approx(std::log(2.0)));
  CHECK(largest_error(cx.read(out.dhidden), std::vector<double>{0, 0, 0}) < 1e-15);
  CHECK(largest_error(cx.read(dtable), std::vector<double>{0, 0}) < 1e-15);
}

TEST_CASE(
    "rows with an ignored target have value and gradient exactly 0 and leave the table's gradient alone") {
  problem p = make_problem(40, 5, 11);
  const auto out = run<double>(p, form::fused, {}, 0.1);
  for (index_t r = 0; r < p.rows; ++r) {
    if (p.targets[static_cast<std::size_t>(r)] >= 0) continue;
    CHECK(out.nll[static_cast<std::size_t>(r)] == 0);
    for (index_t c = 0; c < p.width; ++c) CHECK(out.dhidden[static_cast<std::size_t>(r * p.width + c)] == 0);
  }
  p.targets.assign(40, -1);
  const auto nothing = run<double>(p, form::fused, {}, 0.1);
  CHECK(nothing.total == 0);
  CHECK(nothing.dtable == std::vector<double>(55, 0.5));
}

TEST_CASE("a frozen table changes no bit of value or input gradient") {
  const problem p = make_problem(600, 5, 11);
  const auto learned = run<float>(p, form::fused, {}, 0.1f),
             frozen = run<float>(p, form::fused, {}, 0.1f, true);
  CHECK(frozen.total == learned.total);
  CHECK(same_bits(frozen.nll, learned.nll));
  CHECK(same_bits(frozen.dhidden, learned.dhidden));
}

TEST_CASE("the weight of a row scales its share of the total and of the gradients, not its nats") {
  const problem p = make_problem(20, 4, 9);
  const std::vector<double> weights = normal_values(20, 3);
  const auto plain = run<double>(p, form::fused, {}, 1.0),
             weighted = run<double>(p, form::fused, weights, 77.0);
  CHECK(same_bits(weighted.nll, plain.nll));
  double total = 0;
  std::vector<double> dhidden = plain.dhidden;
  for (std::size_t r = 0; r < 20; ++r) {
    total += weights[r] * plain.nll[r];
    for (std::size_t c = 0; c < 4; ++c) dhidden[r * 4 + c] *= weights[r];
  }
  CHECK(weighted.total == Approx(total));
  CHECK(largest_error(weighted.dhidden, dhidden) < 1e-13);
}

TEST_CASE("linear cross-entropy passes the directional check over input and table") {
  using B = cpu<double>;
  for (const problem& p : {make_problem(3, 1, 2), make_problem(7, 5, 11)}) {
    CAPTURE(p.rows);
    context<B> cx;
    const auto split = [&](const std::vector<double>& v, std::vector<double>* gradient) {
      auto scope = cx.scope();
      const auto n = static_cast<std::size_t>(p.rows * p.width);
      const tensor<B> dtable = cx.make_zero(p.vocabulary, p.width);
      const auto out = ops::linear_cross_entropy(
          cx, const_tensor<B>(cx.upload(std::span<const double>(v).first(n), p.rows, p.width)),
          const_tensor<B>(cx.upload(std::span<const double>(v).subspan(n), p.vocabulary, p.width)),
          indices<B>(cx.upload(p.targets)), {}, 0.3, dtable);
      if (gradient) {
        *gradient = cx.read(out.dhidden);
        for (const double g : cx.read(dtable)) gradient->push_back(g);
      }
      return cx.read_one(out.total);
    };
    const auto gradient = [&](const std::vector<double>& v) {
      std::vector<double> g;
      split(v, &g);
      return g;
    };
    CHECK(testing::directional_error(
              normal_values((p.rows + p.vocabulary) * p.width, 4),
              [&](const std::vector<double>& v) { return split(v, nullptr); }, gradient) < 1e-8);
  }
}

TEST_CASE("the nats of evaluation are those of training, bit for bit") {
  using B = cpu<float>;
  const problem p = make_problem(600, 5, 37);
  const auto trained = run<float>(p, form::fused, {}, 1.0f);
  context<B> cx;
  const std::vector<float> h = normal_values<float>(p.rows * p.width, 1),
                           w = normal_values<float>(p.vocabulary * p.width, 2);
  const auto nll =
      ops::linear_token_nll(cx, const_tensor<B>(cx.upload(std::span<const float>(h), p.rows, p.width)),
                            const_tensor<B>(cx.upload(std::span<const float>(w), p.vocabulary, p.width)),
                            indices<B>(cx.upload(p.targets)));
  CHECK(same_bits(cx.read(nll), trained.nll));
}

TEST_CASE("linear cross-entropy gives the same bits with 1, 2 and 3 threads") {
  const problem p = make_problem(700, 48, 301);
  const auto one = run<float>(p, form::fused, {}, 0.1f);
  for (const int threads : {2, 3}) {
    const auto more = run<float>(p, form::fused, {}, 0.1f, false, threads);
    CHECK(more.total == one.total);
    CHECK(same_bits(more.nll, one.nll));
    CHECK(same_bits(more.dhidden, one.dhidden));
    CHECK(same_bits(more.dtable, one.dtable));
  }
}

TEST_CASE("the fused form never holds all logits") {
  using B = cpu<float>;
  const index_t rows = 4096, width = 4, vocabulary = 8192;
  context<B> cx{B::queue(2)};
  auto scope = cx.scope();
  const std::vector<float> h = normal_values<float>(rows * width, 1),
                           w = normal_values<float>(vocabulary * width, 2);
  const std::vector<int> targets(static_cast<std::size_t>(rows), 7);
  ops::linear_cross_entropy(cx, const_tensor<B>(h.data(), rows, width),
                            const_tensor<B>(w.data(), vocabulary, width), indices<B>(targets.data(), rows),
                            {}, 1.0f, {});
  CHECK(cx.memory().peak_bytes() < static_cast<std::size_t>(rows * vocabulary) * sizeof(float) / 7);
}

TEST_CASE("blocks of rows are a share of all rows, worth handing out, and equal but for the last") {
  for (const index_t vocabulary : {4096, 8192, 16384, 50257})
    for (const index_t rows : {2048, 3000, 8192}) {
      CAPTURE(rows, vocabulary);
      const index_t step = ops::cross_entropy_rows(rows, vocabulary);
      CHECK(8 * (step * vocabulary + (1 << 18)) <= rows * vocabulary);  // with what two threads pack beside it
      CHECK(step >= 128);
      CHECK(rows - (rows - 1) / step * step > step / 2);
    }
  CHECK(ops::cross_entropy_rows(0, 10) >= 0);
  CHECK(ops::cross_entropy_rows(1, 10) == 1);
  CHECK(ops::cross_entropy_rows(100, 50257) == 100);  // few rows are not cut
  CHECK(ops::cross_entropy_rows(512, 50257) == 128);
  CHECK(ops::cross_entropy_rows(100000, 100) == 512);
  CHECK(ops::cross_entropy_rows(100000, 50257) * 50257 <= (1 << 24) + 8 * 50257);
  CHECK(ops::cross_entropy_rows(100000, 1 << 24) == 32);
}

TEST_CASE("a gradient of the table that has another shape is refused before a product writes beyond its end") {
  using B = cpu<double>;
  context<B> cx;
  auto scope = cx.scope();
  const std::vector<int> targets{0, 1};
  const std::vector<double> h = normal_values<double>(2 * 3, 1), w = normal_values<double>(5 * 3, 2);
  const auto hidden = const_tensor<B>(cx.upload(std::span<const double>(h), 2, 3));
  const auto table = const_tensor<B>(cx.upload(std::span<const double>(w), 5, 3));
  const auto ids = indices<B>(cx.upload(targets));
  CHECK_THROWS_AS(ops::linear_cross_entropy(cx, hidden, table, ids, const_accum_tensor<B>{}, 1.0, cx.make_zero(4, 3)), shape_error);
  CHECK_NOTHROW(ops::linear_cross_entropy(cx, hidden, table, ids, const_accum_tensor<B>{}, 1.0, cx.make_zero(5, 3)));
}
