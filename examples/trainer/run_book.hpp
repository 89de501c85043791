/// What a run is and what came out so far: run.json says which settings a folder belongs to, results.json keeps the scores of every method and
/// seed as soon as they are there, so that the same command goes on where it stopped. From these the table and the page.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>
#include <planlm/io/chart.hpp>
#include <planlm/io/table.hpp>
#include "flags.hpp"

namespace planlm {
class report;
class run_folder;
}  // namespace planlm

namespace trainer {

using namespace planlm;

/// A text with what it was written for.
struct written_text {
  std::string given, written;
};
/// The scores of one method with one seed.
struct outcome {
  std::string method;
  int seed = 0;
  std::map<std::string, double> values;  // NaN where there was nothing to score
  std::vector<written_text> samples;
};
/// A method of the table, and what it is in words.
struct method_about {
  std::string name, about;
};
/// A score of the table: its name in `values`, its title there, digits after the point.
struct score_column {
  std::string value, title;
  int digits = 3;
};
struct table_rows {
  std::vector<text_table::column> columns;
  std::vector<std::vector<std::string>> rows;
};
/// The table for a terminal; empty if it has no rows.
std::string printed(const table_rows& table);

class run_book {
 public:
  /// Settings: names of flags and values, all that decides the numbers, e.g. flags::settings() and the fingerprint of a text.
  /// Errors: input_error for a folder of another run, naming the first setting that differs, and for files that are damaged.
  run_book(const run_folder& folder, const std::string& program, std::vector<std::pair<std::string, std::string>> settings,
           std::vector<std::string> command);

  /// Program and settings in one line: two runs that share it compute the same.
  const std::string& identity() const { return identity_; }
  /// Null if it has not been run.
  const outcome* find(const std::string& method, int seed) const;
  /// Replaces what was known of this method and seed; results.json is written.
  void add(outcome o);
  const std::vector<outcome>& outcomes() const { return outcomes_; }
  const std::vector<std::string>& command() const { return command_; }

  /// Values of a method over the seeds of `o` that were run and have it, NaN left out.
  std::vector<double> values(const std::string& method, const std::string& value, const common_options& o) const;
  /// The mean over seeds, and where there are several half the width of Student's 95 % interval: "1.234 +-.056". "-" without a value.
  std::string mean(const std::string& method, const score_column& column, const common_options& o) const;
  /// value(a) - value(b) over the seeds that both have, with Student's 95 % interval; empty if there are none.
  std::string difference(const std::string& a, const std::string& b, const score_column& column, const common_options& o) const;
  /// A row for each method that was run.
  table_rows table(const std::vector<method_about>& methods, const std::vector<score_column>& columns, const common_options& o) const;

 private:
  void write() const;
  const run_folder& folder_;
  std::string identity_;
  std::vector<std::pair<std::string, std::string>> settings_;
  std::vector<std::string> command_;
  std::vector<outcome> outcomes_;
};

/// Curves of metrics.jsonl over steps: `value` is a path there such as "smoothed" or "exact/tv".
struct curve_chart {
  std::string value;
  chart_options options;
};
/// What report.html says beside tables and curves.
struct page_words {
  std::string title, lead, corpus;
  std::vector<method_about> methods;
  std::vector<score_column> columns;
  std::string table_caption;
  std::vector<curve_chart> curves;              // of the first seed, a line for every stage that has the value
  std::function<void(report&)> more = {};       // sections of its own, after the table
  std::string samples_lead = {};                // text samples of the first seed, if there are any
};
/// report.html: summary, table, pictures, samples, methods, how it was made.
void write_page(const run_folder& folder, const run_book& book, const page_words& words, const common_options& o);

}  // namespace trainer
