/// One stage of training: steps with progress, metrics, checkpoints, Ctrl-C and a clear word when a loss stops being a number.
#pragma once
#include <chrono>
#include <cmath>
#include <iostream>
#include <map>
#include <string>
#include <vector>
#include "system.hpp"
#include <planlm/io/interrupt.hpp>
#include <planlm/io/progress.hpp>
#include <planlm/io/run_folder.hpp>

namespace train_planner_lm {

/// Thrown after the checkpoint is written when the user asked to stop.
struct interrupted {
  int signal;
};

/// Flat weights and their optimiser, as a checkpoint holds them.
struct trained_part {
  std::string name;
  view<float, 1> weights;
  adamw<B>* optimiser;
};

/// What one step reports.
struct step_result {
  double loss;
  index_t tokens;
};

class run {
 public:
  run(context<B>& cx, run_folder& folder, interrupt_guard& interrupt, std::string identity)
      : cx_(cx), folder_(folder), metrics_(folder.metrics()), interrupt_(interrupt), identity_(std::move(identity)) {
    if (!metrics_.cut_off().empty()) std::cerr << "metrics.jsonl ended in half a line; it was removed\n";
  }

  struct summary {
    double seconds = 0, tokens_per_second = 0, last_loss = NAN;
  };

  /// Runs `step(s)` for s in [0, steps). Goes on from the folder's checkpoint if it belongs to this stage.
  template <class Step, class Diagnose>
  summary stage(const std::string& name, int seed, index_t steps, std::vector<trained_part> parts, const Step& step,
                const Diagnose& diagnose) {
    const std::string key = "seed " + std::to_string(seed) + " " + name;
    double seconds_before = 0;
    index_t tokens_before = 0;
    index_t first = load(key, parts, seconds_before, tokens_before);
    progress_bar bar(key, steps, first);
    summary result;
    const auto begin = std::chrono::steady_clock::now();
    auto saved = begin;
    index_t tokens = 0;
    const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
    double shown = NAN;
    for (index_t s = first; s < steps; ++s) {
      cx_.random = cx_.random.at_step(static_cast<std::uint32_t>(s));
      const step_result r = step(s);
      if (!std::isfinite(r.loss))
        throw numeric_error(key + ": the loss of step " + std::to_string(s) + " is " + std::to_string(r.loss) + "; " + diagnose() +
                            "; try a smaller learning rate");
      tokens += r.tokens;
      shown = std::isfinite(shown) ? 0.98 * shown + 0.02 * r.loss : r.loss;
      bar.update(s + 1, shown, tokens);
      if ((s + 1) % std::max<index_t>(1, steps / 100) == 0 || s + 1 == steps)
        metrics_.append({{"seed", seed}, {"stage", name}, {"step", s + 1}, {"loss", r.loss}, {"smoothed", shown},
                         {"tokens_per_second", double(tokens) / std::max(elapsed(), 1e-9)}});
      const auto now = std::chrono::steady_clock::now();
      if (interrupt_.requested()) {
        save(key, parts, s + 1, seconds_before + elapsed(), tokens_before + tokens);
        throw interrupted{interrupt_.signal()};
      }
      if (now - saved > std::chrono::seconds(60)) {
        save(key, parts, s + 1, seconds_before + elapsed(), tokens_before + tokens);
        saved = now;
      }
    }
    bar.finish();
    result.seconds = seconds_before + elapsed();
    result.tokens_per_second = double(tokens_before + tokens) / std::max(result.seconds, 1e-9);
    result.last_loss = shown;
    return result;
  }

  run_folder& folder() { return folder_; }
  const std::string& identity() const { return identity_; }
  std::filesystem::path checkpoint() const { return folder_.file("checkpoint.safetensors"); }

 private:
  void save(const std::string& key, const std::vector<trained_part>& parts, index_t step, double seconds, index_t tokens) {
    std::vector<std::vector<float>> values;
    std::vector<tensor_ref> tensors;
    std::map<std::string, std::string> about{{"stage", key}, {"step", std::to_string(step)}, {"identity", identity_},
                                             {"seconds", std::to_string(seconds)}, {"tokens", std::to_string(tokens)}};
    values.reserve(parts.size() * 3);
    const auto add = [&](const std::string& name, view<const float, 1> v) {
      values.push_back(cx_.read(v));
      tensors.push_back({name, {v.size()}, std::span<const float>(values.back())});
    };
    for (const trained_part& p : parts) {
      add(p.name + ".weights", p.weights);
      for (const auto& s : p.optimiser->state()) add(p.name + "." + std::string(s.name), s.values);
      about[p.name + ".count"] = std::to_string(p.optimiser->count);
    }
    write_safetensors(checkpoint(), tensors, about);
  }

  index_t load(const std::string& key, std::vector<trained_part>& parts, double& seconds, index_t& tokens) {
    if (!std::filesystem::exists(checkpoint())) return 0;
    const tensor_file file(checkpoint());
    const auto& about = file.metadata();
    const auto value = [&](const std::string& name) {
      const auto found = about.find(name);
      if (found == about.end())
        throw input_error(checkpoint().string() + ": is no checkpoint of this program ('" + name +
                          "' is missing); remove it or choose another --out");
      return found->second;
    };
    if (value("identity") != identity_)
      throw input_error(checkpoint().string() + ": belongs to a run with other settings or another text; remove it or choose another --out");
    if (value("stage") != key) return 0;  // a stage that finished since
    const auto write = [&](const std::string& name, view<float, 1> to) {
      const std::vector<float> values = file.read<float>(name);
      if (static_cast<index_t>(values.size()) != to.size())
        throw input_error(checkpoint().string() + ": '" + name + "' has " + std::to_string(values.size()) + " values, expected " +
                          std::to_string(to.size()) + "; remove it or choose another --out");
      B::upload(cx_.queue(), to.data, values.data(), values.size() * sizeof(float));
    };
    for (trained_part& p : parts) {
      write(p.name + ".weights", p.weights);
      for (const auto& s : p.optimiser->state()) write(p.name + "." + std::string(s.name), s.values);
      p.optimiser->count = std::stoll(value(p.name + ".count"));
    }
    seconds = std::stod(value("seconds"));
    tokens = std::stoll(value("tokens"));
    const index_t step = std::stoll(value("step"));
    std::cerr << key << ": going on from step " << step << '\n';
    return step;
  }

  context<B>& cx_;
  run_folder& folder_;
  metrics_log metrics_;
  interrupt_guard& interrupt_;
  std::string identity_;
};

}  // namespace train_planner_lm
