/// GFlowNet losses of a language model's policy with their gradients: modified sub-trajectory balance, trajectory balance, VarGrad.
///
///     bench_losses [--threads=N] [--benchmark_filter=...]
///
/// Arguments are batch, length: every row has `length` actions, so no padding is skipped. Inputs are the hashed arrays of
/// bench/peers/sub_trajectory_balance.py, which does the same work in PyTorch; the counters `loss` and `gradient` (its Euclidean norm)
/// have to agree with what that prints. The bars: batch 64 x 512 in a twentieth of PyTorch's time; time growing with at most the 1.15th
/// power of the length from 64 to 4096.
#include <benchmark/benchmark.h>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>
#include <planlm/cpu.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/objectives/policy_trajectory_balance.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

int threads = 2;

std::vector<float> hashed(index_t count, std::uint32_t number, double scale, double offset) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (std::uint32_t i = 0; i < v.size(); ++i) {
    std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
    h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
    v[i] = static_cast<float>(offset + (double(h) / 4294967296.0 - 0.5) * scale);
  }
  return v;
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
  double norm = 0;
  for (const float g : o.cx.read(l.dtaken)) norm += double(g) * double(g);
  state.counters["loss"] = double(o.cx.read_one(l.total));
  state.counters["gradient"] = std::sqrt(norm);
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

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i)
    if (std::strncmp(argv[i], "--threads=", 10) == 0) threads = std::atoi(argv[i] + 10);
  benchmark::RunSpecifiedBenchmarks();
}
