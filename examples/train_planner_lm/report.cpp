/// report.html: what people look at after a run.
#include "report.hpp"
#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <nlohmann/json.hpp>
#include <unicode/uvernum.h>
#include <planlm/core/config.hpp>
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

/// Curves of one seed, those stages that `takes` likes.
template <class Takes>
std::vector<series> of_seed(int seed, const std::vector<run_curve>& all, const Takes& takes) {
  std::vector<series> some;
  for (const run_curve& c : all)
    if (c.seed == seed && takes(c.stage)) some.push_back(c.points);
  return some;
}

std::string quoted(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./,=:+-") == std::string::npos;
  if (plain) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}
std::string json_version() {
  return std::to_string(NLOHMANN_JSON_VERSION_MAJOR) + "." + std::to_string(NLOHMANN_JSON_VERSION_MINOR) + "." + std::to_string(NLOHMANN_JSON_VERSION_PATCH);
}

bool is_planner(const std::string& stage) { return stage == "planner" || stage == "look-ahead" || stage == "label-head"; }

/// What came out, in words.
std::string summary(const std::vector<variant_result>& results) {
  const auto fixed = compare(results, "fixed"), frozen = compare(results, "mixture-frozen"), joint = compare(results, "mixture-joint");
  const auto against = [&](const char* name, const compared& c) {
    const double percent = 100 * (c.perplexity / fixed->perplexity - 1);
    const bool clear = std::isfinite(c.lower) && (c.upper < fixed->perplexity || c.lower > fixed->perplexity);
    return std::string(name) + " has perplexity " + with_digits(c.perplexity, 2) + " against " + with_digits(fixed->perplexity, 2) +
           " without a plan (" + (percent < 0 ? "" : "+") + with_digits(percent, 1) + " %, " +
           (clear ? "beyond what the choice of documents explains" : "within what the choice of documents explains") + "). ";
  };
  std::string words;
  if (fixed && frozen) words += against("The planner's whole distribution (mixture-frozen)", *frozen);
  if (fixed && joint) words += against("Trained jointly, the method of the paper (mixture-joint)", *joint);
  return words;
}

void add_perplexity(report& page, const run_description& run, const std::vector<variant_result>& results, const std::vector<std::string>& order) {
  std::set<int> seeds;
  for (const variant_result& r : results) seeds.insert(r.seed);
  const std::string part = run.flags.score == "valid" ? " validation documents" : " documents that were not trained on";
  page.section("Perplexity", summary(results) + "Measured on " + std::to_string(results.empty() ? 0 : results[0].documents.size()) + part + ", " +
                                 std::to_string(seeds.size()) + (seeds.size() == 1 ? " seed" : " seeds") + "; lower is better.");
  std::vector<interval_bar> bars;
  double reference = NAN;
  for (const std::string& name : order) {
    const std::optional<compared> c = compare(results, name);
    if (!c) continue;
    if (name == "fixed") reference = c->perplexity;
    bars.push_back({name, c->perplexity, c->lower, c->upper, name == "mixture-joint"});
  }
  chart_options options{.title = "Perplexity of every variant",
                        .caption = "Whiskers: 95 % interval of the difference to fixed over documents, not over seeds; compare them with the line of fixed "
                                   "only, and two variants in the table. The method of the paper stands out. oracle-oracle is told the true label: a bound.",
                        .x_title = "perplexity"};
  if (std::isfinite(reference)) options.reference = reference, options.reference_name = "fixed";
  page.chart(interval_chart(options, bars));
}

/// Perplexity against the number of paths at test, and against steps.
void add_paths(report& page, const std::vector<variant_result>& results, const std::vector<variant_plan>& order) {
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
    if (r.name.rfind("paths-", 0) == 0 && std::isdigit(static_cast<unsigned char>(r.name[6]))) {
      auto& [sum, count] = by_steps[std::stoi(r.name.substr(6))];
      sum += r.nll(), ++count;
    }
  series steps{"as trained", {}, {}};
  for (const auto& [n, of] : by_steps) steps.x.push_back(n), steps.y.push_back(std::exp(of.first / of.second));
  page.section("Sampled plans", "Label paths drawn from the look-ahead planner condition a sentence: more paths come nearer to its whole distribution, more "
                                "steps say what may come after the sentence.");
  page.chart(line_chart({.title = "Perplexity and number of paths", .caption = "Paths drawn for each sentence at test; training used one number.",
                         .x_title = "paths at test", .y_title = "perplexity", .log_x = true}, curves));
  const std::vector<series> one{steps};
  if (steps.x.size() > 1)
    page.chart(line_chart({.title = "Perplexity and steps", .caption = "Labels in each path; each point is a model of its own, with an encoder of its own.", .x_title = "steps",
                         .y_title = "perplexity"}, one));
  const auto [columns, rows] = path_rows(results, order);
  page.table(columns, rows, "Sampled plans");
}

void add_curves(report& page, const std::filesystem::path& metrics, int seed) {
  const std::vector<run_curve> losses = run_curves(metrics, "smoothed");
  if (losses.empty()) return;
  page.section("Training", "Training losses of the first seed, smoothed, in nats: of a token for language models, of a label for planners.");
  const auto chart = [&](const char* title, const char* caption, const char* unit, const auto& takes) {
    const std::vector<series> curves = of_seed(seed, losses, takes);
    if (!curves.empty()) page.chart(line_chart({.title = title, .caption = caption, .x_title = "steps", .y_title = unit}, curves));
  };
  chart("Base language model", "Trained first and then shared by all variants.", "nats per token",
        [](const std::string& s) { return s == "base"; });
  chart("Planners", "Trained alone on the labels of coming sentences; the epoch that is best on validation documents is kept.", "nats per label", is_planner);
  const std::vector<std::string> shown{"fixed", "predicted", "mixture-frozen", "straight-through", "gumbel", "mixture-joint"};
  chart("Variants", "Same batches in the same order, same adapters: they differ by the plan.", "nats per token",
        [&](const std::string& s) { return std::find(shown.begin(), shown.end(), s) != shown.end(); });

  const auto observed = [&](const char* value, const char* title, const char* caption, const char* unit) {
    const std::vector<run_curve> all = run_curves(metrics, std::string("planner/") + value);
    if (all.empty()) return;
    std::vector<series> curves = of_seed(seed, all, [](const std::string& s) { return !is_planner(s); });
    if (!curves.empty()) page.chart(line_chart({.title = title, .caption = caption, .x_title = "steps of the joint stage", .y_title = unit}, curves));
  };
  page.section("The planner while it is trained jointly", "Measured on validation sentences. Joint training is free to move the planner away from the "
                                                          "labels it was trained on.");
  observed("entropy", "Entropy of its distribution", "Falls when the planner grows certain, rightly or not.", "nats");
  observed("labels_in_use", "Labels in use", "Effective number of labels among its first choices: the perplexity of how often each is the most probable.", "labels");
  observed("accuracy", "Accuracy", "How often its most probable label is that of the sentence that came.", "share");
}

void add_labels(report& page, const label_pages& labels) {
  if (labels.cards.empty()) return;
  page.section("Labels", "Clusters of sentence vectors. A label is what the planner predicts of a sentence before it is written.");
  page.chart(map_chart({.title = "Map of the labels", .caption = "Centroids on their first two principal axes; area is the share of training sentences. Near "
                                                                 "labels tend to have similar sentences."}, labels.map));
  page.chart(bar_chart({.title = "Use of the labels", .caption = "Share of training sentences, in the order of the labels.", .x_title = "label", .y_title = "%"},
                       labels.usage));
  page.paragraph("Sentences that stand for a label, the most used labels first:");
  page.label_cards(labels.cards);
}

void add_samples(report& page, const std::vector<variant_result>& results, const label_pages& labels, int seed) {
  const variant_result* best = nullptr;  // plans that people can follow
  for (const char* name : {"mixture-joint", "mixture-frozen", "predicted"})
    for (const variant_result& r : results)
      if (!best && r.name == name && r.seed == seed && !r.samples.empty()) best = &r;
  for (const variant_result& r : results)
    if (!best && r.seed == seed && !r.samples.empty()) best = &r;
  if (!best) return;
  page.section("Generated text", "Continuations by " + best->name + ", seed " + std::to_string(best->seed) +
                                     ". Beside each sentence: the label that its plan holds most probable, and a sentence typical of it. A plan is a "
                                     "distribution over all labels, so that its first label alone is seldom followed; by chance it would be once in " +
                                     std::to_string(labels.cards.size()) + ".");
  int number = 0;
  for (const sample_text& t : best->samples) {
    text_sample sample{"Continuation " + std::to_string(++number), t.prompt, {}};
    for (const sample_sentence& s : t.sentences) {
      planned_sentence shown{s.text};
      if (s.planned >= 0) {
        shown.label = s.planned;
        if (s.complete) shown.followed = s.planned == s.own;
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
  report page("Planner and language model on " + o.text.filename().string());
  std::vector<variant_result> mine;
  for (const variant_result& r : results)
    if (std::find(o.variants.begin(), o.variants.end(), r.name) != o.variants.end() && r.seed >= o.first_seed && r.seed < o.first_seed + o.seeds)
      mine.push_back(r);
  std::vector<variant_plan> variants;
  for (const std::string& name : o.variants) variants.push_back(plan_of(name, o));
  add_perplexity(page, run, mine, o.variants);
  add_paths(page, mine, variants);
  page.section("The table", "Means over seeds. Differences in nats per token with 95 % intervals over documents; * where the interval leaves out 0. Its fixed: "
                            "the variant that differs by the plan alone (of the same tuning, encoder or rows, as fixed-lora is for mixture-joint-lora). Accuracy, "
                            "cross-entropy and entropy are those of the planner that the variant uses.");
  const auto [columns, rows] = results_rows(mine, variants);
  page.table(columns, rows, "Losses");
  const auto [more_columns, more_rows] = generation_rows(mine, variants);
  if (!more_rows.empty()) {
    page.table(more_columns, more_rows, "Generated text");
    index_t documents = 0;
    for (const variant_result& r : mine)
      if (r.generation) documents = std::max(documents, r.generation->documents);
    page.paragraph("Up to " + std::to_string(documents) + " documents a seed, " + std::to_string(o.generate_tokens) + " tokens each. ROUGE-2 (more is "
                   "nearer) and label edits (fewer is nearer) compare continuations with the true ones; latent perplexity is near that of true text "
                   "where labels follow each other as in training; MAUVE (1: alike) compares single sentences of texts begun from nothing with true "
                   "ones. Plans are followed by chance once in " + std::to_string(o.labels) + ". With so few documents small differences mean nothing.");
  }
  const label_pages labels = read_labels(folder.file("seed-" + std::to_string(o.first_seed) + ".labels.json"));
  add_samples(page, mine, labels, o.first_seed);
  add_labels(page, labels);
  add_curves(page, folder.file("metrics.jsonl"), o.first_seed);
  // Steps that were fitted to a time are given as numbers, so that the command means them anywhere.
  std::vector<std::string> words;
  for (std::size_t i = 0; i < run.command.size(); ++i) {
    const bool minutes = run.command[i] == "--minutes" || run.command[i].starts_with("--minutes=");
    if (!minutes) words.push_back(run.command[i]);
    else if (run.command[i] == "--minutes") ++i;
  }
  if (o.minutes > 0)
    for (const auto& [flag, steps] : {std::pair{"--base-steps", w.base_steps}, {"--planner-steps", w.planner_steps}, {"--variant-steps", w.variant_steps}})
      words.push_back(flag), words.push_back(std::to_string(steps));
  std::string command;
  for (const std::string& word : words) command += (command.empty() ? "" : " ") + quoted(word);
  std::set<std::string> devices;
  for (const variant_result& r : mine) devices.insert(r.device + " " + r.precision);
  std::string device;
  for (const std::string& d : devices) device += (device.empty() ? "" : ", ") + d;
  std::vector<fact> facts{{"command", command, true},
                          {"corpus", run.corpus},
                          {"steps", "base " + std::to_string(w.base_steps) + ", planner at most " + std::to_string(w.planner_steps) + ", each variant " +
                                        std::to_string(w.variant_steps)},
                          {"seeds", std::to_string(o.first_seed) + (o.seeds > 1 ? " to " + std::to_string(o.first_seed + o.seeds - 1) : "")},
                          {"device", device + "; " + std::to_string(o.threads) + " threads"},
                          {"versions", "planlm " + std::string(version) + ", ICU " U_ICU_VERSION ", JSON " + json_version()}};
  for (const std::string& r : reports) facts.push_back({"labels", r});
  for (const fact& f : environment_facts()) facts.push_back(f);
  page.section("What the variants are");
  std::vector<fact> abouts;
  for (const variant_plan& v : variants) abouts.push_back({v.name, v.about});
  page.facts(abouts);
  page.section("How this was made", "The command in a new folder gives the same numbers on a machine of this kind.").facts(facts);
  folder.write_text("report.html", page.html());
}

}  // namespace train_planner_lm
