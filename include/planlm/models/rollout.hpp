/// Rollouts of a language model as a policy: actions drawn, forced or given, with their log-probabilities.
///
///     rollout_sampler sampler(cx, model, theta.weights, 64);
///     const auto z = sampler.sample(prompts, {.stop = dot, .shortest = 1, .longest = 30}, philox{seed});
///     auto [scores, pullback] = score_rollouts(cx, model, theta.weights, z, rule);  // rollout_scores.hpp
///
/// The policy is the softmax at temperature 1 of the constrained logits: penalties added, the stop masked
/// before `shortest` actions and certain at `longest`, where nothing is computed (2310.04363, section 3).
/// Behaviour (temperature, top-k, top-p, uniform) changes what is drawn, never `taken` and `stop`.
///
/// Decoding goes through one cache: a prompt that several rows share is run once, then every choice is a step
/// of all rows that have not stopped. Choice k of row b draws at place b * (the model's length) + decided[k]:
/// a rollout depends on the number of its row, its prompt and the philox, not on its neighbours, its slot or
/// threads. On the CPU to the bit; elsewhere up to the rounding of logits.
#pragma once
#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/models/decoding.hpp>
#include <planlm/models/rollout_rule.hpp>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/matmul.hpp>
#include <planlm/ops/sampling.hpp>
#include <planlm/ops/token_policy.hpp>

namespace planlm {

/// Model: transformer_lm, or what has cache_of, decode, sizes and a token table likewise. The weights may
/// change between calls, the memory they lie in must outlive the sampler. An error ends a call; the next
/// begins anew.
template <class Model>
class rollout_sampler {
 public:
  using backend = typename Model::backend;
  using accum = typename backend::accum;
  using trajectory = rollout<accum>;

  /// `rows` states are in the cache at most; of a call with more, the next begins where one has stopped.
  /// `window`: longest state, 0: the model's length. Errors: shape_error for extents that are not positive or
  /// a window beyond the model.
  rollout_sampler(context<backend>& cx, const Model& model, const typename Model::params& p, index_t rows,
                  index_t window = 0)
      : cx_(cx),
        model_(model),
        p_(p),
        window_(checked(model, window)),
        cache_(cache_of(cx, model, rows, window_)) {}

  index_t rows() const { return cache_.sequence_count(); }
  index_t window() const { return window_; }

  /// One rollout for each prompt, in their order. forced[b], where given, are actions (or the stop) of row b
  /// that are taken before any is drawn. Errors, before anything is computed: planlm::error for a rule that
  /// is none; input_error for a prompt that is empty, has foreign tokens or leaves no room for `longest`
  /// actions. Later: input_error for a tool that fills a state, numeric_error for logits that are no numbers.
  template <class Tool = no_tool>
  std::vector<trajectory> sample(std::span<const std::vector<int>> prompts, const rollout_rule& rule,
                                 philox random, const Tool& tool = {},
                                 std::span<const std::vector<int>> forced = {}) {
    return sample(prompts, rule, std::span<const sampling_rule>{}, random, tool, forced);
  }
  /// The same with a behaviour for every row; none: that of the rule.
  template <class Tool = no_tool>
  std::vector<trajectory> sample(std::span<const std::vector<int>> prompts, const rollout_rule& rule,
                                 std::span<const sampling_rule> draws, philox random, const Tool& tool = {},
                                 std::span<const std::vector<int>> forced = {}) {
    if ((!draws.empty() && draws.size() != prompts.size()) ||
        (!forced.empty() && forced.size() != prompts.size()))
      throw shape_error("rollout_sampler: " + std::to_string(prompts.size()) + " prompts, but " +
                        std::to_string(draws.size()) + " rules and " + std::to_string(forced.size()) +
                        " lists of forced actions; expected as many, or none");
    detail::check_rollout_rule(rule, vocabulary());
    for (const sampling_rule& d : draws) check_rule(d);
    for (std::size_t b = 0; b < prompts.size(); ++b) {
      if (prompts[b].empty()) detail::check_rollout_state(b, 0, 0, window_);
      if (const auto most = static_cast<index_t>(prompts[b].size()) + rule.longest; most > window_)
        throw input_error("rollout: row " + std::to_string(b) + " has a prompt of " +
                          std::to_string(prompts[b].size()) + " tokens, with " +
                          std::to_string(rule.longest) + " actions " + std::to_string(most) +
                          ", but the window is " + std::to_string(window_) +
                          "; shorten the prompt, allow fewer actions or take a model of more positions");
      detail::check_rollout_tokens(prompts[b], b, vocabulary());
      if (!forced.empty()) detail::check_rollout_tokens(forced[b], b, vocabulary());
    }
    return run(
        prompts.size(), rule, draws, random,
        [&](std::size_t b) -> const std::vector<int>& { return prompts[b]; },
        [&](std::size_t b, std::size_t k) {
          return !forced.empty() && k < forced[b].size() ? forced[b][k] : -1;
        },
        [&](std::size_t) -> const Tool& { return tool; });
  }
  /// The same trajectories under these weights and this rule: actions, stops and states as given,
  /// log-probabilities computed. Errors: input_error for one that the rule does not allow.
  std::vector<trajectory> replay(std::span<const trajectory> given, const rollout_rule& rule) {
    detail::check_rollout_rule(rule, vocabulary());
    for (std::size_t b = 0; b < given.size(); ++b)
      detail::check_rollout(given[b], b, rule, vocabulary(), window_);
    return run(
        given.size(), rule, {}, philox{},
        [&](std::size_t b) -> const std::vector<int>& { return given[b].prompt; },
        [&](std::size_t b, std::size_t k) {
          return k < given[b].actions.size() ? given[b].actions[k] : rule.stop;
        },
        [&](std::size_t b) { return as_written{given[b]}; });
  }

 private:
  // The tool of a replay: what was written then.
  struct as_written {
    const trajectory& given;
    std::span<const int> operator()(const trajectory& z) const {
      const std::size_t k = z.actions.size(), from = z.state.size();
      return std::span(given.state).subspan(from, static_cast<std::size_t>(given.decided[k]) + 1 - from);
    }
  };
  struct running {
    std::size_t row;  // of the call
    int slot;         // of the cache
  };
  struct shared_prompt {
    int from, to;  // slots
    int rows;
  };

  index_t vocabulary() const { return model_.sizes.vocabulary; }
  static index_t checked(const Model& model, index_t window) {
    if (window < 0 || window > model.sizes.length)
      throw shape_error("rollout_sampler: a window of " + std::to_string(window) + " tokens for a model of " +
                        std::to_string(model.sizes.length) + "; expected 1 up to that, or 0 for all");
    return window > 0 ? window : model.sizes.length;
  }

  template <class Prompt, class Forced, class Tool>
  std::vector<trajectory> run(std::size_t count, const rollout_rule& rule,
                              std::span<const sampling_rule> draws, philox random, const Prompt& prompt,
                              const Forced& forced, const Tool& tool) {
    if (static_cast<index_t>(count) > std::numeric_limits<int>::max() / model_.sizes.length)
      throw input_error("rollout: " + std::to_string(count) + " rows of up to " +
                        std::to_string(model_.sizes.length) +
                        " places are more than can be told apart; sample in several calls");
    std::vector<trajectory> out(count);
    auto scope = cx_.scope();
    token_rules<backend> constraint;
    constraint.stop = rule.stop;
    if (!rule.penalty.empty()) {
      const std::vector<accum> penalty(rule.penalty.begin(), rule.penalty.end());
      constraint.penalty = cx_.upload(penalty);
    }
    live_.clear(), free_.clear();
    for (int s = static_cast<int>(rows()) - 1; s >= 0; --s) cache_.truncate(s), free_.push_back(s);
    for (std::size_t next = 0; next < count || !live_.empty();) {
      const std::size_t fresh = live_.size();
      for (; next < count && !free_.empty(); ++next) begin(out[next], next, prompt(next), rule);
      if (fresh < live_.size()) prefill(out, fresh);
      {
        auto step = cx_.scope();
        choose(out, rule, draws, random, constraint, forced);
      }
      std::size_t kept = 0;
      for (std::size_t i = 0; i < live_.size(); ++i) {
        const running now = live_[i];
        if (take(out[now.row], i, rule, tool)) {
          live_[kept++] = now;
        } else {
          cache_.truncate(now.slot);
          free_.push_back(now.slot);
        }
      }
      live_.resize(kept);
    }
    return out;
  }

  void begin(trajectory& z, std::size_t row, const std::vector<int>& prompt, const rollout_rule& rule) {
    const auto most = static_cast<std::size_t>(rule.longest);
    z.prompt = prompt;
    z.state.reserve(prompt.size() + most), z.actions.reserve(most), z.decided.reserve(most + 1);
    z.taken.reserve(most), z.stop.reserve(most + 1), z.drawn.reserve(most + 1);
    z.state = prompt;
    z.decided.push_back(static_cast<int>(prompt.size()) - 1);
    live_.push_back({row, free_.back()});
    free_.pop_back();
  }
  // All of a prompt but its last token enters the cache: computed for the first row that has it, copied for
  // the others.
  void prefill(const std::vector<trajectory>& out, std::size_t fresh) {
    tokens_.clear(), slots_.clear(), counts_.clear(), copies_.clear();
    for (std::size_t i = fresh; i < live_.size(); ++i) {
      const std::vector<int>& prompt = out[live_[i].row].prompt;
      const int known = static_cast<int>(prompt.size()) - 1;
      if (known == 0) continue;
      const auto end = live_.begin() + static_cast<std::ptrdiff_t>(i);
      const auto same = std::find_if(live_.begin(), end,
                                     [&](const running& other) { return out[other.row].prompt == prompt; });
      if (same != end) {
        copies_.push_back({same->slot, live_[i].slot, known});
        continue;
      }
      tokens_.insert(tokens_.end(), prompt.begin(), prompt.end() - 1);
      slots_.push_back(live_[i].slot), counts_.push_back(known);
    }
    if (!slots_.empty()) {
      auto scope = cx_.scope();
      const indices<backend> tokens = cx_.upload(tokens_);
      decode(cx_, model_, p_, tokens, cache_.extend(cx_, slots_, counts_), cache_);
    }
    for (const shared_prompt& c : copies_) {
      for (index_t i = 0; i < cache_.layers(); ++i) {
        const kv_layer<backend> layer = cache_.layer(i);
        copy_rows(layer.keys, c), copy_rows(layer.values, c);
      }
      cache_.advanced(std::span(&c.to, 1), c.rows);
    }
  }
  void copy_rows(tensor<backend, 3> x, const shared_prompt& c) {
    const index_t slot = x.extent(1) * x.extent(2);
    backend::copy(cx_.queue(), x.data + c.to * slot, x.data + c.from * slot,
                  static_cast<std::size_t>(c.rows * x.extent(2)) * sizeof(typename backend::real));
  }

  // One choice of every running row, into token_, taken_, drawn_ and stop_.
  template <class Forced>
  void choose(const std::vector<trajectory>& out, const rollout_rule& rule,
              std::span<const sampling_rule> draws, philox random, token_rules<backend> constraint,
              const Forced& forced) {
    for (auto* list : {&tokens_, &slots_, &counts_, &last_, &places_, &forced_, &stopping_}) list->clear();
    rules_.clear();
    bool any_forced = false, any_forbidden = false;
    for (const running& r : live_) {
      const trajectory& z = out[r.row];
      const auto from = static_cast<std::ptrdiff_t>(cache_.length(r.slot));
      tokens_.insert(tokens_.end(), z.state.begin() + from, z.state.end());
      slots_.push_back(r.slot);
      counts_.push_back(static_cast<int>(static_cast<std::ptrdiff_t>(z.state.size()) - from));
      last_.push_back(static_cast<int>(tokens_.size()) - 1);
      places_.push_back(static_cast<int>(static_cast<index_t>(r.row) * model_.sizes.length) +
                        z.decided.back());
      forced_.push_back(forced(r.row, z.actions.size()));
      stopping_.push_back(
          static_cast<int>(z.length() < rule.shortest ? stop_rule::forbidden : stop_rule::free));
      any_forced = any_forced || forced_.back() >= 0;
      any_forbidden = any_forbidden || z.length() < rule.shortest;
      if (!draws.empty()) rules_.push_back(draws[r.row]);
    }
    const indices<backend> tokens = cx_.upload(tokens_);
    const_tensor<backend> hidden =
        decode(cx_, model_, p_, tokens, cache_.extend(cx_, slots_, counts_), cache_);
    if (tokens_.size() > live_.size())
      hidden = ops::gather_rows(cx_, hidden, indices<backend>(cx_.upload(last_)));
    const tensor<backend> logits =
        ops::matmul_nt(cx_, hidden, const_tensor<backend>(p_.token.table));  // (live, V)
    if (any_forbidden) constraint.stopping = cx_.upload(stopping_);
    ops::constrain(cx_, logits, constraint);
    const const_tensor<backend> z = logits;
    const indices<backend> places = cx_.upload(places_);
    const auto given = any_forced ? indices<backend>(cx_.upload(forced_)) : indices<backend>{};
    const auto drawn =
        rules_.empty()
            ? ops::sample(cx_, z, rule.draw, random, places, given, rule.stop)
            : ops::sample(cx_, z, std::span<const sampling_rule>(rules_), random, places, given, rule.stop);
    download(token_, drawn.token), download(taken_, drawn.plain);
    download(drawn_, drawn.drawn), download(stop_, drawn.also);
    backend::synchronize(cx_.queue());
    for (std::size_t i = 0; i < live_.size(); ++i)
      if (token_[i] < 0)
        throw numeric_error("rollout: the logits of row " + std::to_string(live_[i].row) + " at place " +
                            std::to_string(out[live_[i].row].decided.back()) + " are no finite numbers");
  }
  // Row i of the newest choices enters its trajectory. Whether that goes on.
  template <class Tool>
  bool take(trajectory& z, std::size_t i, const rollout_rule& rule, const Tool& tool) {
    z.stop.push_back(stop_[i]), z.drawn.push_back(drawn_[i]);
    if (token_[i] == rule.stop) return false;
    z.taken.push_back(taken_[i]);
    detail::act(z, token_[i], tool(live_[i].row));
    const bool last = z.length() == rule.longest;
    detail::check_rollout_state(live_[i].row, z.prompt.size(), z.state.size(), window_);
    detail::check_rollout_tokens(
        std::span(z.state).subspan(static_cast<std::size_t>(z.decided[z.actions.size() - 1]) + 1),
        live_[i].row, vocabulary());
    if (last) z.stop.push_back(accum(0)), z.drawn.push_back(accum(0));
    return !last;
  }
  template <class T>
  void download(std::vector<T>& to, view<T, 1, typename backend::space> from) {
    to.resize(static_cast<std::size_t>(from.size()));
    backend::download(cx_.queue(), to.data(), from.data, to.size() * sizeof(T));
  }

  context<backend>& cx_;
  Model model_;
  typename Model::params p_;
  index_t window_;
  kv_cache<backend> cache_;
  std::vector<running> live_;
  std::vector<int> free_;
  // Of one step, kept for their memory.
  std::vector<int> tokens_, slots_, counts_, last_, places_, forced_, stopping_, token_;
  std::vector<shared_prompt> copies_;
  std::vector<sampling_rule> rules_;
  std::vector<accum> taken_, drawn_, stop_;
};

}  // namespace planlm
