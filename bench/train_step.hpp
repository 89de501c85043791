/// One training step on any backend, forward, pullback, AdamW: joint, of the planner-conditioned language model, or of a plain language model.
///
/// Weights and inputs follow bench/peers/inputs.py to the bit, so the losses printed here and by bench/peers/train_step.py are those of
/// the same computation. Mode joint: the language model is frozen; mode full: everything is trained; plain: neither planner nor adapters.
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/models/planner_lm.hpp>
#include <planlm/models/transformer_lm.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/planning/planner.hpp>
#include <planlm/training/adamw.hpp>
#include <planlm/training/parameters.hpp>

namespace train_step {

using namespace planlm;

struct preset {
  index_t layers, width, heads, vocabulary, labels, label_width;
  int batch, length, sentences_per_chunk, context;
  index_t planner_heads, planner_inner;
  index_t first_adapted() const { return std::min<index_t>(2, layers / 2); }
  int sentences() const { return batch * sentences_per_chunk; }
};
inline const std::map<std::string, preset> presets{
    {"check", {2, 16, 2, 61, 7, 12, 2, 9, 3, 4, 2, 20}},
    {"2x128", {2, 128, 4, 4096, 64, 64, 16, 128, 8, 16, 2, 256}},
    {"4x256", {4, 256, 8, 8192, 128, 128, 16, 128, 8, 16, 2, 512}},
    {"gpt2", {12, 768, 12, 50257, 1024, 768, 1, 512, 32, 16, 2, 2048}},
    {"gpt2-1024", {12, 768, 12, 50257, 1024, 768, 16, 1024, 64, 16, 2, 2048}}};

// tests/golden/hashed.py
inline std::uint32_t hashed(std::uint32_t i, std::uint32_t number) {
  std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
  h ^= h >> 15;
  h *= 2246822519u;
  return h ^ (h >> 13);
}
template <class T>
std::vector<T> hashed_values(index_t size, std::uint32_t number, double scale, double offset = 0) {
  std::vector<T> v(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = T(static_cast<float>(offset + (hashed(static_cast<std::uint32_t>(i), number) / 4294967296.0 - 0.5) * scale));
  return v;
}

// The scale of a parameter by its name: inputs.py, parameter_list.
inline double scale_of(const std::string& name, const preset& z, bool of_planner) {
  const double c = double(z.label_width), d = double(z.width);
  const bool bias = name.ends_with(".b"), head = name.starts_with("head");
  if (name.ends_with(".scale") || name.ends_with(".shift")) return 0;
  if (bias) return 0.02;
  if (of_planner && head) return std::sqrt(12 / c);
  if (of_planner) return 2 / std::sqrt(name.find("mlp.down") != name.npos ? double(z.planner_inner) : c);
  if (name.starts_with("adapters.")) return name.ends_with(".table") ? std::sqrt(12 / c) : std::sqrt(24 / (c + d));
  return 0.07;
}
template <class M>
void fill(context<typename M::backend>& cx, parameters<M>& theta, const preset& z, bool of_planner, std::uint32_t& number) {
  for (std::size_t n = 0; n < theta.slots().size(); ++n) {
    const parameter_spec& spec = theta.slots()[n].spec;
    const double scale = scale_of(spec.name, z, of_planner), offset = spec.name.ends_with(".scale") ? 1 : 0;
    theta.write(cx, n, hashed_values<typename M::backend::accum>(spec.size(), number++, scale, offset));
  }
}

inline long status_bytes(const char* field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field)) return std::atol(line.c_str() + std::string(field).size() + 1) * 1024;
  return 0;
}

/// The rows of a batch of tokens, as inputs.py makes them.
struct token_rows {
  std::vector<int> tokens, targets, positions, offsets{0};
  explicit token_rows(const preset& z) {
    for (int b = 0; b < z.batch; ++b) {
      for (int t = 0; t < z.length; ++t) {
        const auto at = static_cast<std::uint32_t>(b * (z.length + 1) + t);
        tokens.push_back(static_cast<int>(hashed(at, 1000) % static_cast<std::uint32_t>(z.vocabulary)));
        targets.push_back(static_cast<int>(hashed(at + 1, 1000) % static_cast<std::uint32_t>(z.vocabulary)));
        positions.push_back(t);
      }
      offsets.push_back(static_cast<int>(tokens.size()));
    }
  }
};
/// Arrays of a batch where kernels can read them, outside the arena: it is empty between steps, and so becomes one block of what a step needs.
template <class B>
class held_arrays {
 public:
  template <class T>
  view<const T, 1, typename B::space> hold(context<B>& cx, const std::vector<T>& host) {
    constexpr std::size_t words = sizeof(T) / sizeof(std::uint16_t);
    arrays_.emplace_back(cx, static_cast<index_t>(host.size() * words));
    T* to = reinterpret_cast<T*>(arrays_.back().values().data);
    B::upload(cx.queue(), to, host.data(), host.size() * sizeof(T));
    return {to, static_cast<index_t>(host.size())};
  }

 private:
  std::vector<buffer<B, std::uint16_t>> arrays_;
};
inline constexpr adamw_options adam{.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01};

/// Adds the squares of a store's gradients to `sum`; they are zero afterwards. By parts: a copy of a whole table would count as memory.
template <class M>
void take_gradients(context<typename M::backend>& cx, parameters<M>& store, double& sum) {
  const tensor<typename M::backend, 1> all = store.flat_grads();
  constexpr index_t part = index_t{1} << 18;
  for (index_t at = 0; at < all.size(); at += part)
    for (const auto g : cx.read(tensor<typename M::backend, 1>(all.data + at, std::min(part, all.size() - at)))) sum += double(g) * double(g);
  store.zero_grads(cx);
}

/// What is asked for on the command line.
struct options {
  std::string preset = "2x128", mode = "joint", kept = "activations", precision = "float32";
  int threads = 2, steps = 20, warm_up = 2;
  double learning_rate = 1e-4;
  bool wait_each = true;  // false: one time for all steps together, nothing waits in between
  bool valid = true;
};
inline options parse(int argc, char** argv) {
  options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--preset") o.preset = value;
    else if (flag == "--mode") o.mode = value;
    else if (flag == "--keep") o.kept = value;
    else if (flag == "--precision") o.precision = value;
    else if (flag == "--threads") o.threads = std::atoi(value.c_str());
    else if (flag == "--steps") o.steps = std::atoi(value.c_str());
    else if (flag == "--warm-up") o.warm_up = std::atoi(value.c_str());
    else if (flag == "--learning-rate") o.learning_rate = std::atof(value.c_str());
    else o.valid = false;
  }
  o.valid = o.valid && argc % 2 == 1 && presets.contains(o.preset) && o.threads > 0 && o.steps > 0 && o.warm_up >= 0 &&
            (o.mode == "joint" || o.mode == "full") && (o.kept == "activations" || o.kept == "inputs");
  if (!o.valid)
    std::fprintf(stderr, "usage: %s --preset check|2x128|4x256|gpt2|gpt2-1024 --mode joint|full --keep activations|inputs --steps N "
                         "--warm-up N [--threads N] [--learning-rate R] [--precision float32|tf32|bf16]\n", argv[0]);
  return o;
}

/// Runs a step as it is. The CUDA program has one that records a graph instead.
struct plain_runner {
  template <class Queue, class Step>
  void operator()(Queue&, const Step& step) const {
    step();
  }
};

/// Model FLOPs of the forward pass of a plain language model, without the factor 2 of a multiply-add: attention by its causal half.
inline double forward_products(const preset& z) {
  const double n = double(z.batch) * z.length, d = double(z.width);
  return n * (double(z.layers) * (12 * d * d + double(z.length) * d) + double(z.vocabulary) * d);
}
/// Of a joint or full step: 6 per weight of a product and token (4 where the weight is frozen), attention by its causal half, the mixture and
/// the planner per sentence. Counted from the shapes; recomputation does not count.
inline double step_flops(const preset& z, index_t context_rows, bool full) {
  const double n = double(z.batch) * z.length, d = double(z.width), v = double(z.vocabulary), l = double(z.layers);
  const double block = 12 * d * d, attention = 2 * double(z.length) / 2 * d;  // multiply-adds per token and layer
  const double adapted = l - double(z.first_adapted());
  const double forward = l * (block + attention) + v * d;
  // Below the first adapter a frozen model has no backward pass; above it only the gradient of the input, which nobody wants of the lowest
  // adapted block: its attention and the product before it are not pulled back.
  const double lowest = 3 * d * d + 2 * attention;
  const double backward = full ? 2 * forward : adapted * (block + 2 * attention) - lowest + v * d;
  const double c = double(z.label_width), k = double(z.labels), s = double(z.sentences());
  const double adapters = 3 * adapted * s * (k * c + c * d);
  const double planner = 3 * (double(context_rows) * (c * c + 4 * c * c + 2 * c * double(z.planner_inner)) + s * c * k);
  return 2 * (n * (forward + backward) + adapters + planner);
}

/// Model, optimisers and batch on one backend, and a step of them. It stays where it is made.
template <class B, class Kept>
class training {
 public:
  using accum = typename B::accum;
  training(typename B::queue queue, const preset& sizes, bool everything)
      : z(sizes), full(everything), cx(std::move(queue)),
        model({z.vocabulary, z.length, z.width, z.heads, z.layers}, z.labels, z.label_width, z.first_adapted()),
        plan{z.label_width, z.labels, z.planner_heads, z.planner_inner, 1},
        lm_(cx, model.lm, philox{1}, full ? lm_store::gradients::kept : lm_store::gradients::none),
        adapters_(cx, model.adapters, philox{2}),
        planner_(cx, plan, philox{3}),
        lm_optimiser_(cx, full ? lm_.flat_weights().size() : 0, adam),
        adapter_optimiser_(cx, adapters_.flat_weights().size(), adam),
        planner_optimiser_(cx, planner_.flat_weights().size(), adam) {
    // inputs.py numbers lm, adapters, planner in this order, the adapters under their own names.
    std::uint32_t number = 0;
    fill(cx, lm_, z, false, number);
    for (std::size_t n = 0; n < adapters_.slots().size(); ++n) {
      const parameter_spec& spec = adapters_.slots()[n].spec;
      adapters_.write(cx, n, hashed_values<accum>(spec.size(), number++, scale_of("adapters." + spec.name, z, false)));
    }
    fill(cx, planner_, z, true, number);
    weights_ = {lm_.weights, adapters_.weights}, grads_ = {lm_.grads, adapters_.grads};
    make_batch();
  }
  training(const training&) = delete;

  /// One step; its loss goes to `loss_at`. Without `update` the gradients stay as they are.
  void step(accum* loss_at, double rate, bool update = true) {
    auto scope = cx.scope();
    const auto planned = [&] { return plan(cx, planner_.weights, embeddings_, contexts_); };
    const auto rest = [&](const_tensor<B> logits) {
      auto [hidden, pullback] = model(cx, weights_, batch_, logits, mixture{}, !full);
      auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(hidden), const_tensor<B>(weights_.lm.token.table), batch_.targets, {},
                                            1 / static_cast<accum>(tokens()), grads_.lm.token.table);
      B::copy(cx.queue(), loss_at, loss.total.data, sizeof(accum));
      return pullback(loss.dhidden, grads_);  // the gradient of the logits
    };
    if constexpr (std::same_as<Kept, keep_inputs>) {  // of the planner, too
      const tensor<B> logits = [&] {
        auto temporaries = cx.scope();
        return temporaries.keep(planned().value);
      }();
      const const_tensor<B> dlogits = rest(logits);
      planned().pullback(dlogits, planner_.grads);
    } else {
      auto [logits, planner_pullback] = planned();
      planner_pullback(rest(logits), planner_.grads);
    }
    if (update) {
      if (full) lm_optimiser_.step(cx, lm_.flat_weights(), lm_.flat_grads(), rate);
      adapter_optimiser_.step(cx, adapters_.flat_weights(), adapters_.flat_grads(), rate);
      planner_optimiser_.step(cx, planner_.flat_weights(), planner_.flat_grads(), rate);
    }
  }
  /// The Euclidean norm of all gradients together; they are zero afterwards.
  double take_gradient_norm() {
    double sum = 0;
    if (full) take_gradients(cx, lm_, sum);
    take_gradients(cx, adapters_, sum), take_gradients(cx, planner_, sum);
    return std::sqrt(sum);
  }
  index_t tokens() const { return batch_.tokens.size(); }
  index_t context_rows() const { return embeddings_.rows(); }
  double flops() const { return step_flops(z, context_rows(), full); }
  index_t trained_weights() const { return (full ? lm_.count() : 0) + adapters_.count() + planner_.count(); }
  index_t all_weights() const { return lm_.count() + adapters_.count() + planner_.count(); }

  const preset z;
  const bool full;
  context<B> cx;

 private:
  using model_type = planner_lm<B, at_attention_output, label_adapter<B>, learned_positions<B>, no_rotation, Kept>;
  using lm_store = parameters<typename model_type::lm_type>;

  void make_batch() {
    const token_rows rows_of(z);
    std::vector<int> sentence, context_positions;
    for (int b = 0; b < z.batch; ++b)
      for (int t = 0; t < z.length; ++t) sentence.push_back(b * z.sentences_per_chunk + t * z.sentences_per_chunk / z.length);
    offsets_ = rows_of.offsets;
    for (int s = 0; s < z.sentences(); ++s) {
      const int n = std::clamp(s % 32, 1, z.context);
      for (int j = 0; j < n; ++j) context_positions.push_back(j);
      context_offsets_.push_back(static_cast<int>(context_positions.size()));
    }
    const auto rows = static_cast<index_t>(context_positions.size());
    const std::vector<typename B::real> embeddings =
        hashed_values<typename B::real>(rows * z.label_width, 1001, std::sqrt(12 / double(z.label_width)));
    // The batch stays where kernels read it, as the peer's does.
    const auto held = [&](const auto& host) { return arrays_.hold(cx, host); };
    batch_ = {held(rows_of.tokens), held(rows_of.targets), held(sentence), {held(offsets_), offsets_.data(), held(rows_of.positions)}, z.sentences()};
    contexts_ = {held(context_offsets_), context_offsets_.data(), held(context_positions)};
    embeddings_ = {held(embeddings).data, rows, z.label_width};
  }

  model_type model;
  planner<B> plan;
  lm_store lm_;
  parameters<typename model_type::adapter_stack> adapters_;
  parameters<planner<B>> planner_;
  adamw<B> lm_optimiser_, adapter_optimiser_, planner_optimiser_;
  typename model_type::params weights_, grads_;
  std::vector<int> offsets_, context_offsets_{0};
  planned_rows<B> batch_;
  sequences<B> contexts_;
  const_tensor<B> embeddings_;
  held_arrays<B> arrays_;
};

/// The same of the language model alone, all of it trained.
template <class B>
class plain_training {
 public:
  using accum = typename B::accum;
  plain_training(typename B::queue queue, const preset& sizes)
      : z(sizes), cx(std::move(queue)), model_{{z.vocabulary, z.length, z.width, z.heads, z.layers}},
        store_(cx, model_, philox{1}), optimiser_(cx, store_.flat_weights().size(), adam), rows_(z) {
    std::uint32_t number = 0;
    fill(cx, store_, z, false, number);
    tokens_ = arrays_.hold(cx, rows_.tokens), targets_ = arrays_.hold(cx, rows_.targets);
    sequences_ = {arrays_.hold(cx, rows_.offsets), rows_.offsets.data(), arrays_.hold(cx, rows_.positions)};
  }
  plain_training(const plain_training&) = delete;

  void step(accum* loss_at, double rate, bool update = true) {
    auto scope = cx.scope();
    const auto &p = store_.weights, &g = store_.grads;
    auto [hidden, pullback] = model_(cx, p, tokens_, sequences_);
    auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(hidden), const_tensor<B>(p.token.table), targets_, {},
                                          1 / static_cast<accum>(tokens_.size()), g.token.table);
    pullback(loss.dhidden, g);
    if (update) optimiser_.step(cx, store_.flat_weights(), store_.flat_grads(), rate);
    B::copy(cx.queue(), loss_at, loss.total.data, sizeof(accum));
  }
  double take_gradient_norm() {
    double sum = 0;
    take_gradients(cx, store_, sum);
    return std::sqrt(sum);
  }
  double flops() const { return 6 * forward_products(z); }
  index_t trained_weights() const { return store_.count(); }
  index_t all_weights() const { return store_.count(); }

  const preset z;
  context<B> cx;

 private:
  using model_type = transformer_lm<B>;
  model_type model_;
  parameters<model_type> store_;
  adamw<B> optimiser_;
  token_rows rows_;
  indices<B> tokens_, targets_;
  sequences<B> sequences_;
  held_arrays<B> arrays_;
};

/// Steps on one backend; prints a line of JSON.
template <class B, class Kept, class Runner = plain_runner>
int run(typename B::queue queue, const options& o, Runner runner = {}) {
  using accum = typename B::accum;
  const preset z = presets.at(o.preset);
  const bool full = o.mode == "full";
  training<B, Kept> trained(std::move(queue), z, full);
  context<B>& cx = trained.cx;
  const buffer<B, accum> kept_losses(cx, o.warm_up + o.steps);
  const auto one_step = [&](int step) { trained.step(kept_losses.values().data + step, o.learning_rate); };
  // The first steps one by one; the timed ones without waiting in between, as the peer's on a GPU.
  std::vector<double> seconds;
  const auto now = [&] {
    B::synchronize(cx.queue());
    return std::chrono::steady_clock::now();
  };
  auto begin = now();
  for (int step = 0; step < o.warm_up + o.steps; ++step) {
    runner(cx.queue(), [&] { one_step(step); });
    if (step < o.warm_up || o.wait_each || step + 1 == o.warm_up + o.steps) {
      const auto end = now();
      const double took = std::chrono::duration<double>(end - begin).count();
      if (step >= o.warm_up) seconds.push_back(o.wait_each ? took : took / o.steps);
      begin = end;
    }
  }
  const std::vector<accum> losses = cx.read(kept_losses.values());
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2], flops = step_flops(z, trained.context_rows(), full);
  std::printf("{\"program\": \"planlm\", \"preset\": \"%s\", \"mode\": \"%s\", \"keep\": \"%s\", \"precision\": \"%s\", \"threads\": %d, "
              "\"tokens_per_second\": %.1f, \"median_seconds\": %.6f, \"teraflops\": %.2f, \"peak_rss\": %ld, \"arena_peak\": %zu, "
              "\"scratch_peak\": %zu, \"losses\": [",
              o.preset.c_str(), o.mode.c_str(), o.kept.c_str(), o.precision.c_str(), o.threads, double(trained.tokens()) / median, median,
              flops / median * 1e-12, status_bytes("VmHWM"), cx.memory().peak_bytes(), cx.scratch_memory().peak_bytes());
  for (std::size_t i = 0; i < losses.size(); ++i) std::printf("%s%.9g", i ? ", " : "", double(losses[i]));
  std::printf("], \"seconds\": [");
  for (std::size_t i = 0; i < seconds.size(); ++i) std::printf("%s%.6f", i ? ", " : "", seconds[i]);
  std::printf("]}\n");
  return 0;
}

}  // namespace train_step
