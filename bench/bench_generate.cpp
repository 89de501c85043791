/// Text from a language model with a KV cache: 128 new tokens from a prompt of eight, with their log-probabilities.
///
///     bench_generate [--threads=N] [--benchmark_filter='plain/B1/']
///
/// Two layers of width 128, four heads, 4096 tokens. Cases are KIND/B1 and KIND/B64, so many texts at once:
///   plain    a rollout, log q(token) and log q(stop) of every step, the stop masked
///   replay   the same for tokens that are given
///   planned  every sentence of 16 tokens follows a plan: planner over up to 16 embeddings, 64 labels, label mixture, adapter in the upper block
/// Weights and inputs are the hashed arrays of bench/peers/README.md; bench/peers/generate.py does the same work. Checks of plain and replay are
/// those of given tokens with the stop free: `loss`, the mean of -log q(token), and `norm`, the Euclidean norm of all log q(stop). Those of
/// planned: the same of log q(token) alone where always the most probable token is taken.
#include "case.hpp"
#include "train_step.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/cpu.hpp>
#include <planlm/models/rollout.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

constexpr index_t prompt_tokens = 8, new_tokens = 128, sentence_tokens = 16, most_context = 16;
constexpr int stop = 13;
const train_step::preset sizes{.layers = 2, .width = 128, .heads = 4, .vocabulary = 4096, .labels = 64, .label_width = 64, .batch = 1,
                               .length = 256, .sentences_per_chunk = 1, .context = most_context, .planner_heads = 2, .planner_inner = 256};
const lm_sizes lm_of{.vocabulary = sizes.vocabulary, .length = sizes.length, .width = sizes.width, .heads = sizes.heads, .layers = sizes.layers};

std::vector<int> prompt(index_t row) { return {static_cast<int>(row), 1, 2, 3, 4, 5, 6, 7}; }

/// -sum / n and the square root of the sum of squares.
struct sums {
  double sum = 0, squares = 0;
  index_t n = 0;
  void add(double x) { sum += x, squares += x * x, ++n; }
};

/// FLOP of the products and attention of `rows` texts, bytes of weights once a step and of the cache.
bench::figures figures_of(index_t rows, bool planned) {
  const double d = double(sizes.width), l = double(sizes.layers), v = double(sizes.vocabulary), c = double(sizes.label_width);
  const double n = double(new_tokens), p = double(prompt_tokens), b = double(rows), weights = 12 * d * d * l + v * d;
  const double places = n * (p + (n - 1) / 2);  // of the cache that the new tokens look at
  const double plans = planned ? (n / double(sentence_tokens) + 1) : 0, k = double(sizes.labels), context = double(most_context) / 2;
  const double of_a_plan = context * (5 * c * c + 2 * c * double(sizes.planner_inner)) + k * c + l / 2 * (k * c + c * d);
  return {.flops = 2 * b * (n * weights + (p - 1) * 12 * d * d * l + 2 * d * l * places + plans * of_a_plan),
          .bytes = 4 * (n * weights + 2 * b * d * l * places)};
}

struct rollouts {
  using model_type = transformer_lm<B>;
  context<B> cx;
  model_type model{lm_of};
  parameters<model_type> theta;
  rollout_sampler<model_type> sampler;
  std::vector<std::vector<int>> prompts;
  std::vector<rollout<float>> given;
  rollout_rule rule{.stop = stop, .shortest = new_tokens, .longest = new_tokens};
  std::uint32_t calls = 0;

  rollouts(int threads, index_t rows) : cx(B::queue{threads}), theta(cx, model, philox{1}), sampler(cx, model, theta.weights, rows) {
    std::uint32_t number = 0;
    train_step::fill(cx, theta, sizes, false, number);
    for (index_t b = 0; b < rows; ++b) {
      std::vector<int> actions;
      for (index_t k = 0; k < new_tokens; ++k) {
        const auto token = static_cast<int>(train_step::hashed(static_cast<std::uint32_t>(b * new_tokens + k), 1300) % 4096u);
        actions.push_back(token == stop ? stop + 1 : token);
      }
      prompts.push_back(prompt(b));
      given.push_back(given_rollout<float>(prompt(b), actions));
    }
  }
  void sample() { benchmark::DoNotOptimize(sampler.sample(prompts, rule, philox{7}.at_step(calls++)).data()); }
  void replay() { benchmark::DoNotOptimize(sampler.replay(given, rule).data()); }
  std::vector<std::pair<std::string, double>> checks() {
    rollout_rule free = rule;
    free.shortest = 0;
    sums taken, stops;
    for (const auto& z : sampler.replay(given, free)) {
      for (const float x : z.taken) taken.add(double(x));
      for (std::size_t k = 0; k < z.taken.size(); ++k) stops.add(double(z.stop[k]));  // the last stop is certain
    }
    return {{"loss", -taken.sum / double(taken.n)}, {"norm", std::sqrt(stops.squares)}};
  }
};

/// The embeddings that a sentence's planner sees: rows 16 b .. of array 1301, as many as sentences came before it, at least one.
struct planned_texts {
  using model_type = planner_lm<B>;
  using generator_type = generator<model_type>;
  context<B> cx;
  model_type model{lm_of, sizes.labels, sizes.label_width, sizes.first_adapted()};
  planner<B> plan{sizes.label_width, sizes.labels, sizes.planner_heads, sizes.planner_inner, 1};
  parameters<model_type> theta;
  parameters<planner<B>> planning;
  std::vector<float> embeddings;
  index_t rows;
  std::uint32_t calls = 0;

  planned_texts(int threads, index_t texts)
      : cx(B::queue{threads}), theta(cx, model, philox{1}), planning(cx, plan, philox{2}),
        embeddings(train_step::hashed_values<float>(texts * most_context * sizes.label_width, 1301, std::sqrt(12 / double(sizes.label_width)))),
        rows(texts) {
    std::uint32_t number = 0;
    for (std::size_t n = 0; n < theta.slots().size(); ++n) {
      const parameter_spec& spec = theta.slots()[n].spec;
      const std::string name = spec.name.starts_with("lm.") ? spec.name.substr(3) : spec.name;
      theta.write(cx, n, train_step::hashed_values<float>(spec.size(), number++, train_step::scale_of(name, sizes, false), name.ends_with(".scale")));
    }
    train_step::fill(cx, planning, sizes, true, number);
  }
  std::vector<float> weights_for(const generator_type& texts, std::span<const int> slots) {
    std::vector<float> e;
    std::vector<int> offsets{0}, positions;
    const index_t width = sizes.label_width;
    for (const int slot : slots) {
      const index_t n = std::clamp<index_t>(texts.text(slot).sentence.back(), 1, most_context);
      const auto from = embeddings.begin() + slot * most_context * width;
      e.insert(e.end(), from, from + n * width);
      for (index_t i = 0; i < n; ++i) positions.push_back(static_cast<int>(i));
      offsets.push_back(static_cast<int>(positions.size()));
    }
    auto scope = cx.scope();
    const sequences<B> contexts{cx.upload(offsets), offsets.data(), cx.upload(positions)};
    const const_tensor<B> z = cx.upload(std::span<const float>(e), static_cast<index_t>(positions.size()), width);
    const const_tensor<B> logits = plan(cx, planning.weights, z, contexts).value;
    return cx.read(const_tensor<B>(mixture{}.weights(cx, logits).value));
  }
  sums generate(const sampling_rule& rule) {
    generation_options how{.sequences = rows, .longest = prompt_tokens + new_tokens, .longest_sentence = sentence_tokens, .rule = rule};
    generator_type texts(cx, model, theta.weights, how, philox{7}.at_step(calls++));
    for (index_t b = 0; b < rows; ++b) texts.start(b, {.tokens = prompt(b)});
    while (texts.step([&](std::span<const int> slots) { return weights_for(texts, slots); })) {
    }
    sums all;
    for (index_t b = 0; b < rows; ++b)
      for (const float x : texts.text(b).plain) all.add(double(x));
    return all;
  }
};

void add(int threads, index_t rows) {
  const std::string size = "/B" + std::to_string(rows);
  const auto count = [=](benchmark::State& state, bench::figures f, std::vector<std::pair<std::string, double>> checks) {
    f.checks = std::move(checks);
    bench::report(state, f);
    state.counters["tokens_per_second"] = benchmark::Counter(double(rows * new_tokens), benchmark::Counter::kIsIterationInvariantRate);
  };
  bench::add("plain" + size, [=](benchmark::State& state) {
    rollouts g(threads, rows);
    g.sample();
    for (auto _ : state) g.sample();
    count(state, figures_of(rows, false), g.checks());
  });
  bench::add("replay" + size, [=](benchmark::State& state) {
    rollouts g(threads, rows);
    g.replay();
    for (auto _ : state) g.replay();
    count(state, figures_of(rows, false), g.checks());
  });
  bench::add("planned" + size, [=](benchmark::State& state) {
    planned_texts g(threads, rows);
    g.generate({});
    for (auto _ : state) g.generate({});
    const sums likely = g.generate({.greedy = true});
    count(state, figures_of(rows, true), {{"loss", -likely.sum / double(likely.n)}, {"norm", std::sqrt(likely.squares)}});
  });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [](int threads) {
    for (const index_t rows : {1, 64}) add(threads, rows);
  });
}
