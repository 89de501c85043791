/// The trainer of next-sentence samplers from outside: what it leaves, that going on means the same run, what it says to bad input.
#include <chrono>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using words = std::vector<std::string>;

const std::string continuation_sampler = PLANLM_EXAMPLES "/train_continuation_sampler";

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
/// Documents of short sentences, no two alike.
std::string documents() {
  const words who{"the dog", "a cat", "my aunt", "the sailor"}, did{"sees", "hears", "likes"}, what{"apples", "a house", "some bread", "boats"};
  std::string text;
  for (std::size_t d = 0; d < 40; ++d, text += "\n")
    for (std::size_t i = 0; i < 8; ++i)
      text += who[d % 4] + " " + did[(d + i) % 3] + " " + what[(d * 3 + i) % 4] + " on day " + std::to_string(8 * d + i) + " .\n";
  return text;
}
struct continuation_place : scratch::folder {
  std::string text = (*this / "text.txt").string(), out = (*this / "run").string();
  continuation_place() { scratch::put(text, documents()); }
  words command(const words& more = {}) const {
    return words{"--text", text, "--out", out, "--vocabulary", "330", "--width", "16", "--heads", "2", "--length", "64", "--base-steps", "8", "--base-batch", "4",
                 "--steps", "6", "--prompts", "2", "--rows", "4", "--rank", "2", "--train-prompts", "12", "--test-prompts", "4", "--samples", "3",
                 "--longest", "16", "--prompt-tokens", "48", "--threads", "1", "--methods", "ancestral,token-.8,nucleus-.8,beam,sequence-.8"} +
           more;
  }
};
bool not_built() {
  if (fs::exists(continuation_sampler)) return false;
  WARN("SKIPPED: train_continuation_sampler is not built, a library of it is missing");
  return true;
}
/// results.json without the times.
std::string scores(const fs::path& run) {
  std::istringstream lines(scratch::contents(run / "results.json"));
  std::string kept;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    inside |= line.find("\"outcomes\"") != std::string::npos;
    if (inside && line.find("\"seconds\"") == std::string::npos) kept += line + '\n';
  }
  return kept;
}
bool says(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}

}  // namespace

TEST_CASE("every decoding method and a tuned sampler stand in the table, on the page and in results.json") {
  if (not_built()) return;
  const continuation_place p;
  const examples::outcome r = examples::run(continuation_sampler, p.command());
  INFO(r.err);
  REQUIRE(r.status == 0);
  const std::string page = scratch::contents(fs::path(p.out) / "report.html"), results = scratch::contents(fs::path(p.out) / "results.json");
  for (const std::string name : {"ancestral", "token-.8", "nucleus-.8", "beam", "sequence-.8"}) {
    CHECK(says(r.out, "\n" + name + " "));
    CHECK(says(page, ">" + name + "<"));
    CHECK(says(results, "\"method\": \"" + name + "\""));
  }
  CHECK(says(page, "Likelihood against diversity"));
  CHECK(says(page, "p(sentence | prompt)^(1/0.80), by "));
  CHECK_FALSE(fs::exists(fs::path(p.out) / "checkpoint.safetensors"));
}

TEST_CASE("a sampler whose training was stopped goes on to the very numbers of one that was not, its buffers included") {
  if (not_built()) return;
  const continuation_place whole, cut;
  const words quick{"--steps", "200", "--replayed", ".5", "--methods", "sequence-.8"};
  REQUIRE(examples::run(continuation_sampler, whole.command(quick)).status == 0);
  bool stopped_in_tuning = false;
  {
    examples::running running(continuation_sampler, cut.command(quick));
    const auto in_tuning = [&] { return scratch::contents(fs::path(cut.out) / "metrics.jsonl").find("\"stage\":\"sequence-.8\"") != std::string::npos; };
    for (int i = 0; i < 20000 && !in_tuning(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    running.send(SIGINT);
    const examples::outcome r = running.wait();
    stopped_in_tuning = r.status == 128 + SIGINT && fs::exists(fs::path(cut.out) / "checkpoint.safetensors");
    if (stopped_in_tuning) CHECK(says(r.err, "To go on, run the same command again."));
  }
  const examples::outcome r = examples::run(continuation_sampler, cut.command(quick));
  INFO(r.err);
  REQUIRE(r.status == 0);
  if (stopped_in_tuning) CHECK(says(r.err, "seed 1 sequence-.8: going on from step "));
  CHECK(scores(whole.out) == scores(cut.out));
  if (!stopped_in_tuning) WARN("the run ended before the signal came; going on was not tried");
}

TEST_CASE("a sampler of sentences says in one line what it cannot do") {
  if (not_built()) return;
  const continuation_place p;
  const auto refusal = [&](const words& more) {
    const examples::outcome r = examples::run(continuation_sampler, p.command(more));
    CHECK(r.status == 2);
    CHECK(r.err.rfind("train_continuation_sampler: ") != std::string::npos);
    return r.err;
  };
  CHECK(says(refusal({"--methods", "sideways"}), "--methods: 'sideways' is none of ancestral, "));
  CHECK(says(refusal({"--objective", "sideways"}), "--objective: 'sideways' is none of subtb, "));
  CHECK(says(refusal({"--longest", "60"}), "together exceed --length 64"));
  CHECK(says(refusal({"--rows", "1"}), "--rows: give a whole number from 2 to "));
  CHECK(says(refusal({"--tempered", ".9"}), "expected at most 1"));
  CHECK(says(refusal({"--heads", "3"}), "--width 16 is no multiple of --heads 3"));
  CHECK(says(refusal({"--temperature", ".5"}), "--temperature"));  // every method has its own
  CHECK(says(refusal({"--text", (p / "none.txt").string()}), "none.txt: no such file"));  // the last of two counts
}

TEST_CASE("every objective tunes a sampler, the published one too, whose stops are not masked where they are scored") {
  if (not_built()) return;
  for (const std::string objective : {"subtb", "subtb-published", "tb", "vargrad", "reward-only", "reverse-kl"}) {
    const continuation_place p;
    const examples::outcome r = examples::run(continuation_sampler, p.command({"--objective", objective, "--methods", "sequence-.8"}));
    INFO(objective << ": " << r.err);
    CHECK(r.status == 0);
    CHECK(says(r.out, "\nsequence-.8 "));
  }
}

TEST_CASE("policy gradients learn from the policy's own texts alone, whatever the shares of other texts") {
  if (not_built()) return;
  const auto outcome_of = [](const std::string& objective, const words& shares) {
    const continuation_place p;
    REQUIRE(examples::run(continuation_sampler, p.command(words{"--objective", objective, "--methods", "sequence-.8"} + shares)).status == 0);
    return scores(p.out);
  };
  const words own{"--tempered", "0", "--prior", "0", "--replayed", "0"}, mixed{"--tempered", ".3", "--prior", ".4", "--replayed", ".3"};
  CHECK(outcome_of("reward-only", own) == outcome_of("reward-only", mixed));
  CHECK(outcome_of("subtb", own) != outcome_of("subtb", mixed));
}

TEST_CASE("too few passages are said before anything is written, so that the same folder takes other settings") {
  if (not_built()) return;
  const continuation_place p;
  const examples::outcome r = examples::run(continuation_sampler, p.command({"--longest", "1"}));
  CHECK(r.status == 2);
  CHECK(says(r.err, "the text has too few different passages of at most --prompt-tokens 48"));
  // Four documents of eight sentences have fewer than a hundred passages.
  CHECK(says(examples::run(continuation_sampler, p.command({"--test-prompts", "100"})).err, "too few different passages"));
  CHECK_FALSE(fs::exists(fs::path(p.out) / "run.json"));
  CHECK_FALSE(fs::exists(fs::path(p.out) / "base.safetensors"));
}

TEST_CASE("where there are fewer steps than --horizon the reward's temperature comes down all the same") {
  if (not_built()) return;
  const auto outcome_of = [](const std::string& horizon) {
    const continuation_place p;
    REQUIRE(examples::run(continuation_sampler, p.command({"--methods", "sequence-.8", "--horizon", horizon})).status == 0);
    return scores(p.out);
  };
  CHECK(outcome_of("3") == outcome_of("200"));
  CHECK(outcome_of("3") != outcome_of("6"));
}

TEST_CASE("a folder of a run with other settings is refused by the name of the first that differs") {
  if (not_built()) return;
  const continuation_place p;
  REQUIRE(examples::run(continuation_sampler, p.command({"--methods", "ancestral"})).status == 0);
  const examples::outcome r = examples::run(continuation_sampler, p.command({"--methods", "ancestral", "--rank", "3"}));
  CHECK(r.status == 2);
  CHECK(says(r.err, "is of a run with --rank '2', this one has '3'"));
}
