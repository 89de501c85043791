/// train_token_guidance --task recovery from outside: what its tables find, what it does with bad flags, that a run repeats and goes on.
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using scratch::contents;
using words = std::vector<std::string>;
using json = nlohmann::ordered_json;

const std::string program = PLANLM_EXAMPLES "/train_token_guidance";

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
bool missing() {
  if (fs::exists(program)) return false;
  WARN("SKIPPED: train_token_guidance is not built, a library of it is missing");
  return true;
}
struct place : scratch::folder {
  std::string out = (*this / "run").string();
};
words asked(const std::string& out, const words& flags) { return words{"--task", "recovery", "--out", out, "--threads", "1"} + flags; }
examples::outcome train(const std::string& out, const words& flags) { return examples::run(program, asked(out, flags)); }
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}
/// The message of a run that must fail: one line on stderr. Else what was wrong with it.
std::string refusal(const examples::outcome& r) {
  if (r.status != 2) return "ended with status " + std::to_string(r.status) + ": " + r.err;
  const std::string name = "train_token_guidance: ";
  if (!r.err.starts_with(name) || r.err.find('\n') + 1 != r.err.size()) return "not one line: " + r.err;
  return r.err.substr(name.size());
}
json outcomes(const std::string& out) {
  return json::parse(std::ifstream(fs::path(out) / "results.json")).at("outcomes");
}
std::vector<double> values(const std::string& out, const std::string& method, const std::string& value) {
  std::vector<double> all;
  for (const json& o : outcomes(out))
    if (o.at("method") == method) all.push_back(o.at("values").at(value).get<double>());
  return all;
}
double mean(const std::vector<double>& all) {
  double sum = 0;
  for (const double v : all) sum += v / double(all.size());
  return sum;
}
/// Every row in a fraction of a second; nothing is learnt.
const words small{"--pair-steps", "20", "--pair-tests", "100", "--loop-updates", "12", "--loop-guidance", "5", "--reference-updates", "12",
                  "--reference-guidance", "5"};

}  // namespace

TEST_CASE("bad flags of the recovery task are refused in one line and nothing is written") {
  if (missing()) return;
  const place p;
  const auto of = [&](const words& flags) { return refusal(train(p.out, flags)); };
  CHECK(has(of({"--methods", "median"}), "--methods: 'median' is none of avg-k5, avg-k3"));
  CHECK(has(of({"--pair-steps", "0"}), "give a whole number from 1"));
  CHECK(has(of({"--pair-tests", "20000000"}), "--pair-tests 20000000: give at most 10000000"));
  CHECK(has(of({"--loop-updates", "5"}), "give a whole number from 6"));
  CHECK(has(of({"--seeds", "none"}), "--seeds"));
  CHECK(has(of({"--class", "a=b"}), "--class"));  // another task's
  CHECK_FALSE(fs::exists(p.out));
}

TEST_CASE("R1: of sequences of unequal length the average finds the better one, the sum the longer one; of equal length they are one") {
  if (missing()) return;
  const place p;
  const examples::outcome r = train(p.out, {"--methods", "avg-k5,sum"});
  INFO(r.err);
  REQUIRE(r.status == 0);
  REQUIRE(values(p.out, "avg-k5", "score").size() == 5);  // seeds, without being asked
  CHECK(mean(values(p.out, "avg-k5", "score")) >= 0.85);
  CHECK(mean(values(p.out, "sum", "score")) <= 0.75);
  for (const std::string value : {"first_loss", "first_loss_even"})
    for (const double loss : values(p.out, "avg-k5", value)) CHECK(std::abs(loss - std::log(120.)) < 1e-3);
  const std::vector<double> average = values(p.out, "avg-k5", "score_even"), sum = values(p.out, "sum", "score_even");
  for (std::size_t i = 0; i < average.size(); ++i) CHECK(std::abs(average[i] - sum[i]) < 1e-6);
  for (const std::string method : {"avg-k5", "sum"})
    for (const std::string value : {"spearman", "spearman_even"}) CHECK(mean(values(p.out, method, value)) >= 0.97);
  CHECK(has(r.out, "0.883"));
  CHECK(has(r.out, "What has to hold"));
  CHECK_FALSE(has(r.out, "  no\n"));
}

TEST_CASE("every row of the recovery task stands in the table and on the page, and two runs have the same numbers to the byte") {
  if (missing()) return;
  const place p;
  const std::string again = p.out + "-again";
  const words flags = small + words{"--seeds", "2"};
  const examples::outcome r = train(p.out, flags);
  INFO(r.err);
  REQUIRE(r.status == 0);
  const std::string page = contents(fs::path(p.out) / "report.html");
  for (const std::string method : {"avg-k5", "avg-k3", "avg-k2", "avg-no-length", "sum", "min-2", "min-0.1", "max-2", "max-0.1", "min-2-log", "min-0.1-log",
                                   "max-2-log", "max-0.1-log", "last", "retrain", "once", "up-front", "to-go", "soft-max", "soft-min", "retrain-a.03",
                                   "delayed", "delayed-a.03", "delayed-z", "delayed-z-a.5", "delayed-z-a1", "mle", "weighted-mle"}) {
    CHECK(has(r.out, "\n" + method + " "));
    CHECK(has(page, ">" + method + "<"));
    CHECK(values(p.out, method, "score").size() == 2);
  }
  CHECK(has(r.out, "Sizes are not those of the earlier pilot"));
  CHECK_FALSE(contents(fs::path(p.out) / "results.json").find("minus_pilot") != std::string::npos);
  REQUIRE(train(again, flags).status == 0);
  CHECK(outcomes(p.out).dump() == outcomes(again).dump());
}

TEST_CASE("a recovery run that was stopped goes on to the same results, and with more seeds") {
  if (missing()) return;
  const place p;
  const std::string whole = p.out + "-whole";
  const words flags = small + words{"--pair-steps", "60", "--loop-updates", "60", "--loop-guidance", "20"};
  REQUIRE(train(whole, flags + words{"--seeds", "2"}).status == 0);
  {
    examples::running r(program, asked(p.out, flags + words{"--seeds", "2"}));
    const fs::path results = fs::path(p.out) / "results.json";
    for (int i = 0; i < 60000 && !fs::exists(results); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    r.send(SIGINT);
    const examples::outcome stopped = r.wait();
    INFO(stopped.err);
    REQUIRE(stopped.status == 128 + SIGINT);
    CHECK(has(stopped.err, "To go on, run the same command again."));
    CHECK(outcomes(p.out).size() < outcomes(whole).size());
  }
  CHECK(has(refusal(train(p.out, flags + words{"--loop-updates", "12"})), "--loop-updates"));
  REQUIRE(train(p.out, flags + words{"--seeds", "2"}).status == 0);
  CHECK(outcomes(p.out).dump() == outcomes(whole).dump());
  REQUIRE(train(p.out, flags + words{"--seeds", "3", "--methods", "mle"}).status == 0);
  CHECK(values(p.out, "mle", "score").size() == 3);
}
