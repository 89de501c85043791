// Tokens per second of a decoder the size of GPT-2 small, sampling from its logits, sub-trajectory balance. Untrained weights.
//
//     decode_bench [sampling] [balance] [attention] [decode]      all by default
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <numeric>
#include <span>
#include <string>
#include <vector>
#include <planlm/cuda.cuh>
#include <planlm/models/decoding.hpp>
#include <planlm/ops/sampling.hpp>
#include <planlm/ops/sub_trajectory_balance.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

namespace {

using namespace planlm;

/// Milliseconds of one f(), the median of `repeats` after two for warming up; the device is idle before and after each.
template <Backend B, class F>
double milliseconds(context<B>& cx, int repeats, const F& f) {
  std::vector<double> times;
  for (int i = -2; i < repeats; ++i) {
    B::synchronize(cx.queue());
    const auto begin = std::chrono::steady_clock::now();
    f();
    B::synchronize(cx.queue());
    if (i >= 0) times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[static_cast<std::size_t>(repeats / 2)];
}
/// The same per call of many in a row: what a kernel takes, not its launch.
template <Backend B, class F>
double in_a_row(context<B>& cx, int calls, const F& f) {
  return milliseconds(cx, 5, [&] {
           for (int i = 0; i < calls; ++i) f();
         }) / calls;
}
template <class T>
std::vector<T> normals(index_t n, std::uint64_t seed, double scale) {
  const std::vector<float> some = testing::normal_values<float>(std::min<index_t>(n, 1 << 20), seed, scale);
  std::vector<T> v(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = T(some[i % some.size()]);
  return v;
}
std::vector<int> counted(index_t n) {
  std::vector<int> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), 0);
  return v;
}

template <class T>
void sampling(const char* type) {
  using B = cuda<T>;
  for (const index_t rows : {1, 64, 1024}) {
    context<B> cx;
    const index_t vocabulary = 50257;
    const auto host = normals<T>(rows * vocabulary, 1, 2);
    const const_tensor<B> z = cx.upload(std::span<const T>(host), rows, vocabulary);
    const indices<B> places = cx.upload(counted(rows));
    const std::pair<const char*, sampling_rule> rules[] = {{"greedy", {.greedy = true}},
                                                           {"all tokens", {.temperature = 0.9}},
                                                           {"top-k 50", {.temperature = 0.9, .top_k = 50}},
                                                           {"top-p 0.9", {.top_p = 0.9}},
                                                           {"top-k 50, top-p 0.9", {.top_p = 0.9, .top_k = 50}}};
    for (const auto& [name, rule] : rules) {
      const double ms = in_a_row(cx, 10, [&] {
        auto scope = cx.scope();
        ops::sample(cx, z, rule, philox{1}, places);
      });
      std::printf("sampling %s, %4d rows of %d, %-20s %8.1f us, %7.1f GB/s of logits read once\n", type, int(rows), int(vocabulary), name,
                  1000 * ms, double(z.size()) * sizeof(T) / ms / 1e6);
    }
  }
}

void balance() {
  using B = cuda<float>;
  for (const auto& [rows, steps] : {std::pair<index_t, index_t>{64, 512}, {64, 4096}, {1, 4096}, {1024, 512}}) {
    context<B> cx;
    const auto host = normals<float>(rows * (steps + 1), 1, 1);
    const const_tensor<B> u = cx.upload(std::span<const float>(host), rows, steps + 1);
    const indices<B> last = cx.upload(std::vector<int>(static_cast<std::size_t>(rows), static_cast<int>(steps)));
    const double ms = in_a_row(cx, 20, [&] {
      auto scope = cx.scope();
      ops::sub_trajectory_balance<B>(cx, u, last, 0.9);
    });
    std::printf("balance, %d trajectories of %d steps, loss and gradient: %.1f us\n", int(rows), int(steps), 1000 * ms);
  }
}

template <class T>
void caches(const char* type) {
  using B = cuda<T>;
  const attention_shape shapes[] = {{12, 12, 64, true}, {32, 8, 128, true}};
  for (const auto& shape : shapes)
    for (const auto& [rows, keys] : {std::pair<index_t, index_t>{1, 1024}, {64, 1024}, {1, 16384}, {16, 16384}}) {
      context<B> cx;
      const auto zero = [&](auto... e) {
        auto v = cx.make(e...);
        B::zero(cx.queue(), v.data, static_cast<std::size_t>(v.size()) * sizeof(T));
        return v;
      };
      const kv_layer<B> cache{zero(rows, keys, shape.kv_width()), zero(rows, keys, shape.kv_width())};
      const auto packed = zero(rows, shape.packed_width());
      decoding_rows<B> at;
      at.slot = cx.upload(counted(rows));
      at.seq.positions = cx.upload(std::vector<int>(static_cast<std::size_t>(rows), static_cast<int>(keys) - 1));
      at.longest = keys;
      const double ms = in_a_row(cx, 20, [&] {
        auto scope = cx.scope();
        ops::decode_attention(cx, shape, const_tensor<B>(packed), at, cache);
      });
      std::printf("attention %s, %d/%d heads of %d, %2d rows over %5d keys: %7.1f us, %6.0f GB/s\n", type, int(shape.heads),
                  int(shape.kv_heads), int(shape.width), int(rows), int(keys), 1000 * ms, 2.0 * double(cache.keys.size()) * sizeof(T) / ms / 1e6);
    }
}

template <class T>
void decoding(const char* type) {
  using B = cuda<T>;
  const transformer_lm<B> model{{50257, 1024, 768, 12, 12}};
  for (const index_t batch : {1, 64}) {
    context<B> cx;
    cx.training = false;
    parameters<transformer_lm<B>> theta(cx, model, philox{1}, parameters<transformer_lm<B>>::gradients::none);
    auto cache = cache_of(cx, model, batch, 1024);
    const std::vector<int> slots = counted(batch);
    const int prompt = 512, steps = 128;
    const std::vector<int> prompts(static_cast<std::size_t>(batch), prompt);
    const std::vector<int> words(static_cast<std::size_t>(batch * prompt), 17);
    const double prefill = milliseconds(cx, 3, [&] {
      auto scope = cx.scope();
      for (index_t s = 0; s < batch; ++s) cache.truncate(s);
      const auto rows = cache.extend(cx, slots, prompts);
      decode(cx, model, theta.weights, indices<B>(cx.upload(words)), rows, cache);
    });
    std::vector<int> next(static_cast<std::size_t>(batch), 17);
    const auto one = [&](bool draw) {
      auto scope = cx.scope();
      const auto rows = cache.step(cx, slots);
      const const_tensor<B> h = decode(cx, model, theta.weights, indices<B>(cx.upload(next)), rows, cache);
      const const_tensor<B> z = ops::matmul_nt(cx, h, const_tensor<B>(theta.weights.token.table));
      if (draw) next = cx.read(ops::sample(cx, z, {.temperature = 0.9, .top_k = 50}, philox{1}, rows.seq.positions).token);
    };
    for (const bool draw : {false, true}) {
      const double ms = milliseconds(cx, 3, [&] {
                          for (index_t s = 0; s < batch; ++s) cache.truncate(s, prompt);
                          for (int i = 0; i < steps; ++i) one(draw);
                        }) / steps;
      std::printf("decode %s, batch %2d, positions %d to %d, %s: %.3f ms a step, %.0f tokens/s\n", type, int(batch), prompt, prompt + steps,
                  draw ? "top-k 50 drawn and read back" : "logits only", ms, 1000 * double(batch) / ms);
    }
    // The same step recorded once and replayed; the tokens stay on the device.
    const auto standing = cache.standing(cx, slots);
    const auto tokens = cx.upload(next);
    const auto step = [&] {
      auto scope = cx.scope();
      const const_tensor<B> h = decode(cx, model, theta.weights, indices<B>(tokens), standing, cache);
      const const_tensor<B> z = ops::matmul_nt(cx, h, const_tensor<B>(theta.weights.token.table));
      const auto drawn = ops::sample(cx, z, {.temperature = 0.9, .top_k = 50}, philox{1}, standing.seq.positions);
      B::copy(cx.queue(), tokens.data, drawn.token.data, static_cast<std::size_t>(batch) * sizeof(int));
    };
    step();
    cuda_graph graph;
    graph.record(cx.queue(), [&] {
      step();
      kv_cache<B>::advance(cx, standing);
    });
    // Five runs of 64 steps from position 640 on stay below the capacity.
    const double recorded = milliseconds(cx, 3, [&] {
                              for (int i = 0; i < 64; ++i) graph.replay(cx.queue());
                            }) / 64;
    std::printf("decode %s, batch %2d, positions %d to %d, top-k 50 drawn, recorded as a graph: %.3f ms a step, %.0f tokens/s\n", type,
                int(batch), prompt + steps, prompt + steps + 320, recorded, 1000 * double(batch) / recorded);
    std::printf("prompt %s, batch %2d of %d tokens: %.2f ms, %.0f tokens/s\n", type, int(batch), prompt, prefill,
                1000 * double(batch) * prompt / prefill);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const auto wanted = [&](const char* name) {
    return argc < 2 || std::any_of(argv + 1, argv + argc, [&](const char* a) { return std::strcmp(a, name) == 0; });
  };
  try {
    if (wanted("sampling")) sampling<float>("float"), sampling<bfloat16>("bf16");
    if (wanted("balance")) balance();
    if (wanted("attention")) caches<float>("float"), caches<bfloat16>("bf16");
    if (wanted("decode")) decoding<bfloat16>("bf16"), decoding<float>("float");
  } catch (const std::exception& e) {
    std::printf("FAILED: %s\n", e.what());
    return 1;
  }
  return 0;
}
