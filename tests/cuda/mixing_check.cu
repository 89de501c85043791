// Fused label mixing on the GPU against the same mathematics in double on the host: every rule, forward and pullback, at sizes that are
// multiples of nothing, in float and bfloat16.
//
//     mixing_check [--list | CASE...]     exit status: 0 all agree, 1 some do not, 77 there is no GPU to run on
//
// Outputs and kept memory are NaN first; every case runs twice and must give the same bits.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>
#include <planlm/backend/cuda/cuda.cuh>
#include <planlm/backend/cuda/mixing.cuh>

namespace {

using namespace planlm;

struct sizes {
  index_t rows, labels, width;
};

/// f(begin, end) over [0, n), by eight threads.
template <class F>
void side_by_side(index_t n, const F& f) {
  std::vector<std::thread> threads;
  for (index_t t = 0; t < 8; ++t) threads.emplace_back([&, t] { f(n * t / 8, n * (t + 1) / 8); });
  for (auto& t : threads) t.join();
}
template <class T>
std::vector<T> draws(index_t n, std::uint64_t seed, double scale) {
  std::vector<T> v(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) v[i] = T(static_cast<float>(scale * philox{seed}.normal(static_cast<std::uint64_t>(i), 0)));
  return v;
}

struct answer {
  std::vector<double> e, dtable, dz;
};

/// The definition, sentence by sentence.
template <class T>
answer reference(const mixing_rule& rule, sizes s, const std::vector<T>& z, const std::vector<T>& table, const std::vector<T>& de,
                 const std::vector<T>& dtable) {
  answer a;
  a.e.assign(s.rows * s.width, 0), a.dz.assign(s.rows * s.labels, 0), a.dtable.assign(dtable.begin(), dtable.end());
  std::vector<double> shares(s.rows * s.labels, 0);  // of the forward pass
  const std::vector<double> wide(table.begin(), table.end());
  side_by_side(s.rows, [&](index_t begin, index_t end) {
    std::vector<double> y(s.labels), soft(s.labels), g(s.labels);
    std::vector<index_t> order(s.labels);
    for (index_t r = begin; r < end; ++r) {
      for (index_t k = 0; k < s.labels; ++k) {
        y[k] = double(float(z[r * s.labels + k]));
        if (rule.noise != 0) y[k] -= rule.noise * std::log(-std::log(rule.random.uniform(static_cast<std::uint64_t>(r), static_cast<std::uint32_t>(k))));
      }
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](index_t a, index_t b) { return y[a] > y[b]; });
      const index_t taken = rule.taken > 0 && !rule.discrete ? std::min(rule.taken, s.labels) : s.labels;
      double total = 0;
      std::fill(soft.begin(), soft.end(), 0);
      for (index_t t = 0; t < taken; ++t) total += soft[order[t]] = std::exp((y[order[t]] - y[order[0]]) * rule.inverse_temperature);
      for (double& p : soft) p /= total;
      double* w = shares.data() + r * s.labels;
      if (rule.discrete) w[order[0]] = 1;
      else std::copy(soft.begin(), soft.end(), w);
      double mean = 0;
      for (index_t k = 0; k < s.labels; ++k) {
        const double* row = wide.data() + k * s.width;
        double dot = 0;
        for (index_t c = 0; c < s.width; ++c) {
          a.e[r * s.width + c] += w[k] * row[c];
          dot += double(float(de[r * s.width + c])) * row[c];
        }
        g[k] = dot, mean += soft[k] * dot;
      }
      for (index_t k = 0; k < s.labels; ++k) a.dz[r * s.labels + k] = rule.inverse_temperature * soft[k] * (g[k] - mean);
    }
  });
  const std::vector<double> wide_de(de.begin(), de.end());
  side_by_side(s.labels, [&](index_t begin, index_t end) {
    for (index_t r = 0; r < s.rows; ++r)
      for (index_t k = begin; k < end; ++k)
        if (const double w = shares[r * s.labels + k]; w != 0)
          for (index_t c = 0; c < s.width; ++c) a.dtable[k * s.width + c] += w * wide_de[r * s.width + c];
  });
  return a;
}

template <class T>
class device_array {
 public:
  explicit device_array(index_t n) : n_(n), memory_(cuda_detail::allocate(static_cast<std::size_t>(std::max<index_t>(n, 1)) * sizeof(T), "a check")) {}
  T* data() const { return static_cast<T*>(memory_.get()); }
  void poison() { cuda_detail::check(cudaMemset(data(), 0xFF, static_cast<std::size_t>(n_) * sizeof(T)), "cudaMemset"); }
  void set(const std::vector<T>& v) { cuda_detail::check(cudaMemcpy(data(), v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy"); }
  std::vector<T> get() const {
    std::vector<T> v(static_cast<std::size_t>(n_));
    cuda_detail::check(cudaMemcpy(v.data(), data(), v.size() * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return v;
  }

 private:
  index_t n_;
  cuda_detail::memory memory_;
};

template <class T>
double distance(const std::vector<T>& ours, const std::vector<double>& theirs) {
  double off = 0, all = 0;
  for (std::size_t i = 0; i < theirs.size(); ++i) {
    const double d = double(float(ours[i])) - theirs[i];
    off += d * d, all += theirs[i] * theirs[i];
  }
  const double e = off == 0 ? 0 : std::sqrt(off / all);
  return std::isfinite(e) ? e : INFINITY;
}
/// Where the first value far off is, and how many are, by tiles of 64 x 64.
template <class T>
void tell(const char* what, const std::vector<T>& ours, const std::vector<double>& theirs, index_t cols) {
  double scale = 0;
  for (const double t : theirs) scale += t * t;
  scale = std::sqrt(scale / double(theirs.size()));
  index_t wrong = 0, first = -1, lowest_row = 1 << 30, highest_row = -1, lowest_col = 1 << 30, highest_col = -1;
  for (index_t i = 0; i < index_t(theirs.size()); ++i)
    if (!(std::abs(double(float(ours[i])) - theirs[i]) < 0.05 * scale + 0.02 * std::abs(theirs[i]))) {
      ++wrong;
      if (first < 0) first = i;
      lowest_row = std::min(lowest_row, i / cols), highest_row = std::max(highest_row, i / cols);
      lowest_col = std::min(lowest_col, i % cols), highest_col = std::max(highest_col, i % cols);
    }
  if (wrong == 0) return;
  std::printf("    %s: %lld of %zu far off, rows %lld to %lld, columns %lld to %lld; first at (%lld, %lld): %g, not %g\n", what, (long long)wrong,
              theirs.size(), (long long)lowest_row, (long long)highest_row, (long long)lowest_col, (long long)highest_col, (long long)(first / cols),
              (long long)(first % cols), double(float(ours[first])), theirs[first]);
}

template <class T>
bool agrees(const char* name, const mixing_rule& rule, sizes s, double spread, bool with_dtable = true) {
  using B = cuda<T>;
  using matrix = view<const T, 2, device_memory>;
  using target = view<T, 2, device_memory>;
  const bool wide = std::is_same_v<T, float>;
  const auto z = draws<T>(s.rows * s.labels, 1, spread), table = draws<T>(s.labels * s.width, 2, 1), de = draws<T>(s.rows * s.width, 3, 1),
             dtable = draws<T>(s.labels * s.width, 4, 1);
  const answer want = reference(rule, s, z, table, de, dtable);
  cuda_queue q;
  const std::size_t kept_bytes = cuda_detail::mixing::mixing_bytes<T>(rule, s.rows, s.labels);
  device_array<T> dev_z(s.rows * s.labels), dev_table(s.labels * s.width), dev_de(s.rows * s.width), dev_e(s.rows * s.width),
      dev_dz(s.rows * s.labels), dev_dtable(s.labels * s.width);
  device_array<unsigned char> kept(static_cast<index_t>(kept_bytes));
  dev_z.set(z), dev_table.set(table), dev_de.set(de);
  std::vector<T> e[2], dz[2], dt[2];
  for (int run = 0; run < 2; ++run) {
    dev_e.poison(), dev_dz.poison(), kept.poison(), dev_dtable.set(dtable);
    cuda_detail::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    const matrix vz(dev_z.data(), s.rows, s.labels), vt(dev_table.data(), s.labels, s.width), vde(dev_de.data(), s.rows, s.width);
    const target ve(dev_e.data(), s.rows, s.width), vdz(dev_dz.data(), s.rows, s.labels);
    const target vdt(with_dtable ? dev_dtable.data() : nullptr, s.labels, s.width);
    cuda_detail::mixing::mix<B, T>(q, rule, vz, vt, ve, kept.data());
    cuda_detail::mixing::mix_pullback<B, T>(q, rule, vz, vt, matrix(ve), kept.data(), vde, rule.differentiable ? vdz : target{}, vdt);
    cuda_detail::check(cudaStreamSynchronize(q.stream()), "cudaStreamSynchronize");
    e[run] = dev_e.get(), dz[run] = dev_dz.get(), dt[run] = dev_dtable.get();
  }
  const double off_e = distance(e[0], want.e), off_dz = rule.differentiable ? distance(dz[0], want.dz) : 0,
               off_dt = with_dtable ? distance(dt[0], want.dtable) : 0;
  const auto same = [](const auto& v) { return std::memcmp(v[0].data(), v[1].data(), v[0].size() * sizeof(T)) == 0; };
  const bool again = same(e) && same(dz) && same(dt);
  // Where many labels weigh, their weights rounded to bfloat16 cost the forward pass as much as its output's rounding does: 1.7e-3 each, 2.4e-3
  // together, for a table without a common part.
  const bool many_weigh = kept_bytes == sizeof(T) * static_cast<std::size_t>(s.rows * s.labels);
  const double most_e = wide ? 1e-5 : many_weigh ? 3e-3 : 2e-3, most_d = wide ? 1e-5 : 1e-2;
  const bool good = off_e < most_e && off_dz < most_d && off_dt < most_d && again;
  std::printf("%s %-22s %-8s (%5lld, %5lld, %4lld) spread %.1f: e %.2e dz %.2e dE %.2e%s\n", good ? "ok    " : "FAILED", name, wide ? "float" : "bfloat16",
              (long long)s.rows, (long long)s.labels, (long long)s.width, spread, off_e, off_dz, off_dt, again ? "" : " DIFFERENT BITS");
  if (!(off_e < 0.1)) tell("e", e[0], want.e, s.width);
  if (!(off_dz < 0.1)) tell("dz", dz[0], want.dz, s.labels);
  if (!(off_dt < 0.1)) tell("dE", dt[0], want.dtable, s.width);
  std::fflush(stdout);
  return good;
}

template <class F>
bool attempt(const F& f) {
  try {
    return f();
  } catch (const std::exception& e) {
    std::printf("FAILED with an error: %s\n", e.what());
    std::fflush(stdout);
    return false;
  }
}

const sizes few[] = {{37, 5, 17}, {129, 33, 24}, {1000, 64, 100}, {37, 1000, 768}, {129, 1024, 768}};
const sizes many[] = {{37, 5, 17},      {129, 33, 24},    {1000, 64, 100},  {37, 1000, 768}, {129, 1024, 768}, {1000, 1024, 100},
                      {130, 2048, 64},  {70, 4096, 128},  {9, 8192, 40},    {5, 9000, 24},   {1, 1, 1},        {300, 1001, 33}};

bool every(const char* name, const mixing_rule& rule, bool all) {
  bool good = true;
  const auto run = [&](const sizes& s) {
    for (const double spread : {1.0, 4.0}) {
      good &= attempt([&] { return agrees<float>(name, rule, s, spread); });
      good &= attempt([&] { return agrees<bfloat16>(name, rule, s, spread); });
    }
  };
  if (all)
    for (const sizes& s : many) run(s);
  else
    for (const sizes& s : few) run(s);
  return good;
}

/// dz as the epilogue of its product, from weights and e of the other kernels; waits give up and say where.
template <bool Watched>
bool logit_gradient_agrees(sizes s, double spread) {
  using B = cuda<bfloat16>;
  using T = bfloat16;
  const mixing_rule rule{.inverse_temperature = 0.8};
  const auto z = draws<T>(s.rows * s.labels, 1, spread), table = draws<T>(s.labels * s.width, 2, 1), de = draws<T>(s.rows * s.width, 3, 1);
  const answer want = reference(rule, s, z, table, de, std::vector<T>(table.size(), T(0)));
  cuda_queue q;
  if (!q.hopper()) return std::puts("ok     logit_gradient: not a Hopper GPU, nothing to check"), true;
  device_array<T> dev_z(s.rows * s.labels), dev_table(s.labels * s.width), dev_de(s.rows * s.width), dev_e(s.rows * s.width), dev_dz(s.rows * s.labels),
      dev_w(s.rows * s.labels);
  device_array<float> dots(s.rows);
  dev_z.set(z), dev_table.set(table), dev_de.set(de), dev_w.poison(), dots.poison();
  // The queue's stream does not wait for the default stream's poison: without this it could arrive after the results.
  cuda_detail::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  cuda_detail::mixing::mixing_weights(q, cuda_detail::mixing::logits_of(rule), dev_z.data(), dev_w.data(), s.rows, s.labels);
  B::gemm(q, 1, {dev_w.data(), s.rows, s.labels, s.labels, 1}, {dev_table.data(), s.labels, s.width, s.width, 1},
          {dev_e.data(), s.rows, s.width, s.width, 1}, into::replace);
  cuda_detail::mixing::row_dots<T>(q, dev_de.data(), dev_e.data(), dots.data(), s.rows, s.width);
  std::vector<T> dz[2];
  for (auto& got : dz) {
    dev_dz.poison();
    cuda_detail::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    cuda_detail::mixing::logit_gradient<Watched>(q, dev_de.data(), dev_table.data(), dev_w.data(), dots.data(), dev_dz.data(), s.rows, s.labels, s.width, 0.8f);
    cuda_detail::check(cudaStreamSynchronize(q.stream()), "cudaStreamSynchronize");
    got = dev_dz.get();
  }
  const double off = distance(dz[0], want.dz);
  const bool again = std::memcmp(dz[0].data(), dz[1].data(), dz[0].size() * sizeof(T)) == 0, good = off < 1e-2 && again;
  std::printf("%s dz as an epilogue (%lld, %lld, %lld) spread %.1f: %.2e%s\n", good ? "ok    " : "FAILED", (long long)s.rows,
              (long long)s.labels, (long long)s.width, spread, off, again ? "" : " DIFFERENT BITS");
  if (!good) tell("dz", dz[0], want.dz, s.labels);
  std::fflush(stdout);
  return good;
}
template <bool Watched>
bool every_logit_gradient() {
  bool good = true;
  for (const sizes& s : std::vector<sizes>{{128, 256, 64}, {128, 256, 768}, {37, 40, 72}, {129, 1024, 768}, {1000, 1000, 104}, {600, 4096, 128}, {9000, 1032, 64}, {20000, 512, 40}})
    good &= attempt([&] { return logit_gradient_agrees<Watched>(s, 1.0); });
  return good;
}

struct named {
  const char* name;
  std::function<bool()> run;
};
const philox noise{77, 5, 3};
const std::vector<named> cases = {
    {"mixture", [] { return every("mixture", {}, true); }},
    {"temperature", [] { return every("temperature 0.7", {.inverse_temperature = 1 / 0.7}, false); }},
    {"top_k", [] { return every("top 5 of T 1.3", {.taken = 5, .inverse_temperature = 1 / 1.3}, true); }},
    {"top_many", [] { return every("top 20", {.taken = 20}, false); }},
    {"gumbel", [] { return every("gumbel", {.inverse_temperature = 1 / 0.8, .noise = 1, .random = noise}, true); }},
    {"gumbel_discrete", [] { return every("discrete gumbel", {.noise = 0.5, .random = noise, .discrete = true}, false); }},
    {"straight_through", [] { return every("straight-through", {.inverse_temperature = 0.5, .discrete = true}, false); }},
    {"hard", [] { return every("hard", {.discrete = true, .differentiable = false}, true); }},
    {"dz_watched", [] { return every_logit_gradient<true>(); }},
    {"dz", [] { return every_logit_gradient<false>(); }},
    {"small",  // all kernels, little work: for compute-sanitizer
     [] {
       bool good = true;
       for (const mixing_rule& rule : {mixing_rule{}, mixing_rule{.taken = 5}, mixing_rule{.taken = 20}, mixing_rule{.noise = 1, .random = noise},
                                       mixing_rule{.noise = 1, .random = noise, .discrete = true}, mixing_rule{.discrete = true, .differentiable = false}})
         for (const sizes s : {sizes{37, 40, 72}, sizes{19, 33, 17}, sizes{5, 2056, 8}}) {
           good &= attempt([&] { return agrees<bfloat16>("small", rule, s, 1); });
           good &= attempt([&] { return agrees<float>("small", rule, s, 1); });
         }
       return good & attempt([] { return logit_gradient_agrees<false>({37, 40, 72}, 1); }) & attempt([] { return logit_gradient_agrees<false>({300, 264, 72}, 1); });
     }},
    {"frozen_table",
     [] { return attempt([] { return agrees<bfloat16>("frozen table", {}, {129, 64, 72}, 1, false) & agrees<float>("frozen table", {.taken = 3}, {129, 64, 72}, 1, false); }); }},
};

}  // namespace

int main(int n, char** word) {
  if (n > 1 && std::strcmp(word[1], "--list") == 0) {
    for (const auto& c : cases) std::puts(c.name);
    return 0;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("SKIPPED: there is no GPU");
    return 77;
  }
  bool good = true;
  for (const auto& c : cases)
    if (n == 1 || std::any_of(word + 1, word + n, [&](const char* w) { return c.name == std::string(w); })) good &= attempt(c.run);
  std::puts(good ? "mixing_check: all agree" : "mixing_check: FAILED");
  return good ? 0 : 1;
}
