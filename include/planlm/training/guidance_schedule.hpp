/// When guidance is trained between the updates of the policy that it guides.   [2306.00398, its code]
///
/// Guidance (a reward model) is fitted to samples of the policy, and samples of a better policy leave the region where it was fitted. So it
/// is trained before the first update, and again, on new samples, after every `period` updates until `until` of them are done:
///
///     const auto schedule = guidance_schedule::for_share(12000, 1000);        // before update 1, after 1000, 2000, ... 6000
///     alternate(schedule, 12000, [&](index_t round) { ... }, [&](index_t update) { ... });
///
/// A round goes on from the weights of the one before with a new optimiser (guidance_round.hpp); the policy keeps its optimiser.
///
/// Errors: planlm::error, with the numbers, for a setting out of range or a negative number of updates.
#pragma once
#include <cmath>
#include <concepts>
#include <string>
#include <vector>
#include <planlm/core/config.hpp>
#include <planlm/core/error.hpp>

namespace planlm {

class guidance_schedule {
 public:
  /// After `period`, 2 period, ... updates of the policy, `until` included.
  guidance_schedule(index_t period, index_t until) : period_(period), until_(until) {
    expect(period >= 1, "period", period, 1);
    expect(until >= 0, "until", until, 0);
  }
  /// Before the first update and never again.
  static guidance_schedule once() { return {1, 0}; }
  /// Every `period` updates in the first `share` of `updates`.
  static guidance_schedule for_share(index_t updates, index_t period, double share = 0.5) {
    expect(updates >= 0, "updates", updates, 0);
    if (!(share >= 0 && share <= 1))
      throw error("guidance_schedule: share = " + std::to_string(share) + ", expected 0 to 1");
    return {period, static_cast<index_t>(std::floor(share * static_cast<double>(updates)))};
  }
  /// Every `share` of an epoch, rounded down to whole updates and counted through, in the first `epochs` epochs.
  static guidance_schedule for_epochs(index_t updates_per_epoch, double share = 0.5, index_t epochs = 2) {
    expect(updates_per_epoch >= 1, "updates_per_epoch", updates_per_epoch, 1);
    expect(epochs >= 0, "epochs", epochs, 0);
    const double period = std::floor(share * static_cast<double>(updates_per_epoch));
    if (!(period >= 1 && period < 9e15))
      throw error("guidance_schedule: " + std::to_string(share) + " of an epoch of " + std::to_string(updates_per_epoch) +
                  " updates is not one update; take a larger share");
    return {static_cast<index_t>(period), epochs * updates_per_epoch};
  }

  /// Whether guidance is to be trained when the policy has had `done` updates, before the next of them.
  bool due(index_t done) const {
    expect(done >= 0, "done", done, 0);
    return done == 0 || (done <= until_ && done % period_ == 0);
  }
  /// Rounds that are due with fewer than `updates` updates done: the first, and those a run of `updates` gets to use.
  index_t rounds(index_t updates) const {
    expect(updates >= 0, "updates", updates, 0);
    const index_t last = until_ < updates - 1 ? until_ : updates - 1;
    return updates == 0 ? 0 : 1 + last / period_;
  }
  /// The numbers of updates after which it is trained again in a run of `updates`.
  std::vector<index_t> again(index_t updates) const {
    std::vector<index_t> after;
    for (index_t round = 1; round < rounds(updates); ++round) after.push_back(round * period_);
    return after;
  }
  index_t period() const { return period_; }
  index_t until() const { return until_; }

 private:
  static void expect(bool right, const char* name, index_t value, index_t least) {
    if (!right)
      throw error(std::string("guidance_schedule: ") + name + " = " + std::to_string(value) + ", expected at least " +
                  std::to_string(least));
  }
  index_t period_, until_;
};

/// For u = first .. updates - 1: `train(round)` where guidance is due with u updates done, then `update(u)`. Rounds count from 0 at u = 0.
/// A run that goes on from a checkpoint gives the updates it has done; a checkpoint lies before the round that is then due.
template <std::invocable<index_t> Train, std::invocable<index_t> Update>
void alternate(const guidance_schedule& schedule, index_t updates, Train&& train, Update&& update, index_t first = 0) {
  for (index_t u = first; u < updates; ++u) {
    if (schedule.due(u)) train(u / schedule.period());
    update(u);
  }
}

}  // namespace planlm
