#include <planlm/objectives/detailed_balance.hpp>

#include "flow_goldens.hpp"

using namespace objectives_test;

namespace {
template <class G = squared>
auto detailed(balance_mean mean = balance_mean::pairs, const G& g = {}) {
  return [=](context<B>& cx, const trajectories<B>& z, view<const double, 1>) {
    return detailed_balance<G>{.mean = mean, .g = g}(cx, z);
  };
}
void check_transitions(const char* section, const flow_batch& b) {
  const auto& e = golden(section);
  const outcome o = evaluate(b, detailed());
  CHECK(std::abs(o.total - e.at("loss").get<double>()) < 1e-11);
  CHECK(gap(o.dpf, turned(e.at("d_log_pf"), b.length, 4, 0)) < 1e-11);
  CHECK(gap(o.dpb, turned(e.at("d_log_pb"), b.length, 4, 0)) < 1e-11);
  CHECK(gap(o.dflow, turned(e.at("d_logF"), b.length, 4, 0)) < 1e-11);
  // The score of each transition, from trajectories cut to one transition with the next state's flow for a reward.
  std::size_t i = 0;
  for (std::size_t n = 0; n < 3; ++n)
    for (std::size_t t = 0; t < static_cast<std::size_t>(b.length[n]); ++t, ++i) {
      const auto at = 4 * n + t;
      const bool exits = t + 1 == static_cast<std::size_t>(b.length[n]);
      flow_batch one;
      one.length = {1}, one.steps = 1;
      const auto state = [&](std::size_t k) { return b.flow[k] + (b.so_far.empty() ? 0 : b.so_far[k]); };
      one.pf = {b.pf[at]}, one.pb = {b.pb[at]}, one.flow = {state(at)}, one.reward = {exits ? b.reward[n] : state(at + 1)};
      const double slope = evaluate(one, detailed()).dpf[0];
      CHECK(std::abs(slope / 2 - e.at("scores").at(i).get<double>()) < 1e-11);
    }
}
numbers log_softmax(const nlohmann::json& logits) {
  numbers z = logits.get<numbers>();
  double sum = 0;
  for (const double v : z) sum += std::exp(v);
  for (double& v : z) v -= std::log(sum);
  return z;
}
}  // namespace

TEST_CASE("detailed balance has the published scores, loss and gradients, fact 22") {
  check_transitions("B_DB_transitions", golden_batch());
  const double expected[] = {0.3, 0.4, -0.65, 0.1, 0.65, -0.85, 0.5, -0.25, 0.25};
  double mean = 0;
  for (const double s : expected) mean += s * s / 9;
  CHECK(std::abs(evaluate(golden_batch(), detailed()).total - mean) < 1e-14);
  CHECK(std::abs(mean - 0.244722222222) < 1e-11);
}

TEST_CASE("forward-looking detailed balance has the published scores, loss and gradients") {
  flow_batch b = golden_batch();
  b.so_far = turned(golden("B2_FL_DB_transitions").at("state_log_reward"), b.length, 4, nan_value);
  check_transitions("B2_FL_DB_transitions", b);
}

TEST_CASE("modified detailed balance has the published loss, and through a softmax the published gradients of logits") {
  const auto& c = golden("C_ModifiedDB_logits");
  numbers pf, stop, reward;
  std::vector<numbers> here, next;
  for (std::size_t i = 0; i < 3; ++i) {
    here.push_back(log_softmax(c.at("logits_s").at(i))), next.push_back(log_softmax(c.at("logits_next").at(i)));
    pf.push_back(here[i][c.at("actions").at(i).at(0).get<std::size_t>()]);
    stop.push_back(here[i][2]), stop.push_back(next[i][2]);
    for (const auto& r : c.at("log_rewards").at(i)) reward.push_back(r.get<double>());
  }
  const std::vector<int> length{1, 1, 1};
  context<B> cx;
  planlm::testing::poison(cx);
  const auto l = modified_detailed_balance<>{}(cx, stopping_trajectories<B>{matrix(pf, 3), matrix(stop, 3), matrix(reward, 3), ints(length)});
  CHECK(std::abs(cx.read_one(l.total) - c.at("loss").get<double>()) < 1e-11);
  const numbers dpf = cx.read(l.dlog_pf), dstop = cx.read(l.dlog_stop);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(std::abs(dpf[i] * 3 / 2 - c.at("scores").at(i).get<double>()) < 1e-11);
    for (std::size_t v = 0; v < 3; ++v) {
      const double chosen = v == c.at("actions").at(i).at(0).get<std::size_t>() ? 1 : 0, exit = v == 2 ? 1 : 0;
      const double at_s = dpf[i] * chosen + dstop[2 * i] * exit - (dpf[i] + dstop[2 * i]) * std::exp(here[i][v]);
      const double at_next = dstop[2 * i + 1] * (exit - std::exp(next[i][v]));
      CHECK(std::abs(at_s - c.at("d_logits_s").at(i).at(v).get<double>()) < 1e-11);
      CHECK(std::abs(at_next - c.at("d_logits_next").at(i).at(v).get<double>()) < 1e-11);
    }
  }
}

TEST_CASE("detailed balance has the gradient of its value, over transitions or trajectories, forward-looking or not") {
  for (const bool forward_looking : {false, true})
    for (const auto mean : {balance_mean::pairs, balance_mean::trajectories}) {
      CAPTURE(forward_looking, int(mean));
      const flow_batch b = flow_batch::random({3, 0, 5, 1, 4}, 5, 140, true, forward_looking);
      CHECK(gradient_gap(b, detailed(mean)) < 1e-7);
      CHECK(gradient_gap(b, detailed(mean, shifted_cosh{})) < 1e-7);
      CHECK(gradient_gap(b, detailed(mean, linex{1})) < 1e-7);
      CHECK(evaluate(b, detailed(mean)).each[1] == 0);
    }
  const outcome none = evaluate(flow_batch::random({0, 0}, 2, 150), detailed());
  CHECK(none.total == 0);
  CHECK(none.dflow == numbers(4));
}

TEST_CASE("modified detailed balance has the gradient of its value and is the balance of stopping policies at lambda 0") {
  const std::vector<int> length{3, 0, 4, 1};
  numbers pf = planlm::testing::normal_values(16, 1), pb = planlm::testing::normal_values(16, 2);
  numbers stop = planlm::testing::normal_values(20, 3), reward = planlm::testing::normal_values(20, 4);
  for (std::size_t r = 0; r < 4; ++r)
    for (std::size_t k = 0; k < 5; ++k) {
      if (static_cast<int>(k) > length[r]) stop[5 * r + k] = reward[5 * r + k] = nan_value;
      if (static_cast<int>(k) >= length[r] && k < 4) pf[4 * r + k] = pb[4 * r + k] = nan_value;
    }
  for (const auto mean : {balance_mean::pairs, balance_mean::trajectories}) {
    context<B> cx;
    planlm::testing::poison(cx);
    const auto mine = modified_detailed_balance<>{mean}(cx, {matrix(pf, 4), matrix(stop, 4), matrix(reward, 4), ints(length)});
    const auto scan = ops::policy_sub_trajectory_balance<B>(cx, matrix(pf, 4), matrix(stop, 4), matrix(reward, 4), ints(length), 0, mean);
    CHECK(std::abs(cx.read_one(mine.total) - cx.read_one(scan.total)) < 1e-13);
    CHECK(gap(cx.read(mine.dlog_pf), cx.read(scan.dmove)) < 1e-13);
    CHECK(gap(cx.read(mine.dlog_stop), cx.read(scan.dstop)) < 1e-13);
  }
  // Backward probabilities count against forward ones.
  numbers shifted = pf;
  for (std::size_t i = 0; i < 16; ++i) shifted[i] += pb[i];
  context<B> cx;
  const auto plain = modified_detailed_balance<linex>{}(cx, {matrix(pf, 4), matrix(stop, 4), matrix(reward, 4), ints(length)});
  const auto same = modified_detailed_balance<linex>{}(cx, {matrix(shifted, 4), matrix(stop, 4), matrix(reward, 4), ints(length), matrix(pb, 4)});
  CHECK(std::abs(cx.read_one(plain.total) - cx.read_one(same.total)) < 1e-13);
  CHECK(std::abs(cx.read(same.dlog_pb)[0] + cx.read(plain.dlog_pf)[0]) < 1e-13);
}
