/// Flags, their defaults by task, and what does not fit together.
#include "options.hpp"
#include <algorithm>
#include <planlm/core/error.hpp>

namespace train_infill_sampler {
namespace {

using planlm::input_error;

const std::vector<std::string> baselines{"true-middle", "continuation", "prompting", "supervised",
                                         "supervised-early"};
const std::vector<std::string> default_letters{"subtb", "subtb-.9", "modified-db", "subtb-published",
                                               "tb",    "vargrad",  "reward-only", "reverse-kl"};
const std::vector<std::string> default_documents{
    "true-middle", "continuation", "prompting", "supervised", "supervised-early", "reward-only",
    "subtb",       "modified-db",  "tb",        "vargrad"};

std::vector<std::string> all_methods() {
  std::vector<std::string> names = baselines;
  for (std::string& name : sampler::objective_names()) names.push_back(std::move(name));
  return names;
}
bool is_baseline(const std::string& name) {
  return std::find(baselines.begin(), baselines.end(), name) != baselines.end();
}

void check_documents(const options& o) {
  const document_options& d = o.documents;
  if (d.shortest > d.longest)
    throw input_error("--shortest " + std::to_string(d.shortest) + " is above --longest " +
                      std::to_string(d.longest));
  if (d.neighbour < 4)
    throw input_error("--neighbour " + std::to_string(d.neighbour) + ": give at least 4 tokens");
  const int needed = 2 * d.neighbour + d.longest + 4;
  if (needed > o.base.length)
    throw input_error("--length " + std::to_string(o.base.length) +
                      " is too little for two neighbours of --neighbour " + std::to_string(d.neighbour) +
                      " and a middle of --longest " + std::to_string(d.longest) + " tokens; give at least " +
                      std::to_string(needed));
}

}  // namespace

bool parse(int argc, char** argv, options& o, int& status) {
  trainer::flags f(
      "Fills a gap from what stands before and after it: a sampler learns the posterior p(middle | before, "
      "after) of a language model. "
      "letters: up to three letters under a 4-gram, where the posterior is known exactly. documents: the "
      "middle sentence of three under a "
      "language model that is trained on the text first. Defaults below are those of documents; letters: "
      "--steps 4000 --rows 32 --rate 0.003 "
      "--flow-rate 0.1 --tempered 0.333 --prior 0.333 --replayed 0.");
  f.choice("--task", o.task, "what is filled in", {"letters", "documents"});
  f.common(o.common);
  o.text.add(f);
  f.list("--methods", o.methods,
         "how the sampler learns; default: all but variants of subtb (letters: objectives alone)",
         all_methods());
  f.whole("--contexts", o.letters.contexts, "letters: gaps that one policy learns to fill");
  f.whole("--hidden", o.letters.hidden, "letters: width of the policy");
  f.whole("--prior-steps", o.letters.prior_steps,
          "letters: steps that make the policy the language model, before all methods");
  f.above_zero("--least-entropy", o.letters.least_entropy, "letters: of a gap's posterior, nats");
  f.above_zero("--most-entropy", o.letters.most_entropy, "letters: of a gap's posterior, nats");
  f.whole("--shortest", o.documents.shortest, "documents: tokens of a middle sentence");
  f.whole("--longest", o.documents.longest, "documents: tokens of a middle sentence");
  f.whole("--neighbour", o.documents.neighbour, "documents: most tokens of a sentence beside the gap");
  f.whole("--triples", o.documents.triples, "documents: gaps to train on, at most");
  f.whole("--tested", o.documents.tested, "documents: gaps of test documents, at most");
  f.whole("--texts", o.documents.texts, "documents: texts written for each of them", 2);
  f.whole("--supervised-batch", o.documents.supervised_batch,
          "documents: true middles of a step of supervised fine-tuning");
  o.base.add(f);
  o.tuning.add(f);
  f.advise_on_stray_words("; a text with spaces in its path needs quotes");
  if (!f.parse(argc, argv, status)) return false;
  if (o.is_letters()) {
    const auto unless_given = [&](const char* flag, auto& to, auto value) {
      if (!f.given(flag)) to = value;
    };
    unless_given("--steps", o.tuning.steps, 4000);
    unless_given("--rows", o.tuning.rows, 32);
    unless_given("--rate", o.tuning.rate, 3e-3);
    unless_given("--flow-rate", o.tuning.flow_rate, 0.1);
    unless_given("--tempered", o.tuning.tempered, 1 / 3.);
    unless_given("--prior", o.tuning.prior, 1 / 3.);
    unless_given("--replayed", o.tuning.replayed, 0.0);
    if (o.base.device != "cpu")
      throw input_error("--device " + o.base.device +
                        " is for --task documents; letters are drawn on the CPU");
    if (o.tuning.start_temperature != 1 || o.tuning.end_temperature != 1)
      throw input_error("--temperature and --first-temperature are for --task documents; letters have their posterior as it is");
    if (o.tuning.replayed > 0)
      throw input_error("--replayed is for --task documents; letters keep no buffer");
    if (o.letters.least_entropy >= o.letters.most_entropy)
      throw input_error("--least-entropy is not below --most-entropy");
  } else {
    o.base.check();
    check_documents(o);
  }
  o.tuning.check();
  if (o.methods.empty()) o.methods = o.is_letters() ? default_letters : default_documents;
  for (const std::string& name : o.methods)
    if (o.is_letters() && is_baseline(name))
      throw input_error("--methods: '" + name + "' is for --task documents");
  o.settings = f.settings({"--methods"});
  return true;
}

std::string about_method(const std::string& name) {
  if (name == "true-middle") return "the sentence that stands in the text";
  if (name == "continuation")
    return "the frozen language model after the sentence before; it does not see the one after";
  if (name == "prompting")
    return "the frozen language model after both, the sentence after standing first: where every policy "
           "below begins";
  if (name == "supervised-early")
    return "the same for a sixth of the steps, before it knows the training gaps by heart";
  if (name == "supervised")
    return "the same low-rank factors fine-tuned on the true middles of the training gaps";
  return sampler::about_objective(name) + (needs_own_texts(name) ? "; all its texts are its own" : "");
}
bool needs_own_texts(const std::string& name) { return name == "reward-only" || name == "reverse-kl"; }

}  // namespace train_infill_sampler
