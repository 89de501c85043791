/// Files of a run, read back.
#include "checkpoint.hpp"
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>
#include <nlohmann/json.hpp>
#include "batches.hpp"
#include "trainer/stage.hpp"
#include <planlm/io/encoder_file.hpp>
#include <planlm/io/safetensors.hpp>

namespace train_planner_lm {
namespace {

std::filesystem::path of_seed(const std::filesystem::path& folder, int seed, const std::string& name) {
  return folder / ("seed-" + std::to_string(seed) + "." + name);
}
void must_exist(const std::filesystem::path& file, const std::string& remedy) {
  if (!std::filesystem::exists(file)) throw input_error(file.string() + ": there is no such file; " + remedy);
}
nlohmann::json read_json(const std::filesystem::path& file) {
  must_exist(file, "the run ended before it was written: run train_planner_lm again with the same --out");
  std::ifstream in(file);
  nlohmann::json j = nlohmann::json::parse(in, nullptr, false);
  if (j.is_discarded()) throw input_error(file.string() + ": is no JSON; it is damaged");
  return j;
}

/// Variants of this seed whose parameters are there.
std::string variants_there(const std::filesystem::path& folder, const options& o, int seed) {
  std::string list = "none";
  for (const variant_plan& v : variants_of(o)) {
    const std::string name = v.trained_as.empty() ? v.name : v.trained_as;
    if (v.adapted && can_write(v) && std::filesystem::exists(of_seed(folder, seed, name + ".adapters.safetensors"))) list += ", " + v.name;
  }
  return list;
}

}  // namespace

bool can_write(const variant_plan& plan) {
  const bool told = std::holds_alternative<oracle_labels>(plan.test.weights);
  return !told && !plan.planning_tokens && plan.labels_by != predictor::language_model;
}
bool has_plans(const variant_plan& plan) {
  return plan.adapted && !std::holds_alternative<fixed>(plan.test.weights) && !std::holds_alternative<uniform>(plan.test.weights);
}

kept_language read_language(const std::filesystem::path& folder, const finished_run& run, int seed) {
  const auto vocabulary_file = folder / "vocabulary.model", labels_file = of_seed(folder, seed, "labels.safetensors");
  const auto pages_file = of_seed(folder, seed, "labels.json");
  must_exist(vocabulary_file, "run train_planner_lm again with the same --out");
  must_exist(labels_file, "--seed " + std::to_string(seed) + " was not part of the run, or it ended before");
  const auto vocabulary = [&] {
    std::ifstream in(vocabulary_file, std::ios::binary);
    try {
      return text::vocabulary::from_model({std::istreambuf_iterator<char>(in), {}});
    } catch (const input_error& e) {
      throw input_error(vocabulary_file.string() + ": " + e.what());
    }
  };
  kept_language k{vocabulary(), read_encoder(folder / "encoder.safetensors"), {}, {}, {}};
  const tensor_file labels(labels_file);
  if (!labels.contains("centroids")) throw input_error(labels_file.string() + ": holds no centroids; it is no file of a run");
  k.centroids = labels.read<float>("centroids");
  const auto expected = static_cast<std::size_t>(run.flags.labels) * static_cast<std::size_t>(run.flags.label_width);
  if (k.centroids.size() != expected || k.encoder.width() != run.flags.label_width)
    throw input_error(labels_file.string() + ": centroids and encoder are not of the sizes that run.json names; the files are of two runs");
  k.ends.resize(static_cast<std::size_t>(k.vocabulary.size()));
  try {
    const nlohmann::json about_text = read_json(folder / "text.json"), pages = read_json(pages_file);
    for (const auto& id : about_text.at("sentence_ends")) k.ends.at(id.get<std::size_t>()) = 1;
    for (const auto& l : pages.at("labels")) k.typical.push_back(l.at("typical").get<std::vector<std::string>>());
  } catch (const nlohmann::json::exception&) {
    throw input_error(folder.string() + ": text.json or " + pages_file.filename().string() + " is damaged; run train_planner_lm again with the same --out");
  } catch (const std::out_of_range&) {
    throw input_error((folder / "text.json").string() + ": names tokens that the vocabulary has not; the files are of two runs");
  }
  k.typical.resize(static_cast<std::size_t>(run.flags.labels));
  return k;
}

kept_variant read_variant(learner& device, const std::filesystem::path& folder, const finished_run& run, const variant_plan& plan, int seed) {
  kept_variant v;
  const std::map<std::string, std::string> about{{"identity", run.identity}, {"seed", std::to_string(seed)}};
  const std::string name = plan.trained_as.empty() ? plan.name : plan.trained_as;
  v.how = plan.test;
  const auto read = [&](std::unique_ptr<part> into, const std::string& file) {
    const auto path = of_seed(folder, seed, file + ".safetensors");
    must_exist(path, "of --seed " + std::to_string(seed) + " this run has " + variants_there(folder, run.flags, seed));
    const auto found = run::load_parameters(*into, path, about);
    if (found.contains("temperature")) v.how.weights = mixture{std::strtod(found.at("temperature").c_str(), nullptr)};
    return into;
  };
  const auto fresh = [&](learner::kind what) { return device.make(what, philox{}, false, 0, plan.train.reach); };
  v.base = read(fresh(learner::kind::language_model), "base");
  if (!plan.adapted) return v;
  v.adapters = read(fresh(learner::kind::adapters), name + ".adapters");
  if (plan.train.reach.from != conditioning::source::table_per_layer) v.encoder = read(fresh(learner::kind::encoder), name + ".encoder");
  if (plan.lm == tuning::full) v.lm = read(fresh(learner::kind::language_model), name + ".lm");
  if (plan.lm == tuning::low_rank) v.lm = read(device.make_low_rank(*v.base, philox{}), name + ".lm");
  if (plan.labels_by == predictor::look_ahead) v.planner = read(fresh(learner::kind::look_ahead), "look-ahead");
  else v.planner = read(fresh(learner::kind::planner), plan.joint ? name + ".planner" : "planner");
  return v;
}

int first_seed(const std::filesystem::path& folder) {
  int first = -1;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    int seed = 0;
    if (!name.starts_with("seed-") || !name.ends_with(".base.safetensors")) continue;
    if (std::from_chars(name.data() + 5, name.data() + name.size(), seed).ec == std::errc{} && (first < 0 || seed < first)) first = seed;
  }
  return first < 0 ? 1 : first;
}

int tuned_from(const std::filesystem::path& file, const finished_run& run) {
  must_exist(file, "give the language model that train_token_guidance --task tune wrote");
  const auto about = tensor_file(file).metadata();
  const auto of = about.find("of"), seed = about.find("run_seed");
  if (of == about.end() || seed == about.end() || !about.contains("objective"))
    throw input_error(file.string() + ": is no language model of train_token_guidance --task tune");
  if (of->second != run.identity)
    throw input_error(file.string() + ": was tuned from another run of train_planner_lm; give the --run that it was tuned from");
  return static_cast<int>(std::strtol(seed->second.c_str(), nullptr, 10));
}

void replace_language_model(kept_variant& v, learner& device, const std::filesystem::path& file, const finished_run& run, const variant_plan& plan) {
  if (v.lm)
    throw input_error("--language-model: " + plan.name + " has a language model of its own, tuned together with its plans; choose another --variant");
  auto lm = device.make(learner::kind::language_model, philox{}, false);
  run::load_parameters(*lm, file, {{"of", run.identity}});
  v.lm = std::move(lm);
}

}  // namespace train_planner_lm
