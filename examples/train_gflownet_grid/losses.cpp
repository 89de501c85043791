/// Trajectories as the arrays the library's losses take.
#include "losses.hpp"
#include <algorithm>
#include <cmath>
#include <utility>
#include <planlm/backend/cpu/cpu.hpp>
#include <planlm/environments/policy_table.hpp>
#include <planlm/objectives/balance_weighting.hpp>
#include <planlm/objectives/detailed_balance.hpp>
#include <planlm/objectives/flow_matching.hpp>
#include <planlm/objectives/log_partition_variance.hpp>
#include <planlm/objectives/policy_balance.hpp>
#include <planlm/objectives/policy_gradient.hpp>
#include <planlm/objectives/trajectory_balance.hpp>

namespace train_gflownet_grid {
namespace {

using B = cpu<double>;

/// Padded arrays of a batch: N ways of up to T transitions, the exit among them.
struct batch {
  index_t n, t;
  std::vector<int> length;
  std::vector<double> pf, pb, flow, so_far, reward;

  batch(const std::vector<trajectory>& ways, const policy_rows& rows) : n(static_cast<index_t>(ways.size())), t(1) {
    for (const trajectory& w : ways) t = std::max(t, w.length());
    const auto size = static_cast<std::size_t>(n * t);
    pf.assign(size, NAN), pb.assign(size, NAN), flow.assign(size, NAN), so_far.assign(size, NAN);
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const trajectory& w = ways[i];
      for (std::size_t k = 0; k < w.actions.size(); ++k) {
        const std::size_t at = i * static_cast<std::size_t>(t) + k;
        const index_t s = w.states[k];
        pf[at] = rows.forward(s)[w.actions[k]];
        pb[at] = k + 1 < w.actions.size() ? rows.backward(w.states[k + 1])[w.actions[k]] : 0;
        flow[at] = rows.flow(s);
        so_far[at] = rows.graph().log_reward(s);
      }
      length.push_back(static_cast<int>(w.length()));
      reward.push_back(rows.graph().log_reward(w.object()));
    }
  }
  trajectories<B> view(bool flows, bool forward_looking) const {
    trajectories<B> z{.log_pf = {pf.data(), n, t}, .log_reward = {reward.data(), n}, .length = {length.data(), n}, .log_pb = {pb.data(), n, t}};
    if (flows) z.log_flow = {flow.data(), n, t};
    if (forward_looking) z.state_log_reward = {so_far.data(), n, t};
    return z;
  }
};

void send_back(const trajectory_loss<B>& out, const std::vector<trajectory>& ways, index_t t, policy_rows& rows) {
  for (std::size_t i = 0; i < ways.size(); ++i)
    for (std::size_t k = 0; k < ways[i].actions.size(); ++k) {
      const auto at = static_cast<index_t>(i) * t + static_cast<index_t>(k);
      const index_t s = ways[i].states[k];
      rows.add_forward(s, ways[i].actions[k], out.dlog_pf.data[at]);
      if (k + 1 < ways[i].actions.size()) rows.add_backward(ways[i].states[k + 1], ways[i].actions[k], out.dlog_pb.data[at]);
      if (out.dlog_flow) rows.add_flow(s, out.dlog_flow.data[at]);
    }
}

/// Every point of the grid may stop, so its flow is R / P(exit): moves without the exit, and what stopping at each point would give. log P_B
/// is taken off log P_F, as the score of a move.
struct stopping {
  index_t n, t;
  std::vector<int> length;
  std::vector<double> pf, pb, net, stop, reward;
  stopping(const std::vector<trajectory>& ways, const policy_rows& rows) : n(static_cast<index_t>(ways.size())), t(1) {
    for (const trajectory& w : ways) t = std::max(t, w.length() - 1);
    const auto moves = static_cast<std::size_t>(n * t), points = static_cast<std::size_t>(n * (t + 1));
    pf.assign(moves, NAN), pb.assign(moves, NAN), net.assign(moves, NAN), stop.assign(points, NAN), reward.assign(points, NAN);
    const int exit = rows.graph().actions();
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const trajectory& w = ways[i];
      for (std::size_t k = 0; k < w.states.size(); ++k) {
        const std::size_t point = i * static_cast<std::size_t>(t + 1) + k, move = i * static_cast<std::size_t>(t) + k;
        stop[point] = rows.forward(w.states[k])[exit];
        reward[point] = rows.graph().log_reward(w.states[k]);
        if (k + 1 == w.states.size()) break;
        pf[move] = rows.forward(w.states[k])[w.actions[k]];
        pb[move] = rows.backward(w.states[k + 1])[w.actions[k]];
        net[move] = pf[move] - pb[move];
      }
      length.push_back(static_cast<int>(w.states.size()) - 1);
    }
  }
  policy_terms<B> terms() const {
    policy_terms<B> z{};
    z.taken = {net.data(), n, t};
    z.stop = {stop.data(), n, t + 1};
    z.reward = {reward.data(), n, t + 1};
    z.length = {length.data(), n};
    return z;
  }
};
void send_back(const double* dmove, const double* dback, const double* dstop, const std::vector<trajectory>& ways, index_t t, policy_rows& rows) {
  const int exit = rows.graph().actions();
  for (std::size_t i = 0; i < ways.size(); ++i)
    for (std::size_t k = 0; k < ways[i].states.size(); ++k) {
      const index_t row = static_cast<index_t>(i), at = static_cast<index_t>(k);
      rows.add_forward(ways[i].states[k], exit, dstop[row * (t + 1) + at]);
      if (k + 1 == ways[i].states.size()) break;
      rows.add_forward(ways[i].states[k], ways[i].actions[k], dmove[row * t + at]);
      if (dback) rows.add_backward(ways[i].states[k + 1], ways[i].actions[k], dback[row * t + at]);
    }
}

double match_flows(context<B>& cx, const loss_settings& settings, const std::vector<trajectory>& ways, policy_rows& rows) {
  const state_graph& graph = rows.graph();
  const int actions = graph.actions();
  std::vector<index_t> visits, ends;
  for (const trajectory& w : ways) {
    visits.insert(visits.end(), w.states.begin() + 1, w.states.end());
    ends.push_back(w.object());
  }
  std::vector<double> in, out, exit, reward;
  for (const index_t s : visits) {
    for (int a = 0; a < actions; ++a) in.push_back(graph.parent(s, a) == -1 ? minus_infinity : rows.logit(graph.parent(s, a), a));
    for (int a = 0; a < actions; ++a) out.push_back(graph.child(s, a) == -1 ? minus_infinity : rows.logit(s, a));
    out.push_back(graph.stops(s) ? rows.logit(s, actions) : minus_infinity);
  }
  for (const index_t s : ends) exit.push_back(rows.logit(s, actions)), reward.push_back(graph.log_reward(s));
  const auto n = static_cast<index_t>(visits.size()), m = static_cast<index_t>(ends.size());
  edge_flows<B> z{};
  z.incoming = {in.data(), n, index_t{actions}};
  z.outgoing = {out.data(), n, index_t{actions} + 1};
  z.exit = {exit.data(), m};
  z.log_reward = {reward.data(), m};
  const auto loss = flow_matching<>{.alpha = settings.flow_weight}(cx, z);
  for (index_t i = 0; i < n; ++i) {
    const index_t s = visits[static_cast<std::size_t>(i)];
    for (int a = 0; a < actions; ++a) {
      if (graph.parent(s, a) != -1) rows.add_logit(graph.parent(s, a), a, loss.dincoming.data[i * actions + a]);
      if (graph.child(s, a) != -1) rows.add_logit(s, a, loss.doutgoing.data[i * (actions + 1) + a]);
    }
    if (graph.stops(s)) rows.add_logit(s, actions, loss.doutgoing.data[i * (actions + 1) + actions]);
  }
  for (index_t i = 0; i < m; ++i) rows.add_logit(ends[static_cast<std::size_t>(i)], actions, loss.dexit.data[i]);
  return loss.total.data[0];
}

struct weighting_name {
  const char* loss;
  balance_weighting weighting;
};
constexpr weighting_name weightings[] = {{"subtb-detailed", balance_weighting::detailed_balance},
                                         {"subtb-modified", balance_weighting::modified_detailed_balance},
                                         {"subtb-ends", balance_weighting::trajectory_balance},
                                         {"subtb-equal", balance_weighting::equal},
                                         {"subtb-equal-within", balance_weighting::equal_within},
                                         {"subtb-geometric-within", balance_weighting::geometric_within},
                                         {"subtb-geometric", balance_weighting::geometric},
                                         {"subtb-forward-looking", balance_weighting::geometric_within}};

}  // namespace

const std::vector<loss_kind>& all_losses() {
  using enum partition_from;
  static const std::vector<loss_kind> all{
      {"flow-matching", "what flows into a point flows out of it; the network's outputs are flows of edges", root_edges},
      {"detailed-balance", "each step on its own, with a learned flow of each point", root_flow},
      {"forward-looking", "detailed balance, the flow learned relative to the reward of stopping here", root_flow},
      {"modified-db", "detailed balance of a policy that may stop anywhere: no flow is learned", bound},
      {"modified-subtb", "the same over all pairs of points of a way, weighted by lambda; the mean of the batch stands before its first point", bound},
      {"trajectory-balance", "each way as a whole, with a learned log Z", parameter},
      {"vargrad", "the variance of log P_F - log P_B - log R over the batch: nothing is learned beside the policy", bound},
      {"subtb-detailed", "sub-trajectories of one step alone, mean over the steps of the batch: detailed balance", root_flow},
      {"subtb-modified", "sub-trajectories of one step alone, mean within each way first", root_flow},
      {"subtb-ends", "whole ways alone, with the learned flow of the first point as Z", root_flow},
      {"subtb-equal", "all sub-trajectories of the batch alike", root_flow},
      {"subtb-equal-within", "all sub-trajectories of a way alike, mean over ways", root_flow},
      {"subtb-geometric-within", "lambda to the length, divided by its sum within the way, mean over ways", root_flow},
      {"subtb-geometric", "lambda to the length, mean over the batch's sub-trajectories of each length", root_flow},
      {"subtb-forward-looking", "subtb-geometric-within, the flow learned relative to the reward of stopping here", root_flow},
      {"reward-only", "policy gradient of the mean log reward, the control: it is not meant to match", nothing}};
  return all;
}
std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const loss_kind& k : all_losses()) names.push_back(k.name);
  return names;
}
const loss_kind& loss_of(const std::string& name) {
  const auto found = std::find_if(all_losses().begin(), all_losses().end(), [&](const loss_kind& k) { return k.name == name; });
  if (found == all_losses().end()) throw error("there is no loss '" + name + "'");
  return *found;
}

policy_rows::policy_rows(const state_graph& graph, const std::vector<index_t>& states, const std::vector<float>& outputs, bool backward_learned)
    : graph_(graph), outputs_(outputs), width_(static_cast<std::size_t>(width(graph.actions()))), choices_(static_cast<std::size_t>(graph.actions()) + 1),
      backward_learned_(backward_learned), row_(static_cast<std::size_t>(graph.states()), -1), forward_(states.size() * choices_),
      backward_(states.size() * (choices_ - 1)), dforward_(forward_.size(), 0.0), dbackward_(backward_.size(), 0.0), doutputs_(outputs.size(), 0.0) {
  std::vector<double> logits(choices_), zeros(choices_, 0.0);
  for (std::size_t i = 0; i < states.size(); ++i) {
    row_[static_cast<std::size_t>(states[i])] = static_cast<int>(i);
    const float* out = &outputs[i * width_];
    std::copy_n(out, choices_, logits.begin());
    forward_row(graph, states[i], logits.data(), &forward_[i * choices_]);
    std::copy_n(out + choices_, choices_ - 1, logits.begin());
    backward_row(graph, states[i], backward_learned ? logits.data() : zeros.data(), &backward_[i * (choices_ - 1)]);
  }
}
std::vector<float> policy_rows::gradient() {
  const std::size_t rows = forward_.size() / choices_;
  for (std::size_t i = 0; i < rows; ++i) {
    double* to = &doutputs_[i * width_];
    row_pullback(&forward_[i * choices_], &dforward_[i * choices_], static_cast<int>(choices_), to);
    if (backward_learned_) row_pullback(&backward_[i * (choices_ - 1)], &dbackward_[i * (choices_ - 1)], static_cast<int>(choices_) - 1, to + choices_);
  }
  return {doutputs_.begin(), doutputs_.end()};
}

double loss_of_batch(const std::string& loss, const loss_settings& settings, const std::vector<trajectory>& ways, policy_rows& rows, double log_z,
                     double& dlog_z) {
  context<B> cx{B::queue{1}};
  dlog_z = 0;
  if (loss == "flow-matching") return match_flows(cx, settings, ways, rows);
  if (loss == "modified-db") {
    const stopping b(ways, rows);
    stopping_trajectories<B> z{};
    z.log_pf = {b.pf.data(), b.n, b.t};
    z.log_pb = {b.pb.data(), b.n, b.t};
    z.log_stop = {b.stop.data(), b.n, b.t + 1};
    z.log_reward = {b.reward.data(), b.n, b.t + 1};
    z.length = {b.length.data(), b.n};
    const auto out = modified_detailed_balance<>{}(cx, z);
    send_back(out.dlog_pf.data, out.dlog_pb.data, out.dlog_stop.data, ways, b.t, rows);
    return out.total.data[0];
  }
  if (loss == "modified-subtb" || loss == "reward-only") {
    const stopping b(ways, rows);
    const auto z = b.terms();
    const bool matches = loss == "modified-subtb";
    const policy_loss<B> out = matches ? modified_sub_trajectory_balance{.lambda = settings.lambda}(cx, z) : policy_gradient{}(cx, z);
    std::vector<double> back(out.dtaken.data, out.dtaken.data + out.dtaken.size());
    for (double& d : back) d = -d;
    send_back(out.dtaken.data, matches ? back.data() : nullptr, out.dstop.data, ways, b.t, rows);
    return out.total.data[0];
  }
  const batch b(ways, rows);
  const auto finish = [&](const trajectory_loss<B>& out) {
    send_back(out, ways, b.t, rows);
    if (out.dlog_z) dlog_z = out.dlog_z.data[0];
    return out.total.data[0];
  };
  if (loss == "trajectory-balance") return finish(trajectory_balance<>{}(cx, b.view(false, false), const_accum_tensor<B>{&log_z, 1}));
  if (loss == "vargrad") return finish(log_partition_variance{}(cx, b.view(false, false)));
  if (loss == "detailed-balance") return finish(detailed_balance<>{}(cx, b.view(true, false)));
  if (loss == "forward-looking") return finish(detailed_balance<>{}(cx, b.view(true, true)));
  for (const weighting_name& w : weightings)
    if (loss == w.loss)
      return finish(sub_trajectory_balance<>{.weighting = w.weighting, .lambda = settings.lambda}(cx, b.view(true, loss == "subtb-forward-looking")));
  throw error("there is no loss '" + loss + "'");
}

}  // namespace train_gflownet_grid
