/// The base model, the passages, the table and the page of --task summary.
#include "summary.hpp"
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iostream>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_folder.hpp>
#include "summary_methods.hpp"
#include "summary_passages.hpp"
#include "summary_scores.hpp"
#include "trainer/run_book.hpp"

namespace train_token_guidance {
namespace {

// What draws are for: each has its own numbers. Streams below 32 * 2^16 are those of the shared parts.
enum purpose : std::uint32_t { of_passages = 40, of_base, of_cued };
philox draws(int seed, purpose what) {
  return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16};
}

// Digits as many as intervals over seeds leave, and the page is wide enough for.
const std::vector<trainer::score_column> columns{{"rouge_1", "R-1", 1},
                                                 {"rouge_2", "R-2", 1},
                                                 {"rouge_l", "R-L", 1},
                                                 {"meteor", "METEOR", 1},
                                                 {"drawn_rouge_l", "drawn R-L", 1},
                                                 {"exact", "exact %", 1},
                                                 {"nats", "nats", 3}},
    rewards{{"accuracy", "pairs", 3},     {"reward_key", "r key", 3}, {"reward_drawn", "r drawn", 3},
            {"calls", "METEOR calls", 0}, {"length", "words", 1},     {"seconds", "seconds", 0}};

passage_shape shape_of(const summary_options& o, const shared_options& s) {
  return {o.sentences, o.shortest, o.longest, s.base.length, true, o.key == "left-in"};
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
      few.sentences = n, few.marked = false;
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
      if (!has(against) || !summary_method_named(name).tuned || name == against) continue;
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
  s.base = {.layers = 2, .width = 128, .heads = 4, .length = 136, .steps = 2500, .batch = 32, .rate = 3e-3};
  for (const summary_method& m : summary_methods()) methods.emplace_back(m.name);
  s.text.add(f);
  s.base.add(f);
  s.guidance.add(f);
  f.list("--methods", methods, "rows of the table", std::vector<std::string>(methods));
  f.choice("--key", key, "where the key sentence is while the passage is read", {"left-in", "taken-out"});
  f.choice("--judged", judged, "documents that the table is about; validation to choose settings by",
           {"test", "validation"});
  f.whole("--sentences", sentences, "of a passage", 2);
  f.whole("--shortest", shortest, "tokens of a passage's sentence, at least");
  f.whole("--longest", longest, "tokens of a passage's sentence, at most");
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
  if (const index_t least = 3 + longest + index_t{sentences} * (shortest + 1); s.base.length < least)
    throw input_error("--length " + std::to_string(s.base.length) + " is too little for " +
                      std::to_string(sentences) + " sentences of " + std::to_string(shortest) +
                      " tokens or more, a cue and a key sentence of up to " + std::to_string(longest) +
                      "; give at least " + std::to_string(least));
}

void run_summary(const summary_options& o, const task& t) {
  const sampler::language l = sampler::read_language(t.text);
  const bool test = o.judged == "test";
  const summary_material m{
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
  for (const std::string& name : o.methods) methods.push_back({name, summary_method_named(name).about});
  const auto scores_file = [&](const std::string& name, int seed) {
    return summary_scores_file(run, name, seed);
  };
  const std::string caption = "Written greedily for " + std::to_string(m.judged.size()) + " passages of " +
                              o.judged +
                              " documents; ROUGE (F) and METEOR of equal words times 100; drawn: by "
                              "sampling; exact: the key sentence word for "
                              "word; nats per token of the key sentence.";
  const std::string rewards_caption =
      "pairs: of the texts drawn for a passage, those that the reward model orders as METEOR does, half of them by chance; r: mean "
      "reward of "
      "tokens of key sentences and of drawn texts; METEOR calls: texts it was asked about in training; words "
      "and seconds: "
      "of what is written greedily, and of training.";
  std::vector<trainer::method_about> tuned;
  for (const trainer::method_about& one : methods)
    if (summary_method_named(one.name).tuned) tuned.push_back(one);
  const std::string lead = "A policy reads " + std::to_string(o.sentences) +
                           " sentences and writes the one that has most in common with the others. "
                           "A reward model learns from texts of the policy what single tokens are worth, and "
                           "its rewards weigh the tokens of the key sentences "
                           "that the policy is trained on. All rows start from one base model, take the same "
                           "updates on the same passages in the same order. "
                           "Rewards are aggregated by " +
                           t.guidance.about() + " where a row says nothing else.";
  const std::string differences_caption =
      "Differences. Over seeds: Student's 95 % interval of the runs' differences. Over documents: mean over "
      "seeds, 95 % "
      "interval of 2000 draws of documents with all their passages. An interval that holds 0 says nothing "
      "was seen.";
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
      const trainer::table_rows costs = book.table(tuned, rewards, t.common);
      if (!costs.rows.empty()) r.table(costs.columns, costs.rows, rewards_caption);
      const trainer::table_rows rows = differences(book, t.common, o.methods, scores_file);
      if (!rows.rows.empty()) r.table(rows.columns, rows.rows, differences_caption);
    };
    words.samples_lead =
        "Passages of " + o.judged + " documents, their key sentence, and what was written greedily.";
    write_page(t.folder, book, words, t.common);
  };
  for (int seed = t.common.first_seed; seed < t.common.first_seed + t.common.seeds; ++seed) {
    run.stop_if_asked();
    for (const std::string& name : o.methods) {
      if (book.find(name, seed) && std::filesystem::exists(scores_file(name, seed))) continue;
      book.add(learn_summary(summary_method_named(name), seed, o, t, m, *device, run, *base));
      page();
    }
  }
  page();
  std::error_code ignored;
  std::filesystem::remove(run.checkpoint(), ignored);
  std::cout << '\n'
            << corpus << '\n'
            << printed(book.table(methods, columns, t.common)) << caption << "\n\n"
            << printed(book.table(tuned, rewards, t.common)) << rewards_caption << "\n\n"
            << printed(differences(book, t.common, o.methods, scores_file)) << differences_caption
            << "\nreport:  " << t.folder.file("report.html").string()
            << "\nresults: " << t.folder.file("results.json").string() << '\n';
}

}  // namespace train_token_guidance
