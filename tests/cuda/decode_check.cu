// Decoding on the GPU against the CPU: sampling, attention over caches, models token by token, sub-trajectory balance.
//
//     decode_check [CASE...]      names of cases, all by default; "list" prints them
// Exit status: 0 all agree, 1 some do not, 77 there is no GPU to run on.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/cuda.cuh>
#include <planlm/models/decoding.hpp>
#include <planlm/ops/sampling.hpp>
#include <planlm/ops/sub_trajectory_balance.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/training/parameters.hpp>

#include "decode_check.hpp"

namespace {

using namespace planlm;
using namespace planlm::testing;
int failures = 0;

void report(bool good, const std::string& what, const std::string& how) {
  std::printf("%s %s: %s\n", good ? "PASS" : "FAIL", what.c_str(), how.c_str());
  failures += !good;
}
/// ||a - b|| / ||b||; infinity where anything is not a number.
double distance(const numbers& a, const numbers& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  const double d = difference == 0 ? 0 : std::sqrt(difference / norm);
  return a.size() == b.size() && !a.empty() && std::isfinite(d) ? d : INFINITY;
}
void report_distance(const std::string& what, const numbers& ours, const numbers& theirs, double most) {
  const double d = distance(ours, theirs);
  char text[160];
  std::snprintf(text, sizeof text, "off by %.3g, at most %.3g", d, most);
  std::string how = text;
  if (!(d < most)) {
    const double scale = std::sqrt(std::inner_product(theirs.begin(), theirs.end(), theirs.begin(), 0.0) / double(theirs.size()));
    std::size_t wrong = 0, first = theirs.size();
    for (std::size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i)
      if (!(std::abs(ours[i] - theirs[i]) <= 10 * most * scale)) first = std::min(first, i), ++wrong;
    if (first < ours.size()) {
      std::snprintf(text, sizeof text, "; %zu of %zu wrong, first [%zu] %.6g for %.6g", wrong, theirs.size(), first, ours[first],
                    theirs[first]);
      how += text;
    }
  }
  report(d < most, what, how);
}
template <class B>
const char* name_of() {
  using T = typename B::real;
  return std::is_same_v<T, float> ? "float" : std::is_same_v<T, double> ? "double" : "bf16";
}

// ---- sampling

template <class T>
void check_sampling() {
  using B = cuda<T>;
  for (const index_t vocabulary : {1, 5, 131, 1003, 4097, 50257})
    for (int kind = 0; kind < 5; ++kind) {
      const index_t rows = 37;
      std::vector<sampling_rule> rules(static_cast<std::size_t>(rows));
      for (std::size_t r = 0; r < rules.size(); ++r) {
        if (kind == 1 || kind == 4) rules[r].temperature = 0.5 + 0.05 * double(r);
        if (kind == 2 || kind == 4) rules[r].top_k = 1 + 3 * int(r);
        if (kind == 3 || kind == 4) rules[r].top_p = 0.3 + 0.018 * double(r);
        rules[r].greedy = r % 12 == 11;
      }
      const drawn_rows gpu = draw_rows<B>(rows, vocabulary, rules, {});
      const drawn_rows narrow = draw_rows_on_cpu(false, rows, vocabulary, rules, {});
      const drawn_rows wide = draw_rows_on_cpu(true, rows, vocabulary, rules, gpu.token);
      const drawn_rows scored = draw_rows<B>(rows, vocabulary, rules, gpu.token), again = draw_rows<B>(rows, vocabulary, rules, {});
      int other = 0;
      for (std::size_t r = 0; r < rules.size(); ++r) other += gpu.token[r] != narrow.token[r];
      double worst = 0;
      for (std::size_t r = 0; r < rules.size(); ++r)
        for (const double d : {gpu.drawn[r] - wide.drawn[r], gpu.plain[r] - wide.plain[r]})
          worst = std::isfinite(d) ? std::max(worst, std::abs(d)) : INFINITY;
      const bool same = scored.token == gpu.token && testing::same_bits(scored.drawn, gpu.drawn) && testing::same_bits(scored.plain, gpu.plain);
      const bool twice = again.token == gpu.token && testing::same_bits(again.drawn, gpu.drawn);
      char text[200];
      std::snprintf(text, sizeof text, "%d of %d tokens differ from the CPU's, log-probabilities off by %.3g, scoring %s, again %s", other,
                    int(rows), worst, same ? "the same bits" : "OTHER BITS", twice ? "the same bits" : "OTHER BITS");
      const char* kinds[] = {"plain", "temperature", "top-k", "top-p", "all"};
      report(other == 0 && worst < 5e-6 && same && twice,
             std::string("sampling ") + name_of<B>() + " V " + std::to_string(vocabulary) + " " + kinds[kind], text);
    }
}

// ---- attention over caches

struct attention_case {
  index_t heads, kv_heads, width, rows, capacity;
};
template <class T>
void check_attention(const attention_case& c) {
  using B = cuda<T>;
  const attention_shape shape{c.heads, c.kv_heads, c.width, true};
  const index_t slots = c.rows + 2, kv = shape.kv_width();
  std::vector<int> slot, position;
  for (index_t r = 0; r < c.rows; ++r) {
    slot.push_back(static_cast<int>((r * 5 + 1) % slots));
    const index_t marks[] = {c.capacity - 1, 0, 255, 256, 257, 511};
    position.push_back(static_cast<int>(r < 6 && marks[r] < c.capacity ? marks[r] : philox{4}.below(unsigned(c.capacity), unsigned(r), 0)));
  }
  const numbers packed = coarse_normals<double>(c.rows * shape.packed_width(), 1);
  numbers keys = coarse_normals<double>(slots * c.capacity * kv, 2), values = coarse_normals<double>(slots * c.capacity * kv, 3);
  std::vector<char> used(static_cast<std::size_t>(slots * c.capacity));
  for (index_t r = 0; r < c.rows; ++r)
    for (int t = 0; t <= position[std::size_t(r)]; ++t) used[std::size_t(slot[std::size_t(r)] * c.capacity + t)] = 1;
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (!used[i / std::size_t(kv)]) keys[i] = values[i] = NAN;  // what lies behind a sequence is never read
  numbers expected(static_cast<std::size_t>(c.rows * shape.query_width()));
  for (index_t r = 0; r < c.rows; ++r)
    for (index_t h = 0; h < c.heads; ++h) {
      const int n = position[std::size_t(r)] + 1;
      const index_t at = slot[std::size_t(r)] * c.capacity * kv + h / (c.heads / c.kv_heads) * c.width;
      numbers p(static_cast<std::size_t>(n));
      double top = -INFINITY, total = 0;
      for (int t = 0; t < n; ++t) {
        double dot = 0;
        for (index_t i = 0; i < c.width; ++i)
          dot += packed[std::size_t(r * shape.packed_width() + h * c.width + i)] * keys[std::size_t(at + t * kv + i)];
        p[std::size_t(t)] = dot / std::sqrt(double(c.width));
        top = std::max(top, p[std::size_t(t)]);
      }
      for (double& w : p) total += w = std::exp(w - top);
      for (int t = 0; t < n; ++t)
        for (index_t i = 0; i < c.width; ++i)
          expected[std::size_t((r * c.heads + h) * c.width + i)] += p[std::size_t(t)] / total * values[std::size_t(at + t * kv + i)];
    }
  const auto narrowed = [](const numbers& v) { return std::vector<T>(v.begin(), v.end()); };
  context<B> cx;
  const std::vector<T> pk = narrowed(packed), k = narrowed(keys), v = narrowed(values);
  const auto p_there = cx.upload(std::span<const T>(pk), c.rows, shape.packed_width());
  const kv_layer<B> cache{cx.upload(std::span<const T>(k), slots, c.capacity, kv), cx.upload(std::span<const T>(v), slots, c.capacity, kv)};
  const auto rows_of = [&](index_t begin, index_t end) {
    const std::vector<int> s(slot.begin() + begin, slot.begin() + end), p(position.begin() + begin, position.begin() + end);
    decoding_rows<B> rows;
    rows.slot = cx.upload(s), rows.seq.positions = cx.upload(p);
    rows.host_slot = slot.data() + begin, rows.host_position = position.data() + begin;
    rows.longest = *std::max_element(p.begin(), p.end()) + 1;
    return rows;
  };
  testing::poison(cx);
  const auto whole = cx.read(ops::decode_attention(cx, shape, const_tensor<B>(p_there), rows_of(0, c.rows), cache));
  char name[120];
  std::snprintf(name, sizeof name, "attention %s heads %d/%d width %d rows %d keys %d", name_of<B>(), int(c.heads), int(c.kv_heads),
                int(c.width), int(c.rows), int(c.capacity));
  // Row by row: the output of a row over many keys is small beside that of a row over one.
  const numbers ours = widened(whole);
  double worst = 0;
  index_t worst_row = 0;
  for (index_t r = 0; r < c.rows; ++r) {
    const auto part = [&](const numbers& v) {
      return numbers(v.begin() + r * shape.query_width(), v.begin() + (r + 1) * shape.query_width());
    };
    const double d = distance(part(ours), part(expected));
    if (!(d <= worst)) worst = d, worst_row = r;
  }
  // A bf16 row of few values can be off by the rounding of the largest alone: up to 2^-8.
  const double most = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 1e-5 : shape.query_width() < 64 ? 4e-3 : 2e-3;
  char how[120];
  std::snprintf(how, sizeof how, "worst row, %d with %d keys, off by %.3g, at most %.3g", int(worst_row),
                position[std::size_t(worst_row)] + 1, worst, most);
  report(worst < most, name, how);
  bool same = true;  // alone as in the batch
  for (index_t r = 0; r < std::min<index_t>(c.rows, 4); ++r) {
    const auto alone = cx.read(ops::decode_attention(cx, shape, const_tensor<B>(row_range(p_there, r, r + 1)), rows_of(r, r + 1), cache));
    same = same && std::memcmp(alone.data(), whole.data() + r * shape.query_width(), alone.size() * sizeof(T)) == 0;
  }
  report(same, std::string(name) + " alone", same ? "the same bits" : "OTHER BITS");
}
template <class T>
void check_attention() {
  for (const attention_case& c : {attention_case{12, 12, 64, 7, 700}, {12, 12, 64, 64, 1024}, {8, 2, 128, 9, 600}, {6, 2, 96, 5, 300},
                                  {16, 1, 64, 6, 520}, {8, 1, 32, 6, 90}, {12, 12, 64, 1, 9000}, {4, 4, 16, 3, 40}, {3, 3, 8, 6, 300}})
    check_attention<T>(c);
}

// ---- models token by token

/// A prompt of up to `prompt` tokens of each sequence, then `step` at a time.
template <class Model>
numbers in_pieces(const Model& model, int prompt, int step) {
  using B = typename Model::backend;
  const text all;
  context<B> cx;
  testing::poison(cx);
  parameters<Model> theta(cx, model, philox{1});
  set_weights(cx, theta);
  const auto w = coarse_normals<typename B::real>(all.sentences * labels, 8, 0.5);
  const tensor<B, 3> plans = cx.make(model.adapters.depth, all.sentences, width);
  write_plans(cx, model, theta.weights, const_tensor<B>(cx.upload(std::span(w), all.sentences, labels)), plans);
  auto cache = cache_of(cx, model.lm, 4, 80);
  numbers hidden(all.tokens.size() * width);
  std::vector<int> done(lengths.size());
  for (int take = prompt;; take = step) {
    auto scope = cx.scope();
    std::vector<int> slots, counts, tokens, sentences;
    std::vector<std::size_t> from;
    for (std::size_t i = lengths.size(); i-- > 0;) {
      const int n = std::min(take, lengths[i] - done[i]);
      if (n == 0) continue;
      slots.push_back(int(i)), counts.push_back(n);
      for (int t = 0; t < n; ++t) {
        from.push_back(std::size_t(all.offsets[i] + done[i]++));
        tokens.push_back(all.tokens[from.back()]), sentences.push_back(all.sentence[from.back()]);
      }
    }
    if (slots.empty()) break;
    const auto rows = cache.extend(cx, slots, counts);
    const auto h = widened(cx.read(decode(cx, model, theta.weights, indices<B>(cx.upload(tokens)), indices<B>(cx.upload(sentences)), plans,
                                          rows, cache)));
    for (std::size_t r = 0; r < from.size(); ++r) std::copy_n(h.begin() + long(r * width), width, hidden.begin() + long(from[r] * width));
  }
  return hidden;
}
template <class T, template <class> class Model>
void check_model(const char* name) {
  const Model<cuda<T>> model(model_sizes, labels, 8, 1);
  const numbers expected = forward_pass_on_cpu(std::is_same_v<Model<cuda<T>>, turned<cuda<T>>>), whole = forward_pass(model);
  const std::string what = std::string(name) + " " + name_of<cuda<T>>();
  const bool narrow = std::is_same_v<T, bfloat16>;
  report_distance(what + ", forward pass against the CPU", whole, expected, narrow ? 3e-2 : 1e-5);
  for (const auto& [prompt, step] : {std::pair{1, 1}, {4, 1}, {30, 1}, {3, 7}}) {
    const numbers pieces = in_pieces(model, prompt, step);
    const std::string way = what + ", prompt " + std::to_string(prompt) + " then by " + std::to_string(step);
    report_distance(way + ", against the CPU", pieces, expected, narrow ? 3e-2 : 1e-5);
    report_distance(way + ", against the forward pass", pieces, whole, narrow ? 3e-2 : 1e-5);
    const bool twice = testing::same_bits(in_pieces(model, prompt, step), pieces);
    report(twice, way + ", again", twice ? "the same bits" : "OTHER BITS");
  }
}
/// Greedy and drawn tokens of a step that is recorded once and replayed, against the same steps one by one.
template <class T>
void check_graph() {
  using B = cuda<T>;
  const transformer_lm<B> model{model_sizes};
  const std::vector<int> slots{2, 0, 1}, prompt{5, 1, 20}, first{3, 4, 5};
  std::vector<int> words;
  for (int i = 0; i < 26; ++i) words.push_back(i * 7 % int(vocabulary));
  const auto run = [&](bool recorded) {
    context<B> cx;
    testing::poison(cx);
    parameters<transformer_lm<B>> theta(cx, model, philox{1});
    set_weights(cx, theta);
    auto cache = cache_of(cx, model, 3, 60);
    {
      auto scope = cx.scope();
      decode(cx, model, theta.weights, indices<B>(cx.upload(words)), cache.extend(cx, slots, prompt), cache);
    }
    const int steps = 30;
    const auto tokens = cx.upload(first);
    const auto history = cx.template make_of<int>(steps, 3);
    const auto one = [&](const decoding_rows<B>& rows) {
      auto scope = cx.scope();
      const const_tensor<B> h = decode(cx, model, theta.weights, indices<B>(tokens), rows, cache);
      const const_tensor<B> z = ops::matmul_nt(cx, h, const_tensor<B>(theta.weights.token.table));
      const auto drawn = ops::sample(cx, z, {.temperature = 1.5, .top_k = 30}, philox{4}, rows.seq.positions);
      B::copy(cx.queue(), tokens.data, drawn.token.data, 3 * sizeof(int));
    };
    cuda_graph graph;
    const auto standing = cache.standing(cx, slots);
    if (recorded) {
      one(standing);  // so that arenas and plans exist; then everything as it was
      B::upload(cx.queue(), tokens.data, first.data(), 3 * sizeof(int));
      graph.record(cx.queue(), [&] {
        one(standing);
        kv_cache<B>::advance(cx, standing);
      });
      cache.advanced(slots, steps);
    }
    for (int i = 0; i < steps; ++i) {
      if (recorded) {
        graph.replay(cx.queue());
      } else {
        auto scope = cx.scope();
        one(cache.step(cx, slots));
      }
      B::copy(cx.queue(), history.data + 3 * i, tokens.data, 3 * sizeof(int));
    }
    return cx.read(history);
  };
  const auto stepped = run(false), replayed = run(true);
  int same = 0;
  for (std::size_t i = 0; i < stepped.size(); ++i) same += stepped[i] == replayed[i];
  report(stepped == replayed, std::string("recorded step ") + name_of<B>(),
         std::to_string(same) + " of " + std::to_string(stepped.size()) + " tokens are those of steps one by one");
}

// ---- sub-trajectory balance

template <class T>
void check_balance() {
  using B = cuda<T>;
  using A = typename B::accum;
  for (const auto& last : {std::vector<int>{0, 1, 2, 15, 16, 17, 37, 300, 511}, std::vector<int>{4096, 2500, 4000}, std::vector<int>(70, 200)})
    for (const double lambda : {0.0, 0.9, 0.999, 1.0})
      for (const auto mean : {ops::balance_mean::pairs, ops::balance_mean::trajectories}) {
        const std::size_t rows = last.size(), cols = std::size_t(*std::max_element(last.begin(), last.end())) + 3;
        std::vector<A> u(rows * cols, std::numeric_limits<A>::quiet_NaN());
        const numbers steps = testing::normal_values(index_t(u.size()), 5, cols > 2000 ? 160 : 1);
        for (std::size_t b = 0; b < rows; ++b) {
          double at = 1e4;
          for (std::size_t k = 0; k <= std::size_t(last[b]); ++k) u[b * cols + k] = A(at += steps[b * cols + k]);
        }
        numbers du(u.size()), num(rows), den(rows);
        for (std::size_t b = 0; b < rows; ++b)
          for (std::size_t j = 1; j <= std::size_t(last[b]); ++j) {
            double weight = 1;
            for (std::size_t i = j; i-- > 0; weight *= lambda) {
              const double d = double(u[b * cols + j]) - double(u[b * cols + i]);
              num[b] += weight * d * d, den[b] += weight;
              du[b * cols + j] += 2 * weight * d, du[b * cols + i] -= 2 * weight * d;
            }
          }
        const bool pairs = mean == ops::balance_mean::pairs;
        const double all_den = std::accumulate(den.begin(), den.end(), 0.0);
        double loss = 0;
        for (std::size_t b = 0; b < rows; ++b) {
          const double of = pairs ? all_den : den[b] * double(rows);
          if (den[b] > 0) loss += num[b] / of;
          for (std::size_t k = 0; k < cols; ++k) du[b * cols + k] = of > 0 ? du[b * cols + k] / of : 0;
        }
        const auto run = [&] {
          context<B> cx;
          testing::poison(cx);
          const auto l = ops::sub_trajectory_balance<B>(cx, cx.upload(std::span<const A>(u), index_t(rows), index_t(cols)), cx.upload(last),
                                                        lambda, mean);
          numbers out = widened(cx.read(l.du));
          out.push_back(double(cx.read_one(l.total)));
          return out;
        };
        numbers first = run();
        const bool twice = testing::same_bits(run(), first);
        const double got = first.back();
        first.pop_back();
        const double most = std::is_same_v<A, double> ? 1e-10 : 2e-7, d = distance(first, du), off = std::abs(got / loss - 1);
        char what[120], how[120];
        std::snprintf(what, sizeof what, "balance %s, %zu trajectories up to %zu, lambda %g, mean of %s", name_of<B>(), rows, cols - 3, lambda,
                      pairs ? "pairs" : "trajectories");
        std::snprintf(how, sizeof how, "loss off by %.3g, gradient by %.3g, at most %.3g, again %s", off, d, most,
                      twice ? "the same bits" : "OTHER BITS");
        report(d < most && off < most && twice, what, how);
      }
}

const std::pair<const char*, std::function<void()>> cases[] = {
    {"sampling", check_sampling<float>},
    {"sampling_bf16", check_sampling<bfloat16>},
    {"attention", [] { check_attention<float>(); }},
    {"attention_bf16", [] { check_attention<bfloat16>(); }},
    {"attention_double", [] { check_attention<double>(); }},
    {"model", [] { check_model<float, usual>("model"); }},
    {"model_turned", [] { check_model<float, turned>("model with rotary heads and plans at the feed-forward input"); }},
    {"model_bf16", [] { check_model<bfloat16, usual>("model"); }},
    {"graph", check_graph<float>},
    {"graph_bf16", check_graph<bfloat16>},
    {"balance", check_balance<float>},
    {"balance_double", check_balance<double>}};

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc == 2 && std::strcmp(argv[1], "list") == 0) {
    for (const auto& [name, run] : cases) std::printf("%s\n", name);
    return 0;
  }
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: there is no GPU: cudaGetDeviceCount says %s\n", status == cudaSuccess ? "0" : cudaGetErrorString(status));
    return 77;
  }
  for (const auto& [name, run] : cases) {
    if (argc > 1 && std::none_of(argv + 1, argv + argc, [name = name](const char* a) { return std::strcmp(a, name) == 0; })) continue;
    try {
      run();
    } catch (const std::exception& e) {
      report(false, name, e.what());
    }
  }
  std::printf("%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}
