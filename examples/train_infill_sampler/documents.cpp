/// The frozen language model, gaps to train and to test on, the methods one after another, the page.
#include "documents.hpp"
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <numeric>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/io/run_curves.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/metrics/bleu.hpp>
#include <planlm/text/tfidf_svd.hpp>
#include "sampler/text_scores.hpp"
#include "trainer/run_book.hpp"
#include "triples.hpp"

namespace train_infill_sampler {
namespace {

/// Words between spaces.
std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

using namespace planlm;
using sampler::part;

// What draws are for: each has its own numbers. Streams up to 2^19 are those of tuning.
enum purpose : std::uint32_t { of_triples = 11, of_supervised, of_written, of_watched, of_passages };
philox draws(int seed, purpose what) {
  return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16};
}

const std::vector<trainer::score_column> columns{{"log_reward", "log R", 2},   {"best_log_reward", "best", 2},
                                                 {"bound", "log Z >=", 2},     {"edit", "edit div.", 3},
                                                 {"cosine", "cosine div.", 3}, {"distinct", "distinct-2", 3},
                                                 {"bleu", "BLEU-4", 2},        {"length", "length", 1},
                                                 {"spent", "k tokens", 0},     {"seconds", "seconds", 0}};

bool is_supervised(const std::string& method) { return method.starts_with("supervised"); }
bool is_tuned(const std::string& method) { return method != "continuation" && method != "prompting"; }

/// What all seeds share.
struct material {
  const sampler::language& text;
  tfidf_svd encoder;
  triple_set tested, watched;  // gaps of test and of validation documents
};
tfidf_svd fit_encoder(const sampler::language& l, int threads) {
  std::vector<std::string> sentences;
  std::vector<index_t> starts{0};
  for (const int d : l.split.train) {
    for (int i = 0; i < l.sentences(d); ++i) sentences.push_back(l.words(d, i));
    starts.push_back(static_cast<index_t>(sentences.size()));
  }
  return tfidf_svd::fit(sentences, starts, {.width = 48, .rounds = 4, .threads = threads});
}

class document_run {
 public:
  document_run(const options& o, const material& m, sampler::machine& device, trainer::run& run,
               const part& base, triple_set trained, int seed)
      : o_(o),
        material_(m),
        device_(device),
        run_(run),
        base_(base),
        trained_(std::move(trained)),
        seed_(seed) {
    rule_.stop = m.text.stop();
    rule_.shortest = o.documents.shortest;
    rule_.longest = o.documents.longest;
    std::vector<int> all(static_cast<std::size_t>(trained_.size()));
    std::iota(all.begin(), all.end(), 0);
    without_ = log_rewards(device_, base_, trained_, std::vector<tokens>(all.size()), all);
  }

  trainer::outcome learn(const std::string& method) {
    if (method == "true-middle") return score_true();
    const auto begin = std::chrono::steady_clock::now();
    const bool there =
        std::filesystem::exists(run_.file("seed-" + std::to_string(seed_) + "." + method + ".safetensors"));
    std::unique_ptr<part> tuned;
    if (is_supervised(method))
      tuned = tune_supervised(method);
    else if (is_tuned(method))
      tuned = tune_sampler(method);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    trainer::outcome result = test(method, tuned ? *tuned : base_);
    result.values["seconds"] = there ? NAN : tuned ? seconds : 0;
    return result;
  }

 private:
  std::unique_ptr<part> tune_supervised(const std::string& method) {
    sampler::tuning_options how = o_.tuning;
    if (method == "supervised-early") how.steps = std::max(1, how.steps / 6);
    const auto batch = [&](index_t s) {
      const philox random = draws(seed_, of_supervised).at_step(static_cast<std::uint32_t>(s));
      sampler::packed_text text;
      for (int b = 0; b < o_.documents.supervised_batch; ++b) {
        const int i = static_cast<int>(
            random.below(static_cast<std::uint32_t>(trained_.size()), static_cast<std::uint64_t>(b), 0));
        tokens all = trained_.prompt(i);
        const std::size_t first = all.size();
        const tokens middle = trained_.middle(i);
        all.insert(all.end(), middle.begin(), middle.end());
        all.push_back(rule_.stop);
        text.add(all, first);
      }
      return text;
    };
    supervised_tokens_ = 0;
    for (int s = 0; s < how.steps; ++s) supervised_tokens_ += double(batch(s).tokens.size());
    return sampler::tune_supervised(device_, run_, base_, method, seed_, batch, how, watch(), watch_every());
  }

  std::unique_ptr<part> tune_sampler(const std::string& method) {
    sampler::tuning_options how = o_.tuning;
    if (needs_own_texts(method)) how.tempered = how.prior = how.replayed = 0;
    sampler::tuning_task task;
    task.name = method;
    task.seed = seed_;
    task.prompts = trained_.size();
    task.prompt = [&](int i) { return trained_.prompt(i); };
    task.rule = rule_;
    task.how = sampler::objective_of(method);
    index_t counted = -1;
    double sampled = 0, scored = 0;  // of this step
    task.reward = [&](std::span<const written> texts, std::span<const int> prompt) {
      likelihood_options<float> likelihood;
      likelihood.prompt = [&](std::size_t b, const written&) { return trained_.context(prompt[b]); };
      likelihood.ending = [&](std::size_t b, const written&) { return trained_.ending(prompt[b]); };
      std::vector<log_reward_row> rows;
      for (std::vector<double>& base : device_.likelihood(base_, texts, likelihood)) {
        for (double& r : base) r -= without_[static_cast<std::size_t>(prompt[rows.size()])];
        rows.push_back({std::move(base)});
      }
      if (counted != index_t{device_.random.step}) counted = device_.random.step, sampled = scored = 0;
      for (std::size_t b = 0; b < texts.size(); ++b) {
        const double n = double(texts[b].length()),
                     fixed = double(trained_.context(prompt[b]).size() + trained_.ending(prompt[b]).size());
        sampled += n + 1;
        scored += (n + 1) * fixed + n * (n + 1) / 2;  // every prefix with its ending
      }
      // Said again within a step: the last word counts. A step that is run again after a stop replaces what
      // was said.
      run_.observe(seed_, method, counted + 1, "tokens", {{"sampled", sampled}, {"scored", scored}});
      return rows;
    };
    task.observe = watch();
    task.observe_every = watch_every();
    return sampler::tune(device_, run_, base_, task, how);
  }

  index_t watch_every() const { return std::max(1, o_.tuning.steps / 6); }
  std::function<std::vector<std::pair<std::string, double>>(const part&)> watch() {
    return [this](const part& policy) -> std::vector<std::pair<std::string, double>> {
      const triple_set& gaps = material_.watched;
      constexpr int each = 4;
      double reward = 0, bound = 0;
      const auto texts = write(policy, gaps, false, each, draws(seed_, of_watched));
      const std::vector<double> log_r = rewards(texts, gaps, each);
      for (std::size_t b = 0; b < texts.size(); ++b)
        reward += log_r[b] / double(texts.size()),
            bound += (log_r[b] - log_q(texts[b])) / double(texts.size());
      return {{"log_reward", reward}, {"bound", bound}};
    };
  }

  std::vector<written> write(const part& policy, const triple_set& gaps, bool blind, int each,
                             philox random) {
    std::vector<tokens> prompts;
    for (int i = 0; i < gaps.size(); ++i) prompts.push_back(blind ? gaps.context(i) : gaps.prompt(i));
    return sampler::write_texts(device_, policy, prompts, each, rule_, random);
  }
  std::vector<double> rewards(const std::vector<written>& texts, const triple_set& gaps, int each) {
    std::vector<tokens> middles;
    std::vector<int> of;
    for (std::size_t b = 0; b < texts.size(); ++b)
      middles.push_back(texts[b].actions), of.push_back(static_cast<int>(b) / each);
    return log_rewards(device_, base_, gaps, middles, of);
  }
  static double log_q(const written& z) {
    return std::accumulate(z.taken.begin(), z.taken.end(), double(z.stop.back()),
                           [](double sum, float t) { return sum + double(t); });
  }
  double counted_tokens(const std::string& method, const std::string& what) const {
    double sum = 0;
    for (const run_curve& c : run_curves(run_.file("metrics.jsonl"), "tokens/" + what))
      if (c.seed == seed_ && c.stage == method)
        sum = std::accumulate(c.points.y.begin(), c.points.y.end(), sum);
    return sum;
  }

  trainer::outcome score_true() {
    const triple_set& gaps = material_.tested;
    std::vector<tokens> middles;
    std::vector<int> of;
    double length = 0;
    for (int i = 0; i < gaps.size(); ++i)
      middles.push_back(gaps.middle(i)), of.push_back(i),
          length += double(middles.back().size()) / gaps.size();
    const std::vector<double> log_r = log_rewards(device_, base_, gaps, middles, of);
    trainer::outcome result{
        "true-middle",
        seed_,
        {{"log_reward", std::accumulate(log_r.begin(), log_r.end(), 0.0) / gaps.size()}, {"length", length}},
        {}};
    for (int i = 0; i < std::min(shown, gaps.size()); ++i)
      result.samples.push_back({given(i), gaps.words(i, 0)});
    return result;
  }

  trainer::outcome test(const std::string& method, const part& policy) {
    const triple_set& gaps = material_.tested;
    const int each = o_.documents.texts;
    const auto texts = write(policy, gaps, method == "continuation", each, draws(seed_, of_written));
    const std::vector<double> log_r = rewards(texts, gaps, each);
    std::vector<std::string> words;
    std::vector<tokens> actions;
    for (const written& z : texts)
      words.push_back(material_.text.decode(z.actions)), actions.push_back(z.actions);
    trainer::outcome result{method, seed_, {}, {}};
    auto& v = result.values;
    bleu_counts bleu;  // of the corpus: means of sentences' scores favour texts of a few tokens
    const double all = double(texts.size());
    for (int i = 0; i < gaps.size(); ++i) {
      const auto begin = static_cast<std::size_t>(i * each), count = static_cast<std::size_t>(each);
      const std::span<const tokens> mine = std::span(actions).subspan(begin, count);
      const auto true_words = words_of(gaps.words(i, 0));
      v["best_log_reward"] +=
          *std::max_element(log_r.begin() + i * each, log_r.begin() + (i + 1) * each) / gaps.size();
      const embeddings vectors = material_.encoder.encode(std::span(words).subspan(begin, count));
      const sampler::diversity different = sampler::diversity_of(mine, vectors);
      v["edit"] += different.edits / gaps.size();
      v["distinct"] += different.distinct / gaps.size();
      v["cosine"] += different.cosine / gaps.size();
      for (std::size_t b = begin; b < begin + count; ++b) {
        v["log_reward"] += log_r[b] / all;
        v["bound"] += (log_r[b] - log_q(texts[b])) / all;
        v["length"] += double(texts[b].length()) / all;
        bleu.add(words_of(words[b]), true_words);
      }
      if (i < shown) result.samples.push_back({given(i), words[begin] + "  |  " + words[begin + 1]});
    }
    v["bleu"] = 100 * bleu.score(bleu_smoothing::epsilon);
    v["sampled"] = is_tuned(method) ? counted_tokens(method, "sampled") : 0;
    v["scored"] = is_supervised(method) ? supervised_tokens_
                  : is_tuned(method)    ? counted_tokens(method, "scored")
                                        : 0;
    v["spent"] = (v["sampled"] + v["scored"]) / 1000;
    return result;
  }

  static constexpr int shown = 4;  // gaps in the report
  std::string given(int i) const {
    return material_.tested.words(i, -1) + "  [ ... ]  " + material_.tested.words(i, 1);
  }

  const options& o_;
  const material& material_;
  sampler::machine& device_;
  trainer::run& run_;
  const part& base_;
  triple_set trained_;
  int seed_;
  rollout_rule rule_;
  /// Of a training gap, log R of no middle at all: taken off its rewards. The posterior stays what it is, log
  /// Z of gaps comes near to each other.
  std::vector<double> without_;
  double supervised_tokens_ = 0;
};

triple_set gaps_of(const sampler::language& l, const std::vector<int>& documents, const options& o, int most,
                   const char* which, int seed) {
  std::vector<triple> found = find_triples(l, documents, o.documents, most, draws(seed, of_triples));
  if (found.size() < 2)
    throw input_error(
        l.description + ": the " + which + " documents have " + std::to_string(found.size()) +
        " places where sentences of 4 to " + std::to_string(o.documents.neighbour) +
        " tokens stand around one of " + std::to_string(o.documents.shortest) + " to " +
        std::to_string(o.documents.longest) +
        ", expected at least 2; give a longer text, or raise --longest, --neighbour and --length");
  return {l, std::move(found)};
}

}  // namespace

void fill_documents(const options& o, const std::vector<std::string>& command, const run_folder& folder,
                    const interrupt_guard& interrupt) {
  const sampler::language l = sampler::read_language(o.text);
  const material m{l, fit_encoder(l, o.common.threads),
                   gaps_of(l, l.split.test, o, o.documents.tested, "test", 0),
                   gaps_of(l, l.split.valid, o, 24, "validation", 0)};
  gaps_of(l, l.split.train, o, o.documents.triples, "training",
          o.common.first_seed);  // a text that has none is refused before anything is written
  auto settings = o.settings;
  settings.emplace_back("text", std::to_string(l.fingerprint));
  trainer::run_book book(folder, "train_infill_sampler", settings, command);

  const auto device = sampler::make_machine(o.base.device, o.base.sizes(l.size()), o.common.threads);
  trainer::run run(device->random, folder, interrupt);
  run.identify(book.identity());

  const sampler::passages passages(l, l.split.train, o.base.length), held_out(l, l.split.test, o.base.length);
  const auto base = sampler::base_model(*device, run, o.base, [&](index_t s) {
    return passages.batch(o.base.batch, draws(0, of_passages).at_step(static_cast<std::uint32_t>(s)));
  });
  const std::string corpus = l.description + "; the frozen language model needs " +
                             with_digits(nats_per_token(*device, *base, held_out.all(400)), 3) +
                             " nats per token of test documents; " + std::to_string(m.tested.size()) +
                             " gaps to test on";
  std::cerr << corpus << '\n';

  std::vector<trainer::method_about> methods;
  for (const std::string& name : o.methods) methods.push_back({name, about_method(name)});
  const auto page = [&] {
    write_page(
        folder, book,
        {"Filling in the middle sentence",
         "Given the sentence before and the one after, a policy writes the sentence between. The reward is "
         "the likelihood of the middle and of the "
         "sentence after under a frozen language model, so that its posterior is the target. All rows are "
         "scored by that one model on test "
         "documents that nothing was trained on: the mean over texts, the best of " +
             std::to_string(o.documents.texts) +
             " for each gap, and the mean of log R - log q, which is at most log Z and reaches it where the "
             "policy is the posterior. High rewards "
             "without diversity are what reward maximisation gives.",
         corpus,
         methods,
         columns,
         "log R and its bound on log Z in nats; diversities from 0, all texts of a gap equal, to 1; BLEU-4 "
         "of the corpus against the true middles, times 100; length in tokens; thousands of tokens sampled "
         "and scored in training.",
         {{"score/log_reward",
           {.title = "Log reward",
            .caption = "Of texts for validation gaps.",
            .x_title = "step",
            .y_title = "nats"}},
          {"score/bound",
           {.title = "Bound on log Z",
            .caption = "Mean of log R - log q for validation gaps; higher is nearer to the posterior.",
            .x_title = "step",
            .y_title = "nats"}},
          {"balance/spread",
           {.title = "Spread of log q - log R",
            .caption = "Over the texts of a training gap; 0 at the posterior, and where one text is all that "
                       "is written.",
            .x_title = "step",
            .y_title = "nats",
            .log_y = true}}},
         {},
         "The sentences around a gap of a test document, and two texts for it as they were drawn first."},
        o.common);
  };
  for (int seed = o.common.first_seed; seed < o.common.first_seed + o.common.seeds; ++seed) {
    run.stop_if_asked();
    document_run one(o, m, *device, run, *base,
                     gaps_of(l, l.split.train, o, o.documents.triples, "training", seed), seed);
    for (const std::string& name : o.methods) {
      if (book.find(name, seed)) continue;
      book.add(one.learn(name));
      page();
    }
  }
  page();
  std::error_code ignored;
  std::filesystem::remove(run.checkpoint(), ignored);
  std::cout << '\n'
            << corpus << '\n'
            << printed(book.table(methods, columns, o.common))
            << "log R and bounds in nats, of texts for gaps of test documents, all under the frozen language "
               "model; k tokens: thousands sampled and scored in training.\nreport:  "
            << folder.file("report.html").string() << "\nresults: " << folder.file("results.json").string()
            << '\n';
}

}  // namespace train_infill_sampler
