#include <planlm/objectives/flow_matching.hpp>

#include "batch.hpp"

using namespace objectives_test;

namespace {
const double none = -std::numeric_limits<double>::infinity();

/// Places of a (states, width) table that hold edge e = 3 * state + action of the grid, -1 elsewhere.
struct grid {
  std::vector<int> incoming, outgoing;
  index_t states = 0;
  explicit grid(const std::vector<int>& visited) {
    for (const int s : visited) {
      const int x = s / 3, y = s % 3;
      incoming.push_back(x > 0 ? 3 * (s - 3) : -1), incoming.push_back(y > 0 ? 3 * (s - 1) + 1 : -1);
      outgoing.push_back(x < 2 ? 3 * s : -1), outgoing.push_back(y < 2 ? 3 * s + 1 : -1), outgoing.push_back(3 * s + 2);
      ++states;
    }
  }
};
numbers gathered(const numbers& edge, const std::vector<int>& place) {
  numbers v;
  for (const int e : place) v.push_back(e < 0 ? none : edge[static_cast<std::size_t>(e)]);
  return v;
}
struct result {
  double total, matching, reward;
  numbers dedge;
};
template <class G = squared>
result on_grid(const numbers& edge, const std::vector<int>& visited, const std::vector<int>& ending, const numbers& log_reward,
               double alpha, const G& g = {}) {
  const grid at(visited);
  const numbers in = gathered(edge, at.incoming), out = gathered(edge, at.outgoing);
  numbers exits;
  for (const int s : ending) exits.push_back(edge[static_cast<std::size_t>(3 * s + 2)]);
  context<B> cx;
  planlm::testing::poison(cx);
  const auto l = flow_matching<G>{alpha, g}(cx, edge_flows<B>{matrix(in, at.states), matrix(out, at.states), row(exits), row(log_reward)});
  result r{cx.read_one(l.total), cx.read_one(l.matching), cx.read_one(l.reward), numbers(edge.size())};
  const numbers din = cx.read(l.dincoming), dout = cx.read(l.doutgoing), dexit = l.dexit ? cx.read(l.dexit) : numbers{};
  for (std::size_t i = 0; i < din.size(); ++i) {
    if (at.incoming[i] >= 0) r.dedge[static_cast<std::size_t>(at.incoming[i])] += din[i];
    else CHECK(din[i] == 0);
  }
  for (std::size_t i = 0; i < dout.size(); ++i)
    if (at.outgoing[i] >= 0) r.dedge[static_cast<std::size_t>(at.outgoing[i])] += dout[i];
  for (std::size_t i = 0; i < dexit.size(); ++i) r.dedge[static_cast<std::size_t>(3 * ending[i] + 2)] += dexit[i];
  return r;
}
}  // namespace

TEST_CASE("flow matching on a grid has the published losses and gradients of edges") {
  const auto& d = golden("D_FM_grid3");
  const numbers edge = flattened(d.at("log_edge_flow")), rewards = d.at("terminating_log_rewards").get<numbers>();
  const auto visited = d.at("intermediary_states").get<std::vector<int>>(), ending = d.at("terminating_states").get<std::vector<int>>();
  const result r = on_grid(edge, visited, ending, rewards, 1);
  CHECK(std::abs(r.matching - d.at("fm_loss_mean").get<double>()) < 1e-11);
  CHECK(std::abs(r.reward - d.at("reward_matching_loss_mean").get<double>()) < 1e-11);
  CHECK(std::abs(r.total - d.at("total_alpha1").get<double>()) < 1e-11);
  CHECK(gap(r.dedge, flattened(d.at("d_log_edge_flow"))) < 1e-11);
}

TEST_CASE("flow matching has the gradient of its value for any regression, initial states and no exits among the cases") {
  const numbers edge = planlm::testing::normal_values(27, 3);
  const std::vector<int> visited{0, 1, 3, 4, 8, 4};  // 0 is initial: it counts for nothing
  const auto check = [&](const auto& g, const std::vector<int>& ending, const numbers& rewards) {
    CHECK(planlm::testing::directional_error(
              edge, [&](const numbers& e) { return on_grid(e, visited, ending, rewards, 0.6, g).total; },
              [&](const numbers& e) { return on_grid(e, visited, ending, rewards, 0.6, g).dedge; }) < 1e-7);
  };
  check(squared{}, {4, 8}, {0.2, -0.3});
  check(shifted_cosh{}, {4, 8, 4}, {0.2, -0.3, 0.2});
  check(linex{1}, {}, {});
  const result with = on_grid(edge, {0, 1, 4}, {}, {}, 1), without = on_grid(edge, {1, 4}, {}, {}, 1);
  CHECK(with.total == without.total);
  CHECK(with.dedge == without.dedge);
}

TEST_CASE("flows that match have loss 0, and only initial states have it too") {
  // A chain: 2 in, 0.5 out by the exit and 1.5 onwards.
  const numbers in{std::log(2.0), std::log(1.5)}, out{std::log(0.5), std::log(1.5), std::log(1.5), none};
  context<B> cx;
  const auto l = flow_matching<>{}(cx, edge_flows<B>{matrix(in, 2), matrix(out, 2)});
  CHECK(cx.read_one(l.total) < 1e-28);
  const numbers nothing{none, none}, leaves{0.0, 0.0};
  const auto initial = flow_matching<>{}(cx, edge_flows<B>{matrix(nothing, 2), matrix(leaves, 2)});
  CHECK(cx.read_one(initial.total) == 0);
  CHECK(cx.read(initial.doutgoing) == numbers(2));
}
