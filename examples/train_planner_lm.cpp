/// Planner and language model trained together on a text: the comparison of arXiv 2410.12492 at a size that fits a desk.
///
///     train_planner_lm --text book.txt --out run/book --minutes 8
///
/// Corpus, vocabulary, labels, base language model and planner are made once per seed; every variant then starts from the same adapter,
/// sees the same batches in the same order and takes the same number of steps. Prints the table and writes results.json.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <vector>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>
#include "train_planner_lm/experiment.hpp"
#include "train_planner_lm/report.hpp"
#include "trainer/program.hpp"

namespace {

using namespace train_planner_lm;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// How many steps each stage takes: what the flags say, cut down to fit `--minutes`.
work plan_work(experiment& e, const options& o, const std::vector<variant_plan>& variants, double seconds_left) {
  const double planner_epoch = double(e.train_sentences()) / std::min<double>(o.planner_batch, double(e.train_sentences()));
  work w;
  const auto steps = [](index_t given, double epochs, double per_epoch) {
    return given ? given : std::llround(std::clamp(epochs * per_epoch, 1.0, 1e9));
  };
  w.base_steps = steps(o.base_steps, o.base_epochs, e.steps_per_epoch(o.batch));
  w.variant_steps = steps(o.variant_steps, o.variant_epochs, e.steps_per_epoch(o.variant_batch));
  w.planner_steps = steps(o.planner_steps, o.planner_epochs, planner_epoch);
  if (o.minutes <= 0) return w;
  const experiment::speeds v = e.measure(variants);
  // A seventh for evaluation, generation and files; of the rest four tenths for the base model, a tenth for the planners, half for the variants.
  const double seconds = 0.86 * seconds_left / o.seeds;
  const auto fit = [](index_t wanted, double budget, double per_step) {
    return std::clamp<index_t>(static_cast<index_t>(budget / std::max(per_step, 1e-9)), std::min<index_t>(wanted, 20), wanted);
  };
  w.planner_steps = fit(w.planner_steps, 0.1 * seconds, v.planners);
  w.base_steps = fit(w.base_steps, 0.4 * seconds, v.base);
  const double spent = double(w.planner_steps) * v.planners + double(w.base_steps) * v.base;
  w.variant_steps = fit(w.variant_steps, seconds - spent, v.variants);
  return w;
}

void train(const options& o, const std::vector<std::string>& command) {
  const auto begin = std::chrono::steady_clock::now();
  run_folder folder(o.out);
  interrupt_guard interrupt;

  material m = gather(o);
  const data& d = m.text;
  std::cerr << d.description << '\n'
            << d.split.train.size() << " / " << d.split.valid.size() << " / " << d.split.test.size() << " documents, "
            << text::count_tokens(d.corpus.documents) << " tokens, vocabulary " << d.vocabulary.size() << '\n';
  std::cerr << "text, vocabulary and sentence vectors: " << with_digits(seconds_since(begin), 1) << " s\n";

  const run_description description{o, d.fingerprint, d.description, command};

  const std::unique_ptr<learner> device =
      o.device == "cuda" ? make_cuda_learner(sizes_of(o, d.vocabulary.size()), o.precision)
                         : make_cpu_learner(sizes_of(o, d.vocabulary.size()), o.threads);
  run r(device->random, folder, interrupt);
  std::vector<variant_result> results;
  std::vector<std::string> reports;
  std::vector<variant_plan> variants;
  for (const std::string& name : o.variants) variants.push_back(plan_of(name, o));
  work w;
  for (int seed = o.first_seed; seed < o.first_seed + o.seeds; ++seed) {
    r.stop_if_asked();
    experiment e(*device, m, o, seed, r);
    w = settle(folder, description, [&] { return plan_work(e, o, variants, 60 * o.minutes - seconds_since(begin)); });
    r.identify(identity(description, w));
    if (seed == o.first_seed) results = read_results(folder, description, w);
    if (seed == o.first_seed) {
      keep(folder, m);
      std::cerr << "steps: base " << w.base_steps << ", planner at most " << w.planner_steps << ", each variant " << w.variant_steps << '\n';
    }
    e.prepare(w, variants);
    std::cerr << e.label_report() << '\n';
    reports.push_back(e.label_report());
    // oracle-oracle is trained before oracle-predicted is tested, whatever their place in the table.
    for (const variant_plan& plan : variants) {
      const auto keep_results = [&] {
        write_results(folder, description, w, reports, results);
        write_report(folder, description, w, reports, results);
      };
      auto mine = std::find_if(results.begin(), results.end(), [&](const variant_result& v) { return v.name == plan.name && v.seed == seed; });
      if (mine == results.end()) {
        mine = results.insert(results.end(), e.train_and_test(plan, w));
        keep_results();
      }
      if (!e.lacks_writing(plan, *mine)) continue;
      e.write_and_score(plan, w, *mine);
      keep_results();
    }
  }
  write_report(folder, description, w, reports, results);
  std::error_code ignored;
  std::filesystem::remove(r.checkpoint(), ignored);
  std::erase_if(results, [&](const variant_result& v) { return v.seed < o.first_seed || v.seed >= o.first_seed + o.seeds; });
  const std::string generated = printed(generation_rows(results, variants));
  const std::string drawn = printed(path_rows(results, variants));
  std::cout << '\n' << d.description << '\n' << printed(results_rows(results, variants))
            << "Differences in nats per token, 95 % bootstrap over test documents; * : the interval leaves out 0.\n"
            << "its fixed: the variant that differs by the plan alone: fixed; fixed-lora and fixed-full where the language model is tuned so;\n"
               "paths-fixed, inserted-fixed and prefix-fixed for those. none: the base model, untrained on this stage. oracle-oracle is told the true label: a bound.\n"
            << (drawn.empty() ? "" : "\n") << drawn << (generated.empty() ? "" : "\nGenerated text: continuations of documents that were not trained on, and texts begun from nothing (latent ppl, MAUVE).\n")
            << generated << "report:  " << folder.file("report.html").string() << "\nresults: " << folder.file("results.json").string() << "   time: " << with_digits(seconds_since(begin) / 60, 1) << " min\n";
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  const auto body = [&] {
    int status = 0;
    if (!parse(argc, argv, o, status)) return status;
    if (o.device == "cuda")
      if (const std::string complaint = cuda_complaint(); !complaint.empty()) throw input_error("--device cuda: " + complaint);
    train(o, std::vector<std::string>(argv, argv + argc));
    return 0;
  };
  return run_program("train_planner_lm", body, [&] { return o.out; }, "try a smaller --width, --length, --labels or --batch, or a smaller text");
}
