/// Words, curves and differences.
#include "page.hpp"
#include <span>
#include <utility>
#include <planlm/io/chart.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_curves.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/training/statistics.hpp>
#include "experiment.hpp"

namespace train_latent_classifier {
namespace {

using namespace planlm;

// Pairs of methods whose difference says what one step of the recipe does.
const std::vector<std::pair<std::string, std::string>> pairs{
    {"gflownet-em", "sft"}, {"gflownet-em", "prior"}, {"gflownet-em", "gflownet"}, {"gflownet-sft", "sft"}, {"sft", "vectors"}};

trainer::table_rows difference_rows(const trainer::run_book& book, const options& o) {
  trainer::table_rows t{{{"difference of accuracy", text_table::left}}, {}};
  for (const trainer::score_column& c : columns(o)) t.columns.push_back({c.title, text_table::right});
  for (const auto& [a, b] : pairs) {
    std::vector<std::string> row{a + " - " + b};
    bool any = false;
    for (const trainer::score_column& c : columns(o)) {
      row.push_back(book.difference(a, b, c, o.common));
      any = any || !row.back().empty();
    }
    if (any) t.rows.push_back(std::move(row));
  }
  return t;
}

std::vector<series> accuracies(const trainer::run_book& book, const options& o) {
  std::vector<series> lines;
  for (const trainer::method_about& m : methods()) {
    series s{m.name, {}, {}};
    for (const int count : o.counts) {
      const std::vector<double> values = book.values(m.name, score_name("accuracy", count), o.common);
      if (values.empty()) continue;
      s.x.push_back(count);
      s.y.push_back(summarize(values).mean);
    }
    if (!s.x.empty()) lines.push_back(std::move(s));
  }
  return lines;
}

/// Curves of the first seed at the largest number of labels.
std::vector<series> curves(const run_folder& folder, const options& o, const std::string& value) {
  const std::string end = "-" + std::to_string(o.counts.back());
  std::vector<series> lines;
  for (const run_curve& c : run_curves(folder.file("metrics.jsonl"), value))
    if (c.seed == o.common.first_seed && c.stage.ends_with(end)) lines.push_back(c.points);
  return lines;
}

}  // namespace

std::vector<trainer::score_column> columns(const options& o) {
  std::vector<trainer::score_column> all;
  for (const int count : o.counts) all.push_back({score_name("accuracy", count), std::to_string(count) + " labels", 1});
  return all;
}

std::string differences(const trainer::run_book& book, const options& o) {
  const trainer::table_rows t = difference_rows(book, o);
  return t.rows.empty() ? "" : "\n" + trainer::printed(t);
}

void write_report(const run_folder& folder, const trainer::run_book& book, const options& o, const std::string& text) {
  trainer::page_words words;
  words.title = "Labels through rationales";
  words.lead = "Two classes of sentences, told apart from a few labelled ones. A rationale is one to " + std::to_string(o.longest) +
               " tokens that a sampler writes for a sentence; a label model reads the label from both, and " + std::to_string(o.votes) +
               " rationales vote. The base language model was made from unlabelled sentences: it has seen lines of the form \"sentence, CUE, "
               "words of it and of sentences like it, SO, one more such word\", and nothing of which file a sentence came from. " +
               (o.score == "test" ? "Accuracy is that on test sentences; no setting was chosen on them by this program."
                                  : "Accuracy is that on VALIDATION sentences: this run is for choosing settings.");
  words.corpus = text;
  words.methods = methods();
  words.columns = columns(o);
  words.table_caption = "Accuracy in percent, by the number of labelled sentences.";
  words.samples_lead = "Rationales for scored sentences, four each, with the label that was read from them; before the colon the true label.";
  words.more = [&](report& page) {
    const std::vector<series> lines = accuracies(book, o);
    if (o.counts.size() > 1)
      page.chart(line_chart({.title = "Accuracy", .caption = "Means over seeds.", .x_title = "labelled sentences", .y_title = "percent", .log_x = true}, lines));
    const trainer::table_rows t = difference_rows(book, o);
    if (!t.rows.empty()) page.section("What each step changes", "Differences seed by seed: same labelled sentences, same scored sentences.").table(t.columns, t.rows, "Percentage points, with Student's 95 % interval over seeds where there are several.");
    const std::string where = "First seed, " + std::to_string(o.counts.back()) + " labels.";
    const std::vector<series> spread = curves(folder, o, "balance/spread"), learnt = curves(folder, o, "smoothed");
    if (!spread.empty() || !learnt.empty()) page.section("Over training", where);
    if (!spread.empty())
      page.chart(line_chart({.title = "Distance of samplers from their target", .caption = "Spread of log q - log R over the rationales of a sentence; 0 at the posterior.",
                             .x_title = "step", .y_title = "nats", .log_y = true}, spread));
    std::vector<series> labels;
    for (const series& s : learnt) {
      bool samples = false;
      for (const series& other : spread) samples = samples || other.name == s.name;
      if (!samples) labels.push_back(s);
    }
    if (!labels.empty())
      page.chart(line_chart({.title = "Loss of label models", .caption = "Smoothed over steps, on the labelled sentences.", .x_title = "step", .y_title = "nats"}, labels));
  };
  trainer::write_page(folder, book, words, o.common);
}

}  // namespace train_latent_classifier
