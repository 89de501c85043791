/// Text from a run: what it says with bad input, that plans are followed where they are forced, and that a seed means a text.
///
/// The model is tiny and the text is made here; nothing is said about quality.
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include <planlm/io/safetensors.hpp>
#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using words = std::vector<std::string>;

const std::string program = PLANLM_EXAMPLES "/generate", trainer = PLANLM_EXAMPLES "/train_planner_lm";

bool missing() {
  if (fs::exists(program) && fs::exists(trainer)) return false;
  WARN("SKIPPED: generate is not built, a library of it is missing");
  return true;
}

/// One run for all tests of this file.
const std::string& trained() {
  static const scratch::folder folder;
  static const std::string out = [] {
    std::string text;
    for (int i = 0; i < 220; ++i) {
      const words who{"The dog", "A cat", "My aunt"}, did{"sees", "hears", "likes", "sells"}, what{"a red apple", "the old house", "some bread"};
      const auto n = static_cast<std::size_t>(i);
      text += who[n / 10 % who.size()] + " " + did[n % did.size()] + " " + what[n / 3 % what.size()] + " on day " + std::to_string(i) + " .\n";
      if (i % 10 == 9) text += "\n";
    }
    scratch::put(folder / "stories.txt", text);
    const std::string run = (folder / "run").string();
    const examples::outcome r = examples::run(
        trainer, {"--text", (folder / "stories.txt").string(), "--out", run, "--labels", "4", "--label-width", "8", "--width", "16", "--heads",
                  "2", "--vocabulary", "330", "--length", "16", "--batch", "4", "--variant-batch", "4", "--planner-batch", "16", "--base-steps",
                  "60", "--variant-steps", "40", "--planner-steps", "40", "--threads", "1", "--generate", "2", "--variants",
                  "none,fixed,predicted,mixture-joint,oracle-oracle,paths-2-steps,mixture-joint-lora,gate-context,table-shared,inserted-token,prefix"});
    INFO(r.err);
    REQUIRE(r.status == 0);
    return run;
  }();
  return out;
}

examples::outcome generate(const words& flags) {
  words all{"--run", trained(), "--threads", "1"};
  all.insert(all.end(), flags.begin(), flags.end());
  return examples::run(program, all);
}
std::string text_of(const words& flags) {
  const examples::outcome r = generate(flags);
  INFO(r.err);
  REQUIRE(r.status == 0);
  return r.out;
}
std::string refusal(const words& flags) {
  const examples::outcome r = generate(flags);
  if (r.status <= 0) return "ended with status " + std::to_string(r.status) + ": " + r.err;
  if (std::count(r.err.begin(), r.err.end(), '\n') != 1 || !r.err.starts_with("generate: ") || !r.out.empty()) return "not one line: " + r.err + r.out;
  return r.err;
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

}  // namespace

TEST_CASE("a text has a label, and a sentence typical of it, beside every sentence") {
  if (missing()) return;
  for (const char* variant : {"predicted", "mixture-joint", "paths-2-steps", "mixture-joint-lora", "gate-context", "table-shared", "inserted-token", "prefix"}) {
    INFO(variant);
    const std::string text = text_of({"--variant", variant, "--tokens", "60", "--prompt", "The dog sees some bread on day 3 . A cat hears a red apple on day 4 ."});
    CHECK(has(text, "        The dog sees some bread on day 3 .\n"));
    CHECK(has(text, "        plan "));
    CHECK(has(text, " on day "));
  }
  CHECK_FALSE(text_of({"--variant", "none", "--tokens", "30"}).empty());
  CHECK(text_of({"--variant", "none", "--tokens", "30"}).find("plan ") == std::string::npos);
  CHECK(has(text_of({"--labels"}), "on day"));
}

TEST_CASE("forced labels are the plans of the first sentences, and change the text after them and not before") {
  if (missing()) return;
  const words rest{"--variant", "predicted", "--tokens", "90", "--longest-sentence", "20"};
  const auto with = [&](const std::string& plan) {
    words flags{"--plan", plan};
    flags.insert(flags.end(), rest.begin(), rest.end());
    return lines_of(text_of(flags));
  };
  const auto a = with("3,1,2"), b = with("3,1,0"), c = with("0,1,2");
  REQUIRE(a.size() > 5);
  REQUIRE(b.size() > 5);
  CHECK(a[0].substr(0, 8) == "     3  ");
  CHECK(a[2].substr(0, 8) == "     1  ");
  CHECK(a[4].substr(0, 8) == "     2  ");
  CHECK(b[4].substr(0, 8) == "     0  ");
  for (const std::size_t i : {0u, 2u}) CHECK(a[i] == b[i]);  // the same plans so far
  CHECK(a != b);
  CHECK(a[0] != c[0]);
}

TEST_CASE("a seed means a text: with 1 and 2 threads, alone and among others, and another seed another text") {
  if (missing()) return;
  const words one{"--variant", "mixture-joint", "--tokens", "50", "--json"};
  const std::string text = text_of(one);
  CHECK(examples::run(program, {"--run", trained(), "--threads", "2", "--variant", "mixture-joint", "--tokens", "50", "--json"}).out == text);
  words three = one;
  three.insert(three.end(), {"--samples", "3"});
  const auto samples = lines_of(text_of(three));
  REQUIRE(samples.size() == 3);
  CHECK(samples[0] + "\n" == text);
  CHECK(samples[1] != samples[0]);
  words other = one;
  other.insert(other.end(), {"--random-seed", "2"});
  CHECK(text_of(other) != text);
}

TEST_CASE("what cannot be written is refused with one line that says what to do") {
  if (missing()) return;
  CHECK(has(refusal({"--variant", "mixtrue"}), "there is no variant 'mixtrue'"));
  CHECK(has(refusal({"--variant", "straight-through"}), "this run has none, fixed, oracle-predicted, predicted, mixture-joint, paths-2-steps"));
  CHECK(has(refusal({"--variant", "oracle-oracle"}), "told the true label"));
  CHECK(has(refusal({"--variant", "fixed", "--plan", "1"}), "fixed follows no plan"));
  CHECK(has(refusal({"--plan", "3,4"}), "there is no label 4; they are 0 to 3"));
  CHECK(has(refusal({"--plan", "3,x"}), "--plan"));
  CHECK(has(refusal({"--seed", "7"}), "--seed 7 was not part of the run"));
  CHECK(has(refusal({"--language-model", trained() + "/nothing.safetensors"}), "there is no such file; give the language model that train_token_guidance"));
  CHECK(has(refusal({"--language-model", trained() + "/seed-1.base.safetensors"}), "is no language model of train_token_guidance --task tune"));
  CHECK(has(refusal({"--language-model", trained() + "/run.json"}), "run.json"));
  CHECK(has(refusal({"--temperature", "0"}), "--temperature: give a number"));
  CHECK(has(refusal({"--top-p", "1.5"}), "--top-p: give a number"));
  CHECK(has(refusal({"--tokens", "0"}), "--tokens"));
  const examples::outcome nowhere = examples::run(program, {"--run", trained() + "-not"});
  CHECK(nowhere.status == 2);
  CHECK(has(nowhere.err, "holds no run of train_planner_lm"));
}

/// A file as train_token_guidance --task tune leaves it: the run's own weights under what such a file says of itself.
fs::path as_tuned(const scratch::folder& folder) {
  const planlm::tensor_file base(fs::path(trained()) / "seed-1.base.safetensors");
  std::vector<std::vector<float>> values;
  std::vector<planlm::tensor_ref> tensors;
  for (const std::string& name : base.names()) values.push_back(base.read<float>(name));
  for (std::size_t i = 0; i < values.size(); ++i)
    tensors.push_back({base.names()[i], base.shape(base.names()[i]), std::span<const float>(values[i])});
  planlm::write_safetensors(folder / "tuned.safetensors", tensors,
                            {{"of", base.metadata().at("identity")}, {"run_seed", "1"}, {"objective", "reinforce"}});
  return folder / "tuned.safetensors";
}

TEST_CASE("a tuned language model takes the place of the run's own under plans and without, but not of one that was tuned with its plans") {
  if (missing()) return;
  const scratch::folder folder;
  const std::string tuned = as_tuned(folder).string();
  for (const char* variant : {"none", "predicted", "mixture-joint", "prefix"}) {
    INFO(variant);
    const words flags{"--variant", variant, "--tokens", "30"};
    words more = flags;
    more.insert(more.end(), {"--language-model", tuned});
    CHECK(text_of(more) == text_of(flags));  // the same weights, the same text
  }
  CHECK(has(refusal({"--variant", "mixture-joint-lora", "--language-model", tuned}), "mixture-joint-lora has a language model of its own"));
  CHECK(has(refusal({"--language-model", tuned, "--seed", "7"}), "was tuned from seed 1"));
}

TEST_CASE("files of a run that are damaged or missing are named") {
  if (missing()) return;
  const scratch::folder copy;
  const auto with = [&](const std::string& name, const std::string& bytes) {
    const fs::path run = copy / "run";
    fs::remove_all(run);
    fs::copy(trained(), run);
    if (bytes == "gone") fs::remove(run / name);
    else scratch::put(run / name, bytes);
    const examples::outcome r = examples::run(program, {"--run", run.string()});
    INFO(name << ": " << r.err);
    CHECK(r.status == 2);
    CHECK(r.out.empty());
    CHECK(has(r.err, name));
  };
  for (const std::string name : {"run.json", "text.json", "vocabulary.model", "encoder.safetensors", "seed-1.labels.safetensors", "seed-1.labels.json",
                                 "seed-1.base.safetensors", "seed-1.mixture-joint.adapters.safetensors", "seed-1.mixture-joint.planner.safetensors"}) {
    with(name, "gone");
    if (name != "vocabulary.model") with(name, "{}");
  }
}
