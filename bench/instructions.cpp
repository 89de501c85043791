/// A few fixed cases for counting instructions: what scripts/check-instructions runs under callgrind.
///
///     bench_instructions --list          the names of the cases, one a line
///     bench_instructions --about         one line of JSON: compiler, C library, processor
///     bench_instructions CASE            sets the case up, runs it once, then once more inside `planlm_counted`
///
/// One thread, small shapes, numbers from philox alone, and no -march=native, so the count depends on the source and on the compiler, not on
/// the machine or on what else it does. It says nothing about waiting for memory or about threads: scripts/bench measures those.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>
#if defined(__GLIBC__)
#include <gnu/libc-version.h>
#endif
#include <planlm/cpu.hpp>
#include <planlm/models/rollout.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/ops/cross_entropy.hpp>

/// callgrind counts from its call to its return.
extern "C" [[gnu::noinline]] void planlm_counted(const std::function<double()>& work, double& result) { result = work(); }

namespace {

using namespace planlm;
using B = cpu<float>;

std::vector<float> normal(index_t count, std::uint32_t stream, double scale = 1, double offset = 0) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>(offset + scale * philox{stream}.normal(static_cast<std::uint64_t>(i), 0));
  return v;
}
double sum(context<B>& cx, const_tensor<B> x) {
  double total = 0;
  for (const float v : cx.read(x)) total += double(v);
  return total;
}

/// Runs the case twice, the second time counted; says what came out, so that the compiler can leave out nothing that leads to it.
int count(const char* name, const std::function<double()>& work) {
  double result = work();
  planlm_counted(work, result);
  std::printf("{\"case\": \"%s\", \"result\": %.9g}\n", name, result);
  return std::isfinite(result) ? 0 : 1;
}

/// Sentences, labels, width: 48, 64, 64; weights, e = w E and their pullback.
template <class Policy>
int mixing_by(const char* name, const Policy& policy) {
  context<B> cx{B::queue{1}};
  const label_mixture<B> layer{64, 64};
  const parameters<label_mixture<B>> theta(cx, layer, philox{1});
  const std::vector<float> z = normal(48 * 64, 2), de = normal(48 * 64, 3);
  return count(name, [&] {
    auto scope = cx.scope();
    auto [e, pullback] = layer(cx, theta.weights, const_tensor<B>{z.data(), 48, 64}, policy);
    return sum(cx, pullback(const_tensor<B>{de.data(), 48, 64}, theta.grads)) + sum(cx, e);
  });
}

int mixing(const char* name) { return mixing_by(name, mixture{}); }
int mixing_top5(const char* name) { return mixing_by(name, top_k{5}); }

/// One causal sequence of 96, four heads of 32: forward and pullback.
int attention_of_heads(const char* name) {
  context<B> cx{B::queue{1}};
  const attention_shape shape{4, 4, 32, true};
  const std::vector<float> qkv = normal(96 * shape.packed_width(), 4), dy = normal(96 * 128, 5);
  const std::vector<int> offsets{0, 96};
  std::vector<int> positions;
  for (int t = 0; t < 96; ++t) positions.push_back(t);
  return count(name, [&] {
    auto scope = cx.scope();
    const sequences<B> all{cx.upload(offsets), offsets.data(), cx.upload(positions)};
    const const_tensor<B> x{qkv.data(), 96, shape.packed_width()};
    const auto heads = ops::attention(cx, shape, x, all);
    return sum(cx, ops::attention_pullback(cx, shape, x, all, heads, const_tensor<B>{dy.data(), 96, 128}));
  });
}

/// 64 rows of width 64, 1000 tokens: loss, gradients of rows and table.
int linear_cross_entropy(const char* name) {
  context<B> cx{B::queue{1}};
  const std::vector<float> hidden = normal(64 * 64, 6), table = normal(1000 * 64, 7, 0.1);
  std::vector<float> gradient(table.size());
  std::vector<int> targets;
  for (int r = 0; r < 64; ++r) targets.push_back(r * 389 % 1000);
  return count(name, [&] {
    auto scope = cx.scope();
    const auto loss = ops::linear_cross_entropy<B>(cx, {hidden.data(), 64, 64}, {table.data(), 1000, 64}, {targets.data(), 64}, {}, 1.f / 64,
                                                   {gradient.data(), 1000, 64});
    return double(cx.read_one(loss.total)) + sum(cx, loss.dhidden);
  });
}

/// 16 trajectories of 256 actions, lambda 1, with gradients.
int sub_trajectory_balance(const char* name) {
  context<B> cx{B::queue{1}};
  constexpr index_t rows = 16, steps = 256;
  const std::vector<float> taken = normal(rows * steps, 8, 1, -4), stop = normal(rows * (steps + 1), 9, 1, -4),
                           reward = normal(rows * (steps + 1), 10, 5, -20), flow{3.5f};
  const std::vector<int> lengths(rows, static_cast<int>(steps));
  const policy_terms<B> terms{{taken.data(), rows, steps}, {stop.data(), rows, steps + 1}, {reward.data(), rows, steps + 1}, {lengths.data(), rows}};
  const modified_sub_trajectory_balance loss{1, root_anchor::stop_probability};
  return count(name, [&] {
    auto scope = cx.scope();
    const auto l = loss(cx, terms, const_accum_tensor<B>{flow.data(), 1});
    return double(cx.read_one(l.total)) + sum(cx, l.dtaken);
  });
}

/// Planner and language model of two blocks of width 32, 4 chunks of 24 tokens in 3 sentences each: forward, pullback, AdamW.
int joint_step(const char* name) {
  context<B> cx{B::queue{1}};
  constexpr index_t vocabulary = 211, length = 24, width = 32, labels = 16, label_width = 16;
  constexpr int chunks = 4, per_chunk = 3, sentences = chunks * per_chunk;
  const planner_lm<B> model({vocabulary, length, width, 4, 2}, labels, label_width, 1);
  const planner<B> plan{label_width, labels, 2, 32, 1};
  using store = parameters<planner_lm<B>>;
  store lm(cx, model, philox{1});
  const parameters<planner<B>> theta(cx, plan, philox{2});
  planner_lm<B>::params grads = lm.grads;
  adamw<B> optimiser(cx, lm.flat_weights().size(), {}), planner_optimiser(cx, theta.flat_weights().size(), {});

  std::vector<int> tokens, targets, positions, offsets{0}, sentence, context_offsets{0}, context_positions;
  for (int b = 0; b < chunks; ++b) {
    for (int t = 0; t < length; ++t) {
      tokens.push_back((b * 31 + t * 17) % int(vocabulary)), targets.push_back((b * 31 + t * 17 + 17) % int(vocabulary));
      positions.push_back(t), sentence.push_back(b * per_chunk + t * per_chunk / int(length));
    }
    offsets.push_back(static_cast<int>(tokens.size()));
  }
  for (int s = 0; s < sentences; ++s) {
    for (int j = 0; j <= s % per_chunk; ++j) context_positions.push_back(j);
    context_offsets.push_back(static_cast<int>(context_positions.size()));
  }
  const auto rows = static_cast<index_t>(context_positions.size());
  const std::vector<float> embeddings = normal(rows * label_width, 11);
  return count(name, [&] {
    auto scope = cx.scope();
    const planned_rows<B> batch{cx.upload(tokens), cx.upload(targets), cx.upload(sentence),
                                {cx.upload(offsets), offsets.data(), cx.upload(positions)}, sentences};
    const sequences<B> contexts{cx.upload(context_offsets), context_offsets.data(), cx.upload(context_positions)};
    auto [logits, planner_pullback] = plan(cx, theta.weights, const_tensor<B>{embeddings.data(), rows, label_width}, contexts);
    auto [hidden, pullback] = model(cx, lm.weights, batch, const_tensor<B>(logits), mixture{});
    const auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(hidden), const_tensor<B>(lm.weights.lm.token.table), batch.targets, {},
                                                1.f / float(tokens.size()), grads.lm.token.table);
    planner_pullback(pullback(loss.dhidden, grads), theta.grads);
    optimiser.step(cx, lm.flat_weights(), lm.flat_grads(), 1e-4);
    planner_optimiser.step(cx, theta.flat_weights(), theta.flat_grads(), 1e-4);
    return double(cx.read_one(loss.total));
  });
}

/// Two texts of four prompt tokens, eight new ones each, drawn with the cache of keys and values.
int decoding(const char* name) {
  context<B> cx{B::queue{1}};
  const transformer_lm<B> model{{.vocabulary = 512, .length = 32, .width = 64, .heads = 4, .layers = 2}};
  const parameters<transformer_lm<B>> theta(cx, model, philox{1});
  rollout_sampler<transformer_lm<B>> sampler(cx, model, theta.weights, 2);
  const std::vector<std::vector<int>> prompts{{0, 1, 2, 3}, {4, 5, 6, 7}};
  const rollout_rule rule{.stop = 13, .shortest = 8, .longest = 8};
  return count(name, [&] {
    double total = 0;
    for (const auto& text : sampler.sample(prompts, rule, philox{7})) {
      for (const float log_q : text.taken) total += double(log_q);
    }
    return total;
  });
}

const std::vector<std::pair<const char*, int (*)(const char*)>> cases{
    {"mixing", mixing},
    {"mixing_top5", mixing_top5},
    {"attention", attention_of_heads},
    {"linear_cross_entropy", linear_cross_entropy},
    {"sub_trajectory_balance", sub_trajectory_balance},
    {"joint_step", joint_step},
    {"decoding", decoding},
};

void about() {
#if defined(__clang__)
  const std::string compiler = "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#elif defined(__GNUC__)
  const std::string compiler = "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#else
  const std::string compiler = "another compiler";
#endif
#if defined(__GLIBC__)
  const std::string library = std::string("glibc ") + gnu_get_libc_version();
#else
  const std::string library = "another C library";
#endif
#if defined(__x86_64__)
  const char* processor = "x86_64";
#elif defined(__aarch64__)
  const char* processor = "aarch64";
#else
  const char* processor = "another processor";
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  const char* checked = ", sanitizers";
#elif !defined(NDEBUG)
  const char* checked = ", assertions";
#elif defined(__AVX__)
  const char* checked = ", -march beyond the processor's first version";
#else
  const char* checked = "";
#endif
  std::printf("{\"compiler\": \"%s%s\", \"library\": \"%s\", \"processor\": \"%s\"}\n", compiler.c_str(), checked, library.c_str(), processor);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--about") == 0) return about(), 0;
  if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
    for (const auto& [name, run] : cases) std::printf("%s\n", name);
    return 0;
  }
  if (argc == 2)
    for (const auto& [name, run] : cases)
      if (std::strcmp(argv[1], name) == 0) return run(name);
  std::fprintf(stderr, "usage: %s CASE | --list | --about\n", argv[0]);
  return 2;
}
