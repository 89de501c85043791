/// Shaded texts and a table of tokens.
#include "preference_page.hpp"
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>
#include <vector>
#include <planlm/io/report.hpp>

namespace train_token_guidance {
namespace {

constexpr std::size_t lists_shown = 6, texts_of_a_list = 4, tokens_shown = 12;
constexpr int least_count = 5;

/// A generation's rewards.
struct rewarded {
  const preference_list* list;
  std::size_t k;
  std::vector<float> reward;
};
std::vector<rewarded> reward_of(guidance_machine& m, const part& reward, const guidance_rule& rule,
                                std::span<const preference_list* const> lists) {
  std::vector<rewarded> all;
  for (const preference_list* list : lists) {
    packed_generations texts(m.sizes());
    for (const std::vector<int>& g : list->generations) texts.add(list->prompt, g);
    const std::vector<float> r = m.token_rewards(reward, texts, rule);
    for (std::size_t k = 0; k < list->generations.size(); ++k) {
      const auto from = r.begin() + texts.first()[k];
      all.push_back({list, k, {from, from + texts.length()[k]}});
    }
  }
  return all;
}

/// What each token adds to the text, spaces included.
std::vector<std::string> pieces_of(const planner_base& base, const std::vector<int>& ids) {
  std::vector<std::string> pieces;
  for (const int id : ids) {
    std::string piece = base.vocabulary().piece(id);
    for (std::size_t at = 0; (at = piece.find("\xE2\x96\x81", at)) != std::string::npos;)
      piece.replace(at, 3, " ");
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

/// Tokens by what they earned, from nothing at `least` to the darkest at `most`.
std::string shaded(const std::vector<std::string>& pieces, const std::vector<float>& reward, float least,
                   float most) {
  using namespace planlm::detail;
  std::string out;
  for (std::size_t t = 0; t < pieces.size(); ++t) {
    const float part = most > least ? std::clamp((reward[t] - least) / (most - least), 0.0f, 1.0f) : 0.0f;
    const std::string look =
        joined("background:color-mix(in srgb, var(--accent) ",
               std::to_string(static_cast<int>(std::lround(40 * part))), "%, transparent)");
    out += element(
        "span", joined(attribute("style", look), " ", attribute("title", with_digits(double(reward[t]), 3))),
        escaped(pieces[t]));
  }
  return out;
}

double mean(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(std::max<std::size_t>(1, values.size()));
}

}  // namespace

void show_rewards(report& page, guidance_machine& m, const part& reward, const guidance_rule& rule,
                  const planner_base& base, std::span<const preference_list* const> lists,
                  const std::string& lead) {
  using namespace planlm::detail;
  const std::vector<rewarded> all = reward_of(m, reward, rule, lists);
  std::vector<float> every;
  for (const rewarded& g : all) every.insert(every.end(), g.reward.begin(), g.reward.end());
  if (every.empty()) return;
  std::sort(every.begin(), every.end());
  // Without the outermost, which would leave all others alike.
  const float least = every[every.size() / 20], most = every[every.size() - 1 - every.size() / 20];

  page.section(
      "Texts by reward",
      lead + " Test lists, best first as people said. The darker a token, the larger its reward: from " +
          with_digits(double(least), 3) + " or less to " + with_digits(double(most), 3) + " or more.");
  std::string articles;
  for (std::size_t i = 0, shown = 0; i < all.size() && shown < lists_shown; ++shown) {
    const preference_list& list = *all[i].list;
    std::vector<std::size_t> order(list.generations.size());
    std::iota(order.begin(), order.end(), i);
    i += order.size();
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return list.scores[all[a].k] > list.scores[all[b].k];
    });
    if (order.size() > texts_of_a_list) order.resize(texts_of_a_list);
    std::string items;
    for (const std::size_t at : order) {
      const std::string said = "score " + readable(list.scores[all[at].k]) + ", mean reward " +
                               with_digits(mean(all[at].reward), 3);
      items +=
          element("li", "class=\"free\"",
                  element("p", "",
                          shaded(pieces_of(base, list.generations[all[at].k]), all[at].reward, least, most)) +
                      element("div", "class=\"plan\"", element("span", "class=\"typical\"", escaped(said)))) +
          "\n";
    }
    const std::string prompt = base.decode(std::span(list.prompt).subspan(1));
    articles += element("article", "class=\"sample\" style=\"grid-column:1/-1\"",
                        element("header", "", element("h3", "", "line " + std::to_string(list.line))) +
                            (prompt.empty() ? "" : element("p", "class=\"context\"", escaped(prompt))) +
                            element("ol", "", items));
  }
  page.chart(std::move(articles));

  std::map<int, std::pair<double, int>> sums;
  for (const rewarded& g : all)
    for (std::size_t t = 0; t < g.reward.size(); ++t) {
      auto& [sum, count] = sums[g.list->generations[g.k][t]];
      sum += double(g.reward[t]), ++count;
    }
  struct token_mean {
    int id, count;
    double mean;
  };
  std::vector<token_mean> tokens;
  for (const auto& [id, seen] : sums)
    if (seen.second >= least_count) tokens.push_back({id, seen.second, seen.first / seen.second});
  if (tokens.size() < 4) return;
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const token_mean& a, const token_mean& b) { return a.mean > b.mean; });
  page.section("Tokens by reward", "Means over the test lists, of tokens that stand there at least " +
                                       std::to_string(least_count) +
                                       " times. A reward depends on all that stands before the token: a mean "
                                       "is a hint, not what the model says.");
  std::vector<std::vector<std::string>> rows;
  const std::size_t shown = std::min(tokens_shown, tokens.size() / 2);
  const auto cells = [&](const token_mean& t) {
    return std::vector<std::string>{base.vocabulary().piece(t.id), with_digits(t.mean, 3),
                                    std::to_string(t.count)};
  };
  for (std::size_t i = 0; i < shown; ++i) {
    std::vector<std::string> row = cells(tokens[i]), low = cells(tokens[tokens.size() - 1 - i]);
    row.insert(row.end(), low.begin(), low.end());
    rows.push_back(std::move(row));
  }
  page.table({{"largest", text_table::left},
              {"mean reward", text_table::right},
              {"times", text_table::right},
              {"smallest", text_table::left},
              {"mean reward", text_table::right},
              {"times", text_table::right}},
             rows, "Tokens with the largest and the smallest mean rewards");
}

}  // namespace train_token_guidance
