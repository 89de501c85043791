/// Text from a language model, several sequences at once, with a new plan at every sentence boundary.
///
///     generation_options how{.sequences = 8, .longest = 256, .ends = ends_of_sentences};
///     generator gen(cx, model, theta.weights, how, philox{seed});
///     gen.start(0, {.tokens = {bos}});
///     while (gen.step([&](std::span<const int> slots) { return weights_for(slots); })) {}
///     gen.text(0).tokens;
///
/// A plain model takes no plans: gen.step().
///
/// Row t of a text predicts token t + 1 under the plan of the sentence that holds token t + 1 (2410.12492's
/// code: gamma(t)), so a new plan is asked for once a sentence has ended and before its last token is run. A
/// sentence ends with a token of `ends`, or where it is too long.
///
/// The model sees a window of its text. When that is full, it goes on from the last `keep` rows, run again at
/// positions from 0 on, as chunks of training begin anywhere. A longer prompt begins with its last `keep`
/// rows too. The text keeps every token.
///
/// A draw has the place number * longest + position in the text: a text depends on its number, its prompt and
/// its plans, not on its slot, its neighbours or threads. With `recompute` every step runs the packed forward
/// pass over the whole window, slowly. Both hold on the CPU to the bit; elsewhere up to the rounding of
/// logits, for how a product is summed may depend on its number of rows; a near draw then falls otherwise.
#pragma once
#include <concepts>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/backend/buffer.hpp>
#include <planlm/models/decoding.hpp>
#include <planlm/models/generation.hpp>
#include <planlm/models/generation_window.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/sampling.hpp>

namespace planlm {

/// Model: transformer_lm or planner_lm. The weights must outlive the generator. The device allocates nothing
/// but while its arena grows. An error in a step leaves all tokens as they were, so that it can be tried
/// again.
template <class Model>
class generator {
 public:
  using backend = typename Model::backend;
  using real = typename backend::real;
  using accum = typename backend::accum;
  using prompt = generation_prompt<accum>;
  using text_type = generated_text<accum>;
  static constexpr bool plans = FollowsPlans<Model>;

  /// Errors: shape_error and planlm::error for options that fit neither each other nor the model.
  generator(context<backend>& cx, const Model& model, const typename Model::params& p,
            generation_options options, philox random)
      : cx_(cx),
        model_(model),
        p_(p),
        options_(
            detail::checked(std::move(options), lm().sizes, detail::rows_of_a_plan(model, options.layout))),
        how_{options_.layout, detail::rows_of_a_plan(model, options_.layout), options_.keep, inputs()},
        random_(random),
        slots_(static_cast<std::size_t>(options_.sequences)) {
    if (!options_.recompute) cache_.emplace(cache_of(cx, model, options_.sequences, options_.window));
    if constexpr (plans)
      plan_memory_ = buffer<backend>(cx, model.adapters.depth * options_.sequences * columns());
  }

  /// A text begins in a slot; what was there is forgotten.
  /// Errors, which change nothing: input_error for tokens that are none or too many, shape_error for
  /// sentences or plans that do not fit.
  void start(index_t slot, prompt from) {
    sequence& s = at(slot);
    if (from.number < 0) from.number = slot;
    if (from.sentence.empty()) from.sentence = counted(from.tokens);
    detail::check_prompt(from, options_.longest, lm().sizes.vocabulary, inputs());
    const sampling_rule rule = from.rule.value_or(options_.rule);
    check_rule(rule);
    s = {};
    s.text.given = from.tokens.size();
    s.text.tokens = std::move(from.tokens);
    s.text.sentence = std::move(from.sentence);
    s.text.plans = std::move(from.plans);
    s.text.labels = std::move(from.labels);
    s.text.labels.resize(planned(s), -1);
    s.first_drawn = s.text.sentence.back();
    for (auto row = s.text.sentence.rbegin() + 1; row != s.text.sentence.rend() && *row == s.first_drawn;
         ++row)
      ++s.in_sentence;
    for (std::size_t t = 0; t < s.text.tokens.size(); ++t) s.window.see(s.text, t, how_);
    s.number = from.number;
    s.rule = rule;
    s.live = true;
    forget(slot);
  }
  /// The text of a slot is finished; it can still be read.
  void stop(index_t slot) { at(slot).live = false; }
  bool live(index_t slot) const { return at(slot).live; }
  const text_type& text(index_t slot) const { return at(slot).text; }
  index_t sequences() const { return options_.sequences; }
  /// Values of one plan: labels of the adapters, or what else they take.
  index_t inputs() const {
    if constexpr (plans)
      return model_.adapters.adapter.inputs();
    else
      return 0;
  }

  /// Values of a plan as the layers read it: the model's width, and what a gate adds.
  index_t columns() const {
    if constexpr (plans)
      return model_.adapters.adapter.columns();
    else
      return 0;
  }

  /// One token for every live text. plan(slots) -> plan_answer or a vector (slots, inputs): the plans of the
  /// sentences text(slot).sentence.back() that are about to begin. Returns how many texts went on; 0: all are
  /// finished. Errors: shape_error for plans of another size, numeric_error for logits that are no numbers.
  template <class Planner>
    requires plans &&
             std::convertible_to<std::invoke_result_t<const Planner&, std::span<const int>>,
                                 plan_answer<accum>>
  index_t step(const Planner& plan) {
    find_live();
    ask(plan);
    return draw();
  }
  index_t step() requires(!plans) {
    find_live();
    return draw();
  }

 private:
  struct sequence {
    text_type text;
    sampling_rule rule;
    detail::text_window window;             // what the model sees; the cache holds all but the newest
    index_t number = 0, in_sentence = 0;    // of the text; tokens of the sentence under way
    int first_drawn = 0;                    // the sentence of the first token drawn
    bool live = false, plan_there = false;  // whether plan_memory_ holds the current plan
  };

  const auto& lm() const {
    if constexpr (plans)
      return model_.lm;
    else
      return model_;
  }
  const auto& lm_params() const {
    if constexpr (plans)
      return p_.lm;
    else
      return p_;
  }
  sequence& at(index_t slot) { return const_cast<sequence&>(std::as_const(*this).at(slot)); }
  const sequence& at(index_t slot) const {
    if (slot < 0 || slot >= options_.sequences)
      throw shape_error("generator: slot " + std::to_string(slot) + " is none of the " +
                        std::to_string(options_.sequences));
    return slots_[static_cast<std::size_t>(slot)];
  }
  sequence& of(int slot) { return slots_[static_cast<std::size_t>(slot)]; }
  std::size_t planned(const sequence& s) const {
    return plans ? s.text.plans.size() / static_cast<std::size_t>(inputs()) : 0;
  }
  bool ends(int token) const {
    return !options_.ends.empty() && options_.ends[static_cast<std::size_t>(token)] != 0;
  }
  void forget(index_t slot) {
    if (cache_) cache_->truncate(slot);
    at(slot).plan_there = false;
  }

  std::vector<int> counted(const std::vector<int>& tokens) const {
    std::vector<int> sentence;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const bool known =
          tokens[t] >= 0 && tokens[t] < lm().sizes.vocabulary;  // others are refused afterwards
      sentence.push_back(t == 0 ? 0 : sentence.back() + (known && ends(tokens[t])));
    }
    return sentence;
  }
  void find_live() {
    running_.clear();
    for (std::size_t slot = 0; slot < slots_.size(); ++slot)
      if (slots_[slot].live) running_.push_back(static_cast<int>(slot));
  }
  template <class Planner>
  void ask(const Planner& plan) {
    asked_.clear();
    for (const int slot : running_) {
      const text_type& t = of(slot).text;
      if (planned(of(slot)) <= static_cast<std::size_t>(t.sentence.back() - t.sentence.front()))
        asked_.push_back(slot);
    }
    if (asked_.empty()) return;
    const plan_answer<accum> answer = plan(std::span<const int>(asked_));
    const auto values = static_cast<std::size_t>(inputs());
    if (answer.inputs.size() != asked_.size() * values ||
        (!answer.labels.empty() && answer.labels.size() != asked_.size()))
      throw shape_error("generator: the planner gave " + std::to_string(answer.inputs.size()) +
                        " values and " + std::to_string(answer.labels.size()) + " labels for " +
                        std::to_string(asked_.size()) + " sentences, expected " + std::to_string(values) +
                        " values for each, and as many labels or none");
    for (std::size_t i = 0; i < asked_.size(); ++i) {
      sequence& s = of(asked_[i]);
      const auto from = answer.inputs.begin() + static_cast<std::ptrdiff_t>(i * values);
      s.text.plans.insert(s.text.plans.end(), from, from + static_cast<std::ptrdiff_t>(values));
      s.text.labels.push_back(answer.labels.empty() ? -1 : answer.labels[i]);
      s.plan_there = false;
    }
  }

  index_t draw() {
    if (running_.empty()) return 0;
    for (const int slot : running_) {
      sequence& s = of(slot);
      if (static_cast<index_t>(s.window.rows.size()) <= options_.window) continue;
      s.window.slide(s.text, how_);
      if (cache_) cache_->truncate(slot);
    }
    try {
      auto scope = cx_.scope();
      sample(options_.recompute ? forward() : cached());
    } catch (...) {  // rows that were announced to the cache may be missing there
      for (const int slot : running_) forget(slot);
      throw;
    }
    for (std::size_t i = 0; i < running_.size(); ++i)
      append(of(running_[i]), tokens_[i], drawn_[i], plain_[i]);
    return static_cast<index_t>(running_.size());
  }
  void append(sequence& s, int token, accum drawn, accum plain) const {
    const index_t length = ++s.in_sentence;
    const bool ended = ends(token) || (options_.longest_sentence > 0 && length >= options_.longest_sentence);
    s.text.tokens.push_back(token);
    s.text.sentence.push_back(s.text.sentence.back() + ended);
    s.text.drawn.push_back(drawn);
    s.text.plain.push_back(plain);
    if (ended) s.in_sentence = 0;
    s.window.see(s.text, s.text.tokens.size() - 1, how_);
    const bool enough =
        options_.sentences > 0 && s.text.sentence.back() - s.first_drawn >= options_.sentences;
    s.live = !enough && static_cast<index_t>(s.text.tokens.size()) < options_.longest;
  }

  const_tensor<backend> upload_plans(const std::vector<real>& values) {
    return cx_.upload(std::span<const real>(values), static_cast<index_t>(values.size()) / inputs(),
                      inputs());
  }

  // Hidden rows (live, width) of the last tokens: everything but them enters the cache first, where it is not
  // there yet.
  const_tensor<backend> cached() {
    packed_.clear();
    late_.clear();
    counts_.clear();
    for (const int slot : running_) {
      const sequence& s = of(slot);
      const auto from = static_cast<std::size_t>(cache_->length(slot)), to = s.window.rows.size() - 1;
      if (from == to) continue;
      late_.push_back(slot);
      counts_.push_back(static_cast<int>(to - from));
      packed_.add(s.text, s.window, from, to, how_);
    }
    if (!late_.empty()) {
      auto scope = cx_.scope();
      const indices<backend> tokens = cx_.upload(packed_.tokens);
      if constexpr (plans) {
        const tensor<backend, 3> u = cx_.make(model_.adapters.depth, index_t{packed_.sentences}, columns());
        write_plans(cx_, model_, p_, upload_plans(packed_.plans), u);
        const indices<backend> sentence = cx_.upload(packed_.sentence);
        decode(cx_, model_, p_, tokens, sentence, u, cache_->extend(cx_, late_, counts_), *cache_);
      } else {
        decode(cx_, model_, p_, tokens, cache_->extend(cx_, late_, counts_), *cache_);
      }
    }
    packed_.tokens.clear();
    for (const int slot : running_) packed_.tokens.push_back(of(slot).text.tokens.back());
    const indices<backend> tokens = cx_.upload(packed_.tokens);
    if constexpr (plans) {
      const tensor<backend, 3> u = current_plans();
      packed_.sentence = running_;  // a slot's plan is row `slot`
      if (how_.plan_rows > 0) packed_.sentence.assign(running_.size(), -1);
      const indices<backend> sentence = cx_.upload(packed_.sentence);
      return decode(cx_, model_, p_, tokens, sentence, u, cache_->step(cx_, running_), *cache_);
    } else {
      return decode(cx_, model_, p_, tokens, cache_->step(cx_, running_), *cache_);
    }
  }
  // (adapted layers, slots, width): new plans are written, neighbouring slots at once.
  tensor<backend, 3> current_plans() {
    const tensor<backend, 3> u(plan_memory_.values().data, model_.adapters.depth, options_.sequences,
                               columns());
    if (how_.plan_rows > 0) return u;  // nobody reads it
    for (std::size_t i = 0; i < running_.size();) {
      packed_.plans.clear();
      const int first = running_[i];
      int next = first;
      for (; i < running_.size() && running_[i] == next && !of(next).plan_there; ++i, ++next) {
        const text_type& t = of(next).text;
        const auto values = static_cast<std::ptrdiff_t>(inputs());
        const auto from = t.plans.begin() + (t.sentence.back() - t.sentence.front()) * values;
        packed_.plans.insert(packed_.plans.end(), from, from + values);
        of(next).plan_there = true;
      }
      if (next == first)
        ++i;
      else
        write_plans(cx_, model_, p_, upload_plans(packed_.plans), u, index_t{first});
    }
    return u;
  }
  // The same rows by the packed forward pass over all windows.
  const_tensor<backend> forward() {
    packed_.clear();
    last_.clear();
    for (const int slot : running_) {
      packed_.add(of(slot).text, of(slot).window, 0, of(slot).window.rows.size(), how_);
      last_.push_back(static_cast<int>(packed_.tokens.size()) - 1);
    }
    const indices<backend> tokens = cx_.upload(packed_.tokens);
    const sequences_type rows{cx_.upload(packed_.offsets), packed_.offsets.data(),
                              cx_.upload(packed_.positions)};
    const const_tensor<backend> hidden = [&] {
      if constexpr (plans) {
        planned_rows<backend> batch;
        batch.tokens = batch.targets = tokens;
        batch.sentence = cx_.upload(packed_.sentence);
        batch.rows = rows;
        batch.sentences = packed_.sentences;
        return const_tensor<backend>(model_(cx_, p_, batch, upload_plans(packed_.plans)).value);
      } else {
        return const_tensor<backend>(model_(cx_, p_, tokens, rows).value);
      }
    }();
    return ops::gather_rows(cx_, hidden, indices<backend>(cx_.upload(last_)));
  }
  void sample(const_tensor<backend> hidden) {
    places_.clear();
    rules_.clear();
    for (const int slot : running_) {
      const sequence& s = of(slot);
      places_.push_back(static_cast<int>(s.number * options_.longest) +
                        static_cast<int>(s.text.tokens.size()));
      rules_.push_back(s.rule);
    }
    const const_tensor<backend> logits =
        ops::matmul_nt(cx_, hidden, const_tensor<backend>(lm_params().token.table));  // (live, V)
    const auto draws = ops::sample(cx_, logits, std::span<const sampling_rule>(rules_), random_,
                                   indices<backend>(cx_.upload(places_)));
    download(tokens_, draws.token);
    download(drawn_, draws.drawn);
    download(plain_, draws.plain);
    backend::synchronize(cx_.queue());
    for (std::size_t i = 0; i < running_.size(); ++i)
      if (tokens_[i] < 0)
        throw numeric_error("generator: the logits of text " + std::to_string(of(running_[i]).number) +
                            " at position " + std::to_string(of(running_[i]).text.tokens.size()) +
                            " are no finite numbers");
  }
  template <class T>
  void download(std::vector<T>& to, view<T, 1, typename backend::space> from) {
    to.resize(static_cast<std::size_t>(from.size()));
    backend::download(cx_.queue(), to.data(), from.data, to.size() * sizeof(T));
  }

  using sequences_type = planlm::sequences<backend>;
  context<backend>& cx_;
  Model model_;
  typename Model::params p_;
  generation_options options_;
  detail::window_rule how_;
  philox random_;
  std::vector<sequence> slots_;
  std::optional<kv_cache<backend>> cache_;
  buffer<backend> plan_memory_;
  // Of one step, kept for their memory.
  std::vector<int> running_, asked_, late_, counts_, last_, places_, tokens_;
  detail::packed_windows<real> packed_;
  std::vector<sampling_rule> rules_;
  std::vector<accum> drawn_, plain_;
};

}  // namespace planlm
