/// The classifier with latent rationales: which sentences are held out and what the base model reads, and the program from outside. Models
/// are tiny and texts are made here; nothing is said about quality.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>
#include <planlm/text/corpus.hpp>
#include <planlm/text/vocabulary.hpp>

#include "../catch.hpp"
#include "../../examples/train_latent_classifier/base_text.hpp"
#include "../../examples/train_latent_classifier/regression.hpp"
#include "../../examples/train_latent_classifier/sentences.hpp"
#include "program.hpp"

namespace {

namespace fs = std::filesystem;
using namespace train_latent_classifier;
using scratch::contents;
using scratch::put;
using words = std::vector<std::string>;

const std::string program = PLANLM_EXAMPLES "/train_latent_classifier";
const words tiny{"--layers", "1", "--width", "16", "--heads", "2", "--length", "60", "--tokens", "24", "--vocabulary", "380", "--base-steps", "30",
                 "--base-batch", "4", "--steps", "6", "--rows", "4", "--rank", "2", "--label-steps", "6", "--label-batch", "4", "--rationales",
                 "2", "--votes", "3", "--sizes", "2,4", "--test", "20", "--validation", "4", "--pool", "8", "--threads", "1", "--vector-width",
                 "8", "--warmup", "2", "--horizon", "3"};

words operator+(words a, const words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  UNSCOPED_INFO("expected \"" << part << "\" in: " << text);
  return false;
}
bool missing() {
  if (fs::exists(program)) return false;
  WARN("SKIPPED: train_latent_classifier is not built, a library of it is missing");
  return true;
}

/// Sentences of a class, no two alike: what somebody does, or what somebody thinks of it.
words sentences_of(int label, int count) {
  const words who{"the dog", "a cat", "my aunt", "the sailor", "our king"}, did{"sees", "hears", "likes", "sells", "hides"},
      what{"a red apple", "the old house", "some bread", "a small boat"}, how{"is dull and slow", "is warm and funny", "has charm", "never moves us"};
  words all;
  for (int n = 0; n < count; ++n) {
    const auto pick = [n](const words& from, int stride) { return from[static_cast<std::size_t>(n / stride) % from.size()]; };
    all.push_back(label == 0 ? pick(who, 1) + " " + pick(did, 5) + " " + pick(what, 3) + " on day " + std::to_string(n) + " ."
                             : "film " + std::to_string(n) + " about " + pick(what, 1) + " " + pick(how, 4) + " , says " + pick(who, 3) + " .");
  }
  return all;
}
std::string as_file(const words& sentences) {
  std::string text;
  for (const std::string& s : sentences) text += s + "\n";
  return text;
}
classes made_up(int count = 60) { return {class_text{"plain", "a.txt", sentences_of(0, count)}, class_text{"fancy", "b.txt", sentences_of(1, count)}}; }

struct place : scratch::folder {
  std::string a = (*this / "a.txt").string(), b = (*this / "b.txt").string(), out = (*this / "run").string();
  place() {
    put(a, as_file(sentences_of(0, 60)));
    put(b, as_file(sentences_of(1, 60)));
  }
  words command(const words& flags = {}, const std::string& to = "") const {
    return words{"--class", "plain=" + a, "--class", "fancy=" + b, "--out", to.empty() ? out : to} + tiny + flags;
  }
  std::string write(const std::string& name, const std::string& bytes) const {
    put(*this / name, bytes);
    return (*this / name).string();
  }
};

std::string refusal(const examples::outcome& r) {
  const std::string name = "train_latent_classifier: ";
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
/// results.json from its outcomes on: what was computed.
std::string numbers(const fs::path& run) {
  const std::string all = contents(run / "results.json");
  return all.substr(std::min(all.size(), all.find("\"outcomes\"")));
}
std::map<std::string, std::string> files_in(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) files[entry.path().filename().string()] = contents(entry.path());
  return files;
}

}  // namespace

TEST_CASE("a sentence is test, validation, to be labelled or unlabelled, and never two of them") {
  classes given = made_up();
  given[0].sentences.push_back(given[0].sentences[3]);  // twice in one class, and in both
  given[0].sentences.push_back("everybody knows this one .");
  given[1].sentences.push_back("everybody knows this one .");
  const division d = divide(given, {21, 6, 8});
  std::multiset<std::string> all(d.unlabelled.begin(), d.unlabelled.end());
  int second = 0;
  for (const auto* part : {&d.test, &d.validation})
    for (const example& e : *part) {
      all.insert(e.sentence);
      second += e.label;
      const words& own = given[static_cast<std::size_t>(e.label)].sentences;
      CHECK(std::find(own.begin(), own.end(), e.sentence) != own.end());
    }
  CHECK(d.test.size() == 21);
  CHECK(d.validation.size() == 6);
  CHECK(second == 10 + 3);
  for (const auto& part : d.pool) {
    CHECK(part.size() == 4);
    all.insert(part.begin(), part.end());
  }
  CHECK(all.size() == 120);
  CHECK(std::set<std::string>(all.begin(), all.end()).size() == 120);
  CHECK(all.count("everybody knows this one .") == 0);
  CHECK(std::is_sorted(d.unlabelled.begin(), d.unlabelled.end()));

  division more = d;
  add_unlabelled(more, {d.test[0].sentence, d.validation[0].sentence, d.pool[1][2], "something new .", d.unlabelled[0], "something new ."});
  CHECK(more.unlabelled.size() == d.unlabelled.size() + 1);
}

TEST_CASE("a class that is too small for the parts is refused with the numbers") {
  CHECK_THROWS_WITH(divide(made_up(20), {20, 4, 18}),
                    "a.txt: 20 different sentences of the class 'plain' alone, but --test, --validation and --pool take 21 and the base model learns from "
                    "the rest; give more sentences or lower them");
}

TEST_CASE("labelled sentences of a seed are balanced, a smaller set is part of a larger one, and another seed has others") {
  const division d = divide(made_up(), {20, 6, 40});
  const auto ten = labelled(d, 10, 1), six = labelled(d, 6, 1), other = labelled(d, 10, 2);
  int second = 0, same = 0;
  for (std::size_t i = 0; i < ten.size(); ++i) {
    second += ten[i].label;
    same += ten[i].sentence == other[i].sentence;
    if (i < six.size()) CHECK(six[i].sentence == ten[i].sentence);
  }
  CHECK(second == 5);
  CHECK(same < 5);
  CHECK_THROWS_AS(labelled(d, 42, 1), planlm::input_error);
}

TEST_CASE("labels never enter the base model's text: a line is the sentence, words of unlabelled sentences and marks") {
  const division d = divide(made_up(), {20, 6, 20});
  const pattern p(d.unlabelled, 400, 30);
  const base_text text(p, d.unlabelled, 8, 3);
  REQUIRE(text.size() == d.unlabelled.size());
  // Names of the classes are no words of these texts; what stands for them is said nowhere behind the cue.
  const auto labels = p.label_tokens("plain", "fancy");
  std::set<int> known;
  for (const std::string& s : d.unlabelled)
    for (const int id : p.sentence(s)) known.insert(id);
  bool rationales = false, sums = false;
  for (std::uint64_t row = 0; row < 10; ++row)
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto line = text.line(i, {7, 0, 0}, row), sentence = p.sentence(d.unlabelled[i]);
      REQUIRE(line.size() >= sentence.size() + 3);
      CHECK(std::equal(sentence.begin(), sentence.end(), line.begin()));
      CHECK(line[sentence.size()] == p.cue());
      CHECK(line.back() == p.end());
      CHECK(std::count(line.begin(), line.end(), p.so()) == 1);
      for (std::size_t at = sentence.size() + 1; at + 1 < line.size(); ++at) {
        if (line[at] == p.so()) {
          sums = sums || at + 2 < line.size();
          continue;
        }
        rationales = true;
        CHECK(known.contains(line[at]));
        CHECK(line[at] != labels[0]);
        CHECK(line[at] != labels[1]);
      }
    }
  CHECK(rationales);
  CHECK(sums);
  // Nor may a rationale say it: words and SO alone go free.
  const std::vector<float> penalty = p.penalty(labels);
  REQUIRE(penalty.size() == static_cast<std::size_t>(p.size()));
  int free = 0;
  for (int id = 0; id < p.size(); ++id) {
    if (penalty[static_cast<std::size_t>(id)] < 0) continue;
    ++free;
    CHECK((id == p.so() || (p.is_word(id) && id != labels[0] && id != labels[1])));
  }
  CHECK(free > 5);
  // The same text whatever the classes are called and whichever comes first in it.
  const base_text again(p, d.unlabelled, 8, 3);
  CHECK(again.line(5, {7, 0, 0}, 3) == text.line(5, {7, 0, 0}, 3));
  CHECK_THROWS_AS(p.label_tokens("zzyx", "zzyx"), planlm::input_error);
}

TEST_CASE("key words are different words of the sentence, rare ones more often than common ones") {
  words text;
  for (int n = 0; n < 40; ++n) text.push_back(n % 8 == 0 ? "the house has stairs inside ." : "the house has windows inside .");
  const pattern p(text, 360, 30);
  const auto sentence = p.sentence(text[0]);
  int rare = 0, common = 0;
  for (std::uint64_t row = 0; row < 200; ++row) {
    const auto keys = p.key_words(sentence, 2, {3, 0, 0}, row);
    REQUIRE(keys.size() <= 2);
    CHECK(std::set<int>(keys.begin(), keys.end()).size() == keys.size());
    for (const int id : keys) {
      CHECK(std::find(sentence.begin(), sentence.end(), id) != sentence.end());
      (p.words(std::vector<int>{id}) == "stairs" ? rare : common) += 1;
    }
  }
  CHECK(rare == 200);  // every other word is in all sentences: its weight is 0
  CHECK(common == 0);
}

TEST_CASE("logistic regression ends where its gradient is zero") {
  const planlm::embeddings x{2, 1, {1.0f, -1.0f}};
  const std::vector<int> labels{1, 0};
  const logistic_regression model(x, labels, 0.1);
  // By symmetry the bias is 0, and ridge w = 2 (1 - sigmoid(w)).
  const double w = model.odds(x.row(0));
  CHECK(model.odds(x.row(1)) == -w);
  CHECK(std::abs(0.1 * w - 2 / (1 + std::exp(w))) < 1e-9);
}

TEST_CASE("bad input of train_latent_classifier is one line each, and nothing is written") {
  if (missing()) return;
  const place p;
  const auto of = [&](const words& flags) { return refusal(examples::run(program, p.command(flags))); };
  CHECK(has(refusal(examples::run(program, words{"--out", p.out} + tiny)), "--class: 0 classes, expected two: --class NAME=FILE --class NAME=FILE"));
  CHECK(has(of({"--class", "third=" + p.a}), "--class: 3 classes, expected two"));
  const auto with = [&](const std::string& first, const std::string& second) {
    return refusal(examples::run(program, words{"--class", first, "--class", second, "--out", p.out} + tiny));
  };
  CHECK(has(with(p.a, "fancy=" + p.b), "is no NAME=FILE, such as objective=plots.txt"));
  CHECK(has(with("plain=" + (p / "none.txt").string(), "fancy=" + p.b), "none.txt: no such file or folder"));
  CHECK(has(with("plain=" + p.path().string(), "fancy=" + p.b), ": is a folder; give a file with a sentence on each line"));
  CHECK(has(with("plain=" + p.write("empty.txt", ""), "fancy=" + p.b), "empty.txt: the file is empty"));
  CHECK(has(with("plain=" + p.write("latin.txt", "caf\xe9 .\n"), "fancy=" + p.b), "latin.txt: byte offset 3 (line 1)"));
  CHECK(has(with("plain=" + p.write("few.txt", as_file(sentences_of(0, 10))), "fancy=" + p.b), "few.txt: 10 different sentences of the class 'plain' alone"));
  CHECK(has(with("plain=" + p.a, "fancy=" + p.a), "0 different sentences of the class 'plain' alone"));
  CHECK(has(with("plain=" + p.a, "plain=" + p.b), "both classes are called 'plain'"));
  CHECK(has(of({"--sizes", "2,many"}), "--sizes: give whole numbers from 2 to --pool (8), not 'many'"));
  CHECK(has(of({"--sizes", "4,10"}), "--sizes: give whole numbers from 2 to --pool (8), not '10'"));
  CHECK(has(of({"--sizes", "4,4"}), "--sizes: 4 is there twice"));
  CHECK(has(of({"--methods", "sft,magic"}), "--methods: 'magic' is none of vectors, zero-shot, few-shot, sft"));
  CHECK(has(of({"--objective", "ppo"}), "--objective: 'ppo' is none of "));
  CHECK(has(of({"--length", "30"}), "--length 30: sentences of 24 --tokens and rationales of 5 need 33"));
  CHECK(has(of({"--label-words", "one"}), "--label-words: 1 words, expected one for each of the two classes"));
  CHECK(has(of({"--label-words", "same,same"}), "begin with the same piece"));
  CHECK(has(of({"--vocabulary", "40"}), "give at least 320"));
  CHECK(has(of({"--votes", "none"}), "--votes"));
  CHECK(has(of({"more.txt"}), "sentences are given as --class NAME=FILE"));
  CHECK_FALSE(fs::exists(p.out));
}

TEST_CASE("every method is trained and scored at every size, a finished run is left as it is, and other settings are refused") {
  if (missing()) return;
  const place p;
  const examples::outcome r = examples::run(program, p.command({"--seeds", "2"}));
  INFO(r.err);
  REQUIRE(r.status == 0);
  const std::string page = contents(fs::path(p.out) / "report.html"), results = numbers(p.out);
  for (const char* method : {"vectors", "zero-shot", "few-shot", "sft", "prior", "gflownet", "gflownet-em", "gflownet-sft"}) {
    CHECK(has(r.out, std::string("\n") + method + " "));
    CHECK(has(page, std::string(">") + method + "<"));
    CHECK(has(results, std::string("\"method\": \"") + method + "\""));
  }
  const auto times = [&](const std::string& what) {
    int n = 0;
    for (std::size_t at = results.find(what); at != std::string::npos; at = results.find(what, at + 1)) ++n;
    return n;
  };
  CHECK(times("\"accuracy 2\": ") == 16);
  CHECK(times("\"accuracy 4\": ") == 16);
  CHECK(has(r.out, "gflownet-em - sft"));
  CHECK(has(page, "What each step changes"));
  CHECK(has(page, ", so plain"));
  const auto before = files_in(p.out);
  REQUIRE(examples::run(program, p.command({"--seeds", "2"})).status == 0);
  CHECK(files_in(p.out) == before);
  CHECK(has(refusal(examples::run(program, p.command({"--seeds", "2", "--steps", "7"}))), "is of a run with --steps '6', this one has '7'"));
  CHECK(has(refusal(examples::run(program, p.command({"--score", "validation"}))), "is of a run with --score 'test', this one has 'validation'"));
  put(p.a, as_file(sentences_of(0, 61)));
  CHECK(has(refusal(examples::run(program, p.command())), "is of a run with fingerprint of the sentences"));
  CHECK(files_in(p.out) == before);
}

TEST_CASE("a run that was killed or stopped in any stage goes on to the same results") {
  if (missing()) return;
  const place p;
  const words flags{"--base-steps", "600", "--steps", "200", "--label-steps", "300", "--sizes", "4", "--methods", "sft,gflownet-em"};
  REQUIRE(examples::run(program, p.command(flags)).status == 0);
  const std::string out = p.out + "-stopped";
  for (const std::string stage : {"base", "sft-4", "gflownet-4", "gflownet-em.1m-4", "gflownet-em.2e-4", "gflownet-em.2m-4"}) {
    INFO(stage);
    const int signal = stage == "gflownet-4" ? SIGKILL : SIGINT;
    examples::running running(program, p.command(flags, out));
    const std::string mark = "\"stage\":\"" + stage + "\"";
    for (int i = 0; i < 60000 && contents(fs::path(out) / "metrics.jsonl").find(mark) == std::string::npos; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    running.send(signal);
    const examples::outcome stopped = running.wait();
    CHECK(stopped.status == (signal == SIGKILL ? -SIGKILL : 128 + SIGINT));
    if (signal == SIGINT) CHECK(has(stopped.err, "To go on, run the same command again."));
  }
  const examples::outcome last = examples::run(program, p.command(flags, out));
  INFO(last.err);
  CHECK(last.status == 0);
  CHECK(has(last.err, "seed 1 gflownet-em.2m-4: going on from step "));
  CHECK(numbers(out) == numbers(p.out));
  CHECK_FALSE(fs::exists(fs::path(out) / "checkpoint.safetensors"));
}

TEST_CASE("the same numbers come from 1 and 2 threads, and whatever other methods are in the list") {
  if (missing()) return;
  const place p;
  REQUIRE(examples::run(program, p.command({"--methods", "few-shot,prior,gflownet-sft"})).status == 0);
  REQUIRE(examples::run(program, p.command({"--methods", "few-shot,prior,gflownet-sft", "--threads", "2"}, p.out + "2")).status == 0);
  CHECK(numbers(p.out) == numbers(p.out + "2"));
  for (const char* method : {"few-shot", "prior", "gflownet-sft"}) REQUIRE(examples::run(program, p.command({"--methods", method}, p.out + "3")).status == 0);
  // Methods of one size come one after the other there, so the order in the file is another.
  const auto sorted_lines = [](const std::string& text) {
    std::multiset<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.insert(line.substr(0, line.find_last_not_of(',') + 1));
    return lines;
  };
  CHECK(sorted_lines(numbers(p.out)) == sorted_lines(numbers(p.out + "3")));
}
