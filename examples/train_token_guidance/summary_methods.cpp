/// Lists of a policy's own texts, updates on key sentences, scores of what is written.
#include "summary_methods.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/io/run_curves.hpp>
#include "guided_tuning.hpp"
#include "sampler/tuning.hpp"
#include "summary_scores.hpp"

namespace train_token_guidance {
namespace {

// What draws are for: each has its own numbers. Those of summary.cpp come before.
enum purpose : std::uint32_t {
  of_order = 43,
  of_policy,
  of_reward,
  of_validation,
  of_written,
  of_watched,
  of_judged
};
philox draws(int seed, purpose what) {
  return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16};
}

class summary_run {
 public:
  summary_run(const summary_options& o, const task& t, const summary_material& m, guidance_machine& device,
              trainer::run& run, const part& base, int seed)
      : o_(o), task_(t), material_(m), device_(device), run_(run), base_(base), seed_(seed) {
    const sampler::language& l = m.text;
    rule_.stop = l.stop();
    rule_.shortest = 1;
    rule_.longest = o.longest;
    rule_.penalty.assign(static_cast<std::size_t>(device.sizes().vocabulary), 0.0f);
    for (const int never : {l.vocabulary.bos(), passage_set::cue(l)})
      rule_.penalty[static_cast<std::size_t>(never)] = -INFINITY;
  }

  trainer::outcome learn(const summary_method& m) {
    const auto begin = std::chrono::steady_clock::now();
    const bool there =
        std::filesystem::exists(run_.file("seed-" + std::to_string(seed_) + "." + m.name + ".safetensors"));
    std::unique_ptr<part> policy, reward;
    if (m.tuned) policy = start();
    const guidance_rule rule = rule_of(m);
    if (m.guided)
      reward = device_.make_reward_model(&base_, task_.guidance.inner, draws(seed_, of_reward), true);
    if (m.tuned) tune(m, rule, *policy, reward.get());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    trainer::outcome result{m.name, seed_, {}, {}};
    if (std::string(m.name) == "lead")
      judge_lead(result);
    else
      judge(policy ? *policy : base_, result);
    if (reward) judge_rewards(*policy, *reward, rule, result);
    result.values["calls"] = m.guided ? counted(m.name) : 0;
    result.values["seconds"] = there ? NAN : m.tuned ? seconds : 0;
    return result;
  }

 private:
  guidance_rule rule_of(const summary_method& m) const {
    guidance_options how = task_.guidance;
    if (*m.aggregation) how.aggregation = m.aggregation;
    return how.rule();
  }
  std::unique_ptr<part> start() {
    if (o_.rank > 0) return device_.make_low_rank(base_, draws(seed_, of_policy), {o_.rank, 2.0 * o_.rank});
    auto policy = device_.make(draws(seed_, of_policy), true);
    policy->copy(base_);
    return policy;
  }

  void tune(const summary_method& m, const guidance_rule& rule, part& policy, part* reward) {
    const passage_set& passages = material_.trained;
    guided_task g;
    g.name = m.name;
    g.seed = seed_;
    g.updates = o_.updates;
    g.rule = rule;
    g.schedule = guidance_schedule::for_share(o_.updates, o_.retrain_every, o_.retrain_share);
    // As the published summarization: a round is short, validated once at its end, and leaves its last
    // weights.
    g.round = {.steps = o_.reward_steps,
               .validate_every = o_.reward_steps,
               .rate = task_.guidance.rate,
               .clip = {task_.guidance.clip, 1e-6},
               .leaves = guidance_weights::last};
    if (reward) {
      g.lists = [&](const guidance_moment& at) {
        std::vector<int> chosen;
        for (int i = 0; i < o_.lists; ++i)
          chosen.push_back(static_cast<int>(at.random.below(static_cast<std::uint32_t>(passages.size()),
                                                            static_cast<std::uint64_t>(i), 0)));
        const ranked_generations lists =
            lists_of(policy, passages, chosen, at.random.with_stream(at.random.stream + 1));
        count(m.name, "training", at.round * o_.reward_steps + at.step + at.update, lists);
        return lists;
      };
      // The same draws at every validation of a round, which compares weights, not texts.
      g.validation = [&](const guidance_moment& at) {
        const ranked_generations lists =
            lists_of(policy, material_.watched, everything(material_.watched),
                     draws(seed_, of_validation).at_step(static_cast<std::uint32_t>(at.round)));
        count(m.name, "validation", at.round, lists);
        return lists;
      };
    }
    g.update = [&](index_t u, philox) {
      packed_generations batch(device_.sizes());
      for (const int i : batch_of(u)) batch.add(passages.prompt(i), passages.key(i));
      std::vector<float> rewards(static_cast<std::size_t>(batch.generated_tokens()), 1.0f);
      if (reward) rewards = device_.token_rewards(*reward, batch, rule);
      return device_.guided_step(policy, batch, rewards, m.how, {}, {o_.rate, 0, o_.clip});
    };
    g.observe = [&]() -> std::vector<std::pair<std::string, double>> {
      const passage_set& some = material_.watched;
      summary_score sum;
      const auto texts = write(policy, some, true, draws(seed_, of_watched));
      for (int i = 0; i < some.size(); ++i) {
        const summary_score s = score(texts[static_cast<std::size_t>(i)], some, i);
        for (const score_name& one : summary_scores) sum.*one.of += s.*one.of / some.size();
      }
      return {{"nats", nats(policy, some)},
              {"rouge_1", sum.rouge_1},
              {"rouge_l", sum.rouge_l},
              {"meteor", sum.meteor}};
    };
    g.observe_every = std::max(1, o_.updates / 5);
    tune_guided(device_, run_, policy, reward, g);
  }

  /// The passages of an update: all of them in an order, then all of them in another; the same for every
  /// method.
  std::vector<int> batch_of(index_t update) {
    std::vector<int> batch;
    const index_t n = material_.trained.size();
    for (index_t p = update * o_.batch; p < (update + 1) * o_.batch; ++p) {
      if (const index_t epoch = p / n; epoch != epoch_) {
        order_ = everything(material_.trained);
        const philox random = draws(seed_, of_order).at_step(static_cast<std::uint32_t>(epoch));
        for (std::size_t i = 0; i < order_.size(); ++i)
          std::swap(order_[i], order_[i + random.below(static_cast<std::uint32_t>(order_.size() - i), i, 0)]);
        epoch_ = epoch;
      }
      batch.push_back(order_[static_cast<std::size_t>(p % n)]);
    }
    return batch;
  }
  static std::vector<int> everything(const passage_set& passages) {
    std::vector<int> all(static_cast<std::size_t>(passages.size()));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  /// A list for each passage: texts of the policy, ordered by METEOR against the key sentence.
  ranked_generations lists_of(const part& policy, const passage_set& passages, const std::vector<int>& chosen,
                              philox random) {
    std::vector<tokens> prompts;
    for (const int i : chosen) prompts.push_back(passages.prompt(i));
    const auto texts = sampler::write_texts(device_, policy, prompts, o_.candidates, rule_, random);
    ranked_generations lists(device_.sizes());
    for (std::size_t b = 0; b < texts.size(); ++b) {
      const std::size_t list = b / static_cast<std::size_t>(o_.candidates);
      tokens answer = texts[b].actions;
      answer.push_back(rule_.stop);
      lists.generations.add(prompts[list], answer);
      lists.score.push_back(score(texts[b], passages, chosen[list]).meteor);
      if ((b + 1) % static_cast<std::size_t>(o_.candidates) == 0) lists.generations.end_list();
    }
    return lists;
  }
  /// Texts that the true score was asked for. Said again after a stop, the last word counts.
  void count(const std::string& name, const std::string& what, index_t place,
             const ranked_generations& lists) {
    run_.observe(seed_, name, place, "calls", {{what, double(lists.score.size())}});
  }
  double counted(const std::string& name) const {
    double sum = 0;
    for (const char* what : {"calls/training", "calls/validation"})
      for (const run_curve& c : run_curves(run_.file("metrics.jsonl"), what))
        if (c.seed == seed_ && c.stage == name)
          sum = std::accumulate(c.points.y.begin(), c.points.y.end(), sum);
    return sum;
  }

  std::vector<written> write(const part& policy, const passage_set& passages, bool greedy, philox random) {
    rollout_rule rule = rule_;
    rule.draw.greedy = greedy;
    std::vector<tokens> prompts;
    for (int i = 0; i < passages.size(); ++i) prompts.push_back(passages.prompt(i));
    return sampler::write_texts(device_, policy, prompts, 1, rule, random);
  }
  summary_score score(const written& text, const passage_set& passages, int i) const {
    return score_summary(words_of(material_.text.decode(text.actions)), words_of(passages.key_text(i)));
  }
  /// Per token of the key sentences and their stops.
  double nats(const part& policy, const passage_set& passages) {
    sampler::packed_text text;
    for (int i = 0; i < passages.size(); ++i) {
      const tokens prompt = passages.prompt(i), key = passages.key(i);
      tokens all = prompt;
      all.insert(all.end(), key.begin(), key.end());
      text.add(all, prompt.size());
    }
    return sampler::nats_per_token(device_, policy, text);
  }

  void judge_lead(trainer::outcome& result) {
    const passage_set& passages = material_.judged;
    std::vector<std::string> texts;
    for (int i = 0; i < passages.size(); ++i) texts.push_back(passages.lead_text(i));
    keep(texts, result);
  }
  void judge(const part& policy, trainer::outcome& result) {
    const passage_set& passages = material_.judged;
    std::vector<std::string> texts;
    for (const written& z : write(policy, passages, true, draws(seed_, of_written)))
      texts.push_back(material_.text.decode(z.actions));
    keep(texts, result);
    result.values["nats"] = nats(policy, passages);
    const auto drawn = write(policy, passages, false, draws(seed_, of_written));
    for (const score_name& one : summary_scores) {
      double& mean = result.values[std::string("drawn_") + one.value];
      for (int i = 0; i < passages.size(); ++i)
        mean += score(drawn[static_cast<std::size_t>(i)], passages, i).*one.of / passages.size();
    }
  }
  /// Scores of texts, one for each judged passage: means and the file of all.
  void keep(const std::vector<std::string>& texts, trainer::outcome& result) {
    const passage_set& passages = material_.judged;
    scored_texts all;
    auto& v = result.values;
    for (int i = 0; i < passages.size(); ++i) {
      const std::string& text = texts[static_cast<std::size_t>(i)];
      const auto words = words_of(text), reference = words_of(passages.key_text(i));
      all.document.push_back(passages.document(i));
      all.score.push_back(score_summary(words, reference));
      for (const score_name& one : summary_scores) v[one.value] += all.score.back().*one.of / passages.size();
      v["exact"] += (words == reference ? 100.0 : 0.0) / passages.size();
      v["length"] += double(words.size()) / passages.size();
      if (i < shown)
        result.samples.push_back({passages.text(i) + "  [key sentence: " + passages.key_text(i) + "]", text});
    }
    write_scores(summary_scores_file(run_, result.method, seed_), all);
  }
  /// On passages that neither model has seen: how often lists are ordered as METEOR orders them, and what
  /// tokens are given.
  void judge_rewards(const part& policy, const part& reward, const guidance_rule& rule,
                     trainer::outcome& result) {
    const passage_set& passages = material_.judged;
    const std::vector<int> all = everything(passages);
    constexpr std::size_t at_once = 32;
    double pairs = 0, right = 0, key = 0, drawn = 0, keys = 0, drawns = 0;
    for (std::size_t i = 0; i < all.size(); i += at_once) {
      const std::vector<int> some(
          all.begin() + static_cast<std::ptrdiff_t>(i),
          all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), i + at_once)));
      const ranked_generations lists =
          lists_of(policy, passages, some, draws(seed_, of_judged).at_step(static_cast<std::uint32_t>(i)));
      const ranking_result r = device_.rank(reward, lists, rule);
      pairs += double(r.pairs), right += double(r.right);
      packed_generations references(device_.sizes());
      for (const int p : some) references.add(passages.prompt(p), passages.key(p));
      for (const float f : device_.token_rewards(reward, references, rule)) key += double(f), keys += 1;
      for (const float f : device_.token_rewards(reward, lists.generations, rule))
        drawn += double(f), drawns += 1;
    }
    result.values["accuracy"] = pairs > 0 ? right / pairs : NAN;
    result.values["reward_key"] = key / keys;
    result.values["reward_drawn"] = drawn / drawns;
  }

  static constexpr int shown = 5;  // passages in the report

  const summary_options& o_;
  const task& task_;
  const summary_material& material_;
  guidance_machine& device_;
  trainer::run& run_;
  const part& base_;
  int seed_;
  rollout_rule rule_;
  index_t epoch_ = -1;
  std::vector<int> order_;
};

}  // namespace

const std::vector<summary_method>& summary_methods() {
  constexpr auto weighted = guided_likelihood::reward_weighted();
  static const std::vector<summary_method> all{
      {"lead", "the first sentence of what is read", false},
      {"base", "the base model as it is: behind a cue it learnt to write any sentence of the passage", false},
      {"likelihood", "fine-tuned on key sentences: mean negative log-likelihood over the tokens of a batch"},
      {"likelihood-per-sequence",
       "the same as a mean over key sentences of their means, which is what reward weights give where all "
       "rewards are alike",
       true,
       false,
       "",
       {.normaliser = token_normaliser::sequence_tokens}},
      {"reward-weighted",
       "tokens of a key sentence weigh what a reward model gives them, which learns from lists of the "
       "policy's own texts, "
       "ordered by METEOR",
       true, true, "", weighted},
      {"reward-weighted-min", "the same, rewards aggregated by a soft minimum", true, true, "min", weighted},
      {"reward-weighted-max", "the same, rewards aggregated by a soft maximum", true, true, "max", weighted},
      {"reward-weighted-sum", "the same, rewards summed", true, true, "sum", weighted},
      {"reward-weighted-to-go", "as reward-weighted, each token weighing what it and all behind it are given",
       true, true, "", guided_likelihood::reward_weighted(token_credit::to_go)}};
  return all;
}
const summary_method& summary_method_named(const std::string& name) {
  for (const summary_method& m : summary_methods())
    if (name == m.name) return m;
  throw error("there is no method '" + name + "'");
}

std::filesystem::path summary_scores_file(const trainer::run& run, const std::string& method, int seed) {
  return run.file("seed-" + std::to_string(seed) + "." + method + ".scores.json");
}
trainer::outcome learn_summary(const summary_method& how, int seed, const summary_options& o, const task& t,
                               const summary_material& m, guidance_machine& device, trainer::run& run,
                               const part& base) {
  return summary_run(o, t, m, device, run, base, seed).learn(how);
}

}  // namespace train_token_guidance
