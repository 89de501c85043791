/// The likelihood under a frozen language model as a reward of every prefix.   [2310.04363, sections 3 and 4]
///
///   log R[k] = text_weight log p(z_1..k | prompt) + ending_weight log p(ending | prompt, z_1..k)
/// where z_1..k is all that was written up to choice k, tool-written tokens included, and the ending is
///   - the stop token: one pass over a text gives all its prefixes;
///   - or tokens appended to every prefix, an answer or the sentence that follows.
/// A prompt that several trajectories share goes through the model once, a text once, and of a prefix with its ending the ending alone: the
/// keys and values of what lies before it are in a cache, from which prefixes leave from the longest to the shortest. For n prefixes of a
/// prompt of P tokens with endings of A tokens that is P + n A rows of hidden states instead of n (P + n / 2 + A). What trajectories have in
/// common, prefix and ending, is scored once. Log-probabilities of texts and stops are those of the sampler for the same weights, on the CPU
/// bit for bit; sums over tokens are double.
///
///     likelihood_reward sentence{cx, model, frozen.weights, {.stop = dot}};
///     likelihood_reward infill{cx, model, frozen.weights, {.ending = [&](std::size_t b, const auto&) { return next[b]; }}};
///
/// Errors: input_error naming trajectory and prefix for a sequence longer than the model's window, an empty prompt or a foreign token;
/// numeric_error naming them for a likelihood that is NaN; planlm::error for options that fit nothing.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/backend/context.hpp>
#include <planlm/core/error.hpp>
#include <planlm/models/decoding.hpp>
#include <planlm/models/prefix_reward.hpp>
#include <planlm/ops/cross_entropy.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/token_policy.hpp>

namespace planlm {

/// `Real` is the backend's accum.
template <class Real>
struct likelihood_options {
  /// Tokens that belong to a trajectory, by its number in the call.
  using tokens_of = std::function<std::vector<int>(std::size_t, const rollout<Real>&)>;
  int stop = -1;                 // what ends a text, scored after every prefix unless there is an `ending`
  tokens_of ending{};            // what is appended to every prefix instead
  tokens_of prompt{};            // in place of the trajectory's own: demonstrations and query, the sentences before
  double text_weight = 1, ending_weight = 1;  // a weight of 0 leaves its part out
  bool tool_tokens = true;       // whether what a tool wrote counts; it is read either way
  std::vector<float> penalty{};  // (V) added to the logits of the text and of the stop, never to those of an ending; or empty
  index_t rows = 2048;           // rows of hidden states at once; a text of more has a pass of its own
};

/// Model: transformer_lm, or what has cache_of, decode, sizes and a token table likewise. The parameters must outlive the reward.
template <class Model>
class likelihood_reward {
 public:
  using backend = typename Model::backend;
  using accum = typename backend::accum;
  using options = likelihood_options<accum>;
  using trajectory = rollout<accum>;

  likelihood_reward(context<backend>& cx, const Model& model, const typename Model::params& p, options o)
      : cx_(&cx), model_(model), p_(p), options_(std::move(o)) {
    const index_t vocabulary = model_.sizes.vocabulary;
    const auto refuse = [](const std::string& what) { throw error("likelihood_reward: " + what); };
    if (options_.stop >= vocabulary || (options_.stop < 0 && !options_.ending && options_.ending_weight != 0))
      refuse("the stop is token " + std::to_string(options_.stop) + " of " + std::to_string(vocabulary) +
             "; name one of the vocabulary, or an ending");
    if (!options_.penalty.empty() && static_cast<index_t>(options_.penalty.size()) != vocabulary)
      refuse(std::to_string(options_.penalty.size()) + " penalties for a vocabulary of " + std::to_string(vocabulary));
    if (!std::isfinite(options_.text_weight) || !std::isfinite(options_.ending_weight)) refuse("a weight is no number");
    if (options_.rows < 1) refuse("blocks of " + std::to_string(options_.rows) + " rows, expected at least 1");
  }

  std::vector<std::vector<double>> operator()(std::span<const trajectory> z) const {
    detail::check_rollouts(z);
    work all;
    for (std::size_t b = 0; b < z.size(); ++b) add_plan(z[b], b, all);
    for (std::size_t begin = 0; begin < z.size();) begin = score_block(z, all, begin);
    std::vector<std::vector<double>> rewards;
    for (std::size_t b = 0; b < z.size(); ++b) rewards.push_back(summed(z[b], b, all.plans[b], all));
    return rewards;
  }

 private:
  // Of one trajectory. Slots number values of the call: the text's begin at `text`, the endings of prefix k at endings[k].
  struct plan {
    std::size_t prompt = 0, text = 0;
    std::vector<int> ending{};
    std::vector<std::size_t> endings{};
    std::vector<char> fresh{};  // whether prefix k with its ending is this trajectory's to score
  };
  struct work {
    std::vector<plan> plans{};
    std::vector<std::vector<int>> prompts{};                               // each once
    std::vector<accum> taken{}, stop{}, ending{};                          // log-probabilities by slot
    std::map<std::vector<int>, std::size_t> prompt_numbers{};
    std::map<std::pair<std::size_t, std::vector<int>>, std::size_t> seen{};  // (prompt, length of the text, text, ending) -> slot
  };
  // Rows of hidden states to be scored: the token that follows each, and the slot of its value.
  struct queries {
    std::vector<int> rows{}, tokens{};
    std::vector<std::size_t> slots{};
  };

  bool scores_stop() const { return !options_.ending && options_.ending_weight != 0; }
  bool scores_text() const { return options_.text_weight != 0 || scores_stop(); }

  void check_tokens(std::span<const int> tokens, std::size_t b, std::size_t k) const {
    for (const int t : tokens)
      if (t < 0 || t >= model_.sizes.vocabulary)
        throw input_error("likelihood_reward: " + detail::trajectory_name(b, k) + ": token " + std::to_string(t) + ", the vocabulary has " +
                          std::to_string(model_.sizes.vocabulary) + "; give tokens of the model's own vocabulary");
  }
  void add_plan(const trajectory& z, std::size_t b, work& all) const {
    const std::size_t n = z.actions.size();
    const std::vector<int> prompt = options_.prompt ? options_.prompt(b, z) : z.prompt;
    if (prompt.empty())
      throw input_error("likelihood_reward: trajectory " + std::to_string(b) + " has an empty prompt; begin it with one token at least");
    plan& out = all.plans.emplace_back();
    if (options_.ending && options_.ending_weight != 0) out.ending = options_.ending(b, z);
    check_tokens(prompt, b, 0), check_tokens(prefix_text(z, n), b, n), check_tokens(out.ending, b, n);
    for (std::size_t k = 0; k <= n; ++k)  // nothing is asked of an ending's last row
      if (const std::size_t size = prompt.size() + prefix_text(z, k).size() + std::max<std::size_t>(out.ending.size(), 1) - 1;
          static_cast<index_t>(size) > model_.sizes.length)
        throw input_error("likelihood_reward: " + detail::trajectory_name(b, k) + ": " + std::to_string(size) +
                          " tokens, prompt and ending included, exceed the model's window of " + std::to_string(model_.sizes.length) +
                          "; shorten one of them or take a model of more positions");
    const auto [at, is_new] = all.prompt_numbers.try_emplace(prompt, all.prompts.size());
    if (is_new) all.prompts.push_back(prompt);
    out.prompt = at->second;
    out.text = all.taken.size();
    all.taken.resize(out.text + prefix_text(z, n).size() + 1), all.stop.resize(all.taken.size());
    for (std::size_t k = 0; k <= n && !out.ending.empty(); ++k) {
      const std::span<const int> text = prefix_text(z, k);
      std::vector<int> key{static_cast<int>(text.size())};
      key.insert(key.end(), text.begin(), text.end());
      key.insert(key.end(), out.ending.begin(), out.ending.end());
      const auto [slot, unseen] = all.seen.try_emplace({out.prompt, std::move(key)}, all.ending.size());
      if (unseen) all.ending.resize(all.ending.size() + out.ending.size());
      out.endings.push_back(slot->second), out.fresh.push_back(unseen);
    }
  }

  // Trajectories from `begin` on, as many as fit a block; gives the first that was left.
  std::size_t score_block(std::span<const trajectory> z, work& all, std::size_t begin) const {
    std::size_t end = begin, rows = 0, capacity = 0;
    for (; end < z.size(); ++end) {
      const std::size_t text = prefix_text(z[end], z[end].actions.size()).size();
      if (end > begin && static_cast<index_t>(rows + text + 1) > options_.rows) break;
      rows += text + 1;
      capacity = std::max(capacity, all.prompts[all.plans[end].prompt].size() + text + all.plans[end].ending.size());
    }
    const evaluation quiet(*cx_);
    auto scope = cx_->scope();
    kv_cache<backend> cache = cache_of(*cx_, model_, static_cast<index_t>(end - begin), static_cast<index_t>(capacity));
    prefill(all, begin, end, cache);

    // The last token of every prompt, and the text.
    std::vector<int> tokens, slots, counts;
    queries text, first;
    for (std::size_t b = begin; b < end; ++b) {
      const plan& at = all.plans[b];
      const std::span<const int> written = prefix_text(z[b], z[b].actions.size());
      const auto from = static_cast<int>(tokens.size());
      tokens.push_back(all.prompts[at.prompt].back());
      tokens.insert(tokens.end(), written.begin(), written.end());
      slots.push_back(static_cast<int>(b - begin)), counts.push_back(static_cast<int>(written.size()) + 1);
      for (std::size_t i = 0; i <= written.size(); ++i) {
        text.tokens.push_back(i < written.size() ? written[i] : -1);
        text.slots.push_back(at.text + i);
      }
      for (std::size_t k = 0; k < at.endings.size(); ++k) {
        if (!at.fresh[k]) continue;
        first.rows.push_back(from + static_cast<int>(prefix_text(z[b], k).size()));
        first.tokens.push_back(at.ending[0]), first.slots.push_back(at.endings[k]);
      }
    }
    const const_tensor<backend> hidden = passed(tokens, slots, counts, cache);
    if (scores_text()) score_text(hidden, text, all);
    if (!first.rows.empty())
      score_endings(ops::gather_rows(*cx_, hidden, indices<backend>(cx_->upload(first.rows))), first, all);
    std::size_t back = 0;
    while (more_endings(z, all, begin, end, back, cache)) ++back;
    return end;
  }
  // All of a prompt but its last token enters the cache: computed for the first trajectory that has it, copied for the others.
  void prefill(const work& all, std::size_t begin, std::size_t end, kv_cache<backend>& cache) const {
    std::map<std::size_t, int> first;  // prompt -> slot
    std::vector<int> tokens, slots, counts;
    const auto flush = [&] {
      auto scope = cx_->scope();
      if (!slots.empty()) passed(tokens, slots, counts, cache);
      tokens.clear(), slots.clear(), counts.clear();
    };
    for (std::size_t b = begin; b < end; ++b) {
      const std::vector<int>& prompt = all.prompts[all.plans[b].prompt];
      const auto slot = static_cast<int>(b - begin);
      if (prompt.size() == 1 || !first.try_emplace(all.plans[b].prompt, slot).second) continue;
      if (static_cast<index_t>(tokens.size() + prompt.size()) > options_.rows) flush();
      tokens.insert(tokens.end(), prompt.begin(), prompt.end() - 1);
      slots.push_back(slot), counts.push_back(static_cast<int>(prompt.size()) - 1);
    }
    flush();
    for (std::size_t b = begin; b < end; ++b) {
      const auto slot = static_cast<int>(b - begin), known = static_cast<int>(all.prompts[all.plans[b].prompt].size()) - 1;
      if (known == 0 || first.at(all.plans[b].prompt) == slot) continue;
      const auto copy = [&](tensor<backend, 3> x) {
        const index_t size = x.extent(1) * x.extent(2);
        backend::copy(cx_->queue(), x.data + slot * size, x.data + first.at(all.plans[b].prompt) * size,
                      static_cast<std::size_t>(known * x.extent(2)) * sizeof(typename backend::real));
      };
      for (index_t i = 0; i < cache.layers(); ++i) copy(cache.layer(i).keys), copy(cache.layer(i).values);
      cache.advanced(std::span(&slot, 1), known);
    }
  }
  // The endings, but for their first tokens, of the prefixes that are `back` actions shorter than their texts. Whether there were any.
  bool more_endings(std::span<const trajectory> z, work& all, std::size_t begin, std::size_t end, std::size_t back,
                    kv_cache<backend>& cache) const {
    std::vector<int> tokens, slots, counts;
    queries rest;
    bool any = false;
    for (std::size_t b = begin; b < end; ++b) {
      const plan& at = all.plans[b];
      if (at.ending.size() < 2 || back > z[b].actions.size()) continue;
      any = true;
      const std::size_t k = z[b].actions.size() - back;
      if (!at.fresh[k]) continue;
      cache.truncate(static_cast<index_t>(b - begin), static_cast<index_t>(all.prompts[at.prompt].size() + prefix_text(z[b], k).size()));
      tokens.insert(tokens.end(), at.ending.begin(), at.ending.end() - 1);
      slots.push_back(static_cast<int>(b - begin)), counts.push_back(static_cast<int>(at.ending.size()) - 1);
      for (std::size_t i = 1; i < at.ending.size(); ++i) rest.tokens.push_back(at.ending[i]), rest.slots.push_back(at.endings[k] + i);
    }
    if (slots.empty()) return any;
    auto scope = cx_->scope();
    score_endings(passed(tokens, slots, counts, cache), rest, all);
    return any;
  }

  const_tensor<backend> passed(const std::vector<int>& tokens, const std::vector<int>& slots, const std::vector<int>& counts,
                               kv_cache<backend>& cache) const {
    const indices<backend> there = cx_->upload(tokens);
    return decode(*cx_, model_, p_, there, cache.extend(*cx_, slots, counts), cache);
  }
  // The text under the policy's rules, by the sums of the sampler; ...
  void score_text(const_tensor<backend> hidden, const queries& of, work& all) const {
    token_rules<backend> rules;
    rules.stop = scores_stop() ? options_.stop : -1;
    if (!options_.penalty.empty())
      rules.penalty = cx_->upload(std::vector<accum>(options_.penalty.begin(), options_.penalty.end()));
    const const_tensor<backend> table = p_.token.table;
    const indices<backend> tokens = cx_->upload(of.tokens);
    const ops::token_policy_values<backend> values = ops::linear_token_policy(*cx_, hidden, table, tokens, rules).value;
    const std::vector<accum> taken = cx_->read(values.taken), stop = cx_->read(values.stop);
    for (std::size_t i = 0; i < of.slots.size(); ++i) all.taken[of.slots[i]] = taken[i], all.stop[of.slots[i]] = stop[i];
  }
  // ... an ending as any text is, which needs no entropy.
  void score_endings(const_tensor<backend> hidden, const queries& of, work& all) const {
    const const_tensor<backend> table = p_.token.table;
    const std::vector<accum> nll = cx_->read(ops::linear_token_nll(*cx_, hidden, table, indices<backend>(cx_->upload(of.tokens))));
    for (std::size_t i = 0; i < of.slots.size(); ++i) all.ending[of.slots[i]] = -nll[i];
  }

  std::vector<double> summed(const trajectory& z, std::size_t b, const plan& at, const work& all) const {
    const double text_weight = options_.text_weight, ending_weight = options_.ending_weight;
    std::vector<double> out;
    double written = 0;
    std::size_t i = 0;  // tokens of the text so far
    for (std::size_t k = 0; k <= z.actions.size(); ++k) {
      const std::size_t size = prefix_text(z, k).size();
      for (std::size_t first = i; text_weight != 0 && i < size; ++i)  // an action, then what a tool made of it
        if (i == first || options_.tool_tokens) written += static_cast<double>(all.taken[at.text + i]);
      i = size;
      double ended = 0;
      if (scores_stop()) ended = static_cast<double>(all.stop[at.text + size]);
      for (std::size_t j = 0; j < at.ending.size(); ++j) ended += static_cast<double>(all.ending[at.endings[k] + j]);
      out.push_back((text_weight != 0 ? text_weight * written : 0) + (ending_weight != 0 ? ending_weight * ended : 0));
      if (std::isnan(out.back()))
        throw numeric_error("likelihood_reward: " + detail::trajectory_name(b, k) +
                            ": the log-likelihood is not a number; the frozen model's weights or the penalties are not finite");
    }
    return out;
  }

  // Dropout and noise rest while a frozen model scores.
  class evaluation {
   public:
    explicit evaluation(context<backend>& cx) : cx_(cx), before_(std::exchange(cx.training, false)) {}
    evaluation(const evaluation&) = delete;
    evaluation& operator=(const evaluation&) = delete;
    ~evaluation() { cx_.training = before_; }

   private:
    context<backend>& cx_;
    bool before_;
  };

  context<backend>* cx_;
  Model model_;
  typename Model::params p_;
  options options_;
};

/// The likelihood of every prefix with an answer appended.
template <class Model>
likelihood_reward<Model> answer_reward(context<typename Model::backend>& cx, const Model& model, const typename Model::params& p,
                                       typename likelihood_options<typename Model::backend::accum>::tokens_of answer,
                                       likelihood_options<typename Model::backend::accum> o = {}) {
  o.ending = std::move(answer);
  return likelihood_reward<Model>(cx, model, p, std::move(o));
}

}  // namespace planlm
