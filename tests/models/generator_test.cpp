#include <planlm/models/generator.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/planning/context_gate.hpp>
#include <planlm/planning/plan_adapter.hpp>
#include <planlm/planning/plan_rows.hpp>
#include <planlm/testing/compare.hpp>

#include "../catch.hpp"
#include "../layers/checks.hpp"

using namespace planlm;
using testing::perturbed;
using testing::same_bits;

namespace {

constexpr index_t vocabulary = 31, length = 24, labels = 6;

/// Tokens 7, 14, 21 and 28 end a sentence.
std::vector<char> sentence_ends() {
  std::vector<char> ends(vocabulary);
  for (const std::size_t t : {7, 14, 21, 28}) ends[t] = 1;
  return ends;
}
/// Weights of a sentence, which depend on the number of its text and its own, and add up to 1.
template <class T>
std::vector<T> weights_of(index_t number, int sentence) {
  std::vector<T> w;
  double sum = 0;
  for (std::uint32_t k = 0; k < labels; ++k)
    sum += std::exp(3 * philox{11}.normal(static_cast<std::uint64_t>(100 * number + sentence), k));
  for (std::uint32_t k = 0; k < labels; ++k)
    w.push_back(static_cast<T>(
        std::exp(3 * philox{11}.normal(static_cast<std::uint64_t>(100 * number + sentence), k)) / sum));
  return w;
}
template <class T>
void append(std::vector<T>& to, const std::vector<T>& more) {
  to.insert(to.end(), more.begin(), more.end());
}
template <class T>
std::vector<T> one_hot(int label) {
  std::vector<T> w(labels);
  w[static_cast<std::size_t>(label)] = 1;
  return w;
}
/// A prompt of n tokens, BOS being 0. `whole`: the plan of its last sentence is given too.
template <class T>
generation_prompt<T> prompt_of(int n, index_t number, bool planned, bool whole = false) {
  generation_prompt<T> p;
  const std::vector<char> ends = sentence_ends();
  int sentence = 0;
  for (int t = 0; t < n; ++t) {
    p.tokens.push_back(t == 0 ? 0
                              : static_cast<int>(philox{5}.below(vocabulary, static_cast<std::uint64_t>(n),
                                                                 std::uint32_t(t))));
    if (t > 0 && ends[static_cast<std::size_t>(p.tokens.back())]) {
      if (planned) append(p.plans, weights_of<T>(number, sentence));
      ++sentence;
    }
  }
  if (planned && whole) append(p.plans, weights_of<T>(number, sentence));
  p.number = number;
  return p;
}
const std::vector<int> prompts{1, 9, 24, 61};  // the last is longer than the window

template <class Model>
constexpr bool planned = FollowsPlans<Model>;
/// `rows_per_plan`: of a model whose plans stand on rows of their own.
template <class Model>
Model make_model(index_t rows_per_plan = 1) {
  constexpr lm_sizes sizes{vocabulary, length, 24, 3, 3};
  if constexpr (!planned<Model>)
    return Model{sizes};
  else if constexpr (Model::embedded)
    return Model(sizes, {labels, rows_per_plan * sizes.width});
  else
    return Model(sizes, labels, 7, 1);
}
template <class Model>
index_t go_on(generator<Model>& gen) {
  if constexpr (!planned<Model>)
    return gen.step();
  else
    return gen.step([&](std::span<const int> slots) {
      using T = typename Model::backend::accum;
      std::vector<T> w;
      for (const int slot : slots) append(w, weights_of<T>(slot, gen.text(slot).sentence.back()));
      return w;
    });
}
/// All texts of the prompts above, to the end.
template <class Model>
auto generate(generation_options options, int threads, index_t rows_per_plan) {
  using B = typename Model::backend;
  context<B> cx{typename B::queue(threads)};
  testing::poison(cx);
  const Model model = make_model<Model>(rows_per_plan);
  auto theta = perturbed(cx, model);
  options.sequences = static_cast<index_t>(prompts.size());
  options.ends = sentence_ends();
  generator gen(cx, model, theta.weights, options, philox{77});
  for (std::size_t i = 0; i < prompts.size(); ++i)
    gen.start(static_cast<index_t>(i),
              prompt_of<typename B::accum>(prompts[i], static_cast<index_t>(i), planned<Model>, i == 1));
  while (go_on(gen)) {
  }
  std::vector<generated_text<typename B::accum>> texts;
  for (index_t slot = 0; slot < options.sequences; ++slot) texts.push_back(gen.text(slot));
  return texts;
}
template <class Text>
bool same_text(const Text& a, const Text& b) {
  return a.tokens == b.tokens && a.sentence == b.sentence && same_bits(a.drawn, b.drawn) &&
         same_bits(a.plain, b.plain) && same_bits(a.plans, b.plans);
}

template <class Model>
void check_against_recomputation(index_t longest, plan_layout layout = plan_layout::added,
                                 index_t rows_per_plan = 1) {
  struct setting {
    sampling_rule rule;
    index_t window, keep;
  };
  for (const auto& [rule, window, keep] :
       {setting{{}, 0, 0}, setting{{.temperature = 0.7, .top_p = 0.9}, 0, 5},
        setting{{.temperature = 0.7}, 10, 10}}) {
    CAPTURE(rule.temperature, rule.top_p, window, keep);
    generation_options options{.longest = longest,
                               .window = window,
                               .keep = keep,
                               .layout = layout,
                               .longest_sentence = 9,
                               .rule = rule};
    options.recompute = true;
    const auto expected = generate<Model>(options, 1, rows_per_plan);
    options.recompute = false;
    for (const int threads : {1, 3}) {
      const auto texts = generate<Model>(options, threads, rows_per_plan);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        CAPTURE(threads, i);
        CHECK(texts[i].tokens.size() == static_cast<std::size_t>(longest));
        CHECK(texts[i].sentence.back() > longest / 15);  // many plans, many windows
        CHECK(same_text(texts[i], expected[i]));
      }
    }
  }
}

}  // namespace

TEST_CASE("generation from a cache is full recomputation bit for bit, across changes of plan and windows") {
  using F = cpu<float>;
  using D = cpu<double>;
  check_against_recomputation<planner_lm<F>>(220);
  check_against_recomputation<planner_lm<D, at_feed_forward_input>>(80);
  check_against_recomputation<planner_lm<F, at_embedding, plan_adapter<F>>>(80);
  check_against_recomputation<planner_lm<F, at_attention_output, label_adapter<F, context_gate<F>>>>(80);
}

TEST_CASE("plans on rows of their own generate from a cache as by full recomputation") {
  using F = cpu<float>;
  using Model = planner_lm<F, at_embedding, plan_adapter<F>>;
  check_against_recomputation<Model>(80, plan_layout::inserted, 1);
  check_against_recomputation<Model>(80, plan_layout::inserted, 3);
  check_against_recomputation<Model>(80, plan_layout::prefix, 2);
}

TEST_CASE("a plain language model generates from a cache as by full recomputation") {
  check_against_recomputation<transformer_lm<cpu<float>>>(220);
  check_against_recomputation<transformer_lm<cpu<double>, no_positions<cpu<double>>, rotary>>(80);
}

TEST_CASE("log-probabilities of a generated text are those that training's forward pass gives it") {
  using B = cpu<double>;
  using Model = planner_lm<B>;
  const Model model = make_model<Model>();
  context<B> cx;
  auto theta = perturbed(cx, model);
  generator gen(cx, model, theta.weights,
                {.longest = length + 1, .ends = sentence_ends(), .rule = {.temperature = 0.7}}, philox{3});
  gen.start(0, {.tokens = {0}});
  while (go_on(gen)) {
  }
  const auto& text = gen.text(0);
  REQUIRE(text.tokens.size() == length + 1);
  // The sentence of a row's target, counted here: it follows the tokens that end one.
  const auto ends = sentence_ends();
  std::vector<int> gamma{0};
  for (std::size_t t = 1; t < text.tokens.size(); ++t)
    gamma.push_back(gamma.back() + ends[static_cast<std::size_t>(text.tokens[t])]);
  CHECK(text.sentence == gamma);
  CHECK(gamma.back() >= 2);

  std::vector<double> w;
  for (int s = 0; s <= gamma.back(); ++s) append(w, weights_of<double>(0, s));
  const testing::packed rows{static_cast<int>(length)};
  planned_rows<B> batch;
  batch.tokens = batch.targets = {text.tokens.data(), length};
  batch.sentence = {gamma.data(), length};
  batch.rows = rows.view<B>();
  batch.sentences = gamma.back() + 1;
  const auto h = model(cx, theta.weights, batch, const_tensor<B>(w.data(), batch.sentences, labels)).value;
  const auto nll =
      cx.read(ops::linear_token_nll(cx, const_tensor<B>(h), const_tensor<B>(theta.weights.lm.token.table),
                                    indices<B>(text.tokens.data() + 1, length)));
  REQUIRE(text.plain.size() == nll.size());
  for (std::size_t i = 0; i < nll.size(); ++i) CHECK(text.plain[i] == Approx(-nll[i]).epsilon(1e-12));
}

TEST_CASE("log-probabilities under plans on rows of their own are those of training's rows") {
  using B = cpu<double>;
  using Model = planner_lm<B, at_embedding, plan_adapter<B>>;
  const int parts = 2;
  const Model model = make_model<Model>(parts);
  context<B> cx;
  auto theta = perturbed(cx, model);
  for (const plan_layout layout : {plan_layout::inserted, plan_layout::prefix}) {
    generator gen(cx, model, theta.weights, {.longest = 13, .layout = layout, .longest_sentence = 4},
                  philox{3});
    gen.start(0, {.tokens = {0}});
    while (go_on(gen)) {
    }
    const auto& text = gen.text(0);
    REQUIRE(text.tokens.size() == 13);
    const std::vector<int> offsets{0, 12};
    const host_rows batch{std::span(text.tokens).first(12), std::span(text.tokens).subspan(1),
                          std::span(text.sentence).first(12), offsets};
    const auto rows =
        layout == plan_layout::prefix ? prefix_plan_rows(batch, parts) : insert_plan_rows(batch, parts);
    std::vector<double> c;
    for (int s = 0; s < 3; ++s) append(c, weights_of<double>(0, s));
    planned_rows<B> planned;
    const auto view_of = [](const std::vector<int>& v) { return indices<B>(v.data(), v.size()); };
    planned.tokens = view_of(rows.tokens);
    planned.targets = view_of(rows.targets);
    planned.sentence = view_of(rows.plan);
    planned.rows = {view_of(rows.offsets), rows.offsets.data(), view_of(rows.positions)};
    planned.sentences = 3;
    const auto h = model(cx, theta.weights, planned, const_tensor<B>(c.data(), 3, labels)).value;
    std::vector<int> taken, targets;
    for (std::size_t r = 0; r < rows.row.size(); ++r)
      if (rows.row[r] >= 0) taken.push_back(static_cast<int>(r)), targets.push_back(rows.targets[r]);
    const auto of_tokens = ops::gather_rows(cx, const_tensor<B>(h), view_of(taken));
    const auto nll = cx.read(ops::linear_token_nll(
        cx, const_tensor<B>(of_tokens), const_tensor<B>(theta.weights.lm.token.table), view_of(targets)));
    REQUIRE(nll.size() == text.plain.size());
    for (std::size_t i = 0; i < nll.size(); ++i) CHECK(text.plain[i] == Approx(-nll[i]).epsilon(1e-12));
  }
}

TEST_CASE("a full window goes on from its last tokens at positions from 0 on, and no token is lost") {
  using B = cpu<double>;
  using Model = transformer_lm<B>;
  const Model model = make_model<Model>();
  context<B> cx;
  auto theta = perturbed(cx, model);
  generator gen(cx, model, theta.weights, {.longest = 20, .window = 8, .keep = 3}, philox{3});
  gen.start(0, {.tokens = {0, 4, 9}});
  while (gen.step()) {
  }
  const auto& text = gen.text(0);
  CHECK(std::vector<int>(text.tokens.begin(), text.tokens.begin() + 3) == std::vector<int>{0, 4, 9});
  REQUIRE(text.tokens.size() == 20);
  REQUIRE(text.plain.size() == 17);
  // Where the window of token n begins, by hand: it may hold 8, then goes on from 3.
  const auto begin_of = [](int n) { return n <= 8 ? 0 : n <= 14 ? 6 : 12; };
  for (int n = 3; n < 20; ++n) {
    const int begin = begin_of(n);
    const testing::packed rows{n - begin};
    const auto tokens = indices<B>(text.tokens.data() + begin, n - begin);
    const auto h = model(cx, theta.weights, tokens, rows.view<B>()).value;
    const auto nll = cx.read(ops::linear_token_nll(
        cx, row_range(const_tensor<B>(h), n - begin - 1, n - begin),
        const_tensor<B>(theta.weights.token.table), indices<B>(text.tokens.data() + n, 1)));
    CAPTURE(n);
    CHECK(text.plain[static_cast<std::size_t>(n - 3)] == Approx(-nll[0]).epsilon(1e-12));
  }
}

TEST_CASE("a text depends on neither its neighbours nor its slot, nor on what the slot held before") {
  using B = cpu<float>;
  using Model = planner_lm<B>;
  const Model model = make_model<Model>();
  context<B> cx;
  auto theta = perturbed(cx, model);
  const generation_options options{.longest = 90, .ends = sentence_ends(), .longest_sentence = 9};
  const auto by_number = [&](generator<Model>& gen, std::vector<index_t>& number) {
    return gen.step([&](std::span<const int> slots) {
      std::vector<float> w;
      for (const int slot : slots)
        append(w, weights_of<float>(number[static_cast<std::size_t>(slot)], gen.text(slot).sentence.back()));
      return w;
    });
  };
  generator alone(cx, model, theta.weights, options, philox{8});
  std::vector<index_t> number{5};
  alone.start(0, prompt_of<float>(9, 5, true));
  while (by_number(alone, number)) {
  }
  CHECK(alone.text(0).sentence.back() > 5);

  generation_options more = options;
  more.sequences = 3;
  generator crowd(cx, model, theta.weights, more, philox{8});
  number = {1, 7, 0};
  crowd.start(0, prompt_of<float>(61, 1, true));
  crowd.start(1, prompt_of<float>(3, 7, true));
  for (int i = 0; i < 30; ++i) by_number(crowd, number);  // slot 2 comes later, slot 1 changes its text
  number = {1, 5, 4};
  crowd.start(1, prompt_of<float>(9, 5, true));
  crowd.start(2, prompt_of<float>(1, 4, true));
  while (by_number(crowd, number)) {
  }
  CHECK(same_text(crowd.text(1), alone.text(0)));
  CHECK(crowd.text(2).tokens != alone.text(0).tokens);
  // Another number draws another text.
  number = {6};
  auto other = prompt_of<float>(9, 5, true);
  other.number = 6;
  alone.start(0, other);
  number = {5};
  const auto first = crowd.text(1);
  while (by_number(alone, number)) {
  }
  CHECK(alone.text(0).tokens != first.tokens);
}

TEST_CASE("a forced plan changes the text from its sentence on and nothing before it") {
  using B = cpu<float>;
  using Model = planner_lm<B>;
  const Model model = make_model<Model>();
  context<B> cx;
  auto theta = perturbed(cx, model);
  const auto text_of = [&](std::vector<int> plan) {
    generator gen(cx, model, theta.weights, {.longest = 200, .ends = sentence_ends(), .longest_sentence = 12},
                  philox{21});
    gen.start(0, {.tokens = {0}});
    while (gen.step([&](std::span<const int> slots) {
      std::vector<float> w;
      std::vector<int> names;
      for (const int slot : slots) {
        names.push_back(plan[static_cast<std::size_t>(gen.text(slot).sentence.back()) % plan.size()]);
        append(w, one_hot<float>(names.back()));
      }
      return plan_answer<float>{w, names};
    })) {
    }
    return gen.text(0);
  };
  const auto a = text_of({3, 1, 4, 1, 5, 0}), b = text_of({3, 1, 4, 2, 5, 0});
  CHECK(std::vector<int>(a.labels.begin(), a.labels.begin() + 4) == std::vector<int>{3, 1, 4, 1});
  CHECK(std::vector<int>(b.labels.begin(), b.labels.begin() + 4) == std::vector<int>{3, 1, 4, 2});
  // Tokens up to the end of sentence 2, and the row that predicts the first one of sentence 3.
  const auto row =
      static_cast<std::size_t>(std::find(a.sentence.begin(), a.sentence.end(), 3) - a.sentence.begin());
  REQUIRE(row + 2 < a.tokens.size());
  CHECK(std::equal(a.tokens.begin(), a.tokens.begin() + static_cast<std::ptrdiff_t>(row) + 1,
                   b.tokens.begin()));
  CHECK(std::equal(a.plain.begin(), a.plain.begin() + static_cast<std::ptrdiff_t>(row), b.plain.begin()));
  CHECK(b.sentence[row] == 3);
  CHECK(a.plain[row] != b.plain[row]);  // already the first token of the sentence follows its plan
  CHECK(a.tokens != b.tokens);
}

TEST_CASE(
    "the planner is asked once for every sentence, before its first token, and texts stop where they were "
    "told") {
  using B = cpu<float>;
  using Model = planner_lm<B>;
  const Model model = make_model<Model>();
  context<B> cx;
  auto theta = perturbed(cx, model);
  generator gen(
      cx, model, theta.weights,
      {.sequences = 3, .longest = 150, .ends = sentence_ends(), .longest_sentence = 4, .sentences = 5},
      philox{9});
  gen.start(2, {.tokens = {0, 3, 7, 5}, .plans = one_hot<float>(4)});
  CHECK(gen.text(2).sentence == std::vector<int>{0, 0, 1, 1});
  gen.stop(2);
  CHECK_FALSE(gen.live(2));
  // Sentences 4 and 5 of a document; the plan of 5 is missing.
  gen.start(1, {.tokens = {0, 3, 7, 5}, .sentence = {4, 4, 5, 5}, .plans = one_hot<float>(2), .labels = {2}});
  gen.start(0, {.tokens = {0}});
  std::vector<std::vector<int>> asked(2);
  while (gen.step([&](std::span<const int> slots) {
    std::vector<float> w;
    for (const int slot : slots) {
      const auto& text = gen.text(slot);
      asked.at(static_cast<std::size_t>(slot)).push_back(text.sentence.back());
      CHECK(text.labels.size() == static_cast<std::size_t>(text.sentence.back() - text.sentence.front()));
      append(w, one_hot<float>(1));
    }
    return w;
  })) {
  }
  CHECK(asked[0] == std::vector<int>{0, 1, 2, 3, 4});
  CHECK(asked[1] == std::vector<int>{5, 6, 7, 8, 9});
  const auto ends = sentence_ends();
  for (const index_t slot : {0, 1}) {
    const auto& text = gen.text(slot);
    CHECK(text.sentence.back() - text.sentence[text.given - 1] == 5);
    CHECK(text.labels.front() == (slot == 1 ? 2 : -1));
    for (std::size_t t = text.given, run = slot == 1 ? 1 : 0; t < text.tokens.size(); ++t) {
      ++run;
      const bool ended = ends[static_cast<std::size_t>(text.tokens[t])] || run == 4;
      CHECK(text.sentence[t] == text.sentence[t - 1] + ended);
      if (ended) run = 0;
    }
  }
  CHECK(gen.text(2).tokens.size() == 4);
}

TEST_CASE("a step that failed can be tried again, as if nothing had been") {
  using B = cpu<float>;
  using Model = planner_lm<B>;
  const Model model = make_model<Model>();
  context<B> cx;
  auto theta = perturbed(cx, model);
  const generation_options options{.longest = 60, .ends = sentence_ends(), .longest_sentence = 5};
  generator expected(cx, model, theta.weights, options, philox{4}),
      gen(cx, model, theta.weights, options, philox{4});
  expected.start(0, {.tokens = {0}});
  gen.start(0, {.tokens = {0}});
  while (go_on(expected)) {
  }
  const auto table = theta.read(cx, theta.find("lm.token.table"));
  for (int i = 0; gen.live(0); ++i) {
    const auto before = gen.text(0);
    if (i % 7 == 3) {  // logits that are no numbers
      theta.write(cx, theta.find("lm.token.table"), std::vector<float>(table.size(), NAN));
      const std::string message = "generator: the logits of text 0 at position " +
                                  std::to_string(before.tokens.size()) + " are no finite numbers";
      CHECK_THROWS_WITH(go_on(gen), message);
      theta.write(cx, theta.find("lm.token.table"), table);
      CHECK(gen.text(0).tokens == before.tokens);
    }
    if (gen.text(0).labels.size() <=
        static_cast<std::size_t>(before.sentence.back())) {  // a plan given before the failure is kept
      CHECK_THROWS_AS(
          gen.step([](std::span<const int>) -> std::vector<float> { throw std::runtime_error("no plan"); }),
          std::runtime_error);
      CHECK_THROWS_WITH(gen.step([](std::span<const int>) { return std::vector<float>(5); }),
                        "generator: the planner gave 5 values and 0 labels for 1 sentences, expected 6 "
                        "values for each, and as many labels "
                        "or none");
    }
    go_on(gen);
  }
  CHECK(same_text(gen.text(0), expected.text(0)));
}

TEST_CASE("what does not fit is refused by name and changes nothing") {
  using B = cpu<float>;
  using Model = planner_lm<B>;
  const Model model = make_model<Model>();
  context<B> cx;
  auto theta = perturbed(cx, model);
  generator gen(cx, model, theta.weights, {.sequences = 2, .longest = 50, .ends = sentence_ends()},
                philox{4});
  gen.start(0, {.tokens = {0, 3}});
  CHECK_THROWS_WITH(gen.start(0, {.tokens = {0, 31}}),
                    "generator: token 1 of the prompt is 31, expected 0 to 30; take the vocabulary that the "
                    "model was trained with");
  CHECK_THROWS_AS(gen.start(0, {.tokens = {0, -1}}), input_error);
  CHECK_THROWS_WITH(gen.start(0, {.tokens = {}}),
                    "generator: the prompt has 0 tokens, expected 1 to 49, one less than the text may have; "
                    "begin with BOS, allow a longer "
                    "text or give a shorter prompt");
  CHECK_THROWS_AS(gen.start(0, {.tokens = std::vector<int>(50)}), input_error);
  CHECK_THROWS_AS(gen.start(0, {.tokens = {0}, .number = 1 << 30}), input_error);
  CHECK_THROWS_AS(gen.start(0, {.tokens = {0, 3}, .sentence = {0}}), shape_error);
  CHECK_THROWS_AS(gen.start(0, {.tokens = {0, 3}, .sentence = {0, 2}}), shape_error);
  CHECK_THROWS_AS(gen.start(0, {.tokens = {0, 3}, .sentence = {1, 0}}), shape_error);
  CHECK_THROWS_WITH(gen.start(0, {.tokens = {0, 7, 3}, .plans = {}}),
                    "generator: 0 plan values and 0 labels for a prompt of 2 sentences, expected 6 values "
                    "for each but perhaps the last, and "
                    "as many labels or none");
  CHECK_THROWS_AS(gen.start(0, {.tokens = {0}, .rule = sampling_rule{.temperature = 0}}), planlm::error);
  CHECK_THROWS_AS(gen.start(2, {.tokens = {0}}), shape_error);
  CHECK_THROWS_AS(gen.text(-1), shape_error);
  CHECK(gen.live(0));
  CHECK(gen.text(0).tokens == std::vector<int>{0, 3});

  const auto refused = [&](generation_options o) {
    generator<Model>(cx, model, theta.weights, o, philox{1});
  };
  CHECK_THROWS_WITH(refused({.window = length + 1}),
                    "generator: a window of 25 rows, expected 1 to the model's length of 24");
  CHECK_THROWS_AS(refused({.window = 6, .keep = 7}), shape_error);
  CHECK_THROWS_AS(refused({.sequences = 0}), shape_error);
  CHECK_THROWS_AS(refused({.longest = 1}), shape_error);
  CHECK_THROWS_AS(refused({.ends = std::vector<char>(30)}), shape_error);
  CHECK_THROWS_AS(refused({.longest_sentence = -1}), shape_error);
  CHECK_THROWS_WITH(refused({.layout = plan_layout::inserted}),
                    "generator: the model's plans are 1 row added in its blocks; plans on rows of their own "
                    "enter at the embedding");
  CHECK_THROWS_AS(refused({.rule = {.top_p = 0}}), planlm::error);
}
