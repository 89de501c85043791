#include <planlm/ops/attention.hpp>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using testing::largest_error;
using testing::normal_values;
using testing::packed;
using testing::same_bits;

static_assert(HasFusedAttention<cpu<float>> && HasFusedAttention<cpu<double>>);

namespace {

template <class T>
struct attended {
  std::vector<T> y, lse, dqkv;
};

template <class T>
attended<T> run(attention_shape shape, const packed& seq, bool fused, int threads = 1, double scale = 1) {
  using B = cpu<T>;
  context<B> cx{typename B::queue(threads)};
  testing::poison(cx, 1000000);
  auto scope = cx.scope();
  const index_t n = seq.rows();
  const std::vector<T> x = normal_values<T>(n * shape.packed_width(), 1, scale),
                       g = normal_values<T>(n * shape.query_width(), 2);
  const const_tensor<B> qkv = cx.upload(std::span<const T>(x), n, shape.packed_width());
  const const_tensor<B> dy = cx.upload(std::span<const T>(g), n, shape.query_width());
  const auto s = seq.view<B>();
  if (!fused) {
    const auto out = ops::attention_plain(cx, shape, qkv, s);
    return {cx.read(out.y), cx.read(out.lse), cx.read(ops::attention_plain_pullback(cx, shape, qkv, s, dy))};
  }
  const auto out = ops::attention(cx, shape, qkv, s);
  return {cx.read(out.y), cx.read(out.lse), cx.read(ops::attention_pullback(cx, shape, qkv, s, out, dy))};
}

template <class T>
double disagreement(attention_shape shape, const packed& seq, double scale = 1) {
  const auto fused = run<T>(shape, seq, true, 1, scale), plain = run<T>(shape, seq, false, 1, scale);
  return std::max({largest_error(fused.y, plain.y), largest_error(fused.lse, plain.lse),
                   largest_error(fused.dqkv, plain.dqkv)});
}

}  // namespace

TEST_CASE("fused attention equals the plain composition, value and gradient") {
  const packed ragged{1, 63, 64, 65, 200}, one{1}, pair{2, 1};
  struct heads {
    index_t query, kv, width;
  };
  for (const heads h : {heads{1, 1, 1}, {2, 2, 8}, {4, 2, 5}, {6, 1, 3}})
    for (const bool causal : {true, false}) {
      CAPTURE(h.query, h.kv, h.width, causal);
      const attention_shape shape{h.query, h.kv, h.width, causal};
      for (const packed* seq : {&ragged, &one, &pair}) {
        CAPTURE(seq->rows());
        CHECK(disagreement<double>(shape, *seq) < 1e-12);
        CHECK(disagreement<float>(shape, *seq) < 2e-5);
      }
      CHECK(disagreement<double>(shape, ragged, 20) < 1e-10);  // scores in the hundreds
    }
}

TEST_CASE("causal attention by hand: the first row repeats its value, equal keys average theirs") {
  using B = cpu<double>;
  context<B> cx;
  // One head of width 1: columns are q, k, v. All keys are 0, so weights are uniform over what is visible.
  const std::vector<double> x{1, 0, 3, 1, 0, 5, 1, 0, 10};
  const packed three{3};
  const auto attend = [&](bool causal) {
    return cx.read(ops::attention(cx, {1, 1, 1, causal},
                                  const_tensor<B>(cx.upload(std::span<const double>(x), 3, 3)),
                                  three.view<B>())
                       .y);
  };
  CHECK(largest_error(attend(true), std::vector<double>{3, 4, 6}) < 1e-15);
  CHECK(largest_error(attend(false), std::vector<double>{6, 6, 6}) < 1e-15);
}

TEST_CASE("a row of causal attention has the same bits whether later rows of its sequence exist or not") {
  const auto check = []<class T>(T) {
    using B = cpu<T>;
    const attention_shape shape{4, 2, 6, true};
    context<B> cx;
    const index_t width = shape.packed_width(), out = shape.query_width(), whole_rows = 330;
    const std::vector<T> x = normal_values<T>(whole_rows * width, 1);
    const auto attend = [&](int rows) {
      auto scope = cx.scope();
      const packed seq{rows};
      return cx.read(ops::attention(cx, shape,
                                    const_tensor<B>(cx.upload(
                                        std::span<const T>(x).first(static_cast<std::size_t>(rows * width)),
                                        rows, width)),
                                    seq.template view<B>())
                         .y);
    };
    const auto whole = attend(whole_rows);
    for (const int rows : {1, 2, 17, 63, 64, 65, 128, 200, 255, 256, 257, 329}) {
      CAPTURE(rows);
      CHECK(same_bits(attend(rows), std::vector<T>(whole.begin(), whole.begin() + rows * out)));
    }
  };
  check(float{});
  check(double{});
}

TEST_CASE("attention gives the same bits with 1, 2 and 3 threads") {
  const packed ragged{1, 63, 64, 65, 200};
  for (const bool causal : {true, false}) {
    const attention_shape shape{6, 3, 5, causal};
    const auto one = run<float>(shape, ragged, true, 1);
    for (const int threads : {2, 3}) {
      const auto more = run<float>(shape, ragged, true, threads);
      CHECK(same_bits(more.y, one.y));
      CHECK(same_bits(more.lse, one.lse));
      CHECK(same_bits(more.dqkv, one.dqkv));
    }
  }
}

TEST_CASE("the memory of fused attention grows with the length, that of the plain one with its square") {
  using B = cpu<float>;
  const attention_shape shape{2, 2, 8, true};
  const auto peak = [&](int length, bool fused) {
    context<B> cx{B::queue(1)};
    auto scope = cx.scope();
    const packed seq{length};
    const std::vector<float> x = normal_values<float>(length * shape.packed_width(), 1);
    const const_tensor<B> qkv(x.data(), length, shape.packed_width());
    if (fused) {
      const auto out = ops::attention(cx, shape, qkv, seq.view<B>());
      ops::attention_pullback(cx, shape, qkv, seq.view<B>(), out, const_tensor<B>(out.y));
    } else {
      const auto out = ops::attention_plain(cx, shape, qkv, seq.view<B>());
      ops::attention_plain_pullback(cx, shape, qkv, seq.view<B>(), const_tensor<B>(out.y));
    }
    return cx.memory().peak_bytes();
  };
  // y, lse and dqkv of 1024 rows: 16 + 2 + 48 floats each, whole multiples of 256 bytes.
  CHECK(peak(1024, true) == 1024 * 66 * sizeof(float));
  CHECK(peak(2048, true) == 2 * peak(1024, true));
  CHECK(peak(1024, false) > 1024 * 1024 * sizeof(float));  // the plain one holds T x T
  // Scratch memory of a thread: two tiles of 64 rows.
  const index_t fixed = cpu_detail::attention_scratch(0, 2);
  CHECK(cpu_detail::attention_scratch(1000, 2) - fixed == 2 * 64 * 1000);
  CHECK(cpu_detail::attention_scratch(2000, 2) - fixed ==
        2 * (cpu_detail::attention_scratch(1000, 2) - fixed));
}
