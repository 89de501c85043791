/// The policy is a network of the library or a table; losses see plain numbers.
#include "learner.hpp"
#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <planlm/cpu.hpp>
#include <planlm/environments/backward_policy.hpp>
#include <planlm/environments/exact.hpp>
#include <planlm/layers/activation.hpp>
#include <planlm/layers/compose.hpp>
#include <planlm/layers/embedding.hpp>
#include <planlm/layers/linear.hpp>
#include <planlm/training/clipping.hpp>
#include "memory.hpp"
#include "trainer/parts_on.hpp"

namespace train_gflownet_grid {
namespace {

using B = cpu<float>;
using network = sequential<linear<B>, relu<B>, linear<B>, relu<B>, linear<B>>;

enum stream : std::uint32_t { start_stream = 1, table_stream = 101, ways_stream = 201, mixing_stream, replay_stream };

/// One number that is learned.
struct single_value {
  using backend = B;
  struct params {
    tensor<B, 1> value;
  };
  template <class F, class... P>
  void each_param(F&& f, P&... p) const {
    f(vector_spec("log_z", 1), p.value...);
  }
};

/// From states to rows of outputs, and gradients back.
class policy {
 public:
  using gradient_of = std::function<std::vector<float>(const std::vector<float>&)>;
  virtual ~policy() = default;
  virtual trainer::part_of<B>& part() = 0;
  virtual std::vector<float> outputs(const std::vector<index_t>& states) = 0;
  /// Gradients of the weights are added, from the gradient that `f` makes of the outputs.
  virtual void learn(const std::vector<index_t>& states, const gradient_of& f) = 0;
};

template <class M>
class policy_on : public policy {
 public:
  policy_on(context<B>& cx, M module, philox start, int width) : cx_(cx), module_(std::move(module)), part_(cx, module_, start, true, 0), width_(width) {}
  trainer::part_of<B>& part() override { return part_; }
  std::vector<float> outputs(const std::vector<index_t>& states) override {
    auto scope = cx_.scope();
    return read(call(states).value);
  }
  void learn(const std::vector<index_t>& states, const gradient_of& f) override {
    auto scope = cx_.scope();
    auto [y, pullback] = call(states);
    const std::vector<float> d = f(read(y));
    const const_tensor<B> dy = cx_.template upload<float>(std::span<const float>(d), y.rows(), y.cols());
    pullback(dy, part_.weights.grads);
  }

 protected:
  virtual std::vector<float> one_hot(const std::vector<index_t>& states) const = 0;

 private:
  std::vector<float> read(const_tensor<B> y) { return cx_.read(y); }
  auto call(const std::vector<index_t>& states) {
    const auto n = static_cast<index_t>(states.size());
    if constexpr (std::is_same_v<M, network>) {
      const std::vector<float> x = one_hot(states);
      const const_tensor<B> rows = cx_.template upload<float>(std::span<const float>(x), n, static_cast<index_t>(x.size()) / n);
      return module_(cx_, part_.weights.weights, rows);
    } else {
      const std::vector<int> ids(states.begin(), states.end());
      return module_(cx_, part_.weights.weights, indices<B>(cx_.upload(ids)));
    }
  }
  context<B>& cx_;
  M module_;
  trainer::part_on<B, M> part_;
  int width_;
};

/// Coordinates one-hot -> hidden -> hidden -> outputs.
class network_policy final : public policy_on<network> {
 public:
  network_policy(context<B>& cx, const hyper_grid& grid, index_t hidden, int width, philox start)
      : policy_on(cx, {linear<B>{index_t{grid.dimensions()} * grid.side(), hidden}, {}, linear<B>{hidden, hidden}, {}, linear<B>{hidden, width, true, 0.01}}, start, width),
        grid_(grid) {}

 private:
  std::vector<float> one_hot(const std::vector<index_t>& states) const override {
    const auto side = static_cast<std::size_t>(grid_.side()), wide = side * static_cast<std::size_t>(grid_.dimensions());
    std::vector<float> x(states.size() * wide, 0.0f);
    for (std::size_t i = 0; i < states.size(); ++i)
      for (int axis = 0; axis < grid_.dimensions(); ++axis)
        x[i * wide + static_cast<std::size_t>(axis) * side + static_cast<std::size_t>(grid_.coordinate(states[i], axis))] = 1;
    return x;
  }
  const hyper_grid& grid_;
};
/// A row of its own for each state.
class table_policy final : public policy_on<embedding<B>> {
 public:
  table_policy(context<B>& cx, index_t states, int width, philox start) : policy_on(cx, {states, width, 0.01}, start, width) {}

 private:
  std::vector<float> one_hot(const std::vector<index_t>&) const override { return {}; }
};

class grid_learner final : public learner {
 public:
  grid_learner(const target& to, const options& o, const std::string& loss, int seed, const philox& random)
      : to_(to), o_(o), loss_(loss_of(loss)), random_(random), cx_(B::queue{o.common.threads}),
        log_z_(cx_, single_value{}, philox{}, true, 0), memory_(to.graph, o) {
    const int width = policy_rows::width(to.graph.actions());
    const philox start{static_cast<std::uint64_t>(seed)};
    if (o.policy == "table") policy_ = std::make_unique<table_policy>(cx_, to.graph.states(), width, start.with_stream(table_stream));
    else policy_ = std::make_unique<network_policy>(cx_, to.grid, o.hidden, width, start.with_stream(start_stream));
    for (index_t s = 0; s < to.graph.states(); ++s) all_.push_back(s);
  }

  trainer::step_result step(index_t s) override {
    const std::vector<trajectory> ways = draw();
    const std::vector<index_t> states = all_fit() ? all_ : wanted(ways);
    double loss = 0, dlog_z = 0;
    policy_->learn(states, [&](const std::vector<float>& outputs) {
      policy_rows rows(to_.graph, states, outputs, o_.backward == "learned");
      loss = loss_of_batch(loss_.name, {o_.lambda, o_.flow_weight}, ways, rows, log_z(), dlog_z);
      return rows.gradient();
    });
    auto scope = cx_.scope();
    const double done = double(s) / std::max(1, o_.steps() - 1), share = 1 + (o_.last_share - 1) * done;
    trainer::part_of<B>& part = policy_->part();
    const auto norm = clip_global_norm(cx_, o_.clip > 0 ? o_.clip : INFINITY, part.gradients());
    const double size = cx_.read(norm.norm)[0];
    part.step(share * o_.policy_rate(), norm);
    if (loss_.partition == partition_from::parameter) {
      log_z_.weights.grads.value.data[0] = static_cast<float>(dlog_z);
      log_z_.step(share * o_.flow_rate, clip_global_norm(cx_, INFINITY, log_z_.gradients()));
    }
    index_t transitions = 0;
    for (const trajectory& w : ways) transitions += w.length();
    return {loss, transitions, size};
  }

  comparison compare() override {
    const int actions = to_.graph.actions();
    const auto choices = static_cast<std::size_t>(actions) + 1;
    std::vector<double> forward, backward;
    double root_flow = 0;
    log_sum root_edges;
    constexpr std::size_t block = 4096;
    for (std::size_t from = 0; from < all_.size(); from += block) {
      const std::vector<index_t> states(all_.begin() + static_cast<std::ptrdiff_t>(from),
                                        all_.begin() + static_cast<std::ptrdiff_t>(std::min(all_.size(), from + block)));
      const std::vector<float> outputs = policy_->outputs(states);
      const policy_rows rows(to_.graph, states, outputs, o_.backward == "learned");
      for (const index_t s : states) {
        forward.insert(forward.end(), rows.forward(s), rows.forward(s) + choices);
        backward.insert(backward.end(), rows.backward(s), rows.backward(s) + actions);
      }
      if (from > 0) continue;
      root_flow = rows.flow(0);
      for (int j = 0; j <= actions; ++j)
        if (j == actions || to_.graph.child(0, j) != -1) root_edges.add(rows.logit(0, j));
    }
    comparison c{};
    c.learned = exact::terminating(to_.graph, forward);
    c.l1 = exact::l1(c.learned, to_.posterior);
    c.tv = c.l1 / 2;
    c.kl = exact::kl(c.learned, to_.posterior);
    double log_z = NAN;
    switch (loss_.partition) {
      case partition_from::parameter: log_z = this->log_z(); break;
      case partition_from::root_flow:
        log_z = root_flow + (loss_.name.find("forward-looking") == std::string::npos ? 0 : to_.graph.log_reward(0));
        break;
      case partition_from::root_edges: log_z = root_edges.value(); break;
      case partition_from::bound: log_z = bound(forward, backward, c.learned); break;
      case partition_from::nothing: break;
    }
    c.log_z_error = log_z - to_.log_z;
    return c;
  }

  std::vector<trainer::named_part> parts() override {
    std::vector<trainer::named_part> all{{"policy", &policy_->part()}};
    if (loss_.partition == partition_from::parameter) all.push_back({"partition", &log_z_});
    return all;
  }
  std::vector<trainer::named_memory> memories() override { return memory_.named(); }

 private:
  double log_z() const { return double(log_z_.weights.weights.value.data[0]); }
  /// Few enough to be asked for all at once in each step.
  bool all_fit() const { return to_.graph.states() <= 1024; }

  /// E_q of log R + log P_B - log P_F over all ways, exactly: below log Z by the divergence of ways.
  double bound(const std::vector<double>& forward, const std::vector<double>& backward, const std::vector<double>& learned) const {
    const state_graph& graph = to_.graph;
    const std::vector<double> visit = exact::visits(graph, forward);
    const int actions = graph.actions();
    double sum = 0;
    for (index_t s = 0; s < graph.states(); ++s) {
      const double* row = &forward[static_cast<std::size_t>(s * (actions + 1))];
      const double here = visit[static_cast<std::size_t>(s)], ends = learned[static_cast<std::size_t>(s)];
      for (int a = 0; a < actions; ++a) {
        const index_t c = graph.child(s, a);
        if (c != -1 && here > 0) sum += here * std::exp(row[a]) * (backward[static_cast<std::size_t>(c * actions + a)] - row[a]);
      }
      if (ends > 0) sum += ends * (graph.log_reward(s) - row[actions]);
    }
    return sum;
  }

  /// The batch's ways: sampled by the policy as it explores, the rest walked back from remembered objects.
  std::vector<trajectory> draw() {
    const philox random = random_.with_stream(ways_stream);
    const exploration rule{.temperature = o_.temperature, .uniform = o_.epsilon};
    const std::vector<index_t> again = memory_.draw(o_.batch, random_.with_stream(replay_stream));
    const std::size_t fresh = static_cast<std::size_t>(o_.batch) - again.size();
    std::vector<trajectory> ways;
    if (all_fit()) {
      const std::vector<float> outputs = policy_->outputs(all_);
      const policy_rows rows(to_.graph, all_, outputs, o_.backward == "learned");
      for (std::size_t i = 0; i < fresh; ++i)
        ways.push_back(sample_forward(to_.graph, [&](index_t s) { return rows.forward(s); }, rule, random, i));
      for (std::size_t i = 0; i < again.size(); ++i)
        ways.push_back(sample_backward(to_.graph, again[i], [&](index_t s) { return rows.backward(s); }, random, fresh + i));
    } else {
      ways = draw_together(fresh, again, rule, random);
    }
    for (std::size_t i = 0; i < fresh; ++i) memory_.add(ways[i]);
    return ways;
  }

  /// The same ways where there are many states: step by step, only the states that are stood in are asked for.
  std::vector<trajectory> draw_together(std::size_t fresh, const std::vector<index_t>& again, const exploration& rule, philox random) {
    const int exit = to_.graph.actions();
    std::vector<trajectory> ways(fresh, trajectory{{0}, {}});
    std::vector<double> behaviour(static_cast<std::size_t>(exit) + 1);
    const auto advance = [&](std::vector<trajectory>& all, const auto& moves, const auto& move) {
      for (;;) {
        std::vector<std::size_t> active;
        std::vector<index_t> states;
        for (std::size_t i = 0; i < all.size(); ++i)
          if (moves(all[i])) active.push_back(i), states.push_back(all[i].states.back());
        if (active.empty()) return;
        std::sort(states.begin(), states.end());
        states.erase(std::unique(states.begin(), states.end()), states.end());
        const std::vector<float> outputs = policy_->outputs(states);
        const policy_rows rows(to_.graph, states, outputs, o_.backward == "learned");
        for (const std::size_t i : active) move(all[i], i, rows);
      }
    };
    advance(ways, [&](const trajectory& w) { return w.actions.empty() || w.actions.back() != exit; },
            [&](trajectory& w, std::size_t i, const policy_rows& rows) {
              const index_t s = w.states.back();
              explore_row(rows.forward(s), exit + 1, rule, behaviour.data());
              w.actions.push_back(choose(behaviour.data(), exit + 1, random.uniform(i, static_cast<std::uint32_t>(w.actions.size()))));
              if (w.actions.back() != exit) w.states.push_back(to_.graph.child(s, w.actions.back()));
            });
    std::vector<trajectory> back;
    for (const index_t object : again) back.push_back({{object}, {exit}});
    advance(back, [](const trajectory& w) { return w.states.back() != 0; },
            [&](trajectory& w, std::size_t i, const policy_rows& rows) {
              const index_t s = w.states.back();
              w.actions.push_back(choose(rows.backward(s), exit, random.uniform(fresh + i, static_cast<std::uint32_t>(w.states.size()))));
              w.states.push_back(to_.graph.parent(s, w.actions.back()));
            });
    for (trajectory& w : back) {
      std::reverse(w.states.begin(), w.states.end());
      std::reverse(w.actions.begin(), w.actions.end());
      ways.push_back(std::move(w));
    }
    return ways;
  }

  /// The states a batch passes, each once; for flow matching their parents too.
  std::vector<index_t> wanted(const std::vector<trajectory>& ways) const {
    std::vector<index_t> states;
    for (const trajectory& w : ways)
      for (const index_t s : w.states) {
        states.push_back(s);
        for (int a = 0; a < to_.graph.actions() && loss_.name == "flow-matching"; ++a)
          if (to_.graph.parent(s, a) != -1) states.push_back(to_.graph.parent(s, a));
      }
    std::sort(states.begin(), states.end());
    states.erase(std::unique(states.begin(), states.end()), states.end());
    return states;
  }

  const target& to_;
  const options& o_;
  const loss_kind& loss_;
  const philox& random_;
  context<B> cx_;
  std::unique_ptr<policy> policy_;
  trainer::part_on<B, single_value> log_z_;
  object_memory memory_;
  std::vector<index_t> all_;
};

grid_reward reward_of(const std::string& name) {
  return name == "cosine" ? grid_reward::cosine : name == "sparse" ? grid_reward::sparse : name == "deceptive" ? grid_reward::deceptive : grid_reward::original;
}

}  // namespace

target::target(const options& o)
    : grid(o.dimensions, o.side, reward_of(o.reward), {o.r0, o.r1, o.r2}), graph(grid), posterior(exact::posterior(graph)), log_z(exact::log_partition(graph)) {}

std::unique_ptr<learner> make_learner(const target& to, const options& o, const std::string& loss, int seed, const philox& random) {
  return std::make_unique<grid_learner>(to, o, loss, seed, random);
}

}  // namespace train_gflownet_grid
