/// The likelihood under a frozen language model as a reward of every prefix.   [2310.04363, sections 3 and 4]
///
///   log R[k] = text_weight log p(z_1..k | prompt) + ending_weight log p(ending | prompt, z_1..k)
/// where z_1..k is all that was written up to choice k, tool-written tokens included, and the ending is
///   - the stop token: one packed forward pass for all prefixes of all trajectories;
///   - or tokens appended to every prefix, an answer or the sentence that follows: every prefix with its ending is a packed sequence; those
///     that several trajectories share, the empty prefix of one prompt at least, are run once, and the text itself once per trajectory.
/// Sequences go through the model by blocks of about `rows` rows, of which only those that are scored reach the head. Log-probabilities are
/// those of the sampler for the same weights, on the CPU bit for bit; sums are double.
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
#include <planlm/models/prefix_reward.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/sequences.hpp>
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
  index_t rows = 2048;           // rows of a forward pass; a longer sequence has one of its own
};

/// Model: transformer_lm, or what has sizes, a token table and its call. The parameters must outlive the reward.
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
    std::vector<plan> plans;
    for (std::size_t b = 0; b < z.size(); ++b) plans.push_back(planned(z[b], b, all));
    for (std::size_t begin = 0; begin < all.sequences.size();) begin = score_block(all, begin);
    std::vector<std::vector<double>> rewards;
    for (std::size_t b = 0; b < z.size(); ++b) rewards.push_back(summed(z[b], b, plans[b], all));
    return rewards;
  }

 private:
  struct query {
    int row, token;    // of the sequence; the token that follows, -1 for none
    std::size_t slot;  // where its values go
  };
  struct sequence {
    std::vector<int> tokens{};
    std::vector<query> text{}, ending{};
  };
  struct place {
    std::size_t sequence, slot;
  };
  struct work {
    std::vector<sequence> sequences{};
    std::vector<accum> taken{}, stop{}, ending{};                         // log-probabilities by slot: of texts, of stops, of endings
    std::map<std::pair<std::vector<int>, std::size_t>, place> endings{};  // (a prefix with its ending, where that begins)
  };
  // Of one trajectory: the slot of its text's first token, those of its prefixes' endings.
  struct plan {
    std::size_t text = 0, ending_size = 0;
    std::vector<std::size_t> endings{};
  };

  bool scores_stop() const { return !options_.ending && options_.ending_weight != 0; }
  void check(const std::vector<int>& tokens, std::size_t b, std::size_t k) const {
    if (static_cast<index_t>(tokens.size()) > model_.sizes.length)
      throw input_error("likelihood_reward: " + detail::trajectory_name(b, k) + ": " + std::to_string(tokens.size()) +
                        " tokens, prompt and ending included, exceed the model's window of " + std::to_string(model_.sizes.length) +
                        "; shorten one of them or take a model of more positions");
    check_tokens(tokens, b, k);
  }
  void check_tokens(std::span<const int> tokens, std::size_t b, std::size_t k) const {
    for (const int t : tokens)
      if (t < 0 || t >= model_.sizes.vocabulary)
        throw input_error("likelihood_reward: " + detail::trajectory_name(b, k) + ": token " + std::to_string(t) + ", the vocabulary has " +
                          std::to_string(model_.sizes.vocabulary) + "; give tokens of the model's own vocabulary");
  }

  plan planned(const trajectory& z, std::size_t b, work& all) const {
    const std::size_t n = z.actions.size();
    const std::vector<int> prompt = options_.prompt ? options_.prompt(b, z) : z.prompt;
    if (prompt.empty())
      throw input_error("likelihood_reward: trajectory " + std::to_string(b) + " has an empty prompt; begin it with one token at least");
    const auto with_text = [&](std::size_t k) {
      std::vector<int> tokens = prompt;
      const std::span<const int> text = prefix_text(z, k);
      tokens.insert(tokens.end(), text.begin(), text.end());
      return tokens;
    };
    plan out;
    std::size_t whole = all.sequences.size();  // the sequence that holds all of the text
    const std::vector<int> ending = options_.ending && options_.ending_weight != 0 ? options_.ending(b, z) : std::vector<int>{};
    out.ending_size = ending.size();
    if (ending.empty()) {
      all.sequences.push_back({with_text(n)});
      check(all.sequences.back().tokens, b, n);
    } else {
      check_tokens(ending, b, n);
      for (std::size_t k = 0; k <= n; ++k) {
        std::vector<int> tokens = with_text(k);
        const std::size_t from = tokens.size();
        tokens.insert(tokens.end(), ending.begin(), ending.end());
        const auto [at, fresh] = all.endings.try_emplace({tokens, from}, place{all.sequences.size(), all.ending.size()});
        if (fresh) {
          tokens.pop_back();  // nothing is asked of the row of the last token
          check(tokens, b, k);
          sequence s{std::move(tokens)};
          for (std::size_t i = 0; i < ending.size(); ++i)
            s.ending.push_back({static_cast<int>(from + i) - 1, ending[i], all.ending.size() + i});
          all.ending.resize(all.ending.size() + ending.size());
          all.sequences.push_back(std::move(s));
        }
        out.endings.push_back(at->second.slot);
        whole = at->second.sequence;
      }
    }
    out.text = all.taken.size();
    const std::span<const int> text = prefix_text(z, n);
    const std::size_t queries = (options_.text_weight != 0 || scores_stop() ? text.size() : 0) + (scores_stop() ? 1 : 0);
    for (std::size_t i = 0; i < queries; ++i)
      all.sequences[whole].text.push_back({static_cast<int>(prompt.size() + i) - 1, i < text.size() ? text[i] : -1, out.text + i});
    all.taken.resize(out.text + queries), all.stop.resize(out.text + queries);
    return out;
  }

  // Sequences from `begin` on, as many as fit a block; gives the first that was left.
  std::size_t score_block(work& all, std::size_t begin) const {
    const evaluation quiet(*cx_);
    auto scope = cx_->scope();
    std::vector<int> tokens, positions, offsets{0};
    std::vector<query> text, ending;  // rows of the block
    std::size_t end = begin;
    for (; end < all.sequences.size(); ++end) {
      const sequence& s = all.sequences[end];
      if (end > begin && static_cast<index_t>(tokens.size() + s.tokens.size()) > options_.rows) break;
      const int from = offsets.back();
      for (query q : s.text) q.row += from, text.push_back(q);
      for (query q : s.ending) q.row += from, ending.push_back(q);
      for (std::size_t t = 0; t < s.tokens.size(); ++t) positions.push_back(static_cast<int>(t));
      tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
      offsets.push_back(static_cast<int>(tokens.size()));
    }
    if (text.empty() && ending.empty()) return end;
    const sequences<backend> packed{cx_->upload(offsets), offsets.data(), cx_->upload(positions)};
    const const_tensor<backend> hidden = model_(*cx_, p_, indices<backend>(cx_->upload(tokens)), packed).value;
    token_rules<backend> plain, ruled;
    ruled.stop = scores_stop() ? options_.stop : -1;
    if (!options_.penalty.empty())
      ruled.penalty = cx_->upload(std::vector<accum>(options_.penalty.begin(), options_.penalty.end()));
    if (!text.empty()) head(hidden, text, ruled, all.taken, &all.stop);
    if (!ending.empty()) head(hidden, ending, plain, all.ending, nullptr);
    return end;
  }
  void head(const_tensor<backend> hidden, const std::vector<query>& queries, const token_rules<backend>& rules, std::vector<accum>& taken,
            std::vector<accum>* stop) const {
    std::vector<int> rows, tokens;
    for (const query& q : queries) rows.push_back(q.row), tokens.push_back(q.token);
    const const_tensor<backend> chosen = ops::gather_rows(*cx_, hidden, indices<backend>(cx_->upload(rows)));
    const ops::token_policy_values<backend> values =
        ops::linear_token_policy(*cx_, chosen, const_tensor<backend>(p_.token.table), indices<backend>(cx_->upload(tokens)), rules).value;
    const std::vector<accum> of_token = cx_->read(values.taken), of_stop = stop ? cx_->read(values.stop) : std::vector<accum>{};
    for (std::size_t i = 0; i < queries.size(); ++i) {
      taken[queries[i].slot] = of_token[i];
      if (stop) (*stop)[queries[i].slot] = of_stop[i];
    }
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
      for (std::size_t j = 0; j < at.ending_size; ++j) ended += static_cast<double>(all.ending[at.endings[k] + j]);
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
