/// Values, what was seen before, and what has to hold.
#include "recovery_page.hpp"
#include <algorithm>
#include <cmath>
#include <functional>
#include <planlm/io/chart.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/training/statistics.hpp>

namespace train_token_guidance::recovery {
namespace {

using trainer::score_column;

struct toy {
  std::string title, caption;
  std::vector<score_column> columns;
  std::function<bool(const toy_method&)> mine;
};
const std::vector<toy>& all_toys() {
  static const std::vector<toy> all{
      {"Pairs: is the better of two sequences found?",
       "Share of fresh pairs, for lengths 4 to 16 and for length 5; rank correlation of rewards with the qualities of tokens; correlation of "
       "scores with lengths; loss before the first step, ln 120 = 4.7875 where all scores of a list of five are equal.",
       {{"score", "lengths 4-16", 3},
        {"score_even", "length 5", 3},
        {"spearman", "order 4-16", 3},
        {"spearman_even", "order 5", 3},
        {"length_correlation", "with length", 2},
        {"first_loss", "first loss", 4}},
       [](const toy_method& m) { return std::holds_alternative<pair_method>(m.what); }},
      {"Loop: what does a policy reach that has nothing but guidance?",
       "Mean true score of the last policy's samples, its entropy in nats per token, the best of 200 samples, and how often the true score was "
       "asked for in training. Scores compare like with like only at like entropy: a reward's scale against alpha decides how far a policy "
       "collapses.",
       {{"score", "true score", 3}, {"entropy", "entropy", 2}, {"best", "best of 200", 3}, {"calls", "scores asked for", 0}},
       [](const toy_method& m) { return std::holds_alternative<loop_method>(m.what); }},
      {"References: how much is learnt of what is good in them?",
       "Probability of good tokens (.74 in the references), unigram F1 with new references, mean reward of good and of other tokens, and the "
       "probability that is the optimum under these rewards.",
       {{"score", "on good tokens", 3},
        {"f1", "F1", 3},
        {"reward_good", "reward, good", 3},
        {"reward_other", "other", 3},
        {"expected", "optimum", 3}},
       [](const toy_method& m) { return std::holds_alternative<reference_method>(m.what); }}};
  return all;
}

/// The pilot's mean and whether it is in our interval; empty if it has none.
std::string beside(const trainer::run_book& book, const toy_method& m, const score_column& column, const trainer::common_options& c) {
  const auto pilot = m.pilot.find(column.value);
  if (pilot == m.pilot.end()) return "";
  const std::string value = with_digits(pilot->second, column.digits);
  const std::vector<double> ours = book.values(m.name, column.value, c);
  if (ours.size() < 2) return value;
  const sample_summary s = summarize(ours);
  const double half = .5 * std::pow(10., -column.digits);  // the pilot's numbers are rounded
  return value + (pilot->second >= s.lower - half && pilot->second <= s.upper + half ? "  in" : " out");
}

toy_table table_of(const toy& which, const trainer::run_book& book, const recovery_options& o, const trainer::common_options& c) {
  toy_table t{which.title, which.caption, {{{"method", text_table::left}}, {}}};
  const auto compared = [&](const score_column& column) {
    return pilot_sizes(o) && std::any_of(all_methods().begin(), all_methods().end(),
                                         [&](const toy_method& m) { return which.mine(m) && m.pilot.contains(column.value); });
  };
  for (const score_column& column : which.columns) {
    t.rows.columns.push_back({column.title, text_table::right});
    if (compared(column)) t.rows.columns.push_back({"pilot", text_table::right});
  }
  for (const toy_method& m : all_methods()) {
    if (!which.mine(m) || book.values(m.name, "score", c).empty()) continue;
    std::vector<std::string> row{m.name};
    for (const score_column& column : which.columns) {
      row.push_back(book.mean(m.name, column, c));
      if (compared(column)) row.push_back(beside(book, m, column, c));
    }
    t.rows.rows.push_back(std::move(row));
  }
  return t;
}

/// Facts of the pilot that hold for means over five seeds; one seed is enough for none.
toy_table gates(const trainer::run_book& book, const trainer::common_options& c) {
  toy_table t{"What has to hold, for means over seeds", "", {}};
  t.rows.columns = {{"what", text_table::left}, {"value", text_table::right}, {"expected", text_table::right}, {"holds", text_table::left}};
  const auto values = [&](const std::string& method, const std::string& value) { return book.values(method, value, c); };
  const auto mean = [&](const std::string& method, const std::string& value) {
    const std::vector<double> v = values(method, value);
    return v.empty() ? NAN : summarize(v).mean;
  };
  const auto gate = [&](const std::string& what, double value, double least, double most, int digits) {
    if (std::isnan(value)) return;
    std::string expected = std::isfinite(least) ? "from " + with_digits(least, digits) : "";
    if (std::isfinite(most)) expected += (expected.empty() ? "to " : " to ") + with_digits(most, digits);
    t.rows.rows.push_back({what, with_digits(value, digits), expected, value >= least && value <= most ? "yes" : "no"});
  };
  const auto furthest = [](const std::vector<double>& a, const std::function<double(std::size_t)>& b) {
    double most = a.empty() ? NAN : 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b(i)));
    return most;
  };
  const std::vector<double> even_average = values("avg-k5", "score_even"), even_sum = values("sum", "score_even");
  gate("pairs, lengths 4-16: avg-k5", mean("avg-k5", "score"), .85, 1, 3);
  gate("pairs, lengths 4-16: sum", mean("sum", "score"), 0, .75, 3);
  const double loss_gap = furthest(values("avg-k5", "first_loss"), [](std::size_t) { return std::log(120.); });
  gate("pairs: avg-k5's first loss - ln 120, any seed", loss_gap, 0, 1e-3, 6);
  if (even_average.size() == even_sum.size()) {
    const double gap = furthest(even_average, [&](std::size_t i) { return even_sum[i]; });
    gate("pairs, length 5: avg-k5 - sum, any seed", gap, 0, 1e-6, 7);
  }
  gate("loop: retrain - up-front", mean("retrain", "score") - mean("up-front", "score"), .08, INFINITY, 3);
  gate("loop: retrain - once", mean("retrain", "score") - mean("once", "score"), .10, INFINITY, 3);
  gate("references: mle", mean("mle", "score"), .71, .77, 3);
  gate("references: weighted-mle", mean("weighted-mle", "score"), .79, .85, 3);
  return t;
}

/// Means of a value with Student's intervals.
std::vector<interval_bar> bars(const toy& which, const trainer::run_book& book, const trainer::common_options& c) {
  std::vector<interval_bar> all;
  for (const toy_method& m : all_methods()) {
    if (!which.mine(m)) continue;
    const std::vector<double> v = book.values(m.name, "score", c);
    if (v.empty()) continue;
    const sample_summary s = summarize(v);
    all.push_back({m.name, s.mean, v.size() > 1 ? s.lower : s.mean, v.size() > 1 ? s.upper : s.mean, m.name == "avg-k5" || m.name == "retrain"});
  }
  return all;
}

}  // namespace

std::vector<toy_table> tables(const trainer::run_book& book, const recovery_options& o, const trainer::common_options& c) {
  std::vector<toy_table> all;
  for (const toy& which : all_toys()) all.push_back(table_of(which, book, o, c));
  if (pilot_sizes(o) && c.seeds >= 5) all.push_back(gates(book, c));
  std::erase_if(all, [](const toy_table& t) { return t.rows.rows.empty(); });
  return all;
}

std::string about_pilot(const recovery_options& o, const trainer::common_options& c) {
  if (!pilot_sizes(o)) return "Sizes are not those of the earlier pilot: its numbers are left out.";
  std::string words = "pilot: what an earlier pilot saw, the mean over five seeds";
  if (c.seeds > 1)
    words += "; in or out of our 95 % interval. It has an interval of its own: of means over five seeds of the same thing about one in eight is "
             "out, and rows of a table share their seeds";
  return words + ". What it leaves open was decided here; of the loop, the share of pairs that have a bonus and guidance's rate were chosen so that "
                 "its delayed rewards at large alpha and its entropies come out.";
}

void write_page(const run_folder& folder, const trainer::run_book& book, const recovery_options& o, const trainer::common_options& c) {
  trainer::page_words words;
  words.title = "Guidance of tokens in tables";
  words.lead =
      "Guidance gives tokens rewards and is learnt from an order of whole sequences. Three tables in which everything is known: whether it finds "
      "the better of two sequences, by how rewards become a score (pairs); what a policy reaches that has nothing else (loop); and what it adds to "
      "likelihood on references of which three tokens in ten are junk (references). They say nothing about language models.";
  for (const toy_method& m : all_methods()) words.methods.push_back({m.name, m.about});
  words.columns = {{"score", "score", 3}, {"minus_pilot", "minus the earlier pilot's mean", 3}};
  words.table_caption =
      "Score: the share of pairs in which the better one is found, lengths 4 to 16 (avg-k5 to last); mean true score (retrain to delayed-z-a1); "
      "probability of good tokens (mle, weighted-mle).";
  words.more = [&](report& page) {
    page.paragraph(about_pilot(o, c));
    const std::string means = c.seeds > 1 ? "Means over seeds and half of Student's 95 % interval." : "One seed.";
    for (const toy_table& t : tables(book, o, c)) {
      page.section(t.title, t.caption).table(t.rows.columns, t.rows.rows, means);
      for (const toy& which : all_toys()) {
        if (which.title != t.title || t.rows.rows.size() < 3) continue;
        const std::string about = c.seeds > 1 ? "Mean over seeds with Student's 95 % interval." : "One seed.";
        page.chart(interval_chart({.title = which.columns[0].title, .caption = about, .x_title = which.columns[0].title}, bars(which, book, c)));
      }
    }
  };
  trainer::write_page(folder, book, words, c);
}

}  // namespace train_token_guidance::recovery
