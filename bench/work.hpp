/// A case as an object: what it works on, one step of it, and what it says about that step. Inputs by the formula of bench/peers/README.md.
///
///     struct heads final : bench::work {
///       explicit heads(int threads, index_t length);                  // inputs, parameters and gradients, touched
///       void step(bench::figures* say) override;                      // `say`: fill it in, checks included; else nothing but the step
///     };
///     bench::works all(threads);
///     all.add<heads>("causal/T512", 512);
///
/// A step makes its gradients anew, as autograd does: what the library adds to is set to zero within the step, and that is timed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "case.hpp"

namespace bench {

/// Element i of array `number`: h of bench/peers/README.md.
inline std::uint32_t hash(std::uint32_t i, std::uint32_t number) {
  std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
  h ^= h >> 15, h *= 2246822519u;
  return h ^ (h >> 13);
}
inline std::vector<float> hashed(std::ptrdiff_t count, std::uint32_t number, double scale, double offset = 0) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (std::uint32_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(offset + (hash(i, number) / 4294967296.0 - 0.5) * scale);
  return v;
}

inline double dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}
inline double norm(std::span<const float> v) { return std::sqrt(dot(v, v)); }
/// The geometric mean of the norms of several gradients: a wrong one shows however small it is beside the others.
inline double mean_norm(const std::vector<std::span<const float>>& gradients) {
  double sum = 0;
  for (const auto& g : gradients) sum += std::log(norm(g));
  return std::exp(sum / double(gradients.size()));
}

class work {
 public:
  work() = default;
  work(const work&) = delete;
  work& operator=(const work&) = delete;
  virtual ~work() = default;
  virtual void step(figures* say) = 0;
  /// Bytes of gradients that the step itself makes; they count as gradients, not as the step's own memory.
  double gradients_made = 0;
};

/// The cases of a program. One is held at a time: Google Benchmark calls a case several times, and inputs of hundreds of megabytes are made
/// once for all of these. The first step, which is not timed, warms up and gives the check numbers.
class works {
 public:
  explicit works(int threads) : threads_(threads), now_(std::make_shared<held>()) {}

  template <class Work, class... Sizes>
  void add(const std::string& name, Sizes... sizes) {
    bench::add(name, [now = now_, threads = threads_, name, sizes...](benchmark::State& state) {
      if (now->name != name) {
        now->made.reset();
        now->name = name;
        now->memory = resident_memory();
        now->made = std::make_unique<Work>(threads, sizes...);
        now->memory.inputs_are_made();
        now->said = {};
        now->made->step(&now->said);
      }
      for (auto _ : state) now->made->step(nullptr);
      now->said.memory = &now->memory;
      report(state, now->said);
      state.counters["own_bytes"] = std::max(0.0, now->memory.own_bytes() - now->made->gradients_made);
    });
  }

 private:
  struct held {
    std::string name;
    resident_memory memory;
    std::unique_ptr<work> made;
    figures said;
  };
  int threads_;
  std::shared_ptr<held> now_;
};

}  // namespace bench
