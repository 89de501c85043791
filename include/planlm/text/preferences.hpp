/// Which of several answers to a prompt is better: `read_preferences`, from JSON lines.
///
/// One object a line, of one of three forms; lists may differ in length, and generations in theirs:
///   {"prompt": "...", "generations": ["...", "...", "..."], "scores": [0.2, 1.5, 0.2]}    more is better; equal scores are ties
///   {"prompt": "...", "generations": ["...", "...", "..."], "ranks": [2, 1, 2]}           1 is the best
///   {"prompt": "...", "chosen": "...", "rejected": "..."}                                 two generations
/// Only the order of scores within a line is used. A list whose scores are all equal carries no information: it is kept and counted
/// (`uninformative`), and `warning_of` says so. An empty prompt is one: whatever the model writes of itself.
///
/// Errors: input_error, one line with file, line number, what is wrong and what a line must be: for fewer than two generations, all of them
/// empty, scores that are not finite or not as many, fields that are missing or unknown, text that is not UTF-8 or no JSON.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>
#include <planlm/text/corpus.hpp>
#include <planlm/text/documents.hpp>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace planlm::text {

/// K >= 2 generations for one prompt.
struct preference {
  std::string prompt;
  std::vector<std::string> generations;
  std::vector<double> scores;  // (K) more is better; ranks come as their negatives
  int line = 0;                // of the file, from 1
};

/// Whether it says of any two generations which is better.
inline bool informative(const std::vector<double>& scores) {
  return std::any_of(scores.begin(), scores.end(), [&](double score) { return score != scores.front(); });
}

struct preferences {
  std::vector<preference> lists;
  std::string description;  // where they came from and how many there are, for people
  index_t uninformative = 0;
};

/// The same as ids.
struct tokenised_preference {
  std::vector<int> prompt;  // BOS and the ids of the prompt
  std::vector<std::vector<int>> generations;
  std::vector<double> scores;
  int line = 0;
};

/// What does not fit or gives no token is left out and counted.
struct tokenised_preferences {
  std::vector<tokenised_preference> lists;
  index_t uninformative = 0;        // lists of them whose scores are all equal
  index_t dropped_generations = 0;  // without a token
  index_t dropped_lists = 0;        // with fewer than two generations left
  index_t cut_generations = 0, cut_prompts = 0;
};

struct preference_window {
  int length = std::numeric_limits<int>::max();  // most ids of a prompt and one generation
  int end = -1;                                  // id that closes every generation; below 0: none
};

namespace detail {

inline std::string counted(std::size_t n, const char* thing) { return std::to_string(n) + " " + thing + (n == 1 ? "" : "s"); }

/// The fields of one line, and how to refuse them.
class preference_line {
 public:
  preference_line(const text_line& line, const std::string& file)
      : file_(file), number_(line.number), object_(parse_object(line, file, wanted)) {}

  preference read() const {
    const bool pair = object_.contains("chosen") || object_.contains("rejected");
    const bool ranked = object_.contains("ranks"), scored = object_.contains("scores");
    for (const auto& field : object_.items()) {
      const std::string& name = field.key();
      const bool of_list = name == "generations" || name == "scores" || name == "ranks";
      const bool of_pair = name == "chosen" || name == "rejected";
      if (name != "prompt" && !of_list && !of_pair) refuse_line("unknown field \"" + name + "\"");
      if (pair && of_list) refuse_line("\"" + name + "\" beside \"chosen\" and \"rejected\"");
    }
    preference list{text("prompt"), {}, {}, number_};
    if (pair) {
      list.generations = {text("chosen"), text("rejected")};
      list.scores = {1, 0};
    } else {
      for (const nlohmann::json& generation : array("generations")) {
        if (!generation.is_string())
          refuse_line("generation " + std::to_string(list.generations.size() + 1) + " is not a string but " + generation.type_name());
        list.generations.push_back(generation.get<std::string>());
      }
      if (ranked && scored) refuse_line("both \"scores\" and \"ranks\"");
      if (!ranked && !scored) refuse_line("no field \"scores\" or \"ranks\"");
      if (list.generations.size() < 2)
        refuse_line(counted(list.generations.size(), "generation") + ", a preference is among 2 or more");
      list.scores = ranked ? ranks(list.generations.size()) : scores(list.generations.size());
    }
    const auto empty = [](const std::string& text) { return blank(text); };
    if (std::all_of(list.generations.begin(), list.generations.end(), empty)) refuse_line("all generations are empty");
    return list;
  }

 private:
  static constexpr const char* wanted =
      "; expected {\"prompt\": \"...\", \"generations\": [\"...\", \"...\"], \"scores\": [1.5, 0.5]} with a score or one of \"ranks\" for "
      "each, or {\"prompt\": \"...\", \"chosen\": \"...\", \"rejected\": \"...\"}; correct or remove the line";

  [[noreturn]] void refuse_line(const std::string& what) const { refuse(file_, "line " + std::to_string(number_) + ": " + what + wanted); }

  const nlohmann::json& field(const char* name) const {
    const auto found = object_.find(name);
    if (found == object_.end()) refuse_line(std::string("no field \"") + name + "\"");
    return *found;
  }
  std::string text(const char* name) const {
    const nlohmann::json& value = field(name);
    if (!value.is_string()) refuse_line(std::string("\"") + name + "\" is not a string but " + value.type_name());
    return value.get<std::string>();
  }
  const nlohmann::json& array(const char* name) const {
    const nlohmann::json& value = field(name);
    if (!value.is_array()) refuse_line(std::string("\"") + name + "\" is not an array but " + value.type_name());
    return value;
  }
  const nlohmann::json& array(const char* name, std::size_t size) const {
    const nlohmann::json& values = array(name);
    if (values.size() != size) refuse_line(counted(size, "generation") + " but " + std::to_string(values.size()) + " " + name);
    return values;
  }
  std::vector<double> scores(std::size_t size) const {
    std::vector<double> all;
    for (const nlohmann::json& score : array("scores", size)) {
      const std::string name = "score " + std::to_string(all.size() + 1);
      if (!score.is_number()) refuse_line(name + " is no finite number but " + score.type_name());
      all.push_back(score.get<double>());
      if (!std::isfinite(all.back())) refuse_line(name + " is no finite number");
    }
    return all;
  }
  std::vector<double> ranks(std::size_t size) const {
    std::vector<double> all;
    for (const nlohmann::json& rank : array("ranks", size)) {
      const double value = rank.is_number_integer() ? rank.get<double>() : 0;
      if (!(value >= 1 && value <= static_cast<double>(size)))
        refuse_line("rank " + std::to_string(all.size() + 1) + " is no whole number from 1 to " + std::to_string(size));
      all.push_back(-value);
    }
    return all;
  }

  const std::string& file_;
  int number_;
  nlohmann::json object_;
};

/// "2" or "2 to 5".
inline std::string range_of_lengths(const std::vector<preference>& lists) {
  const auto [least, most] = std::minmax_element(
      lists.begin(), lists.end(), [](const auto& a, const auto& b) { return a.generations.size() < b.generations.size(); });
  const std::string first = std::to_string(least->generations.size()), last = std::to_string(most->generations.size());
  return first == last ? first : first + " to " + last;
}

}  // namespace detail

inline preferences read_preferences(const std::filesystem::path& path) {
  const std::string file = path.string();
  std::error_code failed;
  if (std::filesystem::is_directory(path, failed)) detail::refuse(file, "a folder; give a file of JSON lines");
  const std::string bytes = detail::read_text(file);
  preferences out;
  for (const detail::text_line& line : detail::split_lines(bytes)) {
    if (detail::blank(line.raw)) continue;
    out.lists.push_back(detail::preference_line(line, file).read());
    out.uninformative += !informative(out.lists.back().scores);
  }
  if (out.lists.empty())
    detail::refuse(file, "the file has only blank lines; expected one JSON object a line, with \"prompt\" and \"generations\"");
  out.description = file + ": " + detail::counted(out.lists.size(), "list") + " of " + detail::range_of_lengths(out.lists) + " generations";
  return out;
}

/// One line about lists that carry no information; empty if there are none.
inline std::string warning_of(const preferences& read) {
  if (read.uninformative == 0) return {};
  const auto silent = [](const preference& list) { return !informative(list.scores); };
  const auto first = std::find_if(read.lists.begin(), read.lists.end(), silent);
  return std::to_string(read.uninformative) + " of " + detail::counted(read.lists.size(), "list") +
         " carry no information, because all their scores are equal; the first is on line " + std::to_string(first->line);
}

/// As ids that fit into `window`: a generation loses what is behind length - (BOS), a prompt what lies between BOS and its end, as much as
/// the longest generation of its list needs. Errors: input_error where no list is left.
template <Tokeniser T>
tokenised_preferences tokenise(const preferences& read, const T& tokeniser, preference_window window = {}) {
  if (window.length < 2) throw error("tokenise: a window of " + std::to_string(window.length) + " tokens, expected at least 2");
  const auto most = static_cast<std::size_t>(window.length) - 1;  // BOS stays
  tokenised_preferences out;
  for (const preference& source : read.lists) {
    tokenised_preference list{{tokeniser.bos()}, {}, {}, source.line};
    std::size_t longest = 0;
    for (std::size_t k = 0; k < source.generations.size(); ++k) {
      std::vector<int> ids = tokeniser.encode(source.generations[k]);
      if (window.end >= 0) ids.push_back(window.end);
      if (ids.empty()) {
        ++out.dropped_generations;
        continue;
      }
      if (ids.size() > most) {
        ids.resize(most);
        ++out.cut_generations;
      }
      longest = std::max(longest, ids.size());
      list.generations.push_back(std::move(ids));
      list.scores.push_back(source.scores[k]);
    }
    if (list.generations.size() < 2) {
      ++out.dropped_lists;
      continue;
    }
    const std::vector<int> prompt = tokeniser.encode(source.prompt);
    const std::size_t room = std::min(most - longest, prompt.size());
    out.cut_prompts += room < prompt.size();
    list.prompt.insert(list.prompt.end(), prompt.end() - static_cast<std::ptrdiff_t>(room), prompt.end());
    out.uninformative += !informative(list.scores);
    out.lists.push_back(std::move(list));
  }
  if (out.lists.empty())
    throw input_error(read.description + ": no list has two generations that give a token; give text with words in it");
  return out;
}

}  // namespace planlm::text
