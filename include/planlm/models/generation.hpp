/// What generation is asked for and what it gives: options, how a text begins, the text, a planner's answer.
/// See models/generator.hpp.
#pragma once
#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>
#include <planlm/models/transformer_lm.hpp>
#include <planlm/ops/sampling.hpp>

namespace planlm {

/// A model whose sentences follow plans; any other is a plain language model.
template <class Model>
concept FollowsPlans = requires(const Model& model, const typename Model::params& p) {
  model.lm;
  model.adapters;
  p.lm;
};

/// How a plan reaches its sentence: added to the sentence's rows, or on rows of its own
/// (planning/plan_rows.hpp), inserted before each sentence or once before each window, for the sentence that
/// it begins with.
enum class plan_layout { added, inserted, prefix };

struct generation_options {
  index_t sequences = 1;  // at once
  index_t longest = 256;  // tokens of a text, its prompt included
  index_t window = 0;     // rows the model sees, those of plans included; 0: the model's length
  index_t keep = 0;       // rows a full window goes on from; 0: half a window
  plan_layout layout = plan_layout::added;
  std::vector<char> ends{};      // (V): not 0 where a token ends its sentence; empty: none does
  index_t longest_sentence = 0;  // tokens; 0: no bound
  index_t sentences = 0;         // a text stops when so many sentences were drawn; 0: at `longest` alone
  sampling_rule rule{};
  bool recompute = false;
};

/// What a text begins with. `Real` is the backend's accum.
template <class Real>
struct generation_prompt {
  std::vector<int> tokens;      // BOS first, at least that
  std::vector<int> sentence{};  // (tokens): the sentence that holds the NEXT token, ascending; empty: counted
                                // from 0 by `ends`
  std::vector<Real> plans{};  // (sentences, inputs) of the prompt's sentences; the last may be missing, then
                              // it is asked for
  std::vector<int> labels{};  // (sentences) what the plans are called, or empty
  index_t number = -1;        // of the text, for its draws; below 0: the slot's
  std::optional<sampling_rule> rule{};  // else that of the options
};

/// Everything known about a text. tokens[i] with i >= given was drawn.
template <class Real>
struct generated_text {
  std::vector<int> tokens,
      sentence;  // sentence[t] holds tokens[t + 1]; the last entry is that of the token to come
  std::vector<Real> drawn,
      plain;  // (tokens - given): log-probabilities under the rule, and under the plain softmax; nats
  std::vector<Real> plans;  // (planned sentences, inputs), from sentence.front() on
  std::vector<int> labels;  // (planned sentences), -1 where the planner did not say
  std::size_t given = 0;
};

/// What a planner answers: inputs of the adapters (slots, inputs), label weights or vectors, and what they
/// are called, if anything.
template <class Real>
struct plan_answer {
  std::vector<Real> inputs;
  std::vector<int> labels;
  plan_answer(std::vector<Real> values, std::vector<int> names = {})
      : inputs(std::move(values)), labels(std::move(names)) {}
};

namespace detail {

/// Rows of its own that a plan has; 0 where it is added to others. Errors: shape_error for a layout that the
/// model cannot have been trained with.
template <class Model>
index_t rows_of_a_plan(const Model& model, plan_layout layout) {
  if constexpr (!FollowsPlans<Model>) {
    if (layout != plan_layout::added)
      throw shape_error("generator: a layout of plans for a model that has none");
    return 0;
  } else {
    const index_t rows = model.adapters.adapter.width / model.lm.sizes.width;
    if (layout == plan_layout::added ? rows != 1 : !Model::embedded)
      throw shape_error(
          "generator: the model's plans are " + std::to_string(rows) + (rows == 1 ? " row" : " rows") +
          (Model::embedded ? " at the embedding; set the layout they were trained with"
                           : " added in its blocks; plans on rows of their own enter at the embedding"));
    return layout == plan_layout::added ? 0 : rows;
  }
}

/// The options with their defaults filled in. `plan_rows`: rows that a plan takes. Errors: shape_error for
/// what does not fit the model, planlm::error for a rule that is none.
inline generation_options checked(generation_options o, const lm_sizes& sizes, index_t plan_rows) {
  const auto refuse = [](const std::string& what) { throw shape_error("generator: " + what); };
  if (o.sequences < 1 || o.longest < 2)
    refuse(std::to_string(o.sequences) + " sequences of up to " + std::to_string(o.longest) +
           " tokens, expected at least 1 and 2");
  if (o.window == 0) o.window = sizes.length;
  if (o.window < 1 || o.window > sizes.length)
    refuse("a window of " + std::to_string(o.window) + " rows, expected 1 to the model's length of " +
           std::to_string(sizes.length));
  if (plan_rows + 1 > o.window)
    refuse(std::to_string(plan_rows) + " rows for a plan leave no row for a token in a window of " +
           std::to_string(o.window));
  if (o.keep == 0) o.keep = (o.window + 1) / 2;
  if (o.keep < 1 || o.keep > o.window)
    refuse(std::to_string(o.keep) + " rows kept of a window of " + std::to_string(o.window) +
           ", expected 1 to all of them");
  if (!o.ends.empty() && static_cast<index_t>(o.ends.size()) != sizes.vocabulary)
    refuse(std::to_string(o.ends.size()) +
           " marks of tokens that end a sentence, expected none or the vocabulary's " +
           std::to_string(sizes.vocabulary));
  if (o.longest_sentence < 0 || o.sentences < 0) refuse("a bound of sentences is below 0; 0 means none");
  check_rule(o.rule);
  return o;
}

/// `inputs`: values of a plan, 0 for a model without plans. Errors: input_error for tokens, shape_error for
/// sentences and plans.
template <class Real>
void check_prompt(const generation_prompt<Real>& from, index_t longest, index_t vocabulary, index_t inputs) {
  const auto n = static_cast<index_t>(from.tokens.size());
  if (n < 1 || n >= longest)
    throw input_error(
        "generator: the prompt has " + std::to_string(n) + " tokens, expected 1 to " +
        std::to_string(longest - 1) +
        ", one less than the text may have; begin with BOS, allow a longer text or give a shorter prompt");
  for (std::size_t t = 0; t < from.tokens.size(); ++t)
    if (from.tokens[t] < 0 || from.tokens[t] >= vocabulary)
      throw input_error("generator: token " + std::to_string(t) + " of the prompt is " +
                        std::to_string(from.tokens[t]) + ", expected 0 to " + std::to_string(vocabulary - 1) +
                        "; take the vocabulary that the model was trained with");
  if (from.number > (std::numeric_limits<int>::max() - longest) / longest)
    throw input_error(
        "generator: text number " + std::to_string(from.number) + " times " + std::to_string(longest) +
        " tokens exceed the places of draws, 2^31; number texts from 0 on, with another seed for more");
  if (from.sentence.size() != from.tokens.size())
    throw shape_error("generator: " + std::to_string(from.sentence.size()) +
                      " sentence numbers for a prompt of " + std::to_string(n) + " tokens");
  for (std::size_t t = 0; t < from.sentence.size(); ++t) {
    const int rise = t == 0 ? 0 : from.sentence[t] - from.sentence[t - 1];
    if (from.sentence[t] < 0 || rise < 0 || rise > 1)
      throw shape_error("generator: token " + std::to_string(t + 1) + " of the prompt belongs to sentence " +
                        std::to_string(from.sentence[t]) +
                        ", expected that of the token before it or the next, from 0 on");
  }
  const auto sentences = static_cast<std::size_t>(from.sentence.back() - from.sentence.front()) + 1;
  const auto columns = static_cast<std::size_t>(inputs);
  const std::size_t given = inputs > 0 ? from.plans.size() / columns : 0;
  const bool fits =
      given * columns == from.plans.size() && (inputs == 0 || given == sentences || given + 1 == sentences);
  if (!fits || (!from.labels.empty() && from.labels.size() != given))
    throw shape_error("generator: " + std::to_string(from.plans.size()) + " plan values and " +
                      std::to_string(from.labels.size()) + " labels for a prompt of " +
                      std::to_string(sentences) + " sentences, expected " + std::to_string(inputs) +
                      " values for each but perhaps the last, and as many labels or none");
}

}  // namespace detail

}  // namespace planlm
