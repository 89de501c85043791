#include <planlm/objectives/policy_balance.hpp>

#include <planlm/testing/lane_team.hpp>

#include "sentences.hpp"

using namespace objectives_test;

namespace {
const root_anchor anchors[] = {root_anchor::batch_mean, root_anchor::learned, root_anchor::stop_probability};

auto modified(double lambda, root_anchor root, balance_mean mean = balance_mean::pairs) {
  return [=](context<B>& cx, const policy_terms<B>& z, view<const double, 1> flow) {
    return modified_sub_trajectory_balance{lambda, root, mean}(cx, z, flow);
  };
}
template <class G = squared>
auto by_pairs(double lambda, root_anchor root, balance_mean mean = balance_mean::pairs, G g = {}) {
  return [=](context<B>& cx, const policy_terms<B>& z, view<const double, 1> flow) {
    return modified_sub_trajectory_balance{lambda, root, mean}.by_pairs(cx, z, flow, g);
  };
}
void check_same(const policy_outcome& a, const policy_outcome& b, double tolerance) {
  CHECK(std::abs(a.total - b.total) <= tolerance * std::abs(b.total));
  CHECK(distance(a.each, b.each) < tolerance);
  CHECK(distance(a.dtaken, b.dtaken) < tolerance);
  CHECK(distance(a.dstop, b.dstop) < tolerance);
  CHECK(gap(a.dflow, b.dflow) <= tolerance * (b.dflow.empty() ? 1 : 1 + std::abs(b.dflow[0])));
}
/// The first `cols` columns of a golden's rows.
numbers columns(const nlohmann::json& rows, std::size_t cols) {
  numbers v;
  for (const auto& r : rows)
    for (std::size_t k = 0; k < cols; ++k) v.push_back(r.at(k).get<double>());
  return v;
}
/// The batch by hand: anchors and points as lists, all pairs.
double by_hand(const policy_batch& b, double lambda, root_anchor root, balance_mean mean) {
  const auto cols = static_cast<std::size_t>(b.cols);
  const auto u = [&](std::size_t r, std::size_t k) {
    double s = static_cast<index_t>(k) < b.longest ? b.stop[r * cols + k] : 0;
    for (std::size_t t = 0; t < k; ++t) s += b.taken[r * (cols - 1) + t];
    return s - b.reward[r * cols + k];
  };
  numbers anchor(b.groups), count(b.groups);
  for (std::size_t r = 0; r < b.length.size(); ++r)
    if (b.length[r] >= b.shortest) {
      anchor[static_cast<std::size_t>(b.group[r])] += u(r, static_cast<std::size_t>(b.length[r]));
      ++count[static_cast<std::size_t>(b.group[r])];
    }
  for (std::size_t g = 0; g < anchor.size(); ++g) anchor[g] = root == root_anchor::learned ? -b.flow[g] : anchor[g] / count[g];
  double num = 0, den = 0, means = 0;
  for (std::size_t r = 0; r < b.length.size(); ++r) {
    numbers points;
    const auto from = root == root_anchor::stop_probability ? 0 : b.shortest;
    if (root != root_anchor::stop_probability) points.push_back(anchor[static_cast<std::size_t>(b.group[r])]);
    for (auto k = from; k <= b.length[r]; ++k) points.push_back(u(r, static_cast<std::size_t>(k)));
    double own = 0, weight = 0;
    for (std::size_t j = 1; j < points.size(); ++j)
      for (std::size_t i = 0; i < j; ++i) {
        const double w = std::pow(lambda, double(j - i - 1));
        own += w * (points[j] - points[i]) * (points[j] - points[i]), weight += w;
      }
    num += own, den += weight;
    if (weight > 0) means += own / weight / double(b.length.size());
  }
  return mean == balance_mean::pairs ? num / den : means;
}
}  // namespace

TEST_CASE("the balance of published sentences has the published loss and gradients at every lambda, facts 2, 4, 5 and 6") {
  const policy_batch b = published_sentences();
  const auto& cases = golden("F_modified_subtb_next_sentence").at("cases");
  const struct {
    double lambda, loss;
    const char* name;
  } expected[] = {{1, 2.785294117647, "lambda_1.0"}, {0.9, 2.572274091577, "lambda_0.9"}, {0.5, 1.816703296703, "lambda_0.5"},
                  {0, 1.2275, "lambda_0.0"}};
  for (const auto& e : expected) {
    CAPTURE(e.name);
    const auto& c = cases.at(e.name);
    for (const policy_outcome& o : {evaluate(b, modified(e.lambda, root_anchor::stop_probability)),
                                    evaluate(b, by_pairs(e.lambda, root_anchor::stop_probability))}) {
      CHECK(std::abs(o.total - e.loss) < 1e-11);
      CHECK(std::abs(o.total - c.at("loss").get<double>()) < 1e-11);
      CHECK(gap(o.dtaken, columns(c.at("d_log_pf"), 4)) < 1e-11);
      CHECK(gap(o.dstop, columns(c.at("d_log_pterm"), 5)) < 1e-11);
      numbers of_reward = o.dstop;  // a reward's gradient would be that of its stop, negated
      for (double& g : of_reward) g = -g;
      CHECK(gap(of_reward, columns(c.at("d_log_r_if_it_were_trainable"), 5)) < 1e-11);
    }
  }
  const policy_outcome one = evaluate(b, modified(1, root_anchor::stop_probability));
  CHECK(gap({one.dstop[0], one.dstop[1], one.dstop[2], one.dstop[3], one.dstop[4]},
            {1.176470588235, 0, -0.117647058824, -0.117647058824, -0.941176470588}) < 1e-11);
  CHECK(gap({one.dtaken[0], one.dtaken[1], one.dtaken[2], one.dtaken[3]},
            {-1.176470588235, -1.176470588235, -1.058823529412, -0.941176470588}) < 1e-11);
  const policy_outcome most = evaluate(b, modified(0.9, root_anchor::stop_probability));
  CHECK(gap({most.dstop[0], most.dstop[1], most.dstop[2], most.dstop[3], most.dstop[4]},
            {1.071128424548, -0.041381952871, -0.11750431062, -0.07177980714, -0.840462353918}) < 1e-11);
  CHECK(gap({most.dtaken[0], most.dtaken[1], most.dtaken[2], most.dtaken[3]},
            {-1.071128424548, -1.029746471678, -0.912242161058, -0.840462353918}) < 1e-11);
}

TEST_CASE("the pairs of published sentences weigh 17 in all at lambda 1, fact 3") {
  const policy_batch b = published_sentences();
  const policy_outcome o = evaluate(b, modified(1, root_anchor::stop_probability));
  CHECK(std::abs(o.each[0] * 10 + o.each[1] * 1 + o.each[2] * 6 - 17 * o.total) < 1e-12);
}

TEST_CASE("a constant added to all rewards of a prompt changes neither loss nor gradients, fact 7") {
  policy_batch b = published_sentences();
  for (const double lambda : {0.0, 0.9, 1.0})
    for (const root_anchor root : {root_anchor::stop_probability, root_anchor::batch_mean}) {
      policy_batch moved = b;
      for (double& r : moved.reward) r += 1234.5;
      const policy_outcome was = evaluate(b, modified(lambda, root)), is = evaluate(moved, modified(lambda, root));
      CHECK(std::abs(was.total - is.total) < 1e-10);
      CHECK(gap(was.dtaken, is.dtaken) < 1e-10);
      CHECK(gap(was.dstop, is.dstop) < 1e-10);
    }
}

TEST_CASE("gradients of stops add up to nothing in each row, and the root's stop opposes the first action, fact 8") {
  const policy_batch b = policy_batch::random({4, 1, 3, 7}, 8, 300);
  for (const double lambda : {0.0, 0.3, 0.9, 1.0}) {
    const policy_outcome o = evaluate(b, modified(lambda, root_anchor::stop_probability));
    for (std::size_t r = 0; r < 4; ++r) {
      double sum = 0;
      for (std::size_t k = 0; k < 8; ++k) sum += o.dstop[8 * r + k];
      CHECK(std::abs(sum) < 1e-12);
      CHECK(std::abs(o.dtaken[7 * r] + o.dstop[8 * r]) < 1e-12);
    }
  }
}

TEST_CASE("rows that stop at once change nothing in the published form, and alone have loss 0, fact 9") {
  policy_batch b = policy_batch::random({4, 2}, 5, 310);
  const policy_outcome without = evaluate(b, modified(0.9, root_anchor::stop_probability));
  policy_batch with = b;
  with.length.push_back(0), with.group.push_back(0);
  with.taken.resize(12, nan_value), with.stop.resize(15, nan_value), with.reward.resize(15, nan_value);
  with.stop[10] = -1, with.reward[10] = -7;
  const policy_outcome o = evaluate(with, modified(0.9, root_anchor::stop_probability));
  CHECK(o.total == without.total);
  CHECK(gap({o.dtaken.begin(), o.dtaken.begin() + 8}, without.dtaken) < 1e-15);
  CHECK(o.each[2] == 0);
  const policy_batch none = policy_batch::random({0, 0, 0}, 5, 320);
  for (const auto mean : {balance_mean::pairs, balance_mean::trajectories}) {
    const policy_outcome zero = evaluate(none, modified(1, root_anchor::stop_probability, mean));
    CHECK(zero.total == 0);
    CHECK(zero.dstop == numbers(15));
    CHECK(zero.dtaken == numbers(12));
  }
}

TEST_CASE("what lies beyond a row's end is never read by the balance of a policy, fact 10") {
  // Everything that must not be read is NaN already: other garbage gives the same bits.
  const policy_batch b = policy_batch::random({4, 0, 3, 1, 5}, 6, 330, 1, 5);
  policy_batch other = b;
  for (numbers* v : {&other.taken, &other.stop, &other.reward})
    for (double& x : *v)
      if (std::isnan(x)) x = -std::numeric_limits<double>::infinity();
  for (const root_anchor root : {root_anchor::batch_mean, root_anchor::learned}) {
    const policy_outcome o = evaluate(b, modified(0.9, root)), p = evaluate(other, modified(0.9, root));
    CHECK(std::isfinite(o.total));
    CHECK(o.total == p.total);
    CHECK(o.dtaken == p.dtaken);
    CHECK(o.dstop == p.dstop);
    CHECK(o.dflow == p.dflow);
  }
}

TEST_CASE("the policy's recurrence is the double loop for all lambdas and anchors, up to four thousand tokens, fact 11") {
  for (const root_anchor root : anchors)
    for (const auto mean : {balance_mean::pairs, balance_mean::trajectories}) {
      const index_t shortest = root == root_anchor::stop_probability ? 0 : 2;
      policy_batch b = policy_batch::random({64, 0, 1, 2, 17, 63}, 65, 340, shortest, 64);
      for (double& r : b.reward) r *= 1e4;
      for (const double lambda : {0.0, 0.3, 0.5, 0.9, 0.99, 1.0}) {
        CAPTURE(int(root), int(mean), lambda);
        check_same(evaluate(b, modified(lambda, root, mean)), evaluate(b, by_pairs(lambda, root, mean)), 1e-10);
        CHECK(std::abs(evaluate(b, modified(lambda, root, mean)).total / by_hand(b, lambda, root, mean) - 1) < 1e-10);
      }
    }
  policy_batch long_one = policy_batch::random({4096}, 4097, 350);
  for (double& r : long_one.reward) r *= 1e4;
  long_one.groups = 1;
  for (const double lambda : {0.0, 0.3, 0.5, 0.9, 0.99, 1.0}) {
    CAPTURE(lambda);
    check_same(evaluate(long_one, modified(lambda, root_anchor::stop_probability)),
               evaluate(long_one, by_pairs(lambda, root_anchor::stop_probability)), 1e-10);
  }
}

TEST_CASE("at lambda 1 the pairs of a row are its points' variance, fact 12") {
  const policy_batch b = policy_batch::random({6}, 7, 360);
  context<B> cx;
  const numbers u = cx.read(policy_residuals(cx, b.terms()));
  double mean = 0, variance = 0;
  for (const double v : u) mean += v / 7;
  for (const double v : u) variance += (v - mean) * (v - mean) / 7;
  const policy_outcome o = evaluate(b, modified(1, root_anchor::stop_probability));
  CHECK(std::abs(o.each[0] * 21 - 49 * variance) < 1e-11);  // 21 pairs
}

TEST_CASE("the fixed-width variants with their masks are batches of other lengths, fact 13") {
  const auto& f = golden("F2_modified_subtb_fixed_width");
  policy_batch b;
  b.cols = 6;
  b.taken = columns(f.at("log_pf"), 5), b.stop = columns(f.at("log_eos"), 6), b.reward = columns(f.at("log_r"), 6);
  const auto check = [&](const char* name, std::vector<int> lengths, double lambda, balance_mean mean, double loss) {
    CAPTURE(name);
    b.length = std::move(lengths);
    const auto& c = f.at("cases").at(name);
    const policy_outcome o = evaluate(b, modified(lambda, root_anchor::stop_probability, mean));
    CHECK(std::abs(o.total - loss) < 1e-11);
    CHECK(std::abs(o.total - c.at("loss").get<double>()) < 1e-11);
    CHECK(gap(o.dtaken, columns(c.at("d_log_pf"), 5)) < 1e-11);
    CHECK(gap(o.dstop, columns(c.at("d_log_eos"), 6)) < 1e-11);
  };
  // One mask counts the last prefix twice, once before and once behind its stop, and gives it the stop for an action.
  check("subtb_mask_gt1_main_py_lambda1.0", {5, 2, 4}, 1, balance_mean::pairs, 3.325);
  check("subtb_mask_gt1_main_py_lambda0.9", {5, 2, 4}, 0.9, balance_mean::pairs, 2.999644573608);
  check("subtb_mask_ge1_estep_lambda1.0", {5, 1, 3}, 1, balance_mean::pairs, 3.813181818182);
  check("subtb_mask_ge1_estep_lambda0.9", {5, 1, 3}, 0.9, balance_mean::pairs, 3.442906599136);
  check("modified_db_gt1_main_py_lambda1.0", {5, 2, 4}, 0, balance_mean::trajectories, 1.083166666667);
}

TEST_CASE("the balance of a policy has the gradient of its value with every anchor, minimum and certain stop") {
  for (const root_anchor root : {root_anchor::learned, root_anchor::stop_probability})
    for (const auto mean : {balance_mean::pairs, balance_mean::trajectories})
      for (const double lambda : {0.0, 0.7, 1.0})
        for (const index_t shortest : {0, 1, 3}) {
          if (root == root_anchor::stop_probability && shortest > 0) continue;
          CAPTURE(int(root), int(mean), lambda, shortest);
          const policy_batch b = policy_batch::random({4, 0, 3, 1, 5, 2}, 6, 370, shortest, 5);
          CHECK(gradient_gap(b, modified(lambda, root, mean)) < 1e-7);
          CHECK(gradient_gap(b, by_pairs(lambda, root, mean, shifted_cosh{})) < 1e-7);
        }
}

TEST_CASE("the batch's mean is an anchor that does not move: gradients are those with a learned flow at its value") {
  for (const index_t shortest : {0, 1, 3}) {
    policy_batch b = policy_batch::random({4, 3, 3, 1, 5, 2}, 6, 380, shortest, 5);
    context<B> cx;
    const numbers u = cx.read(policy_residuals(cx, b.terms()));
    numbers sum(2), count(2);
    for (std::size_t r = 0; r < 6; ++r)
      if (b.length[r] >= shortest) {
        sum[static_cast<std::size_t>(b.group[r])] += u[6 * r + static_cast<std::size_t>(b.length[r])];
        ++count[static_cast<std::size_t>(b.group[r])];
      }
    b.flow = {-sum[0] / count[0], -sum[1] / count[1]};
    const policy_outcome mean = evaluate(b, modified(0.8, root_anchor::batch_mean)), learned = evaluate(b, modified(0.8, root_anchor::learned));
    CHECK(std::abs(mean.total - learned.total) < 1e-13);
    CHECK(gap(mean.dtaken, learned.dtaken) < 1e-13);
    CHECK(gap(mean.dstop, learned.dstop) < 1e-13);
    CHECK(mean.dflow.empty());
    CHECK(learned.dflow.size() == 2);
  }
}

TEST_CASE("with an anchor the first action of a row is pulled by its prompt, without a minimum the root's stop as well") {
  // Two one-token rows of one prompt with a forbidden root: u_1 = 1 and 3. Each has the pair (anchor, u_1) alone.
  policy_batch b;
  b.length = {1, 1}, b.cols = 2, b.shortest = 1, b.group = {0, 0};
  b.taken = {1, 3}, b.stop = {nan_value, 0, nan_value, 0}, b.reward = {nan_value, 0, nan_value, 0};
  const policy_outcome mean = evaluate(b, modified(1, root_anchor::batch_mean));
  CHECK(std::abs(mean.total - 1) < 1e-15);  // both are 1 away from 2
  CHECK(gap(mean.dtaken, {-1, 1}) < 1e-15);
  CHECK(gap(mean.dstop, {0, -1, 0, 1}) < 1e-15);
  b.flow = {0.5};  // an anchor at -0.5: 1.5 and 3.5 away
  const policy_outcome learned = evaluate(b, modified(1, root_anchor::learned));
  CHECK(std::abs(learned.total - (2.25 + 12.25) / 2) < 1e-14);
  CHECK(gap(learned.dtaken, {1.5, 3.5}) < 1e-14);
  CHECK(std::abs(learned.dflow[0] - 5) < 1e-14);
  // A row that stops at once, where it may: its stop is a point, next to the anchor.
  policy_batch empty;
  empty.length = {0}, empty.cols = 2, empty.group = {0}, empty.flow = {0.5};
  empty.taken = {nan_value}, empty.stop = {-1, nan_value}, empty.reward = {-3, nan_value};
  const policy_outcome stops = evaluate(empty, modified(1, root_anchor::learned));
  CHECK(std::abs(stops.total - 6.25) < 1e-14);
  CHECK(gap(stops.dstop, {5, 0}) < 1e-14);
  CHECK(std::abs(stops.dflow[0] - 5) < 1e-14);
}

TEST_CASE("a minimum longer than every row leaves nothing to balance") {
  for (const index_t shortest : {3, 7}) {
    const policy_batch b = policy_batch::random({1, 2, 0}, 3, 390, shortest, 9);
    for (const root_anchor root : {root_anchor::batch_mean, root_anchor::learned}) {
      const policy_outcome o = evaluate(b, modified(0.9, root));
      CHECK(o.total == 0);
      CHECK(o.dtaken == numbers(6));
      CHECK(o.dstop == numbers(9));
      for (const double g : o.dflow) CHECK(g == 0);
    }
  }
}

TEST_CASE("modified detailed balance of a policy is the balance at lambda 0 and ties the root to the first prefix that may end") {
  const policy_batch b = policy_batch::random({4, 3, 3}, 5, 400, 2, 4);
  const auto named = [](context<B>& cx, const policy_terms<B>& z, view<const double, 1> flow) {
    return policy_modified_detailed_balance(root_anchor::learned)(cx, z, flow);
  };
  const policy_outcome o = evaluate(b, named);
  CHECK(o.total == evaluate(b, modified(0, root_anchor::learned)).total);
  CHECK(o.dtaken[0] != 0);
  CHECK(o.dtaken[0] == o.dtaken[1]);
  CHECK((o.dflow[0] != 0 && o.dflow[1] != 0));
}

TEST_CASE("finite differences through a softmax net agree with the gradients of the balance, fact 36") {
  // Two tokens and a stop; logits = tanh(features W) V for the features of each prefix.
  const std::vector<std::vector<int>> rows{{0, 1, 0}, {1}, {0, 0, 1, 1}, {}};
  constexpr std::size_t hidden = 5, tokens = 3;
  const numbers reward = planlm::testing::normal_values(20, 411);
  struct scored {
    policy_batch batch;
    std::vector<numbers> p, h, x;  // of each prefix of each row
  };
  const auto score = [&](const numbers& theta) {
    scored s;
    s.batch.cols = 5, s.batch.reward = reward, s.batch.taken.assign(16, nan_value), s.batch.stop.assign(20, nan_value);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      s.batch.length.push_back(static_cast<int>(rows[r].size())), s.batch.group.push_back(0);
      for (std::size_t k = 0; k <= rows[r].size(); ++k) {
        numbers x{1, double(k) / 4, k > 0 ? double(rows[r][k - 1]) - 0.5 : 0, k > 1 ? double(rows[r][k - 2]) - 0.5 : 0};
        numbers h(hidden), z(tokens);
        for (std::size_t j = 0; j < hidden; ++j) {
          for (std::size_t i = 0; i < 4; ++i) h[j] += x[i] * theta[i * hidden + j];
          h[j] = std::tanh(h[j]);
        }
        double sum = 0;
        for (std::size_t v = 0; v < tokens; ++v) {
          for (std::size_t j = 0; j < hidden; ++j) z[v] += h[j] * theta[4 * hidden + j * tokens + v];
          sum += std::exp(z[v]);
        }
        for (double& v : z) v -= std::log(sum);
        if (k < rows[r].size()) s.batch.taken[4 * r + k] = z[static_cast<std::size_t>(rows[r][k])];
        s.batch.stop[5 * r + k] = z[2];
        s.p.push_back(z), s.h.push_back(h), s.x.push_back(x);
      }
    }
    return s;
  };
  for (const root_anchor root : {root_anchor::stop_probability, root_anchor::learned})
    for (const double lambda : {1.0, 0.9, 0.0}) {
      CAPTURE(int(root), lambda);
      const auto full = [&](const numbers& theta) {
        scored s = score(theta);
        s.batch.flow = {theta.back()};
        return s;
      };
      const auto loss = [&](const numbers& theta) { return evaluate(full(theta).batch, modified(lambda, root)).total; };
      const auto gradient = [&](const numbers& theta) {
        const scored s = full(theta);
        const policy_outcome o = evaluate(s.batch, modified(lambda, root));
        numbers g(theta.size());
        std::size_t at = 0;
        for (std::size_t r = 0; r < rows.size(); ++r)
          for (std::size_t k = 0; k <= rows[r].size(); ++k, ++at) {
            const double a = k < rows[r].size() ? o.dtaken[4 * r + k] : 0, c = o.dstop[5 * r + k];
            numbers dh(hidden);
            for (std::size_t v = 0; v < tokens; ++v) {
              const bool taken = k < rows[r].size() && static_cast<std::size_t>(rows[r][k]) == v;
              const double dz = (taken ? a : 0) + (v == 2 ? c : 0) - (a + c) * std::exp(s.p[at][v]);
              for (std::size_t j = 0; j < hidden; ++j) {
                g[4 * hidden + j * tokens + v] += dz * s.h[at][j];
                dh[j] += dz * theta[4 * hidden + j * tokens + v];
              }
            }
            for (std::size_t j = 0; j < hidden; ++j)
              for (std::size_t i = 0; i < 4; ++i) g[i * hidden + j] += dh[j] * (1 - s.h[at][j] * s.h[at][j]) * s.x[at][i];
          }
        g.back() = o.dflow.empty() ? 0 : o.dflow[0];
        return g;
      };
      CHECK(planlm::testing::directional_error(planlm::testing::normal_values(4 * hidden + hidden * tokens + 1, 410), loss, gradient) < 1e-6);
    }
}

TEST_CASE("rows of the policy's balance have the same bits under lanes, batches for any number of threads") {
  const policy_batch b = policy_batch::random({40, 0, 3, 1, 17, 39}, 41, 420, 1, 40);
  const auto on = [&](int threads, root_anchor root) {
    context<B> cx{B::queue(threads)};
    return read(cx, modified_sub_trajectory_balance{0.9, root}(cx, b.terms(), row(b.flow)));
  };
  for (const root_anchor root : {root_anchor::batch_mean, root_anchor::learned}) {
    const policy_outcome one = on(1, root), three = on(3, root);
    CHECK(planlm::testing::same_bits(one.dtaken, three.dtaken));
    CHECK(planlm::testing::same_bits(one.dstop, three.dstop));
    CHECK(one.total == three.total);
  }
  using steps = balance_kernel::anchored_steps<double>;
  const auto run = [&](auto launch) {
    numbers dtaken(240), dstop(246), droot(6, nan_value), anchor{0.3, -0.2}, kept(3 * 41 * 6), sums(12), each(6), total(1), dflow(2);
    std::vector<int> last(6);
    for (index_t r = 0; r < 6; ++r) balance_kernel::last_points{b.length.data(), last.data(), 40, 1}(r);
    std::vector<ops::kernel::balance_segment> segments(6 * ops::kernel::most_segments);
    const steps s{balance_detail::reader(b.terms()), anchor.data(), 1, dtaken.data(), dstop.data(), droot.data()};
    launch(6, ops::kernel::sub_trajectory_balance<steps>{s, last.data(), kept.data(), segments.data(), sums.data(), 41, 0.9});
    launch(6, ops::kernel::balance_finish<steps, double>{s, sums.data(), each.data(), total.data(), 6, 41, balance_mean::trajectories});
    launch(2, balance_kernel::flow_gradient<double>{droot.data(), b.group.data(), last.data(), dflow.data(), 6});
    for (const numbers* v : {&dstop, &sums, &each, &droot}) dtaken.insert(dtaken.end(), v->begin(), v->end());
    return std::pair(dtaken, dflow);
  };
  const auto serial = run([](index_t rows, const auto& kernel) {
    for (index_t r = 0; r < rows; ++r) kernel(serial_team{}, r);
  });
  const auto lanes = run([](index_t rows, const auto& kernel) { planlm::testing::run_lanes<4>(rows, kernel); });
  CHECK(planlm::testing::same_bits(serial.first, lanes.first));
  CHECK(gap(serial.second, lanes.second) < 1e-15);  // a sum over rows is in the team's own order
}

TEST_CASE("the policy's balance asks for a flow where it is learned and for lambda in its range") {
  policy_batch b = policy_batch::random({2, 1}, 3, 430);
  context<B> cx;
  CHECK_THROWS_WITH((modified_sub_trajectory_balance{1, root_anchor::learned}(cx, b.terms())),
                    "modified_sub_trajectory_balance: flow is (0), expected (2)");
  CHECK_THROWS_AS((modified_sub_trajectory_balance{-0.1}(cx, b.terms())), error);
}
