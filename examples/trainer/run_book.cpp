/// run.json, results.json, the table and the page.
#include "run_book.hpp"
#include <algorithm>
#include <cmath>
#include <fstream>
#include <utility>
#include <nlohmann/json.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_curves.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/training/statistics.hpp>

namespace trainer {
namespace {

using json = nlohmann::ordered_json;

json to_json(const outcome& o) {
  json values = json::object(), samples = json::array();
  for (const auto& [name, value] : o.values) values[name] = value;  // not a finite number: null
  for (const written_text& t : o.samples) samples.push_back({{"given", t.given}, {"written", t.written}});
  return {{"method", o.method}, {"seed", o.seed}, {"values", values}, {"samples", samples}};
}
outcome outcome_from(const json& j) {
  outcome o{j.at("method"), j.at("seed"), {}, {}};
  for (const auto& [name, value] : j.at("values").items()) o.values[name] = value.is_null() ? NAN : value.get<double>();
  for (const json& t : j.at("samples")) o.samples.push_back({t.at("given"), t.at("written")});
  return o;
}
json to_json(const std::vector<std::pair<std::string, std::string>>& settings) {
  json all = json::object();
  for (const auto& [name, value] : settings) all[name] = value;
  return all;
}
json read(const std::filesystem::path& file, const std::string& what) {
  std::ifstream in(file);
  json j = json::parse(in, nullptr, false);
  if (!j.is_object()) throw input_error(file.string() + ": is no " + what + " of this program; remove it or choose another --out");
  return j;
}
std::string quoted(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./,=:+-") == std::string::npos;
  if (plain) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

std::string printed(const table_rows& table) {
  if (table.rows.empty()) return "";
  text_table text(table.columns);
  for (const auto& row : table.rows) text.row(row);
  return text.text();
}

run_book::run_book(const run_folder& folder, const std::string& program, std::vector<std::pair<std::string, std::string>> settings,
                   std::vector<std::string> command)
    : folder_(folder), settings_(std::move(settings)), command_(std::move(command)) {
  settings_.insert(settings_.begin(), {"program", program});
  identity_ = to_json(settings_).dump();
  const auto run_file = folder.file("run.json"), results_file = folder.file("results.json");
  const auto compare = [&](const std::filesystem::path& file, const json& before) {
    for (const auto& [name, value] : settings_) {
      const auto found = before.find(name);
      if (found != before.end() && found->is_string() && *found == value) continue;
      const std::string theirs = found == before.end() || !found->is_string() ? std::string("nothing of the kind") : std::string("'").append(found->get<std::string>()).append("'");
      throw input_error(file.string() + ": is of a run with " + name + " " + theirs + ", this one has '" + value +
                        "'; choose another --out or remove the folder");
    }
  };
  if (std::filesystem::exists(run_file)) {
    const json before = read(run_file, "run description");
    if (!before.contains("settings")) throw input_error(run_file.string() + ": is no run description of this program; choose another --out");
    compare(run_file, before.at("settings"));
  } else {
    folder.write_json("run.json", {{"settings", to_json(settings_)}, {"command", command_}});
  }
  if (!std::filesystem::exists(results_file)) return;
  const json before = read(results_file, "results file");
  try {
    compare(results_file, before.at("settings"));
    for (const json& j : before.at("outcomes")) outcomes_.push_back(outcome_from(j));
  } catch (const json::exception&) {
    throw input_error(results_file.string() + ": is no results file of this program; remove it or choose another --out");
  }
}

const outcome* run_book::find(const std::string& method, int seed) const {
  for (const outcome& o : outcomes_)
    if (o.method == method && o.seed == seed) return &o;
  return nullptr;
}
void run_book::add(outcome o) {
  std::erase_if(outcomes_, [&](const outcome& before) { return before.method == o.method && before.seed == o.seed; });
  outcomes_.push_back(std::move(o));
  write();
}
void run_book::write() const {
  json list = json::array();
  for (const outcome& o : outcomes_) list.push_back(to_json(o));
  folder_.write_json("results.json", {{"settings", to_json(settings_)}, {"command", command_}, {"outcomes", list}});
}

std::vector<double> run_book::values(const std::string& method, const std::string& value, const common_options& o) const {
  std::vector<double> all;
  for (int seed = o.first_seed; seed < o.first_seed + o.seeds; ++seed)
    if (const outcome* mine = find(method, seed))
      if (const auto found = mine->values.find(value); found != mine->values.end() && std::isfinite(found->second)) all.push_back(found->second);
  return all;
}
std::string run_book::mean(const std::string& method, const score_column& column, const common_options& o) const {
  const std::vector<double> all = values(method, column.value, o);
  if (all.empty()) return "-";
  const sample_summary s = summarize(all);
  const std::string value = with_digits(s.mean, column.digits);
  return s.count > 1 ? value + " ±" + with_digits((s.upper - s.lower) / 2, column.digits) : value;
}
std::string run_book::difference(const std::string& a, const std::string& b, const score_column& column, const common_options& o) const {
  std::vector<double> all;
  for (int seed = o.first_seed; seed < o.first_seed + o.seeds; ++seed) {
    const outcome *mine = find(a, seed), *other = find(b, seed);
    if (!mine || !other || !mine->values.contains(column.value) || !other->values.contains(column.value)) continue;
    const double d = mine->values.at(column.value) - other->values.at(column.value);
    if (std::isfinite(d)) all.push_back(d);
  }
  if (all.empty()) return "";
  const sample_summary s = summarize(all);
  return s.count > 1 ? with_interval(s.mean, s.lower, s.upper, column.digits) : with_sign(s.mean, column.digits);
}
table_rows run_book::table(const std::vector<method_about>& methods, const std::vector<score_column>& columns, const common_options& o) const {
  table_rows t{{{"method", text_table::left}}, {}};
  for (const score_column& c : columns) t.columns.push_back({c.title, text_table::right});
  for (const method_about& m : methods) {
    const bool run = std::any_of(outcomes_.begin(), outcomes_.end(), [&](const outcome& one) {
      return one.method == m.name && one.seed >= o.first_seed && one.seed < o.first_seed + o.seeds;
    });
    if (!run) continue;
    std::vector<std::string> row{m.name};
    for (const score_column& c : columns) row.push_back(mean(m.name, c, o));
    t.rows.push_back(std::move(row));
  }
  return t;
}

void write_page(const run_folder& folder, const run_book& book, const page_words& words, const common_options& o) {
  report page(words.title);
  const std::string seeds = o.seeds > 1 ? "seeds " + std::to_string(o.first_seed) + " to " + std::to_string(o.first_seed + o.seeds - 1)
                                        : "seed " + std::to_string(o.first_seed);
  page.section("What came out", words.lead);
  const table_rows t = book.table(words.methods, words.columns, o);
  if (!t.rows.empty())
    page.table(t.columns, t.rows, words.table_caption + (o.seeds > 1 ? " Means over " + seeds + " and half of Student's 95 % interval." : " One seed."));
  if (words.more) words.more(page);
  bool headed = false;
  for (const curve_chart& c : words.curves) {
    std::vector<series> lines;
    for (const run_curve& curve : run_curves(folder.file("metrics.jsonl"), c.value))
      if (curve.seed == o.first_seed) lines.push_back(curve.points);
    if (lines.empty()) continue;
    if (!headed) page.section("Over training", "Curves of the first seed.");
    headed = true;
    page.chart(line_chart(c.options, lines));
  }
  headed = false;
  for (const method_about& m : words.methods) {
    const outcome* first = book.find(m.name, o.first_seed);
    if (!first || first->samples.empty()) continue;
    if (!headed) page.section("Written texts", words.samples_lead);
    headed = true;
    // Texts for one prompt stand together.
    for (std::size_t i = 0; i < first->samples.size();) {
      text_sample sample{m.name, first->samples[i].given, {}};
      for (const std::string given = sample.context; i < first->samples.size() && first->samples[i].given == given; ++i)
        sample.sentences.push_back({first->samples[i].written});
      page.sample(sample);
    }
  }
  std::vector<fact> abouts;
  for (const method_about& m : words.methods)
    if (book.find(m.name, o.first_seed)) abouts.push_back({m.name, m.about});
  page.section("What the methods are").facts(abouts);
  std::string command;
  for (const std::string& word : book.command()) command += (command.empty() ? "" : " ") + quoted(word);
  std::vector<fact> facts{{"command", command, true}};
  if (!words.corpus.empty()) facts.push_back({"text", words.corpus});
  facts.push_back({"runs", seeds + "; " + std::to_string(o.threads) + (o.threads == 1 ? " thread" : " threads")});
  facts.push_back({"version", "planlm " + std::string(version)});
  for (const fact& f : environment_facts()) facts.push_back(f);
  page.section("How this was made", "The command in a new folder gives the same numbers on a machine of this kind.").facts(facts);
  folder.write_text("report.html", page.html());
}

}  // namespace trainer
