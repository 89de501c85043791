#include <planlm/planning/look_ahead.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "look_ahead_case.hpp"

using namespace planlm;
using testing::as_list;
using testing::as_matrix;
using testing::largest_error;
using testing::look_ahead_case;
using testing::normal_values;
using testing::same_bits;
using B = cpu<double>;
using values = std::vector<double>;

namespace {

look_ahead<B> small(index_t depth = 1, double gradient_scale = 0.5) { return {planner<B>{6, 5, 2, 10, 1}, depth, gradient_scale}; }

/// Labels of three steps of four sentences, of which the last two end early.
const std::vector<int> three_labels{2, 0, 4, 1, 3, 3, 0, -1, 1, 4, -1, -1};

template <class T>
std::vector<T> part(const std::vector<T>& v, index_t begin, index_t end) {
  return {v.begin() + begin, v.begin() + end};
}

/// Upstream gradients of all four steps, those of every step but `step` zero if it is given.
values upstream(index_t step = -1) {
  values ds = normal_values(4 * 4 * 5, 8);
  for (index_t t = 0; t < 4 && step >= 0; ++t)
    if (t != step) std::fill(ds.begin() + 20 * t, ds.begin() + 20 * (t + 1), 0.0);
  return ds;
}

template <class T>
void check_zero_unrolls(index_t plan_depth) {
  using C = cpu<T>;
  look_ahead_case<T> with({planner<C>{6, 5, 2, 10, plan_depth}, 2});
  const planner<C>& plain = with.model.plan;
  parameters<planner<C>> phi(with.cx, plain, philox{1});
  for (std::size_t n = 0; n < phi.slots().size(); ++n) {
    CHECK(with.theta.slots()[n].spec.name == "plan." + phi.slots()[n].spec.name);
    phi.write(with.cx, n, with.theta.read(with.cx, n));
  }
  const auto ds = normal_values<T>(4 * 5, 8);
  auto scope = with.cx.scope();
  auto [s, pullback] = plain(with.cx, phi.weights, with.input(), with.seq());
  pullback(as_matrix<C>(ds, 4), phi.grads);
  const std::vector<T> expected = with.cx.read(const_tensor<C>(s));
  CHECK(same_bits(with.logits(), expected));
  const auto g = with.gradients({}, ds);
  for (std::size_t n = 0; n < g.size(); ++n) {
    CAPTURE(with.theta.slots()[n].spec.name);
    if (n < phi.slots().size()) CHECK(same_bits(g[n], phi.read_gradient(with.cx, n)));
    else CHECK(std::all_of(g[n].begin(), g[n].end(), [](T v) { return v == 0; }));
  }
  // Whatever comes after, the first step stays the planner's.
  CHECK(same_bits(part(with.logits(three_labels), 0, 20), expected));
}

}  // namespace

TEST_CASE("zero unrolls are the single-step planner bit for bit, in value and gradient") {
  for (const index_t depth : {0, 1, 2}) {
    CAPTURE(depth);
    check_zero_unrolls<double>(depth);
    check_zero_unrolls<float>(depth);
  }
}

TEST_CASE("without halving the look-ahead passes the gradient check over several unrolls") {
  for (const index_t depth : {0, 1, 2})
    for (const index_t plan_depth : {0, 1}) {
      const look_ahead<B> model{planner<B>{6, 5, 2, 10, plan_depth}, depth, 1};
      for (const index_t unrolls : {1, 3}) {
        CAPTURE(depth, plan_depth, unrolls);
        look_ahead_case<double> at(model);
        const std::vector<int> labels(three_labels.begin(), three_labels.begin() + 4 * unrolls);
        CHECK(testing::parameter_error(at.cx, model, [&](const auto& p) {
                return model(at.cx, p, at.input(), at.seq(), as_list<B>(labels));
              }) < 1e-7);
      }
    }
}

TEST_CASE("each unroll halves the gradient of what lies before it, and no value") {
  look_ahead_case<double> whole(small(1, 1)), half(small(1, 0.5)), quarter(small(1, 0.25)), cut(small(1, 0));
  CHECK(same_bits(whole.logits(three_labels), half.logits(three_labels)));
  CHECK(same_bits(whole.logits(three_labels), cut.logits(three_labels)));
  const auto at = [&](const char* name) { return half.theta.find(name); };
  const auto times = [](double factor, values v) {
    for (double& x : v) x *= factor;
    return v;
  };
  for (const index_t step : {0, 1, 2, 3}) {
    CAPTURE(step);
    const values ds = upstream(step);
    const auto g1 = whole.gradients(three_labels, ds), g2 = half.gradients(three_labels, ds);
    const auto g4 = quarter.gradients(three_labels, ds), g0 = cut.gradients(three_labels, ds);
    // What reads the state is behind all halvings; what makes the first state is before `step` of them.
    for (const char* name : {"plan.head.w", "plan.head.b", "plan.blocks.0.attention.qkv.w", "plan.blocks.0.mlp.down.b"})
      CHECK(same_bits(g1[at(name)], g2[at(name)]));
    for (const char* name : {"plan.input.w", "plan.input.b"}) {
      CHECK(largest_error(g1[at(name)], values(g1[at(name)].size(), 0)) > 1e-4);
      CHECK(largest_error(times(std::pow(0.5, double(step)), g1[at(name)]), g2[at(name)]) < 1e-15);
    }
    for (std::size_t n = 0; n < g1.size(); ++n) {
      const std::string& name = half.theta.slots()[n].spec.name;
      if (name.rfind("ahead.", 0) != 0) continue;
      CAPTURE(name);
      // The gradient is a polynomial of the scale, one power for each unroll; at `step` 1 and 2 few enough to be told apart.
      CHECK(largest_error(g0[n], values(g0[n].size(), 0)) == 0);
      if (step == 1) CHECK(largest_error(times(0.5, g1[n]), g2[n]) < 1e-15);
      if (step == 2) {
        values expected = g1[n];
        for (std::size_t i = 0; i < expected.size(); ++i) {
          const double first = (g1[n][i] - 4 * g4[n][i]) * 4 / 3, second = g1[n][i] - first;
          expected[i] = second / 2 + first / 4;
        }
        CHECK(largest_error(expected, g2[n]) < 1e-13);
      }
    }
  }
  // Sentence 1 takes label 0 at the first unroll and 3 at the second: alone with them, each row has one power.
  look_ahead_case<double> one(small(1, 1)), two(small(1, 0.5));
  values ds = upstream(2);
  for (std::size_t i = 0; i < ds.size(); ++i)
    if (i / 5 % 4 != 1) ds[i] = 0;
  const std::size_t actions = at("ahead.actions");
  const values g1 = one.gradients(three_labels, ds)[actions], g2 = two.gradients(three_labels, ds)[actions];
  CHECK(largest_error(times(0.25, part(g1, 0, 6)), part(g2, 0, 6)) < 1e-15);
  CHECK(largest_error(times(0.5, part(g1, 18, 24)), part(g2, 18, 24)) < 1e-15);
  CHECK(largest_error(part(g1, 0, 6), values(6, 0)) > 1e-4);
  CHECK(largest_error(part(g1, 18, 24), values(6, 0)) > 1e-4);
  for (const index_t row : {1, 2, 4}) CHECK(largest_error(part(g1, 6 * row, 6 * row + 6), values(6, 0)) == 0);
}

TEST_CASE("the look-ahead agrees with PyTorch: logits, mean cross-entropy over valid steps, halved gradients") {
  const testing::look_ahead_golden g("look_ahead");
  const look_ahead<B> model{planner<B>{g.size("width"), g.size("labels"), g.size("heads"), g.size("inner"), g.size("plan_depth")},
                            g.size("depth")};
  context<B> cx;
  parameters<look_ahead<B>> theta(cx, model, philox{1});
  REQUIRE(g.fill(cx, theta));
  std::vector<int> targets;
  for (const auto& step : g.size<std::vector<std::vector<int>>>("targets")) targets.insert(targets.end(), step.begin(), step.end());
  CHECK(g.size<std::vector<int>>("context_offsets") == std::vector<int>{0, 1, 4, 6});
  const testing::packed contexts{1, 3, 2};
  const values z = g.array("contexts");
  // As the header says: the labels are the targets of all steps but the last.
  const indices<B> labels{targets.data(), targets.size() - 3};
  auto [s, pullback] = model(cx, theta.weights, as_matrix<B>(z, 6), contexts.view<B>(), labels);
  CHECK(g.holds("logits", cx.read(const_tensor<B>(s))));
  const auto loss = ops::cross_entropy(cx, const_tensor<B>(s), as_list<B>(targets), 1.0 / double(g.size("valid")));
  CHECK(g.holds("output", cx.read(loss.total)));
  pullback(const_tensor<B>(loss.dz), theta.grads);
  CHECK(g.wrong_gradient(cx, theta) == "");
}

TEST_CASE("fact 20: no step of a sentence sees another sentence's context or labels, nor its own labels to come") {
  look_ahead_case<double> at(small(2));
  const values s = at.logits(three_labels);
  const auto changed_rows = [&](const values& t) {
    std::vector<int> rows;
    for (index_t r = 0; r < 16; ++r)
      if (!same_bits(part(s, 5 * r, 5 * r + 5), part(t, 5 * r, 5 * r + 5))) rows.push_back(static_cast<int>(r));
    return rows;
  };
  const std::vector<index_t> begin{0, 1, 4, 6, 10};
  const values z = at.z;
  for (std::size_t sentence = 0; sentence < 4; ++sentence) {
    CAPTURE(sentence);
    const int n = static_cast<int>(sentence);
    at.z = z;
    for (index_t i = 6 * begin[sentence]; i < 6 * begin[sentence + 1]; ++i) at.z[static_cast<std::size_t>(i)] += 0.5;
    CHECK(changed_rows(at.logits(three_labels)) == std::vector<int>{n, n + 4, n + 8, n + 12});
    at.z = z;
    for (int step = 0; step < 3; ++step) {
      std::vector<int> labels = three_labels;
      int& label = labels[static_cast<std::size_t>(4 * step + n)];
      label = label == 2 ? 3 : 2;
      std::vector<int> expected;
      for (int t = step + 1; t < 4; ++t) expected.push_back(4 * t + n);
      CHECK(changed_rows(at.logits(labels)) == expected);
    }
  }
}

TEST_CASE("fact 9: permuting labels everywhere permutes the logits of every step") {
  look_ahead_case<double> at(small(2));
  const values s = at.logits(three_labels);
  const std::vector<int> to{3, 0, 4, 1, 2};  // label k becomes to[k]
  const auto permute = [&](const char* name, std::size_t width) {
    const std::size_t n = at.theta.find(name);
    const values from = at.theta.read(at.cx, n);
    values moved(from.size());
    for (std::size_t k = 0; k < 5; ++k)
      for (std::size_t c = 0; c < width; ++c) moved[static_cast<std::size_t>(to[k]) * width + c] = from[k * width + c];
    at.theta.write(at.cx, n, moved);
  };
  permute("plan.head.w", 6), permute("plan.head.b", 1), permute("ahead.actions", 6);
  std::vector<int> labels = three_labels;
  for (int& label : labels) label = label < 0 ? label : to[static_cast<std::size_t>(label)];
  const values t = at.logits(labels);
  values expected(s.size());
  for (std::size_t i = 0; i < s.size(); ++i) expected[i / 5 * 5 + static_cast<std::size_t>(to[i % 5])] = s[i];
  CHECK(largest_error(t, expected) < 1e-14);
  CHECK(largest_error(t, s) > 1e-3);
}

TEST_CASE("going on step by step, in copies and from chosen parents, gives the logits of teacher forcing bit for bit") {
  look_ahead_case<double> at(small(2));
  const values s = at.logits(three_labels);
  auto& cx = at.cx;
  auto state = at.model.start(cx, at.theta.weights, at.input(), at.seq());
  for (index_t t = 0; t < 4; ++t) {
    CHECK(same_bits(cx.read(at.model.logits(cx, at.theta.weights, state)), part(s, 20 * t, 20 * (t + 1))));
    if (t == 3) break;
    const std::vector<int> labels = part(three_labels, 4 * t, 4 * (t + 1));
    state = at.model.advance(cx, at.theta.weights, state, indices<B>(cx.upload(labels)));
  }
  // Two copies with labels of their own, then three whose parents lie crosswise: copy 0, 1, 0 for sentence 0, and so on.
  const std::vector<int> first{2, 0, 4, 1, 1, 1, 0, 2}, second{0, 1, 2, 3, 4, 3, 2, 1, 2, 2, 2, 2};
  const std::vector<int> parents{0, 5, 2, 7, 4, 1, 6, 3, 0, 1, 6, 7};
  state = at.model.start(cx, at.theta.weights, at.input(), at.seq());
  const auto two = at.model.advance(cx, at.theta.weights, state, as_list<B>(first));
  const auto three = at.model.advance(cx, at.theta.weights, two, as_list<B>(second), as_list<B>(parents));
  const values got = cx.read(at.model.logits(cx, at.theta.weights, three));
  for (index_t copy = 0; copy < 3; ++copy) {
    std::vector<int> labels(8);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t q = static_cast<std::size_t>(4 * copy) + i;
      labels[i] = first[static_cast<std::size_t>(parents[q])], labels[4 + i] = second[q];
    }
    CHECK(same_bits(part(got, 20 * copy, 20 * (copy + 1)), part(at.logits(labels), 40, 60)));
  }
}

TEST_CASE("a frozen parameter of the look-ahead stays untouched and changes no other gradient") {
  look_ahead_case<double> at(small());
  const values ds = upstream();
  const auto whole = at.gradients(three_labels, ds, at.theta.grads, 0.25);
  for (std::size_t frozen = 0; frozen <= whole.size(); ++frozen) {  // the last round freezes all
    auto g = at.theta.grads;
    std::size_t n = 0;
    auto freeze = [&](const parameter_spec&, auto& tensor) {
      if (n == frozen || frozen == whole.size()) tensor = {};
      ++n;
    };
    at.model.each_param(freeze, g);
    const auto got = at.gradients(three_labels, ds, g, 0.25);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      CAPTURE(frozen, i);
      const bool stays = i == frozen || frozen == whole.size();
      CHECK(same_bits(got[i], stays ? values(whole[i].size(), 0.25) : whole[i]));
    }
  }
}

TEST_CASE("one and three threads give the look-ahead the same bits, and a step in steady state asks for no memory") {
  look_ahead_case<float> one({planner<cpu<float>>{6, 5, 2, 10, 2}, 2}), three({planner<cpu<float>>{6, 5, 2, 10, 2}, 2}, 3);
  const auto ds = normal_values<float>(80, 8);
  CHECK(same_bits(one.logits(three_labels), three.logits(three_labels)));
  const auto a = one.gradients(three_labels, ds), b = three.gradients(three_labels, ds);
  for (std::size_t n = 0; n < a.size(); ++n) CHECK(same_bits(a[n], b[n]));
  const auto asked = one.cx.memory().allocations(), asked_scratch = one.cx.scratch_memory().allocations();
  one.gradients(three_labels, ds);
  CHECK(one.cx.memory().allocations() == asked);
  CHECK(one.cx.scratch_memory().allocations() == asked_scratch);
  CHECK(one.cx.memory().used_bytes() == 0);
}

TEST_CASE("labels that do not fill whole steps are refused") {
  look_ahead_case<double> at(small());
  CHECK_THROWS_AS(at.logits({1, 2, 3, 4, 0}), shape_error);
  const auto state = at.model.start(at.cx, at.theta.weights, at.input(), at.seq());
  const std::vector<int> three(3), four(4), eight(8);
  CHECK_THROWS_AS(at.model.advance(at.cx, at.theta.weights, state, as_list<B>(three)), shape_error);
  CHECK_THROWS_AS(at.model.advance(at.cx, at.theta.weights, state, as_list<B>(four), as_list<B>(eight)), shape_error);
}

TEST_CASE("no sentence at all is refused at every step") {
  look_ahead_case<double> at(small());
  const testing::packed none{};
  const const_tensor<B> z(at.z.data(), 0, 6);
  CHECK_THROWS_AS(at.model(at.cx, at.theta.weights, z, none.view<B>()), shape_error);
  CHECK_THROWS_WITH(at.model.start(at.cx, at.theta.weights, z, none.view<B>()), "look_ahead: 0 sentences, expected at least one");
  look_ahead<B>::state state = at.model.start(at.cx, at.theta.weights, at.input(), at.seq());
  state.contexts = state.seq = none.view<B>();
  const std::vector<int> some(4);
  CHECK_THROWS_AS(at.model.advance(at.cx, at.theta.weights, state, as_list<B>(some)), shape_error);
  CHECK_THROWS_AS(at.model.advance(at.cx, at.theta.weights, state, {}), shape_error);
}
