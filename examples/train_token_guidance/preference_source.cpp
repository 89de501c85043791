/// Reading, splitting and scoring preferences.
#include "preference_source.hpp"
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <utility>
#include "trainer/stage.hpp"
#include <planlm/core/error.hpp>
#include <planlm/io/safetensors.hpp>

namespace train_token_guidance {
namespace {

class fnv {
 public:
  fnv& operator()(std::uint64_t v) {
    h_ = (h_ ^ v) * 1099511628211ull;
    return *this;
  }
  fnv& operator()(std::string_view text) {
    for (const char c : text) (*this)(static_cast<unsigned char>(c));
    return (*this)(0x100);
  }
  std::uint64_t value() const { return h_; }

 private:
  std::uint64_t h_ = 1469598103934665603ull;
};

/// Even, from 0 to 1.
double place_of(std::uint64_t hash) { return philox{hash, 0, 0x70726566}.uniform(0, 0); }

/// Where each list falls: by its prompt, or by all of it where there is one prompt alone.
std::vector<double> places_of(const text::preferences& read) {
  const std::string& first = read.lists.front().prompt;
  const bool one = std::all_of(read.lists.begin(), read.lists.end(),
                               [&](const text::preference& p) { return p.prompt == first; });
  std::vector<double> places;
  for (const text::preference& p : read.lists) {
    fnv h;
    h(p.prompt);
    if (one)
      for (const std::string& g : p.generations) h(g);
    places.push_back(place_of(h.value()));
  }
  return places;
}

void must_fit(const std::string& file, const text::preferences& read, const planner_base& base, int reserve) {
  const auto most = static_cast<std::size_t>(base.run.flags.length);
  for (const text::preference& p : read.lists) {
    const std::size_t prompt = base.vocabulary().encode(p.prompt).size();
    std::size_t longest = 0;
    for (const std::string& g : p.generations)
      longest = std::max(longest, base.vocabulary().encode(g).size());
    const bool reserved = longest < static_cast<std::size_t>(reserve);
    if (1 + prompt + std::max(longest, static_cast<std::size_t>(reserve)) <= most) continue;
    throw input_error(file + ": line " + std::to_string(p.line) + ": 1 token that begins a text, " +
                      std::to_string(prompt) + " of the prompt and " +
                      (reserved ? std::to_string(reserve) + " of --longest"
                                : std::to_string(longest) + " of the longest generation") +
                      " do not fit the run's window of " + std::to_string(most) +
                      "; shorten the line, or give --cut: prompts then lose their beginning, generations "
                      "that alone are too long their end");
  }
}

std::string counted(index_t n, const char* one, const char* several) {
  return std::to_string(n) + " " + (n == 1 ? one : several);
}

template <class T>
T lookup(const std::map<std::string, std::string>& about, const char* name,
         const std::filesystem::path& path) {
  const auto found = about.find(name);
  if (found == about.end())
    throw input_error(path.string() + ": is no reward model of this program ('" + name +
                      "' is missing); give what --task reward made");
  if constexpr (std::is_same_v<T, std::string>) {
    return found->second;
  } else {
    return static_cast<T>(std::strtod(found->second.c_str(), nullptr));
  }
}

std::filesystem::path base_file(const std::filesystem::path& folder, int seed) {
  return folder / ("seed-" + std::to_string(seed) + ".base.safetensors");
}

}  // namespace

void preference_options::add(trainer::flags& f) {
  f.path("--run", run, "folder that train_planner_lm --out named, of a finished run");
  f.path("--preferences", preferences,
         "JSON lines: a prompt, generations, and their scores, ranks, or which was chosen");
  f.whole("--run-seed", run_seed, "which seed of the run; default its first", 0);
  f.yes("--cut", cut, "let prompts lose their beginning where they do not fit the run's window");
}
void preference_options::check() const {
  if (run.empty()) throw input_error("--run: name the folder of a finished run of train_planner_lm");
  if (preferences.empty())
    throw input_error("--preferences: name a file of JSON lines with prompts and generations");
}

lm_sizes planner_base::sizes() const {
  const train_planner_lm::options& o = run.flags;
  return {vocabulary().size(), o.length, o.width, o.heads, o.layers};
}
std::unique_ptr<part> planner_base::language_model(guidance_machine& m) const {
  auto lm = m.make(philox{}, false);
  trainer::run::load_parameters(*lm, base_file(folder, seed),
                                {{"identity", run.identity}, {"seed", std::to_string(seed)}});
  return lm;
}
planner_base read_planner_base(const preference_options& o) {
  train_planner_lm::finished_run run = train_planner_lm::read_run(o.run);
  const int seed = o.run_seed > 0 ? o.run_seed : train_planner_lm::first_seed(o.run);
  if (const auto file = base_file(o.run, seed); !std::filesystem::exists(file))
    throw input_error(file.string() + ": there is no such file; the run has no --run-seed " +
                      std::to_string(seed) + ", or ended before its language model was trained");
  train_planner_lm::kept_language language = train_planner_lm::read_language(o.run, run, seed);
  return {o.run, std::move(run), seed, std::move(language)};
}

preference_parts read_parts(const preference_options& o, const planner_base& base,
                            const preference_shares& shares, int reserve) {
  const std::string file = o.preferences.string();
  const text::preferences read = text::read_preferences(o.preferences);
  const auto silent = [&](index_t all) {
    return input_error(file + ": in " +
                       (all == 1 ? std::string("the one list") : "all " + std::to_string(all) + " lists") +
                       " the scores are equal, so nothing can be learnt; give scores that differ");
  };
  if (read.uninformative == static_cast<index_t>(read.lists.size())) throw silent(read.uninformative);
  if (!o.cut) must_fit(file, read, base, reserve);
  const text::tokenised_preferences ids =
      text::tokenise(read, base.vocabulary(), {base.run.flags.length, -1});
  if (ids.uninformative == static_cast<index_t>(ids.lists.size())) throw silent(ids.uninformative);

  preference_parts out;
  out.description = read.description;
  const auto note = [&](std::string words) { out.notes.push_back(file + ": " + std::move(words)); };
  if (const std::string words = text::warning_of(read); !words.empty()) note(words);
  if (ids.dropped_generations > 0)
    note(counted(ids.dropped_generations, "generation is empty and was left out",
                 "generations are empty and were left out"));
  if (ids.dropped_lists > 0)
    note(counted(ids.dropped_lists, "list was left out, it has", "lists were left out, they have") +
         " fewer than two generations that are not empty");
  if (ids.cut_prompts > 0)
    note(counted(ids.cut_prompts, "prompt has lost its beginning", "prompts have lost their beginnings"));
  if (ids.cut_generations > 0)
    note(counted(ids.cut_generations, "generation has lost its end", "generations have lost their ends"));

  fnv h;
  std::map<int, double> place;  // of a line
  const std::vector<double> places = places_of(read);
  for (std::size_t i = 0; i < places.size(); ++i) place[read.lists[i].line] = places[i];
  for (const preference_list& list : ids.lists) {
    const double u = place.at(list.line);
    (u < shares.test                       ? out.test
     : u < shares.test + shares.validation ? out.validation
                                           : out.training)
        .push_back(list);
    h(list.prompt.size());
    for (const int t : list.prompt) h(static_cast<std::uint64_t>(t));
    for (std::size_t k = 0; k < list.generations.size(); ++k) {
      h(list.generations[k].size())(std::bit_cast<std::uint64_t>(list.scores[k]));
      for (const int t : list.generations[k]) h(static_cast<std::uint64_t>(t));
    }
  }
  out.fingerprint = h.value();
  for (const auto& [lists, name, flag] :
       {std::tuple{&out.training, "train with", "--validation-share and --test-share"},
        std::tuple{&out.validation, "validate with", "--validation-share"},
        std::tuple{&out.test, "test with", "--test-share"}})
    if (informative(*lists).empty())
      throw input_error(file + ": of " + counted(static_cast<index_t>(ids.lists.size()), "list", "lists") +
                        " none that says which text is better is left to " + name +
                        "; give more lists, or other numbers to " + flag + " of --task reward");
  for (const std::string& line : out.notes) std::cerr << line << '\n';
  return out;
}

std::vector<const preference_list*> informative(const std::vector<preference_list>& lists) {
  std::vector<const preference_list*> out;
  for (const preference_list& list : lists)
    if (text::informative(list.scores)) out.push_back(&list);
  return out;
}
const std::vector<int>& best_of(const preference_list& list) {
  return list.generations[static_cast<std::size_t>(std::max_element(list.scores.begin(), list.scores.end()) -
                                                   list.scores.begin())];
}
void add_list(ranked_generations& to, const preference_list& list) {
  for (std::size_t k = 0; k < list.generations.size(); ++k) {
    to.generations.add(list.prompt, list.generations[k]);
    to.score.push_back(list.scores[k]);
  }
  to.generations.end_list();
}

lists_scored order_of(std::span<const preference_list* const> lists,
                      std::vector<std::vector<double>> scores) {
  lists_scored out;
  out.lists = static_cast<index_t>(lists.size());
  double right = 0;
  std::vector<std::pair<double, double>> each;  // pairs of a list, those ordered right
  for (std::size_t l = 0; l < lists.size(); ++l) {
    const std::vector<double>&truth = lists[l]->scores, &said = scores[l];
    double pairs = 0, of_list = 0;
    for (std::size_t i = 0; i < truth.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        if (truth[i] != truth[j])
          pairs += 1, of_list += (truth[i] - truth[j]) * (said[i] - said[j]) > 0 ? 1
                                 : said[i] == said[j]                            ? 0.5
                                                                                 : 0;
    out.pairs += static_cast<index_t>(pairs), right += of_list;
    each.emplace_back(pairs, of_list);
  }
  if (out.pairs > 0) out.accuracy = right / double(out.pairs);
  double square = 0;
  for (const auto& [pairs, of_list] : each)
    square += (of_list - out.accuracy * pairs) * (of_list - out.accuracy * pairs);
  if (out.lists > 1)
    out.accuracy_error = std::sqrt(square * double(out.lists) / double(out.lists - 1)) / double(out.pairs);
  out.scores = std::move(scores);
  return out;
}
lists_scored score_lists(guidance_machine& m, const part& reward,
                         std::span<const preference_list* const> lists, const guidance_rule& rule) {
  constexpr std::size_t most = 4096;  // tokens of a call
  std::vector<std::vector<double>> scores;
  double loss = 0;
  for (std::size_t first = 0; first < lists.size();) {
    ranked_generations some(m.sizes());
    std::size_t last = first;
    for (; last < lists.size() && some.generations.tokens().size() < most; ++last)
      add_list(some, *lists[last]);
    const ranking_result r = m.rank(reward, some, rule);
    loss += r.loss * double(last - first);
    for (std::size_t at = 0; first < last; at += lists[first++]->scores.size())
      scores.emplace_back(r.score.begin() + static_cast<std::ptrdiff_t>(at),
                          r.score.begin() + static_cast<std::ptrdiff_t>(at + lists[first]->scores.size()));
  }
  lists_scored out = order_of(lists, std::move(scores));
  out.loss = loss / double(std::max<std::size_t>(1, lists.size()));
  return out;
}

std::uint64_t fingerprint_of(std::string_view text) { return fnv{}(text).value(); }

std::map<std::string, std::string> about_rule(const guidance_options& g, const preference_shares& shares) {
  return {{"aggregation", g.aggregation},
          {"squash", g.squash},
          {"beta", trainer::exact(g.beta)},
          {"common_length", g.plain_length ? "no" : "yes"},
          {"subtract_log_length", g.subtract_log_length ? "yes" : "no"},
          {"inner", std::to_string(g.inner)},
          {"validation_share", trainer::exact(shares.validation)},
          {"test_share", trainer::exact(shares.test)}};
}
kept_reward read_reward(guidance_machine& m, const std::filesystem::path& folder_or_file,
                        const planner_base& base) {
  const bool folder = std::filesystem::is_directory(folder_or_file);
  const auto path = folder ? folder_or_file / "reward.safetensors" : folder_or_file;
  if (!std::filesystem::exists(path))
    throw input_error(
        path.string() +
        ": there is no such file; give --reward what --task reward --out named, when it has finished");
  const std::map<std::string, std::string> about = tensor_file(path).metadata();
  kept_reward out;
  if (lookup<std::string>(about, "of", path) != base.run.identity)
    throw input_error(
        path.string() + ": was trained for another run of train_planner_lm than " + base.folder.string() +
        "; give the --run that it was trained with, or train one for this run with --task reward");
  guidance_options& g = out.guidance;
  g.aggregation = lookup<std::string>(about, "aggregation", path),
  g.squash = lookup<std::string>(about, "squash", path);
  g.beta = lookup<double>(about, "beta", path), g.inner = lookup<int>(about, "inner", path);
  g.plain_length = lookup<std::string>(about, "common_length", path) == "no";
  g.subtract_log_length = lookup<std::string>(about, "subtract_log_length", path) == "yes";
  out.shares = {lookup<double>(about, "validation_share", path), lookup<double>(about, "test_share", path)};
  fnv h;
  for (const auto& [name, value] : about) h(name)(value);
  out.fingerprint = h.value();
  out.model = m.make_reward_model(nullptr, std::max(1, g.inner), philox{}, false);
  trainer::run::load_parameters(*out.model, path, {{"of", base.run.identity}});
  return out;
}

}  // namespace train_token_guidance
