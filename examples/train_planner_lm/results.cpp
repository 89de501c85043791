/// run.json and results.json, there and back, and the table.
#include "results.hpp"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <planlm/core/error.hpp>
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
variant_result result_from(const json& j) {
  variant_result r{j.at("name"), j.at("seed"), losses_from(j.at("documents")), j.at("planner").at("accuracy"),
                   j.at("planner").at("cross_entropy"), j.at("planner").at("entropy"), j.at("tokens_per_second"), j.at("seconds"), {}};
  if (j.contains("checks"))
    for (const auto& [name, check] : j.at("checks").items()) r.checks[name] = losses_from(check.at("documents"));
  r.device = j.value("device", r.device), r.precision = j.value("precision", r.precision);
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
  return j;
}
json to_json(const work& w) {
  return {{"base", w.base_steps}, {"planner", w.planner_steps}, {"variant", w.variant_steps}};
}

/// What decides the numbers: two runs with equal config, text and steps compute the same on one device and precision.
json config_of(const options& o) {
  return {{"format", o.format}, {"splitter", o.splitter}, {"score", o.score}, {"layers", o.layers}, {"width", o.width}, {"heads", o.heads},
          {"length", o.length}, {"vocabulary", o.vocabulary}, {"first_adapted", o.first_adapted}, {"labels", o.labels},
          {"label_width", o.label_width}, {"context", o.context}, {"planner_layers", o.planner_layers},
          {"planner_heads", o.planner_heads}, {"planner_inner", o.planner_inner}, {"batch", o.batch}, {"variant_batch", o.variant_batch},
          {"planner_batch", o.planner_batch}, {"base_rate", o.base_rate}, {"adapter_rate", o.adapter_rate},
          {"planner_rate", o.planner_rate}, {"joint_planner_rate", o.joint_planner_rate}, {"clip", o.clip}};
}
json identity_of(const run_description& run) {
  json identity = config_of(run.flags);
  identity["text"] = std::to_string(run.text);
  return identity;
}

}  // namespace

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

std::vector<variant_result> read_results(const run_folder& folder) {
  std::vector<variant_result> results;
  const auto file = folder.file("results.json");
  if (!std::filesystem::exists(file)) return results;
  try {
    std::ifstream in(file);
    const auto before = json::parse(in);
    for (const auto& v : before.at("variants")) results.push_back(result_from(v));
  } catch (const nlohmann::json::exception&) {
    throw input_error(file.string() + ": is not a results file of this program; remove it or choose another --out");
  }
  return results;
}

std::string results_table(const std::vector<variant_result>& results, const std::vector<std::string>& order) {
  text_table table({{"variant", text_table::left}, {"ppl", text_table::right}, {"nats/token", text_table::right},
                    {"vs fixed [95 %]", text_table::right}, {"vs mixture-frozen [95 %]", text_table::right},
                    {"accuracy", text_table::right}, {"cross-entropy", text_table::right}, {"entropy", text_table::right}});
  const auto fixed = by_seed(results, "fixed"), frozen = by_seed(results, "mixture-frozen");
  const auto row = [&](const std::string& name, const std::string& shown, const std::string& check) {
    const auto mine = by_seed(results, name, check);
    if (mine.empty()) return;
    double nll = 0, ppl = 0, accuracy = 0, cross_entropy = 0, entropy = 0, n = 0;
    for (const auto& [seed, documents] : mine) {
      nll += nats_per_token(documents) / double(mine.size());
      ppl += perplexity(documents) / double(mine.size());
    }
    for (const variant_result& r : results)
      if (r.name == name) {
        accuracy += r.accuracy;
        cross_entropy += r.cross_entropy;
        entropy += r.entropy;
        n += 1;
      }
    table.row({shown, with_digits(ppl, 2), with_digits(nll, 4), shown == "fixed" ? "" : difference(mine, fixed),
               shown == "mixture-frozen" ? "" : difference(mine, frozen), with_digits(accuracy / n, 3), with_digits(cross_entropy / n, 3),
               with_digits(entropy / n, 3)});
  };
  for (const std::string& name : order) {
    row(name, name, "");
    row(name, name + ", argmax at test", "argmax");
  }
  return table.text();
}

}  // namespace train_planner_lm
