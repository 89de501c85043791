#include <planlm/io/run_folder.hpp>

#include <cmath>
#include <limits>

#include "../catch.hpp"
#include "scratch_folder.hpp"

using namespace planlm;
using json = nlohmann::ordered_json;

namespace {

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const input_error& e) {
    return e.what();
  }
  return "no input_error";
}

}  // namespace

TEST_CASE("a run folder is made with its parents, proved writable, and left empty") {
  const scratch::folder folder;
  const run_folder run(folder / "a/b/run");
  CHECK(std::filesystem::is_directory(folder / "a/b/run"));
  CHECK(std::filesystem::is_empty(folder / "a/b/run"));
  CHECK(run.file("x.json") == folder / "a/b/run/x.json");
}

TEST_CASE("what is in a run folder stays there") {
  const scratch::folder folder;
  scratch::put(folder / "results.json", "old results");
  scratch::put(folder / "metrics.jsonl", "{\"step\":1}\n");
  const run_folder run(folder.path());
  const metrics_log log = run.metrics();
  CHECK(scratch::contents(folder / "results.json") == "old results");
  CHECK(scratch::contents(folder / "metrics.jsonl") == "{\"step\":1}\n");
  CHECK(folder.entries() == 2);
}

TEST_CASE("a folder that takes no files is refused before any work, with the reason") {
  const scratch::folder folder;
  scratch::put(folder / "file", "kept");
  CHECK(message_of([&] { run_folder(folder / "file"); }) ==
        (folder / "file").string() + ": is a file, expected a folder for the output; choose another name");
  CHECK(message_of([&] { run_folder(folder / "file/run"); }) ==
        (folder / "file/run").string() +
            ": cannot write to this output folder: Not a directory; a part of the path is a file; choose "
            "another "
            "path");
  CHECK(message_of([&] { run_folder(""); }) == "the output folder has an empty name; name a folder");

  std::filesystem::permissions(folder.path(), std::filesystem::perms(0555));
  {
    const scratch::ordinary_user user;
    const std::string denied =
        ": cannot write to this output folder: Permission denied; choose a folder you may write to, or "
        "change "
        "its permissions";
    CHECK(message_of([&] { run_folder run(folder.path()); }) == folder.path().string() + denied);
    CHECK(message_of([&] { run_folder run(folder / "new"); }) == (folder / "new").string() + denied);
  }
  std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
  CHECK(scratch::contents(folder / "file") == "kept");

  {
    const scratch::full_disk full(100);
    CHECK(message_of([&] { run_folder run(folder.path()); }).find("free some space") != std::string::npos);
  }
  CHECK(folder.entries() == 1);
}

TEST_CASE("JSON is written whole, in the order of its keys, numbers to the last bit") {
  const scratch::folder folder;
  const run_folder run(folder.path());
  const double third = 1.0 / 3;
  run.write_json("results.json", json{{"corpus", "bible"}, {"b", third}, {"a", {1, 2}}});
  CHECK(
      scratch::contents(folder / "results.json").starts_with("{\n  \"corpus\": \"bible\",\n  \"b\": 0.333"));
  CHECK(json::parse(scratch::contents(folder / "results.json"))["b"].get<double>() == third);
  run.write_text("note.txt", "two\nlines\n");
  CHECK(scratch::contents(folder / "note.txt") == "two\nlines\n");
}

TEST_CASE("values that JSON does not have become null, broken UTF-8 a replacement") {
  const scratch::folder folder;
  const run_folder run(folder.path());
  const double infinity = std::numeric_limits<double>::infinity();
  run.metrics().append(json{{"loss", std::nan("")}, {"norm", infinity}, {"text", "a\xff"}});
  CHECK(scratch::contents(folder / "metrics.jsonl") ==
        "{\"loss\":null,\"norm\":null,\"text\":\"a\xef\xbf\xbd\"}\n");
  run.write_json("results.json", json{{"ppl", infinity}});
  CHECK(json::parse(scratch::contents(folder / "results.json"))["ppl"].is_null());
}

TEST_CASE("each line of metrics is in the file as soon as append returns, and a resumed run goes on below") {
  const scratch::folder folder;
  const run_folder run(folder.path());
  {
    metrics_log log = run.metrics();
    log.append(json{{"step", 1}, {"text", "two\nlines"}});
    CHECK(scratch::contents(folder / "metrics.jsonl") == "{\"step\":1,\"text\":\"two\\nlines\"}\n");
    log.append(json{{"step", 2}});
  }
  metrics_log resumed = run.metrics();
  CHECK(resumed.cut_off().empty());
  resumed.append(json{{"step", 3}});
  CHECK(scratch::contents(folder / "metrics.jsonl") ==
        "{\"step\":1,\"text\":\"two\\nlines\"}\n{\"step\":2}\n{\"step\":3}\n");
  CHECK_THROWS_AS(resumed.append(json::array({1})), error);
}

TEST_CASE("a crash at any byte of the last line costs that line only") {
  const scratch::folder folder;
  const std::string before = "{\"step\":1}\n{\"step\":2}\n", last = "{\"step\":3,\"loss\":4.5}\n";
  for (std::size_t kept = 0; kept <= last.size(); ++kept) {
    scratch::put(folder / "metrics.jsonl", before + last.substr(0, kept));
    std::string cut;
    {
      metrics_log log(folder / "metrics.jsonl");
      cut = log.cut_off();
      log.append(json{{"step", 4}});
    }
    const bool whole = kept + 1 >= last.size();  // at most the newline is missing
    CHECK(cut == (whole ? "" : last.substr(0, kept)));
    CHECK(scratch::contents(folder / "metrics.jsonl") == before + (whole ? last : "") + "{\"step\":4}\n");
  }
}

TEST_CASE("zeros that a power cut left at the end are cut off, and a first line cut short too") {
  const scratch::folder folder;
  scratch::put(folder / "metrics.jsonl", std::string("{\"step\":1}\n") + std::string(300, '\0'));
  CHECK(metrics_log(folder / "metrics.jsonl").cut_off().size() == 300);
  CHECK(scratch::contents(folder / "metrics.jsonl") == "{\"step\":1}\n");
  scratch::put(folder / "metrics.jsonl", "{\"st");
  CHECK(metrics_log(folder / "metrics.jsonl").cut_off() == "{\"st");
  CHECK(scratch::contents(folder / "metrics.jsonl").empty());
}

TEST_CASE("a file that is no log is not cut") {
  const scratch::folder folder;
  for (const std::string& foreign :
       {std::string("dear diary"), std::string("[1, 2"), std::string(2 << 20, '{')}) {
    scratch::put(folder / "metrics.jsonl", foreign);
    CHECK(message_of([&] { metrics_log log(folder / "metrics.jsonl"); }).find("so it is no log of a run") !=
          std::string::npos);
    CHECK(scratch::contents(folder / "metrics.jsonl") == foreign);
  }
}

TEST_CASE("a full disk leaves no half line in the metrics") {
  const scratch::folder folder;
  metrics_log log(folder / "metrics.jsonl");
  log.append(json{{"step", 1}});
  std::string message;
  {
    const scratch::full_disk full(50);
    message = message_of([&] { log.append(json{{"text", std::string(100, 'x')}}); });
  }
  CHECK(message ==
        (folder / "metrics.jsonl").string() +
            ": cannot append 112 bytes: File too large; free some space, or write to another disk");
  CHECK(scratch::contents(folder / "metrics.jsonl") == "{\"step\":1}\n");
  log.append(json{{"step", 2}});  // space has come back
  CHECK(scratch::contents(folder / "metrics.jsonl") == "{\"step\":1}\n{\"step\":2}\n");
}

TEST_CASE("a device that is always full is reported in the same way") {
  if (!std::filesystem::exists("/dev/full")) {
    WARN("SKIPPED: there is no /dev/full on this system");
    return;
  }
  const scratch::folder folder;
  std::filesystem::create_symlink("/dev/full", folder / "metrics.jsonl");
  metrics_log log(folder / "metrics.jsonl");
  CHECK(message_of([&] {
          log.append(json{{"step", 1}});
        }) ==
        (folder / "metrics.jsonl").string() +
            ": cannot append 11 bytes: No space left on device; free some space, or write to another disk");
}

TEST_CASE("two runs cannot write to one log") {
  const scratch::folder folder;
  {
    metrics_log first(folder / "metrics.jsonl");
    CHECK(message_of([&] { metrics_log second(folder / "metrics.jsonl"); }) ==
          (folder / "metrics.jsonl").string() +
              ": another run is writing to it; stop that run, or choose another folder");
  }
  metrics_log third(folder / "metrics.jsonl");
  CHECK(third.cut_off().empty());
}

TEST_CASE("a log that cannot be opened names the path and the reason") {
  const scratch::folder folder;
  CHECK(message_of([&] { metrics_log log(folder.path()); }).find("Is a directory") != std::string::npos);
  CHECK(message_of([&] { metrics_log log(folder / "no/metrics.jsonl"); }) ==
        (folder / "no/metrics.jsonl").string() +
            ": cannot be opened for writing: No such file or directory; create the folder first");
}
