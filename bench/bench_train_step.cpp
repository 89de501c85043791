/// One joint training step of the planner-conditioned language model: forward, pullback, AdamW.
///
///     bench_train_step --preset 2x128 --threads 2 [--mode joint|full] [--keep activations|inputs] [--steps 20]
///
/// Weights and inputs follow bench/peers/inputs.py to the bit, so the losses printed here and by bench/peers/train_step.py are those of
/// the same computation. Prints one line of JSON. Mode joint: the language model is frozen; mode full: everything is trained.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>
#include <planlm/cpu.hpp>
#include <planlm/training/adamw.hpp>

namespace {

using namespace planlm;
using B = cpu<float>;

struct preset {
  index_t layers, width, heads, vocabulary, labels, label_width;
  int batch, length, sentences_per_chunk, context;
  index_t planner_heads, planner_inner;
  index_t first_adapted() const { return std::min<index_t>(2, layers / 2); }
  int sentences() const { return batch * sentences_per_chunk; }
};
const std::map<std::string, preset> presets{{"check", {2, 16, 2, 61, 7, 12, 2, 9, 3, 4, 2, 20}},
                                            {"2x128", {2, 128, 4, 4096, 64, 64, 16, 128, 8, 16, 2, 256}},
                                            {"4x256", {4, 256, 8, 8192, 128, 128, 16, 128, 8, 16, 2, 512}},
                                            {"gpt2", {12, 768, 12, 50257, 1024, 768, 1, 512, 32, 16, 2, 2048}}};

// tests/golden/hashed.py
std::uint32_t hashed(std::uint32_t i, std::uint32_t number) {
  std::uint32_t h = i * 2654435761u + (number + 1) * 2246822519u;
  h ^= h >> 15;
  h *= 2246822519u;
  return h ^ (h >> 13);
}
std::vector<float> hashed_values(index_t size, std::uint32_t number, double scale, double offset = 0) {
  std::vector<float> v(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = static_cast<float>(offset + (hashed(static_cast<std::uint32_t>(i), number) / 4294967296.0 - 0.5) * scale);
  return v;
}

// The scale of a parameter by its name: inputs.py, parameter_list.
double scale_of(const std::string& name, const preset& z, bool of_planner) {
  const double c = double(z.label_width), d = double(z.width);
  const bool bias = name.ends_with(".b"), head = name.starts_with("head");
  if (name.ends_with(".scale") || name.ends_with(".shift")) return 0;
  if (bias) return 0.02;
  if (of_planner) return head ? std::sqrt(12 / c) : name.find("mlp.down") != name.npos ? 2 / std::sqrt(double(z.planner_inner)) : 2 / std::sqrt(c);
  if (name.starts_with("adapters.")) return name.ends_with(".table") ? std::sqrt(12 / c) : std::sqrt(24 / (c + d));
  return 0.07;
}
template <class M>
void fill(context<B>& cx, parameters<M>& theta, const preset& z, bool of_planner, std::uint32_t& number) {
  for (std::size_t n = 0; n < theta.slots().size(); ++n) {
    const parameter_spec& spec = theta.slots()[n].spec;
    theta.write(cx, n, hashed_values(spec.size(), number++, scale_of(spec.name, z, of_planner), spec.name.ends_with(".scale") ? 1 : 0));
  }
}

long status_bytes(const char* field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(field)) return std::atol(line.c_str() + std::string(field).size() + 1) * 1024;
  return 0;
}

}  // namespace

template <class Kept>
int run(const std::string& name, const std::string& mode, int threads, int steps);

int main(int argc, char** argv) {
  std::string name = "2x128", mode = "joint", kept = "activations";
  int threads = 2, steps = 20;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--preset") name = value;
    else if (flag == "--mode") mode = value;
    else if (flag == "--keep") kept = value;
    else if (flag == "--threads") threads = std::atoi(value.c_str());
    else if (flag == "--steps") steps = std::atoi(value.c_str());
    else name.clear();
  }
  if (!presets.contains(name) || threads < 1 || steps < 1 || (mode != "joint" && mode != "full") ||
      (kept != "activations" && kept != "inputs")) {
    std::fprintf(stderr, "usage: bench_train_step --preset check|2x128|4x256|gpt2 --threads N --mode joint|full --steps N "
                         "--keep activations|inputs\n");
    return 2;
  }
  return kept == "inputs" ? run<keep_inputs>(name, mode, threads, steps) : run<keep_activations>(name, mode, threads, steps);
}

template <class Kept>
int run(const std::string& name, const std::string& mode, int threads, int steps) {
  const preset z = presets.at(name);
  const bool full = mode == "full";

  context<B> cx{B::queue{threads}};
  using model_type = planner_lm<B, at_attention_output, no_gate<B>, learned_positions<B>, no_rotation, Kept>;
  const model_type model({z.vocabulary, z.length, z.width, z.heads, z.layers}, z.labels, z.label_width, z.first_adapted());
  const planner<B> plan{z.label_width, z.labels, z.planner_heads, z.planner_inner, 1};
  using store = parameters<typename model_type::lm_type>;
  store lm(cx, model.lm, philox{1}, full ? store::gradients::kept : store::gradients::none);
  parameters<typename model_type::adapter_stack> adapters(cx, model.adapters, philox{2});
  parameters<planner<B>> theta(cx, plan, philox{3});
  std::uint32_t number = 0;
  {
    // inputs.py numbers lm, adapters, planner in this order, the adapters under their own names.
    fill(cx, lm, z, false, number);
    for (std::size_t n = 0; n < adapters.slots().size(); ++n) {
      const parameter_spec& spec = adapters.slots()[n].spec;
      adapters.write(cx, n, hashed_values(spec.size(), number++, scale_of("adapters." + spec.name, z, false)));
    }
    fill(cx, theta, z, true, number);
  }
  const adamw_options options{.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01};
  adamw<B> lm_optimiser(cx, full ? lm.flat_weights().size() : 0, options), adapter_optimiser(cx, adapters.flat_weights().size(), options),
      planner_optimiser(cx, theta.flat_weights().size(), options);

  std::vector<int> tokens, targets, positions, offsets{0}, sentence, context_offsets{0}, context_positions;
  for (int b = 0; b < z.batch; ++b) {
    for (int t = 0; t < z.length; ++t) {
      const auto at = static_cast<std::uint32_t>(b * (z.length + 1) + t);
      tokens.push_back(static_cast<int>(hashed(at, 1000) % static_cast<std::uint32_t>(z.vocabulary)));
      targets.push_back(static_cast<int>(hashed(at + 1, 1000) % static_cast<std::uint32_t>(z.vocabulary)));
      positions.push_back(t);
      sentence.push_back(b * z.sentences_per_chunk + t * z.sentences_per_chunk / z.length);
    }
    offsets.push_back(static_cast<int>(tokens.size()));
  }
  for (int s = 0; s < z.sentences(); ++s) {
    const int n = std::clamp(s % 32, 1, z.context);
    for (int j = 0; j < n; ++j) context_positions.push_back(j);
    context_offsets.push_back(static_cast<int>(context_positions.size()));
  }
  const auto rows = static_cast<index_t>(context_positions.size());
  const std::vector<float> embeddings = hashed_values(rows * z.label_width, 1001, std::sqrt(12 / double(z.label_width)));

  typename model_type::params weights{lm.weights, adapters.weights}, grads{lm.grads, adapters.grads};
  std::vector<double> seconds, losses;
  for (int step = 0; step < steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    auto scope = cx.scope();
    const planned_rows<B> batch{cx.upload(tokens), cx.upload(targets), cx.upload(sentence),
                                {cx.upload(offsets), offsets.data(), cx.upload(positions)}, z.sentences()};
    const sequences<B> contexts{cx.upload(context_offsets), context_offsets.data(), cx.upload(context_positions)};
    const const_tensor<B> e = cx.upload(std::span<const float>(embeddings), rows, z.label_width);
    auto [logits, planner_pullback] = plan(cx, theta.weights, e, contexts);
    auto [hidden, pullback] = model(cx, weights, batch, const_tensor<B>(logits), mixture{}, !full);
    auto loss = ops::linear_cross_entropy(cx, const_tensor<B>(hidden), const_tensor<B>(weights.lm.token.table), batch.targets,
                                          const_tensor<B, 1>{}, 1.0f / static_cast<float>(tokens.size()), grads.lm.token.table);
    planner_pullback(pullback(loss.dhidden, grads), theta.grads);
    const double rate = 1e-4;
    if (full) lm_optimiser.step(cx, lm.flat_weights(), lm.flat_grads(), rate);
    adapter_optimiser.step(cx, adapters.flat_weights(), adapters.flat_grads(), rate);
    planner_optimiser.step(cx, theta.flat_weights(), theta.flat_grads(), rate);
    losses.push_back(double(cx.read_one(loss.total)));
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::vector<double> sorted(seconds.begin() + (steps > 4 ? 2 : 0), seconds.end());
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  std::printf("{\"preset\": \"%s\", \"mode\": \"%s\", \"threads\": %d, \"tokens_per_second\": %.1f, \"median_seconds\": %.6f, "
              "\"peak_rss\": %ld, \"arena_peak\": %zu, \"losses\": [",
              name.c_str(), mode.c_str(), threads, double(tokens.size()) / median, median, status_bytes("VmHWM"),
              cx.memory().peak_bytes());
  for (std::size_t i = 0; i < losses.size(); ++i) std::printf("%s%.9g", i ? ", " : "", losses[i]);
  std::printf("], \"seconds\": [");
  for (std::size_t i = 0; i < seconds.size(); ++i) std::printf("%s%.5f", i ? ", " : "", seconds[i]);
  std::printf("]}\n");
  return 0;
}
