/// Sums of single digits with a calculator as tool: a language model that knows arithmetic in part learns to write rationales from answers.
/// The comparison of arXiv 2310.04363, at a size that fits a desk.
///
///     train_arithmetic_tool --out run/arithmetic --seeds 3
///
/// There is no pretrained model, so a base language model is made first, from lines of arithmetic by authors with bad habits: no numbers
/// below zero, lost tens, rationales that break off, answers without any (train_arithmetic_tool/corpus.hpp says in which shares). It is
/// frozen: its likelihood of rationale and answer behind three demonstrations is the reward, log R = log p(Z Y | D, X) of every prefix Z,
/// with a floor under the answer's part, and a low-rank copy of it is the policy, which sees the question alone. Training has 50 questions
/// with a rationale and 1000 with an answer, of three and four operands; the test has 500 each of three, four and, longer than any of those,
/// five. None of them is in any training text.
#include <chrono>
#include <iostream>
#include <string>
#include <system_error>
#include <vector>
#include <planlm/core/error.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/training/statistics.hpp>
#include "train_arithmetic_tool/experiment.hpp"
#include "trainer/program.hpp"

namespace {

using namespace train_arithmetic_tool;

trainer::page_words page_of(const options& o, const trainer::run_book& book) {
  trainer::page_words w;
  w.title = "Arithmetic with a calculator";
  const auto named = [&](const trainer::score_column& c) {
    std::string best;
    double most = -1;
    for (const std::string& m : o.methods) {
      const std::vector<double> v = book.values(m, c.value, o.common);
      if (v.empty()) continue;
      if (const double mean = planlm::summarize(v).mean; mean > most) best = m, most = mean;
    }
    return best.empty() ? std::string() : best + " at " + c.title.substr(0, 10) + " (" + book.mean(best, c, o.common) + " %)";
  };
  w.lead = "Questions such as 7 + 3 - 5 = are answered by rationales such as 7 + 3 = 10 , 10 - 5 = 5 . Behind every = the calculator writes the "
           "value of the last " +
           (o.limit > 0 ? std::to_string(o.limit) + " operands" : std::string("expression")) +
           ". The answer is the number behind the last = , by the vote of " + std::to_string(o.samples) + " rationales at temperature " +
           planlm::with_digits(o.test_temperature, 1) + ". Best are " + named(columns()[0]) + ", " + named(columns()[1]) + " and " + named(columns()[2]) + "; five operands are more than training has.";
  const corpus_options& c = o.corpus;
  const auto share = [](double v) { return planlm::with_digits(v, 2); };
  w.corpus = "made by the program: passages by authors who are timid (" + share(c.timid) +
             " of them: negative differences are taken the other way round), forgetful (" + share(c.forgetful) +
             ": the ten of a result is lost), hurried (" + share(c.hurried) + ": rationales break off after two steps) or silent (" + share(c.silent) + ": no rationale, answers right in " +
             share(c.silent_right) + "), each on its own; a line keeps each habit of its author with probability " + share(c.habit) +
             ". Operands are misread in " + share(c.misread) + " of the steps. Questions have 3, 4, 5 operands in shares " + share(c.three) + ", " +
             share(c.four) + ", " + share(c.five) + ", the others two. No question of the test or the validation is in it.";
  w.methods = methods();
  w.columns = columns();
  w.table_caption = std::string("Share of right answers to ") + std::to_string(o.score_validation ? o.validation : o.test) +
                    (o.score_validation ? " validation" : " test") +
                    " questions of each number of operands; of single rationales, the share made of true equations alone and the share that is "
                    "the worked solution; their mean length, results included.";
  w.curves = {{"score/accuracy_3", {"Three operands", "Validation questions, one rationale each.", "step", "right, %"}},
              {"score/accuracy_5", {"Five operands", "Validation questions, one rationale each; more than in training.", "step", "right, %"}},
              {"balance/spread", {"Balance", "Spread of log q - log R over the rationales of a question.", "step", "nats"}}};
  w.more = [&](planlm::report& page) {
    for (const auto& [a, b] : {std::pair{"subtb", "sft-demos"}, {"subtb", "sft"}, {"subtb", "self-taught"}, {"subtb", "reward-only"},
                              {"subtb", "subtb-no-seed"}}) {
      std::string differences;
      for (const trainer::score_column& c : columns())
        if (const std::string d = book.difference(a, b, c, o.common); c.value.starts_with("accuracy") && !d.empty())
          differences += (differences.empty() ? "" : ", ") + c.title.substr(0, 10) + " " + d;
      if (!differences.empty()) page.paragraph(std::string(a) + " less " + b + ", in points of accuracy: " + differences + ".");
    }
    for (const trainer::score_column& c : columns()) {
      if (!c.value.starts_with("accuracy")) continue;
      std::vector<planlm::interval_bar> bars;
      for (const auto& m : methods()) {
        const std::vector<double> v = book.values(m.name, c.value, o.common);
        if (v.empty()) continue;
        const planlm::sample_summary s = planlm::summarize(v);
        bars.push_back({m.name, s.mean, s.count > 1 ? s.lower : s.mean, s.count > 1 ? s.upper : s.mean, m.name == "subtb"});
      }
      if (!bars.empty()) page.chart(planlm::interval_chart({c.title.substr(0, 10), "Right answers, %."}, bars));
    }
  };
  w.samples_lead = "The first rationale for two test questions of each number of operands.";
  return w;
}

void train(const options& o, const trainer::flags& f, const std::vector<std::string>& command) {
  const auto begin = std::chrono::steady_clock::now();
  planlm::run_folder folder(o.common.out);
  planlm::interrupt_guard interrupt;
  trainer::run_book book(folder, "train_arithmetic_tool", f.settings({"--methods"}), command);
  const auto device = sampler::make_machine(o.base.device, o.base.sizes(symbol_count), o.common.threads);
  trainer::run run(device->random, folder, interrupt);
  run.identify(book.identity());
  experiment e(o, *device, run);
  for (int seed = o.common.first_seed; seed < o.common.first_seed + o.common.seeds; ++seed)
    for (const std::string& method : o.methods) {
      if (book.find(method, seed)) continue;
      run.stop_if_asked();
      book.add(e.score(method, seed));
      trainer::write_page(folder, book, page_of(o, book), o.common);
    }
  trainer::write_page(folder, book, page_of(o, book), o.common);
  std::error_code ignored;
  std::filesystem::remove(run.checkpoint(), ignored);
  const double minutes = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / 60;
  std::cout << trainer::printed(book.table(methods(), columns(), o.common)) << "report:  " << folder.file("report.html").string()
            << "\nresults: " << folder.file("results.json").string() << "   time: " << planlm::with_digits(minutes, 1) << " min\n";
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  const auto body = [&] {
    trainer::flags f("Sums of single digits with a calculator: a language model made here learns to write rationales from answers, by "
                     "supervised fine-tuning, by policy gradient and as a GFlowNet.");
    o.add(f);
    int status = 0;
    if (!f.parse(argc, argv, status)) return status;
    o.check();
    train(o, f, std::vector<std::string>(argv, argv + argc));
    return 0;
  };
  return trainer::run_program("train_arithmetic_tool", body, [&] { return o.common.out; });
}
