/// Label mixing, forward and pullback, by every policy, beside the dense products that the whole mixture cannot do without.
///
///     bench_mixing [--threads=N] [--benchmark_filter='top5/K1024']
///
/// The gradient of the table is written, not added to (into::replace), as the peer's, which has none before. Training in this library adds to
/// gradients that are zeroed once a step: top5_adding is top5 that way, with the zeroing, and so is its peer.
///
/// Cases are POLICY/SIZE: full (softmax), top5, top5_adding, gumbel, gumbel_hard, straight_through, hard, sampled, uniform, fixed, oracle;
/// `products` are the three products of the mixture alone, into memory that is there. A size is 512 sentences, 1024 labels, 768 columns
/// with one of them replaced, K64 (labels), S64 (sentences), C64 (columns), or all three, S64xK64xC64. Inputs are the hashed arrays of bench/peers/README.md;
/// bench/peers/mixing.py does the same work. Checks: `loss` is <e, de>; `score_gradient`, `table_gradient` are Euclidean norms, 0 where no
/// gradient flows, `norm` that of both. FLOP and bytes are what the policy cannot do without, not what is done.
#include "case.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>
#include <planlm/cpu.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

struct shape {
  std::string name;
  index_t s = 512, k = 1024, c = 768;  // sentences, labels, columns
};

std::uint32_t hash(std::uint32_t i, std::uint32_t number) {
  std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
  h ^= h >> 15, h *= 2246822519u;
  return h ^ (h >> 13);
}
std::vector<float> hashed(index_t count, std::uint32_t number, double scale) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (std::uint32_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>((double(hash(i, number)) / 4294967296.0 - 0.5) * scale);
  return v;
}
template <class T>
double squares(view<T, 2> x) {
  double sum = 0;
  for (index_t i = 0; i < x.size(); ++i) sum += double(x.data[i]) * double(x.data[i]);
  return sum;
}

struct operands {
  context<B> cx;
  shape size;
  label_mixture<B> layer;
  parameters<label_mixture<B>> theta;
  const_tensor<B> z, de;  // where the library would put them: at an address that vectors can begin with, as PyTorch's
  std::vector<int> label;
  operands(int threads, const shape& n)
      : cx(B::queue{threads}), size(n), layer{n.k, n.c}, theta(cx, layer, philox{1}), z(given(n.s, n.k, 1100, 8)), de(given(n.s, n.c, 1102, 2)) {
    theta.write(cx, 0, hashed(n.k * n.c, 1101, std::sqrt(12 / double(n.c))));
    for (index_t i = 0; i < n.s; ++i)
      label.push_back(static_cast<int>(hash(static_cast<std::uint32_t>(i), 1103) % static_cast<std::uint32_t>(n.k)));
  }
  const_tensor<B> logits() const { return z; }
  const_tensor<B> gradient() const { return de; }

 private:
  const_tensor<B> given(index_t rows, index_t cols, std::uint32_t number, double scale) {
    const std::vector<float> values = hashed(rows * cols, number, scale);
    return cx.upload(std::span<const float>(values), rows, cols);
  }
};

/// What a policy needs of z and E: all labels or `chosen` of them forward, all or none of dw backward.
struct needs {
  bool reads_logits = true, passes_gradient = true;
  index_t chosen = 0;  // labels of a sentence that have a weight; 0: all
  bool all_of_dw = true;
  bool alike = false;  // one row of weights for all sentences: one row of e, one sum of de
  bool adds = false;   // to a gradient of the table that is zeroed
};
/// The gradient of the table is made anew: all its rows are written, none is read. What adds reads and writes once more.
bench::figures figures_of(const shape& n, const needs& what) {
  const double s = double(n.s), k = double(n.k), c = double(n.c), chosen = what.chosen ? double(what.chosen) : k;
  const double rows = std::min(k, what.alike ? chosen : s * chosen);  // of the table that are read forward
  const double backward = !what.passes_gradient ? 0 : what.all_of_dw ? k : chosen;
  const double read = what.passes_gradient && what.all_of_dw ? k : rows;
  return {.flops = what.alike ? s * c + 2 * chosen * c : 2 * s * c * (2 * chosen + backward),
          .bytes = 4 * ((what.reads_logits ? s * k : 0) + (what.passes_gradient ? s * k : 0) + 2 * s * c + (read + k + (what.adds ? 2 * rows : 0)) * c)};
}

/// `policy(operands)` is the mixing policy.
template <class Policy>
void mixing(benchmark::State& state, int threads, const shape& n, const needs& what, const Policy& policy) {
  operands o(threads, n);
  const auto mix = policy(o);
  const auto step = [&] {
    auto scope = o.cx.scope();
    if (what.adds) o.theta.zero_grads(o.cx);
    auto [e, pullback] = o.layer(o.cx, o.theta.weights, o.logits(), mix);
    benchmark::DoNotOptimize(pullback(o.gradient(), o.theta.grads, what.adds ? into::add : into::replace).data);
    benchmark::DoNotOptimize(e.data);
  };
  // The peers' first two steps are not timed either.
  step(), step();
  for (auto _ : state) step();
  auto scope = o.cx.scope();
  auto [e, pullback] = o.layer(o.cx, o.theta.weights, o.logits(), mix);
  if (what.adds) o.theta.zero_grads(o.cx);
  const const_tensor<B> dz = pullback(o.gradient(), o.theta.grads, what.adds ? into::add : into::replace);
  double loss = 0;
  for (index_t i = 0; i < e.size(); ++i) loss += double(e.data[i]) * double(o.de[i]);
  const double scores = dz ? squares(dz) : 0, table = squares(o.theta.grads.table);
  bench::figures f = figures_of(n, what);
  f.checks = {{"loss", loss}, {"norm", std::sqrt(scores + table)}, {"score_gradient", std::sqrt(scores)}, {"table_gradient", std::sqrt(table)}};
  bench::report(state, f);
}

void products(benchmark::State& state, int threads, const shape& n) {
  operands o(threads, n);
  const const_tensor<B> table = o.theta.weights.table;
  const auto step = [&] {
    auto scope = o.cx.scope();
    benchmark::DoNotOptimize(ops::matmul(o.cx, o.logits(), table).data);
    B::gemm(o.cx.queue(), 1, transposed(o.logits()), plain(o.gradient()), plain(o.theta.grads.table), into::replace);
    benchmark::DoNotOptimize(ops::matmul_nt(o.cx, o.gradient(), table).data);
  };
  step(), step();
  for (auto _ : state) step();
  bench::report(state, figures_of(n, {}));
}

std::vector<shape> shapes() {
  std::vector<shape> all;
  for (const index_t k : {64, 128, 256, 512, 1024, 2048, 4096}) all.push_back({.name = "K" + std::to_string(k), .k = k});
  for (const index_t s : {64, 256, 1024, 4096}) all.push_back({.name = "S" + std::to_string(s), .s = s});
  for (const index_t c : {64, 256, 1024, 2048}) all.push_back({.name = "C" + std::to_string(c), .c = c});
  for (const shape& n : {shape{"", 64, 64, 64}, {"", 128, 64, 64}, {"", 512, 1024, 768}, {"", 4096, 4096, 768}})
    all.push_back({"S" + std::to_string(n.s) + "xK" + std::to_string(n.k) + "xC" + std::to_string(n.c), n.s, n.k, n.c});
  return all;
}

template <class Policy>
void add(const std::string& name, int threads, const needs& what, const Policy& policy) {
  for (const shape& n : shapes())
    bench::add(name + "/" + n.name, [=](benchmark::State& state) { mixing(state, threads, n, what, policy); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [](int threads) {
    const needs row_of_a_label{.reads_logits = false, .passes_gradient = false, .chosen = 1};
    add("full", threads, {}, [](const operands&) { return mixture{}; });
    add("top5", threads, {.chosen = 5, .all_of_dw = false}, [](const operands&) { return top_k{5}; });
    add("top5_adding", threads, {.chosen = 5, .all_of_dw = false, .adds = true}, [](const operands&) { return top_k{5}; });
    add("gumbel", threads, {}, [](const operands&) { return gumbel_softmax{}; });
    add("gumbel_hard", threads, {.chosen = 1}, [](const operands&) { return gumbel_softmax{.discrete = true}; });
    add("straight_through", threads, {.chosen = 1}, [](const operands&) { return straight_through{}; });
    add("hard", threads, {.passes_gradient = false, .chosen = 1}, [](const operands&) { return hard{}; });
    add("sampled", threads, {.passes_gradient = false, .chosen = 1}, [](const operands&) { return sampled{}; });
    add("uniform", threads, {.reads_logits = false, .passes_gradient = false, .alike = true}, [](const operands&) { return uniform{}; });
    add("fixed", threads, {.reads_logits = false, .passes_gradient = false, .chosen = 1, .alike = true}, [](const operands&) { return fixed{3}; });
    add("oracle", threads, row_of_a_label, [](const operands& o) { return oracle<B>{{o.label.data(), o.label.size()}}; });
    for (const shape& n : shapes()) bench::add("products/" + n.name, [=](benchmark::State& state) { products(state, threads, n); });
  });
}
