/// Rows of results.json, there and back, and the table.
#include "results.hpp"
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/table.hpp>

namespace train_planner_lm {
namespace {

nlohmann::ordered_json to_json(const std::vector<document_loss>& documents) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const document_loss& d : documents) list.push_back({{"nll", d.nll}, {"tokens", d.tokens}});
  return list;
}
std::vector<document_loss> losses_from(const nlohmann::ordered_json& list) {
  std::vector<document_loss> documents;
  for (const auto& d : list) documents.push_back({d.at("nll").get<double>(), d.at("tokens").get<index_t>()});
  return documents;
}
variant_result result_from(const nlohmann::ordered_json& j) {
  variant_result r{j.at("name"), j.at("seed"), losses_from(j.at("documents")), j.at("planner").at("accuracy"),
                   j.at("planner").at("cross_entropy"), j.at("planner").at("entropy"), j.at("tokens_per_second"), j.at("seconds"), {}};
  if (j.contains("checks"))
    for (const auto& [name, check] : j.at("checks").items()) r.checks[name] = losses_from(check.at("documents"));
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

}  // namespace

nlohmann::ordered_json to_json(const variant_result& r) {
  nlohmann::ordered_json j{{"name", r.name}, {"seed", r.seed}, {"test_nll", r.nll()}, {"test_ppl", std::exp(r.nll())},
                           {"documents", to_json(r.documents)},
                           {"planner", {{"accuracy", r.accuracy}, {"cross_entropy", r.cross_entropy}, {"entropy", r.entropy}}},
                           {"tokens_per_second", r.tokens_per_second}, {"seconds", r.seconds}};
  for (const auto& [name, documents] : r.checks)
    j["checks"][name] = {{"test_nll", nats_per_token(documents)}, {"documents", to_json(documents)}};
  return j;
}

std::vector<variant_result> read_results(const std::filesystem::path& file) {
  std::vector<variant_result> results;
  if (!std::filesystem::exists(file)) return results;
  try {
    std::ifstream in(file);
    const auto before = nlohmann::ordered_json::parse(in);
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
