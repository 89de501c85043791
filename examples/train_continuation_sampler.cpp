/// The next sentence under a sequence-level temperature: the first experiment of arXiv 2310.04363 at a size that fits a desk.
///
///     train_continuation_sampler --text reviews.txt --out run/continuations
///
/// A language model is trained on the text and frozen. For prompts of one to three sentences, samplers write the next one: by ancestral,
/// token-tempered, nucleus and beam decoding of that model, and by copies of it tuned to sample from p(sentence | prompt)^(1/T), which no
/// token-wise temperature can. All are scored under the frozen model, on prompts of documents that nothing was trained on.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>
#include <planlm/io/report.hpp>
#include <planlm/io/run_folder.hpp>
#include "sampler/language.hpp"
#include "sampler/text_scores.hpp"
#include "sampler/tuning.hpp"
#include "trainer/program.hpp"
#include "trainer/run_book.hpp"

namespace {

using namespace sampler;

struct options {
  trainer::common_options common;
  text_options text;
  base_options base;
  tuning_options tuning;
  std::vector<std::string> methods;
  std::string objective = "subtb";
  int train_prompts = 400, test_prompts = 64, samples = 10, longest = 24, prompt_tokens = 48;
};

/// A method by its name: what decodes, and the number behind it.
struct method {
  std::string name;
  enum class kind { ancestral, token, nucleus, beam, sequence } how;
  double value = 1;
};
std::vector<method> known_methods() {
  using k = method::kind;
  return {{"ancestral", k::ancestral},       {"token-.9", k::token, .9},       {"token-.8", k::token, .8},       {"token-.7", k::token, .7},
          {"token-.6", k::token, .6},        {"nucleus-.95", k::nucleus, .95}, {"nucleus-.8", k::nucleus, .8},   {"nucleus-.6", k::nucleus, .6},
          {"beam", k::beam},                 {"sequence-.95", k::sequence, .95}, {"sequence-.9", k::sequence, .9}, {"sequence-.85", k::sequence, .85},
          {"sequence-.8", k::sequence, .8},  {"sequence-.7", k::sequence, .7}};
}
std::string about(const method& m, const std::string& objective) {
  const std::string value = with_digits(m.value, 2);
  switch (m.how) {
    case method::kind::ancestral: return "tokens drawn as the frozen model has them";
    case method::kind::token: return "every token drawn at temperature " + value + " of the frozen model";
    case method::kind::nucleus: return "tokens drawn from the most probable ones that hold " + value + " of the frozen model's probability";
    case method::kind::beam: return "the most probable sentences that beam search finds under the frozen model, as many beams as samples; they are no draws";
    case method::kind::sequence: break;
  }
  if (objective == "reward-only")
    return "a low-rank copy tuned to raise the mean of log p(sentence | prompt) / " + value + ", not to match it, by " + about_objective(objective);
  return "a low-rank copy tuned to draw whole sentences in proportion to p(sentence | prompt)^(1/" + value + "), by " + about_objective(objective);
}

/// The start of a passage and the sentence that came after it.
struct continuation_prompt {
  tokens prompt;
  tokens truth;
};
/// Passages of one to three sentences (with probability .2, .3, .5) that leave room for the longest continuation. `once`: no two are alike, so
/// that a mean over few prompts is one over different ones.
std::vector<continuation_prompt> prompts_of(const language& l, const std::vector<int>& documents, int count, const options& o, bool once,
                                            philox random) {
  std::vector<continuation_prompt> all;
  std::set<tokens> taken;
  for (std::uint64_t i = 0; static_cast<int>(all.size()) < count && i < 400u * static_cast<std::uint64_t>(count); ++i) {
    const int document = documents[random.below(static_cast<std::uint32_t>(documents.size()), i, 0)];
    const double u = random.uniform(i, 1);
    const int sentences = u < .2 ? 1 : u < .5 ? 2 : 3;
    if (l.sentences(document) <= sentences) continue;
    const int begin = static_cast<int>(random.below(static_cast<std::uint32_t>(l.sentences(document) - sentences), i, 2));
    tokens prompt = passage(l, document, begin, begin + sentences);
    const auto truth = l.sentence(document, begin + sentences);
    if (static_cast<int>(prompt.size()) > o.prompt_tokens || static_cast<int>(truth.size()) > o.longest) continue;
    if (once && !taken.insert(prompt).second) continue;
    all.push_back({std::move(prompt), {truth.begin(), truth.end()}});
  }
  if (static_cast<int>(all.size()) < count)
    throw input_error("the text has too few" + std::string(once ? " different" : "") + " passages of at most --prompt-tokens " + std::to_string(o.prompt_tokens) +
                      " followed by a sentence of at most --longest " + std::to_string(o.longest) +
                      " tokens; raise these two, lower --train-prompts and --test-prompts, or give more text");
  return all;
}

struct prompt_sets {
  std::vector<continuation_prompt> test, train;
};
prompt_sets prompts_of(const language& l, const options& o) {
  return {prompts_of(l, l.split.test, o.test_prompts, o, true, philox{1, 0, 1}), prompts_of(l, l.split.train, o.train_prompts, o, false, philox{2, 0, 1})};
}

class comparison {
 public:
  comparison(const options& o, const language& l, prompt_sets prompts, machine& m, trainer::run& run, const part& base)
      : o_(o), l_(l), m_(m), run_(run), base_(base), encoder_(tfidf_svd::fit(text::sentences_of(l.corpus.text, l.split.train), {.width = 64})),
        test_(std::move(prompts.test)), train_(std::move(prompts.train)) {
    rule_ = {.stop = l.stop(), .shortest = 1, .longest = o.longest};
    rule_.penalty.assign(static_cast<std::size_t>(l.size()), 0.0f);
    rule_.penalty[static_cast<std::size_t>(l.vocabulary.bos())] = -99;
  }

  trainer::outcome measure(const method& how, int seed) {
    const auto begin = std::chrono::steady_clock::now();
    trainer::outcome out{how.name, seed, {}, {}};
    std::unique_ptr<part> tuned;
    rollout_rule rule = rule_;
    if (how.how == method::kind::token) rule.draw.temperature = how.value;
    if (how.how == method::kind::nucleus) rule.draw.top_p = how.value;
    if (how.how == method::kind::sequence) tuned = tune_to(how, seed);
    const part& policy = tuned ? *tuned : base_;
    std::vector<tokens> prompts;
    for (const auto& p : test_) prompts.push_back(p.prompt);
    std::vector<std::vector<written>> texts(prompts.size());
    if (how.how == method::kind::beam) {
      for (std::size_t i = 0; i < prompts.size(); ++i) texts[i] = m_.beam(base_, prompts[i], rule_, o_.samples);
    } else {
      std::vector<written> all = write_texts(m_, policy, prompts, o_.samples, rule, philox{static_cast<std::uint64_t>(seed), 0, 100u << 16});
      for (std::size_t i = 0; i < all.size(); ++i) texts[i / static_cast<std::size_t>(o_.samples)].push_back(std::move(all[i]));
    }
    scores_of(texts, out);
    if (tuned) out.values["fit"] = fit_of(*tuned, how.value, seed);
    out.values["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return out;
  }

  /// Mean log-likelihood of the sentences that really came next.
  double truth() {
    std::vector<written> given;
    for (const auto& p : test_) given.push_back(given_rollout<float>(p.prompt, p.truth));
    double sum = 0;
    for (const auto& r : likelihood(given)) sum += r.back() / double(given.size());
    return sum;
  }

 private:
  prefix_rewards likelihood(std::span<const written> texts) {
    return m_.likelihood(base_, texts, {.stop = l_.stop(), .penalty = rule_.penalty});
  }
  std::unique_ptr<part> tune_to(const method& how, int seed) {
    tuning_task task;
    task.name = how.name, task.seed = seed, task.prompts = static_cast<int>(train_.size());
    task.prompt = [&](int i) { return train_[static_cast<std::size_t>(i)].prompt; };
    task.reward = [&](std::span<const written> texts, std::span<const int>) {
      std::vector<log_reward_row> rows;
      for (std::vector<double>& r : likelihood(texts)) rows.push_back({std::move(r)});
      return rows;
    };
    task.rule = rule_;
    task.how = objective_of(o_.objective);
    tuning_options tuning = o_.tuning;
    tuning.end_temperature = how.value;
    return tune(m_, run_, base_, task, tuning);
  }
  void scores_of(const std::vector<std::vector<written>>& texts, trainer::outcome& out) {
    double mean = 0, best = 0, length = 0, cosine = 0, edits = 0, distinct = 0;
    index_t many = 0;
    for (const auto& mine : texts) {
      const prefix_rewards r = likelihood(mine);
      double sum = 0, most = -INFINITY, tokens_written = 0;
      std::vector<tokens> ids;
      std::vector<std::string> words;
      for (std::size_t i = 0; i < mine.size(); ++i) {
        sum += r[i].back(), most = std::max(most, r[i].back()), tokens_written += double(mine[i].length());
        ids.push_back(mine[i].actions);
        words.push_back(l_.decode(mine[i].actions));
      }
      const double n = double(mine.size()), all = double(texts.size());
      mean += sum / n / all, best += most / all, length += tokens_written / n / all;
      const diversity d = diversity_of(ids, encoder_.encode(words));
      if (!std::isfinite(d.cosine)) continue;
      cosine += d.cosine, edits += d.edits, distinct += std::isfinite(d.distinct) ? d.distinct : 0, ++many;
    }
    out.values = {{"mean", mean}, {"best", best}, {"tokens", length}};
    if (many > 0) out.values.insert({{"cosine", cosine / double(many)}, {"edits", edits / double(many)}, {"distinct", distinct / double(many)}});
    for (std::size_t i = 0; i < std::min<std::size_t>(texts.size(), 3); ++i)
      for (std::size_t b = 0; b < std::min<std::size_t>(texts[i].size(), 2); ++b)
        out.samples.push_back({l_.decode(std::span(texts[i][b].prompt).subspan(1)), l_.decode(texts[i][b].actions)});
  }
  /// Standard deviation of log R / T - log q over texts of a prompt, drawn at twice the temperature: 0 at the optimum.
  double fit_of(const part& policy, double temperature, int seed) {
    std::vector<tokens> prompts;
    for (std::size_t i = 0; i < std::min<std::size_t>(test_.size(), 16); ++i) prompts.push_back(test_[i].prompt);
    rollout_rule rule = rule_;
    rule.draw.temperature = 2;
    const int count = 8;
    const std::vector<written> texts = write_texts(m_, policy, prompts, count, rule, philox{static_cast<std::uint64_t>(seed), 0, 101u << 16});
    const prefix_rewards r = likelihood(texts);
    double all = 0;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      std::vector<double> gap;
      for (std::size_t b = i * count; b < (i + 1) * count; ++b) {
        double log_q = double(texts[b].stop.back());
        for (const float t : texts[b].taken) log_q += double(t);
        gap.push_back(r[b].back() / temperature - log_q);
      }
      double mean = 0, square = 0;
      for (const double g : gap) mean += g / count;
      for (const double g : gap) square += (g - mean) * (g - mean) / count;
      all += std::sqrt(square) / double(prompts.size());
    }
    return all;
  }

  const options& o_;
  const language& l_;
  machine& m_;
  trainer::run& run_;
  const part& base_;
  tfidf_svd encoder_;
  std::vector<continuation_prompt> test_, train_;
  rollout_rule rule_;
};

/// Likelihood against diversity: one line for each way of turning a temperature down.
std::string trade_off(const trainer::run_book& book, const std::vector<method>& methods, const trainer::common_options& common) {
  std::map<int, series> lines;
  const std::map<method::kind, const char*> names{{method::kind::ancestral, "ancestral"}, {method::kind::token, "token temperature"},
                                                  {method::kind::nucleus, "nucleus"}, {method::kind::beam, "beam search"},
                                                  {method::kind::sequence, "sequence temperature"}};
  const auto mean_of = [&](const method& m, const char* value) {
    const std::vector<double> v = book.values(m.name, value, common);
    double sum = 0;
    for (const double x : v) sum += x / double(v.size());
    return v.empty() ? NAN : sum;
  };
  for (const method& m : methods) {
    series& s = lines[static_cast<int>(m.how)];
    s.name = names.at(m.how);
    const double x = mean_of(m, "cosine"), y = mean_of(m, "mean");
    if (std::isfinite(x) && std::isfinite(y)) s.x.push_back(x), s.y.push_back(y);
  }
  std::vector<series> shown;
  for (auto& [kind, s] : lines)
    if (!s.x.empty()) shown.push_back(std::move(s));
  return line_chart({.title = "Likelihood against diversity",
                     .caption = "Each point is a method; further up and to the right is better. Temperatures fall along a line from the right to the left.",
                     .x_title = "1 - mean cosine of sentence vectors", .y_title = "nats, mean log-likelihood"}, shown);
}

int train(int argc, char** argv, options& o) {
  trainer::flags f{"Tunes a language model into samplers of the next sentence under a sequence-level temperature, and compares them with decoding\n"
                   "methods. Running the same command again goes on where an interrupted run stopped."};
  std::vector<std::string> names;
  for (const method& m : known_methods()) names.push_back(m.name);
  o.methods = {"ancestral", "token-.9", "token-.8", "token-.7", "nucleus-.95", "nucleus-.8", "beam", "sequence-.95", "sequence-.9", "sequence-.8"};
  o.text.add(f);
  f.common(o.common);
  f.list("--methods", o.methods, "rows of the table", names);
  f.choice("--objective", o.objective, "of the sequence rows", objective_names());
  o.base.add(f);
  o.tuning.add(f, false);
  f.whole("--train-prompts", o.train_prompts, "prompts that samplers learn from");
  f.whole("--test-prompts", o.test_prompts, "prompts of other documents that all methods are scored on");
  f.whole("--samples", o.samples, "texts for each of them, and beams", 2);
  f.whole("--longest", o.longest, "tokens of a continuation");
  f.whole("--prompt-tokens", o.prompt_tokens, "most tokens of a prompt");
  int status = 0;
  if (!f.parse(argc, argv, status)) return status;
  o.base.check(), o.tuning.check();
  if (o.prompt_tokens + o.longest > o.base.length)
    throw input_error("--prompt-tokens " + std::to_string(o.prompt_tokens) + " and --longest " + std::to_string(o.longest) +
                      " together exceed --length " + std::to_string(o.base.length));

  run_folder folder(o.common.out);
  interrupt_guard interrupt;
  const language l = read_language(o.text);
  std::cerr << l.description << '\n';
  prompt_sets prompts = prompts_of(l, o);  // what is too little is said before anything is written or trained
  auto settings = f.settings({"--methods"});
  settings.emplace_back("text", std::to_string(l.fingerprint));
  trainer::run_book book(folder, "train_continuation_sampler", settings, {argv, argv + argc});
  const auto m = make_machine(o.base.device, o.base.sizes(l.size()), o.common.threads);
  trainer::run run(m->random, folder, interrupt);
  run.identify(book.identity());
  const passages train_text(l, l.split.train, o.base.length), valid_text(l, l.split.valid, o.base.length);
  const auto base = base_model(*m, run, o.base, [&](index_t s) { return train_text.batch(o.base.batch, philox{0, static_cast<std::uint32_t>(s), 3}); });
  const double nats = nats_per_token(*m, *base, valid_text.all(400));
  std::cerr << "language model: " << with_digits(nats, 3) << " nats per token of validation documents\n";

  comparison all(o, l, std::move(prompts), *m, run, *base);
  const double truth = all.truth();
  std::vector<method> methods;
  std::vector<trainer::method_about> abouts;
  for (const method& one : known_methods())
    if (std::find(o.methods.begin(), o.methods.end(), one.name) != o.methods.end()) {
      methods.push_back(one);
      abouts.push_back({one.name, about(one, o.objective)});
    }
  trainer::page_words words;
  words.title = "Next sentences on " + o.text.text.filename().string();
  words.corpus = l.description;
  words.lead = "For " + std::to_string(o.test_prompts) + " prompts of documents that nothing was trained on, " + std::to_string(o.samples) +
               " sentences each. Likelihoods are those of the frozen language model (" + with_digits(nats, 3) +
               " nats per token on validation documents), for every method. The sentences that really came next have a mean "
               "log-likelihood of " + with_digits(truth, 2) + ".";
  words.methods = abouts;
  words.columns = {{"mean", "mean log-likelihood", 2}, {"best", "best of each prompt", 2}, {"cosine", "diversity", 3}, {"edits", "edit distance", 3},
                   {"distinct", "distinct pairs", 3}, {"tokens", "tokens", 1}, {"fit", "misfit", 2}, {"seconds", "seconds", 0}};
  words.table_caption = "Log-likelihood of a whole sentence, its end included, in nats: the mean over all texts, and of the best text of each prompt. Of the texts of "
                        "a prompt: diversity, 1 - mean cosine of sentence vectors; edit distance over pairs, as a share of the longer; distinct pairs, how many "
                        "pairs of neighbouring tokens differ, as a share of those written. Tokens: mean length. Misfit: spread of log R / T - log q over texts of a "
                        "prompt, 0 at the optimum. Seconds: to tune, write and score, since the program was last started.";
  words.curves = {{"balance/spread", {.title = "Spread of log q - log R", .caption = "Over the texts of a prompt, as they were drawn for training.", .x_title = "steps", .y_title = "nats"}},
                  {"smoothed", {.title = "Loss", .caption = "Smoothed; of the language model in nats per token, of samplers in squared nats.", .x_title = "steps", .y_title = "loss", .log_y = true}}};
  words.more = [&](report& page) { page.chart(trade_off(book, methods, o.common)); };
  words.samples_lead = "The first two texts for the first three test prompts.";
  for (int seed = o.common.first_seed; seed < o.common.first_seed + o.common.seeds; ++seed)
    for (const method& one : methods) {
      run.stop_if_asked();
      if (book.find(one.name, seed)) continue;
      book.add(all.measure(one, seed));
      write_page(folder, book, words, o.common);
    }
  write_page(folder, book, words, o.common);
  std::error_code ignored;
  std::filesystem::remove(run.checkpoint(), ignored);
  std::cout << '\n' << l.description << '\n' << printed(book.table(abouts, words.columns, o.common)) << "log-likelihood of the true next sentences: "
            << with_digits(truth, 2) << "\nreport:  " << folder.file("report.html").string() << "\nresults: " << folder.file("results.json").string() << '\n';
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  return trainer::run_program("train_continuation_sampler", [&] { return train(argc, argv, o); }, [&] { return o.common.out; });
}
