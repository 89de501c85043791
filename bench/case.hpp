/// What the programs of bench/ say about a case, in the words that scripts/bench reads.
///
/// A program bench_NAME has cases "CASE/SIZE"; in bench/cases.json they are NAME/CASE/SIZE. It takes --threads=N beside the flags of Google
/// Benchmark. Counters of a case: `flops_per_second`, `bytes_per_second`; `of_gemm` and `of_copy`, the fractions of this machine's ceilings,
/// where scripts/bench has handed them on; check numbers (`loss`, `norm`), the same whatever the number of iterations, which the peer has to
/// reproduce to 1e-4 of themselves; `process_bytes`, `peak_bytes` and `own_bytes` of resident memory. A label (state.SetLabel) goes into the table: other
/// products than the default's, say.
///
///     int main(int argc, char** argv) {
///       return bench::run(argc, argv, [](int threads) {
///         bench::add("full/K64", [=](benchmark::State& state) {
///           bench::resident_memory memory;        // before anything is made
///           operands o(threads, ...);
///           memory.inputs_are_made();             // inputs, parameters and gradients are there
///           for (auto _ : state) o.step();
///           bench::report(state, {.flops = 6 * s * k * c, .bytes = ..., .checks = {{"loss", o.loss()}, {"norm", o.norm()}}, .memory = &memory});
///         });
///       });
///     }
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>
#include <benchmark/benchmark.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace bench {

/// A line of /proc/self/status in bytes; 0 where there is none.
inline double status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field + ":")) return std::atof(line.c_str() + field.size() + 1) * 1024;
  return 0;
}

/// How far resident memory rose above what the program held when this was made. Counted by pages, so small cases say little; and only in a
/// process that runs one case once (--benchmark_filter, --benchmark_min_time=0.000001), because freed memory is kept by the allocator.
class resident_memory {
 public:
  resident_memory() : begin_(forget_peak()), inputs_(begin_) {}
  /// From here on the peak counts: not what was needed to make the inputs.
  void inputs_are_made() {
    inputs_ = forget_peak();
  }
  /// Of the whole process: what has to be there for the program to run.
  double process_bytes() const { return status_bytes("VmHWM"); }
  /// Beyond the beginning: inputs, parameters, gradients and temporaries.
  double peak_bytes() const { return std::max(0.0, status_bytes("VmHWM") - begin_); }
  /// Beyond inputs, parameters and gradients.
  double own_bytes() const { return std::max(0.0, status_bytes("VmHWM") - inputs_); }

 private:
  /// Gives freed memory back to the system, as the peers do, and lets the peak begin anew; returns what is resident.
  static double forget_peak() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
    std::ofstream("/proc/self/clear_refs") << 5;
    return status_bytes("VmRSS");
  }
  double begin_, inputs_;
};

struct figures {
  double flops = 0, bytes = 0;  // of one iteration: what has to be computed, and read and written at least; 0: not given
  std::vector<std::pair<std::string, double>> checks{};
  const resident_memory* memory = nullptr;
};

/// What scripts/bench measured by bench_machine, or 0.
inline double ceiling(const char* variable) {
  const char* text = std::getenv(variable);
  return text ? std::atof(text) : 0;
}

inline void report(benchmark::State& state, const figures& f) {
  const auto rate = [&](const char* name, double amount) {
    if (amount > 0) state.counters[name] = benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
  };
  rate("flops_per_second", f.flops);
  rate("bytes_per_second", f.bytes);
  if (const double most = ceiling("PLANLM_GEMM_FLOPS_PER_SECOND"); most > 0) rate("of_gemm", f.flops / most);
  if (const double most = ceiling("PLANLM_COPY_BYTES_PER_SECOND"); most > 0) rate("of_copy", f.bytes / most);
  for (const auto& [name, value] : f.checks) state.counters[name] = value;
  if (f.memory) {
    state.counters["process_bytes"] = f.memory->process_bytes();
    state.counters["peak_bytes"] = f.memory->peak_bytes();
    state.counters["own_bytes"] = f.memory->own_bytes();
  }
}

/// A case by its name "CASE/SIZE", timed by the clock on the wall.
template <class F>
benchmark::internal::Benchmark* add(const std::string& name, F&& work) {
  return benchmark::RegisterBenchmark(name.c_str(), std::forward<F>(work))->UseRealTime()->Unit(benchmark::kMillisecond);
}

/// A program: `cases(threads)` adds them. Its exit status is 2 for a flag that neither it nor Google Benchmark knows.
template <class F>
int run(int argc, char** argv, const F& cases) {
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--threads=", 10) == 0)
      threads = std::max(1, std::atoi(argv[i] + 10));
    else
      argv[kept++] = argv[i];
  }
  argc = kept;
  cases(threads);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace bench
