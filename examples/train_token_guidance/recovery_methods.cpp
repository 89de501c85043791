/// Names, numbers and what each row runs.
#include "recovery_methods.hpp"
#include <algorithm>
#include <cmath>
#include <utility>
#include <planlm/core/error.hpp>

namespace train_token_guidance::recovery {
namespace {

using namespace planlm::aggregation;

toy_method pairs(std::string name, std::string about, pair_method what, double accuracy = NAN, double even = NAN, double length = NAN) {
  toy_method m{std::move(name), std::move(about), what, {}};
  if (!std::isnan(accuracy)) m.pilot = {{"score", accuracy}, {"score_even", even}};
  if (!std::isnan(length)) m.pilot["length_correlation"] = length;
  return m;
}
toy_method loop(std::string name, std::string about, loop_method what, double score, double entropy, double best, double calls) {
  return {std::move(name), std::move(about), what, {{"score", score}, {"entropy", entropy}, {"best", best}, {"calls", calls}}};
}

pair_outcome at_length(const recovery_options& o, const pair_method& m, int seed, bool even) {
  pair_sizes sizes;
  sizes.steps = o.pair_steps, sizes.pairs = o.pair_tests;
  return recover_tokens(even ? sizes.of_length(5) : sizes, m, seed);
}

}  // namespace

const std::vector<toy_method>& all_methods() {
  constexpr auto delayed = loop_reward::score, standardised = loop_reward::standardised_score;
  static const std::vector<toy_method> all{
      pairs("avg-k5", "Pairs: the mean reward times the list's mean length; lists of 5.", {}, .883, .890),
      pairs("avg-k3", "Pairs: the same, lists of 3.", {.places = 3}, .882, .890),
      pairs("avg-k2", "Pairs: the same, pairs.", {.places = 2}, .879, .893),
      pairs("avg-no-length", "Pairs: the mean reward alone; lists of 5, as from here on.", {average{false}}, .828, .860),
      pairs("sum", "Pairs: the sum of rewards.", {sum{}}, .696, .890, .71),
      pairs("min-2", "Pairs: soft minimum, beta 2.", {soft_min{2}}, .555, .885, -.90),
      pairs("min-0.1", "Pairs: soft minimum, beta .1.", {soft_min{.1}}, .693, .764),
      pairs("max-2", "Pairs: soft maximum, beta 2.", {soft_max{2}}, .568, .892, .88),
      pairs("max-0.1", "Pairs: soft maximum, beta .1.", {soft_max{.1}}, .703, .768),
      pairs("min-2-log", "Pairs: soft minimum, beta 2, without the log of the length.", {soft_min{2, true, true}}),
      pairs("min-0.1-log", "Pairs: soft minimum, beta .1, without the log of the length.", {soft_min{.1, true, true}}),
      pairs("max-2-log", "Pairs: soft maximum, beta 2, without the log of the length.", {soft_max{2, true, true}}),
      pairs("max-0.1-log", "Pairs: soft maximum, beta .1, without the log of the length.", {soft_max{.1, true, true}}),
      pairs("last", "Pairs: the reward of the last token alone.", {sum{}, 5, true}, .607, .641),
      loop("retrain", "Loop: guidance trained before the first update and after every sixth of the updates in their first half; alpha .125.", {}, 1.674,
           1.62, 1.882, 9600),
      loop("once", "Loop: guidance trained before the first update only.", {.again = false}, 1.445, 2.36, 1.775, 2400),
      loop("up-front", "Loop: the same with all the guidance steps and true scores that retraining has.", {.again = false, .first_round = 4}, 1.487,
           1.93, 1.826, 9600),
      loop("to-go", "Loop: retrained; a token is rewarded for itself and all that follows.", {.credit = token_credit::to_go}, 1.673, .73, 1.826, 9600),
      loop("soft-max", "Loop: retrained; soft maximum, beta 2.", {.aggregate = soft_max{2}}, 1.683, 1.60, 1.882, 9600),
      loop("soft-min", "Loop: retrained; soft minimum, beta 2.", {.aggregate = soft_min{2}}, 1.664, 1.67, 1.888, 9600),
      loop("retrain-a.03", "Loop: retrained; alpha .03.", {.alpha = .03}, 1.758, .23, 1.791, 9600),
      loop("delayed", "Loop: no guidance; every token is rewarded with the true score of its sequence.", {.reward = delayed}, 1.383, 2.75, 1.869,
           38400),
      loop("delayed-a.03", "Loop: the same, alpha .03.", {.reward = delayed, .alpha = .03}, 1.654, 1.24, 1.832, 38400),
      loop("delayed-z", "Loop: the true scores of a batch with mean 0 and deviation 1.", {.reward = standardised}, 1.905, 0, 1.907, 38400),
      loop("delayed-z-a.5", "Loop: the same, alpha .5.", {.reward = standardised, .alpha = .5}, 1.424, 3.08, 1.843, 38400),
      loop("delayed-z-a1", "Loop: the same, alpha 1.", {.reward = standardised, .alpha = 1}, 1.228, 3.30, 1.809, 38400),
      {"mle", "References: likelihood.", reference_method{false}, {{"score", .739}, {"f1", .392}}},
      {"weighted-mle", "References: likelihood weighted by guidance.", reference_method{true},
       {{"score", .817}, {"f1", .416}, {"reward_good", 1.124}, {"reward_other", .665}, {"expected", .827}}}};
  return all;
}
const toy_method& method_named(const std::string& name) {
  for (const toy_method& m : all_methods())
    if (m.name == name) return m;
  throw error("recovery: there is no method '" + name + "'");
}
std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const toy_method& m : all_methods()) names.push_back(m.name);
  return names;
}

trainer::outcome run_method(const toy_method& m, const recovery_options& o, int seed) {
  trainer::outcome out{m.name, seed, {}, {}};
  if (const auto* p = std::get_if<pair_method>(&m.what)) {
    const pair_outcome any = at_length(o, *p, seed, false), even = at_length(o, *p, seed, true);
    out.values = {{"score", any.accuracy}, {"score_even", even.accuracy}, {"spearman", any.spearman}, {"spearman_even", even.spearman},
                  {"length_correlation", any.with_length}, {"first_loss", any.first_loss}, {"first_loss_even", even.first_loss}};
  } else if (const auto* l = std::get_if<loop_method>(&m.what)) {
    loop_sizes sizes;
    sizes.updates = o.loop_updates, sizes.guidance_steps = o.loop_guidance, sizes.period = std::max(1, o.loop_updates / 6);
    loop_method how = *l;  // the budget of retraining is that of its schedule, whatever the number of updates
    if (how.first_round > 1) how.first_round = static_cast<int>(guidance_schedule::for_share(sizes.updates, sizes.period).rounds(sizes.updates));
    const loop_outcome r = preference_loop(sizes, seed).run(how);
    out.values = {{"score", r.score}, {"entropy", r.entropy}, {"best", r.best}, {"calls", r.calls}};
  } else {
    reference_sizes sizes;
    sizes.updates = o.reference_updates, sizes.guidance_steps = o.reference_guidance, sizes.period = std::max(1, o.reference_updates / 6);
    const reference_outcome r = reference_task(sizes, seed).run(std::get<reference_method>(m.what).guided);
    out.values = {{"score", r.good}, {"f1", r.f1}, {"reward_good", r.reward_good}, {"reward_other", r.reward_other}, {"expected", r.expected}};
  }
  if (const auto pilot = m.pilot.find("score"); pilot != m.pilot.end() && pilot_sizes(o))
    out.values["minus_pilot"] = out.values.at("score") - pilot->second;
  return out;
}
bool pilot_sizes(const recovery_options& o) {
  const recovery_options d;
  return o.pair_steps == d.pair_steps && o.pair_tests == d.pair_tests && o.loop_updates == d.loop_updates && o.loop_guidance == d.loop_guidance &&
         o.reference_updates == d.reference_updates && o.reference_guidance == d.reference_guidance;
}

}  // namespace train_token_guidance::recovery
