/// Steps of a policy under a frozen reward model, and what they cost: entropy, and the distance from the
/// untuned model.
#include "tune.hpp"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>
#include <nlohmann/json.hpp>
#include "trainer/run_book.hpp"
#include "trainer/stage.hpp"
#include <planlm/core/error.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/text/documents.hpp>
#include <planlm/training/schedule.hpp>

namespace train_token_guidance {
namespace {

using trainer::outcome;

// What draws of a stage are for; each has its own numbers. Streams below 2^16 are the machine's.
enum purpose : std::uint32_t { of_start = 50, of_order, of_texts, of_lists, of_scores, of_curves };
philox draws(int seed, purpose what) {
  return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16};
}

constexpr const char* untuned = "untuned";
constexpr std::size_t curve_prompts = 16, shown_prompts = 6, shown_texts = 2;

/// Texts of a policy for some prompts, as a device takes them.
struct sampled {
  packed_generations texts;
  std::vector<tokens> written;  // (S)
  std::vector<double>
      nll;  // of every written token under the policy that wrote it, which did not consider BOS
  explicit sampled(const lm_sizes& sizes) : texts(sizes) {}
};

/// Every prompt once, in the order of the file.
std::vector<tokens> prompts_of(const std::vector<preference_list>& lists, std::size_t room) {
  std::vector<tokens> all;
  std::set<tokens> seen;
  for (const preference_list& list : lists) {
    tokens prompt = list.prompt;
    // BOS stays.
    if (prompt.size() > room)
      prompt.erase(prompt.begin() + 1,
                   prompt.begin() + 1 + static_cast<std::ptrdiff_t>(prompt.size() - room));
    if (seen.insert(prompt).second) all.push_back(std::move(prompt));
  }
  return all;
}

class tune_task {
 public:
  tune_task(const tune_options& o, const task& t)
      : o_(o),
        t_(t),
        base_(read_planner_base(o.source)),
        machine_(make_guidance_machine(t.base.device, base_.sizes(), t.common.threads)),
        reward_(read_reward(*machine_, o.reward, base_)),
        rule_(reward_.guidance.rule()),
        plain_(without_common_length(reward_.guidance)),
        parts_(read_parts(o.source, base_, reward_.shares, o.longest)),
        training_(prompts_of(parts_.training, room())),
        validation_(prompts_of(parts_.validation, room())),
        test_(prompts_of(parts_.test, room())),
        ranked_(informative(parts_.training)),
        judged_(informative(parts_.test)),
        book_(t.folder, "train_token_guidance", settings(), t.command),
        run_(machine_->random, t.folder, t.interrupt),
        lm_(base_.language_model(*machine_)) {
    run_.identify(book_.identity());
    if (test_.size() > static_cast<std::size_t>(o.tested)) test_.resize(static_cast<std::size_t>(o.tested));
    if (validation_.size() > curve_prompts) validation_.resize(curve_prompts);
  }

  void operator()() {
    std::cerr << corpus() << '\n';
    for (int seed = t_.common.first_seed; seed < t_.common.first_seed + t_.common.seeds; ++seed) {
      run_.stop_if_asked();
      if (!book_.find(o_.objective, seed)) tune(seed);
      page();
    }
    page();
    std::error_code ignored;
    std::filesystem::remove(run_.checkpoint(), ignored);
    const auto file = [&](const std::string& name) { return t_.folder.file(name).string(); };
    const std::string model =
        file("seed-" + std::to_string(t_.common.first_seed) + ".language-model.safetensors");
    std::cout << '\n' << corpus() << '\n' << printed(book_.table(abouts(), columns(), t_.common));
    for (const std::string& line : warnings()) std::cout << line << '\n';
    std::cout << "language model: " << model << "\nwrite with it:  generate --run " << base_.folder.string()
              << " --variant none --language-model " << model
              << " --prompt \"...\"\nreport:  " << file("report.html")
              << "\nresults: " << file("results.json") << '\n';
  }

 private:
  std::size_t room() const { return static_cast<std::size_t>(base_.run.flags.length - o_.longest); }
  /// A list's mean length orders nothing within the list, and would make scores of policies that write longer
  /// texts larger.
  static guidance_rule without_common_length(guidance_options g) {
    g.plain_length = true;
    return g.rule();
  }
  std::vector<std::pair<std::string, std::string>> settings() const {
    auto all = t_.settings;
    all.emplace_back("run", std::to_string(fingerprint_of(base_.run.identity)));
    all.emplace_back("seed of the run", std::to_string(base_.seed));
    all.emplace_back("reward model", std::to_string(reward_.fingerprint));
    all.emplace_back("preferences", std::to_string(parts_.fingerprint));
    return all;
  }
  /// A file of one prompt is split by its lists, and prompts that lost their beginnings may be alike.
  bool tested_unseen() const {
    const std::set<tokens> tuned(training_.begin(), training_.end());
    return std::none_of(test_.begin(), test_.end(), [&](const tokens& p) { return tuned.contains(p); });
  }
  std::string corpus() const {
    return parts_.description + "; " + std::to_string(training_.size()) + " prompts to tune with, " +
           std::to_string(test_.size()) +
           (tested_unseen() ? " that neither policy nor reward model has seen to test with; reward model: "
                            : " to test with, not all of them unseen: prompts of the file are alike; reward model: ") +
           reward_.guidance.about();
  }

  /// Texts of at most --longest tokens; without --whole-length to the end of their first sentence.
  sampled write(const part& policy, std::span<const tokens> prompts, philox random) const {
    rollout_rule rule;
    // BOS is never written: the length alone ends a rollout, sentences are cut afterwards.
    rule.stop = base_.vocabulary().bos(), rule.shortest = rule.longest = o_.longest;
    sampled out(machine_->sizes());
    for (written& z : machine_->sample(policy, prompts, rule, {}, random)) {
      const auto end = o_.whole_length ? z.actions.end()
                                       : std::find_if(z.actions.begin(), z.actions.end(),
                                                      [&](int id) { return base_.ends(id); });
      if (end != z.actions.end()) z.actions.erase(end + 1, z.actions.end());
      out.texts.add(z.prompt, z.actions);
      for (std::size_t k = 0; k < z.actions.size(); ++k) out.nll.push_back(-double(z.taken[k]));
      out.written.push_back(std::move(z.actions));
    }
    return out;
  }
  /// Nats of every generated token under a model.
  std::vector<double> nll_of(const part& lm, const packed_generations& texts) const {
    sampler::packed_text packed;
    for (index_t s = 0; s < texts.count(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      const auto begin = static_cast<std::size_t>(texts.offsets()[at]),
                 end = static_cast<std::size_t>(texts.offsets()[at + 1]);
      packed.add(std::span(texts.tokens()).subspan(begin, end - begin),
                 end - begin - static_cast<std::size_t>(texts.length()[at]));
    }
    const std::vector<float> rows = machine_->token_nll(lm, packed);
    std::vector<double> out;
    for (std::size_t r = 0; r < rows.size(); ++r)
      if (packed.targets[r] >= 0) out.push_back(double(rows[r]));
    return out;
  }

  // ---- steps
  /// Numbers of `n` things for step s: all in turn, each epoch in an order of its own.
  std::vector<std::size_t> turn(std::size_t n, int seed, purpose what, index_t s) const {
    std::vector<std::size_t> out;
    std::vector<int> order;
    index_t epoch = -1;
    const auto all = static_cast<index_t>(n);
    for (index_t i = s * o_.batch; i < (s + 1) * o_.batch; ++i) {
      if (i / all != epoch) {
        epoch = i / all;
        text::shuffled_order(static_cast<int>(n),
                             draws(seed, what).at_step(static_cast<std::uint32_t>(epoch)), order);
      }
      out.push_back(static_cast<std::size_t>(order[static_cast<std::size_t>(i % all)]));
    }
    return out;
  }
  rates rates_at(index_t s) const {
    const index_t warm = std::min<index_t>(20, o_.steps / 4);
    const linear_decay decay{std::max<index_t>(1, o_.steps - warm), 0.02};
    return {o_.rate * (warm < 1 ? decay(s) : warmup{warm, decay}(s)), 0, o_.clip};
  }
  step_result weighted_step(part& policy, int seed, index_t s) const {
    packed_generations best(machine_->sizes());
    for (const std::size_t i : turn(ranked_.size(), seed, of_lists, s))
      best.add(ranked_[i]->prompt, best_of(*ranked_[i]));
    const std::vector<float> rewards = machine_->token_rewards(*reward_.model, best, rule_);
    return machine_->guided_step(policy, best, rewards, guided_likelihood::reward_weighted(), {}, rates_at(s))
        .step;
  }
  step_result reinforce_step(part& policy, int seed, index_t s) const {
    std::vector<tokens> prompts;
    for (const std::size_t i : turn(training_.size(), seed, of_order, s)) prompts.push_back(training_[i]);
    sampled own = write(policy, prompts, draws(seed, of_texts).at_step(static_cast<std::uint32_t>(s)));
    const auto samples = static_cast<std::size_t>(own.texts.generated_tokens());
    std::vector<std::size_t> ends{samples};  // of every chosen text
    if (o_.chosen > 0)
      for (const std::size_t i : turn(ranked_.size(), seed, of_lists, s)) {
        own.texts.add(ranked_[i]->prompt, best_of(*ranked_[i]));
        ends.push_back(static_cast<std::size_t>(own.texts.generated_tokens()));
      }
    std::vector<float> rewards = machine_->token_rewards(*reward_.model, own.texts, rule_);
    if (o_.pull > 0) {
      const std::vector<double> before = nll_of(*lm_, own.texts);
      for (std::size_t i = 0; i < samples; ++i)
        rewards[i] -= static_cast<float>(o_.pull * (before[i] - own.nll[i]));
    }
    if (!o_.no_baseline) {
      double mean = 0;
      for (std::size_t i = 0; i < samples; ++i) mean += double(rewards[i]) / double(samples);
      for (std::size_t i = 0; i < samples; ++i) rewards[i] -= static_cast<float>(mean);
    }
    // Both terms in one batch: weights are divided by all its tokens, so each term takes its own number back.
    const auto all = double(rewards.size());
    for (std::size_t i = 0; i < samples; ++i) rewards[i] *= static_cast<float>(all / double(samples));
    for (std::size_t c = 0; c + 1 < ends.size(); ++c) {
      double sum = 0;
      for (std::size_t i = ends[c]; i < ends[c + 1]; ++i) sum += double(rewards[i]);
      for (std::size_t i = ends[c]; i < ends[c + 1]; ++i)
        rewards[i] = static_cast<float>(o_.chosen * all * double(rewards[i]) / sum / double(ends.size() - 1));
    }
    return machine_
        ->guided_step(policy, own.texts, rewards, guided_likelihood::maximum_entropy(o_.entropy), {},
                      rates_at(s))
        .step;
  }

  // ---- scores
  std::map<std::string, double> scores_of(const part& policy, std::span<const tokens> prompts, int count,
                                          philox random, std::vector<tokens>* written_out = nullptr) const {
    std::vector<tokens> repeated;
    for (const tokens& p : prompts) repeated.insert(repeated.end(), static_cast<std::size_t>(count), p);
    std::map<std::string, double> v;
    const auto texts = double(repeated.size());
    double tokens_seen = 0, different = 0;
    std::vector<tokens> all;
    constexpr std::size_t most = 64;
    for (std::size_t first = 0, piece = 0; first < prompts.size(); first += most, ++piece) {
      const std::size_t n = std::min(most, prompts.size() - first);
      const auto some = std::span(repeated).subspan(first * static_cast<std::size_t>(count),
                                                    n * static_cast<std::size_t>(count));
      sampled own = write(policy, some, random.at_step(static_cast<std::uint32_t>(piece)));
      const std::vector<float> r = machine_->token_rewards(*reward_.model, own.texts, rule_);
      const std::vector<double> before = nll_of(*lm_, own.texts), now = nll_of(policy, own.texts);
      const guided_result g = machine_->guided_loss(policy, own.texts, {});
      const auto m = double(r.size());
      for (std::size_t i = 0; i < r.size(); ++i) v["drift"] += before[i] - now[i];
      v["entropy"] += g.entropy * m, tokens_seen += m;
      ranked_generations lists(machine_->sizes());
      for (std::size_t p = 0; p < n; ++p) {
        std::set<tokens> kinds;
        for (std::size_t k = p * static_cast<std::size_t>(count);
             k < (p + 1) * static_cast<std::size_t>(count); ++k) {
          lists.generations.add(some[k], own.written[k]);
          lists.score.push_back(0);
          kinds.insert(own.written[k]);
          double sum = 0;
          const auto from = static_cast<std::size_t>(own.texts.first()[k]),
                     length = static_cast<std::size_t>(own.texts.length()[k]);
          for (std::size_t i = from; i < from + length; ++i) sum += double(r[i]);
          v["reward"] += sum / double(length) / texts, v["length"] += double(length) / texts;
        }
        lists.generations.end_list();
        different += double(kinds.size());
      }
      for (const double e : machine_->rank(*reward_.model, lists, plain_).score) v["score"] += e / texts;
      std::move(own.written.begin(), own.written.end(), std::back_inserter(all));
    }
    v["drift"] /= tokens_seen, v["entropy"] /= tokens_seen, v["different"] = different / texts;
    if (written_out) *written_out = std::move(all);
    return v;
  }
  double nll_of_best(const part& policy) const {
    double sum = 0, count = 0;
    for (const preference_list* list : judged_) {
      packed_generations one(machine_->sizes());
      one.add(list->prompt, best_of(*list));
      for (const double v : nll_of(policy, one)) sum += v, count += 1;
    }
    return sum / count;
  }
  outcome judge(const std::string& method, const part& policy, int seed, std::vector<tokens>& all) const {
    outcome done{method, seed, scores_of(policy, test_, o_.texts, draws(seed, of_scores), &all), {}};
    done.values["best_nll"] = nll_of_best(policy);
    return done;
  }
  std::string prompt_text(const tokens& prompt) const { return base_.decode(std::span(prompt).subspan(1)); }

  void tune(int seed) {
    const auto file = run_.file("seed-" + std::to_string(seed) + ".language-model.safetensors");
    std::map<std::string, std::string> about{{"identity", run_.identity()},
                                             {"seed", std::to_string(seed)},
                                             {"objective", o_.objective},
                                             {"of", base_.run.identity},
                                             {"run_seed", std::to_string(base_.seed)}};
    std::vector<tokens> before, after;
    outcome first = judge(untuned, *lm_, seed, before);
    const auto policy = machine_->make(philox{}, true);
    policy->copy(*lm_);
    if (std::filesystem::exists(file)) {
      trainer::run::load_parameters(*policy, file, about);
    } else {
      machine_->random = draws(seed, of_start);
      const auto observe = [&](index_t s) {
        const auto v = scores_of(*policy, validation_, 2, draws(seed, of_curves));
        run_.observe(seed, o_.objective, s, "policy",
                     {{"reward", v.at("reward")}, {"entropy", v.at("entropy")}, {"drift", v.at("drift")}});
      };
      const index_t every = std::max(1, o_.steps / 10);
      run_.stage(
          {o_.objective, seed, o_.steps, "--rate", {{"policy", policy.get()}}, {}},
          [&](index_t s) {
            if (s == 0) observe(0);
            return o_.objective == "weighted" ? weighted_step(*policy, seed, s)
                                              : reinforce_step(*policy, seed, s);
          },
          [&](index_t s) {
            if ((s + 1) % every == 0 || s + 1 == o_.steps) observe(s + 1);
            return true;
          },
          [](index_t) { return std::string("in the policy's log-probabilities"); });
      trainer::run::save_parameters(*policy, file, about);
    }
    outcome last = judge(o_.objective, *policy, seed, after);
    keep_samples(seed, before, after);
    book_.add(std::move(first));
    book_.add(std::move(last));
  }
  std::filesystem::path samples_file(int seed) const {
    return t_.folder.file("seed-" + std::to_string(seed) + ".samples.jsonl");
  }
  void keep_samples(int seed, const std::vector<tokens>& before, const std::vector<tokens>& after) const {
    std::string lines;
    const auto count = static_cast<std::size_t>(o_.texts);
    for (std::size_t p = 0; p < test_.size(); ++p) {
      nlohmann::ordered_json line{{"prompt", prompt_text(test_[p])},
                                  {"before", nlohmann::ordered_json::array()},
                                  {"after", nlohmann::ordered_json::array()}};
      for (std::size_t k = p * count; k < (p + 1) * count; ++k)
        line["before"].push_back(base_.decode(before[k])), line["after"].push_back(base_.decode(after[k]));
      lines += line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
    }
    t_.folder.write_text(samples_file(seed).filename().string(), lines);
  }

  // ---- words
  std::vector<trainer::method_about> abouts() const {
    const std::string pull = o_.pull > 0 ? "a pull of " + trainer::exact(o_.pull) + " to the untuned model"
                                         : "no pull to the untuned model";
    const std::string likelihood =
        o_.chosen > 0
            ? ", reward-weighted likelihood of chosen texts with weight " + trainer::exact(o_.chosen)
            : "";
    return {
        {untuned, "the run's language model as it is"},
        o_.objective == "weighted"
            ? trainer::method_about{"weighted", "reward-weighted likelihood of each list's best generation"}
            : trainer::method_about{"reinforce",
                                    "its own texts, every token weighted by its reward" +
                                        std::string(o_.no_baseline ? "" : " less the mean of the step") +
                                        "; entropy bonus " + trainer::exact(o_.entropy) + ", " + pull +
                                        likelihood}};
  }
  static std::vector<trainer::score_column> columns() {
    return {{"reward", "reward", 4},      {"score", "score", 3},          {"entropy", "entropy", 3},
            {"drift", "drift", 3},        {"best_nll", "nll of best", 3}, {"length", "tokens", 1},
            {"different", "different", 3}};
  }
  /// Where the numbers say that the policy has left what the reward model knows.
  std::vector<std::string> warnings() const {
    const auto mean = [&](const std::string& method, const char* value) {
      const std::vector<double> all = book_.values(method, value, t_.common);
      double sum = 0;
      for (const double v : all) sum += v / double(all.size());
      return sum;
    };
    std::vector<std::string> lines;
    const double before = mean(untuned, "entropy"), after = mean(o_.objective, "entropy"),
                 drift = mean(o_.objective, "drift");
    const std::string remedy = o_.objective == "reinforce"
                                   ? "; try a larger --pull, some --chosen, or fewer --steps"
                                   : "; try fewer --steps";
    if (after < 0.5 * before)
      lines.push_back("caution: entropy fell from " + with_digits(before, 2) + " to " +
                      with_digits(after, 2) + " nats, the policy writes much of the same" + remedy);
    if (after > 1.5 * before)
      lines.push_back("caution: entropy rose from " + with_digits(before, 2) + " to " +
                      with_digits(after, 2) +
                      " nats, texts come apart; try a smaller --entropy or a larger --pull");
    const double short_ones = mean(untuned, "length"), long_ones = mean(o_.objective, "length");
    if (!o_.whole_length && long_ones > 0.9 * o_.longest && short_ones < 0.8 * o_.longest)
      lines.push_back("caution: texts grew from " + with_digits(short_ones, 1) + " to " + with_digits(long_ones, 1) +
                      " of at most " + std::to_string(o_.longest) +
                      " tokens, few of them end with a sentence: rewards of tokens need not say where to end" + remedy);
    if (drift > 1)
      lines.push_back("caution: the policy is " + with_digits(drift, 2) +
                      " nats per token from the untuned model, where rewards may mean little" + remedy);
    return lines;
  }
  /// The first prompts with what was written for them before and after.
  void show_texts(report& to) const {
    std::ifstream in(samples_file(t_.common.first_seed));
    std::size_t shown = 0;
    for (std::string line; shown < shown_prompts && std::getline(in, line); ++shown) {
      const nlohmann::json j = nlohmann::json::parse(line, nullptr, false);
      if (!j.is_object()) return;
      if (shown == 0)
        to.section("Before and after",
                   "Texts for the first test prompts, of the first seed; those for all are in "
                   "seed-N.samples.jsonl.");
      for (const auto& [when, title] :
           {std::pair{"before", std::string(untuned)}, std::pair{"after", o_.objective}}) {
        text_sample sample{title, when == std::string("before") ? j.at("prompt").get<std::string>() : "", {}};
        for (std::size_t k = 0; k < std::min(shown_texts, j.at(when).size()); ++k)
          sample.sentences.push_back({j.at(when)[k].get<std::string>()});
        to.sample(sample);
      }
    }
  }
  void page() const {
    trainer::page_words words{
        "A language model under people's preferences",
        std::string(tested_unseen() ? "Texts for prompts that neither policy nor reward model has seen."
                                    : "Texts for test prompts, of which some were tuned with too.") +
            " reward: of tokens, mean over "
        "texts. score: their aggregate, by which the reward model orders "
        "texts. entropy: nats per token. drift: nats per token by which the policy's own texts are more "
        "probable to it than to the untuned model, an estimate of their "
        "divergence. nll of best: nats per token of the generations that people liked best. different: the "
        "share of different texts among those of a prompt. A reward "
        "that rises while drift runs away, or entropy falls, is the reward model's opinion of texts it has "
        "never seen ordered: read the texts.",
        corpus(),
        abouts(),
        columns(),
        "Test prompts.",
        {{"policy/reward",
          {.title = "Reward",
           .caption = "Of texts for validation prompts.",
           .x_title = "steps",
           .y_title = "reward per token"}},
         {"policy/entropy", {.title = "Entropy", .x_title = "steps", .y_title = "nats per token"}},
         {"policy/drift",
          {.title = "Drift",
           .caption = "From the untuned model.",
           .x_title = "steps",
           .y_title = "nats per token"}}}};
    words.more = [&](report& to) {
      show_texts(to);
      const std::vector<std::string> lines = warnings();
      if (lines.empty() && parts_.notes.empty()) return;
      to.section("Worth knowing");
      for (const std::string& line : lines) to.paragraph(line);
      for (const std::string& line : parts_.notes) to.paragraph(line);
    };
    write_page(t_.folder, book_, words, t_.common);
  }

  const tune_options& o_;
  const task& t_;
  planner_base base_;
  std::unique_ptr<guidance_machine> machine_;
  kept_reward reward_;
  guidance_rule rule_, plain_;
  preference_parts parts_;
  std::vector<tokens> training_, validation_, test_;
  std::vector<const preference_list*> ranked_, judged_;
  trainer::run_book book_;
  trainer::run run_;
  std::unique_ptr<part> lm_;
};

}  // namespace

void tune_options::add(trainer::flags& f, shared_options& shared) {
  source.add(f);
  f.path("--reward", reward, "folder that --task reward --out named, or a reward.safetensors");
  f.choice("--objective", objective, "what the policy learns from: its own texts, or the best of each list",
           {"reinforce", "weighted"});
  f.whole("--steps", steps, "of the policy");
  f.whole("--batch", batch, "texts of a step, each for a prompt of its own");
  f.above_zero("--rate", rate, "learning rate");
  f.above_zero("--clip", clip, "largest gradient norm");
  f.share("--entropy", entropy, "reinforce: weight of the entropy bonus", 10);
  f.share("--pull", pull,
          "reinforce: weight of log(policy / untuned), taken from every reward; 0: nothing holds the policy",
          10);
  f.share("--chosen", chosen, "reinforce: weight of the reward-weighted likelihood of chosen texts beside it",
          10);
  f.yes("--no-baseline", no_baseline, "reinforce: rewards as they are, not less the mean of the step");
  f.whole("--longest", longest, "tokens of a text");
  f.yes("--whole-length", whole_length, "write --longest tokens, whether a sentence ends or not");
  f.whole("--tested", tested, "test prompts, at most");
  f.whole("--texts", texts, "for each of them");
  f.choice("--device", shared.base.device, "that computes", {"cpu", "cuda"});
}
void tune_options::check(const shared_options&) const {
  source.check();
  if (reward.empty()) throw input_error("--reward: name the folder that --task reward --out named");
}
void run_tune(const tune_options& o, const task& t) {
  const int length = train_planner_lm::read_run(o.source.run).flags.length;
  if (o.longest + 1 > length)
    throw input_error("--longest " + std::to_string(o.longest) + ": the run's window of " +
                      std::to_string(length) + " tokens leaves no room for a prompt; give at most " +
                      std::to_string(length - 1));
  tune_task(o, t)();
}

}  // namespace train_token_guidance
