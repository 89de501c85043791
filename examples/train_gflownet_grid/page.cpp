/// Pictures: total variation over steps, and the target beside what each sampler learned.
#include "page.hpp"
#include <algorithm>
#include <cmath>
#include <fstream>
#include <utility>
#include <nlohmann/json.hpp>
#include <planlm/io/chart.hpp>
#include <planlm/io/report.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>

namespace train_gflownet_grid {
namespace {

std::string learned_file(const std::string& loss, int seed) { return "seed-" + std::to_string(seed) + ".learned-" + loss + ".json"; }

/// Empty if there is none, or it is damaged.
std::vector<double> read_learned(const run_folder& folder, const std::string& loss, int seed, std::size_t states) {
  std::ifstream in(folder.file(learned_file(loss, seed)));
  const auto j = nlohmann::json::parse(in, nullptr, false);
  std::vector<double> p;
  if (!j.is_array()) return p;
  for (const auto& v : j)
    if (v.is_number()) p.push_back(v.get<double>());
  if (p.size() != states) p.clear();
  return p;
}

/// Probabilities of a plane of points as squares, darker for more; `most` is the darkest.
std::string plane(const std::string& title, const std::string& caption, const hyper_grid& grid, const std::vector<double>& p, double most) {
  using namespace planlm::detail;
  const int side = grid.side();
  const double cell = std::min(36.0, 320.0 / side), left = (chart_width - cell * side) / 2, top = 8;
  std::string drawing;
  for (int x = 0; x < side; ++x)
    for (int y = 0; y < side; ++y) {
      const double value = p[static_cast<std::size_t>(x * side + y)];
      const std::string tip = "(" + std::to_string(x) + ", " + std::to_string(y) + "): " + readable(100 * value) + " %";
      const std::string opacity = with_digits(std::clamp(value / most, 0.0, 1.0) * 0.94 + 0.06, 3);
      const std::string square = svg_rectangle(left + x * cell, top + (side - 1 - y) * cell, cell - 1, cell - 1, "bar", tip);
      drawing += element("g", attribute("fill-opacity", opacity), square) + "\n";
    }
  return figure({.title = title, .caption = caption}, top + cell * side + 8,
                "A square for each point, the first coordinate to the right, the second up; darker is more probable.", drawing);
}

}  // namespace

std::vector<trainer::method_about> methods() {
  std::vector<trainer::method_about> all;
  for (const loss_kind& k : all_losses()) all.push_back({k.name, k.about});
  return all;
}
std::vector<trainer::score_column> columns() {
  return {{"l1", "L1", 5}, {"tv", "total variation", 5}, {"kl", "KL", 5}, {"log_z_error", "log Z - exact", 5}, {"near", "trajectories to .05", 0}, {"seconds", "seconds", 1}};
}

void keep_learned(const run_folder& folder, const std::string& loss, int seed, const std::vector<double>& learned) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const double p : learned) list.push_back(p);
  folder.write_json(learned_file(loss, seed), list);
}

void write_page(const run_folder& folder, const trainer::run_book& book, const options& o, const target& to) {
  const std::string size = std::to_string(o.dimensions) + " axes of " + std::to_string(o.side) + " points";
  std::string best;
  double least = INFINITY;
  for (const loss_kind& k : all_losses())
    if (const auto v = book.values(k.name, "tv", o.common); !v.empty()) {
      double mean = 0;
      for (const double x : v) mean += x / double(v.size());
      if (mean < least) least = mean, best = k.name;
    }
  trainer::page_words words;
  words.title = "Samplers of a hyper-grid";
  words.lead = "A point goes up from a corner, one step along one axis at a time, and may stop anywhere; it is to stop at each point in proportion to the "
               "reward there. " + size + ", " + o.reward + " reward, log Z = " + with_digits(to.log_z, 4) + "; " + std::to_string(o.steps()) +
               " steps of " + std::to_string(o.batch) + " trajectories. " +
               (best.empty() ? "" : "Nearest to the target: " + best + ", total variation " + with_digits(least, 4) + ". ") +
               "All distances are exact: sums over all points, no samples.";
  words.methods = methods();
  words.columns = columns();
  words.table_caption = "L1 is twice the total variation; KL is from the sampler to the target, in nats. Trajectories to .05: when an evaluation first "
                        "found the total variation below that, over the seeds where one did. Losses that learn no Z and no flow give log Z as "
                        "their bound, the mean of log R + log P_B - log P_F.";
  words.curves = {{"exact/tv", {.title = "Total variation over training", .caption = "Half the sum of differences of probabilities, over all points.",
                                .x_title = "steps", .y_title = "total variation", .log_y = true}},
                  {"exact/log_z_error", {.title = "Error of log Z", .caption = "What the loss has learned of log Z, minus its exact value.", .x_title = "steps",
                                         .y_title = "nats"}}};
  words.more = [&](report& page) {
    std::vector<interval_bar> bars;
    for (const loss_kind& k : all_losses()) {
      const auto v = book.values(k.name, "tv", o.common);
      if (v.empty()) continue;
      const auto [low, high] = std::minmax_element(v.begin(), v.end());
      double mean = 0;
      for (const double x : v) mean += x / double(v.size());
      bars.push_back({k.name, mean, *low, *high, k.name == best});
    }
    page.chart(interval_chart({.title = "Distance from the target", .caption = "Mean total variation; whiskers from the best to the worst seed.",
                               .x_title = "total variation", .log_x = true}, bars));
    if (o.dimensions != 2 || o.side > 32) return;
    const double most = *std::max_element(to.posterior.begin(), to.posterior.end());
    page.section("What was learned", "Probabilities of stopping at each point, the same shade for the same probability in all pictures; the first seed.");
    page.chart(plane("target", "The reward divided by its sum.", to.grid, to.posterior, most));
    for (const loss_kind& k : all_losses()) {
      const std::vector<double> p = read_learned(folder, k.name, o.common.first_seed, to.posterior.size());
      if (!p.empty() && book.find(k.name, o.common.first_seed)) page.chart(plane(k.name, "", to.grid, p, most));
    }
  };
  trainer::write_page(folder, book, words, o.common);
}

}  // namespace train_gflownet_grid
