/// Steps of guidance and steps of the policy, one after another.
#include "guided_tuning.hpp"
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <planlm/core/error.hpp>

namespace train_token_guidance {
namespace {

// What draws of a stage are for; each has its own numbers. Streams below 2^16 are the machine's.
enum purpose : std::uint32_t { of_start = 20, of_lists, of_validation, of_update };
philox draws(int seed, purpose what) { return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16}; }

void forget_moments(part& p) {
  const std::vector<float> zeros(static_cast<std::size_t>(p.size()), 0.0f);
  for (std::size_t n = 0; n < p.moments().size(); ++n) p.write_moment(n, zeros);
  p.count() = 0;
}

/// Where training stands, between two steps of a stage.
class alternation {
 public:
  alternation(guidance_machine& m, trainer::run& run, part* reward, const guided_task& task)
      : machine_(m), run_(run), reward_(reward), task_(task), round_(task.round) {
    if (reward_ && task.round.leaves == guidance_weights::best) best_ = m.make_like(*reward_);
  }

  index_t most_steps() const { return task_.updates + (guided() ? task_.schedule.rounds(task_.updates) * task_.round.steps : 0); }
  std::vector<trainer::named_part> parts(part& policy) const {
    std::vector<trainer::named_part> all{{"policy", &policy}};
    if (reward_) all.push_back({"reward", reward_});
    if (best_) all.push_back({"best", best_.get()});
    return all;
  }
  /// Everything else, for checkpoints.
  trainer::named_memory memory() {
    const auto write = [this] {
      std::vector<double> all{double(updates_), double(rounds_), double(training_), double(judged_), double(trained_at_)};
      const std::vector<double> round = round_.state();
      all.insert(all.end(), round.begin(), round.end());
      return all;
    };
    const auto read = [this](std::span<const double> kept) {
      const auto either = [](double v) { return v == 0 || v == 1; };
      const bool right = kept.size() > 5 && kept[0] >= 0 && kept[0] <= double(task_.updates) && kept[1] >= 0 && either(kept[2]) && either(kept[3]);
      if (!right) throw input_error("where guidance and policy stood is damaged");
      round_.restore(kept.subspan(5));
      updates_ = static_cast<index_t>(kept[0]), rounds_ = static_cast<index_t>(kept[1]);
      training_ = kept[2] != 0, judged_ = kept[3] != 0, trained_at_ = static_cast<index_t>(kept[4]);
    };
    return {"alternation", write, read};
  }

  step_result step(index_t s) {
    const auto at = static_cast<std::uint32_t>(s);
    if (guided() && !training_ && trained_at_ != updates_ && task_.schedule.due(updates_)) {
      round_ = guidance_round(task_.round);
      training_ = true;
      forget_moments(*reward_);
      judged_ = false;
    }
    return training_ ? guidance_step(at) : policy_step(at);
  }
  bool finished() const { return updates_ == task_.updates; }
  std::string where() const {
    return training_ ? "in the rewards of round " + std::to_string(rounds_ + 1) : "in the policy's log-probabilities after " + std::to_string(updates_) + " updates";
  }
  void observe() {
    if (task_.observe) run_.observe(task_.seed, task_.name, updates_, "score", task_.observe());
  }

 private:
  bool guided() const { return reward_ && task_.lists; }

  step_result guidance_step(std::uint32_t at) {
    const index_t steps = round_.steps();
    const ranked_generations lists = task_.lists({rounds_, steps, updates_, draws(task_.seed, of_lists).at_step(at)});
    const step_result r = machine_.guidance_step(*reward_, lists, task_.rule, {round_.rate(), 0, task_.round.clip.most});
    // A step that left no numbers is the stage's to report, not a validation's.
    if (!std::isfinite(r.loss) || !std::isfinite(r.gradient)) return r;
    if (round_.stepped()) validate(at);
    if (round_.finished()) {
      if (best_ && judged_) reward_->copy(*best_);
      training_ = false, trained_at_ = updates_, ++rounds_;
    }
    return r;
  }
  void validate(std::uint32_t at) {
    const auto& make = task_.validation ? task_.validation : task_.lists;
    const ranked_generations lists = make({rounds_, -1, updates_, draws(task_.seed, of_validation).at_step(at)});
    const ranking_result seen = machine_.rank(*reward_, lists, task_.rule);
    run_.observe(task_.seed, task_.name, updates_, "guidance",
                 {{"round", double(rounds_)}, {"step", double(round_.steps())}, {"loss", seen.loss}, {"accuracy", seen.accuracy()}, {"rate", round_.rate()}});
    // Lists of a policy that writes one text alone are silent: a loss of 0 that is no merit. Where all validations are, the last weights stay.
    if (seen.silent + 1 == static_cast<index_t>(lists.lists().size())) return;
    judged_ = true;
    if (round_.validated(seen.loss) && best_) best_->copy(*reward_);
  }
  step_result policy_step(std::uint32_t at) {
    if (updates_ == 0) observe();
    const guided_result r = task_.update(updates_, draws(task_.seed, of_update).at_step(at));
    ++updates_;
    if (updates_ % std::max<index_t>(1, task_.updates / 50) == 0)
      run_.observe(task_.seed, task_.name, updates_, "policy", {{"loss", r.step.loss}, {"nll", r.nll}, {"entropy", r.entropy}});
    if (updates_ % task_.observe_every == 0 || finished()) observe();
    return r.step;
  }

  guidance_machine& machine_;
  trainer::run& run_;
  part* reward_;
  const guided_task& task_;
  guidance_round round_;
  std::unique_ptr<part> best_;
  index_t updates_ = 0, rounds_ = 0, trained_at_ = -1;
  bool training_ = false, judged_ = false;  // in a round; it had a validation that said something
};

}  // namespace

void tune_guided(guidance_machine& m, trainer::run& run, part& policy, part* reward, const guided_task& task) {
  const std::string stem = "seed-" + std::to_string(task.seed) + "." + task.name;
  const auto file = run.file(stem + ".safetensors"), guide = run.file(stem + ".reward.safetensors");
  const std::map<std::string, std::string> about{{"identity", run.identity()}, {"seed", std::to_string(task.seed)}, {"stage", task.name}};
  const bool keep_reward = reward && task.lists;
  if (std::filesystem::exists(file)) {
    if (keep_reward) trainer::run::load_parameters(*reward, guide, about);
    trainer::run::load_parameters(policy, file, about);
    return;
  }
  m.random = draws(task.seed, of_start);
  alternation turns(m, run, keep_reward ? reward : nullptr, task);
  trainer::stage_state state{task.name, task.seed, turns.most_steps(), "learning rate", turns.parts(policy), {}};
  state.memories.push_back(turns.memory());
  run.stage(
      state, [&](index_t s) { return turns.step(s); }, [&](index_t) { return !turns.finished(); }, [&](index_t) { return turns.where(); });
  if (keep_reward) trainer::run::save_parameters(*reward, guide, about);
  trainer::run::save_parameters(policy, file, about);
}

}  // namespace train_token_guidance
