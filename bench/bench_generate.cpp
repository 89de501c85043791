/// Rollouts of a language model from a short prompt: tokens per second, with log q(token) and log q(stop) of
/// every step.
///
///     bench_generate [--benchmark_filter=...] [--benchmark_repetitions=7]
///
/// Two layers of width 128, four heads, 4096 tokens; prompts of eight tokens, 128 new ones each, the stop
/// masked. Arguments: rows at once, threads. `sampling` draws, `replay` takes what was drawn. The same work
/// in PyTorch: bench/peers/generate.py.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include <benchmark/benchmark.h>
#include <planlm/cpu.hpp>

#include <planlm/models/rollout.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;
using model_type = transformer_lm<B>;

constexpr index_t new_tokens = 128;

struct generation {
  context<B> cx;
  model_type model{{.vocabulary = 4096, .length = 256, .width = 128, .heads = 4, .layers = 2}};
  parameters<model_type> theta;
  rollout_sampler<model_type> sampler;
  std::vector<std::vector<int>> prompts;
  rollout_rule rule{.stop = 13, .shortest = new_tokens, .longest = new_tokens};

  explicit generation(const benchmark::State& state)
      : cx(B::queue{static_cast<int>(state.range(1))}),
        theta(cx, model, philox{1}),
        sampler(cx, model, theta.weights, state.range(0)) {
    for (int b = 0; b < state.range(0); ++b) prompts.push_back({b, 1, 2, 3, 4, 5, 6, 7});
  }
};

void count(benchmark::State& state) {
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(state.range(0) * new_tokens),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

void sampling(benchmark::State& state) {
  generation g(state);
  std::uint32_t step = 0;
  for (auto _ : state)
    benchmark::DoNotOptimize(g.sampler.sample(g.prompts, g.rule, philox{7}.at_step(step++)).data());
  count(state);
}
void replay(benchmark::State& state) {
  generation g(state);
  const auto z = g.sampler.sample(g.prompts, g.rule, philox{7});
  for (auto _ : state) benchmark::DoNotOptimize(g.sampler.replay(z, g.rule).data());
  count(state);
}

void sizes(benchmark::internal::Benchmark* b) {
  const auto all = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  b->ArgNames({"rows", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const std::int64_t rows : {1, 64}) {
    b->Args({rows, 1});
    if (all > 1) b->Args({rows, all});
  }
}
BENCHMARK(sampling)->Apply(sizes);
BENCHMARK(replay)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
