/// run.json and results.json, there and back, and the table.
#include "results.hpp"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <type_traits>
#include <nlohmann/json.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/encoder_file.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>

namespace train_planner_lm {
namespace {

using json = nlohmann::ordered_json;

json to_json(const std::vector<document_loss>& documents) {
  json list = json::array();
  for (const document_loss& d : documents) list.push_back({{"nll", d.nll}, {"tokens", d.tokens}});
  return list;
}
std::vector<document_loss> losses_from(const json& list) {
  std::vector<document_loss> documents;
  for (const auto& d : list) documents.push_back({d.at("nll").get<double>(), d.at("tokens").get<index_t>()});
  return documents;
}
double number_or_nan(const json& j, const char* key) { return j.at(key).is_null() ? NAN : j.at(key).get<double>(); }
variant_result result_from(const json& j) {
  variant_result r;
  r.name = j.at("name"), r.seed = j.at("seed"), r.documents = losses_from(j.at("documents"));
  const json& planner = j.at("planner");
  r.accuracy = number_or_nan(planner, "accuracy"), r.cross_entropy = number_or_nan(planner, "cross_entropy"), r.entropy = number_or_nan(planner, "entropy");
  r.tokens_per_second = j.at("tokens_per_second"), r.seconds = j.at("seconds");
  if (j.contains("checks"))
    for (const auto& [name, check] : j.at("checks").items()) r.checks[name] = losses_from(check.at("documents"));
  r.device = j.value("device", r.device), r.precision = j.value("precision", r.precision);
  if (j.contains("temperature")) {
    r.temperature = j.at("temperature").at("chosen");
    r.tried = j.at("temperature").at("valid_nll").get<std::map<std::string, double>>();
  }
  if (j.contains("generation")) {
    const json& g = j.at("generation");
    const auto number = [&](const char* key) { return number_or_nan(g, key); };
    r.generation = {g.at("asked").get<index_t>(), g.at("tokens_each").get<index_t>(), g.at("documents").get<index_t>(), number("rouge2"), number("edits"), number("edits_normalised"), number("followed"),
                    number("latent_perplexity"), number("latent_perplexity_of_truth"), number("mauve")};
    for (const json& t : g.at("samples")) {
      sample_text text{t.at("prompt"), {}};
      for (const json& s : t.at("sentences")) text.sentences.push_back({s.at("text"), s.at("planned"), s.at("own"), s.at("complete")});
      r.samples.push_back(std::move(text));
    }
  }
  return r;
}

/// The documents of one variant, by seed.
std::map<int, std::vector<document_loss>> by_seed(const std::vector<variant_result>& results, const std::string& name,
                                                         const std::string& check = "") {
  std::map<int, std::vector<document_loss>> seeds;
  for (const variant_result& r : results)
    if (r.name == name) {
      if (check.empty()) seeds[r.seed] = r.documents;
      else if (r.checks.contains(check)) seeds[r.seed] = r.checks.at(check);
    }
  return seeds;
}
/// Difference of two variants in nats per token with its 95 % document-bootstrap interval, averaged over the seeds both have. There is
/// no interval to be had from one document.
std::string difference(const std::map<int, std::vector<document_loss>>& a, const std::map<int, std::vector<document_loss>>& b) {
  std::vector<std::vector<document_loss>> mine, other;
  for (const auto& [seed, documents] : a)
    if (const auto found = b.find(seed); found != b.end()) {
      mine.push_back(documents);
      other.push_back(found->second);
    }
  if (mine.empty()) return "";
  const interval_estimate d = paired_bootstrap_over_seeds(mine, other, 2000, 1);
  if (mine[0].size() < 2) return (d.value < 0 ? "" : "+") + with_digits(d.value, 4) + " [one document]";
  return with_interval(d.value, d.lower, d.upper, 4) + (d.significant() ? " *" : "");
}
json to_json(const variant_result& r) {
  json j{{"name", r.name}, {"seed", r.seed}, {"test_nll", r.nll()}, {"test_ppl", std::exp(r.nll())},
                           {"documents", to_json(r.documents)},
                           {"planner", {{"accuracy", r.accuracy}, {"cross_entropy", r.cross_entropy}, {"entropy", r.entropy}}},
                           {"tokens_per_second", r.tokens_per_second}, {"seconds", r.seconds},
                           {"device", r.device}, {"precision", r.precision}};
  for (const auto& [name, documents] : r.checks)
    j["checks"][name] = {{"test_nll", nats_per_token(documents)}, {"documents", to_json(documents)}};
  if (!r.tried.empty()) j["temperature"] = {{"chosen", r.temperature}, {"valid_nll", r.tried}};
  if (r.generation) {
    const generation_scores& g = *r.generation;
    json samples = json::array();
    for (const sample_text& t : r.samples) {
      json sentences = json::array();
      for (const sample_sentence& s : t.sentences) sentences.push_back({{"text", s.text}, {"planned", s.planned}, {"own", s.own}, {"complete", s.complete}});
      samples.push_back({{"prompt", t.prompt}, {"sentences", sentences}});
    }
    j["generation"] = {{"asked", g.asked}, {"tokens_each", g.tokens}, {"documents", g.documents}, {"rouge2", g.rouge2}, {"edits", g.edits}, {"edits_normalised", g.edits_normalised},
                       {"followed", g.followed}, {"latent_perplexity", g.latent_perplexity},
                       {"latent_perplexity_of_truth", g.latent_perplexity_of_truth}, {"mauve", g.mauve}, {"samples", samples}};
  }
  return j;
}
json to_json(const work& w) {
  return {{"base", w.base_steps}, {"planner", w.planner_steps}, {"variant", w.variant_steps}};
}

/// f(name, value) for all that decides the numbers: two runs with equal settings, text and steps compute the same on one device and precision.
template <class Options, class F>
void for_each_setting(Options& o, const F& f) {
  f("format", o.format), f("splitter", o.splitter), f("score", o.score);
  f("layers", o.layers), f("width", o.width), f("heads", o.heads), f("length", o.length), f("vocabulary", o.vocabulary);
  f("first_adapted", o.first_adapted), f("labels", o.labels), f("label_width", o.label_width), f("context", o.context);
  f("planner_layers", o.planner_layers), f("planner_heads", o.planner_heads), f("planner_inner", o.planner_inner);
  f("batch", o.batch), f("variant_batch", o.variant_batch), f("planner_batch", o.planner_batch);
  f("base_rate", o.base_rate), f("adapter_rate", o.adapter_rate), f("planner_rate", o.planner_rate);
  f("joint_planner_rate", o.joint_planner_rate), f("clip", o.clip);
  f("placement", o.placement), f("gate", o.gate), f("tables", o.tables), f("table_start", o.table_start), f("tuning", o.tuning);
  f("prefix_rows", o.prefix_rows), f("paths", o.paths), f("path_steps", o.path_steps), f("horizon", o.horizon), f("plan_layers", o.plan_layers);
  f("rank", o.rank), f("alpha", o.alpha), f("planner_loss", o.planner_loss), f("unfreeze_at", o.unfreeze_at);
  f("unfreeze_step", o.unfreeze_step), f("low_rank_rate", o.low_rank_rate), f("full_rate", o.full_rate);
}
json config_of(const options& o) {
  json config = json::object();
  for_each_setting(o, [&](const char* name, const auto& value) { config[name] = value; });
  return config;
}
json identity_of(const run_description& run) {
  json identity = config_of(run.flags);
  identity["text"] = std::to_string(run.text);
  return identity;
}

}  // namespace

void keep(const run_folder& folder, const material& m) {
  folder.write_text("vocabulary.model", m.text.vocabulary.model());
  write_encoder(folder.file("encoder.safetensors"), m.encoder);
  json ends = json::array();
  for (std::size_t v = 0; v < m.ends.size(); ++v)
    if (m.ends[v]) ends.push_back(v);
  folder.write_json("text.json", {{"corpus", m.text.description}, {"vocabulary", m.text.vocabulary.size()}, {"sentence_ends", ends}});
}

work settle(const run_folder& folder, const run_description& run, const std::function<work()>& plan) {
  const options& o = run.flags;
  const auto file = folder.file("run.json");
  const json asked{{"base_epochs", o.base_epochs}, {"planner_epochs", o.planner_epochs}, {"variant_epochs", o.variant_epochs},
                   {"base_steps", o.base_steps}, {"planner_steps", o.planner_steps}, {"variant_steps", o.variant_steps}};
  if (!std::filesystem::exists(file)) {
    const work w = plan();
    folder.write_json("run.json", {{"identity", identity_of(run)}, {"asked", asked}, {"minutes", o.minutes}, {"steps", to_json(w)},
                                   {"command", run.command}});
    return w;
  }
  try {
    std::ifstream in(file);
    const json before = json::parse(in);
    const auto compare = [&](const json& theirs, const json& ours) {
      for (const auto& [key, value] : ours.items()) {
        if (theirs.at(key) == value) continue;
        std::string flag = "--" + key;
        std::replace(flag.begin(), flag.end(), '_', '-');
        throw input_error(o.out.string() + ": holds a run " +
                          (key == "text" ? "on another text" : "with " + flag + " " + theirs.at(key).dump() + ", this one has " + value.dump()) +
                          "; choose another --out or remove the folder");
      }
    };
    compare(before.at("identity"), identity_of(run));
    compare(before.at("asked"), asked);
    if (before.at("minutes") != o.minutes) std::cerr << "--minutes changes nothing: the steps of this run were fixed when it began\n";
    const json& w = before.at("steps");
    return {w.at("base"), w.at("planner"), w.at("variant")};
  } catch (const json::exception&) {
    throw input_error(file.string() + ": is not a run description of this program; choose another --out");
  }
}

finished_run read_run(const std::filesystem::path& folder) {
  const auto file = folder / "run.json";
  if (!std::filesystem::exists(file)) throw input_error(folder.string() + ": holds no run of train_planner_lm (there is no run.json); name the folder that --out named");
  try {
    std::ifstream in(file);
    const json whole = json::parse(in);
    json all = whole.at("identity");
    finished_run run;
    for_each_setting(run.flags, [&](const char* name, auto& value) { value = all.at(name).get<std::decay_t<decltype(value)>>(); });
    all["steps"] = whole.at("steps");
    run.identity = all.dump();
    return run;
  } catch (const json::exception&) {
    throw input_error(file.string() + ": is not a run description of this program");
  }
}

std::string identity(const run_description& run, const work& w) {
  json all = identity_of(run);
  all["steps"] = to_json(w);
  return all.dump();
}

void write_results(const run_folder& folder, const run_description& run, const work& w, const std::vector<std::string>& reports,
                   const std::vector<variant_result>& results) {
  json config = identity_of(run), list = json::array();
  config["steps"] = to_json(w);
  // Not part of the identity: a run may go on elsewhere, from the same files. These are of the last command; each variant has its own.
  config["threads"] = run.flags.threads;
  config["device"] = run.flags.device;
  config["precision"] = run.flags.precision;
  config["command"] = run.command;
  config["labels_report"] = reports;
  for (const variant_result& r : results) list.push_back(to_json(r));
  folder.write_json("results.json", {{"corpus", run.corpus}, {"config", config}, {"variants", list}});
}

std::vector<variant_result> read_results(const run_folder& folder, const run_description& run, const work& w) {
  std::vector<variant_result> results;
  const auto file = folder.file("results.json");
  if (!std::filesystem::exists(file)) return results;
  try {
    std::ifstream in(file);
    const auto before = json::parse(in);
    json ours = identity_of(run);
    ours["steps"] = to_json(w);
    for (const auto& [name, value] : ours.items())
      if (before.at("config").at(name) != value)
        throw input_error(file.string() + ": holds results of a run with other settings (" + name + "); remove it or choose another --out");
    for (const auto& v : before.at("variants")) results.push_back(result_from(v));
  } catch (const nlohmann::json::exception&) {
    throw input_error(file.string() + ": is not a results file of this program; remove it or choose another --out");
  }
  return results;
}

std::string printed(const table_rows& table) {
  if (table.rows.empty()) return "";
  text_table text(table.columns);
  for (const auto& row : table.rows) text.row(row);
  return text.text();
}

table_rows results_rows(const std::vector<variant_result>& results, const std::vector<variant_plan>& order) {
  table_rows table{{{"variant", text_table::left}, {"ppl", text_table::right}, {"nats/token", text_table::right},
                    {"vs its fixed [95 %]", text_table::right}, {"vs mixture-frozen [95 %]", text_table::right},
                    {"accuracy", text_table::right}, {"cross-entropy", text_table::right}, {"entropy", text_table::right}}, {}};
  std::set<int> seeds;
  for (const variant_result& r : results) seeds.insert(r.seed);
  const auto frozen = by_seed(results, "mixture-frozen");
  const auto row = [&](const variant_plan& plan, std::string shown, const std::string& check) {
    const auto mine = by_seed(results, plan.name, check);
    if (mine.empty()) return;
    if (mine.size() < seeds.size()) shown += " (" + std::to_string(mine.size()) + (mine.size() == 1 ? " seed)" : " seeds)");
    double nll = 0;
    for (const auto& [seed, documents] : mine) nll += nats_per_token(documents) / double(mine.size());
    const auto mean = [&](double variant_result::*value) {
      double sum = 0;
      for (const variant_result& r : results)
        if (r.name == plan.name) sum += r.*value / double(mine.size());
      return std::isfinite(sum) ? with_digits(sum, 3) : std::string("-");
    };
    table.rows.push_back({shown, with_digits(std::exp(nll), 2), with_digits(nll, 4),
                          plan.control.empty() ? "" : difference(mine, by_seed(results, plan.control)),
                          shown == "mixture-frozen" ? "" : difference(mine, frozen), mean(&variant_result::accuracy),
                          mean(&variant_result::cross_entropy), mean(&variant_result::entropy)});
  };
  for (const variant_plan& plan : order) {
    std::string shown = plan.name, tuned;
    for (const variant_result& r : results)
      if (r.name == plan.name && !r.tried.empty()) tuned += (tuned.empty() ? ", T " : " ") + with_digits(r.temperature, 2);
    row(plan, shown + tuned, "");
    row(plan, shown + ", argmax at test", "argmax");
  }
  return table;
}

table_rows path_rows(const std::vector<variant_result>& results, const std::vector<variant_plan>& order) {
  table_rows table{{{"nats/token by paths at test", text_table::left}}, {}};
  const std::vector<std::string> counts{"1", "2", "4", "8", "16", "32"};
  for (const std::string& n : counts) table.columns.push_back({n, text_table::right});
  for (const variant_plan& plan : order) {
    std::vector<std::string> row{plan.name};
    for (const std::string& n : counts) {
      const auto mine = by_seed(results, plan.name, "paths=" + n);
      double nll = 0;
      for (const auto& [seed, documents] : mine) nll += nats_per_token(documents) / double(mine.size());
      if (!mine.empty()) row.push_back(with_digits(nll, 4));
    }
    if (row.size() == table.columns.size()) table.rows.push_back(std::move(row));
  }
  return table;
}

table_rows generation_rows(const std::vector<variant_result>& results, const std::vector<variant_plan>& order) {
  table_rows table{{{"variant", text_table::left}, {"ROUGE-2", text_table::right}, {"label edits", text_table::right},
                    {"per label", text_table::right}, {"plan followed", text_table::right}, {"latent ppl", text_table::right},
                    {"of true text", text_table::right}, {"MAUVE", text_table::right}}, {}};
  for (const variant_plan& plan : order) {
    std::vector<generation_scores> mine;
    for (const variant_result& r : results)
      if (r.name == plan.name && r.generation && r.generation->documents > 0) mine.push_back(*r.generation);
    if (mine.empty()) continue;
    const auto mean = [&](double generation_scores::*value, int digits) {
      double sum = 0;
      for (const generation_scores& g : mine) sum += g.*value / double(mine.size());
      return std::isfinite(sum) ? with_digits(sum, digits) : std::string(std::isinf(sum) ? "infinite" : "-");
    };
    using g = generation_scores;
    table.rows.push_back({plan.name, mean(&g::rouge2, 3), mean(&g::edits, 2), mean(&g::edits_normalised, 2), mean(&g::followed, 3),
                          mean(&g::latent_perplexity, 1), mean(&g::latent_perplexity_of_truth, 1), mean(&g::mauve, 2)});
  }
  return table;
}

std::optional<compared> compare(const std::vector<variant_result>& results, const std::string& name) {
  const auto mine = by_seed(results, name), fixed = by_seed(results, "fixed");
  if (mine.empty()) return {};
  double nats = 0, reference = 0;
  std::vector<std::vector<document_loss>> a, b;
  for (const auto& [seed, documents] : mine) {
    nats += nats_per_token(documents) / double(mine.size());
    if (const auto found = fixed.find(seed); found != fixed.end()) {
      a.push_back(documents), b.push_back(found->second);
      reference += nats_per_token(found->second);
    }
  }
  compared c{std::exp(nats), NAN, NAN};
  if (a.size() != mine.size() || name == "fixed" || a[0].size() < 2) return c;
  const interval_estimate d = paired_bootstrap_over_seeds(a, b, 2000, 1);
  reference /= double(a.size());
  c.lower = std::exp(reference + d.lower), c.upper = std::exp(reference + d.upper);
  return c;
}

}  // namespace train_planner_lm
