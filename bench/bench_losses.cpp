/// Losses with their gradients: modified sub-trajectory balance, trajectory balance and VarGrad of a language model's policy; lists of
/// preferences; weighted tokens.
///
///     bench_losses [--threads=N] [--benchmark_filter=...]
///
/// Arguments of the first three are batch, length: every row has `length` actions, so no padding is skipped. Inputs are the hashed arrays of
/// bench/peers/sub_trajectory_balance.py, which does the same work in PyTorch; the counters `loss` and `gradient` (its Euclidean norm)
/// have to agree with what that prints. The bars: batch 64 x 512 in a twentieth of PyTorch's time; time growing with at most the 1.15th
/// power of the length from 64 to 4096.
///
/// listwise_preference: arguments are lists, places in each; generations of 4 to 128 tokens, from token logits to their gradient.
/// token_objective: arguments are rows, width, vocabulary; sum of w nll - h H from hidden states and table to the gradients of both.
/// Their peer is bench/peers/preference.py, which compares `loss`, `gradient` and `table_gradient` with its own.
#include <algorithm>
#include <benchmark/benchmark.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#include <planlm/cpu.hpp>
#include <planlm/objectives/listwise_preference.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/objectives/policy_trajectory_balance.hpp>
#include <planlm/ops/token_objective.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

int threads = 2;

std::uint32_t hash(std::uint32_t i, std::uint32_t number) {
  std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
  h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
  return h;
}
std::vector<float> hashed(index_t count, std::uint32_t number, double scale, double offset) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (std::uint32_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>(offset + (double(hash(i, number)) / 4294967296.0 - 0.5) * scale);
  return v;
}
double norm(const std::vector<float>& v) {
  double sum = 0;
  for (const float g : v) sum += double(g) * double(g);
  return std::sqrt(sum);
}

struct rollouts {
  context<B> cx{B::queue{threads}};
  index_t rows, length;
  std::vector<float> taken, stop, reward, flow{3.5f};
  std::vector<int> lengths;
  rollouts(index_t b, index_t n)
      : rows(b), length(n), taken(hashed(b * n, 1200, 8, -4)), stop(hashed(b * (n + 1), 1201, 8, -4)),
        reward(hashed(b * (n + 1), 1202, 20, -20)), lengths(static_cast<std::size_t>(b), static_cast<int>(n)) {}
  policy_terms<B> terms() const {
    return {{taken.data(), rows, length}, {stop.data(), rows, length + 1}, {reward.data(), rows, length + 1}, {lengths.data(), rows}};
  }
  const_accum_tensor<B> log_z() const { return {flow.data(), 1}; }
};

template <class Loss>
void measure(benchmark::State& state, const Loss& loss) {
  rollouts o(state.range(0), state.range(1));
  for (auto _ : state) {
    auto scope = o.cx.scope();
    benchmark::DoNotOptimize(loss(o.cx, o.terms(), o.log_z()).dtaken.data);
  }
  auto scope = o.cx.scope();
  const auto l = loss(o.cx, o.terms(), o.log_z());
  state.counters["loss"] = double(o.cx.read_one(l.total));
  state.counters["gradient"] = norm(o.cx.read(l.dtaken));
  state.counters["actions/s"] = benchmark::Counter(double(o.rows * o.length), benchmark::Counter::kIsIterationInvariantRate);
}

void sub_trajectory_balance(benchmark::State& state) {
  measure(state, modified_sub_trajectory_balance{1, root_anchor::stop_probability});
}
void sub_trajectory_balance_anchored(benchmark::State& state) {
  measure(state, modified_sub_trajectory_balance{1, root_anchor::batch_mean});
}
void trajectory_balance(benchmark::State& state) { measure(state, policy_trajectory_balance<>{}); }
void vargrad(benchmark::State& state) { measure(state, policy_log_partition_variance{}); }

void shapes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t length : {8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) b->Args({64, length});
  b->UseRealTime()->Unit(benchmark::kMicrosecond);
}
BENCHMARK(sub_trajectory_balance)->Apply(shapes);
BENCHMARK(sub_trajectory_balance_anchored)->Apply(shapes);
BENCHMARK(trajectory_balance)->Apply(shapes);
BENCHMARK(vargrad)->Apply(shapes);

/// Element t of generation s is number 128 s + t of the array of logits, whatever the lengths.
struct generations {
  static constexpr index_t longest = 128;
  context<B> cx{B::queue{threads}};
  std::vector<int> first, length, offsets;
  std::vector<float> z;
  std::vector<double> score;
  generations(index_t lists, index_t places) {
    const index_t count = lists * places;
    const std::vector<float> all = hashed(count * longest, 1210, 4, 0), scores = hashed(count, 1212, 2, 0);
    score.assign(scores.begin(), scores.end());
    for (index_t l = 0; l <= lists; ++l) offsets.push_back(static_cast<int>(l * places));
    for (index_t s = 0; s < count; ++s) {
      first.push_back(static_cast<int>(z.size()));
      length.push_back(4 + static_cast<int>(hash(static_cast<std::uint32_t>(s), 1211) % 125));
      z.insert(z.end(), all.begin() + s * longest, all.begin() + s * longest + length.back());
    }
  }
  view<const float, 1> logits() const { return {z.data(), z.size()}; }
  preference_lists<B> lists() const {
    return {{first.data(), first.size()}, {length.data(), length.size()}, {offsets.data(), offsets.size()}, {score.data(), score.size()}};
  }
};

template <class Aggregation>
void listwise(benchmark::State& state, const Aggregation& aggregate) {
  generations o(state.range(0), state.range(1));
  const listwise_preference<soft_clipped_reward, Aggregation> loss{{}, aggregate};
  for (auto _ : state) {
    auto scope = o.cx.scope();
    benchmark::DoNotOptimize(loss(o.cx, o.logits(), o.lists()).dz.data);
  }
  auto scope = o.cx.scope();
  const auto l = loss(o.cx, o.logits(), o.lists());
  state.counters["loss"] = double(o.cx.read_one(l.total));
  state.counters["gradient"] = norm(o.cx.read(l.dz));
  state.counters["tokens/s"] = benchmark::Counter(double(o.z.size()), benchmark::Counter::kIsIterationInvariantRate);
}
void listwise_preference_average(benchmark::State& state) { listwise(state, aggregation::average{}); }
void listwise_preference_soft_min(benchmark::State& state) { listwise(state, aggregation::soft_min{}); }
BENCHMARK(listwise_preference_average)->Args({32, 5})->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(listwise_preference_soft_min)->Args({32, 5})->UseRealTime()->Unit(benchmark::kMicrosecond);

void token_objective(benchmark::State& state) {
  const index_t rows = state.range(0), width = state.range(1), vocabulary = state.range(2);
  context<B> cx{B::queue{threads}};
  const std::vector<float> hidden = hashed(rows * width, 1220, 2, 0), table = hashed(vocabulary * width, 1221, 0.5, 0);
  std::vector<float> likelihood = hashed(rows, 1222, 1, 0.7), entropy = hashed(rows, 1223, 0.1, 0.125);
  std::vector<int> token(static_cast<std::size_t>(rows));
  for (std::uint32_t r = 0; r < token.size(); ++r) {
    token[r] = static_cast<int>(hash(r, 1224) % static_cast<std::uint32_t>(vocabulary));
    likelihood[r] /= float(rows), entropy[r] /= float(rows);
  }
  std::vector<float> dtable(table.size());
  const auto run = [&] {
    return ops::linear_token_objective<B>(cx, {hidden.data(), rows, width}, {table.data(), vocabulary, width}, {token.data(), rows},
                                          {.likelihood = {likelihood.data(), rows}, .entropy = {entropy.data(), rows}},
                                          {dtable.data(), vocabulary, width});
  };
  for (auto _ : state) {
    auto scope = cx.scope();
    benchmark::DoNotOptimize(run().gradient.data);
  }
  std::fill(dtable.begin(), dtable.end(), 0.f);
  auto scope = cx.scope();
  const auto l = run();
  state.counters["loss"] = double(cx.read_one(l.total));
  state.counters["gradient"] = norm(cx.read(l.gradient));
  state.counters["table_gradient"] = norm(dtable);
  state.counters["arena_bytes"] = double(cx.memory().peak_bytes());
  state.counters["FLOP/s"] = benchmark::Counter(6.0 * double(rows) * double(width) * double(vocabulary),
                                                benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(token_objective)->Args({2048, 256, 8192})->Args({512, 768, 50257})->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i)
    if (std::strncmp(argv[i], "--threads=", 10) == 0) threads = std::atoi(argv[i] + 10);
  benchmark::RunSpecifiedBenchmarks();
}
