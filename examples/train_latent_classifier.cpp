/// Sentences are classified through a latent rationale, from 10 to 50 labelled ones: expectation and maximisation with a sampler of
/// rationales, the classification experiment of arXiv 2310.04363, at a size that fits a desk.
///
///     train_latent_classifier --class objective=plots.txt --class subjective=reviews.txt --out run/subjectivity --seeds 5
///
/// p(Y | X) = sum over Z of p(Y | X Z) p(Z | X): X a sentence, Z one to five tokens, Y one of two labels. No pretrained model is needed: the
/// base language model learns from the sentences that are in no held-out part, labels removed, what a rationale looks like (pattern.hpp).
/// Expectation: low-rank factors of it are tuned until they sample Z from X alone in proportion to p(Z | X) p(Y | X Z), for the labelled X; a
/// rationale that the label model reads the wrong label from loses 50 nats. Maximisation: other factors learn p(Y | X Z) on Z so drawn, as a
/// softmax over the two label tokens. At the end ten rationales vote. Prints the table, writes results.json and report.html.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>
#include <planlm/training/schedule.hpp>
#include "train_latent_classifier/experiment.hpp"
#include "train_latent_classifier/page.hpp"
#include "trainer/program.hpp"

namespace {

using namespace train_latent_classifier;
using namespace planlm;

std::string fingerprint(const division& d) {
  std::uint64_t h = 1469598103934665603ull;  // FNV-1a
  const auto add = [&h](const std::string& s) {
    for (const char c : s + "\n") h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  };
  for (const auto* part : {&d.test, &d.validation})
    for (const example& e : *part) add(e.sentence + char('0' + e.label));
  for (const auto& part : d.pool)
    for (const std::string& s : part) add(s);
  for (const std::string& s : d.unlabelled) add(s);
  return std::to_string(h);
}

/// About --base-batch x --length tokens of lines. Three sequences of four are one line each, of which the words behind the cue are predicted:
/// they ask what that sentence is about. The fourth is filled with lines, and all of it is predicted: it teaches the language, and that lines
/// follow each other, as in a prompt with examples.
sampler::packed_text base_batch(const base_text& lines, const pattern& words, const options& o, index_t step) {
  const philox random{0, static_cast<std::uint32_t>(step), 48u << 16}, choice = random.with_stream(random.stream + 32);
  const auto most = static_cast<std::size_t>(o.base.length);
  sampler::packed_text batch;
  for (std::uint64_t b = 0; batch.tokens.size() < static_cast<std::size_t>(o.base.batch) * most; ++b) {
    const bool alone = b % 4 != 3;
    tokens all{words.pieces().bos()};
    for (std::uint64_t i = 0; i == 0 || (!alone && all.size() <= most); ++i) {
      const std::uint64_t row = b * most + i;  // below 2^32: beyond, rows of one step are those of another
      const tokens line = lines.line(choice.below(static_cast<std::uint32_t>(lines.size()), row, 0), random, row);
      all.insert(all.end(), line.begin(), line.end());
    }
    if (all.size() > most) all.resize(most);
    batch.add(all, alone ? static_cast<std::size_t>(std::find(all.begin(), all.end(), words.cue()) - all.begin()) + 1 : 1);
  }
  return batch;
}

/// Rows of the token table begin with the tf-idf vector of their word, where they are one: what goes with what is known before the first step,
/// which a few minutes of training would not teach. The rest begins at random.
void begin_with_vectors(part& lm, const pattern& words, const base_text& lines) {
  const std::string name = "token.table";
  const auto& slots = lm.slots();
  const auto slot = std::find_if(slots.begin(), slots.end(), [&](const parameter_slot& s) { return s.spec.name == name; });
  if (slot == slots.end()) throw error("the language model has no " + name);
  const auto width = static_cast<std::size_t>(slot->spec.extents[1]);
  std::vector<std::string> texts;
  for (int id = 0; id < words.pieces().size(); ++id) texts.push_back(words.is_word(id) ? words.words(std::vector<int>{id}) : "");
  const embeddings vectors = lines.encoder().encode(texts);
  const std::vector<float> all = lm.read();
  std::vector<float> table(all.begin() + slot->offset, all.begin() + slot->offset + slot->spec.size());
  const std::size_t used = std::min(width, static_cast<std::size_t>(vectors.width));
  for (std::size_t id = 0; id < texts.size(); ++id)
    for (std::size_t c = 0; c < used; ++c) table[id * width + c] += 0.25f * vectors.row(static_cast<index_t>(id))[c];
  lm.write(name, table);
}

/// The frozen base model: trained, or read from the run's base.safetensors; the same for all seeds.
std::unique_ptr<part> base_model(sampler::machine& m, trainer::run& r, const pattern& words, const base_text& lines, const options& o) {
  const std::map<std::string, std::string> about{{"identity", r.identity()}};
  const auto file = r.file("base.safetensors");
  auto frozen = m.make(philox{}, false);
  if (std::filesystem::exists(file)) {
    trainer::run::load_parameters(*frozen, file, about);
    return frozen;
  }
  const auto lm = m.make(philox{0, 0, 1u << 16}, true, 0.01);
  begin_with_vectors(*lm, words, lines);
  const index_t warm = std::max(1, o.base.steps / 20);
  const warmup schedule{warm, cosine_decay{std::max<index_t>(1, o.base.steps - warm), 0.05}};
  m.random = philox{0, 0, 2u << 16};
  r.stage({"base", 0, o.base.steps, "--base-rate", {{"lm", lm.get()}}, {}},
          [&](index_t s) { return m.language_step(*lm, base_batch(lines, words, o, s), {o.base.rate * schedule(s)}); }, [](index_t) { return true; },
          [](index_t) { return std::string("in the language model's own training"); });
  frozen->copy(*lm);
  trainer::run::save_parameters(*frozen, file, about);
  return frozen;
}

void train(options o, std::vector<std::pair<std::string, std::string>> settings, const std::vector<std::string>& command) {
  const auto begin = std::chrono::steady_clock::now();
  const classes given{read_class("--class", o.class_files[0]), read_class("--class", o.class_files[1])};
  if (given[0].name == given[1].name) throw input_error("--class: both classes are called '" + given[0].name + "'");
  division text = divide(given, o.division);
  if (!o.text.empty()) {
    std::vector<std::string> more;
    for (auto& d : text::read_corpus(o.text).documents)
      for (std::string& s : d.sentences) more.push_back(std::move(s));
    add_unlabelled(text, std::move(more));
  }
  const pattern words(text.unlabelled, o.vocabulary, o.tokens);
  const base_text lines(words, text.unlabelled, o.width_svd);
  if (o.labels_said.empty()) o.labels_said = {given[0].name, given[1].name};
  words.label_tokens(o.labels_said[0], o.labels_said[1]);
  run_folder folder(o.common.out);
  interrupt_guard interrupt;
  settings.emplace_back("classes", given[0].name + ", " + given[1].name);
  settings.emplace_back("fingerprint of the sentences", fingerprint(text));
  trainer::run_book book(folder, "train_latent_classifier", std::move(settings), command);

  const auto device = sampler::make_machine(o.base.device, o.base.sizes(words.size()), o.common.threads);
  trainer::run r(device->random, folder, interrupt);
  r.identify(book.identity());
  const std::string about = given[0].source + " (" + std::to_string(given[0].sentences.size()) + " sentences), " + given[1].source + " (" +
                            std::to_string(given[1].sentences.size()) + "): " + std::to_string(text.test.size()) + " test, " +
                            std::to_string(text.validation.size()) + " validation, " + std::to_string(text.pool[0].size() + text.pool[1].size()) +
                            " to label, " + std::to_string(text.unlabelled.size()) + " unlabelled for the base model; vocabulary " +
                            std::to_string(words.size());
  std::cerr << about << '\n';
  const auto base = base_model(*device, r, words, lines, o);
  experiment e(*device, r, *base, words, lines, given, text, o);
  const std::string quality = e.about_base();
  std::cerr << quality << '\n';
  for (int seed = o.common.first_seed; seed < o.common.first_seed + o.common.seeds; ++seed) {
    e.run_seed(seed, book);
    write_report(folder, book, o, about + "; " + quality);
  }
  std::error_code ignored;
  std::filesystem::remove(r.checkpoint(), ignored);
  std::cout << '\n' << about << '\n' << quality << '\n' << trainer::printed(book.table(methods(), columns(o), o.common)) << differences(book, o)
            << "report:  " << folder.file("report.html").string() << "\nresults: " << folder.file("results.json").string() << "   time: "
            << with_digits(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / 60, 1) << " min\n";
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  const auto body = [&] {
    int status = 0;
    std::vector<std::pair<std::string, std::string>> settings;
    if (!parse(argc, argv, o, settings, status)) return status;
    train(o, std::move(settings), std::vector<std::string>(argv, argv + argc));
    return 0;
  };
  return trainer::run_program("train_latent_classifier", body, [&] { return o.common.out; });
}
