/// Steps, checkpoints and files of parameters.
#include "stage.hpp"
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <span>
#include <utility>
#include <nlohmann/json.hpp>
#include <planlm/io/progress.hpp>
#include <planlm/io/run_folder.hpp>
#include <planlm/io/safetensors.hpp>

namespace trainer {
namespace {

/// A file that this program wrote. Errors: input_error that says how to do without it.
tensor_file open_own(const std::filesystem::path& path) {
  try {
    return tensor_file(path);
  } catch (const input_error& e) {
    throw input_error(std::string(e.what()) + ", or remove it: what it holds is then made again");
  }
}

}  // namespace

std::string exact(double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.17g", value);
  return text.data();
}

run::run(philox& random, const run_folder& folder, const interrupt_guard& interrupt)
    : random_(random), folder_(folder), metrics_(std::make_unique<metrics_log>(folder.file("metrics.jsonl"))), interrupt_(interrupt) {
  if (!metrics_->cut_off().empty()) std::cerr << "metrics.jsonl ended in half a line; it was removed\n";
}
run::~run() = default;

std::filesystem::path run::file(const std::string& name) const { return folder_.file(name); }

void run::stop_if_asked() const {
  if (interrupt_.requested()) throw interrupted{interrupt_.signal()};
}

std::string run::parameter_not_finite(const std::vector<named_part>& parts) {
  for (const named_part& p : parts)
    if (const std::string at = p.values->first_not_finite(); !at.empty())
      return "the parameter " + p.name + "." + at + " is the first that is not a finite number";
  return "";
}

run::summary run::stage(const stage_state& state, const std::function<step_result(index_t)>& step,
                        const std::function<bool(index_t)>& more, const std::function<std::string(index_t)>& where) {
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
    random_ = random_.at_step(static_cast<std::uint32_t>(s));
    const step_result r = step(s);
    if (!std::isfinite(r.loss)) fail(std::isnan(r.loss) ? "the loss is not a number" : "the loss is infinite", where(s));
    if (!std::isfinite(r.gradient)) fail("the gradient is not a finite number", where(s));
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
      metrics_->append({{"seed", state.seed}, {"stage", state.name}, {"step", s + 1}, {"loss", r.loss}, {"smoothed", shown},
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

void run::observe(int seed, const std::string& stage, index_t step, const std::string& about, const std::vector<std::pair<std::string, double>>& values) {
  nlohmann::ordered_json line{{"seed", seed}, {"stage", stage}, {"step", step}};
  for (const auto& [name, value] : values) line[about][name] = value;
  metrics_->append(line);
}

void run::save(const std::string& key, const stage_state& state, index_t step, double seconds, index_t tokens, double shown) {
  std::vector<std::vector<float>> values;
  std::vector<std::vector<double>> memories;
  std::vector<tensor_ref> tensors;
  std::map<std::string, std::string> about{{"stage", key}, {"step", std::to_string(step)}, {"identity", identity_},
                                           {"seconds", exact(seconds)}, {"tokens", std::to_string(tokens)}, {"smoothed", exact(shown)}};
  for (const auto& [name, value] : state.numbers) about[name] = exact(*value);
  values.reserve(state.parts.size() * 3);
  const auto add = [&](const std::string& name, std::vector<float> v) {
    values.push_back(std::move(v));
    tensors.push_back({name, {static_cast<index_t>(values.back().size())}, std::span<const float>(values.back())});
  };
  for (const named_part& p : state.parts) {
    add(p.name + ".weights", p.values->read());
    const std::vector<std::string> moments = p.values->moments();
    for (std::size_t n = 0; n < moments.size(); ++n) add(p.name + "." + moments[n], p.values->read_moment(n));
    if (!moments.empty()) about[p.name + ".count"] = std::to_string(p.values->count());
  }
  memories.reserve(state.memories.size());
  for (const named_memory& m : state.memories) {
    memories.push_back(m.write());
    about[m.name + ".size"] = std::to_string(memories.back().size());
    if (!memories.back().empty())
      tensors.push_back({m.name, {static_cast<index_t>(memories.back().size())}, std::span<const double>(memories.back())});
  }
  write_safetensors(checkpoint(), tensors, about);
}

index_t run::load(const std::string& key, const stage_state& state, double& seconds, index_t& tokens, double& shown) {
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
  const auto read = [&](const std::string& name, index_t size) {
    std::vector<float> values = file.contains(name) ? file.read<float>(name) : std::vector<float>();
    if (static_cast<index_t>(values.size()) != size)
      throw input_error(checkpoint().string() + ": '" + name + "' has " + std::to_string(values.size()) + " values, expected " +
                        std::to_string(size) + remedy);
    return values;
  };
  std::vector<std::vector<std::vector<float>>> values;  // of each part: weights, then moments
  std::vector<index_t> counts;
  for (const named_part& p : state.parts) {
    values.push_back({read(p.name + ".weights", p.values->size())});
    const std::vector<std::string> moments = p.values->moments();
    for (const std::string& name : moments) values.back().push_back(read(p.name + "." + name, p.values->size()));
    counts.push_back(moments.empty() ? 0 : static_cast<index_t>(number(p.name + ".count")));
  }
  // A memory checks what it is given before it takes it, so it comes first.
  for (const named_memory& m : state.memories) {
    const auto size = static_cast<std::size_t>(number(m.name + ".size"));
    const std::vector<double> kept = size > 0 && file.contains(m.name) ? file.read<double>(m.name) : std::vector<double>();
    if (kept.size() != size)
      throw input_error(checkpoint().string() + ": '" + m.name + "' has " + std::to_string(kept.size()) + " values, expected " +
                        std::to_string(size) + remedy);
    try {
      m.read(kept);
    } catch (const input_error& e) {
      throw input_error(checkpoint().string() + ": " + e.what() + remedy);
    }
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    part& to = *state.parts[i].values;
    to.write(values[i][0]);
    for (std::size_t n = 1; n < values[i].size(); ++n) to.write_moment(n - 1, values[i][n]);
    if (values[i].size() > 1) to.count() = counts[i];
  }
  for (const auto& [name, to] : state.numbers) *to = number(name);
  seconds = number("seconds");
  tokens = static_cast<index_t>(number("tokens"));
  shown = number("smoothed");
  std::cerr << key << ": going on from step " << step << '\n';
  return step;
}

void run::save_parameters(part& from, const std::filesystem::path& path, const std::map<std::string, std::string>& about) {
  const std::vector<float> values = from.read();
  std::vector<tensor_ref> tensors;
  for (const parameter_slot& slot : from.slots()) {
    std::vector<index_t> shape{slot.spec.extents[0]};
    if (slot.spec.rank == 2) shape.push_back(slot.spec.extents[1]);
    tensors.push_back({slot.spec.name, shape, std::span(values).subspan(static_cast<std::size_t>(slot.offset), static_cast<std::size_t>(slot.spec.size()))});
  }
  write_safetensors(path, tensors, about);
}

std::map<std::string, std::string> run::load_parameters(part& to, const std::filesystem::path& path,
                                                        const std::map<std::string, std::string>& about) {
  constexpr auto remedy = "; remove the file to make it again, or choose another --out";
  const tensor_file file = open_own(path);
  for (const auto& [key, value] : about) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end() || found->second != value)
      throw input_error(path.string() + ": its '" + key + "' is not that of this run" + remedy);
  }
  std::vector<float> values(static_cast<std::size_t>(to.size()));
  for (const parameter_slot& slot : to.slots()) {
    const std::string& name = slot.spec.name;
    if (!file.contains(name)) throw input_error(path.string() + ": tensor '" + name + "' is missing" + remedy);
    const std::vector<float> read = file.read<float>(name);
    if (static_cast<index_t>(read.size()) != slot.spec.size())
      throw input_error(path.string() + ": tensor '" + name + "' has " + std::to_string(read.size()) + " values, expected " +
                        std::to_string(slot.spec.size()) + remedy);
    std::copy(read.begin(), read.end(), values.begin() + static_cast<std::ptrdiff_t>(slot.offset));
  }
  to.write(values);
  return file.metadata();
}

}  // namespace trainer
