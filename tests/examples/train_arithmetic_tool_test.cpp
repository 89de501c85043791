/// The calculator and the questions by hand-worked cases; the program from outside: what it leaves behind, that going on means the same run,
/// and what it says of bad input. Models are tiny, nothing is said about quality.
#include <chrono>
#include <sstream>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <vector>

#include "../../examples/train_arithmetic_tool/calculator.hpp"
#include "../../examples/train_arithmetic_tool/questions.hpp"
#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using namespace train_arithmetic_tool;
using scratch::contents;
using words = std::vector<std::string>;

const std::string program = PLANLM_EXAMPLES "/train_arithmetic_tool";
const words tiny{"--layers", "1", "--width", "16", "--heads", "2", "--length", "160", "--base-steps", "6", "--base-batch", "2", "--steps", "4",
                 "--supervised-steps", "3", "--prompts", "2", "--rows", "2", "--horizon", "2", "--demonstrations", "6", "--pairs", "8", "--test", "3",
                 "--validation", "2", "--samples", "2", "--longest", "28", "--test-longest", "16", "--threads", "1"};

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
struct place : scratch::folder {
  std::string out = (*this / "run").string();
};
bool missing() {
  if (fs::exists(program)) return false;
  WARN("SKIPPED: train_arithmetic_tool is not built, a library of it is missing");
  return true;
}
examples::outcome train(const std::string& out, const words& flags = {}) { return examples::run(program, words{"--out", out} + tiny + flags); }

/// The message of a run that must fail: one line, the last on stderr. Else what was wrong with it.
std::string refusal(const examples::outcome& r) {
  const std::string name = "train_arithmetic_tool: ";
  std::string message;
  int found = 0;
  std::istringstream lines(r.err);
  for (std::string line; std::getline(lines, line);) {
    found += line.starts_with(name);
    message = line;
  }
  if (r.status != 2) return "ended with status " + std::to_string(r.status) + ": " + r.err;
  if (found != 1 || !message.starts_with(name)) return "not one line at the end: " + r.err;
  return message.substr(name.size());
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}
/// results.json without the line of the command, which names the folder.
std::string outcomes(const std::string& folder) {
  const std::string all = contents(fs::path(folder) / "results.json");
  return all.substr(std::min(all.find("\"outcomes\""), all.size()));
}

}  // namespace

TEST_CASE("the calculator evaluates what stands behind the last delimiter") {
  const calculator c{0};
  CHECK(c.result("^?7+3-5=:7+3=") == "10");
  CHECK(c.result("^?7+3-5=:7+3=10,10-5=") == "5");
  CHECK(c.result("^?1-2=:1-2=-1.3+4=") == "7");
  CHECK(c.result("7+3=10-5=") == "5");  // an earlier result is an operand like any other
  CHECK(c.result("3-9=") == "-6");
  CHECK(c.result("-6-9=") == "-15");
  CHECK(c.result("-2+4=") == "2");
  CHECK(c.result("3--2=") == "5");
  CHECK(c.result("3+-2=") == "1");
  CHECK(c.result("12+34=") == "46");
  CHECK(c.result("5=") == "5");
  CHECK(c.result("007+1=") == "8");
}

TEST_CASE("limited to two operands, the calculator takes the last two and the sign between them, and loses no leading operand of two") {
  const calculator two{2}, all{0}, three{3};
  CHECK(two.result("6-0-4=") == "-4");  // 0 - 4
  CHECK(all.result("6-0-4=") == "2");
  CHECK(three.result("6-0-4=") == "2");
  CHECK(two.result("9-6-4=") == "2");  // 6 - 4; a parser that drops the leading operand says -4
  CHECK(all.result("9-6-4=") == "-1");
  CHECK(two.result("6-4=") == "2");
  CHECK(two.result(",6-4=") == "2");
  CHECK(two.result("-2+4-1=") == "3");  // 4 - 1
  CHECK(two.result("1--2+4=") == "2");  // -2 + 4
  CHECK(calculator{1}.result("9-6-4=") == "4");
}

TEST_CASE("what is no expression has no value") {
  const calculator c{2};
  for (const char* text : {"", "=", "7", "7+3", "+=", "7+=", "7++=", "---3=", "7+3=10,=", ",.=", "1234567+1="}) {
    INFO(text);
    CHECK(c.result(text).empty());
  }
}

TEST_CASE("what the calculator writes is state and never an action") {
  const question q{{7, 3, 5}, {1, 1, -1}};
  REQUIRE(q.text() == "7+3-5=");
  REQUIRE(q.rationale() == "7+3=10,10-5=5.");
  REQUIRE(without_results(q.rationale()) == "7+3=,10-5=.");
  const std::vector<int> prompt = encode("^?" + q.text() + ":"), actions = encode(without_results(q.rationale()));
  const auto z = planlm::given_rollout<float>(prompt, actions, calculator{});
  CHECK(decode(z.state) == "^?7+3-5=:7+3=10,10-5=5.");
  CHECK(z.actions == actions);
  REQUIRE(z.decided.size() == actions.size() + 1);
  for (std::size_t k = 0; k < actions.size(); ++k) CHECK(z.state[static_cast<std::size_t>(z.decided[k]) + 1] == actions[k]);
  // The choice behind the first "=" sees the result, so four places are left between it and the choice before.
  CHECK(z.decided[4] - z.decided[3] == 3);
  CHECK(planlm::given_rollout<float>(prompt, encode("7+3=10"), planlm::no_tool{}).actions.size() == 6);
}

TEST_CASE("the calculator writes nothing where the actions still allowed would no longer fit") {
  const std::vector<int> prompt = encode("^?7+3=:"), actions = encode("7+3=");
  const auto state = [&](std::size_t room) { return decode(planlm::given_rollout<float>(prompt, actions, calculator{2, room, 6}).state); };
  CHECK(state(8) == "^?7+3=:7+3=10");  // four actions, two tokens, two actions left
  CHECK(state(7) == "^?7+3=:7+3=");
}

TEST_CASE("questions, answers and rationales are judged as by hand") {
  const question q{{3, 9, 2, 1}, {1, -1, -1, 1}};
  CHECK(q.text() == "3-9-2+1=");
  CHECK(q.value() == -7);
  CHECK(q.rationale() == "3-9=-6,-6-2=-8,-8+1=-7.");
  CHECK(is_valid(q.rationale()));
  CHECK(is_solution(q, q.rationale()));
  CHECK(is_solution(q, "3-9=-6,-6-2=-8,-8+1=-7"));
  CHECK_FALSE(is_solution(q, "3-9=-6,-6-2=-8."));
  CHECK(is_valid("9-3=6,6-2=4"));
  CHECK_FALSE(is_valid("9-3=5,6-2=4."));
  CHECK_FALSE(is_valid("9-3=6,"));
  CHECK_FALSE(is_valid("9-3=6=6"));
  CHECK_FALSE(is_valid("9-3=7-1"));
  CHECK_FALSE(is_valid("9-3"));
  CHECK_FALSE(is_valid(""));
  CHECK(answer_of("3-9=-6,-6-2=-8.") == -8);
  CHECK(answer_of("3+9=12") == 12);
  CHECK_FALSE(answer_of("3+9=").has_value());
  CHECK_FALSE(answer_of("3+9").has_value());
  CHECK_FALSE(answer_of("3+9=1,2=-.").has_value());
  CHECK(spaced("7+3-5=") == "7 + 3 - 5 =");
  CHECK(spaced("3-9=-6,-6-12=-18.") == "3 - 9 = -6 , -6 - 12 = -18 .");
  CHECK_THROWS_AS(encode("7*3"), planlm::error);
}

TEST_CASE("every method of the arithmetic trainer runs, and leaves table, results and page") {
  if (missing()) return;
  const place p;
  const auto r = train(p.out);
  INFO(r.err);
  REQUIRE(r.status == 0);
  for (const char* method : {"0-shot", "3-shot-tool", "sft-demos", "self-taught", "reward-only", "vargrad", "subtb-no-tool", "subtb-no-seed"}) {
    CHECK(has(r.out, method));
    CHECK(has(contents(fs::path(p.out) / "results.json"), std::string("\"") + method + "\""));
    CHECK(has(contents(fs::path(p.out) / "report.html"), method));
  }
  CHECK_FALSE(fs::exists(fs::path(p.out) / "checkpoint.safetensors"));
  // Nothing is left to do: the same table again.
  const auto again = train(p.out);
  CHECK(again.status == 0);
  CHECK(again.out.substr(0, again.out.find("report:")) == r.out.substr(0, r.out.find("report:")));
}

TEST_CASE("an arithmetic run that is stopped, or killed, and started again has the results of one that was not") {
  if (missing()) return;
  const words flags{"--methods", "3-shot-tool,self-taught,subtb", "--steps", "1000"};
  const place whole, parts;
  REQUIRE(train(whole.out, flags).status == 0);
  int stops = 0;
  examples::outcome last;
  for (const auto& [signal, milliseconds] : {std::pair{SIGINT, 150}, {SIGKILL, 250}, {SIGINT, 350}}) {
    examples::running r(program, words{"--out", parts.out} + tiny + flags);
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    r.send(signal);
    last = r.wait();
    INFO(last.err);
    const bool before_it_listened = last.status == -SIGINT && last.err.empty();  // on a busy machine
    CHECK((last.status == 0 || last.status == 130 || last.status == -SIGKILL || before_it_listened));
    if (last.status == 130) CHECK(has(last.err, "run the same command again"));
    stops += last.status != 0;
  }
  INFO(last.err);
  CHECK(stops > 0);
  REQUIRE(train(parts.out, flags).status == 0);
  CHECK(outcomes(parts.out) == outcomes(whole.out));
  CHECK(outcomes(whole.out).size() > 100);
}

TEST_CASE("bad input to the arithmetic trainer is one line that names the flag") {
  if (missing()) return;
  const place p;
  const auto of = [&](const words& flags) { return refusal(train(p.out, flags)); };
  CHECK(has(of({"--steps", "0"}), "--steps: give a whole number from 1"));
  CHECK(has(of({"--methods", "subtb,tb"}), "--methods: 'tb' is none of 0-shot, 0-shot-tool"));
  CHECK(has(of({"--shots", "7"}), "--shots 7: there are only 6 --demonstrations"));
  CHECK(has(of({"--shortest", "20"}), "--shortest 20 is above --test-longest"));
  CHECK(has(of({"--length", "60"}), "--length 60: 3 demonstrations, a question and a rationale may take"));
  CHECK(has(of({"--longest", "20"}), "--longest 20: a demonstration may have 26 actions"));
  CHECK(has(of({"--three", ".9", "--four", ".3"}), "--three, --four and --five add up to"));
  CHECK(has(of({"--test", "1001"}), "--test 1001: give at most 1000"));
  CHECK(has(of({"--heads", "3"}), "--width 16 is no multiple of --heads 3"));
  CHECK(has(of({"--timid", "2"}), "--timid: give a number from 0 to 1, not '2'"));
  CHECK(has(refusal(examples::run(program, {})), "--out is required"));
  // A folder of other settings is left as it is.
  REQUIRE(train(p.out, {"--methods", "0-shot"}).status == 0);
  const std::string before = contents(fs::path(p.out) / "results.json");
  CHECK(has(of({"--methods", "0-shot", "--samples", "3"}), "is of a run with --samples '2', this one has '3'"));
  CHECK(contents(fs::path(p.out) / "results.json") == before);
}
