/// Key sentences of passages, from outside: bad input, runs that go on, what is learnt, and that rewards
/// which are all alike change nothing but the normaliser.
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <planlm/core/philox.hpp>
#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using scratch::contents;
using scratch::put;
using words = std::vector<std::string>;

const std::string program = PLANLM_EXAMPLES "/train_token_guidance";
const words small{
    "--task",       "summary", "--vocabulary",   "330", "--width",         "16", "--heads",   "2",
    "--layers",     "1",       "--length",       "128", "--sentences",     "3",  "--longest", "30",
    "--base-steps", "20",      "--base-batch",   "4",   "--updates",       "12", "--batch",   "4",
    "--lists",      "2",       "--reward-steps", "4",   "--retrain-every", "3",  "--tested",  "6",
    "--watched",    "4",       "--reward-inner", "8",   "--threads",       "1"};

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Sentences of a few words of syllables; those of a document share a few of them.
std::string babble(int documents = 60) {
  const planlm::philox random{11};
  const std::string first = "bdfgklmnprst", second = "aeiou";
  std::string text;
  std::uint64_t at = 0;
  const auto syllables = [&](std::uint32_t number) {
    std::string w;
    for (std::uint32_t s = 0; s < 1 + random.below(2, number, 0); ++s) {
      w += first[random.below(static_cast<std::uint32_t>(first.size()), number, 2 * s + 1)];
      w += second[random.below(static_cast<std::uint32_t>(second.size()), number, 2 * s + 2)];
    }
    return w;
  };
  for (int d = 0; d < documents; ++d, text += '\n')
    for (int s = 0; s < 9; ++s, text += ".\n")
      for (std::uint32_t n = 0; n < 4 + random.below(3, ++at + (1u << 20), 0); ++n, ++at) {
        const bool own = random.below(2, at + (1u << 21), 0) == 0;
        text += syllables(own ? 200 + static_cast<std::uint32_t>(d) % 9 * 4 + random.below(4, at, 2)
                              : random.below(80, at, 3)) +
                ' ';
      }
  return text;
}

struct place : scratch::folder {
  std::string text = (*this / "babble.txt").string(), out = (*this / "run").string();
  place() { put(text, babble()); }
  words command(const words& flags) const { return words{"--text", text, "--out", out} + flags; }
};

bool missing() {
  if (fs::exists(program)) return false;
  WARN("SKIPPED: train_token_guidance is not built, a library of it is missing");
  return true;
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}
/// The one line of a run that must fail; else what was wrong with it.
std::string refusal(const examples::outcome& r) {
  const std::string name = "train_token_guidance: ";
  std::string message;
  int found = 0;
  std::istringstream lines(r.err);
  for (std::string line; std::getline(lines, line);) found += line.starts_with(name), message = line;
  if (r.status <= 0 || found != 1 || !message.starts_with(name))
    return "status " + std::to_string(r.status) + ", no single line at the end: " + r.err;
  return message.substr(name.size());
}
/// What was scored, without what depends on the clock.
json outcomes(const std::string& out) {
  json all = json::parse(contents(fs::path(out) / "results.json")).at("outcomes");
  for (json& o : all) o.at("values").erase("seconds");
  return all;
}
double value(const json& all, const std::string& method, const std::string& name) {
  for (const json& o : all)
    if (o.at("method") == method) return o.at("values").at(name).get<double>();
  return NAN;
}
/// A run that is sent SIGINT as soon as the stage has logged a step.
int stop_in(const std::string& stage, const words& command, const std::string& out) {
  examples::running running(program, command);
  const std::string wanted = "\"stage\":\"" + stage + "\"";
  for (int i = 0; i < 20000 && contents(fs::path(out) / "metrics.jsonl").find(wanted) == std::string::npos;
       ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  running.send(SIGINT);
  return running.wait().status;
}

}  // namespace

TEST_CASE("texts and lengths that hold no passage are refused in one line that says what to give") {
  if (missing()) return;
  const place p;
  const auto of = [&](const words& flags) {
    return refusal(examples::run(program, p.command(small + flags)));
  };
  CHECK(has(of({"--key", "under"}), "--key: 'under' is none of left-in, taken-out"));
  CHECK(has(of({"--methods", "likelihood,magic"}), "--methods: 'magic' is none of"));
  CHECK(has(of({"--shortest", "31"}), "--shortest 31 is above --longest 30"));
  CHECK(has(of({"--length", "40"}), "--length 40 is too little for 3 sentences"));
  CHECK(has(of({"--candidates", "1"}), "--candidates: give a whole number from 2"));
  CHECK(has(of({"--sentences", "10"}), "the training documents have 0 passages of 10 sentences"));
  CHECK(has(of({"--judged", "training"}), "--judged: 'training' is none of test, validation"));
  put(p.text, "One line .\n\nAnother .\n");
  CHECK(has(of({}), "too little to split"));
  CHECK_FALSE(fs::exists(fs::path(p.out) / "results.json"));
}

TEST_CASE("a summary run that was stopped goes on to the very results of one that was not") {
  if (missing()) return;
  const place p;
  const words flags = small + words{"--methods", "lead,base,likelihood,reward-weighted,reward-weighted-min"};
  const examples::outcome whole = examples::run(program, p.command(flags));
  INFO(whole.err);
  REQUIRE(whole.status == 0);
  const std::string out = p.out + "-stopped";
  const words command = words{"--text", p.text, "--out", out} + flags;
  CHECK(stop_in("base", command, out) == 128 + SIGINT);
  CHECK(stop_in("likelihood", command, out) == 128 + SIGINT);
  CHECK(stop_in("reward-weighted", command, out) == 128 + SIGINT);
  REQUIRE(examples::run(program, command).status == 0);
  const json all = outcomes(out);
  CHECK(all == outcomes(p.out));
  CHECK(contents(fs::path(out) / "seed-1.reward-weighted.scores.json") ==
        contents(fs::path(p.out) / "seed-1.reward-weighted.scores.json"));
  CHECK(all.size() == 5);
  // Rounds before updates 1, 4: 4 steps of 2 lists of 3 texts, 4 passages of 3 at the end of each.
  CHECK(value(all, "reward-weighted", "calls") == 2 * (4 * 2 * 3 + 4 * 3));
  CHECK(value(all, "likelihood", "calls") == 0);
  for (const char* text : {"Differences", "reward-weighted - likelihood", "Pairs ordered"})
    CHECK(has(contents(fs::path(out) / "report.html"), text));
  // A damaged file of scores is said to be one; a missing one is made again.
  put(fs::path(out) / "seed-1.likelihood.scores.json", "{");
  CHECK(has(refusal(examples::run(program, command)), "seed-1.likelihood.scores.json: is no file of scores"));
  fs::remove(fs::path(out) / "seed-1.likelihood.scores.json");
  CHECK(examples::run(program, command).status == 0);
  CHECK(outcomes(out).size() == 5);
}

// The base model has never seen the cue here: 4.20 nats, 3.68 and 3.72 after 60 updates. Rewards of a model
// that learns nothing are all alike: what they weigh is the mean over sentences of their means, up to their
// rounding.
TEST_CASE(
    "fine-tuning brings the key sentences of other documents nearer, and rewards that are alike are no "
    "rewards") {
  if (missing()) return;
  const place p;
  const examples::outcome r = examples::run(
      program,
      p.command(small + words{"--methods", "base,likelihood,likelihood-per-sequence,reward-weighted",
                              "--cued", "0", "--base-steps", "60", "--updates", "60", "--rate", "0.003",
                              "--retrain-every", "60", "--tested", "30", "--reward-rate", "1e-30"}));
  INFO(r.err);
  REQUIRE(r.status == 0);
  const json all = outcomes(p.out);
  const double base = value(all, "base", "nats"), likelihood = value(all, "likelihood", "nats"),
               sequence = value(all, "likelihood-per-sequence", "nats");
  INFO(base << ' ' << likelihood << ' ' << sequence);
  CHECK(likelihood < base - 0.25);
  CHECK(sequence < base - 0.25);
  CHECK(std::abs(sequence - value(all, "reward-weighted", "nats")) < 1e-4);
  CHECK(std::abs(sequence - likelihood) > 1e-4);
  CHECK(std::abs(value(all, "reward-weighted", "reward_key") - 0.5487) < 1e-3);
}

TEST_CASE("what is read holds the key sentence if it is left in, and does not if it is taken out") {
  if (missing()) return;
  for (const std::string key : {"left-in", "taken-out"}) {
    const place p;
    const examples::outcome r = examples::run(
        program,
        p.command(small + words{"--methods", "lead,likelihood", "--key", key, "--judged", "validation"}));
    INFO(r.err);
    REQUIRE(r.status == 0);
    const json all = outcomes(p.out);
    CHECK(value(all, "likelihood", "nats") > 0);
    for (const json& sample : all.at(0).at("samples")) {
      const std::string given = sample.at("given"), mark = "  [key sentence: ";
      const std::size_t at = given.find(mark);
      REQUIRE(at != std::string::npos);
      const std::string sentence = given.substr(at + mark.size(), given.size() - at - mark.size() - 1);
      CHECK((given.substr(0, at).find(sentence) != std::string::npos) == (key == "left-in"));
    }
  }
}
