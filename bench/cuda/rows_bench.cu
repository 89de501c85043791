/// The memory-bound kernels in bytes per second, beside a device-to-device copy of the same run. JSON lines.
///
/// `bytes` is what the operation needs at least: every input read once, every output written once. A number is the median of five batches of
/// calls, one after the other without a pause. Arguments: beginnings of names; all without.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>
#include <planlm/backend/cuda/row_operations.cuh>
#include <planlm/core/philox.hpp>
#include <planlm/ops/elementwise.hpp>
#include <planlm/ops/reduce.hpp>
#include <planlm/training/adamw.hpp>

#include "events.cuh"

using namespace planlm;

namespace {

using namespace events;

struct bench {
  cuda_queue q;
  std::vector<std::string> wanted;
  double copy_rate = 0;

  template <class F>
  void run(const std::string& name, const std::string& shape, double bytes, const F& f, int calls = 20) {
    if (!wanted.empty() && std::none_of(wanted.begin(), wanted.end(), [&](const std::string& w) { return name.rfind(w, 0) == 0; })) return;
    try {
      const double s = seconds(q, calls, f), rate = bytes / s;
      if (name == "copy") copy_rate = std::max(copy_rate, rate);
      std::printf("{\"program\": \"planlm\", \"kernel\": \"%s\", \"shape\": \"%s\", \"microseconds\": %.2f, \"megabytes\": %.1f, \"gigabytes_per_second\": %.0f, \"of_copy\": %.3f}\n",
                  name.c_str(), shape.c_str(), s * 1e6, bytes * 1e-6, rate * 1e-9, rate / copy_rate);
    } catch (const std::exception& e) {
      std::printf("{\"kernel\": \"%s\", \"shape\": \"%s\", \"error\": \"%s\"}\n", name.c_str(), shape.c_str(), e.what());
    }
  }
};

void rows_of_width(bench& b, index_t n, index_t c) {
  cuda_queue& q = b.q;
  const std::string shape = "(" + std::to_string(n) + ", " + std::to_string(c) + ")";
  const double nc = 2.0 * static_cast<double>(n) * static_cast<double>(c);
  const auto x = normals(n * c, 1), dy = normals(n * c, 2), residual = normals(n * c, 3), scale = normals(c, 4), shift = normals(c, 5);
  device<bfloat16> y(n * c), sum(n * c), dscale(c), dshift(c);
  device<float> mean(n), rstd(n);
  cd::norm_call<bfloat16> forward{x.data(), nullptr, scale.data(), shift.data(), nullptr, y.data(), mean.data(), rstd.data(), n, c, 1e-5f};
  b.run("layer_norm", shape, 2 * nc, [&] { cd::norm<true>(q, forward); });
  cd::norm_call<bfloat16> with_sum = forward;
  with_sum.added = residual.data(), with_sum.sum = sum.data();
  b.run("layer_norm_of_sum", shape, 4 * nc, [&] { cd::norm<true>(q, with_sum); });
  cd::norm_pullback_call<bfloat16> back{x.data(), scale.data(), dy.data(), nullptr, mean.data(), rstd.data(), y.data(), nullptr, n, c};
  b.run("layer_norm_pullback", shape, 3 * nc, [&] { cd::norm_pullback<true>(q, back, dscale.data(), dshift.data()); });
  back.residual = residual.data();
  b.run("layer_norm_pullback_and_residual", shape, 4 * nc, [&] { cd::norm_pullback<true>(q, back, dscale.data(), dshift.data()); });

  for (const index_t length : {20, 200}) {  // tokens of a sentence
    const index_t s = n / length;
    std::vector<int> ids(static_cast<std::size_t>(n));
    for (index_t i = 0, k = 0, left = length; i < n; ++i) {
      ids[static_cast<std::size_t>(i)] = static_cast<int>(k);
      if (--left == 0 && k < s - 1) left = length / 2 + (k * 7919) % (length + 1), ++k;
    }
    const auto id = upload(ids);
    const auto u = normals(s * c, 6);
    device<bfloat16> du(s * c);
    const std::string of = shape + " by " + std::to_string(s);
    const double sc = 2.0 * static_cast<double>(s) * static_cast<double>(c);
    b.run("injection", of, 2 * nc + sc, [&] { cd::gather_rows<bfloat16>(q, n, c, u.data(), id.data(), x.data(), y.data()); });
    b.run("segment_sum", of, nc + 2 * sc, [&] { cd::add_segment_sums<bfloat16>(q, n, c, s, x.data(), id.data(), du.data()); });
  }
  {
    const index_t v = 50257;
    std::vector<int> ids(static_cast<std::size_t>(n));
    std::vector<char> seen(v);
    double distinct = 0;
    for (index_t i = 0; i < n; ++i) {  // about Zipf: id = V^u - 1
      const double u = philox{3}.uniform(static_cast<std::uint64_t>(i), 0);
      const int k = std::min(static_cast<int>(std::exp(u * std::log(double(v)))) - 1, int(v - 1));
      ids[static_cast<std::size_t>(i)] = k;
      distinct += seen[static_cast<std::size_t>(k)] ? 0 : 1;
      seen[static_cast<std::size_t>(k)] = 1;
    }
    const auto id = upload(ids);
    const auto table = normals(v * c, 7);
    device<bfloat16> dtable(v * c);
    const double touched = 2.0 * distinct * static_cast<double>(c);
    b.run("embedding", shape + " of 50257", nc + touched, [&] { cd::gather_rows<bfloat16>(q, n, c, table.data(), id.data(), nullptr, y.data()); });
    b.run("embedding_pullback", shape + " of 50257", nc + 2 * touched,
          [&] { cd::scatter_add_rows<bfloat16>(q, n, c, v, x.data(), id.data(), dtable.data()); });
  }
  b.run("column_sums", shape, nc, [&] { cd::add_matrix_column_sums<bfloat16>(q, n, c, x.data(), dscale.data()); });
  b.run("gelu", shape, 2 * nc, [&] { cd::for_each(q, n * c, ops::kernel::map<ops::gelu, bfloat16>{x.data(), y.data()}); });
  b.run("gelu_pullback", shape, 3 * nc, [&] { cd::for_each(q, n * c, ops::kernel::map_pullback<ops::gelu, bfloat16>{x.data(), dy.data(), y.data()}); });
  b.run("sum", shape, 3 * nc, [&] { cd::for_each(q, n * c, ops::kernel::sum<bfloat16>{x.data(), dy.data(), y.data()}); });
  b.run("add_scaled", shape, 3 * nc, [&] { cd::for_each(q, n * c, ops::kernel::add_scaled<bfloat16>{0.5f, x.data(), y.data()}); });
}

void losses(bench& b) {
  cuda_queue& q = b.q;
  for (const auto& [n, v, stride] : {std::array<index_t, 3>{2048, 50257, 50264}, {65536, 1024, 1024}, {16384, 4096, 4096}}) {
    const auto z0 = normals(n * stride, 8, 2);
    device<bfloat16> z(n * stride);
    cd::check(cudaMemcpy(z.data(), z0.data(), static_cast<std::size_t>(n * stride) * 2, cudaMemcpyDeviceToDevice), "cudaMemcpy");
    device<float> nll(n);
    const auto target = upload(std::vector<int>(static_cast<std::size_t>(n), 17));
    b.run("cross_entropy", "(" + std::to_string(n) + ", " + std::to_string(v) + ")", 4.0 * static_cast<double>(n) * static_cast<double>(v), [&, n = n, v = v, stride = stride] {
      cd::cross_entropy(q, cd::cross_entropy_call<bfloat16>{z.data(), target.data(), nullptr, nll.data(), n, v, stride, 1.f, true});
    });
  }
}

void updates(bench& b) {
  cuda_queue& q = b.q;
  const index_t n = 124'439'808;
  device<float> w(n), m(n), v(n), part((n + 8191) / 8192), total(1);
  device<bfloat16> copy(n);
  const auto g = normals(n, 11);
  std::vector<decay_range> ranges;
  for (index_t i = 0; i < 100; ++i) ranges.push_back({i * 1'000'000, 4096, 0.0});
  const planlm::kernel::adamw<float> rule{m.data(), v.data(), 0.9f, 0.1f, 0.99f, 0.01f, 1e-3f, 1.f, 1e-8f, 1e-4f};
  b.run("adamw", "124M in 201 ranges", 30.0 * static_cast<double>(n), [&] {
    cd::update_weights(q, n, w.data(), copy.data(), g.data(), static_cast<const float*>(nullptr), ranges, rule);
  }, 5);
  b.run("sum_of_squares", "124M", 2.0 * static_cast<double>(n), [&] {
    cd::block_squares<8192>(q, n, g.data(), part.data());
    cd::for_rows(q, 1, ops::kernel::total<float>{part.data(), total.data(), (n + 8191) / 8192});
  });
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU for the benchmark of rows\n");
    return 77;
  }
  bench b;
  {
    const std::size_t bytes = std::size_t{1} << 29;
    device<char> from(static_cast<index_t>(bytes)), to(static_cast<index_t>(bytes));
    b.run("copy", "512 MiB", 2.0 * double(bytes), [&] { cd::check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, b.q.stream()), "copy"); });
    b.run("copy", "100 MB", 2.0 * 65536 * 768 * 2, [&] {
      cd::check(cudaMemcpyAsync(to.data(), from.data(), std::size_t{65536} * 768 * 2, cudaMemcpyDeviceToDevice, b.q.stream()), "copy");
    });
    b.run("sum", "copy by a kernel, 256 MiB", 2.0 * double(bytes / 2), [&] {
      cd::for_each(b.q, index_t(bytes / 4), ops::kernel::scale<bfloat16>{2.f, reinterpret_cast<bfloat16*>(from.data()), reinterpret_cast<bfloat16*>(to.data())});
    });
  }
  b.wanted.assign(argv + 1, argv + argc);
  rows_of_width(b, 65536, 768);
  rows_of_width(b, 65536, 2048);
  rows_of_width(b, 8192, 3072);
  rows_of_width(b, 16384, 768);
  losses(b);
  updates(b);
  return 0;
}
