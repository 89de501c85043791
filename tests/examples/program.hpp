/// Another program under test: its arguments in, its exit status and what it wrote out.
#pragma once
#include <csignal>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>
#include <fcntl.h>

#include "../io/scratch_folder.hpp"

namespace examples {

/// What the program may do.
struct rights {
  bool ordinary_user = false;           ///< not root, even where the test is
  rlim_t file_bytes = RLIM_INFINITY;    ///< no file grows beyond: a full disk
};

struct outcome {
  int status = 0;  ///< exit status, or minus the number of the signal that ended it
  std::string out, err;
};

/// A program that runs. Its output goes to files in a folder of its own.
class running {
 public:
  running(const std::string& program, const std::vector<std::string>& arguments, rights may = {}) {
    std::vector<char*> argv{const_cast<char*>(program.c_str())};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    const std::string out = (files_ / "out").string(), err = (files_ / "err").string();
    process_ = ::fork();
    if (process_ < 0) throw std::runtime_error("no second process");
    if (process_ > 0) return;
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT, 0666), STDOUT_FILENO);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT, 0666), STDERR_FILENO);
    // A message of the program is small; the limit is there for its files.
    const rlimit limit = {may.file_bytes, may.file_bytes};
    if (may.file_bytes != RLIM_INFINITY && ::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(126);
    if (may.ordinary_user && ::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(126);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ~running() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  running(const running&) = delete;
  running& operator=(const running&) = delete;

  void send(int signal) const { ::kill(process_, signal); }

  outcome wait() {
    int status = 0;
    ::waitpid(process_, &status, 0);
    process_ = 0;
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), scratch::contents(files_ / "out"),
            scratch::contents(files_ / "err")};
  }

 private:
  scratch::folder files_;
  pid_t process_ = 0;
};

inline outcome run(const std::string& program, const std::vector<std::string>& arguments, rights may = {}) {
  return running(program, arguments, may).wait();
}

}  // namespace examples
