/// The language model, the seeds and their methods, the table and the page.
#include "prompt.hpp"
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <system_error>
#include <planlm/core/error.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>
#include "prompt_search.hpp"

namespace train_token_guidance {
namespace {

philox passages_of(index_t step) { return {0, static_cast<std::uint32_t>(step), 59u << 16}; }

const std::vector<trainer::score_column> columns{{"accuracy", "accuracy %", 1}, {"dev", "dev %", 1},        {"best_gap", "gap, best", 1},
                                                 {"gap", "gap, policy", 1},     {"entropy", "entropy", 2}, {"first", "first %", 0},
                                                 {"calls", "scored", 0},        {"read", "k read", 0},     {"seconds", "seconds", 0}};

}  // namespace

void prompt_options::add(trainer::flags& f, shared_options& s) {
  s.text.vocabulary = 4096;
  s.base.steps = 4000, s.base.rate = 3e-3, s.guidance.rate = 1e-3;
  f.words("--class", class_files, "NAME=FILE, twice: a class and its sentences, one on each line");
  f.words("--label-words", label_words, "the words that the language model says for the classes, in their order; default great,terrible");
  s.text.add(f);
  f.list("--methods", methods, "default all", prompt_methods());
  f.whole("--shots", shots, "labelled sentences of each class to train on, and as many to choose by");
  f.choice("--score", score, "sentences that accuracy is measured on; settings are chosen on validation", {"test", "validation"});
  f.whole("--test", test, "sentences held out for the table", 2);
  f.whole("--validation", validation, "sentences held out for choosing settings", 2);
  f.whole("--pool", pool, "sentences that the labelled ones are drawn from", 2);
  f.whole("--sentence", sentence, "tokens of a sentence; what is longer is cut");
  f.word("--manual-prompt", manual, "what the row manual writes");
  f.yes("--calibrate", calibrate,
        "take the median odds behind a prompt over the training sentences, labels unread, off all odds behind it; of all rows");
  f.whole("--prompt-length", length, "tokens of a prompt");
  f.whole("--top-k", top_k, "most probable tokens that each is drawn from");
  f.whole("--updates", updates, "of the policy");
  f.whole("--samples", samples, "prompts of each update");
  f.share("--alpha", alpha, "weight of the entropy", 100);
  f.above_zero("--rate", rate, "learning rate of the policy");
  f.above_zero("--clip", clip, "its largest gradient norm");
  f.whole("--rank", rank, "of the low-rank factors that are trained");
  f.above_zero("--rank-scale", scale, "their scale, divided by the rank");
  f.whole("--rounds-every", rounds_every, "updates between trainings of the reward model, in the first half of the updates");
  f.whole("--round-steps", round_steps, "of each training of the reward model");
  f.whole("--validate-every", validate_every, "of these steps");
  f.whole("--drawn", drawn, "prompts that a step of the reward model draws and has scored");
  f.whole("--lists", lists, "made of these prompts");
  f.whole("--places", places, "prompts of a list", 2);
  f.share("--share", share, "of the labelled sentences, drawn anew for each step, that prompts are scored on");
  f.whole("--candidates", candidates, "prompts that the trained policy draws; the most probable one comes with them");
  f.whole("--best", best, "of the candidates by their labelled sentences, whose accuracy is averaged");
  s.guidance.add(f);
  s.base.add(f);
}

void prompt_options::check(const shared_options& s) const {
  if (class_files.size() != 2)
    throw input_error("--class: " + std::to_string(class_files.size()) + " classes, expected two: --class NAME=FILE --class NAME=FILE");
  if (label_words.size() != 2)
    throw input_error("--label-words: " + std::to_string(label_words.size()) + " words, expected one for each of the two classes");
  if (shots > pool / 4)
    throw input_error("--shots " + std::to_string(shots) + ": of both classes to train on and to choose by these are " + std::to_string(4LL * shots) +
                      " sentences, but --pool keeps " + std::to_string(pool) + "; raise --pool");
  if (places > drawn) throw input_error("--places " + std::to_string(places) + " of a list is above --drawn " + std::to_string(drawn));
  if (share <= 0) throw input_error("--share: give a number above 0, or no sentence would score a prompt");
  // BOS, sentence, its end, prompt.
  if (sentence + length + 2 > s.base.length)
    throw input_error("--length " + std::to_string(s.base.length) + ": sentences of " + std::to_string(sentence) +
                      " tokens (--sentence) and prompts of " + std::to_string(length) + " (--prompt-length) need " + std::to_string(sentence + length + 2));
  s.base.check();
}

void run_prompt(const prompt_options& o, const task& t) {
  const prompt_text text = read_prompt_text(o, t);
  if (const auto manual = text.language.encode(o.manual).size() + static_cast<std::size_t>(o.sentence) + 2;
      manual > static_cast<std::size_t>(t.base.length))
    throw input_error("--manual-prompt: with a sentence it takes " + std::to_string(manual) + " tokens, --length is " +
                      std::to_string(t.base.length));
  const auto device = make_guidance_machine(t.base.device, t.base.sizes(text.language.size()), t.common.threads);
  const auto untrained = device->make(philox{}, false);
  // Words that cannot be told apart are refused before anything is written.
  const auto pieces = prompt_scorer(*device, *untrained, text, o).labels();

  auto settings = t.settings;
  std::erase_if(settings, [](const auto& s) { return s.first == "--class"; });  // where files lie decides nothing
  settings.emplace_back("classes", text.classes[0] + ", " + text.classes[1]);
  settings.emplace_back("fingerprint of the sentences", text.fingerprint);
  trainer::run_book book(t.folder, "train_token_guidance", settings, t.command);
  trainer::run run(device->random, t.folder, t.interrupt);
  run.identify(book.identity());

  const sampler::passages known(text.language, text.known, t.base.length), unknown(text.language, text.unknown, t.base.length);
  const auto base = sampler::base_model(*device, run, t.base, [&](index_t s) { return known.batch(t.base.batch, passages_of(s)); });
  const prompt_scorer scorer(*device, *base, text, o);
  const std::string about =
      text.about + "; vocabulary " + std::to_string(text.language.size()) + "; the frozen language model needs " +
      with_digits(nats_per_token(*device, *base, unknown.all(400)), 3) + " nats per token of text it has not seen and says '" +
      text.language.vocabulary.piece(pieces[0]) + "' for " + text.classes[0] + ", '" + text.language.vocabulary.piece(pieces[1]) + "' for " +
      text.classes[1];
  std::cerr << about << '\n';

  const std::vector<std::string> names = o.methods.empty() ? prompt_methods() : o.methods;
  const std::vector<prompt_example> scored = scorer.read(o.score == "test" ? text.sentences.test : text.sentences.validation);
  known_odds tested;
  std::vector<trainer::method_about> methods;
  for (const std::string& name : names) methods.push_back({name, about_prompt_method(name, o, t.guidance)});
  const std::string which = std::to_string(scored.size()) + " " + o.score + " sentences";
  const std::string caption =
      "Accuracy on " + which + ", the mean over the best " + std::to_string(o.best) + " candidates by the score on " + std::to_string(4 * o.shots) +
      " labelled sentences (training and dev together); dev: their accuracy on the dev sentences; gap: the score, from -180 to 200, of these and of "
      "prompts drawn by the policy, on the labelled sentences; entropy of the policy in nats per token; first: sentences taken for '" +
      text.classes[0] + "'; scored: prompts whose true score was asked for, read: thousands of sentences that took." +
      (o.calibrate ? " Calibrated: off all odds behind a prompt their median over the training sentences is taken, labels unread." : "");
  const auto page = [&] {
    write_page(t.folder, book,
               {"Prompts for a frozen language model",
                "A policy writes prompts of " + std::to_string(o.length) +
                    " tokens that stand between a sentence and a word; the word that a frozen language model finds more probable is the class. "
                    "Only the score of a whole prompt on " +
                    std::to_string(2 * o.shots) +
                    " labelled sentences is known. Guidance learns rewards of tokens from lists of prompts in order of their scores; delayed "
                    "rewards give every token the score of its prompt. A reward's scale against --alpha decides how far a policy settles on few prompts, which "
                    "is low entropy: rows compare like with like at like entropy.",
                about, methods, columns, caption,
                {{"score/gap",
                  {.title = "Score of drawn prompts",
                   .caption = "On the dev sentences, over training.",
                   .x_title = "update",
                   .y_title = "gap, -180 to 200"}},
                 {"policy/entropy",
                  {.title = "Entropy of the policy", .caption = "Of its drawn prompts.", .x_title = "update", .y_title = "nats per token"}},
                 {"guidance/accuracy",
                  {.title = "Pairs of prompts in the right order",
                   .caption = "By the reward model, in lists scored on the dev sentences, at the end of each training; 0 where all prompts are one.",
                   .x_title = "update",
                   .y_title = "share"}}},
                {},
                "The best prompts of each method, and the share of the table's sentences that are classified rightly behind them."},
               t.common);
  };
  for (int seed = t.common.first_seed; seed < t.common.first_seed + t.common.seeds; ++seed) {
    prompt_search search(o, t.guidance, *device, run, *base, text, scorer, scored, tested, seed);
    for (const std::string& name : names) {
      run.stop_if_asked();
      if (book.find(name, seed)) continue;
      book.add(search.learn(name));
      const trainer::outcome& done = *book.find(name, seed);
      std::cerr << "seed " << seed << ", " << name << ": " << with_digits(done.values.at("accuracy"), 1) << " %\n";
      page();
    }
  }
  page();
  std::error_code ignored;
  std::filesystem::remove(run.checkpoint(), ignored);
  std::cout << '\n' << about << '\n' << printed(book.table(methods, columns, t.common)) << caption << "\nreport:  "
            << t.folder.file("report.html").string() << "\nresults: " << t.folder.file("results.json").string() << '\n';
}

}  // namespace train_token_guidance
