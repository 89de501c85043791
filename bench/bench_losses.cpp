/// Losses with their gradients: modified sub-trajectory balance, trajectory balance and VarGrad of a language model's policy; lists of
/// preferences; weighted tokens.
///
///     bench_losses [--threads=N] [--benchmark_filter='sub_trajectory_balance/T512']
///
/// | case | what |
/// | --- | --- |
/// | sub_trajectory_balance, sub_trajectory_balance_anchored, trajectory_balance, vargrad / T... | 64 trajectories of T actions, no padding |
/// | listwise_average, listwise_soft_min / L32x5 | 32 lists of 5 generations of 4 to 128 tokens, from token logits to their gradient |
/// | token_objective / V8192, V50257 | sum of w nll - h H from hidden states and table to the gradients of both; 2048 x 256, 512 x 768 rows |
///
/// Inputs are the hashed arrays of bench/peers/README.md; bench/peers/losses.py does the same work. Checks: `loss`; `gradient`, the Euclidean
/// norm of the gradient of actions, logits or hidden states; `table_gradient`. FLOP are those of the sums that the gradient is made of (a
/// product's where there is one), an exponential or logarithm counted as one. The time of sub-trajectory balance has to grow with at most the
/// 1.15th power of the length from 8 to 4096.
#include "work.hpp"

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>
#include <planlm/cpu.hpp>
#include <planlm/objectives/listwise_preference.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/objectives/policy_trajectory_balance.hpp>
#include <planlm/ops/token_objective.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

using bench::hash, bench::hashed;

/// 64 trajectories of `length` actions each.
struct rollouts {
  static constexpr index_t rows = 64;
  index_t length;
  std::vector<float> taken, stop, reward, flow{3.5f};
  std::vector<int> lengths;
  explicit rollouts(index_t n)
      : length(n), taken(hashed(rows * n, 1200, 8, -4)), stop(hashed(rows * (n + 1), 1201, 8, -4)), reward(hashed(rows * (n + 1), 1202, 20, -20)),
        lengths(static_cast<std::size_t>(rows), static_cast<int>(n)) {}
  policy_terms<B> terms() const {
    return {{taken.data(), rows, length}, {stop.data(), rows, length + 1}, {reward.data(), rows, length + 1}, {lengths.data(), lengths.size()}};
  }
};

/// An action costs `flops`; `arrays` of one number an action are read and written.
template <class Loss>
struct of_rollouts final : bench::work {
  context<B> cx;
  rollouts data;
  Loss loss;
  double flops, arrays;

  of_rollouts(int threads, const Loss& with, index_t length, double flops_of_an_action, double arrays_touched)
      : cx(B::queue{threads}), data(length), loss(with), flops(flops_of_an_action), arrays(arrays_touched) {
    gradients_made = double((data.taken.size() + data.stop.size()) * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    const auto l = loss(cx, data.terms(), const_accum_tensor<B>{data.flow.data(), 1});
    benchmark::DoNotOptimize(l.dtaken.data);
    if (!say) return;
    const double actions = double(data.taken.size());
    *say = {.flops = flops * actions,
            .bytes = 4 * arrays * actions,
            .checks = {{"loss", double(cx.read_one(l.total))}, {"gradient", bench::norm(cx.read(l.dtaken))}}};
  }
};

/// Element t of generation s is number 128 s + t of the array of logits, whatever the lengths.
struct generations {
  static constexpr index_t lists = 32, places = 5, longest = 128;
  std::vector<int> first, length, offsets;
  std::vector<float> z;
  std::vector<double> score;
  generations() {
    const index_t count = lists * places;
    const std::vector<float> all = hashed(count * longest, 1210, 4), scores = hashed(count, 1212, 2);
    score.assign(scores.begin(), scores.end());
    for (index_t l = 0; l <= lists; ++l) offsets.push_back(static_cast<int>(l * places));
    for (index_t s = 0; s < count; ++s) {
      first.push_back(static_cast<int>(z.size()));
      length.push_back(4 + static_cast<int>(hash(static_cast<std::uint32_t>(s), 1211) % 125));
      z.insert(z.end(), all.begin() + s * longest, all.begin() + s * longest + length.back());
    }
  }
  view<const float, 1> logits() const { return {z.data(), z.size()}; }
  preference_lists<B> ordered() const {
    return {{first.data(), first.size()}, {length.data(), length.size()}, {offsets.data(), offsets.size()}, {score.data(), score.size()}};
  }
};

template <class Aggregation>
struct listwise final : bench::work {
  context<B> cx;
  generations data;
  listwise_preference<soft_clipped_reward, Aggregation> loss;

  listwise(int threads, const Aggregation& aggregate) : cx(B::queue{threads}), loss{{}, aggregate} {
    gradients_made = double(data.z.size() * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    const auto l = loss(cx, data.logits(), data.ordered());
    benchmark::DoNotOptimize(l.dz.data);
    if (!say) return;
    // A token: two softplus and their slopes, its part of the sum, its gradient.
    const double tokens = double(data.z.size());
    *say = {.flops = 12 * tokens,
            .bytes = 4 * 2 * tokens,
            .checks = {{"loss", double(cx.read_one(l.total))}, {"gradient", bench::norm(cx.read(l.dz))}}};
  }
};

struct token_objective final : bench::work {
  context<B> cx;
  index_t rows, width, vocabulary;
  std::vector<float> hidden, table, likelihood, entropy, dtable;
  std::vector<int> token;

  token_objective(int threads, index_t n, index_t c, index_t v)
      : cx(B::queue{threads}), rows(n), width(c), vocabulary(v), hidden(hashed(n * c, 1220, 2)), table(hashed(v * c, 1221, 0.5)),
        likelihood(hashed(n, 1222, 1, 0.7)), entropy(hashed(n, 1223, 0.1, 0.125)), dtable(table.size(), 1.f) {
    for (std::uint32_t r = 0; r < likelihood.size(); ++r) {
      token.push_back(static_cast<int>(hash(r, 1224) % static_cast<std::uint32_t>(v)));
      likelihood[r] /= float(n), entropy[r] /= float(n);
    }
    gradients_made = double(hidden.size() * sizeof(float));
  }
  void step(bench::figures* say) override {
    auto scope = cx.scope();
    const tensor<B> dt{dtable.data(), vocabulary, width};
    B::zero(cx.queue(), dt.data, dtable.size() * sizeof(float));
    const auto l = ops::linear_token_objective<B>(cx, {hidden.data(), rows, width}, {table.data(), vocabulary, width}, {token.data(), token.size()},
                                                  {.likelihood = {likelihood.data(), rows}, .entropy = {entropy.data(), rows}}, dt);
    benchmark::DoNotOptimize(l.gradient.data);
    if (!say) return;
    const double n = double(rows), c = double(width), v = double(vocabulary);
    *say = {.flops = 6 * n * c * v,
            .bytes = 4 * (2 * n * c + 3 * v * c),
            .checks = {{"loss", double(cx.read_one(l.total))}, {"gradient", bench::norm(cx.read(l.gradient))}, {"table_gradient", bench::norm(dtable)}}};
  }
};

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [](int threads) {
    bench::works all(threads);
    for (const index_t length : {8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
      // Sub-trajectories: a residual, its place in four running sums forth and back, two gradients; reads three arrays, writes two. The others
      // read the actions and the last stop, and write one number everywhere.
      const auto add = [&](const char* name, const auto& loss, double flops, double arrays) {
        all.add<of_rollouts<std::decay_t<decltype(loss)>>>(name + ("/T" + std::to_string(length)), loss, length, flops, arrays);
      };
      add("sub_trajectory_balance", modified_sub_trajectory_balance{1, root_anchor::stop_probability}, 16, 5);
      add("sub_trajectory_balance_anchored", modified_sub_trajectory_balance{1, root_anchor::batch_mean}, 16, 5);
      add("trajectory_balance", policy_trajectory_balance<>{}, 1, 3);
      add("vargrad", policy_log_partition_variance{}, 1, 3);
    }
    all.add<listwise<aggregation::average>>("listwise_average/L32x5", aggregation::average{});
    all.add<listwise<aggregation::soft_min>>("listwise_soft_min/L32x5", aggregation::soft_min{});
    all.add<token_objective>("token_objective/V8192", index_t{2048}, index_t{256}, index_t{8192});
    all.add<token_objective>("token_objective/V50257", index_t{512}, index_t{768}, index_t{50257});
  });
}
