/// Task prompt of train_token_guidance, from outside: where a language model can tell two classes apart behind the right words, guidance finds
/// such words from scores of whole prompts; two runs are the same bytes, a stopped run goes on to the same results, bad input is refused.
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
const words small{"--task",        "prompt", "--vocabulary",    "400",  "--width",       "32",   "--heads",          "2",     "--layers",      "1",
                  "--length",      "24",     "--sentence",      "12",   "--base-steps",  "500",  "--base-batch",     "16",    "--base-rate",   "0.01",
                  "--test",        "40",     "--validation",    "20",   "--pool",        "32",   "--shots",          "8",     "--manual-prompt", "it was",
                  "--updates",     "100",    "--samples",       "32",   "--rate",        "0.005", "--rank",          "4",     "--alpha",       "0.05",
                  "--rounds-every", "10",    "--round-steps",   "50",   "--validate-every", "25", "--drawn",         "16",    "--lists",       "32",
                  "--places",      "4",      "--candidates",    "8",    "--reward-rate", "0.001", "--reward-inner",  "128",   "--prompt-length", "2",
                  "--threads",     "1"};

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

const std::vector<std::string> mild{"sun", "warm", "meadow", "honey", "gentle", "song"}, harsh{"storm", "cold", "gravel", "vinegar", "rough", "noise"},
    plain{"river", "house", "stone", "table", "window", "garden", "letter", "train"};

/// A sentence of a class: words that tell it and words that do not, in any order.
std::string sentence(bool good, std::uint64_t number) {
  const planlm::philox random{11};
  std::string s;
  for (std::uint32_t n = 0; n < 5; ++n) {
    const auto& from = random.below(2, number, 2 * n) ? plain : good ? mild : harsh;
    s += from[random.below(static_cast<std::uint32_t>(from.size()), number, 2 * n + 1)] + " ";
  }
  return s + (good ? mild : harsh)[number % 6] + " .";
}

/// Documents of one class each that say now and then what they are, and in other words the contrary; and sentences of both classes.
struct place : scratch::folder {
  std::string text = (*this / "text.txt").string(), good = (*this / "good.txt").string(), bad = (*this / "bad.txt").string(),
              out = (*this / "run").string(), label_words = "fine,poor";
  place() {
    std::string documents, of[2];
    for (std::uint64_t d = 0; d < 120; ++d, documents += '\n')
      for (std::uint64_t s = 0; s < 8; ++s)
        documents += (s % 4 == 1   ? std::string("it was ") + (d % 2 ? "fine ." : "poor .")
                      : s % 4 == 3 ? std::string("rumour says ") + (d % 2 ? "poor ." : "fine .")
                                   : sentence(d % 2, 10000 + 8 * d + s)) +
                     "\n";
    for (std::uint64_t i = 0; i < 120; ++i) of[i % 2] += sentence(i % 2, i) + "\n";
    put(text, documents), put(bad, of[0]), put(good, of[1]);
  }
  words command(const words& flags) const {
    return words{"--text", text, "--out", out, "--class", "good=" + good, "--class", "bad=" + bad, "--label-words", label_words} + flags;
  }
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
std::string refusal(const words& command) {
  const examples::outcome r = examples::run(program, command);
  const std::string name = "train_token_guidance: ";
  std::string message;
  int found = 0;
  std::istringstream lines(r.err);
  for (std::string line; std::getline(lines, line);) found += line.starts_with(name), message = line;
  if (r.status != 2 || found != 1 || !message.starts_with(name)) return "status " + std::to_string(r.status) + ", no single line at the end: " + r.err;
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
/// A run that is sent `signal` as soon as the stage has logged a step.
int stop_in(const std::string& stage, const words& command, const std::string& out, int signal) {
  examples::running running(program, command);
  const std::string wanted = "\"stage\":\"" + stage + "\"";
  for (int i = 0; i < 20000 && contents(fs::path(out) / "metrics.jsonl").find(wanted) == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  running.send(signal);
  return running.wait().status;
}

}  // namespace

TEST_CASE("guidance finds prompts behind which a language model tells the classes apart, and a stopped run goes on to the same results") {
  if (missing()) return;
  const place p;
  const words flags = small + words{"--methods", "no-prompt,manual,best-of,guidance,delayed-z"};
  const examples::outcome whole = examples::run(program, p.command(flags));
  INFO(whole.err);
  REQUIRE(whole.status == 0);
  const json all = outcomes(p.out);
  INFO(whole.out);
  CHECK(all.size() == 5);
  // Behind "it was" stands the truth, behind "rumour says" the contrary: what the language model writes by itself has both, and that is where
  // the policy began. Of five other texts of this kind the smallest rise was 62.
  CHECK(value(all, "guidance", "gap") > value(all, "best-of", "gap") + 30);
  CHECK(value(all, "guidance", "accuracy") > value(all, "no-prompt", "accuracy"));
  // Rounds after 0, 10, ... 50 updates, each of 50 steps and 2 validations with 16 prompts; 8 candidates and the most probable.
  CHECK(value(all, "guidance", "calls") == 6 * (50 + 2) * 16 + 9);
  CHECK(value(all, "delayed-z", "calls") == 100 * 32 + 9);
  // As many sentences are read as guidance read: 16 in steps, 16 in validations, 32 for candidates.
  CHECK(value(all, "best-of", "calls") == (6 * 16 * (50 * 16 + 2 * 16)) / 32 + 9);
  // The curve has a point before the first update and one after every tenth of them.
  int points = 0;
  std::istringstream metrics(contents(fs::path(p.out) / "metrics.jsonl"));
  for (std::string line; std::getline(metrics, line);)
    points += line.find("\"stage\":\"guidance\"") != std::string::npos && line.find("\"score\"") != std::string::npos;
  CHECK(points == 11);
  const std::string page = contents(fs::path(p.out) / "report.html");
  for (const char* text : {"Score of drawn prompts", "Entropy of the policy", "Pairs of prompts in the right order", "best-of"}) CHECK(has(page, text));

  const std::string out = p.out + "-stopped";
  const words command = words{"--out", out} + p.command(flags) + words{"--out", out};
  CHECK(stop_in("base", command, out, SIGINT) == 128 + SIGINT);
  CHECK(stop_in("guidance", command, out, SIGINT) == 128 + SIGINT);
  CHECK(stop_in("delayed-z", command, out, SIGKILL) == -SIGKILL);
  REQUIRE(examples::run(program, command).status == 0);
  CHECK(outcomes(out) == all);
  // What is finished is not done again, and other settings need another folder.
  CHECK(examples::run(program, command).err.find("delayed") == std::string::npos);
  CHECK(has(refusal(command + words{"--alpha", "1"}), "--alpha"));
}

TEST_CASE("prompts: two runs are the same bytes, and prompts may be calibrated") {
  if (missing()) return;
  const place p;
  const words flags = small + words{"--methods", "manual,guidance-max,guidance-min,delayed", "--calibrate", "--updates", "10", "--round-steps", "4",
                                    "--base-steps", "40"};
  for (const char* run : {"-a", "-b"}) {
    const std::string out = p.out + run;
    REQUIRE(examples::run(program, p.command(flags) + words{"--out", out}).status == 0);
  }
  CHECK(outcomes(p.out + "-a") == outcomes(p.out + "-b"));
  for (const char* file : {"base.safetensors", "seed-1.guidance-min.safetensors", "seed-1.guidance-min.reward.safetensors"})
    CHECK(contents(fs::path(p.out + "-a") / file) == contents(fs::path(p.out + "-b") / file));
}

TEST_CASE("prompts: flags and texts that fit nothing are refused in one line that says what to give") {
  if (missing()) return;
  const place p;
  const auto of = [&](const words& flags) { return refusal(p.command(small + flags)); };
  const auto said = [&](const std::string& label_words) {
    place other;
    other.label_words = label_words;
    return refusal(other.command(small));
  };
  CHECK(has(said("fine,fine"), "--label-words: 'fine' and 'fine' begin with the same piece"));
  CHECK(has(said("fine"), "--label-words: 1 words, expected one for each of the two classes"));
  CHECK(has(of({"--methods", "guidance,magic"}), "--methods: 'magic' is none of no-prompt, manual"));
  CHECK(has(of({"--test", "110"}), "different sentences of the class 'good' alone, but --test, --validation and --pool take"));
  CHECK(has(of({"--shots", "9"}), "--shots 9: of both classes to train on and to choose by these are 36 sentences, but --pool keeps 32"));
  CHECK(has(of({"--places", "17"}), "--places 17 of a list is above --drawn 16"));
  CHECK(has(of({"--length", "15"}), "need 16"));
  CHECK(has(of({"--manual-prompt", "it was it was it was it was it was it was"}), "--manual-prompt: with a sentence it takes"));
  const auto classes = [&](const words& given) { return refusal(words{"--text", p.text, "--out", p.out} + given + small); };
  CHECK(has(classes({"--class", "good=" + p.good}), "--class: 1 classes, expected two"));
  CHECK(has(classes({"--class", "good=" + p.good, "--class", "good=" + p.bad}), "both classes are called 'good'"));
  CHECK(has(classes({"--class", "good=" + p.good, "--class", p.bad}), "is no NAME=FILE"));
  CHECK(has(classes({"--class", "good=" + p.good, "--class", "bad=" + p.bad + ".missing"}), "missing"));
  CHECK_FALSE(fs::exists(fs::path(p.out) / "results.json"));
}
