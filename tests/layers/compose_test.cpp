#include <planlm/layers/compose.hpp>

#include <planlm/layers/lora.hpp>
#include <planlm/layers/transformer_block.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"
#include "checks.hpp"

using namespace planlm;
using B = cpu<double>;

TEST_CASE("sequential and residual pass the gradient check at odd shapes") {
  for (const index_t rows : {1, 5, 19}) {
    CAPTURE(rows);
    context<B> cx;
    testing::poison(cx);
    CHECK(testing::gradient_error(cx, sequential{linear<B>{1, 7}, gelu<B>{}, linear<B>{7, 3}}, rows, 1) <
          1e-7);
    CHECK(testing::gradient_error(cx, sequential{rms_norm<B>{5}}, rows, 5) < 1e-7);
    CHECK(testing::gradient_error(cx, residual{linear<B>{5, 5}}, rows, 5) < 1e-7);
    CHECK(testing::gradient_error(cx,
                                  residual{sequential{layer_norm<B>{5}, lora<B>{{5, 9}, 2}, silu<B>{},
                                                      dropout<B>{0.3, 5}, linear<B>{9, 5}}},
                                  rows, 5) < 1e-7);
  }
}

TEST_CASE("sequences reach the layers of a composition that look at them and pass by those that do not") {
  const testing::packed ragged{3, 1, 2};
  context<B> cx;
  const sequential mixed{layer_norm<B>{6}, attention<B>(6, 2, true), gelu<B>{}};
  CHECK(testing::gradient_error(cx, mixed, ragged.rows(), 6, {}, ragged.view<B>()) < 1e-7);
  CHECK(testing::gradient_error(cx, stack{2, residual{mixed}}, ragged.rows(), 6, {}, ragged.view<B>()) <
        1e-7);
}

TEST_CASE("stack passes the gradient check at depths 0, 1 and 5") {
  const testing::packed ragged{3, 1, 2};
  for (const index_t depth : {0, 1, 5}) {
    CAPTURE(depth);
    context<B> cx;
    testing::poison(cx);
    CHECK(testing::gradient_error(
              cx, stack{depth, residual{sequential{layer_norm<B>{5}, linear<B>{5, 5}, gelu<B>{}}}}, 3, 5) <
          1e-7);
    if (depth > 0)
      CHECK(testing::gradient_error(cx, stack{depth, transformer_block<B>(6, 2, true, 7)}, ragged.rows(), 6,
                                    {}, ragged.view<B>()) < 1e-7);
  }
}

TEST_CASE("a stack equals the same blocks in sequence, bit for bit") {
  context<B> cx;
  const residual block{sequential{layer_norm<B>{5}, linear<B>{5, 5}, gelu<B>{}}};
  const stack stacked{3, block};
  const sequential listed{block, block, block};
  parameters in_stack = testing::perturbed(cx, stacked);
  parameters in_list = testing::perturbed(cx, listed);
  REQUIRE(in_stack.slots().size() == in_list.slots().size());
  for (std::size_t n = 0; n < in_stack.slots().size(); ++n)
    CHECK(in_stack.slots()[n].spec.name == in_list.slots()[n].spec.name);
  CHECK(testing::same_bits(testing::run_layer(cx, stacked, in_stack, in_stack.grads, 4, 5, 0.0),
                           testing::run_layer(cx, listed, in_list, in_list.grads, 4, 5, 0.0)));
}

TEST_CASE("recompute passes the gradient check, alone, in a stack, around a stack, and with dropout") {
  const testing::packed ragged{3, 1, 2};
  const transformer_block<B> block(6, 2, true, 7);
  context<B> cx;
  testing::poison(cx);
  const auto error = [&](const auto& layer) {
    return testing::gradient_error(cx, layer, ragged.rows(), 6, {}, ragged.view<B>());
  };
  CHECK(error(recompute{block}) < 1e-7);
  CHECK(error(stack{3, recompute{block}}) < 1e-7);
  CHECK(error(recompute{stack{3, block}}) < 1e-7);
  CHECK(error(recompute{stack{3, recompute{block}}}) < 1e-7);
  CHECK(error(recompute{sequential{linear<B>{6, 6}, dropout<B>{0.4, 2}, linear<B>{6, 1}}}) < 1e-7);
  CHECK(error(recompute{dropout<B>{0.0, 2}}) < 1e-7);  // the identity: the output is the input itself
}

TEST_CASE("recompute changes no bit of output or gradients and frees the activations of all blocks but one") {
  const testing::packed ragged{30, 1, 12};
  const index_t rows = ragged.rows(), width = 12;
  const transformer_block<B> block(width, 2, true, 40);
  struct measured {
    testing::outcome<B::real> out;
    std::size_t peak;
  };
  const auto measure = [&](const auto& model) {
    context<B> cx{B::queue(1)};
    parameters theta = testing::perturbed(cx, model);
    const auto step = [&] {
      return testing::run_layer(cx, model, theta, theta.grads, rows, width, 0.0, ragged.view<B>());
    };
    step();
    // run_layer poisons the arena first, so its peak says nothing: measure a bare step.
    auto scope = cx.scope();
    cx.memory().reset_peak();
    const std::size_t before = cx.memory().used_bytes();
    const std::vector<double> x = testing::normal_values(rows * width, 21);
    auto [y, pullback] =
        model(cx, theta.weights, cx.upload(std::span<const double>(x), rows, width), ragged.view<B>());
    pullback(const_tensor<B>(y), theta.grads);
    const std::size_t peak = cx.memory().peak_bytes() - before;
    return measured{step(), peak};
  };
  const auto kept = measure(stack{8, block}), again = measure(stack{8, recompute{block}});
  CHECK(testing::same_bits(again.out, kept.out));
  CHECK(again.peak < kept.peak / 2);
  // A block more costs its input and nothing else; without recompute it costs several times that.
  const auto deeper = measure(stack{16, recompute{block}}), deeper_kept = measure(stack{16, block});
  const std::size_t input_bytes = (static_cast<std::size_t>(rows * width) * sizeof(double) + 255) / 256 * 256;
  CHECK(deeper.peak - again.peak == 8 * input_bytes);
  CHECK(deeper_kept.peak - kept.peak > 8 * 5 * input_bytes);
}

namespace {

/// y = 2 x, whose pullback alone can be had.
struct doubled {
  using backend = B;
  using params = no_params;
  int* outputs;
  template <class F, class... P>
  void each_param(F&&, P&...) const {}
  auto again(context<B>& cx, const params&, const_tensor<B>) const {
    return [&cx](const_tensor<B> dy, const params&) { return ops::sum(cx, dy, dy); };
  }
  auto operator()(context<B>& cx, const params& p, const_tensor<B> x) const {
    ++*outputs;
    return vjp{ops::sum(cx, x, x), again(cx, p, x)};
  }
};

}  // namespace

TEST_CASE("recompute asks for the pullback alone where a layer has one") {
  context<B> cx;
  int outputs = 0;
  const recompute layer{doubled{&outputs}};
  const std::vector<double> x = testing::normal_values(6, 1);
  const no_params none;
  auto [y, pullback] = layer(cx, none, const_tensor<B>(x.data(), 2, 3));
  const auto dx = cx.read(const_tensor<B>(pullback(const_tensor<B>(y), none)));
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(dx[i] == 4 * x[i]);
  CHECK(outputs == 1);
}

TEST_CASE("a step that returns no gradient ends the walk back through a chain") {
  context<B> cx;
  const std::vector<double> x = testing::normal_values(6, 1);
  auto [y, pullback] = chain(cx, 4, const_tensor<B>(x.data(), 2, 3), [&](index_t, const_tensor<B> h) {
    return vjp{const_tensor<B>(ops::sum(cx, h, h)), [&cx](const_tensor<B> dy) { return const_tensor<B>(ops::sum(cx, dy, dy)); }};
  });
  std::vector<index_t> visited;
  const const_tensor<B> dx = pullback(y, [&](index_t i, const auto& step, const_tensor<B> dy) {
    visited.push_back(i);
    return i == 1 ? const_tensor<B>{} : step(dy);
  });
  CHECK_FALSE(dx);
  CHECK(visited == std::vector<index_t>{3, 2, 1});
}

TEST_CASE("recompute works in an arena that has to grow while nothing else lives in it") {
  // 2000 x 64 doubles are a megabyte: the first forward pass grows the arena from nothing, within the scope
  // that recompute opens.
  const index_t rows = 2000, width = 64;
  const recompute layer{sequential{linear<B>{width, width}, gelu<B>{}, linear<B>{width, width}}};
  const std::vector<double> x = testing::normal_values(rows * width, 1);
  const auto run = [&](const auto& model, auto& theta, context<B>& cx) {
    const const_tensor<B> outside(x.data(), rows, width);
    auto [y, pullback] = model(cx, theta.weights, outside);
    const auto value = cx.read(const_tensor<B>(y));
    const auto dx = cx.read(const_tensor<B>(pullback(outside, theta.grads)));
    return std::pair{value, dx};
  };
  context<B> plain_cx, cx;
  parameters plain_theta = testing::perturbed(plain_cx, layer.inner);
  parameters theta = testing::perturbed(cx, layer);
  CHECK(run(layer, theta, cx) == run(layer.inner, plain_theta, plain_cx));
}

TEST_CASE("frozen parameters of compositions are left untouched and change nothing else") {
  const testing::packed ragged{3, 1, 2};
  const transformer_block<B> block(6, 2, true, 7);
  CHECK(testing::frozen_parameters_stay_untouched(sequential{linear<B>{5, 7}, gelu<B>{}, linear<B>{7, 5}}, 4,
                                                  5));
  CHECK(testing::frozen_parameters_stay_untouched(stack{2, block}, ragged.rows(), 6, ragged.view<B>()));
  CHECK(testing::frozen_parameters_stay_untouched(stack{2, recompute{block}}, ragged.rows(), 6,
                                                  ragged.view<B>()));
}
