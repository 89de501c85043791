/// The base model, passages, rewards of key sentences, the methods one after another, the page.
#include "summary.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_curves.hpp>
#include <planlm/io/run_folder.hpp>
#include "guided_tuning.hpp"
#include "sampler/tuning.hpp"
#include "summary_passages.hpp"
#include "summary_scores.hpp"
#include "trainer/run_book.hpp"

namespace train_token_guidance {
namespace {

// What draws are for: each has its own numbers. Streams below 32 * 2^16 are those of the shared parts.
enum purpose : std::uint32_t {
  of_passages = 40,
  of_base,
  of_cued,
  of_order,
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

struct method {
  const char *name, *about;
  bool tuned = true, guided = false;
  const char* aggregation = "";  // empty: what --aggregation says
  guided_likelihood how{};
};
const std::vector<method>& known_methods() {
  constexpr auto weighted = guided_likelihood::reward_weighted();
  static const std::vector<method> all{
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
const method& method_named(const std::string& name) {
  for (const method& m : known_methods())
    if (name == m.name) return m;
  throw error("there is no method '" + name + "'");
}

const std::vector<trainer::score_column> columns{{"rouge_1", "R-1", 2},
                                                 {"rouge_2", "R-2", 2},
                                                 {"rouge_l", "R-L", 2},
                                                 {"meteor", "METEOR", 2},
                                                 {"drawn_rouge_l", "drawn R-L", 2},
                                                 {"exact", "exact %", 1},
                                                 {"nats", "nats", 3},
                                                 {"length", "words", 1},
                                                 {"accuracy", "pairs", 3},
                                                 {"reward_key", "r key", 3},
                                                 {"reward_drawn", "r drawn", 3},
                                                 {"calls", "calls", 0},
                                                 {"seconds", "seconds", 0}};

/// What all seeds share.
struct material {
  const sampler::language& text;
  passage_set trained, judged, watched;
};

class summary_run {
 public:
  summary_run(const summary_options& o, const task& t, const material& m, guidance_machine& device,
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

  trainer::outcome learn(const method& m) {
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
  std::filesystem::path scores_file(const std::string& name) const {
    return run_.file("seed-" + std::to_string(seed_) + "." + name + ".scores.json");
  }

 private:
  guidance_rule rule_of(const method& m) const {
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

  void tune(const method& m, const guidance_rule& rule, part& policy, part* reward) {
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
    write_scores(scores_file(result.method), all);
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
  const material& material_;
  guidance_machine& device_;
  trainer::run& run_;
  const part& base_;
  int seed_;
  rollout_rule rule_;
  index_t epoch_ = -1;
  std::vector<int> order_;
};

passage_shape shape_of(const summary_options& o, const shared_options& s) {
  return {o.sentences, o.shortest, o.longest, s.base.length, o.key == "left-in"};
}
passage_set passages_of(const sampler::language& l, const std::vector<int>& documents,
                        const summary_options& o, const shared_options& s, int most, const char* which) {
  const passage_shape shape = shape_of(o, s);
  passage_set set(l, shape, find_passages(l, documents, shape, most, draws(0, of_passages)));
  if (set.size() < 2)
    throw input_error(
        l.description + ": the " + which + " documents have " + std::to_string(set.size()) + " passages of " +
        std::to_string(o.sentences) + " sentences of " + std::to_string(o.shortest) + " to " +
        std::to_string(o.longest) + " tokens that fit --length " + std::to_string(s.base.length) +
        ", expected at least 2; give a longer text, fewer --sentences, or raise --longest and --length");
  return set;
}

/// What the base model is trained on: running text, and passages with any of their sentences behind the cue.
/// To find again what was read is learnt from short passages first, so there are some of every number of
/// sentences. Of lines with a cue it is the answer alone that is learnt: a few tokens among many would be
/// learnt late.
class base_text {
 public:
  base_text(const sampler::language& l, const passage_shape& shape, index_t length)
      : running_(l, l.split.train, length) {
    for (int n = shape.key_left_in ? 1 : 2; n <= shape.sentences; ++n) {
      passage_shape few = shape;
      few.sentences = n;
      passages_.emplace_back(l, few, find_passages(l, l.split.train, few, 1 << 20, draws(0, of_passages)));
    }
  }
  packed_text batch(int count, int cued, index_t step) const {
    const auto at = static_cast<std::uint32_t>(step);
    packed_text text;
    if (count > cued) text = running_.batch(count - cued, draws(0, of_base).at_step(at));
    const philox random = draws(0, of_cued).at_step(at);
    for (int b = 0; b < cued; ++b) {
      const auto draw = [&](std::size_t choices, std::uint32_t what) {
        return random.below(static_cast<std::uint32_t>(choices), static_cast<std::uint64_t>(b), what);
      };
      const passage_set& from = passages_[draw(passages_.size(), 0)];
      const auto i = static_cast<int>(draw(static_cast<std::size_t>(from.size()), 1));
      const auto [line, first] =
          from.line(i, static_cast<int>(draw(static_cast<std::size_t>(from.shape().sentences), 2)));
      text.add(line, first);
    }
    return text;
  }

 private:
  sampler::passages running_;
  std::vector<passage_set> passages_;  // of one sentence, of two, ...
};

/// Differences of methods, each with an interval over seeds and one over documents.
trainer::table_rows differences(
    const trainer::run_book& book, const trainer::common_options& common,
    const std::vector<std::string>& methods,
    const std::function<std::filesystem::path(const std::string&, int)>& scores_file) {
  trainer::table_rows t{{{"difference", text_table::left},
                         {"score", text_table::left},
                         {"over seeds", text_table::right},
                         {"over documents", text_table::right}},
                        {}};
  const auto has = [&](const std::string& name) {
    return std::find(methods.begin(), methods.end(), name) != methods.end();
  };
  const auto scores = [&](const std::string& name) {
    std::vector<scored_texts> all;
    for (int seed = common.first_seed; seed < common.first_seed + common.seeds; ++seed)
      if (const auto file = scores_file(name, seed); book.find(name, seed) && std::filesystem::exists(file))
        all.push_back(read_scores(file));
    return all;
  };
  for (const std::string against : {"likelihood", "likelihood-per-sequence"})
    for (const std::string& name : methods) {
      if (!has(against) || !method_named(name).tuned || name == against) continue;
      if (name == "likelihood") continue;  // the other way round stands above
      const auto a = scores(name), b = scores(against);
      if (a.empty() || a.size() != b.size()) continue;
      for (const score_name& s : summary_scores) {
        const interval_estimate over = difference_over_documents(a, b, s.of);
        t.rows.push_back({name + " - " + against, s.title,
                          book.difference(name, against, {s.value, s.title, 2}, common),
                          with_interval(over.value, over.lower, over.upper, 2)});
      }
    }
  return t;
}

}  // namespace

void summary_options::add(trainer::flags& f, shared_options& s) {
  s.text.vocabulary = 1024;
  s.base = {.layers = 2, .width = 128, .heads = 4, .length = 128, .steps = 2500, .batch = 32, .rate = 3e-3};
  for (const method& m : known_methods()) methods.emplace_back(m.name);
  s.text.add(f);
  s.base.add(f);
  s.guidance.add(f);
  f.list("--methods", methods, "rows of the table", std::vector<std::string>(methods));
  f.choice("--key", key, "where the key sentence is while the passage is read", {"left-in", "taken-out"});
  f.choice("--judged", judged, "documents that the table is about; validation to choose settings by",
           {"test", "validation"});
  f.whole("--sentences", sentences, "of a passage", 2);
  f.whole("--shortest", shortest, "tokens of a passage's sentence");
  f.whole("--longest", longest, "tokens of a passage's sentence");
  f.whole("--passages", passages, "to train on, at most", 2);
  f.whole("--tested", tested, "passages of the table, at most", 2);
  f.whole("--watched", watched,
          "validation passages of the curves and of the reward model's validation, at most", 2);
  f.share("--cued", cued,
          "share of the base model's lines that are a passage, a cue and any of its sentences");
  f.whole("--updates", updates, "of the policy, for every method");
  f.whole("--batch", batch, "passages of an update");
  f.whole("--rank", rank, "of low-rank factors; 0: all weights of a copy of the base model are trained", 0);
  f.above_zero("--rate", rate, "learning rate of the policy");
  f.above_zero("--clip", clip, "largest gradient norm of the policy");
  f.whole("--candidates", candidates, "texts of a list, drawn by the policy", 2);
  f.whole("--lists", lists, "lists of a step of the reward model");
  f.whole("--reward-steps", reward_steps, "of a round of the reward model");
  f.whole("--retrain-every", retrain_every, "updates between rounds");
  f.share("--retrain-share", retrain_share, "of the updates, in which rounds may begin");
}
void summary_options::check(const shared_options& s) const {
  s.base.check();
  if (shortest > longest)
    throw input_error("--shortest " + std::to_string(shortest) + " is above --longest " +
                      std::to_string(longest));
  if (const int least = 3 + longest + sentences * (shortest + 1); s.base.length < least)
    throw input_error("--length " + std::to_string(s.base.length) + " is too little for " +
                      std::to_string(sentences) + " sentences of " + std::to_string(shortest) +
                      " tokens or more, a cue and a key sentence of up to " + std::to_string(longest) +
                      "; give at least " + std::to_string(least));
}

void run_summary(const summary_options& o, const task& t) {
  const sampler::language l = sampler::read_language(t.text);
  const bool test = o.judged == "test";
  const material m{
      l, passages_of(l, l.split.train, o, t, o.passages, "training"),
      passages_of(l, test ? l.split.test : l.split.valid, o, t, o.tested, test ? "test" : "validation"),
      passages_of(l, l.split.valid, o, t, o.watched, "validation")};
  auto settings = t.settings;
  settings.emplace_back("text", std::to_string(l.fingerprint));
  trainer::run_book book(t.folder, "train_token_guidance", settings, t.command);

  const auto device = make_guidance_machine(t.base.device, t.base.sizes(l.size() + 1), t.common.threads);
  trainer::run run(device->random, t.folder, t.interrupt);
  run.identify(book.identity());
  const base_text text(l, shape_of(o, t), t.base.length);
  const sampler::passages held_out(l, l.split.valid, t.base.length);
  const int cued = static_cast<int>(std::lround(o.cued * t.base.batch));
  const auto base =
      sampler::base_model(*device, run, t.base, [&](index_t s) { return text.batch(t.base.batch, cued, s); });
  const std::string corpus = l.description + "; the base model needs " +
                             with_digits(nats_per_token(*device, *base, held_out.all(400)), 3) +
                             " nats per token of validation documents; " + std::to_string(m.trained.size()) +
                             " passages to train on, " + std::to_string(m.judged.size()) + " of " + o.judged +
                             " documents to judge by";
  std::cerr << corpus << '\n';

  std::vector<trainer::method_about> methods;
  for (const std::string& name : o.methods) methods.push_back({name, method_named(name).about});
  const auto scores_file = [&](const std::string& name, int seed) {
    return run.file("seed-" + std::to_string(seed) + "." + name + ".scores.json");
  };
  const std::string caption =
      "Written greedily for " + std::to_string(m.judged.size()) + " passages of " + o.judged +
      " documents; ROUGE (F) and METEOR of equal words times 100; drawn: by sampling; exact: the key "
      "sentence word for word; nats per "
      "token of the key sentence; pairs: of three texts, those that the reward model orders as METEOR does; "
      "r: mean reward of tokens of "
      "key sentences and of drawn texts; calls: texts that METEOR was asked about in training.";
  const std::string lead = "A policy reads " + std::to_string(o.sentences) +
                           " sentences and writes the one that has most in common with the others. "
                           "A reward model learns from texts of the policy what single tokens are worth, and "
                           "its rewards weigh the tokens of the key sentences "
                           "that the policy is trained on. All rows start from one base model, take the same "
                           "updates on the same passages in the same order. "
                           "Rewards are aggregated by " +
                           t.guidance.about() + " where a row says nothing else.";
  const auto page = [&] {
    trainer::page_words words{
        "The key sentence of a passage",
        lead,
        corpus,
        methods,
        columns,
        caption,
        {{"score/rouge_l",
          {.title = "ROUGE-L",
           .caption = "Of texts for validation passages, written greedily.",
           .x_title = "update",
           .y_title = "times 100"}},
         {"score/nats",
          {.title = "Nats per token",
           .caption = "Of the key sentences of validation passages.",
           .x_title = "update",
           .y_title = "nats"}},
         {"guidance/accuracy",
          {.title = "Pairs ordered as METEOR orders them",
           .caption = "By the reward model, of validation passages at the end of each round.",
           .x_title = "update",
           .y_title = "share"}}}};
    words.more = [&](report& r) {
      const trainer::table_rows rows = differences(book, t.common, o.methods, scores_file);
      if (!rows.rows.empty())
        r.table(rows.columns, rows.rows,
                "Differences. Over seeds: Student's 95 % interval of the runs' differences. Over documents: "
                "mean over seeds, 95 % interval of "
                "2000 draws of documents with all their passages. An interval that holds 0 says nothing was "
                "seen.");
    };
    words.samples_lead =
        "Passages of " + o.judged + " documents, their key sentence, and what was written greedily.";
    write_page(t.folder, book, words, t.common);
  };
  for (int seed = t.common.first_seed; seed < t.common.first_seed + t.common.seeds; ++seed) {
    run.stop_if_asked();
    summary_run one(o, t, m, *device, run, *base, seed);
    for (const std::string& name : o.methods) {
      if (book.find(name, seed) && std::filesystem::exists(scores_file(name, seed))) continue;
      book.add(one.learn(method_named(name)));
      page();
    }
  }
  page();
  std::error_code ignored;
  std::filesystem::remove(run.checkpoint(), ignored);
  std::cout << '\n'
            << corpus << '\n'
            << printed(book.table(methods, columns, t.common)) << caption << '\n'
            << printed(differences(book, t.common, o.methods, scores_file))
            << "report:  " << t.folder.file("report.html").string()
            << "\nresults: " << t.folder.file("results.json").string() << '\n';
}

}  // namespace train_token_guidance
