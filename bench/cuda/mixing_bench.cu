// Label mixing in bfloat16 on the GPU: time of forward and of forward + pullback, its parts, and the floor.
//
//     mixing_bench [S,K,C ...]
//
// One line of JSON per shape and rule. The floor is the larger of the bytes that must move over the bandwidth of a device copy (reads and
// writes counted) and the three products' operations over the rate of cuBLASLt at 8192 x 8192 x 8192, both measured here.
// Times are medians over events around each repetition, in microseconds.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string>
#include <vector>
#include <planlm/backend/cuda/cuda.cuh>
#include <planlm/backend/cuda/mixing.cuh>

namespace {

using namespace planlm;
using B = cuda<bfloat16>;
using matrix = view<const bfloat16, 2, device_memory>;
using target = view<bfloat16, 2, device_memory>;

class timer {
 public:
  explicit timer(cuda_queue& q) : q_(q) {
    cuda_detail::check(cudaEventCreate(&begin_), "cudaEventCreate");
    cuda_detail::check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  double median(const std::function<void()>& work, int runs = 20) {
    for (int i = 0; i < 3; ++i) work();
    std::vector<double> times;
    for (int i = 0; i < runs; ++i) {
      cuda_detail::check(cudaEventRecord(begin_, q_.stream()), "cudaEventRecord");
      work();
      cuda_detail::check(cudaEventRecord(end_, q_.stream()), "cudaEventRecord");
      cuda_detail::check(cudaEventSynchronize(end_), "cudaEventSynchronize");
      float ms = 0;
      cuda_detail::check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime");
      times.push_back(1e3 * ms);
    }
    std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
    return times[runs / 2];
  }
  /// The same for work that is enqueued `count` times between two events: what a repetition costs where launches overlap.
  double steady(const std::function<void()>& work, int count = 10) {
    return median([&] { for (int i = 0; i < count; ++i) work(); }, 5) / count;
  }

 private:
  cuda_queue& q_;
  cudaEvent_t begin_{}, end_{};
};

target made(index_t rows, index_t cols) {
  return {static_cast<bfloat16*>(cuda_detail::allocate(static_cast<std::size_t>(rows * cols) * 2, "a benchmark")), rows, cols};
}
struct fill {
  bfloat16* x;
  std::uint64_t seed;
  float scale;
  PLANLM_HD void operator()(index_t i) const {
    const random_block b = philox{seed}.bits(static_cast<std::uint64_t>(i), 0);
    x[i] = scale * static_cast<float>(unit_interval(b.word[0]) + unit_interval(b.word[1]) + unit_interval(b.word[2]) - 1.5) * 2.0f;  // variance near 1
  }
};
target random(cuda_queue& q, index_t rows, index_t cols, std::uint64_t seed, float scale) {
  const target x = made(rows, cols);
  B::for_each(q, x.size(), fill{x.data, seed, scale});
  return x;
}

struct measured {
  double bytes_per_us, operations_per_us;
};

void shape(cuda_queue& q, timer& t, const measured& machine, index_t S, index_t K, index_t C) {
  const target z = random(q, S, K, 1, 1), table = random(q, K, C, 2, 0.05f), de = random(q, S, C, 3, 1), e = made(S, C), dz = made(S, K),
               dtable = random(q, K, C, 4, 1);
  const double operations = 6.0 * double(S) * double(K) * double(C), bytes = 2.0 * (3.0 * S * K + 2.0 * S * C + 4.0 * K * C);
  const double by_bytes = bytes / machine.bytes_per_us, by_operations = operations / machine.operations_per_us, floor = std::max(by_bytes, by_operations);
  const philox noise{1, 2, 3};
  const struct {
    const char* name;
    mixing_rule rule;
  } rules[] = {{"mixture", {}},
               {"gumbel", {.noise = 1, .random = noise}},
               {"top_5", {.taken = 5}},
               {"straight_through", {.discrete = true}},
               {"hard", {.discrete = true, .differentiable = false}}};
  void* kept = cuda_detail::allocate(static_cast<std::size_t>(S * K) * 2 + static_cast<std::size_t>(S) * 64, "a benchmark");
  for (const auto& r : rules) {
    const auto forward = [&] { cuda_detail::mixing::mix<B, bfloat16>(q, r.rule, matrix(z), matrix(table), e, kept); };
    const auto both = [&] {
      forward();
      cuda_detail::mixing::mix_pullback<B, bfloat16>(q, r.rule, matrix(z), matrix(table), matrix(e), kept, matrix(de), r.rule.differentiable ? dz : target{}, dtable);
    };
    const double f = t.median(forward), b = t.median(both), s = t.steady(both);
    std::printf("{\"what\":\"mixing\",\"rule\":\"%s\",\"sentences\":%lld,\"labels\":%lld,\"width\":%lld,\"forward_us\":%.1f,\"forward_backward_us\":%.1f,"
                "\"steady_us\":%.1f,\"dense_floor_us\":%.1f,\"floor_by_bytes_us\":%.1f,\"fraction_of_floor\":%.3f}\n",
                r.name, (long long)S, (long long)K, (long long)C, f, b, s, floor, by_bytes, floor / b);
    std::fflush(stdout);
  }
  // The parts of the dense rule.
  auto* w = static_cast<bfloat16*>(kept);
  const target weights(w, S, K);
  auto* dots = static_cast<float*>(cuda_detail::allocate(static_cast<std::size_t>(S) * 4, "a benchmark"));
  const cuda_detail::mixing::logit_rule logits = cuda_detail::mixing::logits_of({});
  const auto part = [&](const char* name, double least, const std::function<void()>& work) {
    const double us = t.median(work);
    std::printf("{\"what\":\"part\",\"part\":\"%s\",\"sentences\":%lld,\"labels\":%lld,\"width\":%lld,\"us\":%.1f,\"steady_us\":%.1f,\"floor_us\":%.1f}\n", name,
                (long long)S, (long long)K, (long long)C, us, t.steady(work), least);
    std::fflush(stdout);
  };
  const double rows = 2.0 * S * K / machine.bytes_per_us;
  part("weights", 2 * rows, [&] { cuda_detail::mixing::mixing_weights(q, logits, z.data, w, S, K); });
  part("e = w E", by_operations / 3, [&] { B::gemm(q, 1, plain(matrix(weights)), plain(matrix(table)), plain(e), into::replace); });
  part("dE += w^T de", by_operations / 3, [&] { B::gemm(q, 1, transposed(matrix(weights)), plain(matrix(de)), plain(dtable), into::add); });
  part("dw = de E^T", by_operations / 3, [&] { B::gemm(q, 1, plain(matrix(de)), transposed(matrix(table)), plain(dz), into::replace); });
  part("weights pullback", 3 * rows, [&] { cuda_detail::mixing::mixing_weights_pullback(q, logits, false, static_cast<const bfloat16*>(w), dz.data, S, K); });
  part("row dots", 4.0 * S * C / machine.bytes_per_us, [&] { cuda_detail::mixing::row_dots<bfloat16>(q, de.data, e.data, dots, S, C); });
  if (cuda_detail::mixing::has_logit_gradient(q, S, K, C)) {
    part("dz as an epilogue", by_operations / 3, [&] { cuda_detail::mixing::logit_gradient(q, de.data, table.data, w, dots, dz.data, S, K, C, 1); });
  }
  for (void* p : {(void*)z.data, (void*)table.data, (void*)de.data, (void*)e.data, (void*)dz.data, (void*)dtable.data, kept, (void*)dots}) cuda_detail::release(p);
}

measured machine(cuda_queue& q, timer& t) {
  const index_t half = index_t{1} << 30;
  const target a = made(1 << 15, 1 << 14), b = made(1 << 15, 1 << 14);
  const double copy = t.median([&] { B::copy(q, b.data, a.data, static_cast<std::size_t>(half)); }, 11);
  const index_t n = 8192;
  B::for_each(q, 2 * n * n, fill{a.data, 9, 1});
  const target c(b.data, n, n);
  const double product = t.median([&] { B::gemm(q, 1, plain(matrix(a.data, n, n)), plain(matrix(a.data + n * n, n, n)), plain(c), into::replace); }, 21);
  cuda_detail::release(a.data), cuda_detail::release(b.data);
  const measured m{2.0 * double(half) / copy, 2.0 * std::pow(double(n), 3) / product};
  cudaDeviceProp device{};
  cuda_detail::check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  std::printf("{\"what\":\"machine\",\"device\":\"%s\",\"copy_TB_per_s\":%.3f,\"bf16_TFLOP_per_s\":%.1f}\n", device.name, m.bytes_per_us * 1e-6,
              m.operations_per_us * 1e-6);
  std::fflush(stdout);
  return m;
}

}  // namespace

int main(int n, char** word) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("SKIPPED: there is no GPU");
    return 77;
  }
  try {
    cuda_queue q;
    timer t(q);
    const measured m = machine(q, t);
    std::vector<std::string> shapes(word + 1, word + n);
    if (shapes.empty()) shapes = {"4096,1024,768", "16384,1024,2048", "65536,4096,768"};
    for (const std::string& s : shapes) {
      long long S = 0, K = 0, C = 0;
      if (std::sscanf(s.c_str(), "%lld,%lld,%lld", &S, &K, &C) != 3 || S < 1 || K < 1 || C < 1) {
        std::fprintf(stderr, "mixing_bench: a shape is sentences,labels,width, not '%s'\n", s.c_str());
        return 2;
      }
      shape(q, t, m, S, K, C);
    }
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "mixing_bench: %s\n", e.what());
    return 1;
  }
}
