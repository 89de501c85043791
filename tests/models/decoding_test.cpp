#include <planlm/models/decoding.hpp>

#include <numeric>
#include <span>
#include <string>
#include <vector>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/plan_rows.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using testing::perturbed;
using testing::same_bits;

namespace {

constexpr index_t vocabulary = 31, longest = 100;

/// The sequences of the test, one after another: tokens, offsets, positions, and a sentence that changes every few tokens.
struct text {
  std::vector<int> lengths{5, 74, 1, 23}, tokens, offsets{0}, positions, sentence;
  index_t sentences = 0;
  text() {
    for (const int n : lengths) {
      for (int t = 0; t < n; ++t) {
        if (t % 9 == 0) ++sentences;
        tokens.push_back(static_cast<int>(philox{3}.below(vocabulary, tokens.size(), 0)));
        positions.push_back(t);
        sentence.push_back(static_cast<int>(sentences) - 1);
      }
      offsets.push_back(static_cast<int>(tokens.size()));
    }
  }
  /// The same with rows for plans before every sentence, or before every sequence; `sentence` is then the plan of a row.
  text with_plans(bool inserted, int per_plan) const {
    const host_rows before{tokens, tokens, sentence, offsets};
    const rows_with_plans r = inserted ? insert_plan_rows(before, per_plan) : prefix_plan_rows(before, per_plan);
    text all = *this;
    all.tokens = r.tokens, all.offsets = r.offsets, all.positions = r.positions, all.sentence = r.plan;
    for (std::size_t s = 0; s < lengths.size(); ++s) all.lengths[s] = r.offsets[s + 1] - r.offsets[s];
    return all;
  }
  template <Backend B>
  planlm::sequences<B> rows() const {
    return {{offsets.data(), offsets.size()}, offsets.data(), {positions.data(), positions.size()}};
  }
};
template <Backend B>
indices<B> view_of(const std::vector<int>& v) {
  return {v.data(), v.size()};
}

/// How many tokens of each sequence the calls take: the first is a prompt, of nothing for some; then tokens one by one or a few at once.
std::vector<std::vector<int>> schedule(std::vector<int> left, int prompt, int step) {
  std::vector<std::vector<int>> calls;
  for (int call = 0; std::accumulate(left.begin(), left.end(), 0) > 0; ++call) {
    std::vector<int> take(left.size());
    for (std::size_t s = 0; s < left.size(); ++s) {
      take[s] = std::min(left[s], call == 0 ? (s == 2 ? 0 : prompt) : step);
      left[s] -= take[s];
    }
    if (std::accumulate(take.begin(), take.end(), 0) > 0) calls.push_back(take);
  }
  return calls;
}

/// hidden rows of all tokens, computed call by call: run(rows, tokens, sentences) gives those of one call.
template <Backend B, class Run>
std::vector<typename B::real> call_by_call(context<B>& cx, kv_cache<B>& cache, index_t width, const text& all, int prompt, int step,
                                           const Run& run) {
  std::vector<typename B::real> hidden(all.tokens.size() * static_cast<std::size_t>(width));
  std::vector<int> done(all.lengths.size());
  for (const auto& take : schedule(all.lengths, prompt, step)) {
    auto scope = cx.scope();
    std::vector<int> slots, counts, tokens, sentences;
    std::vector<std::size_t> from;
    for (std::size_t i = all.lengths.size(); i-- > 0;) {  // slots in another order than sequences lie in the text
      if (take[i] == 0) continue;
      slots.push_back(static_cast<int>(i)), counts.push_back(take[i]);
      for (int t = 0; t < take[i]; ++t) {
        from.push_back(static_cast<std::size_t>(all.offsets[i] + done[i]++));
        tokens.push_back(all.tokens[from.back()]), sentences.push_back(all.sentence[from.back()]);
      }
    }
    const auto rows = cache.extend(cx, slots, counts);
    const auto h = cx.read(const_tensor<B>(run(rows, view_of<B>(tokens), view_of<B>(sentences))));
    for (std::size_t r = 0; r < from.size(); ++r)
      std::copy_n(h.begin() + static_cast<std::ptrdiff_t>(r) * width, width,
                  hidden.begin() + static_cast<std::ptrdiff_t>(from[r]) * width);
  }
  return hidden;
}

const std::vector<std::pair<int, int>> ways{{0, 1}, {1, 1}, {4, 1}, {80, 1}, {3, 7}};  // prompt and step

template <class Model>
void check_language_model() {
  using B = typename Model::backend;
  const text all;
  const Model model{{vocabulary, longest, 24, 3, 2}};
  for (const int threads : {1, 3}) {
    context<B> cx{typename B::queue(threads)};
    testing::poison(cx);
    auto theta = perturbed(cx, model);
    const auto whole = cx.read(const_tensor<B>(model(cx, theta.weights, view_of<B>(all.tokens), all.rows<B>()).value));
    for (const auto& [prompt, step] : ways) {
      CAPTURE(threads, prompt, step);
      auto cache = cache_of(cx, model, 4, 74);
      const auto pieces = call_by_call(cx, cache, 24, all, prompt, step, [&](const auto& rows, indices<B> tokens, indices<B>) {
        return decode(cx, model, theta.weights, tokens, rows, cache);
      });
      CHECK(same_bits(pieces, whole));
      for (index_t s = 0; s < 4; ++s) CHECK(cache.length(s) == all.lengths[static_cast<std::size_t>(s)]);
    }
  }
}

constexpr lm_sizes sizes{vocabulary, longest, 24, 3, 3};
constexpr index_t labels = 9, label_width = 7;

template <class Model>
void check_planner_model(const Model& model, const text& all = {}) {
  using B = typename Model::backend;
  using T = typename B::real;
  const auto& adapter = model.adapters.adapter;
  context<B> cx;
  testing::poison(cx);
  auto theta = perturbed(cx, model);
  const std::vector<T> inputs = testing::normal_values<T>(all.sentences * adapter.inputs(), 8);
  const const_tensor<B> c(inputs.data(), all.sentences, adapter.inputs());
  const planned_rows<B> batch{view_of<B>(all.tokens), view_of<B>(all.tokens), view_of<B>(all.sentence), all.rows<B>(), all.sentences};
  const auto whole = cx.read(const_tensor<B>(model(cx, theta.weights, batch, c).value));
  const tensor<B, 3> plans = cx.make(model.adapters.depth, all.sentences + 1, adapter.columns());
  write_plans(cx, model, theta.weights, row_range(c, 0, 3), plans);
  write_plans(cx, model, theta.weights, row_range(c, 3, all.sentences), plans, 3);
  for (const auto& [prompt, step] : ways) {
    CAPTURE(prompt, step);
    auto cache = cache_of(cx, model, 4, longest);
    const auto pieces = call_by_call(cx, cache, 24, all, prompt, step, [&](const auto& rows, indices<B> tokens, indices<B> sentence) {
      return decode(cx, model, theta.weights, tokens, sentence, plans, rows, cache);
    });
    CHECK(same_bits(pieces, whole));
  }
}
template <class Placement, class Gate>
void check_gate(Gate gate) {
  using B = typename Gate::backend;
  using adapter = plan_adapter<B, Gate>;
  check_planner_model(planner_lm<B, Placement, adapter>(sizes, adapter{label_width, 24, gate}, 1));
}

}  // namespace

TEST_CASE("decoding a language model gives the bits of its forward pass, whatever the pieces") {
  check_language_model<transformer_lm<cpu<double>>>();
  check_language_model<transformer_lm<cpu<float>>>();
  check_language_model<transformer_lm<cpu<float>, sinusoidal_positions<cpu<float>>>>();
  check_language_model<transformer_lm<cpu<float>, no_positions<cpu<float>>, rotary>>();
}

TEST_CASE("decoding under plans that change with the sentence gives the bits of training's forward pass, at every placement") {
  using F = cpu<float>;
  using D = cpu<double>;
  check_planner_model(planner_lm<F>(sizes, labels, label_width, 1));
  check_planner_model(planner_lm<D, at_feed_forward_input, label_adapter<D, one_gate<D>>>(sizes, labels, label_width, 1));
  check_planner_model(planner_lm<F, at_feed_forward_input, label_adapter<F, zero_gate<F>>, no_positions<F>, rotary, keep_inputs>(
      sizes, labels, label_width, 2));
  check_gate<at_attention_output>(random_gate<F>{24});
  check_gate<at_embedding>(no_gate<F>{24});
  check_gate<at_embedding>(random_gate<D>{24});
}

TEST_CASE("decoding under gates that look at the context gives the bits of training's forward pass, at every placement") {
  using F = cpu<float>;
  check_gate<at_attention_output>(context_gate<F>{24});
  check_gate<at_feed_forward_input>(context_gate<F>{24, true});
  check_gate<at_embedding>(context_gate<F>{24});
  check_gate<at_embedding>(context_gate<cpu<double>>{24, true});
}

TEST_CASE("decoding rows of plans as they come gives the bits of training's forward pass, inserted and as a prefix") {
  using B = cpu<float>;
  using model = planner_lm<B, at_embedding, plan_adapter<B>>;
  for (const bool inserted : {true, false})
    for (const int per_plan : {1, 2}) {
      CAPTURE(inserted, per_plan);
      check_planner_model(model(sizes, {label_width, per_plan * 24}), text{}.with_plans(inserted, per_plan));
    }
}

TEST_CASE("a block with grouped-query heads decodes to the bits of its forward pass") {
  using B = cpu<float>;
  using block_type = transformer_block<B, rms_norm<B>, ops::silu, rotary>;
  const block_type block(48, 6, true, 50, 0.02, 2);
  const text all;
  context<B> cx;
  auto theta = perturbed(cx, block);
  const auto n = static_cast<index_t>(all.tokens.size());
  const std::vector<float> x = testing::normal_values<float>(n * 48, 6);
  const auto whole = cx.read(const_tensor<B>(block(cx, theta.weights, const_tensor<B>(x.data(), n, 48), all.rows<B>()).value));
  for (const auto& [prompt, step] : ways) {
    kv_cache<B> cache(cx, 1, block.attention.shape, 4, 74);
    const auto pieces = call_by_call(cx, cache, 48, all, prompt, step, [&](const auto& rows, indices<B>, indices<B>) {
      // The row of x that belongs to a row of this call.
      std::vector<int> from;
      for (index_t r = 0; r < rows.count(); ++r)
        from.push_back(all.offsets[static_cast<std::size_t>(rows.host_slot[r])] + rows.host_position[r]);
      const auto own = ops::gather_rows(cx, const_tensor<B>(x.data(), n, 48), view_of<B>(from));
      return decode(cx, block, theta.weights, const_tensor<B>(own), rows, cache.layer(0));
    });
    CAPTURE(prompt, step);
    CHECK(same_bits(pieces, whole));
  }
}

TEST_CASE("the fused attention over a cache has the bits of the plain composition") {
  using B = cpu<float>;
  const attention_shape shape{6, 2, 8, true};
  context<B> cx;
  kv_cache<B> cache(cx, 1, shape, 3, 300);
  const std::vector<float> values = testing::normal_values<float>(600 * shape.packed_width(), 4);
  const std::vector<int> slots{2, 0}, first{299, 20}, one{1, 5};
  for (const auto& counts : {first, one}) {
    const auto rows = cache.extend(cx, slots, counts);
    const const_tensor<B> packed(values.data(), rows.count(), shape.packed_width());
    ops::append_kv(cx, shape, packed, rows, cache.layer(0));
    testing::poison(cx);
    CHECK(same_bits(cx.read(ops::decode_attention(cx, shape, packed, rows, cache.layer(0))),
                    cx.read(ops::decode_attention_plain(cx, shape, packed, rows, cache.layer(0)))));
  }
}

TEST_CASE("a truncated sequence decodes again as if the rest had never been") {
  using B = cpu<double>;
  const transformer_lm<B> model{{vocabulary, longest, 12, 2, 2}};
  context<B> cx;
  auto theta = perturbed(cx, model);
  auto cache = cache_of(cx, model, 2, 10);
  const std::vector<int> prompt{4, 9, 2}, one{1}, count{3}, word{17}, other{5};
  const auto feed = [&](const decoding_rows<B>& rows, const std::vector<int>& tokens) {
    return cx.read(const_tensor<B>(decode(cx, model, theta.weights, view_of<B>(tokens), rows, cache)));
  };
  feed(cache.extend(cx, one, count), prompt);
  const auto first = feed(cache.step(cx, one), word);
  feed(cache.step(cx, one), other);
  cache.truncate(1, 3);
  CHECK(same_bits(feed(cache.step(cx, one), word), first));
  cache.truncate(1);
  CHECK(cache.length(1) == 0);
  feed(cache.extend(cx, one, count), prompt);
  CHECK(same_bits(feed(cache.step(cx, one), word), first));
}

TEST_CASE("a truncated sequence goes on under its gate as if the rest had never been: the cache keeps the sums of every position") {
  using B = cpu<double>;
  using adapter = plan_adapter<B, context_gate<B>>;
  const planner_lm<B, at_attention_output, adapter> model({vocabulary, longest, 12, 2, 2}, adapter{label_width, 12});
  context<B> cx;
  auto theta = perturbed(cx, model);
  const std::vector<double> c = testing::normal_values(2 * label_width, 8);
  const tensor<B, 3> plans = cx.make(2, 2, 13);
  write_plans(cx, model, theta.weights, const_tensor<B>(c.data(), 2, label_width), plans);
  auto cache = cache_of(cx, model, 2, 10);
  const std::vector<int> one{1}, count{3}, prompt{4, 9, 2}, word{17}, other{5}, first_plan{0, 0, 1}, plan{1};
  const auto feed = [&](const decoding_rows<B>& rows, const std::vector<int>& tokens, const std::vector<int>& sentence) {
    return cx.read(const_tensor<B>(decode(cx, model, theta.weights, view_of<B>(tokens), view_of<B>(sentence), plans, rows, cache)));
  };
  feed(cache.extend(cx, one, count), prompt, first_plan);
  const auto first = feed(cache.step(cx, one), word, plan);
  const auto second = feed(cache.step(cx, one), other, plan);
  cache.truncate(1, 3);
  feed(cache.step(cx, one), other, plan);
  cache.truncate(1, 3);
  CHECK(same_bits(feed(cache.step(cx, one), word, plan), first));
  CHECK(same_bits(feed(cache.step(cx, one), other, plan), second));
  cache.truncate(1);
  feed(cache.extend(cx, one, count), prompt, first_plan);
  CHECK(same_bits(feed(cache.step(cx, one), word, plan), first));
  // The language model's own cache keeps no sums.
  auto bare = cache_of(cx, model.lm, 1, 10);
  const std::vector<int> slot{0};
  const auto rows = bare.step(cx, slot);
  CHECK_THROWS_WITH(decode(cx, model, theta.weights, view_of<B>(word), view_of<B>(plan), plans, rows, bare),
                    "decode: the gates go on from running sums of 1 columns, the cache holds 0; make it with cache_of(cx, model, ...)");
}

TEST_CASE("standing rows that advance give the bits of single steps under a gate that looks at the context") {
  using B = cpu<float>;
  using adapter = plan_adapter<B, context_gate<B>>;
  const planner_lm<B, at_feed_forward_input, adapter> model({vocabulary, 40, 16, 2, 2}, adapter{label_width, 16});
  context<B> cx;
  auto theta = perturbed(cx, model);
  const std::vector<float> c = testing::normal_values<float>(label_width, 8);
  const tensor<B, 3> plans = cx.make(2, 1, 17);
  write_plans(cx, model, theta.weights, const_tensor<B>(c.data(), 1, label_width), plans);
  const std::vector<int> slots{1, 0}, prompt{3, 6}, words{4, 9, 2, 7, 7, 1, 30, 12, 5}, next{8, 22}, plan(9, 0);
  const auto run = [&](bool stand) {
    auto cache = cache_of(cx, model, 2, 40);
    const auto feed = [&](const decoding_rows<B>& rows, const std::vector<int>& tokens) {
      const indices<B> sentence(plan.data(), tokens.size());
      return cx.read(decode(cx, model, theta.weights, view_of<B>(tokens), sentence, plans, rows, cache));
    };
    feed(cache.extend(cx, slots, prompt), words);
    std::vector<float> all;
    const auto standing = cache.standing(cx, slots);
    for (int i = 0; i < 4; ++i) {
      const auto h = feed(stand ? standing : cache.step(cx, slots), next);
      all.insert(all.end(), h.begin(), h.end());
      if (stand) kv_cache<B>::advance(cx, standing);
    }
    return all;
  };
  CHECK(same_bits(run(true), run(false)));
}

TEST_CASE("standing rows that advance give the bits of one step after the other") {
  using B = cpu<float>;
  const transformer_lm<B> model{{vocabulary, 40, 16, 2, 2}};
  context<B> cx;
  auto theta = perturbed(cx, model);
  const std::vector<int> slots{1, 0}, prompt{3, 6}, words{4, 9, 2, 7, 7, 1, 30, 12, 5}, next{8, 22};
  const auto run = [&](bool stand) {
    auto cache = cache_of(cx, model, 2, 40);
    decode(cx, model, theta.weights, view_of<B>(words), cache.extend(cx, slots, prompt), cache);
    std::vector<float> all;
    const auto standing = cache.standing(cx, slots);
    for (int i = 0; i < 4; ++i) {
      const auto rows = stand ? standing : cache.step(cx, slots);
      const auto h = cx.read(decode(cx, model, theta.weights, view_of<B>(next), rows, cache));
      all.insert(all.end(), h.begin(), h.end());
      if (stand) kv_cache<B>::advance(cx, rows);
    }
    if (stand) cache.advanced(slots, 4);
    CHECK((cache.length(1) == 7 && cache.length(0) == 10));
    CHECK_THROWS_AS(cache.advanced(slots, 31), input_error);
    return all;
  };
  CHECK(same_bits(run(true), run(false)));
}

TEST_CASE("a cache whose new rows find no memory holds what it held") {
  using B = cpu<float>;
  context<B> cx(B::queue(1), 4096);
  kv_cache<B> cache(cx, 1, {2, 2, 4, true}, 2, 100000);
  const std::vector<int> slots{0, 1}, few{2, 3}, many{90000, 1};
  cache.extend(cx, slots, few);
  CHECK_THROWS_AS(cache.extend(cx, slots, many), memory_error);
  CHECK(cache.length(0) == 2);
  CHECK(cache.length(1) == 3);
}

TEST_CASE("a cache that is full says so, names the sequence, and stays as it was") {
  using B = cpu<float>;
  context<B> cx;
  kv_cache<B> cache(cx, 1, {2, 2, 4, true}, 3, 8);
  const std::vector<int> slots{0, 2}, counts{5, 8};
  cache.extend(cx, slots, counts);
  CHECK_THROWS_WITH(cache.step(cx, slots),
                    "kv_cache: sequence 2 holds 8 tokens and 1 more exceed its capacity of 8; truncate it or make the cache longer");
  CHECK(cache.length(0) == 5);
  CHECK(cache.length(1) == 0);
  CHECK_THROWS_AS(cache.step(cx, std::vector<int>{1, 1}), shape_error);
  CHECK_THROWS_AS(cache.step(cx, std::vector<int>{3}), shape_error);
  CHECK_THROWS_AS(cache.step(cx, std::vector<int>{-1}), shape_error);
  CHECK_THROWS_AS(cache.extend(cx, std::vector<int>{1}, std::vector<int>{0}), shape_error);
  CHECK_THROWS_AS((kv_cache<B>(cx, 1, {2, 2, 4, true}, 3, 0)), shape_error);
  // A model with learned positions ends where its table does, however long the cache is.
  const transformer_lm<B> model{{vocabulary, 4, 8, 2, 1}};
  auto theta = perturbed(cx, model);
  auto long_cache = cache_of(cx, model, 1, 100);
  const std::vector<int> one{0}, three{3}, tokens{1, 2, 3}, two{1, 2}, of_two{2};
  decode(cx, model, theta.weights, view_of<B>(tokens), long_cache.extend(cx, one, three), long_cache);
  const auto rows = long_cache.extend(cx, one, of_two);
  CHECK_THROWS_WITH(decode(cx, model, theta.weights, view_of<B>(two), rows, long_cache),
                    "decode: position 4 is beyond the model's 4 learned positions");
}
