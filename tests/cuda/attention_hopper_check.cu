/// Attention on Hopper against the double-precision definition: ragged lengths, grouped heads, causal or not; outputs poisoned with NaN,
/// guards past their ends, two runs compared bit for bit. `forward` or `pullback` and a case number choose; `--list` names the cases.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>
#include <planlm/backend/cuda/attention_hopper.cuh>
#include <planlm/backend/cuda/attention_hopper_pullback.cuh>

using namespace planlm;

namespace {

constexpr int guard = 4096;  // elements past the end of every output

std::uint64_t state = 0x9E3779B97F4A7C15ull;
float draw() {  // about normal
  float s = 0;
  for (int i = 0; i < 4; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    s += static_cast<float>(state >> 40) / static_cast<float>(1 << 24) - 0.5f;
  }
  return s * 1.7f;
}

template <class T>
struct device_array {
  T* data = nullptr;
  std::size_t size;
  explicit device_array(std::size_t n) : size(n) {
    cuda_detail::check(cudaMalloc(&data, n * sizeof(T)), "cudaMalloc");
    poison();
  }
  explicit device_array(const std::vector<T>& v) : device_array(v.size()) { cudaMemcpy(data, v.data(), size * sizeof(T), cudaMemcpyHostToDevice); }
  ~device_array() { cudaFree(data); }
  void poison() {
    cudaMemset(data, 0xff, size * sizeof(T));
    cudaDeviceSynchronize();  // the queue's stream does not wait for the default stream
  }
  std::vector<T> host() const {
    std::vector<T> v(size);
    cuda_detail::check(cudaMemcpy(v.data(), data, size * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return v;
  }
};

struct problem {
  const char* name;
  int heads, kv_heads, width;
  bool causal;
  std::vector<int> lengths;
  int sample;  // every sample-th query is compared (forward)
  float spread = 1;  // of the queries
};

const std::vector<problem> problems = {
    {"one tile", 1, 1, 128, false, {128}, 1},
    {"one tile causal", 1, 1, 128, true, {128}, 1},
    {"one tile, width 64", 1, 1, 64, false, {128}, 1},
    {"three tiles", 2, 2, 128, false, {384}, 1},
    {"three tiles causal", 2, 2, 128, true, {384}, 1},
    {"ragged", 4, 2, 128, false, {1, 37, 300, 129, 128, 5, 211}, 1},
    {"ragged causal", 4, 2, 128, true, {1, 37, 300, 129, 128, 5, 211}, 1},
    {"ragged, width 64", 4, 1, 64, false, {3, 200, 64, 65, 320, 1, 1}, 1},
    {"ragged causal, width 64", 4, 1, 64, true, {3, 200, 64, 65, 320, 1, 1}, 1},
    {"steep causal", 2, 1, 128, true, {700, 900}, 1, 8},
    {"steep, width 64", 2, 1, 64, false, {700, 900}, 1, 8},
    {"longer", 2, 1, 128, false, {1000, 777}, 1},
    {"longer causal", 2, 1, 128, true, {1000, 777}, 1},
    {"longer, width 64", 2, 2, 64, false, {1000, 777}, 1},
    {"longer causal, width 64", 2, 2, 64, true, {1000, 777}, 1},
    {"long", 3, 3, 128, false, {2048, 1999}, 37},
    {"long causal", 3, 3, 128, true, {2048, 1999}, 37},
    {"long, width 64", 3, 3, 64, false, {2048, 1999}, 37},
    {"long causal, width 64", 3, 3, 64, true, {2048, 1999}, 37},
};

struct inputs {
  const problem& p;
  std::vector<int> offsets{0};
  std::vector<bfloat16> qkv, dy;
  int rows, packed, out;
  explicit inputs(const problem& given) : p(given) {
    for (const int n : p.lengths) offsets.push_back(offsets.back() + n);
    rows = offsets.back(), packed = (p.heads + 2 * p.kv_heads) * p.width, out = p.heads * p.width;
    qkv.resize(std::size_t(rows) * packed), dy.resize(std::size_t(rows) * out);
    for (std::size_t i = 0; i < qkv.size(); ++i) qkv[i] = draw() * (int(i % packed) < out ? p.spread : 1);
    for (auto& x : dy) x = draw();
  }
  attention_shape shape() const { return {p.heads, p.kv_heads, p.width, p.causal}; }
};

/// The definition, one query after another: f(row, head, weights, keys seen, lse).
template <class F>
void each_query(const inputs& in, int sample, F&& f) {
  const problem& p = in.p;
  const double scale = 1 / std::sqrt(double(p.width));
  std::vector<double> w;
  for (std::size_t s = 0; s + 1 < in.offsets.size(); ++s)
    for (int r = in.offsets[s]; r < in.offsets[s + 1]; ++r) {
      if (r % sample) continue;
      const int seen = p.causal ? r - in.offsets[s] + 1 : p.lengths[s];
      w.resize(seen);
      for (int h = 0; h < p.heads; ++h) {
        const bfloat16* q = &in.qkv[std::size_t(r) * in.packed + h * p.width];
        const int kv = h / (p.heads / p.kv_heads);
        double top = -1e300, total = 0;
        for (int c = 0; c < seen; ++c) {
          const bfloat16* k = &in.qkv[std::size_t(in.offsets[s] + c) * in.packed + (p.heads + kv) * p.width];
          double dot = 0;
          for (int i = 0; i < p.width; ++i) dot += double(float(q[i])) * double(float(k[i]));
          w[c] = scale * dot;
          top = std::max(top, w[c]);
        }
        for (int c = 0; c < seen; ++c) total += w[c] = std::exp(w[c] - top);
        for (int c = 0; c < seen; ++c) w[c] /= total;
        f(r, h, in.offsets[s], w, top + std::log(total));
      }
    }
}

struct comparison {
  double off = 0, all = 0;
  long wrong = 0, first_row = -1, first_column = -1;
  double got = 0, want = 0;
  std::vector<double> tile_off, tile_all;  // by 64 rows
  void add(long row, long column, double g, double w, double limit) {
    const double e = std::isfinite(g) ? g - w : 1e3;
    off += e * e, all += w * w;
    if (tile_off.size() <= std::size_t(row / 64)) tile_off.resize(row / 64 + 1), tile_all.resize(row / 64 + 1);
    tile_off[row / 64] += e * e, tile_all[row / 64] += w * w;
    if (std::abs(e) > limit) {
      if (!wrong++) first_row = row, first_column = column, got = g, want = w;
    }
  }
  bool tell(const char* what, double bound) const {
    const double e = std::sqrt(off / std::max(all, 1e-300));
    const bool good = e < bound;
    printf("    %-6s error %.2e%s", what, e, good ? "\n" : "  WRONG");
    if (!good) {
      printf(", %ld far off, first at row %ld column %ld: %g, not %g; by 64 rows:", wrong, first_row, first_column, got, want);
      for (std::size_t i = 0; i < std::min<std::size_t>(tile_off.size(), 24); ++i) printf(" %.1e", std::sqrt(tile_off[i] / std::max(tile_all[i], 1e-300)));
      printf("\n");
    }
    return good;
  }
};

template <class T>
bool untouched(const std::vector<T>& v, std::size_t from) {
  const unsigned char* b = reinterpret_cast<const unsigned char*>(v.data() + from);
  return std::all_of(b, b + (v.size() - from) * sizeof(T), [](unsigned char c) { return c == 0xff; });
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
}

using forward_function = void (*)(cuda_queue&, attention_shape, const bfloat16*, const int*, const int*, index_t, bfloat16*, float*);
struct variant {
  const char* name;
  int width, causal;  // -1: both
  forward_function f;
};
const std::vector<variant> variants = {
    {"as dispatched", -1, -1, cuda_detail::attention_hopper},
    {"width 128, keys 176", 128, 0, cuda_detail::attention_hopper_as<128, 2, 176, false>},
    {"width 64, three groups", 64, 0, cuda_detail::attention_hopper_as<64, 3, 128, false>},
    {"width 64, three groups", 64, 1, cuda_detail::attention_hopper_as<64, 3, 128, true>},
    {"width 128, watched", 128, 1, cuda_detail::attention_hopper_as<128, 2, 128, true, true>},
};

bool forward(const problem& p) {
  const inputs in(p);
  comparison dummy;
  std::vector<double> want_y(in.dy.size()), want_lse(std::size_t(in.rows) * p.heads);
  each_query(in, p.sample, [&](int r, int h, int begin, const std::vector<double>& w, double lse) {
    want_lse[std::size_t(r) * p.heads + h] = lse;
    const int kv = h / (p.heads / p.kv_heads);
    double* y = &want_y[std::size_t(r) * in.out + h * p.width];
    for (std::size_t c = 0; c < w.size(); ++c) {
      const bfloat16* v = &in.qkv[(begin + c) * in.packed + (p.heads + p.kv_heads + kv) * p.width];
      for (int i = 0; i < p.width; ++i) y[i] += w[c] * double(float(v[i]));
    }
  });
  cuda_queue q;
  const device_array<bfloat16> qkv(in.qkv);
  const device_array<int> offsets(in.offsets);
  bool good = true;
  for (const auto& v : variants) {
    if ((v.width >= 0 && v.width != p.width) || (v.causal >= 0 && v.causal != int(p.causal))) continue;
    printf("  %s\n", v.name);
    try {
      std::vector<bfloat16> y[2];
      std::vector<float> lse[2];
      for (int run = 0; run < 2; ++run) {
        device_array<bfloat16> dy(in.dy.size() + guard);
        device_array<float> dl(want_lse.size() + guard);
        v.f(q, in.shape(), qkv.data, offsets.data, in.offsets.data(), index_t(p.lengths.size()), dy.data, dl.data);
        cuda_detail::check(cudaStreamSynchronize(q.stream()), "cudaStreamSynchronize");
        y[run] = dy.host(), lse[run] = dl.host();
      }
      comparison cy, cl;
      for (int r = 0; r < in.rows; r += p.sample) {
        for (int c = 0; c < in.out; ++c) cy.add(r, c, float(y[0][std::size_t(r) * in.out + c]), want_y[std::size_t(r) * in.out + c], 2e-2);
        for (int h = 0; h < p.heads; ++h) cl.add(r, h, lse[0][std::size_t(r) * p.heads + h], want_lse[std::size_t(r) * p.heads + h], 1e-3);
      }
      good = cy.tell("y", 4e-3) && good;
      good = cl.tell("lse", 1e-5) && good;
      if (!same_bits(y[0], y[1]) || !same_bits(lse[0], lse[1])) printf("    two runs DIFFER\n"), good = false;
      if (!untouched(y[0], in.dy.size()) || !untouched(lse[0], want_lse.size())) printf("    WROTE past the end\n"), good = false;
    } catch (const std::exception& e) {
      printf("    FAILED: %s\n", e.what());
      return false;
    }
  }
  return good;
}

using pullback_function = void (*)(cuda_queue&, attention_shape, const bfloat16*, const int*, const int*, index_t, const bfloat16*,
                                   const float*, const bfloat16*, bfloat16*);
struct pullback_variant {
  const char* name;
  int width, causal;
  pullback_function f;
};
const std::vector<pullback_variant> pullback_variants = {
    {"two passes", 128, 0, cuda_detail::attention_hopper_pullback_as<128, 128, false>},
    {"two passes", 128, 1, cuda_detail::attention_hopper_pullback_as<128, 128, true>},
    {"two passes", 64, 0, cuda_detail::attention_hopper_pullback_as<64, 128, false>},
    {"two passes", 64, 1, cuda_detail::attention_hopper_pullback_as<64, 128, true>},
};

bool pullback(const problem& p) {
  const inputs in(p);
  std::vector<double> want(in.qkv.size());
  std::vector<bfloat16> y(in.dy.size());
  std::vector<float> lse(std::size_t(in.rows) * p.heads);
  const double scale = 1 / std::sqrt(double(p.width));
  each_query(in, 1, [&](int r, int h, int begin, const std::vector<double>& w, double l) {
    lse[std::size_t(r) * p.heads + h] = static_cast<float>(l);
    const int kv = h / (p.heads / p.kv_heads), d = p.width;
    const std::size_t at_q = std::size_t(r) * in.packed + h * d;
    const bfloat16* g = &in.dy[std::size_t(r) * in.out + h * d];
    std::vector<double> out(d), dp(w.size());
    double mean = 0;
    for (std::size_t c = 0; c < w.size(); ++c) {
      const std::size_t at_v = (begin + c) * in.packed + (p.heads + p.kv_heads + kv) * d;
      double dot = 0;
      for (int i = 0; i < d; ++i) {
        const double v = float(in.qkv[at_v + i]);
        dot += v * float(g[i]);
        out[i] += w[c] * v;
        want[at_v + i] += w[c] * float(g[i]);
      }
      dp[c] = dot;
      mean += w[c] * dot;
    }
    for (int i = 0; i < d; ++i) y[std::size_t(r) * in.out + h * d + i] = out[i];
    for (std::size_t c = 0; c < w.size(); ++c) {
      const std::size_t at_k = (begin + c) * in.packed + (p.heads + kv) * d;
      const double ds = scale * w[c] * (dp[c] - mean);
      for (int i = 0; i < d; ++i) {
        want[at_q + i] += ds * float(in.qkv[at_k + i]);
        want[at_k + i] += ds * float(in.qkv[at_q + i]);
      }
    }
  });
  bool all_good = true;
  for (const auto& v : pullback_variants) try {
    if (v.width != p.width || v.causal != int(p.causal)) continue;
    printf("  %s\n", v.name);
    cuda_queue q;
    const device_array<bfloat16> qkv(in.qkv), dev_y(y), dy(in.dy);
    const device_array<float> dev_lse(lse);
    const device_array<int> offsets(in.offsets);
    std::vector<bfloat16> got[2];
    for (int run = 0; run < 2; ++run) {
      device_array<bfloat16> out(in.qkv.size() + guard);
      v.f(q, in.shape(), qkv.data, offsets.data, in.offsets.data(), index_t(p.lengths.size()), dev_y.data, dev_lse.data, dy.data, out.data);
      cuda_detail::check(cudaStreamSynchronize(q.stream()), "cudaStreamSynchronize");
      got[run] = out.host();
    }
    comparison part[3];
    for (int r = 0; r < in.rows; ++r)
      for (int c = 0; c < in.packed; ++c) {
        const int head = c / p.width, which = head < p.heads ? 0 : head < p.heads + p.kv_heads ? 1 : 2;
        part[which].add(r, c, float(got[0][std::size_t(r) * in.packed + c]), want[std::size_t(r) * in.packed + c], 5e-2);
      }
    bool good = part[0].tell("dq", 1e-2);
    good = part[1].tell("dk", 1e-2) && good;
    good = part[2].tell("dv", 1e-2) && good;
    if (!same_bits(got[0], got[1])) printf("    two runs DIFFER\n"), good = false;
    if (!untouched(got[0], in.qkv.size())) printf("    WROTE past the end\n"), good = false;
    all_good = all_good && good;
  } catch (const std::exception& e) {
    printf("    FAILED: %s\n", e.what());
    return false;
  }
  return all_good;
}

/// Every tile that exists is named once; of one sequence and head in order. On the host.
bool orders() {
  const std::vector<std::vector<int>> batches = {{1}, {129}, {2048, 2048, 2048}, {1, 37, 300, 129, 128, 5, 211}, {5000, 1, 1, 1, 1, 700}, {64, 0, 3}};
  bool good = true;
  for (const auto& lengths : batches)
    for (const int rows : {128, 192})
      for (const bool descending : {false, true}) {
        std::vector<int> offsets{0};
        for (const int n : lengths) offsets.push_back(offsets.back() + n);
        const int heads = 3, sequences = int(lengths.size());
        const auto order = attention_order::of(heads, offsets.data(), sequences, rows, 512, descending);
        std::vector<std::vector<int>> seen(sequences * heads);
        for (int item = 0; item < order.items(); ++item) {
          const auto at = order.at(item, offsets.data());
          if (at.tile * rows < lengths[at.sequence]) seen[at.sequence * heads + at.head].push_back(at.tile);
        }
        for (int pair = 0; pair < sequences * heads; ++pair) {
          std::vector<int> want;
          for (int t = 0; t * rows < lengths[pair / heads]; ++t) want.push_back(t);
          if (descending) std::reverse(want.begin(), want.end());
          if (seen[pair] != want) printf("order of %d rows: sequence %d WRONG\n", rows, pair / heads), good = false;
        }
      }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "--list") {
    for (std::size_t i = 0; i < problems.size(); ++i) printf("%zu %s\n", i, problems[i].name);
    return 0;
  }
  bool good = orders();
  int devices = 0, major = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("SKIPPED: there is no GPU for all but the order of tiles, which is %s\n", good ? "right" : "WRONG");
    return good ? 77 : 1;
  }
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  if (major != 9) {
    printf("SKIPPED: the GPU is not of compute capability 9.0\n");
    return 77;
  }
  for (std::size_t i = 0; i < problems.size(); ++i) {
    if (argc > 2 && std::atoi(argv[2]) != int(i)) continue;
    if (what != "pullback") {
      printf("forward, %s\n", problems[i].name);
      good = forward(problems[i]) && good;
    }
    if (what != "forward" && problems[i].sample == 1) {
      printf("pullback, %s\n", problems[i].name);
      good = pullback(problems[i]) && good;
    }
  }
  printf("%s\n", good ? "all right" : "NOT all right");
  return good ? 0 : 1;
}
