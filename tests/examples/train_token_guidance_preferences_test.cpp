/// A user's own preferences, from outside: a reward model from a file of them, a language model of
/// train_planner_lm tuned with it, text written with that, and what each says of bad input.
///
/// The preference is one that can be learnt: of the texts of a list, those that hold a word are better. Model
/// and text are tiny.
#include <chrono>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using scratch::contents;
using scratch::put;
using words = std::vector<std::string>;

const std::string program = PLANLM_EXAMPLES "/train_token_guidance",
                  trainer = PLANLM_EXAMPLES "/train_planner_lm", writer = PLANLM_EXAMPLES "/generate";
const words who{"The dog", "A cat", "My aunt", "The king"}, did{"sees", "hears", "likes", "sells"},
    what{"a red apple", "the old house", "some bread", "the river"};

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
bool missing() {
  for (const std::string& one : {program, trainer, writer})
    if (!fs::exists(one)) {
      WARN("SKIPPED: " + one + " is not built, a library of it is missing");
      return true;
    }
  return false;
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}
std::string sentence(std::size_t n) {
  return who[n / 7 % who.size()] + " " + did[n % did.size()] + " " + what[n / 3 % what.size()] + " on day " +
         std::to_string(n % 50) + " .";
}

/// Runs of train_planner_lm, a file of preferences and what was learnt from it: one for all tests of this
/// file.
struct shelf {
  scratch::folder folder;
  std::string run = (folder / "run").string(), other = (folder / "other").string(),
              prefs = (folder / "prefs.jsonl").string(), reward = (folder / "reward").string(),
              tuned = (folder / "tuned").string();

  static words planner(const std::string& text, const std::string& out, const std::string& steps) {
    return {"--text",          text,
            "--out",           out,
            "--labels",        "4",
            "--label-width",   "8",
            "--width",         "16",
            "--heads",         "2",
            "--vocabulary",    "330",
            "--length",        "64",
            "--batch",         "8",
            "--variant-batch", "4",
            "--planner-batch", "16",
            "--base-steps",    steps,
            "--variant-steps", "30",
            "--planner-steps", "30",
            "--threads",       "1",
            "--generate",      "0",
            "--variants",      "none,mixture-joint"};
  }
  words reward_command(const std::string& out) const {
    return {"--task",
            "reward",
            "--run",
            run,
            "--preferences",
            prefs,
            "--out",
            out,
            "--threads",
            "1",
            "--steps",
            "120",
            "--validate-every",
            "20",
            "--reward-rate",
            "0.003",
            "--reward-inner",
            "32",
            "--validation-share",
            "0.2",
            "--test-share",
            "0.2"};
  }
  words tune_command(const std::string& out, const words& more = {}) const {
    return words{"--task",  "tune",  "--run",  run,         "--reward",  reward,    "--preferences",
                 prefs,     "--out", out,      "--threads", "1",         "--steps", "60",
                 "--batch", "16",    "--rate", "0.003",     "--longest", "26"} +
           more;
  }
  shelf() {
    std::string text, lists;
    for (std::size_t i = 0; i < 400; ++i) text += sentence(i) + "\n" + (i % 10 == 9 ? "\n" : "");
    put(folder / "stories.txt", text);
    for (std::size_t i = 0; i < 90; ++i) {
      json generations = json::array(), scores = json::array();
      for (std::size_t k = 0; k < 4; ++k) {
        const std::string g = sentence(i * 11 + k * 3);
        generations.push_back(g);
        scores.push_back(g.find("apple") != std::string::npos ? 1 : 0);
      }
      lists +=
          json{{"prompt", sentence(i * 13 + 5)}, {"generations", generations}, {"scores", scores}}.dump() +
          "\n";
    }
    put(prefs, lists);
    for (const auto& [out, steps] : {std::pair{run, "150"}, std::pair{other, "2"}}) {
      const examples::outcome r =
          examples::run(trainer, planner((folder / "stories.txt").string(), out, steps));
      INFO(r.err);
      REQUIRE(r.status == 0);
    }
    for (const words& command : {reward_command(reward), tune_command(tuned)}) {
      const examples::outcome r = examples::run(program, command);
      INFO(r.err);
      REQUIRE(r.status == 0);
    }
  }
};
const shelf& trained() {
  static const shelf s;
  return s;
}

json outcomes(const std::string& out) {
  return json::parse(contents(fs::path(out) / "results.json")).at("outcomes");
}
double value(const std::string& out, const std::string& method, const std::string& name) {
  for (const json& o : outcomes(out))
    if (o.at("method") == method) return o.at("values").at(name).get<double>();
  return NAN;
}
/// The share of the texts for test prompts that hold the word.
double share(const std::string& out, const char* when) {
  double found = 0, all = 0;
  std::istringstream in(contents(fs::path(out) / "seed-1.samples.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const json parsed = json::parse(line);
    for (const json& text : parsed.at(when))
      found += text.get<std::string>().find("apple") != std::string::npos, all += 1;
  }
  return found / all;
}
/// The one line of a run that must fail; else what was wrong with it.
std::string refusal(const examples::outcome& r) {
  const std::string name = "train_token_guidance: ";
  std::string message;
  int found = 0;
  std::istringstream lines(r.err);
  for (std::string line; std::getline(lines, line);) found += line.starts_with(name), message = line;
  if (r.status != 2 || found != 1 || !message.starts_with(name))
    return "status " + std::to_string(r.status) + ", no single line at the end: " + r.err;
  return message.substr(name.size());
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

TEST_CASE(
    "from a file of preferences a reward model that orders texts it has not seen, and a policy that writes "
    "what is preferred") {
  if (missing()) return;
  const shelf& s = trained();
  CHECK(value(s.reward, "average", "loss") < value(s.reward, "average", "loss_before"));
  CHECK(value(s.reward, "average", "accuracy") >= 0.9);
  CHECK(value(s.reward, "average", "accuracy") > value(s.reward, "likelihood", "accuracy") + 0.2);
  CHECK(value(s.reward, "average", "pairs") > 20);
  const std::string page = contents(fs::path(s.reward) / "report.html");
  for (const char* text :
       {"Texts by reward", "color-mix", "Tokens by reward", "Pairs right, validation lists"})
    CHECK(has(page, text));

  CHECK(value(s.tuned, "reinforce", "reward") > value(s.tuned, "untuned", "reward") + 0.02);
  CHECK(share(s.tuned, "after") > share(s.tuned, "before") + 0.1);
  CHECK(std::abs(value(s.tuned, "untuned", "drift")) < 1e-4);
  CHECK(value(s.tuned, "reinforce", "drift") > 0);
  for (const char* column : {"entropy", "best_nll", "length", "different", "score"})
    CHECK(std::isfinite(value(s.tuned, "reinforce", column)));
  for (const char* text : {"Entropy", "Drift", "untuned", "seed-N.samples.jsonl"})
    CHECK(has(contents(fs::path(s.tuned) / "report.html"), text));

  const std::string out = s.tuned + "-weighted";
  REQUIRE(examples::run(program, s.tune_command(out, {"--objective", "weighted"})).status == 0);
  CHECK(share(out, "after") > share(out, "before") + 0.1);
}

TEST_CASE(
    "generate writes with a tuned language model, under plans and without, and refuses one of another run") {
  if (missing()) return;
  const shelf& s = trained();
  const std::string model = s.tuned + "/seed-1.language-model.safetensors";
  const auto write = [&](const words& more) {
    return examples::run(writer, words{"--run", s.run, "--threads", "1", "--tokens", "40"} + more);
  };
  for (const char* variant : {"none", "mixture-joint"}) {
    INFO(variant);
    const examples::outcome own = write({"--variant", variant}),
                            tuned = write({"--variant", variant, "--language-model", model});
    INFO(tuned.err);
    REQUIRE(tuned.status == 0);
    CHECK_FALSE(tuned.out.empty());
    CHECK(tuned.out != own.out);
    CHECK((tuned.out.find("plan ") == std::string::npos) == (std::string(variant) == "none"));
  }
  const auto refused = [&](const examples::outcome& r, const std::string& why) {
    CHECK(r.status == 2);
    CHECK(r.out.empty());
    CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
    CHECK(has(r.err, why));
  };
  refused(examples::run(writer, {"--run", s.other, "--language-model", model}),
          "was tuned from another run of train_planner_lm");
  refused(write({"--language-model", s.run + "/seed-1.base.safetensors"}),
          "is no language model of train_token_guidance --task tune");
  refused(write({"--language-model", s.run + "/nothing.safetensors"}), "there is no such file");
  refused(write({"--language-model", model, "--seed", "2"}), "was tuned from seed 1");
}

TEST_CASE("the same commands give the same bytes, stopped or not") {
  if (missing()) return;
  const shelf& s = trained();
  const std::string reward = s.reward + "-stopped", tuned = s.tuned + "-stopped";
  CHECK(stop_in("average", s.reward_command(reward), reward) == 128 + SIGINT);
  CHECK(fs::exists(fs::path(reward) / "checkpoint.safetensors"));
  REQUIRE(examples::run(program, s.reward_command(reward)).status == 0);
  CHECK(stop_in("reinforce", s.tune_command(tuned), tuned) == 128 + SIGINT);
  CHECK(fs::exists(fs::path(tuned) / "checkpoint.safetensors"));
  REQUIRE(examples::run(program, s.tune_command(tuned)).status == 0);
  CHECK(contents(fs::path(reward) / "reward.safetensors") ==
        contents(fs::path(s.reward) / "reward.safetensors"));
  CHECK(outcomes(reward) == outcomes(s.reward));
  for (const char* file : {"seed-1.language-model.safetensors", "seed-1.samples.jsonl"})
    CHECK(contents(fs::path(tuned) / file) == contents(fs::path(s.tuned) / file));
  CHECK(outcomes(tuned) == outcomes(s.tuned));
  for (const std::string& out : {reward, tuned})
    CHECK_FALSE(fs::exists(fs::path(out) / "checkpoint.safetensors"));
  // What is finished is not done again, and other settings need another folder.
  CHECK(examples::run(program, s.tune_command(tuned)).err.find("seed 1 reinforce") == std::string::npos);
  CHECK(has(refusal(examples::run(program, s.tune_command(tuned, {"--pull", "0.5"}))), "--pull"));
}

TEST_CASE("a line that is no preference is refused with its number, and lists that say nothing are counted") {
  if (missing()) return;
  const shelf& s = trained();
  const std::string bad = (s.folder / "bad.jsonl").string(), good = contents(s.prefs),
                    out = (s.folder / "refused").string();
  const auto of = [&](const std::string& lines, const words& more = {}) {
    put(bad, lines);
    return refusal(examples::run(
        program, words{"--task", "reward", "--run", s.run, "--preferences", bad, "--out", out} + more));
  };
  const auto third = [&](const std::string& line) {
    return of(good.substr(0, good.find('\n', good.find('\n') + 1) + 1) + line + "\n");
  };
  CHECK(has(third(R"({"prompt": "a", "generations": ["b"], "scores": [1]})"),
            "bad.jsonl: line 3: 1 generation, a preference is among 2 or more"));
  CHECK(has(third(R"({"prompt": "a", "generations": ["", " "], "scores": [1, 2]})"),
            "line 3: all generations are empty"));
  CHECK(has(third(R"({"prompt": "a", "generations": ["b", "c"], "scores": [1, 1e999]})"), "line 3: "));
  CHECK(has(third(R"({"prompt": "a", "generations": ["b", "c"], "scores": [1, null]})"),
            "line 3: score 2 is no finite number"));
  CHECK(has(third(R"({"prompt": "a", "generations": ["b", "c"]})"),
            "line 3: no field \"scores\" or \"ranks\""));
  CHECK(has(third(R"({"prompt": "a", "generations": ["b", "c"], "scores": [1, 2], "why": 3})"),
            "line 3: unknown field \"why\""));
  std::string much = "the dog";
  for (int i = 0; i < 30; ++i) much += " hears the river";
  CHECK(has(third(json{{"prompt", much}, {"chosen", "b"}, {"rejected", "c"}}.dump()),
            "line 3: 1 token that begins a text, "));
  CHECK(has(third(json{{"prompt", much}, {"chosen", "b"}, {"rejected", "c"}}.dump()),
            "do not fit the run's window of 64; shorten the line, or give --cut"));
  const std::string silent = R"({"prompt": "a", "generations": ["b", "c"], "scores": [1, 1]})";
  CHECK(has(of(silent + "\n" + silent + "\n"),
            "in all 2 lists the scores are equal, so nothing can be learnt"));
  CHECK(has(of(R"({"prompt": "a", "chosen": "b", "rejected": "c"})"),
            "of 1 list none that says which text is better is left to"));
  CHECK_FALSE(fs::exists(fs::path(out) / "run.json"));

  // Of these nothing has to be refused; the run says what it left out.
  const std::string cut = json{{"prompt", much}, {"chosen", "a red apple"}, {"rejected", ""}}.dump();
  const std::string cut_too =
      json{{"prompt", much}, {"generations", {"a red apple", "some bread", ""}}, {"ranks", {1, 2, 3}}}.dump();
  put(bad, good + silent + "\n" + cut + "\n" + cut_too + "\n");
  const examples::outcome r = examples::run(program, {"--task", "reward", "--run", s.run, "--preferences",
                                                      bad, "--out", out, "--cut", "--steps", "2"});
  INFO(r.err);
  CHECK(r.status == 0);
  CHECK(has(r.err, "carry no information, because all their scores are equal"));
  CHECK(has(r.err, "2 generations are empty and were left out"));
  CHECK(has(r.err, "1 list was left out, it has fewer than two generations that are not empty"));
  CHECK(has(r.err, "1 prompt has lost its beginning"));
}

TEST_CASE("folders and files that do not belong together are refused in one line") {
  if (missing()) return;
  const shelf& s = trained();
  const std::string out = (s.folder / "nowhere").string();
  const auto reward = [&](const std::string& run, const std::string& prefs, const words& more = {}) {
    return refusal(examples::run(
        program, words{"--task", "reward", "--run", run, "--preferences", prefs, "--out", out} + more));
  };
  const auto tune = [&](const std::string& run, const std::string& model, const words& more = {}) {
    return refusal(examples::run(program, words{"--task", "tune", "--run", run, "--reward", model,
                                                "--preferences", s.prefs, "--out", out} +
                                              more));
  };
  CHECK(has(reward(s.run, s.prefs + "-not"), "prefs.jsonl-not"));
  CHECK(has(reward(s.run + "-not", s.prefs), "holds no run of train_planner_lm"));
  CHECK(has(reward(s.reward, s.prefs), "is not a run description of this program"));
  CHECK(has(reward(s.run, s.prefs, {"--run-seed", "3"}), "the run has no --run-seed 3"));
  CHECK(has(reward(s.run, s.prefs, {"--methods", "average,median"}),
            "--methods: 'median' is none of average, sum, max, min"));
  CHECK(has(reward(s.run, s.prefs, {"--validation-share", "0.6", "--test-share", "0.5"}),
            "leaves no list to train with"));
  CHECK(has(refusal(examples::run(program, {"--task", "reward", "--out", out})), "--run: name the folder"));
  CHECK(has(tune(s.other, s.reward, {"--longest", "20"}), "was trained for another run of train_planner_lm"));
  CHECK(has(tune(s.run, s.run), "reward.safetensors: there is no such file"));
  CHECK(has(tune(s.run, s.run + "/seed-1.base.safetensors", {"--longest", "20"}),
            "is no reward model of this program"));
  CHECK(has(tune(s.run, s.reward, {"--longest", "64"}),
            "--longest 64: the run's window of 64 tokens leaves no room for a prompt"));
  CHECK(has(tune(s.run, s.reward, {"--longest", "50"}), "50 of --longest do not fit the run's window of 64"));
  CHECK(has(tune(s.run, s.reward, {"--objective", "best"}),
            "--objective: 'best' is none of reinforce, weighted"));
  CHECK_FALSE(fs::exists(fs::path(out) / "results.json"));
}
