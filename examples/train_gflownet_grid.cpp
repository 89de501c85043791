/// Samplers of a hyper-grid, one for every loss, held against the exact distribution over training.
///
///     train_gflownet_grid --out run/grid --side 8 --seeds 3
///
/// A point starts in a corner, goes up along one axis at a time and may stop anywhere; a sampler is to stop at x in proportion to R(x). The
/// grid is small enough to sum over, so L1, total variation and KL are exact. Prints the table, writes results.json and report.html.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>
#include <planlm/io/interrupt.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/table.hpp>
#include "train_gflownet_grid/learner.hpp"
#include "train_gflownet_grid/options.hpp"
#include "train_gflownet_grid/page.hpp"
#include "trainer/program.hpp"
#include "trainer/run_book.hpp"
#include "trainer/stage.hpp"

namespace {

using namespace train_gflownet_grid;

/// One sampler from its start, or from where it was stopped, to its scores.
trainer::outcome train_one(const target& to, const options& o, const std::string& loss, int seed, trainer::run& r, philox& random,
                           const run_folder& folder) {
  random = philox{static_cast<std::uint64_t>(seed)};
  const std::unique_ptr<learner> sampler = make_learner(to, o, loss, seed, random);
  double near = NAN;  // trajectories until the sampler first came near
  trainer::stage_state state{loss, seed, o.steps(), "--rate", sampler->parts(), {{"near", &near}}, sampler->memories()};
  const index_t every = std::max(1, o.steps() / o.evaluations);
  const auto observe = [&](index_t s) {
    if ((s + 1) % every != 0 && s + 1 != o.steps()) return true;
    const comparison c = sampler->compare();
    if (std::isnan(near) && c.tv < near_enough) near = double(s + 1) * o.batch;
    r.observe(seed, loss, s + 1, "exact", {{"l1", c.l1}, {"tv", c.tv}, {"kl", c.kl}, {"log_z_error", c.log_z_error}});
    return true;
  };
  const auto where = [&](index_t) { return "it is the batch of " + std::to_string(o.batch) + " trajectories that gave it"; };
  const auto spent = r.stage(state, [&](index_t s) { return sampler->step(s); }, observe, where);
  const comparison c = sampler->compare();
  keep_learned(folder, loss, seed, c.learned);
  return {loss, seed, {{"l1", c.l1}, {"tv", c.tv}, {"kl", c.kl}, {"log_z_error", c.log_z_error}, {"near", near}, {"seconds", spent.seconds}}, {}};
}

void train(const options& o, std::vector<std::pair<std::string, std::string>> settings, std::vector<std::string> command) {
  const run_folder folder(o.common.out);
  const interrupt_guard interrupt;
  const target to(o);
  std::cerr << to.graph.states() << " points, log Z = " << with_digits(to.log_z, 6) << "; " << o.steps() << " steps of " << o.batch << " trajectories\n";
  trainer::run_book book(folder, "train_gflownet_grid", std::move(settings), std::move(command));
  philox random;
  trainer::run r(random, folder, interrupt);
  r.identify(book.identity());
  for (int seed = o.common.first_seed; seed < o.common.first_seed + o.common.seeds; ++seed)
    for (const std::string& loss : o.losses) {
      r.stop_if_asked();
      if (book.find(loss, seed)) continue;
      book.add(train_one(to, o, loss, seed, r, random, folder));
      write_page(folder, book, o, to);
    }
  write_page(folder, book, o, to);
  std::error_code ignored;
  std::filesystem::remove(r.checkpoint(), ignored);
  std::cout << '\n' << trainer::printed(book.table(methods(), columns(), o.common))
            << "Exact sums over all points; L1 is twice the total variation. log Z of losses that learn none is their bound.\n"
            << "report:  " << folder.file("report.html").string() << "\nresults: " << folder.file("results.json").string() << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  return trainer::run_program(
      "train_gflownet_grid",
      [&] {
        int status = 0;
        std::vector<std::pair<std::string, std::string>> settings;
        if (!parse(argc, argv, o, settings, status)) return status;
        train(o, std::move(settings), std::vector<std::string>(argv, argv + argc));
        return 0;
      },
      [&] { return o.common.out; }, "try a smaller --side, --dimensions, --hidden or --batch");
}
