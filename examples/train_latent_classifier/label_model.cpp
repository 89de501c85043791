/// Reading labels, learning them, rewarding rationales.
#include "label_model.hpp"
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <planlm/models/prefix_reward.hpp>
#include <planlm/training/schedule.hpp>

namespace train_latent_classifier {
namespace {

double log_sigmoid(double x) { return x < 0 ? x - std::log1p(std::exp(x)) : -std::log1p(std::exp(-x)); }

}  // namespace

std::vector<double> label_reader::odds(const label_model& model, std::span<const reading> readings) const {
  // A text that goes on with SO and the second label, and stops at the first: its scores hold both behind SO.
  planlm::rollout_rule rule;
  rule.stop = labels_[0];
  std::vector<written> texts;
  for (const reading& r : readings) {
    tokens actions = r.rationale;
    actions.push_back(pattern_.so());
    actions.push_back(labels_[1]);
    rule.longest = std::max(rule.longest, static_cast<planlm::index_t>(actions.size()));
    texts.push_back(planlm::given_rollout<float>(r.prompt, std::move(actions)));
  }
  machine_.replay(*model.lm, texts, rule);
  std::vector<double> out;
  for (const written& z : texts) out.push_back(double(z.taken.back()) - double(z.stop[z.actions.size() - 1]) - model.offset);
  return out;
}

label_model label_reader::calibrated(const part& lm, std::span<const reading> unlabelled) const {
  std::vector<double> all = odds({&lm}, unlabelled);
  std::sort(all.begin(), all.end());
  return {&lm, all.empty() ? 0 : (all[(all.size() - 1) / 2] + all[all.size() / 2]) / 2};
}

sampler::step_result label_reader::step(part& lm, std::span<const reading> readings, std::span<const int> labels, const sampler::rates& r) const {
  packed_text text;
  for (std::size_t i = 0; i < readings.size(); ++i) {
    tokens all = readings[i].prompt;
    all.insert(all.end(), readings[i].rationale.begin(), readings[i].rationale.end());
    all.push_back(pattern_.so());
    text.add(all, all.size());
    text.targets.back() = labels[i];
  }
  return machine_.choice_step(lm, text, labels_, r);
}

std::unique_ptr<part> train_labels(machine& m, trainer::run& run, const label_reader& reader, const part& base, const part* from,
                                   const std::string& name, int seed, const std::function<std::vector<std::pair<reading, int>>()>& data,
                                   const options& o) {
  const planlm::philox start{static_cast<std::uint64_t>(seed), 0, 32u << 16}, order{static_cast<std::uint64_t>(seed), 0, 33u << 16};
  auto model = m.make_low_rank(base, start, {o.tuning.rank, o.tuning.alpha});
  const std::map<std::string, std::string> about{{"identity", run.identity()}, {"seed", std::to_string(seed)}, {"stage", name}};
  const auto file = run.file("seed-" + std::to_string(seed) + "." + name + ".safetensors");
  if (std::filesystem::exists(file)) {
    trainer::run::load_parameters(*model, file, about);
    return model;
  }
  if (from) model->copy(*from);
  const auto known = data();
  const planlm::linear_decay schedule{o.labels.steps, 0.05};
  m.random = start;
  run.stage({name, seed, o.labels.steps, "--label-rate", {{"labels", model.get()}}, {}},
            [&](planlm::index_t s) {
              std::vector<reading> readings;
              std::vector<int> labels;
              for (int b = 0; b < o.labels.batch; ++b) {
                const auto& [r, label] = known[order.below(static_cast<std::uint32_t>(known.size()), static_cast<std::uint64_t>(s), static_cast<std::uint32_t>(b))];
                readings.push_back(r);
                labels.push_back(label);
              }
              return reader.step(*model, readings, labels, {o.labels.rate * schedule(s), 0, o.tuning.clip});
            },
            [](planlm::index_t) { return true; }, [](planlm::index_t) { return std::string("in the label model"); });
  trainer::run::save_parameters(*model, file, about);
  return model;
}

std::vector<planlm::log_reward_row> rationale_reward::operator()(std::span<const written> texts, std::span<const int> prompt) {
  planlm::likelihood_options<float> how;
  how.stop = reader_.words().so();
  how.penalty = penalty_;
  std::vector<std::vector<double>> prior = machine_.likelihood(base_, texts, how);
  // Rationales have a word at least, so nothing is read behind none.
  std::vector<reading> unread;
  std::vector<std::pair<int, tokens>> keys;
  const auto prefix = [&](std::size_t b, std::size_t k) {
    return std::pair{prompt[b], tokens(texts[b].actions.begin(), texts[b].actions.begin() + static_cast<std::ptrdiff_t>(k))};
  };
  for (std::size_t b = 0; b < texts.size(); ++b)
    for (std::size_t k = 1; k <= texts[b].actions.size(); ++k) {
      auto key = prefix(b, k);
      if (!known_.try_emplace(key, 0.0).second) continue;
      unread.push_back({texts[b].prompt, key.second});
      keys.push_back(std::move(key));
    }
  const std::vector<double> read = reader_.odds(model_, unread);
  for (std::size_t i = 0; i < keys.size(); ++i) known_[keys[i]] = read[i];
  std::vector<planlm::log_reward_row> rows(texts.size());
  for (std::size_t b = 0; b < texts.size(); ++b) {
    rows[b].base = std::move(prior[b]);
    rows[b].shift.assign(rows[b].base.size(), 0.0);
    for (std::size_t k = 1; k < rows[b].base.size(); ++k) {
      const double odds = known_.at(prefix(b, k)) * (labels_[static_cast<std::size_t>(prompt[b])] == 1 ? 1 : -1);
      rows[b].base[k] += log_sigmoid(odds);
      if (odds < 0) rows[b].shift[k] = -wrong_;
    }
  }
  return rows;
}

}  // namespace train_latent_classifier
