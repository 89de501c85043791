/// Text from a run of train_planner_lm, with the plan beside every sentence.
///
///     generate --run run/book                                  # begins from nothing
///     generate --run run/book --prompt "In the beginning God created the heaven and the earth."
///     generate --run run/book --prompt "..." --plan 3,17,5      # the first three sentences follow these labels
///     generate --run run/book --labels                         # what the labels stand for
///     generate --run run/book --variant none --language-model run/tuned/seed-1.language-model.safetensors
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <thread>
#include <vector>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <planlm/io/table.hpp>
#include <planlm/text/sentences.hpp>
#include "train_planner_lm/batches.hpp"
#include "train_planner_lm/checkpoint.hpp"

namespace {

using namespace train_planner_lm;

struct wishes {
  std::filesystem::path run, language_model;
  std::string variant = "mixture-joint", prompt;
  std::vector<int> plan;
  int seed = -1, tokens = 120, longest_sentence = 64, samples = 1, top_k = 0, threads = 0;
  std::uint64_t random_seed = 1;
  double temperature = 1, top_p = 1;
  bool greedy = false, json = false, labels = false;
};

bool parse(int argc, char** argv, wishes& w, int& status) {
  CLI::App app{"Writes text from a run of train_planner_lm: a plan for each sentence, then its tokens."};
  app.get_formatter()->column_width(30);
  app.add_option_function<std::string>("--run", [&](const std::string& value) { w.run = value; }, "folder that train_planner_lm --out named")->required();
  app.add_option("--variant", w.variant, "of the run; none is the language model alone")->capture_default_str();
  app.add_option_function<std::string>(
      "--language-model", [&](const std::string& value) { w.language_model = value; },
      "file that train_token_guidance --task tune wrote, in place of the run's own; planner and adapters stay as they were trained, with the untuned one");
  app.add_option("--seed", w.seed, "of the run; default its first, or the one that --language-model was tuned from")->check(CLI::Range(0, 1000000));
  app.add_option("--prompt", w.prompt, "sentences to go on from; without them the text begins from nothing");
  app.add_option("--plan", w.plan, "labels of the first sentences written, comma-separated; the planner chooses the others")->delimiter(',');
  app.add_option("--tokens", w.tokens, "how many to write")->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--longest-sentence", w.longest_sentence, "tokens after which a new sentence is planned anyway")->check(CLI::Range(1, 100000))->capture_default_str();
  app.add_option("--samples", w.samples, "texts to write")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--temperature", w.temperature, "of the draws, from 1e-6 to 1e6")->capture_default_str();
  app.add_option("--top-p", w.top_p, "draw among the most probable tokens that hold this much, in (0, 1]")->capture_default_str();
  app.add_option("--top-k", w.top_k, "draw among so many tokens; 0 for all")->check(CLI::Range(0, 1000000));
  app.add_flag("--greedy", w.greedy, "the most probable token instead of a draw");
  app.add_option("--random-seed", w.random_seed, "another one, another text")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--threads", w.threads, "default: one for up to 8 texts, else one per processor")->check(CLI::Range(1, 1024));
  app.add_flag("--json", w.json, "one JSON object per text instead of pages");
  app.add_flag("--labels", w.labels, "show what the labels stand for, and stop");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) {
      status = app.exit(e);
      return false;
    }
    throw input_error(std::string(e.what()) + " (--help lists the flags)");
  }
  // A token of few texts is so little work that a second thread waits more than it helps.
  if (!(w.temperature >= 1e-6 && w.temperature <= 1e6)) throw input_error("--temperature: give a number from 1e-6 to 1e6; for the most probable token --greedy");
  if (!(w.top_p > 0 && w.top_p <= 1)) throw input_error("--top-p: give a number above 0, at most 1");
  if (w.threads == 0) w.threads = w.samples <= 8 ? 1 : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return true;
}

std::string typical(const kept_language& k, int label) {
  const auto& sentences = k.typical.at(static_cast<std::size_t>(label));
  return sentences.empty() ? "(no sentence)" : sentences[0];
}

void print(const written_text& text, const kept_language& k, bool planned, int number, int of) {
  if (of > 1) std::cout << "--- " << number << " of " << of << '\n';
  for (const std::string& s : text.prompt) std::cout << "        " << s << '\n';
  for (const written_sentence& s : text.sentences) {
    if (!planned) {
      std::cout << s.text << '\n';
      continue;
    }
    const std::string label = std::to_string(s.planned);
    std::cout << std::string(label.size() < 6 ? 6 - label.size() : 0, ' ') << label << "  " << s.text << (s.complete ? "" : " ...") << '\n'
              << "        plan " << label << ": \"" << typical(k, s.planned) << '"';
    if (s.complete && s.own != s.planned) std::cout << "; became " << s.own << ": \"" << typical(k, s.own) << '"';
    std::cout << '\n';
  }
  std::cout << '\n';
}

nlohmann::ordered_json to_json(const written_text& text, const kept_language& k, bool planned) {
  nlohmann::ordered_json sentences = nlohmann::ordered_json::array();
  for (const written_sentence& s : text.sentences) {
    nlohmann::ordered_json j{{"text", s.text}, {"complete", s.complete}, {"own_label", s.own}};
    if (planned) j["plan"] = s.planned, j["typical"] = typical(k, s.planned);
    sentences.push_back(std::move(j));
  }
  return {{"prompt", text.prompt}, {"sentences", sentences}};
}

void show_labels(const kept_language& k) {
  for (std::size_t label = 0; label < k.typical.size(); ++label) {
    std::cout << label << '\n';
    for (const std::string& s : k.typical[label]) std::cout << "    " << s << '\n';
  }
}

/// As the run's text was split.
std::vector<std::string> sentences_of(const std::string& prompt, const std::string& splitter) {
  if (text::tidy(prompt).empty()) return {};
  if (splitter == "lines") return text::line_splitter{}(prompt);
  text::icu_splitter split;
  return split(text::tidy(prompt));
}

void generate(const wishes& w) {
  const finished_run run = read_run(w.run);
  const int tuned = w.language_model.empty() ? -1 : tuned_from(w.language_model, run);
  const int seed = w.seed >= 0 ? w.seed : tuned >= 0 ? tuned : first_seed(w.run);
  if (tuned >= 0 && seed != tuned)
    throw input_error("--seed " + std::to_string(seed) + ": " + w.language_model.string() + " was tuned from seed " + std::to_string(tuned) + "; leave --seed out");
  const kept_language k = read_language(w.run, run, seed);
  if (w.labels) return show_labels(k);
  const std::vector<std::string> known = variant_names(run.flags);
  if (std::find(known.begin(), known.end(), w.variant) == known.end())
    throw input_error("--variant: there is no variant '" + w.variant + "'; train_planner_lm --help names them");
  const variant_plan plan = plan_of(w.variant, run.flags);
  if (!can_write(plan))
    throw input_error("--variant " + w.variant + ": no text can be written with it (" + plan.about + "); choose one whose plans come from a planner");
  if (!w.plan.empty() && !has_plans(plan))
    throw input_error("--plan: " + w.variant + " follows no plan (" + plan.about + "); choose another --variant");

  const auto device = make_cpu_learner(sizes_of(run.flags, k.vocabulary.size()), w.threads);
  kept_variant v = read_variant(*device, w.run, run, plan, seed);
  if (tuned >= 0) replace_language_model(v, *device, w.language_model, run, plan);
  device->training = false;
  writing_rule rule;
  rule.new_tokens = w.tokens;
  rule.longest_sentence = w.longest_sentence;
  rule.sampling = {.temperature = w.temperature, .top_p = w.top_p, .greedy = w.greedy};
  if (w.top_k > 0) rule.sampling.top_k = w.top_k;
  rule.random = {w.random_seed, 0, 0x74657874};
  rule.forced = w.plan;
  const std::vector<std::string> prompt = sentences_of(w.prompt, run.flags.splitter);
  const std::vector<std::vector<std::string>> prompts(static_cast<std::size_t>(w.samples), prompt);
  const bool planned = has_plans(plan);
  const std::vector<written_text> texts = write_on(*device, v.parts(), v.how, plan.adapted, k.view(run.flags), prompts, rule);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (w.json) std::cout << to_json(texts[i], k, planned).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
    else print(texts[i], k, planned, static_cast<int>(i) + 1, w.samples);
  }
}

int explain(const std::string& what, int status) {
  std::cerr << "generate: " << what << '\n';
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  wishes w;
  try {
    int status = 0;
    if (!parse(argc, argv, w, status)) return status;
    generate(w);
    return 0;
  } catch (const planlm::input_error& e) {
    return explain(e.what(), 2);
  } catch (const std::bad_alloc&) {
    return explain("out of memory; ask for fewer --samples", 1);
  } catch (const std::exception& e) {
    return explain(e.what(), 1);
  }
}
