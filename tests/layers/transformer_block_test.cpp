#include <planlm/layers/transformer_block.hpp>

#include <planlm/layers/compose.hpp>
#include <planlm/testing/gradient_check.hpp>

#include <cstdint>
#include <tuple>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

static_assert(Layer<transformer_block<B>> && Layer<encoder_block<B>> && Layer<attention<B>>);
static_assert(!std::is_same_v<transformer_block<cpu<float>>::params, transformer_block<B>::params>);

TEST_CASE(
    "the transformer block passes the gradient check: causal or not, at odd shapes, over ragged sequences") {
  const testing::packed one{1}, ragged{3, 1, 5, 2};
  struct shape {
    index_t width, heads, inner;
  };
  for (const shape s : {shape{2, 1, 1}, {6, 2, 13}, {9, 3, 5}, {17, 1, 20}})
    for (const bool causal : {true, false}) {
      CAPTURE(s.width, s.heads, s.inner, causal);
      context<B> cx;
      testing::poison(cx);
      const transformer_block<B> block(s.width, s.heads, causal, s.inner);
      CHECK(testing::gradient_error(cx, block, one.rows(), s.width, {}, one.view<B>()) < 1e-7);
      CHECK(testing::gradient_error(cx, block, ragged.rows(), s.width, {}, ragged.view<B>()) < 1e-7);
    }
}

TEST_CASE(
    "the transformer block passes the gradient check with each choice of norm, activation and positions") {
  const testing::packed ragged{4, 1, 2};
  context<B> cx;
  const auto error = [&](const auto& block) {
    return testing::gradient_error(cx, block, ragged.rows(), 12, {}, ragged.view<B>());
  };
  CHECK(error(transformer_block<B, rms_norm<B>>(12, 2, true, 7)) < 1e-7);
  CHECK(error(transformer_block<B, layer_norm<B>, ops::silu>(12, 2, true, 7)) < 1e-7);
  CHECK(error(transformer_block<B, rms_norm<B>, ops::silu, rotary>(12, 2, true, 7, 0.02, 1)) < 1e-7);
  CHECK(error(transformer_block<B, layer_norm<B>, ops::gelu, no_rotation>(12, 4, false, 7, 0.02, 2)) < 1e-7);
}

TEST_CASE("the encoder block passes the gradient check at odd shapes") {
  const testing::packed one{1}, ragged{3, 1, 5};
  struct shape {
    index_t width, heads, inner;
  };
  for (const shape s : {shape{2, 1, 1}, {6, 2, 13}, {9, 3, 5}}) {
    CAPTURE(s.width, s.heads, s.inner);
    context<B> cx;
    testing::poison(cx);
    const encoder_block<B, ops::gelu> smooth(s.width, s.heads, s.inner);
    CHECK(testing::gradient_error(cx, smooth, one.rows(), s.width, {}, one.view<B>()) < 1e-7);
    CHECK(testing::gradient_error(cx, smooth, ragged.rows(), s.width, {}, ragged.view<B>()) < 1e-7);
    CHECK(testing::gradient_error(cx, encoder_block<B>(s.width, s.heads, s.inner), ragged.rows(), s.width, {},
                                  ragged.view<B>()) < 1e-7);
  }
}

TEST_CASE("frozen parameters of blocks are left untouched and change nothing else") {
  const testing::packed ragged{3, 1, 5};
  CHECK(testing::frozen_parameters_stay_untouched(transformer_block<B>(6, 2, true, 13), ragged.rows(), 6,
                                                  ragged.view<B>()));
  CHECK(testing::frozen_parameters_stay_untouched(encoder_block<B>(6, 2, 13), ragged.rows(), 6,
                                                  ragged.view<B>()));
}

namespace {

/// x + plan; the pullback adds what arrives to the sink.
struct shifted {
  const_tensor<B> plan;
  auto operator()(context<B>& cx, const_tensor<B> x) const {
    return vjp{ops::sum(cx, x, plan), [&cx](const_tensor<B> dx, tensor<B> sink) {
                 ops::add_to(cx, dx, sink);
                 return dx;
               }};
  }
};

template <class Placement>
double injection_error(Placement placement) {
  const testing::packed ragged{3, 1, 2};
  context<B> cx;
  const transformer_block<B> block(6, 2, true, 7);
  parameters theta = testing::perturbed(cx, block);
  const index_t rows = ragged.rows();
  const std::vector<double> x = testing::normal_values(rows * 6, 1), dy = testing::normal_values(rows * 6, 2);
  const auto run = [&](const std::vector<double>& plan, std::vector<double>* gradient) {
    auto scope = cx.scope();
    const auto load = [&](const std::vector<double>& v) {
      return const_tensor<B>(cx.upload(std::span<const double>(v), rows, 6));
    };
    auto [y, pullback] = block(cx, theta.weights, load(x), ragged.view<B>(), placement, shifted{load(plan)});
    if (gradient) {
      const tensor<B> sink = cx.make_zero(rows, 6);
      pullback(load(dy), theta.grads, sink);
      *gradient = cx.read(sink);
    }
    double total = 0;
    const std::vector<double> values = cx.read(y);
    for (std::size_t i = 0; i < values.size(); ++i) total += dy[i] * values[i];
    return total;
  };
  return testing::directional_error(
      testing::normal_values(rows * 6, 3),
      [&](const std::vector<double>& plan) { return run(plan, nullptr); },
      [&](const std::vector<double>& plan) {
        std::vector<double> gradient;
        run(plan, &gradient);
        return gradient;
      });
}

/// Forward and pullback of a stack of blocks large enough that products are cut among threads.
template <class T>
testing::outcome<T> stack_outcome(int threads, bool causal) {
  using C = cpu<T>;
  const testing::packed ragged{70, 1, 33, 64};
  context<C> cx{typename C::queue(threads)};
  const stack model{3, transformer_block<C, rms_norm<C>, ops::gelu, rotary>(48, 4, causal, 200, 0.02, 2, {})};
  parameters theta = testing::perturbed(cx, model, 3, 0.05);
  return testing::run_layer(cx, model, theta, theta.grads, ragged.rows(), 48, T(0),
                            ragged.template view<C>());
}

}  // namespace

TEST_CASE("the gradient of an injected plan is exact in both placements") {
  CHECK(injection_error(at_attention_output{}) < 1e-7);
  CHECK(injection_error(at_feed_forward_input{}) < 1e-7);
}

TEST_CASE("a block whose input's gradient is not wanted returns none; sinks and parameters get the same bits, in both placements") {
  const auto check = [](auto placement, bool frozen, bool norm_alone) {
    const testing::packed ragged{3, 1, 2};
    const index_t rows = ragged.rows();
    const transformer_block<B> block(6, 2, true, 7);
    const auto run = [&](auto... input) {
      context<B> cx;
      testing::poison(cx);
      parameters theta = testing::perturbed(cx, block);
      const auto load = [&](std::uint64_t seed) {
        const std::vector<double> v = testing::normal_values(rows * 6, seed);
        return const_tensor<B>(cx.upload(std::span<const double>(v), rows, 6));
      };
      auto [y, pullback] = block(cx, theta.weights, load(1), ragged.view<B>(), placement, shifted{load(2)});
      const tensor<B> sink = cx.make_zero(rows, 6);
      transformer_block<B>::params wanted = frozen ? transformer_block<B>::params{} : theta.grads;
      if (norm_alone) wanted.norm1 = theta.grads.norm1;
      const const_tensor<B> dx = pullback(load(3), wanted, input..., sink);
      return std::tuple{static_cast<bool>(dx), cx.read(sink), cx.read(theta.flat_grads())};
    };
    const auto all = run(), told = run(input_gradient{}), without = run(input_gradient{false});
    CHECK(std::get<0>(all));
    CHECK(told == all);
    CHECK(std::get<0>(without) == (!frozen || norm_alone));  // what parameters need is made anyway
    CHECK(std::get<1>(without) == std::get<1>(all));
    CHECK(std::get<2>(without) == std::get<2>(all));
  };
  for (const bool frozen : {true, false})
    for (const bool norm_alone : {true, false}) {
      CAPTURE(frozen, norm_alone);
      check(at_attention_output{}, frozen, norm_alone);
      check(at_feed_forward_input{}, frozen, norm_alone);
    }
}

TEST_CASE("a block's pullback alone is made with less memory than with its output, and gives the same bits") {
  const testing::packed ragged{3, 1, 2};
  const index_t rows = ragged.rows();
  const transformer_block<B> block(64, 2, true, 7);
  const std::vector<double> x = testing::normal_values(rows * 64, 1);
  const auto run = [&](const auto& pullback_of) {
    context<B> cx;
    parameters theta = testing::perturbed(cx, block);
    const const_tensor<B> input(x.data(), rows, 64);
    const std::size_t before = cx.memory().used_bytes();
    const auto pullback = pullback_of(cx, theta.weights, input);
    const std::size_t kept = cx.memory().used_bytes() - before;
    return std::tuple{kept, cx.read(pullback(input, theta.grads)), cx.read(theta.flat_grads())};
  };
  const auto whole = run([&](auto& cx, const auto& p, const auto& in) { return block(cx, p, in, ragged.view<B>()).pullback; });
  const auto alone = run([&](auto& cx, const auto& p, const auto& in) { return block.again(cx, p, in, ragged.view<B>()); });
  CHECK(std::get<0>(whole) - std::get<0>(alone) == static_cast<std::size_t>(rows * 64) * sizeof(double));
  CHECK(std::get<1>(whole) == std::get<1>(alone));
  CHECK(std::get<2>(whole) == std::get<2>(alone));
}

TEST_CASE("a stack of blocks gives the same bits with 1, 2 and 3 threads and in two runs") {
  for (const bool causal : {true, false}) {
    CAPTURE(causal);
    const auto in_float = stack_outcome<float>(1, causal);
    CHECK(testing::same_bits(stack_outcome<float>(1, causal), in_float));
    CHECK(testing::same_bits(stack_outcome<float>(2, causal), in_float));
    CHECK(testing::same_bits(stack_outcome<float>(3, causal), in_float));
    const auto in_double = stack_outcome<double>(1, causal);
    CHECK(testing::same_bits(stack_outcome<double>(2, causal), in_double));
    CHECK(testing::same_bits(stack_outcome<double>(3, causal), in_double));
    CHECK(testing::largest_error(in_float.y, in_double.y) < 1e-3);
    CHECK(testing::largest_error(in_float.dx, in_double.dx) < 1e-3);
  }
}

TEST_CASE("a causal stack gives a row the same bits whether later rows exist or not") {
  using C = cpu<float>;
  context<C> cx;
  const stack model{2, transformer_block<C, layer_norm<C>, ops::gelu, rotary>(24, 2, true, 50)};
  parameters theta = testing::perturbed(cx, model, 3, 0.05);
  const std::vector<float> x = testing::normal_values<float>(150 * 24, 4);
  const auto first_rows = [&](int rows) {
    auto scope = cx.scope();
    const testing::packed seq{rows};
    return cx.read(
        model(cx, theta.weights,
              cx.upload(std::span<const float>(x).first(static_cast<std::size_t>(rows * 24)), rows, 24),
              seq.view<C>())
            .value);
  };
  const auto whole = first_rows(150);
  for (const int rows : {1, 2, 63, 64, 65, 149}) {
    CAPTURE(rows);
    CHECK(testing::same_bits(first_rows(rows), std::vector<float>(whole.begin(), whole.begin() + rows * 24)));
  }
}
