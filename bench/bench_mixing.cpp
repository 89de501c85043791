/// Label mixing, forward and pullback, beside the dense products that it cannot do without.
///
///     bench_mixing [--benchmark_filter=...]
///
/// Shapes are (sentences, labels, width). `mixing` is label_mixture with its default policy: softmax, e = w E, dE += w^T de, dw = de E^T and
/// the softmax's pullback. `products` are the three products alone, by the same backend. The bar: mixing at most 1.25 times products.
/// Counters: FLOP/s of the three products, and bytes/s of what has to be read and written once.
#include <benchmark/benchmark.h>
#include <planlm/cpu.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

struct operands {
  context<B> cx{B::queue{2}};
  label_mixture<B> layer;
  parameters<label_mixture<B>> theta;
  buffer<B> z, de;
  index_t sentences;
  operands(index_t s, index_t k, index_t c)
      : layer{k, c}, theta(cx, layer, philox{1}), z(cx, s * k), de(cx, s * c), sentences(s) {
    for (index_t i = 0; i < z.size(); ++i) z.values()[i] = static_cast<float>(philox{2}.normal(static_cast<std::uint64_t>(i), 0));
    for (index_t i = 0; i < de.size(); ++i) de.values()[i] = static_cast<float>(philox{3}.normal(static_cast<std::uint64_t>(i), 0));
  }
  const_tensor<B> logits() const { return {z.values().data, sentences, layer.labels}; }
  const_tensor<B> gradient() const { return {de.values().data, sentences, layer.width}; }
};

void count(benchmark::State& state, const operands& o) {
  const double s = double(o.sentences), k = double(o.layer.labels), c = double(o.layer.width);
  state.counters["FLOP/s"] = benchmark::Counter(6 * s * k * c, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["bytes/s"] = benchmark::Counter(4 * (2 * s * k + 2 * s * c + 3 * k * c), benchmark::Counter::kIsIterationInvariantRate);
}

void mixing(benchmark::State& state) {
  operands o(state.range(0), state.range(1), state.range(2));
  for (auto _ : state) {
    auto scope = o.cx.scope();
    auto [e, pullback] = o.layer(o.cx, o.theta.weights, o.logits());
    benchmark::DoNotOptimize(pullback(o.gradient(), o.theta.grads).data);
    benchmark::DoNotOptimize(e.data);
  }
  count(state, o);
}
void products(benchmark::State& state) {
  operands o(state.range(0), state.range(1), state.range(2));
  const const_tensor<B> table = o.theta.weights.table;
  for (auto _ : state) {
    auto scope = o.cx.scope();
    benchmark::DoNotOptimize(ops::matmul(o.cx, o.logits(), table).data);
    ops::matmul_tn_add(o.cx, o.logits(), o.gradient(), o.theta.grads.table);
    benchmark::DoNotOptimize(ops::matmul_nt(o.cx, o.gradient(), table).data);
  }
  count(state, o);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->Args({64, 64, 64})->Args({512, 1024, 768})->Args({4096, 4096, 768})->UseRealTime();
}
BENCHMARK(mixing)->Apply(shapes);
BENCHMARK(products)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
