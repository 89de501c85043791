/// The command line of a trainer: flags that are checked as they are read, each complaint one line that names the flag and what it takes.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace CLI {
class App;
}

namespace trainer {

/// What every trainer is asked: where the run lies, how often it is repeated and with how many threads.
struct common_options {
  std::filesystem::path out;
  int seeds = 1, first_seed = 1, threads = 0;
};

/// Names flags and where their values go; then reads a command line. Of a flag given twice the last counts, so that a script may set some and
/// its user others; lists are joined.
class flags {
 public:
  /// `summary`: what the program does, in a sentence or two.
  explicit flags(const std::string& summary);
  ~flags();
  flags(const flags&) = delete;
  flags& operator=(const flags&) = delete;

  void whole(const char* flag, int& to, const char* help, int least = 1);
  void above_zero(const char* flag, double& to, const char* help);
  /// From 0 to `most`.
  void share(const char* flag, double& to, const char* help, double most = 1);
  /// Any finite number.
  void number(const char* flag, double& to, const char* help);
  void word(const char* flag, std::string& to, const char* help);
  /// One of `choices`, which the help lists.
  void choice(const char* flag, std::string& to, const std::string& help, const std::vector<std::string>& choices);
  /// Several of `choices`, separated by commas, each once and in the order of `choices`; what `to` holds is the default.
  void list(const char* flag, std::vector<std::string>& to, const std::string& help, const std::vector<std::string>& choices);
  /// Several words, separated by commas, which the program checks itself.
  void words(const char* flag, std::vector<std::string>& to, const std::string& help);
  void path(const char* flag, std::filesystem::path& to, const char* help, bool required = false);
  void yes(const char* flag, bool& to, const char* help);
  /// --out, --seeds, --first-seed and --threads; after parse threads is at least 1.
  void common(common_options& to);

  /// What follows the complaint about words that belong to no flag.
  void advise_on_stray_words(std::string advice) { stray_advice_ = std::move(advice); }

  /// Returns false when the program is done (help); `status` is its exit status then. Errors: input_error naming the flag.
  bool parse(int argc, char** argv, int& status);
  /// Whether the flag was on the command line.
  bool given(const char* flag) const;
  /// Names and values of all flags that decide the numbers of a run: all but paths, --device, those of `common` and those named in `but`.
  std::vector<std::pair<std::string, std::string>> settings(const std::vector<std::string>& but = {}) const;

 private:
  template <class T>
  void remember(const char* flag, const T& value);
  std::unique_ptr<CLI::App> app_;
  std::string stray_advice_;
  std::vector<std::pair<std::string, std::function<std::string()>>> values_;
  std::vector<std::function<void()>> after_;
};

/// "a, b, c"
std::string listed(const std::vector<std::string>& words);

}  // namespace trainer
