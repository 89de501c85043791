/// Linear + cross-entropy, forward and backward, at (8192 tokens, 768, 50257 words): time, and memory beyond inputs and gradients. One JSON line.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <planlm/cuda.cuh>
#include <planlm/ops/cross_entropy.hpp>

#include "events.cuh"

using namespace planlm;

namespace {

using namespace events;
using B = cuda<bfloat16>;

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU for the benchmark of the loss\n");
    return 77;
  }
  context<B> cx;
  const index_t n = 8192, c = 768, v = 50257;
  const auto h = normals(n * c, 9), table = normals(v * c, 10, 0.02f);
  device<bfloat16> dtable(v * c);
  std::vector<int> ids(static_cast<std::size_t>(n));
  for (index_t i = 0; i < n; ++i) ids[static_cast<std::size_t>(i)] = static_cast<int>(i * 7919 % v);
  const auto target = upload(ids);
  const auto loss = [&] {
    auto scope = cx.scope();
    ops::linear_cross_entropy(cx, const_tensor<B>(h.data(), n, c), const_tensor<B>(table.data(), v, c), indices<B>(target.data(), n),
                              const_accum_tensor<B>{}, 1.f / float(n), tensor<B>(dtable.data(), v, c));
  };
  std::size_t before = 0, after = 0, whole = 0;
  cd::check(cudaMemGetInfo(&before, &whole), "cudaMemGetInfo");
  loss();
  cd::check(cudaDeviceSynchronize(), "loss");
  cd::check(cudaMemGetInfo(&after, &whole), "cudaMemGetInfo");
  const double s = seconds(cx.queue(), 5, loss);
  std::printf("{\"program\": \"planlm\", \"kernel\": \"linear_cross_entropy\", \"shape\": \"(8192, 768, 50257)\", \"fused_rows\": %s, \"microseconds\": %.1f, \"teraflops\": %.0f, "
              "\"extra_megabytes\": %.0f}\n",
              ops::HasFusedCrossEntropy<B> ? "true" : "false", s * 1e6, 6.0 * 8192 * 768 * 50257 / s * 1e-12, double(before - after) * 1e-6);
  return 0;
}
