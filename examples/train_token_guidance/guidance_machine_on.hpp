/// The machine for guidance on backend B.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <variant>
#include <vector>
#include "guidance_machine.hpp"
#include "sampler/machine_on.hpp"

namespace train_token_guidance {

template <Backend B>
class guidance_machine_on final : public sampler::machine_on<B, guidance_machine> {
  using base = sampler::machine_on<B, guidance_machine>;
  using typename base::accum;
  using typename base::lm_part;
  using typename base::lm_type;
  using typename base::source;
  using reward_type = reward_model<lm_type>;
  using base::cx_;
  using base::lm_;

  struct reward_part final : trainer::part_on<B, reward_type> {
    reward_part(context<B>& cx, const reward_type& m, philox start, bool trained)
        : trainer::part_on<B, reward_type>(cx, m, start, trained, 0), model(m) {}
    reward_type model;
    static reward_part& in(part& p) { return dynamic_cast<reward_part&>(p); }
    static const reward_part& in(const part& p) { return dynamic_cast<const reward_part&>(p); }
  };

 public:
  using base::base;

  std::unique_ptr<part> make_reward_model(const part* lm, index_t inner, philox start, bool trained) override {
    auto made = std::make_unique<reward_part>(cx_, reward_type{lm_, inner}, start, trained);
    if (!lm) return made;
    const auto& from = lm_part::of(*lm);
    const std::vector<float> values = cx_.read(const_accum_tensor<B>(from.flat_weights()));
    for (const parameter_slot& slot : from.slots())
      made->write("lm." + slot.spec.name,
                  std::span(values).subspan(static_cast<std::size_t>(slot.offset), static_cast<std::size_t>(slot.spec.size())));
    return made;
  }
  std::unique_ptr<part> make_like(const part& reward) override {
    return std::make_unique<reward_part>(cx_, reward_part::in(reward).model, philox{}, false);
  }

  step_result guidance_step(part& reward, const ranked_generations& lists, const guidance_rule& rule, const rates& r) override {
    auto scope = this->begin();
    reward_part& guide = reward_part::in(reward);
    const auto rows = upload(cx_, lists.generations);
    auto [z, pullback] = guide.model(cx_, guide.weights.weights, rows);
    const auto loss = ranked(z, rows, lists, rule);
    pullback(const_accum_tensor<B>(loss.dz), guide.weights.grads);
    return this->update(guide, nullptr, double(cx_.read_one(loss.total)), lists.generations.generated_tokens(), r);
  }
  ranking_result rank(const part& reward, const ranked_generations& lists, const guidance_rule& rule) override {
    auto scope = this->begin(false);
    const reward_part& guide = reward_part::in(reward);
    const auto rows = upload(cx_, lists.generations);
    const auto loss = ranked(guide.model(cx_, guide.weights.weights, rows).value, rows, lists, rule);
    ranking_result out;
    out.loss = double(cx_.read_one(loss.total));
    out.silent = static_cast<index_t>(std::lround(double(cx_.read_one(loss.silent))));
    out.score = cx_.read(view<const double, 1, typename B::space>(loss.score));
    const std::vector<int>& offsets = lists.lists();
    for (std::size_t l = 0; l + 1 < offsets.size(); ++l)
      for (auto i = static_cast<std::size_t>(offsets[l]); i < static_cast<std::size_t>(offsets[l + 1]); ++i)
        for (auto j = static_cast<std::size_t>(offsets[l]); j < i; ++j) {
          const double truth = lists.score[i] - lists.score[j], said = out.score[i] - out.score[j];
          if (truth == 0) continue;
          ++out.pairs;
          out.right += truth * said > 0;
        }
    return out;
  }
  std::vector<float> token_rewards(const part& reward, const packed_generations& texts, const guidance_rule& rule) override {
    auto scope = this->begin(false);
    const reward_part& guide = reward_part::in(reward);
    const auto z = token_logits(cx_, guide.model, guide.weights.weights, texts);
    return std::visit([&](const auto& squash) { return cx_.read(const_accum_tensor<B>(planlm::token_rewards(cx_, squash, z).value)); },
                      rule.squash);
  }

  guided_result guided_step(part& policy, const packed_generations& texts, std::span<const float> rewards, const guided_likelihood& how,
                            std::span<const float> penalty, const rates& r) override {
    auto scope = this->begin();
    const source& model = source::in(policy);
    auto& g = source::in(policy).lm_gradients();
    const auto rows = upload(cx_, texts);
    auto [h, pullback] = lm_(cx_, model.lm_weights(), rows.tokens, rows.rows);
    const auto batch = predicted_tokens(cx_, rows, const_accum_tensor<B>(cx_.upload(rewards, static_cast<index_t>(rewards.size()))));
    const auto loss = how(cx_, const_tensor<B>(h), const_tensor<B>(model.lm_weights().token.table), batch, g.token.table, rules_of(penalty));
    guided_result out = means(loss, texts);
    pullback(const_tensor<B>(loss.gradient), g);
    out.step = this->update(policy, nullptr, double(cx_.read_one(loss.total)), texts.generated_tokens(), r);
    return out;
  }
  guided_result guided_loss(const part& policy, const packed_generations& texts, std::span<const float> penalty) override {
    auto scope = this->begin(false);
    const source& model = source::in(policy);
    const auto rows = upload(cx_, texts);
    const std::vector<accum> unrewarded(static_cast<std::size_t>(texts.generated_tokens()), accum(0));
    const auto said = predicted_tokens(cx_, rows, const_accum_tensor<B>(cx_.upload(unrewarded))).tokens;
    const auto h = lm_(cx_, model.lm_weights(), rows.tokens, rows.rows).value;
    const auto loss = ops::linear_token_objective<B>(cx_, const_tensor<B>(h), const_tensor<B>(model.lm_weights().token.table), said, {}, {},
                                                     rules_of(penalty));
    guided_result out = means(loss, texts);
    out.step = {out.nll, texts.generated_tokens(), 0};
    return out;
  }
  std::vector<float> choice_probabilities(const part& lm, const packed_text& sequences, std::span<const int> choices) override {
    auto scope = this->begin(false);
    const auto& p = source::in(lm).lm_weights();
    std::vector<int> last;
    for (std::size_t s = 1; s < sequences.offsets.size(); ++s) last.push_back(sequences.offsets[s] - 1);
    const const_tensor<B> table(p.token.table);
    const auto h = lm_(cx_, p, this->ids(sequences.tokens), this->rows_of(sequences)).value;
    const const_tensor<B> behind(ops::gather_rows(cx_, const_tensor<B>(h), this->ids(last))), few(ops::gather_rows(cx_, table, this->ids(choices)));
    const auto z = cx_.read(const_tensor<B>(ops::matmul_nt(cx_, behind, few)));  // (S, choices)
    std::vector<float> out(z.size());
    for (std::size_t s = 0; s < last.size(); ++s) {
      const std::size_t at = s * choices.size();
      double top = -INFINITY, sum = 0;
      for (std::size_t c = 0; c < choices.size(); ++c) top = std::max(top, double(z[at + c]));
      for (std::size_t c = 0; c < choices.size(); ++c) sum += std::exp(double(z[at + c]) - top);
      for (std::size_t c = 0; c < choices.size(); ++c) out[at + c] = static_cast<float>(std::exp(double(z[at + c]) - top) / sum);
    }
    return out;
  }

 private:
  /// Over the tokens that are predicted.
  guided_result means(const token_objective_loss<B>& loss, const packed_generations& texts) {
    const auto nll = cx_.read(const_accum_tensor<B>(loss.nll)), entropy = cx_.read(const_accum_tensor<B>(loss.entropy));
    guided_result out;
    double count = 0;
    for (std::size_t r = 0; r < texts.predicts().size(); ++r) {
      if (texts.predicts()[r] < 0) continue;
      out.nll += double(nll[r]), out.entropy += double(entropy[r]), count += 1;
    }
    if (count > 0) out.nll /= count, out.entropy /= count;
    return out;
  }
  token_rules<B> rules_of(std::span<const float> penalty) {
    token_rules<B> rules;
    if (!penalty.empty()) rules.penalty = cx_.upload(penalty, static_cast<index_t>(penalty.size()));
    return rules;
  }
  template <class Z>
  preference_loss<B, accum> ranked(const Z& z, const generated_rows<B>& rows, const ranked_generations& lists, const guidance_rule& rule) {
    preference_lists<B> compared{rows.first, rows.length, this->ids(lists.lists())};
    compared.score = cx_.upload(lists.score);
    if (!lists.item.empty()) compared.item = this->ids(lists.item);
    return std::visit(
        [&](const auto& squash, const auto& aggregate) {
          using G = std::decay_t<decltype(squash)>;
          using F = std::decay_t<decltype(aggregate)>;
          return listwise_preference<G, F>{squash, aggregate, rule.ranking}(cx_, z, compared);
        },
        rule.squash, rule.aggregate);
  }
};

}  // namespace train_token_guidance
