/// Causal attention, forward and pullback: from packed queries, keys and values (N, 3 C) and dy (N, C) to y and the gradient (N, 3 C).
///
///     bench_attention [--threads=N] [--benchmark_filter=...]
///
/// causal/T...: 2048 rows in sequences of T, 12 heads of 64, as GPT-2 small has them. causal_narrow/T...: 4 heads of 32, those of the model
/// of two layers x 128. Projections are not part of it: block in bench_layers has them. Inputs: qkv is array 1300 with scale 4, dy array
/// 1301 with scale 2. Checks: `loss` is <y, dy>, `norm` that of the gradient. bench/peers/attention.py does the same in PyTorch.
#include "work.hpp"

#include <cstddef>
#include <string>
#include <vector>

#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/ops/attention.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

constexpr index_t rows = 2048;

struct causal final : bench::work {
  context<B> cx;
  attention_shape shape;
  index_t length;
  std::vector<int> offsets, positions;
  std::vector<float> qkv, dy;

  causal(int threads, index_t of, index_t heads, index_t width)
      : cx(B::queue{threads}), shape{heads, heads, width, true}, length(of), qkv(bench::hashed(rows * shape.packed_width(), 1300, 4)),
        dy(bench::hashed(rows * shape.query_width(), 1301, 2)) {
    for (index_t at = 0; at <= rows; at += length) offsets.push_back(static_cast<int>(at));
    for (index_t r = 0; r < rows; ++r) positions.push_back(static_cast<int>(r % length));
    gradients_made = double(qkv.size() * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    const sequences<B> all{{offsets.data(), offsets.size()}, offsets.data(), {positions.data(), positions.size()}};
    const const_tensor<B> x{qkv.data(), rows, shape.packed_width()}, upstream{dy.data(), rows, shape.query_width()};
    const auto heads = ops::attention(cx, shape, x, all);
    const auto dx = ops::attention_pullback(cx, shape, x, all, heads, upstream);
    benchmark::DoNotOptimize(heads.y.data);
    benchmark::DoNotOptimize(dx.data);
    if (!say) return;
    // Two products forward, five in the pullback, which has to make the scores again as long as no T x T matrix is kept.
    const double pairs = double(rows) * double(length + 1) / 2, c = double(shape.query_width());
    *say = {.flops = 7 * 2 * c * pairs,
            .bytes = 4 * double(rows) * (3 * c + c + 3 * c + 2 * c + 3 * c),
            .checks = {{"loss", bench::dot({heads.y.data, dy.size()}, dy)}, {"norm", bench::norm({dx.data, qkv.size()})}}};
  }
};

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [](int threads) {
    bench::works all(threads);
    for (const index_t length : {128, 256, 512, 1024, 2048}) {
      all.add<causal>("causal/T" + std::to_string(length), length, index_t{12}, index_t{64});
      all.add<causal>("causal_narrow/T" + std::to_string(length), length, index_t{4}, index_t{32});
    }
  });
}
