/// The machine on backend B; a trainer that asks more of a device derives its own from it, with an `Interface` that derives from machine.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>
#include "machine.hpp"
#include "trainer/parts_on.hpp"
#include <planlm/layers/embedding.hpp>
#include <planlm/models/rollout_scores.hpp>
#include <planlm/ops/cross_entropy.hpp>

namespace sampler {

template <Backend B, class Interface = machine>
class machine_on : public Interface {
 protected:
  using accum = typename B::accum;
  using lm_type = transformer_lm<B>;
  using source = trainer::language_model_source<B>;
  using lm_part = trainer::part_on<B, lm_type>;
  using flow_part = trainer::part_on<B, embedding<B>>;
  using trajectory = rollout<accum>;
  static_assert(std::is_same_v<accum, float>, "sampler: rollouts hold float log-probabilities");

 public:
  using tool = machine::tool;
  using policy_result = machine::policy_result;
  machine_on(typename B::queue queue, const lm_sizes& s) : cx_(std::move(queue)), lm_{s} {}

  const lm_sizes& sizes() const override { return lm_.sizes; }
  std::unique_ptr<part> make(philox start, bool trained, double decay) override {
    return std::make_unique<trainer::language_model_part<B>>(cx_, lm_, start, trained, decay);
  }
  std::unique_ptr<part> make_low_rank(const part& base, philox start, low_rank_tuning how) override {
    return std::make_unique<trainer::low_rank_part<B>>(cx_, lm_, lm_part::of(base), how, start);
  }
  std::unique_ptr<part> make_flows(index_t count, float start) override {
    auto flows = std::make_unique<flow_part>(cx_, embedding<B>{count, 1}, philox{}, true, 0);
    flows->write(std::vector<float>(static_cast<std::size_t>(flows->size()), start));
    return flows;
  }

  step_result language_step(part& lm, const packed_text& text, const rates& r) override {
    auto scope = begin();
    const auto targets = std::count_if(text.targets.begin(), text.targets.end(), [](int t) { return t >= 0; });
    const source& model = source::in(lm);
    auto& g = source::in(lm).lm_gradients();
    auto [h, pullback] = lm_(cx_, model.lm_weights(), ids(text.tokens), rows_of(text));
    const auto loss = ops::linear_cross_entropy(cx_, const_tensor<B>(h), const_tensor<B>(model.lm_weights().token.table), ids(text.targets), {},
                                                accum(1) / static_cast<accum>(targets), g.token.table);
    pullback(loss.dhidden, g);
    return update(lm, nullptr, double(cx_.read_one(loss.total)), static_cast<index_t>(targets), r);
  }
  step_result choice_step(part& lm, const packed_text& text, std::span<const int> choices, const rates& r) override {
    auto scope = begin();
    const auto targets = std::count_if(text.targets.begin(), text.targets.end(), [](int t) { return t >= 0; });
    const source& model = source::in(lm);
    auto& g = source::in(lm).lm_gradients();
    const const_tensor<B> table(model.lm_weights().token.table);
    auto [h, pullback] = lm_(cx_, model.lm_weights(), ids(text.tokens), rows_of(text));
    auto [few, few_pullback] = embedding<B>{table.rows(), table.cols()}(cx_, {model.lm_weights().token.table}, ids(choices));
    const tensor<B> dfew = g.token.table ? cx_.make_zero(few.rows(), few.cols()) : tensor<B>{};
    const auto loss = ops::linear_cross_entropy(cx_, const_tensor<B>(h), const_tensor<B>(few), ids(text.targets), {},
                                                accum(1) / static_cast<accum>(targets), dfew);
    if (dfew) few_pullback(const_tensor<B>(dfew), {g.token.table});
    pullback(loss.dhidden, g);
    return update(lm, nullptr, double(cx_.read_one(loss.total)), static_cast<index_t>(targets), r);
  }
  std::vector<float> token_nll(const part& lm, const packed_text& text) override {
    auto scope = begin(false);
    const auto& p = source::in(lm).lm_weights();
    const auto h = lm_(cx_, p, ids(text.tokens), rows_of(text)).value;
    return cx_.read(ops::linear_token_nll(cx_, const_tensor<B>(h), const_tensor<B>(p.token.table), ids(text.targets)));
  }

  std::vector<written> sample(const part& policy, std::span<const tokens> prompts, const rollout_rule& rule, std::span<const sampling_rule> rules,
                              philox random, const tool& uses) override {
    auto scope = begin(false);
    rollout_sampler<lm_type> sampler(cx_, lm_, source::in(policy).lm_weights(), static_cast<index_t>(prompts.size()));
    if (uses) return sampler.sample(prompts, rule, rules, random, uses);
    return sampler.sample(prompts, rule, rules, random);
  }
  std::vector<written> beam(const part& policy, const tokens& prompt, const rollout_rule& rule, int beams) override {
    struct partial {
      tokens actions;
      double log_q = 0;
    };
    std::vector<partial> live{{}};
    std::vector<std::pair<double, written>> done;
    for (index_t n = 0; !live.empty(); ++n) {
      const std::vector<float> log_p = next_log_probabilities(policy, prompt, live, rule, n);
      const auto vocabulary = static_cast<std::size_t>(lm_.sizes.vocabulary);
      std::vector<std::pair<double, std::size_t>> best;  // of the candidates: (log q, live text * V + token)
      for (std::size_t i = 0; i < live.size() * vocabulary; ++i)
        if (std::isfinite(log_p[i])) best.emplace_back(live[i / vocabulary].log_q + double(log_p[i]), i);
      const auto keep = std::min<std::size_t>(best.size(), static_cast<std::size_t>(beams));
      const auto more = [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; };
      std::partial_sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(keep), best.end(), more);
      std::vector<partial> next;
      for (std::size_t k = 0; k < keep; ++k) {
        const auto [log_q, at] = best[k];
        const partial& from = live[at / vocabulary];
        const int token = static_cast<int>(at % vocabulary);
        if (token == rule.stop) {
          done.emplace_back(log_q, given_rollout<float>(prompt, from.actions));
          continue;
        }
        next.push_back(from);
        next.back().actions.push_back(token);
        next.back().log_q = log_q;
      }
      std::stable_sort(done.begin(), done.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
      // A text can only lose probability as it goes on: those behind the last of enough finished ones are lost.
      if (done.size() > static_cast<std::size_t>(beams)) done.resize(static_cast<std::size_t>(beams));
      if (done.size() == static_cast<std::size_t>(beams)) std::erase_if(next, [&](const partial& p) { return p.log_q <= done.back().first; });
      live = std::move(next);
    }
    std::vector<written> texts;
    for (auto& [log_q, text] : done) texts.push_back(std::move(text));
    if (!texts.empty()) score(policy, texts, rule);
    return texts;
  }
  void score(const part& policy, std::vector<written>& texts, const rollout_rule& rule) override {
    constexpr std::size_t most = 256;
    for (std::size_t from = 0; from < texts.size(); from += most) {
      auto scope = begin(false);
      const std::span<written> some = std::span(texts).subspan(from, std::min(most, texts.size() - from));
      const auto scores = score_rollouts(cx_, lm_, source::in(policy).lm_weights(), std::span<const written>(some), rule).value;
      const std::vector<float> taken = cx_.read(scores.taken), stop = cx_.read(scores.stop);
      const auto longest = static_cast<std::size_t>(scores.taken.cols());
      for (std::size_t b = 0; b < some.size(); ++b) {
        const auto n = static_cast<std::ptrdiff_t>(some[b].actions.size()), at = static_cast<std::ptrdiff_t>(b * longest);
        some[b].taken.assign(taken.begin() + at, taken.begin() + at + n);
        const auto stops = stop.begin() + at + static_cast<std::ptrdiff_t>(b);
        some[b].stop.assign(stops, stops + n + 1);
      }
    }
  }
  void replay(const part& policy, std::vector<written>& texts, const rollout_rule& rule) override {
    if (texts.empty()) return;
    auto scope = begin(false);
    std::size_t window = 0;
    for (const written& z : texts) window = std::max(window, z.state.size());
    const auto rows = static_cast<index_t>(std::min<std::size_t>(texts.size(), 256));
    rollout_sampler<lm_type> sampler(cx_, lm_, source::in(policy).lm_weights(), rows, static_cast<index_t>(window));
    texts = sampler.replay(texts, rule);
  }
  prefix_rewards likelihood(const part& lm, std::span<const written> texts, const likelihood_options<float>& how) override {
    auto scope = begin(false);
    return likelihood_reward<lm_type>{cx_, lm_, source::in(lm).lm_weights(), how}(texts);
  }

  policy_result policy_step(part& policy, part* flows, const rollout_rule& rule, const policy_batch& batch, const objective& how,
                            const rates& r) override {
    auto scope = begin();
    const source& model = source::in(policy);
    auto [scores, pullback] = score_rollouts(cx_, lm_, model.lm_weights(), batch.rollouts, rule);
    const index_t rows = scores.stop.rows(), cols = scores.stop.cols();
    std::vector<float> padded(static_cast<std::size_t>(rows * cols), 0.0f);
    for (std::size_t b = 0; b < batch.rewards.size(); ++b)
      for (std::size_t k = 0; k < batch.rewards[b].size(); ++k)
        padded[b * static_cast<std::size_t>(cols) + k] = static_cast<float>(batch.rewards[b][k]);
    policy_terms<B> terms{scores.taken, scores.stop, cx_.upload(std::span<const float>(padded), rows, cols), scores.length};
    terms.group = ids(batch.group);
    terms.groups = batch.groups, terms.shortest = rule.shortest, terms.longest = rule.longest;
    const embedding<B> lookup{flows ? static_cast<index_t>(flow_part::of(*flows).slots()[0].spec.extents[0]) : 1, 1};
    policy_loss<B> loss;
    if (flows) {
      auto& store = flow_part::of(*flows);
      auto [values, flow_pullback] = lookup(cx_, store.weights, ids(batch.flow_rows));  // (groups, 1)
      loss = std::visit([&](const auto& o) { return o(cx_, terms, const_accum_tensor<B>(values.data, values.rows())); }, how);
      flow_pullback(const_tensor<B>(loss.dflow.data, batch.groups, 1), store.grads);
    } else {
      loss = std::visit([&](const auto& o) { return o(cx_, terms, {}); }, how);
    }
    pullback(loss.dtaken, loss.dstop, {}, source::in(policy).lm_gradients());
    index_t tokens = 0;
    for (const written& z : batch.rollouts) tokens += z.length() + 1;
    policy_result out;
    spread(out, batch, cx_.read(scores.taken), cx_.read(scores.stop), static_cast<std::size_t>(cols));
    out.step = update(policy, flows, double(cx_.read_one(loss.total)), tokens, r);
    return out;
  }

 protected:
  typename context<B>::scope_guard begin(bool training = true) {
    cx_.random = this->random;
    cx_.training = training;
    return cx_.scope();
  }
  indices<B> ids(std::span<const int> host) { return cx_.upload(host, static_cast<index_t>(host.size())); }
  sequences<B> rows_of(const packed_text& text) {
    positions_.resize(text.tokens.size());
    for (std::size_t s = 0; s + 1 < text.offsets.size(); ++s)
      std::iota(positions_.begin() + text.offsets[s], positions_.begin() + text.offsets[s + 1], 0);
    return {ids(text.offsets), text.offsets.data(), ids(positions_)};
  }

 private:
  // (live, V): the policy's log-probabilities of what comes next, under the rule.
  template <class Partial>
  std::vector<float> next_log_probabilities(const part& policy, const tokens& prompt, const std::vector<Partial>& live, const rollout_rule& rule,
                                            index_t n) {
    auto scope = begin(false);
    packed_text text;
    std::vector<int> last;
    for (const Partial& p : live) {
      tokens state = prompt;
      state.insert(state.end(), p.actions.begin(), p.actions.end());
      text.add(state);
      last.push_back(text.offsets.back() - 1);
    }
    const auto& weights = source::in(policy).lm_weights();
    const auto h = lm_(cx_, weights, ids(text.tokens), rows_of(text)).value;
    auto z = ops::matmul_nt(cx_, const_tensor<B>(ops::gather_rows(cx_, const_tensor<B>(h), ids(last))), const_tensor<B>(weights.token.table));
    const stop_rule stopping = n < rule.shortest ? stop_rule::forbidden : n >= rule.longest ? stop_rule::forced : stop_rule::free;
    const std::vector<int> every(live.size(), static_cast<int>(stopping));
    token_rules<B> rules{rule.stop, ids(every), {}};
    if (!rule.penalty.empty()) rules.penalty = cx_.upload(rule.penalty);
    ops::constrain(cx_, z, rules);
    const auto raw = cx_.read(z);
    std::vector<float> values(raw.begin(), raw.end());
    const auto vocabulary = static_cast<std::size_t>(lm_.sizes.vocabulary);
    for (std::size_t row = 0; row < live.size(); ++row) {
      const std::span<float> v = std::span(values).subspan(row * vocabulary, vocabulary);
      const float top = *std::max_element(v.begin(), v.end());
      double sum = 0;
      for (const float x : v) sum += std::exp(double(x) - double(top));
      for (float& x : v) x = static_cast<float>(double(x) - double(top) - std::log(sum));
    }
    return values;
  }
  void spread(policy_result& out, const policy_batch& batch, const std::vector<float>& taken, const std::vector<float>& stop, std::size_t cols) const {
    std::vector<std::vector<double>> u(static_cast<std::size_t>(batch.groups));
    for (std::size_t b = 0; b < batch.rollouts.size(); ++b) {
      const std::size_t n = batch.rollouts[b].actions.size();
      double sum = double(stop[b * cols + n]) - batch.rewards[b][n];
      for (std::size_t k = 0; k < n; ++k) sum += double(taken[b * (cols - 1) + k]);
      if (std::isfinite(sum)) u[static_cast<std::size_t>(batch.group.empty() ? 0 : batch.group[b])].push_back(sum);
    }
    index_t counted = 0;
    for (const auto& group : u) {
      if (group.empty()) continue;
      double mean = 0, square = 0;
      for (const double v : group) mean += v / double(group.size());
      for (const double v : group) square += (v - mean) * (v - mean) / double(group.size());
      out.mean_u += mean, out.spread_u += std::sqrt(square), ++counted;
    }
    if (counted > 0) out.mean_u /= double(counted), out.spread_u /= double(counted);
  }

 protected:
  static trainer::part_of<B>& of(part& p) { return dynamic_cast<trainer::part_of<B>&>(p); }
  /// Both under their own norms: log Z moves at its own rate, and its gradient must not scale the policy's.
  step_result update(part& main, part* flows, double loss, index_t tokens, const rates& r) {
    const auto step = [&](part& p, double rate) {
      of(p).collect();
      const auto norm = clip_global_norm(cx_, r.clip, of(p).gradients());
      const auto size = double(cx_.read_one(norm.norm));
      of(p).step(rate, norm);
      return size;
    };
    if (flows) step(*flows, r.flow);
    return {loss, tokens, step(main, r.main)};
  }

  context<B> cx_;
  lm_type lm_;

 private:
  std::vector<int> positions_;
};

}  // namespace sampler
