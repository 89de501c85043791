/// The command line.
#include "options.hpp"
#include <algorithm>
#include <charconv>
#include <planlm/core/error.hpp>
#include "methods.hpp"

namespace train_latent_classifier {

using planlm::input_error;

namespace {
std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts(1);
  for (const char c : list)
    if (c == ',') parts.emplace_back();
    else parts.back() += c;
  return parts;
}
}  // namespace

bool parse(int argc, char** argv, options& o, std::vector<std::pair<std::string, std::string>>& settings, int& status) {
  trainer::flags f{"Classifies sentences by a few labelled ones: a sampler of short rationales, trained by expectation and maximisation,\n"
                   "against prompting and fine-tuning. Running the same command again goes on where an interrupted run stopped."};
  f.words("--class", o.class_files, "NAME=FILE, twice: a class and its sentences, one on each line");
  f.word("--label-words", o.label_words, "two words, comma-separated, that the language model says for the classes; default their names");
  f.path("--text", o.text, "more text for the base model, UTF-8, JSON lines with a field text, or a folder of them");
  f.common(o.common);
  std::vector<std::string> names;
  for (const auto& m : methods()) names.push_back(m.name);
  f.list("--methods", o.methods, "default all", names);
  f.word("--sizes", o.sizes, "numbers of labelled sentences, comma-separated");
  f.choice("--score", o.score, "sentences that accuracy is measured on; settings are chosen on validation", {"test", "validation"});
  f.whole("--test", o.division.test, "sentences held out for the table", 2);
  f.whole("--validation", o.division.validation, "sentences held out for choosing settings", 2);
  f.whole("--pool", o.division.pool, "sentences that the labelled ones are drawn from", 2);
  f.whole("--vocabulary", o.vocabulary, "subword pieces");
  f.whole("--tokens", o.tokens, "of a sentence; what is longer is cut");
  o.base.add(f);
  o.tuning.add(f);
  f.choice("--objective", o.objective, "of the sampler", sampler::objective_names());
  f.whole("--longest", o.longest, "tokens of a rationale");
  f.share("--wrong-label", o.wrong, "nats that a rationale loses if the label model reads the wrong label from it", 1000);
  f.whole("--rounds", o.labels.rounds, "of expectation and maximisation");
  f.whole("--label-steps", o.labels.steps, "of each maximisation, and of fine-tuning");
  f.whole("--label-batch", o.labels.batch, "sentences of each of its steps");
  f.above_zero("--label-rate", o.labels.rate, "its learning rate");
  f.whole("--rationales", o.labels.rationales, "drawn for every labelled sentence before a maximisation");
  f.whole("--votes", o.votes, "rationales that vote for a label");
  f.whole("--vector-width", o.width_svd, "of the sentence vectors that tell which sentences are alike, and of logistic regression");
  f.advise_on_stray_words("; sentences are given as --class NAME=FILE");
  if (!f.parse(argc, argv, status)) return false;
  if (o.class_files.size() != 2)
    throw input_error("--class: " + std::to_string(o.class_files.size()) + " classes, expected two: --class NAME=FILE --class NAME=FILE");
  if (!o.label_words.empty()) o.labels_said = split(o.label_words);
  if (!o.label_words.empty() && o.labels_said.size() != 2)
    throw input_error("--label-words: " + std::to_string(o.labels_said.size()) + " words, expected one for each of the two classes");
  if (o.methods.empty()) o.methods = names;
  for (const std::string& size : split(o.sizes)) {
    int n = 0;
    const auto [end, failed] = std::from_chars(size.data(), size.data() + size.size(), n);
    if (failed != std::errc{} || end != size.data() + size.size() || n < 2 || n > o.division.pool)
      throw input_error("--sizes: give whole numbers from 2 to --pool (" + std::to_string(o.division.pool) + "), not '" + size + "'");
    if (std::find(o.counts.begin(), o.counts.end(), n) != o.counts.end()) throw input_error("--sizes: " + size + " is there twice");
    o.counts.push_back(n);
  }
  o.base.check(), o.tuning.check();
  // BOS, sentence, CUE, rationale, SO, word or label.
  if (o.tokens + o.longest + 4 > o.base.length)
    throw input_error("--length " + std::to_string(o.base.length) + ": sentences of " + std::to_string(o.tokens) + " --tokens and rationales of " +
                      std::to_string(o.longest) + " need " + std::to_string(o.tokens + o.longest + 4));
  // What a method is alone decides nothing of another's numbers.
  settings = f.settings({"--class", "--methods"});
  return true;
}

}  // namespace train_latent_classifier
