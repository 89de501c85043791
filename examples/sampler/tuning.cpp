/// Steps of a sampler: prompts, behaviour, rewards, buffers, objective.
#include "tuning.hpp"
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <planlm/core/error.hpp>
#include <planlm/training/replay_prompt_heap.hpp>
#include <planlm/training/reward_temperature.hpp>
#include <planlm/training/schedule.hpp>

namespace sampler {
namespace {

// What draws of a stage are for; each has its own numbers. Streams below 2^16 are the machine's.
enum purpose : std::uint32_t { of_start = 3, of_prompts, of_behaviour, of_texts, of_replay };
philox draws(int seed, purpose what) { return {static_cast<std::uint64_t>(seed), 0, static_cast<std::uint32_t>(what) << 16}; }

struct named_objective {
  const char *name, *about;
  objective how;
};
const std::vector<named_objective>& objectives() {
  using subtb = modified_sub_trajectory_balance;
  static const std::vector<named_objective> all{
      {"subtb", "modified sub-trajectory balance, lambda 1, the root anchored at the batch's mean", subtb{1, root_anchor::batch_mean}},
      {"subtb-.9", "the same with lambda .9", subtb{.9, root_anchor::batch_mean}},
      {"modified-db", "modified detailed balance: neighbouring prefixes only", subtb{0, root_anchor::batch_mean}},
      {"subtb-learned-root", "sub-trajectory balance with a learned flow of each prompt at the root", subtb{1, root_anchor::learned}},
      {"subtb-published", "sub-trajectory balance as published: the root's flow is R / q(stop)", subtb{1, root_anchor::stop_probability}},
      {"tb", "trajectory balance with a learned log Z of each prompt", policy_trajectory_balance<>{}},
      {"vargrad", "variance of log q - log R over the texts of a prompt", policy_log_partition_variance{}},
      {"reward-only", "policy gradient that maximises the reward, normalised in each prompt's group; on its own texts alone", policy_gradient{policy_baseline::group_normalised, 0}},
      {"reverse-kl", "policy gradient of the reverse divergence, entropy included; on its own texts alone", policy_gradient{policy_baseline::group_mean, 1}}};
  return all;
}
const named_objective& find(const std::string& name) {
  for (const named_objective& o : objectives())
    if (name == o.name) return o;
  throw error("there is no objective '" + name + "'");
}

/// The part of a run's file that is this stage's.
std::filesystem::path file_of(const trainer::run& run, int seed, const std::string& name) {
  return run.file("seed-" + std::to_string(seed) + "." + name + ".safetensors");
}
std::map<std::string, std::string> about_of(const trainer::run& run, int seed, const std::string& name) {
  return {{"identity", run.identity()}, {"seed", std::to_string(seed)}, {"stage", name}};
}
/// Warm-up and linear decay to 2 %.
double rate_at(const tuning_options& o, index_t s) {
  const index_t warm = std::min(o.warmup, o.steps - 1);
  if (warm < 1) return linear_decay{o.steps, 0.02}(s);
  return planlm::warmup{warm, linear_decay{std::max<index_t>(1, o.steps - warm), 0.02}}(s);
}

/// Where a loss stopped being a number: at the first reward that is none, if there is one.
std::string first_not_finite(const prefix_rewards& rewards, index_t shortest, const std::vector<int>& prompts, const std::vector<int>& group) {
  for (std::size_t b = 0; b < rewards.size(); ++b)
    for (auto k = static_cast<std::size_t>(shortest); k < rewards[b].size(); ++k)
      if (!std::isfinite(rewards[b][k]))
        return "the log-reward of text " + std::to_string(b) + " of the step, for prompt " +
               std::to_string(prompts[static_cast<std::size_t>(group[b])]) + ", is " + std::to_string(rewards[b][k]) + " after " + std::to_string(k) +
               " of " + std::to_string(rewards[b].size() - 1) + " tokens";
  return "in the policy's log-probabilities, every reward is a finite number";
}

/// Trains `policy` unless its file is there.
void stage(machine& m, trainer::run& run, part& policy, const std::string& name, int seed, const tuning_options& o,
           std::vector<trainer::named_part> parts, std::vector<std::pair<std::string, double*>> numbers, std::vector<trainer::named_memory> memories,
           const std::function<step_result(index_t)>& step, const std::function<void(index_t)>& logged, const std::function<std::string()>& where,
           const std::function<std::vector<std::pair<std::string, double>>(const part&)>& observe, index_t every) {
  const auto file = file_of(run, seed, name);
  const auto about = about_of(run, seed, name);
  if (std::filesystem::exists(file)) {
    trainer::run::load_parameters(policy, file, about);
    return;
  }
  m.random = draws(seed, of_start);
  trainer::stage_state state{name, seed, o.steps, "--rate", std::move(parts), std::move(numbers)};
  state.memories = std::move(memories);
  run.stage(
      state,
      [&](index_t s) {
        if (observe && s == 0) run.observe(seed, name, 0, "score", observe(policy));
        return step(s);
      },
      [&](index_t s) {
        logged(s);
        if (observe && ((s + 1) % every == 0 || s + 1 == o.steps)) run.observe(seed, name, s + 1, "score", observe(policy));
        return true;
      },
      [&](index_t) { return where(); });
  trainer::run::save_parameters(policy, file, about);
}

}  // namespace

std::vector<std::string> objective_names() {
  std::vector<std::string> names;
  for (const named_objective& o : objectives()) names.emplace_back(o.name);
  return names;
}
objective objective_of(const std::string& name) { return find(name).how; }
std::string about_objective(const std::string& name) { return find(name).about; }

void tuning_options::add(trainer::flags& f, bool one_target) {
  f.whole("--steps", steps, "of every method");
  f.whole("--prompts", prompts, "of a step");
  f.whole("--rows", rows, "texts for each prompt", 2);
  f.whole("--rank", rank, "of the low-rank factors that are trained");
  f.above_zero("--alpha", alpha, "their scale, divided by the rank");
  f.above_zero("--rate", rate, "learning rate of the factors");
  f.above_zero("--flow-rate", flow_rate, "of learned flows and log Z");
  f.whole("--warmup", warmup, "steps of rising learning rate", 0);
  f.above_zero("--clip", clip, "largest gradient norm");
  f.above_zero("--first-temperature", start_temperature, "of the reward");
  if (one_target) f.above_zero("--temperature", end_temperature, "of the reward, after --horizon steps: the target is reward^(1/temperature)");
  f.whole("--horizon", horizon, "steps from the first temperature to the target's; half of --steps where these are fewer");
  f.share("--tempered", tempered, "share of prompts whose texts are drawn at another temperature");
  f.share("--prior", prior, "share of prompts whose texts are drawn by the frozen model");
  f.share("--replayed", replayed, "share of prompts whose texts come from the buffer");
  f.above_zero("--lowest", lowest, "temperature of tempered draws");
  f.above_zero("--highest", highest, "temperature of tempered draws");
  f.whole("--buffer", buffer, "texts kept for each prompt");
  f.share("--tolerance", tolerance, "edit distance, as a share of both lengths, below which two texts are one in the buffer");
}
void tuning_options::check() const {
  if (tempered + prior + replayed > 1 + 1e-9)
    throw input_error("--tempered, --prior and --replayed add up to " + trainer::exact(tempered + prior + replayed) + ", expected at most 1");
  if (lowest > highest) throw input_error("--lowest is above --highest");
}

std::unique_ptr<part> tune(machine& m, trainer::run& run, const part& base, const tuning_task& task, const tuning_options& o) {
  auto policy = m.make_low_rank(base, draws(task.seed, of_start), {o.rank, o.alpha});
  std::unique_ptr<part> flows;
  if (learns_flow(task.how)) flows = m.make_flows(task.prompts, 0);
  double flows_started = 0;
  prompt_replay memory({o.buffer, o.tolerance});
  const reward_temperature temperature{o.start_temperature, o.end_temperature, o.horizon > o.steps ? std::max(1, o.steps / 2) : o.horizon};
  // A policy gradient is right for what the policy drew itself.
  const bool own_alone = std::holds_alternative<policy_gradient>(task.how);
  const double replayed = own_alone ? 0 : o.replayed, by_prior = own_alone ? 0 : o.prior, by_tempered = own_alone ? 0 : o.tempered;
  // As published, a stop that is too early is masked where it is drawn alone: where it is scored, the reward has a floor instead.
  const auto* balance = std::get_if<modified_sub_trajectory_balance>(&task.how);
  const bool floored = balance && balance->root == root_anchor::stop_probability && task.rule.shortest > 0;
  constexpr double floor = -99;
  rollout_rule scored_by = task.rule;
  if (floored) scored_by.shortest = 0;
  std::string where = "in the policy's log-probabilities";
  const auto keep = [&](int prompt, const written& z, const log_reward_row& r) { memory.add(replay_item_of(prompt, z, r)); };

  machine::policy_result last;
  const auto step = [&](index_t s) {
    const auto at = static_cast<std::uint32_t>(s);
    const philox behave = draws(task.seed, of_behaviour).at_step(at), choose = draws(task.seed, of_prompts).at_step(at);
    const philox texts = draws(task.seed, of_texts).at_step(at), again = draws(task.seed, of_replay).at_step(at);
    const double T = temperature(s);
    std::vector<written> all;
    std::vector<log_reward_row> rewards;
    std::vector<int> group, flow_rows;
    // Prompts of this step, each once.
    for (int g = 0; g < std::min(o.prompts, task.prompts); ++g) {
      int prompt = static_cast<int>(choose.below(static_cast<std::uint32_t>(task.prompts), static_cast<std::uint64_t>(g), 0));
      while (std::find(flow_rows.begin(), flow_rows.end(), prompt) != flow_rows.end()) prompt = (prompt + 1) % task.prompts;
      flow_rows.push_back(prompt);
    }
    // Fresh texts of all prompts that draw from one model in one call each.
    std::vector<tokens> own, frozen;
    std::vector<sampling_rule> rules;
    std::vector<int> own_group, frozen_group;
    for (std::size_t g = 0; g < flow_rows.size(); ++g) {
      const int prompt = flow_rows[g];
      const double u = behave.uniform(g, 0);
      if (task.demonstrations && memory.items(prompt).empty()) {
        std::vector<written> given;
        for (tokens& actions : task.demonstrations(prompt)) given.push_back(task.tool ? given_rollout<float>(task.prompt(prompt), std::move(actions), task.tool)
                                                                                     : given_rollout<float>(task.prompt(prompt), std::move(actions)));
        if (!given.empty()) {
          const auto scored = task.reward(given, std::vector<int>(given.size(), prompt));
          for (std::size_t i = 0; i < given.size(); ++i) keep(prompt, given[i], scored[i]);
        }
      }
      if (u < replayed && !memory.items(prompt).empty()) {
        // In proportion to R: the best come again most, each at most once where there are enough.
        for (const std::size_t i : memory.draw(prompt, o.rows, {replay_weights::rewards, replay_repeats::when_few}, again, g)) {
          const replay_item& item = memory.items(prompt)[i];
          all.push_back(rollout_of<float>(item, task.prompt(prompt)));
          rewards.push_back(item.rewards);
          group.push_back(static_cast<int>(g));
        }
        continue;
      }
      const bool prior = u >= replayed && u < replayed + by_prior, tempered = u >= replayed + by_prior && u < replayed + by_prior + by_tempered;
      sampling_rule rule = task.rule.draw;
      if (tempered) rule.temperature = o.lowest + (o.highest - o.lowest) * behave.uniform(g, 1);
      for (int b = 0; b < o.rows; ++b) {
        (prior ? frozen : own).push_back(task.prompt(prompt));
        (prior ? frozen_group : own_group).push_back(static_cast<int>(g));
        if (!prior) rules.push_back(rule);
      }
    }
    const auto fresh = [&](std::vector<written> drawn, const std::vector<int>& groups) {
      if (drawn.empty()) return;
      std::vector<int> prompts;
      for (const int g : groups) prompts.push_back(flow_rows[static_cast<std::size_t>(g)]);
      std::vector<log_reward_row> scored = task.reward(drawn, prompts);
      for (std::size_t b = 0; b < drawn.size(); ++b) {
        keep(prompts[b], drawn[b], scored[b]);
        all.push_back(std::move(drawn[b]));
        rewards.push_back(std::move(scored[b]));
        group.push_back(groups[b]);
      }
    };
    if (!own.empty()) fresh(m.sample(*policy, own, task.rule, rules, texts, task.tool), own_group);
    if (!frozen.empty()) fresh(m.sample(base, frozen, task.rule, {}, texts.with_stream(texts.stream + 1), task.tool), frozen_group);

    prefix_rewards tempered_rewards;
    for (const log_reward_row& r : rewards) {
      tempered_rewards.push_back(tempered(r, T));
      if (floored) std::fill_n(tempered_rewards.back().begin(), task.rule.shortest, floor / T);
    }
    if (flows && flows_started == 0) {
      // log Z begins at the mean of log R - log q of the first batch: far off, it would only shake the policy.
      m.score(*policy, all, task.rule);
      double sum = 0;
      index_t count = 0;
      for (std::size_t b = 0; b < all.size(); ++b) {
        double s_b = tempered_rewards[b].back() - double(all[b].stop.back());
        for (const float t : all[b].taken) s_b -= double(t);
        if (std::isfinite(s_b)) sum += s_b, ++count;
      }
      flows->write(std::vector<float>(static_cast<std::size_t>(flows->size()), count ? static_cast<float>(sum / double(count)) : 0.0f));
      flows_started = 1;
    }
    policy_batch batch{all, tempered_rewards, group, static_cast<index_t>(flow_rows.size()), flow_rows};
    const double factor = rate_at(o, s);
    last = m.policy_step(*policy, flows.get(), scored_by, batch, task.how, {o.rate * factor, o.flow_rate * factor, o.clip});
    if (!std::isfinite(last.step.loss)) where = first_not_finite(tempered_rewards, task.rule.shortest, flow_rows, group);
    return last.step;
  };
  std::vector<trainer::named_part> parts{{"policy", policy.get()}};
  if (flows) parts.push_back({"flows", flows.get()});
  // One list: how many numbers, the numbers, the whole numbers.
  const auto write = [&] {
    const replay_values v = memory.pack();
    std::vector<double> all{double(v.numbers.size())};
    all.insert(all.end(), v.numbers.begin(), v.numbers.end());
    all.insert(all.end(), v.wholes.begin(), v.wholes.end());
    return all;
  };
  const auto read = [&](std::span<const double> kept) {
    const bool whole = !kept.empty() && kept[0] >= 0 && kept[0] < double(kept.size());
    if (!whole) throw input_error("the replay buffer is damaged");
    const auto numbers = static_cast<std::size_t>(kept[0]);
    replay_values v{{kept.begin() + 1, kept.begin() + 1 + static_cast<std::ptrdiff_t>(numbers)}, {}};
    for (const double w : kept.subspan(1 + numbers)) v.wholes.push_back(std::abs(w) < 0x1p31 ? static_cast<int>(w) : -1);
    memory.unpack(v, "the checkpoint");
  };
  trainer::named_memory buffers{"replay", write, read};
  const auto logged = [&](index_t s) {
    if ((s + 1) % std::max<index_t>(1, o.steps / 50) == 0)
      run.observe(task.seed, task.name, s + 1, "balance", {{"mean", last.mean_u}, {"spread", last.spread_u}});
  };
  stage(m, run, *policy, task.name, task.seed, o, parts, {{"flows_started", &flows_started}}, {buffers}, step, logged, [&] { return where; }, task.observe,
        task.observe_every);
  return policy;
}

std::unique_ptr<part> tune_supervised(machine& m, trainer::run& run, const part& base, const std::string& name, int seed,
                                      const std::function<packed_text(index_t)>& batch, const tuning_options& o,
                                      const std::function<std::vector<std::pair<std::string, double>>(const part&)>& observe, index_t observe_every) {
  auto policy = m.make_low_rank(base, draws(seed, of_start), {o.rank, o.alpha});
  const auto step = [&](index_t s) { return m.language_step(*policy, batch(s), {o.rate * rate_at(o, s), 0, o.clip}); };
  stage(m, run, *policy, name, seed, o, {{"policy", policy.get()}}, {}, {}, step, [](index_t) {}, [] { return std::string("in the policy's log-probabilities"); }, observe,
        observe_every);
  return policy;
}

std::vector<written> write_texts(machine& m, const part& policy, std::span<const tokens> prompts, int count, const rollout_rule& rule, philox random,
                                 const machine::tool& tool) {
  constexpr std::size_t most = 128;
  std::vector<written> all;
  std::vector<tokens> some;
  for (std::size_t i = 0, piece = 0; i < prompts.size() * static_cast<std::size_t>(count);) {
    some.clear();
    for (; i < prompts.size() * static_cast<std::size_t>(count) && some.size() < most; ++i) some.push_back(prompts[i / static_cast<std::size_t>(count)]);
    for (written& z : m.sample(policy, some, rule, {}, random.at_step(static_cast<std::uint32_t>(piece++)), tool)) all.push_back(std::move(z));
  }
  return all;
}

}  // namespace sampler
