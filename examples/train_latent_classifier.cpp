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
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>
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

/// What the base model learns from: lines of unlabelled sentences one behind the other, from a random one on.
sampler::packed_text base_batch(const base_text& lines, const pattern& words, const options& o, index_t step) {
  const philox random{0, static_cast<std::uint32_t>(step), 48u << 16};
  sampler::packed_text batch;
  for (int b = 0; b < o.base.batch; ++b) {
    tokens all{words.pieces().bos()};
    for (std::uint32_t i = 0; static_cast<int>(all.size()) <= o.base.length; ++i) {
      const auto row = static_cast<std::uint64_t>(b) << 32 | i;
      const auto at = random.with_stream(random.stream + 32).below(static_cast<std::uint32_t>(lines.size()), row, 0);
      const tokens line = lines.line(at, random, row);
      all.insert(all.end(), line.begin(), line.end());
    }
    all.resize(static_cast<std::size_t>(o.base.length) + 1);
    const int last = all.back();
    all.pop_back();
    batch.add(all);
    batch.targets.back() = last;
  }
  return batch;
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

  const auto device = sampler::make_cpu_machine(o.base.sizes(words.size()), o.common.threads);
  trainer::run r(device->random, folder, interrupt);
  r.identify(book.identity());
  const std::string about = given[0].source + " (" + std::to_string(given[0].sentences.size()) + " sentences), " + given[1].source + " (" +
                            std::to_string(given[1].sentences.size()) + "): " + std::to_string(text.test.size()) + " test, " +
                            std::to_string(text.validation.size()) + " validation, " + std::to_string(text.pool[0].size() + text.pool[1].size()) +
                            " to label, " + std::to_string(text.unlabelled.size()) + " unlabelled for the base model; vocabulary " +
                            std::to_string(words.size());
  std::cerr << about << '\n';
  const auto base = sampler::base_model(*device, r, o.base, [&](index_t s) { return base_batch(lines, words, o, s); });
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
