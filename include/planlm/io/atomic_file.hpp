/// A file that appears whole or not at all.
///
/// The bytes go to a temporary file in the same folder, are flushed to the disk, and take the final name by a
/// rename, which replaces an older file in one step. When anything fails (full disk, permissions) the
/// temporary file is removed and the older file is as it was. A process killed half-way leaves
/// `NAME.part-PID-N` behind, which may be deleted.
///
/// A link is written through to its target. Errors: input_error with path, bytes wanted, reason and remedy.
#pragma once
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <span>
#include <string>
#include <system_error>
#include <utility>

namespace planlm {
namespace detail {

/// An open file, closed when it goes out of scope.
class descriptor {
 public:
  descriptor() = default;
  explicit descriptor(int number) : number_(number) {}
  descriptor(descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~descriptor() { close(); }
  int number() const { return number_; }
  bool open() const { return number_ >= 0; }
  /// 0 or the error number: some file systems report a failed write only here.
  int close() { return number_ >= 0 && ::close(std::exchange(number_, -1)) != 0 ? errno : 0; }

 private:
  int number_ = -1;
};

/// What the system calls an error number, in English.
inline std::string reason(int error_number) { return std::generic_category().message(error_number); }

inline const char* write_remedy(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return "free some space, or write to another disk";
    case EACCES:
    case EPERM:
    case EROFS:
      return "choose a folder you may write to, or change its permissions";
    case ENOENT:
      return "create the folder first";
    case ENOTDIR:
      return "a part of the path is a file; choose another path";
    default:
      return "choose another path";
  }
}

/// Writes all of `data`, however many calls it takes. 0 or the error number.
inline int write_all(int file, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t written = ::write(file, data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : ENOSPC;
    data = data.subspan(static_cast<std::size_t>(written));
  }
  return 0;
}

}  // namespace detail

class atomic_file {
 public:
  /// `bytes` is what will be written in all, for the message when it does not fit.
  atomic_file(std::filesystem::path path, index_t bytes)
      : path_(std::move(path)), target_(path_), bytes_(bytes) {
    std::error_code ignored;
    if (std::filesystem::exists(path_, ignored)) target_ = std::filesystem::canonical(path_, ignored);
    struct stat existing = {};
    const bool replaces = !target_.empty() && ::stat(target_.c_str(), &existing) == 0;
    if (replaces && !S_ISREG(existing.st_mode))
      throw input_error(path_.string() + ": is there already and is not a plain file; choose another path");
    // A rename would replace a write-protected file without asking.
    if (replaces && ::faccessat(AT_FDCWD, target_.c_str(), W_OK, AT_EACCESS) != 0) fail(errno);
    for (int attempt = 0; !file_.open(); ++attempt) {
      temporary_ = target_;
      temporary_ += ".part-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
      file_ = detail::descriptor(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (!file_.open() && errno != EEXIST && errno != EINTR) {
        const int why = errno;
        temporary_.clear();
        fail(why);
      }
    }
    if (replaces) ::fchmod(file_.number(), existing.st_mode & 07777u);  // at best: the contents matter more
  }
  ~atomic_file() { discard(); }
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;

  void write(std::span<const std::byte> data) {
    if (const int why = detail::write_all(file_.number(), data)) fail(why);
  }

  /// Gives the file its name. Until then nothing of it can be seen under that name.
  void commit() {
    if (::fsync(file_.number()) != 0) fail(errno);
    if (const int why = file_.close()) fail(why);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail(errno);
    temporary_.clear();
    // The name itself lives in the folder. Some file systems cannot sync a folder, which is no reason to
    // fail.
    const std::filesystem::path folder = target_.has_parent_path() ? target_.parent_path() : ".";
    const detail::descriptor opened(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (opened.open() && ::fsync(opened.number()) != 0 && errno == EIO)
      throw input_error(path_.string() + ": is written, but the disk failed to record its name: " +
                        detail::reason(EIO) + "; check the disk");
  }

 private:
  void discard() {
    file_.close();
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
  }
  [[noreturn]] void fail(int why) {
    discard();
    std::error_code ignored;
    const char* kept =
        std::filesystem::exists(target_, ignored) ? "; the file that is there stays as it was" : "";
    throw input_error(path_.string() + ": cannot write " + std::to_string(bytes_) +
                      " bytes: " + detail::reason(why) + kept + "; " + detail::write_remedy(why));
  }

  std::filesystem::path path_, target_, temporary_;
  index_t bytes_;
  detail::descriptor file_;
};

}  // namespace planlm
