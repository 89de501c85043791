/// Plans of several sentences: the most probable label at every step, paths drawn from a look-ahead planner, and the best paths of a beam.
///
/// A path of sentence s is a_0, a_1, ..., each from softmax(s^t / temperature) given those before it.   [2409.00070]
/// Values only, no gradient. A path whose logits hold a NaN, or no finite number, gets label -1 from there on, but from beam_paths an error.
/// Errors: shape_error where there is no sentence, planlm::error where no path or no step is asked for.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <planlm/ops/gather.hpp>
#include <planlm/ops/sampling.hpp>
#include <planlm/planning/look_ahead.hpp>

namespace planlm {

/// `paths` label sequences of `steps` steps for each sentence.
template <Backend B>
struct plan_paths {
  indices<B> labels;  // [sentences, paths, steps]
  index_t sentences = 0, paths = 0, steps = 0;
};
/// Paths in the order of their score, best first; equal ones in the order of their labels.
template <Backend B>
struct ranked_paths {
  plan_paths<B> paths;
  std::vector<double> scores;  // [sentences, paths]: sum over steps of log p, nats
};

namespace paths_kernel {
/// Sequence q of a group is sentence q % count, path q / count + first of it: where its step lies in [sentences, paths, steps].
/// A path that has come to -1 stays there, whatever its next label would be.
struct store_step {
  const int* from;
  int* to;
  index_t count, paths, first, steps, step;
  PLANLM_HD void operator()(index_t q) const {
    int* const at = to + (q % count * paths + first + q / count) * steps + step;
    *at = step > 0 && at[-1] < 0 ? -1 : from[q];
  }
};
struct sentence_of {
  int* to;
  index_t count;
  PLANLM_HD void operator()(index_t q) const { to[q] = static_cast<int>(q % count); }
};
/// Where path q / count of a group of `group` draws: by the place of its sentence, or by the sentence's number.
struct place_of {
  const int* place;
  int* to;
  index_t count, group;
  PLANLM_HD void operator()(index_t q) const {
    const index_t s = q % count;
    to[q] = static_cast<int>((place ? place[s] : s) * group + q / count);
  }
};
/// The draws of one step of one group of paths: a family of their own, whose seed is itself drawn.
inline philox family(philox random, index_t step, index_t group) {
  const random_block b = random.bits(static_cast<std::uint64_t>(step), static_cast<std::uint32_t>(group));
  return {std::uint64_t{b.word[0]} << 32 | b.word[1], random.step, random.stream};
}
inline void check_sizes(const char* who, index_t sentences, index_t steps, index_t paths) {
  if (sentences < 1) throw shape_error(std::string(who) + ": " + std::to_string(sentences) + " sentences, expected at least one");
  if (steps < 1 || paths < 1)
    throw error(std::string(who) + ": " + std::to_string(paths) + " paths of " + std::to_string(steps) +
                " steps were asked for, expected at least one of each");
}
}  // namespace paths_kernel

/// Paths drawn at a time: what bounds the memory of many.
inline constexpr index_t paths_at_a_time = 16;

/// `paths` independent paths of `steps` steps for each sentence of `contexts`; equal ones may occur.
/// A draw depends on `random`, the place of its sentence, the number of the path and the step, not on the batch, the number of paths or of
/// steps: the first paths of a larger set, and the first steps of longer ones, are those of the smaller; on the CPU always, elsewhere up to the
/// rounding of logits, which may depend on how many rows a product has. `random` must be for this alone.
/// places (S), not negative and below 2^27, say of the sentence in its corpus; without them its number in the batch.
template <Backend B>
plan_paths<B> sample_paths(context<B>& cx, const look_ahead<B>& model, const typename look_ahead<B>::params& p, const_tensor<B> z,
                           const sequences<B>& contexts, index_t steps, index_t paths, double temperature, philox random,
                           indices<B> places = {}) {
  const index_t count = contexts.count();
  paths_kernel::check_sizes("sample_paths", count, steps, paths);
  if (places && places.size() != count)
    throw shape_error("sample_paths: " + std::to_string(places.size()) + " places for " + std::to_string(count) + " sentences");
  sampling_rule rule;
  rule.temperature = temperature;
  const auto labels = cx.template make_of<int>(count * paths * steps);
  auto temporaries = cx.scope();
  const auto first_state = model.start(cx, p, z, contexts);
  const const_tensor<B> first_logits = model.logits(cx, p, first_state);
  for (index_t first = 0; first < paths; first += paths_at_a_time) {
    auto group = cx.scope();
    const index_t size = std::min(paths - first, paths_at_a_time) * count;
    const auto sentence = cx.template make_of<int>(size), place = cx.template make_of<int>(size);
    B::for_each(cx.queue(), size, paths_kernel::sentence_of{sentence.data, count});
    B::for_each(cx.queue(), size, paths_kernel::place_of{places.data, place.data, count, paths_at_a_time});
    auto at = first_state;
    const_tensor<B> logits = ops::gather_rows(cx, first_logits, indices<B>(sentence));
    for (index_t t = 0; t < steps; ++t) {
      if (t > 0) logits = model.logits(cx, p, at);
      const auto drawn = ops::sample(cx, logits, rule, paths_kernel::family(random, t, first / paths_at_a_time), indices<B>(place));
      B::for_each(cx.queue(), size, paths_kernel::store_step{drawn.token.data, labels.data, count, paths, first, steps, t});
      if (t + 1 < steps) at = model.advance(cx, p, at, indices<B>(drawn.token));
    }
  }
  return {labels, count, paths, steps};
}

/// The most probable label at every step, the lowest of several: one path for each sentence, not always the most probable one.
template <Backend B>
plan_paths<B> argmax_paths(context<B>& cx, const look_ahead<B>& model, const typename look_ahead<B>::params& p, const_tensor<B> z,
                           const sequences<B>& contexts, index_t steps) {
  const index_t count = contexts.count();
  paths_kernel::check_sizes("argmax_paths", count, steps, 1);
  const auto labels = cx.template make_of<int>(count * steps);
  auto temporaries = cx.scope();
  const auto nowhere = cx.template make_of<int>(count);  // nothing is drawn
  B::zero(cx.queue(), nowhere.data, static_cast<std::size_t>(count) * sizeof(int));
  sampling_rule greedy;
  greedy.greedy = true;
  auto at = model.start(cx, p, z, contexts);
  for (index_t t = 0; t < steps; ++t) {
    const auto best = ops::sample(cx, const_tensor<B>(model.logits(cx, p, at)), greedy, philox{}, indices<B>(nowhere));
    B::for_each(cx.queue(), count, paths_kernel::store_step{best.token.data, labels.data, count, 1, 0, steps, t});
    if (t + 1 < steps) at = model.advance(cx, p, at, indices<B>(best.token));
  }
  return {labels, count, 1, steps};
}

namespace detail {
/// The beam of one sentence, in host memory.
struct beam {
  struct entry {
    double score;
    index_t parent;
    std::vector<int> labels;
  };
  std::vector<entry> live{{0, 0, {}}};

  /// The best `width` continuations, entry j followed by any label with log-probability log_p[j][label].
  void extend(const std::vector<std::vector<double>>& log_p, std::size_t width) {
    struct candidate {
      double score;
      std::size_t parent;
      int label;
    };
    std::vector<candidate> all;
    for (std::size_t j = 0; j < live.size(); ++j)
      for (std::size_t k = 0; k < log_p[j].size(); ++k) all.push_back({live[j].score + log_p[j][k], j, static_cast<int>(k)});
    const auto better = [&](const candidate& a, const candidate& b) {
      if (a.score != b.score) return a.score > b.score;
      if (a.parent != b.parent) return live[a.parent].labels < live[b.parent].labels;
      return a.label < b.label;
    };
    width = std::min(width, all.size());
    std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(width), all.end(), better);
    std::vector<entry> next;
    for (std::size_t j = 0; j < width; ++j) {
      next.push_back({all[j].score, static_cast<index_t>(all[j].parent), live[all[j].parent].labels});
      next.back().labels.push_back(all[j].label);
    }
    live = std::move(next);
  }
};
/// log softmax in double. Errors: numeric_error for a row without a finite sum.
template <class T>
std::vector<double> log_softmax(std::span<const T> row, index_t sentence, index_t step) {
  double top = -INFINITY, total = 0;
  for (const T v : row) top = std::max(top, double(v));
  for (const T v : row) total += std::exp(double(v) - top);
  if (!std::isfinite(total))
    throw numeric_error("beam_paths: the logits of sentence " + std::to_string(sentence) + " at step " + std::to_string(step) +
                        " hold a NaN or no finite number");
  const double whole = top + std::log(total);
  std::vector<double> log_p;
  for (const T v : row) log_p.push_back(double(v) - whole);
  return log_p;
}
}  // namespace detail

/// The `beam` best paths found by extending each of the `beam` best one step shorter by every label; all K^T paths, if there are no more.
/// Waits for the device at every step. Errors: numeric_error.
template <Backend B>
ranked_paths<B> beam_paths(context<B>& cx, const look_ahead<B>& model, const typename look_ahead<B>::params& p, const_tensor<B> z,
                           const sequences<B>& contexts, index_t steps, index_t beam) {
  const index_t count = contexts.count();
  paths_kernel::check_sizes("beam_paths", count, steps, beam);
  std::vector<detail::beam> beams(static_cast<std::size_t>(count));
  {
    auto temporaries = cx.scope();
    auto at = model.start(cx, p, z, contexts);
    for (index_t t = 0; t < steps; ++t) {
      const auto width = static_cast<index_t>(beams.front().live.size());
      const const_tensor<B> logits = model.logits(cx, p, at);
      const auto rows = cx.read(logits);
      const auto cols = static_cast<std::size_t>(logits.cols());
      for (index_t s = 0; s < count; ++s) {
        std::vector<std::vector<double>> log_p;
        for (index_t j = 0; j < width; ++j)
          log_p.push_back(detail::log_softmax(std::span(rows).subspan(static_cast<std::size_t>(j * count + s) * cols, cols), s, t));
        beams[static_cast<std::size_t>(s)].extend(log_p, static_cast<std::size_t>(beam));
      }
      if (t + 1 == steps) break;
      std::vector<int> labels, parents;
      for (std::size_t j = 0; j < beams.front().live.size(); ++j)
        for (std::size_t s = 0; s < beams.size(); ++s) {
          labels.push_back(beams[s].live[j].labels.back());
          parents.push_back(static_cast<int>(beams[s].live[j].parent * count + static_cast<index_t>(s)));
        }
      at = model.advance(cx, p, at, indices<B>(cx.upload(labels)), indices<B>(cx.upload(parents)));
      B::synchronize(cx.queue());  // before the lists end
    }
  }
  ranked_paths<B> out;
  std::vector<int> labels;
  for (const detail::beam& each : beams)
    for (const auto& entry : each.live) {
      labels.insert(labels.end(), entry.labels.begin(), entry.labels.end());
      out.scores.push_back(entry.score);
    }
  out.paths = {cx.upload(labels), count, static_cast<index_t>(beams.front().live.size()), steps};
  B::synchronize(cx.queue());
  return out;
}

}  // namespace planlm
