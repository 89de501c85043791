/// The main job from outside: what it does with bad input, what it leaves behind, and that going on means the same run.
///
/// Models are tiny and texts are made here; nothing is said about quality.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <sstream>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <vector>

#include "../catch.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using scratch::contents;
using scratch::put;
using words = std::vector<std::string>;

const std::string program = PLANLM_EXAMPLES "/train_planner_lm";
const words tiny{"--labels", "4", "--label-width", "8", "--width", "16", "--heads", "2", "--vocabulary", "330", "--length", "16",
                 "--batch", "4", "--variant-batch", "4", "--planner-batch", "16", "--base-steps", "5", "--variant-steps", "5",
                 "--planner-steps", "5", "--threads", "1"};
const words three{"--variants", "fixed,mixture-frozen,mixture-joint"};

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Stories of ten sentences that repeat their subject: 220 sentences, no two alike.
std::string stories(int count = 22, const std::string& end = " .\n", int first = 0) {
  const words who{"The dog", "A cat", "My aunt", "The sailor", "Our king"}, did{"sees", "hears", "likes", "sells", "hides"},
      what{"a red apple", "the old house", "some bread", "a small boat"}, where{"in the garden", "at night", "near the river", "alone"};
  std::string text;
  for (int story = first; story < first + count; ++story) {
    for (int i = 0; i < 10; ++i) {
      const auto n = static_cast<std::size_t>(story * 10 + i);
      const auto pick = [n](const words& from, std::size_t stride) { return from[n / stride % from.size()]; };
      text += who[static_cast<std::size_t>(story) % who.size()] + " " + pick(did, 1) + " " + pick(what, 3) + " " + pick(where, 7) +
              " on day " + std::to_string(n) + end;
    }
    text += "\n";
  }
  return text;
}

/// A place for a text and for runs.
struct place : scratch::folder {
  std::string text = (*this / "stories.txt").string(), out = (*this / "run").string();
  place() { put(text, stories()); }
  std::string write(const std::string& name, const std::string& bytes) const {
    put(*this / name, bytes);
    return (*this / name).string();
  }
};

bool missing() {
  if (fs::exists(program)) return false;
  WARN("SKIPPED: train_planner_lm is not built, a library of it is missing");
  return true;
}

examples::outcome train(const std::string& text, const std::string& out, const words& flags = three, examples::rights may = {}) {
  return examples::run(program, words{"--text", text, "--out", out} + tiny + flags, may);
}

/// The message of a run that must fail: one line, the last on stderr. Else what was wrong with it.
std::string refusal(const examples::outcome& r) {
  const std::string name = "train_planner_lm: ";
  std::string message;
  int found = 0;
  std::istringstream lines(r.err);
  for (std::string line; std::getline(lines, line);) {
    found += line.starts_with(name);
    message = line;
  }
  if (r.status <= 0) return "ended with status " + std::to_string(r.status) + ": " + r.err;
  if (found != 1 || !message.starts_with(name)) return "not one line at the end: " + r.err;
  return message.substr(name.size());
}

std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files[entry.path().filename().string()] = contents(entry.path());
  return files;
}

/// The variants of results.json without the lines that tell how long they took.
std::string numbers(const fs::path& run) {
  std::istringstream lines(contents(run / "results.json"));
  std::string kept;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    inside |= line.find("\"variants\"") != std::string::npos;
    if (inside && line.find("seconds") == std::string::npos && line.find("_per_second") == std::string::npos) kept += line + '\n';
  }
  return kept;
}

bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}

}  // namespace

TEST_CASE("text that cannot be read is refused with file, place and remedy, and nothing is written") {
  if (missing()) return;
  const place p;
  const auto of = [&](const std::string& text) { return refusal(train(text, p.out)); };
  CHECK(has(of((p / "none.txt").string()), "none.txt: no such file or folder; give the path"));
  fs::create_directory(p / "empty");
  CHECK(has(of((p / "empty").string()), "empty: no text in this folder; expected files named .txt"));
  CHECK(has(of(p.write("empty.txt", "")), "empty.txt: the file is empty; expected UTF-8 text"));
  CHECK(has(of(p.write("blank.txt", "\n\n\n")), "blank.txt: the file has only blank lines"));
  CHECK(has(of(p.write("latin.txt", stories() + "caf\xe9 .\n")), "byte offset " + std::to_string(stories().size() + 3) + " (line 243): 0xE9"));
  CHECK(has(of(p.write("noise.txt", std::string("\x7f" "ELF\x02\x01\x00\x00\x93\x00", 10))), "noise.txt: byte offset 6 (line 1): a NUL byte"));
  CHECK(has(of(p.write("bad.jsonl", "{\"text\": \"A dog. A cat.\"}\n{\"text\": \"A do\n")), "bad.jsonl: line 2: malformed JSON"));
  CHECK(has(of(p.write("other.jsonl", "{\"words\": \"A dog. A cat.\"}\n")), "other.jsonl: line 1: the object has no field \"text\""));
  CHECK(files_in(p.path()).count("results.json") == 0);
  CHECK(files_in(p.path()).count("metrics.jsonl") == 0);
}

TEST_CASE("text too little for the split or for the labels is refused with what it holds") {
  if (missing()) return;
  const place p;
  CHECK(has(refusal(train(p.write("short.txt", stories(1)), p.out)), "short.txt (lines): 1 documents, 10 sentences: too little to split"));
  CHECK(has(refusal(train(p.text, p.out, {"--labels", "1000"})), "its training part has 180 sentences, too few for --labels 1000"));
  std::string same;
  for (int i = 0; i < 100; ++i) same += std::string(i % 2 ? "the dog sees a cat" : "our king sells bread") + " .\n" + (i % 10 ? "" : "\n");
  CHECK(has(refusal(train(p.write("same.txt", same), p.out, {"--labels", "3"})), "have only 2 distinct embeddings; ask for at most 2"));
}

TEST_CASE("flags that make no sense are refused with the flag and what it takes") {
  if (missing()) return;
  const place p;
  const auto of = [&](const words& flags) { return refusal(train(p.text, p.out, flags)); };
  for (const char* bad : {"0", "-3", "abc", "1.5", "99999999999", ""})
    CHECK(has(of({"--labels", bad}), std::string("--labels: give a whole number from 1 to 1000000000, not '") + bad + "'"));
  for (const char* bad : {"0", "-1", "nan", "inf", "fast"})
    CHECK(has(of({"--base-rate", bad}), std::string("--base-rate: give a number above 0, not '") + bad + "'"));
  CHECK(has(of({"--minutes", "-5"}), "--minutes: give a number above 0, not '-5'"));
  CHECK(has(of({"--variants", "fixed,mixtrue"}), "there is no variant 'mixtrue'; choose from the groups all, paper, "));
  CHECK(has(of({"--variants", "fixed,mixtrue"}), "oracle-oracle"));
  CHECK(has(of({"--format", "pdf"}), "there is no format 'pdf'; choose from automatic, lines, running, json-lines, verses"));
  CHECK(has(of({"--device", "tpu"}), "--device: there is no device 'tpu'; choose cpu or cuda"));
  CHECK(has(of({"--device", "cuda", "--precision", "int8"}), "there is no precision 'int8'; choose float32, tf32 or bf16"));
  CHECK(has(of({"--precision", "bf16"}), "--precision bf16 is for --device cuda; the CPU computes in float32"));
  CHECK(has(of({"--width", "30", "--heads", "4"}), "--width 30 is no multiple of --heads 4"));
  CHECK(has(of({"--first-adapted", "2"}), "--first-adapted 2: the blocks are numbered 0 to 1"));
  CHECK(has(of({"--vocabulary", "40"}), "give at least 320"));
  CHECK(has(of({"--lables", "4"}), "--lables"));
  CHECK(has(of({"more.txt"}), "--text takes one file or one folder of files"));
  CHECK(has(refusal(examples::run(program, {"--out", p.out})), "--text is required"));
  CHECK(has(refusal(examples::run(program, {"--text", p.text})), "--out is required"));
  CHECK_FALSE(fs::exists(p / "run/results.json"));
}

TEST_CASE("of a flag given twice the last counts, and --help lists the flags") {
  if (missing()) return;
  const place p;
  CHECK(train(p.text, p.out, {"--variants", "none", "--labels", "1000", "--labels", "5"}).status == 0);
  CHECK(has(contents(p / "run/results.json"), "\"labels\": 5"));
  const examples::outcome help = examples::run(program, {"--help"});
  CHECK(help.status == 0);
  CHECK(has(help.out, "--variants"));
}

TEST_CASE("an output folder that cannot be is refused before any work") {
  if (missing()) return;
  const place p;
  CHECK(has(refusal(train(p.text, p.text)), "stories.txt: is a file, expected a folder for the output"));
  CHECK(has(refusal(train(p.text, p.text + "/run")), "a part of the path is a file; choose another path"));
  CHECK(has(refusal(train(p.text, "")), "the output folder has an empty name"));
  CHECK(contents(p.text) == stories());
}

TEST_CASE("a folder or text that an ordinary user may not touch is refused with the reason") {
  if (missing()) return;
  const place p;
  ::chmod(p.path().c_str(), 0755);
  fs::create_directory(p / "theirs");
  ::chmod((p / "theirs").c_str(), 0555);
  const examples::outcome r = train(p.text, (p / "theirs/run").string(), three, {.ordinary_user = true});
  if (r.status == 126 || r.status == 127) {
    WARN("SKIPPED: the program cannot be run as an ordinary user here");
    return;
  }
  CHECK(has(refusal(r), "theirs/run: cannot write to this output folder: Permission denied; choose a folder you may write to"));
  ::chmod(p.text.c_str(), 0);
  fs::create_directory(p / "ours");
  ::chmod((p / "ours").c_str(), 0777);
  CHECK(has(refusal(train(p.text, (p / "ours").string(), three, {.ordinary_user = true})),
            "stories.txt: cannot be read (Permission denied); check the path and its permissions"));
}

TEST_CASE("a full disk is one line, leaves no half of a file and what was there as it was") {
  if (missing()) return;
  const place p;
  for (const rlim_t bytes : {rlim_t(2048), rlim_t(5000), rlim_t(30000)}) {
    const examples::outcome r = train(p.text, p.out, three, {.file_bytes = bytes});
    INFO(bytes);
    CHECK(has(refusal(r), "File too large; free some space, or write to another disk"));
    for (const auto& [name, bytes_of] : files_in(p.out)) CHECK(name.find(".part") == std::string::npos);
  }
  CHECK(train(p.text, p.out).status == 0);  // goes on where there was no room
  const auto before = files_in(p.out);
  CHECK(has(refusal(train(p.text, p.out, {"--variants", "uniform"}, {.file_bytes = 5000})), "free some space"));
  CHECK(files_in(p.out) == before);
}

TEST_CASE("a finished run is not run again, and nothing of it changes") {
  if (missing()) return;
  const place p;
  const examples::outcome first = train(p.text, p.out);
  REQUIRE(first.status == 0);
  CHECK(has(first.out, "mixture-joint"));
  const auto before = files_in(p.out);
  CHECK(train(p.text, p.out).status == 0);
  CHECK(files_in(p.out) == before);
}

TEST_CASE("a folder with another run is refused and stays as it was") {
  if (missing()) return;
  const place p;
  REQUIRE(train(p.text, p.out).status == 0);
  const auto before = files_in(p.out);
  CHECK(has(refusal(train(p.text, p.out, {"--batch", "7"})), "run: holds a run with --batch 4, this one has 7; choose another --out"));
  CHECK(has(refusal(train(p.text, p.out, {"--variant-steps", "9"})), "holds a run with --variant-steps 5, this one has 9"));
  CHECK(has(refusal(train(p.write("other.txt", stories(20)), p.out)), "holds a run on another text"));
  CHECK(files_in(p.out) == before);
}

TEST_CASE("damaged and foreign files of a run are refused by name and stay as they were") {
  if (missing()) return;
  const place p;
  REQUIRE(train(p.text, p.out).status == 0);
  const auto whole = files_in(p.out);
  const auto put_back = [&] {
    fs::remove_all(p.out);
    fs::create_directory(p.out);
    for (const auto& [name, bytes] : whole) put(fs::path(p.out) / name, bytes);
  };
  // results.json goes too where a file is only read because its stage has no result yet.
  const auto with = [&](const std::string& name, const std::string& bytes, bool results = true) {
    put_back();
    if (!results) fs::remove(fs::path(p.out) / "results.json");
    put(fs::path(p.out) / name, bytes);
    auto kept = files_in(p.out);
    const std::string message = refusal(train(p.text, p.out));
    INFO(name << " of " << bytes.size() << " bytes");
    CHECK(has(message, "run/" + name + ": "));
    auto after = files_in(p.out);
    // A variant that is whole may be tested again before the damaged one is met.
    for (const char* made_again : {"results.json", "report.html"})
      if (!results) after.erase(made_again), kept.erase(made_again);
    CHECK(after == kept);
  };
  for (const std::string name : {"run.json", "results.json"}) {
    with(name, whole.at(name).substr(0, 200));
    with(name, "");
    with(name, "[3]");
    with(name, "{\"identity\": {}, \"asked\": {}, \"variants\": [{}]}");
    with(name, std::string(500, '\xfe'));
  }
  for (const std::string name : {"seed-1.base.safetensors", "seed-1.planner.safetensors", "seed-1.mixture-joint.planner.safetensors"}) {
    const std::string& good = whole.at(name);
    with(name, good.substr(0, 1000), false);
    with(name, good.substr(0, good.size() - 4), false);
    with(name, "", false);
    with(name, whole.at("seed-1.fixed.adapters.safetensors"), false);
  }
}

TEST_CASE("a loss that stops being a number is reported with step, variant, layer and the rate to lower") {
  if (missing()) return;
  const place p;
  int runs = 0;
  const auto of = [&](const words& flags) {
    const std::string out = p.out + std::to_string(++runs);
    const std::string message = refusal(train(p.text, out, flags));
    CHECK_FALSE(has(contents(fs::path(out) / "results.json"), "null"));
    return message;
  };
  CHECK(of({"--base-rate", "1e30"}) ==
        "seed 1 base, step 2: the loss is not a number; it appears first in the output of block 0; try a smaller --base-rate");
  CHECK(of({"--adapter-rate", "1e30", "--variants", "mixture-frozen"}) ==
        "seed 1 mixture-frozen, step 2: the loss is not a number; it appears first in the output of adapter 0; try a smaller --adapter-rate");
  CHECK(of({"--adapter-rate", "1e38", "--variants", "fixed"}) ==
        "seed 1 fixed, step 1: the update overflowed; the parameter adapters.0.table is the first that is not a finite number; try a "
        "smaller --adapter-rate");
  CHECK(has(of({"--planner-rate", "1e30"}), "seed 1 planner, step 2: the loss is not a number; "));
  // The largest of no numbers is still a label: the loss of straight-through does not show that the planner is lost.
  CHECK(has(of({"--joint-planner-rate", "1e38", "--variants", "straight-through"}), "seed 1 straight-through, step 1: the update overflowed; "
            "the parameter planner.input.w is the first"));
  CHECK(of({"--joint-planner-rate", "1e30", "--variants", "straight-through"}) ==
        "seed 1 straight-through, step 2: the gradient is not a finite number; it appears first in the output of the planner; try a "
        "smaller --adapter-rate or --joint-planner-rate");
}

TEST_CASE("the same seed gives the same numbers with 1 and 2 threads, and whatever else is in the list of variants") {
  if (missing()) return;
  const place p;
  const words some{"--variants", "sampled,gumbel,straight-through,mixture-joint,paths-2-steps,mixture-joint-lora"};
  REQUIRE(train(p.text, p.out, some).status == 0);
  REQUIRE(train(p.text, p.out + "2", some + words{"--threads", "2"}).status == 0);
  CHECK(numbers(p.out) == numbers(p.out + "2"));
  for (const char* name : {"sampled", "straight-through", "gumbel", "mixture-joint", "paths-2-steps", "mixture-joint-lora"})
    REQUIRE(train(p.text, p.out + "3", {"--variants", name}).status == 0);
  CHECK(numbers(p.out) == numbers(p.out + "3"));
  CHECK(has(numbers(p.out), "\"documents\": ["));
}

namespace {

/// Sends `signal` when the log shows that `stage` has begun, then runs again to the end. Returns what the first run wrote.
examples::outcome stop_in(const std::string& stage, const words& command, const fs::path& out, int signal) {
  examples::running running(program, command);
  const std::string mark = "\"stage\":\"" + stage + "\"";
  for (int i = 0; i < 60000 && contents(out / "metrics.jsonl").find(mark) == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  running.send(signal);
  return running.wait();
}

// Long enough that a signal sent after a hundredth of it comes in time.
const words longer{"--base-steps", "1200", "--variant-steps", "1200", "--planner-steps", "1000", "--planner-batch", "180",
                   "--planner-rate", "1e-6"};

}  // namespace

TEST_CASE("Ctrl-C in any stage saves, says how to go on, and going on gives the same bits as never stopping") {
  if (missing()) return;
  const place p;
  const words flags = longer + words{"--variants", "sampled,mixture-joint-delayed,paths-1-step,mixture-joint-lora,planning-tokens"};
  REQUIRE(train(p.text, p.out, flags).status == 0);
  const std::string out = p.out + "-stopped";
  const words command = words{"--text", p.text, "--out", out} + tiny + flags;
  for (const std::string stage : {"base", "planner", "look-ahead", "sampled", "mixture-joint-delayed", "paths-1-step", "mixture-joint-lora", "planning-tokens"}) {
    INFO(stage);
    const bool base = stage == "base";
    const examples::outcome stopped = stop_in(stage, command, out, base ? SIGINT : SIGTERM);
    CHECK(stopped.status == 128 + (base ? SIGINT : SIGTERM));
    CHECK(has(stopped.err, "To go on, run the same command again."));
    CHECK(fs::exists(fs::path(out) / "checkpoint.safetensors"));
  }
  const examples::outcome last = examples::run(program, command);
  CHECK(last.status == 0);
  CHECK(has(last.err, "seed 1 planning-tokens: going on from step "));
  CHECK(numbers(out) == numbers(p.out));
  CHECK_FALSE(fs::exists(fs::path(out) / "checkpoint.safetensors"));
}

TEST_CASE("a truncated or foreign checkpoint is refused and stays as it was") {
  if (missing()) return;
  const place p;
  const words flags = longer + words{"--variants", "fixed"}, command = words{"--text", p.text, "--out", p.out} + tiny + flags;
  REQUIRE(stop_in("base", command, p.out, SIGINT).status == 128 + SIGINT);
  const fs::path file = fs::path(p.out) / "checkpoint.safetensors";
  const std::string good = contents(file);
  std::string renamed = good;
  renamed.replace(renamed.find("\"identity\""), 10, "\"identify\"");
  std::string moved = good;
  moved.replace(moved.find("lm.weights"), 10, "lm.waights");
  for (const std::string& bad : {good.substr(0, good.size() / 2), good.substr(0, 100), std::string(), std::string(300, 'x'), renamed, moved}) {
    put(file, bad);
    const auto before = files_in(p.out);
    const std::string message = refusal(examples::run(program, command));
    CHECK(has(message, "checkpoint.safetensors: "));
    CHECK(has(message, "remove it"));
    CHECK(files_in(p.out) == before);
  }
}

TEST_CASE("a second signal ends the program at once") {
  if (missing()) return;
  const place p;
  examples::running running(program, words{"--text", p.text, "--out", p.out} + tiny + longer);
  while (!fs::exists(p / "run/run.json")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  // Both are there when the program goes on.
  running.send(SIGSTOP);
  running.send(SIGINT);
  running.send(SIGTERM);
  running.send(SIGCONT);
  const int status = running.wait().status;
  CHECK((status == -SIGTERM || status == -SIGINT));
}

TEST_CASE("every variant there is trains, is tested on every token once, and stands in the table and on the page") {
  if (missing()) return;
  const place p;
  const examples::outcome r = train(p.text, p.out, {"--variants", "all", "--generate", "3", "--generate-tokens", "24"});
  INFO(r.err);
  REQUIRE(r.status == 0);
  std::istringstream flags(examples::run(program, {"--variants", "?", "--text", p.text, "--out", p.out}).err);
  std::string names((std::istreambuf_iterator<char>(flags)), {});
  names = names.substr(names.find("and the variants ") + 17);
  std::replace(names.begin(), names.end(), ',', ' ');
  std::istringstream list(names);
  const std::string page = contents(fs::path(p.out) / "report.html");
  int count = 0;
  for (std::string name; list >> name; ++count) {
    CHECK(has(r.out, "\n" + name + " "));
    CHECK(has(page, ">" + name + "<"));
  }
  CHECK(count > 35);
  // Each variant: tokens of its test documents, the same for all.
  std::vector<std::vector<double>> tokens;
  std::istringstream lines(contents(fs::path(p.out) / "results.json"));
  for (std::string line; std::getline(lines, line);) {
    if (line.find("\"name\": ") != std::string::npos) tokens.emplace_back();
    if (const auto at = line.find("\"tokens\": "); at != std::string::npos) tokens.back().push_back(std::stod(line.substr(at + 10)));
  }
  REQUIRE(static_cast<int>(tokens.size()) == count);
  for (const auto& of_variant : tokens) {
    REQUIRE(of_variant.size() >= tokens[0].size());
    CHECK(std::vector<double>(of_variant.begin(), of_variant.begin() + static_cast<std::ptrdiff_t>(tokens[0].size())) == tokens[0]);
  }
  CHECK(has(page, "Sampled plans"));
  CHECK(has(page, "Map of the labels"));
  CHECK(has(page, "Continuation 1"));
  CHECK(has(page, ">--generate-tokens</span>"));
}

TEST_CASE("the page of a run is legible in a browser") {
  const std::string check = PLANLM_GOLDEN "/../browser/check-report";
  if (missing()) return;
  const place p;
  REQUIRE(train(p.text, p.out, {"--variants", "none,fixed,mixture-frozen,mixture-joint,paths-1-step,paths-2-steps", "--generate", "2"}).status == 0);
  // Perplexity; paths and steps; map and use of labels; losses of base, planners, variants; entropy, labels in use, accuracy.
  const examples::outcome r = examples::run("/bin/bash", {check, p.out + "/report.html", "11"});
  INFO(r.out << r.err);
  if (r.out.find("SKIPPED") != std::string::npos) WARN(r.out);
  CHECK(r.status == 0);
}

TEST_CASE("flags that change how all variants are conditioned are those of the variants that fix it") {
  if (missing()) return;
  const place p;
  const auto losses = [&](const std::string& out, const words& flags) {
    REQUIRE(train(p.text, p.out + out, flags + words{"--generate", "0"}).status == 0);
    const std::string all = numbers(p.out + out);
    return all.substr(all.find("\"documents\""), all.find("\"device\"") - all.find("\"documents\""));
  };
  CHECK(losses("1", {"--variants", "gate-zero"}) == losses("2", {"--variants", "mixture-frozen", "--gate", "zero"}));
  CHECK(losses("3", {"--variants", "at-feed-forward"}) == losses("4", {"--variants", "mixture-frozen", "--placement", "feed-forward"}));
  CHECK(losses("5", {"--variants", "table-shared"}) == losses("6", {"--variants", "mixture-frozen", "--tables", "shared"}));
  CHECK(losses("7", {"--variants", "mixture-joint-lora"}) == losses("8", {"--variants", "mixture-joint", "--tuning", "lora"}));
  CHECK(losses("9", {"--variants", "mixture-joint-guided"}) == losses("10", {"--variants", "mixture-joint", "--planner-loss", "0.1"}));
  // A planner that never thaws is that of mixture-frozen, and so are the losses.
  CHECK(losses("11", {"--variants", "mixture-joint-delayed", "--unfreeze-at", "1"}) == losses("12", {"--variants", "mixture-frozen"}));
  CHECK(losses("13", {"--variants", "mixture-joint-delayed", "--unfreeze-step", "2"}) != losses("14", {"--variants", "mixture-joint-delayed"}));
}

TEST_CASE("a wish for less time than anything takes still gives a table") {
  if (missing()) return;
  const place p;
  const examples::outcome r = examples::run(
      program, {"--text", p.text, "--out", p.out, "--minutes", "0.0001", "--labels", "4", "--label-width", "8", "--width", "16", "--heads",
                "2", "--vocabulary", "330", "--length", "16", "--threads", "1", "--variants", "none,fixed,mixture-joint"});
  CHECK(r.status == 0);
  CHECK(has(r.out, "mixture-joint, argmax at test"));
}

namespace {

/// Whether a run on the GPU was refused for want of one: then with one line that says what to do.
bool no_gpu(const examples::outcome& r) {
  if (r.status == 0) return false;
  const std::string message = refusal(r);
  INFO(message);
  CHECK(message.starts_with("--device cuda: "));
  CHECK(message.find("--device cpu") != std::string::npos);
  const bool absent = message.find("there is no GPU") != std::string::npos || message.find("built without CUDA") != std::string::npos;
  CHECK(absent);
  if (absent) WARN("SKIPPED: " << message);
  return absent;
}

/// The numbers after `key` in results.json, in order.
std::vector<double> all_of(const fs::path& run, const std::string& key) {
  const std::string text = contents(run / "results.json"), mark = '"' + key + "\": ";
  std::vector<double> values;
  for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + 1))
    values.push_back(std::stod(text.substr(at + mark.size(), 40)));
  return values;
}
double furthest(const fs::path& one, const fs::path& other) {
  const std::vector<double> a = all_of(one, "test_nll"), b = all_of(other, "test_nll");
  double most = a.empty() || a.size() != b.size() ? 1e9 : 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

const words all_paths{"--variants", "none,fixed,sampled,mixture-frozen,top5-frozen,straight-through,gumbel,mixture-joint-delayed,mixture-joint"};

}  // namespace

TEST_CASE("the same run with --device cuda gives the losses of the CPU, near as the precision allows") {
  if (missing()) return;
  const place p;
  const std::string gpu = p.out + "-gpu";
  if (no_gpu(train(p.text, gpu, all_paths + words{"--device", "cuda"}))) return;
  CHECK(has(contents(fs::path(gpu) / "results.json"), "\"device\": \"cuda\""));
  REQUIRE(train(p.text, p.out, all_paths).status == 0);
  CHECK(furthest(p.out, gpu) < 2e-4);
  REQUIRE(train(p.text, gpu + "2", all_paths + words{"--device", "cuda"}).status == 0);
  CHECK(numbers(gpu) == numbers(gpu + "2"));
  for (const char* precision : {"tf32", "bf16"}) {
    const std::string out = gpu + precision;
    REQUIRE(train(p.text, out, all_paths + words{"--device", "cuda", "--precision", precision}).status == 0);
    INFO(precision);
    CHECK(furthest(p.out, out) < 0.05);
  }
}

TEST_CASE("a run begun with --device cuda goes on without, from the same files, and the other way round") {
  if (missing()) return;
  const place p;
  const words flags = longer + words{"--variants", "mixture-joint"};
  const std::string gpu = p.out + "-gpu";
  const words on_cpu = words{"--text", p.text, "--out", gpu} + tiny + flags, on_gpu = on_cpu + words{"--device", "cuda", "--precision", "bf16"};
  {
    const place other;
    if (no_gpu(train(other.text, other.out, words{"--variants", "none", "--device", "cuda"}))) return;
  }
  REQUIRE(train(p.text, p.out, flags).status == 0);
  CHECK(stop_in("base", on_gpu, gpu, SIGINT).status == 128 + SIGINT);
  CHECK(stop_in("planner", on_cpu, gpu, SIGINT).status == 128 + SIGINT);
  CHECK(stop_in("mixture-joint", on_gpu, gpu, SIGINT).status == 128 + SIGINT);
  const examples::outcome last = examples::run(program, on_cpu);
  CHECK(last.status == 0);
  CHECK(has(last.err, "seed 1 mixture-joint: going on from step "));
  CHECK(furthest(p.out, gpu) < 0.05);
}

TEST_CASE("every form of text gives a run") {
  if (missing()) return;
  const place p;
  int runs = 0;
  const auto run_on = [&](const std::string& text, const std::string& form, const words& flags = {"--variants", "none,mixture-frozen"}) {
    const std::string out = p.out + std::to_string(++runs);
    const examples::outcome r = train(text, out, flags);
    INFO(text << '\n' << r.err);
    CHECK(r.status == 0);
    CHECK(has(r.err, "(" + form));
    CHECK(has(contents(fs::path(out) / "results.json"), "\"test_nll\""));
  };
  run_on(p.text, "lines");
  std::string running, headed, json, verses;
  for (const char c : stories(22, ". ")) running += c == '\n' ? ' ' : c;
  REQUIRE(running.size() > 12 * 400);
  run_on(p.write("running.txt", running), "running");
  for (int i = 0; i < 12; ++i) {
    headed += " = Story " + std::to_string(i) + " = \n\n" + stories(1, " . ", i) + "\n";
    json += "{\"text\": \"" + running.substr(static_cast<std::size_t>(i) * 400, 400) + "\"}\n";
    for (int k = 1; k <= 15; ++k)
      verses += "Ge" + std::to_string(i + 1) + ":" + std::to_string(k) + " And day " + std::to_string(i * 7 + k) + " came to pass.\n";
  }
  run_on(p.write("headed.txt", headed), "running");
  run_on(p.write("some.jsonl", json), "json-lines");
  run_on(p.write("verses.txt", verses), "verses");
  run_on(p.write("plain.txt", stories(22, "\n")), "lines", {"--variants", "none", "--format", "lines"});
  run_on(p.write("forced.jsonl", json), "json-lines", {"--variants", "none", "--format", "json-lines"});
  fs::create_directory(p / "folder");
  put(p / "folder/a.txt", stories(11));
  put(p / "folder/b.jsonl", json);
  run_on((p / "folder").string(), "lines, json-lines, 2 files");
  const std::string out = p.out + "-two";
  CHECK(train(p.text, out, {"--variants", "none", "--test-text", (p / "running.txt").string()}).status == 0);
}

TEST_CASE("the book of the quick start gives a run") {
  if (missing()) return;
  if (!fs::exists("/usr/bin/bible")) {
    WARN("SKIPPED: there is no /usr/bin/bible (Debian: bible-kjv)");
    return;
  }
  const place p;
  const examples::outcome book = examples::run("/usr/bin/bible", {"-f", "gen1:1-gen12:20"});
  REQUIRE(book.status == 0);
  const examples::outcome r = train(p.write("book.txt", book.out), p.out, {"--variants", "none,mixture-joint"});
  INFO(r.err);
  CHECK(r.status == 0);
  CHECK(has(r.err, "(verses): 12 documents, 319 sentences"));
}
