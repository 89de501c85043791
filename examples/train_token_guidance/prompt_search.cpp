/// Guidance, delayed rewards, and the same search without learning.
#include "prompt_search.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <set>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/io/run_curves.hpp>
#include <planlm/io/table.hpp>
#include <planlm/text/documents.hpp>
#include "trainer/flags.hpp"

namespace train_token_guidance {
namespace {

// What draws are for: each has its own numbers, apart from those of the machine and of the stages.
enum purpose : std::uint32_t { of_policy = 60, of_reward, of_candidates, of_entropy, of_watched, of_random };
philox draws(int seed, purpose what) { return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16}; }

/// Of a scaled gap: at most 1, where rewards of tokens are at most 1.3. Scores of real prompts are a tenth of it, so alpha weighs more for them.
constexpr double largest_score = 200;

bool is_guidance(const std::string& method) { return method.starts_with("guidance"); }
bool is_tuned(const std::string& method) { return is_guidance(method) || method.starts_with("delayed"); }

}  // namespace

const std::vector<std::string>& prompt_methods() {
  static const std::vector<std::string> all{"no-prompt", "manual", "best-of", "guidance", "guidance-max", "guidance-min", "delayed", "delayed-z"};
  return all;
}
std::string about_prompt_method(const std::string& name, const prompt_options& o, const guidance_options& g) {
  if (name == "no-prompt") return "the word behind the sentence itself";
  if (name == "manual") return "the prompt '" + o.manual + "', written before anything was scored";
  if (name == "best-of")
    return "prompts drawn by the language model as it is, without learning; as many as read the labelled sentences as often as guidance does";
  if (name == "guidance") return "token rewards that explain an order of prompts, by " + g.about() + "; retrained in the first half";
  if (name == "guidance-max") return "the same with the soft maximum: one good token is enough";
  if (name == "guidance-min") return "the same with the soft minimum: one bad token is enough";
  if (name == "delayed") return "no guidance: the true score of a prompt, divided by 200, is the reward of each of its tokens";
  return "no guidance: the true score less the mean of the update's prompts, divided by their standard deviation";
}

prompt_search::prompt_search(const prompt_options& o, const guidance_options& g, guidance_machine& m, trainer::run& run, const part& base,
                             const prompt_text& text, const prompt_scorer& scorer, std::span<const prompt_example> scored, known_odds& tested, int seed)
    : o_(o), guidance_(g), machine_(m), run_(run), base_(base), text_(text), scorer_(scorer), scored_(scored), tested_(tested), seed_(seed),
      before_{text.language.vocabulary.bos()} {
  const std::vector<prompt_example> shots = scorer.read(train_latent_classifier::labelled(text.sentences, 4 * o.shots, seed));
  const auto half = shots.begin() + 2 * o.shots;
  train_.assign(shots.begin(), half), dev_.assign(half, shots.end());
  rule_.stop = text.language.vocabulary.bos();  // never written: a prompt has one length
  rule_.shortest = rule_.longest = o.length;
  rule_.draw.top_k = o.top_k;
  // Words alone: no marks, no bytes. Finite, since entropy is summed over all of the vocabulary.
  rule_.penalty.assign(static_cast<std::size_t>(text.language.size()), 0.0f);
  constexpr std::size_t bytes_end = 258;
  for (std::size_t id = 0; id < std::min(bytes_end, rule_.penalty.size()); ++id) rule_.penalty[id] = -99;
  rule_.penalty[static_cast<std::size_t>(text.language.stop())] = -99;
}

double prompt_search::read_in_round(double steps) const {
  const double validations = std::ceil(steps / o_.validate_every), validated = double(dev_.size()) + (o_.calibrate ? double(train_.size()) : 0);
  return o_.drawn * (steps * double(train_.size()) + validations * validated);
}

const std::vector<double>& prompt_search::train_odds(const tokens& prompt) {
  const auto [at, fresh] = train_odds_.try_emplace(prompt);
  if (fresh) at->second = scorer_.odds(prompt, train_);
  return at->second;
}
double prompt_search::middle(const tokens& prompt) { return o_.calibrate ? median(train_odds(prompt)) : 0; }
prompt_search::candidate prompt_search::consider(const tokens& prompt) {
  run_.stop_if_asked();
  std::vector<double> all = train_odds(prompt);
  std::vector<prompt_example> examples = train_;
  const std::vector<double> dev = scorer_.odds(prompt, dev_);
  all.insert(all.end(), dev.begin(), dev.end()), examples.insert(examples.end(), dev_.begin(), dev_.end());
  return {prompt, score_odds(all, examples, middle(prompt)), score_odds(dev, dev_, middle(prompt))};
}

guidance_rule prompt_search::rule_of(const std::string& method) const {
  guidance_options mine = guidance_;
  if (method == "guidance-max") mine.aggregation = "max";
  if (method == "guidance-min") mine.aggregation = "min";
  return mine.rule();
}

std::vector<tokens> prompt_search::draw(const part& policy, int count, philox random) const {
  const std::vector<tokens> before(static_cast<std::size_t>(count), before_);
  std::vector<tokens> out;
  for (written& z : machine_.sample(policy, before, rule_, {}, random)) out.push_back(std::move(z.actions));
  return out;
}
packed_generations prompt_search::pack(std::span<const tokens> prompts) const {
  packed_generations texts(machine_.sizes());
  for (const tokens& p : prompts) texts.add(before_, p);
  return texts;
}

/// Lists of a few of the prompts that the policy writes now. Validation has the other labelled sentences.
ranked_generations prompt_search::lists(const part& policy, const guidance_moment& at) {
  const auto stream = [&](std::uint32_t n) { return at.random.with_stream(at.random.stream + n); };
  const std::vector<tokens> prompts = draw(policy, o_.drawn, at.random);
  std::vector<int> chosen = text::shuffled_order(static_cast<int>(train_.size()), stream(1));
  chosen.resize(static_cast<std::size_t>(std::ceil(o_.share * double(train_.size()) - 1e-9)));
  std::vector<prompt_example> examples;
  for (const int i : chosen) examples.push_back(train_[static_cast<std::size_t>(i)]);
  std::vector<double> score;
  for (const tokens& p : prompts) {
    if (at.step < 0) {
      score.push_back(score_odds(scorer_.odds(p, dev_), dev_, middle(p)).reward);
      continue;
    }
    std::vector<double> some;
    for (const int i : chosen) some.push_back(train_odds(p)[static_cast<std::size_t>(i)]);
    score.push_back(score_odds(some, examples, middle(p)).reward);
  }
  ranked_generations out(machine_.sizes());
  out.generations = pack(prompts);
  out.offsets = {0};
  for (int l = 0; l < o_.lists; ++l) {
    std::vector<int> order = text::shuffled_order(o_.drawn, stream(2 + static_cast<std::uint32_t>(l)));
    order.resize(static_cast<std::size_t>(o_.places));
    for (const int i : order) out.item.push_back(i), out.score.push_back(score[static_cast<std::size_t>(i)]);
    out.offsets.push_back(static_cast<int>(out.item.size()));
  }
  return out;
}

/// Of the tokens of an update, prompt after prompt.
std::vector<float> prompt_search::rewards(const std::string& method, const part* reward, const packed_generations& texts,
                                          std::span<const tokens> prompts) {
  if (reward) return machine_.token_rewards(*reward, texts, rule_of(method));
  std::vector<double> score;
  for (const tokens& p : prompts) score.push_back(train_score(p) / largest_score);
  if (method == "delayed-z") {
    const double n = double(score.size());
    double mean = 0, square = 0;
    for (const double s : score) mean += s / n;
    for (const double s : score) square += (s - mean) * (s - mean) / n;
    for (double& s : score) s = (s - mean) / (std::sqrt(square) + 1e-6);
  }
  std::vector<float> out;
  for (std::size_t i = 0; i < score.size(); ++i) out.insert(out.end(), prompts[i].size(), static_cast<float>(score[i]));
  return out;
}

std::unique_ptr<part> prompt_search::tune(const std::string& method) {
  // Published: layers between the last hidden state of a frozen model and its head, which begin with all tokens alike and take 12,000 updates.
  // Factors of low rank begin with what the model itself would write, so that a few hundred updates are enough.
  auto policy = machine_.make_low_rank(base_, draws(seed_, of_policy), {o_.rank, o_.scale});
  std::unique_ptr<part> reward;
  if (is_guidance(method)) reward = machine_.make_reward_model(&base_, guidance_.inner, draws(seed_, of_reward), true);
  guided_task task;
  task.name = method, task.seed = seed_, task.updates = o_.updates;
  if (reward) {
    task.schedule = guidance_schedule::for_share(o_.updates, o_.rounds_every);
    task.round.steps = o_.round_steps, task.round.validate_every = o_.validate_every;
    task.round.rate = guidance_.rate, task.round.clip.most = guidance_.clip;
    task.lists = [&](const guidance_moment& at) { return lists(*policy, at); };
    task.rule = rule_of(method);
  }
  task.update = [&](index_t, philox random) {
    const std::vector<tokens> prompts = draw(*policy, o_.samples, random);
    const packed_generations texts = pack(prompts);
    const std::vector<float> r = rewards(method, reward.get(), texts, prompts);
    return machine_.guided_step(*policy, texts, r, guided_likelihood::maximum_entropy(o_.alpha), rule_.penalty, {o_.rate, 0, o_.clip});
  };
  task.observe_every = std::max(1, o_.updates / 10);
  task.observe = [&]() -> std::vector<std::pair<std::string, double>> {
    double gap = 0;
    const std::vector<tokens> prompts = draw(*policy, o_.candidates, draws(seed_, of_watched));
    for (const tokens& p : prompts) gap += score_odds(scorer_.odds(p, dev_), dev_, middle(p)).reward / double(prompts.size());
    return {{"gap", gap}};
  };
  tune_guided(machine_, run_, *policy, reward.get(), task);
  return policy;
}

/// The best by their labelled sentences, all scored on the same ones, and what these come to in the table.
void prompt_search::judge(trainer::outcome& out, std::vector<candidate> found) {
  std::stable_sort(found.begin(), found.end(), [](const candidate& a, const candidate& b) { return a.shots.reward > b.shots.reward; });
  if (found.size() > static_cast<std::size_t>(o_.best)) found.resize(static_cast<std::size_t>(o_.best));
  auto& v = out.values;
  for (const char* name : {"accuracy", "dev", "best_gap", "first"}) v[name] = 0;
  const double n = double(found.size());
  for (const candidate& c : found) {
    run_.stop_if_asked();
    const auto [at, fresh] = tested_.try_emplace(c.prompt);
    if (fresh) at->second = scorer_.odds(c.prompt, scored_);
    const prompt_score s = score_odds(at->second, scored_, middle(c.prompt));
    v["accuracy"] += 100 * s.accuracy / n, v["first"] += 100 * s.first / n;
    v["dev"] += 100 * c.dev.accuracy / n, v["best_gap"] += c.shots.reward / n;
    const std::string words = c.prompt.empty() ? "(nothing)" : text_.language.decode(c.prompt);
    out.samples.push_back({"of the sentences of the table", with_digits(100 * s.accuracy, 1) + " %: " + words});
  }
}

trainer::outcome prompt_search::learn(const std::string& method) {
  const auto begin = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  train_odds_.clear();
  trainer::outcome out{method, seed_, {}, {}};
  auto& v = out.values;
  v["entropy"] = NAN, v["calls"] = 0, v["read"] = 0;
  std::vector<candidate> found;
  const double each = double(train_.size() + dev_.size());
  if (method == "no-prompt" || method == "manual") {
    found.push_back(consider(method == "manual" ? text_.language.encode(o_.manual) : tokens{}));
    v["gap"] = found[0].shots.reward, v["seconds"] = 0;
    judge(out, std::move(found));
    return out;
  }
  const bool there = std::filesystem::exists(run_.file("seed-" + std::to_string(seed_) + "." + method + ".safetensors"));
  const std::unique_ptr<part> tuned = is_tuned(method) ? tune(method) : nullptr;
  const part& policy = tuned ? *tuned : base_;
  std::set<tokens> seen;
  const auto propose = [&](const std::vector<tokens>& prompts) {
    for (const tokens& p : prompts) {
      found.push_back(consider(p));
      v["gap"] += found.back().shots.reward;
      if (!seen.insert(p).second) found.pop_back();
    }
  };
  if (tuned) {
    propose(draw(policy, o_.candidates, draws(seed_, of_candidates)));
    v["gap"] /= o_.candidates;
    const double mean = v["gap"];
    rollout_rule likeliest = rule_;
    likeliest.draw = {.greedy = true};
    propose({machine_.sample(policy, std::vector<tokens>{before_}, likeliest, {}, draws(seed_, of_candidates))[0].actions});
    v["gap"] = mean;
    if (is_guidance(method)) {
      // Rounds may end early: what they took is in their last validation.
      for (const run_curve& c : run_curves(run_.file("metrics.jsonl"), "guidance/step"))
        if (c.seed == seed_ && c.stage == method)
          for (const double steps : c.points.y)
            v["calls"] += o_.drawn * (steps + std::ceil(steps / o_.validate_every)), v["read"] += read_in_round(steps);
    } else {
      v["calls"] = double(o_.updates) * o_.samples, v["read"] = v["calls"] * double(train_.size());
    }
    v["calls"] += o_.candidates + 1, v["read"] += (o_.candidates + 1) * each;
  } else {
    const auto rounds = double(guidance_schedule::for_share(o_.updates, o_.rounds_every).rounds(o_.updates));
    const auto most = static_cast<int>(rounds * read_in_round(o_.round_steps) / each) + o_.candidates + 1;
    for (int from = 0; from < most; from += 64)
      propose(draw(policy, std::min(64, most - from), draws(seed_, of_random).at_step(static_cast<std::uint32_t>(from))));
    v["gap"] /= most, v["calls"] = most, v["read"] = most * each;
  }
  v["read"] /= 1000;
  v["entropy"] = machine_.guided_loss(policy, pack(draw(policy, 64, draws(seed_, of_entropy))), rule_.penalty).entropy;
  v["seconds"] = there ? NAN : passed();
  judge(out, std::move(found));
  return out;
}

}  // namespace train_token_guidance
