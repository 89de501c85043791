/// What the tests of objectives share: batches in host memory whose padding is NaN, the goldens, and finite differences of a loss in
/// everything it gives a gradient to.
#pragma once
#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <vector>
#include <nlohmann/json.hpp>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/objectives/policy_terms.hpp>
#include <planlm/objectives/trajectories.hpp>
#include <planlm/testing/compare.hpp>
#include <planlm/testing/gradient_check.hpp>

#include "../catch.hpp"

namespace objectives_test {

using namespace planlm;
using B = cpu<double>;
using numbers = std::vector<double>;

inline const double nan_value = std::numeric_limits<double>::quiet_NaN();

inline view<const double, 2> matrix(const numbers& v, index_t rows) {
  return {v.empty() ? nullptr : v.data(), rows, static_cast<index_t>(v.size()) / std::max<index_t>(rows, 1)};
}
inline view<const double, 1> row(const numbers& v) { return {v.empty() ? nullptr : v.data(), v.size()}; }
inline indices<B> ints(const std::vector<int>& v) { return {v.empty() ? nullptr : v.data(), v.size()}; }

/// The largest |a - b|; infinity if the sizes differ or anything is not a number.
inline double gap(const numbers& a, const numbers& b) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    worst = std::isfinite(a[i] - b[i]) ? std::max(worst, std::abs(a[i] - b[i])) : INFINITY;
  return worst;
}
/// ||a - b|| / ||b||.
inline double distance(const numbers& a, const numbers& b) { return planlm::testing::relative_error(a, b); }

inline const nlohmann::json& golden(const std::string& section) {
  static const nlohmann::json all = nlohmann::json::parse(std::ifstream(PLANLM_GOLDEN "/gflownet_losses.json"));
  return all.at(section);
}
/// (T, N) of a golden as (N, T), what lies beyond a length replaced by `padding`.
inline numbers turned(const nlohmann::json& by_time, const std::vector<int>& length, std::size_t steps, double padding) {
  numbers v(length.size() * steps, padding);
  for (std::size_t n = 0; n < length.size(); ++n)
    for (std::size_t t = 0; t < static_cast<std::size_t>(length[n]); ++t) v[n * steps + t] = by_time.at(t).at(n).get<double>();
  return v;
}
inline numbers flattened(const nlohmann::json& rows) {
  numbers v;
  for (const auto& r : rows)
    for (const auto& x : r) v.push_back(x.get<double>());
  return v;
}

/// A batch of general trajectories; a member left empty is not given.
struct flow_batch {
  std::vector<int> length, group;
  index_t steps = 0, groups = 1;
  numbers pf, pb, flow, so_far, prior, reward, log_z;

  trajectories<B> terms() const {
    const auto n = static_cast<index_t>(length.size());
    return {matrix(pf, n), row(reward), ints(length), matrix(pb, n), matrix(flow, n), matrix(so_far, n), matrix(prior, n), ints(group),
            groups};
  }
  view<const double, 1> z() const { return row(log_z); }
  /// Random values where a trajectory is, NaN elsewhere.
  static flow_batch random(std::vector<int> lengths, index_t steps, std::uint64_t seed, bool backward = true, bool forward_looking = false) {
    flow_batch b;
    b.length = std::move(lengths), b.steps = steps;
    const auto n = static_cast<index_t>(b.length.size());
    const auto fill = [&](std::uint64_t which) {
      numbers v = planlm::testing::normal_values(n * steps, seed + which);
      for (std::size_t r = 0; r < b.length.size(); ++r)
        for (index_t t = b.length[r]; t < steps; ++t) v[r * static_cast<std::size_t>(steps) + static_cast<std::size_t>(t)] = nan_value;
      return v;
    };
    b.pf = fill(1), b.flow = fill(2), b.prior = fill(3);
    if (backward) b.pb = fill(4);
    if (forward_looking) b.so_far = fill(5);
    b.reward = planlm::testing::normal_values(n, seed + 6);
    for (index_t r = 0; r < n; ++r) b.group.push_back(static_cast<int>(r % 2));
    b.groups = 2;
    b.log_z = {0.7, -0.4};
    return b;
  }
};

/// A's three trajectories of 4, 2 and 3 transitions.
inline flow_batch golden_batch(double padding = nan_value) {
  const auto& a = golden("A_trajectory_losses");
  flow_batch b;
  b.length = {4, 2, 3}, b.steps = 4;
  b.pf = turned(a.at("log_pf"), b.length, 4, padding), b.pb = turned(a.at("log_pb"), b.length, 4, padding);
  b.prior = turned(a.at("log_prior"), b.length, 4, padding), b.flow = turned(a.at("logF"), b.length, 4, padding);
  b.reward = a.at("log_rewards").get<numbers>();
  b.log_z = {a.at("logZ").get<double>()};
  return b;
}

/// Everything a loss returns, on the host.
struct outcome {
  double total;
  numbers each, dpf, dpb, dflow, dz;
};
inline outcome read(context<B>& cx, const trajectory_loss<B>& l) {
  const auto optional = [&](const auto& v) { return v ? cx.read(v) : numbers{}; };
  return {cx.read_one(l.total), cx.read(l.each), cx.read(l.dlog_pf), optional(l.dlog_pb), optional(l.dlog_flow), optional(l.dlog_z)};
}
/// loss(cx, trajectories, log_z) on memory full of NaN.
template <class Loss>
outcome evaluate(const flow_batch& b, const Loss& loss) {
  context<B> cx;
  planlm::testing::poison(cx, 20000);
  return read(cx, loss(cx, b.terms(), b.z()));
}
/// Against central differences along random directions of log P_F, log P_B, log F and log Z.
template <class Loss>
double gradient_gap(flow_batch b, const Loss& loss) {
  const auto each_value = [](auto& batch, auto&& f) {
    for (numbers* field : {&batch.pf, &batch.pb, &batch.flow})
      for (std::size_t i = 0; i < field->size(); ++i)
        if (static_cast<int>(i % static_cast<std::size_t>(batch.steps)) < batch.length[i / static_cast<std::size_t>(batch.steps)])
          f((*field)[i]);
    for (double& v : batch.log_z) f(v);
  };
  numbers at;
  each_value(b, [&](double& v) { at.push_back(v); });
  const auto load = [&](const numbers& x) {
    std::size_t i = 0;
    each_value(b, [&](double& v) { v = x[i++]; });
  };
  return planlm::testing::directional_error(
      at,
      [&](const numbers& x) {
        load(x);
        return evaluate(b, loss).total;
      },
      [&](const numbers& x) {
        load(x);
        const outcome o = evaluate(b, loss);
        flow_batch g = b;
        g.pf = o.dpf;
        if (!b.pb.empty()) g.pb = o.dpb.empty() ? numbers(b.pb.size()) : o.dpb;
        g.flow = o.dflow.empty() ? numbers(b.flow.size()) : o.dflow;
        g.log_z = o.dz.empty() ? numbers(b.log_z.size()) : o.dz;
        numbers out;
        each_value(g, [&](double& v) { out.push_back(v); });
        return out;
      });
}

/// A batch of rollouts of a policy that may stop anywhere.
struct policy_batch {
  std::vector<int> length, group;
  index_t groups = 1, shortest = 0, longest = std::numeric_limits<index_t>::max();
  index_t cols = 0;  // L + 1
  numbers taken, stop, reward, flow;

  policy_terms<B> terms() const {
    const auto n = static_cast<index_t>(length.size());
    return {{taken.data(), n, cols - 1}, matrix(stop, n), matrix(reward, n), ints(length), ints(group), groups, shortest, longest};
  }
  /// Two prompts by turns; what no loss may read is NaN, forbidden stops among it.
  static policy_batch random(std::vector<int> lengths, index_t cols, std::uint64_t seed, index_t shortest = 0,
                             index_t longest = std::numeric_limits<index_t>::max()) {
    policy_batch b;
    b.length = std::move(lengths), b.cols = cols, b.shortest = shortest, b.longest = longest;
    const auto n = static_cast<index_t>(b.length.size());
    b.taken = planlm::testing::normal_values(n * (cols - 1), seed), b.stop = planlm::testing::normal_values(n * cols, seed + 1);
    b.reward = planlm::testing::normal_values(n * cols, seed + 2);
    for (index_t r = 0; r < n; ++r) {
      const index_t last = b.length[static_cast<std::size_t>(r)];
      for (index_t k = 0; k < cols; ++k) {
        const auto i = static_cast<std::size_t>(r * cols + k);
        if (k >= last && k + 1 < cols) b.taken[static_cast<std::size_t>(r * (cols - 1) + k)] = nan_value;
        if (k > last || k < shortest) b.stop[i] = b.reward[i] = nan_value;
        if (k >= longest) b.stop[i] = nan_value;
      }
      b.group.push_back(static_cast<int>(r % 2));
    }
    b.groups = 2;
    b.flow = {0.3, -0.8};
    return b;
  }
};
struct policy_outcome {
  double total;
  numbers each, dtaken, dstop, dflow;
};
inline policy_outcome read(context<B>& cx, const policy_loss<B>& l) {
  return {cx.read_one(l.total), cx.read(l.each), cx.read(l.dtaken), cx.read(l.dstop), l.dflow ? cx.read(l.dflow) : numbers{}};
}
/// loss(cx, terms, flow) on memory full of NaN.
template <class Loss>
policy_outcome evaluate(const policy_batch& b, const Loss& loss) {
  context<B> cx;
  planlm::testing::poison(cx, 20000);
  return read(cx, loss(cx, b.terms(), row(b.flow)));
}
/// Against central differences along random directions of log q(action), log q(stop) and the flow. `value(batch)` is what is differentiated,
/// by default the loss itself.
template <class Loss, class Value>
double gradient_gap(policy_batch b, const Loss& loss, const Value& value) {
  const auto each_value = [&](auto& batch, auto&& f) {
    const auto cols = static_cast<std::size_t>(b.cols);
    for (std::size_t i = 0; i < batch.stop.size(); ++i) {
      const auto k = static_cast<index_t>(i % cols), n = static_cast<index_t>(b.length[i / cols]);
      if (k <= n && k >= b.shortest && k < b.longest) f(batch.stop[i]);
      if (k < n) f(batch.taken[i / cols * (cols - 1) + i % cols]);
    }
    for (double& v : batch.flow) f(v);
  };
  numbers at;
  each_value(b, [&](double& v) { at.push_back(v); });
  const auto load = [&](const numbers& x) {
    std::size_t i = 0;
    each_value(b, [&](double& v) { v = x[i++]; });
  };
  return planlm::testing::directional_error(
      at,
      [&](const numbers& x) {
        load(x);
        return value(b);
      },
      [&](const numbers& x) {
        load(x);
        const policy_outcome o = evaluate(b, loss);
        policy_batch g = b;
        g.taken = o.dtaken, g.stop = o.dstop, g.flow = o.dflow.empty() ? numbers(b.flow.size()) : o.dflow;
        numbers out;
        each_value(g, [&](double& v) { out.push_back(v); });
        return out;
      });
}
template <class Loss>
double gradient_gap(const policy_batch& b, const Loss& loss) {
  return gradient_gap(b, loss, [&](const policy_batch& moved) { return evaluate(moved, loss).total; });
}

}  // namespace objectives_test
