/// The grid trainer from outside: what it does with bad flags, what it leaves behind, what it learns, and that going on means the same run.
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using scratch::contents;
using scratch::put;
using words = std::vector<std::string>;

const std::string program = PLANLM_EXAMPLES "/train_gflownet_grid";

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
bool missing() {
  if (fs::exists(program)) return false;
  WARN("SKIPPED: train_gflownet_grid is not built, a library of it is missing");
  return true;
}
struct place : scratch::folder {
  std::string out = (*this / "run").string();
};
examples::outcome train(const std::string& out, const words& flags) {
  return examples::run(program, words{"--out", out, "--threads", "1"} + flags);
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}
/// The message of a run that must fail: one line on stderr. Else what was wrong with it.
std::string refusal(const examples::outcome& r) {
  if (r.status != 2) return "ended with status " + std::to_string(r.status) + ": " + r.err;
  const std::string name = "train_gflownet_grid: ";
  if (!r.err.starts_with(name) || r.err.find('\n') + 1 != r.err.size()) return "not one line: " + r.err;
  return r.err.substr(name.size());
}
/// results.json without the times.
std::string numbers(const std::string& out) {
  std::istringstream lines(contents(fs::path(out) / "results.json"));
  std::string kept;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    inside |= line.find("\"outcomes\"") != std::string::npos;
    if (inside && line.find("seconds") == std::string::npos) kept += line + '\n';
  }
  return kept;
}
/// A number of the table: the value in the column `column` after the name.
double in_table(const std::string& text, const std::string& loss, int column) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream cells(line);
    std::string cell;
    if (!(cells >> cell) || cell != loss) continue;
    for (int i = 0; i <= column; ++i)
      if (!(cells >> cell)) return NAN;
    return std::stod(cell);
  }
  return NAN;
}

}  // namespace

TEST_CASE("bad flags of the grid trainer are refused in one line and nothing is written") {
  if (missing()) return;
  const place p;
  const auto of = [&](const words& flags) { return refusal(train(p.out, flags)); };
  CHECK(has(of({"--losses", "balance"}), "--losses: 'balance' is none of flow-matching, detailed-balance"));
  CHECK(has(of({"--side", "1"}), "give a whole number from 2"));
  CHECK(has(of({"--dimensions", "8", "--side", "8"}), "--side 8 in 8 --dimensions: more than 2^21 points"));
  CHECK(has(of({"--reward", "deep"}), "--reward: 'deep' is none of original, cosine, sparse, deceptive"));
  CHECK(has(of({"--epsilon", "1.5"}), "give a number from 0 to 1, not '1.5'"));
  CHECK(has(of({"--temperature", "0"}), "give a number above 0"));
  CHECK(has(of({"--replay", "some"}), "--replay: 'some' is none of none, fifo, prioritised"));
  CHECK_FALSE(fs::exists(p.out));
  CHECK(has(refusal(examples::run(program, {})), "--out"));
}

TEST_CASE("trajectory balance learns the 8 x 8 grid: L1 below what is known of 32,000 trajectories") {
  if (missing()) return;
  const place p;
  const examples::outcome r = train(p.out, {"--losses", "trajectory-balance,reward-only"});
  INFO(r.err);
  REQUIRE(r.status == 0);
  CHECK(in_table(r.out, "trajectory-balance", 0) < .012);
  CHECK(std::abs(in_table(r.out, "trajectory-balance", 3)) < .01);  // log Z
  CHECK(in_table(r.out, "reward-only", 0) > .5);                    // the control does not match
}

TEST_CASE("every loss trains and stands in the table and on the page") {
  if (missing()) return;
  const place p;
  const examples::outcome r = train(p.out, {"--side", "4", "--trajectories", "960", "--hidden", "16", "--evaluations", "4", "--backward", "learned"});
  INFO(r.err);
  REQUIRE(r.status == 0);
  const std::string page = contents(fs::path(p.out) / "report.html");
  for (const std::string loss : {"flow-matching", "detailed-balance", "forward-looking", "modified-db", "modified-subtb", "trajectory-balance", "vargrad",
                                 "subtb-detailed", "subtb-modified", "subtb-ends", "subtb-equal", "subtb-equal-within", "subtb-geometric-within",
                                 "subtb-geometric", "subtb-forward-looking", "reward-only"}) {
    CHECK(has(r.out, "\n" + loss + " "));
    CHECK(has(page, ">" + loss + "<"));
    CHECK(std::isfinite(in_table(r.out, loss, 0)));
  }
  CHECK(has(contents(fs::path(p.out) / "metrics.jsonl"), "\"exact\":{\"l1\":"));
  CHECK(has(page, "What was learned"));
}

TEST_CASE("two weightings that mean the same loss give the same run") {
  if (missing()) return;
  const place p;
  const examples::outcome r = train(p.out, {"--side", "4", "--trajectories", "320", "--losses", "detailed-balance,subtb-detailed"});
  REQUIRE(r.status == 0);
  CHECK(in_table(r.out, "detailed-balance", 0) == Approx(in_table(r.out, "subtb-detailed", 0)).margin(2e-5));
}

TEST_CASE("a grid run that was stopped goes on to the same numbers, its replay buffer too") {
  if (missing()) return;
  const place p;
  const words flags{"--side", "6", "--trajectories", "48000", "--losses", "trajectory-balance,vargrad", "--hidden", "32", "--evaluations", "5",
                    "--epsilon", "0.1", "--backward", "learned", "--replay", "prioritised", "--replay-size", "20"};
  const std::string whole = p.out + "-whole";
  REQUIRE(train(whole, flags).status == 0);
  {
    examples::running r(program, words{"--out", p.out, "--threads", "1"} + flags);
    // A line of the log: the first stage is under way.
    const fs::path log = fs::path(p.out) / "metrics.jsonl";
    for (int i = 0; i < 60000 && (!fs::exists(log) || fs::file_size(log) == 0); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    r.send(SIGINT);
    const examples::outcome stopped = r.wait();
    INFO(stopped.err);
    REQUIRE(stopped.status == 128 + SIGINT);
    CHECK(has(stopped.err, "To go on, run the same command again."));
    CHECK(fs::exists(fs::path(p.out) / "checkpoint.safetensors"));
  }
  CHECK(has(refusal(train(p.out, flags + words{"--epsilon", "0.2"})), "--epsilon"));
  const examples::outcome again = train(p.out, flags);
  REQUIRE(again.status == 0);
  CHECK(has(again.err, "seed 1 trajectory-balance: going on from step "));
  CHECK(numbers(p.out) == numbers(whole));
  CHECK_FALSE(fs::exists(fs::path(p.out) / "checkpoint.safetensors"));
}

TEST_CASE("replay, tables and grids too large to ask for at once train as well") {
  if (missing()) return;
  const place p;
  for (const words& flags : {words{"--side", "34", "--trajectories", "320", "--losses", "trajectory-balance,flow-matching", "--hidden", "16", "--replay", "fifo"},
                             words{"--policy", "table", "--trajectories", "32000", "--losses", "trajectory-balance", "--evaluations", "2"}}) {
    const std::string out = p.out + flags[1];
    const examples::outcome r = train(out, flags);
    INFO(r.err);
    REQUIRE(r.status == 0);
    CHECK(in_table(r.out, "trajectory-balance", 0) < (flags[0] == "--policy" ? .1 : 2.));
  }
}
