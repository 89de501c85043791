/// The folder a run writes to: checked before any work is done, and never emptied.
///
/// `metrics.jsonl` holds one JSON object per line and grows by appending, so that a resumed run goes on in
/// the same file; all other files are replaced whole. A crash can leave half a line at the end of
/// metrics.jsonl: opening it cuts that off (and hands it over in `cut_off()`), because a line appended to
/// half a line would spoil both.
///
/// NaN and infinities become null, which is all JSON has for them: a loss that stopped being a number must
/// not cost the run its log or its results. Bytes that are not UTF-8 become U+FFFD for the same reason.
///
/// Errors: input_error with path, reason and remedy.
#pragma once
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/io/atomic_file.hpp>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace planlm {

/// Replaces `path` by a file holding `text`, or leaves it untouched.
inline void write_text_atomic(const std::filesystem::path& path, std::string_view text) {
  atomic_file file(path, static_cast<index_t>(text.size()));
  file.write(std::as_bytes(std::span(text)));
  file.commit();
}

/// The same for JSON, indented by two spaces, keys in the order they were added.
inline void write_json_atomic(const std::filesystem::path& path, const nlohmann::ordered_json& value) {
  write_text_atomic(path, value.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

/// A JSON-lines file that is only ever appended to. One process at a time has it open.
class metrics_log {
 public:
  explicit metrics_log(std::filesystem::path path) : path_(std::move(path)) {
    file_ = detail::descriptor(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (!file_.open()) fail("cannot be opened for writing", errno);
    // Without the lock, the half line found below could be one that another process is writing now.
    if (::flock(file_.number(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
      throw input_error(path_.string() +
                        ": another run is writing to it; stop that run, or choose another folder");
    struct stat status = {};
    if (::fstat(file_.number(), &status) != 0) fail("cannot be read", errno);
    if (S_ISREG(status.st_mode) && status.st_size > 0) repair(status.st_size);
  }

  /// Adds one line. It is handed to the system before the call returns, and is there whole or not at all.
  void append(const nlohmann::ordered_json& object) {
    if (!object.is_object())
      throw error("metrics_log: a line must be a JSON object, got " + std::string(object.type_name()));
    write_line(object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  }

  /// The half-written last line that was removed on opening, empty as a rule. Worth telling the user.
  const std::string& cut_off() const { return cut_off_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  void write_line(std::string_view line) {
    struct stat before = {};
    if (::fstat(file_.number(), &before) != 0) fail("cannot be read", errno);
    const int why = detail::write_all(file_.number(), std::as_bytes(std::span(line)));
    if (why == 0) return;
    // A full disk takes part of a line: give it back. Should that fail too, the next opening cuts it off.
    if (S_ISREG(before.st_mode) && ::ftruncate(file_.number(), before.st_size) != 0) errno = why;
    fail("cannot append " + std::to_string(line.size()) + " bytes", why);
  }

  void repair(off_t size) {
    // Only the last line matters. One longer than this was not written by a run.
    constexpr off_t longest_line = 1 << 20;
    const off_t from = size > longest_line ? size - longest_line : 0;
    std::string tail(static_cast<std::size_t>(size - from), '\0');
    if (::pread(file_.number(), tail.data(), tail.size(), from) != static_cast<ssize_t>(tail.size()))
      fail("cannot be read", errno);
    const std::size_t newline = tail.rfind('\n');
    if (newline == std::string::npos && from > 0) refuse("has a last line of more than 1 MiB");
    if (newline != std::string::npos) tail.erase(0, newline + 1);
    if (tail.empty()) return;
    if (nlohmann::json::parse(tail, nullptr, false).is_object()) {  // only the newline is missing
      write_line("\n");
      return;
    }
    // A line cut short starts as one of ours; after a power cut its bytes may be zeros. Anything else is not
    // ours to cut.
    if (tail[0] != '{' && tail.find_first_not_of('\0') != std::string::npos)
      refuse("ends in a line that is no JSON object");
    if (::ftruncate(file_.number(), size - static_cast<off_t>(tail.size())) != 0)
      fail("cannot be repaired", errno);
    cut_off_ = std::move(tail);
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw input_error(path_.string() + ": " + what +
                      ", so it is no log of a run; move it away, or choose another folder");
  }
  [[noreturn]] void fail(const std::string& what, int why) const {
    throw input_error(path_.string() + ": " + what + ": " + detail::reason(why) + "; " +
                      detail::write_remedy(why));
  }

  std::filesystem::path path_;
  detail::descriptor file_;
  std::string cut_off_;
};

class run_folder {
 public:
  /// Creates the folder where it is missing and proves that it takes files, so that a run of hours does not
  /// find out at its end that its results have no place.
  explicit run_folder(std::filesystem::path path) : path_(std::move(path)) {
    std::error_code why;
    if (path_.empty()) throw input_error("the output folder has an empty name; name a folder");
    if (std::filesystem::exists(path_, why) && !std::filesystem::is_directory(path_, why))
      throw input_error(path_.string() +
                        ": is a file, expected a folder for the output; choose another name");
    std::filesystem::create_directories(path_, why);
    if (why) fail(why.value());
    // Asking for permission is not enough: only writing shows a read-only or full disk.
    std::filesystem::path probe;
    detail::descriptor file;
    for (int attempt = 0; !file.open(); ++attempt) {
      probe = path_ / (".probe-" + std::to_string(::getpid()) + "-" + std::to_string(attempt));
      file = detail::descriptor(::open(probe.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (!file.open() && errno != EEXIST && errno != EINTR) fail(errno);
    }
    const std::byte bytes[4096] = {};
    int failure = detail::write_all(file.number(), bytes);
    if (failure == 0) failure = file.close();
    ::unlink(probe.c_str());
    if (failure != 0) fail(failure);
  }

  const std::filesystem::path& path() const { return path_; }
  /// The path of a file in the folder.
  std::filesystem::path file(std::string_view name) const { return path_ / name; }
  void write_text(std::string_view name, std::string_view text) const { write_text_atomic(file(name), text); }
  void write_json(std::string_view name, const nlohmann::ordered_json& value) const {
    write_json_atomic(file(name), value);
  }
  /// metrics.jsonl, open for appending.
  metrics_log metrics() const { return metrics_log(file("metrics.jsonl")); }

 private:
  [[noreturn]] void fail(int why) const {
    throw input_error(path_.string() + ": cannot write to this output folder: " + detail::reason(why) + "; " +
                      detail::write_remedy(why));
  }

  std::filesystem::path path_;
};

}  // namespace planlm
