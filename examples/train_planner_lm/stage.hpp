/// One stage of training: steps with progress, metrics, checkpoints, Ctrl-C and a clear word when a loss stops being a number.
#pragma once
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <utility>
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

/// Flat weights, their parameters' names and their optimiser, as a checkpoint holds them. Weights that are only kept have no optimiser.
struct trained_part {
  std::string name;
  view<float, 1> weights;
  const std::vector<parameter_slot>* slots;
  adamw<B>* optimiser = nullptr;
};

/// What one step reports.
struct step_result {
  double loss;
  index_t tokens;
};

/// What a stage is called, how long it is, and all that changes in it: going on needs every bit of that.
struct stage_state {
  std::string name;
  int seed;
  index_t steps;
  std::string rate_flags;                               // what to lower when a loss stops being a number
  std::vector<trained_part> parts;
  std::vector<std::pair<std::string, double*>> numbers;
};

class run {
 public:
  run(context<B>& cx, run_folder& folder, interrupt_guard& interrupt)
      : cx_(cx), folder_(folder), metrics_(folder.metrics()), interrupt_(interrupt) {
    if (!metrics_.cut_off().empty()) std::cerr << "metrics.jsonl ended in half a line; it was removed\n";
  }

  struct summary {
    double seconds = 0, tokens_per_second = 0;
  };

  /// For s in [0, steps): `step(s)` -> step_result, then `more(s)` -> whether to go on. Starts from the folder's checkpoint if it belongs
  /// to this stage. `where(s)` says where the values of step s stop being numbers.
  template <class Step, class More, class Where>
  summary stage(const stage_state& state, const Step& step, const More& more, const Where& where) {
    const std::string key = "seed " + std::to_string(state.seed) + " " + state.name;
    double seconds_before = 0, shown = NAN;
    index_t tokens_before = 0;
    const index_t first = load(key, state, seconds_before, tokens_before, shown);
    progress_bar bar(key, state.steps, first);
    const auto begin = std::chrono::steady_clock::now();
    auto saved = begin;
    index_t tokens = 0;
    const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
    for (index_t s = first; s < state.steps; ++s) {
      const auto fail = [&](const std::string& what, const std::string& place) {
        bar.finish();
        throw numeric_error(key + ", step " + std::to_string(s + 1) + ": " + what + "; " + place + "; try a smaller " +
                            state.rate_flags);
      };
      cx_.random = cx_.random.at_step(static_cast<std::uint32_t>(s));
      const step_result r = step(s);
      if (!std::isfinite(r.loss)) fail(std::isnan(r.loss) ? "the loss is not a number" : "the loss is infinite", where(s));
      const bool last = s + 1 == state.steps, logged = last || (s + 1) % std::max<index_t>(1, state.steps / 100) == 0;
      // A policy that passes on the largest logit hides a planner that is lost.
      if (logged)
        if (const std::string bad = parameter_not_finite(state.parts); !bad.empty())
          fail("the update overflowed", bad);
      bool go_on = false;
      try {
        go_on = more(s);
      } catch (const numeric_error& e) {
        fail(e.what(), where(s));
      }
      tokens += r.tokens;
      shown = std::isfinite(shown) ? 0.98 * shown + 0.02 * r.loss : r.loss;
      bar.update(s + 1, shown, tokens);
      if (logged || !go_on)
        metrics_.append({{"seed", state.seed}, {"stage", state.name}, {"step", s + 1}, {"loss", r.loss}, {"smoothed", shown},
                         {"tokens_per_second", double(tokens) / std::max(elapsed(), 1e-9)}});
      if (!go_on) break;
      const auto now = std::chrono::steady_clock::now();
      if (interrupt_.requested() || now - saved > std::chrono::seconds(60)) {
        save(key, state, s + 1, seconds_before + elapsed(), tokens_before + tokens, shown);
        saved = now;
        stop_if_asked();
      }
    }
    bar.finish();
    summary result;
    result.seconds = seconds_before + elapsed();
    result.tokens_per_second = double(tokens_before + tokens) / std::max(result.seconds, 1e-9);
    return result;
  }

  /// Throws `interrupted` after a first Ctrl-C.
  void stop_if_asked() const {
    if (interrupt_.requested()) throw interrupted{interrupt_.signal()};
  }

  /// The first parameter with a value that is no finite number, in words; empty if there is none.
  std::string parameter_not_finite(const std::vector<trained_part>& parts) {
    for (const trained_part& p : parts)
      if (const auto at = find_not_finite(cx_, *p.slots, const_tensor<B, 1>(p.weights)))
        return "the parameter " + p.name + "." + at->parameter + " is the first that is not a finite number";
    return "";
  }

  /// What the files of this run carry: settings, text and steps.
  void identify(std::string identity) { identity_ = std::move(identity); }
  run_folder& folder() { return folder_; }
  const std::string& identity() const { return identity_; }
  std::filesystem::path checkpoint() const { return folder_.file("checkpoint.safetensors"); }

 private:
  void save(const std::string& key, const stage_state& state, index_t step, double seconds, index_t tokens, double shown) {
    std::vector<std::vector<float>> values;
    std::vector<tensor_ref> tensors;
    std::map<std::string, std::string> about{{"stage", key}, {"step", std::to_string(step)}, {"identity", identity_},
                                             {"seconds", exact(seconds)}, {"tokens", std::to_string(tokens)}, {"smoothed", exact(shown)}};
    for (const auto& [name, value] : state.numbers) about[name] = exact(*value);
    values.reserve(state.parts.size() * 3);
    const auto add = [&](const std::string& name, view<const float, 1> v) {
      values.push_back(cx_.read(v));
      tensors.push_back({name, {v.size()}, std::span<const float>(values.back())});
    };
    for (const trained_part& p : state.parts) {
      add(p.name + ".weights", p.weights);
      if (!p.optimiser) continue;
      for (const auto& s : p.optimiser->state()) add(p.name + "." + std::string(s.name), s.values);
      about[p.name + ".count"] = std::to_string(p.optimiser->count);
    }
    write_safetensors(checkpoint(), tensors, about);
  }

  index_t load(const std::string& key, const stage_state& state, double& seconds, index_t& tokens, double& shown) {
    constexpr auto remedy = "; remove it to begin the stage again, or choose another --out";
    if (!std::filesystem::exists(checkpoint())) return 0;
    const tensor_file file = open_own(checkpoint());
    const auto& about = file.metadata();
    const auto value = [&](const std::string& name) {
      const auto found = about.find(name);
      if (found == about.end())
        throw input_error(checkpoint().string() + ": is no checkpoint of this program ('" + name + "' is missing)" + remedy);
      return found->second;
    };
    const auto number = [&](const std::string& name) {
      const std::string text = value(name);
      char* end = nullptr;
      const double n = std::strtod(text.c_str(), &end);
      if (text.empty() || end != text.c_str() + text.size())
        throw input_error(checkpoint().string() + ": '" + name + "' is '" + text + "', expected a number" + remedy);
      return n;
    };
    if (value("identity") != identity_)
      throw input_error(checkpoint().string() + ": belongs to a run with other settings or another text" + remedy);
    if (value("stage") != key) return 0;  // a stage that finished since
    // All is read and checked before anything is changed.
    const auto step = static_cast<index_t>(number("step"));
    if (step < 1 || step > state.steps)
      throw input_error(checkpoint().string() + ": is at step " + value("step") + " of " + std::to_string(state.steps) + remedy);
    std::vector<std::pair<view<float, 1>, std::vector<float>>> tensors;
    const auto read = [&](const std::string& name, view<float, 1> to) {
      tensors.emplace_back(to, file.contains(name) ? file.read<float>(name) : std::vector<float>());
      if (static_cast<index_t>(tensors.back().second.size()) != to.size())
        throw input_error(checkpoint().string() + ": '" + name + "' has " + std::to_string(tensors.back().second.size()) +
                          " values, expected " + std::to_string(to.size()) + remedy);
    };
    for (const trained_part& p : state.parts) {
      read(p.name + ".weights", p.weights);
      if (!p.optimiser) continue;
      for (const auto& s : p.optimiser->state()) read(p.name + "." + std::string(s.name), s.values);
      p.optimiser->count = static_cast<index_t>(number(p.name + ".count"));
    }
    for (const auto& [to, values] : tensors) B::upload(cx_.queue(), to.data, values.data(), values.size() * sizeof(float));
    for (const auto& [name, to] : state.numbers) *to = number(name);
    seconds = number("seconds");
    tokens = static_cast<index_t>(number("tokens"));
    shown = number("smoothed");
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
