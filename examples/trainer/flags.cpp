/// Flags by CLI11.
#include "flags.hpp"
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <CLI/CLI.hpp>
#include <planlm/core/error.hpp>
#include "stage.hpp"

namespace trainer {
namespace {

/// What is wrong with a number on the command line; empty if nothing is.
std::string complaint_about_whole(const std::string& given, int least) {
  constexpr int most = 1'000'000'000;
  int value = 0;
  const auto [end, failed] = std::from_chars(given.data(), given.data() + given.size(), value);
  const bool fits = failed == std::errc{} && end == given.data() + given.size() && value >= least && value <= most;
  return fits ? ""
              : "give a whole number from " + std::to_string(least) + " to " + std::to_string(most) + ", not '" +
                    given + "'";
}
/// `fits(value)` is asked of finite numbers alone.
template <class F>
std::string complaint_about(const std::string& given, const std::string& wanted, const F& fits) {
  char* end = nullptr;
  const double value = std::strtod(given.c_str(), &end);
  if (!given.empty() && end == given.c_str() + given.size() && std::isfinite(value) && fits(value)) return "";
  return "give " + wanted + ", not '" + given + "'";
}

}  // namespace

std::string listed(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
  return list;
}

namespace {
std::string in_words(int value) { return std::to_string(value); }
std::string in_words(double value) { return exact(value); }
std::string in_words(bool value) { return value ? "yes" : "no"; }
std::string in_words(const std::string& value) { return value; }
std::string in_words(const std::vector<std::string>& value) { return listed(value); }
}  // namespace

template <class T>
void flags::remember(const char* flag, const T& value) {
  values_.emplace_back(flag, [&value] { return in_words(value); });
}

flags::flags(const std::string& summary) : app_(std::make_unique<CLI::App>(summary)) { app_->get_formatter()->column_width(34); }
flags::~flags() = default;

void flags::whole(const char* flag, int& to, const char* help, int least) {
  remember(flag, to);
  CLI::Option* option = app_->add_option(flag, to, help)->take_last()->check([least](const std::string& given) {
    return complaint_about_whole(given, least);
  });
  if (to != 0) option->capture_default_str();
}
void flags::above_zero(const char* flag, double& to, const char* help) {
  remember(flag, to);
  CLI::Option* option = app_->add_option(flag, to, help)->take_last()->check([](const std::string& given) {
    return complaint_about(given, "a number above 0", [](double v) { return v > 0; });
  });
  if (to != 0) option->capture_default_str();
}
void flags::share(const char* flag, double& to, const char* help, double most) {
  remember(flag, to);
  app_->add_option(flag, to, help)->take_last()->capture_default_str()->check([most](const std::string& given) {
    return complaint_about(given, "a number from 0 to " + std::to_string(static_cast<int>(most)), [most](double v) { return v >= 0 && v <= most; });
  });
}
void flags::number(const char* flag, double& to, const char* help) {
  remember(flag, to);
  app_->add_option(flag, to, help)->take_last()->capture_default_str()->check([](const std::string& given) {
    return complaint_about(given, "a number", [](double) { return true; });
  });
}
void flags::word(const char* flag, std::string& to, const char* help) {
  remember(flag, to);
  app_->add_option(flag, to, help)->take_last()->capture_default_str();
}
void flags::choice(const char* flag, std::string& to, const std::string& help, const std::vector<std::string>& choices) {
  remember(flag, to);
  app_->add_option(flag, to, help + ": " + listed(choices))->take_last()->capture_default_str();
  after_.push_back([flag, &to, choices] {
    if (std::find(choices.begin(), choices.end(), to) == choices.end())
      throw planlm::input_error(std::string(flag) + ": '" + to + "' is none of " + listed(choices));
  });
}
void flags::list(const char* flag, std::vector<std::string>& to, const std::string& help, const std::vector<std::string>& choices) {
  remember(flag, to);
  app_->add_option(flag, to, help + ", comma-separated: " + listed(choices))->delimiter(',');
  after_.push_back([this, flag, &to, choices] {
    if (to.empty() && given(flag)) throw planlm::input_error(std::string(flag) + ": the list is empty; choose from " + listed(choices));
    for (const std::string& name : to)
      if (std::find(choices.begin(), choices.end(), name) == choices.end())
        throw planlm::input_error(std::string(flag) + ": '" + name + "' is none of " + listed(choices));
    std::vector<std::string> ordered;
    for (const std::string& name : choices)
      if (std::find(to.begin(), to.end(), name) != to.end()) ordered.push_back(name);
    to = ordered;
  });
}
void flags::words(const char* flag, std::vector<std::string>& to, const std::string& help) {
  remember(flag, to);
  app_->add_option(flag, to, help)->delimiter(',');
}
void flags::path(const char* flag, std::filesystem::path& to, const char* help, bool required) {
  app_->add_option_function<std::string>(flag, [&to](const std::string& value) { to = value; }, help)->required(required)->take_last();
}
void flags::yes(const char* flag, bool& to, const char* help) {
  remember(flag, to);
  app_->add_flag(flag, to, help);
}
void flags::common(common_options& to) {
  path("--out", to.out, "folder for metrics, checkpoints and results", true);
  const std::size_t before = values_.size();
  whole("--seeds", to.seeds, "runs with seeds 1 .. N");
  whole("--first-seed", to.first_seed, "number of the first seed", 0);
  whole("--threads", to.threads, "default: one per processor");
  values_.resize(before);  // a run may go on with other seeds and threads
  after_.push_back([&to] {
    if (to.threads > 1024) throw planlm::input_error("--threads " + std::to_string(to.threads) + ": give at most 1024, best one per processor");
    if (to.threads == 0) to.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  });
}

bool flags::parse(int argc, char** argv, int& status) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) {
      status = app_->exit(e);
      return false;
    }
    const bool stray = dynamic_cast<const CLI::ExtrasError*>(&e) || dynamic_cast<const CLI::ArgumentMismatch*>(&e);
    throw planlm::input_error(std::string(e.what()) + (stray ? stray_advice_ : "") + " (--help lists the flags)");
  }
  for (const auto& check : after_) check();
  return true;
}
bool flags::given(const char* flag) const { return app_->count(flag) > 0; }

std::vector<std::pair<std::string, std::string>> flags::settings(const std::vector<std::string>& but) const {
  std::vector<std::pair<std::string, std::string>> all;
  for (const auto& [flag, value] : values_)
    if (flag != "--device" && std::find(but.begin(), but.end(), flag) == but.end()) all.emplace_back(flag, value());
  return all;
}

}  // namespace trainer
