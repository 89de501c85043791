/// Layers with their pullbacks: norms, MLP, block, linear + cross-entropy, the injection of plans, segment sums.
///
///     bench_layers [--threads=N] [--benchmark_filter=...]
///
/// Sizes are C, the width: 128, 256, 768. Every case starts from its input x (N, C) and the gradient dy (N, C) of its output, and makes the
/// gradients of x and of all parameters.
///
/// | case | what |
/// | --- | --- |
/// | layer_norm, rms_norm | 4096 rows |
/// | mlp | 1024 rows, inner width 4 C, tanh GELU |
/// | block | two causal sequences of 512: GPT-2's block, heads of 64, inner width 4 C |
/// | linear_cross_entropy/V... | 2048 rows of width 768, vocabulary V: the mean loss, gradients of rows and table |
/// | injection | 256 plans of width C -> adapter C x C with bias -> added to the 4096 rows of their sentences |
/// | segment_sum | 4096 rows to 256 sums; the pullback gives each row the gradient of its sum |
///
/// Row r belongs to sentence r * 256 / 4096, rounded down. Arrays: x is number 1310 with scale 4, dy 1311 with scale 2; parameters are
/// 1320, 1321, ... in the order in which layers name them: weights have scale 0.07, everything else 0.2, scales of norms lie about 1. Loss:
/// hidden 1340 with scale 2, table 1341 with scale 0.5, target h of 1342 modulo V. Plans are 1343 with scale 2.
/// Checks: `loss` is the loss, or <y, dy>; `norm` the geometric mean of the norms of all gradients that the case makes, so that a wrong one
/// shows however small it is. bench/peers/layers.py does the same in PyTorch.
#include "work.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/layers/mlp.hpp>
#include <planlm/layers/norm.hpp>
#include <planlm/layers/transformer_block.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/planning/plan_adapter.hpp>
#include <planlm/training/parameters.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

std::span<const float> values(const_tensor<B> x) { return {x.data, static_cast<std::size_t>(x.size())}; }

/// Parameters by the formula, and their gradients for the check.
template <class L>
struct filled_parameters : parameters<L> {
  filled_parameters(context<B>& cx, const L& layer) : parameters<L>(cx, layer, philox{1}) {
    std::uint32_t number = 1320;
    for (std::size_t n = 0; n < this->slots().size(); ++n) {
      const parameter_spec& spec = this->slots()[n].spec;
      const bool weight = spec.name == "w" || spec.name.ends_with(".w");
      this->write(cx, n, bench::hashed(spec.size(), number++, weight ? 0.07 : 0.2, spec.name.ends_with("scale") ? 1 : 0));
    }
  }
  void add_gradients(std::vector<std::span<const float>>& to) const {
    for (const parameter_slot& s : this->slots())
      to.emplace_back(this->flat_grads().data + s.offset, static_cast<std::size_t>(s.spec.size()));
  }
};

struct costs {
  double flops, bytes;
};
costs cost(const layer_norm<B>& l, double n) { return {21 * n * double(l.width), 4 * (5 * n * double(l.width) + 5 * double(l.width))}; }
costs cost(const rms_norm<B>& l, double n) { return {16 * n * double(l.width), 4 * (5 * n * double(l.width) + 3 * double(l.width))}; }
costs cost(const mlp<B>& l, double n) {
  const double weights = 2 * double(l.width) * double(l.inner);
  return {6 * n * weights, 4 * (4 * n * double(l.width) + 4 * weights)};
}
constexpr index_t block_length = 512;
costs cost(const transformer_block<B>& l, double n) {
  const double c = double(l.width), weights = 12 * c * c, pairs = n * double(block_length + 1) / 2;
  return {6 * n * weights + 14 * c * pairs, 4 * (4 * n * c + 4 * weights)};
}

/// x (N, C) -> y (N, C), then back.
template <class L>
struct of_rows final : bench::work {
  context<B> cx;
  L layer;
  filled_parameters<L> theta;
  index_t rows;
  std::vector<int> offsets, positions;
  std::vector<float> x, dy;

  of_rows(int threads, const L& with, index_t n)
      : cx(B::queue{threads}), layer(with), theta(cx, layer), rows(n), x(bench::hashed(n * with.width, 1310, 4)),
        dy(bench::hashed(n * with.width, 1311, 2)) {
    for (index_t at = 0; at <= n; at += block_length) offsets.push_back(static_cast<int>(at));
    for (index_t r = 0; r < n; ++r) positions.push_back(static_cast<int>(r % block_length));
    gradients_made = double(x.size() * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    theta.zero_grads(cx);
    const sequences<B> all{{offsets.data(), offsets.size()}, offsets.data(), {positions.data(), positions.size()}};
    auto [y, pullback] = call_layer(layer, cx, theta.weights, const_tensor<B>{x.data(), rows, layer.width}, all);
    const const_tensor<B> dx = pullback(const_tensor<B>{dy.data(), rows, layer.width}, theta.grads);
    benchmark::DoNotOptimize(y.data);
    benchmark::DoNotOptimize(dx.data);
    if (!say) return;
    std::vector<std::span<const float>> gradients{values(dx)};
    theta.add_gradients(gradients);
    const auto [flops, bytes] = cost(layer, double(rows));
    *say = {.flops = flops, .bytes = bytes, .checks = {{"loss", bench::dot(values(y), dy)}, {"norm", bench::mean_norm(gradients)}}};
  }
};

struct linear_cross_entropy final : bench::work {
  static constexpr index_t rows = 2048, width = 768;
  context<B> cx;
  index_t vocabulary;
  std::vector<float> hidden, table, dtable;
  std::vector<int> target;

  linear_cross_entropy(int threads, index_t v)
      : cx(B::queue{threads}), vocabulary(v), hidden(bench::hashed(rows * width, 1340, 2)), table(bench::hashed(v * width, 1341, 0.5)),
        dtable(table.size(), 1.f) {
    for (std::uint32_t r = 0; r < rows; ++r) target.push_back(static_cast<int>(bench::hash(r, 1342) % static_cast<std::uint32_t>(v)));
    gradients_made = double(hidden.size() * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    const tensor<B> dt{dtable.data(), vocabulary, width};
    B::zero(cx.queue(), dt.data, dtable.size() * sizeof(float));
    const auto loss = ops::linear_cross_entropy<B>(cx, {hidden.data(), rows, width}, {table.data(), vocabulary, width},
                                                   {target.data(), target.size()}, {}, 1.f / rows, dt);
    benchmark::DoNotOptimize(loss.dhidden.data);
    if (!say) return;
    const double n = rows, c = width, v = double(vocabulary);
    *say = {.flops = 6 * n * v * c,
            .bytes = 4 * (2 * n * c + 3 * v * c),
            .checks = {{"loss", double(cx.read_one(loss.total))}, {"norm", bench::mean_norm({values(loss.dhidden), dtable})}}};
  }
};

/// 4096 rows in 256 sentences.
struct sentence_rows {
  static constexpr index_t rows = 4096, sentences = 256;
  index_t width;
  std::vector<int> sentence;
  std::vector<float> x;
  explicit sentence_rows(index_t c) : width(c), x(bench::hashed(rows * c, 1310, 4)) {
    for (index_t r = 0; r < rows; ++r) sentence.push_back(static_cast<int>(r * sentences / rows));
  }
  const_tensor<B> input() const { return {x.data(), rows, width}; }
  indices<B> of_rows() const { return {sentence.data(), sentence.size()}; }
};

struct injection final : bench::work {
  context<B> cx;
  sentence_rows data;
  plan_adapter<B> adapter;
  filled_parameters<plan_adapter<B>> theta;
  std::vector<float> plans, dy;

  injection(int threads, index_t c)
      : cx(B::queue{threads}), data(c), adapter{c, c}, theta(cx, adapter), plans(bench::hashed(data.sentences * c, 1343, 2)),
        dy(bench::hashed(data.rows * c, 1311, 2)) {
    gradients_made = double((data.x.size() + plans.size()) * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    theta.zero_grads(cx);
    const index_t s = data.sentences, c = data.width;
    auto [u, adapter_pullback] = adapter(cx, theta.weights, const_tensor<B>{plans.data(), s, c});
    auto [y, pullback] = adapter.injection(theta.weights, u, data.of_rows(), {})(cx, data.input());
    const tensor<B> du = cx.make_zero(s, c), dplans = cx.make(s, c);
    const const_tensor<B> dx = pullback(const_tensor<B>{dy.data(), data.rows, c}, du);
    adapter_pullback(const_tensor<B>(du), theta.grads, dplans, into::replace);
    benchmark::DoNotOptimize(y.data);
    benchmark::DoNotOptimize(dplans.data);
    if (!say) return;
    std::vector<std::span<const float>> gradients{values(dx), values(dplans)};
    theta.add_gradients(gradients);
    const double n = double(data.rows), rows = double(s), width = double(c);
    *say = {.flops = 6 * rows * width * width + 2 * n * width,
            .bytes = 4 * (3 * n * width + 3 * rows * width + 4 * width * width),
            .checks = {{"loss", bench::dot(values(y), dy)}, {"norm", bench::mean_norm(gradients)}}};
  }
};

struct segment_sum final : bench::work {
  context<B> cx;
  sentence_rows data;
  std::vector<float> dy;

  segment_sum(int threads, index_t c) : cx(B::queue{threads}), data(c), dy(bench::hashed(data.sentences * c, 1311, 2)) {
    gradients_made = double(data.x.size() * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    const tensor<B> y = ops::segment_sum(cx, data.input(), data.of_rows(), data.sentences);
    const tensor<B> dx = ops::gather_rows(cx, const_tensor<B>{dy.data(), data.sentences, data.width}, data.of_rows());
    benchmark::DoNotOptimize(y.data);
    benchmark::DoNotOptimize(dx.data);
    if (!say) return;
    const double n = double(data.rows), s = double(data.sentences), c = double(data.width);
    *say = {.flops = n * c,
            .bytes = 4 * (2 * n * c + 2 * s * c),
            .checks = {{"loss", bench::dot(values(y), dy)}, {"norm", bench::norm(values(dx))}}};
  }
};

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [](int threads) {
    bench::works all(threads);
    for (const index_t c : {128, 256, 768}) {
      const std::string size = "/C" + std::to_string(c);
      all.add<of_rows<layer_norm<B>>>("layer_norm" + size, layer_norm<B>{c}, index_t{4096});
      all.add<of_rows<rms_norm<B>>>("rms_norm" + size, rms_norm<B>{c}, index_t{4096});
      all.add<of_rows<mlp<B>>>("mlp" + size, mlp<B>{c, 4 * c}, index_t{1024});
      all.add<of_rows<transformer_block<B>>>("block" + size, transformer_block<B>(c, c / 64, true, 4 * c), index_t{1024});
      all.add<injection>("injection" + size, c);
      all.add<segment_sum>("segment_sum" + size, c);
    }
    for (const index_t v : {4096, 8192, 16384, 50257}) all.add<linear_cross_entropy>("linear_cross_entropy/V" + std::to_string(v), v);
  });
}
