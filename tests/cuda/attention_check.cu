/// Attention on the GPU against plain loops in double, on ragged packed sequences.
///
///   attention_check            every group
///   attention_check list       the groups
///   attention_check GROUP...   those
/// The groups mma_* call the tensor-core kernels of sm_80 also where the library would take those of sm_90a.
/// One line per case: relative errors of y, lse, dq, dk, dv; whether a second run gave the same bits; PASS or FAIL, and where the first value
/// that is far off lies. For bf16 also `floor`, the error of rounding the reference's y: no kernel can be below it.
/// Outputs and scratch are NaN before each run. Ends with 0, 1 where a case failed, 77 where there is no GPU.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <type_traits>
#include <vector>
#include <cuda_runtime.h>
#include <planlm/backend/cuda/attention.cuh>
#include <planlm/core/philox.hpp>

namespace {

using planlm::accum_of;
using planlm::attention_shape;
using planlm::bfloat16;
using planlm::index_t;
using planlm::cuda_detail::check;

template <class T>
class device_array {
 public:
  explicit device_array(std::size_t count) : count_(count) {
    check(cudaMalloc(&data_, bytes()), "cudaMalloc");
    poison();
  }
  explicit device_array(const std::vector<T>& v) : device_array(v.size()) {
    check(cudaMemcpy(data_, v.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;
  ~device_array() { cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }
  void poison() {
    check(cudaMemset(data_, 0xFF, bytes()), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the queue's stream does not wait for the default stream
  }
  std::vector<T> read() const {
    std::vector<T> v(count_);
    check(cudaMemcpy(v.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return v;
  }

 private:
  std::size_t bytes() const { return count_ * sizeof(T); }
  std::size_t count_;
  void* data_ = nullptr;
};

template <class T>
std::vector<T> normals(std::size_t count, std::uint64_t seed) {
  const planlm::philox random{seed, 0, 4711};
  std::vector<T> v(count);
  for (std::size_t i = 0; i < count; ++i) v[i] = static_cast<T>(static_cast<float>(random.normal(i, 0)));
  return v;
}

struct reference {
  std::vector<double> y, lse, dqkv;
};

/// Eight sums side by side: one alone would wait for itself at every step.
double dot(const double* a, const double* b, index_t n) {
  double part[8] = {};
  index_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) part[k] += a[i + k] * b[i + k];
  for (; i < n; ++i) part[0] += a[i] * b[i];
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}
/// y += w x; they do not overlap.
void add(double* __restrict__ y, double w, const double* __restrict__ x, index_t n) {
  for (index_t i = 0; i < n; ++i) y[i] += w * x[i];
}

/// Forward and pullback of every head of every sequence, row by row.
reference attention_in_double(attention_shape shape, const std::vector<int>& offsets, const std::vector<double>& qkv,
                              const std::vector<double>& dy) {
  const index_t n = offsets.back(), d = shape.width, packed = shape.packed_width(), out = shape.query_width();
  reference r;
  r.y.assign(n * out, 0);
  r.lse.assign(n * shape.heads, 0);
  r.dqkv.assign(n * packed, 0);
  const double scale = 1 / std::sqrt(double(d));
  std::vector<double> p, dp;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (index_t h = 0; h < shape.heads; ++h) {
      const index_t at_k = shape.query_width() + h / (shape.heads / shape.kv_heads) * d, at_v = at_k + shape.kv_width();
      for (index_t i = offsets[s]; i < offsets[s + 1]; ++i) {
        const index_t first = offsets[s], last = shape.causal ? i + 1 : offsets[s + 1];
        const double* q = &qkv[i * packed + h * d];
        const double* g = &dy[i * out + h * d];
        p.assign(last - first, 0);
        dp.assign(last - first, 0);
        double top = -INFINITY, total = 0, mean = 0;
        for (index_t j = first; j < last; ++j) {
          top = std::max(top, p[j - first] = scale * dot(q, &qkv[j * packed + at_k], d));
        }
        for (double& w : p) total += w = std::exp(w - top);
        r.lse[i * shape.heads + h] = top + std::log(total);
        for (index_t j = first; j < last; ++j) {
          const double w = p[j - first] /= total;
          add(&r.y[i * out + h * d], w, &qkv[j * packed + at_v], d);
          add(&r.dqkv[j * packed + at_v], w, g, d);
          mean += w * (dp[j - first] = dot(g, &qkv[j * packed + at_v], d));
        }
        for (index_t j = first; j < last; ++j) {
          const double ds = scale * p[j - first] * (dp[j - first] - mean);
          add(&r.dqkv[i * packed + h * d], ds, &qkv[j * packed + at_k], d);
          add(&r.dqkv[j * packed + at_k], ds, q, d);
        }
      }
    }
  return r;
}

/// Compares columns [from, to) of rows of `stride` values: ||a - b|| / ||b||, infinity where a value is not finite.
class comparison {
 public:
  template <class T>
  comparison(const char* name, const std::vector<T>& a, const std::vector<double>& b, index_t stride, index_t from, index_t to) {
    double difference = 0, norm = 0;
    index_t count = 0;
    for (std::size_t i = 0; i < b.size(); ++i)
      if (const index_t column = static_cast<index_t>(i) % stride; column >= from && column < to) norm += b[i] * b[i], ++count;
    const double typical = std::sqrt(norm / static_cast<double>(std::max<index_t>(count, 1)));
    for (std::size_t i = 0; i < b.size(); ++i) {
      const index_t column = static_cast<index_t>(i) % stride;
      if (column < from || column >= to) continue;
      const double e = static_cast<double>(a[i]) - b[i];
      difference += e * e;
      if (!(std::abs(e) <= 0.1 * typical + 0.05 * std::abs(b[i]))) {
        if (far_++ == 0)
          first_ = std::string(name) + "[" + std::to_string(static_cast<index_t>(i) / stride) + ", " + std::to_string(column - from) + "] = " +
                   std::to_string(static_cast<double>(a[i])) + ", not " + std::to_string(b[i]);
      }
    }
    error = std::sqrt(difference) / std::max(std::sqrt(norm), 1e-300);
    if (!std::isfinite(error)) error = INFINITY;
  }
  double error;
  std::string told() const { return far_ ? "; " + std::to_string(far_) + " far off, the first " + first_ : std::string(); }

 private:
  index_t far_ = 0;
  std::string first_;
};

bool has_failed = false;

/// The library's choice of kernel, ...
template <class T>
struct chosen {
  static constexpr auto forward = planlm::cuda_detail::attention<T>;
  static constexpr auto pullback = planlm::cuda_detail::attention_pullback<T>;
};
/// ... or those of attention_mma.cuh, with the tiles for much shared memory or for little.
template <bool Roomy>
struct by_mma {
  static void forward(planlm::cuda_queue& queue, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                      index_t sequences, bfloat16* y, float* lse) {
    auto a = planlm::cuda_detail::arguments_of(shape, qkv, offsets, host_offsets, sequences);
    a.y = y;
    a.lse = lse;
    planlm::cuda_detail::attention_mma(queue, a);
  }
  static void pullback(planlm::cuda_queue& queue, attention_shape shape, const bfloat16* qkv, const int* offsets, const int* host_offsets,
                       index_t sequences, const bfloat16* y, const float* lse, const bfloat16* dy, bfloat16* dqkv) {
    auto a = planlm::cuda_detail::arguments_of(shape, qkv, offsets, host_offsets, sequences);
    a.dy = dy;
    a.dqkv = dqkv;
    a.statistics = planlm::cuda_detail::attention_statistics(queue, a, y, lse, true);
    planlm::cuda_detail::attention_mma_pullback(queue, a, Roomy);
  }
};

template <class T, class Kernels>
void run(planlm::cuda_queue& queue, const char* type, attention_shape shape, const std::vector<int>& lengths) {
  using A = accum_of<T>;
  std::vector<int> offsets{0};
  for (const int n : lengths) offsets.push_back(offsets.back() + n);
  const std::size_t n = static_cast<std::size_t>(offsets.back()), packed = static_cast<std::size_t>(shape.packed_width()),
                    out = static_cast<std::size_t>(shape.query_width());
  const std::vector<T> qkv = normals<T>(n * packed, 1), dy = normals<T>(n * out, 2);
  const reference expected = attention_in_double(shape, offsets, {qkv.begin(), qkv.end()}, {dy.begin(), dy.end()});

  const device_array<T> d_qkv(qkv), d_dy(dy);
  const device_array<int> d_offsets(offsets);
  device_array<T> d_y(n * out), d_dqkv(n * packed);
  device_array<A> d_lse(n * static_cast<std::size_t>(shape.heads));
  const index_t sequences = static_cast<index_t>(lengths.size());
  std::vector<T> y, dqkv, y_again, dqkv_again;
  std::vector<A> lse, lse_again;
  const auto once = [&](std::vector<T>& a, std::vector<A>& b, std::vector<T>& c) {
    d_y.poison();
    d_lse.poison();
    d_dqkv.poison();
    check(cudaDeviceSynchronize(), "poison");
    Kernels::forward(queue, shape, d_qkv.get(), d_offsets.get(), offsets.data(), sequences, d_y.get(), d_lse.get());
    check(cudaStreamSynchronize(queue.stream()), "attention");
    Kernels::pullback(queue, shape, d_qkv.get(), d_offsets.get(), offsets.data(), sequences, d_y.get(), d_lse.get(), d_dy.get(), d_dqkv.get());
    check(cudaStreamSynchronize(queue.stream()), "attention_pullback");
    a = d_y.read();
    b = d_lse.read();
    c = d_dqkv.read();
  };
  once(y, lse, dqkv);
  once(y_again, lse_again, dqkv_again);
  const auto bits = [](const auto& a, const auto& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0; };
  const bool same = bits(y, y_again) && bits(lse, lse_again) && bits(dqkv, dqkv_again);

  const index_t stride = shape.packed_width(), at_k = shape.query_width(), at_v = at_k + shape.kv_width();
  const comparison of_y("y", y, expected.y, at_k, 0, at_k), of_lse("lse", lse, expected.lse, shape.heads, 0, shape.heads),
      of_dq("dq", dqkv, expected.dqkv, stride, 0, at_k), of_dk("dk", dqkv, expected.dqkv, stride, at_k, at_v),
      of_dv("dv", dqkv, expected.dqkv, stride, at_v, stride);
  double forward = 1e-5, backward = 1e-5, statistics = 1e-5;
  std::string floor;
  if (std::is_same_v<T, double>) forward = backward = statistics = 1e-12;
  if (std::is_same_v<T, bfloat16>) {
    // Weights are rounded to bf16 too, for the tensor cores: two roundings of the same size, sqrt(2) times the floor.
    const std::vector<bfloat16> rounded(expected.y.begin(), expected.y.end());
    const double least = comparison("y", rounded, expected.y, at_k, 0, at_k).error;
    char text[32];
    std::snprintf(text, sizeof text, " floor %.2e", least);
    floor = text;
    forward = 2.6e-3;
    backward = 1e-2;
  }
  const bool pass = of_y.error < forward && of_lse.error < statistics && of_dq.error < backward && of_dk.error < backward &&
                    of_dv.error < backward && same;
  std::printf("%-7s %-6s heads %lld/%lld width %3lld rows %4zu: y %.2e%s lse %.2e dq %.2e dk %.2e dv %.2e %s %s%s%s%s%s%s\n", type,
              shape.causal ? "causal" : "full", static_cast<long long>(shape.heads), static_cast<long long>(shape.kv_heads),
              static_cast<long long>(shape.width), n, of_y.error, floor.c_str(), of_lse.error, of_dq.error, of_dk.error, of_dv.error,
              same ? "same bits" : "OTHER BITS", pass ? "PASS" : "FAIL", of_y.told().c_str(), of_lse.told().c_str(), of_dq.told().c_str(),
              of_dk.told().c_str(), of_dv.told().c_str());
  std::fflush(stdout);
  has_failed = has_failed || !pass;
}

template <class T, class Kernels = chosen<T>>
void attempt(planlm::cuda_queue& queue, const char* type, attention_shape shape, const std::vector<int>& lengths) {
  try {
    run<T, Kernels>(queue, type, shape, lengths);
  } catch (const std::exception& e) {
    std::printf("%-7s %-6s heads %lld/%lld width %3lld: FAIL %s\n", type, shape.causal ? "causal" : "full",
                static_cast<long long>(shape.heads), static_cast<long long>(shape.kv_heads), static_cast<long long>(shape.width), e.what());
    std::fflush(stdout);
    has_failed = true;
  }
}

struct group {
  const char* name;
  std::vector<index_t> widths;
  bool every_sharing;  // 4/4, 4/2 and 4/1 heads for each width, else in turn
  std::vector<int> lengths;
};
const std::vector<int> ragged{1, 7, 37, 64, 65, 130, 257}, long_one{1000}, many(300, 3);
const std::vector<group> groups{
    {"float32", {5, 10, 32, 64, 80, 96, 128, 200, 256}, false, ragged}, {"float32_long", {64}, false, long_one},
    {"double", {10, 64, 80, 128, 256}, false, ragged},                  {"bf16", {32, 64, 96, 128}, true, ragged},
    {"bf16_padded", {8, 40, 80, 120}, false, ragged},                   {"bf16_simt", {10, 100, 136, 256}, false, ragged},
    {"bf16_long", {64, 128}, false, long_one},                          {"bf16_many", {64, 128}, false, many},
    {"mma", {32, 64, 96, 128}, true, ragged},                           {"mma_padded", {8, 40, 80, 120}, false, ragged},
    {"mma_long", {64, 128}, false, long_one},                           {"mma_many", {64, 128}, false, many},
    {"mma_tight", {104, 128}, true, ragged},
};

void run_group(planlm::cuda_queue& queue, const group& g) {
  const index_t sharing[] = {4, 2, 1};
  int turn = 0;
  for (const index_t width : g.widths)
    for (const bool causal : {true, false})
      for (int s = 0; s < (g.every_sharing ? 3 : 1); ++s, ++turn) {
        const attention_shape shape{4, sharing[turn % 3], width, causal};
        const std::string name = g.name;
        if (name.starts_with("float32")) attempt<float>(queue, "float32", shape, g.lengths);
        if (name.starts_with("double")) attempt<double>(queue, "double", shape, g.lengths);
        if (name.starts_with("mma_tight"))
          attempt<bfloat16, by_mma<false>>(queue, "mma", shape, g.lengths);
        else if (name.starts_with("mma"))
          attempt<bfloat16, by_mma<true>>(queue, "mma", shape, g.lengths);
        if (name.starts_with("bf16")) attempt<bfloat16>(queue, "bf16", shape, g.lengths);
      }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "list") {
    for (const group& g : groups) std::printf("%s\n", g.name);
    return 0;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU here\n");
    return 77;
  }
  planlm::cuda_queue queue;
  int ran = 0;
  for (const group& g : groups) {
    const bool wanted = argc == 1 || std::any_of(argv + 1, argv + argc, [&](const char* a) { return std::string(a) == g.name; });
    if (wanted) run_group(queue, g), ++ran;
  }
  if (ran == 0) {
    std::printf("attention_check: no such group; `attention_check list` names them\n");
    return 1;
  }
  return has_failed ? 1 : 0;
}
