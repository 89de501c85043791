/// Counts, posteriors and gaps.
#include "letter_model.hpp"
#include <algorithm>
#include <cmath>
#include <planlm/core/error.hpp>

namespace train_infill_sampler {

std::vector<letter> letters_of(std::string_view text) {
  std::vector<letter> all;
  all.reserve(text.size());
  for (const char c : text) {
    const char low = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    const auto l = static_cast<letter>(low >= 'a' && low <= 'z' ? low - 'a' + 1 : 0);
    if (l != 0 || (!all.empty() && all.back() != 0)) all.push_back(l);
  }
  return all;
}
std::string text_of(std::span<const letter> letters) {
  std::string text;
  for (const letter l : letters) text += l == 0 ? ' ' : static_cast<char>('a' + l - 1);
  return text;
}

std::array<letter, 3> candidates::spelled(int candidate) {
  std::array<letter, 3> letters{};
  const int n = length(candidate);
  int rest = candidate - first[static_cast<std::size_t>(n)];
  for (int i = n; i-- > 0; rest /= letter_count)
    letters[static_cast<std::size_t>(i)] = static_cast<letter>(rest % letter_count);
  return letters;
}

letter_model::letter_model(std::span<const letter> text) {
  constexpr double strength = 5;
  constexpr std::size_t V = letter_count;
  // counts[n]: of strings of n + 1 letters; a string is a number in base 27.
  std::vector<std::vector<double>> counts(4);
  std::size_t size = 1;
  for (std::size_t n = 0; n < 4; ++n) {
    size *= V;
    counts[n].assign(size, 0.0);
    for (std::size_t end = n; end < text.size(); ++end) {
      std::size_t string = 0;
      for (std::size_t i = end - n; i <= end; ++i) string = string * V + text[i];
      counts[n][string] += 1;
    }
  }
  std::vector<double> before(V, 1.0 / V);  // p_0: one history
  std::size_t histories_before = 1;
  for (std::size_t n = 0; n < 4; ++n) {
    const std::size_t histories = counts[n].size() / V;
    std::vector<double> p(counts[n].size());
    for (std::size_t h = 0; h < histories; ++h) {
      double all = 0;
      for (std::size_t c = 0; c < V; ++c) all += counts[n][h * V + c];
      for (std::size_t c = 0; c < V; ++c)
        p[h * V + c] =
            (counts[n][h * V + c] + strength * before[h % histories_before * V + c]) / (all + strength);
    }
    before = std::move(p);
    histories_before = histories;
  }
  log_p_ = std::move(before);
  for (double& p : log_p_) p = std::log(p);
}
int letter_model::draw(int a, int b, int c, double uniform) const {
  double rest = uniform;
  for (int next = 0; next + 1 < letter_count; ++next) {
    rest -= std::exp(log_p(a, b, c, next));
    if (rest < 0) return next;
  }
  return letter_count - 1;
}
double letter_model::bits_per_letter(std::span<const letter> text) const {
  double nats = 0;
  for (std::size_t i = 3; i < text.size(); ++i) nats -= log_p(text[i - 3], text[i - 2], text[i - 1], text[i]);
  return text.size() > 3 ? nats / std::log(2.0) / double(text.size() - 3) : 0;
}

gap make_gap(const letter_model& lm, std::array<letter, 3> before, std::array<letter, 3> after) {
  gap g{before, after, std::vector<double>(candidates::count), std::vector<double>(candidates::count)};
  // log p(z | before) of a prefix and the three letters that end it, length by length.
  struct prefix {
    double log_p;
    std::array<letter, 3> last;
  };
  std::vector<prefix> now{{0, before}};
  for (int n = 0; n <= candidates::longest; ++n) {
    std::vector<prefix> next;
    for (std::size_t i = 0; i < now.size(); ++i) {
      double r = now[i].log_p;
      auto [a, b, c] = now[i].last;
      for (const letter l : after) r += lm.log_p(a, b, c, l), a = b, b = c, c = l;
      g.log_reward[static_cast<std::size_t>(candidates::first[static_cast<std::size_t>(n)]) + i] = r;
      const auto [x, y, z] = now[i].last;
      for (int l = 0; n < candidates::longest && l < letter_count; ++l)
        next.push_back({now[i].log_p + lm.log_p(x, y, z, l), {y, z, static_cast<letter>(l)}});
    }
    now = std::move(next);
  }
  const double top = *std::max_element(g.log_reward.begin(), g.log_reward.end());
  double sum = 0;
  for (const double r : g.log_reward) sum += std::exp(r - top);
  g.log_z = top + std::log(sum);
  for (std::size_t i = 0; i < g.posterior.size(); ++i) {
    const double log_p = g.log_reward[i] - g.log_z;
    g.posterior[i] = std::exp(log_p);
    g.entropy -= g.posterior[i] * log_p;
  }
  return g;
}

std::vector<gap> find_gaps(const letter_model& lm, std::span<const letter> text, int count, double least,
                           double most, planlm::philox random) {
  const int tries = 1000 + 100 * count;
  const auto places = static_cast<std::uint32_t>(text.size() - 9 + 1);
  std::vector<gap> found;
  for (int t = 0; t < tries && static_cast<int>(found.size()) < count; ++t) {
    const auto row = static_cast<std::uint64_t>(t);
    const std::size_t at = random.below(places, row, 0),
                      width = random.below(candidates::longest + 1, row, 1);
    const auto three = [&](std::size_t from) {
      return std::array<letter, 3>{text[from], text[from + 1], text[from + 2]};
    };
    gap g = make_gap(lm, three(at), three(at + 3 + width));
    const bool new_one = std::none_of(
        found.begin(), found.end(), [&](const gap& f) { return f.before == g.before && f.after == g.after; });
    if (new_one && g.entropy >= least && g.entropy <= most) found.push_back(std::move(g));
  }
  if (static_cast<int>(found.size()) < count)
    throw planlm::input_error("the text has " + std::to_string(found.size()) + " gaps in " +
                              std::to_string(tries) + " tries whose posterior has an entropy of " +
                              std::to_string(least) + " to " + std::to_string(most) + " nats, expected " +
                              std::to_string(count) +
                              "; give a longer text, fewer --contexts or other bounds");
  return found;
}

}  // namespace train_infill_sampler
