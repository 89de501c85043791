/// report.html: what people look at after a run.
#include "report.hpp"
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <span>
#include <utility>
#include <nlohmann/json.hpp>
#include <planlm/io/chart.hpp>
#include <planlm/io/label_map.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_curves.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>

namespace train_planner_lm {
namespace {

using json = nlohmann::json;

struct label_pages {
  std::vector<label_card> cards;
  std::vector<map_point> map;
  std::vector<bar> usage;
  std::map<int, std::string> typical;
};

/// The labels of one seed from its file; nothing if there is none.
label_pages read_labels(const std::filesystem::path& file) {
  label_pages pages;
  std::ifstream in(file);
  const json j = json::parse(in, nullptr, false);
  if (!j.is_object()) return pages;
  try {
    for (const json& l : j.at("labels")) {
      label_card card{l.at("label"), l.at("share"), l.at("typical").get<std::vector<std::string>>()};
      const std::string name = std::to_string(card.label);
      const std::string typical = card.typical.empty() ? "" : card.typical[0];
      pages.map.push_back({l.at("x"), l.at("y"), card.share, name, typical});
      pages.usage.push_back({name, 100 * card.share});
      pages.typical[card.label] = typical;
      pages.cards.push_back(std::move(card));
    }
  } catch (const json::exception&) {
    return {};
  }
  const auto by_share = [](const auto& a, const auto& b) { return a.share > b.share; };
  std::stable_sort(pages.cards.begin(), pages.cards.end(), by_share);
  return pages;
}

/// Curves of the first seed, those stages that `takes` likes.
template <class Takes>
std::vector<series> of_first_seed(const std::vector<run_curve>& all, const Takes& takes) {
  std::vector<series> some;
  for (const run_curve& c : all)
    if (c.seed == all.front().seed && takes(c.stage)) some.push_back(c.points);
  return some;
}

bool is_planner(const std::string& stage) { return stage == "planner" || stage == "look-ahead" || stage == "label-head"; }

void add_perplexity(report& page, const std::vector<variant_result>& results, const std::vector<std::string>& order) {
  page.section("Perplexity", "On held-out documents, lower is better. A step to the left of fixed is what a plan brings: fixed has the same "
                             "adapters and one plan for all sentences.");
  std::vector<interval_bar> bars;
  double reference = NAN;
  for (const std::string& name : order) {
    const std::optional<compared> c = compare(results, name);
    if (!c) continue;
    if (name == "fixed") reference = c->perplexity;
    bars.push_back({name, c->perplexity, c->lower, c->upper, name == "mixture-joint"});
  }
  chart_options options{.title = "Perplexity of every variant",
                        .caption = "Whiskers: 95 % interval of the difference to fixed, paired by document; none where there was nothing to pair with.",
                        .x_title = "perplexity"};
  if (std::isfinite(reference)) options.reference = reference, options.reference_name = "fixed";
  page.chart(interval_chart(options, bars));
}

/// Perplexity against the number of paths at test, and against steps.
void add_paths(report& page, const std::vector<variant_result>& results, const std::vector<std::string>& order) {
  std::map<std::string, std::map<int, std::pair<double, int>>> by_paths;  // variant -> paths -> sum of nats, count
  std::map<int, std::pair<double, int>> by_steps;
  for (const variant_result& r : results)
    for (const auto& [check, documents] : r.checks) {
      if (check.rfind("paths=", 0) != 0) continue;
      auto& [sum, count] = by_paths[r.name][std::stoi(check.substr(6))];
      sum += nats_per_token(documents), ++count;
    }
  if (by_paths.empty()) return;
  std::vector<series> curves;
  for (const auto& [name, points] : by_paths) {
    series s{name, {}, {}};
    for (const auto& [paths, of] : points) s.x.push_back(paths), s.y.push_back(std::exp(of.first / of.second));
    curves.push_back(std::move(s));
  }
  for (const variant_result& r : results)
    if (r.name.rfind("paths-", 0) == 0) {
      auto& [sum, count] = by_steps[std::stoi(r.name.substr(6))];
      sum += r.nll(), ++count;
    }
  series steps{"as trained", {}, {}};
  for (const auto& [n, of] : by_steps) steps.x.push_back(n), steps.y.push_back(std::exp(of.first / of.second));
  page.section("Sampled plans", "Label paths drawn from the look-ahead planner condition a sentence. More paths come nearer to the whole distribution; "
                                "more steps tell what comes after the sentence.");
  page.chart(line_chart({.title = "Perplexity and number of paths", .caption = "Paths drawn for each sentence at test; training used one number.",
                         .x_title = "paths at test", .y_title = "perplexity", .log_x = true}, curves));
  const std::vector<series> one{steps};
  page.chart(line_chart({.title = "Perplexity and steps", .caption = "Labels in each path, trained and tested alike.", .x_title = "steps",
                         .y_title = "perplexity"}, one));
  const auto [columns, rows] = path_rows(results, order);
  page.table(columns, rows, "Sampled plans");
}

void add_curves(report& page, const std::filesystem::path& metrics) {
  const std::vector<run_curve> losses = run_curves(metrics, "smoothed");
  if (losses.empty()) return;
  page.section("Training", "Losses of the first seed, smoothed, in nats: of a token for language models, of a label for planners.");
  const auto chart = [&](const char* title, const char* caption, const char* unit, const auto& takes) {
    const std::vector<series> curves = of_first_seed(losses, takes);
    if (!curves.empty()) page.chart(line_chart({.title = title, .caption = caption, .x_title = "steps", .y_title = unit}, curves));
  };
  chart("Base language model", "Trained first and then shared by all variants.", "nats per token", [](const std::string& s) { return s == "base"; });
  chart("Planners", "Trained alone on the labels of coming sentences; the best epoch on validation documents is kept.", "nats per label", is_planner);
  const std::vector<std::string> shown{"fixed", "predicted", "mixture-frozen", "straight-through", "gumbel", "mixture-joint", "paths-3-steps", "mixture-joint-full"};
  chart("Variants", "Same batches in the same order: the distance between curves is what the plan brings in training.", "nats per token",
        [&](const std::string& s) { return std::find(shown.begin(), shown.end(), s) != shown.end(); });

  const auto observed = [&](const char* value, const char* title, const char* caption, const char* unit) {
    const std::vector<run_curve> all = run_curves(metrics, std::string("planner/") + value);
    if (all.empty()) return;
    std::vector<series> curves = of_first_seed(all, [](const std::string& s) { return !is_planner(s); });
    if (!curves.empty()) page.chart(line_chart({.title = title, .caption = caption, .x_title = "steps of the joint stage", .y_title = unit}, curves));
  };
  page.section("The planner while it is trained jointly", "Measured on validation sentences. Joint training is free to move the planner away from the "
                                                          "labels it was trained on.");
  observed("entropy", "Entropy of its distribution", "Falls when the planner grows certain, rightly or not.", "nats");
  observed("labels_in_use", "Labels in use", "Perplexity of its most probable labels: how many it really uses.", "labels");
  observed("accuracy", "Accuracy", "How often its most probable label is that of the sentence that came.", "share");
}

void add_labels(report& page, const label_pages& labels) {
  if (labels.cards.empty()) return;
  page.section("Labels", "Clusters of sentence vectors. A label is what the planner predicts of a sentence before it is written.");
  page.chart(map_chart({.title = "Map of the labels", .caption = "Centroids on their first two principal axes; area is the share of training sentences. Near "
                                                                 "labels have similar sentences."}, labels.map));
  page.chart(bar_chart({.title = "Use of the labels", .caption = "Share of training sentences, in the order of the labels.", .x_title = "label", .y_title = "%"},
                       labels.usage));
  page.paragraph("Sentences that stand for a label, the most used labels first:");
  page.label_cards(labels.cards);
}

void add_samples(report& page, const std::vector<variant_result>& results, const label_pages& labels) {
  const variant_result* best = nullptr;  // plans that people can follow
  for (const char* name : {"mixture-joint", "mixture-frozen", "predicted"})
    for (const variant_result& r : results)
      if (!best && r.name == name && !r.samples.empty()) best = &r;
  for (const variant_result& r : results)
    if (!best && !r.samples.empty()) best = &r;
  if (!best) return;
  page.section("Generated text", "Continuations of test documents by " + best->name + ", seed " + std::to_string(best->seed) +
                                     ". Beside each sentence: the label its plan names first, and a sentence typical of it.");
  int number = 0;
  for (const sample_text& t : best->samples) {
    text_sample sample{"Continuation " + std::to_string(++number), t.prompt, {}};
    for (const sample_sentence& s : t.sentences) {
      planned_sentence shown{s.text};
      if (s.planned >= 0) {
        shown.label = s.planned;
        shown.followed = s.planned == s.own;
        if (const auto found = labels.typical.find(s.planned); found != labels.typical.end()) shown.typical = found->second;
      }
      sample.sentences.push_back(std::move(shown));
    }
    page.sample(sample);
  }
}

}  // namespace

void write_report(const run_folder& folder, const run_description& run, const work& w, const std::vector<std::string>& reports,
                  const std::vector<variant_result>& results) {
  const options& o = run.flags;
  report page("Planner and language model", run.corpus);
  std::vector<variant_result> mine;
  for (const variant_result& r : results)
    if (std::find(o.variants.begin(), o.variants.end(), r.name) != o.variants.end()) mine.push_back(r);
  add_perplexity(page, mine, o.variants);
  add_paths(page, mine, o.variants);
  page.section("The table", "Means over seeds. Differences in nats per token with 95 % intervals; * where the interval leaves out 0.");
  const auto [columns, rows] = results_rows(mine, o.variants);
  page.table(columns, rows, "Losses on held-out documents");
  const auto [more_columns, more_rows] = generation_rows(mine, o.variants);
  if (!more_rows.empty()) {
    page.table(more_columns, more_rows, "Generated text");
    page.paragraph("ROUGE-2 and label edits compare continuations of test documents with the true ones; latent perplexity and MAUVE look at texts begun "
                   "from nothing. With few documents these numbers are noisy.");
  }
  const label_pages labels = read_labels(folder.file("seed-" + std::to_string(o.first_seed) + ".labels.json"));
  add_samples(page, mine, labels);
  add_labels(page, labels);
  add_curves(page, folder.file("metrics.jsonl"));
  std::string command;
  for (const std::string& word : run.command) command += (command.empty() ? "" : " ") + word;
  std::vector<fact> facts{{"command", command, true},
                          {"corpus", run.corpus},
                          {"steps", "base " + std::to_string(w.base_steps) + ", planner at most " + std::to_string(w.planner_steps) + ", each variant " +
                                        std::to_string(w.variant_steps)},
                          {"seeds", std::to_string(o.first_seed) + " to " + std::to_string(o.first_seed + o.seeds - 1)},
                          {"device", o.device + ", " + o.precision + (o.device == "cpu" ? ", " + std::to_string(o.threads) + " threads" : "")}};
  for (const std::string& r : reports) facts.push_back({"labels", r});
  for (const fact& f : environment_facts()) facts.push_back(f);
  page.section("How this was made", "Running the command again gives the same numbers.").facts(facts);
  folder.write_text("report.html", page.html());
}

}  // namespace train_planner_lm
